"""What ST-ResNet prints: every cell is there, text and tables agree where they should, claims and ledger fit."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest

from repro.metrics import NOT_RUN, OBSERVED, OPPOSITE, UNDECIDED
from repro.papers.reported import find, number, reported
from repro.papers.st_resnet import Config
from repro.papers.st_resnet_layers import frame_span, layer_table, receptive_fields, sizes
from repro.report import claims as c
from repro.report.ledger import ledger, load_ledger

PAPER = "st_resnet"
COLUMNS = ("UCF101", "HMDB51")
FUSED = ("two-stream", "two-stream+probabilities", "best-single", "st-resnet+crops")
NEVER_RUN = {"star+idt"}  # claims 18 and 19
MEASURES = {"texture-swap-both-ways", "texture-swap-joint", "full-against-crops-time", "idt-drop"}


def gains(a: tuple[str, str], b: tuple[str, str], columns: tuple[str, ...] = COLUMNS) -> list[float]:
    return [round(number(PAPER, *a, column) - number(PAPER, *b, column), 2) for column in columns]


def text(row: str, column: str) -> str:
    value = find(PAPER, "1", row, column).value
    assert isinstance(value, str)
    return value


# ---------------------------------------------------------------- cells


def test_every_cell_is_there() -> None:
    size = Counter(cell.table for cell in reported(PAPER))
    tables = {"1": 7 * 3, "2": 4 * 4, "3": 5 * 2, "4 left": 6 * 2, "4 right": 6 * 2}
    assert {name: n for name, n in size.items() if not name.startswith("prose")} == tables
    assert {name.split()[1] for name in size if name not in tables} == {"3.1", "3.3", "3.4", "4", "4.1", "4.2"}
    cell = find(PAPER, "3", "ST-ResNet*", "HMDB51")
    assert (cell.value, cell.unit, cell.source) == (66.41, "%", "Table 3, row 5, column 2")
    assert find(PAPER, "4 left", "Two-Stream+LSTM [18]", "HMDB51").value is None
    assert find(PAPER, "4 right", "C3D + IDT [26]", "HMDB51").value is None
    assert find(PAPER, "2", "ST-ResNet", "SGD batch size").unit == "videos"
    for cell in reported(PAPER):
        assert cell.source and cell.unit
        if cell.unit == "%" and cell.column in COLUMNS and cell.value is not None:
            assert isinstance(cell.value, float) and 40 < cell.value < 100


def test_the_text_states_the_differences_of_table_4() -> None:
    star = ("4 left", "ST-ResNet*")
    for name, reference, columns in (("Two-Stream ConvNet", "[20]", COLUMNS), ("Two-Stream+LSTM", "[18]", COLUMNS[:1])):
        stated = [number(PAPER, "prose 4.2", f"over {name}", column) for column in columns]
        assert stated == gains(star, ("4 left", f"{name} {reference}"), columns)
    fusion = gains(star, ("4 left", "Two-Stream Fusion [5]"))
    assert [round(x) for x in fusion] == [number(PAPER, "prose 4.2", "over Two-Stream Fusion", x) for x in COLUMNS]
    assert fusion == [0.9, 1.0]


def test_the_text_repeats_cells_of_the_tables() -> None:
    same = (
        (("3", "Two-Streams"), ("prose 4.1", "ResNet-50 two-stream")),
        (("4 left", "Two-Stream (VGG16) [1, 31]"), ("prose 4.1", "VGG-16 two-stream")),
        (("4 right", "ST-ResNet* + IDT"), ("prose 4.2 without IDT", "ST-ResNet* + IDT")),
    )
    for a, b in same:
        assert gains(a, b) == [0, 0]
    for row, column in (("batch size", "SGD batch size"), ("batch for the moments", "Bnorm batch size")):
        for phase in ("Motion stream", "Appearance stream", "ST-ResNet"):
            assert number(PAPER, "prose 3.4 training", row, phase) == number(PAPER, "2", phase, column)


def test_gains_of_table_3() -> None:
    assert gains(("3", "ST-ResNet"), ("3", "Two-Streams")) == [3.29, 4.98]
    assert gains(("3", "ST-ResNet*"), ("3", "ST-ResNet")) == [0.7, 0.84]
    for column, gain in zip(COLUMNS, (7.18, 5.12), strict=True):
        better = max(number(PAPER, "3", f"{name} stream", column) for name in ("Appearance", "Motion"))
        assert round(number(PAPER, "3", "Two-Streams", column) - better, 2) == gain
    # ledger L24: a digit is cut off, not rounded
    assert (
        number(PAPER, "4 left", "ST-ResNet*", "UCF101") == 93.4 < round(number(PAPER, "3", "ST-ResNet*", "UCF101"), 1)
    )


def test_drops_without_idt_contradict_the_text() -> None:  # ledger L25
    star = gains(("4 right", "ST-ResNet* + IDT"), ("4 left", "ST-ResNet*"))
    fusion = gains(("4 right", "Two-Stream Fusion [5]"), ("4 left", "Two-Stream Fusion [5]"))
    assert star == [1.2, 3.9] and fusion == [1.0, 3.8]
    without = "prose 4.2 without IDT"
    images = gains(("4 right", "Dynamic Image Networks + IDT [2]"), (without, "Dynamic Image Networks"))
    assert images == [12.2, 22.4]
    assert gains(("4 right", "C3D + IDT [26]"), (without, "C3D"), COLUMNS[:1]) == [5.2]


def test_table_1_is_the_network_but_for_its_last_field() -> None:
    rows = layer_table(Config(stride_in="1x1", temporal_pool="max"))
    assert [row.layer for row in rows] == [cell.row for cell in reported(PAPER) if cell.table == "1"][::3]
    for row in rows:
        assert row.block == text(row.layer, "Blocks")
        assert "x".join(map(str, row.output)) == text(row.layer, "Output size")
        space, time = row.field
        unit = " tau" if row.layer not in ("conv1", "pool1") else ""
        printed = text(row.layer, "Receptive field")
        if row.layer == "pool5":  # ledger L3
            assert (time, printed) == (21, f"{space}x{space}x47{unit}")
        else:
            assert printed == f"{space}x{space}x{time}{unit}"


def test_support_in_time_as_printed() -> None:  # ledger L3, L4
    tau, seen = (number(PAPER, "prose 3.3", row, "value") for row in ("stride tau", "chunks seen by conv5_3"))
    assert tau * seen == number(PAPER, "prose 3.3", "window of conv5_3", "value") == 255
    assert tau * 47 == number(PAPER, "prose 3.3", "window after pool5", "value") == 705
    assert frame_span(int(seen), int(tau)) == 241
    assert receptive_fields(Config())["conv5_x"].time == seen


def test_sizes_as_printed() -> None:  # ledger L8, L9
    counted = sizes(101)
    printed = {name: number(PAPER, "prose 4.1 size", "multiply-adds", name) for name in ("VGG-16", "ResNet-50")}
    assert round(counted["VGG-19"].multiply_adds / 1e9, 1) == printed["VGG-16"]
    assert abs(counted["VGG-16"].multiply_adds / 1e9 - printed["VGG-16"]) > 4
    assert abs(counted["ResNet-50, stride in the 1x1"].multiply_adds / 1e9 - printed["ResNet-50"]) < 0.1
    assert round(counted["VGG-16"].parameters / 1e6) == number(PAPER, "prose 4.1 size", "parameters", "VGG-16")
    stated = number(PAPER, "prose 4.1 size", "parameters", "ResNet-50")
    assert min(abs(size.parameters / 1e6 - stated) for size in counted.values()) > 4


# ---------------------------------------------------------------- claims


def known_methods() -> set[str]:
    """Names that scores exist for: those of the chapter's scores where they are written, else of its trainings."""
    variants = importlib.import_module("repro.papers.st_resnet_experiments").VARIANTS
    outputs = {f"{name}:{stream}" for name in variants for stream in ("appearance", "motion")}
    return {*variants, *outputs, *FUSED}


def scored_methods() -> set[str] | None:
    try:
        module = importlib.import_module("repro.papers.st_resnet_scores")
    except ModuleNotFoundError:
        return None
    classes = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    return {method for found in classes for method in getattr(found, "methods", ())}


def test_file_holds_the_claims() -> None:
    claims = c.load_claims(PAPER)
    assert [claim.id for claim in claims] == [f"st_resnet-{i}" for i in range(1, 23)]
    by_id = {claim.id: claim for claim in claims}
    assert by_id["st_resnet-1"].reported == "+3.3 UCF101, +5.0 HMDB51"
    assert by_id["st_resnet-16"].reported.startswith("+3.2 UCF101, -12.0")
    assert by_id["st_resnet-18"].reported == "+1.2 UCF101, +3.9 HMDB51"
    assert by_id["st_resnet-21"].reported.startswith("+5.4 UCF101, +7.0 HMDB51 (original two-stream); +0.9 UCF101")
    for claim in claims:
        assert any(test.role == "main" for test in claim.tests)
        assert claim.a != claim.b and all(test.a != test.b or test.kind != "correct" for test in claim.tests)


def test_every_method_and_measure_is_known() -> None:
    tests = [test for claim in c.load_claims(PAPER) for test in claim.tests]
    named = {method for test in tests if test.kind == "correct" for method in (test.a, test.b)}
    assert named - NEVER_RUN <= known_methods()
    assert {test.measure for test in tests if test.kind == "measured"} == MEASURES
    scored = scored_methods()
    if scored is not None:
        assert named - NEVER_RUN <= scored


def test_a_claim_names_every_variant_of_phases_2_and_3() -> None:
    tests = [test for claim in c.load_claims(PAPER) for test in claim.tests]
    named = {method for test in tests for method in (test.a, test.b)}
    variants = set(importlib.import_module("repro.papers.st_resnet_experiments").VARIANTS)
    assert variants - named == {"first-frame"}  # ledger L17 alone


def test_subsets_exist_in_motionshapes() -> None:
    records = importlib.import_module("repro.data.motionshapes").records()
    for claim in c.load_claims(PAPER):
        for test in claim.tests:
            if test.subset:
                assert test.datasets == ("motionshapes",)
                assert any(test.subset.items() <= record.tags.items() for record in records), test.subset


class NothingRun:
    """No runs; the printed drops without IDT are all that is known."""

    datasets = ("motionshapes",)

    def correct(
        self, method: str, dataset: str, subset: Mapping[str, str], beside: str = ""
    ) -> tuple[np.ndarray, np.ndarray, float] | None:
        return None

    def measure(self, name: str, dataset: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        drops = {"ucf101": ([0.052, 0.122, 0.010], 0.012), "hmdb51": ([0.224, 0.038], 0.039)}
        if name != "idt-drop" or dataset not in drops:
            return None
        others, own = drops[dataset]
        return np.array([others]), np.full((1, len(others)), own), np.arange(len(others))


def test_what_the_printed_cells_alone_decide() -> None:
    rows = c.evaluate(c.load_claims(PAPER), NothingRun())
    assert {row.dataset for row in rows} >= {"motionshapes", "weizmann", "ucf101", "hmdb51"}
    words = {claim: verdict.word for claim, verdict in rows.verdicts().items()}
    decided = {claim: word for claim, word in words.items() if word != NOT_RUN}
    assert decided == {"st_resnet-17": OBSERVED, "st_resnet-20": UNDECIDED, "st_resnet-21": OBSERVED}
    assert OPPOSITE not in words.values()
    for name in NEVER_RUN:
        assert all(row.verdict.word == NOT_RUN for row in rows if row.test.a == name)
        assert f"{name} vs star" in repr(rows)


# ---------------------------------------------------------------- ledger


def test_ledger_is_complete_and_folded() -> None:
    entries = load_ledger(PAPER)
    assert [entry.id for entry in entries] == [f"st_resnet-L{i}" for i in range(1, 34)]
    silent = {int(entry.id.split("-L")[1]) for entry in entries if entry.live is None}
    assert silent == {12, 15, 18, 19, 21, 24, 26, 29, 31}
    names = [entry.live for entry in entries if entry.live]
    shown = ledger(PAPER, dict.fromkeys(names, "not run"))
    assert shown._repr_html_().count("<details") == 33
    assert 'id="st_resnet-L33"' in shown._repr_html_()


@pytest.mark.parametrize(
    ("entry", "field", "value", "word"),
    [
        ("L1", "skip", "residual", "f(a + F(a + f(m)))"),
        ("L10", "stride_in", "3x3", "the 3x3 by default"),
        ("L14", "conv1", "mean", "the mean"),
        ("L20", "dropout", 0.0, "none"),
        ("L28", "head", "separate", "summed logits"),
        ("L32", "space", "slide", "slide"),
        ("L33", "temporal_pool_at", "conv5", "after conv5_3"),
    ],
)
def test_the_choices_are_the_defaults(entry: str, field: str, value: object, word: str) -> None:
    assert getattr(Config(), field) == value
    choice = next(e.choice for e in load_ledger(PAPER) if e.id == f"st_resnet-{entry}")
    assert word in choice


def test_the_ledger_says_what_the_recipe_does() -> None:  # L11, L12, L13, L17, L19
    module = importlib.import_module("repro.papers.st_resnet_experiments")
    first = module.experiments("paper", "ucf101")
    assert [first[name].config["sub_batch"] for name in ("appearance", "motion", "st-resnet")] == [8, 86, 4]
    assert {e.recipe.weight_decay for e in first.values()} == {5e-4}
    assert first["st-resnet"].sampling.frame_offset is None and first["first-frame"].sampling.frame_offset == 0
    table = {
        "motion": "Motion stream",
        "appearance": "Appearance stream",
        "st-resnet": "ST-ResNet",
        "star": "ST-ResNet*",
    }
    for name, row in table.items():
        recipe = first[name].recipe
        assert recipe.batch == number(PAPER, "2", row, "SGD batch size")
        drop = number(PAPER, "prose 3.4 training", "iterations before the first drop", row)
        assert recipe.milestones[0] == drop
        assert recipe.lr == number(PAPER, "prose 3.4 training", "initial rate", row)
        assert first[name].sampling.snippets == number(PAPER, "prose 3.4 training", "chunks", row)
