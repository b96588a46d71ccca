"""Open a lab from what a person typed: where data, frames, flow and results are when nothing else is said."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Literal

from repro.data.catalog import HELD_OUT, MANIFEST, Dataset, load_dataset
from repro.errors import ReproError, nearest
from repro.experiments import Lab, Progress
from repro.flow.store import ClipStore
from repro.flow.tvl1 import DEFAULT, backend_name
from repro.results import Library, commit

GIVEN = "given-"  # how flow that somebody else extracted is called, before the name of its folder
Folder = str | Path | None
BOUND = 20.0  # px; flow is clipped there (TSN)


def runs_folder(runs: Folder = None) -> Path:
    """Where a user's own runs are filed: `runs`, else `$REPRO_RUNS`, else `runs/`."""
    return Path(runs or os.environ.get("REPRO_RUNS") or "runs").expanduser()


def recorded_folder(recorded: Folder = None) -> Path | None:
    """Where recorded results are: `recorded`, else `$REPRO_RESULTS`, else the checkout's `book/results` if there."""
    given = recorded or os.environ.get("REPRO_RESULTS")
    if given:
        return Path(given).expanduser()
    checkout = Path(__file__).resolve().parents[2] / "book" / "results"
    return checkout if checkout.is_dir() else None


def store_folder(
    dataset: Dataset,
    short_side: int,
    store: Folder = None,
    flow_root: Folder = None,
    *,
    flow_bound: float = BOUND,
    flow_backend: str = DEFAULT,
) -> Path:
    """Where a data set's frames and flow of one size are: below `store`, else `$REPRO_STORE`, else `store/`.

    The sub-folder is `<data set>-<short side>`. Where clip ids do not say which videos are meant it has a hash more: of
    the generator's parameters for rendered videos, of the place for a user's own ones. Flow that is not the default
    backend's, and a bound that is not the default, are named too.
    """
    home = Path(store or os.environ.get("REPRO_STORE") or "store").expanduser()
    what = [dataset.name]
    if dataset.render is not None:
        what.append(dataset.fingerprint[:8])
    elif dataset.name == "folder":
        what.append(hashlib.blake2b(str(dataset.root.resolve()).encode(), digest_size=4).hexdigest())
    what.append(str(short_side))
    if flow_root or flow_backend != DEFAULT:
        what.append(flow_name(flow_root, flow_backend))
    if flow_bound != BOUND:
        what.append(f"bound-{flow_bound:g}")
    return home / "-".join(what)


def flow_name(flow_root: Folder = None, flow_backend: str = DEFAULT) -> str:
    """What a key calls the flow: the backend that computes it here, or the folder that somebody else filled."""
    return f"{GIVEN}{Path(flow_root).resolve().name}" if flow_root else backend_name(flow_backend)


def open_store(
    dataset: Dataset,
    short_side: int,
    store: Folder = None,
    flow_root: Folder = None,
    *,
    flow_bound: float = BOUND,
    flow_backend: str = DEFAULT,
) -> ClipStore:
    """The store of a data set's frames and flow, made if missing.

    flow_backend: what computes the flow, one of `repro.flow.tvl1.BACKENDS`. flow_root: flow that somebody extracted
    before, instead; flow_bound: the px at which the tool clipped it (TSN 20, denseflow 32).
    """
    backend_name(flow_backend)  # an unknown one is an error
    if not (math.isfinite(flow_bound) and flow_bound > 0):
        raise ReproError(f"flow_bound={flow_bound:g}: give the px at which the flow was clipped, such as 20 or 32")
    if not flow_root and flow_bound != BOUND:
        raise ReproError(
            f"flow_bound={flow_bound:g} is for flow that was extracted before: give its folder as flow_root"
        )
    if flow_root and flow_backend != DEFAULT:
        raise ReproError(f"flow_backend={flow_backend} computes flow, flow_root={flow_root} holds it: give one of them")
    if flow_root and not Path(flow_root).is_dir():
        raise ReproError(f"flow_root: no folder {flow_root}: give the folder that holds the extracted flow")
    folder = store_folder(dataset, short_side, store, flow_root, flow_bound=flow_bound, flow_backend=flow_backend)
    name = flow_name(flow_root, flow_backend)
    try:
        return ClipStore(folder, short_side=short_side, bound=flow_bound, flow_backend=name)
    except OSError as error:
        raise ReproError(f"cannot write to the store {folder} ({error.strerror}): give another place") from error


def open_lab(
    dataset: str | Dataset,
    *,
    short_side: int,
    root: Folder = None,
    split: str | None = None,
    store: Folder = None,
    runs: Folder = None,
    recorded: Folder = None,
    device: str = "auto",
    workers: int = 0,
    decode: Literal["workers", "device"] = "workers",
    compiled: bool = False,
    on_error: Literal["skip", "raise"] = "raise",
    flow_root: Folder = None,
    flow_bound: float = BOUND,
    flow_backend: str = DEFAULT,
    progress: Progress | None = None,
    record: bool = False,
) -> Lab:
    """A lab on one data set (a name, or one that is loaded) and one of its splits (its first, unless named).

    `short_side` of the stored frames in px comes from the paper's preset; folders left out have defaults (see the
    functions above; `root` that of `load_dataset`), flow is as in `open_store`. `decode` says where training images are
    decoded and cut: by the loader or on the device (`repro.flow.encoded`). `compiled` is that of
    `repro.training.train`. `record` files new rows among the recorded ones, only from committed code, and starts from
    no checkpoint of another commit.
    """
    if isinstance(dataset, str):
        dataset = load_dataset(dataset, root)
    if split is None:
        split = dataset.splits[0]
    elif split not in dataset.splits:
        raise ReproError(
            f"{dataset.name} has no split '{split}'{nearest(split, dataset.splits)}: "
            f"choose from {', '.join(dataset.splits)}"
        )
    runs_dir, known = runs_folder(runs), recorded_folder(recorded)
    if record:
        if known is None:
            raise ReproError("no folder of recorded results: work in a checkout, or give one with recorded")
        library, runs_dir = Library(known), runs_dir / "recording" / committed()
    else:
        library = Library(runs_dir, known)
    opened = open_store(dataset, short_side, store, flow_root, flow_bound=flow_bound, flow_backend=flow_backend)
    return Lab(
        dataset, opened, library, split=split, runs_dir=runs_dir, device=device, workers=workers, decode=decode,
        compiled=compiled, on_error=on_error, flow_root=Path(flow_root) if flow_root else None, progress=progress,
    )  # fmt: skip


def committed() -> str:
    """The commit that the code is at; an error when files differ from it, because a row must name its code."""
    found = commit()
    if found == "unknown" or found.endswith("+dirty"):
        what = "no git commit is known" if found == "unknown" else "source files differ from the last commit"
        raise ReproError(f"{what}: commit code before recording")
    return found


def splits_of(asked: str | None, known: tuple[str, ...]) -> list[str]:
    """Read a `splits` parameter: None or "default" (the first), "all", or names with commas between them.

    All of Weizmann's are those that leave one person out: its manifest's split tests some of the same clips. The split
    of a test list, which trains on the same clips as the one of the validation list, has to be named.
    """
    if asked in (None, "", "default"):
        return [known[0]]
    if asked == "all":
        return [split for split in known if split not in (MANIFEST, HELD_OUT)] or list(known)
    chosen = [part.strip() for part in str(asked).split(",")]
    for part in chosen:
        if part not in known:
            raise ReproError(f"unknown split '{part}'{nearest(part, known)}: use all or some of {', '.join(known)}")
    return chosen
