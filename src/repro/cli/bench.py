"""`repro bench`: what the parts cost on this machine, on one thread. Here is what the timings have in common."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import json
import os
import platform
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from repro.data.layouts import SUFFIXES
from repro.errors import ReproError
from repro.processes import each, one_thread
from repro.report import performance
from repro.results import provenance
from repro.setup import committed

# Processor time of all threads: other programs on the machine do not count. Alone on it, one thread's is the clock's.
clock = time.process_time
Out = TypeVar("Out")


def begin(options: Namespace) -> None:
    """One thread; and no long measurement that could not be recorded at its end."""
    if options.record:
        committed()
        performance.folder()
    one_thread()


def finish(options: Namespace, what: str, found: dict[str, Any], text: str) -> int:
    """Print what was found; with `--record` file it for the book, what a GPU did beside what a CPU did."""
    print(json.dumps(found, indent=1) if options.json else text)
    if options.record:
        device = found.get("device", "cpu")
        made = {**provenance(device), **machine(), "command": typed(options)}
        made["versions"] |= {package: importlib.metadata.version(package) for package in ("numba", "pillow")}
        name = what if device == "cpu" else what + performance.GPU
        path = performance.write({"what": name, "provenance": made, "found": found})
        print(f"recorded in {path}", file=sys.stderr)
    return 0


def machine() -> dict[str, Any]:
    """What a timing depends on beside the code."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None  # processes at work, this one too
    return {"cpu": name, "cores": os.cpu_count(), "threads": 1, "load": load}


def typed(options: Namespace) -> str:
    """The command as it was typed, the folder of clips called DIR: it is a place on one machine."""
    words = (
        ["DIR" if word == options.clips else word for word in options.typed] if "clips" in options else options.typed
    )
    return " ".join(["repro", *("--clips=DIR" if word.startswith("--clips=") else word for word in words)])


def clips_at_hand(options: Namespace) -> Path | None:
    """The folder given with `--clips`, else `$REPRO_REAL_DATA/clips` if there."""
    if options.clips:
        return Path(options.clips)
    real = os.environ.get("REPRO_REAL_DATA")
    return Path(real) / "clips" if real and (Path(real) / "clips").is_dir() else None


def videos(folder: Path | None) -> list[Path]:
    """The video files below a folder, sorted; ReproError when there are none."""
    if folder is None:
        raise ReproError("no clips: give --clips DIR, a folder with videos below it")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ReproError(f"no videos in {folder}: give a folder that holds some, or leave --clips out")
    return found


def timings(work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each repeat of each way to do the work, in turn, so that a busy moment meets all of them.

    The first round does not count: it loads libraries and warms the file cache.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats + 1):
        for name, one in work.items():
            began = clock()
            one()
            seconds[name].append(clock() - began)
    return {name: spent[1:] for name, spent in seconds.items()}


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int, warm: int = 2) -> list[float]:
    """Seconds by the clock of each repeat, after some that do not count."""
    found = []
    for number in range(warm + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= warm:
            found.append(time.perf_counter() - began)
    return found


def alone(device: torch.device, work: Callable[..., Out], *args: Any) -> Out:
    """`work(*args)` where nothing has used memory before: on a CPU in a process of its own, with one thread."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return work(*args)
    with contextlib.closing(each(partial(_called, work, args), [None], 2)) as results:  # 1 would be this process
        return next(results)[1]


def _called(work: Callable[..., Out], args: Sequence[Any], _: None) -> Out:
    return work(*args)


def peak_bytes(device: torch.device) -> float | None:
    """The most memory in use since `alone` began: on a CPU that of the process, libraries included; None where the
    system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():  # where a new process inherits getrusage's from its parent
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return float(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, and between what values 80 % lie."""
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {"median": float(median), "low": float(low), "high": float(high)}
