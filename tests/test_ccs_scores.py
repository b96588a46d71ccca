"""Methods of the CCS chapter from invented logits, against plain loops."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from fake_ccs_runs import CCSInventor
from fake_runs import SHAPES, shapes_clips

from repro.errors import ReproError
from repro.papers.ccs_derived import DERIVED
from repro.papers.ccs_experiments import VARIANTS, experiments
from repro.papers.ccs_scores import NEVER_RUN, SINGLE, CCSScores
from repro.report.claims import load_claims

TWO = (SHAPES[0], shapes_clips((3,)))  # a second split with other test clips


@cache
def shapes() -> CCSScores:
    """Two seeds, two splits of motionshapes, everything run."""
    first, second = CCSInventor("motionshapes"), CCSInventor("motionshapes", TWO)
    return CCSScores(first.all_runs((1, 2)) | second.all_runs((1, 2), ("2",)))


def slow(scores: CCSScores, name: str, weights: dict[str, float], split: str, seed: int) -> list[list[float]]:
    """Weighted means of a run's logits, number by number."""
    run = scores.runs[name, split, seed]
    parts = [(w, run.arrays[f"test_{m}"].astype(float)) for m, w in weights.items()]
    total = sum(weights.values())
    clips, classes = parts[0][1].shape
    return [[sum(w * x[i, c] for w, x in parts) / total for c in range(classes)] for i in range(clips)]


@pytest.mark.parametrize(
    ("method", "name", "weights"),
    [
        ("all", "all", {"rgb": 1, "flow": 1}),
        ("cb:rgb", "cb", {"rgb": 1}),
        ("cb:flow", "cb", {"flow": 1}),
        ("all+weight-1.5", "all", {"rgb": 1, "flow": 1.5}),
        ("i3d-all", "i3d-all", {"rgb": 1, "flow": 1}),
        ("all@margins-0.8-0.5-1.2:rgb", "all@margins-0.8-0.5-1.2", {"rgb": 1}),
        ("all+groups", "all+groups", {"rgb": 1, "flow": 1}),
    ],
)
def test_scores_of_a_method(method: str, name: str, weights: dict[str, float]) -> None:
    scores = shapes()
    for split in ("1", "2"):
        np.testing.assert_allclose(scores.scores(method, split, 2), slow(scores, name, weights, split, 2), atol=1e-5)
    assert scores.needs(method)[0] == name


def test_the_best_single_stream_is_chosen_on_all_test_clips() -> None:
    scores = shapes()
    mean = {}
    for m in ("rgb", "flow"):
        hits = []
        for seed in (1, 2):
            for split in ("1", "2"):
                run = scores.runs["baseline", split, seed]
                hits += [int(np.argmax(r)) == y for r, y in zip(run.logits(m), run.labels(), strict=True)]
        mean[m] = np.mean(hits)
    best = max(mean, key=lambda m: mean[m])
    assert mean["rgb"] != mean["flow"] and set(SINGLE) == {"baseline:rgb", "baseline:flow"}
    found = scores.correct("best-single")
    assert found is not None and found[0].mean() == pytest.approx(mean[best])
    np.testing.assert_array_equal(scores.scores("best-single", "2", 1), scores.scores(f"baseline:{best}", "2", 1))


def test_claims_name_methods_that_there_are() -> None:
    for claim in load_claims("ccs"):
        for test in claim.tests:
            for method in (test.a, test.b):
                assert not method or CCSScores.needs(method)
    for name in VARIANTS:
        assert CCSScores.needs(name) == CCSScores.needs(f"{name}:rgb") == (name,)
    for what, (_, names) in DERIVED.items():
        for name in names:
            assert CCSScores.needs(f"{name}+{what}") == (f"{name}+{what}", name)
    assert set(experiments("small", "motionshapes")) == VARIANTS.keys()
    with pytest.raises(ReproError, match="unknown method 'al'"):
        CCSScores.needs("al")


def test_what_is_never_run_is_not_run() -> None:
    scores = shapes()
    assert scores.seeds_with(NEVER_RUN) == [] and scores.correct(NEVER_RUN) is None
    assert CCSScores({}, "ucf101", ["a", "b"]).correct("all") is None


def test_a_factor_decides_among_its_own_classes() -> None:
    scores = shapes()
    found = scores.correct("all", {"factor": "binding"})
    assert found is not None
    right, groups, chance = found
    assert right.shape == (2, 18) and len(groups) == 18 and chance == 0.5  # 2 classes of 3 clips in 3 groups


def test_kept_arrays_stand_split_behind_split() -> None:
    scores = shapes()
    kept = scores.kept("all+embedding", "within", axis=-1)
    assert kept.shape == (2, 2, len(scores.labels("all")))
    first = scores.runs["all+embedding", "1", 2].arrays["within"]
    np.testing.assert_array_equal(kept[1, :, : first.shape[1]], first)
    assert scores.kept("all+cam", "share_map", [2]).shape == (1, kept.shape[2])
