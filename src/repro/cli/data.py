"""`repro data` and `repro flow`: what data sets hold, and their frames and flow in the store."""

from __future__ import annotations

import itertools
import sys
import time
from argparse import Namespace
from dataclasses import asdict
from typing import Any

from repro.cli.console import Progress, duration, table
from repro.data.catalog import DATASETS, Clip, Dataset, absent, load_dataset
from repro.errors import ReproError
from repro.flow.cost import estimate
from repro.flow.extract import Report, extract
from repro.flow.store import ClipStore
from repro.flow.verify import verify
from repro.processes import LOCAL
from repro.setup import open_store, store_folder


def list_datasets(options: Namespace) -> int:
    """Name, title, and whether the data set is where it is looked for."""
    print(table(("name", "title", "here"), [(name, info.title, _presence(name)) for name, info in DATASETS.items()]))
    return 0


def _presence(name: str) -> str:
    try:
        dataset = load_dataset(name)
    except ReproError:
        return "no"
    return "made when needed" if dataset.render else f"yes, {len(dataset.clips)} clips in {dataset.root}"


def info(options: Namespace) -> int:
    """Facts of one data set and, where it is present, its clips by split."""
    facts = {what: text for what, text in asdict(DATASETS[options.name]).items() if text}
    try:
        dataset = load_dataset(options.name, options.root)
    except ReproError as error:
        if options.root:
            raise
        print("\n".join(f"{what:9} {text}" for what, text in {**facts, "here": f"no ({error})"}.items()))
        return 0
    print("\n".join(f"{what:9} {text}" for what, text in facts.items()))
    names = ", ".join(dataset.classes[:12]) + (", ..." if len(dataset.classes) > 12 else "")
    print(f"here      {dataset.root}, fingerprint {dataset.fingerprint}")
    print(f"classes   {len(dataset.classes)}: {names}")
    print(f"clips     {len(dataset.clips)} in {len({c.group for c in dataset.clips})} groups")
    turned = [
        name for name, label in zip(dataset.classes, dataset.mirrored, strict=True) if name != dataset.classes[label]
    ]
    for what, text in (
        ("absent", absent(dataset)),
        ("mirrored", f"change their class: {'; '.join(turned)}" * bool(turned)),
    ):
        if text:
            print(f"{what:9} {text}")
    print()
    rows = []
    for split in dataset.splits:
        parts = [[c for c in dataset.clips if c.splits.get(split) == part] for part in ("train", "test")]
        counts = [(str(len(part)), str(len({c.group for c in part}))) for part in parts]
        rows.append((split, *counts[0], *counts[1]))
    print(table(("split", "train clips", "groups", "test clips", "groups"), rows))
    return 0


def flow_options(options: Namespace) -> dict[str, Any]:
    """What was said about flow, as `open_store` and `open_lab` take it."""
    if options.flow_bound is not None and not options.flow_root:
        raise ReproError("--flow-bound is for flow that was extracted before: give its folder with --flow-root")
    bound = {} if options.flow_bound is None else {"flow_bound": options.flow_bound}
    return {"flow_root": options.flow_root, "flow_backend": options.flow_backend, **bound}


def extract_flow(options: Namespace) -> int:
    """Decode and compute what the store lacks; a summary at the end."""
    dataset = load_dataset(options.name, options.root)
    store = open_store(dataset, options.short_side, options.store, **flow_options(options))
    clips = _chosen(dataset, options.split)
    todo = estimate(dataset, store, clips, given_flow=bool(options.flow_root))
    known = options.scheduler in (None, LOCAL)  # how many workers there are
    seconds = (todo.decode_seconds + todo.flow_seconds) / (options.workers if known else 1)
    print(
        f"store {store.root}\nto do: {todo.frames} frames, {todo.pairs} flow fields, "
        f"about {duration(seconds)}{'' if known else ' of one worker'} and {todo.bytes / 1e6:.0f} MB",
        flush=True,
    )
    began, done = time.monotonic(), itertools.count(1)
    with Progress() as progress:
        report = extract(
            dataset, store, clips, workers=options.workers, on_error="skip" if options.skip_errors else "raise",
            flow_root=options.flow_root, progress=lambda _: progress("clips", next(done), len(clips)),
            scheduler=options.scheduler,
        )  # fmt: skip
    spent = time.monotonic() - began
    for id_, reason in report.failed.items():
        print(f"left out {id_}: {reason}", file=sys.stderr)
    for id_, flaws in report.flawed.items():
        print(f"used although damaged {id_}: {flaws}", file=sys.stderr)
    print(_summary(store, report, spent, max(1, min(options.workers, len(clips))) if known else None))
    return 0


def _summary(store: ClipStore, report: Report, seconds: float, cores: int | None) -> str:
    """Closing lines: clips, speed, bytes, memory."""
    frames = size = 0
    for id_ in report.done:
        with store.open(id_) as stored:
            frames += stored.n_frames
            size += stored.path.stat().st_size
    total = len(report.done) + len(report.present) + len(report.failed)
    rate = frames / max(seconds, 1e-9)
    return (
        f"{total} clips: {len(report.done)} extracted, {len(report.present)} were there, "
        f"{len(report.failed)} left out; {frames} frames in {seconds:.1f} s "
        f"({rate:.1f} frames/s{f', {rate / cores:.1f} a core' if cores else ''})\n"
        f"{size / 1e6:.1f} MB written{_peak_memory()}"
    )


def _peak_memory() -> str:
    """The most memory that this process, and the largest of those it started, ever had; nothing on Windows."""
    try:
        import resource
    except ImportError:
        return ""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    own, child = (
        resource.getrusage(who).ru_maxrss * unit / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return f", peak memory {own:.0f} MB" + (f" and {child:.0f} MB in the largest worker" if child else "")


def verify_flow(options: Namespace) -> int:
    """Check every stored file of a data set; exit status 1 if any is damaged."""
    dataset = load_dataset(options.name, options.root)
    given = flow_options(options)
    folder = store_folder(dataset, options.short_side, options.store, **given)
    if not (folder / "settings.json").is_file():
        raise ReproError(f"no store {folder}: make it with repro flow extract {options.name}")
    store = open_store(dataset, options.short_side, options.store, **given)
    clips, done = _chosen(dataset, options.split), itertools.count(1)
    with Progress() as progress:
        found = verify(
            store, clips, workers=options.workers, remove=options.remove,
            progress=lambda _: progress("files", next(done), len(clips)),
        )  # fmt: skip
    for what, reasons in (("damaged", found.damaged), ("missing", found.missing)):
        for id_, reason in reasons.items():
            print(f"{what} {id_}: {reason}")
    removed = ", removed: repro flow extract makes them again" if options.remove and found.damaged else ""
    print(
        f"store {store.root}: {len(found.sound)} of {len(clips)} clips are sound, {len(found.missing)} missing, "
        f"{len(found.damaged)} damaged{removed}"
    )
    return 1 if found.damaged else 0


def _chosen(dataset: Dataset, split: str | None) -> list[Clip]:
    if split is None:
        return list(dataset.clips)
    return [clip for part in ("train", "test") for clip in dataset.select(split, part)]
