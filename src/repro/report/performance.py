"""Measured speed: the rows that `repro bench ... --record` files, and the tables that the book makes of them.

A row is {"what", "provenance", "found"}; `found` is what the command printed with `--json`. Tables are Markdown, so
that a page can include them; what nobody measured says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.errors import ReproError

NOT_MEASURED = "not measured"
FOLDER = Path(__file__).resolve().parents[3] / "book" / "performance"

Row = Mapping[str, Any]


def folder() -> Path:
    """Where rows are filed, made if missing; ReproError outside a checkout."""
    if not FOLDER.parent.is_dir():
        raise ReproError(f"no folder {FOLDER.parent}: record from a checkout of the repository")
    FOLDER.mkdir(exist_ok=True)
    return FOLDER


def write(row: Row) -> Path:
    """File a row as `<what>.json`, whole or not at all, in place of an older one."""
    path = folder() / f"{row['what']}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(row, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def read(what: str) -> Row | None:
    """The row of one command, or None where nothing was recorded; ReproError when it is damaged."""
    path = FOLDER / f"{what}.json"
    if not path.is_file():
        return None
    try:
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        if row["what"] != what or not {"provenance", "found"} <= row.keys():
            raise ValueError("no row of this command")
    except (ValueError, KeyError, TypeError) as error:
        raise ReproError(f"{path} is damaged ({error}): delete it and record again") from error
    return row


def pages() -> dict[str, str]:
    """Markdown by file name, for a page to include: `performance-<what>.md`."""
    return {f"performance-{what}.md": render(read(what)) for what, render in RENDERERS.items()}


# -------------------------------------------------------------------------------------------------------------- tables


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells line up at the left in the first column and at the right in the others."""
    rule = [":--", *("--:" for _ in columns[1:])]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in [columns, rule, *rows]
    )


def made(row: Row) -> str:
    """One paragraph: command, machine, versions, date."""
    p = row["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in p["versions"].items() if version)
    load = f", a load of {p['load']}" if p.get("load") is not None else ""
    return (
        f"Made with `{p['command']}` on {p['date']} from commit {p['commit']}: {p['cpu']}, {p['cores']} cores, "
        f"{p['threads']} thread in use{load}; Python {p['python']}, {versions}."
    )


def _flow(row: Row | None) -> str:
    columns = ("pairs", "count", "OpenCV, ms", "fused, ms", "ratio", "80 % of the ratios")
    gpu = ("on a GPU (CUDA)", "", NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, "")
    parity_columns = ("pairs", "mean distance, px", "pixels within 0.25 px", "bytes within 1")
    if row is None:
        missing = ("all", "", *[NOT_MEASURED] * 3, "")
        return f"{markdown(columns, [missing, gpu])}\n\n{markdown(parity_columns, [('all', *[NOT_MEASURED] * 3)])}\n"
    found = row["found"]
    speed, parity = [], []
    for name, part in {**found["by_source"], "all": found}.items():
        ratio, apart = part["ratio"], part["difference"]
        ms = [f"{part['ms'][backend]['median']:.1f}" for backend in ("opencv", "fused")]
        between = f"{ratio['low']:.1f} to {ratio['high']:.1f}"
        speed.append((name, str(part["count"]), *ms, f"{ratio['median']:.1f}", between))
        shares = (f"{100 * apart[key]:.2f} %" for key in ("within_quarter_px", "bytes_within_1"))
        parity.append((name, f"{apart['mean_px']:.4f}", *shares))
    width, height = found["size"]
    return (
        f"Milliseconds for a pair of {width}x{height}, medians over the pairs on one thread.\n\n"
        f"{markdown(columns, [*speed, gpu])}\n\nHow far the two flows lie apart.\n\n"
        f"{markdown(parity_columns, parity)}\n\n{made(row)}\n"
    )


def _store(row: Row | None) -> str:
    columns = ("clip", "frames", "frames: store", "PyAV", "ratio", "with flow: store", "loose JPEG", "ratio")
    if row is None:
        return markdown(columns, [("all", "", *[NOT_MEASURED] * 6)]) + "\n"
    found, lines = row["found"], []
    for number, clip in enumerate(found["clips"], 1):
        ms, ratio, (width, height) = clip["ms"], clip["ratio"], clip["size"]
        frames = f"{clip['frames']} of {width}x{height}"
        rgb = (f"{ms['rgb']:.1f}", f"{ms['pyav']:.1f}", f"{ratio['decoding']:.1f}")
        both = (f"{ms['both']:.1f}", f"{ms['pil']:.1f}", f"{ratio['loose']:.1f}")
        lines.append((str(number), frames, *rgb, *both))
    medians = ("", "", f"{found['decoding']['ratio']:.1f}", "", "", f"{found['loose']['ratio']:.1f}")
    lines.append(("median", "", *medians))
    return (
        f"Milliseconds, medians of {found['repeats']} readings on one thread: {found['snippets']} frames, then "
        f"{found['snippets']} frames with a stack of {found['fields']} fields each.\n\n"
        f"{markdown(columns, lines)}\n\n{made(row)}\n"
    )


def _extract(row: Row | None) -> str:
    columns = ("what", "measured")
    whole_columns = ("data set", "frames", "core hours", "GB", "counted as")
    if row is None:
        names = ("frames/s on one core", "decoding", "flow", "JPEG and writing", "MB for 1000 frames", "memory")
        empty = [(name, NOT_MEASURED) for name in names]
        return f"{markdown(columns, empty)}\n\n{markdown(whole_columns, [('all', *[NOT_MEASURED] * 4)])}\n"
    found = row["found"]
    total = sum(found["stages"].values())
    stages = {"decoding": "decoding", "flow": "flow", "writing": "JPEG and writing"}
    memory = f"{found['peak_mb']:.0f} MB ({found['peak_before_mb']:.0f} MB before it began)" if found["peak_mb"] else ""
    lines = [
        ("clips and frames", f"{len(found['clips'])}, {found['frames']}"),
        ("frames/s on one core", f"{found['frames_per_second']:.1f}"),
        *((text, f"{found['stages'][name] / total:.1%}") for name, text in stages.items()),
        ("MB for 1000 frames", f"{found['mb_per_1000_frames']:.1f}"),
        ("memory at most", memory or NOT_MEASURED),
    ]
    sets = []
    for whole in found["whole"]:
        width, height = whole["size"]
        frames = f"about {whole['frames'] / 1e6:.2f} million of {width}x{height}"
        sets.append(
            (whole["title"], frames, f"about {whole['core_hours']:,.0f}", f"about {whole['gb']:,.0f}", whole["counted"])
        )
    return f"{markdown(columns, lines)}\n\n{markdown(whole_columns, sets)}\n\n{made(row)}\n"


def _loader(row: Row | None) -> str:
    columns = ("training sample", "ms")
    if row is None:
        return markdown(columns, [("all", NOT_MEASURED)]) + "\n"
    found = row["found"]
    width, height = found["size"]
    snippet = f"a {width}x{height} frame and {found['fields']} fields"
    what = f"{found['snippets']} snippets of {snippet}, cut to {found['crop']} px"
    return f"{markdown(columns, [(what, format(found['ms'], '.0f'))])}\n\n{made(row)}\n"


RENDERERS: dict[str, Callable[[Row | None], str]] = {
    "flow": _flow,
    "store": _store,
    "extract": _extract,
    "loader": _loader,
}
