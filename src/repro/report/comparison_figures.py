"""Figures of the comparison: where the streams of each idea meet, what that gains and costs, what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from repro.errors import ReproError, nearest
from repro.metrics import bootstrap_interval
from repro.papers.comparison_experiments import JOINT, METHODS
from repro.papers.comparison_numbers import (
    IDEAS,
    PLAIN,
    costs,
    gain,
    reversed_order,
    swapped,
    training_seconds,
)
from repro.papers.comparison_scores import ComparisonScores
from repro.report import figures
from repro.report.chapter_figures import FACTORS, NO_RUN, ChapterFigures, absent
from repro.report.comparison_drawings import TITLES, meetings_drawing
from repro.report.comparison_plots import Priced, Seeded, against_cost, dots_by_panel
from repro.report.figures import show
from repro.report.grids import Valued
from repro.report.theme import APPEARANCE, CROSSING, FUSED, INK, MOTION, Shown, lighter
from repro.scores import clip_tags

Array = np.ndarray[Any, Any]
METHODS_SHOWN = {  # what the figures call them -> how the scores call them
    "frames": "frames",
    "frames, taught": "taught-frames",
    "flow": "flow",
} | {way if method == PLAIN else whose: method for method, (way, whose) in TITLES.items()}
# The theme's hues; of each hue shades so far apart that readers without red or green receptors can tell all nine.
COLOURS = dict(
    zip(
        METHODS_SHOWN,
        (
            APPEARANCE, lighter(APPEARANCE, 0.5), MOTION,
            FUSED, INK,  # fused only
            lighter(CROSSING, 0.6), CROSSING, "#00543d", "#a6c400",  # something crosses
        ),
        strict=True,
    )
)  # fmt: skip
NAMES = {method: name for name, method in METHODS_SHOWN.items()}
STREAMS = {"rgb": "frames", "flow": "flow"}  # outputs of a joint network -> what its streams are called here
KNOWING = {  # what an output of a joint network knows of the other stream: what that is called -> colour
    "the stream alone": FUSED,
    "with its clip's other input": CROSSING,
    "with another clip's": lighter(CROSSING, 0.55),
}
ORDER = {"snippets in order": CROSSING, "in reverse": lighter(CROSSING, 0.55)}
MEASURED = {  # cost -> what its axis says
    "multiply-adds": "multiply-adds to test one clip",
    "parameters": "parameters",
    "seconds": "training time",
}


class ComparisonFigures(ChapterFigures):
    """Figures for the data set at hand."""

    main: ComparisonScores

    def drawing(self) -> Shown:
        """The six pairs of streams, and what passes between them."""
        return meetings_drawing()

    def _subsets(self, only: Sequence[str] = FACTORS) -> Mapping[str, Mapping[str, str]]:
        """Panels of a figure: these factors where the data set has factors, and all test clips."""
        tagged = bool(clip_tags(self.main.dataset))
        return {factor: {"factor": factor} for factor in (only if tagged else ())} | {"all": {}}

    def _seeded(self, method: str, subset: Mapping[str, str]) -> tuple[Seeded, float] | None:
        """Accuracy of a method, and chance; None when it was not run."""
        found = self.main.correct(method, subset)
        return found and (_with_interval(found[0], found[1]), found[2])

    def factors(self) -> Shown:
        """What each method can tell, by factor."""
        panels: dict[str, dict[str, Seeded]] = {}
        chance = {}
        for panel, subset in self._subsets().items():
            for name, method in METHODS_SHOWN.items():
                if found := self._seeded(method, subset):
                    panels.setdefault(panel, {})[name] = found[0]
                    chance[panel] = found[1]
        if not panels:
            return absent(NO_RUN)
        rows = [name for name in METHODS_SHOWN if any(name in found for found in panels.values())]
        told = _listed({p: {n: f"{100 * s.value.mean:.1f}" for n, s in found.items()} for p, found in panels.items()})
        return show(
            dots_by_panel(panels, rows, COLOURS, chance, xlabel="accuracy (%)", limits=(0, 103)),
            alt=f"Accuracy in percent on {self.main.dataset}. {told}.",
            caption=f"What each method can tell on {self.main.dataset}{self._by_factor()}: accuracy with 95 % "
            "intervals over seeds and groups of clips; circles are seeds, dashed lines guessing.",
        )

    def gains(self) -> Shown:
        """What each idea gains over two plain streams, factor by factor: the figure that the papers do not have."""
        ideas = [method for method in IDEAS if method != PLAIN]
        panels: dict[str, dict[str, Seeded]] = {}
        for panel, subset in self._subsets().items():
            for method in ideas:
                found = gain(self.main, method, subset)
                seeds = self._gain_by_seed(method, subset)
                if found is not None and seeds is not None:
                    value = Valued(found.mean, found.low, found.high)
                    panels.setdefault(panel, {})[NAMES[method]] = Seeded(value, seeds)
        if not panels:
            return absent(NO_RUN)
        rows = [NAMES[m] for m in ideas if any(NAMES[m] in found for found in panels.values())]
        hues = {NAMES[m]: FUSED if IDEAS[m].startswith("none") else CROSSING for m in ideas}
        told = _listed({p: {n: _signed(s.value) for n, s in found.items()} for p, found in panels.items()})
        return show(
            dots_by_panel(panels, rows, hues, dict.fromkeys(panels, 0.0), xlabel="points over two plain streams",
                          paler=True),
            alt=f"Accuracy less that of two plain streams on {self.main.dataset}, in points. {told}.",
            caption=f"What each way of meeting gains over two plain streams on {self.main.dataset}"
            f"{self._by_factor()}: same seeds, same clips, 95 % intervals over seeds and groups of clips. "
            "Pale: the interval includes 0. Grey: nothing crosses. Circles are seeds.",
        )  # fmt: skip

    def _gain_by_seed(self, method: str, subset: Mapping[str, str]) -> Array | None:
        """Gains (S,) over two plain streams, of the seeds that both have."""
        seeds = [s for s in self.main.seeds_with(method) if s in self.main.seeds_with(PLAIN)]
        both = [self.main.correct(m, subset, seeds) for m in (method, PLAIN)]
        found = [f[0].mean(1) for f in both if f]
        return found[0] - found[1] if len(found) == 2 else None

    def _by_factor(self) -> str:
        return " by factor, where a panel decides among that factor's classes" if len(self._subsets()) > 1 else ""

    def against_cost(self, what: str) -> Shown:
        """Accuracy of every method against what it costs: "multiply-adds", "parameters" or "seconds"."""
        if what not in MEASURED:
            raise ReproError(f"unknown cost '{what}'{nearest(what, MEASURED)}: use one of {', '.join(MEASURED)}")
        axis, prices = MEASURED[what], self._prices(what)
        unit, units = (60, "minutes") if what == "seconds" else (1e6, "millions")
        if what != "seconds" and min(prices.values()) >= 1e9:
            unit, units = 1e9, "billions"
        panels: dict[str, dict[str, Priced]] = {}
        chance = {}
        for panel, subset in self._subsets(("binding", "order")).items():
            for method, price in prices.items():
                if found := self._seeded(method, subset):
                    panels.setdefault(panel, {})[NAMES[method]] = Priced(price / unit, found[0])
                    chance[panel] = found[1]
        if not panels:
            return absent(NO_RUN)
        paid = ", ".join(f"{NAMES[m]} {price / unit:.3g}" for m, price in prices.items())
        told = _listed({p: {n: f"{100 * x.accuracy.value.mean:.1f}" for n, x in f.items()} for p, f in panels.items()})
        note = {
            "seconds": " Time is that of all trainings of a method, its teacher's too, the mean over seeds; whatever "
            "else the machine had to do is in it.",
            "multiply-adds": " What is gone at the test costs nothing: a taught stream costs what a plain one does.",
        }.get(what, "")
        return show(
            against_cost(panels, COLOURS, chance, xlabel=f"{axis} ({units}, logarithmic)"),
            alt=f"Accuracy against {axis} on {self.main.dataset}. {units.capitalize()}: {paid}. In percent: {told}.",
            caption=f"Accuracy on {self.main.dataset} against {axis} ({self.chapter.preset}). Whiskers are 95 % "
            "intervals over seeds and groups of clips, circles seeds, dashed lines guessing. Methods of nearly equal "
            f"cost stand beside each other.{note}",
        )

    def _prices(self, what: str) -> dict[str, float]:
        """What each method costs; without those whose cost is not known."""
        if what == "seconds":
            spent = {m: training_seconds(self.main, m) for m in METHODS}
            return {m: float(np.mean(s)) for m, s in spent.items() if s is not None}
        counted = costs(self.chapter.preset, self.main.dataset, len(self.main.classes))
        return {m: float(getattr(cost, what.replace("-", "_"))) for m, cost in counted.items()}

    def other_input(self) -> Shown:
        """What a joint network's output of one stream takes from the other input (claim comparison-3)."""
        found: dict[str, dict[str, tuple[Array, Array]]] = {}
        for network in JOINT:
            for stream, name in STREAMS.items():
                if not (measured := swapped(self.main, network, stream)):
                    continue
                own, lent, groups = measured
                alone = self.main.correct(name)
                group = found.setdefault(f"{TITLES[network][1]}\n{name}", {})
                if alone:
                    group["the stream alone"] = alone[0], alone[1]
                group |= {"with its clip's other input": (own, groups), "with another clip's": (lent, groups)}
        chance = dict.fromkeys(found, 1 / len(self.main.classes))
        return self._bars(
            found, KNOWING, chance,
            f"What one output of a joint network takes from the other input on {self.main.dataset}: its accuracy with "
            "the other input as it is, with that of another clip in its place, and of the same stream trained alone. "
            "What falls with another clip's input was not the stream's own; below the stream alone, it is misled.",
        )  # fmt: skip

    def in_reverse(self) -> Shown:
        """Accuracy on the factor order with the snippets as they are and in reversed order."""
        if not clip_tags(self.main.dataset):
            return absent(f"{self.main.dataset} has no classes that differ by order alone; motionshapes has.")
        found: dict[str, dict[str, tuple[Array, Array]]] = {}
        chance = {}
        for network in JOINT:
            if measured := reversed_order(self.main, network):
                right, reverse, groups = measured
                found[TITLES[network][1]] = dict(zip(ORDER, ((right, groups), (reverse, groups)), strict=True))
                told = self.main.correct(network, {"factor": "order"})
                assert told is not None
                chance[TITLES[network][1]] = told[2]
        return self._bars(
            found, ORDER, chance,
            "Classes that differ by the order of two motions, and the same clips with their snippets in reverse; a "
            "snippet itself runs forwards. A network that reads the order of snippets now answers the opposite and "
            "falls below guessing; one that does not answers as before.",
        )  # fmt: skip

    def _bars(
        self,
        found: Mapping[str, Mapping[str, tuple[Array, Array]]],
        hues: Mapping[str, str],
        chance: Mapping[str, float],
        caption: str,
    ) -> Shown:
        """Bars by group: group -> bar -> right or wrong (S, N) and groups of clips (N,)."""
        if not found:
            return absent(NO_RUN)
        values = {group: {n: right.mean(1) for n, (right, _) in bars.items()} for group, bars in found.items()}
        bounds = {(g, n): bootstrap_interval(*pair) for g, bars in found.items() for n, pair in bars.items()}
        told = _listed({g: {n: f"{100 * v.mean():.1f}" for n, v in bars.items()} for g, bars in values.items()})
        return show(
            figures.per_factor(values, {key: (i.low, i.high) for key, i in bounds.items()}, hues, chance),
            alt=f"Bars of accuracy in percent on {self.main.dataset}. {told}.",
            caption=f"{caption} Dots are seeds, whiskers 95 % intervals over seeds and groups of clips, dashed lines "
            "guessing.",
        )


def _with_interval(right: Array, groups: Array) -> Seeded:
    interval = bootstrap_interval(right, groups)
    return Seeded(Valued(interval.mean, interval.low, interval.high), right.mean(1))


def _signed(value: Valued) -> str:
    return f"{100 * value.mean:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"


def _listed(groups: Mapping[str, Mapping[str, str]]) -> str:
    """Texts by name and group as one line: group: name text, name text; next group: ..."""
    told = (f"{group}: " + ", ".join(f"{n} {text}" for n, text in found.items()) for group, found in groups.items())
    return "; ".join(told).replace("\n", " ")
