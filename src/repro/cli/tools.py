"""`repro doctor`, `run` and `reported`."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro.cli.console import table
from repro.data.video import read_frames, write_video
from repro.errors import ReproError, nearest
from repro.flow.tvl1 import tvl1
from repro.papers import reported as published
from repro.results import rows
from repro.setup import recorded_folder, runs_folder

NEEDED = ("torch", "torchvision", "numpy", "numba", "scipy", "scikit-learn", "av", "opencv-contrib-python-headless")
NEEDED_BY_NOTEBOOKS = ("papermill", "nbformat", "ipykernel", "matplotlib", "seaborn")
ROOM = 2e9  # bytes free without which extracting flow soon ends


# ---------------------------------------------------------------- doctor


def doctor(options: Namespace) -> int:
    """Look at everything that a run needs; exit status 1 if something is missing."""
    findings = [("ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")]
    for package in (*NEEDED, *NEEDED_BY_NOTEBOOKS):
        findings.append(_package(package, "MISSING"))
    findings.append(_package("decord", "note", ": videos are decoded by PyAV, which is slower"))
    for program in ("uv", "git"):
        found = shutil.which(program) or (".tools/bin/uv" if program == "uv" and Path(".tools/bin/uv").exists() else "")
        findings.append(("ok", f"{program}: {found}") if found else ("note", f"no {program} on the PATH"))
    findings.append(("ok", f"{os.cpu_count()} processors, torch uses {torch.get_num_threads()} threads"))
    cuda = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    findings += [("ok", f"cuda:{i}: {name}") for i, name in enumerate(cuda)] or [("note", "no CUDA: runs use the CPU")]
    findings += [_attempt("decoding", _try_decoding), _attempt("optical flow", _try_flow)]
    for what, folder in (
        ("store", Path(options.store or os.environ.get("REPRO_STORE") or "store")),
        ("runs", runs_folder()),
    ):
        findings += _room(what, folder)
    recorded = recorded_folder()
    count = sum(1 for _ in rows(recorded)) if recorded else 0
    findings.append(
        ("ok", f"{count} recorded results in {recorded}") if count else ("note", "no recorded results found")
    )
    print("\n".join(f"{state:8}{text}" for state, text in findings))
    missing = sum(state == "MISSING" for state, _ in findings)
    print(f"\n{missing} things are missing" if missing else "\neverything needed is there")
    return 1 if missing else 0


def _package(name: str, otherwise: str, hint: str = "") -> tuple[str, str]:
    try:
        return "ok", f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        if name.startswith("opencv") and importlib.util.find_spec("cv2"):
            return "note", f"no {name}, but another cv2: the optical flow below says whether it will do"
        return otherwise, f"{name} is not installed{hint}"


def _attempt(what: str, trial: Callable[[], str]) -> tuple[str, str]:
    try:
        return "ok", f"{what}: {trial()}"
    except Exception as error:  # whatever is wrong is what is asked for
        return "MISSING", f"{what}: {type(error).__name__}: {error}"


def _try_decoding() -> str:
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        write_video(Path(folder) / "a.avi", frames)
        by = "decord" if importlib.util.find_spec("decord") else "pyav"
        return f"{len(read_frames(Path(folder) / 'a.avi', backend=by))} frames written and read by {by}"


def _try_flow() -> str:
    first, second = _moved(48, 64)
    found = float(tvl1(first, second)[0, 0, 12:36, 16:48].median())
    if not 0.8 < found < 1.2:
        raise ReproError(f"a picture moved by 1 px has flow {found:.2f} px")
    return f"a picture moved by 1 px has flow {found:.2f} px"


def _room(what: str, folder: Path) -> list[tuple[str, str]]:
    """Whether files can be made in a folder, or in what there is of it, and the room on its disk."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return [("MISSING", f"{what} {folder}: cannot write in {there} ({error.strerror})")]
    free = shutil.disk_usage(there).free
    return [("ok" if free > ROOM else "note", f"{what} {folder}: writable, {free / 1e9:.1f} GB free")]


# ---------------------------------------------------------------- notebooks and published numbers


def run_notebook(options: Namespace) -> int:
    """Execute a notebook with papermill after checking names and types of its parameters."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    source = _notebook(options.notebook)
    if Path(options.out).resolve() == source.resolve():
        raise ReproError(f"{options.out} is the notebook itself: give another file with -o")
    known = papermill.inspect_notebook(str(source))
    values = typed_parameters(options.parameters, {name: facts["default"] for name, facts in known.items()})
    try:
        papermill.execute_notebook(
            str(source), options.out, values, kernel_name="python3", progress_bar=sys.stderr.isatty()
        )
    except PapermillExecutionError as error:
        kind = "" if error.ename == "ReproError" else f"{error.ename}: "
        raise ReproError(f"{source.name}: {kind}{error.evalue} (what ran is in {options.out})") from error
    print(f"{options.out} is complete")
    return 0


def _notebook(name: str) -> Path:
    for path in (Path(name), Path("notebooks") / f"{name}.ipynb"):
        if path.is_file():
            return path
    known = sorted(p.stem for p in Path("notebooks").glob("*.ipynb"))
    raise ReproError(
        f"no notebook {name}{nearest(name, known)}: give a file, or one of {', '.join(known) or 'none here'}"
    )


def typed_parameters(given: list[list[str]], defaults: Mapping[str, str]) -> dict[str, Any]:
    """Values with the types of the notebook's defaults (Python source); an unknown name is an error.

    papermill by itself takes any name and turns `01` into 1 even where a text is expected.
    """
    values: dict[str, Any] = {}
    for name, text in given:
        if name not in defaults:
            raise ReproError(f"'{name}' is no parameter{nearest(name, defaults)}: use {', '.join(defaults)}")
        default = ast.literal_eval(defaults[name])
        values[name] = typed(text, default, name)
    return values


def typed(text: str, like: Any, name: str) -> Any:
    """`text` as a value of the type that `like` has; a tuple is numbers with commas between them."""
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(like, tuple):
            return tuple(float(part) if "." in part or "e" in part else int(part) for part in text.split(",") if part)
        return type(like)(text)
    except (KeyError, ValueError):
        raise ReproError(f"{name}={text!r}: {type(like).__name__} expected, such as {like!r}") from None


def reported(options: Namespace) -> int:
    """The published cells of a paper, as a table or as JSON."""
    if options.json:
        print(published.as_json(options.paper))
        return 0
    cells = published.reported(options.paper)
    found = [(c.table, c.row, c.column, "-" if c.value is None else str(c.value), c.unit) for c in cells]
    print(table(("table", "row", "column", "value", "unit"), found))
    return 0


def _texture(height: int, width: int) -> np.ndarray:
    """A smooth random picture (H, W), 0-255, that repeats at its right edge."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(2 * np.pi * (rng.integers(1, 12) * x / width + rng.integers(-9, 9) * y / height) + rng.uniform(0, 6))
        for _ in range(24)
    ]
    picture = np.sum(waves, axis=0)
    return np.asarray((picture - picture.min()) / np.ptp(picture) * 255, np.float32)


def _moved(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture and itself moved right by 1 px, (1, H, W) each."""
    picture = _texture(height, width)
    return picture[None], np.roll(picture, 1, axis=1)[None]
