"""Crops, mirroring and normalisation, the same for both streams.

RGB is uint8 (T, 3, H, W). Flow is uint8 (T, 2L, H, W) with channels u1, v1, u2, v2, ... and 0 px at 128. A `View` is
drawn once and applied to both, so that they stay aligned pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from repro.errors import ReproError

ZERO = 128  # 8-bit code of 0 px
RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, torchvision's weights
BGR_MEAN = (104.0, 117.0, 128.0)  # grey levels; of the published BN-Inception, in PyTorch ports of the Caffe model
FLOW_STD = 0.226  # TSN's code: the mean of RGB_STD
SNAP = 3  # px; TSN's code: crop sides closer than this to the input size become the input size
SCALES = (1.0, 0.875, 0.75, 0.66)  # TSN (2016), Sec. 3.2; crop sides {256, 224, 192, 168} of frames 256 px high


@dataclass(frozen=True)
class View:
    """A rectangle of the stored frame in px, and whether it is mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


def crop_sizes(height: int, width: int, crop: int, scales: Sequence[float] = SCALES) -> list[tuple[int, int]]:
    """(height, width) of every allowed crop: sides int(min(height, width) s), at most one scale apart (TSN's code)."""
    short = min(height, width)
    sides = [max(int(short * scale), 1) for scale in scales]
    if max(sides) > short:
        raise ReproError(f"crop scales {tuple(scales)} exceed the frame: give numbers up to 1")
    sides = [crop if abs(side - crop) < SNAP and crop <= short else side for side in sides]
    pairs = range(len(sides))
    return [(sides[i], sides[j]) for i in pairs for j in pairs if abs(i - j) <= 1]


def crop_offsets(free_height: int, free_width: int, positions: int) -> list[tuple[int, int]]:
    """(top, left) of the fixed positions of a crop that leaves `free_height` and `free_width` px.

    TSN (2016), Sec. 3.2: four corners and the centre (5); its code adds eight more on a grid of quarters (13): the
    middles of the four sides and of the four quadrants. Steps are rounded down as in the code.
    """
    down, right = free_height // 4, free_width // 4
    grid = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    if positions == 13:
        grid += [(0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)]
    elif positions != 5:
        raise ReproError(f"there are 5 or 13 crop positions, not {positions}: choose one of them")
    return [(i * down, j * right) for i, j in grid]


def random_view(
    height: int,
    width: int,
    crop: int,
    scales: Sequence[float],
    rng: np.random.Generator,
    flip: bool = True,
    positions: int = 13,
) -> View:
    """A random crop for training: one of `crop_sizes`, at one of `crop_offsets`, mirrored half the time if `flip`."""
    sizes = crop_sizes(height, width, crop, scales)
    high, wide = sizes[rng.integers(len(sizes))]
    offsets = crop_offsets(height - high, width - wide, positions)
    top, left = offsets[rng.integers(len(offsets))]
    mirrored = bool(rng.integers(2))  # drawn always, so that switching `flip` off changes nothing else
    return View(top, left, high, wide, flip and mirrored)


def free_view(
    height: int, width: int, crop: int, sides: tuple[float, float], rng: np.random.Generator, flip: bool = True
) -> View:
    """A random crop for training whose sides are drawn independently from the range `sides` of shares of `crop`.

    ST-ResNet (Feichtenhofer et al. 2016), Sec. 3.4: .75 to 1.25 of 224 px in frames with a shorter side of 256, which
    280 px would not fit: a side is at most the frame's (ledger st_resnet-L16).
    """
    low, high = sides
    if not 0 < low <= high:
        raise ReproError(f"crop sides {sides} are no range of positive shares: give (low, high)")
    tall, wide = (
        max(1, min(limit, round(crop * float(share))))
        for limit, share in zip((height, width), rng.uniform(low, high, 2), strict=True)
    )
    top, left = (int(rng.integers(limit - side + 1)) for limit, side in ((height, tall), (width, wide)))
    return View(top, left, tall, wide, flip and bool(rng.integers(2)))


def centre_view(height: int, width: int, crop: int) -> View:
    """The square of side `crop` (at most the shorter side) in the middle of the frame."""
    side = min(crop, height, width)
    return View((height - side) // 2, (width - side) // 2, side, side)


def ten_views(height: int, width: int, crop: int) -> list[View]:
    """Four corners and the centre, then their mirror images (TSN, Sec. 3.3); squares of at most the shorter side."""
    side = min(crop, height, width)
    views = [View(top, left, side, side) for top, left in crop_offsets(height - side, width - side, 5)]
    return views + [replace(view, flip=True) for view in views]


def full_views(height: int, width: int) -> list[View]:
    """The whole frame and its mirror image, for fully convolutional testing."""
    return [View(0, 0, height, width, flip) for flip in (False, True)]


def apply_view(x: Tensor, view: View, size: int | None, *, is_flow: bool) -> Tensor:
    """Cut `view` out of uint8 frames, resize it to `size` x `size` px (None: leave it) and mirror it.

    (T, C, H, W) -> (T, C, size, size). Mirroring negates u exactly: 256 - q, so 128 (0 px) stays 128; code 0, which
    would become 256, becomes 255. Raises ReproError when the view does not fit the frames.
    """
    height, width = x.shape[-2:]
    if view.top < 0 or view.left < 0 or view.top + view.height > height or view.left + view.width > width:
        raise ReproError(f"{view} does not fit frames of {height} x {width} px: RGB and flow need the same size")
    x = x[..., view.top : view.top + view.height, view.left : view.left + view.width]
    if size is not None and (view.height, view.width) != (size, size):
        # Flow vectors are not rescaled with the frame, as in TSN's code: a crop at scale .75 shows faster motion.
        x = F.resize(x, [size, size], InterpolationMode.BILINEAR, antialias=True)
    return _mirror(x, is_flow) if view.flip else x


def _mirror(x: Tensor, is_flow: bool) -> Tensor:
    x = x.flip(-1)
    if is_flow:
        x[..., 0::2, :, :] = (256 - x[..., 0::2, :, :].short()).clamp(max=255).byte()
    return x


def _channels(values: Sequence[float], device: torch.device) -> Tensor:
    """(C, 1, 1), on the device without waiting for it."""
    return torch.tensor(values).to(device, non_blocking=True)[:, None, None]


def normalise_rgb(x: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float32 with ImageNet's mean and standard deviation."""
    mean, std = (_channels(values, x.device) for values in (RGB_MEAN, RGB_STD))
    return (x.float() / 255 - mean) / std


def normalise_flow(x: Tensor, *, subtract_mean: bool = False) -> Tensor:
    """uint8 (..., 2L, H, W) -> float32, 0 px exactly to 0.

    `subtract_mean` takes its mean from every field, which removes a shift of the whole picture by the camera (Simonyan
    and Zisserman, NIPS 2014, Sec. 3.1, "mean flow subtraction").
    """
    flow = (x.float() - ZERO) / (255 * FLOW_STD)
    return flow - flow.mean((-2, -1), keepdim=True) if subtract_mean else flow


def bgr_less_mean(x: Tensor) -> Tensor:
    """Normalised RGB (..., 3, H, W) -> BGR in grey levels 0-255 less `BGR_MEAN`, for networks ported from Caffe.

    Frames are 8-bit before `normalise_rgb`, so rounding brings their whole grey levels back exactly. The gradient
    passes as if there were no rounding.
    """
    mean, std, bgr_mean = (_channels(values, x.device) for values in (RGB_MEAN, RGB_STD, BGR_MEAN))
    grey = (x * std + mean) * 255
    grey = grey + (grey.round() - grey).detach()
    return grey.flip(-3) - bgr_mean


def flow_less_zero(x: Tensor) -> Tensor:
    """Normalised flow (..., 2L, H, W) -> grey levels 0-255 less 128, the range of `bgr_less_mean`; no channel moves."""
    return x * (255 * FLOW_STD)
