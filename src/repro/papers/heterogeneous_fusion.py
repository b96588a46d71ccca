"""Fusion of the two streams (Sec. III.A.1, IV.B.2), and how much two networks' errors have in common (Sec. III.A.2).

Logits are (N, n) for N videos and n classes, already averaged over snippets and views; labels (N,) are class numbers.
A weight is that of the temporal stream, the spatial one having 1; `inf` leaves the temporal stream alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError, nearest
from repro.metrics import softmax

Array = NDArray[Any]

WEIGHT = 1.5  # Sec. IV.B.2
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, float("inf"))
# What is averaged: unsaid. Probabilities follow from Sec. III.A.1 ("the scores of the softmax layer") and Eq. 2; [5]'s
# code averages logits (ledger heterogeneous-L11).
SCORES = ("probabilities", "logits")


def fuse(spatial: Array, temporal: Array, weight: float = WEIGHT, scores: str = "probabilities") -> Array:
    """Return the weighted mean (N, n) of two streams' logits (N, n), after a softmax unless `scores` is "logits"."""
    if scores not in SCORES:
        raise ReproError(f"scores '{scores}'{nearest(scores, SCORES)}: use one of {', '.join(SCORES)}")
    if spatial.shape != temporal.shape:
        raise ReproError(
            f"logits of {spatial.shape} and {temporal.shape}: give both streams the same videos and classes"
        )
    if not weight >= 0:
        raise ReproError(f"fusion weight {weight}: give a number of at least 0")
    share = 1.0 if np.isinf(weight) else weight / (1 + weight)
    if scores == "probabilities":
        spatial, temporal = softmax(spatial), softmax(temporal)
    return np.asarray((1 - share) * spatial + share * temporal)


def weight_curve(
    spatial: Array, temporal: Array, labels: Array, weights: Sequence[float] = WEIGHTS, scores: str = "probabilities"
) -> Array:
    """Return the accuracy at each fusion weight, (len(weights),)."""
    return np.array([(fuse(spatial, temporal, w, scores).argmax(1) == labels).mean() for w in weights])


class Choice(NamedTuple):
    """A fusion weight chosen on held-out training videos, and the accuracy there at every candidate."""

    weight: float
    weights: tuple[float, ...]
    curve: Array


def choose_weight(
    folds: Sequence[tuple[Array, Array, Array]], weights: Sequence[float] = WEIGHTS, scores: str = "probabilities"
) -> Choice:
    """Choose the weight with the best accuracy over (spatial logits, temporal logits, labels) of held-out folds.

    The folds are training videos, each scored by networks that were not trained on them; accuracy is over all videos
    together. Of equal accuracies the one nearest to the paper's weight wins, by share of the temporal stream. The paper
    says "by experiments", not on which videos (ledger heterogeneous-L12).
    """
    if not folds or not weights:
        raise ReproError("choosing a fusion weight needs a fold and a candidate: give at least one of each")
    sizes = [len(labels) for _, _, labels in folds]
    curves = [weight_curve(s, t, labels, weights, scores) for s, t, labels in folds]
    curve = np.average(curves, axis=0, weights=sizes)
    share = np.array([1.0 if np.isinf(w) else w / (1 + w) for w in weights])
    best = np.flatnonzero(np.isclose(curve, curve.max(), rtol=0, atol=1e-12))
    nearest_one = best[np.abs(share[best] - WEIGHT / (1 + WEIGHT)).argmin()]
    return Choice(float(weights[nearest_one]), tuple(weights), curve)


class Agreement(NamedTuple):
    """Two models on the same videos, one value per video (N,): means are the measures, and can be compared in pairs."""

    right_a: Array  # bool
    right_b: Array
    disagree: Array  # bool: the two predict different classes
    one_right: Array  # bool: exactly one is right
    oracle: Array  # bool: at least one is right, the most that a fusion by choice could reach
    error_product: Array  # float: product of the standardised errors; its mean is their correlation, nan if undefined

    def summary(self) -> dict[str, float]:
        """Return the mean of each: accuracies, disagreement, oracle accuracy, error correlation."""
        return {name: float(values.mean()) for name, values in zip(self._fields, self, strict=True)}


def agreement(a: Array, b: Array, labels: Array) -> Agreement:
    """Compare two models' scores (N, n) or predicted classes (N,) on the same labelled videos (claim heterogeneous-4).

    "Redundant information" (Sec. III.A.2) is read as errors on the same videos. Disagreement and oracle accuracy depend
    on how accurate the two are; the correlation of errors (phi coefficient) does so least, so it is the measure for
    pairs of unequal accuracy.
    """
    predicted = [x.argmax(axis=1) if x.ndim == 2 else x for x in (np.asarray(a), np.asarray(b))]
    if not (predicted[0].shape == predicted[1].shape == labels.shape and len(labels)):
        raise ReproError("agreement needs two models' predictions and the labels of the same videos, at least one")
    right_a, right_b = (p == labels for p in predicted)
    product = _standardised(~right_a) * _standardised(~right_b)
    return Agreement(
        right_a, right_b, predicted[0] != predicted[1], right_a != right_b, right_a | right_b, product
    )  # fmt: skip


def _standardised(errors: Array) -> Array:
    scatter = errors.std()  # 0 where a model is always right or always wrong: then there is no correlation
    return np.asarray((errors - errors.mean()) / scatter if scatter > 0 else np.full(len(errors), np.nan))
