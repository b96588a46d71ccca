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
            "title": "Kinetics-400", "frames": 2.4e6, "size": [320, 240], "counted": "by hand",
            "core_hours": 1234.5, "gb": 96.2,
        }],
    },
    "loader": {
        "snippets": 4, "fields": 10, "size": [320, 240], "crop": 224, "ms": 31.4, "device": "A card", "preset": "paper",
        "network": "x", "workers": 8, "step_seconds": 0.01,
        "fed": {"workers": {"loader": 0.02, "together": 0.025}, "device": {"loader": 0.004, "together": 0.0104}},
    },
    "train": {
        "device": "GPU", "preset": "paper", "steps": 5, "compiled": True, "matrix_rates": {"bfloat16": 6.6e14},
        "networks": [{
            "paper": "stilt", "network": "stil", "share_of_matrix_rate": 0.256, "ratio": 5.04,
            "ours": {"clips_per_second": 100.0, "images_per_second": 800.0, "peak_bytes": 2.04e10},
            "plain": {"clips_per_second": 19.84, "images_per_second": 158.72},
            "whole": {
                "ucf101": {"hours": 10.0, "passes": 50.04}, "hmdb51": {"hours": 9.0, "passes": 100.0},
                "kinetics400": {"hours": 1234.0, "passes": 0.0204},
            },
        }],
    },
    "curves": {
        "device": "cpu", "preset": "small",
        "curves": [
            {"network": "stil", "what": "clips", "value": 1, "seconds": 0.1, "peak_bytes": 1.2e9},
            {"network": "stil", "what": "clips", "value": 2, "seconds": 0.2, "peak_bytes": 1.2e9},
            {"network": "stil", "what": "crop", "value": 48, "seconds": 0.1, "peak_bytes": None},
            {"network": "stil", "what": "crop", "value": 96, "seconds": 0.3, "peak_bytes": None},
        ],
    },
    "eval": {
        "device": "cpu", "preset": "paper", "network": "two", "workers": 3,
        "tests": [{"test": "25x10", "videos_per_second": 0.1234, "peak_bytes": 3.14e9}],
    },
}  # fmt: skip
CELLS = {
    "flow": ("| natural | 3 | 600.0 | 40.0 | 15.3 | 10.0 to 20.0 |", "| natural | 0.0099 | 99.65 % | 100.00 % |"),
    "store": ("| 1 | 90 of 320x240 | 2.0 | 16.1 | 8.0 | 4.0 | 10.0 | 2.5 |", "| median |  |  |  | 8.0 |  |  | 2.5 |"),
    "extract": (
        "| frames/s on one core | 15.0 |",
        "| flow | 95.0% |",
        "| memory at most | 512 MB (480 MB before it began) |",
        "| Kinetics-400 | about 2.40 million of 320x240 | about 1,234 | about 96 | by hand |",
    ),
    "loader": (
        "| 4 snippets of a 320x240 frame and 10 fields, cut to 224 px | 31 |",
        "x, preset paper, on A card, fed by 8 processes.",
        "| workers | 10.0 | 20.0 | 25.0 | 2.50 |",
        "| device | 10.0 | 4.0 | 10.4 | 1.04 |",
    ),
    "train": (
        "| stilt: stil | 800.0 | 158.7 | 5.0 | 25.6% | 20.4 |",
        "| stilt: stil | 10.0 h (50.0) | 9.0 h (100.0) | 1234.0 h (0.02) |",
    ),
    "curves": (
        "Preset small, on cpu, by the clock.",
        "| stil | clips | 1 | 100 |  | 1,200 |",
        "| stil | clips | 2 | 200 | 100.0 | 1,200 |",
        "| stil | crop | 96 | 300 | 28.9 | not measured |",
    ),
    "eval": (
        "two, preset paper, on cpu with 3 loader processes.",
        "| 25x10 | 0.123 | 3.1 |",
    ),
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
    assert ("On a GPU: not measured." in page) == (what != "store")  # which has no part in reading


@pytest.mark.parametrize("what", sorted(performance.RENDERERS))
def test_tables_are_well_formed_and_say_what_is_missing(rows: Path, what: str) -> None:
    missing = performance.pages()[f"performance-{what}.md"]
    assert performance.NOT_MEASURED in missing and not re.search(r"\d\.\d ", missing)
    performance.write({"what": what, "provenance": MADE, "found": FOUND[what]})
    for page in (missing, performance.pages()[f"performance-{what}.md"]):
        for table in re.findall(r"(?:^\|.*\|\n)+", page + "\n", re.MULTILINE):
            assert len({line.count("|") for line in table.splitlines()}) == 1 and len(table.splitlines()) >= 3


@pytest.mark.parametrize("what", sorted(performance.RENDERERS.keys() - {"store"}))
def test_rows_of_a_gpu_stand_beside_those_of_a_cpu(rows: Path, what: str) -> None:
    performance.write({"what": what, "provenance": MADE, "found": FOUND[what]})
    before = performance.pages()[f"performance-{what}.md"]
    other = {**MADE, "cpu": "another machine"}
    performance.write(
        {"what": what + performance.GPU, "provenance": other, "found": {**FOUND[what], "device": "A card"}}
    )
    page = performance.pages()[f"performance-{what}.md"]
    assert "On a GPU: not measured." not in page and "another machine" in page
    assert page.startswith(before.removesuffix("On a GPU: not measured.\n").rstrip("\n"))


def test_an_extraction_with_a_gpu_has_no_core_hours(rows: Path) -> None:
    found = {**FOUND["extract"], "device": "A card", "backend": "torch"}
    performance.write({"what": "extract-gpu", "provenance": MADE, "found": found})
    page = performance.pages()["performance-extract.md"]
    assert "| frames/s of one process and A card | 15.0 |" in page
    assert page.count("core hours") == 1, "the heading of the CPU's empty table"
    assert "| frames, files, bytes, core hours | not measured |  |" in performance.pages()["kinetics.md"]


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
    own = "".join((book / name).read_text(encoding="utf-8") for name in ("performance.md", "kinetics.md"))
    included = re.findall(r"```\{include\} (\S+)", own)
    assert sorted(included) == sorted(f"generated/{name}" for name in performance.pages())
    for name in included:
        assert (book / name).is_file()
    assert CELLS["store"][0] in (book / "generated" / "performance-store.md").read_text(encoding="utf-8")
    assert performance.NOT_MEASURED in (book / "generated" / "performance-flow.md").read_text(encoding="utf-8")
    assert not (book / "performance").exists()
    chapters = [c["file"] for p in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"] for c in p["chapters"]]
    assert {"book/performance", "book/kinetics"} <= set(chapters)


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_recorded_rows_say_how_they_were_made(path: Path) -> None:
    row = json.loads(path.read_text(encoding="utf-8"))
    made = row["provenance"]
    assert row["what"] == path.stem
    assert MADE.keys() <= made.keys()
    assert re.fullmatch("[0-9a-f]{12}", made["commit"])  # committed code
    program, *words = shlex.split(made["command"])
    options = parser().parse_args(words)
    what = re.sub(r"(-compiled)?(-gpu)?$", "", path.stem)
    assert (program, options.command, options.action) == ("repro", "bench", "train" if what == "curves" else what)
    assert performance.RENDERERS[what](row)


# ---------------------------------------------------------------- Kinetics-400


def kinetics(rows: Path, **gpu: dict[str, Any]) -> list[str]:
    """The page's lines, of the rows above, that of an extraction of Kinetics-400, and those of a GPU."""
    whole = {"title": "Kinetics-400", "frames": 24e6, "size": [340, 256], "counted": "", "core_hours": 480.0, "gb": 960}
    found = {**FOUND, "extract": {**FOUND["extract"], "whole": [whole]}}
    for what, one in {**found, **{name + performance.GPU: row for name, row in gpu.items()}}.items():
        performance.write({"what": what, "provenance": MADE, "found": one})
    return performance.pages()["kinetics.md"].splitlines()


def test_kinetics_without_a_row(rows: Path) -> None:
    text = performance.pages()["kinetics.md"]
    assert text.count(performance.NOT_MEASURED) == 4 and "| videos | 260,000 |" in text


def test_kinetics_from_rows_of_a_cpu(rows: Path) -> None:
    """The row has 240,000 training clips; the validation clips come on top."""
    lines = kinetics(rows)
    for what, about in {
        "frames, and fields of flow": "26 million",
        "files in the store": "260,000",
        "files as TSN's tools write them": "78 million",
        "store, TB": "1.0",
        "decoding, flow and writing, core hours": "520",
        "of these, flow": "494",
        "days on 16 cores": "1.4",
        "flow, GPU hours": "not measured",
        "training, GPU hours": "not measured",
        "testing, GPU hours": "not measured",
    }.items():
        assert any(line.startswith(f"| {what} | {about} |") for line in lines), what


def test_kinetics_from_rows_of_a_gpu(rows: Path) -> None:
    batch = {"device": "A card", "source": "natural", "pairs": 256, "pairs_per_second": 1000.0,
             "steps_per_pair": 90.0, "share_of_copy_rate": 0.5, "copy_bytes_per_second": 4e12}  # fmt: skip
    test = {**FOUND["eval"], "tests": [{**FOUND["eval"]["tests"][0], "videos_per_second": 2.0}]}
    other = {**FOUND["train"]["networks"][0], "paper": "ccs", "network": "all"}  # which does not train on it
    train = {**FOUND["train"], "networks": [*FOUND["train"]["networks"], other]}
    lines = kinetics(rows, flow={**FOUND["flow"], "on_device": batch}, eval=test, train=train)
    hours = 26e6 * 340 * 256 / (320 * 240) / 1000 / 3600
    assert f"| flow, GPU hours | {hours:,.0f} | 1,000 pairs/s of 320x240 |" in lines
    assert "| core hours beside it | 26 | decoding and writing |" in lines
    assert "| training stil, GPU hours | 1,234 | one step, measured |" in lines
    assert "| testing 25x10, GPU hours | 3 | two |" in lines
    assert not any("training all" in line or performance.NOT_MEASURED in line for line in lines)
    assert "1,000 pairs a second, 90 steps a pair" in performance.pages()["performance-flow.md"]
