"""Cross-enhancement: its losses against slow versions, what teaching moves and what not, the pair, the baselines."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models.count import parameters
from repro.models.i3d import ENDPOINTS, I3D, published_input
from repro.papers.cross_enhancement import (
    BRIDGES,
    POSITIONS,
    Config,
    Pair,
    Stream,
    Taught,
    Teaching,
    TwoStream,
    average,
    bridges,
    counts,
    join,
    squared_distance,
    start_from,
    teaching_loss,
)
from repro.papers.cross_enhancement_layers import (
    Adapter,
    Fused3D,
    Fused3DConfig,
    FusionLayer,
    InceptionV1,
    initialise_trunks,
    resized,
)
from repro.training import sum_of_losses

Loss = Callable[[dict[str, Tensor], Tensor], Tensor]
WIDTH, CLASSES = 1 / 16, 3
TINY = Teaching("rgb", width=WIDTH)
LABELS = torch.tensor([0, 2])


def clips(frames: int = 8, size: int = 32, seed: int = 0) -> dict[str, Tensor]:
    """Two clips: rgb (2, T, 3, H, W) and flow (2, T, 2, H, W)."""
    noise = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, frames, c, size, size, generator=noise) for name, c in (("rgb", 3), ("flow", 2))}


def taught(config: Teaching = TINY) -> Taught:
    """A student and a teacher with weights of its own."""
    torch.manual_seed(1)
    teacher = Stream(config.stream(config.teacher), CLASSES)
    torch.manual_seed(0)
    model = Taught(config, CLASSES)
    start_from(model, teacher.state_dict())
    return model


def plain(config: Config) -> Stream:
    torch.manual_seed(0)
    return Stream(config, CLASSES)


def steps(model: nn.Module, loss: Loss, n: int = 1, lr: float = 0.05) -> list[Tensor]:
    """Train for n steps as the library does; the losses."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    losses = []
    for step in range(n):
        optimiser.zero_grad(set_to_none=True)
        value = loss(model(**clips(seed=step)), LABELS)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 40.0)
        optimiser.step()
        losses.append(value.detach())
    return losses


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


# --- one stream


@pytest.mark.parametrize("name", ["rgb", "flow"])
def test_a_stream_is_i3d_on_the_clip_in_its_published_range(name: str) -> None:
    model = plain(Config(name, WIDTH)).eval()
    found = model(**clips())
    assert list(found) == [name]
    x = torch.stack([clips()[name][:, :, c] for c in range({"rgb": 3, "flow": 2}[name])], dim=1)  # (B, C, T, H, W)
    torch.testing.assert_close(found[name], model.i3d(published_input(x)), rtol=0, atol=0)
    logits, *_ = model.traced(model.clip(**clips()), "middle", "pooled")
    assert torch.equal(logits, found[name])  # whether or not its features are looked at


def test_wrong_input_is_one_line() -> None:
    with pytest.raises(ReproError, match="flow stream got no input: pass flow"):
        Stream(Config("flow", WIDTH), CLASSES)(rgb=clips()["rgb"])
    with pytest.raises(ReproError, match=r"flow of shape \(2, 8, 20, 4, 4\): give \(clips, frames, 2, height, width\)"):
        Stream(Config("flow", WIDTH), CLASSES)(flow=torch.zeros(2, 8, 20, 4, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Config("rbg"), "stream 'rbg' (did you mean 'rgb'?): use one of rgb, flow"),
        (lambda: Teaching("flwo"), "student 'flwo' (did you mean 'flow'?): use one of rgb, flow"),
        (lambda: Teaching("rgb", bridge="j"), "bridge 'j': use one of a, b, c, d, e, f, g, h, i"),
        (
            lambda: Teaching("rgb", output="logit"),
            "output 'logit' (did you mean 'logits'?): use one of pooled, logits",
        ),
        (lambda: Teaching("rgb", squares="means"), "squares 'means' (did you mean 'mean'?): use one of mean, sum"),
        (lambda: Teaching("rgb", alpha=-1), "alpha=-1: give a number of at least 0"),
        (lambda: Teaching("rgb", beta=math.nan), "beta=nan: give a number of at least 0"),
        (lambda: Teaching("rgb", alpha=0, beta=0, gamma=0), "alpha, beta and gamma are all 0"),
        (lambda: Pair("layers"), "fusion 'layers' (did you mean 'layer'?): use one of average, layer, all"),
        (lambda: Fused3DConfig(("rgb", "flwo")), "stream 'flwo' (did you mean 'flow'?): use one of rgb, flow"),
        (lambda: Fused3DConfig(()), "3D-Fused without a stream"),
    ],
)
def test_wrong_settings_are_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ReproError) as caught:
        make()
    assert message in str(caught.value) and "\n" not in str(caught.value)


# --- Eq. 1 and 2


def test_squared_distance_is_the_mean_or_the_sum_over_a_clip() -> None:
    student, teacher = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    slow = 0.0
    for b, c, t, h, w in itertools.product(range(2), range(3), range(2), range(2), range(2)):
        slow += (float(student[b, c, t, h, w]) - float(teacher[b, c, t, h, w])) ** 2 / 2  # mean over two clips
    assert float(squared_distance(student, teacher, "sum")) == pytest.approx(slow, rel=1e-5)
    assert float(squared_distance(student, teacher)) == pytest.approx(slow / 24, rel=1e-5)
    torch.testing.assert_close(squared_distance(student, teacher), F.mse_loss(student, teacher))
    assert squared_distance(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


def test_unequal_features_are_not_compared() -> None:
    """Shapes that would broadcast are the dangerous ones."""
    with pytest.raises(ReproError, match=r"features of \(2, 3, 1\) and \(2, 3, 2\)"):
        squared_distance(torch.zeros(2, 3, 1), torch.zeros(2, 3, 2))


@pytest.mark.parametrize("student", ["rgb", "flow"])
def test_the_loss_is_equation_1_or_2(student: str) -> None:
    config = Teaching(student, alpha=0.5, beta=7.0, gamma=2.0, squares="sum")
    outputs = {
        student: torch.randn(2, 3),
        **{f"{who} {what}": torch.randn(2, 4) for who in ("student", "teacher") for what in ("inner", "output")},
    }
    slow = 0.0
    for clip, label in enumerate(LABELS.tolist()):
        for weight, what in ((0.5, "inner"), (7.0, "output")):
            ends = zip(
                outputs[f"student {what}"][clip].tolist(), outputs[f"teacher {what}"][clip].tolist(), strict=True
            )
            slow += weight * sum((a - b) ** 2 for a, b in ends) / 2
        scores = outputs[student][clip].tolist()
        slow -= 2.0 * (scores[label] - math.log(sum(math.exp(s) for s in scores))) / 2
    assert float(teaching_loss(config, outputs, LABELS)) == pytest.approx(slow, rel=1e-5)


def test_the_loss_can_be_sent_to_another_process() -> None:
    loss = pickle.loads(pickle.dumps(partial(teaching_loss, replace(TINY, alpha=0, beta=0))))
    logits = torch.randn(2, 3)
    assert torch.equal(loss({"rgb": logits}, LABELS), sum_of_losses({"rgb": logits}, LABELS))


# --- the nine bridges


def test_letters_are_nine_connections_of_three_places() -> None:
    assert "".join(BRIDGES) == "abcdefghi"
    assert len(set(BRIDGES.values())) == 9
    assert [BRIDGES[k] for k in "aei"] == [(p, p) for p in ("front", "middle", "rear")]
    assert BRIDGES["b"] == ("front", "middle") and BRIDGES["d"] == ("middle", "front")


@pytest.mark.parametrize(("letter", "student"), [*((k, "rgb") for k in BRIDGES), ("c", "flow"), ("e", "flow")])
def test_every_bridge_compares_in_the_teachers_shape(letter: str, student: str) -> None:
    model, x = taught(replace(TINY, student=student, bridge=letter)), clips(16)
    there, here = BRIDGES[letter]
    out = model(**x)
    assert list(out) == [student, "student inner", "teacher inner", "student output", "teacher output"]
    expected = model.teacher.i3d.features(model.teacher.clip(**x))[POSITIONS[there]].shape
    assert out["student inner"].shape == out["teacher inner"].shape == expected
    assert (
        out["student output"].shape
        == out["teacher output"].shape
        == (2, model.student.i3d.endpoint_channels["Mixed_5c"])
    )
    assert (model.adapter is None) == (there == here)
    assert not out["teacher inner"].requires_grad and not out["teacher output"].requires_grad
    value = teaching_loss(model.config, out, LABELS)
    value.backward()  # type: ignore[no-untyped-call]
    learned = [p for part in (model.student, model.adapter) if part is not None for p in part.parameters()]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in learned)
    assert {id(p) for p in learned} == {id(p) for p in model.parameters() if p.requires_grad}


def test_the_second_bridge_may_end_at_the_logits() -> None:
    model = taught(replace(TINY, output="logits"))
    out = model(**clips())
    assert torch.equal(out["student output"], out["rgb"])
    torch.testing.assert_close(out["teacher output"], model.teacher(**clips())["flow"])


def test_an_adapter_may_resize_before_or_after_it_convolves() -> None:
    torch.manual_seed(0)
    adapter = Adapter(5, 3)
    small, large = torch.randn(2, 5, 2, 3, 3), torch.randn(2, 5, 4, 6, 6)
    for student, teacher in ((small, large[:, :3]), (large, small[:, :3])):
        out = adapter(student, teacher)
        assert out.shape == teacher.shape
        torch.testing.assert_close(out, adapter.convolve(resized(student, teacher.shape[2:])))
        torch.testing.assert_close(out, resized(adapter.convolve(student), teacher.shape[2:]))
    halves = large.unflatten(4, (3, 2)).unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean((3, 5, 7))
    torch.testing.assert_close(resized(large, small.shape[2:]), halves)  # halved, a voxel is the mean of eight
    torch.testing.assert_close(resized(torch.ones_like(small), large.shape[2:]), torch.ones_like(large))


# --- who learns


def test_the_teacher_stays_as_it_is() -> None:
    model = taught(replace(TINY, bridge="b", dropout=0.5))
    before = copied(model)
    model.train()
    assert not model.teacher.training and model.student.training
    steps(model, partial(teaching_loss, model.config), 2)
    after = model.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert not [k for k in moved if k.startswith("teacher.")]
    still = [k for k in before if k not in moved and not k.startswith("teacher.")]
    assert still == []  # all else moves: weights, statistics, the adapter
    assert any(k.endswith("running_mean") for k in moved)
    assert all(p.grad is None for p in model.teacher.parameters())
    model.eval()
    assert not model.student.training
    assert model.train() is model and not any(m.training for m in model.teacher.modules())


@pytest.mark.parametrize("letter", "abcdefghi")
def test_the_inner_term_reaches_the_student_up_to_its_place_only(letter: str) -> None:
    model = taught(replace(TINY, bridge=letter, alpha=1.0, beta=0.0, gamma=0.0))
    out = model(**clips())
    assert "student output" not in out
    teaching_loss(model.config, out, LABELS).backward()  # type: ignore[no-untyped-call]
    i3d = model.student.i3d
    reached = {name for name in ENDPOINTS for p in i3d.get_submodule(name).parameters() if p.grad is not None}
    weighted = [name for name in ENDPOINTS if "Pool" not in name]
    last = weighted.index(POSITIONS[BRIDGES[letter][1]])
    assert reached == set(weighted[: last + 1])
    assert all(bool(i3d.get_submodule(name).get_parameter("conv3d.weight").grad.any()) for name in weighted[:2])
    assert all(p.grad is None for p in i3d.logits.parameters())
    if model.adapter is not None:
        assert bool(model.adapter.convolve.weight.grad.any())


def test_the_output_term_reaches_all_but_the_classifier() -> None:
    model = taught(replace(TINY, alpha=0.0, beta=1.0, gamma=0.0))
    teaching_loss(model.config, model(**clips()), LABELS).backward()  # type: ignore[no-untyped-call]
    i3d = model.student.i3d
    assert [k for k, p in i3d.named_parameters() if p.grad is None] == ["logits.conv3d.weight", "logits.conv3d.bias"]


@pytest.mark.parametrize("letter", ["a", "c"])
def test_teaching_brings_the_features_together(letter: str) -> None:
    model = taught(replace(TINY, bridge=letter, gamma=0.0))
    x = clips()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    values = []
    for _ in range(20):
        optimiser.zero_grad()
        value = teaching_loss(model.config, model(**x), LABELS)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.9 * values[0]
    model.eval()
    with torch.no_grad():
        assert list(model.bridged(**x)) == list(model.train()(**x))  # distances can be measured in testing too


# --- what the weights switch off


@pytest.mark.parametrize("student", ["rgb", "flow"])
def test_without_alpha_and_beta_it_is_two_stream_i3d(student: str) -> None:
    """Sec. 3.1: losses, gradients, weights, statistics and the random numbers of dropout are the same bits."""
    config = replace(TINY, student=student, alpha=0.0, beta=0.0, dropout=0.5)
    stream = plain(config.stream(student))
    expected = steps(stream, sum_of_losses, 3)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = Taught(config, CLASSES)
    start_from(model, plain_elsewhere(config).state_dict())
    found = steps(model, partial(teaching_loss, config), 3)
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert same(model.inference().state_dict(), stream.state_dict())
    pairs = zip(model.student.parameters(), stream.parameters(), strict=True)
    assert all(a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad) for a, b in pairs)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.adapter is None
    assert list(model.train()(**{student: clips()[student]})) == [student]  # the teacher does not even look


def plain_elsewhere(config: Teaching) -> Stream:
    """A teacher, made without touching the random numbers of the training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return Stream(config.stream(config.teacher), CLASSES)


@pytest.mark.parametrize("letter", ["b", "e"])
def test_a_taught_student_begins_and_drops_out_as_a_plain_one(letter: str) -> None:
    config = replace(TINY, bridge=letter, dropout=0.5)
    stream = plain(config.stream("rgb"))
    expected = stream(**clips())["rgb"]
    torch.manual_seed(0)
    model = Taught(config, CLASSES)
    assert same(model.student.state_dict(), plain(config.stream("rgb")).state_dict())
    torch.manual_seed(0)
    model = Taught(config, CLASSES)
    assert torch.equal(model(**clips())["rgb"], expected)


@pytest.mark.parametrize("student", ["rgb", "flow"])
def test_without_alpha_it_is_output_distillation(student: str) -> None:
    """MARS by hand: cross-entropy and the squared distance of pooled features to a frozen network in evaluation."""
    config = replace(TINY, student=student, alpha=0.0, beta=50.0, dropout=0.5)
    model = taught(config)
    teacher = I3D(CLASSES, 3 if student == "flow" else 2, width=WIDTH)
    teacher.load_state_dict(model.teacher.i3d.state_dict())
    teacher.eval()
    torch.manual_seed(0)
    mine = I3D(CLASSES, 3 if student == "rgb" else 2, width=WIDTH, dropout=0.5)
    inputs = {k: published_input(v.transpose(1, 2)) for k, v in clips().items()}
    optimiser = torch.optim.SGD(mine.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    with torch.no_grad():
        target = teacher.pooled(teacher.features(inputs[config.teacher])["Mixed_5c"])
    maps = mine.features(inputs[student])["Mixed_5c"]
    expected = F.cross_entropy(mine.head(maps), LABELS) + 50 * F.mse_loss(mine.pooled(maps), target)
    expected.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(mine.parameters(), 40.0)
    optimiser.step()

    torch.manual_seed(0)
    Taught(config, CLASSES)  # draws what the network above drew
    (found,) = steps(model, partial(teaching_loss, config))
    torch.testing.assert_close(found, expected.detach())
    for (name, a), b in zip(model.student.i3d.named_parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
        torch.testing.assert_close(a, b, msg=name)
    assert model.adapter is None


# --- afterwards


@pytest.mark.parametrize(("letter", "student"), [("c", "rgb"), ("e", "rgb"), ("g", "flow")])
def test_bridges_are_gone_at_inference(letter: str, student: str) -> None:
    model = taught(replace(TINY, student=student, bridge=letter))
    reference = I3D(CLASSES, 3 if student == "rgb" else 2, width=WIDTH)
    alone = model.inference()
    assert list(alone.i3d.state_dict()) == list(reference.state_dict())
    assert parameters(alone) == parameters(reference) < parameters(model)
    assert type(alone) is Stream and alone.config == model.config.stream(student)
    model.eval()
    x = clips()
    with torch.no_grad():
        found = model(**{student: x[student]})  # nothing of the teacher is needed any more
        assert list(found) == [student]
        assert torch.equal(found[student], alone(**x)[student])
        again = plain(alone.config).eval()
        again.load_state_dict(alone.state_dict())
        assert torch.equal(found[student], again(**x)[student])


def test_weights_of_other_streams_are_refused() -> None:
    model = Taught(TINY, CLASSES)
    before = copied(model)
    wrong = {
        "rgb": Stream(Config("rgb", WIDTH), CLASSES),
        "width": Stream(Config("flow", 2 * WIDTH), CLASSES),
        "classes": Stream(Config("flow", WIDTH), CLASSES + 1),
        "bare": Stream(Config("flow", WIDTH), CLASSES).i3d,
    }
    for other in wrong.values():
        with pytest.raises(ReproError, match="not of the flow stream of width 0.0625") as caught:
            start_from(model, other.state_dict())
        assert "\n" not in str(caught.value)
    assert same(before, model.state_dict())


def test_teacher_and_student_start_from_other_runs() -> None:
    model = Taught(replace(TINY, bridge="c"), CLASSES)
    own = copied(model.student)
    teacher, student = Stream(Config("flow", WIDTH), CLASSES), Stream(Config("rgb", WIDTH), CLASSES)
    start_from(model, teacher.state_dict())
    assert same(model.teacher.state_dict(), teacher.state_dict()) and same(model.student.state_dict(), own)
    start_from(model, teacher.state_dict(), student.state_dict())
    assert same(model.student.state_dict(), student.state_dict())
    other = Taught(TINY, CLASSES)
    start_from(other, teacher.state_dict(), model.state_dict())  # a taught network stands for its student
    assert same(other.student.state_dict(), student.state_dict())
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(1)
    assert not same(model.teacher.state_dict(), teacher.state_dict())  # copied, not tied


# --- both streams


def pair(fusion: str, dropout: float = 0.0) -> TwoStream:
    torch.manual_seed(0)
    return TwoStream(Pair(fusion, WIDTH, dropout), CLASSES)


@pytest.mark.parametrize("fusion", ["average", "layer", "all"])
def test_a_fusion_starts_as_late_averaging(fusion: str) -> None:
    model = pair(fusion).eval()
    out = model(**clips())
    assert list(out) == ["rgb", "flow", "fusion"]
    torch.testing.assert_close(out["fusion"], (out["rgb"] + out["flow"]) / 2)
    assert torch.equal(average(out["rgb"], out["flow"]), (out["rgb"] + out["flow"]) / 2)
    alone = Stream(Config("flow", WIDTH), CLASSES).eval()
    alone.load_state_dict(model.streams["flow"].state_dict())
    assert torch.equal(out["flow"], alone(**clips())["flow"])


def test_the_average_trains_each_stream_as_if_alone() -> None:
    model = pair("average")
    alone = {name: Stream(Config(name, WIDTH), CLASSES) for name in ("rgb", "flow")}
    join(model, alone["rgb"].state_dict(), alone["flow"].state_dict())
    assert list(model(**clips())) == ["rgb", "flow"]
    join(model, alone["rgb"].state_dict(), alone["flow"].state_dict())  # the statistics have moved
    sum_of_losses(model(**clips()), LABELS).backward()  # type: ignore[no-untyped-call]
    for name, stream in alone.items():
        sum_of_losses(stream(**clips()), LABELS).backward()  # type: ignore[no-untyped-call]
        for a, b in zip(model.streams[name].parameters(), stream.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_the_layer_learns_on_frozen_streams() -> None:
    model = pair("layer", dropout=0.5)
    assert [k for k, p in model.named_parameters() if p.requires_grad] == ["fusion.layer.weight", "fusion.layer.bias"]
    before = copied(model)
    steps(model.train(), sum_of_losses, 2)
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert moved == ["fusion.layer.weight", "fusion.layer.bias"]  # no statistics either
    # The same layer on stored logits: the streams need not run again.
    single = {k: v for k, v in model.eval()(**clips()).items() if k != "fusion"}
    assert model.fusion is not None
    assert torch.equal(model.fusion(**single), model(**clips())["fusion"])


def test_all_learns_everything_from_the_fused_loss() -> None:
    model = pair("all")
    before = copied(model)
    out = model(**clips())
    assert list(out) == ["fusion"]
    steps(model, sum_of_losses)
    assert [k for k, v in model.state_dict().items() if torch.equal(v, before[k])] == []


def test_the_layer_learns_which_stream_to_trust() -> None:
    torch.manual_seed(0)
    labels = torch.arange(CLASSES).repeat(20)
    rgb, flow = F.one_hot(labels, CLASSES).float(), 3 * torch.randn(len(labels), CLASSES)
    layer = FusionLayer(CLASSES)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
    at_start = float((layer(rgb, flow).argmax(1) == labels).float().mean())
    for _ in range(100):
        optimiser.zero_grad()
        F.cross_entropy(layer(rgb, flow), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert at_start < 0.8 and float((layer(rgb, flow).argmax(1) == labels).float().mean()) > 0.95


def test_a_pair_joins_taught_and_plain_streams() -> None:
    student, teacher = taught(replace(TINY, bridge="c")), Stream(Config("flow", WIDTH), CLASSES)
    model = pair("layer").eval()
    join(model, student.state_dict(), teacher.state_dict())
    out, x = model(**clips()), clips()
    assert torch.equal(out["rgb"], student.eval()(**x)["rgb"])
    assert torch.equal(out["flow"], teacher.eval()(**x)["flow"])
    with pytest.raises(ReproError, match="not of the rgb stream"):
        join(model, teacher.state_dict(), student.state_dict())


# --- 3D-Fused


def fused(streams: tuple[str, ...] = ("rgb", "flow"), width: float = WIDTH) -> Fused3D:
    torch.manual_seed(0)
    return Fused3D(Fused3DConfig(streams, width), CLASSES)


def snippets(count: int = 5, size: int = 32) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, count, c, size, size, generator=noise) for name, c in (("rgb", 3), ("flow", 20))}


@pytest.mark.parametrize("streams", [("rgb",), ("flow",), ("rgb", "flow")])
@pytest.mark.parametrize("count", [1, 5])
def test_fused_3d_joins_what_it_is_told_to(streams: tuple[str, ...], count: int) -> None:
    model = fused(streams)
    out = model(**snippets(count))
    assert {k: v.shape for k, v in out.items()} == {"fusion" if len(streams) == 2 else streams[0]: (2, CLASSES)}
    sum_of_losses(out, LABELS).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    with pytest.raises(ReproError, match=f"got no {streams[-1]}: pass {streams[-1]}"):
        model(**{k: v for k, v in snippets().items() if k != streams[-1]})


def test_fused_3d_sees_the_order_of_snippets_and_keeps_clips_apart() -> None:
    model, x = fused().eval().double(), {k: v.double() for k, v in snippets().items()}
    nn.init.normal_(model.convolve.weight)
    with torch.no_grad():
        out = model(**x)["fusion"]
        torch.testing.assert_close(model(**{k: v[:1] for k, v in x.items()})["fusion"], out[:1])
        assert not torch.allclose(model(**{k: v.flip(1) for k, v in x.items()})["fusion"], out)
        # By hand, snippet by snippet.
        maps = []
        for name, trunk in model.trunks.items():
            images = [published_input(x[name][:, t].unsqueeze(2)).squeeze(2) for t in range(5)]
            maps.append(torch.stack([trunk(image) for image in images], dim=2))  # (B, c, T, h, w)
        y = F.max_pool3d(torch.relu(model.convolve(torch.cat(maps, 1))), 3, 2, 1).flatten(2).mean(2)
        torch.testing.assert_close(model.classify(y), out)


@pytest.fixture(scope="module")
def googlenet() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False)
    assert isinstance(model, nn.Module)
    return model.eval()


def test_the_image_network_is_torchvisions_googlenet(googlenet: nn.Module) -> None:
    trunk = InceptionV1().eval()
    trunk.load_state_dict({k: v for k, v in googlenet.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        maps = trunk.features(x)
        assert {k: v.shape[1] for k, v in maps.items()} == trunk.endpoints
        torch.testing.assert_close(googlenet.fc(maps["inception5b"].mean((2, 3))), googlenet(x))
        assert torch.equal(trunk(x), maps["inception5b"])


def test_fused_3d_starts_from_an_image_network(googlenet: nn.Module, tmp_path: Path) -> None:
    state = googlenet.state_dict()
    torch.save(state, tmp_path / "googlenet.pth")
    model = fused(width=1.0)
    initialise_trunks(model, tmp_path / "googlenet.pth")
    assert torch.equal(model.trunks["rgb"].conv1.conv.weight, state["conv1.conv.weight"])
    mean = state["conv1.conv.weight"].mean(1, keepdim=True).repeat(1, 20, 1, 1)
    torch.testing.assert_close(model.trunks["flow"].conv1.conv.weight.detach(), mean)
    last = "inception5b.branch4.1.conv.weight"
    assert all(torch.equal(model.trunks[s].get_parameter(last), state[last]) for s in ("rgb", "flow"))
    small = fused()
    before = copied(small)
    initialise_trunks(small, "none")
    assert same(before, small.state_dict())
    with pytest.raises(ReproError, match="width 1 only"):
        initialise_trunks(small, "imagenet")
    with pytest.raises(ReproError, match="other sizes"):
        initialise_trunks(small, state)


# --- counts


def test_parameters_at_full_width() -> None:
    """I3D's published sizes (ledger cross_enhancement-L20); 25 and 39 million in Carreira and Zisserman, Table 1."""
    found = {row.network: row for row in counts(400)}
    assert found["rgb stream"].parameters == 12_697_264
    assert found["flow stream"].parameters == 12_675_312
    two = found["Two-Stream I3D"]
    assert two.parameters == 12_697_264 + 12_675_312
    assert two.multiply_adds == found["rgb stream"].multiply_adds + found["flow stream"].multiply_adds
    layer = found["with a fusion layer"]
    assert layer.parameters - two.parameters == 800 * 400 + 400
    assert layer.multiply_adds - two.multiply_adds == 800 * 400
    assert found["3D-Fused, rgb and flow"].parameters // 10**6 == 39


def test_bridges_at_full_width() -> None:
    """Elements of ledger cross_enhancement-L6; adapters of one weight a pair of channels, and biases."""
    found = {row.letter: row for row in bridges()}
    assert list(found) == list("abcdefghi")
    assert [found[k].elements for k in "aei"] == [480 * 32 * 28**2, 832 * 16 * 14**2, 1024 * 8 * 7**2]
    assert [round(found[k].elements / 1e6, 2) for k in "aei"] == [12.04, 2.61, 0.40]
    for row in found.values():
        assert row.elements == math.prod(row.teacher_shape)
        c_s, c_t = row.student_shape[0], row.teacher_shape[0]
        equal = row.teacher == row.student
        assert row.parameters == (0 if equal else c_s * c_t + c_t)
        voxels = min(math.prod(row.student_shape[1:]), math.prod(row.teacher_shape[1:]))
        assert row.multiply_adds == (0 if equal else c_s * c_t * voxels)
    assert found["b"].student == "middle" and found["b"].teacher_shape == (480, 32, 28, 28)


def test_the_books_small_clips_pass() -> None:
    """16 frames of 56 px at quarter width; nothing shrinks to size 0."""
    rows = bridges(16, 56, 0.25)
    assert all(min(row.teacher_shape) > 0 for row in rows)
    assert {row.teacher: row.teacher_shape for row in rows}["rear"][1:] == (2, 2, 2)
