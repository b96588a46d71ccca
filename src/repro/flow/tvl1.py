"""TV-L1 optical flow of batches of grey image pairs, behind one function whatever computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro.errors import ReproError, nearest

# Backend -> what a run key calls it: a new name for whatever changes the flow. Both warp with OpenCV's interpolation,
# which is exact from version 5 on and rounds coordinates to 1/32 px before; "tvl1-fused-1" alone means version 5.
_OPENCV = cv2.__version__.split(".")[0]
BACKENDS = {
    "fused": "tvl1-fused-1" if _OPENCV == "5" else f"tvl1-fused-1-opencv-{_OPENCV}",
    "opencv": f"tvl1-opencv-{_OPENCV}",
    "torch": "tvl1-torch-1",
}
DEFAULT = "fused"
SMALLEST = 16  # px; the pyramid ends there
DEFAULTS: Mapping[str, Any] = {  # OpenCV's
    "tau": 0.25, "lambda_": 0.15, "theta": 0.3, "scales": 5, "warps": 5, "epsilon": 0.01, "inner": 30, "outer": 10,
    "scale_step": 0.8, "median": 5,
}  # fmt: skip


def backend_name(backend: str = DEFAULT) -> str:
    """Return what tells flow fields apart that differ in their bits, such as "tvl1-fused-1"."""
    if backend not in BACKENDS:
        raise ReproError(f"unknown flow backend '{backend}'{nearest(backend, BACKENDS)}, use {', '.join(BACKENDS)}")
    return BACKENDS[backend]


def backend_of(name: str) -> str | None:
    """Undo `backend_name`: the backend that computes such fields here; None when none does."""
    return next((backend for backend, known in BACKENDS.items() if known == name), None)


def tvl1(
    I0: Tensor | NDArray[Any],
    I1: Tensor | NDArray[Any],
    *,
    tau: float = 0.25,
    lambda_: float = 0.15,
    theta: float = 0.3,
    scales: int = 5,
    warps: int = 5,
    epsilon: float = 0.01,
    inner: int = 30,
    outer: int = 10,
    scale_step: float = 0.8,
    median: int = 5,
    backend: str = DEFAULT,
) -> Tensor:
    """Flow from `I0` to `I1`: grey images 0-255, (N, H, W), floating or uint8, to float32 px (N, 2, H, W), channels u
    (right), v (down).

    tau: time step. lambda_: weight of the data term. theta: coupling. scales, scale_step: image pyramid. warps: per
    scale. epsilon: stop below this change, px. outer: median filters of side `median` (1: none), each before up to
    `inner` steps. Defaults: OpenCV's. backend: "opencv" is its class, "fused" the same algorithm, faster, which needs
    numba, and "torch" the same for CUDA, where all pairs are computed together: on the device of `I0`, or for arrays on
    the GPU where there is one. The result lies on the device of `I0`. Raises ReproError for other shapes, types or
    sides under 16 px, and for a backend whose library is missing.
    """
    backend_name(backend)
    if backend == "torch" and median not in (1, 5):
        raise ReproError(f"the flow backend 'torch' has medians of 5 pixels or none: median={median} needs another one")
    I0, I1 = (x if isinstance(x, Tensor) else np.asarray(x) for x in (I0, I1))
    _check(I0, "I0")
    _check(I1, "I1")
    if tuple(I0.shape) != tuple(I1.shape):
        raise ReproError(f"tvl1: I0 {tuple(I0.shape)} and I1 {tuple(I1.shape)} must have the same shape")
    home = I0.device if isinstance(I0, Tensor) else torch.device("cpu")
    options: dict[str, Any] = {
        "tau": tau, "lambda_": lambda_, "theta": theta, "scales": scales, "warps": warps, "epsilon": epsilon,
        "inner": inner, "outer": outer, "scale_step": scale_step, "median": median,
    }  # fmt: skip
    if backend == "torch":
        from repro.flow.batched import tvl1_batched

        there = home if isinstance(I0, Tensor) else pick()
        first, second = (torch.as_tensor(x if isinstance(x, Tensor) else np.array(x), device=there) for x in (I0, I1))
        return tvl1_batched(first, second, **options).to(home)
    before, after = _array(I0), _array(I1)
    if before.dtype != after.dtype:
        before, after = before.astype(np.float32), after.astype(np.float32)
    return torch.from_numpy(_solver(backend)(before, after, **options)).to(home)


def pick() -> torch.device:
    """Where the backend "torch" computes what is on no device yet."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _solver(backend: str) -> Callable[..., NDArray[np.float32]]:
    """The function behind a backend, imported here: either does without the other's library."""
    if backend == "opencv":
        from repro.flow.opencv import tvl1_opencv

        return tvl1_opencv
    try:
        from repro.flow.fused import tvl1_fused
    except ImportError as error:
        raise ReproError(
            f"the flow backend 'fused' needs numba ({error}): install it, or use the slower backend 'opencv'"
        ) from error
    return tvl1_fused


def _check(images: Tensor | NDArray[Any], name: str) -> None:
    if len(images.shape) != 3 or min(images.shape[1:]) < SMALLEST:
        shape = tuple(images.shape)
        raise ReproError(f"tvl1: {name} must be (N, H, W) with sides of at least {SMALLEST} px, it is {shape}")
    if isinstance(images, Tensor):
        known = images.is_floating_point() or images.dtype == torch.uint8
    else:
        known = np.issubdtype(images.dtype, np.floating) or images.dtype == np.uint8
    if not known:
        raise ReproError(f"tvl1: {name} must be uint8 or floating, 0-255, it is {images.dtype}")


def _array(images: Tensor | NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.float32]:
    """(N, H, W) as uint8 or float32."""
    if isinstance(images, Tensor):
        array = (images.detach().float() if images.is_floating_point() else images).cpu().numpy()
    else:
        array = images
    return array if array.dtype == np.uint8 else array.astype(np.float32)
