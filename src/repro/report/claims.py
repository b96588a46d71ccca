"""A paper's claims as rows with a verdict: `load_claims` reads them, `evaluate` tests them on stored scores.

A test compares method A with method B on the same clips (`kind: correct`, the default), two stored measurements
(`measured`), two numbers that have no spread because nothing was drawn (`counted`: parameters, multiply-adds), or a
printed accuracy with the best other one (`cells`). What is counted is judged by its sign alone. A `control` is shown
but does not decide a claim's verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError, nearest
from repro.metrics import NOT_RUN, OBSERVED, OPPOSITE, UNDECIDED, Difference, Verdict, paired_difference, verdict
from repro.papers.reported import check_keys, number, read_yaml, reported

Array = NDArray[Any]
WORDS = {OBSERVED: "observed", OPPOSITE: "opposite", UNDECIDED: "undecided", NOT_RUN: "notrun"}  # word -> css class
DATASETS = ("motionshapes", "weizmann", "ucf101", "hmdb51", "kinetics400", "ssv2", "folder")
NEEDS = {
    "correct": ("a", "b"),
    "measured": ("measure",),
    "counted": ("measure",),
    "cells": ("table", "row", "same", "test_clips"),
}
NOTE = (
    "Difference with its 95 % interval (seeds and groups of clips resampled) and both means, in percentage points. "
    "Detectable: the smallest difference these data could have told from 0. Where a row holds one factor only, the "
    "baseline shows on the whole test set that it has learned."
)
NOTE_COUNTED = " Counts have no interval: their sign alone decides."


class Scores(Protocol):
    """What has been run. None from either method means: not run."""

    @property
    def datasets(self) -> Sequence[str]:
        """Data sets at hand, the one of the page first."""

    def correct(
        self, method: str, dataset: str, subset: Mapping[str, str], beside: str = ""
    ) -> tuple[Array, Array, float] | None:
        """Right or wrong (S, N) of seeds and test clips with the tags `subset`, in one order; groups (N,); chance.

        Only the seeds that the method `beside` was run with too, so that both can be compared.
        """

    def measure(self, name: str, dataset: str) -> tuple[Array, Array, Array] | None:
        """A and B (S, N), fractions from 0 to 1 matched unit by unit, and groups (N,)."""


@dataclass(frozen=True)
class Test:
    datasets: tuple[str, ...]  # "any" stands for those at hand
    expected: int  # sign of A - B; 0: equal within `margin`
    kind: str = "correct"
    a: str = ""
    b: str = ""
    subset: Mapping[str, str] = field(default_factory=dict)
    measure: str = ""
    margin: float = 0.02
    role: str = "main"
    note: str = ""
    minimum_seeds: Mapping[str, int] = field(default_factory=dict)
    cells: Mapping[str, Any] = field(default_factory=dict)  # paper, table, row, same, test_clips, column
    __test__ = False  # not a pytest class


@dataclass(frozen=True)
class Claim:
    id: str
    claim: str
    source: str
    a: str
    b: str
    reported: str  # computed from the published cells
    tests: tuple[Test, ...]


@dataclass(frozen=True)
class ClaimRow:
    """One comparison on one data set. Means and difference are fractions; `difference` is None when not run."""

    claim: Claim
    test: Test
    comparison: str
    dataset: str
    verdict: Verdict
    difference: Difference | None = None
    means: tuple[float, float] | None = None

    @property
    def where(self) -> str:
        return ", ".join([self.dataset, *(f"{key} = {value}" for key, value in self.test.subset.items())])

    @property
    def interval(self) -> str:
        d = self.difference
        if d is None:
            return "-"
        between = "" if self.test.kind == "counted" else f" [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        return f"{100 * d.mean:+.1f}{between}"

    @property
    def remarks(self) -> str:
        seeds = self.difference.note if self.difference and self.test.kind not in ("counted", "cells") else ""
        role = self.test.role.replace("main", "")
        return "; ".join(text for text in (role, self.test.note, self.verdict.reason, seeds) if text)


class ClaimRows(list[ClaimRow]):
    """Rows in the claims' order; shows itself as a table in a notebook and as text elsewhere."""

    def by_claim(self) -> Iterator[tuple[Claim, list[ClaimRow]]]:
        for claim, rows in groupby(self, key=lambda row: row.claim):
            yield claim, list(rows)

    def verdicts(self) -> dict[str, Verdict]:
        """One verdict for each claim, by id."""
        return {claim.id: _together(rows) for claim, rows in self.by_claim()}

    def without_runs(self, datasets: Iterable[str]) -> list[str]:
        """Ids of the claims whose verdict rests on no run on `datasets`, but on printed numbers or counts."""
        here = set(datasets)
        tested = {c.id: [row.dataset for row in rows if row.difference is not None] for c, rows in self.by_claim()}
        return [id_ for id_, found in tested.items() if found and not here & set(found)]

    def counts(self) -> dict[str, int]:
        """Number of claims with each of the four words."""
        words = [found.word for found in self.verdicts().values()]
        return {word: words.count(word) for word in WORDS}

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("A vs B", "Data", "A - B, points", "Verdict", "Detectable"))
        body = "".join(_html_claim(claim, rows) for claim, rows in self.by_claim())
        table = f'<table class="claims"><thead><tr>{head}</tr></thead>{body}</table>'
        note = NOTE + (NOTE_COUNTED if any(row.test.kind == "counted" for row in self) else "")
        return f'<div class="claims" style="overflow-x:auto">{table}<p><small>{note}</small></p></div>'

    def __repr__(self) -> str:
        lines = []
        for claim, rows in self.by_claim():
            lines.append(f"{claim.id}  {claim.claim} [{_together(rows)}]")
            lines.append(f"    reported: {claim.reported} ({claim.source})")
            shown = ["  ".join(_columns(row)) for row in rows if row.difference]
            lines += [f"    {text}" for text in (*shown, *(f"not run: {text}" for text in _not_run(rows)))]
        return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- reading


def load_claims(paper: str) -> list[Claim]:
    """Claims of `<paper>_claims.yaml`; unknown keys, data sets, cells and senseless tests are errors."""
    name = f"{paper}_claims.yaml"
    head = check_keys(read_yaml(name), ("paper", "own_sets", "columns", "minimum_seeds", "claims"), (), name)
    claims = [_claim(record, head, name) for record in head["claims"]]
    if len({claim.id for claim in claims}) != len(claims):
        raise ReproError(f"{name}: two claims with one id")
    return claims


def _claim(record: object, head: Mapping[str, Any], name: str) -> Claim:
    keys = ("id", "claim", "source", "a", "b", "reported", "tests")
    content = check_keys(record, keys, (), name)
    where = f"{name}, {content['id']}"
    given = content["reported"]  # places of cells, or in words why there are none
    printed = (
        [given]
        if isinstance(given, str)
        else [_reported(head["paper"], entry, head["columns"].values(), where) for entry in given]
    )
    tests = tuple(_test(entry, head, where) for entry in content["tests"])
    texts = {key: str(content[key]) for key in keys[:5]}
    return Claim(**texts, reported="; ".join(printed) or "no number given", tests=tests)


def _reported(paper: str, entry: object, columns: Iterable[str], where: str) -> str:
    """The printed difference of A and the best of B, column by column: "+2.6 UCF101, +6.4 HMDB51".

    An entry's own `columns` replace those of the data sets, for a table that has others.
    """
    content = check_keys(entry, ("a", "b"), ("columns", "note"), where)
    a, *others = (place.split("/", 1) for place in (content["a"], *content["b"]))
    parts = []
    for column in content.get("columns", columns):
        gain = number(paper, a[0], a[1], column) - max(number(paper, b[0], b[1], column) for b in others)
        parts.append(f"{gain:+.1f} {column}")
    return ", ".join(parts) + (f" ({content['note']})" if "note" in content else "")


def _test(entry: object, head: Mapping[str, Any], where: str) -> Test:
    kind = entry.get("kind", "correct") if isinstance(entry, dict) else "correct"
    if kind not in NEEDS:
        raise ReproError(f"{where}: unknown kind {kind!r}{nearest(kind, NEEDS)}")
    optional = ("kind", "subset", "margin", "role", "note")
    content = dict(check_keys(entry, ("dataset", "expected", *NEEDS[kind]), optional, where))
    dataset = content.pop("dataset")
    if dataset not in (*DATASETS, "any"):
        raise ReproError(f"{where}: unknown data set {dataset!r}{nearest(dataset, DATASETS)}")
    if content["expected"] not in (-1, 0, 1) or content.get("role", "main") not in ("main", "control"):
        raise ReproError(f"{where}: expected must be +1, -1 or 0, and role main or control")
    if kind == "cells":
        content["cells"] = {key: content.pop(key) for key in NEEDS["cells"]}
        content["cells"] |= {"paper": head["paper"], "column": head["columns"][dataset]}
    datasets = (dataset, *head["own_sets"]) if dataset == "any" else (dataset,)
    return Test(datasets=datasets, minimum_seeds=head["minimum_seeds"], **content)


# ------------------------------------------------------------------------------------------------------------- testing


def evaluate(claims: Iterable[Claim], scores: Scores) -> ClaimRows:
    """A row for every claim, comparison and data set, in the claims' order; bootstrap as in `paired_difference`."""
    rows = ClaimRows()
    for claim in claims:
        for test in claim.tests:
            wanted = [name for entry in test.datasets for name in (scores.datasets if entry == "any" else [entry])]
            rows += [_row(claim, test, dataset, scores) for dataset in dict.fromkeys(wanted)]
    return rows


def _row(claim: Claim, test: Test, dataset: str, scores: Scores) -> ClaimRow:
    if test.kind == "cells":
        return _cells_row(claim, test, dataset)
    comparison = test.measure or f"{test.a} vs {test.b}"
    accuracy = chance = above_chance = None  # of B; a measurement has none
    if test.kind in ("measured", "counted"):
        measured = scores.measure(test.measure, dataset)
        if measured is None:
            return ClaimRow(claim, test, comparison, dataset, Verdict(NOT_RUN))
        a, b, groups = measured
        if test.kind == "counted":
            return _counted_row(claim, test, dataset, np.asarray(a, float), np.asarray(b, float))
    else:
        left = scores.correct(test.a, dataset, test.subset, test.b)
        right = scores.correct(test.b, dataset, test.subset, test.a)
        if left is None or right is None:
            return ClaimRow(claim, test, comparison, dataset, Verdict(NOT_RUN))
        (a, groups, _), (b, b_groups, chance) = left, right
        if not np.array_equal(groups, b_groups):
            raise ReproError(f"{claim.id}: {comparison} on {dataset} do not hold the same clips")
        # Some factors leave the baseline at chance by construction: that it learned, it shows on the whole test set.
        whole, accuracy = scores.correct(test.b, dataset, {}, test.a) if test.subset else None, float(np.mean(b))
        above_chance = float(np.mean(whole[0])) - whole[2] if whole else None
    difference = paired_difference(a, b, groups)
    baseline = {"baseline_accuracy": accuracy, "chance": chance, "above_chance": above_chance}
    found = verdict(difference, expected=test.expected, margin=test.margin, **baseline)
    needed = test.minimum_seeds.get(dataset, 1)
    if difference.seeds < needed:
        found = Verdict(UNDECIDED, f"no verdict: {difference.seeds} of the {needed} seeds needed")
    return ClaimRow(claim, test, comparison, dataset, found, difference, (float(np.mean(a)), float(np.mean(b))))


def _by_sign(gaps: Array, test: Test) -> Verdict:
    """The verdict on counts, which have no spread: all on the claimed side, all on the other, or undecided.

    Where A and B are claimed to be equal, the claimed side is "within the margin of 0".
    """
    reason = "by the sign alone"
    gaps = np.round(gaps, 9)  # shares of equal counts may differ in the last bit
    claimed = np.abs(gaps) <= test.margin if test.expected == 0 else np.sign(gaps) == test.expected
    against = ~claimed if test.expected == 0 else np.sign(gaps) == -test.expected
    if claimed.all() or against.all():
        return Verdict(OBSERVED if claimed.all() else OPPOSITE, reason)
    return Verdict(UNDECIDED, f"{reason}, which is the claimed one in {claimed.sum()} of {claimed.size} cases")


def _counted_row(claim: Claim, test: Test, dataset: str, a: Array, b: Array) -> ClaimRow:
    """Counts, case by case: nothing was drawn, so there is nothing to resample."""
    gaps = a - b
    gap, clips = float(gaps.mean()), gaps.shape[1]
    difference = Difference(gap, gap, gap, 0.0, 1, clips, clips)
    means = float(a.mean()), float(b.mean())
    return ClaimRow(claim, test, test.measure, dataset, _by_sign(gaps, test), difference, means)


def _cells_row(claim: Claim, test: Test, dataset: str) -> ClaimRow:
    """A printed row against the best other row of its table (rows that start with `same` are the paper's own).

    Only two accuracies are known, so the interval is that of two independent binomials over the test clips: wider than
    a paired one would be, and blind to the variance between trainings.
    """
    c = test.cells
    column = {cell.row: cell for cell in reported(c["paper"]) if (cell.table, cell.column) == (c["table"], c["column"])}
    rivals = [row for row, cell in column.items() if isinstance(cell.value, float) and not row.startswith(c["same"])]
    accuracy = {row: number(c["paper"], c["table"], row, c["column"]) / 100 for row in (c["row"], *rivals)}
    best = max(rivals, key=accuracy.__getitem__)
    ours, theirs = accuracy[c["row"]], accuracy[best]
    half = 1.96 * float(np.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / c["test_clips"]))
    gap, clips = ours - theirs, c["test_clips"]
    difference = Difference(gap, gap - half, gap + half, half, 1, clips, clips)
    found = verdict(difference, baseline_accuracy=theirs, chance=0.0, expected=test.expected)
    return ClaimRow(claim, test, f"{c['row']} vs {best}, printed", dataset, found, difference, (ours, theirs))


def _together(rows: Sequence[ClaimRow]) -> Verdict:
    """A claim's verdict: the word its main comparisons agree on, undecided ones aside; undecided if they disagree."""
    words = [row.verdict.word for row in rows if row.test.role == "main" and row.verdict.word != NOT_RUN]
    if not words:
        return Verdict(NOT_RUN)
    for word, other in ((OBSERVED, OPPOSITE), (OPPOSITE, OBSERVED)):
        if word in words and other not in words:
            return Verdict(word, f"in {words.count(word)} of {len(words)} comparisons")
    reason = f"{words.count(OBSERVED)} observed, {words.count(OPPOSITE)} opposite" if OBSERVED in words else ""
    return Verdict(UNDECIDED, reason)


# ------------------------------------------------------------------------------------------------------------- showing


def _columns(row: ClaimRow) -> list[str]:
    d, means = row.difference, row.means
    assert d is not None and means is not None  # rows that were not run are listed apart
    size = f"{d.clips} clips, {d.seeds} seed{'s' * (d.seeds > 1)}" if row.test.kind == "correct" else f"n = {d.clips}"
    detectable = "-" if row.test.kind == "counted" else f"{100 * d.detectable:.1f}"
    return [
        row.comparison,
        f"{row.where} ({size})",
        f"{row.interval} ({100 * means[0]:.1f} vs {100 * means[1]:.1f})",
        row.verdict.word + (f" ({row.remarks})" if row.remarks else ""),
        detectable,
    ]


def _not_run(rows: Sequence[ClaimRow]) -> list[str]:
    """What was not run, in few lines: the comparisons that miss the same data sets together."""
    missing: dict[str, list[str]] = {}
    for row in (row for row in rows if row.difference is None):
        missing.setdefault(row.comparison + row.where.removeprefix(row.dataset), []).append(row.dataset)
    together: dict[str, list[str]] = {}
    for comparison, datasets in missing.items():
        together.setdefault(", ".join(datasets), []).append(comparison)
    return [f"{datasets}: {'; '.join(comparisons)}" for datasets, comparisons in together.items()]


def _html_claim(claim: Claim, rows: Sequence[ClaimRow]) -> str:
    whole = _together(rows)
    badge = f'<span class="verdict-{WORDS[whole.word]}">{escape(str(whole))}</span>'
    title = f"<b>{escape(claim.id)}</b> {escape(claim.claim)} {badge}"
    about = f"A: {claim.a}. B: {claim.b}. Reported: {claim.reported} ({claim.source})."
    lines = [f'<tr class="claim"><th colspan="5">{title}<br><small>{escape(about)}</small></th></tr>']
    for row in rows:
        if row.difference:
            cells = [f"<td>{escape(text)}</td>" for text in _columns(row)]
            cells[3] = cells[3].replace("<td>", f'<td class="verdict-{WORDS[row.verdict.word]}">')
            lines.append(f"<tr>{''.join(cells)}</tr>")
    for text in _not_run(rows):
        lines.append(f'<tr><td colspan="5" class="verdict-notrun">not run: {escape(text)}</td></tr>')
    return f"<tbody>{''.join(lines)}</tbody>"
