"""Which frames of a clip are used: integer functions of the clip's length and, in training, of a random generator.

A *start* is the first frame of a *window* of consecutive frames; L flow fields need a window of L + 1 frames. A clip of
n frames has n - window + 1 starts. One shorter than the window has the single start 0, and whoever reads its window
repeats the last frame. Without `rng` every function is deterministic (testing).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError

Indices = NDArray[np.int64]


def sample_rng(seed: int, epoch: int, clip_id: str) -> np.random.Generator:
    """The generator of everything random about one sample, the same in every process and loading order."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{clip_id}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def segment_indices(n_frames: int, segments: int, window: int = 1, rng: np.random.Generator | None = None) -> Indices:
    """One start in each of `segments` equal parts of the clip: random with `rng`, else the centre. Shape (segments,).

    TSN (Wang et al. 2016), Sec. 3.1: K segments of equal duration, a snippet sampled randomly from each. Segment k owns
    the starts from k S // K up to (k + 1) S // K of all S starts; when S < K, an empty segment uses the start at which
    it begins. The released code cuts the last S mod K starts off; here every start can be drawn.
    """
    starts = _count_starts(n_frames, window, segments)
    k = np.arange(segments, dtype=np.int64)
    if rng is None:
        return (2 * k + 1) * starts // (2 * segments)
    low, high = k * starts // segments, (k + 1) * starts // segments
    return rng.integers(low, np.maximum(high, low + 1))


def spaced_indices(n_frames: int, count: int, window: int = 1) -> Indices:
    """`count` equally spaced starts from the first to the last (the middle one when count is 1). Shape (count,).

    The usual 25 test frames: Simonyan & Zisserman (2014), Sec. 5 ("equal temporal spacing"); TSN, Sec. 3.3. TSN's Caffe
    code rounds the step itself down, (n - L) // 24, and so stops short of the end; its PyTorch code takes the centres
    of 25 segments, which is `segment_indices` without `rng`.
    """
    last = _count_starts(n_frames, window, count) - 1
    if count == 1:
        return np.array([last // 2], dtype=np.int64)
    return np.arange(count, dtype=np.int64) * last // (count - 1)


def dense_indices(n_frames: int, length: int, window: int = 1, rng: np.random.Generator | None = None) -> Indices:
    """`length` consecutive starts at a random place (centred without `rng`). Shape (length,).

    I3D (Carreira & Zisserman 2017), Sec. 2.5: 64 consecutive frames; a short video is looped as often as needed. With
    window=2 a frame and the flow field that begins there are both valid at every index, also around the loop.
    """
    starts = _count_starts(n_frames, window, length)
    free = max(starts - length, 0)
    first = free // 2 if rng is None else int(rng.integers(free + 1))
    return (first + np.arange(length, dtype=np.int64)) % starts


def strided_indices(
    n_frames: int,
    count: int,
    stride: int | tuple[int, int],
    window: int = 1,
    rng: np.random.Generator | None = None,
) -> Indices:
    """`count` starts, `stride` frames apart, of one chunk. Shape (count,).

    ST-ResNet (Feichtenhofer et al. 2016), Sec. 3.4: with `rng` the stride is drawn from the range (low, high), both
    included, and the chunk's place in the clip is random; without, the stride is `high` and the chunk is centred.
    The stride used is the difference of the first two indices.
    """
    # DEVIATION: the paper reduces the stride for shorter videos without giving a rule. Strides that do not fit are
    # never drawn; when not even `low` fits, the largest that fits is used; when stride 1 does not fit either, the chunk
    # runs to the end of the clip and back (reflection for what it calls symmetric padding).
    low, high = (stride, stride) if isinstance(stride, int) else stride
    if not 1 <= low <= high:
        raise ReproError(f"stride {stride} is no range of positive numbers: give (low, high)")
    last = _count_starts(n_frames, window, count) - 1
    fits = last // (count - 1) if count > 1 else high
    if fits < 1:
        walk: Indices = np.arange(count, dtype=np.int64) % max(2 * last, 1)  # there ...
        return np.minimum(walk, 2 * last - walk)  # ... and back
    step = min(high, fits)
    if rng is not None:
        step = int(rng.integers(min(low, step), step + 1))
    free = last - (count - 1) * step
    first = free // 2 if rng is None else int(rng.integers(free + 1))
    return first + step * np.arange(count, dtype=np.int64)


def _count_starts(n_frames: int, window: int, count: int) -> int:
    if n_frames < 1:
        raise ReproError("the clip has no frames: leave it out of the data set")
    if window < 1 or count < 1:
        raise ReproError(f"cannot sample {count} windows of {window} frames: both must be at least 1")
    return max(n_frames - window + 1, 1)
