"""Tables of the CCS chapter, from finished runs and live models; the notebook only calls and tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from repro.data.catalog import unofficial
from repro.errors import ReproError
from repro.evaluation import protocol
from repro.metrics import topk_accuracy
from repro.papers.ccs import CCS, Config
from repro.papers.ccs_counts import NETWORKS, Count
from repro.papers.ccs_experiments import MARGINS, Preset, preset
from repro.papers.ccs_losses import PROPOSED
from repro.papers.ccs_models import counted
from repro.papers.ccs_numbers import CCSClaims, ledger_values
from repro.papers.ccs_scores import CCSScores
from repro.papers.reported import number
from repro.report import tables
from repro.report.ccs_figures import CCSFigures
from repro.report.chapter import ChapterPage
from repro.report.chapter_figures import NO_RUN, absent
from repro.report.recipes import recipe_table, schedule, views_of
from repro.report.tables import ABSENT, Cell, Table, link
from repro.report.theme import Shown
from repro.scores import Scores

Array = np.ndarray[Any, Any]
OUTPUTS = {"RGB+Flow": "", "RGB": ":rgb", "Flow": ":flow"}  # the paper's columns -> end of a method's name
BASES = {"TSN": "", "I3D": "i3d-"}  # Table 3, "Base Model" -> beginning of a training's name
PARTS = {"Baseline": "baseline", "CB": "cb", "CS": "cs", "All": "all"}  # Table 3, "Methods"
PRINTED = {"ucf101": "UCF-101", "hmdb51": "HMDB-51"}  # data set -> column of Tables 1 and 3
# The printed parts of Tables 1 and 3, one for each input.
IN_PARTS = {n: tuple(f"{n} {output}" for output in OUTPUTS) for n in (1, 3)}


def _margins(name: str) -> str:
    """A row of Table 4: the three margins of a training."""
    margins = {"alpha1": PROPOSED.alpha1, "alpha2": PROPOSED.alpha2, "alpha3": PROPOSED.alpha3, **MARGINS.get(name, {})}
    return ", ".join(f"{margins[a]:.1f}" for a in ("alpha1", "alpha2", "alpha3"))


# Rows of the comparison tables: what we call them -> how the scores call them.
TABLE_1 = {
    "the better plain stream of TSN": "best-single",
    "TSN, both streams fused": "baseline",
    **{f"CCS + TSN, {output}": f"all{end}" for output, end in OUTPUTS.items()},
    "I3D, both streams fused": "i3d-baseline",
    **{f"CCS + I3D, {output}": f"i3d-all{end}" for output, end in OUTPUTS.items()},
}
TABLE_2 = {
    "two-stream TSN": "baseline",
    "CCS + TSN": "all",
    "two-stream + TRN": "trn-baseline",
    "CCS + two-stream + TRN": "trn-all",
}
TABLE_3 = {
    output: {f"{base} {part}": f"{first}{name}{end}" for base, first in BASES.items() for part, name in PARTS.items()}
    for output, end in OUTPUTS.items()
}
TABLE_4 = {_margins(name): f"all@{name}" if name else "all" for name in ("", *MARGINS)}
COMPARED = {
    "in the block's place": {
        "nothing (baseline)": "baseline",
        "connection block (CB)": "cb",
        "Eq. 3 to the letter: own features": "cb@own",
        "Eq. 1 to the letter: one number a clip": "cb@scalar",
        "the block after the pool": "cb@pooled",
        "features of both joined": "cb@concatenation",
        "features of both averaged": "cb@average",
    },
    "losses": {
        "cross-entropy alone, with the block (CB)": "cb",
        "All": "all",
        "All without Eq. 4": "all@no-triplet",
        "All without Eq. 5": "all@no-embedding",
        "All, positive: the same clip": "all@same-clip",
    },
    "tests": {
        "fused 1 : 1, all snippets together": "all",
        "fused 1 : 1.5": "all+weight-1.5",
        "groups of as many snippets as in training": "all+groups",
    },
}
# The printed cells that can be reproduced: (table, row) -> method. Table 4 is not among them: its best accuracy is the
# one that Table 1 has with weights of Kinetics (ledger ccs-L23).
CELLS = {
    **{(f"3 {output}", row): method for output, rows in TABLE_3.items() for row, method in rows.items()},
    **{("1 " + output, "CCS + TSN, ImageNet"): f"all{end}" for output, end in OUTPUTS.items()},
    **{("1 " + output, "CCS + I3D"): f"i3d-all{end}" for output, end in OUTPUTS.items()},
}
CELLS_2 = {"two-stream + TRN": "trn-baseline", "CCS + two-stream + TRN": "trn-all"}
TOP = {"val top-1": 1, "val top-5": 5}


class CCSPage(ChapterPage, CCSFigures):
    """What the chapter shows, for the data set at hand and, beside it, for those with recorded results."""

    paper = "ccs"
    scores_of = CCSScores
    main: CCSScores
    tables: ClassVar[Mapping[int | str, Mapping[str, str]]] = {
        1: TABLE_1, 2: TABLE_2, 4: TABLE_4, **{f"3 {output}": rows for output, rows in TABLE_3.items()},
    }  # fmt: skip

    def claim_scores(self, scores: Mapping[str, Any]) -> CCSClaims:
        """What the claims are tested on."""
        return CCSClaims(scores)

    def ledger_values(self) -> dict[str, str]:
        """The live values that the ledger asks for."""
        return ledger_values(self.scores)

    # -- at a glance ------------------------------------------------------------------------------------------------

    def glance(self) -> Shown:
        """The card at the top."""
        config, whole = Config(), counted("TSN, All")
        main = self.chapter.experiments["all"]
        return self.card(
            {
                "Paper": "Zhang, Xu, Shen, Shen (2019)",
                "Streams": f"RGB frames; stacks of {config.flow_frames} optical flow fields "
                f"({2 * config.flow_frames} channels); both in one network",
                "Backbones": "BN-Inception twice (TSN); I3D, VGG-16, ResNet-50 and TRN as variants",
                "Size at full width": f"{whole.parameters / 1e6:.1f} M parameters, {whole.multiply_adds / 1e9:.1f} G "
                f"multiply-adds for {config.segments} snippets (101 classes, counted)",
                "Here": f"{self.chapter.preset}, width {main.config['width']:g}: {main.sampling.snippets} snippets of "
                f"1 frame and {main.sampling.flow_frames} flow fields in training, "
                f"{protocol(main.protocol).snippets} in the test",
            }
        )

    # -- architecture and recipe ------------------------------------------------------------------------------------

    def counts(self) -> Table:
        """What the networks cost, counted: the block, what is behind it, and all of it (claim ccs-16)."""
        rows: list[tuple[Cell, ...]] = [_counted(counted(name)) for name in NETWORKS]
        convolutions = number("ccs", "prose 4.3 parts", "1x1 convolutions", "value")
        return Table(
            ("network", "parameters", "of the block", "of the heads", "added", "G multiply-adds", "ledger"),
            tuple(rows), "What the networks cost, counted",
            "101 classes, both streams, one training clip at 224 px. Heads: shared layers or classifiers, and "
            "relations. Added: block and heads beside both trunks. Section 4.3 names "
            f"{convolutions:g} convolutions and no number.",
        )  # fmt: skip

    def recipe(self) -> Table:
        """The paper's schedule beside the one of this page."""
        rows: dict[str, Callable[[Preset], str]] = {
            "optimiser": lambda p: (
                f"SGD, momentum {p.recipes['tsn'].momentum:g}, weight decay {p.recipes['tsn'].weight_decay:g}, "
                f"gradient norm at most {p.recipes['tsn'].clip_norm:g}"
            ),
            "mini-batch": lambda p: "{} classes of {} clips, both modalities".format(*p.recipes["tsn"].balanced or ()),
            "iterations and rate": lambda p: (
                f"{p.recipes['tsn'].iterations:,}{_of_i3d(p)}; {p.recipes['tsn'].lr:g}, {schedule(p.recipes['tsn'])}"
            ),
            "margins and weights of the losses": lambda p: (
                f"{_margins('')}; {PROPOSED.lambda1:g}, {PROPOSED.lambda2:g}"
            ),
            "dropout, RGB and flow": lambda p: " and ".join(f"{d:g}" for d in p.dropout or Config().dropout),
            "batch normalisation": lambda p: "all frozen but the first (TSN)" if p.weights != "none" else "not frozen",
            "snippets or frames in training": lambda p: ", ".join(
                f"{p.samplings[base].snippets} ({name})"
                for base, name in (("tsn", "TSN"), ("i3d", "I3D"), ("trn", "TRN"))
            ),
            "flow fields a snippet": lambda p: str(p.samplings["tsn"].flow_frames),
            "test of I3D": lambda p: views_of(p.protocols["i3d"]),
            "crop": lambda p: f"{p.samplings['tsn'].crop} px of frames with shorter side {p.short_side} px",
        }
        note = (
            "Classes and clips of a mini-batch are missing in the paper (ledger ccs-L11), and so are dropout and "
            "frozen batch normalisation, where the first column has those of TSN (ledger ccs-L41). Clipped "
            "gradients are ours."
        )
        return recipe_table(self.chapter, _scale, rows, ("all",), note)

    # -- tables -----------------------------------------------------------------------------------------------------

    def published(self, number: int | str) -> Table:
        """A table as published, or a part of it ("3 RGB"), with reproduced columns by the paper's own protocol.

        Tables 1 and 3 are the first split of UCF-101 and HMDB-51, Table 2 the validation list of Something-Something.
        """
        name = self.chapter.dataset.name
        found: dict[tuple[str, str], str] = {}
        if scores := self._reproduced("val" if number == 2 else "1"):
            if number == 2 and name == "ssv2":
                for row, method in CELLS_2.items():
                    found |= {(row, column): text for column, k in TOP.items() if (text := _top(scores, method, k))}
            elif name in PRINTED:
                for (table, row), method in CELLS.items():
                    if table == number and (correct := scores.correct(method)):
                        text = tables.statistic(correct[0].mean(1), correct[0].shape[1])
                        found[row, PRINTED[name]] = text
        return tables.published(self.paper, str(number), found)

    def compared(self, title: str, methods: Mapping[str, str], scores: Scores) -> Table:
        """Methods side by side; how I3D was tested is said below them, where it is among them."""
        table = super().compared(title, methods, scores)
        shown = {m.partition(":")[0] for m in methods.values() if m.startswith("i3d-")}
        runs = [run for (name, _, _), run in scores.runs.items() if name in shown]
        if not runs:
            return table
        return replace(table, note=f"{table.note} I3D: {views_of(runs[0].row['identity']['protocol'])}, in a row.")

    def printed(self, number: int) -> Shown:
        """A table as published, all of its parts."""
        return _together([self.published(part) for part in IN_PARTS.get(number, (number,))])

    def _reproduced(self, split: str) -> CCSScores | None:
        """The runs on a split by the paper's recipe; None when this page has none."""
        own = self.chapter.preset == "paper" and self.chapter.parameters.weights == "auto"
        if not own or unofficial(self.chapter.dataset):
            return None
        runs = {key: result for key, result in self.main.runs.items() if key[1] == split}
        return CCSScores(runs) if runs else None

    def comparisons(self, number: int | str) -> Shown:
        """The comparison of a table on every data set where any of it was run; 3 is all of its parts."""
        parts = [part for part in self.tables if part == number or str(part).startswith(f"{number} ")]
        return _together([t for part in parts for t in self._compared(f"Table {part}", self.tables[part])])

    def variants(self, which: str) -> Shown:
        """Networks that differ in one thing each, on every data set where any of them was run."""
        return _together(self._compared(f"{which[0].upper()}{which[1:]}", COMPARED[which]))

    def _compared(self, title: str, methods: Mapping[str, str]) -> list[Table]:
        return [
            self.compared(title, methods, scores)
            for scores in self.scores.values()
            if any(scores.seeds_with(m) for m in methods.values())
        ]


@dataclass(frozen=True)
class _Scale(Preset):
    """A scale with one protocol, TSN's, as the table of recipes asks for it."""

    @property
    def protocol(self) -> str:
        return self.protocols["tsn"]


def _scale(name: str, dataset: str) -> _Scale:
    scale = preset(name, dataset)
    return _Scale(**{f.name: getattr(scale, f.name) for f in fields(scale)})


def _counted(count: Count) -> tuple[Cell, ...]:
    """A row of the table of counts; what claim ccs-16 asks for names no entry of the ledger."""
    entry: Cell = link(count.entry, f"#{count.entry}") if count.entry.startswith("ccs-L") else ""
    cells = (f"{n:,}" if n else ABSENT for n in (count.parameters, count.block, count.heads))
    return (count.network, *cells, f"{100 * count.added:.1f} %", f"{count.multiply_adds / 1e9:.2f}", entry)


def _top(scores: CCSScores, method: str, k: int) -> str:
    """How often the true class is among the k best ones, over the seeds of a method; empty where it was not run."""
    if not (seeds := scores.seeds_with(method)):
        return ""
    labels = scores.labels(method)
    return tables.statistic([topk_accuracy(scores.all_scores(method, s), labels, k) for s in seeds], len(labels))


def _together(found: Sequence[Table]) -> Shown:
    """Tables one under the other."""
    if not found:
        return absent(NO_RUN)
    return Shown("\n\n".join(map(repr, found)), "".join(t._repr_html_() for t in found))


# ---------------------------------------------------------------- for the notebook's demonstrations


def _of_i3d(scale: Preset) -> str:
    """I3D's iterations, where they are others than TSN's."""
    own = scale.recipes["i3d"].iterations
    return "" if own == scale.recipes["tsn"].iterations else f" (I3D {own:,})"


def network_on_a_clip(page: CCSPage) -> tuple[CCS, dict[str, Tensor]]:
    """The proposed network as it begins, and three snippets of the example clip, "rgb" and "flow" (1, T, c, H, W).

    Untrained statistics (0 and 1) would let a deep network's maps grow without end, so those of the clip take their
    place; and the last layer gets larger weights than training begins with, so that scores differ.
    """
    from repro.data.clips import TestSamples, TestViews
    from repro.training import to_network

    experiment = page.chapter.experiments["all"]
    clip = next(c for c in page.chapter.dataset.clips if c.id == page.example())
    page.chapter.labs[0].prepare([clip])
    views = TestViews("three snippets", Config().segments, "full")
    sample = TestSamples(page.chapter.labs[0].store, [clip], experiment.sampling, views)[0]
    given = to_network(sample, torch.device("cpu"), experiment.sampling)
    inputs = {m: x for m, x in given.items() if x is not None}
    torch.manual_seed(0)
    model = experiment.build(len(page.chapter.dataset.classes))
    if not isinstance(model, CCS):
        raise ReproError(f"{experiment.name} is no network of this chapter")
    nn.init.normal_(model.classifier("rgb").weight, std=0.1)
    if experiment.config["weights"] == "none":
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # the mean of what it has seen
        with torch.no_grad():
            model.train()(**inputs)
    return model.eval(), inputs
