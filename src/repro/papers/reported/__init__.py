"""What the papers print: published cells, claims and open points, as data.

`<paper>.yaml` holds tables -> rows -> columns; `reported` flattens it into one record per cell. `<paper>_claims.yaml`
and `<paper>_ledger.yaml` get their meaning in `repro.report`. Facts and figures with their place, no sentences.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from repro.errors import ReproError, nearest


@dataclass(frozen=True)
class Cell:
    """One published cell: `value` is a number in `unit`, a text (unit "text"), or None where the paper has a dash."""

    paper: str
    table: str  # "4", or "prose 4.2" for numbers of the running text
    row: str
    column: str
    value: float | str | None
    unit: str
    source: str  # "Table 4, row 2, column 1"


class _NoDuplicates(yaml.SafeLoader):
    """A row typed twice would silently replace the first: an error instead."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ReproError(f"{node.start_mark.name}: {twice[0]!r} is there twice")
        return super().construct_mapping(node, deep)


def read_yaml(name: str) -> Any:
    """Content of the file `name` of this folder, such as "stilt_claims.yaml"."""
    folder = resources.files(__name__)
    here = [item.name for item in folder.iterdir() if item.name.endswith(".yaml")]
    if name not in here:
        raise ReproError(f"no published data named {name!r}{nearest(name, here)}")
    loader = _NoDuplicates((folder / name).read_text(encoding="utf-8"))
    loader.name = name
    return loader.get_single_data()


def check_keys(record: object, required: Iterable[str], optional: Iterable[str], where: str) -> Mapping[str, Any]:
    """Return the mapping `record`; a missing or an unknown key is an error that says where."""
    if not isinstance(record, dict):
        raise ReproError(f"{where}: expected keys and values, not {record!r}")
    known = [*required, *optional]
    for key in record:
        if key not in known:
            raise ReproError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    missing = [key for key in required if key not in record]
    if missing:
        raise ReproError(f"{where}: missing key {missing[0]!r}")
    return record


def reported(paper: str) -> list[Cell]:
    """All published cells of a paper, in its order. Unknown paper, unknown key, row of a wrong length: ReproError."""
    return list(_load(paper))


@cache
def _load(paper: str) -> tuple[Cell, ...]:
    name = f"{paper}.yaml"
    content = check_keys(read_yaml(name), ("paper", "citation", "tables"), (), name)
    cells: list[Cell] = []
    for table, body in content["tables"].items():
        cells += _cells(paper, str(table), body)
    return tuple(cells)


def find(paper: str, table: str, row: str, column: str) -> Cell:
    """The one cell at that place; an unknown place names the nearest."""
    cells = reported(paper)
    for part, wanted in (("table", table), ("row", row), ("column", column)):
        known = list(dict.fromkeys(getattr(cell, part) for cell in cells))
        cells = [cell for cell in cells if getattr(cell, part) == wanted]
        if not cells:
            raise ReproError(f"{paper}: no {part} {wanted!r} in {table!r}{nearest(wanted, known)}")
    return cells[0]


def number(paper: str, table: str, row: str, column: str) -> float:
    """The number at that place; a dash or a text is an error."""
    cell = find(paper, table, row, column)
    if not isinstance(cell.value, float):
        raise ReproError(f"{paper}, {cell.source} holds no number but {cell.value!r}")
    return cell.value


def as_json(paper: str) -> str:
    """All cells as a JSON list of {paper, table, row, column, value, unit, source}."""
    return json.dumps([asdict(cell) for cell in reported(paper)], indent=1, ensure_ascii=False)


def _cells(paper: str, table: str, body: object) -> list[Cell]:
    where = f"{paper}.yaml, table {table}"
    content = check_keys(body, ("about", "section", "unit", "columns", "rows"), (), where)
    unit, columns, rows = content["unit"], content["columns"], content["rows"]
    if isinstance(unit, dict) and set(unit) != set(rows):
        raise ReproError(f"{where}: one unit for each row, and no other")
    place = f"Section {content['section']}, text" if table.startswith("prose") else f"Table {table}"
    cells = []
    for r, (row, values) in enumerate(rows.items(), 1):
        if not isinstance(values, list) or len(values) != len(columns):
            raise ReproError(f"{where}, row {row!r}: needs one value for each of the {len(columns)} columns")
        for c, (column, value) in enumerate(zip(columns, values, strict=True), 1):
            source = f"{place}, {row}" if table.startswith("prose") else f"{place}, row {r}, column {c}"
            row_unit = unit[row] if isinstance(unit, dict) else unit
            cells.append(Cell(paper, table, str(row), str(column), *_typed(value, row_unit, where), source))
    return cells


def _typed(value: object, unit: str, where: str) -> tuple[float | str | None, str]:
    if isinstance(value, str):
        return value, "text"
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return (None if value is None else float(value)), unit
    raise ReproError(f"{where}: {value!r} is neither a number, a text, nor empty")
