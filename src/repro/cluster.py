"""Work on many items on the workers of a Dask scheduler: of this machine, or of others that see the same files."""

from __future__ import annotations

import contextlib
import itertools
import logging
import uuid
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, Worker, WorkerPlugin, as_completed, get_worker
from distributed.comm.core import CommClosedError

from repro.errors import ReproError
from repro.processes import LOCAL, one_thread

PATIENCE = 30.0  # seconds until a scheduler answers, and until its first worker is there
Item = TypeVar("Item")
Out = TypeVar("Out")


def each_on(
    scheduler: str, work: Callable[[Item], Out], items: Iterable[Item], workers: int, dead: Callable[[Item], Out]
) -> Generator[tuple[Item, Out], None, None]:
    """Yield (item, work(item)) as they are done by the workers of a scheduler.

    scheduler: its address, or `LOCAL` for `workers` processes of this machine; a program that asks for those must guard
    its entry with `if __name__ == "__main__"`. Workers import `repro`; they get `work` once. When one dies, others do
    what it was at; an item with which one after the other dies comes with `dead(item)`. However the generator is left,
    nothing is begun afterwards. Raises ReproError when no scheduler or no worker is found, and what `work` raises.
    """
    with _client(scheduler, workers) as client:
        holder = _Holder(work)
        client.register_plugin(holder, name=holder.name)
        waiting, done = iter(items), as_completed(loop=client.loop)
        begun: dict[Future[Any], Item] = {}

        def begin() -> None:
            # One item a thread: what waits at a worker that dies is held to be as deadly as what it was at.
            free = sum(client.nthreads().values()) - len(begun)
            for item in itertools.islice(waiting, max(free, 0 if begun else 1)):
                future = client.submit(_run, holder.name, item, pure=False)
                begun[future] = item
                done.add(future)

        try:
            begin()
            for future in done:
                item = begun.pop(future)
                try:
                    result = future.result()
                except KilledWorker:
                    result = dead(item)
                except (CancelledError, CommClosedError) as error:
                    raise ReproError(
                        f"the Dask scheduler at {scheduler} was lost: run again, what is finished is kept"
                    ) from error
                begin()
                yield item, result
        finally:
            client.cancel(list(begun))
            client.unregister_worker_plugin(holder.name)


@contextlib.contextmanager
def _client(scheduler: str, workers: int) -> Generator[Client, None, None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": PATIENCE}))
        target: Any = scheduler
        if scheduler == LOCAL:
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )  # fmt: skip
            target = stack.enter_context(cluster)
        try:
            client = stack.enter_context(Client(target, timeout=PATIENCE, set_as_default=False))
        except (OSError, ValueError) as error:
            raise ReproError(f"no Dask scheduler answers at {scheduler}: {error}") from error
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise ReproError(f"the Dask scheduler at {scheduler} has no workers: start some") from error
        yield client


class _Holder(WorkerPlugin):
    """What workers hold beside an item; one that starts later gets it, too."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work, self.name = work, f"repro-{uuid.uuid4()}"

    def setup(self, worker: Worker) -> None:
        one_thread()


def _run(name: str, item: Any) -> Any:
    holder: Any = get_worker().plugins[name]
    return holder.work(item)
