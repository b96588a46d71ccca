"""Is flow that somebody else extracted in the unit that its bound says? A few pairs of frames tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from repro.data.video import first_frames
from repro.errors import ReproError
from repro.flow.folders import find_folder, fit, flow_files, read_field
from repro.flow.tvl1 import tvl1

if TYPE_CHECKING:
    from repro.data.catalog import Clip, Dataset

Field = NDArray[np.float32]  # (2, H, W) px

CLIPS, FRAMES = 5, 40  # looked at: videos, and frames at the beginning of each
QUANTILES = (0.5, 0.7, 0.9)  # of the differences between frames: pairs that move, but no cuts
MOVES = 1.0  # px; what moves less has no length to compare
ENOUGH = 40  # such pixels in a pair, and
JUDGES = 3  # such pairs: with fewer there is nothing to say
SLOPES = (0.8, 1.25)  # tolerated; the usual bounds are further apart than that
USUAL = (15.0, 20.0, 32.0)  # bounds in use, px: a guess that is near is one of them
ALIKE, UNLIKE = 0.7, 0.3  # correlations: the same motion, whose lengths can be compared; surely another one
# What a tool may have done to (u, v), apart from nothing: whether they change places, then the signs.
MISTAKES = {
    "x and y are swapped": (True, 1, 1),
    "x has the wrong sign": (False, -1, 1),
    "y has the wrong sign": (False, 1, -1),
    "both directions have the wrong sign": (False, -1, -1),
    "x and y are swapped, with signs": (True, -1, -1),
}


class Pair(NamedTuple):
    """The motion of one pair of frames, in px, where it is large enough: (2, pixels)."""

    own: NDArray[np.float32]
    given: NDArray[np.float32]

    def slope(self) -> float:
        """How many given px there are to a px of our own: least squares with errors in both (the quotient of lengths;
        the usual least squares would take what noise there is in ours for a smaller motion in theirs)."""
        return float(np.sqrt((self.given**2).sum() / (self.own**2).sum()))

    def correlation(self, swap: bool = False, x: int = 1, y: int = 1) -> float:
        """Between our own flow and the given one after these changes; 1 is the same motion, whatever the unit."""
        given = (self.given[::-1] if swap else self.given) * np.array([[x], [y]], np.float32)
        size = float(np.sqrt((self.own**2).sum() * (given**2).sum()))
        return float((self.own * given).sum()) / size if size else 0.0


def check_given_flow(
    dataset: Dataset, clips: Iterable[Clip], flow_root: str | Path, short_side: int, bound: float
) -> None:
    """Compare the flow in `flow_root`, read with `bound` (px), with TV-L1 of a few pairs of frames of `short_side` px.

    Raises ReproError when lengths differ by more than the tools do, with the bound that would fit, and when directions
    do not agree. Says nothing where too little moves, nor of videos and folders that cannot be read: extraction will.
    """
    pairs: list[Pair] = []
    for _, clip in zip(range(CLIPS), clips, strict=False):
        try:
            pairs += moving_pairs(dataset.video(clip), find_folder(flow_root, clip), short_side, bound)
        except ReproError:
            continue
    if len(pairs) < JUDGES:
        return
    alike = _median(pair.correlation() for pair in pairs)
    if alike < UNLIKE:
        others = {name: _median(pair.correlation(*change) for pair in pairs) for name, change in MISTAKES.items()}
        name = max(others, key=others.__getitem__)
        guess = f"probably {name}" if others[name] > ALIKE else "is it the flow of these videos?"
        raise ReproError(
            f"the flow in {flow_root} is not the motion in the videos (correlation {alike:.2f} in {len(pairs)} pairs "
            f"of frames): {guess}"
        )
    pairs = [pair for pair in pairs if pair.correlation() > ALIKE]
    if len(pairs) < JUDGES:
        return
    slope = _median(pair.slope() for pair in pairs)
    if not SLOPES[0] <= slope <= SLOPES[1]:
        raise ReproError(
            f"the flow in {flow_root}, read with bound {bound:g}, is {slope:.2f} times the motion in the videos "
            f"({len(pairs)} pairs of frames): it was probably written with bound {likely(bound / slope):g}, give that "
            "as flow_bound"
        )


def moving_pairs(video: Path, folder: Path, short_side: int, bound: float) -> list[Pair]:
    """Our own and the given flow of the pairs at the beginning of a video that move."""
    files = flow_files(folder)
    frames = first_frames(video, min(FRAMES, len(files) + 1), short_side)
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])  # (T, H, W)
    change = np.abs(np.diff(grey.astype(np.int16), axis=0)).mean((1, 2))  # (T - 1,)
    if not len(change):
        return []
    ranks = {round(q * (len(change) - 1)) for q in QUANTILES}
    chosen = np.sort(np.argsort(change, kind="stable")[sorted(ranks)])
    own = tvl1(grey[chosen], grey[chosen + 1]).numpy()
    pairs = (_moving(field, read_field(files[i], bound), bound) for field, i in zip(own, chosen, strict=True))
    return [pair for pair in pairs if pair.own.shape[1] >= ENOUGH]


def likely(bound: float) -> float:
    """One of the usual bounds, where that is near; else the bound rounded."""
    near = min(USUAL, key=lambda usual: abs(usual / bound - 1))
    return near if abs(near / bound - 1) < 0.2 else float(f"{bound:.2g}")


def spread(clips: Sequence[Clip]) -> Iterator[Clip]:
    """All clips, those far from each other first: neighbours are cut from one video."""
    step = max(1, len(clips) // CLIPS)
    for start in range(step):
        yield from clips[start::step]


def _moving(own: Field, given: Field, bound: float) -> Pair:
    """The pixels of one pair that move by our own account and whose given flow is not clipped."""
    clipped = fit((np.abs(given) > 0.97 * bound).astype(np.float32), own.shape[1:]).any(0)
    there = (np.hypot(*own) > MOVES) & ~clipped
    return Pair(own[:, there], fit(given, own.shape[1:])[:, there])


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
