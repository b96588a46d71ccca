"""Flow that TSN's or denseflow's tools extracted before: one JPEG per field and direction, in a folder per video."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError
from repro.flow.store import dequantise

if TYPE_CHECKING:
    from repro.data.catalog import Clip


def read_flow_folder(flow_root: str | Path, clip: Clip, n_frames: int, bound: float) -> NDArray[np.float32]:
    """Read the flow of a clip, (n_frames - 1, 2, H, W) px, from the layouts of TSN and denseflow.

    The folder of a video is `<flow_root>/<class>/<video>` or `<flow_root>/<video>`, its name that of the video
    without suffix. Bytes become px with 0 px at 128, as in the store, so that storing them again keeps them. bound:
    px, of the tool that wrote them (TSN 20, denseflow 32 unless told). Missing, unreadable or miscounted files raise
    ReproError.
    """
    folder = find_folder(flow_root, clip)
    first, second = _numbered(folder, "x"), _numbered(folder, "y")
    if not first or [n for n, _ in first] != [n for n, _ in second]:
        raise ReproError(f"{folder}: {len(first)} x and {len(second)} y flow images with the same numbers expected")
    if len(first) != n_frames - 1:
        raise ReproError(
            f"{clip.id}: {n_frames} frames in the video, but {len(first)} flow fields in {folder} "
            f"(expected {n_frames - 1}): extract the flow of this video again"
        )
    if first[-1][0] - first[0][0] != len(first) - 1:
        raise ReproError(f"{folder}: flow images are missing between number {first[0][0]} and {first[-1][0]}")
    pairs = [[_read(path) for _, path in pair] for pair in zip(first, second, strict=True)]
    if len({image.shape for pair in pairs for image in pair}) > 1:
        raise ReproError(f"{folder}: flow images of different sizes, extract the flow of this video again")
    return dequantise(np.array(pairs), bound)


def find_folder(flow_root: str | Path, clip: Clip) -> Path:
    """The folder of a clip's flow; ReproError with the places looked at when there is none."""
    root = Path(flow_root)
    path = PurePosixPath(clip.path).with_suffix("")
    names = [path, PurePosixPath(clip.id), PurePosixPath(*path.parts[-2:]), PurePosixPath(path.name)]
    for name in dict.fromkeys(names):
        if (root / name).is_dir():
            return root / name
    raise ReproError(f"no flow of {clip.id} in {root}: expected a folder {path.name} or {'/'.join(path.parts[-2:])}")


def _numbered(folder: Path, axis: str) -> list[tuple[int, Path]]:
    """The images of one direction with their numbers, in order. TSN counts `flow_x_00001.jpg` from 1, denseflow
    `flow_x_00000.jpg` from 0 or writes `x/00001.jpg`."""
    inner = folder / axis
    place, prefix = (inner, "") if inner.is_dir() else (folder, f"flow_{axis}_")
    name = re.compile(prefix + r"(\d+)\.(?:jpe?g|png)")
    return sorted((int(match[1]), path) for path in place.iterdir() if (match := name.fullmatch(path.name)))


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE) if path.stat().st_size else None
    if image is None:
        raise ReproError(f"{path} is no readable image: extract the flow of this video again")
    return np.asarray(image, np.uint8)
