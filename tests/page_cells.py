"""What the tests of all chapters share: a chapter opened on invented runs, its notebook's cells, a look at their HTML.

A cell shows something sensible when every element of its HTML is closed, every picture has words, and its text holds
no number that is none.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from html.parser import HTMLParser
from inspect import isfunction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jupytext
import numpy as np
import pytest
from fake_runs import PERSONS, Runs
from matplotlib.figure import Figure

from repro.data.catalog import OFFICIAL
from repro.experiments import Lab
from repro.metrics import NOT_RUN
from repro.papers import PAPERS
from repro.report import theme
from repro.report.chapter import ChapterPage
from repro.report.page import Again, Chapter, Parameters
from repro.report.tables import Table
from repro.scores import Scores
from repro.training import History

ROOT = Path(__file__).parents[1]
LOSSES = [5.0, 4.0, 3.0]  # of every invented run


# ---------------------------------------------------------------- what a cell shows


class Balanced(HTMLParser):
    """Whether every element is closed, and which pictures have no words."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs).get("alt") or "")
        elif tag not in ("br", "source", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def shown(value: Any) -> list[str]:
    """Alt texts of a cell's pictures, when it shows something; it must have words too."""
    if not hasattr(value, "_repr_html_"):
        return []
    parser, text = Balanced(), repr(value)
    parser.feed(value._repr_html_())
    parser.close()
    assert not parser.open
    assert text.strip() and " object at 0x" not in text
    assert all(len(alt) > 20 for alt in parser.pictures)
    assert not re.search(r"\bnan\b|(?<!torch\.)\binf\b", text)
    return parser.pictures


def reproduced(table: Table) -> dict[tuple[str, str], str]:
    """What the columns of reproduced numbers hold, without what was not run and dashes."""
    found = {}
    for row in table.rows:
        for column, cell in zip(table.columns, row, strict=True):
            if isinstance(column, tuple) and column[1] == "reproduced" and cell not in (NOT_RUN, "–"):
                found[str(row[0]), column[0].removesuffix(" (%)")] = str(cell)
    return found


# ---------------------------------------------------------------- a chapter on invented runs


def noise(self: Lab, clips: Any) -> None:
    """Instead of decoding and flow: nothing of what is shown depends on them."""
    for clip in clips:
        if clip.id not in self.unusable and not self.store.has(clip.id):
            rng = np.random.default_rng(list(clip.id.encode()))
            n, h, w = (40, 64, 64) if self.dataset.name == "motionshapes" else (14, 64, 80)
            self.store.write(clip.id, rng.integers(0, 256, (n, h, w, 3), np.uint8), rng.normal(0, 2, (n - 1, 2, h, w)))


def quiet_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty place with no recorded results, where clips are noise."""
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "recorded"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Lab, "prepare", noise)


def weizmann(tmp_path: Path) -> None:
    """Files with the names of the data set; nobody opens them."""
    (tmp_path / "data").mkdir()
    for clip in (*PERSONS[0], *PERSONS[1]):
        (tmp_path / "data" / clip.path).touch()


def open_chapter(paper: str, tmp_path: Path, **given: Any) -> Chapter:
    return Chapter(PAPERS[paper], Parameters(
        data_root=str(tmp_path / "data"), store_dir=str(tmp_path / "store"), runs_dir=str(tmp_path / "runs"),
        device="cpu", **{"preset": "small", **given},
    ))  # fmt: skip


def file(chapter: Chapter, runs: Runs, images: Sequence[str] = ()) -> None:
    """Put invented runs where the chapter's labs look for the real ones. `images`: those that have no split."""
    experiments = chapter.experiments
    for (name, split, seed), result in runs.items():
        lab = chapter.labs[0 if name in images else chapter.splits.index(split)]
        base = re.split(r"[+/]", name)[0]
        key = lab.key(experiments[base], seed)
        if "held-out" in name:
            result.row["key"] = lab.key(replace(experiments[base], fold=(int(name[-1]), 2)), seed)
        elif "+" in name:
            result.row["derived"]["of"] = key
        else:
            result.row["key"] = key
        lab.library.put(result)


def page_of(kind: type[ChapterPage], name: str, scores: Scores, preset: str, **given: Any) -> Any:
    """A page that shows scores as if they were of the data set `name`, without a chapter that was opened."""
    page = kind.__new__(kind)
    splits = given.pop("splits", tuple(scores.splits))
    classes, official = OFFICIAL.get(name, (3, {}))
    listed = given.pop("lists", official)
    page.chapter = SimpleNamespace(
        dataset=SimpleNamespace(name=name, splits=splits, classes=range(classes), listed=listed),
        preset=preset, parameters=Parameters(dataset=name, preset=preset, **given), paper=PAPERS[kind.paper],
        experiments=PAPERS[kind.paper].experiments(preset, name),
    )  # fmt: skip
    page.main, page.scores = scores, {name: scores}
    return page


# ---------------------------------------------------------------- the cells of its notebook


def again(self: Chapter, name: str) -> Again:
    """Instead of training for a minute."""
    experiment, lab = self.experiments[name], self.labs[0]
    recorded = lab.library.get(lab.key(experiment, 1)) if lab.has(experiment, 1) else None
    return Again(experiment, recorded, History([*LOSSES, 2.5]), lab)


def quick(fig: Figure, density: float = 1.0) -> bytes:
    """Lay a figure out without drawing its pixels."""
    fig.draw_without_rendering()
    return b"png"


class Cells:
    """The code cells of a chapter's text: `stale` is the run whose first losses are said not to repeat."""

    def __init__(self, path: Path, name: str, stale: str) -> None:
        text = jupytext.read(path, fmt={"extension": ".md", "format_name": "myst"})
        code = [c for c in text.cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])]
        self.name, self.stale = name, stale
        self.every = [c.source for c in code]
        opening = next(i for i, source in enumerate(self.every) if "Page(chapter)" in source)
        self.opening, self.sources = self.every[opening], self.every[opening + 1 :]

    def calls(self, methods: str) -> list[str]:
        """Cells that begin with a call of a method of the page; `methods` is a regular expression."""
        return [s for s in self.sources if re.match(rf"{self.name}\.({methods})", s)]

    def run(self, chapter: Chapter, sources: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Run cells as a notebook does; yield what each shows."""
        space: dict[str, Any] = {"chapter": chapter}
        exec(self.opening.replace("chapter.run()", ""), space)
        for source in sources:
            tree = ast.parse(source)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "cell", "exec"), space)
            if last is not None:
                yield source, eval(compile(ast.Expression(last.value), "cell", "eval"), space)

    def show(self, chapter: Chapter, monkeypatch: pytest.MonkeyPatch, sources: Sequence[str]) -> dict[str, Any]:
        """What every cell shows, by its source; any warning is an error, in drawing too."""
        draw_nothing(monkeypatch, self.stale)
        found = {}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for source, value in self.run(chapter, sources):
                found[source] = value
                shown(value)
        return found


def draw_nothing(monkeypatch: pytest.MonkeyPatch, stale: str = "") -> None:
    """No pixels, no training: what takes long and shows in no text."""
    monkeypatch.setattr(Chapter, "again", again)
    monkeypatch.setattr(
        Lab, "first_losses", lambda self, experiment, seed: [*LOSSES[:2], 3.5 if experiment.name == stale else 3.0]
    )
    monkeypatch.setattr(theme, "drawn", quick)


# ---------------------------------------------------------------- pages that lack runs


# Methods of a page that show nothing by themselves, and what shows the same whatever was run.
INNER = {"all_experiments", "card", "claim_scores", "compared", "ledger_values", "learning_curve", "published_name",
         "recorded"}  # fmt: skip
UNCHANGING = {"architecture", "blocks", "counts", "deviations", "drawing", "first_kernels", "glance", "moving_example",
              "phases", "recipe", "support", "textures", "unit", "your_data"}  # fmt: skip


def shown_with(
    page: ChapterPage, calls: Mapping[str, Sequence[tuple[Any, ...]]], without: Collection[str] = ()
) -> dict[str, str]:
    """Call every public method of a page, which must show something sensible; its text, by method and arguments.

    `calls`: the arguments to call a method with, where it takes any. `without`: methods that are left out.
    """
    found: dict[str, Any] = {}
    for name in (m for m in dir(type(page)) if not m.startswith("_") and m not in {*INNER, *without}):
        member = getattr(type(page), name)
        if isinstance(member, cached_property):
            found[name] = getattr(page, name)
        elif isfunction(member):
            found |= {f"{name}{given or ''}": getattr(page, name)(*given) for given in calls.get(name, [()])}
    for value in found.values():
        shown(value)
    return {name: repr(value) for name, value in found.items()}
