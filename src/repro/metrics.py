"""Accuracies, their intervals, and the verdict on a comparison of two methods.

Shapes: S seeds, N clips (test videos), C classes, G groups (persons or source videos). Accuracies and differences are
fractions of one; the pages print them in percentage points. Nothing here knows where the numbers come from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from repro.errors import ReproError

Array = NDArray[Any]

LEVEL = 0.95  # of every interval
FLOOR = 0.10  # a baseline must be this far above chance before a verdict is given
CEILING = 0.95  # and below this accuracy: above it there is no room to improve
OBSERVED, OPPOSITE, UNDECIDED, NOT_RUN = "observed", "opposite observed", "undecided", "not run"


class Interval(NamedTuple):
    """A mean with its 95 % interval. `seeds == 1` means that the interval holds no variance between trainings."""

    mean: float
    low: float
    high: float
    seeds: int
    clips: int

    @property
    def note(self) -> str:
        return "one seed: no variance between trainings" if self.seeds == 1 else ""


class Difference(NamedTuple):
    """Mean of A - B with its 95 % interval; `detectable`: the smallest difference these data could have told from 0."""

    mean: float
    low: float
    high: float
    detectable: float
    seeds: int
    clips: int
    groups: int

    @property
    def note(self) -> str:
        return "one seed: no variance between trainings" if self.seeds == 1 else ""


class McNemar(NamedTuple):
    """Clips that only A, or only B, got right, and the exact two-sided p of so uneven a share."""

    only_a: int
    only_b: int
    p: float


class Verdict(NamedTuple):
    """One of the four words, and why where the word alone would mislead."""

    word: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.word} ({self.reason})" if self.reason else self.word


# ---------------------------------------------------------------------------------------------------------- accuracies


def softmax(scores: ArrayLike) -> Array:
    """Softmax over the last axis, safe for large scores. Any shape (..., C)."""
    return np.asarray(special.softmax(np.asarray(scores, dtype=np.float64), axis=-1))


def topk_accuracy(scores: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Share of clips whose label is among the k highest of scores (N, C). Ties go to the lower class: `argmax`."""
    scores, labels = _checked(scores, labels)
    if not 1 <= k <= scores.shape[1]:
        raise ReproError(f"top-{k} needs k between 1 and the number of classes, {scores.shape[1]}")
    true = np.take_along_axis(scores, labels[:, None], axis=1)  # (N, 1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]  # (N, C)
    rank = ((scores > true) | ((scores == true) & earlier)).sum(axis=1)
    return float((rank < k).mean())


def per_class_accuracy(predictions: ArrayLike, labels: ArrayLike, n_classes: int | None = None) -> Array:
    """Recall of each class, (C,); nan for a class without clips. `predictions`: scores (N, C) or class numbers (N,)."""
    counts = confusion(predictions, labels, n_classes)
    size = counts.sum(axis=1).astype(np.float64)
    recall: Array = np.divide(np.diag(counts), size, out=np.full(len(size), np.nan), where=size > 0)
    return recall


def mean_class_accuracy(predictions: ArrayLike, labels: ArrayLike, n_classes: int | None = None) -> float:
    """Mean of the recalls of the classes that have clips."""
    return float(np.nanmean(per_class_accuracy(predictions, labels, n_classes)))


def confusion(predictions: ArrayLike, labels: ArrayLike, n_classes: int | None = None) -> Array:
    """Counts (C, C): row = true class, column = predicted class. Scores (N, C) need no `n_classes`; ties: `argmax`."""
    given = np.asarray(predictions)
    if given.ndim == 2:
        n_classes = given.shape[1] if n_classes is None else n_classes
        given = given.argmax(axis=1) if given.size else given[:, 0]
    if n_classes is None:
        raise ReproError("confusion of class numbers needs n_classes")
    truth = np.asarray(labels)
    if given.shape != truth.shape or truth.ndim != 1 or not len(truth):
        raise ReproError(f"predictions {given.shape} and labels {truth.shape} must name the same clips, at least one")
    for what, values in (("prediction", given), ("label", truth)):
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= n_classes:
            raise ReproError(f"every {what} must be a class number from 0 to {n_classes - 1}")
    flat = np.bincount(truth.astype(np.int64) * n_classes + given.astype(np.int64), minlength=n_classes**2)
    return flat.reshape(n_classes, n_classes)


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ReproError(f"scores must be (N, C) and labels (N,) with N > 0, not {scores.shape} and {labels.shape}")
    if not np.isfinite(scores).all():
        raise ReproError("scores must be finite: a training diverged, or a row is damaged")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ReproError(f"every label must be a class number from 0 to {scores.shape[1] - 1}")
    return scores, labels


# ----------------------------------------------------------------------------------------------------------- intervals


def bootstrap_interval(correct: ArrayLike, groups: ArrayLike | None = None, n: int = 2000, seed: int = 0) -> Interval:
    """Mean of correct (S, N) with its 95 % interval; seeds and groups are resampled, as in `paired_difference`."""
    values = _seeds_by_clips(correct, "correct")
    resampled, n_groups = _bootstrap(values, groups, n, seed)
    low, high = _percentiles(resampled, n_groups, smallest=0.0)
    return Interval(float(values.mean()), low, high, values.shape[0], values.shape[1])


def paired_difference(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, n: int = 2000, seed: int = 0
) -> Difference:
    """Mean of A - B over the same seeds and clips, with a 95 % percentile interval from a two-level bootstrap.

    `a`, `b`: (S, N), right or wrong per clip (or a number from 0 to 1). Row s of both comes from the same seed, column
    i from the same clip. `groups` (N,): clips of one group (a person, a source video) are kept together; without
    it each clip is its own group. Each of the `n` rounds draws S seeds and G groups with replacement, the same ones for
    A and for B.

    `detectable` is half the interval's width: with this scatter, a smaller difference would have left 0 inside. Where A
    and B differ nowhere (or everywhere by the same) a bootstrap sees no scatter at all; the exact binomial bound on
    what G groups may have missed takes its place.
    With one seed (`seeds == 1`, see `note`) the interval holds the clips' scatter only. With few seeds it is somewhat
    narrow in the part that comes from them, (S - 1) / S of the variance, and wide in what seeds and clips share.
    """
    left, right = _seeds_by_clips(a, "a"), _seeds_by_clips(b, "b")
    if left.shape != right.shape:
        raise ReproError(f"a and b must hold the same seeds and clips, not {left.shape} and {right.shape}")
    values = left - right
    resampled, n_groups = _bootstrap(values, groups, n, seed)
    low, high = _percentiles(resampled, n_groups, smallest=-1.0)
    seeds, clips = values.shape
    return Difference(float(values.mean()), low, high, (high - low) / 2, seeds, clips, n_groups)


def chosen_elsewhere(correct: ArrayLike, groups: ArrayLike) -> tuple[Array, Array] | None:
    """The best and the worst of M methods, each (S, N), chosen on the other seeds and on the other half of the clips.

    `correct`: (M, S, N), right or wrong; `groups` (N,), which, sorted, belong to the two halves in turn. Choosing on
    the clips that are reported would make the best too good by luck. Of equals the first is taken. None with one seed
    or one group, where there is no elsewhere.
    """
    every = np.asarray(correct, dtype=np.float64)
    members = np.asarray(groups)
    if every.ndim != 3 or members.shape != every.shape[2:]:
        raise ReproError(
            f"correct must be (methods, seeds, clips) and groups (clips,), not {every.shape}, {members.shape}"
        )
    odd = np.isin(members, np.unique(members)[1::2])
    if every.shape[1] < 2 or not odd.any():
        return None
    best, worst = np.empty_like(every[0]), np.empty_like(every[0])
    for seed in range(every.shape[1]):
        for half in (odd, ~odd):
            mean = np.delete(every, seed, axis=1)[:, :, ~half].mean((1, 2))  # (M,)
            best[seed, half], worst[seed, half] = every[mean.argmax(), seed, half], every[mean.argmin(), seed, half]
    return best, worst


def mcnemar(a_correct: ArrayLike, b_correct: ArrayLike) -> McNemar:
    """Exact McNemar test on one training of each: are the clips that only one of A and B gets right shared evenly?"""
    a, b = np.asarray(a_correct), np.asarray(b_correct)
    if a.shape != b.shape or a.ndim != 1 or not len(a) or a.dtype != bool or b.dtype != bool:
        raise ReproError(
            f"mcnemar needs two bool arrays over the same clips, not {a.dtype}{a.shape} and {b.dtype}{b.shape}"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def _seeds_by_clips(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values)
    if array.ndim != 2 or not array.size:
        raise ReproError(f"{name} must be (seeds, clips) and not empty, not {array.shape}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ReproError(f"{name} must be finite")
    return array


def _bootstrap(values: Array, groups: ArrayLike | None, n: int, seed: int) -> tuple[Array, int]:
    """Means of `n` resamples of values (S, N), and the number of groups.

    A resample is a pair of counts: how often each seed and each group was drawn. Its mean is then a weighted one, and
    no clip is copied: (seed counts) . (sums per seed and group) . (group counts), over the number of values drawn.
    """
    n_seeds, n_clips = values.shape
    members = np.arange(n_clips) if groups is None else np.asarray(groups)
    if members.shape != (n_clips,):
        raise ReproError(f"groups must name one group for each of the {n_clips} clips, not {members.shape}")
    if n < 1:
        raise ReproError("the bootstrap needs at least one round")
    names, index = np.unique(members, return_inverse=True)
    size = np.bincount(index)  # (G,)
    sums = np.stack([np.bincount(index, weights=row) for row in values])  # (S, G)
    rng = np.random.default_rng(seed)
    means = np.empty(n)
    step = max(1, 2_000_000 // len(names))  # rounds at a time: bounds the memory for many clips
    for start in range(0, n, step):
        rounds = min(step, n - start)
        seed_counts = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=rounds)  # (rounds, S)
        group_counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=rounds)  # (rounds, G)
        total = ((seed_counts @ sums) * group_counts).sum(axis=1)
        means[start : start + rounds] = total / (n_seeds * (group_counts @ size))
    return means, len(names)


def _percentiles(resampled: Array, n_groups: int, smallest: float) -> tuple[float, float]:
    """Ends of the interval; `smallest` is the least value a clip can have, 1 the greatest."""
    low, high = (float(x) for x in np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    if high - low > 1e-12:
        return low, high
    missed = 1 - ((1 - LEVEL) / 2) ** (1 / n_groups)  # Clopper-Pearson: 0 of G seen, this share may yet be otherwise
    return low - missed * (low - smallest), high + missed * (1 - high)


# ------------------------------------------------------------------------------------------------------------ verdicts


def verdict(
    difference: Difference,
    *,
    baseline_accuracy: float | None,
    chance: float | None,
    expected: int = 1,
    margin: float = 0.02,
    above_chance: float | None = None,
) -> Verdict:
    """What the data say about the claim that A - B has the sign `expected` (+1 or -1; 0: that A and B are equal).

    observed: the interval lies wholly on the claimed side of 0; opposite observed: wholly on the other side; undecided:
    0 is inside. For `expected=0` the sides are "within `margin` of 0" and "beyond it".

    No verdict (undecided, with the reason) unless B, the baseline, is below 95 % on these clips and at least 10 points
    above chance. `above_chance` replaces `baseline_accuracy - chance` where that is judged on other clips: on a factor
    that the baseline cannot solve by construction it must show on the whole test set that it has learned. Both are None
    for a measurement that is no accuracy: then only the interval counts.
    """
    if expected not in (-1, 0, 1):
        raise ReproError(f"expected must be +1, -1 or 0, not {expected}")
    if (baseline_accuracy is None) != (chance is None):
        raise ReproError("give baseline_accuracy and chance together, or neither")
    if baseline_accuracy is not None and chance is not None:
        gap = baseline_accuracy - chance if above_chance is None else above_chance
        if gap < FLOOR - 1e-9:
            return Verdict(
                UNDECIDED, f"no verdict: baseline {100 * gap:+.1f} points from chance, needs {100 * FLOOR:+.0f}"
            )
        if baseline_accuracy >= CEILING:
            return Verdict(UNDECIDED, f"no verdict: baseline at {100 * baseline_accuracy:.1f} %, no room above")
    low, high = difference.low, difference.high
    if expected == 0:
        inside, outside = -margin < low and high < margin, low > margin or high < -margin
        word = OBSERVED if inside else OPPOSITE if outside else UNDECIDED
        return Verdict(word, f"equal means within {100 * margin:.0f} points")
    if low <= 0 <= high:
        return Verdict(UNDECIDED)
    return Verdict(OBSERVED if (low > 0) == (expected > 0) else OPPOSITE)
