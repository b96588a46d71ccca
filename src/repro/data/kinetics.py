"""Kinetics-400: the official lists, and the clips that could still be had of them.

A list names YouTube videos and the seconds to be cut out of them. Videos vanish, so that no copy holds all clips: what
is not on disk is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from repro.data.layouts import Lists, numbered_rows, scan
from repro.data.records import Dataset, from_lists
from repro.errors import ReproError, nearest

NAME = "kinetics400"
FOLDERS = ("", "annotations", "splits", "kinetics400")  # where the lists are looked for
PATTERN = "*train.csv"  # train.csv, kinetics_train.csv, kinetics-400_train.csv
SIDES = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}  # spellings of a list
VIDEO, SECONDS = re.compile(r"[\w-]{11}", re.ASCII), re.compile(r"\d{1,6}(\.0*)?", re.ASCII)
DEPTH = 3  # folders between the data root and a video: videos/train/<label>


class Row(NamedTuple):
    """One row of a list."""

    label: str  # "" where the list does not tell
    video: str  # YouTube id
    name: str  # of the clip's file, without suffix


def parse_kinetics(folder: str | Path) -> Lists:
    """Read train.csv and val.csv or validate.csv, and test.csv if it is there, whatever stands before these names.

    Columns by name: label, youtube_id, time_start, time_end (seconds) and, where there is one, split; others (is_cc)
    are not used. The test list may lack labels. Ids are "<label>/<youtube_id>_<start>_<end>", six digits each; splits
    are "val" and, with labels, "test", both against the training list. Raises ReproError, with file and line, for
    missing and damaged lists.
    """
    paths = _paths(Path(folder))
    labels: dict[str, int] = {}
    sides: dict[str, list[str]] = {}
    unlabelled: list[str] = []
    classes: tuple[str, ...] = ()
    training: set[str] = set()
    for side in ("train", "val", "test"):
        if side not in paths:
            continue
        rows = list(_rows(paths[side], side))
        if side == "train":
            classes, training = tuple(sorted({row.label for _, row in rows})), {row.video for _, row in rows}
        label_of = {name: label for label, name in enumerate(classes)}
        sides[side] = []
        for line, row in rows:
            where = f"{paths[side]}, line {line}"
            if not row.label:
                unlabelled.append(row.name)
                continue
            if row.label not in label_of:
                known = f"{paths['train'].name}{nearest(row.label, classes)}"
                raise ReproError(f"{where}: no class {row.label!r} in {known}: get the lists again")
            if side != "train" and row.video in training:
                raise ReproError(f"{where}: video {row.video} is in {paths['train'].name} too: get the lists again")
            labels[f"{row.label}/{row.name}"] = label_of[row.label]
            sides[side].append(f"{row.label}/{row.name}")
    train = dict.fromkeys(sides["train"], "train")
    splits = {side: train | dict.fromkeys(sides[side], "test") for side in ("val", "test") if sides.get(side)}
    return Lists(classes, labels, splits, frozenset(unlabelled))


def _paths(folder: Path) -> dict[str, Path]:
    """Side -> its list."""
    paths: dict[str, Path] = {}
    for path in sorted(folder.glob("*.csv")):
        word = re.split(r"[^a-z]", path.stem.lower())[-1]
        if word not in SIDES:
            continue
        other = paths.setdefault(SIDES[word], path)
        if other != path:
            raise ReproError(f"{folder}: {other.name} and {path.name} are both lists of {SIDES[word]}: keep one")
    for side in ("train", "val"):
        if side not in paths:
            raise ReproError(f"{folder} has no {side}.csv: get the lists again")
    return paths


def _rows(path: Path, side: str) -> Iterator[tuple[int, Row]]:
    """(line, row) of a list; everything that can be wrong with one row is found here. At least one row."""
    found = numbered_rows(path)
    header = [name.lower() for name in found[0][1]] if found else []
    needed = ["youtube_id", "time_start", "time_end"] + ["label"] * (side != "test")
    if lacking := [name for name in needed if name not in header]:
        raise ReproError(f"{path}, line 1: no column {lacking[0]!r} in {','.join(header)!r}: get the lists again")
    if len(found) < 2:
        raise ReproError(f"{path} names no clips: get the lists again")
    names: dict[str, str] = {}
    for line, cells in found[1:]:
        row = dict(zip(header, cells, strict=False))
        problem, label, video = "", row.get("label", ""), row.get("youtube_id", "")
        times = [_seconds(row.get(name, "")) for name in ("time_start", "time_end")]
        name = f"{video}_{times[0]:06d}_{times[1]:06d}"
        if len(cells) != len(header):
            problem = f"{len(cells)} cells under {len(header)} columns"
        elif not VIDEO.fullmatch(video):
            problem = f"{video!r} is no YouTube id of 11 characters"  # a spreadsheet turns -a1 into #NAME?
        elif not 0 <= times[0] < times[1]:
            problem = f"no seconds from {row['time_start']!r} to {row['time_end']!r}"
        elif "/" in label or (not label and side != "test"):
            problem = f"{label!r} is no class"
        elif SIDES.get(row.get("split") or side) != side:
            problem = f"a clip of {row['split']!r} in the list of {side}"
        elif names.setdefault(name, label) != label:
            problem = f"{name} is in class {names[name]!r} too"
        if problem:
            raise ReproError(f"{path}, line {line}: {problem}: get the lists again")
        yield line, Row(label, video, name)


def _seconds(text: str) -> int:
    """Whole seconds ("84" or "84.0"); -1 for anything else."""
    return int(text.partition(".")[0]) if SECONDS.fullmatch(text) else -1


def load(root: Path, folder: Path) -> Dataset:
    """The clips on disk of the lists in `folder`; a video's id is its group.

    A file in a folder replacement... is taken in place of another of its name: the mirror's corrupted videos. Raises
    ReproError when no listed clip is on disk.
    """
    return from_lists(
        NAME, root, scan(root, depth=DEPTH).values(), parse_kinetics(folder), group_of=lambda name: name[:11],
        allow_missing=True, replaces=lambda file: "/replacement" in f"/{file.path}",
    )  # fmt: skip
