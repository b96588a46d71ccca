"""From video files to the store: decode once, reduce, compute flow, write frames and flow together."""

from __future__ import annotations

import contextlib
import copy
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from repro.data.video import Frames, VideoInfo, reduced_size, stream_video
from repro.errors import ReproError
from repro.flow.folders import fit, iter_flow_folder
from repro.flow.given import check_given_flow, spread
from repro.flow.store import ClipStore, WriteError, quantise
from repro.flow.tvl1 import BACKENDS, backend_of, pick, tvl1
from repro.flow.writer import ClipWriter
from repro.processes import each

if TYPE_CHECKING:
    from repro.data.catalog import Clip, Dataset

CHUNK = 16  # pairs per call: bounds the frames and the flow in memory, 10 MB at 320x240
ON_CUDA = 256  # a GPU wants more of them at a time


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
    backend: str | None  # that computes the flow: one of BACKENDS; None where it is given or not wanted
    allow_truncated: bool

    def run(self, clip: Clip) -> tuple[Literal["done", "present", "failed"], str]:
        """Extract one clip; the second value is the reason of a failure, or the flaws of a video that will do."""
        seen = [self.store.root, *([] if self.dataset.render else [self.dataset.root]), self.flow_root]
        for root in filter(None, seen):
            if not root.is_dir():
                raise ReproError(f"{socket.gethostname()} does not see {root}: workers need the same files")
        with_flow = self.store.settings.flow_backend is not None
        if self.store.has(clip.id, flow=with_flow):  # another process may have been here
            return "present", ""
        try:
            video, side = self.dataset.video(clip), self.store.settings.short_side

            def use(info: VideoInfo, frames: Iterator[Frames]) -> VideoInfo:
                size = reduced_size(info.height, info.width, side)
                with self.store.writer(clip.id, info.frames, *size, flow=with_flow) as writer:
                    self._fill(writer, clip, info.frames, frames)
                return info

            info = stream_video(video, use, side, allow_truncated=self.allow_truncated)
        except WriteError:  # no reason to go on
            raise
        except ReproError as error:
            named = Path(clip.path).name in str(error)  # what is wrong with an array names no file
            return "failed", str(error) if named else f"{self.dataset.root / clip.path}: {error}"
        return "done", info.flaws

    def dead(self, clip: Clip) -> tuple[Literal["failed"], str]:
        """What is said of a clip whose workers died, one after the other."""
        return "failed", f"{self.dataset.root / clip.path}: all processes that read it died (out of memory?)"

    def absolute(self) -> Job:
        """The same job for workers that may have been started in another folder."""
        store = copy.copy(self.store)
        store.root = store.root.absolute()
        root = self.dataset.root.absolute()
        return replace(
            self, dataset=replace(self.dataset, root=root), store=store,
            flow_root=self.flow_root and self.flow_root.absolute(),
        )  # fmt: skip

    def _fill(self, writer: ClipWriter, clip: Clip, n_frames: int, frames: Iterator[Frames]) -> None:
        """Write frames (H, W, 3) as they come, and the fields between them, computed or given."""
        if self.flow_root is not None and self.store.settings.flow_backend is not None:
            bound = self.store.settings.bound
            fields = iter_flow_folder(self.flow_root, clip, n_frames, bound)
            for index, frame in enumerate(frames):
                writer.add_frame(frame)
                if index:
                    writer.add_field(quantise(fit(next(fields), frame.shape[:2]), bound))
            return
        chunk = chunk_of(self.backend)
        grey: list[NDArray[np.uint8]] = []  # of the frames whose fields are still to come
        for frame in frames:
            writer.add_frame(frame)
            if self.backend is not None:
                grey.append(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8))
                if len(grey) > chunk:
                    self._add_fields(writer, grey)
                    del grey[:-1]
        if len(grey) > 1:
            self._add_fields(writer, grey)

    def _add_fields(self, writer: ClipWriter, grey: Sequence[NDArray[np.uint8]]) -> None:
        assert self.backend is not None
        for one in flow_bytes(grey, self.backend, self.store.settings.bound):
            writer.add_field(one)


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
    scheduler: str | None = None,
) -> Report:
    """Store the frames of `clips`, and their flow where the store has a flow backend.

    Whatever is stored already is left alone, so an extraction that was stopped, by Ctrl-C or by force, goes on when
    called again. workers: processes, one thread each; 1 works in this process. A program that asks for more must
    guard its entry with `if __name__ == "__main__"`. progress: called with the id of every clip that is through,
    whatever came of it. on_error: "raise" stops at the first video that cannot be used, "skip" reports it. flow_root:
    take flow that other tools extracted (`repro.flow.folders`), with the bound of the store, resized to its frames.
    allow_truncated: see `read_video`. scheduler: the address of a Dask scheduler whose workers do it, or `LOCAL` for
    one of this machine with so many `workers`; what a worker was at when it died is done by another. Memory does not
    grow with the number or the length of the videos. Raises ReproError when the store cannot be written, when its flow
    is by no backend of this installation, when the given flow is not that of the videos (`check_given_flow`), when a
    worker process dies, and when the scheduler has no workers or they do not see the files.
    """
    store.remove_stale()
    if flow_root is None:
        job = Job(dataset, store, None, _backend(store), allow_truncated)
    else:
        job = Job(dataset, store, Path(flow_root), None, allow_truncated)
        missing = (clip for clip in spread(clips) if not store.has(clip.id))
        check_given_flow(dataset, missing, flow_root, store.settings.short_side, store.settings.bound)
    report = Report()
    workers = min(workers, len(clips))
    if scheduler and clips:
        from repro.cluster import each_on  # takes a second

        job = job.absolute()
        done = each_on(scheduler, job.run, clips, workers, job.dead)
    else:
        done = each(job.run, clips, workers)
    with contextlib.closing(done) as results:
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


def flow_bytes(grey: Sequence[NDArray[np.uint8]], backend: str, bound: float) -> NDArray[np.uint8]:
    """Flow between neighbours of n + 1 grey images (H, W) in bytes, (n, 2, H, W); the GPU's are quantised there."""
    images = torch.from_numpy(np.stack(grey))
    if backend == "torch":
        images = images.to(pick())
    return quantise(tvl1(images[:-1], images[1:], backend=backend), bound)


def on_card(store: ClipStore) -> bool:
    """Whether a GPU computes the flow of this store."""
    return store.settings.flow_backend == BACKENDS["torch"] and pick().type == "cuda"


def chunk_of(backend: str | None) -> int:
    """How many pairs a backend is given at a time."""
    return ON_CUDA if backend == "torch" and pick().type == "cuda" else CHUNK


def _backend(store: ClipStore) -> str | None:
    """The backend whose name the store has; None where it holds frames only."""
    wanted = store.settings.flow_backend
    backend = None if wanted is None else backend_of(wanted)
    if wanted is not None and backend is None:
        raise ReproError(
            f"{store.root} holds flow by {wanted}, this installation computes {' or '.join(BACKENDS.values())}: "
            "use another directory"
        )
    return backend
