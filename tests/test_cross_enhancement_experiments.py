"""What is trained for cross-enhancement: names, scales, and that a student differs from a plain stream by its teacher.

Trained for two steps on noise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import noise_lab
from torch import Tensor

from repro.errors import ReproError
from repro.experiments import Experiment, Lab
from repro.models.i3d import I3D
from repro.papers.cross_enhancement import BRIDGES, Taught, TwoStream
from repro.papers.cross_enhancement_experiments import NETWORKS, PAPER, SMALL, VARIANTS, Variant, experiments, preset

SMOKE = experiments("smoke", "toy")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return noise_lab(tmp_path_factory.mktemp("lab"), 8, tested_from=6)


def quick(experiment: Experiment) -> Experiment:
    """The training of an experiment on 4 frames of 32 px; what it starts from alike."""
    small = replace(experiment.sampling, crop=32, snippets=min(4, experiment.sampling.snippets))
    return replace(experiment, sampling=small, protocol="smoke", start=tuple(quick(e) for e in experiment.start))


def state(lab: Lab, experiment: Experiment) -> dict[str, Tensor]:
    return lab.network(experiment, 1).state_dict()


def test_names() -> None:
    students = [v for v in VARIANTS.values() if v.kind == "taught"]
    assert len(VARIANTS) == len(students) + 4 == 21
    bridges = [v.teaching.get("bridge", "e") for v in students if v.stream == "rgb"]
    assert {*bridges} == set(BRIDGES)
    assert list(SMOKE) == list(VARIANTS)
    keys = {str(e.identity()) for e in experiments("small", "motionshapes").values()}
    assert len(keys) == len(VARIANTS)


def test_what_the_paper_says_of_its_training() -> None:
    """Sec. 4.3."""
    for name in ("rgb", "flow"):
        recipe = PAPER.recipes[name]
        assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.batch) == (0.001, 0.9, 0.0005, 6)
    assert (PAPER.sampling.snippets, PAPER.sampling.crop, PAPER.sampling.stride) == (64, 224, (1, 1))
    assert experiments("paper", "hmdb51")["rgb"].protocol == "chain64"


def test_scales() -> None:
    assert preset("small", "weizmann").recipes["rgb"].iterations == SMALL.recipes["rgb"].iterations // 2
    assert preset("small", "motionshapes") is SMALL
    assert preset("live", "motionshapes").per_class == (4, 2)
    with pytest.raises(ReproError, match="did you mean 'small'"):
        preset("smal", "motionshapes")


def test_both_streams_and_a_student_see_the_same_moments() -> None:
    plain, student = SMOKE["rgb"].sampling, SMOKE["rgb-taught"].sampling
    assert plain == replace(student, streams=("rgb",))
    assert SMOKE["flow"].sampling == replace(student, streams=("flow",))


def test_without_bridges_a_student_is_trained_as_the_plain_stream_is(lab: Lab) -> None:
    """Sec. 3.1: alpha = beta = 0 is Two-Stream I3D; here with its weights, clips, order and crops."""
    alone = Variant("taught", "rgb", {"alpha": 0.0, "beta": 0.0})
    fields = NETWORKS["taught"](alone, preset("smoke", "toy"), "none", SMOKE)
    student = replace(SMOKE["rgb-taught"], name="alone", **fields)
    plain, taught = state(lab, quick(SMOKE["rgb"])), state(lab, quick(student))
    assert all(torch.equal(value, taught[f"student.{name}"]) for name, value in plain.items())
    taught = state(lab, quick(SMOKE["rgb-taught"]))
    assert any(not torch.equal(value, taught[f"student.{name}"]) for name, value in plain.items())


@pytest.mark.parametrize("student", ["rgb", "flow"])
def test_a_student_s_teacher_is_the_trained_stream_and_stays_so(lab: Lab, student: str) -> None:
    teacher = {"rgb": "flow", "flow": "rgb"}[student]
    trained, taught = state(lab, quick(SMOKE[teacher])), state(lab, quick(SMOKE[f"{student}-taught"]))
    assert all(torch.equal(value, taught[f"teacher.{name}"]) for name, value in trained.items())


def test_the_last_stage_begins_with_the_taught_stream_and_its_teacher(lab: Lab) -> None:
    experiment = quick(SMOKE["together"])
    states = [state(lab, e) for e in experiment.start]
    model = experiment.build(2)
    assert isinstance(model, TwoStream) and experiment.begin
    experiment.begin(model, states)
    begun = model.state_dict()
    assert torch.equal(begun["streams.rgb.i3d.logits.conv3d.weight"], states[0]["student.i3d.logits.conv3d.weight"])
    assert torch.equal(begun["streams.flow.i3d.logits.conv3d.weight"], states[1]["i3d.logits.conv3d.weight"])
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("flow", ["flow"]),
        ("rgb-taught@bridge-g", ["rgb"]),
        ("fused-3d", ["fusion"]),
        ("together", ["flow", "fusion", "rgb"]),
    ],
)
def test_runs_and_their_outputs(lab: Lab, name: str, outputs: list[str]) -> None:
    result = lab.run(quick(SMOKE[name]), 1)
    assert result.row["outputs"] == outputs
    assert all(result.logits(output).shape == (2, 2) for output in outputs)
    assert ("train_labels" in result.arrays) == (name == "flow"), "what the fusion layer is learned from"


def test_published_weights_by_stream(tmp_path: Path) -> None:
    width = SMALL.width
    files = {"i3d_rgb": I3D(400, 3, width=width), "i3d_flow": I3D(400, 2, width=width)}
    for name, model in files.items():
        torch.save(model.state_dict(), tmp_path / f"{name}.pt")
    found = experiments("smoke", "toy", str(tmp_path))
    key = "Mixed_4c.b1b.conv3d.weight"
    rgb, flow = files["i3d_rgb"].state_dict()[key], files["i3d_flow"].state_dict()[key]
    assert torch.equal(found["rgb"].build(2).state_dict()[f"i3d.{key}"], rgb)
    assert torch.equal(found["flow"].build(2).state_dict()[f"i3d.{key}"], flow)
    student = found["flow-taught"].build(2)
    assert isinstance(student, Taught) and torch.equal(student.student.state_dict()[f"i3d.{key}"], flow)
    with pytest.raises(ReproError, match="missing: googlenet"):
        found["fused-3d"].build(2)
