"""Tables and figures of the cross-enhancement chapter, from finished runs and live models; the notebook only calls and
tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from repro.data.catalog import DATASETS, OFFICIAL, unofficial
from repro.data.clips import TestSamples, TestViews
from repro.papers.cross_enhancement import Taught, Teaching
from repro.papers.cross_enhancement_experiments import PROPOSED, Preset, preset
from repro.papers.cross_enhancement_numbers import BY_FLOW, BY_RGB, MAIN, CrossEnhancementClaims, ledger_values
from repro.papers.cross_enhancement_printed import (
    PARTS,
    SETS,
    TEACHERS,
    counted,
    counted_output,
    nine_bridges,
    training_memory,
)
from repro.papers.cross_enhancement_scores import LAYER, CrossEnhancementScores
from repro.papers.reported import find, number
from repro.report import tables
from repro.report.chapter import COLUMNS, ChapterPage
from repro.report.chapter_figures import FACTORS, NO_RUN, absent
from repro.report.cross_enhancement_figures import CrossEnhancementFigures
from repro.report.recipes import recipe_table, schedule
from repro.report.tables import Cell, Table, link
from repro.report.theme import Shown
from repro.scores import clip_tags
from repro.training import Recipe, to_network

SHOWN = 16, 112, 0.25  # frames, px and width of the demonstrations at most
# Rows of Table 3 as the paper calls them.
FUSED_3D, I3D, OURS = "3D-Fused [1]", "Two-Stream I3D [1]", "Ours"
# Rows of the comparison table: what we call them -> how the scores call them.
TABLE_3 = {
    "RGB": "rgb",
    "RGB, taught by flow": MAIN,
    "flow": "flow",
    "flow, taught by RGB": "flow-taught",
    "both: 3D-Fused": "fused-3d",
    "both: Two-Stream I3D (average)": "two-stream",
    "both: flow teaches, average": BY_FLOW,
    "both: RGB teaches, average": BY_RGB,
    "both: Two-Stream I3D, learned layer": f"two-stream{LAYER}",
    "both: flow teaches, learned layer": f"{BY_FLOW}{LAYER}",
    "both: RGB teaches, learned layer": f"{BY_RGB}{LAYER}",
}
ALONE = {name: method for name, method in TABLE_3.items() if "3D-Fused" not in name}
# What the paper leaves open or never takes apart -> the methods that answer it.
VARIANTS = {
    "which bridges teach": {
        "neither (plain RGB)": "rgb",
        "the inner one alone": f"{MAIN}@inner-only",
        "the output one alone (MARS)": f"{MAIN}@output-only",
        "both": MAIN,
        "both, the output one between logits": f"{MAIN}@logits",
    },
    "what decides at the test": {
        "the taught student alone": MAIN,
        "with its teacher, logits averaged": BY_FLOW,
        "with its teacher, a layer learned on both frozen (Sec. 3.1)": f"{BY_FLOW}{LAYER}",
        "the whole pair trained again (Sec. 3.2)": "together",
        "two plain streams, a layer learned on both": f"two-stream{LAYER}",
    },
}


class CrossEnhancementPage(ChapterPage, CrossEnhancementFigures):
    """What the chapter shows, for the data set at hand and, beside it, for those with recorded results."""

    paper = "cross_enhancement"
    scores_of = CrossEnhancementScores
    main: CrossEnhancementScores
    tables: ClassVar[Mapping[int | str, Mapping[str, str]]] = {3: TABLE_3}
    alone = ALONE

    def claim_scores(self, scores: Mapping[str, Any]) -> CrossEnhancementClaims:
        """What the claims are tested on."""
        return CrossEnhancementClaims(scores)

    def ledger_values(self) -> dict[str, str]:
        """The live values that the ledger asks for."""
        return ledger_values(self.scores)

    # -- at a glance ------------------------------------------------------------------------------------------------

    def glance(self) -> Shown:
        """The card at the top."""
        pair, here = counted()["Two-Stream I3D"], self.chapter.experiments[MAIN]
        frames, stride = here.sampling.snippets, (here.sampling.stride or (1, 1))[1]
        apart = "in a row" if stride == 1 else f"{stride} apart"
        return self.card(
            {
                "Paper": "Cao, Xu, Zhang: AIIPCC (2019)",
                "Streams": "RGB: 64 frames; flow: the 64 optical flow fields that begin at them (2 channels)",
                "Backbones": "Inception-v1 I3D twice; in training one of them teaches the other",
                "Size": f"{pair.parameters / 1e6:.1f} M parameters, {pair.multiply_adds / 1e9:.0f} G multiply-adds a "
                "clip (400 classes, counted); bridges and their adapters are gone at the test",
                "Here": f"{self.chapter.preset}, width {here.config['width']:g}: clips of {frames} frames, {apart}, "
                f"{here.sampling.crop} px",
            }
        )

    # -- the data: Tables 1 and 2 -----------------------------------------------------------------------------------

    def clips(self) -> Table:
        """Table 1: the data sets as printed, the official lists, and the data at hand."""
        heads = ("Category", "Total", "Train", "Test")
        rows: list[tuple[Cell, ...]] = []
        for column, row in SETS.items():
            printed = [f"{number(self.paper, '1', row, head):,.0f}" for head in heads]
            rows.append((f"{row}, printed", *printed))
            key = next(key for key, name in COLUMNS.items() if name == column)
            classes, splits = OFFICIAL[key]
            name, listed = next(iter(splits.items()))
            total = f"{listed.train + listed.test:,}"
            rows.append(
                (f"{row}, official, split {name}", str(classes), total, f"{listed.train:,}", f"{listed.test:,}")
            )
        data = self.chapter.dataset
        for split in self.chapter.splits:
            train, test = (len(data.select(split, part)) for part in ("train", "test"))
            texts = (f"{n:,}" for n in (len(data.classes), train + test, train, test))
            rows.append((f"here: {data.name}, split {split}", *texts))
        note = (
            "HMDB51's printed lists are no official ones (ledger cross_enhancement-L11); an official split leaves some "
            "of its clips out, so that its total is less."
        )
        return Table(("data set", *heads), tuple(rows), "Table 1: clips, printed and listed", note)

    def kinds(self) -> Table:
        """Table 2: what kinds of actions the data sets have, as printed, and those of the data at hand."""
        rows: list[tuple[Cell, ...]] = [
            (row, str(find(self.paper, "2", row, "Characteristic").value)) for row in SETS.values()
        ]
        data = self.chapter.dataset
        tags = clip_tags(data.name)
        if tags:
            by_factor: dict[str, list[str]] = {factor: [] for factor in FACTORS}
            for clip in data.clips:
                if (name := data.classes[clip.label]) not in by_factor[tags[clip.id]["factor"]]:
                    by_factor[tags[clip.id]["factor"]].append(name)
            here = "; ".join(f"{factor} ({', '.join(names)})" for factor, names in by_factor.items())
        else:
            shown = list(data.classes[:12])
            more = f" and {len(data.classes) - len(shown)} more" if len(data.classes) > len(shown) else ""
            here = ", ".join(shown) + more
        rows.append((f"here: {DATASETS[data.name].title}", here))
        return Table(
            ("data set", "kinds of actions, with examples"), tuple(rows), "Table 2: printed, and the data here"
        )

    # -- the network ------------------------------------------------------------------------------------------------

    def bridges(self) -> Table:
        """The nine inner bridges and the output bridge, read off the live network at full size, and at the page's."""
        here = {row.letter: row for row in nine_bridges(self.chapter.preset)}
        rows: list[tuple[Cell, ...]] = []
        for row in nine_bridges():
            small = here[row.letter]
            rows.append(
                (
                    f"{row.letter}: {row.teacher} to {row.student}",
                    _shape(row.teacher_shape), _shape(row.student_shape), f"{row.elements:,}",
                    f"{row.parameters:,}", f"{row.multiply_adds / 1e9:.2f}",
                    _shape(small.teacher_shape), _shape(small.student_shape),
                )
            )  # fmt: skip
        full, small_one = str(counted_output()), str(here["i"].teacher_shape[0])  # the pooled maps of the rear
        rows.append(("output", full, full, f"{counted_output():,}", "0", "0.00", small_one, small_one))
        heads = ("bridge", ("full size", "teacher"), ("full size", "student"),
                 ("full size", "elements compared"), ("adapter, in training", "parameters"),
                 ("adapter, in training", "G multiply-adds"), (f"here ({self.chapter.preset})", "teacher"),
                 (f"here ({self.chapter.preset})", "student"))  # fmt: skip
        note = (
            "From a place in the teacher to one in the student; shapes are maps, frames, height, width. The paper says "
            "nothing of how unlike shapes are joined (ledger cross_enhancement-L4). Bridge "
            f"{PROPOSED} stands for the paper's, which is not named (L2)."
        )
        marked = frozenset(i for i, row in enumerate(nine_bridges()) if row.letter == PROPOSED)
        return Table(heads, tuple(rows), "The bridges, read off the live network", note, marked=marked)

    def counts(self) -> Table:
        """What the networks cost, counted: the paper gives no number."""
        rows = tuple(
            (row.network.replace("rgb", "RGB"), f"{row.parameters:,}", f"{row.multiply_adds / 1e9:.1f}",
             link(row.entry, f"#{row.entry}"))
            for row in counted().values()
        )  # fmt: skip
        return Table(
            ("network", "parameters", "G multiply-adds", "ledger"), rows, "What the networks cost, counted",
            "400 classes; one clip of 64 frames (five snippets for 3D-Fused) of 224 px. A taught student costs what a "
            "plain stream does: while it learns, a forward pass of the teacher comes on top.",
        )  # fmt: skip

    def memory(self) -> Table:
        """What a training step of the paper's recipe keeps in memory, counted."""
        rows = tuple(
            (name.replace("rgb", "RGB"), *(f"{x / 1e9:.2f}" for x in (*m, sum(m))))
            for name, m in training_memory().items()
        )
        heads = ("network", "kept for backward", "made again at a time", "weights, gradients, momentum", "together")
        batch, sampling = preset("paper", "").recipes["rgb"].batch, preset("paper", "").sampling
        note = (
            "Gradients on the way back and the work space of a card's kernels come on top; on a card this was not "
            "measured. A frozen teacher adds its weights and keeps nothing. The option checkpointing of I3D can be "
            "switched at any time and changes no result."
        )
        caption = (
            f"GB of a training step in bf16, counted: {batch} clips of {sampling.snippets} frames of {sampling.crop} px"
        )
        return Table(heads, rows, caption, note)

    def recipe(self) -> Table:
        """The paper's schedule beside the one of this page."""
        loss = Teaching("rgb")
        rows: dict[str, Callable[[Preset], str]] = {
            "optimiser": lambda p: (
                f"SGD, momentum {p.recipes['rgb'].momentum:g}, weight decay {p.recipes['rgb'].weight_decay:g}"
            ),
            "clips an update": lambda p: str(p.recipes["rgb"].batch),
            "iterations and rate, each stream": lambda p: _schedule(p.recipes["rgb"]),
            "iterations and rate, 3D-Fused": lambda p: _schedule(p.recipes["fused"]),
            "iterations and rate, the pair trained again": lambda p: _schedule(p.recipes["together"]),
            "frames of a clip": lambda p: str(p.sampling.snippets),
            "frames from one to the next": lambda p: str((p.sampling.stride or (1, 1))[1]),
            "crop": lambda p: (
                f"{p.sampling.crop} px of frames with shorter side {p.short_side} px, sides "
                + ", ".join(str(int(s * p.short_side)) for s in p.sampling.scales)
            ),
            "flow": lambda p: "mean of each field subtracted" if p.sampling.subtract_mean_flow else "as it is",
            "weights alpha, beta and gamma": lambda p: f"{loss.alpha:g}, {loss.beta:g} and {loss.gamma:g}",
        }
        note = (
            "Printed: optimiser, first rate, clips an update, frames and their size. Everything else in the first "
            "column is ours (ledger cross_enhancement-L15, L5). A snippet of the test is a frame of one chain."
        )
        return recipe_table(self.chapter, preset, rows, (MAIN, "flow"), note)

    # -- tables -----------------------------------------------------------------------------------------------------

    def published(self, number: int | str) -> Table:
        """A table as published, with reproduced columns for runs by the paper's own data set and protocol.

        Table 3 has three parts ("3 RGB", "3 Flow", "3 RGB+Flow"). Each is of one split: UCF101's first is printed,
        HMDB51's is that of the quoted rows (Carreira and Zisserman 2017, Table 2).
        """
        part = str(number).partition(" ")[2]
        column = self.columns.get(self.chapter.dataset.name)
        found = {}
        if part in PARTS and column and (own := self._own_split()):
            for row, method in printed_methods(part, column).items():
                if correct := own.correct(method):
                    found[row, column] = tables.statistic(correct[0].mean(1), correct[0].shape[1])
        return tables.published(self.paper, str(number), found)

    def _own_split(self) -> CrossEnhancementScores | None:
        """The runs on the split of Table 3, by the paper's recipe; None when this page has none."""
        data = self.chapter.dataset
        if self.chapter.preset != "paper" or self.chapter.parameters.weights != "auto" or unofficial(data):
            return None
        runs = {key: result for key, result in self.main.runs.items() if key[1] == next(iter(OFFICIAL[data.name][1]))}
        return CrossEnhancementScores(runs) if runs else None

    def variants(self, which: str) -> Shown:
        """One of `VARIANTS`: what the paper never takes apart, on every data set where two of them were run."""
        methods = VARIANTS[which]
        run = [s for s in self.scores.values() if sum(bool(s.seeds_with(m)) for m in methods.values()) > 1]
        if not run:
            return absent(NO_RUN)
        found = [self.compared(f"{which[0].upper()}{which[1:]}", methods, s) for s in run]
        return Shown("\n\n".join(map(repr, found)), "".join(t._repr_html_() for t in found))


def printed_methods(part: str, column: str) -> dict[str, str]:
    """The rows of a part of Table 3 -> the methods that reproduce them on the data set of a column.

    Which stream is taught depends on the data set (Sec. 3.1, 3.2). Single streams of 3D-Fused are not trained here.
    """
    flow_teaches = TEACHERS[column] == "Flow"
    if part == "RGB":
        return {I3D: "rgb", OURS: MAIN if flow_teaches else "rgb"}
    if part == "Flow":
        return {I3D: "flow", OURS: "flow" if flow_teaches else "flow-taught"}
    return {FUSED_3D: "fused-3d", I3D: "two-stream", OURS: f"{BY_FLOW if flow_teaches else BY_RGB}{LAYER}"}


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _schedule(recipe: Recipe) -> str:
    return f"{recipe.iterations:,}; {recipe.lr:g}, {schedule(recipe)}"


def student_on_a_clip(page: CrossEnhancementPage) -> tuple[Taught, dict[str, Tensor]]:
    """A student with its teacher, both untrained, and the example clip as they read it, for the demonstrations.

    The clip is `rgb` (1, T, 3, H, W) and `flow` (1, T, 2, H, W); clip and networks are small at every scale. The
    teacher's batch normalisations have the statistics of this clip in place of a training's.
    """
    scale = page.chapter.experiments[MAIN]
    most, side, width = SHOWN
    sampling = replace(
        scale.sampling, snippets=min(scale.sampling.snippets, most), crop=min(scale.sampling.crop, side)
    )  # fmt: skip
    clip = next(c for c in page.chapter.dataset.clips if c.id == page.example())
    page.chapter.labs[0].prepare([clip])
    views = TestViews("one chain", sampling.snippets, "centre", chain=True)
    sample = TestSamples(page.chapter.labs[0].store, [clip], sampling, views)[0]
    inputs = {k: x for k, x in to_network(sample, torch.device("cpu"), sampling).items() if x is not None}
    torch.manual_seed(0)
    model = Taught(Teaching("rgb", width=min(scale.config["width"], width)), len(page.chapter.dataset.classes))
    hooks = [m.register_forward_pre_hook(_observe) for m in model.teacher.modules() if isinstance(m, nn.BatchNorm3d)]
    with torch.no_grad():
        model.teacher(**inputs)
    for hook in hooks:
        hook.remove()
    return model, inputs


def _observe(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
    """Give a batch normalisation the statistics of what it is about to see; those it begins with fit nothing."""
    assert isinstance(layer, nn.BatchNorm3d) and layer.running_mean is not None and layer.running_var is not None
    layer.running_mean.copy_(given[0].mean((0, 2, 3, 4)))
    layer.running_var.copy_(given[0].var((0, 2, 3, 4), correction=0))
