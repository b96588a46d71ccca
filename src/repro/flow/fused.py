"""TV-L1 optical flow with OpenCV's primitives and one fused inner loop, an order of magnitude faster than its class.

The algorithm is the one of `opencv` (Zach, Pock and Bischof, DAGM 2007; Sanchez, Meinhardt-Llopis and Facciolo, IPOL
2013; parameters and order of operations of OpenCV 5's CPU class). Resizing, warping and the median are OpenCV's own. Of
the class's time nearly all goes into the inner steps, which here make one pass over the image, band by band: the dual
step follows the primal step one row behind, so every array is read once a step and stays in cache.
The solver is chaotic near occlusions: single pixels may differ from the class's, as the class's do from its own when
the input is disturbed by rounding errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

SMALLEST = 16  # px: no pyramid level below
BAND = 120  # rows that a step works on at a time: a megabyte and a half at 320x240, within a second-level cache
GROUP = 32  # rows whose changes are added first
EPS = np.float32(np.finfo(np.float32).eps)  # squared gradients are at least this large

Row = NDArray[np.float32]  # (W,)
Plane = NDArray[np.float32]  # (H, W)
Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function, fastmath: bool = True) -> Function:
    """`function`, compiled at its first call; the machine code is kept beside this file or in the user's cache."""
    options: dict[str, Any] = {"fastmath": fastmath, "boundscheck": False, "error_model": "numpy"}
    try:
        fast: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither place can be written: every process compiles, which takes about two seconds
        fast = numba.njit(**options)(function)
    return fast


# The two steps must be functions of their own, over rows as arrays of their own: only then does LLVM vectorise their
# loops. A call for each row would take twice as long: checking that no two arrays overlap costs as much as 64 pixels.


@_compiled
def _primal_rows(
    start: int, stop: int, u: Plane, v: Plane, pu_x: Plane, pu_y: Plane, pv_x: Plane, pv_y: Plane, grad_x: Plane,
    grad_y: Plane, inverse: Plane, rho: Plane, zero: Row, limit: np.float32, theta: np.float32, changes: Row,
) -> None:  # fmt: skip
    """u, v += theta div p - fi grad I on rows from `start` to `stop`; `changes` gets the squared change of each row.

    div p takes backward differences, with zero left of the first and above the first row.
    """
    for y in range(start, stop):
        a, b, gx, gy, weight, rest = u[y], v[y], grad_x[y], grad_y[y], inverse[y], rho[y]
        ax, ay, bx, by = pu_x[y], pu_y[y], pv_x[y], pv_y[y]
        above_a = pu_y[y - 1] if y > 0 else zero
        above_b = pv_y[y - 1] if y > 0 else zero
        change = np.float32(0)
        fi = min(max((rest[0] + (gx[0] * a[0] + gy[0] * b[0])) * weight[0], -limit), limit)
        da = theta * (ax[0] + ay[0] - above_a[0]) - fi * gx[0]
        db = theta * (bx[0] + by[0] - above_b[0]) - fi * gy[0]
        a[0] += da
        b[0] += db
        change += da * da + db * db
        for x in range(1, a.shape[0]):
            fi = min(max((rest[x] + (gx[x] * a[x] + gy[x] * b[x])) * weight[x], -limit), limit)
            da = theta * (ax[x] - ax[x - 1] + ay[x] - above_a[x]) - fi * gx[x]
            db = theta * (bx[x] - bx[x - 1] + by[x] - above_b[x]) - fi * gy[x]
            a[x] += da
            b[x] += db
            change += da * da + db * db
        changes[y] = change


@_compiled
def _dual_rows(
    start: int, stop: int, u: Plane, v: Plane, pu_x: Plane, pu_y: Plane, pv_x: Plane, pv_y: Plane, taut: np.float32
) -> None:
    """p = (p + taut grad u) / (1 + taut |grad u|) on rows from `start` to `stop`; forward differences, zero beyond the
    last column and row."""
    one = np.float32(1)
    last = u.shape[1] - 1
    for y in range(start, stop):
        below = min(y + 1, u.shape[0] - 1)
        a, b, below_a, below_b = u[y], v[y], u[below], v[below]
        ax, ay, bx, by = pu_x[y], pu_y[y], pv_x[y], pv_y[y]
        for x in range(last):
            dax, day, dbx, dby = a[x + 1] - a[x], below_a[x] - a[x], b[x + 1] - b[x], below_b[x] - b[x]
            na = one / (one + taut * np.sqrt(dax * dax + day * day))
            nb = one / (one + taut * np.sqrt(dbx * dbx + dby * dby))
            ax[x] = (ax[x] + taut * dax) * na
            ay[x] = (ay[x] + taut * day) * na
            bx[x] = (bx[x] + taut * dbx) * nb
            by[x] = (by[x] + taut * dby) * nb
        day, dby = below_a[last] - a[last], below_b[last] - b[last]
        na, nb = one / (one + taut * abs(day)), one / (one + taut * abs(dby))
        ax[last] *= na
        ay[last] = (ay[last] + taut * day) * na
        bx[last] *= nb
        by[last] = (by[last] + taut * dby) * nb


def _sum_in_groups(changes: Row) -> float:
    total = 0.0
    for start in range(0, changes.shape[0], GROUP):
        part = 0.0
        for y in range(start, min(start + GROUP, changes.shape[0])):
            part += changes[y]
        total += part
    return total


# Without liberties in its arithmetic: sums are in this order on every machine, whatever the band.
sum_in_groups = _compiled(_sum_in_groups, fastmath=False)


@_compiled
def inner_steps(
    u: Plane, v: Plane, pu_x: Plane, pu_y: Plane, pv_x: Plane, pv_y: Plane, grad_x: Plane, grad_y: Plane,
    inverse: Plane, rho: Plane, zero: Row, limit: np.float32, theta: np.float32, taut: np.float32, threshold: float,
    steps: int,
) -> float:  # fmt: skip
    """Up to `steps` steps in place on (H, W) float32 planes; returns the last squared change, summed over pixels.

    `inverse` is 1 / max(|grad I|^2, eps) and `zero` a row of zeros. Stops once the change is at most `threshold`.
    """
    height = u.shape[0]
    changes = np.empty(height, np.float32)
    change = 0.0
    for _ in range(steps):
        done = 0  # rows through the dual step, which needs the row below
        for start in range(0, height, BAND):
            stop = min(start + BAND, height)
            _primal_rows(
                start, stop, u, v, pu_x, pu_y, pv_x, pv_y, grad_x, grad_y, inverse, rho, zero, limit, theta, changes
            )
            ready = stop if stop == height else stop - 1
            _dual_rows(done, ready, u, v, pu_x, pu_y, pv_x, pv_y, taut)
            done = ready
        change = sum_in_groups(changes)
        if change <= threshold:
            break
    return change


def _linearise(
    warped: NDArray[np.float32], u: Plane, v: Plane, before: Plane, grad_x: Plane, grad_y: Plane, inverse: Plane,
    rho: Plane,
) -> None:  # fmt: skip
    """From the warped image and gradients, (H, W, 3), to grad I, 1 / max(|grad I|^2, eps) and I1w - grad I . u - I0.

    One pass instead of ten over whole planes.
    """
    one, eps = np.float32(1), EPS
    for y in range(u.shape[0]):
        values, a, b, old = warped[y], u[y], v[y], before[y]
        to_x, to_y, weight, rest = grad_x[y], grad_y[y], inverse[y], rho[y]
        for x in range(a.shape[0]):
            gx, gy = values[x, 1], values[x, 2]
            to_x[x], to_y[x] = gx, gy
            weight[x] = one / max(gx * gx + gy * gy, eps)
            rest[x] = values[x, 0] - gx * a[x] - gy * b[x] - old[x]


# Without liberties in its arithmetic: the same bits as numpy's.
linearise = _compiled(_linearise, fastmath=False)


def centred_gradient(image: Plane) -> tuple[Plane, Plane]:
    """Half the difference of the two neighbours, along x and along y; the border repeats its pixels."""
    padded = np.asarray(cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.float32)
    half = np.float32(0.5)
    return half * (padded[1:-1, 2:] - padded[1:-1, :-2]), half * (padded[2:, 1:-1] - padded[:-2, 1:-1])


def pyramid(image: Plane, scales: int, step: float) -> list[Plane]:
    """The image and its reductions by `step`, bilinear without blur, down to sides of `SMALLEST` px."""
    levels = [image]
    while len(levels) < scales:
        smaller = cv2.resize(levels[-1], None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
        if min(smaller.shape) < SMALLEST:
            break
        levels.append(np.asarray(smaller, np.float32))
    return levels


def warp(image: NDArray[np.float32], x: Plane, y: Plane) -> NDArray[np.float32]:
    """The image, (H, W) or (H, W, C), at the points x, y (px): cubic interpolation, zero outside."""
    return np.asarray(
        cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=0), np.float32
    )


def tvl1_fused(
    first: NDArray[np.uint8] | NDArray[np.float32],
    second: NDArray[np.uint8] | NDArray[np.float32],
    *,
    tau: float,
    lambda_: float,
    theta: float,
    scales: int,
    warps: int,
    epsilon: float,
    inner: int,
    outer: int,
    scale_step: float,
    median: int,
) -> NDArray[np.float32]:
    """Flow from each (H, W) of `first` to its partner: (N, H, W) grey, uint8 or float32 in 0-255, to (N, 2, H, W)
    px."""
    cv2.setNumThreads(1)  # parallelism is over videos
    flow = np.empty((len(first), 2, *first.shape[1:]), np.float32)
    for n in range(len(first)):
        # Rows must lie one after the other: for others inner_steps would be compiled anew, and be slow.
        before = pyramid(np.ascontiguousarray(first[n], np.float32), scales, scale_step)
        after = pyramid(np.ascontiguousarray(second[n], np.float32), scales, scale_step)
        u, v = np.zeros_like(before[-1]), np.zeros_like(before[-1])
        for level in range(len(before) - 1, -1, -1):
            height, width = before[level].shape
            if level < len(before) - 1:
                u, v = (
                    np.asarray(cv2.resize(x, (width, height), interpolation=cv2.INTER_LINEAR))
                    * np.float32(1 / scale_step)
                    for x in (u, v)
                )
            u, v = _one_scale(
                before[level], after[level], u, v, np.float32(lambda_ * theta), np.float32(theta),
                np.float32(tau / theta), warps, float(epsilon**2 * height * width), inner, outer, median,
            )  # fmt: skip
        flow[n] = u, v
    return flow


def _one_scale(
    before: Plane, after: Plane, u: Plane, v: Plane, limit: np.float32, theta: np.float32, taut: np.float32, warps: int,
    threshold: float, inner: int, outer: int, median: int,
) -> tuple[Plane, Plane]:  # fmt: skip
    """Refine u, v (H, W) at one level of the pyramid."""
    height, width = before.shape
    x = np.arange(width, dtype=np.float32)[None]
    y = np.arange(height, dtype=np.float32)[:, None]
    # One image of three channels: their points and weights are found once.
    stack = np.asarray(cv2.merge([after, *centred_gradient(after)]), np.float32)  # (H, W, 3)
    pu_x, pu_y, pv_x, pv_y = (np.zeros_like(before) for _ in range(4))  # p, for u and for v
    at_x, at_y, grad_x, grad_y, inverse, rho = (np.empty_like(before) for _ in range(6))
    zero = np.zeros(width, np.float32)
    for _ in range(warps):
        warped = warp(stack, np.add(x, u, out=at_x), np.add(y, v, out=at_y))
        linearise(warped, u, v, before, grad_x, grad_y, inverse, rho)
        for _ in range(outer):
            if median > 1:
                u, v = np.asarray(cv2.medianBlur(u, median)), np.asarray(cv2.medianBlur(v, median))
            change = inner_steps(
                u, v, pu_x, pu_y, pv_x, pv_y, grad_x, grad_y, inverse, rho, zero, limit, theta, taut, threshold, inner
            )
            if change <= threshold:
                break
    return u, v
