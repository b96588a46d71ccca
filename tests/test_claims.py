"""Claims: the file says what the paper claims, every kind of row gets the right word, nothing is run by accident."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repro.errors import ReproError
from repro.metrics import NOT_RUN, OBSERVED, OPPOSITE, UNDECIDED, paired_difference
from repro.report import claims as c

Array = NDArray[Any]
PLAIN = ("spatial", "temporal", "two-stream", "best-single")
JOINT = re.compile(
    r"(stil|control|unguided|tst)-(snippets|regions)(\+awf|\+awf-regularised|\+svm|:spatial|:temporal|@vgg19|@resnet34)?"
)
MEASURES = {
    "awf-weight-by-factor",
    "awf-weight-by-class-name",
    "attention-on-event",
    "attention-on-actor",
    "accuracy-by-camera",
    "accuracy-by-resolution",
    "accuracy-by-likeness",
    "accuracy-by-kind",
}


class FakeScores:
    """Accuracies by (method, subset or not); 5 seeds, 400 clips, 40 groups, ten classes."""

    def __init__(self, accuracy: Mapping[tuple[str, bool], float], seeds: int = 5, chance: float = 0.1) -> None:
        self.accuracy, self.seeds, self.chance = accuracy, seeds, chance
        self.datasets = ("motionshapes",)
        self.asked: list[tuple[str, str]] = []

    def correct(
        self, method: str, dataset: str, subset: Mapping[str, str], beside: str = ""
    ) -> tuple[Array, Array, float] | None:
        self.asked.append((method, dataset))
        if dataset not in self.datasets or (method, bool(subset)) not in self.accuracy:
            return None
        rng = np.random.default_rng(len(method))
        right = rng.random((self.seeds, 400)) < self.accuracy[method, bool(subset)]
        return right, np.repeat(np.arange(40), 10), self.chance

    def measure(self, name: str, dataset: str) -> tuple[Array, Array, Array] | None:
        if dataset not in self.datasets or name != "fake":
            return None
        rng = np.random.default_rng(0)
        return 0.5 + 0.1 * rng.random((self.seeds, 50)), np.full((self.seeds, 50), 0.3), np.arange(50)


def claim_of(*tests: c.Test) -> list[c.Claim]:
    return [c.Claim("x-1", "A is <better>", "Table 1", "a", "b", "+1.0", tests)]


def one(test: c.Test, scores: FakeScores) -> c.ClaimRow:
    rows = c.evaluate(claim_of(test), scores)
    assert len(rows) == 1
    return rows[0]


TEST = c.Test(datasets=("motionshapes",), a="alpha", b="be", expected=1)


def test_file_holds_the_fifteen_claims() -> None:
    claims = c.load_claims("stilt")
    assert [claim.id for claim in claims] == [f"stilt-{i}" for i in range(1, 16)]
    by_id = {claim.id: claim for claim in claims}
    assert by_id["stilt-2"].reported == "+2.6 UCF101, +6.4 HMDB51, +2.5 Kinetics"
    assert "+4.4 Kinetics (see ledger L13)" in by_id["stilt-3"].reported
    assert by_id["stilt-15"].reported == "-0.3 UCF101, +0.9 HMDB51, +0.8 Kinetics"
    assert by_id["stilt-9"].reported == "no number given"
    for claim in claims:
        assert any(test.role == "main" for test in claim.tests)
        for test in claim.tests:
            if test.kind == "correct":
                for method in (test.a, test.b):
                    assert method in PLAIN or JOINT.fullmatch(method), method
            if test.kind == "measured":
                assert test.measure in MEASURES


def test_subsets_exist_in_motionshapes() -> None:
    motionshapes = pytest.importorskip("repro.data.motionshapes")
    records = motionshapes.records()
    for claim in c.load_claims("stilt"):
        for test in claim.tests:
            if test.subset:
                assert test.datasets == ("motionshapes",)
                assert any(test.subset.items() <= record.tags.items() for record in records), test.subset


def test_nothing_run_says_so() -> None:
    scores = FakeScores({})
    rows = c.evaluate(c.load_claims("stilt"), scores)
    for row in rows:
        if row.test.kind != "cells":
            assert row.verdict.word == NOT_RUN and row.difference is None and row.interval == "-"
    assert {row.dataset for row in rows} >= {"motionshapes", "weizmann", "ucf101", "hmdb51", "kinetics400"}
    assert rows.counts() == {OBSERVED: 0, OPPOSITE: 0, UNDECIDED: 1, NOT_RUN: 14}
    assert {dataset for _, dataset in scores.asked} == {"motionshapes", "ucf101", "hmdb51", "kinetics400"}


@pytest.mark.parametrize(
    ("a", "b", "expected", "word"),
    [
        (0.8, 0.5, 1, OBSERVED),
        (0.5, 0.8, 1, OPPOSITE),
        (0.5, 0.8, -1, OBSERVED),
        (0.51, 0.5, 1, UNDECIDED),
        (0.8, 0.5, 0, OPPOSITE),
        (0.9, 0.12, 1, UNDECIDED),  # baseline at chance
        (0.5, 0.99, 1, UNDECIDED),  # baseline at the ceiling
    ],
)
def test_words(a: float, b: float, expected: int, word: str) -> None:
    scores = FakeScores({("alpha", False): a, ("be", False): b})
    row = one(replace(TEST, expected=expected), scores)
    assert row.verdict.word == word
    left, right = scores.correct("alpha", "motionshapes", {}), scores.correct("be", "motionshapes", {})
    assert left and right
    assert row.difference == paired_difference(left[0], right[0], left[1])
    assert row.means == (left[0].mean(), right[0].mean())
    assert ("no verdict: baseline" in row.remarks) == (b in (0.12, 0.99))


def test_on_one_factor_the_baseline_shows_elsewhere_that_it_learned() -> None:
    """Late fusion is at chance on binding by construction: no reason to withhold a verdict if it learned the rest."""
    binding = replace(TEST, subset={"factor": "binding"})
    at_chance = {("alpha", True): 0.8, ("be", True): 0.1, ("alpha", False): 0.8}
    assert one(binding, FakeScores(at_chance | {("be", False): 0.5})).verdict.word == OBSERVED
    assert "no verdict" in one(binding, FakeScores(at_chance | {("be", False): 0.12})).verdict.reason
    assert one(binding, FakeScores(at_chance | {("be", False): 0.5})).where == "motionshapes, factor = binding"


def test_too_few_seeds_and_one_seed() -> None:
    accuracy = {("alpha", False): 0.8, ("be", False): 0.5}
    few = one(replace(TEST, minimum_seeds={"motionshapes": 3}), FakeScores(accuracy, seeds=1))
    assert few.verdict.word == UNDECIDED and "1 of the 3 seeds" in few.verdict.reason
    single = one(TEST, FakeScores(accuracy, seeds=1))
    assert single.verdict.word == OBSERVED and "no variance between trainings" in single.remarks


def test_measurements_need_no_baseline() -> None:
    row = one(c.Test(("motionshapes",), 1, kind="measured", measure="fake"), FakeScores({}))
    assert row.verdict.word == OBSERVED and row.means is not None and row.means[1] == pytest.approx(0.3)
    other = one(c.Test(("motionshapes",), 1, kind="measured", measure="nothing"), FakeScores({}))
    assert other.verdict.word == NOT_RUN


def test_counts_are_judged_by_their_sign_alone() -> None:
    """Few cases and no training: no interval would leave zero out, and none is needed."""

    class Counts(FakeScores):
        def measure(self, name: str, dataset: str) -> tuple[Array, Array, Array]:
            a = {"less": [0.90, 0.91], "more": [1.1, 1.2], "mixed": [0.9, 1.2], "same": [1.0, 1.01]}[name]
            return np.array([a]), np.ones((1, 2)), np.arange(2)

    def row(name: str, expected: int) -> c.ClaimRow:
        return one(c.Test(("ucf101",), expected, kind="counted", measure=name), Counts({}))

    assert row("less", -1).verdict == (OBSERVED, "by the sign alone")
    assert row("more", -1).verdict == (OPPOSITE, "by the sign alone") == row("less", 1).verdict
    assert row("same", 0).verdict.word == OBSERVED and row("more", 0).verdict.word == OPPOSITE
    mixed = row("mixed", -1)
    assert mixed.verdict == (UNDECIDED, "by the sign alone, which is the claimed one in 1 of 2 cases")
    assert row("less", -1).interval == "-9.5" and "seed" not in row("less", -1).remarks
    rows = c.evaluate(claim_of(c.Test(("ucf101",), -1, kind="counted", measure="less")), Counts({}))
    assert "ucf101 (n = 2)  -9.5 (90.5 vs 100.0)  observed (by the sign alone)  -" in repr(rows)
    assert "<td>-9.5 (90.5 vs 100.0)</td>" in rows._repr_html_() and "sign alone decides" in rows._repr_html_()


def test_printed_numbers_get_a_binomial_interval() -> None:
    claim = next(claim for claim in c.load_claims("stilt") if claim.id == "stilt-15")
    rows = {row.dataset: row for row in c.evaluate([claim], FakeScores({}))}
    hmdb51 = rows["hmdb51"].difference
    assert hmdb51 is not None
    assert hmdb51.mean == pytest.approx(0.009)
    spread = 1.96 * np.sqrt((0.721 * 0.279 + 0.712 * 0.288) / 4590)
    assert hmdb51.detectable == pytest.approx(spread)
    assert rows["hmdb51"].verdict.word == UNDECIDED  # smaller than the test sets can tell
    assert "AMFNet-C" in rows["ucf101"].comparison and "no room above" in rows["ucf101"].remarks
    assert "trainings" not in rows["kinetics400"].remarks


def test_different_clips_are_an_error() -> None:
    class Shuffled(FakeScores):
        def correct(
            self, method: str, dataset: str, subset: Mapping[str, str], beside: str = ""
        ) -> tuple[Array, Array, float] | None:
            found = super().correct(method, dataset, subset, beside)
            return found and (found[0], found[1][:: -1 if method == "be" else 1], found[2])

    with pytest.raises(ReproError, match="same clips"):
        one(TEST, Shuffled({("alpha", False): 0.8, ("be", False): 0.5}))


def test_any_means_the_sets_at_hand_then_the_papers_own_once() -> None:
    scores = FakeScores({("alpha", False): 0.8, ("be", False): 0.5})
    scores.datasets = ("motionshapes", "hmdb51")
    rows = c.evaluate(claim_of(replace(TEST, datasets=("any", "ucf101", "hmdb51"))), scores)
    assert [row.dataset for row in rows] == ["motionshapes", "hmdb51", "ucf101"]
    assert [row.verdict.word for row in rows] == [OBSERVED, OBSERVED, NOT_RUN]


def test_a_claims_verdict_from_its_rows() -> None:
    accuracy = {("alpha", False): 0.8, ("be", False): 0.5, ("same", False): 0.5, ("worse", False): 0.2}
    scores = FakeScores(accuracy)
    better, none = TEST, replace(TEST, a="same", b="be")
    worse, control = replace(TEST, a="worse"), replace(TEST, a="worse", role="control")

    def whole(*tests: c.Test) -> str:
        return str(c.evaluate(claim_of(*tests), scores).verdicts()["x-1"])

    assert whole(better) == "observed (in 1 of 1 comparisons)"
    assert whole(better, none) == "observed (in 1 of 2 comparisons)"
    assert whole(better, control) == "observed (in 1 of 1 comparisons)"
    assert whole(better, worse) == "undecided (1 observed, 1 opposite)"
    assert whole(worse, none) == "opposite observed (in 1 of 2 comparisons)"
    assert whole(none) == "undecided"
    assert whole(control) == "not run"


def test_table_shows_every_row_and_escapes() -> None:
    scores = FakeScores({("alpha", False): 0.8, ("be", False): 0.5})
    rows = c.evaluate(claim_of(replace(TEST, datasets=("any", "ucf101", "hmdb51"))), scores)
    html, text = rows._repr_html_(), repr(rows)
    assert "A is &lt;better&gt;" in html and "<better>" not in html
    assert 'class="verdict-observed"' in html and 'class="verdict-notrun"' in html
    assert "not run: ucf101, hmdb51: alpha vs be" in text and "not run: ucf101, hmdb51: alpha vs be" in html
    assert rows[0].interval in text and rows[0].interval in html
    assert "400 clips, 5 seeds" in text and "+1.0 (Table 1)" in text
    opposite = c.evaluate(claim_of(replace(TEST, expected=-1)), scores)._repr_html_()
    assert 'class="verdict-opposite"' in opposite


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"datset": "any"}, "did you mean 'dataset'"),
        ({"dataset": "motionshape"}, "did you mean 'motionshapes'"),
        ({"expected": 2}, "expected must be"),
        ({"role": "extra"}, "role main or control"),
        ({"kind": "measure"}, "did you mean 'measured'"),
        ({"kind": "measured"}, "unknown key 'a'"),
    ],
)
def test_a_wrong_test_is_an_error(change: dict[str, object], says: str) -> None:
    head = {"paper": "stilt", "own_sets": [], "columns": {}, "minimum_seeds": {}}
    entry = {"dataset": "any", "a": "x", "b": "y", "expected": 1}
    assert c._test(entry, head, "here").datasets == ("any",)
    with pytest.raises(ReproError, match=says):
        c._test(entry | change, head, "here")
