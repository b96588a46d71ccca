"""Figures of the ST-ResNet chapter: the paper's own three, drawn from the live model, and those made from results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor, nn

from repro.data.clips import TestSamples
from repro.errors import ReproError
from repro.evaluation import protocol
from repro.metrics import bootstrap_interval
from repro.papers.reported import number
from repro.papers.st_resnet import Config, Maps, STResNet, build, stage_layers
from repro.papers.st_resnet_derived import MAIN
from repro.papers.st_resnet_layers import Field, receptive_fields
from repro.papers.st_resnet_scores import StResNetScores
from repro.report import diagrams, figures, theme
from repro.report.chapter_figures import NO_RUN, ChapterFigures, absent
from repro.report.diagrams import Box
from repro.report.figures import show
from repro.report.theme import APPEARANCE, CROSSING, FUSED, INK, MOTION, SMALL, WIDTH, Shown, lighter, themed
from repro.scores import clip_tags
from repro.training import to_network

Array = np.ndarray[Any, Any]
STREAMS = {"appearance": "frame", "motion": "10 flows"}
STAR = Config(temporal_pool="max")  # ST-ResNet* at full size, where units have their printed widths
# What the figures call them -> how the scores call them.
METHODS = {"appearance": "appearance", "motion": "motion", "late fusion": "two-stream", "ST-ResNet": MAIN}
COLOURS = dict(zip(METHODS, (APPEARANCE, MOTION, FUSED, CROSSING), strict=True))
GRID = {
    "late fusion": "two-stream",
    "trained on": "plain",
    "+ residuals": "skips",
    "+ filters": "filters",
    "ST-ResNet (both)": MAIN,
}
GRID_COLOURS = dict(
    zip(GRID, (lighter(FUSED, 0.5), FUSED, lighter(CROSSING, 0.65), lighter(CROSSING, 0.4), CROSSING), strict=True)
)
BATCHES = {"4 clips": "appearance-bn4", "8 clips": "appearance", "whole batch": "appearance-bn-batch"}


class StResNetFigures(ChapterFigures):
    """Figures for the data set at hand."""

    main: StResNetScores
    main_run, whole, whole_name = MAIN, MAIN, "ST-ResNet"
    methods, colours, on_camera = METHODS, COLOURS, ("appearance", "motion", "ST-ResNet")

    def drawing(self) -> Shown:
        """Figure 1 of the paper."""
        return streams_drawing()

    def unit(self) -> Shown:
        """Figure 2 of the paper."""
        return unit_drawing()

    def support(self) -> Shown:
        """Figure 3 of the paper."""
        return support_drawing()

    def factors(self) -> Shown:
        """The figure that the paper should have had: residuals and filters apart, factor by factor."""
        return _Grid(self.chapter, self.main).factors()

    def batches(self) -> Shown:
        """Accuracy of the appearance stream against the number of clips that share their batch moments (claim 11)."""
        subsets: dict[str, Mapping[str, str]] = {"all classes": {}}
        if clip_tags(self.main.dataset):
            subsets["classes told by their look"] = {"factor": "appearance"}
        arrays, intervals = {}, {}
        seeds = self.main.seeds_with(*BATCHES.values())
        for label, subset in subsets.items():
            found = [f for method in BATCHES.values() if (f := self.main.correct(method, subset, seeds))]
            if len(found) == len(BATCHES):
                arrays[label] = np.stack([f[0].mean(1) for f in found])
                bounds = [bootstrap_interval(f[0], f[1]) for f in found]
                intervals[label] = np.array([(b.low, b.high) for b in bounds])
        if not arrays:
            return absent(NO_RUN)
        hues = dict(zip(subsets, (APPEARANCE, lighter(APPEARANCE, 0.5)), strict=False))
        text = "; ".join(f"{m}: " + ", ".join(f"{100 * v:.0f}" for v in a.mean(1)) for m, a in arrays.items())
        return show(
            figures.accuracy_against(list(BATCHES), arrays, intervals, hues, xlabel="clips that share their moments"),
            alt=f"Accuracy of the appearance stream with batch moments over {', '.join(BATCHES)}. {text}.",
            caption="Sub-batch normalisation in the appearance stream: the same network and batch, moments over fewer "
            "clips. Dots are seeds, lines 95 % intervals.",
        )


class _Grid(StResNetFigures):
    """The 2 x 2 grid of residuals and filters, beside late fusion."""

    methods, colours = GRID, GRID_COLOURS

    def factors(self) -> Shown:
        return ChapterFigures.factors(self)


# ---------------------------------------------------------------- Figure 1: the two streams


def streams_drawing() -> Shown:
    """Figure 1 of the paper: two ResNets and what crosses between them, from the live model (224 px, 101 classes)."""
    with torch.device("meta"):
        model = build(STAR, 101)
        inputs = torch.zeros(1, 1, 3, 224, 224), torch.zeros(1, 1, 20, 224, 224)
        trace: Maps = {}
        model.maps(*inputs, trace)
    counts = [len(layer) for layer in stage_layers(model.streams["appearance"])]
    streams, crossings = {}, []
    for name, first in STREAMS.items():
        size = inputs[0 if name == "appearance" else 1].shape[2]
        boxes = [Box(first, f"{size} x 224 x 224"), Box("conv1, pool1", _maps(trace[f"{name}.pool1"]))]
        for stage, count in enumerate(counts, start=2):
            boxes.append(Box(f"conv{stage}_1", _maps(trace[f"{name}.conv{stage}_1"])))
            last = f"{name}.conv{stage}_{count}"
            boxes.append(Box(f"units 2 to {count}", _maps(trace[last]), step="+" if name == "appearance" else ""))
        channels = model.classify[name].in_features
        streams[name] = [
            *boxes,
            Box("pools", f"{channels}"),
            Box("classes, own loss", f"{model.classify[name].out_features}"),
        ]
    crossings = [(("motion", i), ("appearance", i + 1)) for i in range(2, 2 + 2 * len(counts), 2)]
    return show(
        diagrams.two_stream_drawing(streams, crossings, [Box("mean of the logits", "101")]),
        alt="Two columns of layers, the appearance stream from a frame and the motion stream from ten flow fields. "
        "From the first unit of each of four stages of the motion stream an arrow crosses to the second unit of the "
        "same stage of the appearance stream. Each stream has its own loss; the logits are averaged.",
        caption="The network, read off the live model (full width). In four stages what the motion stream's first unit "
        "gives is added to what the residual branch of the appearance stream's second unit sees (+). "
        "Nothing goes back.",
    )


def _maps(x: Tensor) -> str:
    return f"{x.shape[1]} x {x.shape[2]}²"


# ---------------------------------------------------------------- Figure 2: one connected unit


def unit_drawing() -> Shown:
    """Figure 2 of the paper: the second units of conv5_x with the residual from motion (Eq. 2), from the live model."""
    with torch.device("meta"):
        model = build(STAR, 101)
    kernels = []
    unit = stage_layers(model.streams["appearance"])[3][1]
    for name in ("conv1", "conv2", "conv3"):
        weight = unit.get_parameter(f"{name}.weight")  # (O, I, 3, 1) over chunks, else (O, I, k, k)
        high, wide = weight.shape[2:]
        kernel = f"{wide} x {wide} x {high}" if high != wide else f"{wide} x {wide} x 1"
        kernels.append((kernel, f"{weight.shape[0]}"))
    fig = _unit([Box(k, f"{c} maps") for k, c in kernels])
    return show(
        fig,
        alt="Two residual units side by side. The appearance unit adds f(m), the output of the motion stream's unit "
        "before, to what its three convolutions see; its own input a goes around them unchanged. "
        f"Kernels: {', '.join(k for k, _ in kernels)}.",
        caption="One connected unit, with the kernels of the live conv5_2 (width x height x chunks). Motion enters the "
        "residual branch only: the identity path keeps a, so without motion the unit is the one that was pre-trained.",
    )


@themed
def _unit(layers: Sequence[Box]) -> Figure:
    n = len(layers)
    streams = {
        "appearance": [Box("a"), Box("a + f(m)", step="+"), *layers, Box("f(a + F)", "identity + branch")],
        "motion": [Box("f(m)"), *(replace(box, row=i + 2) for i, box in enumerate(layers)), Box("f(m + F)", row=n + 2)],
    }
    fig = diagrams.two_stream_drawing(streams, [(("motion", 0), ("appearance", 1))])
    ax = fig.axes[0]
    left = diagrams.EDGE
    right = WIDTH - diagrams.EDGE
    for x, out, hue in ((left, -0.17, APPEARANCE), (right, 0.17, MOTION)):
        _around(ax, x, x + out, (0, n + 2), hue)
    return fig


def _around(ax: Axes, edge: float, out: float, rows: tuple[int, int], hue: str) -> None:
    """The identity path of a unit: a line outside the boxes, from one row to another."""
    y0, y1 = (-diagrams.PITCH * (row + 0.5) for row in rows)
    ax.plot([edge, out, out], [y0, y0, y1], color=hue, lw=1.8, solid_joinstyle="round", zorder=2)
    ax.add_patch(FancyArrowPatch((out, y1), (edge, y1), arrowstyle="-|>", mutation_scale=14, color=hue, lw=1.8,
                                 shrinkA=0, shrinkB=0, zorder=2))  # fmt: skip


# ---------------------------------------------------------------- Figure 3: support in time


def support_drawing(chunks: int = 11) -> Shown:
    """Figure 3 of the paper: which chunks a unit of each layer sees, by probing the live model with `chunks` in."""
    fields = {
        name: f
        for name, f in receptive_fields(STAR).items()
        if name[:5] in ("conv2", "conv3", "conv4", "conv5", "pool5")
    }
    outputs = (chunks - 5) // 2 + 1  # of the pool: window 5, stride 2
    printed = number("st_resnet", "prose 3.3", "window after pool5", "value")
    printed /= number("st_resnet", "prose 3.3", "stride tau", "value")  # in chunks
    seen = ", ".join(f"{f.time} after {name}" for name, f in fields.items())
    return show(
        _support(fields, chunks),
        alt=f"Rows of dots, a dot for each chunk, and a bar over those that one unit sees: {seen}. Bars reach beyond "
        f"the {chunks} chunks of a training clip.",
        caption="Chunks that a unit in the middle of a clip sees, by layer: each pair of filters over time adds four. "
        f"Full dots are the {chunks} chunks of a training clip, rings the zeros beyond its ends. The pool over time "
        f"makes {outputs} of {chunks} chunks; the paper has a unit behind it see {printed:.0f} (ledger st_resnet-L3).",
    )


@themed
def _support(fields: Mapping[str, Field], chunks: int) -> Figure:
    reach = max(f.time for f in fields.values()) // 2 + 1
    fig = Figure(figsize=(WIDTH, 0.52 * (len(fields) + 1) + 0.9), layout="constrained")
    ax = fig.add_subplot()
    at = np.arange(-reach, reach + 1)
    inside = np.abs(at) <= chunks // 2
    rows = {"input": 1, **{name: f.time for name, f in fields.items()}}
    for y, (name, time) in enumerate(rows.items()):
        hue = CROSSING if name.startswith("conv") else FUSED
        ax.add_patch(Rectangle((-time / 2, y - 0.3), time, 0.6, color=theme.lighter(hue, 0.7), lw=0, zorder=1))
        ax.scatter(at[inside], np.full(inside.sum(), y), s=22, color=INK, zorder=3)
        ax.scatter(
            at[~inside],
            np.full((~inside).sum(), y),
            s=22,
            facecolor="white",
            edgecolor=theme.lighter(FUSED, 0.4),
            zorder=3,
        )
        ax.text(reach + 1, y, f"{time}", va="center", fontsize=SMALL)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(-reach - 0.8, reach + 2.2), ylim=(-0.6, len(rows) - 0.4), xlabel="chunks, tau frames apart")
    ax.set_xticks([-10, -5, 0, 5, 10])
    ax.grid(visible=False)
    return fig


# ---------------------------------------------------------------- for the notebook's demonstrations


def clip_tensors(page: StResNetFigures) -> dict[str, Tensor]:
    """The chunks of the example clip as the network gets them in the test: `rgb`, `flow` (1, T, C, h, w)."""
    lab, experiment = page.chapter.labs[0], page.chapter.experiments[MAIN]
    clip = next(c for c in page.chapter.dataset.clips if c.id == page.example())
    lab.prepare([clip])
    sample = TestSamples(lab.store, [clip], experiment.sampling, protocol(experiment.protocol))[0]
    given = to_network({k: x[:1] for k, x in sample.items()}, torch.device("cpu"), experiment.sampling)
    return {k: x for k, x in given.items() if x is not None}


def small_network(page: StResNetFigures, name: str = MAIN) -> STResNet:
    """An untrained network of this page's scale, always the same, in evaluation mode."""
    torch.manual_seed(0)
    model: nn.Module = page.chapter.experiments[name].build(len(page.chapter.dataset.classes)).eval()
    if not isinstance(model, STResNet):
        raise ReproError(f"the experiment {name} of this chapter is no ST-ResNet")
    return model
