"""What the cross-enhancement paper prints: cells are complete, text and tables agree, claims and ledger fit."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from repro.cli import main
from repro.metrics import NOT_RUN
from repro.papers.cross_enhancement import BRIDGES, Pair, Teaching, bridges
from repro.papers.reported import find, number, reported
from repro.report import claims as c
from repro.report.ledger import ledger, load_ledger

PAPER = "cross_enhancement"
SETS = ("HMDB51", "UCF101", "Kinetics")
PARTS = ("RGB", "Flow", "RGB+Flow")  # of Table 3
FUSED3D, I3D, OURS = "3D-Fused [1]", "Two-Stream I3D [1]", "Ours"
# Table 3 once more, as it is printed: a line for each row, three columns for each data set.
PRINTED = """
49.2 55.5 56.8 83.2 85.8 89.3 - - 67.2
49.8 61.9 66.4 84.5 90.6 93.4 71.1 63.4 74.2
58.7 61.9 66.6 86.1 90.6 93.6 71.1 65.3 74.5
"""

# Trainings and what is computed from their logits, by the names that the chapter's runs will have.
PLAIN = {"rgb", "flow", "fused-3d", "together"}
TAUGHT = {
    "rgb-taught", "flow-taught", *(f"rgb-taught@{end}" for end in (
        "output-only", "inner-only", "weights-0.1", "weights-10", "inner-10", "output-10", "logits",
        *(f"bridge-{letter}" for letter in BRIDGES if letter != Teaching("rgb").bridge),
    )),
}  # fmt: skip
PAIRS = {"two-stream", "rgb-taught+flow", "rgb+flow-taught"}
METHODS = {*PLAIN, *TAUGHT, *PAIRS, *(f"{pair}+layer" for pair in PAIRS), "best-single"}
MEASURES = {
    "stronger-teaches": 4,
    "lead-by-camera": 5,
    "camera-loss": 6,
    "training-error": 7,
    "place-of-bridge": 8,
    "inner-distance-by-weight": 9,
    "output-distance-by-weight": 9,
    "epochs-to-accuracy": 10,
    "accuracy-on-the-way": 10,
}


def value(part: str, row: str, column: str) -> float:
    return number(PAPER, f"3 {part}", row, column)


def gains(part: str, a: str, b: str, columns: tuple[str, ...] = SETS) -> list[float]:
    return [round(value(part, a, column) - value(part, b, column), 1) for column in columns]


def clips(column: str) -> int:
    row = {"Kinetics": "Kinetics-400", "HMDB51": "HMDB-51", "UCF101": "UCF-101"}[column]
    return int(number(PAPER, "1", row, "Test"))


# ---------------------------------------------------------------- cells


def test_every_cell_is_there() -> None:
    size = Counter(cell.table for cell in reported(PAPER))
    tables = {"1": 3 * 4, "2": 3, **{f"3 {part}": 3 * 3 for part in PARTS}}
    assert {name: n for name, n in size.items() if not name.startswith("prose")} == tables
    assert {name.split()[1] for name in size if name not in tables} == {"3.1", "4.2", "4.3"}
    cell = find(PAPER, "3 Flow", OURS, "Kinetics")
    assert (cell.value, cell.unit, cell.source) == (65.3, "%", "Table 3 Flow, row 3, column 3")
    for cell in reported(PAPER):
        assert cell.source and cell.unit
        if cell.unit == "%" and cell.value is not None:
            assert isinstance(cell.value, float) and 45 < cell.value < 95
    columns = {cell.column for cell in reported(PAPER) if cell.table.startswith("3 ")}
    assert columns == set(SETS)


def test_table_3_cell_for_cell() -> None:
    for row, line in zip((FUSED3D, I3D, OURS), PRINTED.split("\n")[1:-1], strict=True):
        places = [(part, column) for column in SETS for part in PARTS]
        found = [find(PAPER, f"3 {part}", row, column).value for part, column in places]
        assert ["-" if x is None else f"{x:.1f}" for x in found] == line.split()


def test_table_1_adds_up_to_the_whole_sets() -> None:
    rows = ("HMDB-51", "UCF-101", "Kinetics-400")
    cells = [[number(PAPER, "1", row, x) for x in ("Category", "Total", "Train", "Test")] for row in rows]
    assert [total - train - test for _, total, train, test in cells] == [0, 0, 0]
    assert [row[:2] for row in cells] == [[51, 6766], [101, 13320], [400, 266440]]
    for total, column in zip((cells[0][1], cells[1][1]), SETS, strict=False):  # the same sets in another paper
        assert number("st_resnet", "prose 4", "clips", column) == total


def test_the_text_counts_as_the_network_does() -> None:
    places, tried = (
        number(PAPER, "prose 4.2", row, "value") for row in ("places in both streams", "inner bridges tried")
    )
    assert places == 2 * len({here for _, here in BRIDGES.values()})
    assert tried == len(BRIDGES) == (places / 2) ** 2
    text = {cell.row: cell.value for cell in reported(PAPER) if cell.column == "what is left"}
    assert "two-stream" in str(text["no bridge"]) and "MARS" in str(text["no inner bridge"])


def test_the_command_prints_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reported", PAPER, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(reported(PAPER)) == 12 + 3 + 27 + 12 + 2 + 7


# ---------------------------------------------------------------- claims


def test_file_holds_the_thirteen_claims() -> None:
    claims = c.load_claims(PAPER)
    assert [claim.id for claim in claims] == [f"{PAPER}-{i}" for i in range(1, 14)]
    printed = {int(claim.id.split("-")[1]): claim.reported for claim in claims}
    assert printed[1] == "+8.9 HMDB51, +1.6 UCF101"
    assert printed[2].startswith("+1.9 Kinetics (")
    assert printed[3].startswith("+0.2 HMDB51, +0.2 UCF101, +0.3 Kinetics (")
    assert printed[5] == "-12.1 HMDB51, -6.1 UCF101, +7.7 Kinetics (RGB over flow)"
    assert printed[11] == "+9.6 HMDB51, +4.1 UCF101, +7.0 Kinetics"
    assert printed[12].split("; ") == [
        "+4.5 HMDB51, +2.8 UCF101, +3.1 Kinetics (Two-Stream I3D)", "+4.7 HMDB51, +3.0 UCF101, +3.4 Kinetics (taught)",
    ]  # fmt: skip
    assert {i for i, text in printed.items() if text == "no number given"} == {4, 6, 7, 8, 9, 10, 13}
    for claim in claims:
        assert any(test.role == "main" and test.kind != "cells" for test in claim.tests)
        assert claim.a != claim.b and all(test.a != test.b or test.kind != "correct" for test in claim.tests)
        places = [
            (test.a, test.b, test.measure, test.datasets, str(test.subset), str(test.cells)) for test in claim.tests
        ]
        assert len(set(places)) == len(places)


def test_every_method_and_measure_is_known() -> None:
    tests = [(claim, test) for claim in c.load_claims(PAPER) for test in claim.tests]
    used = {method for _, test in tests if test.kind == "correct" for method in (test.a, test.b)}
    assert used <= METHODS, used - METHODS
    through_measures = {f"rgb-taught@bridge-{letter}" for letter in "abcdfghi"}
    in_the_ledger_alone = {"together", "rgb-taught@logits"}
    assert used & (PLAIN | TAUGHT) | through_measures | in_the_ledger_alone == PLAIN | TAUGHT
    assert {test.kind for _, test in tests} == {"correct", "measured", "cells"}
    measured = {test.measure: int(claim.id.split("-")[1]) for claim, test in tests if test.kind == "measured"}
    assert measured == MEASURES


def test_subsets_exist_in_motionshapes() -> None:
    records = pytest.importorskip("repro.data.motionshapes").records()
    for claim in c.load_claims(PAPER):
        for test in claim.tests:
            if test.subset:
                assert test.datasets == ("motionshapes",)
                assert sum(test.subset.items() <= record.tags.items() for record in records) >= 50, test.subset


class NothingRun:
    datasets = ("motionshapes",)

    def correct(self, method: str, dataset: str, subset: Mapping[str, str], beside: str = "") -> None: ...

    def measure(self, name: str, dataset: str) -> None: ...


def test_nothing_run_decides_nothing_and_printed_rows_are_shown() -> None:
    rows = c.evaluate(c.load_claims(PAPER), NothingRun())
    assert {row.dataset for row in rows} == {"motionshapes", "weizmann", "hmdb51", "ucf101", "kinetics400"}
    assert {verdict.word for verdict in rows.verdicts().values()} == {NOT_RUN}
    shown = [row for row in rows if row.difference]
    assert {(row.test.kind, row.test.role, row.comparison) for row in shown} == {
        ("cells", "control", f"{OURS} vs {I3D}, printed")
    }
    places = {(row.test.cells["table"].removeprefix("3 "), row.test.cells["column"]): row for row in shown}
    assert set(places) == {("RGB", "HMDB51"), ("RGB", "UCF101"), ("Flow", "Kinetics"), *(("RGB+Flow", x) for x in SETS)}
    for (part, column), row in places.items():
        assert row.difference and row.test.cells["test_clips"] == clips(column)
        assert row.difference.mean == pytest.approx(gains(part, OURS, I3D, (column,))[0] / 100)
        # the test clips could tell from 0 what students gain, not what pairs gain (ledger L10)
        assert (row.difference.mean < row.difference.detectable) == (part == "RGB+Flow")


# ---------------------------------------------------------------- ledger


def test_ledger_is_complete_and_folded() -> None:
    entries = load_ledger(PAPER)
    assert [entry.id for entry in entries] == [f"{PAPER}-L{i}" for i in range(1, 28)]
    silent = {int(entry.id.split("-L")[1]) for entry in entries if entry.live is None}
    assert silent == {15, 18, 19, 21, 23, 24, 27}
    shown = ledger(PAPER, {entry.live: f"value of {entry.live}" for entry in entries if entry.live})
    assert shown._repr_html_().count("<details") == 27
    assert repr(shown).count("live: value of") == 20
    claims = c.load_claims(PAPER)
    texts = [test.note for claim in claims for test in claim.tests]
    texts += [text for claim in claims for text in (claim.source, claim.reported)]
    cited = {name for text in texts for name in re.findall(r"\bL\d+", text)}
    assert cited == {"L2", "L9", "L10", "L11", "L14", "L16", "L18"}


@pytest.mark.parametrize(
    ("entry", "field", "default", "word"),
    [
        ("L2", "bridge", "e", "'e' (middle to middle)"),
        ("L5", "alpha", 1.0, "1 each"),
        ("L5", "beta", 1.0, "1 each"),
        ("L5", "gamma", 1.0, "1 each"),
        ("L6", "squares", "mean", "mean"),
        ("L7", "output", "pooled", "pooled features;"),
        ("L20", "dropout", 0.0, "without dropout by default"),
    ],
)
def test_the_choices_are_the_defaults(entry: str, field: str, default: object, word: str) -> None:
    assert getattr(Teaching("rgb"), field) == default
    assert word in next(e.choice for e in load_ledger(PAPER) if e.id == f"{PAPER}-{entry}")
    assert BRIDGES["e"] == ("middle", "middle") and Pair().fusion == "layer"


def test_which_column_changed() -> None:  # L1, L12
    assert gains("RGB", OURS, I3D) == [8.9, 1.6, 0.0]
    assert gains("Flow", OURS, I3D) == [0.0, 0.0, 1.9]
    assert gains("RGB+Flow", OURS, I3D) == [0.2, 0.2, 0.3]
    released = (71.1, 63.4, 74.2)  # the released I3D networks on the test list of Kinetics
    assert tuple(value(part, I3D, "Kinetics") for part in PARTS) == released


def test_the_pairs_gain_in_clips_and_standard_errors() -> None:  # L10
    found = [gain / 100 * clips(column) for gain, column in zip(gains("RGB+Flow", OURS, I3D), SETS, strict=True)]
    assert [round(x) for x in found] == [3, 8, 60]
    p = [value("RGB+Flow", OURS, column) / 100 for column in SETS]
    errors = [100 * math.sqrt(x * (1 - x) / clips(column)) for x, column in zip(p, SETS, strict=True)]
    assert [f"{error:.2f}" for error in errors] == ["1.21", "0.40", "0.31"]
    assert all(gain < error for gain, error in zip(gains("RGB+Flow", OURS, I3D), errors, strict=True))


def test_other_papers_order_the_streams_otherwise() -> None:  # L16
    assert number("stilt", "4", "Temporal", "Kinetics") > number("stilt", "4", "Spatial", "Kinetics")
    assert number("st_resnet", "3", "Appearance stream", "UCF101") > number("st_resnet", "3", "Motion stream", "UCF101")
    leads = [round(value("Flow", I3D, column) - value("RGB", I3D, column), 1) for column in SETS]
    assert leads == [12.1, 6.1, -7.7] and leads.index(max(leads)) == SETS.index("HMDB51")


def test_shapes_and_elements_of_the_bridges() -> None:  # L4, L6
    rows = bridges(int(number(PAPER, "prose 4.3", "frames of a clip", "value")))
    assert sum(row.teacher_shape != row.student_shape for row in rows) == 6
    assert {row.teacher: row.elements for row in rows} == {"front": 12_042_240, "middle": 2_609_152, "rear": 401_408}
    assert all((row.parameters > 0) == (row.teacher_shape != row.student_shape) for row in rows)


def test_hmdb51_in_its_official_lists(real_data: Path) -> None:  # L11, L16
    folder = real_data / "splits" / "hmdb51"
    if not folder.is_dir():
        pytest.skip("no official lists of HMDB51")
    problem = next(e.problem for e in load_ledger(PAPER) if e.id.endswith("L11"))
    total, test = (int(number(PAPER, "1", "HMDB-51", column)) for column in ("Total", "Test"))
    name = re.compile(r"(.+)_[a-z]_([cn])m_np\d+_\w\w_\w+_\d+\.avi")
    unused, shares, moving = [], [], 0
    videos: list[str] = []
    for split in "123":
        sides: dict[str, list[str]] = {"0": [], "1": [], "2": []}
        moving = 0
        for path in sorted(folder.glob(f"*_test_split{split}.txt")):
            for line in path.read_text().splitlines():
                if line.strip():
                    file, mark = line.split()
                    match = name.fullmatch(file)
                    assert match, file
                    sides[mark].append(f"{path.stem.split('_test_')[0]}/{match[1]}")
                    moving += match[2] == "c"
        assert [len(sides[mark]) for mark in "120"] == [3570, 1530, 1666]
        assert sum(map(len, sides.values())) == total
        distinct = {mark: set(side) for mark, side in sides.items()}
        assert not distinct["1"] & distinct["2"]
        unused.append(sum(video in distinct["2"] for video in sides["0"]))
        shares.append(round(100 * sum(video in distinct["0"] for video in sides["2"]) / len(sides["2"])))
        videos = [video for side in sides.values() for video in side]
    assert f"{unused[0]}, {unused[1]} and {unused[2]} (splits 1 to 3)" in problem
    assert f"{shares[0]}, {shares[1]} and {shares[2]} %" in problem
    random.Random(0).shuffle(videos)
    training = {*videos[test:]}
    assert abs(sum(video in training for video in videos[:test]) / test - 0.82) < 0.04
    assert "82 %" in problem and test == 1530 - 2
    assert f"moving in {moving} of {total}" in next(e.problem for e in load_ledger(PAPER) if e.id.endswith("L16"))
