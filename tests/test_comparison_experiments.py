"""What is trained for the comparison of the five ideas: all alike but for the idea. Networks on noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import noise_lab

from repro.errors import ReproError
from repro.experiments import Experiment, Lab
from repro.papers.comparison_experiments import (
    METHODS,
    SMALL,
    VARIANTS,
    TaughtStream,
    experiments,
    networks,
    preset,
    taught_loss,
)

CHAPTER, SMOKE = experiments("small", "motionshapes"), experiments("smoke", "toy")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return noise_lab(tmp_path_factory.mktemp("lab"), 8, tested_from=6)


def quick(experiment: Experiment) -> Experiment:
    """The training of an experiment on crops of 32 px; what it starts from alike."""
    small = replace(experiment.sampling, crop=32)
    return replace(experiment, sampling=small, start=tuple(quick(e) for e in experiment.start))


def inputs(clips: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"rgb": torch.randn(clips, 3, 3, 32, 32), "flow": torch.randn(clips, 3, 10, 32, 32)}


def test_all_is_alike_but_the_idea() -> None:
    assert tuple(CHAPTER) == VARIANTS and {name for made_of in METHODS.values() for name in made_of} == set(VARIANTS)
    for experiment in CHAPTER.values():
        assert (experiment.recipe, experiment.protocol) == (SMALL.recipe, SMALL.protocol)
        assert replace(experiment.sampling, streams=("rgb", "flow")) == SMALL.sampling
    assert len({str(e.identity()) for e in CHAPTER.values()}) == len(VARIANTS)
    backbones = {name: e.backbone for name, e in CHAPTER.items()}
    assert backbones.pop("unlike-flow") == "bn_inception" and set(backbones.values()) == {"resnet50"}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_has_the_same_streams_inside(name: str) -> None:
    """Parameters of its backbones, stage by stage, are those of the plain streams (filters over time apart)."""
    plain = {}
    for stream in ("frames", "flow", "unlike-flow"):
        network = networks(SMALL)[stream]
        [trunk] = network.trunks(network.build(14))
        plain[stream] = [p.shape for p in trunk.parameters()]
    network = networks(SMALL)[name]
    expected = {
        "taught-frames": ["frames"], "st-resnet": ["frames", "flow"], "ccs": ["frames", "flow"],
        "stilt": ["frames", "flow"],
    }.get(name, [name])  # fmt: skip
    for trunk, stream in zip(network.trunks(network.build(14)), expected, strict=True):
        found = [p.shape for p in trunk.parameters()]
        if name != "st-resnet":
            assert found == plain[stream]
        else:
            assert [s[:2] for s in found if len(s) == 4] == [s[:2] for s in plain[stream] if len(s) == 4]


def test_a_teacher_is_frozen_and_gone_at_the_test() -> None:
    model = networks(SMALL)["taught-frames"].build(2)
    assert isinstance(model, TaughtStream)
    x, labels = inputs(), torch.tensor([0, 1])
    teacher = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    outputs = model.train()(**x)
    taught_loss(outputs, labels).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.student.parameters())
    assert all(torch.equal(value, teacher[name]) for name, value in model.teacher.state_dict().items())
    model.eval()
    alone = model.student(x["rgb"])
    assert list(alone) == ["spatial"] and torch.equal(model(rgb=x["rgb"])["spatial"], alone["spatial"])
    with pytest.raises(ReproError, match="pass rgb and flow"):
        model.train()(rgb=x["rgb"])


def test_the_loss_of_teaching_by_hand() -> None:
    model = networks(SMALL)["taught-frames"].build(2)
    x, labels = inputs(), torch.tensor([0, 1])
    with torch.no_grad():
        outputs = model.train()(**x)
        expected = 0.0
        for place in ("inner", "output"):
            a, b = outputs[f"student {place}"].numpy(), outputs[f"teacher {place}"].numpy()
            expected += float(np.mean([((a[i] - b[i]) ** 2).mean() for i in range(2)]))
        logits = outputs["spatial"].double().numpy()
        expected += float(np.mean([np.log(np.exp(row).sum()) - row[y] for row, y in zip(logits, (0, 1), strict=True)]))
        assert float(taught_loss(outputs, labels)) == pytest.approx(expected, rel=1e-4)


def test_the_teacher_is_the_trained_stream_of_flow(lab: Lab) -> None:
    taught = quick(SMOKE["taught-frames"])
    flow = lab.network(taught.start[0], 1).state_dict()
    model = lab.network(taught, 1)
    assert isinstance(model, TaughtStream)
    learned = dict(model.teacher.named_parameters())
    assert all(torch.equal(flow[name], value) for name, value in learned.items())


@pytest.mark.parametrize("name", ["st-resnet", "ccs", "stilt"])
def test_pairs_give_a_score_for_each_stream(lab: Lab, name: str) -> None:
    result = lab.run(quick(SMOKE[name]), 1)
    assert len(result.row["outputs"]) == 2
    assert all(result.logits(output).shape == (2, 2) for output in result.row["outputs"])


def test_scales() -> None:
    assert preset("small", "weizmann").recipe.iterations == SMALL.recipe.iterations // 2
    with pytest.raises(ReproError, match="did you mean 'small'"):
        preset("smal", "motionshapes")
