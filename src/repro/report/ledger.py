"""A paper's ledger: what it leaves open or says twice, what we chose, and a live number wherever one can decide.

Entries are data (`<paper>_ledger.yaml`). The chapter passes the live values; `stilt_live` gives those that follow from
the published cells alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from html import escape
from math import ceil

from repro.errors import ReproError, nearest
from repro.papers.reported import check_keys, number, read_yaml, reported

HMDB51_TRAINING_CLIPS = 51 * 70  # every official split: 70 clips of each of 51 classes


@dataclass(frozen=True)
class Entry:
    id: str
    says: str
    problem: str
    options: str
    choice: str
    because: str
    live: str | None  # name of the live value


@dataclass(frozen=True)
class Ledger:
    """Entries with their live values; folded HTML in a notebook (one line each until opened), text elsewhere."""

    entries: tuple[Entry, ...]
    live: Mapping[str, str]

    def _repr_html_(self) -> str:
        return f'<div class="ledger">{"".join(self._html(entry) for entry in self.entries)}</div>'

    def __repr__(self) -> str:
        blocks = []
        for entry in self.entries:
            lines = [f"{entry.id}  {entry.says}", *(f"    {name}: {text}" for name, text in self._parts(entry))]
            blocks.append("\n".join(lines))
        return "\n".join(blocks)

    def _parts(self, entry: Entry) -> list[tuple[str, str]]:
        parts = [("problem", entry.problem), ("options", entry.options), ("choice", entry.choice)]
        parts = [(name, text) for name, text in [*parts, ("because", entry.because)] if text != "-"]
        return parts + ([("live", self.live[entry.live])] if entry.live else [])

    def _html(self, entry: Entry) -> str:
        items = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in self._parts(entry))
        anchor = escape(entry.id, quote=True)
        summary = f"<summary><b>{anchor}</b> {escape(entry.says)}</summary>"
        return f'<details class="ledger-entry" id="{anchor}">{summary}<dl>{items}</dl></details>'


def load_ledger(paper: str) -> list[Entry]:
    """Entries of `<paper>_ledger.yaml`; unknown or missing keys, empty texts and double ids or names are errors."""
    name = f"{paper}_ledger.yaml"
    keys = [field.name for field in fields(Entry)]
    entries = []
    for record in check_keys(read_yaml(name), ("paper", "entries"), (), name)["entries"]:
        content = check_keys(record, keys, (), name)
        for key, text in content.items():
            if not ((isinstance(text, str) and text.strip()) or (key == "live" and text is None)):
                raise ReproError(f"{name}, {content['id']}: {key} must be a text, not {text!r}")
        entries.append(Entry(**content))
    for names in ([entry.id for entry in entries], [entry.live for entry in entries if entry.live]):
        if len(set(names)) != len(names):
            raise ReproError(f"{name}: an id or a live name is there twice")
    return entries


def ledger(paper: str, live: Mapping[str, str]) -> Ledger:
    """The ledger with its live values. A named value that is missing or empty, or one nobody asks for, is an error."""
    entries = tuple(load_ledger(paper))
    wanted = [entry.live for entry in entries if entry.live]
    for name in wanted:
        if not live.get(name, "").strip():
            raise ReproError(f"{paper}: the ledger needs a live value for {name!r}; give it, or the text 'not run'")
    for name in live:
        if name not in wanted:
            raise ReproError(f"{paper}: no ledger entry asks for {name!r}{nearest(name, wanted)}")
    return Ledger(entries, dict(live))


# --------------------------------------------------------------------------- live values from the published cells alone


def stilt_live() -> dict[str, str]:
    """Live values of stilt's ledger that need no run: L7, L13, L15 and L19."""
    return {
        "sizes-under-both": _stilt_sizes(),
        "late-average-kinetics": _stilt_late_average(),
        "rates-and-epochs": "; ".join(
            stilt_schedule(column, clips)
            for column, clips in (
                ("HMDB51", HMDB51_TRAINING_CLIPS),
                ("Kinetics", number("stilt", "prose 4.1", "training clips", "Kinetics")),
            )
        ),
        "best-in-table-6": _stilt_best(),
    }


def stilt_schedule(column: str, clips: float) -> str:
    """Where the printed schedule of a data set with `clips` training clips ends (L15)."""
    recipe = {
        row: number("stilt", "prose 4.2", row, column)
        for row in ("batch size", "initial rate", "rate multiplied by", "iterations between drops", "iterations")
    }
    epochs = recipe["batch size"] / clips  # per iteration
    step, total = recipe["iterations between drops"], recipe["iterations"]
    drops = ceil(total / step) - 1  # the drop after the last iteration trains nothing
    last = recipe["initial rate"] * recipe["rate multiplied by"] ** drops
    return f"{column}: {total * epochs:.0f} epochs, first drop after {step * epochs:.1f}, last rate {last:.0e}"


def _stilt_sizes() -> str:
    """Side of the map after each convolution of Conv3_x (four blocks of three), from the 56 that enter it (L7)."""
    literal, resnet = [56], [56]
    for layer in range(12):
        literal.append(ceil(literal[-1] / (1 if layer == 0 else 2)))  # Table 2: the first stride 1, the others 2
        resnet.append(ceil(resnet[-1] / (2 if layer == 0 else 1)))  # caption: the stride is at 3_1
    first = f"one position from convolution {literal.index(1)} on"
    return f"Conv3_x literally: 56 to {literal[-1]}, {first}; ResNet-50: 56 to {resnet[-1]}"


def _stilt_late_average() -> str:
    def at(table: str, row: str) -> float:
        return number("stilt", table, f"Two-stream{row}", "Kinetics")

    stated = number("stilt", "prose 4.3", "STIL over the late average", "Kinetics")
    stated_awf = number("stilt", "prose 4.3", "AWF over STIL", "Kinetics")
    parts = []
    for value in (at("4", " + STIL"), at("5", " + STIL + Late Ave")):
        stil, awf, early = value - at("4", ""), at("4", " + STIL + AWF") - value, at("5", " + STIL + Early") - value
        parts.append(f"with {value:.1f}: STIL {stil:+.1f}, AWF {awf:+.1f}, early fusion {early:+.1f}")
    return "; ".join([*parts, f"the text states {stated:+.1f} and {stated_awf:+.1f}"])


def _stilt_best() -> str:
    parts = []
    rows = {cell.row for cell in reported("stilt") if cell.table == "6" and not cell.row.startswith("STILT")}
    for column in ("UCF101", "HMDB51", "Kinetics"):
        cells = [c for c in reported("stilt") if c.table == "6" and c.column == column and c.row in rows]
        best = max((c for c in cells if isinstance(c.value, float)), key=lambda c: float(c.value or 0))
        gap = number("stilt", "6", "STILT (ResNet-50)", column) - number("stilt", "6", best.row, column)
        parts.append(f"{column} {gap:+.1f} against {best.row}")
    return f"{len(rows)} other rows; " + ", ".join(parts)
