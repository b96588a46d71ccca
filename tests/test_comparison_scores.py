"""Scores of the compared methods, on invented runs."""

from __future__ import annotations

import numpy as np
import pytest
from fake_comparison_runs import ComparisonInventor

from repro.errors import ReproError
from repro.metrics import softmax
from repro.papers.comparison_experiments import METHODS
from repro.papers.comparison_scores import ComparisonScores
from repro.report.claims import load_claims

RUNS = ComparisonInventor("motionshapes").all_runs((1, 2))
SCORES = ComparisonScores(RUNS)


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("frames", [("frames", "spatial")]),
        ("two-stream", [("frames", "spatial"), ("flow", "temporal")]),
        ("heterogeneous", [("frames", "spatial"), ("unlike-flow", "temporal")]),
        ("cross-enhancement", [("taught-frames", "spatial"), ("flow", "temporal")]),
        ("st-resnet", [("st-resnet", "appearance"), ("st-resnet", "motion")]),
        ("ccs", [("ccs", "rgb"), ("ccs", "flow")]),
        ("stilt:flow", [("stilt", "temporal")]),
        ("taught-frames", [("taught-frames", "spatial")]),
    ],
)
def test_a_method_averages_the_logits_of_its_outputs(method: str, parts: list[tuple[str, str]]) -> None:
    expected = np.mean([RUNS[name, "1", 2].arrays[f"test_{out}"].astype(float) for name, out in parts], axis=0)
    assert np.allclose(SCORES.scores(method, "1", 2), expected)


def test_probabilities_are_averaged_after_the_softmax() -> None:
    both = [softmax(RUNS["ccs", "1", 1].arrays[f"test_{m}"].astype(float)) for m in ("rgb", "flow")]
    assert np.allclose(SCORES.scores("ccs+softmax", "1", 1), np.mean(both, axis=0))
    assert np.allclose(SCORES.scores("ccs+softmax", "1", 1).sum(1), 1)


def test_another_protocol_has_runs_of_its_own() -> None:
    names = (("frames+views", "spatial"), ("flow+views", "temporal"))
    expected = np.mean([RUNS[name, "1", 1].arrays[f"test_{out}"].astype(float) for name, out in names], axis=0)
    assert np.allclose(SCORES.scores("two-stream+views", "1", 1), expected)
    trained = ComparisonScores({key: run for key, run in RUNS.items() if "+" not in key[0]})
    assert trained.correct("two-stream") and trained.correct("two-stream+views") is None


def test_every_method_is_named_and_an_unknown_one_is_not() -> None:
    assert set(METHODS) <= set(SCORES.methods)
    with pytest.raises(ReproError, match="did you mean 'two-stream'"):
        SCORES.needs("two-streams")


def test_claims_name_methods_that_there_are() -> None:
    tests = [test for claim in load_claims("comparison") for test in claim.tests if test.kind == "correct"]
    assert {m for test in tests for m in (test.a, test.b)} <= set(SCORES.methods) and len(tests) > 10
