"""Data sets as flat lists of clips: which video, which class, which person or source, which side of which split.

`load_dataset` reads folders and official split lists only; no video is opened. See `DATASETS` for the expected layouts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from repro.data.facts import DATASETS, OFFICIAL, DatasetInfo, SplitList
from repro.data.layouts import PARTS, File, Lists, parse_hmdb51, parse_ucf101, scan, table_rows, table_splits
from repro.errors import ReproError, nearest

__all__ = [
    "DATASETS", "MANIFEST", "OFFICIAL", "Clip", "Dataset", "DatasetInfo", "SplitList", "load_dataset", "parse_hmdb51",
    "parse_ucf101", "unofficial",
]  # fmt: skip


MANIFEST = "manifest"  # Weizmann's split by manifest.csv; its others leave one person out
WEIZMANN_CLASSES = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")


@dataclass(frozen=True)
class Clip:
    """One video of a data set."""

    id: str  # unique and stable, posix, without suffix: "bend/daria_bend"
    path: str  # of the video, relative to the data root, posix
    label: int
    group: str  # person or source video: never on both sides of a split
    splits: Mapping[str, str] = field(default_factory=dict, hash=False)  # split -> "train" | "test"; absent: neither
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)  # the data set's own facts (motionshapes)


@dataclass(frozen=True)
class Dataset:
    """Clips sorted by id. `fingerprint` (16 hex digits) changes with ids, labels, splits and file sizes."""

    name: str
    root: Path
    classes: tuple[str, ...]
    clips: tuple[Clip, ...] = field(repr=False)
    splits: tuple[str, ...]  # the first is the default
    fingerprint: str
    render: Callable[[str, Path], None] | None = None  # writes the video of a clip id (procedural data)
    missing: tuple[str, ...] = field(default=(), repr=False)  # ids that a list names and the disk lacks: left out
    unlisted: tuple[str, ...] = field(default=(), repr=False)  # paths of videos on disk that no list names
    listed: Mapping[str, SplitList] = field(default_factory=dict, hash=False, repr=False)

    def select(self, split: str, part: str) -> tuple[Clip, ...]:
        """Clips of `part` ("train" or "test") of `split`, sorted by id. None, or an unknown name: ReproError."""
        for what, given, known in (("split", split, self.splits), ("part", part, PARTS)):
            if given not in known:
                names = ", ".join(known)
                raise ReproError(f"{self.name} has no {what} {given!r}{nearest(given, known)}: choose from {names}")
        chosen = tuple(clip for clip in self.clips if clip.splits.get(split) == part)
        if not chosen:
            raise ReproError(
                f"{self.name}: split {split!r} has no {part} clips in {self.root}: complete videos or list"
            )
        return chosen

    def video(self, clip: Clip) -> Path:
        """Absolute path of the clip's video, which procedural data sets write on first use (whole file or nothing)."""
        path = (self.root / clip.path).absolute()
        if self.render is None or path.exists():
            return path
        scratch = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")  # same folder: the rename below is atomic
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.render(clip.id, scratch)
                scratch.replace(path)
            finally:
                scratch.unlink(missing_ok=True)
        except OSError as error:
            raise ReproError(f"cannot write {path} ({error}): give a data_root with write access and space") from error
        return path


def unofficial(dataset: Dataset) -> str:
    """What tells the split lists of a loaded data set from the official ones, in one clause; "" where nothing does.

    Compared are the class number and the clips that each split's lists name, whether they are on disk or not, and which
    side they are on. Always ""
    for data sets without official lists. Splits that are not there at all are no difference: none can be asked for.
    """
    if dataset.name not in OFFICIAL:
        return ""
    classes, splits = OFFICIAL[dataset.name]
    differences = [f"{len(dataset.classes)} classes in place of {classes}"] if len(dataset.classes) != classes else []
    others = [split for split, found in dataset.listed.items() if found != splits.get(split)]
    if others:
        found, official = dataset.listed[others[0]], splits.get(others[0])
        if official is None:
            what = f"{found.train} training and {found.test} test clips, which is no official split"
        elif found[:2] == official[:2]:
            what = "the right numbers of clips but not the same ones"
        else:
            what = (
                f"{found.train} training and {found.test} test clips in place of {official.train} and {official.test}"
            )
        more = f", and {', '.join(others[1:])} differ too" if others[1:] else ""
        differences.append(f"split {others[0]} has {what}{more}")
    return f"{', '.join(differences)}: a subset, or lists of another version" if differences else ""


def load_dataset(name: str, data_root: str | Path | None = None, *, allow_missing: bool = False) -> Dataset:
    """Catalogue of the data set `name` below `data_root` (default `$REPRO_DATA/<name>`, else `data/<name>`).

    Splits, the default first: weizmann "manifest" (if there is a manifest.csv), then one per person, named by the
    test person; ucf101 and hmdb51 "1" to "3"; folder "file" (split.csv), else "stratified"; motionshapes
    as it says. Listed clips that are not on disk are an error, or left out with `allow_missing` and named in the data
    set's `missing`. Videos that no official list names are left out. Raises ReproError for unknown names, missing
    folders and other layouts.
    """
    if name not in DATASETS:
        raise ReproError(f"unknown data set {name!r}{nearest(name, DATASETS)}: choose from {', '.join(DATASETS)}")
    root = Path(data_root or Path(os.environ.get("REPRO_DATA") or "data") / name).expanduser()
    if name == "motionshapes":  # rendered when needed: nothing has to be there
        return _motionshapes(root)
    loaders = {"weizmann": _weizmann, "ucf101": _ucf101, "hmdb51": _hmdb51, "folder": _folder}
    if not root.is_dir():
        raise _expected(name, f"no folder {root}", f"; source: {DATASETS[name].source}")
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
    return Dataset("motionshapes", root, classes, tuple(clips), splits, _digest(facts), motionshapes.render)


def _weizmann(root: Path, allow_missing: bool) -> Dataset:
    """<person>_<action>[take].avi (lena_run1, lena_run2), flat or in class folders; ids are "<action>/<file name>"."""
    files: dict[str, File] = {}
    people: dict[str, str] = {}
    for file in scan(root).values():
        stem = file.id.rpartition("/")[2]
        match = re.fullmatch(rf"([^_]+)_({'|'.join(WEIZMANN_CLASSES)})[12]?", stem)
        if not match or file.id not in (stem, f"{match[2]}/{stem}"):
            raise _expected("weizmann", f"{file.path!r} in {root} is no <person>_<action>.avi")
        id_ = f"{match[2]}/{stem}"
        if id_ in files:
            raise ReproError(f"weizmann: {file.path!r} and {files[id_].path!r} in {root} are the same clip: keep one")
        files[id_], people[id_] = file, match[1]
    persons = sorted(set(people.values()))
    if len(persons) < 2:
        raise _expected("weizmann", f"{len(files)} videos of {len(persons)} people in {root}")
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
        missing = _check_listed("weizmann", root, parts, files, allow_missing)
        splits = {MANIFEST: parts, **splits}
    return replace(_dataset("weizmann", root, WEIZMANN_CLASSES, files, splits, people), missing=missing)


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


def _find(name: str, root: Path, folders: Iterable[str], pattern: str) -> Path:
    """The first of the usual folders that holds the split lists."""
    for folder in folders:
        if any((root / folder).glob(pattern)):
            return root / folder
    problem = f"no official split lists ({pattern}) in {root}{_archives(root)}"
    raise _expected(name, problem, f"; source: {DATASETS[name].source}")


def _official(
    name: str, root: Path, bases: Iterable[str], lists: Lists, groups: Mapping[str, str], allow_missing: bool
) -> Dataset:
    """Videos of official lists; folder and file names may differ in case (HandStandPushups) and suffix (.mp4)."""
    base = next((folder for folder in bases if (root / folder).is_dir()), "")
    found = scan(root, base)
    on_disk = {id_.lower(): file for id_, file in found.items()}
    files = {id_: on_disk[id_.lower()] for id_ in lists.labels if id_.lower() in on_disk}
    unlisted = tuple(sorted({file.path for file in found.values()} - {file.path for file in files.values()}))
    missing = _check_listed(name, root, lists.labels, files, allow_missing, unlisted)
    return replace(_dataset(name, root, lists.classes, files, lists.splits, groups), missing=missing, unlisted=unlisted)


def _folder(root: Path, allow_missing: bool) -> Dataset:
    """<class>/<video>. `split.csv` (lines path,train or path,test; a header "path,split" may stand first) gives the
    split "file". Without it, split "stratified": in each class the ids are sorted by their blake2b hash and the first
    30 % (rounded, at least one) are test, the rest train. Every clip is its own group."""
    files = scan(root)
    members: dict[str, list[str]] = defaultdict(list)
    for id_ in files:
        members[id_.rpartition("/")[0]].append(id_)
    if len(members) < 2 or "" in members:
        raise _expected("folder", f"{len(members)} folders with videos ({len(members[''])} videos in none) in {root}")
    table = root / "split.csv"
    missing: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    if table.is_file():
        rows = [row for row in table_rows(table) if row[:2] != ["path", "split"]]
        parts = table_splits(table, rows, (0, 1))
        unlisted = tuple(sorted(files[id_].path for id_ in files.keys() - parts.keys()))
        missing = _check_listed("folder", root, parts, files, allow_missing, unlisted)
    else:
        parts = {}
        for name, ids in members.items():
            if len(ids) < 2:
                raise ReproError(f"folder: class {name!r} in {root} has one video: add another or write a split.csv")
            n_test = max(1, round(0.3 * len(ids)))
            parts |= {id_: PARTS[rank < n_test] for rank, id_ in enumerate(sorted(ids, key=_digest))}
    splits = {"file" if table.is_file() else "stratified": parts}
    dataset = _dataset("folder", root, tuple(sorted(members)), files, splits, {id_: id_ for id_ in files})
    return replace(dataset, missing=missing, unlisted=unlisted)


def _dataset(
    name: str,
    root: Path,
    classes: tuple[str, ...],
    files: Mapping[str, File],
    splits: Mapping[str, Mapping[str, str]],
    groups: Mapping[str, str],
) -> Dataset:
    """Assemble clips from files keyed by id "<class>/<name>"; checks that no group is on both sides of a split."""
    clips, facts = [], []
    for id_ in sorted(files):
        label = classes.index(id_.partition("/")[0])
        sides = {split: parts[id_] for split, parts in splits.items() if id_ in parts}
        clips.append(Clip(id_, files[id_].path, label, groups[id_], sides))
        facts.append((id_, label, sides, files[id_].size))
    listed = {}
    for split, parts in splits.items():
        sides_of_all = list(parts.values())
        listed[split] = SplitList(
            sides_of_all.count("train"), sides_of_all.count("test"), _digest(sorted(parts.items()))
        )
        train, test = ({groups.get(id_, id_) for id_, side in parts.items() if side == part} for part in PARTS)
        if train & test:
            raise ReproError(
                f"{name}: {min(train & test)!r} is in train and test of {split!r} in {root}: repair the split"
            )
    return Dataset(name, root, classes, tuple(clips), tuple(splits), _digest(facts), listed=listed)


def _digest(value: object) -> str:
    """16 hex digits of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _expected(name: str, problem: str, hint: str = "") -> ReproError:
    return ReproError(f"{name}: {problem}; expected {DATASETS[name].layout}{hint}")


def _check_listed(
    name: str,
    root: Path,
    listed: Collection[str],
    found: Collection[str],
    allow_missing: bool,
    unlisted: Sequence[str] = (),
) -> tuple[str, ...]:
    """The ids that a list names and the disk lacks; an error unless they may be left out and some remain."""
    missing = tuple(sorted(set(listed) - set(found)))
    if missing and not (allow_missing and len(missing) < len(set(listed))):
        hint = "" if found else _archives(root)
        if unlisted:
            are = "1 video is" if len(unlisted) == 1 else f"{len(unlisted)} videos are"
            hint = f"; {are} in no list, e.g. {unlisted[0]}: renamed?"
        raise _expected(
            name, f"{len(missing)} of {len(set(listed))} listed clips are missing in {root}: {_some(missing)}{hint}"
        )
    return missing


def _archives(root: Path) -> str:
    """A word on downloads that lie where their contents should."""
    names = sorted(path.name for path in root.iterdir() if path.suffix in (".rar", ".zip"))
    return f", but archives ({_some(names)}): unpack them" if names else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
