"""Work on many items in several processes, one thread each, that end with whoever asked for it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from repro.errors import ReproError

LOCAL = "local"  # in place of a Dask scheduler's address: one of this machine, for as long as the work lasts
unfinished: set[Path] = set()  # temporary files that a worker deletes when it is told to end
Item = TypeVar("Item")
Out = TypeVar("Out")


def each(work: Callable[[Item], Out], items: Iterable[Item], workers: int) -> Generator[tuple[Item, Out], None, None]:
    """Yield (item, work(item)) as they are done; 1 worker is this process, in order.

    `work` and what it holds go to the processes once. A program that asks for more than one must guard its entry with
    `if __name__ == "__main__"`. However the generator is left, no process stays behind: when `work` fails, those that
    are at work finish their item first; when the generator is closed, or on Ctrl-C, they are ended at once. Raises
    ReproError when a process dies.
    """
    if workers <= 1:
        for item in items:
            yield item, work(item)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (work,))
    try:
        with _interrupt_held_back():
            futures = {pool.submit(_run, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ReproError(
            "a worker process died (out of memory?): run again with fewer workers, what is finished is kept"
        ) from error
    except Exception:
        raise
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # an item may take hours, and what it writes bears it
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupt_held_back() -> Generator[None, None, None]:
    """Processes that start meanwhile never hear of Ctrl-C, not even while they import; this one does so afterwards.

    Where the system cannot hold signals back, a worker may say that it was interrupted before it began.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_work: Callable[[Any], Any]  # of this worker process


def _start_worker(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, _leave)
    one_thread()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def one_thread() -> None:
    """Let this process compute with one thread, as what has been imported so far allows."""
    if torch := sys.modules.get("torch"):  # imported with the work, if at all: it takes seconds
        torch.set_num_threads(1)
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(1)


def _leave(*_: object) -> None:
    # Not by an exception: one that arrives inside a destructor is swallowed, and the work would go on.
    for path in list(unfinished):
        with contextlib.suppress(OSError):
            path.unlink()
    os._exit(1)


def _die_with_parent() -> None:
    """Without this the workers of a killed process wait for their next item for ever."""
    parent: Any = multiprocessing.parent_process()
    wait([parent.sentinel])
    _leave()


def _run(item: Any) -> Any:
    return _work(item)
