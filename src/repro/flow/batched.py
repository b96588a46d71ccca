"""TV-L1 optical flow of a batch of pairs at once: by Triton's kernels on CUDA, in plain tensors elsewhere.

The algorithm is the one of `repro.flow.fused`, to the order of its operations. All pairs of a batch make their steps
together; one whose flow has stopped changing is frozen until the next warp. The device decides that by itself: the host
looks only after every `inner` steps whether anybody is left.
N pairs of H x W pixels; a state is (N, 6, H, W): u, v and the dual fields pu_x, pu_y, pv_x, pv_y.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 16  # px: no pyramid level below
EPS = torch.finfo(torch.float32).eps  # squared gradients are at least this large
A = -0.75  # of OpenCV's cubic interpolation
PIXELS = 1 << 25  # of all pairs that are computed together: 4 GB of states, data and pyramids


class Operations(Protocol):
    """What a pair goes through at one size of the picture; all write into tensors they are given.

    `step` and `smooth` read `source` and `before` and write `target` and `after`: states (N, 6, H, W), and the squared
    changes of each pair in parts (N, B), whose sum decides: a pair is frozen once it is at most `threshold`, then its
    parts become 0 and its state is not written. `steps` (N,) counts the calls that wrote a pair; `count` is the number
    of calls before this one.
    """

    def parts(self, height: int, width: int) -> int:
        """B for images of this size."""

    def linearise(self, images: Tensor, first: Tensor, state: Tensor, data: Tensor) -> None:
        """Warp `images` (N, 3, H, W), the second image and its gradient, by u and v of `state`; `data` (N, 4, H, W)
        becomes grad I, 1 / max(|grad I|^2, eps) and I1w - grad I . u - I0."""

    def smooth(
        self, source: Tensor, target: Tensor, before: Tensor, after: Tensor, steps: Tensor, count: int, threshold: float
    ) -> None:
        """Medians of u and v over 5 x 5 pixels, the border repeated; the parts become infinite."""

    def step(
        self, source: Tensor, target: Tensor, data: Tensor, before: Tensor, after: Tensor, steps: Tensor, count: int,
        threshold: float, limit: float, theta: float, taut: float,
    ) -> None:  # fmt: skip
        """One primal and one dual step."""


class Plain:
    """The operations in plain tensors, on any device: slow, and the reference of the kernels."""

    def parts(self, height: int, width: int) -> int:
        return 1

    def linearise(self, images: Tensor, first: Tensor, state: Tensor, data: Tensor) -> None:
        u, v = state[:, 0], state[:, 1]
        warped = warp(images, u, v)
        grad_x, grad_y = warped[:, 1], warped[:, 2]
        data[:, 0], data[:, 1] = grad_x, grad_y
        data[:, 2] = 1 / (grad_x * grad_x + grad_y * grad_y).clamp(min=EPS)
        data[:, 3] = warped[:, 0] - grad_x * u - grad_y * v - first

    def smooth(
        self, source: Tensor, target: Tensor, before: Tensor, after: Tensor, steps: Tensor, count: int, threshold: float
    ) -> None:
        moving = before.sum(1) > threshold  # (N,)
        height, width = source.shape[2:]
        padded = F.pad(source[:, :2], (2, 2, 2, 2), mode="replicate")
        shifted = [padded[:, :, y : y + height, x : x + width] for y in range(5) for x in range(5)]
        found = torch.cat([torch.stack(shifted).median(0).values, source[:, 2:]], 1)
        target.copy_(torch.where(moving[:, None, None, None], found, target))
        after.copy_(torch.where(moving, torch.inf, 0.0)[:, None].expand_as(after))
        steps.copy_(torch.where(moving, count + 1, steps))

    def step(
        self, source: Tensor, target: Tensor, data: Tensor, before: Tensor, after: Tensor, steps: Tensor, count: int,
        threshold: float, limit: float, theta: float, taut: float,
    ) -> None:  # fmt: skip
        moving = before.sum(1) > threshold
        flow, p_x, p_y = source[:, :2], source[:, 2::2], source[:, 3::2]  # (N, 2, H, W) each
        grad, inverse, rho = data[:, :2], data[:, 2:3], data[:, 3:4]
        fi = ((rho + (grad * flow).sum(1, keepdim=True)) * inverse).clamp(-limit, limit)
        divergence = p_x - F.pad(p_x, (1, 0))[..., :-1] + p_y - F.pad(p_y, (0, 0, 1, 0))[..., :-1, :]
        change = theta * divergence - fi * grad
        new = flow + change
        d_x = F.pad(new[..., 1:] - new[..., :-1], (0, 1))
        d_y = F.pad(new[..., 1:, :] - new[..., :-1, :], (0, 0, 0, 1))
        norm = 1 / (1 + taut * (d_x * d_x + d_y * d_y).sqrt())
        p = torch.stack([(p_x + taut * d_x) * norm, (p_y + taut * d_y) * norm], 2).flatten(1, 2)
        target.copy_(torch.where(moving[:, None, None, None], torch.cat([new, p], 1), target))
        after.copy_(torch.where(moving, (change * change).sum((1, 2, 3)), 0.0)[:, None])
        steps.copy_(torch.where(moving, count + 1, steps))


def operations(device: torch.device) -> Operations:
    """The fastest operations for a device."""
    if device.type == "cuda":
        from repro.flow.kernels import Kernels  # needs Triton, which comes with PyTorch for CUDA

        return Kernels()
    return Plain()


def tvl1_batched(
    first: Tensor,
    second: Tensor,
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
    by: Operations | None = None,
) -> Tensor:
    """Flow from each (H, W) of `first` to its partner: (N, H, W) grey, uint8 or floating, 0-255, to float32 px
    (N, 2, H, W) on their device. `by`: other operations than those of the device."""
    by = by or operations(first.device)
    at_once = max(1, PIXELS // (first.shape[1] * first.shape[2]))
    found = [torch.zeros(0, 2, *first.shape[1:], device=first.device)]
    # Triton launches on the current device.
    with torch.cuda.device(first.device) if first.device.type == "cuda" else contextlib.nullcontext():
        for one, other in zip(torch.split(first, at_once), torch.split(second, at_once), strict=True):
            before, after = (pyramid(x.float().contiguous(), scales, scale_step) for x in (one, other))
            flow = before[-1].new_zeros(len(one), 2, *before[-1].shape[1:])
            for level in range(len(before) - 1, -1, -1):
                height, width = before[level].shape[1:]
                if level < len(before) - 1:
                    flow = enlarged(flow, height, width) * (1 / scale_step)
                flow = _one_scale(
                    before[level], after[level], flow, by, lambda_ * theta, theta, tau / theta, warps,
                    epsilon**2 * height * width, inner, outer, median,
                )  # fmt: skip
            found.append(flow)
    return torch.cat(found)


def _one_scale(
    before: Tensor, after: Tensor, flow: Tensor, by: Operations, limit: float, theta: float, taut: float, warps: int,
    threshold: float, inner: int, outer: int, median: int,
) -> Tensor:  # fmt: skip
    """Refine the flow (N, 2, H, W) at one level of the pyramid."""
    n, height, width = before.shape
    images = torch.stack([after, *centred_gradient(after)], 1)  # (N, 3, H, W)
    states = flow.new_zeros(2, n, 6, height, width)  # the result of a call goes to the other one
    states[0, :, :2] = flow
    data = flow.new_empty(n, 4, height, width)
    changes = flow.new_empty(2, n, by.parts(height, width))
    for _ in range(warps):
        by.linearise(images, before, states[0], data)
        changes.fill_(torch.inf)
        steps, count = torch.zeros(n, dtype=torch.int32, device=flow.device), 0
        for _ in range(outer):
            if median > 1:
                here, there = count % 2, (count + 1) % 2
                by.smooth(states[here], states[there], changes[here], changes[there], steps, count, threshold)
                count += 1
            for _ in range(inner):
                here, there = count % 2, (count + 1) % 2
                by.step(
                    states[here], states[there], data, changes[here], changes[there], steps, count, threshold, limit,
                    theta, taut,
                )  # fmt: skip
                count += 1
            if not bool((changes[count % 2].sum(1) > threshold).any()):
                break
        odd = (steps % 2 == 1)[:, None, None, None]
        torch.where(odd, states[1], states[0], out=states[0])
    return states[0, :, :2].clone()


def centred_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Half the difference of the two neighbours of (N, H, W), along x and along y; the border repeats its pixels."""
    padded = F.pad(images[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    along_x = 0.5 * (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])
    return along_x, 0.5 * (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])


def pyramid(images: Tensor, scales: int, step: float) -> list[Tensor]:
    """(N, H, W) and its reductions by `step`, bilinear without blur, down to sides of `SMALLEST` px."""
    levels = [images]
    while len(levels) < scales:
        height, width = (round(side * step) for side in levels[-1].shape[1:])
        if min(height, width) < SMALLEST:
            break
        levels.append(_resized(levels[-1], height, width, 1 / step, 1 / step))
    return levels


def enlarged(flow: Tensor, height: int, width: int) -> Tensor:
    """(N, 2, h, w) to (N, 2, height, width), bilinear; its values are left as they are."""
    return _resized(flow, height, width, flow.shape[2] / height, flow.shape[3] / width)


def _resized(x: Tensor, height: int, width: int, factor_y: float, factor_x: float) -> Tensor:
    """(..., h, w) to (..., height, width): centres of pixels are at (i + .5) factor - .5, the border repeats."""
    y, y_next, weight_y = _positions(x.shape[-2], height, factor_y, x.device)
    at_x, x_next, weight_x = _positions(x.shape[-1], width, factor_x, x.device)
    wide = x[..., at_x] * (1 - weight_x) + x[..., x_next] * weight_x
    return wide[..., y, :] * (1 - weight_y[:, None]) + wide[..., y_next, :] * weight_y[:, None]


def _positions(size: int, wanted: int, factor: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each wanted pixel the two it lies between, and the weight of the second."""
    at = ((torch.arange(wanted, dtype=torch.float64, device=device) + 0.5) * factor - 0.5).clamp(0, size - 1)
    first = at.floor().long()
    return first, (first + 1).clamp(max=size - 1), (at - first).float()


def warp(images: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(N, C, H, W) at the points x + u, y + v (px): cubic interpolation, zero outside."""
    n, channels, height, width = images.shape
    at_x = torch.arange(width, device=u.device, dtype=torch.float32) + u
    at_y = torch.arange(height, device=u.device, dtype=torch.float32)[:, None] + v
    left, top = at_x.floor(), at_y.floor()  # fractions keep their bits: nothing is normalised to -1..1
    weights_x, weights_y = cubic(at_x - left), cubic(at_y - top)
    flat = images.flatten(2)
    found = torch.zeros_like(images)
    for j in range(4):
        for i in range(4):
            x, y = left.long() + i - 1, top.long() + j - 1
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)[:, None]
            values = flat.gather(2, index.expand(n, channels, -1)).view_as(images)
            found += values * torch.where(inside, weights_y[j] * weights_x[i], 0.0)[:, None]
    return found


def cubic(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the pixels at -1, 0, 1 and 2 for a point at t in 0..1."""
    before = ((A * (t + 1) - 5 * A) * (t + 1) + 8 * A) * (t + 1) - 4 * A
    here = ((A + 2) * t - (A + 3)) * t * t + 1
    there = ((A + 2) * (1 - t) - (A + 3)) * (1 - t) * (1 - t) + 1
    return before, here, there, 1 - before - here - there
