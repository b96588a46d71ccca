"""The heterogeneous chapter from invented runs: every cell of its notebook that shows something, as HTML and text."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jupytext
import numpy as np
import pytest
from fake_runs import PERSONS, Runs, shapes_clips
from matplotlib.figure import Figure
from test_heterogeneous_scores import TEXTURES, Maker

from repro.costs import Estimate
from repro.data.catalog import OFFICIAL, SplitList
from repro.errors import ReproError
from repro.experiments import Lab, thin
from repro.metrics import NOT_RUN
from repro.papers import PAPERS
from repro.papers.heterogeneous_experiments import VARIANTS, preset
from repro.papers.heterogeneous_scores import BASES, PAIR, HeterogeneousScores
from repro.papers.reported import reported
from repro.report import grids, theme
from repro.report.grids import Valued
from repro.report.heterogeneous_figures import pair_name
from repro.report.heterogeneous_page import CELLS_2, CELLS_3, HeterogeneousPage
from repro.report.page import Again, Chapter, Parameters
from repro.report.tables import Table
from repro.results import write
from repro.training import History

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "tests" / "pages" / "heterogeneous.md"  # becomes a notebook when its runs are recorded
TWIN = jupytext.read(PAGE, fmt={"extension": ".md", "format_name": "myst"})
CELLS = [c.source for c in TWIN.cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])]
OPENING = next(i for i, source in enumerate(CELLS) if "heterogeneous = HeterogeneousPage(chapter)" in source)


def file(chapter: Chapter, runs: Runs) -> None:
    """Put invented runs where the chapter's labs look for the real ones."""
    experiments = chapter.experiments
    for (name, split, seed), result in runs.items():
        lab = chapter.labs[0 if name in TEXTURES else chapter.splits.index(split)]
        base = re.split(r"[+/]", name)[0]
        key = lab.key(experiments[base], seed)
        if "held-out" in name:
            result.row["key"] = lab.key(replace(experiments[base], fold=(int(name[-1]), 2)), seed)
        elif "+" in name:
            result.row["derived"]["of"] = key
        else:
            result.row["key"] = key
        lab.library.put(result)


def noise(self: Lab, clips: Any) -> None:
    """Instead of decoding and flow: nothing of what is shown depends on them."""
    for clip in clips:
        if clip.id not in self.unusable and not self.store.has(clip.id):
            rng = np.random.default_rng(list(clip.id.encode()))
            n, h, w = (40, 64, 64) if self.dataset.name == "motionshapes" else (14, 64, 80)
            self.store.write(clip.id, rng.integers(0, 256, (n, h, w, 3), np.uint8), rng.normal(0, 2, (n - 1, 2, h, w)))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "recorded"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Lab, "prepare", noise)
    monkeypatch.setattr(Lab, "estimate", lambda *_: Estimate(runs=len(VARIANTS)))  # that counts every network


def open_chapter(tmp_path: Path, **given: Any) -> Chapter:
    return Chapter(PAPERS["heterogeneous"], Parameters(
        data_root=str(tmp_path / "data"), store_dir=str(tmp_path / "store"), runs_dir=str(tmp_path / "runs"),
        device="cpu", **{"preset": "small", **given},
    ))  # fmt: skip


# ---------------------------------------------------------------- every cell


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
    assert not re.search(r"\bnan\b|\binf\b", text)
    return parser.pictures


def run_cells(chapter: Chapter, sources: list[str]) -> Iterator[tuple[str, Any]]:
    """Run cells as a notebook does; yield what each shows."""
    space: dict[str, Any] = {"chapter": chapter}
    exec(CELLS[OPENING].replace("chapter.run()", ""), space)
    for source in sources:
        tree = ast.parse(source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), space)
        if last is not None:
            yield source, eval(compile(ast.Expression(last.value), "cell", "eval"), space)


def again(self: Chapter, name: str) -> Again:
    """Instead of training for a minute."""
    experiment, lab = self.experiments[name], self.labs[0]
    recorded = lab.library.get(lab.key(experiment, 1)) if lab.has(experiment, 1) else None
    return Again(experiment, recorded, History([5.0, 4.0, 3.0, 2.5]), lab)


def first_losses(self: Lab, experiment: Any, seed: int) -> list[float]:
    return [5.0, 4.0, 3.5 if experiment.name == "temporal-resnet50-scratch" else 3.0]


def quick(fig: Figure, density: float = 1.0) -> bytes:
    """Lay a figure out without drawing its pixels."""
    fig.draw_without_rendering()
    return b"png"


def show_all(chapter: Chapter, monkeypatch: pytest.MonkeyPatch, sources: list[str]) -> dict[str, Any]:
    """What every cell shows, by its source; any warning is an error, in drawing too."""
    monkeypatch.setattr(Chapter, "again", again)
    monkeypatch.setattr(Lab, "first_losses", first_losses)
    monkeypatch.setattr(theme, "png", quick)
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source, value in run_cells(chapter, sources):
            found[source] = value
            shown(value)
    return found


def test_the_whole_notebook_with_everything_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds of motionshapes with all that follows, and recorded runs of Weizmann, not ablated, beside them."""
    beside = Maker("weizmann").all_runs((1,), ("manifest",), derived=False)
    kept = [result for (name, _, _), result in beside.items() if "@" not in name]
    for result in kept:
        write(result, tmp_path / "recorded")
    chapter = open_chapter(tmp_path, seeds="1,2")
    file(chapter, Maker("motionshapes").all_runs((1, 2)))
    found = show_all(chapter, monkeypatch, CELLS[OPENING + 1 :])
    code = "\n".join(CELLS)
    called = set(re.findall(r"heterogeneous\.(\w+)", code))
    public = {m for m in dir(HeterogeneousPage) if not m.startswith("_") and callable(getattr(HeterogeneousPage, m))}
    inner = {"all_experiments", "claim_scores", "compared", "comparison", "example", "ledger_values", "leave_one_out",
             "published_name", "recorded", "scores_of"}  # fmt: skip
    assert public - called == inner, "shown nowhere"
    pictures = [alt for value in found.values() for alt in shown(value)]
    assert len(pictures) == len(set(pictures)) >= 12
    everything = "\n".join(map(repr, found.values()))
    assert "Not run" not in everything
    assert "on motionshapes and weizmann" in everything
    checks = repr(found["# NBVAL_IGNORE_OUTPUT\nheterogeneous.checks()"])
    assert "5 of 6 stored runs repeat" in checks and re.search(r"temporal-resnet50-scratch +1 +STALE", checks)
    assert f"{len(VARIANTS) - 6} more start from networks" in checks
    footer = repr(found["# NBVAL_IGNORE_OUTPUT\nheterogeneous.footer()"])
    assert "stale: 1: temporal-resnet50-scratch seed 1" in footer
    trained = len(VARIANTS) - len(TEXTURES)
    assert f"runs: {2 * (trained + 6 + 4) + len(kept)}" in footer  # the pre-trainings are the same ones
    assert "weizmann" not in repr(found["heterogeneous.ablations()"])
    for table in (2, 3, 4):
        both = repr(found[f"heterogeneous.comparisons({table})"])
        own, other = both.split("\n\n")
        assert f"Table {table} on motionshapes: preset small, test protocol quick, split 1, seeds 1, 2, 84 test" in own
        assert (
            f"Table {table} on weizmann: preset small, test protocol quick, split manifest, seeds 1, 10 test" in other
        )
        assert NOT_RUN not in own and "binding" in own and "binding" not in other
    assert NOT_RUN in repr(found["heterogeneous.comparisons(4)"]), "no folds on Weizmann"
    printed = capsys.readouterr().out
    for line in (
        "rgb  (1, 3, 3, 64, 64)", "flow (1, 3, 10, 64, 64)", "x is handed on: True", "x is changed:   True",
        "snippets in reverse: True", "snippet 3: one third of dL/dg: True", "the usual cross-entropy: True",
        "averaged     u and v exchanged: the output changes by 0%", "statistics that moved: trunk.conv1_7x7_s2_bn",
        "same errors : correlation +1.00", "other errors: correlation -0.50",
    ):  # fmt: skip
        assert line in printed
    changes = re.findall(r"transplanted .*: the output changes by (\d+)%", printed)
    assert len(changes) == 2 and all(int(c) > 20 for c in changes)


def test_what_is_shown_without_tags_and_without_derived_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed of Weizmann."""
    (tmp_path / "data").mkdir()
    for clip in (*PERSONS[0], *PERSONS[1]):
        (tmp_path / "data" / clip.path).touch()
    chapter = open_chapter(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    file(chapter, Maker("weizmann").all_runs((1,), ("ido",), derived=False))
    dependent = r"heterogeneous\.(beginnings|grid|fusion|errors|factors|camera|compar|ablat|claims|ledger|footer|your)"
    found = show_all(chapter, monkeypatch, [s for s in CELLS[OPENING + 1 :] if re.search(dependent, s)])
    by_method = {re.search(r"heterogeneous\.(\w+)", s)[1]: v for s, v in found.items()}
    assert repr(by_method["beginnings"]) == "Not run."
    assert "held-out" not in repr(by_method["fusion_curve"])
    assert "has no controlled camera motion; motionshapes has" in repr(by_method["camera"])
    assert repr(by_method["factors"]).startswith("Bars of accuracy: spatial ")
    assert "-p dataset weizmann -p data_root DIR" in repr(by_method["your_data"])


def test_smoke_sized_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clip of each class for training and for testing: no folds."""
    chapter = open_chapter(tmp_path, preset="smoke")
    clips = tuple(list(thin(part, 1)) for part in (shapes_clips((9, 10)), shapes_clips((1, 2))))
    runs = Maker("motionshapes", clips).all_runs((1,))
    file(chapter, {k: r for k, r in runs.items() if "held-out" not in k[0]})
    dependent = (
        r"heterogeneous\.(exampl|compar|claims|ledger|grid|fusion|errors|samples|confus|factors|camera|begin|abl)"
    )
    found = show_all(chapter, monkeypatch, [s for s in CELLS[OPENING + 1 :] if re.match(dependent, s)])
    assert len(found) == 15


def test_a_missing_network_leaves_the_rest_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chapter = open_chapter(tmp_path, seeds=1)
    runs = Maker("motionshapes").all_runs((1,))
    for name in ("spatial-resnet152", *(n for n in VARIANTS if "@" in n)):
        del runs[name, "1", 1]
    file(chapter, runs)
    wanted = ("ablations", "grid", "errors", "factors", "comparisons(2)", "claims", "ledger", "fusion_curve", "camera")
    cells = [s for s in CELLS[OPENING + 1 :] if any(s.startswith(f"heterogeneous.{w}") for w in wanted)]
    found = show_all(chapter, monkeypatch, cells)
    assert "Not run" in repr(found["heterogeneous.grid()"]) and "Not run" in repr(found["heterogeneous.errors()"])
    assert repr(found["heterogeneous.ablations()"]) == "Not run."
    table = repr(found["heterogeneous.comparisons(2)"])
    assert re.search(r"spatial, ResNet-152 +not run", table) and not re.search(r"spatial, ResNet-101 +not run", table)
    assert "grid-of-pairs" not in repr(found["heterogeneous.claims"])


# ---------------------------------------------------------------- figures say what was measured


@cache
def shapes() -> HeterogeneousScores:
    return HeterogeneousScores(Maker("motionshapes").all_runs((1, 2)))


def page_of(name: str, scores: HeterogeneousScores, preset_name: str, **given: Any) -> HeterogeneousPage:
    page = HeterogeneousPage.__new__(HeterogeneousPage)
    splits = given.pop("splits", tuple(scores.splits))
    classes, official = OFFICIAL.get(name, (3, {}))
    listed = given.pop("lists", official)
    parameters = Parameters(dataset=name, preset=preset_name, **given)
    data = SimpleNamespace(name=name, splits=splits, classes=range(classes), listed=listed)
    page.chapter = SimpleNamespace(dataset=data, preset=preset_name, parameters=parameters)
    page.main = scores
    return page


def test_the_words_of_the_figures_are_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theme, "png", quick)
    scores = shapes()
    page = page_of("motionshapes", scores, "small")
    grid, errors = repr(page.grid()), repr(page.errors())
    for s in BASES:
        for t in BASES:
            accuracy = 100 * scores.correct(f"{s}+{t}")[0].mean()
            assert re.search(rf"{pair_name(s)} with [^;]*{pair_name(t)} {accuracy:.1f}", grid)
            better = max(scores.correct(m)[0].mean() for m in (f"spatial-{s}", f"temporal-{t}"))
            wrong = [[scores.all_scores(m, k).argmax(1) != scores.labels(m) for m in (f"spatial-{s}", f"temporal-{t}")]
                     for k in (1, 2)]  # fmt: skip
            phi = np.mean([np.corrcoef(*pair)[0, 1] for pair in wrong])
            told = re.search(rf"{re.escape(pair_name(f'{s}+{t}'))} (-?[\d.]+) and ([+-]\d+\.\d)", errors)
            assert float(told[1]) == pytest.approx(phi, abs=0.006)
            assert float(told[2]) == pytest.approx(accuracy - 100 * better, abs=0.06)
    curve = repr(page.fusion_curve())
    assert f"{100 * scores.correct(PAIR)[0].mean():.1f} at 1.5" in curve
    assert f"{100 * scores.correct('spatial-resnet101')[0].mean():.1f} at 0," in curve
    assert f"{100 * scores.correct('temporal-bn-inception')[0].mean():.1f} at temporal alone" in curve
    share = scores.runs["temporal-bn-inception+conv1", "1", 1].arrays["equal_share"]
    assert f"averaged: {100 * share[0]:.0f} % before, {100 * share[1]:.0f} % after" in repr(page.beginnings())


def test_first_filters_are_those_that_recorded_networks_began_with() -> None:
    filters = page_of("motionshapes", shapes(), "small").first_filters()
    for way, end in (("averaged", ""), ("transplanted", "-transplanted")):
        run = shapes().runs[f"temporal-bn-inception{end}+conv1", "1", 1]
        np.testing.assert_array_equal(filters[way].numpy(), run.arrays["conv1"][0].astype(np.float32))
    nothing = HeterogeneousScores(Maker("motionshapes").all_runs((1,), derived=False))
    filters = page_of("motionshapes", nothing, "small").first_filters()
    assert filters["averaged"].shape == filters["transplanted"].shape == (16, 10, 7, 7)
    assert (filters["averaged"] == filters["averaged"][:, :1]).all()
    assert not (filters["transplanted"] == filters["transplanted"][:, :1]).all()


def test_plots_show_every_value_where_it_belongs() -> None:
    names = ("a", "b")
    values = [[Valued(0.5 + 0.1 * i + 0.01 * j, 0.4, 0.9) for j in range(2)] for i in range(2)]
    alone = [Valued(0.33, 0.3, 0.4)] * 2
    ax = grids.heat_map(values, alone, alone, (names, names), ("rows", "columns")).axes[0]
    texts = {t.get_text(): t.get_position() for t in ax.texts}
    assert {"50.0", "51.0", "60.0", "61.0", "33.0"} <= texts.keys() and "40–90" in texts
    assert [round(v) for v in texts["51.0"]] == [1, 0], "x is the column, y the row"
    assert [tuple(round(v + 0.46) for v in p.get_xy()) for p in ax.patches] == [(0, 0), (1, 1)], "like pairs are framed"
    with pytest.raises(ReproError, match="2 rows of 2 values are needed"):
        grids.heat_map(values[:1], alone, alone, (names, names), ("rows", "columns"))
    assert grids.shares((0.0, 1.0, 1.5, float("inf"))).tolist() == [0, 0.5, 0.6, 1]
    kernels = np.zeros((1, 2, 7, 7))
    kernels[0, 1, 0, 0] = -3
    images = grids.filters({("g", "before"): kernels, ("g", "after"): 0 * kernels}, ("u", "v")).axes[0].images
    assert [image.get_array().min() for image in images] == [0, -3, 0, 0]
    assert images[0].get_clim() == (-3, 3), "one scale for a line"


# ---------------------------------------------------------------- honesty


def reproduced(table: Table) -> dict[tuple[str, str], str]:
    """What the columns of reproduced numbers hold, without what was not run and dashes."""
    found = {}
    for row in table.rows:
        for column, cell in zip(table.columns, row, strict=True):
            if isinstance(column, tuple) and column[1] == "reproduced" and cell not in (NOT_RUN, "–"):
                found[str(row[0]), column[0].removesuffix(" (%)")] = str(cell)
    return found


@pytest.mark.parametrize("preset_name", ["small", "paper"])
def test_published_tables_never_show_a_number_of_another_data_set(preset_name: str) -> None:
    for name in ("motionshapes", "weizmann", "folder", "kinetics400"):
        page = page_of(name, shapes(), preset_name)
        for number in (2, 3, 4):
            assert reproduced(page.published(number)) == {}, name
            assert "motionshapes" not in repr(page.published(number))


def ucf() -> HeterogeneousScores:
    """Invented runs of three splits under UCF101's name."""
    runs = Maker("weizmann").all_runs((1, 2), ("1", "2", "3"), derived=False)
    for (name, _, _), result in runs.items():
        if name not in TEXTURES:
            result.row["dataset"] = "ucf101"
    return HeterogeneousScores(runs)


def test_published_tables_show_numbers_by_the_papers_own_data_and_protocol() -> None:
    scores = ucf()
    page = page_of("ucf101", scores, "paper")
    own = {n: reproduced(page.published(n)) for n in (2, 3, 4)}
    for n, cells in ((2, CELLS_2), (3, CELLS_3)):
        assert (
            own[n].keys() == cells.keys() == {(c.row, c.column) for c in reported("heterogeneous") if c.table == str(n)}
        )
        for place, method in cells.items():  # split 1 only
            right = [scores.scores(method, "1", s).argmax(1) == scores.runs[scores.needs(method)[0], "1", s].labels()
                     for s in (1, 2)]  # fmt: skip
            assert own[n][place].startswith(f"{100 * np.mean(right):.1f} ± ")
    assert own[4].keys() == {("Ours (spatiotemporal heterogeneity)", "UCF101")}, "the like pair is not named"
    mean = 100 * scores.correct("proposed")[0].mean()  # all splits
    assert own[4]["Ours (spatiotemporal heterogeneity)", "UCF101"].startswith(f"{mean:.1f} ± ")
    cell = CELLS_2["spatio_ResNet101+temporal_BN-Inception", "Two-Stream"]
    assert scores.needs(cell) == scores.needs("proposed")


def test_another_scale_some_splits_or_other_weights_are_no_reproduction() -> None:
    """Sec. IV.A: Table 4 is the mean over three splits; Sec. IV.B: networks start from ImageNet."""
    scores = ucf()
    second, first = (HeterogeneousScores({k: r for k, r in scores.runs.items() if k[1] == x}) for x in "21")
    for page in (
        page_of("ucf101", scores, "small"),
        page_of("ucf101", second, "paper", splits=("1", "2", "3")),
        page_of("ucf101", scores, "paper", weights="none"),
        page_of("ucf101", scores, "paper", lists={"1": SplitList(90, 30, "a subset")}),
    ):
        assert {n: reproduced(page.published(n)) for n in (2, 3, 4)} == {2: {}, 3: {}, 4: {}}
    page = page_of("ucf101", first, "paper", splits=("1", "2", "3"))
    assert reproduced(page.published(4)) == {} and len(reproduced(page.published(2))) == len(CELLS_2)


def test_the_recipe_is_the_one_that_was_run() -> None:
    page = page_of("motionshapes", shapes(), "small")
    rows = {row[0]: row[1:] for row in page.recipe().rows}
    paper, here = preset("paper", "motionshapes"), preset("small", "motionshapes")
    for role in ("spatial", "temporal"):
        printed, ours = rows[f"iterations and rate, {role}"]
        assert printed.startswith(f"{paper.recipes[role].iterations:,}; 0.0001, times 0.1 at ")
        assert ours.startswith(f"{here.recipes[role].iterations:,}; {here.recipes[role].lr:g}, cosine")
    assert rows["starting weights"][0] == "ImageNet" and "3,200 generated textures" in rows["starting weights"][1]
    assert rows["crop"][0] == "224 px of frames with shorter side 256 px, sides 256, 224, 192, 168"
    assert rows["test"] == ("25 snippets, ten crops", "8 snippets, whole frame")
    other = page_of("motionshapes", shapes(), "small", weights="none").recipe()
    assert {row[0]: row[2] for row in other.rows}["starting weights"] == "random"


def test_what_is_counted_stands_beside_what_is_printed() -> None:
    page = page_of("motionshapes", shapes(), "small")
    counts = {str(row[0]): row for row in page.counts().rows}
    assert counts["both: ResNet-101 + BN-Inception"][1:5] == ("53,102,826", "212.4", "10.11", "182 M")
    assert counts["both: ST-ResNet*"][1:5] == ("58,624,394", "234.5", "–", "234 M")
    assert counts["for images: VGG-16"][3:5] == ("15.47", "15.3 G")
    kernels = page.first_kernels().rows
    assert [row[2] for row in kernels] == [f"(64, {n}, 7, 7)" for n in (3, 10, 1, 10, 10, 10)]
    assert all(
        "(64, 10, 7, 7)" in row[1] for row in kernels if row[0] != kernels[0][0] and "step 1: average" not in row[0]
    )


def test_every_departure_in_the_code_is_collected() -> None:
    rows = page_of("motionshapes", shapes(), "small").deviations().rows
    found = [str(row[0]).split(", line ") for row in rows]
    expected = []
    for path in sorted((ROOT / "src" / "repro" / "papers").glob("heterogeneous*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        expected += [[path.name, str(i)] for i, line in enumerate(lines, 1) if "DEVIATION:" in line]
    assert found == expected and rows
    assert all(re.search(r"[.)]$", str(text)) for _, text in rows), "cut short"
