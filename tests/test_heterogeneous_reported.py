"""What the heterogeneous network's paper prints: cells are complete, text and tables agree, claims and ledger fit."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

import pytest
import torch

from repro.metrics import NOT_RUN, UNDECIDED
from repro.models.count import parameters
from repro.papers import heterogeneous_numbers as numbers
from repro.papers.heterogeneous import SPATIAL, TEMPORAL, TRIED, Config, build, conv1_table
from repro.papers.heterogeneous_experiments import PAPER as RECIPE
from repro.papers.heterogeneous_experiments import VARIANTS
from repro.papers.heterogeneous_scores import HeterogeneousScores
from repro.papers.reported import find, number, reported
from repro.report import claims as c
from repro.report.ledger import ledger, load_ledger

PAPER = "heterogeneous"
SETS = ("UCF101", "HMDB51")
PAIRS = [
    f"spatio_ResNet{pair}" for pair in ("50+temporal_ResNet50", "101+temporal_ResNet50", "152+temporal_ResNet50")
] + ["spatio_ResNet101+temporal_BN-Inception"]
UNLIKE, LIKE = "Ours (spatiotemporal heterogeneity)", "Ours (spatiotemporal isomorphism)"
SCRATCH, AVERAGED = "From Scratch", "Pre-training strategy in [5]"
MODIFIED = "Modified cross-modal pre-training (ours)"
NAMES = [name.replace("_", "-") for name in TRIED]
GRID = {f"{a}+{b}" for a in NAMES for b in NAMES}
FUSED = {"proposed", "best-isomorphic", "resnet101+bn-inception@chosen"}
MEASURES = {"error-correlation", "disagreement", "oracle", "equal-weights", "parameters", "multiply-adds-vgg"}
TEST_CLIPS = 3783  # UCF101, split 1


def gains(table: str, a: str, b: str, columns: tuple[str, ...]) -> list[float]:
    return [round(number(PAPER, table, a, column) - number(PAPER, table, b, column), 1) for column in columns]


# ---------------------------------------------------------------- cells


def test_every_cell_is_there() -> None:
    size = Counter(cell.table for cell in reported(PAPER))
    tables = {"1 question": 2 * 2, "1 method": 2 * 2, "2": 4 * 3, "3": 3 * 2, "4": 14 * 2}
    assert {name: n for name, n in size.items() if not name.startswith("prose")} == tables
    assert {name.split()[1] for name in size if name not in tables} == {
        *(f"III.{x}" for x in "ABCD"), *(f"IV.{x}" for x in "ABCD"),
    }  # fmt: skip
    cell = find(PAPER, "4", UNLIKE, "HMDB51")
    assert (cell.value, cell.unit, cell.source) == (67.2, "%", "Table 4, row 14, column 2")
    dashes = {cell.row for cell in reported(PAPER) if cell.table == "4" and cell.value is None}
    assert dashes == {"C3D [3]", "P3D ResNet + IDT [7]"}
    for cell in reported(PAPER):
        assert cell.source and cell.unit
        if cell.unit == "%" and cell.value is not None:
            assert isinstance(cell.value, float) and 50 < cell.value < 95


def test_gains_of_the_tables() -> None:
    both = ("ResNet50", "BN-Inception")
    assert [gains("2", pair, PAIRS[0], ("Two-Stream",)) for pair in PAIRS[1:]] == [[0.7], [0.2], [1.4]]
    assert gains("2", PAIRS[3], PAIRS[1], ("Spatial", "Temporal", "Two-Stream")) == [0, 3.5, 0.7]
    assert gains("3", AVERAGED, SCRATCH, both) == [3.6, 4.9]
    assert gains("4", UNLIKE, "TSN (2 modalities) [5]", SETS) == [0.4, -1.3]  # L9


def test_the_text_states_the_differences_of_the_tables() -> None:
    both = ("ResNet50", "BN-Inception")
    stated = [number(PAPER, "prose IV.C", "modified over the method in [5]", column) for column in both]
    assert stated == gains("3", MODIFIED, AVERAGED, both)
    for row, other in (
        ("over the original two-stream network", "Two-Stream [4]"),
        ("over ST-ResNet*", "ST-ResNet* [6]"),
        ("over the isomorphic network", LIKE),
    ):
        assert [number(PAPER, "prose IV.D", row, column) for column in SETS] == gains("4", UNLIKE, other, SETS), row


def test_the_temporal_column_of_table_2_is_the_last_row_of_table_3() -> None:  # L19
    column = [number(PAPER, "2", pair, "Temporal") for pair in PAIRS]
    assert column[:3] == [number(PAPER, "3", MODIFIED, "ResNet50")] * 3
    assert column[3] == number(PAPER, "3", MODIFIED, "BN-Inception")


def test_table_1_is_the_network_that_is_built() -> None:
    kernels = [row.shape for row in conv1_table()]
    printed = [
        find(PAPER, "1 question", f"{role} Network", "Kernel of conv1").value for role in ("Spatial", "Temporal")
    ]
    assert printed == [str(kernels[0]), str(kernels[1])]
    assert all(str(kernels[1]) in str(cell.value) for cell in reported(PAPER) if cell.row == "Step2")


def test_the_recipe_is_the_one_at_full_scale() -> None:
    for role in ("spatial", "temporal"):
        recipe = RECIPE.recipes[role]
        printed = {cell.row: cell.value for cell in reported(PAPER) if cell.column == role.title()}
        same = {"batch size": recipe.batch, "initial rate": recipe.lr, "iterations": recipe.iterations}
        assert {row: printed[row] for row in same} == same
        step = printed["iterations between drops"]
        drops = [printed["first drop after"], printed["second drop after"]]
        expected = drops if step is None else [step, 2 * step]  # type: ignore[operator]
        assert list(recipe.milestones) == expected
        assert printed["input"] == RECIPE.sampling.crop
    assert number(PAPER, "prose III.C", "segments", "Training") == RECIPE.sampling.snippets
    assert number(PAPER, "prose III.D", "flow channels", "Temporal") == 2 * RECIPE.sampling.flow_frames


# ---------------------------------------------------------------- claims


def test_file_holds_the_sixteen_claims() -> None:
    claims = c.load_claims(PAPER)
    assert [claim.id for claim in claims] == [f"{PAPER}-{i}" for i in range(1, 17)]
    printed = {int(claim.id.split("-")[1]): claim.reported for claim in claims}
    assert printed[1] == "+0.7 Two-Stream (ResNet-101); +0.2 Two-Stream (ResNet-152)"
    assert printed[3] == "+0.5 UCF101, +1.9 HMDB51"
    assert printed[5] == "+0.5 Two-Stream (fused with ResNet-50); -2.1 Spatial (alone)"
    assert printed[7] == "+3.5 Temporal"
    assert printed[9] == "+3.6 ResNet50, +4.9 BN-Inception"
    assert printed[10].startswith("+1.2 ResNet50, +1.5 BN-Inception")
    assert printed[14].startswith("-52.0 Parameters (million)")
    assert printed[15] == "-4.0 FLOPs (VGG-16, billion); -8.3 FLOPs (VGG-19, billion)"
    assert {i for i, text in printed.items() if text == "no number given"} == {4, 6, 11, 12, 13}


def test_every_method_and_measure_is_known() -> None:
    tests = [test for claim in c.load_claims(PAPER) for test in claim.tests]
    known = {*VARIANTS, *GRID, *FUSED}
    used = {method for test in tests if test.kind == "correct" for method in (test.a, test.b)}
    assert used <= known, used - known
    assert used >= FUSED - {"proposed"} | {f"{name}+{name}" for name in NAMES}
    assert {test.measure for test in tests if test.kind in ("measured", "counted")} == MEASURES
    for claim in c.load_claims(PAPER):
        assert any(test.role == "main" for test in claim.tests)


def test_scores_have_every_method() -> None:
    tests = [test for claim in c.load_claims(PAPER) for test in claim.tests if test.kind == "correct"]
    used = {method for test in tests for method in (test.a, test.b)}
    assert used <= set(HeterogeneousScores.methods)


def test_numbers_have_every_measure_and_live_value() -> None:
    assert {*numbers.MEASURES, *numbers.COUNTS} == MEASURES
    assert set(numbers.ledger_values({})) == {entry.live for entry in load_ledger(PAPER) if entry.live}


def test_subsets_exist_in_motionshapes() -> None:
    records = pytest.importorskip("repro.data.motionshapes").records()
    for claim in c.load_claims(PAPER):
        for test in claim.tests:
            if test.subset:
                assert test.datasets == ("motionshapes",)
                assert any(test.subset.items() <= record.tags.items() for record in records), test.subset


class NothingRun:
    datasets = ("motionshapes",)

    def correct(self, method: str, dataset: str, subset: Mapping[str, str], beside: str = "") -> None: ...

    def measure(self, name: str, dataset: str) -> None: ...


def test_nothing_run_says_so_and_printed_rows_are_judged() -> None:
    rows = c.evaluate(c.load_claims(PAPER), NothingRun())
    cells = [row for row in rows if row.test.kind == "cells"]
    assert all(row.verdict.word == NOT_RUN for row in rows if row not in cells)
    assert [claim for claim, found in rows.verdicts().items() if found.word != NOT_RUN] == [f"{PAPER}-16"]
    assert len(cells) == 4 and {row.comparison for row in cells} == {f"{UNLIKE} vs TSN (2 modalities) [5], printed"}
    for row in cells:  # the differences are within what the test sets can tell
        assert row.verdict.word == UNDECIDED and row.difference
        assert row.difference.mean == pytest.approx(0.004 if row.dataset == "ucf101" else -0.013)


# ---------------------------------------------------------------- ledger


def test_ledger_is_complete_and_folded() -> None:
    entries = load_ledger(PAPER)
    assert [entry.id for entry in entries] == [f"{PAPER}-L{i}" for i in range(1, 27)]
    silent = {int(entry.id.split("-L")[1]) for entry in entries if entry.live is None}
    assert silent == {10, 15, 16, 18, 25, 26}
    shown = ledger(PAPER, {entry.live: f"value of {entry.live}" for entry in entries if entry.live})
    assert shown._repr_html_().count("<details") == 26
    assert repr(shown).count("live: value of") == 20
    texts = [test.note for claim in c.load_claims(PAPER) for test in claim.tests]
    texts += [text for claim in c.load_claims(PAPER) for text in (claim.source, claim.reported)]
    cited = {name for text in texts for name in re.findall(r"\bL\d+", text)}
    assert {"L2", "L3", "L5", "L6", "L12", "L22"} == cited
    assert cited <= {entry.id.split("-")[1] for entry in entries}


def test_ledger_arithmetic() -> None:
    with torch.device("meta"):
        pair = sum(parameters(build(config, 101)) for config in (SPATIAL, TEMPORAL))
        one = [parameters(build(config, 101)) for config in (
            Config("spatial", "resnet50"), Config("temporal", "resnet50", flow_frames=10)
        )]  # fmt: skip
    filters = 2 * 2 * 2 * sum(4 * width**2 for width in (64, 128, 256, 512))  # taps added, layers, streams
    ours, theirs = (number(PAPER, "prose III.B", row, "Parameters") for row in ("Ours", "ST-ResNet*"))
    assert pair == 53_102_826 and pair < ours * 1e6 / 3  # L2
    assert sum(one) + filters == 58_624_394
    assert round(4 * (sum(one) + filters) / 1e6) in (234, 235) and theirs == 234  # L3: megabytes
    assert round(4 * pair / 1e6) == 212 != ours
    # L8: the differences are near one standard error
    fused = [number(PAPER, "2", pair, "Two-Stream") / 100 for pair in PAIRS[:3]]
    errors = [100 * math.sqrt(p * (1 - p) / TEST_CLIPS) for p in fused]
    assert all(round(error, 1) == 0.4 for error in errors)
    # L21: no number of clips rounds to the printed share
    printed = number(PAPER, "prose IV.C chosen pair", PAIRS[3], "Two-Stream")
    assert printed not in {round(100 * n / TEST_CLIPS, 2) for n in range(TEST_CLIPS + 1)}
    assert round(printed, 1) == number(PAPER, "2", PAIRS[3], "Two-Stream")
    # L24: the gain of Table 2 against that of Table 4
    assert gains("2", PAIRS[3], PAIRS[0], ("Two-Stream",))[0] > 2 * gains("4", UNLIKE, LIKE, SETS)[0]
    # L23: the row that Table 4 leaves out is above the paper's own
    for column in SETS:
        assert number("st_resnet", "4 right", "ST-ResNet* + IDT", column) > number(PAPER, "4", UNLIKE, column)
