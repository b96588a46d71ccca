"""Tables and figures of the comparison, from finished runs and live models; the notebook only calls and tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from repro.data.clips import TestSamples, TestViews
from repro.metrics import NOT_RUN, Difference, bootstrap_interval
from repro.papers.ccs_scores import CCSScores
from repro.papers.comparison_experiments import METHODS, Preset, networks, preset
from repro.papers.comparison_numbers import (
    IDEAS,
    OWN,
    PLAIN,
    ComparisonClaims,
    answer,
    clipped_share,
    costs,
    gain,
    ledger_values,
    lively,
    own_gain,
    strayed,
    structure,
    training_seconds,
)
from repro.papers.comparison_printed import PROTOCOLS, SETS, printed
from repro.papers.comparison_scores import ComparisonScores
from repro.papers.cross_enhancement_scores import CrossEnhancementScores
from repro.papers.heterogeneous_scores import HeterogeneousScores
from repro.papers.st_resnet_scores import StResNetScores
from repro.papers.stilt_scores import StiltScores
from repro.report.chapter import RECORDED, ChapterPage
from repro.report.chapter_figures import FACTORS
from repro.report.comparison_figures import COLOURS, METHODS_SHOWN, NAMES, ComparisonFigures
from repro.report.recipes import recipe_table, schedule
from repro.report.tables import ABSENT, Cell, Column, Table, glance, link
from repro.report.theme import Shown
from repro.scores import Scores, clip_tags, recorded_runs
from repro.setup import recorded_folder
from repro.training import to_network

CHAPTERS: dict[str, type[Scores]] = {
    "stilt": StiltScores,
    "st_resnet": StResNetScores,
    "heterogeneous": HeterogeneousScores,
    "cross_enhancement": CrossEnhancementScores,
    "ccs": CCSScores,
}
# Where the streams of each idea meet, and where its code and its chapter are.
MEETING = {
    PLAIN: ("at the end: class scores are averaged", ""),
    "heterogeneous": ("at the end; the flow stream is another network", "heterogeneous"),
    "cross-enhancement": ("in training: frames learn the features of flow in two places", "cross_enhancement"),
    "st-resnet": ("at four residual units: flow is added to what the frames' branch reads", "st_resnet"),
    "ccs": ("at the last maps, both ways, by likeness; then a shared head", "ccs"),
    "stilt": ("behind the pools: each stream weights the other's snippets", "stilt"),
}
SINGLES = {
    "frames": "frames",
    "frames, taught by flow": "taught-frames",
    "frames' output of ST-ResNet": "st-resnet:rgb",
    "frames' output of CCS": "ccs:rgb",
    "frames' output of STILT": "stilt:rgb",
    "flow": "flow",
    "flow, another network": "unlike-flow",
    "flow's output of ST-ResNet": "st-resnet:flow",
    "flow's output of CCS": "ccs:flow",
    "flow's output of STILT": "stilt:flow",
}
FEW = 40  # test clips of which the flow is looked at for clipped vectors
SNIPPETS = 4  # of the demonstrations


class ComparisonPage(ChapterPage, ComparisonFigures):
    """What the page shows, for the data set at hand and, beside it, for those with recorded results."""

    paper = "comparison"
    scores_of = ComparisonScores
    main: ComparisonScores
    main_run, whole, whole_name = "frames", PLAIN, "the plain pair"
    methods, colours = METHODS_SHOWN, COLOURS
    on_camera: ClassVar[Sequence[str]] = ()
    tables: ClassVar[Mapping[int | str, Mapping[str, str]]] = {"ideas": METHODS_SHOWN, "outputs": SINGLES}

    def claim_scores(self, scores: Mapping[str, Any]) -> ComparisonClaims:
        """What the claims are tested on."""
        return ComparisonClaims(scores)

    def ledger_values(self) -> dict[str, str]:
        """The live values that the ledger asks for."""
        return ledger_values(self.scores, self.chapters, self._clipped())

    def _clipped(self) -> str:
        lab = self.chapter.labs[0]
        tested = self.chapter.dataset.select(self.chapter.splits[0], "test")
        few = tested[:: max(1, len(tested) // FEW)]
        lab.prepare(few)
        share = clipped_share(lab.store, [c.id for c in few if c.id not in lab.unusable])
        bound = lab.store.settings.bound
        return f"{100 * share:.2f} % of the vectors of {len(few)} test clips of {lab.dataset.name} reach {bound:g} px"

    @cached_property
    def chapters(self) -> dict[str, dict[str, Scores]]:
        """Recorded runs of the five chapters by paper and data set, where this page is of their scale."""
        folder = recorded_folder() if self.chapter.preset == "small" else None
        found: dict[str, dict[str, Scores]] = {}
        for paper, kind in CHAPTERS.items() if folder else ():
            runs = {name: recorded_runs(folder, paper, name, "small") for name in RECORDED}  # type: ignore[arg-type]
            found[paper] = {name: kind(r) for name, r in runs.items() if r}
        return found

    # -- at a glance ------------------------------------------------------------------------------------------------

    def glance(self) -> Shown:
        """The card at the top."""
        here = self.chapter.experiments["frames"]
        r, s = here.recipe, here.sampling
        verdicts = ", ".join(f"{n} {word}" for word, n in self.claims.counts().items() if n)
        facts: dict[str, Cell] = {
            "Ideas": "five ways in which two streams meet, one of unlike networks, and the plain pair",
            "Backbone": "ResNet-50 for every stream; only the unlike network is another, BN-Inception",
            "Budget": f"{r.iterations:,} steps of {r.batch} clips for every training, {s.snippets} snippets of a clip",
            "Test": f"one protocol ({here.protocol}); logits of both streams averaged",
            "Here": f"{self.chapter.preset}, width {preset(self.chapter.preset, self.chapter.dataset.name).width:g}, "
            f"{s.crop} px",
            "Claims": verdicts,
        }
        links = {
            "claims": "#claims-comparison",
            "ledger": "#ledger-comparison",
            "papers": "#comparison-references",
            "notebook": "../_sources/notebooks/comparison.ipynb",
        }
        return glance(facts, links)

    # -- the ideas --------------------------------------------------------------------------------------------------

    def ideas(self) -> Table:
        """How the streams of each idea meet, and what its answer can depend on whatever its weights are."""
        words = {True: "no", False: "yes"}
        rows = []
        for method, way in IDEAS.items():
            found, (where, chapter) = structure()[method], MEETING[method]
            name: Cell = link(NAMES[method], f"{chapter}.html") if chapter else NAMES[method]
            rows.append((name, way, where, words[found.separate], words[found.orderless]))
        heads = ("method", "way", "where", ("its answer can depend on", "which look has which motion"),
                 ("its answer can depend on", "the order of the snippets"))  # fmt: skip
        return Table(
            heads, tuple(rows), "Five ideas and the plain pair, and what follows from the wiring alone",
            "The last two columns are computed on the live networks with random weights: whether frames and flow of "
            "two clips can be exchanged without a change of the summed scores, and whether snippets can be shuffled.",
        )  # fmt: skip

    def recipe(self) -> Table:
        """The recipe of this page at full size and here."""
        rows: dict[str, Callable[[Preset], str]] = {
            "optimiser": lambda p: f"SGD, momentum {p.recipe.momentum:g}, weight decay {p.recipe.weight_decay:g}",
            "clips an update": lambda p: (
                f"{p.recipe.batch}, of {p.recipe.balanced[0]} classes" if p.recipe.balanced else str(p.recipe.batch)
            ),
            "iterations and rate": lambda p: f"{p.recipe.iterations:,}; {p.recipe.lr:g}, {schedule(p.recipe)}",
            "snippets of a clip": lambda p: f"{p.sampling.snippets}, with {p.sampling.flow_frames} fields of flow each",
            "crop": lambda p: f"{p.sampling.crop} px of frames with shorter side {p.short_side} px",
            "flow": lambda p: "mean of each field subtracted" if p.sampling.subtract_mean_flow else "as it is",
            "dropout": lambda p: "none",
        }
        note = (
            "No paper's own; the rate at full size is that of cross-enhancement, CCS and STILT. Batches "
            "hold several clips of a class because the losses of CCS compare them, and all others get the same "
            "batches. On Weizmann a small training has half as many steps."
        )
        trained = tuple(dict.fromkeys(name for method in IDEAS for name in METHODS[method]))
        return recipe_table(self.chapter, preset, rows, trained, note, "The one recipe, at full size and here")

    def protocols(self) -> Table:
        """The best accuracy that each paper prints, and the protocol behind it; not to be ranked."""
        rows = []
        for p in PROTOCOLS:
            values = [(f"{v:.1f}" if (v := printed(p.place, d)) is not None else ABSENT) for d in SETS]
            _, table, row = p.place
            rows.append((NAMES[p.method], *values, p.splits, p.views, p.averaged, f"Table {table}, {row}"))
        heads = ("paper of", *SETS, "splits", "test sees", "averaged over streams", "place")
        return Table(heads, tuple(rows), "What the papers print of themselves, in %",
                     "Splits, views and fusion differ from row to row, pre-training too: the order of these rows by "
                     "accuracy says nothing of the ideas (ledger comparison-L7 to L9).")  # fmt: skip

    # -- results ----------------------------------------------------------------------------------------------------

    def gain_table(self) -> Shown:
        """Every idea against the plain pair, in points with intervals, on every data set that was run."""
        tables = [table for name, scores in self.scores.items() if (table := self._gains(name, scores))]
        if not tables:
            return Shown("Not run.", "<p>Not run.</p>")
        return Shown("\n\n".join(map(repr, tables)), "".join(t._repr_html_() for t in tables))

    def _gains(self, dataset: str, scores: ComparisonScores) -> Table | None:
        subsets: dict[str, dict[str, str]] = {"all": {}}
        if clip_tags(dataset):
            subsets |= {f: {"factor": f} for f in FACTORS}
        rows: list[tuple[Cell, ...]] = []
        for method in IDEAS:
            found = [gain(scores, method, s) for s in subsets.values()] if method != PLAIN else []
            if any(found):
                rows.append((NAMES[method], *(_points(d) for d in found)))
        if not rows:
            return None
        seeds = ", ".join(map(str, scores.seeds))
        return Table(
            ("method", *subsets), tuple(rows),
            f"Gain over the plain pair on {dataset}, in points: preset {self.chapter.preset}, seeds {seeds}",
            "95 % intervals of the paired difference; an interval without 0 is a difference that these data show. A "
            "factor's column decides among that factor's classes only.",
        )  # fmt: skip

    def own_chapters(self) -> Table:
        """The same gain here and in each idea's own chapter, whose recipe, backbone and test are the paper's."""
        names = list(dict.fromkeys([*self.scores, *(d for found in self.chapters.values() for d in found)]))
        rows: list[tuple[Cell, ...]] = []
        for method, (paper, a, b) in OWN.items():
            cells: list[Cell] = []
            for name in names:
                here = gain(self.scores[name], method) if name in self.scores else None
                cells += [_points(here), _points(own_gain(self.chapters, method, name))]
            rows.append((NAMES[method], f"{paper}: {a} over {b}", *cells))
        both: list[Column] = [(n, w) for n in names for w in ("here", "own chapter")]
        heads: tuple[Column, ...] = ("method", "in its own chapter", *both)
        return Table(heads, tuple(rows), "Gain over plain streams, here and in each idea's own chapter, in points",
                     "Own chapters have the paper's backbone, way of training and test, small. Where a paper trains "
                     "its idea for longer than plain streams, so does its chapter.")  # fmt: skip

    def cost_table(self) -> Table:
        """What every method costs: counted at full size and here, and the seconds that its trainings took."""
        name = self.chapter.dataset.name
        full, here = costs("paper"), costs(self.chapter.preset, name, len(self.chapter.dataset.classes))
        rows = []
        for method in METHODS:
            seconds = training_seconds(self.main, method)
            rows.append((
                NAMES[method], f"{full[method].parameters / 1e6:.1f}", f"{full[method].multiply_adds / 1e9:.1f}",
                f"{full[method].training / 1e9:.1f}", f"{here[method].parameters / 1e6:.2f}",
                f"{here[method].multiply_adds / 1e9:.2f}", f"{here[method].training / 1e9:.2f}",
                NOT_RUN if seconds is None else f"{seconds.mean() / 60:.1f}",
            ))  # fmt: skip
        size = "full size, 101 classes"
        small = f"here ({self.chapter.preset})"
        heads = ("method", (size, "M parameters"), (size, "G a test clip"), (size, "G a training clip"),
                 (small, "M parameters"), (small, "G a test clip"), (small, "G a training clip"),
                 (small, "minutes of training"))  # fmt: skip
        return Table(
            heads, tuple(rows), "What every method costs",
            "G: billions of multiply-adds, counted on the live networks; a training clip is one clip in one step, "
            "backward counted as twice forward. A teacher counts in training and not in the test. Minutes: all "
            "trainings of a method, as recorded, on one thread of a processor that was shared: upper bounds.",
        )  # fmt: skip

    def solved(self, factor: str) -> Shown:
        """Which methods are above guessing on a factor, in a sentence made from the runs."""
        if not clip_tags(self.main.dataset):
            return Shown(text := f"{self.main.dataset} has no factors; motionshapes has.", f"<p>{text}</p>")
        parts = []
        for label, method in METHODS_SHOWN.items():
            if found := self.main.correct(method, {"factor": factor}):
                interval = bootstrap_interval(found[0], found[1])
                clear = "above" if interval.low > found[2] else "not clearly above"
                parts.append((interval.mean, f"{label} {100 * interval.mean:.0f} % ({clear} guessing)"))
        if not parts:
            return Shown("Not run.", "<p>Not run.</p>")
        ordered = [text for _, text in sorted(parts, key=lambda part: -part[0])]
        text = f"On {factor}, best first: {', '.join(ordered)}."
        return Shown(text, f"<p>{text}</p>")

    def astray(self) -> Shown:
        """How often each method names a class of another factor than the clip's, in a sentence made from the runs."""
        parts = []
        for label, method in METHODS_SHOWN.items():
            if found := strayed(self.main, method):
                interval = bootstrap_interval(*found)
                low, high = 100 * interval.low, 100 * interval.high
                parts.append((interval.mean, f"{label} {100 * interval.mean:.1f} % [{low:.1f}, {high:.1f}]"))
        if not parts:
            return Shown("Not run.", "<p>Not run.</p>")
        text = f"Rarest first: {', '.join(text for _, text in sorted(parts))}."
        return Shown(text, f"<p>{text}</p>")


def _points(found: Difference | None) -> str:
    """A difference in points with its interval."""
    return NOT_RUN if found is None else f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def two_clips(page: ComparisonPage) -> dict[str, Tensor]:
    """Two test clips as the networks read them, `rgb` (2, T, 3, H, W) and `flow` (2, T, 2L, H, W), for the
    demonstrations: the two classes of binding where the data set has factors, else of two classes."""
    chapter = page.chapter
    tags = clip_tags(chapter.dataset.name)
    test = sorted(chapter.dataset.select(chapter.splits[0], "test"), key=lambda c: c.id)
    fits = [c for c in test if not tags or (tags[c.id]["factor"] == "binding" and tags[c.id]["camera"] == "0")]
    first = fits[0]
    second = next((c for c in fits if c.label != first.label), fits[-1])
    lab = chapter.labs[0]
    lab.prepare([first, second])
    sampling = chapter.experiments["ccs"].sampling
    views = TestViews("few snippets", SNIPPETS, "centre")
    samples = TestSamples(lab.store, [first, second], sampling, views)
    batch = {k: torch.cat([samples[i][k] for i in (0, 1)]) for k in ("rgb", "flow")}
    return {k: x for k, x in to_network(batch, torch.device("cpu"), sampling).items() if x is not None}


def live_networks(page: ComparisonPage) -> Iterator[tuple[str, Callable[[Mapping[str, Tensor]], Tensor]]]:
    """Every training's network, small, with random weights: its name, and a function from clips to scores (B, n)."""
    scale = preset("smoke", page.chapter.dataset.name)
    for name, network in networks(scale).items():
        torch.manual_seed(0)
        model = network.build(len(page.chapter.dataset.classes))
        lively(model)
        yield name, partial(answer, model, network)
