"""Tables, the at-a-glance card and the provenance footer, as HTML with a plain-text twin.

Fractions of one go in, percent comes out. Everything that is shown is text made from results or from the live model.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from repro.errors import ReproError, nearest
from repro.metrics import NOT_RUN, bootstrap_interval
from repro.papers.reported import reported
from repro.report.theme import Shown

ABSENT = "–"
# A cell that lines up at the right: "93.1", "+2.0 %", "93.1 ± 0.4 (3 seeds)", "93.1 [90.2, 95.8] (1 seed)".
NUMBER = re.compile(r"[+\-−]?[\d.,]+( ?%)?( ± [\d.]+)?( \[[^\]]*\])?( \([^)]*\))?")

Cell = str | Shown
Column = str | tuple[str, str]  # a name, or (heading over several columns, name)


def link(text: str, href: str) -> Shown:
    """A link as a cell."""
    return Shown(text, f'<a href="{html.escape(href)}">{html.escape(text)}</a>')


def as_html(cell: Cell) -> str:
    """The HTML of a cell: escaped text, or what it says itself."""
    return cell.html if isinstance(cell, Shown) else html.escape(cell)


def as_text(cell: Cell) -> str:
    """The plain text of a cell."""
    return cell.text if isinstance(cell, Shown) else cell


@dataclass(frozen=True)
class Table:
    """A table. `marked`: rows (by position) to be set off; `note`: a line under the table."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    note: str = ""
    marked: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ReproError(f"table '{self.caption}': a row has {len(row)} cells for {len(self.columns)} columns")

    def _numeric(self, column: int) -> bool:
        texts = [as_text(row[column]) for row in self.rows]
        figures = [t for t in texts if t not in ("", ABSENT, NOT_RUN)]
        return column > 0 and bool(texts) and all(NUMBER.fullmatch(t) for t in figures)

    def _head(self, align: Sequence[str]) -> str:
        """One row of column names, or two where columns are grouped."""
        if all(isinstance(c, str) for c in self.columns):
            names = (f'<th scope="col"{a}>{html.escape(str(c))}</th>' for c, a in zip(self.columns, align, strict=True))
            return f"<tr>{''.join(names)}</tr>"
        upper, lower, last = [], [], None
        for column, a in zip(self.columns, align, strict=True):
            if isinstance(column, str):
                upper.append(f'<th scope="col" rowspan="2"{a}>{html.escape(column)}</th>')
                last = None
                continue
            group, name = column
            if group != last:
                span = sum(isinstance(c, tuple) and c[0] == group for c in self.columns)
                upper.append(
                    f'<th scope="colgroup" colspan="{span}" style="text-align:center">{html.escape(group)}</th>'
                )
            lower.append(f'<th scope="col"{a}>{html.escape(name)}</th>')
            last = group
        return f"<tr>{''.join(upper)}</tr><tr>{''.join(lower)}</tr>"

    def _repr_html_(self) -> str:
        numeric = [self._numeric(i) for i in range(len(self.columns))]
        align = [f' style="text-align:{"right" if n else "left"}"' for n in numeric]
        lines = []
        for i, row in enumerate(self.rows):
            cells = [f'<th scope="row"{align[0]}>{as_html(row[0])}</th>'] if row else []
            for cell, a, n in zip(row[1:], align[1:], numeric[1:], strict=True):
                kind = "not-run" if cell == NOT_RUN else "number" if n else "text"
                cells.append(f'<td class="{kind}"{a}>{as_html(cell)}</td>')
            mark = ' class="differs"' if i in self.marked else ""
            lines.append(f"<tr{mark}>{''.join(cells)}</tr>")
        note = f'<p class="table-note">{html.escape(self.note)}</p>' if self.note else ""
        return (
            '<div class="table-wrap repro-scroll"><table class="repro-table">'
            f"<caption>{html.escape(self.caption)}</caption>"
            f"<thead>{self._head(align)}</thead><tbody>{''.join(lines)}</tbody></table>{note}</div>"
        )

    def __repr__(self) -> str:
        heads = [c if isinstance(c, str) else " ".join(c) for c in self.columns]
        grid = [heads, *([as_text(c) for c in row] for row in self.rows)]
        widths = [max(len(line[i]) for line in grid) for i in range(len(heads))]
        right = [self._numeric(i) for i in range(len(heads))]
        lines = [
            "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
            for line in grid
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join([self.caption, *lines, *([self.note] if self.note else [])])


# ------------------------------------------------------------------------------------------------------------- numbers


def percent(share: float) -> str:
    """A fraction of one as the tables print it: "93.1"."""
    return f"{100 * share:.1f}"


def statistic(values_per_seed: ArrayLike, n_clips: int) -> str:
    """Accuracies (S,), fractions: "93.1 ± 0.4 (3 seeds)"; ± is the standard deviation over the trainings.

    With one seed there is none, and the 95 % interval over the clips stands for it: "93.1 [90.2, 95.8] (1 seed)".
    """
    values = np.atleast_1d(np.asarray(values_per_seed, dtype=np.float64))
    if len(values) > 1:
        return f"{percent(values.mean())} ± {percent(values.std(ddof=1))} ({len(values)} seeds)"
    return _single(np.arange(n_clips)[None] < round(values[0] * n_clips), None)


def _single(correct: ArrayLike, groups: ArrayLike | None) -> str:
    interval = bootstrap_interval(correct, groups)
    return f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}] (1 seed)"


# -------------------------------------------------------------------------------------------------------------- tables


def published(paper: str, table: str, reproduced: Mapping[tuple[str, str], str]) -> Table:
    """A table of a paper ("4") and, per (row, column), what was reproduced on the same data set and by its protocol.

    A table without accuracies ("%") has no reproduced columns unless something is given for them.
    """
    everything = reported(paper)
    cells = {(c.row, c.column): c for c in everything if c.table == table}
    if not cells:
        known = list(dict.fromkeys(c.table for c in everything))
        raise ReproError(f"{paper} has no table {table!r}{nearest(table, known)}: use one of {', '.join(known)}")
    for place in reproduced:
        if place not in cells:
            raise ReproError(f"{paper}, table {table} has no cell {place}: use (row, column) out of {list(cells)}")
    rows, columns = (list(dict.fromkeys(place[i] for place in cells)) for i in (0, 1))
    units = {c.unit for c in cells.values()} - {"text"}
    beside = "%" in units or bool(reproduced)
    unit = f" ({units.pop()})" if len(units) == 1 else ""
    title = f"Section {table.removeprefix('prose ')}" if table.startswith("prose") else f"Table {table}"
    heads: list[Column] = [title]
    words = {c for c in columns if all(isinstance(cells[r, c].value, str) for r in rows)}  # columns without numbers
    for c in columns:
        pair = [(f"{c}{unit}", "reported"), (f"{c}{unit}", "reproduced")]
        heads += [c] if c in words else pair if beside else [f"{c}{unit}"]
    body: list[tuple[Cell, ...]] = []
    for row in rows:
        line: list[Cell] = [row]
        for c in columns:
            cell = cells[row, c]
            line.append(_printed(cell.value, cell.unit))
            if beside and c not in words:
                line.append(reproduced.get((row, c), NOT_RUN if cell.value is not None else ABSENT))
        body.append(tuple(line))
    note = "Reproduced: the paper's data set and protocol, mean and standard deviation over runs." if beside else ""
    return Table(tuple(heads), tuple(body), f"{title} of the paper, as published", note)


def _printed(value: float | str | None, unit: str) -> str:
    if value is None or isinstance(value, str):
        return value or ABSENT
    rounded = round(value, 1) == value  # 90.0 as printed, but 93.46 with both its digits
    return f"{value:.1f}" if unit in ("%", "points") and rounded else f"{value:.10g}"


def comparison(
    rows: Sequence[tuple[str, Mapping[str, ArrayLike]]],
    caption: str,
    *,
    chance: Mapping[str, float] | float | None = None,
    groups: Mapping[str, ArrayLike] | None = None,
    note: str = "",
) -> Table:
    """Methods by columns ("all", then one per factor). `rows`: (label, column -> right or wrong, (S, N)).

    `chance`: accuracy of guessing, of every column or per column; `groups`: per column the groups (N,) of its clips,
    kept together in the interval of a single seed. A column that a method lacks says "not run".
    """
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    body: list[tuple[Cell, ...]] = []
    for label, values in rows:
        line: list[Cell] = [label]
        for name in names:
            if name not in values:
                line.append(NOT_RUN)
                continue
            correct = np.asarray(values[name], dtype=np.float64)
            if correct.ndim != 2:
                raise ReproError(f"'{label}', '{name}': right or wrong must be (seeds, clips), not {correct.shape}")
            one = len(correct) == 1
            of = (groups or {}).get(name)
            line.append(_single(correct, of) if one else statistic(correct.mean(axis=1), correct.shape[1]))
        body.append(tuple(line))
    if chance is not None:
        level = chance if isinstance(chance, Mapping) else dict.fromkeys(names, chance)
        body.append(("chance", *(percent(level[n]) if n in level else ABSENT for n in names)))
    counts = {len(np.asarray(values[name])) for _, values in rows for name in values}
    meaning = "Top-1 accuracy in percent; ± is the standard deviation over seeds, [ ] the 95 % interval over clips."
    if len(counts) == 1:  # say it once instead of in every cell
        seeds = f"({(n := counts.pop())} seed{'s' * (n > 1)})"
        body = [tuple(str(cell).removesuffix(f" {seeds}") for cell in line) for line in body]
        meaning = f"{meaning[:-1]} {seeds}."
    return Table(("method", *names), tuple(body), caption, f"{meaning} {note}".strip())


def layers(
    paper_rows: Mapping[str, Sequence[str]],
    live_rows: Mapping[str, Sequence[str]],
    *,
    columns: Sequence[str],
    caption: str,
    ledger: Mapping[str, str] | None = None,
    href: str = "#{}",
) -> Table:
    """The paper's architecture table beside the one read off the live model; rows are layers by name.

    Each row gives a text per column ("kernels", "output", ...). A row that differs is marked and names the entry
    of `ledger` (layer -> id) that explains it; `href` turns an id into its address.
    """
    names = [*paper_rows, *(name for name in live_rows if name not in paper_rows)]
    body: list[tuple[Cell, ...]] = []
    marked = set()
    for i, name in enumerate(names):
        printed, live = paper_rows.get(name), live_rows.get(name)
        differs = printed is None or live is None or list(printed) != list(live)
        if differs:
            marked.add(i)
        entry = (ledger or {}).get(name)
        remark: Cell = ("differs" if differs else "same") if entry is None else link(entry, href.format(entry))
        pairs = zip(printed or [ABSENT] * len(columns), live or [ABSENT] * len(columns), strict=True)
        body.append((name, *(text for pair in pairs for text in pair), remark))
    heads: list[Column] = ["layer", *((c, who) for c in columns for who in ("paper", "built")), "difference"]
    return Table(tuple(heads), tuple(body), caption, marked=frozenset(marked))


# --------------------------------------------------------------------------------------------------- cards and footers


def glance(fields: Mapping[str, Cell], links: Mapping[str, str] | None = None) -> Shown:
    """The at-a-glance card: what -> text, and where to go -> address."""
    return _card("glance", fields, links or {})


def _card(kind: str, fields: Mapping[str, Cell], links: Mapping[str, str]) -> Shown:
    terms = "".join(f"<dt>{html.escape(k)}</dt><dd>{as_html(v)}</dd>" for k, v in fields.items())
    targets = " · ".join(as_html(link(k, v)) for k, v in links.items())
    text = [f"{k}: {as_text(v)}" for k, v in fields.items()] + [f"{k}: {v}" for k, v in links.items()]
    foot = f'<p class="card-links">{targets}</p>' if links else ""
    return Shown("\n".join(text), f'<div class="repro-card {kind}"><dl>{terms}</dl>{foot}</div>')


def provenance(rows: Iterable[Mapping[str, Any]], stale: Collection[str] = ()) -> Shown:
    """The footer: when, where and with what the runs of a page were made. `rows`: result rows; `stale`: their keys."""
    by_key = {row["key"]: row for row in rows}
    if not by_key:
        return _card("provenance", {"runs": "none"}, {})
    made = [row["provenance"] for row in by_key.values()]
    dates = sorted({p["date"] for p in made})
    versions = sorted({f"{k} {v}" for p in made for k, v in p["versions"].items() if v})
    old = sorted(f"{row['experiment']} seed {row['seed']}" for key, row in by_key.items() if key in stale)
    bad = sorted({clip for row in by_key.values() for clip in row.get("left_out", {})})
    fields: dict[str, Cell] = {
        "runs": str(len(by_key)),
        "recorded": dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        "seeds": ", ".join(str(s) for s in sorted({row["seed"] for row in by_key.values()})),
        "devices": ", ".join(sorted({p["device"] for p in made})),
        "versions": ", ".join([*(f"Python {v}" for v in sorted({p["python"] for p in made})), *versions]),
        "training time": f"{sum(p['seconds'] for p in made) / 3600:.1f} h in all",
        "stale": f"{len(old)}: {', '.join(old)}" if old else "none",
    }
    if bad:
        fields["clips left out"] = f"{len(bad)}: {', '.join(bad[:10])}{', ...' if len(bad) > 10 else ''}"
    return _card("provenance", fields, {})
