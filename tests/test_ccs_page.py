"""The CCS chapter from invented runs: every cell of its notebook that shows something, as HTML and text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_ccs_runs import CCSInventor
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

from repro.costs import Estimate
from repro.data.catalog import SplitList
from repro.evaluation import protocol
from repro.experiments import thin
from repro.metrics import NOT_RUN
from repro.papers.ccs_actors import seen
from repro.papers.ccs_derived import DERIVED
from repro.papers.ccs_experiments import MARGINS, VARIANTS, preset
from repro.papers.ccs_scores import CCSScores
from repro.papers.reported import reported
from repro.report import ccs_figures
from repro.report.ccs_figures import KNOWING, METHODS, PANELS
from repro.report.ccs_page import CELLS, TABLE_4, CCSPage
from repro.report.page import Chapter
from repro.results import Result, write
from repro.scores import clip_tags

Array = np.ndarray[Any, Any]
TEXT = Cells(ROOT / "notebooks" / "text" / "ccs.md", "ccs", stale="cb@own")


FOLLOWING = sum(len(names) for _, names in DERIVED.values())


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_place(tmp_path, monkeypatch)
    # The real one counts every network, which takes long.
    monkeypatch.setattr("repro.report.chapter.estimate", lambda *_: Estimate(runs=len(VARIANTS)))


def opened(tmp_path: Path, **given: Any) -> Chapter:
    return open_chapter("ccs", tmp_path, **given)


# ---------------------------------------------------------------- every cell


def test_the_whole_notebook_with_everything_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds of motionshapes with all that follows, and recorded runs of Weizmann, without variants, beside them."""
    beside = CCSInventor("weizmann").all_runs((1,), ("manifest",), derived=False)
    kept = [result for (name, _, _), result in beside.items() if "@" not in name]
    for result in kept:
        write(result, tmp_path / "recorded")
    chapter = opened(tmp_path, seeds="1,2")
    file(chapter, CCSInventor("motionshapes").all_runs((1, 2)))
    found = TEXT.show(chapter, monkeypatch, TEXT.sources)
    called = set(re.findall(r"ccs\.(\w+)", "\n".join(TEXT.every)))
    public = {m for m in dir(CCSPage) if not m.startswith("_") and callable(getattr(CCSPage, m))}
    inner = {"all_experiments", "card", "claim_scores", "compared", "comparison", "example", "ledger_values",
             "leave_one_out", "published", "published_name", "recorded", "scores_of"}  # fmt: skip
    assert public - called == inner, "shown nowhere"
    pictures = [alt for value in found.values() for alt in shown(value)]
    assert len(pictures) == len(set(pictures)) >= 14
    everything = "\n".join(map(repr, found.values()))
    assert "Not run" not in everything
    assert "on motionshapes and weizmann" in everything
    checks = repr(found["# NBVAL_IGNORE_OUTPUT\nccs.checks()"])
    assert f"{len(VARIANTS) - 1} of {len(VARIANTS)} stored runs repeat" in checks
    assert re.search(r"cb@own +1 +STALE", checks)
    footer = repr(found["# NBVAL_IGNORE_OUTPUT\nccs.footer()"])
    assert "stale: 1: cb@own seed 1" in footer
    assert f"runs: {2 * (len(VARIANTS) + FOLLOWING) + len(kept)}" in footer
    for number, parts in ((1, ["1"]), (2, ["2"]), (3, ["3 RGB+Flow", "3 RGB", "3 Flow"]), (4, ["4"])):
        both = repr(found[f"ccs.comparisons({number})"])
        for part in parts:
            assert f"Table {part} on motionshapes: preset small, test protocol quick, split 1, seeds 1, 2, 84" in both
            assert (f"Table {part} on weizmann: preset small, test protocol quick, split manifest, seeds 1, 10" in both
                    ), "margins were not run there, but all was"  # fmt: skip
        own = [block for block in both.split("\n\n") if "on motionshapes" in block]
        assert len(own) == len(parts) and not any(NOT_RUN in block for block in own)
    assert NOT_RUN in repr(found["ccs.comparisons(4)"]), "margins on Weizmann"
    made = CCSInventor("motionshapes")
    shares = [f"{100 * made.derived(n, 'cam').arrays['share_map'].mean():.1f} %" for n in ("all", "baseline")]
    area = f"{100 * made.derived('all', 'cam').arrays['share_actor'].mean():.1f} %"
    told = f"Over all test clips: CCS {shares[0]}, RGB alone {shares[1]}, where the actors are {area} of the picture."
    assert told in repr(found["ccs.activations()"])
    printed = capsys.readouterr().out
    for line in (
        "rgb  (1, 3, 3, 64, 64)", "flow (1, 3, 10, 64, 64)", "rgb  (1, 256, 3, 2, 2)",
        "cross : begins with the plain stream: True",
        "own   : begins with the plain stream: True; other flow changes the frames' features by 0.0%",
        "scalar: begins with the plain stream: True; other flow changes the frames' features by 0.0%",
        "rgb  (1, 12, 12)  sums from 1.000 to 1.000", "average       (1, 256)  the same in reverse: True",
        "concatenation (1, 768)  the same in reverse: False", "  0% of the way: L1 = 4.60",
        "100% of the way: L1 = 0.00", "snippets 1 3 6",
    ):  # fmt: skip
        assert line in printed, line
    change = re.search(r"cross .* features by ([\d.]+)%", printed)
    assert change and float(change[1]) > 1
    sums = re.findall(r"sum ([+-][\d.]+), score ([+-][\d.]+)", printed)
    assert len(sums) == 2
    batch = re.search(r"classes of one batch: \[([\d, ]+)\]", printed)
    assert batch and len(set(batch[1].split(", "))) == 4 and len(batch[1].split(", ")) == 8


def test_what_is_shown_without_tags_and_without_derived_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed of Weizmann."""
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    file(chapter, CCSInventor("weizmann").all_runs((1,), ("ido",), derived=False))
    dependent = r"ccs\.(alike|embed|activ|aggreg|backb|other|factors|camera|compar|variants|claims|ledger|footer|your)"
    found = TEXT.show(chapter, monkeypatch, [s for s in TEXT.sources if re.search(dependent, s)])
    by_method = {re.search(r"ccs\.(\w+)", s)[1]: v for s, v in found.items()}  # type: ignore[index]
    assert "Not run" in repr(by_method["embeddings"]) and repr(by_method["activations"]) == "Not run."
    assert "Alike classes of weizmann" in repr(by_method["alike"])
    assert "order classes" not in repr(by_method["aggregations"])
    assert "has no controlled camera motion; motionshapes has" in repr(by_method["camera"])
    assert repr(by_method["factors"]).startswith("Bars of accuracy: RGB alone ")
    assert "-p dataset weizmann -p data_root DIR" in repr(by_method["your_data"])


def test_figures_of_weizmann_with_everything_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test clip of each class, clips that are not square, and some whose actor nobody knows."""
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    file(chapter, CCSInventor("weizmann").all_runs((1,), ("ido",)))
    found = TEXT.show(chapter, monkeypatch, TEXT.calls("embed|activ|other|samples|confus"))
    assert all(len(shown(value)) == 1 for value in found.values()) and len(found) == 5


def test_maps_where_nobody_knows_the_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    runs = CCSInventor("weizmann").all_runs((1,), ("ido",))
    for (name, _, _), run in runs.items():
        if name.endswith("+cam"):
            run.arrays["share_map"][:] = np.nan
            run.arrays["share_actor"][:] = np.nan
    file(chapter, runs)
    monkeypatch.setattr(ccs_figures, "seen", lambda *given: seen(*given)._replace(actor=None))
    (value,) = TEXT.show(chapter, monkeypatch, TEXT.calls("activ")).values()
    assert repr(value).startswith("Frames of ") and "actor" not in repr(value)


def test_smoke_sized_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clip of each class for training and for testing."""
    chapter = opened(tmp_path, preset="smoke")
    clips = tuple(list(thin(part, 1)) for part in (shapes_clips((9, 10)), shapes_clips((1, 2))))
    runs = CCSInventor("motionshapes", clips).all_runs((1,))
    for (name, _, _), run in runs.items():
        if name.endswith("+cam"):
            run.arrays["maps"] = run.arrays["maps"][:, : protocol("smoke").snippets]
    file(chapter, runs)
    dependent = "exampl|compar|claims|ledger|alike|embed|activ|aggr|backb|other|samples|confus|factors|camera|variants"
    found = TEXT.show(chapter, monkeypatch, TEXT.calls(dependent))
    assert len(found) == 20


CALLS = {
    "published": [("1 RGB",), (2,), ("3 RGB+Flow",), (4,)], "printed": [(n,) for n in (1, 2, 3, 4)],
    "comparisons": [(n,) for n in (1, 2, 3, 4)], "comparison": [(4,)],
    "variants": [("in the block's place",), ("losses",), ("tests",)],
}  # fmt: skip
NEED_RUNS = {"activations", "aggregations", "alike", "backbones", "camera", "confusions", "embeddings", "factors",
             "other_input", "samples"}  # fmt: skip
FIXED = {*UNCHANGING, "connection_drawing", "losses"}


@pytest.mark.parametrize("dataset", ["motionshapes", "weizmann"])
def test_a_page_without_any_run_says_so_wherever_one_is_needed(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    weizmann(tmp_path)
    chapter = opened(tmp_path, dataset=dataset, **({"splits": "ido"} if dataset == "weizmann" else {}))
    found = shown_with(CCSPage(chapter), CALLS, FIXED)
    silent = NEED_RUNS - ({"camera"} if dataset == "weizmann" else set())  # which has another reason
    assert {name: text[:7] for name, text in found.items() if name in silent} == dict.fromkeys(silent, "Not run")
    assert all(found[f"comparisons({n},)"] == "Not run." for n in (1, 2, 3, 4))
    assert "runs: none" in found["footer"] and re.search(r"\d+ not run", found["observed"])


@pytest.mark.parametrize("kept", ["all", "baseline", "i3d-cs", "all but all"])
def test_a_page_with_some_runs_shows_what_there_is(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    chapter = opened(tmp_path, seeds=1)
    runs = CCSInventor("motionshapes").all_runs((1,))
    base = {k: k[0].partition("+")[0] for k in runs}
    file(chapter, {k: runs[k] for k in runs if (base[k] != "all" if "but" in kept else base[k] == kept)})
    found = shown_with(CCSPage(chapter), CALLS, FIXED)
    assert ("Not run" in found["samples"]) == (kept != "all")
    assert "Not run" in found["embeddings"] and found["activations"] == "Not run.", "both compare several networks"
    assert ("Not run." in found["comparisons(2,)"]) == (kept == "i3d-cs")


# ---------------------------------------------------------------- figures say what was measured


@cache
def shapes() -> CCSScores:
    return CCSScores(CCSInventor("motionshapes").all_runs((1, 2)))


def page(**given: Any) -> Any:
    return page_of(CCSPage, "motionshapes", shapes(), "small", **given)


def test_the_words_of_the_bars_are_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    found, scores = page(), shapes()

    def accuracy(method: str, **subset: str) -> str:
        return f"{100 * scores.correct(method, subset)[0].mean():.1f}"  # type: ignore[index]

    a, b = repr(found.aggregations()), repr(found.backbones())
    assert f"all classes: average (CCS) {accuracy('all')}, maximum {accuracy('all@maximum')}" in a
    ordered = accuracy("all@concatenation", factor="order")
    assert re.search(rf"order classes: .*concatenation {ordered}", a)
    assert f"VGG-16: streams alone, fused {accuracy('baseline@vgg16')}, CCS {accuracy('all@vgg16')}" in b
    assert f"BN-Inception: streams alone, fused {accuracy('baseline')}, CCS {accuracy('all')}" in b


def test_the_words_of_the_features_are_the_kept_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    found, scores = page(), shapes()
    found.chapter.labs = []
    text = repr(found.embeddings())
    for name, training in PANELS.items():
        arrays = scores.runs[f"{training}+embedding", "1", 1].arrays
        gap, within, between = (f"{100 * arrays[k].mean():.1f}" for k in ("gap", "within", "between"))
        assert re.search(rf"[:;] {name}: gap {gap}, within {within}, between {between}[;.]", text)
        both = np.concatenate([arrays["rgb"], arrays["flow"]]).astype(float)
        variances = np.linalg.eigvalsh(np.cov(both.T))[::-1]
        assert f"{name} {100 * variances[:2].sum() / variances.sum():.0f} %" in text


def test_what_an_output_owes_to_the_other_input(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    scores = shapes()
    text = repr(page().other_input())
    tags = clip_tags("motionshapes")
    labels, ids = scores.labels("all"), scores.ids("all")
    for output, other, factor in (("RGB", "flow", "motion"), ("flow", "rgb", "appearance")):
        m = output.lower()
        for what, keep in (("all classes", [True] * len(ids)),
                           (f"{factor} classes", [tags[i]["factor"] == factor for i in ids])):  # fmt: skip
            kept = np.array(keep)
            means = []
            for get in (
                lambda s, m=m: scores.runs["baseline", "1", s].logits(m),
                lambda s, m=m: scores.runs["all", "1", s].logits(m),
                lambda s, m=m, o=other: scores.runs["all+probes", "1", s].arrays[f"swapped-{o}_{m}"],
                lambda s, m=m, o=other: scores.runs["all+probes", "1", s].arrays[f"no-{o}_{m}"],
            ):
                means.append(100 * np.mean([(get(s).argmax(1) == labels)[kept] for s in (1, 2)]))
            told = ", ".join(f"{name} {mean:.1f}" for name, mean in zip(KNOWING, means, strict=True))
            assert f"{output} output, {what}: {told}" in text


def test_classes_that_nobody_calls_alike() -> None:
    shown_as = page_of(CCSPage, "ucf101", invented("ucf101", ("1",)), "small")
    assert repr(shown_as.alike()) == "No group of alike classes is named for ucf101."


def test_confusions_of_alike_classes_are_counted_by_hand() -> None:
    scores, found = shapes(), page()
    picked = [scores.classes.index(n) for n in ("AmberShakeVioletNod", "AmberNodVioletShake")]
    for method in METHODS.values():
        expected = np.zeros((2, 3), int)
        for seed in (1, 2):
            for truth, row in zip(scores.labels(method), scores.all_scores(method, seed), strict=True):
                if truth in picked:
                    best = int(row.argmax())
                    expected[picked.index(truth), picked.index(best) if best in picked else 2] += 1
        np.testing.assert_array_equal(found._taken_for(method, picked), expected)


# ---------------------------------------------------------------- honesty


@pytest.mark.parametrize("preset_name", ["small", "paper"])
def test_published_tables_never_show_a_number_of_another_data_set(preset_name: str) -> None:
    for name in ("motionshapes", "weizmann", "folder", "kinetics400", "ssv2"):
        shown_as = page_of(CCSPage, name, shapes(), preset_name)
        for (number,) in CALLS["published"]:
            assert reproduced(shown_as.published(number)) == {}, name


def invented(name: str, splits: tuple[str, ...]) -> CCSScores:
    """Invented runs under the name of one of the paper's data sets."""
    runs = CCSInventor("weizmann").all_runs((1, 2), splits, derived=False)
    for result in runs.values():
        result.row["dataset"] = name
    return CCSScores(runs)


@pytest.mark.parametrize(("name", "column"), [("ucf101", "UCF-101"), ("hmdb51", "HMDB-51")])
def test_published_tables_show_numbers_by_the_papers_own_data_and_protocol(name: str, column: str) -> None:
    scores = invented(name, ("1", "2", "3"))
    first = CCSScores({k: r for k, r in scores.runs.items() if k[1] == "1"})
    shown_as = page_of(CCSPage, name, scores, "paper")
    for table in dict.fromkeys(table for table, _ in CELLS):
        own = reproduced(shown_as.published(table))
        printed = {(c.row, c.column) for c in reported("ccs") if c.table == table}
        assert own.keys() == {(row, column) for t, row in CELLS if t == table} and own.keys() <= printed
        for (t, row), method in CELLS.items():  # split 1 only
            if t == table:
                mean = 100 * first.correct(method)[0].mean()  # type: ignore[index]
                assert own[row, column].startswith(f"{mean:.1f} ± ")
    assert CELLS["3 Flow", "I3D CS"] == "i3d-cs:flow" and CELLS["1 RGB", "CCS + TSN, ImageNet"] == "all:rgb"
    assert reproduced(shown_as.published(4)) == {}, "Table 4 starts from Kinetics (ledger ccs-L23)"


def test_table_2_has_the_validation_list() -> None:
    scores = invented("ssv2", ("val",))
    own = reproduced(page_of(CCSPage, "ssv2", scores, "paper").published(2))
    assert own.keys() == {(row, column) for row in ("two-stream + TRN", "CCS + two-stream + TRN")
                          for column in ("val top-1", "val top-5")}  # fmt: skip
    labels = scores.labels("trn-all")
    for column, k in (("val top-1", 1), ("val top-5", 5)):
        right = [label in np.argsort(-row)[:k] for s in (1, 2)
                 for label, row in zip(labels, scores.all_scores("trn-all", s), strict=True)]  # fmt: skip
        assert own["CCS + two-stream + TRN", column].startswith(f"{100 * np.mean(right):.1f} ± ")


def test_another_scale_some_splits_or_other_weights_are_no_reproduction() -> None:
    scores = invented("ucf101", ("1", "2"))
    second = CCSScores({k: r for k, r in scores.runs.items() if k[1] == "2"})
    for other in (
        page_of(CCSPage, "ucf101", scores, "small"),
        page_of(CCSPage, "ucf101", second, "paper"),
        page_of(CCSPage, "ucf101", scores, "paper", weights="none"),
        page_of(CCSPage, "ucf101", scores, "paper", lists={"1": SplitList(90, 30, "a subset")}),
    ):
        assert not any(reproduced(other.published(number)) for number in ("1 RGB", "3 RGB+Flow"))


def test_how_i3d_was_tested_is_said_where_it_is_shown() -> None:
    found = page()
    runs = {
        k: Result({**r.row, "identity": {"protocol": "chain16"}}, r.arrays) if k[0].startswith("i3d-") else r
        for k, r in shapes().runs.items()
    }
    found.scores = {"motionshapes": CCSScores(runs)}
    assert "I3D: 16 snippets, whole frame, in a row." in repr(found.comparisons(1))
    assert "in a row" not in repr(found.comparisons(4)) and "in a row" not in repr(found.variants("losses"))


def test_table_4_names_every_margin() -> None:
    printed = {c.row for c in reported("ccs") if c.table == "4"}
    assert len(TABLE_4) == len(MARGINS) + 1 and set(TABLE_4.values()) <= {"all", *VARIANTS}
    assert {row: TABLE_4[row] for row in printed} == {
        "0.2, 0.3, 0.8": "all@alpha1-0.2", "0.3, 0.3, 0.8": "all", "0.3, 0.5, 1.0": "all@margins-0.3-0.5-1.0",
        "0.5, 0.5, 1.0": "all@margins-0.5-0.5-1.0", "0.8, 0.5, 1.2": "all@margins-0.8-0.5-1.2",
    }  # fmt: skip
    for row, name in TABLE_4.items():
        losses = {"alpha1": 0.3, "alpha2": 0.3, "alpha3": 0.8, **VARIANTS[name].losses}
        assert [float(x) for x in row.split(", ")] == [losses[f"alpha{i}"] for i in (1, 2, 3)]


def test_the_recipe_is_the_one_that_was_run() -> None:
    rows = {row[0]: row[1:] for row in page().recipe().rows}
    paper, here = preset("paper", "motionshapes"), preset("small", "motionshapes")
    printed, ours = rows["iterations and rate"]
    assert printed.startswith(f"{paper.recipes['tsn'].iterations:,}; 0.001, times 0.1 at ")
    assert ours.startswith(f"{here.recipes['tsn'].iterations:,} (I3D 150); {here.recipes['tsn'].lr:g}, cosine")
    assert rows["mini-batch"] == ("8 classes of 4 clips, both modalities",) * 2
    assert rows["margins and weights of the losses"][0] == "0.3, 0.3, 0.8; 0.5, 0.5"
    assert rows["starting weights"] == ("ImageNet", "random")
    assert rows["test"] == ("25 snippets, centre crop", "8 snippets, whole frame")


def test_what_is_counted() -> None:
    counts = {str(row[0]): row for row in page().counts().rows}
    assert counts["TSN, All"][1:6] == ("24,284,773", "3,145,728", "576,613", "18.1 %", "13.53")
    assert counts["TSN, baseline"][2] == "–"
    assert str(counts["TSN, All, VGG-16"][-1].text) == "ccs-L32" and counts["TSN, All"][-1] == ""


def test_every_departure_in_the_code_is_collected() -> None:
    rows = page().deviations().rows
    found = [str(row[0]).split(", line ") for row in rows]
    expected = []
    for path in sorted((ROOT / "src" / "repro" / "papers").glob("ccs*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        expected += [[path.name, str(i)] for i, line in enumerate(lines, 1) if "DEVIATION:" in line]
    assert found == expected and rows
    assert all(re.search(r"[.)]$", str(text)) for _, text in rows), "cut short"
