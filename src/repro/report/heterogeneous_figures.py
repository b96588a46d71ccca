"""Figures of the heterogeneous network's chapter, drawn from finished runs, generated images and live models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from repro.data.textures import texture
from repro.metrics import bootstrap_interval, paired_difference
from repro.models.base import Backbone
from repro.papers.heterogeneous import SPATIAL, TEMPORAL, build
from repro.papers.heterogeneous_derived import BEGINNINGS, MAIN
from repro.papers.heterogeneous_experiments import preset
from repro.papers.heterogeneous_fusion import WEIGHT, WEIGHTS
from repro.papers.heterogeneous_numbers import agreements, right_at, weight_name
from repro.papers.heterogeneous_scores import BASES, FOLDS, GRID, LIKE, PAIR, UNLIKE, HeterogeneousScores
from repro.report import diagrams, grids
from repro.report.chapter_figures import NO_RUN, ChapterFigures, absent
from repro.report.figures import show
from repro.report.grids import Valued
from repro.report.theme import APPEARANCE, CROSSING, FUSED, MOTION, Shown, lighter

Array = np.ndarray[Any, Any]
NAMES = {"resnet50": "ResNet-50", "resnet101": "ResNet-101", "resnet152": "ResNet-152", "bn-inception": "BN-Inception"}
KINDS = {"the same network twice": LIKE, "two unlike networks": UNLIKE}
KIND_COLOURS = dict(zip(KINDS, (FUSED, CROSSING), strict=True))
METHODS = {  # what the figures call them -> how the scores call them
    "spatial": MAIN[0],
    "temporal": MAIN[1],
    "best like pair": "best-isomorphic",
    "unlike pair": PAIR,
    "unlike pair, transplanted": "proposed",
}
COLOURS = dict(zip(METHODS, (APPEARANCE, MOTION, FUSED, CROSSING, lighter(CROSSING, 0.4)), strict=True))
FILTERS_SHOWN = 2  # of each network
PICTURES = (4, 6)  # classes, images of each


def pair_name(pair: str) -> str:
    """A pair of the grid as the page calls it."""
    return " + ".join(NAMES[b] for b in pair.split("+"))


# ---------------------------------------------------------------- the network, before any run


def network_drawing() -> Shown:
    """Figures 1 and 2 of the paper: two unlike networks, three snippets each, their consensus and the fusion."""
    classes, segments = 101, SPATIAL.segments
    streams = {}
    with torch.device("meta"):
        for config in (SPATIAL, TEMPORAL):
            what = f"{segments} frames" if config.role == "spatial" else f"{segments} stacks"
            first = diagrams.Box(what, f"{config.in_channels} x 224 x 224")
            trunk = build(config, classes).trunk
            tail = [
                diagrams.Box("average pool", f"{segments} x {trunk.channels}"),
                diagrams.Box("classify", f"{segments} x {classes}"),
                diagrams.Box("consensus, Eq. 2", str(classes)),
                diagrams.Box("softmax, Eq. 2", str(classes)),
            ]
            streams[config.role] = [first, *_stage_boxes(trunk), *tail]
    layers = {role: ", ".join(b.name for b in boxes[1:-4]) for role, boxes in streams.items()}
    return show(
        diagrams.two_stream_drawing(streams, (), [diagrams.Box(f"weighted 1 : {WEIGHT:g}", str(classes))]),
        alt=f"Two columns of layers that never meet: the spatial stream through {layers['spatial']}, the temporal "
        f"stream through {layers['temporal']}; in each the scores of {segments} snippets are averaged, and the two "
        "softmax outputs are averaged with weights at the end.",
        caption=f"The network, read off the live models (full width, {classes} classes): "
        f"{NAMES['resnet101']} for frames, {NAMES['bn-inception']} for flow; in brackets the number of residual "
        f"units. Each of the {segments} snippets passes the same weights; the consensus is the mean of their scores.",
    )


def _stage_boxes(trunk: Backbone) -> list[diagrams.Box]:
    """Stages of a base network; inception blocks of one size together."""
    boxes: dict[str, diagrams.Box] = {}
    for name, modules in trunk.stages().items():
        if name.startswith("pool"):
            continue
        maps = f"{trunk.endpoints[name]} maps"
        if name.startswith("inception"):
            size, block = name[-2], name[-1]
            boxes[size] = diagrams.Box(f"inception {size}a–{block}", maps)
        else:
            unit = modules[0]
            count = f" ({len(unit)})" if isinstance(unit, torch.nn.Sequential) else ""
            boxes[name] = diagrams.Box(f"{name}{count}", maps)
    return list(boxes.values())


def texture_pictures() -> Shown:
    """Examples of the images that stand in for ImageNet in the small networks' pre-training."""
    images = preset("small", "").images
    classes, count = PICTURES
    rows = {
        f"class {label + 1}": [
            texture(label, images["seed"], "train", k, images["size"]).permute(1, 2, 0).numpy() for k in range(count)
        ]
        for label in range(classes)
    }
    return show(
        grids.pictures(rows),
        alt=f"Rows of {count} small pictures for {classes} of {images['classes']} classes: coloured dust in the shape "
        "of a fern, a snowflake or a cloud; within a row the shape is alike and the colours differ.",
        caption=f"What the small networks are pre-trained on, in place of ImageNet: {images['classes']} classes of "
        f"generated fractal textures, {images['per_class']} images each. Only the shape tells the class. They have "
        "edges and textures, but nothing of the world that ImageNet shows.",
    )


# ---------------------------------------------------------------- from runs


class HeterogeneousFigures(ChapterFigures):
    """Figures for the data set at hand."""

    main: HeterogeneousScores
    main_run, whole, whole_name = MAIN[0], "proposed", "the paper's pair (transplanted conv1)"
    methods, colours, on_camera = METHODS, COLOURS, ("spatial", "temporal", "unlike pair")

    def drawing(self) -> Shown:
        """Figures 1 and 2 of the paper."""
        return network_drawing()

    def textures(self) -> Shown:
        """What the small networks are pre-trained on."""
        return texture_pictures()

    def beginnings(self, backbone: str = "bn-inception") -> Shown:
        """Table 1 and Table 3 as pictures: conv1 from scratch, averaged and transplanted, before and after training."""
        rows: dict[tuple[str, str], Array] = {}
        told = []
        for way, end in BEGINNINGS.items():
            name = f"temporal-{backbone}{end}+conv1"
            if not self.main.seeds_with(name):
                continue
            run = self.main.runs[name, self.main.splits[0], self.main.seeds_with(name)[0]]
            both = run.arrays["conv1"].astype(float)  # (2, maps, 2L, 7, 7)
            strongest = np.argsort(-np.square(both[1]).sum((1, 2, 3)))[:FILTERS_SHOWN]
            rows |= {(way, "before"): both[0][strongest], (way, "after"): both[1][strongest]}
            share = [f"{100 * s:.0f} %" for s in run.arrays["equal_share"]]
            told.append(f"{way}: {share[0]} before, {share[1]} after")
        if not rows:
            return absent(NO_RUN)
        channels = [f"{axis}{i + 1}" for i in range(next(iter(rows.values())).shape[1] // 2) for axis in "uv"]
        return show(
            grids.filters(rows, channels),
            alt=f"First filters of the temporal {NAMES[backbone]}, {len(channels)} channels side by side, before and "
            f"after training. Energy that is the same in all channels: {'; '.join(told)}.",
            caption=f"The {FILTERS_SHOWN} strongest conv1 filters for each way to begin, channel by channel (u is to "
            "the right, v down). An averaged conv1 begins with the same filter in every channel: it adds up all "
            f"fields and cannot tell u from v. Energy that all channels share: {'; '.join(told)}.",
        )

    def _valued(self, method: str, seeds: Sequence[int]) -> Valued:
        found = self.main.correct(method, seeds=seeds)
        assert found is not None
        interval = bootstrap_interval(found[0], found[1])
        return Valued(interval.mean, interval.low, interval.high)

    def grid(self) -> Shown:
        """The figure that the paper should have had: every base network in both roles, fused 1:1.5."""
        seeds = self.main.seeds_with("best-isomorphic")
        if not seeds:
            return absent("Not run: the grid needs every base network in both roles.")
        inside = [[self._valued(f"{s}+{t}", seeds) for t in BASES] for s in BASES]
        alone = [[self._valued(f"{role}-{b}", seeds) for b in BASES] for role in ("spatial", "temporal")]
        names = [NAMES[b] for b in BASES]
        told = "; ".join(
            f"{NAMES[s]} with " + ", ".join(f"{NAMES[t]} {100 * v.mean:.1f}" for t, v in zip(BASES, line, strict=True))
            for s, line in zip(BASES, inside, strict=True)
        )
        return show(
            grids.heat_map(inside, alone[0], alone[1], (names, names), ("spatial network", "temporal network")),
            alt=f"Accuracy of all {len(GRID)} pairs, spatial with temporal: {told} %.",
            caption=f"Accuracy (%) of every pair on {self.main.dataset}, fused 1 : {WEIGHT:g}, over {len(seeds)} "
            f"seed{'s' * (len(seeds) > 1)}, with 95 % intervals; framed: the same network twice; margins: each stream "
            "alone; dark: the better pairs.",
        )

    def fusion_curve(self) -> Shown:
        """Accuracy of the paper's pair against the fusion weight, on the test clips and on the folds."""
        if not self.main.seeds_with(PAIR):
            return absent(NO_RUN)
        right = [right_at(self.main, w) for w in WEIGHTS]  # (S, N) each
        groups = self.main.groups(PAIR)
        bounds = np.array([(i.low, i.high) for r in right for i in [bootstrap_interval(r, groups)]])
        curves = {"test clips": np.stack([r.mean(1) for r in right])}
        marks = {f"the paper's weight, {WEIGHT:g}": WEIGHT}
        seeds = self.main.seeds_with(f"{PAIR}@chosen")
        chosen = ""
        if seeds:
            choices = [[self.main.choice(split, s) for split in self.main.splits] for s in seeds]
            curves["held-out training clips"] = np.stack([np.mean([c.curve for c in row], 0) for row in choices], 1)
            picked = sorted({c.weight for row in choices for c in row})
            chosen = f" Chosen on {len(FOLDS)} folds: {', '.join(map(weight_name, picked))}."
            marks |= {f"chosen on the folds: {weight_name(w)}": w for w in picked[:2]}
        told = ", ".join(f"{100 * c.mean():.1f} at {weight_name(w)}" for w, c in zip(WEIGHTS, right, strict=True))
        return show(
            grids.against_share(
                WEIGHTS, curves, {"test clips": bounds},
                {"test clips": FUSED, "held-out training clips": CROSSING}, marks, ("spatial", "temporal"),
            ),
            alt=f"Accuracy on the test clips against the weight of the temporal stream: {told}.{chosen}",
            caption=f"{pair_name(PAIR)}: accuracy against the weight of the temporal stream, the spatial one having 1; "
            f"dots are seeds, the band is the 95 % interval on the test clips.{chosen} Choosing on the test clips "
            "would be to read off the peak of the grey curve.",
        )  # fmt: skip

    def errors(self) -> Shown:
        """How much the errors of two streams have in common, and what fusing them gains (claim heterogeneous-4)."""
        seeds = self.main.seeds_with("best-isomorphic")
        found = (
            {kind: {p: v for p in pairs if (v := self._gain(p, seeds))} for kind, pairs in KINDS.items()}
            if seeds
            else {}
        )
        if not any(found.values()):
            return absent("Not run: the comparison needs every base network in both roles.")
        labels = {PAIR: pair_name(PAIR)}
        told = "; ".join(
            f"{pair_name(p)} {round(x.mean, 2) + 0:.2f} and {100 * y.mean:+.1f}"
            for members in found.values()
            for p, (x, y) in members.items()
        )
        scaled = {
            kind: {p: (x, Valued(*(100 * v for v in y))) for p, (x, y) in members.items()}
            for kind, members in found.items()
        }
        return show(
            grids.points(
                scaled, KIND_COLOURS, labels, xlabel="correlation of the two streams' errors",
                ylabel="fused minus the better stream (points)",
            ),
            alt=f"Pairs of networks by the correlation of their errors and the gain of fusing them, in points: {told}.",
            caption="If unlike networks told less of the same, the green squares would lie left of the grey dots, and "
            "the left would be the high side. Bars: 95 % intervals over seeds and groups of clips. The better stream "
            "is the one with the higher accuracy on the test clips.",
        )  # fmt: skip

    def _gain(self, pair: str, seeds: Sequence[int]) -> tuple[Valued, Valued] | None:
        """Correlation of errors, and accuracy of a pair less that of its better stream; None without a correlation."""
        product = np.stack([a.error_product for a in agreements(self.main)[pair]])
        if not np.isfinite(product).all():
            return None
        found = {m: self.main.correct(m, seeds=seeds) for m in (pair, *GRID[pair])}
        right = {m: f[0] for m, f in found.items() if f}
        groups = self.main.groups(pair)
        better = max(GRID[pair], key=lambda m: right[m].mean())
        x, y = bootstrap_interval(product, groups), paired_difference(right[pair], right[better], groups)
        return Valued(x.mean, x.low, x.high), Valued(y.mean, y.low, y.high)
