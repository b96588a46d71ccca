"""Flow that TSN's or denseflow's tools extracted before: one JPEG per field and direction, in a folder per video."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError
from repro.flow.store import dequantise

if TYPE_CHECKING:
    from repro.data.catalog import Clip

Pair = tuple[Path, Path]  # the images of u and v of one field


def read_flow_folder(flow_root: str | Path, clip: Clip, n_frames: int, bound: float) -> NDArray[np.float32]:
    """Read the flow of a clip, (n_frames - 1, 2, H, W) px; see `iter_flow_folder`."""
    return np.array(list(iter_flow_folder(flow_root, clip, n_frames, bound)))


def iter_flow_folder(flow_root: str | Path, clip: Clip, n_frames: int, bound: float) -> Iterator[NDArray[np.float32]]:
    """Yield the flow of a clip, n_frames - 1 fields (2, H, W) px, from the layouts of TSN and denseflow.

    The folder of a video is `<flow_root>/<class>/<video>` or `<flow_root>/<video>`, its name that of the video
    without suffix. Bytes become px with 0 px at 128, as in the store, so that storing them again keeps them. bound:
    px, of the tool that wrote them (TSN 20, denseflow 32 unless told). Missing or miscounted files raise ReproError
    here, unreadable ones when they are reached.
    """
    folder = find_folder(flow_root, clip)
    pairs = flow_files(folder)
    if len(pairs) != n_frames - 1:
        raise ReproError(
            f"{clip.id}: {n_frames} frames in the video, but {len(pairs)} flow fields in {folder} "
            f"(expected {n_frames - 1}): extract the flow of this video again"
        )
    return _fields(folder, pairs, bound)


def find_folder(flow_root: str | Path, clip: Clip) -> Path:
    """The folder of a clip's flow; ReproError with the places looked at when there is none."""
    root = Path(flow_root)
    path = PurePosixPath(clip.path).with_suffix("")
    names = [path, PurePosixPath(clip.id), PurePosixPath(*path.parts[-2:]), PurePosixPath(path.name)]
    for name in dict.fromkeys(names):
        if (root / name).is_dir():
            return root / name
    raise ReproError(f"no flow of {clip.id} in {root}: expected a folder {path.name} or {'/'.join(path.parts[-2:])}")


def flow_files(folder: Path) -> list[Pair]:
    """The images of every field of a folder, in order; ReproError when some are missing in the middle."""
    first, second = _numbered(folder, "x"), _numbered(folder, "y")
    if not first or [n for n, _ in first] != [n for n, _ in second]:
        raise ReproError(f"{folder}: {len(first)} x and {len(second)} y flow images with the same numbers expected")
    if first[-1][0] - first[0][0] != len(first) - 1:
        raise ReproError(f"{folder}: flow images are missing between number {first[0][0]} and {first[-1][0]}")
    return [(x, y) for (_, x), (_, y) in zip(first, second, strict=True)]


def read_field(pair: Pair, bound: float) -> NDArray[np.float32]:
    """One field, (2, H, W) px."""
    u, v = (_read(path) for path in pair)
    if u.shape != v.shape:
        raise ReproError(f"{pair[0].parent}: flow images of different sizes, extract the flow of this video again")
    return dequantise(np.stack([u, v]), bound)


def fit(flow: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """Resize a field (2, h, w) to frames of `size` (H, W); displacements, in px, grow or shrink with them."""
    height, width = size
    if flow.shape[1:] == (height, width):
        return flow
    scale = (width / flow.shape[2], height / flow.shape[1])
    resized = [
        cv2.resize(c, (width, height), interpolation=cv2.INTER_LINEAR) * s for c, s in zip(flow, scale, strict=True)
    ]
    return np.array(resized, np.float32)


def _fields(folder: Path, pairs: Sequence[Pair], bound: float) -> Iterator[NDArray[np.float32]]:
    shape: tuple[int, ...] = ()
    for pair in pairs:
        field = read_field(pair, bound)
        if field.shape != (shape or field.shape):
            raise ReproError(f"{folder}: flow images of different sizes, extract the flow of this video again")
        shape = field.shape
        yield field


def _numbered(folder: Path, axis: str) -> list[tuple[int, Path]]:
    """The images of one direction with their numbers, in order. TSN counts `flow_x_00001.jpg` from 1, denseflow
    `flow_x_00000.jpg` from 0 or writes `x/00001.jpg`."""
    inner = folder / axis
    place, prefix = (inner, "") if inner.is_dir() else (folder, f"flow_{axis}_")
    name = re.compile(prefix + r"(\d+)\.(?:jpe?g|png)")
    return sorted((int(match[1]), path) for path in place.iterdir() if (match := name.fullmatch(path.name)))


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE) if path.stat().st_size else None
    except OSError as error:
        raise ReproError(f"{path} cannot be read ({error.strerror}): extract the flow of this video again") from error
    if image is None:
        raise ReproError(f"{path} is no readable image: extract the flow of this video again")
    return np.asarray(image, np.uint8)
