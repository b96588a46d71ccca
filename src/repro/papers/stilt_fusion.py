"""Fusion of two streams' scores as in STILT, Sec. 3.3: late average, adaptively weighted fusion (AWF), SVM.

Scores are softmax probabilities (N, C) of N videos; labels (N,) are class numbers; w (C, 2) holds a weight pair per
class, spatial first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from repro.errors import ReproError

Array = NDArray[Any]

# The range of each weight. The paper states none, and without one the programme is unbounded (ledger stilt-L8).
BOUNDS = {"simplex": "w >= 0, w_1 + w_2 = 1", "box": "0 <= w <= 1"}


def late_average(scores_s: Array, scores_t: Array) -> Array:
    """Return the mean of the two streams' scores (Sec. 4.3, "Late Ave")."""
    return (scores_s + scores_t) / 2


def awf_coefficients(scores_s: Array, scores_t: Array, labels: Array, num_classes: int, lambda_: float) -> Array:
    """Return c (C, 2) with P_y - lambda M_y = c_y . w_y: the objective of Eq. 5 is linear in the weights.

    The sums are the paper's, over all samples; M_y has about C - 1 times as many as P_y (ledger stilt-L9).
    """
    _check(scores_s, scores_t, labels, num_classes)
    own = np.eye(num_classes, dtype=bool)[labels]  # (N, C): whether the column is the sample's class
    coefficients = []
    for scores in (scores_s, scores_t):
        # Eq. 6: the y-th column of Eq. 4's scores, over the samples of class y
        p = np.where(own, scores, 0.0).sum(axis=0)  # (C,)
        # Eq. 7: the same column, over the samples of all other classes
        m = np.where(own, 0.0, scores).sum(axis=0)
        # Eq. 5
        coefficients.append(p - lambda_ * m)
    return np.stack(coefficients, axis=1)


def awf_weights(coefficients: Array, bounds: str = "simplex") -> Array:
    """Return the w (C, 2) that maximises c_y . w_y per class, by linear programming (HiGHS).

    "simplex" picks the stream with the larger coefficient; when both are equal every pair is optimal and the result is
    (1/2, 1/2). "box" gives 1 to each positive coefficient and (0, 0) to a class with none: it is never predicted.
    """
    if bounds not in BOUNDS:
        raise ReproError(f"unknown bounds '{bounds}': use one of {', '.join(BOUNDS)}")
    c = np.asarray(coefficients, dtype=float)
    classes = len(c)
    tie = np.isclose(c[:, 0], c[:, 1], rtol=1e-12, atol=1e-12)
    rows = sums = None
    if bounds == "simplex":
        c = c - c.mean(axis=1, keepdims=True)  # moves no optimum, the weights add up to 1
        rows, sums = np.kron(np.eye(classes), np.ones((1, 2))), np.ones(classes)
    scale = np.abs(c).max(axis=1, keepdims=True)  # nor does this; the solver's tolerances are absolute
    c = c / np.where(scale > 0, scale, 1.0)
    # The classes are independent: one programme over all of them has the same solution.
    result = linprog(-c.ravel(), bounds=(0.0, 1.0), A_eq=rows, b_eq=sums, method="highs")
    if not result.success:
        raise ReproError(f"no fusion weights ({result.message}): check the scores")
    weights = np.asarray(result.x, dtype=float).reshape(classes, 2) + 0.0  # no -0
    if bounds == "simplex":
        weights[tie] = 0.5
    return weights


def awf_regularised(coefficients: Array, strength: float) -> Array:
    """Return the w (C, 2) on the simplex that maximises c_y . w_y + strength * H(w_y), H the entropy.

    DEVIATION: the paper has no such term; without it one stream per class decides alone (ledger stilt-L8). The maximum
    is w_y = softmax(c_y / strength): 1/2 each as strength grows, the vertex of the linear programme as it goes to 0.
    """
    if not strength > 0:
        raise ReproError(f"strength {strength}: give a positive number, or use awf_weights for none")
    return np.asarray(softmax(np.asarray(coefficients, dtype=float) / strength, axis=1))


def fuse(weights: Array, scores_s: Array, scores_t: Array) -> Array:
    """Return the fused scores (N, C); the prediction is their argmax over classes (ledger stilt-L11)."""
    # Eq. 9, on the stacked scores of Eq. 8
    return np.asarray(weights[:, 0] * scores_s + weights[:, 1] * scores_t)


class Choice(NamedTuple):
    """The outcome of a search on folds; `table` has the accuracy of every (lambda, strength) tried."""

    lambda_: float
    strength: float | None
    accuracy: float
    table: dict[tuple[float, float | None], float]


def choose_lambda(
    scores: tuple[Array, Array],
    labels: Array,
    groups: Sequence[object] | Array,
    candidates: Sequence[float],
    *,
    num_classes: int,
    strengths: Sequence[float | None] = (None,),
    bounds: str = "simplex",
    splits: int = 5,
) -> Choice:
    """Choose lambda, and the strength of the entropy term (None: no term), by accuracy on folds of the given samples.

    No group is on both sides of a fold. Of equal accuracies the first candidate wins, so list the preferred one first.
    The paper gives no lambda (ledger stilt-L9).
    """
    _check(*scores, labels, num_classes)
    grid = [(lambda_, strength) for lambda_ in candidates for strength in strengths]
    correct = dict.fromkeys(grid, 0)
    for train, test in _folds(groups, splits):
        s, t = scores[0][train], scores[1][train]
        for lambda_, strength in grid:
            c = awf_coefficients(s, t, labels[train], num_classes, lambda_)
            w = awf_weights(c, bounds) if strength is None else awf_regularised(c, strength)
            fused = fuse(w, scores[0][test], scores[1][test])
            correct[lambda_, strength] += int((fused.argmax(axis=1) == labels[test]).sum())
    table = {key: count / len(labels) for key, count in correct.items()}
    best = max(table, key=lambda key: table[key])
    return Choice(*best, table[best], table)


def temperature(logits: Array, labels: Array) -> float:
    """Return the tau that minimises the negative log likelihood of softmax(logits / tau).

    For the calibrated variant: Eq. 9 ranks classes by probabilities of different streams (ledger stilt-L12).
    """

    def loss(log_tau: float) -> float:
        return -float(log_softmax(logits / np.exp(log_tau), axis=1)[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-5.0, 5.0), method="bounded").x))


def svm_fusion(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    candidates: Sequence[float],
    groups: Sequence[object] | Array,
    seed: int = 0,
    *,
    num_classes: int | None = None,
    splits: int = 5,
) -> Array:
    """Train a linear SVM on concatenated features (N, D) ("Early" in Table 5); return test scores (M, C).

    Features are standardised; the penalty C is chosen among `candidates` on folds of the training groups, which `seed`
    deals out (the solver itself is deterministic). Of equal accuracies the first candidate wins. The paper names
    neither features, kernel nor C (ledger stilt-L22). `num_classes` is the highest label plus one unless given; a class
    without training samples scores -inf.
    """
    classes = int(train_labels.max()) + 1 if num_classes is None else num_classes
    correct = dict.fromkeys(candidates, 0)
    for train, test in _folds(groups, splits, seed) if len(candidates) > 1 else ():
        for penalty in candidates:
            scores = _svm_scores(train_features[train], train_labels[train], train_features[test], penalty, classes)
            correct[penalty] += int((scores.argmax(axis=1) == train_labels[test]).sum())
    best = max(correct, key=lambda penalty: correct[penalty])
    return _svm_scores(train_features, train_labels, test_features, best, classes)


def _svm_scores(features: Array, labels: Array, test: Array, penalty: float, num_classes: int) -> Array:
    """Fit on features (N, D) and return one score per test row and class."""
    if len(np.unique(labels)) < 2:
        raise ReproError("an SVM needs training clips of two classes: use more clips or other groups")
    model = make_pipeline(StandardScaler(), LinearSVC(C=penalty, dual=False))
    with warnings.catch_warnings():
        # At the largest penalties the solver may stop at its limit of steps, having separated the classes long before.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A handful of clips (preset smoke) looks to scikit-learn like a regression.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        decision = model.fit(features, labels).decision_function(test)
    if decision.ndim == 1:  # two classes: one signed distance
        decision = np.stack([-decision, decision], axis=1)
    scores = np.full((len(test), num_classes), -np.inf)
    scores[:, model.classes_] = decision
    return scores


def _folds(groups: Sequence[object] | Array, splits: int, seed: int = 0) -> Iterator[tuple[Array, Array]]:
    """Yield (train, test) indices; whole groups, at most `splits` folds, groups of equal size dealt out by `seed`."""
    names, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise ReproError("choosing on folds needs clips of two groups: use more clips, or give one candidate only")
    numbers = np.random.default_rng(seed).permutation(len(names))[numbers]
    yield from GroupKFold(min(splits, len(names))).split(numbers, groups=numbers)


def _check(scores_s: Array, scores_t: Array, labels: Array, num_classes: int) -> None:
    expected = (len(labels), num_classes)
    for name, scores in (("spatial", scores_s), ("temporal", scores_t)):
        if scores.shape != expected:
            raise ReproError(f"{name} scores have shape {scores.shape}, expected {expected}: one row per label")
        if not np.isfinite(scores).all():
            raise ReproError(f"{name} scores hold NaN or infinite values: pass softmax probabilities")
