"""What is on disk: video files below a folder, official split lists, tables with a split column. Pure readers."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from repro.errors import ReproError, nearest

SUFFIXES = (".avi", ".mp4", ".m4v", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".wmv")
PARTS = ("train", "test")


class File(NamedTuple):
    """A video found on disk."""

    id: str  # posix path below the video folder, without suffix, NFC-normalised: "bend/daria_bend"
    path: str  # posix path below the data root
    size: int  # bytes


def scan(root: Path, base: str = "", depth: int = 1) -> dict[str, File]:
    """Videos in `root`/`base` and up to `depth` folders deep, keyed by id; hidden files are left out."""
    found: dict[str, File] = {}
    pending = [("", 0)]
    while pending:
        folder, level = pending.pop()
        for entry in _entries(root / base / folder):
            if level < depth and entry.is_dir():
                pending.append((f"{folder}{entry.name}/", level + 1))
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() not in SUFFIXES or not entry.is_file():
                continue
            path = f"{base}/{folder}{entry.name}".lstrip("/")
            # Python shows bytes that are not UTF-8 as surrogates.
            if not path.isascii() and any("\ud800" <= char <= "\udfff" for char in path):
                raise ReproError(f"the file name {path!a} in {root} is not valid UTF-8: rename the file")
            id_ = unicodedata.normalize("NFC", folder + stem)  # macOS hands out decomposed names
            if id_ in found:
                raise ReproError(f"two videos in {root} share a name, {found[id_].path!r} and {path!r}: keep one")
            found[id_] = File(id_, path, entry.stat().st_size)
    return found


def _entries(folder: str | os.PathLike[str]) -> Iterable[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def numbered_rows(path: Path, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """(line, cells) of a CSV file, blanks stripped, empty rows dropped; a byte-order mark (Excel) is no cell's part."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ReproError(f"cannot read {path} ({error}): save it as CSV in UTF-8") from error
    return [(line, row) for line, row in rows if any(row)]


def table_rows(path: Path) -> list[list[str]]:
    """Rows of a CSV file as in `numbered_rows`, without their lines."""
    return [row for _, row in numbered_rows(path)]


def table_splits(path: Path, rows: Sequence[Sequence[str]], columns: tuple[int, int]) -> dict[str, str]:
    """id -> part from the two `columns` of `rows`: a path, with or without video suffix, and "train" or "test"."""
    at, side = columns
    parts: dict[str, str] = {}
    for row in rows:
        if len(row) <= max(columns) or row[side] not in PARTS:
            raise ReproError(f"{path}: expected a path and 'train' or 'test', found the row {','.join(row)!r}")
        stem, suffix = os.path.splitext(row[at].replace("\\", "/").removeprefix("./"))
        id_ = unicodedata.normalize("NFC", stem if suffix.lower() in SUFFIXES else stem + suffix)
        if parts.setdefault(id_, row[side]) != row[side]:
            raise ReproError(f"{path}: {id_!r} is in train and in test: keep one")
    return parts


class Lists(NamedTuple):
    """Official split lists: ids are "<class>/<file name without suffix>", labels index `classes`."""

    classes: tuple[str, ...]
    labels: dict[str, int]
    splits: dict[str, dict[str, str]]  # "1" -> id -> "train" | "test"; ids in neither are absent
    unlabelled: frozenset[str] = frozenset()  # file names without suffix that a list names and gives no class


def parse_ucf101(folder: str | Path) -> Lists:
    """Read classInd.txt and every pair of trainlist0k.txt and testlist0k.txt.

    CRLF line ends are fine, and so is any spelling of a class folder (HandStandPushups for HandstandPushups):
    classInd.txt has the last word. Raises ReproError for missing and damaged lists.
    """
    folder = Path(folder)
    classes = tuple(line.split()[1] for line in _lines(folder / "classInd.txt", r"\d+\s+\S+"))
    label_of = {name.lower(): label for label, name in enumerate(classes)}
    labels: dict[str, int] = {}
    splits: dict[str, dict[str, str]] = {}
    for k in (1, 2, 3):
        files = {part: folder / f"{part}list0{k}.txt" for part in PARTS}
        if not any(path.exists() for path in files.values()):
            continue
        parts = splits[str(k)] = {}
        for part, path in files.items():
            for line in _lines(path, r"[^/]+/[^/]+\.avi(\s+\d+)?"):
                name, stem = line.split(".avi")[0].split("/")
                if name.lower() not in label_of:
                    raise ReproError(f"{path}: class {name!r} is not in classInd.txt{nearest(name, classes)}")
                label = label_of[name.lower()]
                id_ = f"{classes[label]}/{stem}"
                labels[id_] = label
                if parts.setdefault(id_, part) != part:
                    raise ReproError(f"{path}: {stem} is in train and in test: get the split lists again")
    return _checked(folder, Lists(classes, labels, splits))


def parse_hmdb51(folder: str | Path) -> Lists:
    """Read every <class>_test_split<k>.txt: a file name and 1 (train), 2 (test) or 0 (neither), blanks anywhere.

    Raises ReproError for missing and damaged lists.
    """
    files = [(path, re.fullmatch(r"(.+)_test_split(\d)", path.stem)) for path in sorted(Path(folder).glob("*.txt"))]
    named = [(path, match[1], match[2]) for path, match in files if match]
    classes = tuple(sorted({name for _, name, _ in named}))
    labels: dict[str, int] = {}
    splits: dict[str, dict[str, str]] = defaultdict(dict)
    for path, name, split in named:
        for line in _lines(path, r"\S.*\s[012]"):
            video, mark = line.rsplit(maxsplit=1)
            id_ = f"{name}/{os.path.splitext(video)[0]}"
            labels[id_] = classes.index(name)
            if mark != "0":
                splits[split][id_] = PARTS[int(mark) - 1]
    if len(named) != len(classes) * len(splits):
        raise ReproError(f"{folder}: {len(named)} lists for {len(classes)} classes: get the split lists again")
    return _checked(folder, Lists(classes, labels, dict(sorted(splits.items()))))


def _checked(folder: str | Path, lists: Lists) -> Lists:
    if not lists.splits:
        raise ReproError(f"no split lists in {folder}: give the folder of the official lists")
    return lists


def _lines(path: Path, pattern: str) -> list[str]:
    """Stripped lines of a list, empty ones dropped; a line that does not match `pattern` is an error."""
    if not path.is_file():
        raise ReproError(f"{path} is missing: get the split lists again")
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for line in lines:
        if not re.fullmatch(pattern, line):
            raise ReproError(f"{path}: cannot read the line {line!r}: get the split lists again")
    return lines
