"""What the paper of CCS prints: cells are complete, text and tables agree or are said not to, claims and ledger fit."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest

from repro.cli import main
from repro.data.motionshapes import CLASSES, SCRIPTS, records
from repro.metrics import NOT_RUN, OBSERVED, OPPOSITE, UNDECIDED
from repro.papers.ccs import BASES, METHODS, TRN, Config
from repro.papers.ccs_losses import Losses
from repro.papers.reported import find, number, reported
from repro.report import claims as c
from repro.report.ledger import ledger, load_ledger

PAPER = "ccs"
SETS = ("UCF-101", "HMDB-51")
PARTS = ("RGB", "Flow", "RGB+Flow")  # of Tables 1 and 3
TSN, KINETICS, I3D = "CCS + TSN, ImageNet", "CCS + TSN, ImageNet+Kinetics", "CCS + I3D"
TEST_CLIPS = {"UCF-101": 3783, "HMDB-51": 1530}  # official lists, split 1

# The tables once more as they are printed: a line for each row, three columns for each data set in Tables 1 and 3.
PRINTED = {
    "1": """
68.2 - - - - -
73.0 83.7 88.0 40.5 54.6 59.4
82.6 86.2.7 90.6 47.0 55.2 58.2
82.3 79.1 93.4 43.2 55.5 66.4
89.7 89.1 94.9 61.5 66.3 75.0
- - 95.6 - - 71.1
- - 92.7 49.8 59.1 66.9
82.3 - - 51.6 - -
85.8 - - 54.9 - -
93.6 93.3 95.0 66.6 70.1 72.7
85.7 87.9 93.5 - - 68.5
84.5 90.6 93.4 49.8 61.9 66.4
96.8 95.5 97.3 74.5 76.4 78.7
91.1 95.2 97.0 - - -
87.2 87.4 95.3 60.5 62.1 77.2
94.2 95.0 97.4 69.4 71.2 81.9
86.7 87.1 93.8 60.1 62.3 68.2
""",
    "2": """
51.3 80.6 - -
48.8 77.6 50.9 79.3
55.5 83.1 56.2 83.2
61.2 89.3 60.5 87.9
""",
    "3": """
85.7 87.9 93.5 - - 68.5
86.3 87.2 93.9 60.5 62.1 76.3
84.9 85.1 91.7 54.4 61.6 67.3
87.2 87.4 95.3 61.7 65.1 77.2
84.5 90.6 93.4 49.8 61.9 66.4
86.1 86.9 92.7 53.0 56.2 67.6
82.4 83.1 91.8 50.9 52.3 64.7
86.7 87.1 93.8 60.1 62.3 68.2
""",
    "4": """
0.2 0.3 0.8 96.3
0.3 0.3 0.8 97.4
0.3 0.5 1.0 97.1
0.5 0.5 1.0 95.4
0.8 0.5 1.2 95.5
""",
}

# Trainings and what is computed from their logits, by the names that the chapter's runs will have.
TRAININGS = {
    "baseline", "cb", "cs", "all", "i3d-baseline", "i3d-cb", "i3d-cs", "i3d-all", "all@maximum", "all@product",
    "all@concatenation", "cb@concatenation", "cb@average", "all@vgg16", "all@resnet50", "baseline@vgg16",
    "baseline@resnet50", "all@alpha1-0.2", "all@alpha1-0.5", "all@alpha2-0.5", "all@alpha3-0.4", "all@alpha3-1.2",
    "all@margins-0.3-0.5-1.0", "all@margins-0.5-0.5-1.0", "all@margins-0.8-0.5-1.2", "trn-baseline", "trn-all",
}  # fmt: skip
# Trainings that no claim names: behind the measurements of claims 11 and 12, and for the ledger alone.
BEHIND = {"all@no-triplet", "all@no-embedding"}
NEVER_RUN = {"all@kinetics"}  # claim 14: no preset trains on Kinetics first
LEDGER_ALONE = {"cb@own", "cb@scalar", "cb@pooled", "all@same-clip"}
METHODS_KNOWN = {*TRAININGS, *NEVER_RUN, *(f"{name}:{m}" for name in TRAININGS for m in ("rgb", "flow")), "best-single"}
MEASURES = {
    "swapped-flow": 4, "swapped-rgb": 4, "steps-to-converge": 9, "confused-alike": 10, "modality-gap": 11,
    "foreign-neighbours": 11, "scatter-within": 12, "distance-between": 12, "cam-on-actor": 17, "cam-over-baseline": 17,
}  # fmt: skip
COUNTED = {"parameters": 16, "multiply-adds": 16}

Place = tuple[str, str, str]  # table, row, column


def value(place: Place) -> float:
    return number(PAPER, *place)


def gain(part: str, a: str, b: str, column: str) -> float:
    return round(value((part, a, column)) - value((part, b, column)), 1)


# ---------------------------------------------------------------- cells


def test_every_cell_is_there() -> None:
    size = Counter(cell.table for cell in reported(PAPER))
    tables = {"2": 4 * 4, "4": 5 * 4} | {f"1 {m}": 17 * 3 for m in PARTS} | {f"3 {m}": 8 * 2 for m in PARTS}
    assert {name: n for name, n in size.items() if not name.startswith("prose")} == tables
    assert {name.split()[1] for name in size if name not in tables} == {"3.1", "4.1", "4.2", "4.3"}
    cell = find(PAPER, "1 Flow", KINETICS, "HMDB-51")
    assert (cell.value, cell.unit, cell.source) == (71.2, "%", "Table 1 Flow, row 16, column 3")
    columns = {*SETS, "something-something-V2", "Pre-train dataset", "value", "Training", "Test"}
    columns |= {"val top-1", "val top-5", "Test top-1", "Test top-5", "alpha1", "alpha2", "alpha3", "Accuracy"}
    assert {cell.column for cell in reported(PAPER)} == columns
    for cell in reported(PAPER):
        assert cell.source and cell.unit
        if cell.unit == "%" and cell.value is not None:
            assert isinstance(cell.value, float) and 40 < cell.value < 98


@pytest.mark.parametrize("table", PRINTED)
def test_cells_are_as_printed(table: str) -> None:
    lines = [line.split() for line in PRINTED[table].strip().splitlines()]
    names = [f"{table} {m}" for m in PARTS] if table in "13" else [table]
    found = [
        [cell for cell in reported(PAPER) if cell.table == n and cell.column != "Pre-train dataset"] for n in names
    ]
    rows = list(dict.fromkeys(cell.row for cell in found[0]))
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        cells = [[cell.value for cell in part if cell.row == row] for part in found]
        by_set = [x for xs in zip(*cells, strict=True) for x in xs] if len(cells) > 1 else cells[0]
        texts = ["-" if x is None else x if isinstance(x, str) else f"{x:.1f}" for x in by_set]
        assert texts == line, row
        if table == "4":
            assert row == ", ".join(line[:3])


def test_quoted_rows_name_their_source_and_the_unreadable_cell_is_kept() -> None:
    for cell in reported(PAPER):
        if cell.table.startswith("1 "):
            assert cell.row.startswith("CCS") or re.search(r" \[\d+\]", cell.row), cell.row
            if cell.column == "Pre-train dataset":
                assert cell.value in ("ImageNet", "sports-1M", "ImageNet+Kinetics")
                assert "," not in cell.row or cell.row.endswith(f", {cell.value}")
    cell = find(PAPER, "1 Flow", "ConvNet fusion [7]", "UCF-101")  # L31
    assert (cell.value, cell.unit) == ("86.2.7", "text")
    assert [x.value for x in reported(PAPER) if isinstance(x.value, str) and x.value.count(".") > 1] == ["86.2.7"]


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reported", PAPER, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(reported(PAPER))


def test_tables_repeat_each_other() -> None:  # L14, L19
    for m in PARTS:
        for x in SETS:
            for base, row in (("TSN", "TSN [38], ImageNet"), ("I3D", "I3D [2]")):
                here, there = (find(PAPER, t, r, x).value for t, r in ((f"3 {m}", f"{base} Baseline"), (f"1 {m}", row)))
                assert here == there
            assert value((f"1 {m}", I3D, x)) == value((f"3 {m}", "I3D All", x))
            source = "TSN CB" if x == "HMDB-51" and m != "RGB+Flow" else "TSN All"
            assert value((f"1 {m}", TSN, x)) == value((f"3 {m}", source, x))
            assert source == "TSN All" or value((f"1 {m}", TSN, x)) != value((f"3 {m}", "TSN All", x))


def test_the_text_states_the_gain_of_the_block_and_no_other() -> None:  # L15, L17, L20
    for x in SETS:
        assert value(("prose 4.3", "CB over TSN", x)) == gain("3 RGB+Flow", "TSN CB", "TSN Baseline", x)
    assert [gain("3 RGB+Flow", "I3D CB", "I3D Baseline", x) for x in SETS] == [-0.7, 1.2]
    two = "over the original two-stream network"
    table = [gain("1 RGB+Flow", KINETICS, "Two-stream Network [24]", x) for x in SETS]
    assert table == [9.4, 22.5] and [value(("prose 4.2 gains", two, x)) for x in SETS] == [9.7, 22.9]
    one = value(("prose 4.2", "one stream", "UCF-101"))
    assert one == value(("1 RGB", "C3D [31]", "UCF-101"))
    assert round(value(("prose 4.2", "CCS", "UCF-101")) - one, 1) == 11.6
    assert value(("prose 4.2 gains", "over one stream", "UCF-101")) == 12.3
    for x in SETS:
        assert value(("prose 4.2", "CCS", x)) == value(("1 RGB+Flow", KINETICS, x))
    assert value(("prose 4.2", "CCS", "something-something-V2")) == 61.1
    assert {value(("2", "CCS + two-stream + TRN", k)) for k in ("val top-1", "Test top-1")} == {61.2, 60.5}


def test_the_recipe_and_the_best_margins_are_the_defaults() -> None:
    losses = Losses()
    for name in ("lambda1", "lambda2", "alpha1", "alpha2", "alpha3"):
        assert value(("prose 4.1 recipe", name, "value")) == getattr(losses, name)
    best = max((cell for cell in reported(PAPER) if cell.column == "Accuracy"), key=lambda cell: float(cell.value or 0))
    assert [float(x) for x in best.row.split(", ")] == [losses.alpha1, losses.alpha2, losses.alpha3]
    assert best.value == value(("1 RGB+Flow", KINETICS, "UCF-101"))  # L23
    assert value(("prose 4.2 input", "segments", "Training")) == Config().segments
    for row in ("horizontal images", "vertical images"):
        assert value(("prose 3.1", row, "value")) == Config().flow_frames
    assert {f"TSN {'Baseline' if name == 'baseline' else name}" for name in METHODS} == {
        cell.row for cell in reported(PAPER) if cell.table == "3 RGB" and cell.row.startswith("TSN")
    }


# ---------------------------------------------------------------- claims


def all_tests() -> list[tuple[int, c.Test]]:
    return [(int(claim.id.split("-")[1]), test) for claim in c.load_claims(PAPER) for test in claim.tests]


def test_file_holds_the_eighteen_claims() -> None:
    claims = c.load_claims(PAPER)
    assert [claim.id for claim in claims] == [f"{PAPER}-{i}" for i in range(1, 19)]
    printed = {int(claim.id.split("-")[1]): claim.reported for claim in claims}
    assert printed[1].startswith("+0.4 UCF-101, +7.8 HMDB-51 (TSN") and "-0.7 UCF-101, +1.2 HMDB-51 (I3D" in printed[1]
    assert printed[2].startswith("-1.8 UCF-101, -1.2 HMDB-51 (TSN") and "-1.6 UCF-101, -1.7 HMDB-51 (I3D" in printed[2]
    assert printed[3] == "+1.4 UCF-101, +0.9 HMDB-51 (TSN); +0.4 UCF-101, +0.6 HMDB-51 (I3D)"
    assert "-0.5 UCF-101 (flow, TSN" in printed[4] and "-3.5 UCF-101, +0.4 HMDB-51 (flow, I3D)" in printed[4]
    assert printed[8].startswith("+1.1 Accuracy") and "+0.3 Accuracy" in printed[8]
    assert printed[13].startswith("+5.7 val top-1, +6.2 val top-5, +4.3 Test top-1, +4.7 Test top-5")
    assert printed[14] == "+2.1 UCF-101, +4.7 HMDB-51"
    assert printed[15].startswith("+7.9 UCF-101, +12.1 HMDB-51 (TSN, ")
    assert "+11.6 UCF-101 (one stream" in printed[18] and "+0.1 UCF-101, +3.2 HMDB-51 (best other row)" in printed[18]
    assert {i for i, text in printed.items() if text == "no number given"} == {5, 6, 7, 9, 10, 11, 12, 16, 17}
    for claim in claims:
        assert any(test.role == "main" for test in claim.tests)
        assert claim.a != claim.b and all(test.a != test.b or test.kind != "correct" for test in claim.tests)


def test_every_method_and_measure_is_known() -> None:
    used = {method for _, test in all_tests() if test.kind == "correct" for method in (test.a, test.b)}
    assert used <= METHODS_KNOWN, used - METHODS_KNOWN
    assert {method.partition(":")[0] for method in used} == {*TRAININGS, *NEVER_RUN, "best-single"}
    assert {test.measure: i for i, test in all_tests() if test.kind == "measured"} == MEASURES
    assert {test.measure: i for i, test in all_tests() if test.kind == "counted"} == COUNTED
    assert not TRAININGS & (BEHIND | LEDGER_ALONE)


def test_printed_and_counted_numbers_decide_only_where_no_training_of_ours_can() -> None:
    main_tests = [(i, test) for i, test in all_tests() if test.role == "main"]
    assert {i for i, test in main_tests if test.kind in ("counted", "cells")} == {16, 18}
    ours = {i for i, test in main_tests if {"any", "motionshapes"} & set(test.datasets)}
    assert ours == {*range(1, 14), 15, 17}


def test_subsets_exist_in_motionshapes() -> None:
    tags = [record.tags for record in records()]
    for _, test in all_tests():
        if test.subset:
            assert test.datasets == ("motionshapes",)
            assert any(test.subset.items() <= tag.items() for tag in tags), test.subset
    assert sum(SCRIPTS[name][0] == "binding" for name in CLASSES) == 2  # the note of claim 10


class NothingRun:
    """No runs; two counts of the networks (as `repro.papers.ccs_counts` gives them) are all that is known."""

    datasets = ("motionshapes", "weizmann")

    def correct(self, method: str, dataset: str, subset: Mapping[str, str], beside: str = "") -> None: ...

    def measure(self, name: str, dataset: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        counts = {"parameters": [24284773 / 20769482, 28274917 / 24759626], "multiply-adds": [13.534 / 13.016, 1.0076]}
        if name not in counts or dataset != "ucf101":
            return None
        return np.array([counts[name]]), np.ones((1, 2)), np.arange(2)


def test_what_printed_and_counted_numbers_alone_decide() -> None:
    rows = c.evaluate(c.load_claims(PAPER), NothingRun())
    shown = [row for row in rows if row.verdict.word != NOT_RUN]
    assert {row.test.kind for row in shown} == {"counted", "cells"}
    assert {row.dataset for row in rows} == {"motionshapes", "weizmann", "ucf101", "hmdb51", "ssv2"}
    words = {row.test.measure: row.verdict.word for row in shown if row.test.kind == "counted"}
    assert words == {"parameters": OPPOSITE, "multiply-adds": OBSERVED}
    assert rows.verdicts()["ccs-16"].word == UNDECIDED
    found = {(row.claim.id, row.dataset): row for row in shown if row.test.kind == "cells"}
    assert {row.comparison for row in found.values()} == {
        "TSN All vs TSN CB, printed", f"{KINETICS} vs R(2+1)D [32], ImageNet+Kinetics, printed"
    }  # fmt: skip
    for place, points in ((("ccs-18", "ucf101"), 0.1), (("ccs-18", "hmdb51"), 3.2), (("ccs-3", "hmdb51"), 0.9)):
        difference = found[place].difference
        assert difference and 100 * difference.mean == pytest.approx(points)
        assert (difference.detectable < difference.mean) == (points == 3.2)  # L45
    assert all(row.verdict.word == NOT_RUN for row in rows if row.test.a in NEVER_RUN)


# ---------------------------------------------------------------- ledger


def test_ledger_is_complete_and_folded() -> None:
    entries = load_ledger(PAPER)
    assert [entry.id for entry in entries] == [f"{PAPER}-L{i}" for i in range(1, 48)]
    silent = {int(entry.id.split("-L")[1]) for entry in entries if entry.live is None}
    assert silent == {10, 11, 16, 17, 27, 29, 35, 37, 38, 39, 40, 41, 42, 43, 44, 46}
    shown = ledger(PAPER, {entry.live: f"value of {entry.live}" for entry in entries if entry.live})
    assert shown._repr_html_().count("<details") == 47
    assert repr(shown).count("live: value of") == 31
    claims = c.load_claims(PAPER)
    texts = [test.note for _, test in all_tests()] + [text for x in claims for text in (x.source, x.b, x.reported)]
    cited = {name for text in texts for name in re.findall(r"\bL\d+", text)}
    assert cited == {f"L{i}" for i in (5, 14, 15, 18, 19, 20, 21, 22, 23, 24, 28, 32, 34, 45, 47)}


@pytest.mark.parametrize(
    ("entry", "given", "word"),
    [
        ("L1", Config().connection == "cross", '"scalar"'),
        ("L4", Config().normaliser == "softmax", "softmax over the other"),
        ("L5", Config().values == "features", "W on the features"),
        ("L6", Config().place == "maps", "the last maps"),
        ("L7", Losses().features == "unit", "unit length inside"),
        ("L8", Losses().reduction == "mean", "means; sums as"),
        ("L9", Losses().positive == "farthest", "farthest positive"),
        ("L13", (Config().head, Config().hidden) == ("shared", 512), "of 512"),
        ("L25", Config().aggregation == "average", "features"),
        ("L27", BASES["i3d"]["segments"] == 64, "64 frames"),
        ("L33", TRN["segments"] == 8, "8 frames"),
        ("L35", Config().backbone == "bn_inception", "BN-Inception"),
        ("L36", Config().test == "clip", "all frames of a clip"),
        ("L37", METHODS["CS"] == {"connection": "none"}, "caption"),
        ("L38", Config().embedding == "aggregate", "the aggregated feature"),
        ("L40", Config().zero_start, "zero"),
        ("L41", (*Config().dropout, BASES["i3d"]["dropout"][0]) == (0.8, 0.7, 0.5), "0.8 and 0.7; 0.5"),
    ],
)
def test_the_choices_are_the_defaults(entry: str, given: bool, word: str) -> None:
    assert given
    assert word in next(e.choice for e in load_ledger(PAPER) if e.id == f"{PAPER}-{entry}")


def test_ledger_arithmetic() -> None:
    # L4: the exponent of Eq. 2 between two embeddings of 512 numbers of unit variance has a deviation of 22.6
    above = 0.5 * math.erfc(math.log(65504) / math.sqrt(512) / math.sqrt(2))
    assert round(above, 2) == 0.31
    # L7: squared distance of rectified noise of unit variance, 1024 numbers, and at unit length
    mean, square = 1 / math.sqrt(2 * math.pi), 0.5
    assert round(2 * 1024 * (square - mean**2)) == 698 and round(2 * (1 - mean**2 / square), 1) == 1.4
    # L12: what every 50 epochs would leave of the rate
    printed = {row: value(("prose 4.1 recipe", row, "value")) for row in ("epochs before that", "epochs at most")}
    assert (printed["epochs at most"] - 1) // printed["epochs before that"] == 7
    # L18: the three-split mean of TSN's own row in another paper
    tsn = number("heterogeneous", "4", "TSN (2 modalities) [5]", "HMDB51")
    assert tsn == value(("1 RGB+Flow", "TSN [38], ImageNet", "HMDB-51"))
    # L22: flow falls on UCF-101 in every pair of rows, and rises with I3D on HMDB-51
    pairs = [("3 Flow", f"{base} {row}", f"{base} Baseline") for base in ("TSN", "I3D") for row in ("CB", "CS", "All")]
    pairs.append(("1 Flow", KINETICS, "TSN [38], ImageNet+Kinetics"))
    assert all(gain(*pair, "UCF-101") < 0 for pair in pairs)
    assert gain("3 Flow", "I3D All", "I3D Baseline", "HMDB-51") == 0.4
    # L23: the two pairs of rows that differ in alpha1 alone
    smaller = (("0.2, 0.3, 0.8", "0.3, 0.3, 0.8"), ("0.3, 0.5, 1.0", "0.5, 0.5, 1.0"))
    assert [gain("4", a, b, "Accuracy") for a, b in smaller] == [-1.1, 1.7]
    # L28: better single streams, and the LSTM's own cell
    single = [cell.value for cell in reported(PAPER) if cell.table == "1 RGB" and cell.column == "UCF-101"]
    assert sum(isinstance(x, float) and x > 85.8 for x in single) > 4
    assert value(("1 RGB", "ConvNets+LSTM [5]", "UCF-101")) == 68.2
    # L45: the lead on UCF-101 is below one standard error, and rows that lead elsewhere
    lead = gain("1 RGB+Flow", KINETICS, "R(2+1)D [32], ImageNet+Kinetics", "UCF-101")
    p = value(("1 RGB+Flow", KINETICS, "UCF-101")) / 100
    assert lead == 0.1 < 100 * math.sqrt(p * (1 - p) / TEST_CLIPS["UCF-101"])
    for m in PARTS[:2]:
        assert all(gain(f"1 {m}", KINETICS, "R(2+1)D [32], ImageNet+Kinetics", x) < 0 for x in SETS)
    assert all(gain("1 RGB+Flow", row, "TLE+Two-stream [4]", "UCF-101") < 0 for row in (TSN, I3D))
    assert gain("1 RGB+Flow", I3D, "TSN [38], ImageNet", "HMDB-51") < 0


def test_quoted_cells_against_their_sources() -> None:  # L30, L31
    streams = {"RGB": "Appearance stream", "Flow": "Motion stream", "RGB+Flow": "ST-ResNet*"}
    table = {"UCF-101": "UCF101", "HMDB-51": "HMDB51"}
    off = []
    for m, row in streams.items():
        for x, column in table.items():
            here, source = value((f"1 {m}", "ST-resNet [6]", x)), number("st_resnet", "3", row, column)
            off += [(m, x)] if abs(here - source) > 0.1 else []
    assert off == [("RGB", "HMDB-51")]
    for x, column in table.items():
        elsewhere = number("st_resnet", "4 left", "Two-Stream Fusion [5]", column)
        assert elsewhere > value(("1 RGB+Flow", "ConvNet fusion [7]", x)) + 1


def test_gain_by_fusing() -> None:  # L47
    found = {}
    for base in ("TSN", "I3D"):
        for name in ("Baseline", "CB", "CS", "All"):
            row = f"{base} {name}"
            if find(PAPER, "3 RGB", row, "HMDB-51").value is not None:
                both, *alone = (value((f"3 {m}", row, "HMDB-51")) for m in ("RGB+Flow", "RGB", "Flow"))
                found[row] = round(both - max(alone), 1)
    expected = {"TSN CB": 14.2, "TSN CS": 5.7, "TSN All": 12.1}
    assert found == expected | {"I3D Baseline": 4.5, "I3D CB": 11.4, "I3D CS": 12.4, "I3D All": 5.9}
    assert max(found.values()) > 3 * min(found.values())
