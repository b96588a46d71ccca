"""Data sets as flat lists of clips: which video, which class, which person or source, which side of which split.

`load_dataset` reads folders and official split lists only; no video is opened. See `DATASETS` for the expected layouts.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from repro.data import kinetics, ssv2
from repro.data.facts import DATASETS, OFFICIAL, DatasetInfo, SplitList
from repro.data.kinetics import parse_kinetics
from repro.data.layouts import PARTS, File, Lists, parse_hmdb51, parse_ucf101, scan, table_rows, table_splits
from repro.data.records import (
    HELD_OUT,
    Clip,
    Dataset,
    absent,
    archives,
    assemble,
    check_listed,
    digest,
    expected,
    mirrored_labels,
    unofficial,
)
from repro.data.ssv2 import parse_ssv2
from repro.errors import ReproError, nearest

__all__ = [
    "DATASETS", "HELD_OUT", "MANIFEST", "OFFICIAL", "Clip", "Dataset", "DatasetInfo", "SplitList", "absent",
    "load_dataset", "mirrored_labels", "parse_hmdb51", "parse_kinetics", "parse_ssv2", "parse_ucf101", "unofficial",
]  # fmt: skip


MANIFEST = "manifest"  # Weizmann's split by manifest.csv; its others leave one person out
WEIZMANN_CLASSES = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")


def load_dataset(name: str, data_root: str | Path | None = None, *, allow_missing: bool = False) -> Dataset:
    """Catalogue of the data set `name` below `data_root` (default `$REPRO_DATA/<name>`, else `data/<name>`).

    Splits, the default first: weizmann "manifest" (if there is a manifest.csv), then one per person, named by the
    test person; ucf101 and hmdb51 "1" to "3"; kinetics400 and ssv2 "val" (training list against validation list), then
    "test" where clips of the test list are on disk and have labels; folder "file" (split.csv), else "stratified";
    motionshapes as it says. Listed clips that are not on disk are an error, or left out with `allow_missing` and named
    in the data set's `missing`; kinetics400, whose videos vanish from the web, always leaves them out as long as one
    is there. Videos that no official list names are left out. Raises ReproError for unknown names, missing folders and
    other layouts.
    """
    if name not in DATASETS:
        raise ReproError(f"unknown data set {name!r}{nearest(name, DATASETS)}: choose from {', '.join(DATASETS)}")
    root = Path(data_root or Path(os.environ.get("REPRO_DATA") or "data") / name).expanduser()
    if name == "motionshapes":  # rendered when needed: nothing has to be there
        return _motionshapes(root)
    loaders = {
        "weizmann": _weizmann, "ucf101": _ucf101, "hmdb51": _hmdb51, "kinetics400": _kinetics400, "ssv2": _ssv2,
        "folder": _folder,
    }  # fmt: skip
    if not root.is_dir():
        raise expected(name, f"no folder {root}", f"; source: {DATASETS[name].source}")
    try:
        return loaders[name](root, allow_missing)
    except OSError as error:
        raise ReproError(f"{name}: cannot read {root} ({error}): check the folder and its permissions") from error


def _motionshapes(root: Path) -> Dataset:
    from repro.data import motionshapes  # here, because it needs OpenCV and no other data set does

    tests = motionshapes.splits()
    clips = []
    for record in sorted(motionshapes.records()):
        sides = {split: PARTS[record.group in groups] for split, groups in tests.items()}
        clips.append(Clip(record.id, record.path, record.label, record.group, sides, record.tags))
    # The videos' bytes depend on the encoder, so the generator's version and its parameters stand for them.
    facts = [motionshapes.VERSION, *((clip.id, clip.label, clip.group, clip.splits, clip.tags) for clip in clips)]
    splits, classes = tuple(tests), tuple(motionshapes.CLASSES)
    return Dataset("motionshapes", root, classes, tuple(clips), splits, digest(facts), motionshapes.render)


def _weizmann(root: Path, allow_missing: bool) -> Dataset:
    """<person>_<action>[take].avi (lena_run1, lena_run2), flat or in class folders; ids are "<action>/<file name>"."""
    files: dict[str, File] = {}
    people: dict[str, str] = {}
    for file in scan(root).values():
        stem = file.id.rpartition("/")[2]
        match = re.fullmatch(rf"([^_]+)_({'|'.join(WEIZMANN_CLASSES)})[12]?", stem)
        if not match or file.id not in (stem, f"{match[2]}/{stem}"):
            raise expected("weizmann", f"{file.path!r} in {root} is no <person>_<action>.avi")
        id_ = f"{match[2]}/{stem}"
        if id_ in files:
            raise ReproError(f"weizmann: {file.path!r} and {files[id_].path!r} in {root} are the same clip: keep one")
        files[id_], people[id_] = file, match[1]
    persons = sorted(set(people.values()))
    if len(persons) < 2:
        raise expected("weizmann", f"{len(files)} videos of {len(persons)} people in {root}")
    splits = {person: {id_: PARTS[who == person] for id_, who in people.items()} for person in persons}
    missing: tuple[str, ...] = ()
    table = root / "manifest.csv"
    if table.is_file():
        header, *rows = table_rows(table) or [[]]
        if not {"path", "split"} <= set(header):
            raise ReproError(f"{table}: expected the columns path and split, found {header}")
        listed = table_splits(table, rows, (header.index("path"), header.index("split")))
        by_stem = {id_.rpartition("/")[2]: id_ for id_ in files}  # the videos may lie flat or in folders
        parts = {by_stem.get(id_.rpartition("/")[2], id_): part for id_, part in listed.items()}
        missing = check_listed("weizmann", root, parts, files, allow_missing)
        splits = {MANIFEST: parts, **splits}
    return replace(assemble("weizmann", root, WEIZMANN_CLASSES, files, splits, people), missing=missing)


def _ucf101(root: Path, allow_missing: bool) -> Dataset:
    lists = parse_ucf101(_find("ucf101", root, ("", "ucfTrainTestlist", "splits"), "classInd.txt"))
    groups = {id_: re.sub(r"/v_.*_(g\d+)_c\d+$", r"/\1", id_) for id_ in lists.labels}  # 25 source groups a class
    return _official("ucf101", root, ("UCF-101", "videos"), lists, groups, allow_missing)


def _hmdb51(root: Path, allow_missing: bool) -> Dataset:
    lists = parse_hmdb51(_find("hmdb51", root, ("", "testTrainMulti_7030_splits", "splits"), "*_test_split1.txt"))
    # <source>_<class>_<body parts>_<camera motion>_np<people>_<view>_<quality>_<number>; the official splits keep a
    # source on one side within a class, but not across classes (a film shows several actions).
    tail = r"_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+$"
    groups = {id_: re.sub(tail, "", id_).removesuffix("_" + id_.partition("/")[0]) for id_ in lists.labels}
    return _official("hmdb51", root, ("hmdb51_org", "videos"), lists, groups, allow_missing)


def _kinetics400(root: Path, _: bool) -> Dataset:
    return kinetics.load(root, _find("kinetics400", root, kinetics.FOLDERS, kinetics.PATTERN))


def _ssv2(root: Path, allow_missing: bool) -> Dataset:
    return ssv2.load(root, _find("ssv2", root, ssv2.FOLDERS, ssv2.PATTERN), allow_missing)


def _find(name: str, root: Path, folders: Iterable[str], pattern: str) -> Path:
    """The first of the usual folders that holds the split lists."""
    for folder in folders:
        if any((root / folder).glob(pattern)):
            return root / folder
    problem = f"no official split lists ({pattern}) in {root}{archives(root)}"
    raise expected(name, problem, f"; source: {DATASETS[name].source}")


def _official(
    name: str, root: Path, bases: Iterable[str], lists: Lists, groups: Mapping[str, str], allow_missing: bool
) -> Dataset:
    """Videos of official lists; folder and file names may differ in case (HandStandPushups) and suffix (.mp4)."""
    base = next((folder for folder in bases if (root / folder).is_dir()), "")
    found = scan(root, base)
    on_disk = {id_.lower(): file for id_, file in found.items()}
    files = {id_: on_disk[id_.lower()] for id_ in lists.labels if id_.lower() in on_disk}
    unlisted = tuple(sorted({file.path for file in found.values()} - {file.path for file in files.values()}))
    missing = check_listed(name, root, lists.labels, files, allow_missing, unlisted)
    return replace(assemble(name, root, lists.classes, files, lists.splits, groups), missing=missing, unlisted=unlisted)


def _folder(root: Path, allow_missing: bool) -> Dataset:
    """<class>/<video>. `split.csv` (lines path,train or path,test; a header "path,split" may stand first) gives the
    split "file". Without it, split "stratified": in each class the ids are sorted by their blake2b hash and the first
    30 % (rounded, at least one) are test, the rest train. Every clip is its own group."""
    files = scan(root)
    members: dict[str, list[str]] = defaultdict(list)
    for id_ in files:
        members[id_.rpartition("/")[0]].append(id_)
    if len(members) < 2 or "" in members:
        raise expected("folder", f"{len(members)} folders with videos ({len(members[''])} videos in none) in {root}")
    table = root / "split.csv"
    missing: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    if table.is_file():
        rows = [row for row in table_rows(table) if row[:2] != ["path", "split"]]
        parts = table_splits(table, rows, (0, 1))
        unlisted = tuple(sorted(files[id_].path for id_ in files.keys() - parts.keys()))
        missing = check_listed("folder", root, parts, files, allow_missing, unlisted)
    else:
        parts = {}
        for name, ids in members.items():
            if len(ids) < 2:
                raise ReproError(f"folder: class {name!r} in {root} has one video: add another or write a split.csv")
            n_test = max(1, round(0.3 * len(ids)))
            parts |= {id_: PARTS[rank < n_test] for rank, id_ in enumerate(sorted(ids, key=digest))}
    splits = {"file" if table.is_file() else "stratified": parts}
    dataset = assemble("folder", root, tuple(sorted(members)), files, splits, {id_: id_ for id_ in files})
    return replace(dataset, missing=missing, unlisted=unlisted)
