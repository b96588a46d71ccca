"""Read what a store holds, image by image, and say which files are damaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from repro.errors import ReproError
from repro.flow.store import ClipStore, StoreError

if TYPE_CHECKING:
    from repro.data.catalog import Clip


@dataclass
class Verdict:
    """What a pass over a store found, by clip id."""

    sound: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # -> what is not there
    damaged: dict[str, str] = field(default_factory=dict)  # -> one line that names the file


def verify(
    store: ClipStore,
    clips: Sequence[Clip],
    *,
    workers: int = 1,
    remove: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Verdict:
    """Compare every stored file of `clips` with its checksums, and its images with the counts in its header.

    A clip of frames only is missing where the store has a flow backend: extraction makes it again. workers: threads,
    for the work is reading. remove: delete damaged files. progress: called with the id of every clip looked at.
    """
    found: dict[str, tuple[str, str]] = {}
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(_look, store, clip.id, remove): clip.id for clip in clips}
        for future in as_completed(futures):
            clip_id = futures.pop(future)
            found[clip_id] = future.result()
            if progress is not None:
                progress(clip_id)
    finally:
        pool.shutdown(cancel_futures=True)
    verdict = Verdict()
    for clip in clips:
        state, reason = found[clip.id]
        if state == "sound":
            verdict.sound.append(clip.id)
        else:
            getattr(verdict, state)[clip.id] = reason
    return verdict


def _look(store: ClipStore, clip_id: str, remove: bool) -> tuple[str, str]:
    path = store.path(clip_id)
    if not path.exists():
        return "missing", "not stored"
    try:
        with store.open(clip_id) as stored:
            stored.check()
            if stored.flow_backend is None and store.settings.flow_backend is not None:
                return "missing", "frames only, no flow"
    except StoreError as error:
        if remove:
            try:
                path.unlink(missing_ok=True)
            except OSError as refused:
                raise ReproError(f"cannot delete {path} ({refused.strerror}): delete it by hand") from refused
        return "damaged", str(error)
    return "sound", ""
