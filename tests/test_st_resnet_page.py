"""The ST-ResNet chapter from invented runs: every cell of its notebook that shows something, as HTML and as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import shapes_clips
from fake_st_resnet_runs import StResNetInventor
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

from repro.experiments import thin
from repro.metrics import NOT_RUN
from repro.papers.reported import reported
from repro.papers.st_resnet_experiments import experiments, preset
from repro.papers.st_resnet_scores import StResNetScores
from repro.report.page import Chapter
from repro.report.st_resnet_figures import support_drawing
from repro.report.st_resnet_page import VARIANTS, StResNetPage, phases_of
from repro.results import write

CELLS = Cells(ROOT / "notebooks" / "text" / "st_resnet.md", "st_resnet", stale="motion")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    quiet_place(tmp_path, monkeypatch)


def opened(tmp_path: Path, **given: Any) -> Chapter:
    return open_chapter("st_resnet", tmp_path, **given)


# ---------------------------------------------------------------- every cell


def test_the_whole_notebook_with_everything_run(tmp_path, monkeypatch, capsys):
    """Two seeds of motionshapes with all derived runs, and recorded runs of Weizmann beside them."""
    for result in StResNetInventor("weizmann").all_runs((1,), ("manifest", "eli", "ido"), derived=False).values():
        write(result, tmp_path / "recorded")
    chapter = opened(tmp_path, seeds="1,2")
    file(chapter, StResNetInventor("motionshapes").all_runs((1, 2)))
    found = CELLS.show(chapter, monkeypatch, CELLS.sources)
    methods = {m for source in found for m in re.findall(r"st_resnet\.(\w+)", source)}
    public = {m for m in dir(StResNetPage) if not m.startswith("_") and callable(getattr(StResNetPage, m))}
    inherited = {"example", "comparison", "compared", "one_out", "recorded", "scores_of", "all_experiments", "card",
                 "claim_scores", "ledger_values", "published_name", "leave_one_out"}  # fmt: skip
    assert public - methods - inherited == set(), "shown nowhere"
    pictures = [alt for value in found.values() for alt in shown(value)]
    assert len(pictures) == len(set(pictures)) >= 11
    everything = "\n".join(map(repr, found.values()))
    assert "Not run." not in everything
    assert "on motionshapes and weizmann" in everything
    assert re.search(r"motion +1 +STALE", everything)
    assert "5 of 6 stored runs repeat" in everything and "14 more start from networks" in everything
    assert "stale: 1: motion seed 1" in repr(found["# NBVAL_IGNORE_OUTPUT\nst_resnet.footer()"])
    both = repr(found["st_resnet.comparisons(3)"])
    assert "Table 3 on motionshapes: preset small, test protocol quick, split 1, seeds 1, 2, 84 test clips" in both
    assert "Table 3 on weizmann: preset small, test protocol quick, split manifest, seeds 1, 10 test clips" in both
    assert NOT_RUN not in both
    idt = repr(found['st_resnet.comparisons("4 right")'])
    assert re.search(r"IDT +not run", idt), "nobody ran it"
    printed = capsys.readouterr().out
    for line in (
        "motion on  the plain unit: False", "motion off the plain unit: True",
        "skip 'none': the appearance output does not reach the motion stream",
        "skip 'residual': the appearance output reaches the motion stream",
        "in the middle  the plain network: True", "at the end     the plain network: False",
        "motion     in training (1, 8, 14), in the test (1, 14)",
        "in training, four clips at a time: True", "in evaluation, as usual:           True",
        "max      ['1.0', '1.0', '0.0', '0.0']", "average  ['0.2', '0.2', '0.0', '0.0']",
        " 17 frames: chunks start at [0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2]",
    ):  # fmt: skip
        assert line in printed, line


def test_what_is_shown_without_tags_and_without_derived_runs(tmp_path, monkeypatch):
    """One seed of Weizmann."""
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    file(chapter, StResNetInventor("weizmann").all_runs((1,), ("ido",), derived=False))
    dependent = (
        r"st_resnet\.(?!architecture|drawing|unit|support|published|recipe|phases|deviations|glance)\w+|again = "
    )
    found = CELLS.show(chapter, monkeypatch, [s for s in CELLS.sources if re.search(dependent, s)])
    by_method = {re.search(r"st_resnet\.(\w+)", s)[1]: v for s, v in found.items() if "st_resnet." in s}
    assert repr(by_method["probes"]) == repr(by_method["crops"]) == "Not run."
    assert "has no controlled camera motion; motionshapes has" in repr(by_method["camera"])
    assert repr(by_method["factors"]).startswith("Bars of accuracy: late fusion ")
    assert "binding" not in repr(by_method["grid"])
    assert "-p dataset weizmann -p data_root DIR" in repr(by_method["your_data"])
    values = repr(by_method["ledger"])
    assert "weizmann: 5 chunks (5 to 15 allowed) draw 1 to 1" not in values, "no training clip is stored"
    assert re.search(r"live: random RGB filters on the 8 flow stacks of one test clip", values)


def test_smoke_sized_runs(tmp_path, monkeypatch):
    """One clip of each class for training and for testing."""
    chapter = opened(tmp_path, preset="smoke")
    clips = tuple(list(thin(part, 1)) for part in (shapes_clips((9, 10)), shapes_clips((1, 2))))
    runs = StResNetInventor("motionshapes", clips).all_runs((1,))
    for result in runs.values():
        result.row["preset"] = "smoke"
    file(chapter, runs)
    dependent = "examples|comparisons|variants|grid|claims|ledger|probes|crops|samples|conf|fact|cam|batch"
    found = CELLS.show(chapter, monkeypatch, CELLS.calls(dependent))
    assert len(found) == 16


CALLS = {
    "architecture": [("1x1",), ("3x3",)], "published": [(n,) for n in (3, "4 left", "4 right")],
    "comparisons": [(3,), ("4 right",)], "comparison": [(3,)], "variants": [(which,) for which in VARIANTS],
}  # fmt: skip
NEED_RUNS = {"batches", "camera", "comparisons(3,)", "confusions", "crops", "factors", "probes", "samples"}


@pytest.mark.parametrize("dataset", ["motionshapes", "weizmann"])
def test_a_page_without_any_run_says_so_wherever_one_is_needed(dataset, tmp_path, monkeypatch):
    draw_nothing(monkeypatch)
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset=dataset, **({"splits": "ido"} if dataset == "weizmann" else {}))
    found = shown_with(StResNetPage(chapter), CALLS)
    silent = NEED_RUNS | {f"variants('{which}',)" for which in VARIANTS}
    silent -= {"camera"} if dataset == "weizmann" else set()  # which has another reason
    assert {name: text for name, text in found.items() if name in silent} == dict.fromkeys(silent, "Not run.")
    assert re.search(r"all +(not run *){4}", found["grid"])
    assert "19 not run" in found["observed"] and "runs: none" in found["footer"]


@pytest.mark.parametrize("kept", ["appearance", "motion", "st-resnet", "star", "all but st-resnet"])
def test_a_page_with_some_runs_shows_what_there_is(kept, tmp_path, monkeypatch):
    draw_nothing(monkeypatch)
    chapter = opened(tmp_path, seeds=1)
    runs = StResNetInventor("motionshapes").all_runs((1,))
    base = {k: k[0].partition("+")[0] for k in runs}
    file(chapter, {k: runs[k] for k in runs if (base[k] != "st-resnet" if "but" in kept else base[k] == kept)})
    found = shown_with(StResNetPage(chapter), CALLS, UNCHANGING)
    assert (found["samples"] == found["confusions"] == "Not run.") == (kept != "st-resnet")
    assert "Not run." not in found["comparisons(3,)"]


# ---------------------------------------------------------------- honesty


def one_seed() -> StResNetPage:
    """The page of motionshapes with one seed of everything."""
    scores = StResNetScores(StResNetInventor("motionshapes").all_runs((1,)))
    return page_of(StResNetPage, "motionshapes", scores, "small")


NUMBERS = (3, "4 left", "4 right")


@pytest.mark.parametrize("preset_name", ["small", "paper"])
def test_published_tables_never_show_a_number_of_another_data_set(preset_name):
    scores = StResNetScores(StResNetInventor("motionshapes").all_runs((1, 2)))
    for name in ("motionshapes", "weizmann", "folder"):
        page = page_of(StResNetPage, name, scores, preset_name)
        for number in NUMBERS:
            assert reproduced(page.published(number)) == {}, name


def test_published_tables_show_numbers_by_the_papers_own_data_and_protocol():
    runs = StResNetInventor("weizmann").all_runs((1, 2), ("1", "2", "3"))
    for result in runs.values():
        result.row["dataset"] = "ucf101"
    scores = StResNetScores(runs)
    own = {n: reproduced(page_of(StResNetPage, "ucf101", scores, "paper").published(n)) for n in NUMBERS}
    assert {row for row, _ in own[3]} == {c.row for c in reported("st_resnet") if c.table == "3"}
    assert set(own["4 left"]) == {("ST-ResNet*", "UCF101")} and own["4 right"] == {}
    star = 100 * scores.correct("star")[0].mean()
    assert own[3]["ST-ResNet*", "UCF101"].startswith(f"{star:.1f} ± ")
    late = 100 * scores.correct("two-stream")[0].mean()
    assert own[3]["Two-Streams", "UCF101"].startswith(f"{late:.1f} ± ")
    assert reproduced(page_of(StResNetPage, "ucf101", scores, "paper", weights="none").published(3)) == {}
    assert reproduced(page_of(StResNetPage, "ucf101", scores, "small").published(3)) == {}


def test_the_papers_phases_are_those_of_table_2():
    """Every cell of the printed table, written from the preset at full size."""
    scale, known = preset("paper", "ucf101"), experiments("paper", "ucf101")
    ours = phases_of(scale, known)
    for cell in reported("st_resnet"):
        if cell.table == "2":
            value = f"{cell.value:g}" if isinstance(cell.value, float) else cell.value
            assert ours[cell.row][cell.column] == value, (cell.row, cell.column)
    page = page_of(
        StResNetPage, "motionshapes", StResNetScores(StResNetInventor("motionshapes").all_runs((1,))), "small"
    )
    rows = {row[0]: row[1:] for row in page.phases().rows}
    assert rows["ST-ResNet*"][:4] == ("128", str(preset("small", "motionshapes").recipes["pooled"].batch), "4", "4")
    recipe = {row[0]: row[1:] for row in page.recipe().rows}
    assert recipe["starting weights"] == ("ImageNet", "random")


def test_the_grid_and_the_probes_show_what_was_scored():
    scores = StResNetScores(StResNetInventor("motionshapes").all_runs((1, 2)))
    page = page_of(StResNetPage, "motionshapes", scores, "small")
    rows = {row[0]: row[1:] for row in page._grid(scores).rows}
    for name, subset in (("all", {}), ("binding", {"factor": "binding"}), ("order", {"factor": "order"})):
        for cell, method in zip(rows[name], ("plain", "skips", "filters", "st-resnet"), strict=True):
            assert str(cell).startswith(f"{100 * scores.correct(method, subset)[0].mean():.1f} ± ")
    heads = page._grid(scores).columns[1:]
    assert heads[1] == ("no filters over time", "residuals") and heads[2] == ("filters over time", "no residuals")
    subset = {"factor": "motion"}
    table = page._probes(scores, "classes told by their motion", subset)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["two streams, trained on"][-1] == "–"
    assert str(rows["one loss for both streams"][1]).startswith(
        f"{100 * scores.correct('joint+swapped', subset)[0].mean():.1f}"
    )
    crops = repr(page.crops())
    spent = np.mean([scores.runs["st-resnet+crops", "1", s].arrays["seconds_crops"][0] for s in (1, 2)])
    assert f"{spent:.1f}" in crops


def test_a_data_set_with_some_of_the_runs_is_shown_as_far_as_it_goes():
    """Recordings take hours; the page of another data set must not fall over half of them."""
    whole, maker = StResNetScores(StResNetInventor("motionshapes").all_runs((1,))), StResNetInventor("weizmann")
    page = page_of(StResNetPage, "motionshapes", whole, "small")
    runs = {(name, "ido", 1): maker.run(name, "ido", 1) for name in ("appearance", "motion")}
    page.scores["weizmann"] = StResNetScores(runs)
    assert "weizmann" not in repr(page.comparisons("4 right"))
    assert re.search(r"ST-ResNet\* +not run", repr(page.comparisons(3)).split("weizmann")[1])
    assert "weizmann" in repr(page.variants("appearance stream"))
    assert "weizmann" not in repr(page.variants("pool over time"))
    assert re.search(r"all +(not run *){4}", repr(page.grid()))


def test_seeds_that_only_some_networks_have():
    """A recording that is half done: curves over several networks hold the seeds that all of them have."""
    runs = StResNetInventor("motionshapes").all_runs((1, 2))
    for name in ("appearance-bn4", "plain", "star"):
        del runs[name, "1", 2]
    page = page_of(StResNetPage, "motionshapes", StResNetScores(runs), "small")
    for show in (page.batches, page.camera, page.factors, page.grid, page.probes, page.confusions):
        assert show().text
    assert len(page.claims)


def test_table_1_differs_only_where_the_ledger_says():
    page = page_of(
        StResNetPage, "motionshapes", StResNetScores(StResNetInventor("motionshapes").all_runs((1,))), "small"
    )
    blocks = page.blocks()
    assert not blocks.marked and len(blocks.rows) == 7
    assert blocks.rows[2][1].count("1x1x3, 64") == 1 and "skip-stream" in blocks.rows[2][1]
    table = page.architecture("1x1")
    assert [table.rows[i][0] for i in table.marked] == ["pool5"]
    assert "st_resnet-L3" in repr(table.rows[-1][-1]) and "675x675x47 tau" in table.rows[-1]
    other = page.architecture("3x3")
    differing = [other.rows[i][0] for i in sorted(other.marked)]
    assert differing == ["conv3_x", "conv4_x", "conv5_x", "pool5"]
    assert {repr(other.rows[i][-1]) for i in other.marked} == {"st_resnet-L10"}


def test_the_support_in_time_is_measured():
    text = support_drawing().text
    assert "5 after conv2_x, 9 after conv3_x, 13 after conv4_x, 17 after conv5_x, 21 after pool5" in text
    assert "makes 4 of 11 chunks" in text and "see 47" in text


def test_departures_are_collected():
    page = page_of(
        StResNetPage, "motionshapes", StResNetScores(StResNetInventor("motionshapes").all_runs((1,))), "small"
    )
    rows = page.deviations().rows
    assert len(rows) >= 5 and all(str(row[0]).startswith("st_resnet") for row in rows)
    assert all(re.search(r"[.)]$", str(text)) and len(str(text)) > 60 for _, text in rows)
