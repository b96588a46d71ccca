"""Recorded timings and the tables made of them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from repro.cli import parser
from repro.errors import ReproError
from repro.report import build, performance

ROOT = Path(__file__).resolve().parents[1]
ROWS = sorted((ROOT / "book" / "performance").glob("*.json"))

MADE = {
    "commit": "0123456789ab", "date": "2026-01-02", "device": "cpu", "python": "3.12.0", "cpu": "A | B", "cores": 2,
    "threads": 1, "load": 0.5, "versions": {"numpy": "2.0", "decord": None}, "command": "repro bench flow --record",
}  # fmt: skip


def part(count: int, ratio: float) -> dict[str, Any]:
    return {
        "count": count,
        "ms": {"fused": {"median": 40.04}, "opencv": {"median": 600.0}},
        "ratio": {"median": ratio, "low": 9.96, "high": 20.0},
        "difference": {"mean_px": 0.00994, "within_quarter_px": 0.9965, "bytes_within_1": 1.0},
    }


FOUND: dict[str, dict[str, Any]] = {
    "flow": {"size": [320, 240], "by_source": {"natural": part(3, 15.26)}, **part(5, 13.0)},
    "store": {
        "snippets": 3, "fields": 10, "repeats": 7, "decoding": {"ratio": 8.04}, "loose": {"ratio": 2.5},
        "clips": [{
            "clip": "x.avi", "frames": 90, "size": [320, 240],
            "ms": {"rgb": 2.0, "pyav": 16.08, "both": 4.0, "pil": 10.0}, "ratio": {"decoding": 8.04, "loose": 2.5},
        }],
    },
    "extract": {
        "clips": [{}], "frames": 60, "seconds": 4.0, "frames_per_second": 15.0, "mb_per_1000_frames": 39.96,
        "stages": {"decoding": 0.1, "flow": 3.8, "writing": 0.1}, "peak_mb": 512.3, "peak_before_mb": 480.0,
        "whole": [{
            "title": "Big", "frames": 2.4e6, "size": [320, 240], "counted": "by hand", "core_hours": 1234.5, "gb": 96.2,
        }],
    },
    "loader": {"snippets": 4, "fields": 10, "size": [320, 240], "crop": 224, "ms": 31.4},
}  # fmt: skip
CELLS = {
    "flow": ("| natural | 3 | 600.0 | 40.0 | 15.3 | 10.0 to 20.0 |", "| natural | 0.0099 | 99.65 % | 100.00 % |"),
    "store": ("| 1 | 90 of 320x240 | 2.0 | 16.1 | 8.0 | 4.0 | 10.0 | 2.5 |", "| median |  |  |  | 8.0 |  |  | 2.5 |"),
    "extract": (
        "| frames/s on one core | 15.0 |",
        "| flow | 95.0% |",
        "| memory at most | 512 MB (480 MB before it began) |",
        "| Big | about 2.40 million of 320x240 | about 1,234 | about 96 | by hand |",
    ),
    "loader": ("| 4 snippets of a 320x240 frame and 10 fields, cut to 224 px | 31 |",),
}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(performance, "FOLDER", tmp_path / "performance")
    return tmp_path / "performance"


@pytest.mark.parametrize("what", sorted(performance.RENDERERS))
def test_a_row_becomes_its_table(rows: Path, what: str) -> None:
    row = {"what": what, "provenance": MADE, "found": FOUND[what]}
    assert performance.write(row) == rows / f"{what}.json"
    assert performance.read(what) == row
    page = performance.pages()[f"performance-{what}.md"]
    for line in CELLS[what]:
        assert line in page.splitlines()
    for fact in ("`repro bench flow --record`", "0123456789ab", "A | B, 2 cores", "numpy 2.0", "a load of 0.5"):
        assert fact in page
    assert "decord" not in page
    assert (performance.NOT_MEASURED in page) == (what == "flow")  # on a GPU


@pytest.mark.parametrize("what", sorted(performance.RENDERERS))
def test_tables_are_well_formed_and_say_what_is_missing(rows: Path, what: str) -> None:
    missing = performance.pages()[f"performance-{what}.md"]
    assert performance.NOT_MEASURED in missing and not re.search(r"\d\.\d ", missing)
    performance.write({"what": what, "provenance": MADE, "found": FOUND[what]})
    for page in (missing, performance.pages()[f"performance-{what}.md"]):
        for table in re.findall(r"(?:^\|.*\|\n)+", page + "\n", re.MULTILINE):
            assert len({line.count("|") for line in table.splitlines()}) == 1 and len(table.splitlines()) >= 3


def test_memory_that_the_system_does_not_tell(rows: Path) -> None:
    found = {**FOUND["extract"], "peak_mb": None, "peak_before_mb": None}
    performance.write({"what": "extract", "provenance": MADE, "found": found})
    assert "| memory at most | not measured |" in performance.pages()["performance-extract.md"]


def test_bars_in_cells_are_escaped() -> None:
    assert performance.markdown(("a", "b"), [("x|y", "1")]) == "| a | b |\n| :-- | --: |\n| x\\|y | 1 |"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"what": "store"}', '{"what": "flow", "found": {}}'])
def test_damaged_rows_are_named(rows: Path, text: str) -> None:
    rows.mkdir()
    (rows / "flow.json").write_text(text)
    with pytest.raises(ReproError, match=r"flow\.json is damaged .*: delete it and record again"):
        performance.read("flow")


def test_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "FOLDER", tmp_path / "nowhere" / "performance")
    with pytest.raises(ReproError, match="record from a checkout"):
        performance.folder()
    assert performance.read("flow") is None


def test_staged_pages_hold_the_tables(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the page includes is made, the rows themselves stay out, and no page is left out."""
    for name in ("BUILD", "STAGE"):
        monkeypatch.setattr(build, name, tmp_path / name.lower())
    monkeypatch.setattr(build, "relative", str)
    monkeypatch.setattr(build, "notebooks", list)
    performance.write({"what": "store", "provenance": MADE, "found": FOUND["store"]})
    build.stage()
    book = tmp_path / "stage" / "book"
    included = re.findall(r"```\{include\} (\S+)", (book / "performance.md").read_text(encoding="utf-8"))
    assert sorted(included) == sorted(f"generated/{name}" for name in performance.pages())
    for name in included:
        assert (book / name).is_file()
    assert CELLS["store"][0] in (book / "generated" / "performance-store.md").read_text(encoding="utf-8")
    assert performance.NOT_MEASURED in (book / "generated" / "performance-flow.md").read_text(encoding="utf-8")
    assert not (book / "performance").exists()
    chapters = [c["file"] for p in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"] for c in p["chapters"]]
    assert "book/performance" in chapters


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_recorded_rows_say_how_they_were_made(path: Path) -> None:
    row = json.loads(path.read_text(encoding="utf-8"))
    made = row["provenance"]
    assert row["what"] == path.stem and path.stem in performance.RENDERERS
    assert MADE.keys() <= made.keys()
    assert re.fullmatch("[0-9a-f]{12}", made["commit"])  # committed code
    program, *words = shlex.split(made["command"])
    options = parser().parse_args(words)
    assert (program, options.command, options.action) == ("repro", "bench", path.stem)
    assert performance.RENDERERS[path.stem](row)
