"""The comparison's page from invented runs: every cell of its notebook that shows something."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_ccs_runs import CCSInventor
from fake_comparison_runs import SECONDS, ComparisonInventor
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
    shown,
    shown_with,
    weizmann,
)

from repro.costs import Estimate
from repro.experiments import thin
from repro.metrics import NOT_RUN, bootstrap_interval
from repro.papers.comparison_experiments import JOINT, METHODS, VARIANTS
from repro.papers.comparison_numbers import IDEAS, gain, own_gain
from repro.papers.comparison_scores import ComparisonScores
from repro.report import drawings, recipes
from repro.report.comparison_figures import NAMES
from repro.report.comparison_page import CHAPTERS, MEETING, SINGLES, ComparisonPage
from repro.report.page import Chapter
from repro.results import write
from repro.scores import clip_tags

CELLS = Cells(ROOT / "notebooks" / "text" / "comparison.md", "comparison", stale="frames")
DERIVED = len(VARIANTS) + len(JOINT)  # runs of a seed


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_place(tmp_path, monkeypatch)
    monkeypatch.setattr("repro.report.chapter.estimate", lambda *_: Estimate(runs=len(VARIANTS)))  # counts networks
    monkeypatch.setattr(drawings, "LIMIT", 10**9)  # bytes of a moving clip: noise would be encoded at every quality
    monkeypatch.setattr(recipes, "hours_on_big_sets", lambda paper, networks: {", ".join(networks): "1 h"})


def opened(tmp_path: Path, **given: Any) -> Chapter:
    return open_chapter("comparison", tmp_path, **given)


def test_the_whole_notebook_with_everything_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds of motionshapes, and recorded runs of Weizmann and of another chapter beside them."""
    beside = ComparisonInventor("weizmann").all_runs((1,), ("manifest",))
    chapters = CCSInventor("motionshapes").all_runs((1, 2), derived=False)
    for result in (*beside.values(), *chapters.values()):
        write(result, tmp_path / "recorded")
    chapter = opened(tmp_path, seeds="1,2")
    file(chapter, ComparisonInventor("motionshapes").all_runs((1, 2)))
    found = CELLS.show(chapter, monkeypatch, CELLS.sources)
    called = set(re.findall(r"comparison\.(\w+)", "\n".join(CELLS.every)))
    public = {m for m in dir(ComparisonPage) if not m.startswith("_") and callable(getattr(ComparisonPage, m))}
    unused = {"camera", "deviations", "leave_one_out", "published"}  # of every chapter; this page has no paper's table
    inner = {"all_experiments", "card", "claim_scores", "compared", "comparison", "example", "ledger_values",
             "published_name", "recorded", "scores_of"}  # fmt: skip
    assert public - called == inner | unused, "shown nowhere"
    pictures = [alt for value in found.values() for alt in shown(value)]
    assert len(pictures) == len(set(pictures)) >= 11
    everything = "\n".join(map(repr, found.values()))
    assert "Not run" not in everything and "on motionshapes and weizmann" in everything
    checks = repr(found["# NBVAL_IGNORE_OUTPUT\ncomparison.checks()"])
    assert "5 of 6 stored runs repeat" in checks and re.search(r"frames +1 +STALE", checks)
    footer = repr(found["# NBVAL_IGNORE_OUTPUT\ncomparison.footer()"])
    assert f"runs: {2 * (len(VARIANTS) + DERIVED) + len(beside)}" in footer
    own, other = repr(found['comparison.comparisons("ideas")']).split("\n\n")
    assert "on motionshapes: preset small, test protocol quick, split 1, seeds 1, 2, 84 test" in own
    assert "on weizmann" in other and NOT_RUN not in own + other and "binding" in own and "binding" not in other
    printed = capsys.readouterr().out
    for name in VARIANTS:
        word = "change" if name in JOINT else "stay"
        assert f"{name:14} the summed scores {word}\n" in printed
        answer = "another answer" if name == "st-resnet" else "the same answer"
        assert f"{name:14} shuffled snippets give {answer}\n" in printed
    assert "rgb  (2, 4, 3, 56, 56)" in printed and "flow (2, 4, 10, 56, 56)" in printed
    chapters_table = repr(found["comparison.own_chapters()"])
    assert re.search(r"ccs: all over baseline +[+-].*\] +[+-].*\]", chapters_table)
    assert chapters_table.count(NOT_RUN) == 4 + 5  # four other chapters on motionshapes, all of them on Weizmann


def test_what_is_shown_without_factors_and_without_derived_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed of Weizmann."""
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    file(chapter, ComparisonInventor("weizmann").all_runs((1,), ("ido",), derived=False))
    dependent = r"comparison\.(gain|factors|solved|other|in_rev|against|compar|claims|cost|own|foot|your)"
    found = CELLS.show(chapter, monkeypatch, [s for s in CELLS.sources if re.search(dependent, s)])
    assert repr(found["comparison.other_input()"]) == "Not run."
    assert "no factors; motionshapes has" in repr(found['comparison.solved("binding")'])
    assert "motionshapes has" in repr(found["comparison.in_reverse()"])
    assert "Gain over the plain pair on weizmann" in repr(found["comparison.gain_table()"])
    assert "-p dataset weizmann -p data_root DIR" in repr(found["# NBVAL_IGNORE_OUTPUT\ncomparison.your_data()"])


def test_smoke_sized_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clip of each class for training and for testing."""
    chapter = opened(tmp_path, preset="smoke")
    clips = tuple(list(thin(part, 1)) for part in (shapes_clips((9, 10)), shapes_clips((1, 2))))
    file(chapter, ComparisonInventor("motionshapes", clips).all_runs((1,)))  # type: ignore[arg-type]
    shown_here = CELLS.show(chapter, monkeypatch, CELLS.calls("gain|compar|claims|ledger|solved|in_rev|other|against"))
    assert len(shown_here) >= 12
    assert re.search(r"live: \d+\.\d\d % of the vectors of \d+ test clips", repr(shown_here["comparison.ledger()"]))


CALLS = {"comparisons": [("ideas",), ("outputs",)], "comparison": [("ideas",)], "published": [],
         "solved": [("binding",), ("order",)],
         "against_cost": [(x,) for x in ("multiply-adds", "parameters", "seconds")]}  # fmt: skip
NEED_RUNS = {"astray", "confusions", "factors", "gain_table", "gains", "other_input", "samples"}
UNMOVED = {*UNCHANGING, "ideas", "protocols", "camera", "leave_one_out"}


@pytest.mark.parametrize("dataset", ["motionshapes", "weizmann"])
def test_a_page_without_any_run_says_so_wherever_one_is_needed(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset=dataset, **({"splits": "ido"} if dataset == "weizmann" else {}))
    found = shown_with(ComparisonPage(chapter), CALLS, UNMOVED if dataset == "motionshapes" else ())
    assert {name: found[name][:7] for name in NEED_RUNS} == dict.fromkeys(NEED_RUNS, "Not run")
    assert "nothing of it was run" in found["comparisons('ideas',)"] and "3 not run" in found["observed"]
    assert found["cost_table"].count(NOT_RUN) == len(METHODS) and "runs: none" in found["footer"]


@pytest.mark.parametrize("kept", ["frames", "ccs", "all but flow"])
def test_a_page_with_some_runs_shows_what_there_is(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    chapter = opened(tmp_path, seeds=1)
    runs = ComparisonInventor("motionshapes").all_runs((1,))
    base = {k: k[0].partition("+")[0] for k in runs}
    file(chapter, {k: r for k, r in runs.items() if (base[k] != "flow" if "but" in kept else base[k] == kept)})
    found = shown_with(ComparisonPage(chapter), CALLS, UNMOVED)
    assert found["samples"] == found["gains"] == found["gain_table"] == "Not run.", "the plain pair is missing"
    assert (found["other_input"] == "Not run.") == (kept == "frames")


# ---------------------------------------------------------------- what stands in the tables

RUNS = ComparisonInventor("motionshapes").all_runs((1, 2))
SCORES = ComparisonScores(RUNS)
PAGE = page_of(ComparisonPage, "motionshapes", SCORES, "small")


def test_every_idea_has_a_place_and_every_method_a_row() -> None:
    assert set(MEETING) == set(IDEAS)
    assert set(SINGLES.values()) == {n for n in SCORES.methods if ":" in n} | {
        "frames", "flow", "taught-frames", "unlike-flow",
    }  # fmt: skip
    rows = {repr(row[0]).strip("'"): row[1:] for row in PAGE.ideas().rows}
    assert [rows[NAMES[m]][2:] for m in IDEAS] == [("no", "no")] * 3 + [("yes", "yes"), ("yes", "no"), ("yes", "no")]
    assert [row[0] for row in PAGE.protocols().rows] == [
        "ST-ResNet", "heterogeneous", "cross-enhancement", "CCS", "STILT"
    ]  # fmt: skip


def test_gains_are_paired_and_have_intervals() -> None:
    table = repr(PAGE.gain_table())
    found = gain(SCORES, "ccs", {"factor": "order"})
    assert found
    assert f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]" in table
    assert "two streams" not in table


def test_costs_are_in_the_table() -> None:
    rows = {str(row[0]): row[1:] for row in PAGE.cost_table().rows}
    assert set(rows) == {NAMES[m] for m in METHODS} and rows["two streams"][-1] == f"{2 * SECONDS / 60:.1f}"
    assert rows["cross-enhancement"][:2] == rows["two streams"][:2], "the teacher is gone at the test"
    assert float(rows["cross-enhancement"][2]) > float(rows["two streams"][2])


def test_a_sentence_says_what_is_above_guessing() -> None:
    text = repr(PAGE.solved("order"))
    for name, method in (("frames", "frames"), ("CCS", "ccs")):
        found = SCORES.correct(method, {"factor": "order"})
        assert found
        interval = bootstrap_interval(found[0], found[1])
        word = "above guessing" if interval.low > 0.5 else "not clearly above guessing"
        assert re.search(rf"(^|[ ,]){name} {100 * interval.mean:.0f} % \({word}\)", text)
    values = [int(x) for x in re.findall(r" (\d+) %", text)]
    assert values == sorted(values, reverse=True) and len(values) >= len(METHODS)


def test_answers_that_name_a_class_of_another_factor() -> None:
    text = repr(PAGE.astray())
    factor = {i: clip_tags("motionshapes")[i]["factor"] for i in SCORES.ids("ccs")}
    of_class = {SCORES.classes.index(i.split("/")[0]): f for i, f in factor.items()}
    for name, method in (("frames", "frames"), ("CCS", "ccs")):
        wrong = [
            of_class[int(answer)] != factor[i]
            for seed in SCORES.seeds
            for i, answer in zip(SCORES.ids(method), SCORES.all_scores(method, seed).argmax(1), strict=True)
        ]
        assert re.search(rf"(^|[ ,]){name} {100 * np.mean(wrong):.1f} % \[", text)
    values = [float(x) for x in re.findall(r" ([\d.]+) % \[", text)]
    assert values == sorted(values) and len(values) >= len(METHODS)


def test_a_chapter_s_own_gain_stands_beside_the_one_here() -> None:
    own = CHAPTERS["ccs"](CCSInventor("motionshapes").all_runs((1, 2), derived=False))
    PAGE.__dict__["chapters"] = {"ccs": {"motionshapes": own}}
    row = next(row for row in PAGE.own_chapters().rows if row[0] == "CCS")
    here, there = gain(SCORES, "ccs"), own_gain(PAGE.chapters, "ccs", "motionshapes")
    assert here and there
    assert [str(cell).split(" ")[0] for cell in row[2:]] == [f"{100 * here.mean:+.1f}", f"{100 * there.mean:+.1f}"]


def test_the_recipe_is_one_for_all() -> None:
    rows = {row[0]: row[1:] for row in PAGE.recipe().rows}
    small = PAGE.chapter.experiments["stilt"].recipe
    assert rows["iterations and rate"][1].startswith(f"{small.iterations:,}; {small.lr:g}, cosine")
    assert all(e.recipe == small for e in PAGE.chapter.experiments.values())
    assert set(rows["time of the whole network"][0].removesuffix(" 1 h").split(", ")) == set(VARIANTS)
    assert np.isclose(float(rows["width of the networks"][1]), 0.25)
