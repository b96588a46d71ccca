"""Measured speed: the rows that `repro bench ... --record` files, and the tables that the book makes of them.

A row is {"what", "provenance", "found"}; `found` is what the command printed with `--json`. Tables are Markdown, so
that a page can include them; what nobody measured says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.costs import duration
from repro.errors import ReproError

NOT_MEASURED = "not measured"
GPU = "-gpu"  # behind what a row is called that was measured on one
SUFFIXES = ("-compiled", GPU, f"-compiled{GPU}")
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
    """Markdown by file name, for a page to include: `performance-<what>.md`, and `kinetics.md` of several rows."""
    found = {f"performance-{what}.md": _both(what) for what in RENDERERS}
    return {**found, "kinetics.md": _kinetics()}


def _both(what: str) -> str:
    """What a CPU did, then what a GPU did, and with a compiled network where that was tried."""
    render = RENDERERS[what]
    text = render(read(what))
    if what == "store":  # no GPU has a part in it
        return text
    rows = [row for suffix in SUFFIXES if (row := read(what + suffix))]
    return "\n".join([text, *map(render, rows)] if rows else [text, f"On a GPU: {NOT_MEASURED}.\n"])


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
    parity_columns = ("pairs", "mean distance, px", "pixels within 0.25 px", "bytes within 1")
    if row is None:
        missing = ("all", "", *[NOT_MEASURED] * 3, "")
        return f"{markdown(columns, [missing])}\n\n{markdown(parity_columns, [('all', *[NOT_MEASURED] * 3)])}\n"
    found = row["found"]
    speed, parity = [], []
    on_gpu = ""
    if batch := found.get("on_device"):
        on_gpu = (
            f"The backend for CUDA, on {batch['device']}, by the clock, {batch['pairs']} {batch['source']} pairs at "
            f"once: {batch['pairs_per_second']:,.0f} pairs a second, {batch['steps_per_pair']:.0f} steps a pair, "
            f"counted at full size, {batch['share_of_copy_rate']:.0%} of the rate at which memory is copied "
            f"({batch['copy_bytes_per_second'] / 1e9:,.0f} GB/s).\n\n"
        )
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
        f"{markdown(columns, speed)}\n\n{on_gpu}How far the two flows lie apart.\n\n"
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
    if row is None:
        names = ("frames/s on one core", "decoding", "flow", "JPEG and writing", "MB for 1000 frames", "memory")
        empty = [(name, NOT_MEASURED) for name in names]
        return (
            f"{markdown(columns, empty)}\n\n"
            f"{markdown(('data set', 'frames', 'core hours', 'GB', 'counted as'), [('all', *[NOT_MEASURED] * 4)])}\n"
        )
    found = row["found"]
    device = found.get("device", "cpu")
    on, hours = ("on one core", "core hours") if device == "cpu" else (f"of one process and {device}", "hours")
    total = sum(found["stages"].values())
    stages = {"decoding": "decoding", "flow": "flow", "writing": "JPEG and writing"}
    memory = f"{found['peak_mb']:.0f} MB ({found['peak_before_mb']:.0f} MB before it began)" if found["peak_mb"] else ""
    lines = [
        ("clips and frames", f"{len(found['clips'])}, {found['frames']}"),
        (f"frames/s {on}", f"{found['frames_per_second']:.1f}"),
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
    return (
        f"{markdown(columns, lines)}\n\n"
        f"{markdown(('data set', 'frames', hours, 'GB', 'counted as'), sets)}\n\n{made(row)}\n"
    )


def _loader(row: Row | None) -> str:
    columns = ("training sample", "ms")
    if row is None:
        return f"{markdown(columns, [('all', NOT_MEASURED)])}\n\n{_feeding(None)}\n"
    found = row["found"]
    width, height = found["size"]
    snippet = f"a {width}x{height} frame and {found['fields']} fields"
    what = f"{found['snippets']} snippets of {snippet}, cut to {found['crop']} px"
    return f"{markdown(columns, [(what, format(found['ms'], '.0f'))])}\n\n{_feeding(found)}\n\n{made(row)}\n"


def _feeding(found: dict[str, Any] | None) -> str:
    columns = (
        "images are decoded by",
        "step, batches waiting, ms a clip",
        "loader alone",
        "together",
        "share of the step",
    )
    if not found or "fed" not in found:
        return markdown(columns, [("workers; the device", *[NOT_MEASURED] * 4)])
    step = found["step_seconds"]
    lines = [
        (where, *(f"{s * 1e3:.1f}" for s in (step, fed["loader"], fed["together"])), f"{fed['together'] / step:.2f}")
        for where, fed in found["fed"].items()
    ]
    by = "one process" if found["workers"] == 1 else f"{found['workers']} processes"
    head = f"{found['network']}, preset {found['preset']}, on {found['device']}, fed by {by}"
    return f"{head}.\n\n{markdown(columns, lines)}"


def _train(row: Row | None) -> str:
    columns = ("network", "images/s", "plain loop", "ratio", "of the matrices' rate", "memory, GB")
    sets = {"ucf101": "UCF101", "hmdb51": "HMDB51", "kinetics400": "Kinetics-400"}
    hour_columns = ("network", *(f"{title} (passes)" for title in sets.values()))
    if row is None:
        speed = markdown(columns, [("all", *[NOT_MEASURED] * 5)])
        return f"{speed}\n\n{markdown(hour_columns, [('all', *[NOT_MEASURED] * 3)])}\n"
    found, speeds, hours = row["found"], [], []
    for one in found["networks"]:
        ours, plain = one["ours"], one["plain"]
        numbers = (f"{ours['images_per_second']:.1f}", f"{plain['images_per_second']:.1f}", f"{one['ratio']:.1f}",
                   f"{one['share_of_matrix_rate']:.1%}", gigabytes(ours["peak_bytes"]))  # fmt: skip
        speeds.append((_name(one), *numbers))
        whole = (one["whole"][name] for name in sets)
        hours.append((_name(one), *(f"{duration(3600 * w['hours'])} ({_passes(w['passes'])})" for w in whole)))
    rates = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in found["matrix_rates"].items())
    compiled = ", compiled" if found["compiled"] else ""
    return (
        f"{found['device']}, preset {found['preset']}{compiled}; medians of {found['steps']} steps, by the clock. "
        f"Large products of matrices reach, in 10^12 operations a second: {rates}.\n\n{markdown(columns, speeds)}\n\n"
        "Time of the whole recipe, projected from one step: of the network and of what it starts from, by counted "
        "operations. In brackets, how often its own training passes over the clips of the set.\n\n"
        f"{markdown(hour_columns, hours)}\n\n{made(row)}\n"
    )


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['paper']}: {one['network']}"


def _passes(count: float) -> str:
    return f"{count:,.1f}" if count >= 1 else f"{count:.2g}"


def gigabytes(size: float | None) -> str:
    """Of bytes, one decimal."""
    return NOT_MEASURED if size is None else f"{size / 1e9:.1f}"


def _curves(row: Row | None) -> str:
    columns = ("network", "what grows", "to", "ms a step", "ms for one more", "memory, MB")
    if row is None:
        return markdown(columns, [("all", "clips, snippets, image size, frames", "", *[NOT_MEASURED] * 3)]) + "\n"
    found = row["found"]
    last: dict[str, tuple[float, float]] = {}
    lines = []
    for point in found["curves"]:
        what, ms, memory = point["what"], point["seconds"] * 1e3, point["peak_bytes"]
        amount = point["value"] ** 2 / 1000 if what == "crop" else point["value"]
        before = last.get(what)
        more = f"{(ms - before[1]) / (amount - before[0]):.1f}" if before else ""
        last[what] = amount, ms
        size = NOT_MEASURED if memory is None else f"{memory / 1e6:,.0f}"
        lines.append((point["network"], what, str(point["value"]), f"{ms:.0f}", more, size))
    head = f"Preset {found['preset']}, on {found['device']}, by the clock"
    return f"{head}.\n\n{markdown(columns, lines)}\n\n{made(row)}\n"


def _eval(row: Row | None) -> str:
    columns = ("test", "videos/s", "memory, GB")
    if row is None:
        return markdown(columns, [("all", NOT_MEASURED, NOT_MEASURED)]) + "\n"
    found = row["found"]
    lines = [(t["test"], f"{t['videos_per_second']:.3f}", gigabytes(t["peak_bytes"])) for t in found["tests"]]
    head = (
        f"{found['network']}, preset {found['preset']}, on {found['device']} with {found['workers']} loader processes"
    )
    return f"{head}.\n\n{markdown(columns, lines)}\n\n{made(row)}\n"


CORES = (16, 64, 256)  # among which hours are divided
TRAINED = ("cross_enhancement", "stilt")  # papers that train on Kinetics-400
VIDEOS = {"training": 240_000, "validation": 20_000}  # of Kinetics-400, about: what is left on the web varies


def _kinetics() -> str:
    """What Kinetics-400 takes: files and bytes, core hours, GPU hours, the latter only from rows made on a GPU."""
    videos = sum(VIDEOS.values())
    extract, flow, train, test = read("extract"), *(read(what + GPU) for what in ("flow", "train", "eval"))
    lines = [("videos", f"{videos:,}", "training and validation")]
    if extract:
        found = extract["found"]
        whole = next(one for one in found["whole"] if one["title"] == "Kinetics-400")
        scale = videos / VIDEOS["training"]  # the row is of the training clips
        frames, gb, hours = (whole[key] * scale for key in ("frames", "gb", "core_hours"))
        share = found["stages"]["flow"] / sum(found["stages"].values())
        width, height = whole["size"]
        lines += [
            ("frames, and fields of flow", f"{frames / 1e6:.0f} million", f"10 s, 25 frames/s, {width}x{height}"),
            ("files in the store", f"{videos:,}", "one a video"),
            ("files as TSN's tools write them", f"{3 * frames / 1e6:.0f} million", "a frame and two fields each"),
            ("store, TB", f"{gb / 1e3:.1f}", "bytes a pixel, measured"),
            ("decoding, flow and writing, core hours", f"{hours:,.0f}", "time a pixel, measured on one core"),
            ("of these, flow", f"{hours * share:,.0f}", f"{share:.1%} of the time, measured"),
            *((f"days on {cores} cores", f"{hours / cores / 24:.1f}", "no video waits for another") for cores in CORES),
        ]
        if flow:
            lines += _flow_hours(flow["found"], frames * width * height, hours * (1 - share))
    else:
        lines.append(("frames, files, bytes, core hours", NOT_MEASURED, ""))
    if not (extract and flow):
        lines.append(("flow, GPU hours", NOT_MEASURED, "pairs a second of a batch would tell"))
    for one in train["found"]["networks"] if train else ():
        if one["paper"] in TRAINED:
            hours = one["whole"]["kinetics400"]["hours"]
            lines.append((f"training {one['network']}, GPU hours", f"{hours:,.0f}", "one step, measured"))
    if not train:
        lines.append(("training, GPU hours", NOT_MEASURED, "a step of each paper's network would tell"))
    for one in test["found"]["tests"] if test else ():
        hours = VIDEOS["validation"] / one["videos_per_second"] / 3600
        lines.append((f"testing {one['test']}, GPU hours", f"{hours:,.0f}", test["found"]["network"] if test else ""))
    if not test:
        lines.append(("testing, GPU hours", NOT_MEASURED, "videos a second would tell"))
    sources = "\n\n".join(made(row) for row in (extract, flow, train, test) if row)
    return f"{markdown(('what', 'about', 'from'), lines)}\n\n{sources}\n"


def _flow_hours(found: Mapping[str, Any], pixels: float, rest: float) -> list[tuple[str, str, str]]:
    """Hours of flow on a GPU, and what is left for the cores."""
    rate, (width, height) = found["on_device"]["pairs_per_second"], found["size"]
    hours = pixels / (width * height) / rate / 3600
    return [
        ("flow, GPU hours", f"{hours:,.0f}", f"{rate:,.0f} pairs/s of {width}x{height}"),
        ("core hours beside it", f"{rest:,.0f}", "decoding and writing"),
    ]


RENDERERS: dict[str, Callable[[Row | None], str]] = {
    "flow": _flow,
    "store": _store,
    "extract": _extract,
    "loader": _loader,
    "train": _train,
    "curves": _curves,
    "eval": _eval,
}
