"""TV-L1 optical flow by OpenCV's CPU class (`opencv-contrib-python-headless`): the reference.

Zach, Pock and Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007, as implemented after
Sanchez, Meinhardt-Llopis and Facciolo, IPOL 2013. OpenCV 5 interpolates with exact coordinates, OpenCV 4 rounds them
to 1/32 px, and the CUDA class behind most published features has no median filter: the three differ by up to 0.1 px,
so a run names the one it used.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError


def tvl1_opencv(
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
    if not hasattr(cv2, "optflow"):
        raise ReproError("this OpenCV lacks cv2.optflow: uninstall it and install opencv-contrib-python-headless")
    cv2.setNumThreads(1)  # parallelism is over videos
    create: Any = cv2.optflow.DualTVL1OpticalFlow_create  # type: ignore[attr-defined]  # missing from OpenCV's stubs
    solver = create(
        tau=tau,
        lambda_=lambda_,
        theta=theta,
        nscales=scales,
        warps=warps,
        epsilon=epsilon,
        innnerIterations=inner,  # OpenCV's spelling
        outerIterations=outer,
        scaleStep=scale_step,
        gamma=0.0,  # no illumination term
        medianFiltering=median,
        useInitialFlow=False,
    )
    if first.dtype != np.uint8:  # OpenCV multiplies floats by 255
        first, second = np.divide(first, 255, dtype=np.float32), np.divide(second, 255, dtype=np.float32)
    flow = np.empty((len(first), 2, *first.shape[1:]), np.float32)
    for n in range(len(first)):
        flow[n] = solver.calc(first[n], second[n], None).transpose(2, 0, 1)
    return flow
