"""Tables and figures of the STILT chapter, from finished runs and live models; the notebook only calls and tells."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import repro
from repro.data.catalog import unofficial
from repro.errors import ReproError
from repro.evaluation import protocol
from repro.experiments import Lab
from repro.models.count import multiply_adds, parameters
from repro.papers.reported import reported
from repro.papers.stilt import STILT, Config, build, layer_table
from repro.papers.stilt_experiments import Preset, preset
from repro.papers.stilt_numbers import MAIN, ClaimScores, ledger_values
from repro.papers.stilt_scores import Scores, clip_tags, lab_runs, recorded_runs
from repro.report import claims, tables
from repro.report.ledger import Ledger, ledger, stilt_live
from repro.report.page import Chapter
from repro.report.stilt_figures import FACTORS, StiltFigures
from repro.report.tables import Cell, Table
from repro.report.theme import Shown
from repro.results import Library
from repro.setup import recorded_folder
from repro.training import Recipe

Array = np.ndarray[Any, Any]
# Rows of the comparison tables: what the paper calls it -> how the scores call it.
TABLE_4 = {
    "Spatial": "spatial",
    "Temporal": "temporal",
    "Two-stream": "two-stream",
    "same head, no attention (snippets)": "control-snippets",
    "same head, no attention (regions)": "control-regions",
    "Two-stream + STIL (snippets)": "stil-snippets",
    "Two-stream + STIL (regions)": "stil-regions",
    "Two-stream + STIL + AWF (snippets)": "stil-snippets+awf",
    "Two-stream + STIL + AWF (regions)": "stil-regions+awf",
}
TABLE_5 = {
    f"{label} ({reading})": f"stil-{reading}{fusion}"
    for reading in ("snippets", "regions")
    for label, fusion in {
        "Late Ave": "",
        "Early": "+svm",
        "AWF": "+awf",
        "AWF, regularised": "+awf-regularised",
        "AWF on held-out scores": "+awf-held-out",
    }.items()
    if not (reading == "regions" and fusion == "+awf-held-out")
}
TABLE_6 = {
    f"STILT ({name})": f"stil-snippets{backbone}+awf"
    for name, backbone in {"VGG-19": "@vgg19", "ResNet-34": "@resnet34", "ResNet-50": ""}.items()
}
LEAVE_ONE_OUT = {
    "Spatial": "spatial",
    "Temporal": "temporal",
    "Two-stream": "two-stream",
    "Two-stream + STIL (snippets)": "stil-snippets",
    "Two-stream + STIL + Early (snippets)": "stil-snippets+svm",
    "Two-stream + STIL + AWF (snippets)": "stil-snippets+awf",
}
# The paper's own data sets, whose cells can be reproduced by the paper's own protocol.
COLUMNS = {"ucf101": "UCF101", "hmdb51": "HMDB51", "kinetics400": "Kinetics"}
RECORDED = ("motionshapes", "weizmann")


class StiltPage(StiltFigures):
    """What the chapter shows, for the data set at hand and, beside it, for those with recorded results."""

    def __init__(self, chapter: Chapter) -> None:
        self.scores = {chapter.dataset.name: Scores(lab_runs(chapter.labs, chapter.experiments, chapter.seeds))}
        folder = recorded_folder()
        if folder and chapter.preset == "small":
            for name in RECORDED:
                if name not in self.scores and (runs := recorded_runs(folder, name, "small")):
                    self.scores[name] = Scores(runs)
        super().__init__(chapter, self.scores[chapter.dataset.name])
        self.stale: list[str] = []  # keys of runs that do not repeat, once `checks` was asked

    # -- at a glance ------------------------------------------------------------------------------------------------

    def observed(self) -> Shown:
        """What came out, in one sentence made from the claims table."""
        counts = {word: n for word, n in self.claims.counts().items() if n}
        total = sum(counts.values())
        words = ", ".join(f"{n} {word}" for word, n in counts.items())
        text = f"What came out, of {total} claims on {' and '.join(self.scores)}: {words}."
        return Shown(text, f"<p>{html.escape(text)}</p>")

    def glance(self) -> Shown:
        """The card at the top."""
        with torch.device("meta"):
            model = build(Config(), 101)
            snippet = torch.zeros(1, 1, 3, 224, 224), torch.zeros(1, 1, 20, 224, 224)
        counts = self.claims.counts()
        sampling = self.chapter.experiments[MAIN].sampling
        return tables.glance(
            {
                "Paper": "Liu, Ma, Yang, Ji, Wang, Jiang: Information Sciences 606 (2022)",
                "Streams": "RGB frames; stacks of 10 optical flow fields (20 channels)",
                "Backbones": "ResNet-50 twice; VGG-19 and ResNet-34 as variants",
                "Size": f"{parameters(model) / 1e6:.1f} M parameters, "
                f"{multiply_adds(model, *snippet) / 1e9:.1f} G multiply-adds a snippet (101 classes, counted)",
                "Here": f"{self.chapter.preset}: {sampling.snippets} snippets of 1 frame and "
                f"{sampling.flow_frames} flow fields in training",
                "Claims": ", ".join(f"{n} {word}" for word, n in counts.items() if n),
            },
            {"claims": "#claims", "ledger": "#ledger-stilt"},
        )

    # -- architecture -----------------------------------------------------------------------------------------------

    def architecture(self, table: int) -> Table:
        """Table 2 or 3 of the paper beside the same read off the live model (full width, 224 x 224, one snippet)."""
        with torch.device("meta"):
            live = [r for r in layer_table(build(Config(), 101), 224) if r.table == table]
        printed: dict[str, dict[str, str]] = {}
        for cell in reported("stilt"):
            if cell.table == str(table):
                value = f"{cell.value:g}" if isinstance(cell.value, float) else str(cell.value or tables.ABSENT)
                printed.setdefault(cell.row, {})[cell.column] = _spaced(value)
        columns = ["input", "block", "output"] if table == 2 else ["input", "output"]
        names = {"input": "Input size", "block": "Block information", "output": "Output size"}
        paper = {row: [cells[names[c]] for c in columns] for row, cells in printed.items()}
        built = {_row_name(r.layer): [_live(r, c) for c in columns] for r in live}
        entries = (
            {**dict.fromkeys(("Max-Pooling1", "Conv2_x", "Conv3_x", "Conv4_x", "Conv5_x"), "stilt-L7")}
            if table == 2
            else dict.fromkeys([*paper, *built], "stilt-L2")
        )
        return tables.layers(
            paper, built, columns=columns, caption=f"Table {table}: printed, and built", ledger=entries
        )

    def recipe(self) -> Table:
        """The paper's schedule beside the one of this page."""
        name = self.chapter.dataset.name
        here, weights = preset(self.chapter.preset, name), self.chapter.parameters.weights
        if weights != "auto":
            here = replace(here, weights=weights)
        columns = {"paper": preset("paper", name), f"here ({self.chapter.preset})": here}
        rows: dict[str, Callable[[Preset], str]] = {
            "width of the networks": lambda p: f"{p.width:g}",
            "starting weights": lambda p: {"imagenet": "ImageNet", "none": "random"}.get(p.weights, p.weights),
            "optimiser": lambda p: f"SGD, momentum {p.recipe.momentum:g}, weight decay {p.recipe.weight_decay:g}",
            "clips an update": lambda p: str(p.recipe.batch),
            "iterations": lambda p: f"{p.recipe.iterations:,}",
            "learning rate": lambda p: f"{p.recipe.lr:g}, {_schedule(p.recipe)}",
            "snippets in training": lambda p: str(p.sampling.snippets),
            "flow fields a snippet": lambda p: str(p.sampling.flow_frames),
            "crop": lambda p: f"{p.sampling.crop} px of frames with shorter side {p.short_side} px",
            "test": lambda p: _views(p.protocol),
        }
        body = tuple((label, *(text(p) for p in columns.values())) for label, text in rows.items())
        note = "The paper gives neither snippets nor test views (ledger stilt-L16); the first column has our choice."
        return Table(("", *columns), body, "The recipe of the paper and the one of this page", note)

    # -- tables -----------------------------------------------------------------------------------------------------

    def published(self, number: int) -> Table:
        """A table as published, with reproduced columns for runs by the paper's own data set and protocol."""
        rows = {4: TABLE_4, 5: TABLE_5, 6: TABLE_6}.get(number, {})
        column = COLUMNS.get(self.chapter.dataset.name)
        found = {}
        # Sec. 4.1: accuracies are averaged over all splits. Other starting weights are another experiment.
        whole = set(self.main.splits) == set(self.chapter.dataset.splits) and self.chapter.parameters.weights == "auto"
        whole = whole and not unofficial(self.chapter.dataset)  # a subset is another data set
        if column and self.chapter.preset == "paper" and whole:
            known = {c.row for c in reported("stilt") if c.table == str(number)}
            for label, method in rows.items():
                name = _published_name(number, label)
                if name in known and (correct := self.main.correct(method)):
                    found[name, column] = tables.statistic(correct[0].mean(1), correct[0].shape[1])
        return tables.published("stilt", str(number), found)

    def comparison(self, number: int, dataset: str = "") -> Table:
        """The same comparison on a data set that was run, overall and per factor where the data set has factors."""
        methods = {4: TABLE_4, 5: TABLE_5, 6: TABLE_6}[number]
        return self._compared(f"Table {number}", methods, self.scores[dataset or self.chapter.dataset.name])

    def _compared(self, title: str, methods: Mapping[str, str], scores: Scores) -> Table:
        name = scores.dataset
        subsets: dict[str, Mapping[str, str]] = {"all": {}}
        if clip_tags(name):
            subsets |= {f: {"factor": f} for f in FACTORS}
        rows: list[tuple[str, Mapping[str, Array]]] = []
        chance: dict[str, float] = {}
        groups: dict[str, Array] = {}
        for label, method in methods.items():
            found = {c: scores.correct(method, s) for c, s in subsets.items()}
            rows.append((label, {c: f[0] for c, f in found.items() if f}))
            chance |= {c: f[2] for c, f in found.items() if f}
            groups |= {c: f[1] for c, f in found.items() if f}
        views = next(iter(scores.runs.values())).row["identity"]["protocol"]
        seeds = ", ".join(map(str, scores.seeds))
        caption = (
            f"{title} on {name}: preset {self.chapter.preset}, test protocol {views}, "
            f"split {', '.join(scores.splits)}, seeds {seeds}, {len(scores.labels(MAIN))} test clips"
        )
        note = "A factor's column decides among that factor's classes only." if len(subsets) > 1 else ""
        return tables.comparison(rows, caption, chance=chance, groups=groups, note=note)

    def comparisons(self, number: int) -> Shown:
        """The comparison of a table on every data set that was run, one table under the other."""
        found = [self.comparison(number, name) for name in self.scores]
        return Shown("\n\n".join(map(repr, found)), "".join(t._repr_html_() for t in found))

    @cached_property
    def one_out(self) -> Scores | None:
        """Recorded runs on Weizmann that leave one person out, where this page is of their scale."""
        folder = recorded_folder() if self.chapter.preset == "small" else None
        runs = recorded_runs(folder, "weizmann", "small", leave_one_out=True) if folder else {}
        return Scores(runs) if runs else None

    def leave_one_out(self) -> Shown:
        """Weizmann by its usual protocol: nine trainings, each tested on the person that it never saw."""
        if self.one_out is None:
            return Shown("leave one person out: not run", "<p>Leave one person out: not run at this scale.</p>")
        table = self._compared("Leave one person out", LEAVE_ONE_OUT, self.one_out)
        tested = claims.evaluate(claims.load_claims("stilt"), ClaimScores({"weizmann": self.one_out}))
        found = claims.ClaimRows(row for row in tested if row.difference and row.test.kind == "correct")
        return Shown(f"{table!r}\n\n{found!r}", table._repr_html_() + found._repr_html_())

    # -- claims and ledger ------------------------------------------------------------------------------------------

    @cached_property
    def claims(self) -> claims.ClaimRows:
        """Every claim with its verdict."""
        return claims.evaluate(claims.load_claims("stilt"), ClaimScores(self.scores))

    def ledger(self) -> Ledger:
        """The ledger with its live values."""
        return ledger("stilt", {**ledger_values(self.scores), **stilt_live()})

    def deviations(self) -> Table:
        """Every `DEVIATION:` comment in the code of this paper, where it stands."""
        root = Path(repro.__file__).parent
        rows: list[tuple[Cell, ...]] = []
        for path in sorted((root / "papers").glob("stilt*.py")):
            for number, text in collect_deviations(path):
                rows.append((f"{path.name}, line {number}", text))
        return Table(("where", "departure"), tuple(rows), "Departures from the paper, collected from the code")

    # -- again, and elsewhere ---------------------------------------------------------------------------------------

    def checks(self) -> Table:
        """Whether the stored runs of the first seed still begin with the same losses."""
        done, lab = self.chapter.check(), self.chapter.labs[0]
        self.stale = [lab.key(self.chapter.experiments[name], seed) for name, seed, same in done if not same]
        rows = tuple((name, str(seed), "repeats" if same else "STALE") for name, seed, same in done)
        good = sum(same for *_, same in done)
        return Table(("run", "seed", "first losses"), rows, f"{good} of {len(done)} stored runs repeat")

    def your_data(self) -> Shown:
        """How to run this chapter on this data and on one's own, with time and disk."""
        name = self.chapter.dataset.name
        root = "" if name == "motionshapes" else " -p data_root DIR"
        lines = [
            f"papermill notebooks/stilt.ipynb out.ipynb -p dataset {name}{root} -p preset small -p seeds 1",
            "papermill notebooks/stilt.ipynb out.ipynb -p dataset folder -p data_root DIR",
        ]
        lab = self.chapter.labs[0]
        fresh = Lab(
            lab.dataset, lab.store, Library(lab.runs_dir / "none"), split=lab.split, runs_dir=lab.runs_dir,
            device=str(lab.device),
        )  # fmt: skip
        cost = fresh.estimate([(e, 1) for e in self.chapter.experiments.values()])
        text = f"From nothing, one seed of every network on {name} ({self.chapter.preset}): {cost}."
        code = "".join(f"<pre>{html.escape(line)}</pre>" for line in lines)
        return Shown("\n".join([*lines, text]), f"{code}<p>{html.escape(text)}</p>")

    def footer(self) -> Shown:
        """Where the rows of this page come from, and which of them `checks` found stale."""
        shown = [*self.scores.values(), *([self.one_out] if self.one_out else [])]
        return tables.provenance([r.row for s in shown for r in s.runs.values()], self.stale)


def _spaced(text: str) -> str:
    """Sizes with blanks, as the live table writes them: 56x56x64 -> 56 x 56 x 64 (kernels stay as they are)."""
    parts = text.split("; ")
    sizes = all(p.replace("x", "").isdigit() for p in parts)
    return "; ".join(p.replace("x", " x ") for p in parts) if sizes else text


def _row_name(layer: str) -> str:
    return {"Pool1": "Max-Pooling1", "Classes": "Softmax"}.get(layer, layer)


def _live(row: Any, column: str) -> str:
    if column == "block":
        return str(row.block)
    sizes = row.inputs if column == "input" else row.outputs
    return "; ".join(dict.fromkeys(sizes.values()))


def _published_name(number: int, label: str) -> str:
    """Our row's name in the paper's table; the snippets reading stands for the paper's network."""
    name = label.replace(" (snippets)", "")
    return f"Two-stream + STIL + {name}" if number == 5 else name


def steps_on_a_clip(page: StiltPage) -> tuple[STILT, dict[str, torch.Tensor]]:
    """A small untrained network and the snippets of the example clip, for the notebook's demonstrations."""
    from repro.data.clips import TestSamples
    from repro.evaluation import protocol
    from repro.training import to_network

    experiment = page.chapter.experiments[MAIN]
    torch.manual_seed(0)
    model = experiment.build(len(page.chapter.dataset.classes)).eval()
    if not isinstance(model, STILT):
        raise ReproError("the main experiment of this chapter is no STILT network")
    clip = next(c for c in page.chapter.dataset.clips if c.id == page.example())
    page.chapter.labs[0].prepare([clip])
    views = TestSamples(page.chapter.labs[0].store, [clip], experiment.sampling, protocol(experiment.protocol))[0]
    return model, {
        k: v for k, v in to_network(views, torch.device("cpu"), experiment.sampling).items() if v is not None
    }


def _schedule(recipe: Recipe) -> str:
    if recipe.schedule == "cosine":
        return f"cosine to 0 after {recipe.warmup} steps of warm-up"
    return f"times {recipe.gamma:g} at {', '.join(f'{m:,}' for m in recipe.milestones)}"


def _views(name: str) -> str:
    views = protocol(name)
    seen = {"centre": "centre crop", "ten": "ten crops", "full": "whole frame", "full+flip": "whole frame and mirror"}
    return f"{views.snippets} snippets, {seen[views.views]}"


def collect_deviations(path: Path) -> list[tuple[int, str]]:
    """(line number, text) of the `DEVIATION:` comments of a file, continued comment lines included."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for i, line in enumerate(lines):
        if "DEVIATION:" not in line:
            continue
        comment = "#" in line
        text = [line.split("DEVIATION:")[1].strip()]
        for following in lines[i + 1 :]:
            stripped = following.strip()
            ends = not stripped or "DEVIATION:" in stripped or stripped.startswith('"""')
            if ends or (comment and not stripped.startswith("#")) or (not comment and stripped.startswith("`")):
                break
            text.append(stripped.removeprefix("#").strip())
        found.append((i + 1, " ".join(text)))
    return found
