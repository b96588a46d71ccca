"""What is kept of a run: one JSON row with its provenance, and one compressed file of arrays.

Recorded rows live in `book/results/<paper>/<dataset>/`, a user's own in `runs/`. A row is found by its key, which is a
hash of everything that decides the outcome except the code; whether the code still gives the same is what the first
losses are stored for.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro.errors import ReproError

FIRST = 3  # losses by which a run is recognised
TOLERANCE = 5e-3  # in nats; other processors and decoder builds move the first losses by less, other code by more

MIXED = " + "  # between the devices of a run that several had a part in


def run_key(decides: Mapping[str, Any]) -> str:
    """A 16-character hash of a nested mapping of plain values, independent of the order of its keys."""
    text = json.dumps(decides, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Result:
    """A finished run: its row and its arrays.

    Arrays: `test_<output>` and `train_<output>` logits (clips, classes); `test_ids`, `test_labels`, `test_groups` and
    the same for `train_`; `losses` (iterations,); anything a figure needs under other names.
    """

    row: dict[str, Any]
    arrays: dict[str, np.ndarray]
    recorded: bool = False

    @property
    def key(self) -> str:
        return str(self.row["key"])

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs whose logits are stored."""
        return list(self.row["outputs"])

    def logits(self, output: str, part: str = "test") -> np.ndarray:
        """(clips, classes) float32."""
        return self.arrays[f"{part}_{output}"].astype(np.float32)

    def labels(self, part: str = "test") -> np.ndarray:
        return self.arrays[f"{part}_labels"].astype(np.int64)

    def ids(self, part: str = "test") -> list[str]:
        return [str(i) for i in self.arrays[f"{part}_ids"]]

    def groups(self, part: str = "test") -> np.ndarray:
        return self.arrays[f"{part}_groups"]


def compact(scores: np.ndarray) -> np.ndarray:
    """Scores as float16, or as float32 where one of them is too large for that."""
    large = np.abs(scores[np.isfinite(scores)]).max(initial=0) > np.finfo(np.float16).max
    return scores.astype(np.float32 if large else np.float16)


def write(result: Result, folder: Path) -> Path:
    """Write `<name>-<split>-<seed>-<key>.npz`, then the `.json` row beside it, each whole or not at all."""
    row = result.row
    for name, array in result.arrays.items():
        if array.dtype == object:
            raise TypeError(f"array {name!r} holds Python objects: numpy would pickle it, and `read` refuses pickles")
    folder = folder / str(row["paper"]) / str(row["dataset"])
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{row['experiment']}-{row['split']}-s{row['seed']}-{row['key'][:8]}".replace("@", "-").replace("/", "-")
    partial = folder / f".{stem}.{os.getpid()}.npz"
    try:
        _save(partial, result.arrays)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(folder / f"{stem}.npz")
    text = json.dumps(row, indent=1, sort_keys=True) + "\n"
    partial = partial.with_suffix(".json")
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / f"{stem}.json")
    return folder / f"{stem}.json"


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Like `numpy.savez_compressed`, which `numpy.load` reads too, but compressed so that lists of ids halve."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read(path: Path, recorded: bool = False) -> Result:
    """Read a row and its arrays."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        with path.with_suffix(".npz").open("rb") as file, np.load(file, allow_pickle=False) as data:
            if data.zip.testzip() is not None:  # numpy stops reading before the checksum is compared
                raise zipfile.BadZipFile
            arrays = {k: data[k] for k in data.files}
    except Exception as error:
        raise ReproError(
            f"{path}: the result cannot be read ({type(error).__name__}): delete it and run again"
        ) from error
    return Result(row, arrays, recorded)


def rows(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All rows below a folder, sorted by path."""
    for path in sorted(folder.rglob("[!.]*.json")) if folder.is_dir() else []:
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ReproError(f"{path}: the row is damaged ({error}): delete it and run again") from error
        if isinstance(row, dict) and "key" in row:
            yield path, row


class Library:
    """Finished runs in one or more folders, found by key. The first folder is where new ones are written."""

    def __init__(self, own: Path, recorded: Path | None = None) -> None:
        self.own, self.recorded = own, recorded
        self._paths: dict[str, tuple[Path, bool]] = {}
        self.rows: dict[str, dict[str, Any]] = {}  # key -> row
        for folder, is_recorded in ((recorded, True), (own, False)):
            for path, row in rows(folder) if folder else []:
                self._paths[row["key"]] = (path, is_recorded)
                self.rows[row["key"]] = row

    def __contains__(self, key: str) -> bool:
        return key in self._paths

    def get(self, key: str) -> Result:
        path, is_recorded = self._paths[key]
        return read(path, is_recorded)

    def put(self, result: Result) -> Path:
        path = write(result, self.own)
        self._paths[result.key] = (path, False)
        self.rows[result.key] = result.row
        return path


def provenance(device: str) -> dict[str, Any]:
    """Where and with what a run was made. `device`: all that had a part in it, what it starts from included, in order,
    with `MIXED` between them."""
    packages = ("torch", "torchvision", "numpy", "opencv-contrib-python-headless", "decord", "av")
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": device,
        "python": platform.python_version(),
        "versions": {p: _version(p) for p in packages},
    }


def repeats(row: Mapping[str, Any], losses: list[float]) -> bool:
    """Whether the first losses of a new run are those of a row (within `TOLERANCE`)."""
    old = row["provenance"]["first_losses"]
    return len(losses) >= len(old) and all(abs(a - b) <= TOLERANCE for a, b in zip(old, losses, strict=False))


def comparable(row: Mapping[str, Any], device: str) -> bool:
    """Whether losses of a run can be compared with those of a "cpu" or "cuda" device: no other kind had a part in it.

    Training on a GPU is in bf16, which has other bits. Several processes (`repro.parallel`) have other dropout,
    compiled networks other sums and nvJPEG other pictures: what such a run was called has more than a device's name.
    """
    names = row["provenance"]["device"].split(MIXED)
    return all(on_cpu(name) == (device == "cpu") and plain_name(name) == name for name in names)


def plain_name(name: str) -> str:
    """The device in what `repro.training.train` calls it: "2 x cpu compiled" is "cpu"."""
    return re.sub(r"^\d+ x |( compiled| nvJPEG)*$", "", name)


def on_cpu(name: str) -> bool:
    """Whether that is a CPU."""
    return plain_name(name) == "cpu"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """Commit of the code, with `+dirty` when its files, new ones too, differ from it; `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
