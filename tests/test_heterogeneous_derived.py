"""Runs that follow from trained networks, very small ones: first filters against checkpoints, folds against clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import noise_lab
from torch import Tensor

from repro.experiments import Experiment, Lab
from repro.papers.heterogeneous import TRIED
from repro.papers.heterogeneous_derived import (
    BEGINNINGS,
    FILTERS_KEPT,
    MAIN,
    TEMPORAL_RUNS,
    conv1,
    derive,
    equal_share,
    held_out,
)
from repro.papers.heterogeneous_experiments import VARIANTS, dashed, experiments
from repro.training import load_checkpoint

NAME = "temporal-bn-inception"
FIRST = "trunk.conv1_7x7_s2.weight"  # of BN-Inception
CHAPTER = experiments("smoke", "toy")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return noise_lab(tmp_path_factory.mktemp("lab"), 10, tested_from=8)


def weights(lab: Lab, experiment: Experiment, seed: int) -> dict[str, Tensor]:
    """What training ended with, from its checkpoint."""
    lab.run(experiment, seed)
    model = experiment.build(experiment.images["classes"] if experiment.images else 2)
    load_checkpoint(lab.runs_dir / "checkpoints" / lab.key(experiment, seed) / "checkpoint.pt", model)
    return model.state_dict()


def kept(filters: Tensor, by: Tensor) -> np.ndarray:
    """The filters that are strongest in `by`, the strongest first."""
    strength = [float((f * f).sum()) for f in by]
    order = sorted(range(len(by)), key=lambda i: -strength[i])
    return np.stack([filters[i].numpy() for i in order[:FILTERS_KEPT]]).astype(np.float16)


def slow_share(filters: np.ndarray) -> float:
    """Energy of the mean over channels, in all of them, as a share of the whole."""
    same = total = 0.0
    for kernel in filters.astype(float):
        mean = sum(kernel) / len(kernel)
        same += len(kernel) * float((mean * mean).sum())
        total += sum(float((channel * channel).sum()) for channel in kernel)
    return same / total


# ---------------------------------------------------------------- the first filters


@pytest.mark.parametrize("way", BEGINNINGS)
def test_first_filters_before_and_after_training(lab: Lab, way: str) -> None:
    experiment = CHAPTER[NAME + BEGINNINGS[way]]
    result = conv1(lab, experiment, 3)
    before, after = result.arrays["conv1"]
    found = weights(lab, experiment, 3)[FIRST]
    np.testing.assert_array_equal(after, kept(found, found))
    if way == "scratch":
        torch.manual_seed(3)
        begun = experiment.build(2).state_dict()[FIRST]
    elif way == "averaged":
        rgb = weights(lab, CHAPTER["textures-bn-inception"], 0)[FIRST]  # images have a seed of their own
        begun = rgb.mean(1, keepdim=True).expand_as(found)
    else:
        begun = weights(lab, CHAPTER[f"{NAME}-scratch"], 3)[FIRST]
    np.testing.assert_allclose(before, kept(begun, found), rtol=1e-3, atol=1e-6)
    assert result.arrays["change"][0] == pytest.approx(float((found - begun).norm() / begun.norm()), rel=1e-3)
    assert result.arrays["change"][0] > 1e-4, "nothing was learned: a test of nothing"
    np.testing.assert_allclose(result.arrays["equal_share"], [slow_share(f.numpy()) for f in (begun, found)], rtol=1e-4)
    assert (result.arrays["equal_share"][0] > 0.9999) == (way == "averaged")
    assert result.row["experiment"] == f"{experiment.name}+conv1" and result.outputs == []
    assert result.ids() == [c.id for c in lab.clips(experiment)[1]]


def test_first_filters_are_computed_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = CHAPTER[NAME]
    first = conv1(lab, experiment, 3)
    monkeypatch.setattr(Lab, "network", None)
    np.testing.assert_array_equal(conv1(lab, experiment, 3).arrays["conv1"], first.arrays["conv1"])


def test_unrelated_channels_share_one_part_in_their_number() -> None:
    torch.manual_seed(0)
    filters = torch.randn(4000, 10, 7, 7)
    assert equal_share(filters) == pytest.approx(1 / 10, abs=0.003)
    assert equal_share(filters[:, :1].expand_as(filters)) == pytest.approx(1)


# ---------------------------------------------------------------- held-out scores, and which runs there are


def test_held_out_folds_cover_the_training_clips_and_share_no_group(lab: Lab) -> None:
    experiment = replace(CHAPTER[MAIN[1]], per_class=None)
    folds = held_out(experiment)
    assert [f.name for f in folds] == [f"{MAIN[1]}/held-out-0", f"{MAIN[1]}/held-out-1"]
    training = lab.clips(experiment)[0]
    tested: list[str] = []
    for fold in folds:
        inside, outside = lab.clips(fold)
        assert {c.group for c in inside}.isdisjoint(c.group for c in outside) and inside
        tested += [c.id for c in outside]
        assert all(start.images or start.fold == fold.fold for start in fold.starts())
    assert sorted(tested) == sorted(c.id for c in training)


def test_what_is_derived_from_which_training(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Lab, "run", lambda _, e, seed: asked.append(e.name))
    monkeypatch.setattr(Lab, "derived", lambda _, e, seed, name, *__: asked.append(f"{e.name}+{name}"))
    for name in VARIANTS:
        derive(lab, replace(CHAPTER[name], per_class=None), 1)
        derive(lab, CHAPTER[name], 1)  # some clips of each class: no folds of those
    expected = [f"{name}+conv1" for name in TEMPORAL_RUNS] * 2 + [
        f"{name}/held-out-{k}" for name in MAIN for k in (0, 1)
    ]
    assert sorted(asked) == sorted(expected)
    assert set(TEMPORAL_RUNS) | set(MAIN) <= set(VARIANTS)
    assert {name.split("-", 1)[1] for name in MAIN} <= {dashed(b) for b in TRIED}


def test_a_held_out_run_scores_the_clips_of_its_fold(lab: Lab) -> None:
    fold = held_out(replace(CHAPTER[MAIN[1]], per_class=None))[0]
    result = lab.run(fold, 1)
    outside = lab.clips(fold)[1]
    assert result.ids() == [c.id for c in outside] and result.outputs == ["temporal"]
    assert result.logits("temporal").shape == (len(outside), 2)
    assert result.row["experiment"] == f"{MAIN[1]}/held-out-0" and result.row["identity"]["fold"] == [0, 2]
