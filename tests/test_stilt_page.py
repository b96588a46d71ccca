"""The STILT chapter from invented runs: every cell of its notebook that shows something, as HTML and as text."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import JOINT, PERSONS, SHAPES, Inventor, shapes_clips
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

from repro.data.catalog import SplitList
from repro.data.motionshapes import truth
from repro.experiments import thin
from repro.metrics import NOT_RUN
from repro.papers.reported import reported
from repro.papers.stilt_experiments import preset
from repro.papers.stilt_scores import StiltScores as Scores
from repro.report.chapter import ChapterPage, collect_deviations
from repro.report.chapter_figures import ChapterFigures
from repro.report.page import Chapter
from repro.report.stilt_page import StiltPage
from repro.report.theme import Shown
from repro.results import write

CELLS = Cells(ROOT / "notebooks" / "text" / "stilt.md", "stilt", stale="temporal")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    quiet_place(tmp_path, monkeypatch)


def opened(tmp_path: Path, **given: Any) -> Chapter:
    return open_chapter("stilt", tmp_path, **given)


# ---------------------------------------------------------------- every cell


def test_the_whole_notebook_with_everything_run(tmp_path, monkeypatch):
    """Two seeds of motionshapes with all derived runs, and recorded runs of Weizmann beside them."""
    for result in Inventor("weizmann").all_runs((1,), ("manifest", "eli", "ido"), derived=False).values():
        write(result, tmp_path / "recorded")
    chapter = opened(tmp_path, seeds="1,2")
    file(chapter, Inventor("motionshapes").all_runs((1, 2)))
    found = CELLS.show(chapter, monkeypatch, CELLS.sources)
    methods = {m for source in found for m in re.findall(r"stilt\.(\w+)", source)}
    given = {n for c in (ChapterPage, ChapterFigures) for n in c.__annotations__}  # what a paper says of itself
    given |= {"all_experiments", "card", "claim_scores", "ledger_values", "published_name", "recorded"}
    public = {m for m in dir(StiltPage) if not m.startswith("_")} - given
    assert public - methods == {"example", "comparison", "compared", "one_out"}, "shown nowhere"
    pictures = [alt for value in found.values() for alt in shown(value)]
    assert len(pictures) == len(set(pictures)) >= 13
    everything = "\n".join(map(repr, found.values()))
    assert "Not run." not in everything
    assert "on motionshapes and weizmann" in everything
    assert "9 of 11 stored" not in everything and "10 of 11 stored runs repeat" in everything
    assert re.search(r"temporal +1 +STALE", everything)
    footer = repr(found["# NBVAL_IGNORE_OUTPUT\nstilt.footer()"])
    assert "stale: 1: temporal seed 1" in footer
    assert "runs: 71" in footer  # 2 x (11 + 6 + 2) of motionshapes, 11 of Weizmann, 22 of it with one person left out
    for table in (4, 5, 6):
        both = repr(found[f"stilt.comparisons({table})"])
        assert f"Table {table} on motionshapes: preset small, test protocol quick, split 1, seeds 1, 2, 84 test" in both
        assert (
            f"Table {table} on weizmann: preset small, test protocol quick, split manifest, seeds 1, 10 test clips"
            in both
        )
        own, other = both.split("\n\n")
        assert NOT_RUN not in own
        assert ("binding" in own) and ("binding" not in other)
    assert NOT_RUN in repr(found["stilt.comparisons(5)"]), "no SVM on Weizmann"


def test_what_is_shown_without_tags_and_without_derived_runs(tmp_path, monkeypatch):
    """One seed of Weizmann."""
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    runs = Inventor("weizmann").all_runs((1,), ("ido",), derived=False)
    for result in runs.values():
        result.row["left_out"] = {"run/eli_run": "run/eli_run.avi cannot be opened as a video"}
    file(chapter, runs)
    dependent = r"stilt\.(?!architecture|drawing|published|recipe|deviations|glance)\w+|again = "
    found = CELLS.show(chapter, monkeypatch, [s for s in CELLS.sources if re.search(dependent, s)])
    by_method = {re.search(r"stilt\.(\w+)", s)[1]: v for s, v in found.items() if "stilt." in s}
    for method in ("attention_snippets", "attention_regions", "snippets"):
        assert repr(by_method[method]) == "Not run."
    assert "has no controlled camera motion; motionshapes has" in repr(by_method["camera"])
    assert repr(by_method["factors"]).startswith("Bars of accuracy: spatial ")
    assert "-p dataset weizmann -p data_root DIR" in repr(by_method["your_data"])
    assert "stale: 1: temporal seed 1" in repr(by_method["footer"])
    assert "clips left out: 1: run/eli_run" in repr(by_method["footer"])


def test_smoke_sized_runs(tmp_path, monkeypatch):
    """One clip of each class for training and for testing, two snippets a clip: short events may fall between them."""
    chapter = opened(tmp_path, preset="smoke")
    clips = tuple(list(thin(part, 1)) for part in (shapes_clips((9, 10)), shapes_clips((1, 2))))
    runs = Inventor("motionshapes", clips).all_runs((1,))
    runs = {k: r for k, r in runs.items() if "held-out" not in k[0]}
    for r in runs.values():
        for name in [n for n in r.arrays if n.startswith("attention_")]:
            r.arrays[name] = r.arrays[name][:, :2]
    file(chapter, runs)
    dependent = "examples|comparisons|claims|ledger|attention|samples|confusions|weights|factors|camera|snippets"
    found = CELLS.show(chapter, monkeypatch, CELLS.calls(dependent))
    assert len(found) == 15


def test_attention_on_an_event_that_falls_between_the_snippets(tmp_path):
    """Two windows of 11 frames, at the start and at the end of 40."""
    missed = next(c for c in shapes_clips(range(1, 9)) if c.tags["event"] == "short" and c.tags["camera"] == "0"
                  and truth(c.id).event[0] >= 11 and truth(c.id).event[1] <= 29)  # fmt: skip
    maker = Inventor("motionshapes", (SHAPES[0], [missed]))
    result = maker.derived("stil-snippets", "attention")
    for step in ("S1", "T", "S2"):
        result.arrays[f"attention_{step}"] = np.array([[0.25, 0.75]], np.float16)
    chapter = opened(tmp_path, seeds=1)
    file(chapter, {("stil-snippets+attention", "1", 1): result, ("stil-snippets", "1", 1): maker.run("stil-snippets")})
    caption = repr(StiltPage(chapter).attention_snippets())
    assert "T is largest at snippet 2" in caption and "shaded" not in caption


def test_examples_show_what_they_say_and_only_usable_clips(tmp_path):
    """A first test clip that cannot be decoded must not end the page after hours of training."""
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    bad = min(c.id for c in PERSONS[1])
    parts = PERSONS[0], [c for c in PERSONS[1] if c.id != bad]
    file(chapter, Inventor("weizmann", parts).all_runs((1,), ("ido",), derived=False))
    chapter.labs[0].unusable[bad] = "no video"
    page = StiltPage(chapter)
    assert page.example() in {c.id for c in parts[1]}
    assert isinstance(page.moving_example(), Shown)
    assert bad.split("/")[0] not in repr(page.examples())


def test_an_example_of_a_factor_is_of_that_factor(tmp_path):
    chapter = opened(tmp_path, seeds=1)
    file(chapter, Inventor("motionshapes").all_runs((1,), derived=False))
    page = StiltPage(chapter)
    tags = {c.id: c.tags for c in SHAPES[1]}
    for factor in ("appearance", "motion", "product", "binding", "order"):
        assert tags[page.example(factor)]["factor"] == factor
        assert tags[page.example(factor)]["camera"] == "0"


CALLS = {
    "architecture": [(2,), (3,)], "published": [(n,) for n in (1, 4, 5, 6)], "comparisons": [(n,) for n in (4, 5, 6)],
    "comparison": [(4,)],
}  # fmt: skip
NEED_RUNS = {"attention_regions", "attention_snippets", "camera", "confusions", "factors", "samples", "snippets",
             "weights", "weights_by_lambda"}  # fmt: skip


@pytest.mark.parametrize("dataset", ["motionshapes", "weizmann"])
def test_a_page_without_any_run_says_so_wherever_one_is_needed(dataset, tmp_path, monkeypatch):
    draw_nothing(monkeypatch)
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset=dataset, **({"splits": "ido"} if dataset == "weizmann" else {}))
    found = shown_with(StiltPage(chapter), CALLS)
    silent = NEED_RUNS - ({"camera"} if dataset == "weizmann" else set())  # which has another reason
    assert {name: text for name, text in found.items() if name in silent} == dict.fromkeys(silent, "Not run.")
    for n in (4, 5, 6):
        text = found[f"comparisons({n},)"]
        assert f"Table {n} on {dataset}: nothing of it was run" in text and not re.search(r"\d\.\d", text)
    assert "1 undecided, 14 not run" in found["observed"] and "runs: none" in found["footer"]


@pytest.mark.parametrize("kept", ["spatial", "temporal", "stil-snippets", "stil-regions", "all but stil-snippets"])
def test_a_page_with_some_runs_shows_what_there_is(kept, tmp_path, monkeypatch):
    draw_nothing(monkeypatch)
    chapter = opened(tmp_path, seeds=1)
    runs = Inventor("motionshapes").all_runs((1,))
    main = "stil-snippets"
    wanted = [k for k in runs if (not k[0].startswith(main) if "but" in kept else re.split(r"[+/]", k[0])[0] == kept)]
    file(chapter, {k: runs[k] for k in wanted})
    found = shown_with(StiltPage(chapter), CALLS, UNCHANGING)
    assert (found["weights"] == found["samples"] == "Not run.") == (kept != main)
    assert "Not run." not in found["factors"] and f"{100 * 1 / 14:.1f}" in found["comparisons(4,)"]


# ---------------------------------------------------------------- honesty


@pytest.mark.parametrize("preset_name", ["small", "paper"])
def test_published_tables_never_show_a_number_of_another_data_set(preset_name):
    scores = Scores(Inventor("motionshapes").all_runs((1, 2)))
    for name in ("motionshapes", "weizmann", "folder"):
        page = page_of(StiltPage, name, scores, preset_name)
        for number in (1, 4, 5, 6):
            table = page.published(number)
            assert reproduced(table) == {}, name
            assert "motionshapes" not in repr(table)


def ucf() -> Scores:
    """Invented runs of three splits under UCF101's name."""
    runs = Inventor("weizmann").all_runs((1, 2), ("1", "2", "3"))
    for result in runs.values():
        result.row["dataset"] = "ucf101"
    return Scores(runs)


def test_published_tables_show_numbers_by_the_papers_own_data_and_protocol():
    scores = ucf()
    page = page_of(StiltPage, "ucf101", scores, "paper")
    own = {n: reproduced(page.published(n)) for n in (1, 4, 5, 6)}
    assert own[1] == {}
    assert {row for row, _ in own[4]} == {c.row for c in reported("stilt") if c.table == "4"}
    assert {row for row, _ in own[5]} == {f"Two-stream + STIL + {f}" for f in ("Late Ave", "Early", "AWF")}
    assert {row for row, _ in own[6]} == {f"STILT ({b})" for b in ("VGG-19", "ResNet-34", "ResNet-50")}
    assert {column for cells in own.values() for _, column in cells} == {"UCF101"}
    mean = 100 * scores.correct(f"{JOINT[0]}+awf")[0].mean()
    for table, row in ((4, "Two-stream + STIL + AWF"), (5, "Two-stream + STIL + AWF"), (6, "STILT (ResNet-50)")):
        assert own[table][row, "UCF101"].startswith(f"{mean:.1f} ± ")
    assert own[4]["Spatial", "UCF101"].startswith(f"{100 * scores.correct('spatial')[0].mean():.1f} ± ")


def test_another_scale_some_splits_or_other_weights_are_no_reproduction():
    """Sec. 4.1: results are averaged over the three splits; Sec. 4.2: backbones start from ImageNet."""
    scores = ucf()
    one = Scores({k: r for k, r in scores.runs.items() if k[1] == "1"})
    for page in (
        page_of(StiltPage, "ucf101", scores, "small"),
        page_of(StiltPage, "ucf101", one, "paper", splits=("1", "2", "3")),
        page_of(StiltPage, "ucf101", scores, "paper", weights="none"),
        page_of(StiltPage, "ucf101", scores, "paper", lists={"1": SplitList(90, 30, "a subset")}),
    ):
        assert reproduced(page.published(4)) == {}


def test_the_recipe_is_the_one_that_was_run(tmp_path):
    page = page_of(StiltPage, "motionshapes", Scores(Inventor("motionshapes").all_runs((1,))), "small")
    rows = {row[0]: row[1:] for row in page.recipe().rows}
    paper, here = preset("paper", "motionshapes"), preset("small", "motionshapes")
    assert rows["iterations"] == (f"{paper.recipe.iterations:,}", f"{here.recipe.iterations:,}")
    assert rows["clips an update"] == (str(paper.recipe.batch), str(here.recipe.batch))
    assert rows["starting weights"] == ("ImageNet", "random")
    assert rows["test"] == ("25 snippets, centre crop", "8 snippets, whole frame")


# ---------------------------------------------------------------- departures


def test_every_departure_in_the_code_is_collected(tmp_path):
    papers = ROOT / "src" / "repro" / "papers"
    found = subprocess.run(
        ["grep", "-n", "DEVIATION:", "-r", papers, "--include=stilt*.py"], capture_output=True, text=True
    )
    lines = sorted(re.match(r".*/(.*\.py):(\d+):", line).group(1, 2) for line in found.stdout.splitlines())
    page = page_of(StiltPage, "motionshapes", Scores(Inventor("motionshapes").all_runs((1,))), "small")
    rows = page.deviations().rows
    assert sorted(tuple(str(row[0]).split(", line ")) for row in rows) == lines and len(lines) >= 5
    for _, text in rows:
        assert re.search(r"[.)]$", str(text)) and len(str(text)) > 60, "cut short"
        assert "stilt-L" in str(text) or "64 px" in str(text), "no ledger entry says why"
        assert '"""' not in str(text) and "#" not in str(text)


def test_comments_and_docstrings_end_where_they_end(tmp_path):
    path = tmp_path / "a.py"
    path.write_text('''
def f():
    """What it does.

    DEVIATION: in a docstring, on
    two lines.
    `x` is something else.
    """
    y = 1  # DEVIATION: at the end of a line.
    # DEVIATION: above a line,
    # going on.
    z = 2
    """DEVIATION: up to the end
    of it.
    """
''')
    assert collect_deviations(path) == [
        (5, "in a docstring, on two lines."), (9, "at the end of a line."), (10, "above a line, going on."),
        (13, "up to the end of it."),
    ]  # fmt: skip
