"""TV-L1 optical flow of batches of grey image pairs, behind one function whatever computes it."""

from __future__ import annotations

from collections.abc import Callable
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
}
DEFAULT = "fused"
SMALLEST = 16  # px; the pyramid ends there


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
    numba. The result lies on the device of `I0`. Raises ReproError for other shapes, types or sides under 16 px, and
    for a backend whose library is missing.
    """
    backend_name(backend)
    first, second = _grey(I0, "I0"), _grey(I1, "I1")
    if first.shape != second.shape:
        raise ReproError(f"tvl1: I0 {first.shape} and I1 {second.shape} must have the same shape")
    if first.dtype != second.dtype:
        first, second = first.astype(np.float32), second.astype(np.float32)
    flow = _solver(backend)(
        first,
        second,
        tau=tau,
        lambda_=lambda_,
        theta=theta,
        scales=scales,
        warps=warps,
        epsilon=epsilon,
        inner=inner,
        outer=outer,
        scale_step=scale_step,
        median=median,
    )
    return torch.from_numpy(flow).to(I0.device if isinstance(I0, Tensor) else "cpu")


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


def _grey(images: Tensor | NDArray[Any], name: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Check one argument; return (N, H, W) as uint8 or float32."""
    if isinstance(images, Tensor):
        floating = images.is_floating_point()
        array = (images.detach().float() if floating else images).cpu().numpy()
    else:
        array = np.asarray(images)
        floating = np.issubdtype(array.dtype, np.floating)
    if array.ndim != 3 or min(array.shape[1:]) < SMALLEST:
        raise ReproError(f"tvl1: {name} must be (N, H, W) with sides of at least {SMALLEST} px, it is {array.shape}")
    if array.dtype == np.uint8:
        return array
    if not floating:
        raise ReproError(f"tvl1: {name} must be uint8 or floating, 0-255, it is {array.dtype}")
    return array.astype(np.float32)
