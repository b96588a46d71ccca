"""Published cells: complete, strict, in agreement with the figures that text, claims and ledger derive from them."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from repro.errors import ReproError
from repro.papers import reported as package
from repro.papers.reported import as_json, find, number, read_yaml, reported
from repro.papers.stilt_printed import HMDB51_TRAINING_CLIPS, from_cells, schedule
from repro.report.ledger import ledger, load_ledger

COLUMNS = ("UCF101", "HMDB51", "Kinetics")
T4 = {"S": "Spatial", "T": "Temporal", "2": "Two-stream", "STIL": "Two-stream + STIL", "AWF": "Two-stream + STIL + AWF"}


def gains(a: tuple[str, str], *others: tuple[str, str]) -> list[float]:
    best = [max(number("stilt", *b, column) for b in others) for column in COLUMNS]
    return [round(number("stilt", *a, column) - b, 1) for column, b in zip(COLUMNS, best, strict=True)]


def test_every_cell_is_there() -> None:
    size = Counter(cell.table for cell in reported("stilt"))
    assert [size[t] for t in "123456"] == [3, 7 * 3, 3 * 2, 5 * 3, 3 * 3, 16 * 4]
    cell = find("stilt", "4", T4["STIL"], "HMDB51")
    assert (cell.value, cell.unit, cell.source) == (68.9, "%", "Table 4, row 4, column 2")
    assert find("stilt", "6", "TDD [37]", "Kinetics").value is None
    assert find("stilt", "6", "TDD [37]", "Input modalities").unit == "text"
    assert find("stilt", "2", "Max-Pooling1", "Block information").value == "kernel 7x7, stride 2"  # the slip stays
    for cell in reported("stilt"):
        assert cell.source and cell.unit
        if cell.unit == "%" and cell.value is not None:
            assert isinstance(cell.value, float) and 40 < cell.value < 100


def test_json_holds_every_cell() -> None:
    records = json.loads(as_json("stilt"))
    assert len(records) == len(reported("stilt"))
    assert set(records[0]) == {"paper", "table", "row", "column", "value", "unit", "source"}


def test_a_caller_cannot_change_the_cells() -> None:
    reported("stilt").clear()
    assert reported("stilt")


@pytest.mark.parametrize(
    ("a", "others", "expected"),
    [
        ("2", ("S", "T"), [8.0, 9.9, 10.2]),  # stilt-1
        ("STIL", ("2",), [2.6, 6.4, 2.5]),  # stilt-2
        ("AWF", ("STIL",), [1.5, 3.2, 3.6]),  # stilt-3
        ("T", ("S",), [2.3, 1.3, 2.3]),  # stilt-11
        ("AWF", ("2",), [4.1, 9.6, 6.1]),  # stilt-12
    ],
)
def test_gains_of_table_4(a: str, others: tuple[str, ...], expected: list[float]) -> None:
    assert gains(("4", T4[a]), *(("4", T4[b]) for b in others)) == expected


def test_gains_of_table_5_and_the_two_late_averages() -> None:
    early, late, awf = (f"Two-stream + STIL + {name}" for name in ("Early", "Late Ave", "AWF"))
    assert gains(("5", awf), ("5", early)) == [1.4, 3.7, 4.3]  # stilt-4
    assert gains(("5", early), ("5", late)) == [0.1, -0.5, 0.1]  # stilt-5
    assert gains(("5", early), ("4", T4["STIL"])) == [0.1, -0.5, -0.7]  # L13
    assert gains(("5", awf), ("5", late))[2] == 4.4  # L13
    for column in COLUMNS:  # the three tables agree on the whole network
        assert len({number("stilt", *place, column) for place in (("4", T4["AWF"]), ("5", awf), STILT)}) == 1


STILT = ("6", "STILT (ResNet-50)")


def test_the_text_states_the_differences_of_table_4() -> None:
    for row, a, b in (("STIL over the late average", "STIL", "2"), ("AWF over STIL", "AWF", "STIL")):
        stated = [number("stilt", "prose 4.3", row, column) for column in COLUMNS]
        assert stated == gains(("4", T4[a]), ("4", T4[b]))


def test_table_6_counts_and_best_rows() -> None:
    others = {c.row for c in reported("stilt") if c.table == "6" and not c.row.startswith("STILT")}
    assert len(others) == 13  # L19: the text says 12
    assert number("stilt", "prose 4.4", "networks compared", "HMDB51") == 12
    printed = {column: [c for c in reported("stilt") if c.column == column and c.row in others] for column in COLUMNS}
    best = {k: max(c.value for c in v if isinstance(c.value, float)) for k, v in printed.items()}
    assert [round(number("stilt", *STILT, k) - best[k], 1) for k in COLUMNS] == [-0.3, 0.9, 0.8]
    assert number("stilt", "prose 4.4", "behind AMFNet-C", "UCF101") == 0.3


def test_ledger_arithmetic() -> None:
    live = from_cells()
    hmdb, kinetics = schedule("HMDB51", 3570), schedule("Kinetics", 240000)
    assert hmdb == f"HMDB51: {50000 * 128 / 3570:.0f} epochs, first drop after 179.3, last rate 1e-12"
    assert kinetics == f"Kinetics: {50000 * 128 / 240000:.0f} epochs, first drop after 5.3, last rate 1e-07"
    assert live["rates-and-epochs"] == f"{hmdb}; {kinetics}"
    assert "with 68.8: STIL +2.5, AWF +3.6, early fusion -0.7" in live["late-average-kinetics"]
    assert "with 68.0: STIL +1.7, AWF +4.4, early fusion +0.1" in live["late-average-kinetics"]
    assert live["best-in-table-6"].startswith("13 other rows; UCF101 -0.3 against AMFNet-C")
    assert "56 to 1, one position from convolution 7" in live["sizes-under-both"]


def test_hmdb51_split_size_is_the_official_one() -> None:
    if not (root := os.environ.get("REPRO_REAL_DATA")):
        pytest.skip("REPRO_REAL_DATA is not set: no official lists")
    lists = sorted((Path(root) / "splits" / "hmdb51").glob("*_test_split1.txt"))
    training = sum(line.split()[1] == "1" for path in lists for line in path.read_text().splitlines() if line.strip())
    assert training == HMDB51_TRAINING_CLIPS


def test_ledger_is_complete_and_folded() -> None:
    entries = load_ledger("stilt")
    assert [entry.id for entry in entries] == [f"stilt-L{i}" for i in range(1, 28)]
    names = [entry.live for entry in entries if entry.live]
    live = dict.fromkeys(names, "not run") | from_cells()
    shown = ledger("stilt", live | {"head-shapes": "<512>"})
    html, text = shown._repr_html_(), repr(shown)
    assert html.count("<details") == html.count("</details>") == 27
    assert "&lt;512&gt;" in html and "<512>" not in html
    assert "W &gt;= 0" not in html and "w &gt;= 0" in html
    for value in live.values():
        assert value in text or value == "not run"
    assert 'id="stilt-L13"' in html


def test_a_live_value_cannot_be_silently_empty() -> None:
    names = [entry.live for entry in load_ledger("stilt") if entry.live]
    full = dict.fromkeys(names, "1")
    for broken in ({k: v for k, v in full.items() if k != "awf-vertices"}, full | {"awf-vertices": " "}):
        with pytest.raises(ReproError, match="awf-vertices"):
            ledger("stilt", broken)
    with pytest.raises(ReproError, match="did you mean 'awf-vertices'"):
        ledger("stilt", full | {"awf-vertex": "1"})


GOOD = """
paper: toy
citation: nobody
tables:
  "1": {about: x, section: "1", unit: "%", columns: [A, B], rows: {one: [1, null], two: [text, 2.5]}}
"""


def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """A paper of its own in a folder that stands in for the package's."""
    name = f"toy{abs(hash(text))}"
    (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(package.resources, "files", lambda _: tmp_path)
    return name


def test_loader_flattens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = reported(toy(tmp_path, monkeypatch, GOOD))
    assert [(c.row, c.column, c.value, c.unit) for c in cells] == [
        ("one", "A", 1.0, "%"),
        ("one", "B", None, "%"),
        ("two", "A", "text", "text"),
        ("two", "B", 2.5, "%"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("about: x", "abuot: x", "did you mean 'about'"),
        ("citation: nobody", "", "missing key 'citation'"),
        ("citation: nobody", "citation: nobody\nyear: 2022", "unknown key 'year'"),
        ("[1, null]", "[1]", "one value for each of the 2 columns"),
        ("[1, null]", "[1, true]", "neither a number"),
        ("two:", "one:", "there twice"),
        ('unit: "%"', "unit: {one: s}", "one unit for each row"),
        ("[text, 2.5]", "[text, [2.5]]", "neither a number"),
    ],
)
def test_loader_is_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(ReproError, match=says):
        reported(toy(tmp_path, monkeypatch, GOOD.replace(old, new)))


def test_wrong_places_name_the_nearest() -> None:
    with pytest.raises(ReproError, match="did you mean 'Temporal'"):
        find("stilt", "4", "Temporel", "UCF101")
    with pytest.raises(ReproError, match="no table '7'"):
        find("stilt", "7", "Temporal", "UCF101")
    with pytest.raises(ReproError, match="holds no number"):
        number("stilt", "6", "TDD [37]", "Kinetics")
    with pytest.raises(ReproError, match=r"did you mean 'stilt\.yaml'"):
        read_yaml("stil.yaml")
