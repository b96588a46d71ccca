"""Something-Something V2: the official lists and videos.

Crowd workers filmed themselves doing what a template says, "Pushing [something] from left to right"; the template
without brackets is the class. Who filmed which video is not published: every clip is its own group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repro.data.layouts import Lists, numbered_rows, scan
from repro.data.records import Dataset, from_lists
from repro.errors import ReproError, nearest

NAME = "ssv2"
FOLDERS = ("", "labels", "annotations", "splits")  # where the lists are looked for
PATTERN = "*labels.json"
VIDEOS = ("20bn-something-something-v2", "videos", "")
PREFIX = "something-something-v2-"  # the names of 2018; those of the present download have none


def parse_ssv2(folder: str | Path) -> Lists:
    """Read [something-something-v2-]labels.json, ...train.json and ...validation.json; the rest if it is there.

    test.json names clips without classes; test-answers.csv (lines id;class) gives them. Ids are "<class>/<number>";
    splits are "val" and, with answers, "test", both against the training list. Raises ReproError, with file and entry
    or line, for missing and damaged lists.
    """
    folder = Path(folder)
    path = _path(folder, "labels.json")
    if path is None:
        raise ReproError(f"{folder} has no labels.json: get the lists again")
    classes = _classes(path)
    label_of = {name: label for label, name in enumerate(classes)}
    sides: dict[str, list[str]] = {}
    seen: dict[str, str] = {}  # number -> the list that names it
    for side, name in (("train", "train.json"), ("val", "validation.json"), ("test", "test-answers.csv")):
        path = _path(folder, name)
        if path is None and side != "test":
            raise ReproError(f"{folder} has no {name}: get the lists again")
        sides[side] = []
        for where, number, class_name in _named(path) if path else ():
            if class_name not in label_of:
                near = nearest(class_name, classes)
                raise ReproError(f"{where}: no class {class_name!r} in the labels{near}: get the lists again")
            if number in seen:
                raise ReproError(f"{where}: clip {number} is in {seen[number]} too: get the lists again")
            seen[number] = name
            sides[side].append(f"{class_name}/{number}")
    path = _path(folder, "test.json")
    unlabelled = {number for _, number in _entries(path)} - seen.keys() if path else set()
    train = dict.fromkeys(sides["train"], "train")
    splits = {side: train | dict.fromkeys(sides[side], "test") for side in ("val", "test") if sides[side]}
    labels = {id_: label_of[id_.partition("/")[0]] for ids in sides.values() for id_ in ids}
    return Lists(classes, labels, splits, frozenset(unlabelled))


def _path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{PREFIX}{name}", folder / name) if path.is_file()), None)


def _named(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, number, class) of every clip of a list."""
    if path.suffix == ".csv":
        for line, cells in numbered_rows(path, ";"):
            where = f"{path}, line {line}"
            if len(cells) != 2 or not re.fullmatch(r"\d+", cells[0], re.ASCII):
                raise ReproError(f"{where}: no id;class in {';'.join(cells)!r}: get the lists again")
            yield where, cells[0], _class(cells[1])
        return
    for entry, number in _entries(path):
        where = f"{path}, entry {entry['at']} (id {number})"
        if not isinstance(entry.get("template"), str):
            raise ReproError(f"{where}: no template: get the lists again")
        yield where, number, _class(entry["template"])


def _class(template: str) -> str:
    """The class of a template: "Holding [something]" is of "Holding something"."""
    return template.replace("[", "").replace("]", "")


def _entries(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Entries of a list of objects, with their place from 1 on as "at", and their numbers."""
    found = _read(path)
    if not isinstance(found, list) or not found:
        raise ReproError(f"{path}: a list of clips expected: get the lists again")
    entries = []
    for at, entry in enumerate(found, 1):
        number = entry.get("id") if isinstance(entry, dict) else None
        if not re.fullmatch(r"\d+", str(number), re.ASCII):
            raise ReproError(f"{path}, entry {at}: no number as id: get the lists again")
        entries.append(({**entry, "at": at}, str(number)))
    return entries


def _classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of their numbers, which must be 0, 1, 2, ..."""
    found = _read(path)
    if not isinstance(found, Mapping) or not found:
        raise ReproError(f"{path}: an object of classes and their numbers expected: get the lists again")
    names: dict[int, str] = {}
    for name, number in found.items():
        if not re.fullmatch(r"\d+", str(number), re.ASCII) or "/" in name or int(number) >= len(found):
            raise ReproError(f"{path}: class {name!r} has the number {number!r}: get the lists again")
        if names.setdefault(int(number), name) != name:
            raise ReproError(f"{path}: {names[int(number)]!r} and {name!r} are both {number}: get the lists again")
    return tuple(names[number] for number in range(len(found)))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReproError(f"cannot read {path} ({error}): get the lists again") from error


def load(root: Path, folder: Path, allow_missing: bool) -> Dataset:
    """The clips of the lists in `folder`. Raises ReproError for clips that are not on disk, unless they may be."""
    base = next(name for name in VIDEOS if (root / name).is_dir())
    return from_lists(
        NAME, root, scan(root, base).values(), parse_ssv2(folder), group_of=lambda number: number,
        allow_missing=allow_missing,
    )  # fmt: skip
