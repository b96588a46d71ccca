"""From video files to the store: decode once, reduce, compute flow, write frames and flow together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from repro.data.video import Frames, VideoInfo, reduced_size, stream_video
from repro.errors import ReproError
from repro.flow.folders import fit, iter_flow_folder
from repro.flow.given import check_given_flow, spread
from repro.flow.store import ClipStore, WriteError, quantise
from repro.flow.tvl1 import BACKENDS, backend_of, tvl1
from repro.flow.writer import ClipWriter
from repro.processes import each

if TYPE_CHECKING:
    from repro.data.catalog import Clip, Dataset

CHUNK = 16  # pairs per call: bounds the frames and the flow in memory, 10 MB at 320x240


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
        grey: list[NDArray[np.uint8]] = []  # of the frames whose fields are still to come
        for frame in frames:
            writer.add_frame(frame)
            if self.backend is not None:
                grey.append(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8))
                if len(grey) > CHUNK:
                    self._add_fields(writer, grey)
                    del grey[:-1]
        if len(grey) > 1:
            self._add_fields(writer, grey)

    def _add_fields(self, writer: ClipWriter, grey: Sequence[NDArray[np.uint8]]) -> None:
        assert self.backend is not None
        images = np.stack(grey)  # (n + 1, H, W)
        flow = tvl1(images[:-1], images[1:], backend=self.backend).numpy()
        for one in quantise(flow, self.store.settings.bound):
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
) -> Report:
    """Store the frames of `clips`, and their flow where the store has a flow backend.

    Whatever is stored already is left alone, so an extraction that was stopped, by Ctrl-C or by force, goes on when
    called again. workers: processes, one thread each; 1 works in this process. A program that asks for more must
    guard its entry with `if __name__ == "__main__"`. progress: called with the id of every clip that is through,
    whatever came of it. on_error: "raise" stops at the first video that cannot be used, "skip" reports it. flow_root:
    take flow that other tools extracted (`repro.flow.folders`), with the bound of the store, resized to its frames.
    allow_truncated: see `read_video`. Memory does not grow with the number or the length of the videos. Raises
    ReproError when the store cannot be written, when its flow is by no backend of this installation, when the given
    flow is not that of the videos (`check_given_flow`), and when a worker process dies.
    """
    store.remove_stale()
    if flow_root is None:
        job = Job(dataset, store, None, _backend(store), allow_truncated)
    else:
        job = Job(dataset, store, Path(flow_root), None, allow_truncated)
        missing = (clip for clip in spread(clips) if not store.has(clip.id))
        check_given_flow(dataset, missing, flow_root, store.settings.short_side, store.settings.bound)
    report = Report()
    with contextlib.closing(each(job.run, clips, min(workers, len(clips)))) as results:
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
