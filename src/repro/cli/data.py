"""`repro data` and `repro flow`: what data sets hold, and their frames and flow in the store."""

from __future__ import annotations

import itertools
import sys
import time
from argparse import Namespace
from dataclasses import asdict

from repro.cli.console import Progress, duration, table
from repro.data.catalog import DATASETS, Clip, Dataset, load_dataset
from repro.errors import ReproError
from repro.flow.cost import estimate
from repro.flow.extract import extract
from repro.setup import open_store


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
    facts = asdict(DATASETS[options.name])
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
    print(f"clips     {len(dataset.clips)} in {len({c.group for c in dataset.clips})} groups\n")
    rows = []
    for split in dataset.splits:
        parts = [[c for c in dataset.clips if c.splits.get(split) == part] for part in ("train", "test")]
        counts = [(str(len(part)), str(len({c.group for c in part}))) for part in parts]
        rows.append((split, *counts[0], *counts[1]))
    print(table(("split", "train clips", "groups", "test clips", "groups"), rows))
    return 0


def extract_flow(options: Namespace) -> int:
    """Decode and compute what the store lacks; a summary at the end."""
    dataset = load_dataset(options.name, options.root)
    store = open_store(dataset, options.short_side, options.store, options.flow_root)
    clips = _chosen(dataset, options.split)
    todo = estimate(dataset, store, clips)
    wait = "" if options.flow_root else f", about {duration(todo.seconds / options.workers)}"
    print(f"store {store.root}\nto do: {todo.pairs} flow fields{wait}, {todo.bytes / 1e6:.0f} MB", flush=True)
    began, done = time.monotonic(), itertools.count(1)
    with Progress() as progress:
        report = extract(
            dataset, store, clips, workers=options.workers, on_error="skip" if options.skip_errors else "raise",
            flow_root=options.flow_root, progress=lambda _: progress("clips", next(done), len(clips)),
        )  # fmt: skip
    spent = time.monotonic() - began
    for id_, reason in report.failed.items():
        print(f"left out {id_}: {reason}", file=sys.stderr)
    for id_, flaws in report.flawed.items():
        print(f"used although damaged {id_}: {flaws}", file=sys.stderr)
    frames = 0
    for id_ in report.done:
        with store.open(id_) as stored:
            frames += stored.n_frames
    counts = f"{len(report.done)} extracted, {len(report.present)} were there, {len(report.failed)} left out"
    print(f"{len(clips)} clips: {counts}; {frames} frames in {spent:.1f} s ({frames / max(spent, 1e-9):.1f} frames/s)")
    return 0


def _chosen(dataset: Dataset, split: str | None) -> list[Clip]:
    if split is None:
        return list(dataset.clips)
    return [clip for part in ("train", "test") for clip in dataset.select(split, part)]
