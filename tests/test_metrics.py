"""Metrics against slow loops, scikit-learn and scipy; intervals against a simulation whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from repro import metrics as m
from repro.errors import ReproError

RNG = np.random.default_rng(3)
SCORES = RNG.normal(size=(60, 5)).round(1)  # rounded: has ties
LABELS = RNG.integers(0, 4, size=60)  # class 4 has no clip


def difference(low: float, high: float, mean: float | None = None) -> m.Difference:
    return m.Difference((low + high) / 2 if mean is None else mean, low, high, (high - low) / 2, 5, 100, 100)


def test_softmax_is_safe_and_sums_to_one() -> None:
    p = m.softmax(np.array([[1000.0, 1000.0, 0.0], [1.0, 2.0, 3.0]]))
    assert np.allclose(p[0], [0.5, 0.5, 0.0])
    assert np.allclose(p[1], np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum())


@pytest.mark.parametrize("k", [1, 2, 5])
def test_topk_against_a_loop(k: int) -> None:
    hits = 0
    for row, label in zip(SCORES, LABELS, strict=True):
        order = sorted(range(5), key=lambda c: (-row[c], c))
        hits += label in order[:k]
    assert m.topk_accuracy(SCORES, LABELS, k) == pytest.approx(hits / 60)
    assert m.topk_accuracy(SCORES, LABELS, 1) == pytest.approx((SCORES.argmax(1) == LABELS).mean())


def test_class_accuracies_against_scikit_learn() -> None:
    predicted = SCORES.argmax(1)
    assert (m.confusion(SCORES, LABELS) == sk.confusion_matrix(LABELS, predicted, labels=range(5))).all()
    assert (m.confusion(predicted, LABELS, 5) == m.confusion(SCORES, LABELS)).all()
    recall = sk.recall_score(LABELS, predicted, labels=range(4), average=None)
    assert np.allclose(m.per_class_accuracy(SCORES, LABELS)[:4], recall)
    assert np.isnan(m.per_class_accuracy(SCORES, LABELS)[4])
    assert m.mean_class_accuracy(SCORES, LABELS) == pytest.approx(recall.mean())


def test_mcnemar_known_values() -> None:
    a = np.array([True] * 10 + [False] * 2 + [True] * 30)
    b = np.array([False] * 10 + [True] * 2 + [True] * 30)
    found = m.mcnemar(a, b)
    assert (found.only_a, found.only_b) == (10, 2)
    assert found.p == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # two tails of Binomial(12, 1/2) up to 2
    assert m.mcnemar(b, a).p == found.p
    assert m.mcnemar(a, a) == (0, 0, 1.0)


def test_bootstrap_equals_copying_the_clips() -> None:
    """The weighted mean of counts is the mean over the clips copied one by one."""
    values = RNG.random((3, 12))
    groups = np.array(list("aaabbbbccddd"))
    means, n_groups = m._bootstrap(values, groups, 40, seed=7)
    rng = np.random.default_rng(7)
    seed_counts = rng.multinomial(3, [1 / 3] * 3, size=40)
    group_counts = rng.multinomial(4, [1 / 4] * 4, size=40)
    for found, s_count, g_count in zip(means, seed_counts, group_counts, strict=True):
        slow = [
            values[s, i]
            for s in range(3)
            for _ in range(s_count[s])
            for g, name in enumerate("abcd")
            for _ in range(g_count[g])
            for i in np.flatnonzero(groups == name)
        ]
        assert found == pytest.approx(np.mean(slow))
    assert n_groups == 4


def test_interval_of_one_seed_is_close_to_the_binomial() -> None:
    correct = np.arange(200)[None] < 140
    found = m.bootstrap_interval(correct)
    wilson = stats.binomtest(140, 200).proportion_ci(method="wilson")
    assert found.mean == pytest.approx(0.7)
    assert found.low == pytest.approx(wilson.low, abs=0.012) and found.high == pytest.approx(wilson.high, abs=0.012)
    assert "one seed" in found.note
    assert m.bootstrap_interval(np.repeat(correct, 2, axis=0)).note == ""


def test_paired_difference_is_paired_reproducible_and_signed() -> None:
    b = RNG.random((4, 150)) < 0.6
    a = b | (RNG.random((4, 150)) < 0.2)
    found = m.paired_difference(a, b)
    assert found == m.paired_difference(a, b)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert 0 < found.low < found.mean < found.high
    assert found.detectable == pytest.approx((found.high - found.low) / 2)
    unpaired = m.bootstrap_interval(a).high - m.bootstrap_interval(a).low
    assert found.high - found.low < unpaired  # most of the scatter is common to A and B
    back = m.paired_difference(b, a)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    assert (found.seeds, found.clips, found.groups) == (4, 150, 150)


def test_groups_widen_the_interval_when_their_clips_agree() -> None:
    per_group = RNG.random((1, 12)) < 0.5
    a = np.repeat(per_group, 10, axis=1)
    groups = np.repeat(np.arange(12), 10)
    b = np.zeros_like(a)
    by_clip, by_group = m.paired_difference(a, b), m.paired_difference(a, b, groups)
    assert by_group.detectable > 2 * by_clip.detectable
    assert by_group.groups == 12


def test_no_scatter_does_not_mean_certainty() -> None:
    same = np.ones((3, 40), dtype=bool)
    found = m.paired_difference(same, same)
    exact = stats.binomtest(0, 40).proportion_ci(method="exact")
    assert found.mean == 0 and found.high == pytest.approx(exact.high) and found.low == pytest.approx(-exact.high)
    one_clip = m.paired_difference(np.ones((1, 1)), np.zeros((1, 1)))
    assert one_clip.low < 0 < one_clip.high  # a single clip decides nothing
    assert m.bootstrap_interval(same).high == 1


def test_coverage_of_the_interval() -> None:
    """Seeds, clips and noise all scatter; the true difference lies inside about 95 times in 100."""
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        n_seeds, n_clips, truth = 6, 80, 0.05
        shift = truth + 0.03 * rng.normal(size=(n_seeds, 1)) + 0.2 * rng.normal(size=(1, n_clips))
        values = shift + 0.3 * rng.normal(size=(n_seeds, n_clips))
        found = m.paired_difference(values, np.zeros_like(values), n=300, seed=trial)
        inside += found.low <= truth <= found.high
    assert 0.89 <= inside / 200 <= 0.995


def test_leaving_the_seeds_out_would_be_too_sure() -> None:
    rng = np.random.default_rng(1)
    values = 0.2 * rng.normal(size=(5, 1)) + 0.1 * rng.normal(size=(5, 100))
    both = m.paired_difference(values, np.zeros_like(values))
    clips_only = m.paired_difference(values.mean(axis=0, keepdims=True), np.zeros((1, 100)))
    assert both.detectable > 3 * clips_only.detectable


@pytest.mark.parametrize(
    ("low", "high", "expected", "word"),
    [
        (0.01, 0.05, 1, m.OBSERVED),
        (0.01, 0.05, -1, m.OPPOSITE),
        (-0.05, -0.01, 1, m.OPPOSITE),
        (-0.05, -0.01, -1, m.OBSERVED),
        (-0.01, 0.05, 1, m.UNDECIDED),
        (0.0, 0.05, 1, m.UNDECIDED),
        (-0.01, 0.015, 0, m.OBSERVED),
        (0.03, 0.06, 0, m.OPPOSITE),
        (0.01, 0.06, 0, m.UNDECIDED),
    ],
)
def test_verdict_words(low: float, high: float, expected: int, word: str) -> None:
    found = m.verdict(difference(low, high), baseline_accuracy=0.6, chance=0.25, expected=expected)
    assert found.word == word


def test_verdict_needs_a_baseline_between_floor_and_ceiling() -> None:
    clear = difference(0.05, 0.15)
    assert m.verdict(clear, baseline_accuracy=0.60, chance=0.5).word == m.OBSERVED  # exactly 10 points
    low = m.verdict(clear, baseline_accuracy=0.59, chance=0.5)
    assert low.word == m.UNDECIDED and "no verdict: baseline" in str(low) and "+9.0" in low.reason
    high = m.verdict(clear, baseline_accuracy=0.95, chance=0.5)
    assert high.word == m.UNDECIDED and "no verdict: baseline at 95.0 %" in high.reason
    assert m.verdict(clear, baseline_accuracy=0.5, chance=0.5, above_chance=0.3).word == m.OBSERVED
    assert m.verdict(clear, baseline_accuracy=0.7, chance=0.5, above_chance=0.05).word == m.UNDECIDED
    assert m.verdict(clear, baseline_accuracy=None, chance=None).word == m.OBSERVED


@pytest.mark.parametrize(
    "call",
    [
        lambda: m.topk_accuracy(SCORES, LABELS[:-1]),
        lambda: m.topk_accuracy(SCORES, LABELS, 6),
        lambda: m.topk_accuracy(SCORES, LABELS + 4),
        lambda: m.topk_accuracy(np.where(SCORES > 1, np.nan, SCORES), LABELS),
        lambda: m.topk_accuracy(np.empty((0, 5)), np.empty(0, dtype=int)),
        lambda: m.confusion(SCORES.argmax(1), LABELS),
        lambda: m.confusion(SCORES.argmax(1), LABELS, 3),
        lambda: m.confusion(SCORES.argmax(1).astype(float), LABELS, 5),
        lambda: m.bootstrap_interval(np.ones(5)),
        lambda: m.bootstrap_interval(np.ones((2, 0))),
        lambda: m.bootstrap_interval(np.full((1, 3), np.nan)),
        lambda: m.bootstrap_interval(np.ones((2, 5)), np.zeros(4)),
        lambda: m.bootstrap_interval(np.ones((2, 5)), n=0),
        lambda: m.paired_difference(np.ones((2, 5)), np.ones((3, 5))),
        lambda: m.mcnemar(np.ones(4), np.ones(4)),
        lambda: m.mcnemar(np.ones(4, bool), np.ones(5, bool)),
        lambda: m.verdict(difference(0, 1), baseline_accuracy=0.5, chance=None),
        lambda: m.verdict(difference(0, 1), baseline_accuracy=0.5, chance=0.1, expected=2),
    ],
)
def test_wrong_input_is_one_line(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ReproError) as caught:
        call()
    assert "\n" not in str(caught.value)
