"""The cross-enhancement chapter from invented runs: every cell of its notebook that shows something."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import Runs, shapes_clips
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
from test_cross_enhancement_scores import Maker

from repro.costs import Estimate
from repro.data.catalog import OFFICIAL, SplitList
from repro.experiments import thin
from repro.metrics import NOT_RUN
from repro.papers.cross_enhancement_derived import COMPARED, FOLLOWED
from repro.papers.cross_enhancement_experiments import VARIANTS as TRAINED
from repro.papers.cross_enhancement_experiments import preset
from repro.papers.cross_enhancement_scores import CrossEnhancementScores
from repro.papers.reported import number
from repro.report import drawings, recipes
from repro.report.cross_enhancement_page import VARIANTS, CrossEnhancementPage
from repro.report.page import Chapter
from repro.results import write

CELLS = Cells(ROOT / "notebooks" / "text" / "cross_enhancement.md", "cross_enhancement", stale="rgb")
PARTS = ("3 RGB", "3 Flow", "3 RGB+Flow")
FOLLOWING = len(COMPARED) + len(FOLLOWED)  # derived runs of a seed


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_place(tmp_path, monkeypatch)
    # The real one counts every network, which takes long.
    monkeypatch.setattr("repro.report.chapter.estimate", lambda *_: Estimate(runs=len(TRAINED)))
    monkeypatch.setattr(drawings, "LIMIT", 10**9)  # bytes of a moving clip: noise would be encoded at every quality
    monkeypatch.setattr(recipes, "hours_on_big_sets", lambda paper, networks: {", ".join(networks): "1 h"})  # so too


def opened(tmp_path: Path, **given: Any) -> Chapter:
    return open_chapter("cross_enhancement", tmp_path, **given)


# ---------------------------------------------------------------- every cell


def test_the_whole_notebook_with_everything_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds of motionshapes with all that follows, and recorded runs of Weizmann, plain and taught, beside them."""
    beside = Maker("weizmann").all_runs((1,), ("manifest", "eli", "ido"), derived=False)
    kept = [result for (name, _, _), result in beside.items() if "@" not in name]
    for result in kept:
        write(result, tmp_path / "recorded")
    chapter = opened(tmp_path, seeds="1,2")
    file(chapter, Maker("motionshapes").all_runs((1, 2)))
    found = CELLS.show(chapter, monkeypatch, CELLS.sources)
    called = set(re.findall(r"cross_enhancement\.(\w+)", "\n".join(CELLS.every)))
    page = CrossEnhancementPage
    public = {m for m in dir(page) if not m.startswith("_") and callable(getattr(page, m))}
    inner = {"all_experiments", "card", "claim_scores", "compared", "comparison", "example", "ledger_values",
             "published_name", "recorded", "scores_of"}  # fmt: skip
    assert public - called == inner, "shown nowhere"
    pictures = [alt for value in found.values() for alt in shown(value)]
    assert len(pictures) == len(set(pictures)) >= 14
    everything = "\n".join(map(repr, found.values()))
    assert "Not run" not in everything
    assert "on motionshapes and weizmann" in everything
    checks = repr(found["# NBVAL_IGNORE_OUTPUT\ncross_enhancement.checks()"])
    assert "2 of 3 stored runs repeat" in checks and re.search(r"rgb +1 +STALE", checks)
    assert f"{len(TRAINED) - 3} more start from networks" in checks
    footer = repr(found["# NBVAL_IGNORE_OUTPUT\ncross_enhancement.footer()"])
    assert "stale: 1: rgb seed 1" in footer
    assert f"runs: {2 * (len(TRAINED) + FOLLOWING) + len(kept)}" in footer
    own, other = repr(found["cross_enhancement.comparisons(3)"]).split("\n\n")
    assert "Table 3 on motionshapes: preset small, test protocol chain16, split 1, seeds 1, 2, 84 test" in own
    assert "Table 3 on weizmann: preset small, test protocol chain16, split manifest, seeds 1, 10 test" in other
    assert NOT_RUN not in own + other and "binding" in own and "binding" not in other
    teach = repr(found['cross_enhancement.variants("which bridges teach")'])
    assert re.search(r"on weizmann.*inner one alone +not run", teach, re.S) and teach.count(NOT_RUN) == 3
    assert "split eli, ido" in repr(found["cross_enhancement.leave_one_out()"])
    printed = capsys.readouterr().out
    for line in (
        "rgb  (1, 16, 3, 56, 56)", "flow (1, 16, 2, 56, 56)", "middle Mixed_4f (208, 4, 4, 4)",
        "'student inner': (1, 208, 4, 4, 4), 'teacher inner': (1, 208, 4, 4, 4)",
        "without bridges the loss is the cross-entropy: True", "inner  bridge alone: reaches up to Mixed_4f",
        "output bridge alone: reaches up to Mixed_5c", "the teacher is reached: False",
        "closer than at first: True", "(256, 2, 2, 2) -> (120, 8, 7, 7)", "the same weights: True",
        "it begins as the average: True",
    ):  # fmt: skip
        assert line in printed
    terms = {name: float(x) for name, x in re.findall(r"(\w+) alone: (\d+\.\d+)", printed)}
    assert all(0 < terms[name] < 2 for name in ("alpha", "beta")), "features of a normalised network"


def test_what_is_shown_without_tags_and_without_derived_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed of Weizmann."""
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    file(chapter, Maker("weizmann").all_runs((1,), ("ido",), derived=False))
    dependent = (
        r"cross_enhancement\.(grid|weights|dist|direct|on_|factors|camera|compar|var|claims|kinds|clips|foot|your)"
    )
    found = CELLS.show(chapter, monkeypatch, [s for s in CELLS.sources if re.search(dependent, s)])
    by_method = {re.search(r"cross_enhancement\.(\w+)", s)[1]: v for s, v in found.items()}
    assert repr(by_method["distances"]) == repr(by_method["on_the_way"]) == "Not run."
    assert "has no controlled camera motion; motionshapes has" in repr(by_method["camera"])
    assert repr(by_method["factors"]).startswith("Bars of accuracy: RGB ")
    assert "flow teaches RGB: all clips " in repr(by_method["directions"])
    assert "bend, jack, jump" in repr(by_method["kinds"])
    assert re.search(r"here: weizmann, split ido +10 +40 +30 +10", repr(by_method["clips"]))
    assert "-p dataset weizmann -p data_root DIR" in repr(by_method["your_data"])


def test_smoke_sized_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clip of each class for training and for testing."""
    chapter = opened(tmp_path, preset="smoke")
    clips = tuple(list(thin(part, 1)) for part in (shapes_clips((9, 10)), shapes_clips((1, 2))))
    file(chapter, Maker("motionshapes", clips).all_runs((1,)))
    dependent = "compar|claims|ledger|grid|weights|dist|direct|on_|camera|var"
    assert len(CELLS.show(chapter, monkeypatch, CELLS.calls(dependent))) == 11


CALLS = {
    "published": [(part,) for part in ("1", "2", *PARTS)], "comparisons": [(3,)], "comparison": [(3,)],
    "variants": [(which,) for which in VARIANTS],
}  # fmt: skip
NEED_RUNS = {"camera", "confusions", "directions", "distances", "factors", "grid", "on_the_way", "samples", "weights",
             *(f"variants('{which}',)" for which in VARIANTS)}  # fmt: skip

UNMOVED = {*UNCHANGING, "bridges", "memory", "clips", "kinds", "other_drawing"}


@pytest.mark.parametrize("dataset", ["motionshapes", "weizmann"])
def test_a_page_without_any_run_says_so_wherever_one_is_needed(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset=dataset, **({"splits": "ido"} if dataset == "weizmann" else {}))
    found = shown_with(CrossEnhancementPage(chapter), CALLS, UNMOVED if dataset == "motionshapes" else ())
    silent = NEED_RUNS - ({"camera"} if dataset == "weizmann" else set())  # which has another reason
    assert {name: text[:7] for name, text in found.items() if name in silent} == dict.fromkeys(silent, "Not run")
    assert f"Table 3 on {dataset}: nothing of it was run" in found["comparisons(3,)"]
    assert "13 not run" in found["observed"] and "runs: none" in found["footer"]
    assert "person out: not run" in found["leave_one_out"]


@pytest.mark.parametrize("kept", ["rgb", "together", "all but flow"])
def test_a_page_with_some_runs_shows_what_there_is(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    chapter = opened(tmp_path, seeds=1)
    runs = Maker("motionshapes").all_runs((1,))
    base = {k: k[0].partition("+")[0] for k in runs}
    file(chapter, {k: r for k, r in runs.items() if (base[k] != "flow" if "but" in kept else base[k] == kept)})
    found = shown_with(CrossEnhancementPage(chapter), CALLS, UNMOVED)
    assert found["samples"] == found["confusions"] == "Not run.", "they are of the pair"
    assert ("nothing of it was run" in found["comparisons(3,)"]) == (kept == "together")
    assert found["grid"].startswith("Not run") == ("but" not in kept)


# ---------------------------------------------------------------- honesty


@cache
def shapes() -> CrossEnhancementScores:
    return CrossEnhancementScores(Maker("motionshapes").all_runs((1, 2)))


@pytest.mark.parametrize("preset_name", ["small", "paper"])
def test_published_tables_never_show_a_number_of_another_data_set(preset_name: str) -> None:
    for name in ("motionshapes", "weizmann", "folder", "ssv2"):
        page = page_of(CrossEnhancementPage, name, shapes(), preset_name)
        for table in (1, 2, *PARTS):
            assert reproduced(page.published(table)) == {}, name
            assert "motionshapes" not in repr(page.published(table))


def under(name: str) -> CrossEnhancementScores:
    """Invented runs under the name of a data set, on all of its official splits."""
    runs: Runs = Maker("weizmann").all_runs((1, 2), tuple(OFFICIAL[name][1]), derived=False)
    for result in runs.values():
        result.row["dataset"] = name
    return CrossEnhancementScores(runs)


OURS = {  # Sec. 3.1, 3.2: flow teaches on HMDB51 and UCF101, RGB on Kinetics
    "ucf101": ("rgb-taught", "flow", "rgb-taught+flow+layer"),
    "hmdb51": ("rgb-taught", "flow", "rgb-taught+flow+layer"),
    "kinetics400": ("rgb", "flow-taught", "rgb+flow-taught+layer"),
}


@pytest.mark.parametrize(("name", "column"), [("ucf101", "UCF101"), ("hmdb51", "HMDB51"), ("kinetics400", "Kinetics")])
def test_published_tables_show_numbers_by_the_papers_own_data_and_protocol(name: str, column: str) -> None:
    scores = under(name)
    page = page_of(CrossEnhancementPage, name, scores, "paper")
    expected = dict(zip(PARTS, ({"Two-Stream I3D [1]": m, "Ours": o} for m, o in
                                zip(("rgb", "flow", "two-stream"), OURS[name], strict=True)), strict=True))  # fmt: skip
    expected["3 RGB+Flow"]["3D-Fused [1]"] = "fused-3d"
    first = next(iter(OFFICIAL[name][1]))
    for part, methods in expected.items():
        own = reproduced(page.published(part))
        assert own.keys() == {(row, column) for row in methods}
        for row, method in methods.items():
            labels = scores.runs["rgb", first, 1].labels()
            right = [scores.scores(method, first, s).argmax(1) == labels for s in (1, 2)]
            assert own[row, column].startswith(f"{100 * np.mean(right):.1f} ± "), "the first split alone"


def test_another_scale_another_split_or_other_weights_are_no_reproduction() -> None:
    scores = under("ucf101")
    second = CrossEnhancementScores({k: r for k, r in scores.runs.items() if k[1] == "2"})
    for page in (
        page_of(CrossEnhancementPage, "ucf101", scores, "small"),
        page_of(CrossEnhancementPage, "ucf101", second, "paper", splits=("1", "2", "3")),
        page_of(CrossEnhancementPage, "ucf101", scores, "paper", weights="none"),
        page_of(CrossEnhancementPage, "ucf101", scores, "paper", lists={"1": SplitList(90, 30, "a subset")}),
    ):
        assert not any(reproduced(page.published(part)) for part in PARTS)


def test_the_recipe_is_the_one_that_was_run() -> None:
    page = page_of(CrossEnhancementPage, "motionshapes", shapes(), "small")
    rows = {row[0]: row[1:] for row in page.recipe().rows}
    ours = preset("small", "motionshapes")
    places = [("optimiser", "momentum"), ("optimiser", "weight decay"), ("clips an update", "batch size")]
    for what, cell in [*places, ("frames of a clip", "frames of a clip")]:
        assert f"{number('cross_enhancement', 'prose 4.3', cell, 'value'):g}" in str(rows[what][0])
    printed, here = rows["iterations and rate, each stream"]
    assert f"; {number('cross_enhancement', 'prose 4.3', 'initial rate', 'value'):g}, times 0.1 at " in printed
    assert here.startswith(f"{ours.recipes['rgb'].iterations:,}; {ours.recipes['rgb'].lr:g}, cosine")
    assert rows["frames of a clip"][1] == "16" and rows["frames from one to the next"] == ("1", "2")
    assert rows["weights alpha, beta and gamma"] == ("1, 1 and 1",) * 2
    assert rows["starting weights"] == ("ImageNet", "random")
    assert rows["crop"][0] == "224 px of frames with shorter side 256 px, sides 256, 224, 192, 168"
    assert rows["time of the whole network"] == ("rgb-taught, flow 1 h", "–")


def test_what_is_counted_and_what_is_joined() -> None:
    page = page_of(CrossEnhancementPage, "motionshapes", shapes(), "small")
    counts = {str(row[0]): row for row in page.counts().rows}
    assert counts["RGB stream"][1] == "12,697,264" and counts["flow stream"][1] == "12,675,312"
    memory = {str(row[0]): [float(str(x)) for x in row[1:]] for row in page.memory().rows}
    plain, less = memory["RGB stream"], memory["RGB stream, checkpointed"]
    assert plain[1] == 0 and less[0] + less[1] < plain[0] / 2 and plain[3] == pytest.approx(sum(plain[:3]), abs=0.02)
    assert all(values[3] < 24 for values in memory.values()), "fits the card that the page speaks of"
    assert plain[2] == round(12 * 12_697_264 / 1e9, 2)
    table = page.bridges()
    rows = {str(row[0]): row[1:] for row in table.rows}
    assert len(rows) == 10 and [str(table.rows[i][0]) for i in table.marked] == ["e: middle to middle"]
    assert rows["b: front to middle"] == (
        "480x32x28x28", "832x16x14x14", "12,042,240", "399,840", "1.25", "120x8x7x7", "208x4x4x4"
    )  # fmt: skip
    assert rows["output"] == ("1024", "1024", "1,024", "0", "0.00", "256", "256")


def test_printed_lists_of_clips_stand_beside_the_official_ones(tmp_path: Path) -> None:
    page = CrossEnhancementPage(opened(tmp_path, splits="all"))
    rows = {str(row[0]): row[1:] for row in page.clips().rows}
    assert rows["HMDB-51, printed"] == ("51", "6,766", "5,238", "1,528")
    assert rows["HMDB-51, official, split 1"] == ("51", "5,100", "3,570", "1,530")
    assert rows["UCF-101, printed"] == rows["UCF-101, official, split 1"] == ("101", "13,320", "9,537", "3,783")
    assert rows["Kinetics-400, printed"] == rows["Kinetics-400, official, split val"]
    assert [name for name in rows if "here" in name] == [f"here: motionshapes, split {k}" for k in (1, 2, 3)]
    kinds = dict(page.kinds().rows)
    assert "brush hair" in kinds["HMDB-51"]
    assert "binding (AmberNodVioletShake, AmberShakeVioletNod)" in kinds[
        "here: motionshapes, the embedded diagnostic data set"
    ]  # fmt: skip


def test_every_departure_in_the_code_is_collected() -> None:
    rows = page_of(CrossEnhancementPage, "motionshapes", shapes(), "small").deviations().rows
    found = [str(row[0]).split(", line ") for row in rows]
    expected = []
    for path in sorted((ROOT / "src" / "repro" / "papers").glob("cross_enhancement*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        expected += [[path.name, str(i)] for i, line in enumerate(lines, 1) if "DEVIATION:" in line]
    assert found == expected and rows
    assert all(re.search(r"[.)]$", str(text)) for _, text in rows), "cut short"
