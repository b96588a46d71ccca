"""What is trained for the chapter of cross-enhancement: two plain streams, students of either, and the controls.

`VARIANTS` names every training. A student starts as the plain stream of the same seed does, and sees the same clips in
the same order (ledger cross_enhancement-L23): its teacher is all that differs. Pairs of streams and the fusion layer on
their logits follow from finished runs, in `cross_enhancement_scores`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from repro.data.clips import Sampling
from repro.errors import ReproError, nearest
from repro.experiments import Experiment, States
from repro.models.i3d import load_i3d
from repro.models.weight_files import weights_for
from repro.papers.cross_enhancement import (
    BRIDGES,
    Config,
    Pair,
    Stream,
    Taught,
    Teaching,
    TwoStream,
    join,
    start_from,
    teaching_loss,
)
from repro.papers.cross_enhancement_layers import STREAMS, Fused3D, Fused3DConfig, initialise_trunks
from repro.training import Recipe

# The files that a folder of weights holds: one for each I3D, as published, or GoogLeNet, which is inflated.
FILES = {"rgb": "i3d_rgb", "flow": "i3d_flow", "fused": "googlenet", "together": ""}
# Those whose fit to training clips is asked for, or whose scores there a fusion layer is learned from.
ON_TRAINING_CLIPS = ("rgb", "flow", "rgb-taught", "flow-taught", "rgb-taught@output-only")
SNIPPETS = "chain5"  # the test of 3D-Fused, at its five snippets
PROPOSED = "e"  # the bridge that stands for the paper's (ledger cross_enhancement-L2)


@dataclass(frozen=True)
class Variant:
    """One training. `kind`: "stream", "taught", "fused" (3D-Fused) or "together" (the last stage, streams and all).

    `stream` is the stream that is trained, none for networks of both; `teaching` are settings of `Teaching`.
    """

    kind: str
    stream: str = ""
    teaching: Mapping[str, Any] = field(default_factory=dict)


def _variants() -> dict[str, Variant]:
    out = {stream: Variant("stream", stream) for stream in STREAMS}
    out |= {f"{stream}-taught": Variant("taught", stream) for stream in STREAMS}  # Table 3, both directions
    changes: dict[str, Mapping[str, Any]] = {
        # The 2 x 2 grid of bridges (ledger cross_enhancement-L14); with neither the student is the plain stream.
        "output-only": {"alpha": 0.0},
        "inner-only": {"beta": 0.0},
        **{f"bridge-{letter}": {"bridge": letter} for letter in BRIDGES if letter != PROPOSED},
        # The weights that the paper does not give (ledger cross_enhancement-L5).
        "weights-0.1": {"alpha": 0.1, "beta": 0.1},
        "weights-10": {"alpha": 10.0, "beta": 10.0},
        "inner-10": {"alpha": 10.0},
        "output-10": {"beta": 10.0},
        "logits": {"output": "logits"},  # ledger cross_enhancement-L7
    }
    out |= {f"rgb-taught@{name}": Variant("taught", "rgb", teaching) for name, teaching in changes.items()}
    return out | {"fused-3d": Variant("fused"), "together": Variant("together")}


VARIANTS = _variants()


@dataclass(frozen=True)
class Preset:
    """One scale at which all variants are run."""

    recipes: Mapping[str, Recipe]  # by stream, "fused" and "together"
    sampling: Sampling  # of I3D: T frames in a row, each with the field that begins at it
    fused: Sampling  # of 3D-Fused: snippets
    protocol: str
    width: float
    weights: str
    short_side: int  # of stored frames, px
    per_class: tuple[int, int] | None = None


PAPER = Preset(
    # Sec. 4.3: rate .001, momentum .9, weight decay .0005, batch 6; the rest is ours (ledger cross_enhancement-L15):
    # 60,000 updates with two drops, weights of GoogLeNet, crops at several scales, mirroring.
    recipes={
        "rgb": Recipe(60_000, 6, 6, 1e-3, milestones=(40_000, 50_000)),
        "flow": Recipe(60_000, 6, 6, 1e-3, milestones=(40_000, 50_000)),
        "fused": Recipe(60_000, 6, 6, 1e-3, milestones=(40_000, 50_000)),
        "together": Recipe(10_000, 6, 6, 1e-4, milestones=(8_000,)),
    },
    sampling=Sampling(64, 1, 224, stride=(1, 1), frame_offset=0),
    fused=Sampling(5, 10, 224, stride=(10, 10)),
    protocol="chain64",
    width=1.0,
    weights="imagenet",
    short_side=256,
)
SMALL = Preset(
    # DEVIATION: from random weights, with a batch and a schedule for that. The rate is the best of .005, .015, .05 for
    # the plain streams, on one of four folds of motionshapes' training clips.
    recipes={
        "rgb": Recipe(300, 16, 16, 0.015, schedule="cosine", warmup=20),
        "flow": Recipe(300, 16, 16, 0.015, schedule="cosine", warmup=20),
        "fused": Recipe(300, 16, 16, 0.015, schedule="cosine", warmup=20),
        "together": Recipe(60, 16, 16, 0.0015, schedule="cosine", warmup=5),
    },
    # DEVIATION: 16 frames, two apart, which cover as much of these clips as 64 in a row do of a usual one. Every
    # field's mean is taken from it, which removes a shaking camera (Simonyan and Zisserman 2014).
    sampling=Sampling(16, 1, 56, scales=(1.0, 0.875), subtract_mean_flow=True, stride=(2, 2), frame_offset=0),
    fused=Sampling(5, 5, 56, scales=(1.0, 0.875), subtract_mean_flow=True, stride=(7, 7)),
    protocol="chain16",
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
        return SMALL if dataset != "weizmann" else _with(SMALL, lambda r: replace(r, iterations=r.iterations // 2))
    if name == "live":
        return _with(SMALL, lambda r: replace(r, iterations=15, batch=8, micro_batch=8, warmup=0), per_class=(4, 2))
    short = _with(SMALL, lambda r: replace(r, iterations=2, batch=4, micro_batch=4, warmup=0), per_class=(1, 1))
    return replace(short, sampling=replace(SMALL.sampling, snippets=8))


def _with(scale: Preset, change: Any, per_class: tuple[int, int] | None = None) -> Preset:
    return replace(scale, recipes={name: change(r) for name, r in scale.recipes.items()}, per_class=per_class)


def experiments(preset_name: str, dataset: str, weights: str = "auto") -> dict[str, Experiment]:
    """Every training of the chapter at one scale, by name. `weights` other than "auto" replaces the preset's."""
    scale = preset(preset_name, dataset)
    first = scale.weights if weights == "auto" else weights
    out: dict[str, Experiment] = {}
    for name, variant in VARIANTS.items():
        out[name] = Experiment(
            paper="cross_enhancement",
            name=name,
            preset=preset_name,
            recipe=scale.recipes[variant.stream or variant.kind],
            protocol=SNIPPETS if variant.kind == "fused" else scale.protocol,
            per_class=scale.per_class,
            weights=weights,
            backbone=FILES[variant.stream or variant.kind],
            keep=("train", "test") if name in ON_TRAINING_CLIPS else ("test",),
            **NETWORKS[variant.kind](variant, scale, first, out),
        )
    return out


Fields = dict[str, Any]  # of an Experiment
Done = Mapping[str, Experiment]  # those before it


def _plain(variant: Variant, scale: Preset, weights: str, done: Done) -> Fields:
    config = Config(variant.stream, scale.width)
    return {
        "config": {**dataclasses.asdict(config), "weights": weights},
        "sampling": replace(scale.sampling, streams=(variant.stream,)),
        "build": partial(plain, config, weights),
    }


def _student(variant: Variant, scale: Preset, weights: str, done: Done) -> Fields:
    teaching = Teaching(variant.stream, width=scale.width, **variant.teaching)
    return {
        "config": {**dataclasses.asdict(teaching), "weights": weights},
        "sampling": scale.sampling,
        "build": partial(student, teaching, weights),
        "start": (done[teaching.teacher],),
        "begin": _begin_student,
        "loss": partial(teaching_loss, teaching),
    }


def _fused(variant: Variant, scale: Preset, weights: str, done: Done) -> Fields:
    config = Fused3DConfig(width=scale.width, flow_frames=scale.fused.flow_frames)
    return {
        "config": {**dataclasses.asdict(config), "weights": weights},
        "sampling": scale.fused,
        "build": partial(fused_3d, config, weights),
    }


def _together(variant: Variant, scale: Preset, weights: str, done: Done) -> Fields:
    """The last stage as Sec. 3.2 has it for Kinetics, streams and all (ledger cross_enhancement-L8)."""
    pair = Pair("all", scale.width)
    return {
        "config": {**dataclasses.asdict(pair), "weights": weights},
        "sampling": scale.sampling,
        "build": partial(TwoStream, pair),
        "start": (done["rgb-taught"], done["flow"]),
        "begin": _begin_together,
    }


NETWORKS = {"stream": _plain, "taught": _student, "fused": _fused, "together": _together}


def plain(config: Config, weights: str, num_classes: int) -> Stream:
    """Build a plain stream; `weights` as `load_i3d` takes them, or a folder of files."""
    model = Stream(config, num_classes)
    load_i3d(model.i3d, weights_for(weights, FILES[config.stream]))
    return model


def student(teaching: Teaching, weights: str, num_classes: int) -> Taught:
    """Build a student, which begins as the plain stream does, beside a teacher whose weights come when a run begins."""
    model = Taught(teaching, num_classes)
    load_i3d(model.student.i3d, weights_for(weights, FILES[teaching.student]))
    return model


def fused_3d(config: Fused3DConfig, weights: str, num_classes: int) -> Fused3D:
    """Build 3D-Fused; its image networks start from GoogLeNet's weights."""
    model = Fused3D(config, num_classes)
    initialise_trunks(model, weights_for(weights, FILES["fused"]))
    return model


def _begin_student(model: nn.Module, states: States) -> None:
    """Sec. 3.1, 3.2: the teacher is trained first, then frozen."""
    assert isinstance(model, Taught)
    start_from(model, states[0])


def _begin_together(model: nn.Module, states: States) -> None:
    """Put the taught stream and its teacher into the pair."""
    assert isinstance(model, TwoStream)
    join(model, *states)
