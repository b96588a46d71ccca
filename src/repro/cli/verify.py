"""`repro data verify`: whether every video of a data set is there, can be decoded and is long enough."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.cli.console import Progress, duration
from repro.data.catalog import DATASETS, OFFICIAL, Dataset, absent, load_dataset, unofficial
from repro.data.index import NAME, Facts, inspect, read_index, write_index

SHOWN = 20  # names of a list, unless all are asked for
SAVE_EVERY = 30.0  # seconds after which what was read is written down
FOR_FLOW = 2  # frames that flow needs
FOR_A_STACK = 11  # frames of a stack of ten fields


@dataclass(frozen=True)
class Finding:
    """What is the matter, and with which videos."""

    what: str
    videos: Sequence[str]  # one line each
    fatal: bool = True  # the data set should not be used as it is


def verify(options: Namespace) -> int:
    """Read what has not been read yet, then say what was found; exit status 1 when something should be mended."""
    dataset = load_dataset(options.name, options.root, allow_missing=True)
    paths = sorted({clip.path for clip in dataset.clips} | set(dataset.unlisted))
    if dataset.render is not None:  # what was not needed so far is made when it is
        paths = [path for path in paths if (dataset.root / path).is_file()]
    began = time.monotonic()
    known = {} if options.again else read_index(dataset.root)
    index = {path: known[path] for path in paths if path in known}
    todo = [path for path in paths if path not in index]
    try:
        _read(dataset.root, todo, index, options.workers or os.cpu_count() or 1)
    finally:  # Ctrl-C too
        if todo or index.keys() != known.keys():
            _save(dataset.root, index)
    found = findings(dataset, index)
    for finding in found:
        if finding.videos:
            print("\n".join(_lines(finding, options.all_names)), end="\n\n")
    print("\n".join(f"{what:9} {text}" for what, text in _summary(dataset, index)))
    print(
        f"{'read':9} {len(todo)} videos in {duration(time.monotonic() - began)}, {len(paths) - len(todo)} known before"
    )
    whole = "all that is there is sound" if dataset.missing else "everything is there"
    wrong = sum(len(finding.videos) for finding in found if finding.fatal)
    print(f"\n{wrong} {'thing' if wrong == 1 else 'things'} to mend" if wrong else f"\n{whole} and can be used")
    return 1 if wrong else 0


def findings(dataset: Dataset, index: Mapping[str, Facts]) -> list[Finding]:
    """All that `index` and the lists have against the data set; a finding may be empty."""

    def having(note: Mapping[str, str]) -> list[str]:
        return [f"{path}: {text}" for path, text in note.items()]

    sound = {path: facts for path, facts in index.items() if not facts.error}
    lengths = {path: f"{f.frames} frame{'s'[: f.frames > 1]}" for path, f in sound.items() if f.frames < FOR_A_STACK}
    no_flow = {path: text for path, text in lengths.items() if sound[path].frames < FOR_FLOW}
    short = {path: text for path, text in lengths.items() if path not in no_flow}
    return [
        Finding("missing, though a list names them", dataset.missing, fatal=not DATASETS[dataset.name].missing),
        Finding("extra: on disk, but in no list, so never used; renamed?", dataset.unlisted, fatal=False),
        Finding("cannot be decoded", having({path: f.error for path, f in index.items() if f.error})),
        Finding(f"too short: fewer than {FOR_FLOW} frames have no flow", having(no_flow)),
        Finding(
            f"short: fewer than {FOR_A_STACK} frames; a stack of ten flow fields repeats its last one",
            having(short),
            fatal=False,
        ),
        Finding("damaged, but of use", having({path: f.flaws for path, f in sound.items() if f.flaws}), fatal=False),
    ]


def _read(root: Path, todo: Sequence[str], index: dict[str, Facts], workers: int) -> None:
    """Read videos into `index`, saving now and then."""
    if not todo:
        return
    from repro.processes import each

    saved = time.monotonic()
    with (
        Progress() as progress,
        contextlib.closing(
            each(functools.partial(_inspect, root.absolute()), todo, min(workers, len(todo)))
        ) as results,
    ):
        for done, (path, facts) in enumerate(results, 1):
            index[path] = facts
            progress("videos", done, len(todo))
            if time.monotonic() - saved > SAVE_EVERY:
                _save(root, index, quiet=True)
                saved = time.monotonic()


def _inspect(root: Path, path: str) -> Facts:
    return inspect(root / path)


def _save(root: Path, index: Mapping[str, Facts], *, quiet: bool = False) -> None:
    try:
        write_index(root, index)
    except OSError as error:
        if not quiet:
            why = f"cannot write {root / NAME} ({error.strerror})"
            print(f"{why}: what was read is not kept, next time all is read again", file=sys.stderr)


def _lines(finding: Finding, every: bool) -> list[str]:
    shown = finding.videos if every else finding.videos[:SHOWN]
    left = len(finding.videos) - len(shown)
    more = [f"  ... and {left} more (--all-names)"] if left else []
    return [f"{len(finding.videos)} {finding.what}", *(f"  {video}" for video in shown), *more]


def _summary(dataset: Dataset, index: Mapping[str, Facts]) -> list[tuple[str, str]]:
    """(what, text): clips and lists, then totals of the videos that can be decoded."""
    sound = [facts for facts in index.values() if not facts.error]
    frames = sum(facts.frames for facts in sound)
    hours = sum(facts.frames / facts.fps for facts in sound if facts.fps) / 3600
    total = sum(facts.size for facts in index.values() if facts.size > 0)
    here = len(dataset.clips) if dataset.render is None else len(index)
    listed = len(dataset.clips) + len(dataset.missing)
    lines = [
        ("data set", f"{dataset.name} in {dataset.root}, {len(dataset.classes)} classes"),
        ("clips", f"{here} of {listed}" + (" rendered so far" if dataset.render else "")),
    ]
    if why := absent(dataset):
        lines.append(("absent", why))
    if dataset.name in OFFICIAL:
        counted = not all(split.digest for split in OFFICIAL[dataset.name][1].values())
        same = "as many clips and classes as the official ones" if counted else "the official ones"
        lines.append(("lists", f"not the official ones: {why}" if (why := unofficial(dataset)) else same))
    return [
        *lines,
        ("frames", f"{frames:,} in {hours:.1f} hours" if hours >= 1 else f"{frames:,} in {60 * hours:.1f} minutes"),
        ("sizes", _commonest(f"{facts.width}x{facts.height}" for facts in sound)),
        ("rates", _commonest(f"{facts.fps:.4g} fps" for facts in sound)),
        ("codecs", _commonest(facts.codec for facts in sound)),
        ("bytes", f"{total:,}"),
    ]


def _commonest(values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    others = sum(count for _, count in counts[5:])
    return ", ".join(f"{value} ({count})" for value, count in counts[:5]) + (f", others ({others})" if others else "")
