"""A paper's ledger: what it leaves open or says twice, what we chose, and a live number wherever one can decide.

Entries are data (`<paper>_ledger.yaml`). The chapter passes the live values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from html import escape

from repro.errors import ReproError, nearest
from repro.papers.reported import check_keys, read_yaml


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
