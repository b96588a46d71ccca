"""The heterogeneous chapter from invented runs: every cell of its notebook that shows something, as HTML and text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import shapes_clips
from page_cells import (
    ROOT,
    UNCHANGING,
    Cells,
    draw_nothing,
    file,
    open_chapter,
    page_of,
    quiet_place,
    reproduced,
    shown,
    shown_with,
    weizmann,
)
from test_heterogeneous_scores import TEXTURES, Maker

from repro.costs import Estimate
from repro.data.catalog import SplitList
from repro.errors import ReproError
from repro.experiments import thin
from repro.metrics import NOT_RUN
from repro.papers.heterogeneous_derived import MAIN
from repro.papers.heterogeneous_experiments import VARIANTS, preset
from repro.papers.heterogeneous_scores import BASES, PAIR, HeterogeneousScores
from repro.papers.reported import reported
from repro.report import grids
from repro.report.grids import Valued
from repro.report.heterogeneous_figures import pair_name
from repro.report.heterogeneous_page import CELLS_2, CELLS_3, HeterogeneousPage
from repro.report.page import Chapter
from repro.results import write

# Becomes a notebook when its runs are recorded.
CELLS = Cells(ROOT / "notebooks" / "text" / "heterogeneous.md", "heterogeneous", stale="temporal-resnet50-scratch")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_place(tmp_path, monkeypatch)
    # The real one counts every network, which takes long.
    monkeypatch.setattr("repro.report.chapter.estimate", lambda *_: Estimate(runs=len(VARIANTS)))


def opened(tmp_path: Path, **given: Any) -> Chapter:
    return open_chapter("heterogeneous", tmp_path, **given)


# ---------------------------------------------------------------- every cell


def test_the_whole_notebook_with_everything_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds of motionshapes with all that follows, and recorded runs of Weizmann, not ablated, beside them."""
    beside = Maker("weizmann").all_runs((1,), ("manifest",), derived=False)
    kept = [result for (name, _, _), result in beside.items() if "@" not in name]
    for result in kept:
        write(result, tmp_path / "recorded")
    chapter = opened(tmp_path, seeds="1,2")
    file(chapter, Maker("motionshapes").all_runs((1, 2)), TEXTURES)
    found = CELLS.show(chapter, monkeypatch, CELLS.sources)
    code = "\n".join(CELLS.every)
    called = set(re.findall(r"heterogeneous\.(\w+)", code))
    public = {m for m in dir(HeterogeneousPage) if not m.startswith("_") and callable(getattr(HeterogeneousPage, m))}
    inner = {"all_experiments", "card", "claim_scores", "compared", "comparison", "example", "ledger_values",
             "leave_one_out", "published_name", "recorded", "scores_of"}  # fmt: skip
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
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    file(chapter, Maker("weizmann").all_runs((1,), ("ido",), derived=False), TEXTURES)
    dependent = r"heterogeneous\.(beginnings|grid|fusion|errors|factors|camera|compar|ablat|claims|ledger|footer|your)"
    found = CELLS.show(chapter, monkeypatch, [s for s in CELLS.sources if re.search(dependent, s)])
    by_method = {re.search(r"heterogeneous\.(\w+)", s)[1]: v for s, v in found.items()}
    assert repr(by_method["beginnings"]) == "Not run."
    assert "held-out" not in repr(by_method["fusion_curve"])
    assert "has no controlled camera motion; motionshapes has" in repr(by_method["camera"])
    assert repr(by_method["factors"]).startswith("Bars of accuracy: spatial ")
    assert "-p dataset weizmann -p data_root DIR" in repr(by_method["your_data"])


def test_smoke_sized_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clip of each class for training and for testing: no folds."""
    chapter = opened(tmp_path, preset="smoke")
    clips = tuple(list(thin(part, 1)) for part in (shapes_clips((9, 10)), shapes_clips((1, 2))))
    runs = Maker("motionshapes", clips).all_runs((1,))
    file(chapter, {k: r for k, r in runs.items() if "held-out" not in k[0]}, TEXTURES)
    dependent = "exampl|compar|claims|ledger|grid|fusion|errors|samples|confus|factors|camera|begin|abl"
    found = CELLS.show(chapter, monkeypatch, CELLS.calls(dependent))
    assert len(found) == 15


def test_a_missing_network_leaves_the_rest_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chapter = opened(tmp_path, seeds=1)
    runs = Maker("motionshapes").all_runs((1,))
    for name in ("spatial-resnet152", *(n for n in VARIANTS if "@" in n)):
        del runs[name, "1", 1]
    file(chapter, runs, TEXTURES)
    wanted = ("ablations", "grid", "errors", "factors", "comparisons(2)", "claims", "ledger", "fusion_curve", "camera")
    found = CELLS.show(chapter, monkeypatch, CELLS.calls("|".join(map(re.escape, wanted))))
    assert "Not run" in repr(found["heterogeneous.grid()"]) and "Not run" in repr(found["heterogeneous.errors()"])
    assert repr(found["heterogeneous.ablations()"]) == "Not run."
    table = repr(found["heterogeneous.comparisons(2)"])
    assert re.search(r"spatial, ResNet-152 +not run", table) and not re.search(r"spatial, ResNet-101 +not run", table)
    assert "grid-of-pairs" not in repr(found["heterogeneous.claims"])


CALLS = {
    "published": [(n,) for n in (2, 3, 4)], "comparisons": [(n,) for n in (2, 3, 4)], "comparison": [(2,)],
    "beginnings": [(), ("resnet50",)],
}  # fmt: skip
NEED_RUNS = {"ablations", "beginnings", "camera", "confusions", "errors", "factors", "fusion_curve", "grid", "samples"}


@pytest.mark.parametrize("dataset", ["motionshapes", "weizmann"])
def test_a_page_without_any_run_says_so_wherever_one_is_needed(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset=dataset, **({"splits": "ido"} if dataset == "weizmann" else {}))
    found = shown_with(HeterogeneousPage(chapter), CALLS)
    silent = NEED_RUNS - ({"camera"} if dataset == "weizmann" else set())  # which has another reason
    assert {name: text[:7] for name, text in found.items() if name in silent} == dict.fromkeys(silent, "Not run")
    for n in (2, 3, 4):
        assert f"Table {n} on {dataset}: nothing of it was run" in found[f"comparisons({n},)"]
    assert "13 not run" in found["observed"] and "runs: none" in found["footer"]


@pytest.mark.parametrize("kept", [*MAIN, "temporal-bn-inception-transplanted", "textures-resnet50", "all but the pair"])
def test_a_page_with_some_runs_shows_what_there_is(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    chapter = opened(tmp_path, seeds=1)
    runs = Maker("motionshapes").all_runs((1,))
    base = {k: re.split(r"[+/]", k[0])[0] for k in runs}
    file(chapter, {k: runs[k] for k in runs if (base[k] not in MAIN if "but" in kept else base[k] == kept)}, TEXTURES)
    found = shown_with(HeterogeneousPage(chapter), CALLS, UNCHANGING)
    assert found["samples"] == found["confusions"] == found["fusion_curve"] == "Not run."
    nowhere_in_table_2 = kept in ("temporal-bn-inception-transplanted", "textures-resnet50")
    assert ("nothing of it was run" in found["comparisons(2,)"]) == nowhere_in_table_2


# ---------------------------------------------------------------- figures say what was measured


@cache
def shapes() -> HeterogeneousScores:
    return HeterogeneousScores(Maker("motionshapes").all_runs((1, 2)))


def test_the_words_of_the_figures_are_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    scores = shapes()
    page = page_of(HeterogeneousPage, "motionshapes", scores, "small")
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
    filters = page_of(HeterogeneousPage, "motionshapes", shapes(), "small").first_filters()
    for way, end in (("averaged", ""), ("transplanted", "-transplanted")):
        run = shapes().runs[f"temporal-bn-inception{end}+conv1", "1", 1]
        np.testing.assert_array_equal(filters[way].numpy(), run.arrays["conv1"][0].astype(np.float32))
    nothing = HeterogeneousScores(Maker("motionshapes").all_runs((1,), derived=False))
    filters = page_of(HeterogeneousPage, "motionshapes", nothing, "small").first_filters()
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


@pytest.mark.parametrize("preset_name", ["small", "paper"])
def test_published_tables_never_show_a_number_of_another_data_set(preset_name: str) -> None:
    for name in ("motionshapes", "weizmann", "folder", "kinetics400"):
        page = page_of(HeterogeneousPage, name, shapes(), preset_name)
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
    page = page_of(HeterogeneousPage, "ucf101", scores, "paper")
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
        page_of(HeterogeneousPage, "ucf101", scores, "small"),
        page_of(HeterogeneousPage, "ucf101", second, "paper", splits=("1", "2", "3")),
        page_of(HeterogeneousPage, "ucf101", scores, "paper", weights="none"),
        page_of(HeterogeneousPage, "ucf101", scores, "paper", lists={"1": SplitList(90, 30, "a subset")}),
    ):
        assert {n: reproduced(page.published(n)) for n in (2, 3, 4)} == {2: {}, 3: {}, 4: {}}
    page = page_of(HeterogeneousPage, "ucf101", first, "paper", splits=("1", "2", "3"))
    assert reproduced(page.published(4)) == {} and len(reproduced(page.published(2))) == len(CELLS_2)


def test_the_recipe_is_the_one_that_was_run() -> None:
    page = page_of(HeterogeneousPage, "motionshapes", shapes(), "small")
    rows = {row[0]: row[1:] for row in page.recipe().rows}
    paper, here = preset("paper", "motionshapes"), preset("small", "motionshapes")
    for role in ("spatial", "temporal"):
        printed, ours = rows[f"iterations and rate, {role}"]
        assert printed.startswith(f"{paper.recipes[role].iterations:,}; 0.0001, times 0.1 at ")
        assert ours.startswith(f"{here.recipes[role].iterations:,}; {here.recipes[role].lr:g}, cosine")
    assert rows["starting weights"][0] == "ImageNet" and "3,200 generated textures" in rows["starting weights"][1]
    assert rows["crop"][0] == "224 px of frames with shorter side 256 px, sides 256, 224, 192, 168"
    assert rows["test"] == ("25 snippets, ten crops", "8 snippets, whole frame")
    other = page_of(HeterogeneousPage, "motionshapes", shapes(), "small", weights="none").recipe()
    assert {row[0]: row[2] for row in other.rows}["starting weights"] == "random"


def test_what_is_counted_stands_beside_what_is_printed() -> None:
    page = page_of(HeterogeneousPage, "motionshapes", shapes(), "small")
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
    rows = page_of(HeterogeneousPage, "motionshapes", shapes(), "small").deviations().rows
    found = [str(row[0]).split(", line ") for row in rows]
    expected = []
    for path in sorted((ROOT / "src" / "repro" / "papers").glob("heterogeneous*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        expected += [[path.name, str(i)] for i, line in enumerate(lines, 1) if "DEVIATION:" in line]
    assert found == expected and rows
    assert all(re.search(r"[.)]$", str(text)) for _, text in rows), "cut short"
