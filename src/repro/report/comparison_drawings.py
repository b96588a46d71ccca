"""Where the streams of the compared ideas meet, read off the live networks, and the picture of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from repro.papers import ccs, st_resnet, stilt
from repro.papers.ccs_losses import FEATURE, STREAMS
from repro.papers.comparison_experiments import PAPER, SMALL, TaughtStream, networks
from repro.report.comparison_plots import Link, Meeting, draw_meetings
from repro.report.figures import show
from repro.report.theme import Shown

TITLES = {  # method -> how its streams meet, and whose idea that is, as its chapter calls it
    "two-stream": ("two streams", "late fusion"),
    "heterogeneous": ("unlike networks", "heterogeneous"),
    "cross-enhancement": ("distilled", "cross-enhancement"),
    "st-resnet": ("residual", "ST-ResNet"),
    "ccs": ("affinity", "CCS"),
    "stilt": ("attention", "STILT"),
}
BACKBONES = {"bn_inception": "BN-Inception"}
STAGES = ("conv2_x", "conv3_x", "conv4_x", "conv5_x")
POOLED, OVER, SCORES = "pooled", "over snippets", "scores"  # features of a snippet, features and scores of a clip
ROWS = (*STAGES, POOLED, OVER, SCORES)
CLASSES, SIZE, SNIPPETS = 101, 224, PAPER.sampling.snippets  # of the networks that are looked at
Shape = tuple[int, ...]


def meetings_drawing() -> Shown:
    """The six pairs of streams, and what passes between them."""
    found = meetings()
    told = "; ".join(f"{name} ({whose}): {in_words(found[m])}" for m, (name, whose) in TITLES.items())
    return show(
        draw_meetings({title: found[m] for m, title in TITLES.items()}, ROWS, STAGES),
        alt="Six pairs of columns, the stream of frames at the left and that of flow at the right, each from "
        f"{ROWS[0]} to its {ROWS[-1]}, and below each pair the fused scores. {told}.",
        caption="The ideas on one backbone, a ResNet-50 for each stream, as the live networks have them. Green is what "
        "passes between the streams, and what they share; the training, and the mean of both streams' logits at the "
        "bottom, are the same for all. A double outline is another network. Not drawn is what joins nothing: the "
        "filters over time of ST-ResNet, and the layers between STILT's attention and its scores.",
    )


def in_words(meeting: Meeting) -> str:
    """What passes between the streams, as a sentence without its end."""
    found: dict[str, list[str]] = {}
    for (a, there), (b, here), training in meeting.links:
        way = f"from {a} to {b}{', in training only,' if training else ''} at "
        found.setdefault(way, []).append(there if there == here else f"{there} to {here}")
    parts = [way + " and ".join(places) for way, places in found.items()] or ["nothing passes"]
    parts += [f"one set of weights for both at {row}" for row in meeting.shared]
    return ", ".join(parts + ([f"the stream of flow is a {meeting.unlike}"] if meeting.unlike else []))


# ---------------------------------------------------------------- read off the live networks


@cache
def meetings() -> dict[str, Meeting]:
    """Where the streams of each method of `TITLES` meet: its networks are run, nothing is trained."""
    unlike = networks(PAPER)["unlike-flow"].backbone
    return {
        "two-stream": Meeting(),
        "heterogeneous": Meeting(unlike=BACKBONES[unlike]),
        "cross-enhancement": _teaching(),
        "st-resnet": _residuals(),
        "ccs": _affinities(),
        "stilt": _attention(),
    }


def _inputs(size: int, clips: int = 1, snippets: int = SNIPPETS) -> tuple[Tensor, Tensor]:
    """Frames (B, T, 3, H, W) and flow (B, T, 2L, H, W), all zero."""
    first = (3, 2 * PAPER.sampling.flow_frames)
    rgb, flow = (torch.zeros(clips, snippets, channels, size, size) for channels in first)
    return rgb, flow


def _places(trunk: Any, x: Tensor) -> dict[Shape, str]:
    """The shape of one snippet's features at each place of a stream, (C, h, w) or (C,) -> the place."""
    found = {tuple(y.shape[1:]): name for name, y in trunk.features(x.flatten(0, 1)).items() if name in STAGES}
    return found | {(trunk.channels,): POOLED}


def _keep(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that keeps what a layer is given."""

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[name] = given[0]

    return keep


def _teaching() -> Meeting:
    """What is compared in training: features of the teacher and of the student, told by their shapes."""
    with torch.device("meta"), torch.no_grad():
        model = networks(PAPER)["taught-frames"].build(CLASSES)
        assert isinstance(model, TaughtStream)
        rgb, flow = _inputs(SIZE)
        outputs = model.train()(rgb, flow)
        teacher, student = _places(model.teacher.trunk, flow), _places(model.student.trunk, rgb)
    links = []
    for bridge in ("inner", "output"):
        there, here = (tuple(outputs[f"{end} {bridge}"].shape[2:]) for end in ("teacher", "student"))
        links.append(Link(("flow", teacher[there]), ("frames", student[here]), training=True))
    return Meeting(tuple(links))


def _residuals() -> Meeting:
    """Units whose residual branch sees not what the unit before gave, but that plus what the other stream's gave."""
    names = {"appearance": "frames", "motion": "flow"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = st_resnet.build(replace(networks(SMALL)["st-resnet"].settings, width=1 / 16), CLASSES).eval()
    seen: dict[str, Tensor] = {}
    trace: st_resnet.Maps = {}
    with ExitStack() as hooks, torch.no_grad():
        for name, trunk in model.streams.items():
            for stage, layer in enumerate(st_resnet.stage_layers(trunk), start=2):
                for number, unit in enumerate(layer, start=1):
                    first = unit.get_submodule("conv1")
                    keep = _keep(seen, f"{name}.conv{stage}_{number}")
                    hooks.callback(first.register_forward_pre_hook(keep).remove)
        noise = torch.Generator().manual_seed(0)
        rgb, flow = (torch.randn(x.shape, generator=noise) for x in _inputs(64, snippets=2))
        model.maps(rgb, flow, trace)
    links, last = [], {name: f"{name}.pool1" for name in names}
    for unit_name in seen:
        name, place = unit_name.split(".")
        [other] = names.keys() - {name}
        given = trace[last[name]]
        if not torch.equal(seen[unit_name], given):
            assert torch.equal(seen[unit_name], given + trace[last[name].replace(name, other)])
            row = f"{place.split('_')[0]}_x"
            links.append(Link((names[other], row), (names[name], row)))
        last[name] = unit_name
    return Meeting(tuple(links))


def _affinities() -> Meeting:
    """What the connection block is given, told by its shape; what losses compare; what both streams pass through."""
    given: dict[str, Tensor] = {}
    passed: list[nn.Module] = []
    with torch.device("meta"), torch.no_grad(), ExitStack() as hooks:
        model = networks(PAPER)["ccs"].build(CLASSES)
        assert isinstance(model, ccs.CCS) and model.block is not None
        hooks.callback(model.block.register_forward_pre_hook(_keep(given, "block")).remove)
        for stream in STREAMS:
            layer = model.classifier(stream)
            hooks.callback(layer.register_forward_pre_hook(lambda used, _: passed.append(used)).remove)
        rgb, flow = _inputs(SIZE, clips=2)
        outputs = model.train()(rgb, flow)
        places = _places(model.stream("rgb").trunk, rgb)
    maps = given["block"].shape  # (B, C, T, h, w)
    links = _both_ways(places[maps[1], *maps[3:]])
    if any(name.endswith(FEATURE) for name in outputs):  # z of Eq. 4 and 5, a clip's
        links += _both_ways(OVER, training=True)
    return Meeting(tuple(links), shared=(SCORES,) if len(set(passed)) == 1 else ())


def _both_ways(row: str, *, training: bool = False) -> list[Link]:
    return [Link((a, row), (b, row), training) for a, b in (("flow", "frames"), ("frames", "flow"))]


def _attention() -> Meeting:
    """What guides each step of the co-attention, told by the step that gave it."""
    names = {"spatial": "frames", "temporal": "flow"}
    links: list[Link] = []
    gave: list[tuple[Tensor, tuple[str, str]]] = []  # what a step gave, and where
    with torch.device("meta"), torch.no_grad(), ExitStack() as hooks:
        model = networks(PAPER)["stilt"].build(CLASSES)
        assert isinstance(model, stilt.STILT)
        first, second = (names[m] for m in model.order)

        def follow(step: nn.Module, given: tuple[Tensor, Tensor | None], got: tuple[Tensor, Tensor]) -> None:
            assert given[0].shape[1] == SNIPPETS  # it attends to a clip's pooled snippets
            own = second if step is model.interaction.second else first
            if getattr(step, "w_g", None) is not None:  # without weights for it a guide has no effect
                links.extend(Link(place, (own, OVER)) for made, place in gave if made is given[1])
            # The first step only sums up the pooled snippets of its stream, to guide the next.
            gave.append((got[0], (own, POOLED if step is model.interaction.summary else OVER)))

        for step in model.interaction.children():
            hooks.callback(step.register_forward_hook(follow).remove)
        model.eval()(*_inputs(SIZE))
    return Meeting(tuple(links))
