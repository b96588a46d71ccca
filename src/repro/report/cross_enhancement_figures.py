"""Figures of the cross-enhancement chapter: the paper's own two from the live model, and those made from results."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from repro.metrics import bootstrap_interval, paired_difference
from repro.papers.cross_enhancement import BRIDGES, POSITIONS, Config, Stream, Teaching
from repro.papers.cross_enhancement_derived import FOLLOWED, PLACES, TENTHS
from repro.papers.cross_enhancement_experiments import PROPOSED, VARIANTS
from repro.papers.cross_enhancement_numbers import (
    BRIDGED,
    BY_FLOW,
    BY_RGB,
    MAIN,
    STRONG,
    WEAK,
    curves,
    distance_shares,
)
from repro.papers.cross_enhancement_printed import nine_bridges
from repro.papers.cross_enhancement_scores import CrossEnhancementScores
from repro.report.chapter_figures import CAMERAS, NO_RUN, ChapterFigures, absent
from repro.report.cross_enhancement_plots import accuracy_map, distance_plot, draw_teaching, gains, progress
from repro.report.figures import show
from repro.report.grids import Valued
from repro.report.theme import APPEARANCE, CROSSING, FUSED, MOTION, Shown, lighter
from repro.scores import clip_tags

Array = np.ndarray[Any, Any]
CLASSES = 400  # of the drawing: Kinetics
METHODS = {  # what the figures call them -> how the scores call them
    "RGB": "rgb",
    "RGB, taught": MAIN,
    "flow": "flow",
    "flow, taught": "flow-taught",
    "pair, flow teaches": BY_FLOW,
}
COLOURS = dict(zip(METHODS, (APPEARANCE, CROSSING, MOTION, lighter(CROSSING, 0.45), FUSED), strict=True))
PLAIN, MARS = "rgb", f"{MAIN}@output-only"  # without any bridge, and without the inner one
# Which stream teaches -> student taught and alone, pair with its teacher; and the hue of the teacher.
DIRECTIONS = {
    "flow teaches RGB": (MAIN, PLAIN, BY_FLOW),
    "RGB teaches flow": ("flow-taught", "flow", BY_RGB),
}
TEACHERS = dict(zip(DIRECTIONS, (MOTION, APPEARANCE), strict=True))
UNTAUGHT_PAIR = "two-stream"
LEARNING = dict(zip(FOLLOWED, ("RGB", "RGB, taught by flow"), strict=True))
DISTANT = {  # trainings whose distance to the teacher is drawn -> what the figure calls them
    PLAIN: "RGB, untaught",
    MARS: "output bridge only",
    f"{MAIN}@inner-only": "inner bridge only",
    WEAK: "both, weights 0.1",
    MAIN: "both, weights 1",
    STRONG: "both, weights 10",
}
GREENS = tuple(lighter(CROSSING, share) for share in (0.6, 0.3, 0.0))
DISTANT_COLOURS = dict(zip(DISTANT.values(), (APPEARANCE, lighter(FUSED, 0.4), FUSED, *GREENS), strict=True))


def teaching_weights() -> dict[tuple[str, str], str]:
    """The sweep of ledger cross_enhancement-L5: (alpha, beta) as text -> the training with these weights.

    With neither bridge a student is the plain stream.
    """
    out = {("0", "0"): PLAIN}
    for name, variant in VARIANTS.items():
        if variant.kind == "taught" and variant.stream == "rgb" and set(variant.teaching) <= {"alpha", "beta"}:
            teaching = Teaching("rgb", **variant.teaching)
            out[f"{teaching.alpha:g}", f"{teaching.beta:g}"] = name
    return out


# ---------------------------------------------------------------- Figures 1 and 2: who teaches whom


def teaching_drawing(student: str) -> Shown:
    """Figure 1 of the paper (student "rgb") or Figure 2 (student "flow"), from the live networks at full size."""
    teaching = Teaching(student)
    places = drawn_places()
    number = 1 if student == "rgb" else 2
    who, taught = (name.upper() if name == "rgb" else name for name in (teaching.teacher, student))
    chosen = " to ".join(BRIDGES[teaching.bridge])
    shapes = "; ".join(f"{name} {', '.join(lines)}" for name, lines in places.items())
    return show(
        draw_teaching(student, places, BRIDGES, teaching.bridge),
        alt=f"Two rows of boxes. Above the {who} stream, which teaches and is frozen, below the {taught} stream, "
        f"which learns. {shapes}. Nine thin lines, a to i, join front, middle and rear of the teacher with "
        f"those of the student; {teaching.bridge}, {chosen}, is drawn bold. A second bold line joins the pooled "
        "outputs, and the student's class scores go into the cross-entropy.",
        caption=f"Figure {number} of the paper, read off the live networks (64 frames of 224 px, {CLASSES} classes): "
        f"{who} teaches {taught}. One of the nine inner bridges is trained with, {teaching.bridge} here, "
        "and always the one between the outputs. After the training all bridges are taken away.",
    )


@cache
def drawn_places() -> dict[str, tuple[str, ...]]:
    """What a stream passes from its input to its scores: name -> maps and sizes, as read off a live network."""
    ends = {row.teacher: row.teacher_shape for row in nine_bridges()}
    out: dict[str, tuple[str, ...]] = {}
    for name in POSITIONS:
        channels, *size = ends[name]
        out[name] = (f"{channels} maps", "x".join(map(str, size)))
    with torch.device("meta"), torch.no_grad():
        i3d, last = Stream(Config("rgb"), CLASSES).i3d, torch.zeros(1, *ends["rear"])
        for name, values in (("pooled", i3d.pooled(last)), ("scores", i3d.head(last))):
            out[name] = (str(values.shape[1]),)
    return out


# ---------------------------------------------------------------- from runs


class CrossEnhancementFigures(ChapterFigures):
    """Figures for the data set at hand."""

    main: CrossEnhancementScores
    main_run, whole, whole_name = MAIN, BY_FLOW, "the pair (flow teaches RGB, logits averaged)"
    methods, colours, on_camera = METHODS, COLOURS, tuple(METHODS)[:4]

    def drawing(self) -> Shown:
        """Figure 1 of the paper."""
        return teaching_drawing("rgb")

    def other_drawing(self) -> Shown:
        """Figure 2 of the paper."""
        return teaching_drawing("flow")

    def _valued(self, method: str) -> Valued | None:
        """Accuracy on the test clips; None when it was not run."""
        found = self.main.correct(method)
        if found is None:
            return None
        interval = bootstrap_interval(found[0], found[1])
        return Valued(interval.mean, interval.low, interval.high)

    def grid(self) -> Shown:
        """The figure that the paper should have had: all nine inner bridges, and what they are to be compared with."""
        cells = {BRIDGES[x]: v for x, method in BRIDGED.items() if (v := self._valued(method))}
        if len(cells) < 2:
            return absent("Not run: the grid needs students taught over several bridges.")
        beside = {"no bridge": self._valued(PLAIN), "output only": self._valued(MARS)}
        others = {name: v for name, v in beside.items() if v}
        letters = {place: letter for letter, place in BRIDGES.items()}
        told = ", ".join(f"{letters[p]} ({p[0]} to {p[1]}) {100 * v.mean:.1f}" for p, v in cells.items())
        told += "".join(f"; {name} {100 * v.mean:.1f}" for name, v in others.items())
        return show(
            accuracy_map(
                cells, list(POSITIONS), list(POSITIONS), ("in the teacher (flow)", "in the student (RGB)"),
                letters=letters, framed=BRIDGES[PROPOSED], beside=others,
            ),
            alt=f"Accuracy of the RGB stream by the places that the inner bridge joins: {told} %.",
            caption=f"Accuracy (%) of the taught RGB stream on {self.main.dataset} with each of the nine inner bridges "
            "and the output bridge, with 95 % intervals over seeds and groups of clips; darker is better. Framed: the "
            "bridge that stands for the paper's. At the right: no teacher, and the output bridge alone.",
        )  # fmt: skip

    def weights(self) -> Shown:
        """Accuracy of the taught RGB stream against the weights of both bridges, which the paper does not give."""
        places = teaching_weights()
        cells = {place: v for place, method in places.items() if (v := self._valued(method))}
        if len(cells) < 2:
            return absent("Not run: the sweep needs students taught with several weights.")
        levels = sorted({x for place in places for x in place}, key=float)
        told = ", ".join(f"alpha {a}, beta {b}: {100 * v.mean:.1f}" for (a, b), v in sorted(cells.items()))
        return show(
            accuracy_map(cells, levels, levels, ("inner bridge, α", "output bridge, β"), framed=("1", "1")),
            alt=f"Accuracy of the RGB stream by the weights of the inner and of the output bridge: {told} %.",
            caption=f"Accuracy (%) of the RGB stream on {self.main.dataset} against the weights of both bridges, with "
            "95 % intervals; the cross-entropy has weight 1. With both at 0 it is the plain stream, with α = 0 close "
            "to MARS. A dash: not run.",
        )

    def directions(self) -> Shown:
        """What teaching gives in both directions, against the motion of the camera where the data set controls it."""
        tagged = bool(clip_tags(self.main.dataset))
        levels: Mapping[str, Mapping[str, str]] = (
            {name: {"camera": level} for name, level in CAMERAS.items()} if tagged else {"all clips": {}}
        )
        panels: dict[str, dict[str, list[Valued]]] = {"the student gains": {}, "the pair gains": {}}
        for name, (taught, alone, pair) in DIRECTIONS.items():
            for panel, (a, b) in zip(panels, ((taught, alone), (pair, UNTAUGHT_PAIR)), strict=True):
                found = [self._gained(a, b, subset) for subset in levels.values()]
                if all(found):
                    panels[panel][name] = [v for v in found if v]
        drawn = {panel: series for panel, series in panels.items() if series}
        if not drawn:
            return absent(NO_RUN)
        told = "; ".join(
            f"{panel}, {name}: "
            + ", ".join(f"{level} {100 * v.mean:+.1f}" for level, v in zip(levels, values, strict=True))
            for panel, series in drawn.items()
            for name, values in series.items()
        )
        where = "as the camera moves more" if tagged else f"on {self.main.dataset}"
        caption = (
            f"What teaching gives {where}, with 95 % intervals over seeds and groups of clips. Left: the taught stream "
            "less the same stream untaught. Right: teacher and student less both streams untaught, logits averaged."
        )
        if tagged:
            caption += (
                " The paper lets RGB teach where the camera moves: there squares should be ahead, elsewhere dots."
            )
        return show(
            gains(list(levels), drawn, TEACHERS, xlabel="camera" if tagged else ""),
            alt=f"Differences in points with intervals. {told}.", caption=caption,
        )  # fmt: skip

    def _gained(self, a: str, b: str, subset: Mapping[str, str]) -> Valued | None:
        """Accuracy of one method less that of another, of the same seeds and clips; None when one was not run."""
        seeds = self.main.seeds_with(a, b)
        left, right = (self.main.correct(m, subset, seeds) for m in (a, b))
        if left is None or right is None:
            return None
        found = paired_difference(left[0], right[0], left[1])
        return Valued(found.mean, found.low, found.high)

    def on_the_way(self) -> Shown:
        """Test accuracy after each tenth of the training, plain and taught (claim cross_enhancement-10)."""
        drawn, bands = {}, {}
        for name, label in LEARNING.items():
            if seeds := self.main.seeds_with(f"{name}+curve"):
                right = curves(self.main, name, seeds)  # (S, 10, N)
                drawn[label] = right.mean(2).T
                groups = self.main.groups(f"{name}+curve")
                intervals = [bootstrap_interval(right[:, k], groups) for k in range(TENTHS)]
                bands[label] = np.array([(i.low, i.high) for i in intervals])
        if not drawn:
            return absent(NO_RUN)
        chance = 1 / len(self.main.classes)
        plain = drawn.get(LEARNING[PLAIN])
        half = None if plain is None else (chance + float(plain[-1].mean())) / 2
        told = "; ".join(f"{label}: " + ", ".join(f"{100 * v:.0f}" for v in c.mean(1)) for label, c in drawn.items())
        hues = {LEARNING[PLAIN]: APPEARANCE, LEARNING[MAIN]: CROSSING}
        return show(
            progress(drawn, bands, hues, threshold=half, chance=chance),
            alt=f"Accuracy on the test clips after each of {TENTHS} equal parts of the training, in percent. {told}.",
            caption=f"Does a taught student learn faster? Accuracy on the test clips of {self.main.dataset} after each "
            "tenth of the training; dots are seeds, bands 95 % intervals. Dotted: half way from chance to where the "
            "plain stream ends; circles mark where each mean first gets there.",
        )

    def distances(self) -> Shown:
        """How far students are from their teacher, place by place, untaught and taught (claim cross_enhancement-9)."""
        found = {}
        for name, label in DISTANT.items():
            if seeds := self.main.seeds_with(f"{name}+distance"):
                found[label] = np.stack([distance_shares(self.main, name, place, seeds) for place in PLACES])
        if not found:
            return absent(NO_RUN)
        told = "; ".join(
            f"{label}: " + ", ".join(f"{place} {v:.2g}" for place, v in zip(PLACES, d.mean(1), strict=True))
            for label, d in found.items()
        )
        return show(
            distance_plot(PLACES, found, DISTANT_COLOURS, ylabel="squared distance / squared teacher"),
            alt=f"Squared distance between the features of student and teacher, as a share of the teacher's: {told}.",
            caption=f"How far the RGB student is from its flow teacher on the test clips of {self.main.dataset}, with "
            "the same places compared in both; the axis is logarithmic. At 1, dashed, a student is as far as one whose "
            "features are all 0. Circles are seeds, marks their mean. The inner bridge joins the middle, the output "
            "bridge the output; nothing pulls at front and rear directly.",
        )
