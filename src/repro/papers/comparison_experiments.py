"""The five ideas side by side: one backbone, one recipe, one budget, one protocol.

Each paper compares its idea with others' numbers, from other backbones, budgets and tests. Here every training has the
same batches of the same snippets for as many steps, and every pair of streams is fused alike, so that what is left of a
difference is the idea's, with all that it brings. `VARIANTS` names every training; which of them make a method is in
`METHODS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from repro.data.clips import Sampling
from repro.errors import ReproError, nearest
from repro.experiments import Experiment, States
from repro.models.weight_files import weights_for
from repro.models.weights import load_weights
from repro.papers import ccs, heterogeneous, st_resnet, stilt
from repro.papers.ccs_losses import total_loss
from repro.papers.cross_enhancement import Teaching, teaching_loss
from repro.training import Loss, Recipe, sum_of_losses

BACKBONE = "resnet50"  # of all streams: three of the five papers have it, and filters over time need its bottlenecks
UNLIKE = "bn_inception"  # the one other backbone: that of flow where unlike networks are the idea
INNER = "conv4_x"  # where a stream teaches the other: the last stage but one, as I3D's middle
TEACHING = Teaching("rgb")  # alpha = beta = gamma = 1; its bridge is I3D's and not used here

# Which output of a training is which stream's. Those with two read both inputs: a joint network.
OUTPUTS: dict[str, dict[str, str]] = {
    "frames": {"rgb": "spatial"},
    "flow": {"flow": "temporal"},
    "unlike-flow": {"flow": "temporal"},
    "taught-frames": {"rgb": "spatial"},
    "st-resnet": {"rgb": "appearance", "flow": "motion"},
    "ccs": {"rgb": "rgb", "flow": "flow"},
    "stilt": {"rgb": "spatial", "flow": "temporal"},
}
JOINT = tuple(name for name, outputs in OUTPUTS.items() if len(outputs) == 2)

# What decides with which trainings' outputs, all of them averaged: the methods that are compared.
METHODS: dict[str, tuple[str, ...]] = {
    "frames": ("frames",),
    "flow": ("flow",),
    "two-stream": ("frames", "flow"),
    "heterogeneous": ("frames", "unlike-flow"),
    "cross-enhancement": ("taught-frames", "flow"),
    "st-resnet": ("st-resnet",),
    "ccs": ("ccs",),
    "stilt": ("stilt",),
}


class TaughtStream(nn.Module):
    """Cross-enhancement's idea on image networks: a stream of frames with a frozen stream of flow beside it.

    Features are compared in two places, after stage `INNER` and after the last pool, as means over a clip's elements.
    """

    def __init__(self, frames: heterogeneous.Config, flow: heterogeneous.Config, num_classes: int) -> None:
        super().__init__()
        self.student = heterogeneous.build(frames, num_classes)
        self.teacher = heterogeneous.build(flow, num_classes).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> TaughtStream:
        """Switch the mode of the student; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> dict[str, Tensor]:
        """Return {"spatial": logits (B, n)} for rgb (B, T, 3, H, W); in training, with flow (B, T, 2L, H, W), both ends
        of both bridges too, as `teaching_loss` takes them."""
        if not self.training:
            return self.student(rgb, flow)  # type: ignore[no-any-return]
        if rgb is None or flow is None:
            raise ReproError("teaching needs frames and flow: pass rgb and flow")
        logits, inner_s, output_s = _traced(self.student, rgb)
        _, inner_t, output_t = _traced(self.teacher, flow)
        ends = {"student inner": inner_s, "teacher inner": inner_t.detach()}
        return {"spatial": logits, **ends, "student output": output_s, "teacher output": output_t.detach()}


def _traced(stream: heterogeneous.Stream, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, n), features after `INNER` (B, T, c, h, w) and after the last pool (B, T, c') of x (B, T, C, H, W)."""
    maps = stream.trunk.features(x.flatten(0, 1))
    pooled = stream.pool(list(maps.values())[-1]).flatten(1)  # (B*T, c')
    scores = stream.classify(stream.dropout(pooled)).unflatten(0, x.shape[:2])
    return heterogeneous.consensus(scores), *(y.unflatten(0, x.shape[:2]) for y in (maps[INNER], pooled))


def taught_loss(outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Eq. 1 of cross-enhancement on the outputs of `TaughtStream` in training."""
    return teaching_loss(TEACHING, {**outputs, TEACHING.student: outputs["spatial"]}, labels)


@dataclass(frozen=True)
class Preset:
    """The scale that all trainings share."""

    recipe: Recipe
    sampling: Sampling
    protocol: str
    width: float
    weights: str
    short_side: int  # of stored frames, px
    per_class: tuple[int, int] | None = None


BATCH = (8, 4)  # classes and clips of each: CCS compares the clips of a batch, so all have such batches
PAPER = Preset(
    # No paper's own; the rate of cross-enhancement, CCS and STILT.
    recipe=Recipe(20_000, 32, 32, 1e-3, milestones=(10_000, 16_000), balanced=BATCH),
    sampling=Sampling(snippets=3, flow_frames=5, crop=224),
    protocol="25x1",
    width=1.0,
    weights="imagenet",
    short_side=256,
)
SMALL = Preset(
    # Chosen among .005, .015, .05 and .15 on fold 1/4 of motionshapes' training clips, seed 1: frames, flow and stilt.
    recipe=Recipe(600, 32, 32, 0.015, schedule="cosine", warmup=20, balanced=BATCH),
    sampling=Sampling(snippets=3, flow_frames=5, crop=56, scales=(1.0, 0.875), subtract_mean_flow=True),
    protocol="quick",
    width=0.25,
    weights="none",
    short_side=64,
)
KNOWN = ("paper", "small", "live", "smoke")


def preset(name: str, dataset: str) -> Preset:
    """The scale of that name for a data set: paper, small, live (small, a minute) or smoke (seconds)."""
    if name not in KNOWN:
        raise ReproError(f"unknown preset '{name}'{nearest(name, KNOWN)}: use one of {', '.join(KNOWN)}")
    if name == "paper":
        return PAPER
    if name == "small":
        return _changed(SMALL, iterations=SMALL.recipe.iterations // 2) if dataset == "weizmann" else SMALL
    if name == "live":
        live = _changed(SMALL, iterations=30, batch=16, micro_batch=16, warmup=0, balanced=(4, 4))
        return replace(live, per_class=(4, 2))
    smoke = _changed(SMALL, iterations=2, batch=4, micro_batch=4, warmup=0, balanced=(2, 2))
    return replace(smoke, protocol="smoke", per_class=(1, 1))


def _changed(scale: Preset, **changes: Any) -> Preset:
    return replace(scale, recipe=replace(scale.recipe, **changes))


@dataclass(frozen=True)
class Network:
    """What is built and trained: its settings, inputs, construction and loss; `trunks(model)` are its backbones."""

    settings: Any  # a paper's Config, or several
    streams: tuple[str, ...]
    build: Callable[[int], nn.Module]
    trunks: Callable[[Any], Iterable[nn.Module]]
    backbone: str = BACKBONE
    loss: Loss = sum_of_losses


def _stream(role: str, backbone: str, scale: Preset) -> heterogeneous.Config:
    return heterogeneous.Config(
        role, backbone, width=scale.width, segments=scale.sampling.snippets, dropout=0.0, partial_bn=False,
        flow_frames=scale.sampling.flow_frames,
    )  # fmt: skip


def networks(scale: Preset) -> dict[str, Network]:
    """Every network, by the name of its training. None has dropout, and all batch moments move, over the batch."""
    shared: dict[str, Any] = {"backbone": BACKBONE, "width": scale.width, "flow_frames": scale.sampling.flow_frames}
    frames, flow = (_stream(role, BACKBONE, scale) for role in ("spatial", "temporal"))
    unlike = _stream("temporal", UNLIKE, scale)
    residual = st_resnet.Config(**shared)
    # CCS as proposed, block and losses; the head is its own, too.
    crossing = ccs.Config(**shared, segments=scale.sampling.snippets, dropout=(0.0, 0.0), partial_bn=False, test="clip")
    attending = stilt.Config(**shared)
    both = ("rgb", "flow")
    alone: Callable[[Any], Any] = lambda model: [model.trunk]  # noqa: E731
    pair: Callable[[Any], Any] = lambda model: model.streams.values()  # noqa: E731
    return {
        "frames": Network(frames, ("rgb",), partial(heterogeneous.build, frames), alone),
        "flow": Network(flow, ("flow",), partial(heterogeneous.build, flow), alone),
        "unlike-flow": Network(unlike, ("flow",), partial(heterogeneous.build, unlike), alone, backbone=UNLIKE),
        "taught-frames": Network(
            frames, both, partial(TaughtStream, frames, flow), lambda model: [model.student.trunk], loss=taught_loss
        ),
        "st-resnet": Network(residual, both, partial(st_resnet.build, residual), pair),
        "ccs": Network(
            crossing, both, partial(ccs.build, crossing), lambda model: [s.trunk for s in model.streams.values()],
            loss=partial(total_loss, losses=crossing.losses),
        ),
        "stilt": Network(attending, both, partial(stilt.build, attending), lambda model: model.backbones.values()),
    }  # fmt: skip


VARIANTS = tuple(networks(SMALL))


def experiments(preset_name: str, dataset: str, weights: str = "auto") -> dict[str, Experiment]:
    """Every training of the comparison at one scale, by name. `weights` other than "auto" replaces the preset's."""
    scale = preset(preset_name, dataset)
    first = scale.weights if weights == "auto" else weights
    out: dict[str, Experiment] = {}
    for name, network in networks(scale).items():
        taught = name == "taught-frames"
        out[name] = Experiment(
            paper="comparison",
            name=name,
            preset=preset_name,
            config={"network": name, **dataclasses.asdict(network.settings), "weights": first},
            recipe=scale.recipe,
            sampling=replace(scale.sampling, streams=network.streams),
            protocol=scale.protocol,
            build=partial(built, network, first),
            per_class=scale.per_class,
            start=(out["flow"],) if taught else (),
            begin=_begin if taught else None,
            weights=weights,
            backbone=network.backbone,
            loss=network.loss,
            keep=("test",),
        )
    return out


def built(network: Network, weights: str, num_classes: int) -> nn.Module:
    """Build the network and load its backbones' starting weights ("none", "imagenet", a file or a folder of files)."""
    model = network.build(num_classes)
    file = weights_for(weights, network.backbone)
    for trunk in network.trunks(model):
        load_weights(trunk, file)
    return model


def _begin(model: nn.Module, states: States) -> None:
    """Give the teacher the weights of the trained stream of flow."""
    assert isinstance(model, TaughtStream)
    model.teacher.load_state_dict(states[0])
