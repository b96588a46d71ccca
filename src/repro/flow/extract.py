"""From video files to the store: decode once, reduce, compute flow, write frames and flow together."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from repro.data.video import read_video
from repro.errors import ReproError
from repro.flow.folders import read_flow_folder
from repro.flow.store import ClipStore, quantise
from repro.flow.tvl1 import backend_name, tvl1

if TYPE_CHECKING:
    from repro.data.catalog import Clip, Dataset

CHUNK = 16  # pairs per call: bounds the float flow in memory, 10 MB at 320x240


@dataclass
class Report:
    """What an extraction did, by clip id."""

    done: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)  # stored before
    failed: dict[str, str] = field(default_factory=dict)  # -> one line
    flawed: dict[str, str] = field(default_factory=dict)  # done, although a few frames are missing or damaged


@dataclass(frozen=True)
class Job:
    """All a worker needs beside the clip."""

    dataset: Dataset
    store: ClipStore
    flow_root: Path | None
    allow_truncated: bool

    def run(self, clip: Clip) -> tuple[Literal["done", "present", "failed"], str]:
        """Extract one clip; the second value is the reason of a failure, or the flaws of a video that will do."""
        with_flow = self.store.settings.flow_backend is not None
        if self.store.has(clip.id, flow=with_flow):  # another process may have been here
            return "present", ""
        try:
            video = self.dataset.video(clip)
            frames, info = read_video(video, self.store.settings.short_side, allow_truncated=self.allow_truncated)
            flow = self._flow(clip, frames) if with_flow else None
        except ReproError as error:
            named = Path(clip.path).name in str(error)  # what is wrong with an array names no file
            return "failed", str(error) if named else f"{self.dataset.root / clip.path}: {error}"
        try:
            self.store.write(clip.id, frames, flow)
        except OSError as error:  # no reason to go on
            what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            raise ReproError(f"cannot write to {self.store.root}: {what}; what is finished is kept") from error
        return "done", info.flaws

    def _flow(self, clip: Clip, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(T - 1, 2, H, W) bytes, computed from the frames (T, H, W, 3) or read from `flow_root`."""
        bound = self.store.settings.bound
        if self.flow_root is not None:
            return quantise(fit(read_flow_folder(self.flow_root, clip, len(frames), bound), frames.shape[1:3]), bound)
        flow = np.empty((len(frames) - 1, 2, *frames.shape[1:3]), np.uint8)
        grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])  # (T, H, W)
        for start in range(0, len(flow), CHUNK):
            stop = min(start + CHUNK, len(flow))
            flow[start:stop] = quantise(tvl1(grey[start:stop], grey[start + 1 : stop + 1]).numpy(), bound)
        return flow


def extract(
    dataset: Dataset,
    store: ClipStore,
    clips: Sequence[Clip],
    *,
    workers: int = 1,
    on_error: Literal["skip", "raise"] = "skip",
    progress: Callable[[str], None] | None = None,
    flow_root: str | Path | None = None,
    allow_truncated: bool = False,
) -> Report:
    """Store the frames of `clips`, and their flow where the store has a flow backend.

    Whatever is stored already is left alone, so an extraction that was stopped, by Ctrl-C or by force, goes on when
    called again. workers: processes, one thread each; 1 works in this process. A program that asks for more must
    guard its entry with `if __name__ == "__main__"`. progress: called with the id of every clip that is through,
    whatever came of it. on_error: "raise" stops at the first video that cannot be used, "skip" reports it. flow_root:
    take flow that other tools extracted (`repro.flow.folders`), with the bound of the store, resized to its frames.
    allow_truncated: see `read_video`. Raises ReproError when the store cannot be written or a worker process dies.
    """
    backend = store.settings.flow_backend
    if flow_root is None and backend not in (None, backend_name()):
        raise ReproError(
            f"{store.root} holds flow by {backend}, this installation computes {backend_name()}: use another directory"
        )
    store.remove_stale()
    report = Report()
    job = Job(dataset, store, None if flow_root is None else Path(flow_root), allow_truncated)
    with contextlib.closing(_results(job, clips, min(workers, len(clips)))) as results:
        for clip, (outcome, note) in results:
            if outcome == "failed":
                if on_error == "raise":
                    raise ReproError(note)
                report.failed[clip.id] = note
            else:
                getattr(report, outcome).append(clip.id)
                if note:
                    report.flawed[clip.id] = note
            if progress is not None:
                progress(clip.id)
    return report


def fit(flow: NDArray[np.float32], size: Sequence[int]) -> NDArray[np.float32]:
    """Resize flow (N, 2, h, w) to frames of `size` (H, W); displacements, in px, grow or shrink with them."""
    height, width = size
    if flow.shape[2:] == (height, width):
        return flow
    scale = (width / flow.shape[3], height / flow.shape[2])
    resized = [
        [cv2.resize(c, (width, height), interpolation=cv2.INTER_LINEAR) * s for c, s in zip(f, scale, strict=True)]
        for f in flow
    ]
    return np.array(resized, np.float32)


def _results(job: Job, clips: Sequence[Clip], workers: int) -> Generator[tuple[Clip, tuple[str, str]], None, None]:
    """Yield (clip, result) as they come. However it is left, no worker stays behind."""
    if workers <= 1:
        for clip in clips:
            yield clip, job.run(clip)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (job,))
    try:
        futures = {pool.submit(_run, clip): clip for clip in clips}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ReproError(
            "a worker process died (out of memory?): run again with fewer workers, what is finished is kept"
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # a clip takes minutes, and the store bears it
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_job: Job  # of this worker process


def _start_worker(job: Job) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threading.Thread(target=die_with_parent, daemon=True).start()


def die_with_parent() -> None:
    """Without this the workers of a killed process wait for their next clip for ever."""
    parent: Any = multiprocessing.parent_process()
    wait([parent.sentinel])
    os._exit(1)


def _run(clip: Clip) -> tuple[str, str]:
    return _job.run(clip)
