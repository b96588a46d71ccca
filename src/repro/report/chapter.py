"""What every chapter shows beside its own figures: tables, claims, ledger, checks; the notebook only calls."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml

import repro
from repro.data.catalog import unofficial
from repro.experiments import Experiment, Lab
from repro.metrics import NOT_RUN
from repro.papers.reported import reported
from repro.plans import estimate
from repro.report import claims, tables
from repro.report.chapter_figures import FACTORS, ChapterFigures
from repro.report.ledger import Ledger, ledger
from repro.report.page import Chapter
from repro.report.tables import Cell, Table
from repro.report.theme import Shown
from repro.results import Library
from repro.scores import ClaimScores, RunKey, Scores, clip_tags, lab_runs, recorded_runs
from repro.setup import recorded_folder, splits_of

Array = np.ndarray[Any, Any]
# Printed columns by data set: cells that can be reproduced by the paper's own protocol.
COLUMNS = {"ucf101": "UCF101", "hmdb51": "HMDB51", "kinetics400": "Kinetics"}
RECORDED = ("motionshapes", "weizmann")
QUOTED = "the-idea-step-by-step"  # the section that quotes a paper's code


class ChapterPage(ChapterFigures, ABC):
    """What a chapter shows, for the data set at hand and, beside it, for those with recorded results."""

    paper: ClassVar[str]  # its name
    scores_of: ClassVar[type[Scores]]
    tables: ClassVar[Mapping[int | str, Mapping[str, str]]]  # number -> what the paper calls a row -> the method
    alone: ClassVar[Mapping[str, str]] = {}  # the rows that are shown with one person left out
    columns: ClassVar[Mapping[str, str]] = COLUMNS

    def __init__(self, chapter: Chapter) -> None:
        runs = lab_runs(chapter.labs, self.all_experiments(chapter.experiments), chapter.seeds)
        data = chapter.dataset
        self.scores: dict[str, Any] = {data.name: self.scores_of(runs, data.name, data.classes)}
        folder = recorded_folder()
        if folder and chapter.preset == "small":
            for name in RECORDED:
                if name not in self.scores and (found := self.recorded(folder, name)):
                    self.scores[name] = self.scores_of(found)
        super().__init__(chapter, self.scores[chapter.dataset.name])
        self.stale: list[str] = []  # keys of runs that do not repeat, once `checks` was asked

    # -- what a paper says of itself --------------------------------------------------------------------------------

    def all_experiments(self, experiments: Mapping[str, Experiment]) -> Iterable[Experiment]:
        """The trainings whose runs the page shows: the chapter's, and whatever a paper adds to them."""
        return experiments.values()

    def recorded(self, folder: Path, dataset: str, *, leave_one_out: bool = False) -> dict[RunKey, Any]:
        """Recorded runs of another data set than the page's."""
        return recorded_runs(folder, self.paper, dataset, "small", leave_one_out=leave_one_out)

    @abstractmethod
    def claim_scores(self, scores: Mapping[str, Any]) -> ClaimScores:
        """What the claims are tested on: these scores, and the paper's own measurements."""

    @abstractmethod
    def ledger_values(self) -> dict[str, str]:
        """The live values that the ledger asks for, by name."""

    def published_name(self, number: int | str, label: str) -> str:
        """What the paper calls a row of our comparison in its own table."""
        return label

    # -- at a glance ------------------------------------------------------------------------------------------------

    def card(self, facts: Mapping[str, Cell], claims: str = "") -> Shown:
        """The card at the top: what a paper says of itself, its claims by verdict, and where to go.

        `claims`: the anchor of the page's claims, where it is not the usual one.
        """
        name = self.paper.replace("_", "-")  # as anchors have it
        host = repository()
        code = f"{host}/src/repro/papers/{self.paper}.py" if host else f"#{QUOTED}"
        verdicts = ", ".join(f"{n} {word}" for word, n in self.claims.counts().items() if n)
        links = {
            "claims": f"#{claims or f'claims-{name}'}",
            "ledger": f"#ledger-{name}",
            "paper": f"#{name}-references",
            "code": code,
            "notebook": f"../_sources/notebooks/{self.paper}.ipynb",  # where the book keeps what it was made from
        }
        return tables.glance({**facts, "Claims": verdicts}, links)

    # -- tables -----------------------------------------------------------------------------------------------------

    def observed(self) -> Shown:
        """What came out, in one sentence made from the claims table."""
        counts = {word: n for word, n in self.claims.counts().items() if n}
        total = sum(counts.values())
        words = ", ".join(f"{n} {word}" for word, n in counts.items())
        text = f"What came out, of {total} claims on {' and '.join(self.scores)}: {words}."
        if printed := self.claims.without_runs(self.scores):
            text += f" Of these, {', '.join(printed)} rest on printed numbers or counts alone."
        return Shown(text, f"<p>{html.escape(text)}</p>")

    def published(self, number: int | str) -> Table:
        """A table as published, with reproduced columns for runs by the paper's own data set and protocol."""
        rows = self.tables.get(number, {})
        column = self.columns.get(self.chapter.dataset.name)
        found = {}
        # The papers average accuracies over all splits. Other starting weights are another experiment.
        whole = (
            set(self.main.splits) == set(splits_of("all", self.chapter.dataset.splits))
            and self.chapter.parameters.weights == "auto"
        )
        whole = whole and not unofficial(self.chapter.dataset)  # a subset is another data set
        if column and self.chapter.preset == "paper" and whole:
            known = {c.row for c in reported(self.paper) if (c.table, c.column) == (str(number), column)}
            for label, method in rows.items():
                name = self.published_name(number, label)
                if name in known and (correct := self.main.correct(method)):
                    found[name, column] = tables.statistic(correct[0].mean(1), correct[0].shape[1])
        return tables.published(self.paper, str(number), found)

    def comparison(self, number: int | str, dataset: str = "") -> Table:
        """The same comparison on a data set that was run, overall and per factor where the data set has factors."""
        return self.compared(f"Table {number}", self.tables[number], self.scores[dataset or self.chapter.dataset.name])

    def compared(self, title: str, methods: Mapping[str, str], scores: Scores) -> Table:
        """Methods side by side, overall and per factor where the data set has factors."""
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
        if not any(right for _, right in rows):
            empty = tuple((label, NOT_RUN) for label in methods)
            return Table(("method", "all"), empty, f"{title} on {name}: nothing of it was run")
        clips = {right["all"].shape[1] for _, right in rows if "all" in right} or {0}
        views = next(iter(scores.runs.values())).row["identity"]["protocol"]
        seeds = ", ".join(map(str, scores.seeds))
        caption = (
            f"{title} on {name}: preset {self.chapter.preset}, test protocol {views}, "
            f"split {', '.join(scores.splits)}, seeds {seeds}, {max(clips)} test clips"
        )
        note = "A factor's column decides among that factor's classes only." if len(subsets) > 1 else ""
        return tables.comparison(rows, caption, chance=chance, groups=groups, note=note)

    def comparisons(self, number: int | str) -> Shown:
        """The comparison of a table on every data set that was run, one table under the other."""
        found = [self.comparison(number, name) for name in self.scores]
        return Shown("\n\n".join(map(repr, found)), "".join(t._repr_html_() for t in found))

    @cached_property
    def one_out(self) -> Any:
        """Recorded runs on Weizmann that leave one person out, where this page is of their scale."""
        folder = recorded_folder() if self.chapter.preset == "small" else None
        runs = self.recorded(folder, "weizmann", leave_one_out=True) if folder else {}
        return self.scores_of(runs) if runs else None

    def leave_one_out(self) -> Shown:
        """Weizmann by its usual protocol: nine trainings, each tested on the person that it never saw."""
        if self.one_out is None:
            return Shown("leave one person out: not run", "<p>Leave one person out: not run at this scale.</p>")
        table = self.compared("Leave one person out", self.alone, self.one_out)
        tested = claims.evaluate(claims.load_claims(self.paper), self.claim_scores({"weizmann": self.one_out}))
        found = claims.ClaimRows(row for row in tested if row.difference and row.test.kind == "correct")
        return Shown(f"{table!r}\n\n{found!r}", table._repr_html_() + found._repr_html_())

    # -- claims and ledger ------------------------------------------------------------------------------------------

    @cached_property
    def claims(self) -> claims.ClaimRows:
        """Every claim with its verdict."""
        return claims.evaluate(claims.load_claims(self.paper), self.claim_scores(self.scores))

    def ledger(self) -> Ledger:
        """The ledger with its live values."""
        return ledger(self.paper, self.ledger_values())

    def deviations(self) -> Table:
        """Every `DEVIATION:` comment in the code of this paper, where it stands."""
        root = Path(repro.__file__).parent
        rows: list[tuple[Cell, ...]] = []
        for path in sorted((root / "papers").glob(f"{self.paper}*.py")):
            for number, text in collect_deviations(path):
                rows.append((f"{path.name}, line {number}", text))
        return Table(("where", "departure"), tuple(rows), "Departures from the paper, collected from the code")

    # -- again, and elsewhere ---------------------------------------------------------------------------------------

    def checks(self) -> Table:
        """Whether the stored runs of the first seed still begin with the same losses."""
        left = self.chapter.unchecked()
        done, lab = self.chapter.check(), self.chapter.labs[0]
        self.stale = [lab.key(self.chapter.experiments[name], seed) for name, seed, same in done if not same]
        rows = tuple((name, str(seed), "repeats" if same else "STALE") for name, seed, same in done)
        good = sum(same for *_, same in done)
        note = (
            f"{len(left)} more start from networks that would have to be trained first ({', '.join(left)}): "
            f"repro results verify {self.paper} --train-starts checks them too."
        )
        caption = f"{good} of {len(done)} stored runs repeat"
        return Table(("run", "seed", "first losses"), rows, caption, note if left else "")

    def your_data(self) -> Shown:
        """How to run this chapter on this data and on one's own, with time and disk."""
        name = self.chapter.dataset.name
        root = "" if name == "motionshapes" else " -p data_root DIR"
        lines = [
            f"papermill notebooks/{self.paper}.ipynb out.ipynb -p dataset {name}{root} -p preset small -p seeds 1",
            f"papermill notebooks/{self.paper}.ipynb out.ipynb -p dataset folder -p data_root DIR",
        ]
        lab = self.chapter.labs[0]
        fresh = Lab(
            lab.dataset, lab.store, Library(lab.runs_dir / "none"), split=lab.split, runs_dir=lab.runs_dir,
            device=str(lab.device),
        )  # fmt: skip
        cost = estimate(fresh, [(e, 1) for e in self.chapter.experiments.values()])
        text = (
            f"One seed of every network on {name} ({self.chapter.preset}), trained anew, from the clips as they are "
            f"stored so far: {cost}."
        )
        code = "".join(f"<pre>{html.escape(line)}</pre>" for line in lines)
        return Shown("\n".join([*lines, text]), f"{code}<p>{html.escape(text)}</p>")

    def footer(self) -> Shown:
        """Where the rows of this page come from, and which of them `checks` found stale."""
        shown = [*self.scores.values(), *([self.one_out] if self.one_out else [])]
        return tables.provenance([r.row for s in shown for r in s.runs.values()], self.stale)


def repository() -> str:
    """Address of the sources on their host, as the book's `_config.yml` has it; empty where it names none."""
    path = Path(repro.__file__).resolve().parents[2] / "_config.yml"
    found = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}).get("repository") or {}
    return f"{found['url'].rstrip('/')}/blob/{found.get('branch') or 'main'}" if found.get("url") else ""


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
