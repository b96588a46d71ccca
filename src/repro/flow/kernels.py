"""Triton's kernels for `repro.flow.batched`: each operation reads and writes every pixel once.

A step is one kernel: the dual field of a pixel needs the new flow of its right and lower neighbours, which is computed
again from what is in the cache instead of being waited for. Without a GPU they run in Triton's interpreter
(TRITON_INTERPRET=1 before the first import), slowly, on tensors of the CPU.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

EPS = tl.constexpr(1.1920928955078125e-07)
CUBIC = tl.constexpr(-0.75)  # A of OpenCV's interpolation


@triton.jit
def _frozen(before, after, parts, threshold, PARTS: tl.constexpr):
    """Whether this pair's last change was small enough; then its parts become 0, so that it stays frozen."""
    pair, block = tl.program_id(1), tl.program_id(0)
    at = tl.arange(0, PARTS)
    change = tl.sum(tl.load(before + pair * parts + at, mask=at < parts, other=0.0), axis=0)
    frozen = change <= threshold
    if frozen:
        tl.store(after + pair * parts + block, 0.0)
    return frozen


@triton.jit
def _pixels(height, width, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """Rows (HIGH, 1) and columns (1, WIDE) of this block."""
    across = tl.cdiv(width, WIDE)
    y = (tl.program_id(0) // across) * HIGH + tl.arange(0, HIGH)
    x = (tl.program_id(0) % across) * WIDE + tl.arange(0, WIDE)
    return y[:, None], x[None, :]


@triton.jit
def _primal(state, data, y, x, height, width, limit, theta):
    """u and v at (y, x) after the primal step, and how much they changed; 0 outside the image."""
    plane = height * width
    at = y * width + x
    inside = (y < height) & (x < width)
    u = tl.load(state + at, mask=inside, other=0.0)
    v = tl.load(state + plane + at, mask=inside, other=0.0)
    left, above = inside & (x > 0), inside & (y > 0)
    div_u = tl.load(state + 2 * plane + at, mask=inside, other=0.0)
    div_u -= tl.load(state + 2 * plane + at - 1, mask=left, other=0.0)
    div_u += tl.load(state + 3 * plane + at, mask=inside, other=0.0)
    div_u -= tl.load(state + 3 * plane + at - width, mask=above, other=0.0)
    div_v = tl.load(state + 4 * plane + at, mask=inside, other=0.0)
    div_v -= tl.load(state + 4 * plane + at - 1, mask=left, other=0.0)
    div_v += tl.load(state + 5 * plane + at, mask=inside, other=0.0)
    div_v -= tl.load(state + 5 * plane + at - width, mask=above, other=0.0)
    grad_x = tl.load(data + at, mask=inside, other=0.0)
    grad_y = tl.load(data + plane + at, mask=inside, other=0.0)
    inverse = tl.load(data + 2 * plane + at, mask=inside, other=0.0)
    rho = tl.load(data + 3 * plane + at, mask=inside, other=0.0)
    fi = (rho + (grad_x * u + grad_y * v)) * inverse
    fi = tl.minimum(tl.maximum(fi, -limit), limit)
    du, dv = theta * div_u - fi * grad_x, theta * div_v - fi * grad_y
    return u + du, v + dv, du, dv


@triton.jit
def _dual(state, target, at, here, right, below, inside, rightmost, lowest, plane, taut):
    """The dual field of one channel: at `state` its x, one `plane` on its y."""
    d_x = tl.where(rightmost, 0.0, right - here)
    d_y = tl.where(lowest, 0.0, below - here)
    norm = 1.0 / (1.0 + taut * tl.sqrt(d_x * d_x + d_y * d_y))
    p_x = tl.load(state + at, mask=inside, other=0.0)
    p_y = tl.load(state + plane + at, mask=inside, other=0.0)
    tl.store(target + at, (p_x + taut * d_x) * norm, mask=inside)
    tl.store(target + plane + at, (p_y + taut * d_y) * norm, mask=inside)


@triton.jit(do_not_specialize=["count"])
def _step(
    source, target, data, before, after, steps, count, height, width, parts, threshold, limit, theta, taut,
    HIGH: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    pair, plane = tl.program_id(1), height * width
    if not _frozen(before, after, parts, threshold, PARTS):
        source += pair.to(tl.int64) * 6 * plane
        target += pair.to(tl.int64) * 6 * plane
        data += pair.to(tl.int64) * 4 * plane
        y, x = _pixels(height, width, HIGH, WIDE)
        at = y * width + x
        inside = (y < height) & (x < width)
        u, v, du, dv = _primal(source, data, y, x, height, width, limit, theta)
        u_right, v_right, _a, _b = _primal(source, data, y, x + 1, height, width, limit, theta)
        u_below, v_below, _c, _d = _primal(source, data, y + 1, x, height, width, limit, theta)
        tl.store(target + at, u, mask=inside)
        tl.store(target + plane + at, v, mask=inside)
        rightmost, lowest = x == width - 1, y == height - 1
        _dual(source + 2 * plane, target + 2 * plane, at, u, u_right, u_below, inside, rightmost, lowest, plane, taut)
        _dual(source + 4 * plane, target + 4 * plane, at, v, v_right, v_below, inside, rightmost, lowest, plane, taut)
        change = tl.where(inside, du * du + dv * dv, 0.0)
        tl.store(after + pair * parts + tl.program_id(0), tl.sum(tl.sum(change, axis=1), axis=0))
        if tl.program_id(0) == 0:
            tl.store(steps + pair, count + 1)


@triton.jit
def _linearise(
    images, first, state, data, height, width, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    pair, plane = tl.program_id(1).to(tl.int64), height * width
    images += pair * 3 * plane
    first += pair * plane
    state += pair * 6 * plane
    data += pair * 4 * plane
    y, x = _pixels(height, width, HIGH, WIDE)
    at = y * width + x
    inside = (y < height) & (x < width)
    u = tl.load(state + at, mask=inside, other=0.0)
    v = tl.load(state + plane + at, mask=inside, other=0.0)
    at_x, at_y = x.to(tl.float32) + u, y.to(tl.float32) + v
    left, top = tl.floor(at_x), tl.floor(at_y)
    t_x, t_y = at_x - left, at_y - top
    value = tl.zeros_like(u)
    grad_x = tl.zeros_like(u)
    grad_y = tl.zeros_like(u)
    for j in tl.static_range(4):
        row = top.to(tl.int32) + (j - 1)
        weight_y = _cubic(t_y, j)
        for i in tl.static_range(4):
            column = left.to(tl.int32) + (i - 1)
            there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = weight_y * _cubic(t_x, i)
            index = row * width + column
            value += weight * tl.load(images + index, mask=there, other=0.0)
            grad_x += weight * tl.load(images + plane + index, mask=there, other=0.0)
            grad_y += weight * tl.load(images + 2 * plane + index, mask=there, other=0.0)
    tl.store(data + at, grad_x, mask=inside)
    tl.store(data + plane + at, grad_y, mask=inside)
    tl.store(data + 2 * plane + at, 1.0 / tl.maximum(grad_x * grad_x + grad_y * grad_y, EPS), mask=inside)
    rho = value - grad_x * u - grad_y * v - tl.load(first + at, mask=inside, other=0.0)
    tl.store(data + 3 * plane + at, rho, mask=inside)


@triton.jit
def _cubic(t, NUMBER: tl.constexpr):
    """The weight of the pixel at NUMBER - 1 for a point at t in 0..1."""
    before = ((CUBIC * (t + 1) - 5 * CUBIC) * (t + 1) + 8 * CUBIC) * (t + 1) - 4 * CUBIC
    here = ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1
    there = ((CUBIC + 2) * (1 - t) - (CUBIC + 3)) * (1 - t) * (1 - t) + 1
    if NUMBER == 0:
        weight = before
    elif NUMBER == 1:
        weight = here
    elif NUMBER == 2:
        weight = there
    else:
        weight = 1 - before - here - there
    return weight


# ---------------------------------------------------------------- medians


@triton.jit
def _sort2(a, b):
    return tl.minimum(a, b), tl.maximum(a, b)


@triton.jit
def _sort5(a, b, c, d, e):
    """Five values in order, by nine comparisons."""
    a, b = _sort2(a, b)
    d, e = _sort2(d, e)
    c, e = _sort2(c, e)
    c, d = _sort2(c, d)
    b, e = _sort2(b, e)
    a, d = _sort2(a, d)
    a, c = _sort2(a, c)
    b, d = _sort2(b, d)
    b, c = _sort2(b, c)
    return a, b, c, d, e


@triton.jit
def _column(plane, y, x, inside, height, width, SHIFT: tl.constexpr):
    """The five pixels of a column of the window, sorted; the border repeats."""
    column = tl.minimum(tl.maximum(x + SHIFT, 0), width - 1)
    a = tl.load(plane + tl.maximum(y - 2, 0) * width + column, mask=inside, other=0.0)
    b = tl.load(plane + tl.maximum(y - 1, 0) * width + column, mask=inside, other=0.0)
    c = tl.load(plane + y * width + column, mask=inside, other=0.0)
    d = tl.load(plane + tl.minimum(y + 1, height - 1) * width + column, mask=inside, other=0.0)
    e = tl.load(plane + tl.minimum(y + 2, height - 1) * width + column, mask=inside, other=0.0)
    return _sort5(a, b, c, d, e)


@triton.jit
def _median(plane, y, x, inside, height, width):
    """The median of 5 x 5 pixels.

    Once columns and then rows are sorted, entry (i, j) is no less than (i + 1)(j + 1) entries, itself among them, and
    no more than (5 - i)(5 - j). Where either is above 13 it cannot be the median. 13 candidates are left, as many of
    the others above as below. Of eight of them the least and the greatest cannot be the median of all 13: both go,
    another one comes, until one is left.
    """
    a0, a1, a2, a3, a4 = _column(plane, y, x, inside, height, width, -2)
    b0, b1, b2, b3, b4 = _column(plane, y, x, inside, height, width, -1)
    c0, c1, c2, c3, c4 = _column(plane, y, x, inside, height, width, 0)
    d0, d1, d2, d3, d4 = _column(plane, y, x, inside, height, width, 1)
    e0, e1, e2, e3, e4 = _column(plane, y, x, inside, height, width, 2)
    a0, b0, c0, d0, e0 = _sort5(a0, b0, c0, d0, e0)  # the least of each column
    a1, b1, c1, d1, e1 = _sort5(a1, b1, c1, d1, e1)
    a2, b2, c2, d2, e2 = _sort5(a2, b2, c2, d2, e2)
    a3, b3, c3, d3, e3 = _sort5(a3, b3, c3, d3, e3)
    a4, b4, c4, d4, e4 = _sort5(a4, b4, c4, d4, e4)
    # The 13: of the row of the least the two greatest, of the next three, and so on down.
    p, q, r, s, t, m, n, o = d0, e0, c1, d1, e1, b2, c2, d2
    p, q, r, s, t, m, n, o = _ends8(p, q, r, s, t, m, n, o)
    q, r, s, t, m, n, o = _ends7(q, r, s, t, m, n, a3)
    r, s, t, m, n, o = _ends6(r, s, t, m, n, b3)
    s, t, m, n, o = _ends5(s, t, m, n, c3)
    t, m, n, o = _ends4(t, m, n, a4)
    m, n, o = _ends3(m, n, b4)
    return n


@triton.jit
def _ends3(a, b, c):
    """The same values, the least first and the greatest last; likewise below."""
    a, b = _sort2(a, b)
    b, c = _sort2(b, c)
    a, b = _sort2(a, b)
    return a, b, c


@triton.jit
def _ends4(a, b, c, d):
    a, b = _sort2(a, b)
    c, d = _sort2(c, d)
    a, c = _sort2(a, c)
    b, d = _sort2(b, d)
    return a, b, c, d


@triton.jit
def _ends5(a, b, c, d, e):
    a, b = _sort2(a, b)
    a, c, d, e = _ends4(a, c, d, e)
    b, e = _sort2(b, e)
    return a, b, c, d, e


@triton.jit
def _ends6(a, b, c, d, e, f):
    a, f = _sort2(a, f)
    b, c, d, e = _ends4(b, c, d, e)
    a, b = _sort2(a, b)
    e, f = _sort2(e, f)
    return a, b, c, d, e, f


@triton.jit
def _ends7(a, b, c, d, e, f, g):
    a, g = _sort2(a, g)
    b, c, d, e, f = _ends5(b, c, d, e, f)
    a, b = _sort2(a, b)
    f, g = _sort2(f, g)
    return a, b, c, d, e, f, g


@triton.jit
def _ends8(a, b, c, d, e, f, g, h):
    a, h = _sort2(a, h)
    b, c, d, e, f, g = _ends6(b, c, d, e, f, g)
    a, b = _sort2(a, b)
    g, h = _sort2(g, h)
    return a, b, c, d, e, f, g, h


@triton.jit(do_not_specialize=["count"])
def _smooth(
    source, target, before, after, steps, count, height, width, parts, threshold, HIGH: tl.constexpr,
    WIDE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    pair, plane = tl.program_id(1), height * width
    if not _frozen(before, after, parts, threshold, PARTS):
        source += pair.to(tl.int64) * 6 * plane
        target += pair.to(tl.int64) * 6 * plane
        y, x = _pixels(height, width, HIGH, WIDE)
        at = y * width + x
        inside = (y < height) & (x < width)
        for channel in tl.static_range(2):
            found = _median(source + channel * plane, y, x, inside, height, width)
            tl.store(target + channel * plane + at, found, mask=inside)
        for channel in tl.static_range(2, 6):
            p = tl.load(source + channel * plane + at, mask=inside, other=0.0)
            tl.store(target + channel * plane + at, p, mask=inside)
        tl.store(after + pair * parts + tl.program_id(0), float("inf"))
        if tl.program_id(0) == 0:
            tl.store(steps + pair, count + 1)


class Kernels:
    """`repro.flow.batched.Operations` by the kernels; all tensors must lie one element after the other.

    high, wide: pixels of a block, powers of two.
    """

    def __init__(self, high: int = 4, wide: int = 128) -> None:
        self.high, self.wide = high, wide

    def parts(self, height: int, width: int) -> int:
        return -(-height // self.high) * -(-width // self.wide)

    def linearise(self, images: Tensor, first: Tensor, state: Tensor, data: Tensor) -> None:
        n, _, height, width = images.shape
        grid = (self.parts(height, width), n)
        _linearise[grid](images, first, state, data, height, width, HIGH=self.high, WIDE=self.wide)

    def smooth(
        self, source: Tensor, target: Tensor, before: Tensor, after: Tensor, steps: Tensor, count: int, threshold: float
    ) -> None:
        _smooth[self._grid(source)](
            source, target, before, after, steps, count, *source.shape[2:], before.shape[1], threshold,
            **self._sizes(before),
        )  # fmt: skip

    def step(
        self, source: Tensor, target: Tensor, data: Tensor, before: Tensor, after: Tensor, steps: Tensor, count: int,
        threshold: float, limit: float, theta: float, taut: float,
    ) -> None:  # fmt: skip
        _step[self._grid(source)](
            source, target, data, before, after, steps, count, *source.shape[2:], before.shape[1], threshold, limit,
            theta, taut, **self._sizes(before),
        )  # fmt: skip

    def _grid(self, state: Tensor) -> tuple[int, int]:
        return self.parts(*state.shape[2:]), len(state)

    def _sizes(self, parts: Tensor) -> dict[str, Any]:
        return {"HIGH": self.high, "WIDE": self.wide, "PARTS": triton.next_power_of_2(parts.shape[1])}
