"""What a pass over all videos of a data set found, kept beside them so that nobody has to read them twice.

The index is a hidden file in the data root. An entry counts only as long as its video has the same size and time of
change; a damaged index, or one of another version, is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

NAME, VERSION = ".repro-index.json", 1


@dataclass(frozen=True)
class Facts:
    """One video. Sizes in px, after rotation; `frames` counts those that decode, 0 when none does."""

    size: int  # bytes of the file
    mtime_ns: int
    frames: int
    height: int
    width: int
    fps: float
    codec: str
    flaws: str = ""  # frames that are missing or damaged, in a video that will do
    error: str = ""  # why it cannot be used


def inspect(path: str | Path) -> Facts:
    """Decode a video from its first frame to its last, keeping none. Whatever is wrong with it is in the facts."""
    from repro.data.video import VideoError, probe  # here, because to read an index no decoder has to be imported

    try:
        found = os.stat(path)
        with open(path, "rb"):
            pass
    except OSError as error:  # a permission that may come back: no file has this size, so the entry never counts
        return Facts(-1, -1, 0, 0, 0, 0.0, "", error=f"cannot be read ({error.strerror})")
    try:
        info = probe(path)
    except VideoError as error:
        why = str(error).removeprefix(f"{path}: ")
        return Facts(found.st_size, found.st_mtime_ns, 0, 0, 0, 0.0, "", error=why)
    return Facts(
        found.st_size, found.st_mtime_ns, info.frames, info.height, info.width, info.fps, info.codec, info.flaws
    )


def read_index(root: str | Path) -> dict[str, Facts]:
    """Facts by path (posix, below `root`) of the videos that have not changed since they were read."""
    return {path: facts for path, facts in _stored(Path(root)).items() if _unchanged(f"{root}/{path}", facts)}


def _unchanged(path: str, facts: Facts) -> bool:
    """Whether the file is there with the size and the time of change that it had when it was read."""
    try:
        found = os.stat(path)  # no Path: it takes longer than the call itself
    except (OSError, ValueError):  # ValueError: no system has such a name
        return False
    return (found.st_size, found.st_mtime_ns) == (facts.size, facts.mtime_ns)


def write_index(root: str | Path, index: Mapping[str, Facts]) -> None:
    """Write the index, whole or not at all. Raises OSError where the folder cannot be written."""
    path = Path(root) / NAME
    text = json.dumps({"version": VERSION, "videos": {name: asdict(index[name]) for name in sorted(index)}})
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=root)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's files are for their owner alone
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _stored(root: Path) -> dict[str, Facts]:
    types: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}
    kinds = {f.name: types[str(f.type)] for f in fields(Facts)}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        found = json.loads((root / NAME).read_text(encoding="utf-8"))
        entries = found["videos"].items() if found["version"] == VERSION else ()
        if all(set(e) == set(kinds) and all(isinstance(e[k], kinds[k]) for k in kinds) for _, e in entries):
            return {path: Facts(**entry) for path, entry in entries}
    return {}
