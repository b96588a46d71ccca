"""What an extraction will cost, before anything is done."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from repro.data.video import probe
from repro.errors import ReproError
from repro.flow.store import ClipStore

if TYPE_CHECKING:
    from repro.data.catalog import Clip, Dataset

# Rough costs for `estimate`: the fused TV-L1 takes .9e-6 s a pixel at 320x240 on one core, up to 5e-6 at 64x64.
SECONDS_PER_PIXEL = 3e-6
BYTES_PER_PIXEL = {"frame": 0.4, "field": 0.2}
PROBED = 5  # videos looked at for an estimate


class Estimate(NamedTuple):
    """Rough cost of an extraction: pairs of frames, seconds on one core, bytes on disk."""

    pairs: int
    seconds: float
    bytes: int


def estimate(dataset: Dataset, store: ClipStore, clips: Sequence[Clip]) -> Estimate:
    """Rough cost of extracting what is missing, from the sizes and lengths of a few of the videos (rendered first, if
    need be)."""
    with_flow = store.settings.flow_backend is not None
    missing = [clip for clip in clips if not store.has(clip.id, flow=with_flow)]
    sample = missing[:: max(1, -(-len(missing) // PROBED))]
    frames, pixels = [], []
    for clip in sample:
        with contextlib.suppress(ReproError):  # extraction will report it
            info = probe(dataset.video(clip), allow_truncated=True)
            scale = min(1.0, store.settings.short_side / min(info.height, info.width))
            frames.append(info.frames)
            pixels.append(info.frames * info.height * info.width * scale**2)
    if not frames:
        return Estimate(0, 0.0, 0)
    pairs = round(float(np.mean(frames)) * len(missing)) - len(missing) if with_flow else 0
    volume = float(np.mean(pixels)) * len(missing)
    per_pixel = BYTES_PER_PIXEL["frame"] + (BYTES_PER_PIXEL["field"] if with_flow else 0)
    return Estimate(pairs, volume * SECONDS_PER_PIXEL if with_flow else 0.0, round(volume * per_pixel))
