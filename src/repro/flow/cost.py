"""What an extraction will cost, before anything is done."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repro.data.index import read_index
from repro.data.video import probe
from repro.errors import ReproError
from repro.flow.store import ClipStore

if TYPE_CHECKING:
    from repro.data.catalog import Clip, Dataset

# Rough costs on one core, measured on real clips of 180x144 to 340x256: `repro bench extract` measures them again.
DECODE_SECONDS = 1.2e-8  # for a pixel of the video
WRITE_SECONDS = (4e-4, 1.2e-8)  # to compress and write a frame and its field: at least, and for each of its pixels
FLOW_SECONDS = (3e-3, 9e-7)  # for a pair: at least, and for each of its pixels
FRAME_BYTES, FIELD_BYTES = 0.5, 0.15  # for a pixel
PROBED = 5  # videos looked at where no index (`repro data verify`) says how long they are


class Estimate(NamedTuple):
    """Rough cost of an extraction: what there is to do, seconds on one core, bytes on disk."""

    clips: int
    frames: int
    pairs: int  # of neighbouring frames; 0 where flow is not wanted or given
    decode_seconds: float  # with writing
    flow_seconds: float
    bytes: int


def estimate(dataset: Dataset, store: ClipStore, clips: Sequence[Clip], *, given_flow: bool = False) -> Estimate:
    """Rough cost of extracting what is missing; with `given_flow` the fields are read and not computed.

    Lengths and sizes come from the data set's index where there is one, else from a few of the videos (which are
    rendered first, if need be).
    """
    with_flow = store.settings.flow_backend is not None
    missing = [clip for clip in clips if not store.has(clip.id, flow=with_flow)]
    known = _sizes(dataset, missing)
    if not known:
        return Estimate(0, 0, 0, 0.0, 0.0, 0)
    shapes = np.array(known, float)  # (n, 3): frames, height, width
    each = len(missing) / len(shapes)  # clips that one of them stands for
    frames, area = shapes[:, 0], shapes[:, 1] * shapes[:, 2]
    short = np.maximum(shapes[:, 1:].min(1), 1)
    kept = area * np.minimum(1.0, store.settings.short_side / short) ** 2  # pixels of a stored frame
    fields = np.maximum(frames - 1, 0) if with_flow else np.zeros_like(frames)
    decode = frames * (DECODE_SECONDS * area + WRITE_SECONDS[0] + WRITE_SECONDS[1] * kept)
    flow = np.zeros_like(frames) if given_flow else fields * (FLOW_SECONDS[0] + FLOW_SECONDS[1] * kept)
    size = kept * (frames * FRAME_BYTES + fields * FIELD_BYTES)
    total = [float(x.sum()) * each for x in (frames, fields, decode, flow, size)]
    pairs = 0 if given_flow else round(total[1])
    return Estimate(len(missing), round(total[0]), pairs, total[2], total[3], round(total[4]))


def _sizes(dataset: Dataset, missing: Sequence[Clip]) -> list[tuple[int, int, int]]:
    """(frames, height, width) of the missing clips, or of some that stand for them."""
    index = read_index(dataset.root)
    if missing and all(clip.path in index for clip in missing):
        facts = [index[clip.path] for clip in missing]
        return [(f.frames, f.height, f.width) for f in facts]  # no frames where none can be decoded
    sample = missing[:: max(1, -(-len(missing) // PROBED))]
    sizes = []
    for clip in sample:
        with contextlib.suppress(ReproError):  # extraction will report it
            info = probe(dataset.video(clip), allow_truncated=True)
            sizes.append((info.frames, info.height, info.width))
    return sizes
