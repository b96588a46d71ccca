"""The records that every data set is read into, and the checks that all of them pass."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from repro.data.facts import DATASETS, OFFICIAL, SplitList
from repro.data.layouts import PARTS, File, Lists
from repro.errors import ReproError, nearest

HELD_OUT = "test"  # split of a test list, beside that of the validation list, on which papers report
SWAP = {a: b for pair in ("left right", "Left Right", "LEFT RIGHT") for a, b in (pair.split(), pair.split()[::-1])}


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

    @property
    def mirrored(self) -> tuple[int, ...]:
        """The label of each class's clips once they are mirrored left to right (`mirrored_labels`)."""
        return mirrored_labels(self.classes)

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


def mirrored_labels(classes: Sequence[str]) -> tuple[int, ...]:
    """For each class its label in the mirror: that of the class whose name has left and right swapped, if there is one.

    All other classes keep their own label, "pulling it right out" and a left without a right among them. In a mirror
    "Pushing something from left to right" is "... from right to left".
    """
    label_of = {name: label for label, name in enumerate(classes)}
    swapped = (re.sub(rf"(?<![A-Za-z])({'|'.join(SWAP)})(?![A-Za-z])", lambda m: SWAP[m[1]], name) for name in classes)
    return tuple(label_of.get(name, label) for label, name in enumerate(swapped))


def absent(dataset: Dataset) -> str:
    """How many clips of each list are not on disk, in one clause; "" when all are there."""
    here: dict[tuple[str, str], int] = {}
    for clip in dataset.clips:
        for side in clip.splits.items():
            here[side] = here.get(side, 0) + 1
    counts = []
    for split, listed in dataset.listed.items():
        for part, count in zip(PARTS, listed[:2], strict=True):
            if gone := count - here.get((split, part), 0):
                counts.append(f"{gone} of {count} {part} clips of split {split}")
    are = "1 listed clip is" if len(dataset.missing) == 1 else f"{len(dataset.missing)} listed clips are"
    return f"{are} not on disk: {', '.join(counts)}" if dataset.missing else ""


def unofficial(dataset: Dataset) -> str:
    """What tells the split lists of a loaded data set from the official ones, in one clause; "" where nothing does.

    Compared are the class number and the clips that each split's lists name, whether they are on disk or not, and which
    side they are on; only the numbers of clips where no more is known of the official lists (`SplitList.digest` ""). ""
    for data sets without official lists. Splits that are not there at all are no difference: none can be asked for.
    """
    if dataset.name not in OFFICIAL:
        return ""
    classes, splits = OFFICIAL[dataset.name]
    differences = [f"{len(dataset.classes)} classes in place of {classes}"] if len(dataset.classes) != classes else []
    others = [split for split, found in dataset.listed.items() if not _same(found, splits.get(split))]
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


def _same(found: SplitList, official: SplitList | None) -> bool:
    if official is not None and not official.digest:
        return found[:2] == official[:2]
    return found == official


def assemble(
    name: str,
    root: Path,
    classes: tuple[str, ...],
    files: Mapping[str, File],
    splits: Mapping[str, Mapping[str, str]],
    groups: Mapping[str, str],
) -> Dataset:
    """Assemble clips from files keyed by id "<class>/<name>"; checks that no group is on both sides of a split."""
    clips, facts = [], []
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    for id_ in sorted(files):
        label = label_of[id_.partition("/")[0]]
        sides = {split: parts[id_] for split, parts in splits.items() if id_ in parts}
        clips.append(Clip(id_, files[id_].path, label, groups[id_], sides))
        facts.append((id_, label, sides, files[id_].size))
    listed = {}
    for split, parts in splits.items():
        sides_of_all = list(parts.values())
        listed[split] = SplitList(
            sides_of_all.count("train"), sides_of_all.count("test"), digest(sorted(parts.items()))
        )
        train, test = ({groups.get(id_, id_) for id_, side in parts.items() if side == part} for part in PARTS)
        if train & test:
            raise ReproError(
                f"{name}: {min(train & test)!r} is in train and test of {split!r} in {root}: repair the split"
            )
    return Dataset(name, root, classes, tuple(clips), tuple(splits), digest(facts), listed=listed)


def from_lists(
    name: str,
    root: Path,
    found: Iterable[File],
    lists: Lists,
    *,
    group_of: Callable[[str], str],
    allow_missing: bool,
    replaces: Callable[[File], bool] = lambda _: False,
) -> Dataset:
    """Data set of lists whose file names are unique: the folders that the videos lie in do not matter.

    `group_of` maps a file name without suffix to its group. A file for which `replaces` holds is taken in place of
    another of its name. Split `HELD_OUT` is left out where none of its clips is on disk.
    """
    stem = {id_: id_.partition("/")[2] for id_ in lists.labels}
    videos, others = _one_each(root, found, lists.unlabelled | {*stem.values()}, replaces)
    splits = dict(lists.splits)
    if not any(part == "test" and stem[id_] in videos for id_, part in splits.get(HELD_OUT, {}).items()):
        splits.pop(HELD_OUT, None)
    listed = {id_ for parts in splits.values() for id_ in parts}
    files = {id_: videos[stem[id_]] for id_ in listed if stem[id_] in videos}
    unlisted = tuple(sorted(file.path for file in others))
    missing = check_listed(name, root, listed, files, allow_missing, unlisted)
    groups = {id_: group_of(stem[id_]) for id_ in listed}
    return replace(assemble(name, root, lists.classes, files, splits, groups), missing=missing, unlisted=unlisted)


def _one_each(
    root: Path, found: Iterable[File], listed: Container[str], replaces: Callable[[File], bool]
) -> tuple[dict[str, File], list[File]]:
    """Videos by file name without suffix, and those whose name is not in `listed`. Links to one file count once."""
    chosen: dict[str, File] = {}
    others = []
    for file in sorted(found, key=lambda file: (not replaces(file), file.path)):
        stem = file.id.rpartition("/")[2]
        if stem not in listed:
            others.append(file)
        elif stem not in chosen:
            chosen[stem] = file
        elif not replaces(chosen[stem]) and not (root / file.path).samefile(root / chosen[stem].path):
            raise ReproError(f"two videos in {root} share a name, {chosen[stem].path!r} and {file.path!r}: keep one")
    return chosen, others


def digest(value: object) -> str:
    """16 hex digits of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def expected(name: str, problem: str, hint: str = "") -> ReproError:
    return ReproError(f"{name}: {problem}; expected {DATASETS[name].layout}{hint}")


def check_listed(
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
        hint = "" if found else archives(root)
        if unlisted:
            are = "1 video is" if len(unlisted) == 1 else f"{len(unlisted)} videos are"
            hint = f"; {are} in no list, e.g. {unlisted[0]}: renamed?"
        raise expected(
            name, f"{len(missing)} of {len(set(listed))} listed clips are missing in {root}: {some(missing)}{hint}"
        )
    return missing


def archives(root: Path) -> str:
    """A word on downloads that lie where their contents should."""
    names = sorted(path.name for path in root.iterdir() if path.suffix in (".rar", ".zip", ".tgz", ".gz"))
    return f", but archives ({some(names)}): unpack them" if names else ""


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
