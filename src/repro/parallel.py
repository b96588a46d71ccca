"""Training in several processes that torchrun started: who they are, and what they do together.

Every process has a share of each batch and its own moments in batch normalisations; gradients are averaged. Without
torchrun all of this is one process that does everything.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from repro.errors import ReproError

PATIENCE = datetime.timedelta(days=7)  # the others wait while the first one decodes, tests and files


@dataclass(frozen=True)
class Group:
    """The processes of this training; this one is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process prints, writes and files."""
        return self.rank == 0


def group() -> Group:
    """The processes that train together; one, unless they were `joined`."""
    return Group(dist.get_rank(), dist.get_world_size()) if _is_joined() else Group()


_apart = False


def _is_joined() -> bool:
    return not _apart and dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """In here this process is by itself, whatever it does; the others wait `together` meanwhile."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the other processes where torchrun started this one; gives the device that is this one's own.

    `device`: "auto", "cpu" or "cuda", where a number is torchrun's to choose. NCCL on CUDA, Gloo on a CPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.startswith("cuda:"):
        raise ReproError(f"device '{device}': torchrun gives every process its own; use device=cuda or device=auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        if torch.cuda.device_count() <= int(os.environ["LOCAL_RANK"]):
            raise ReproError(f"{device} is not there: give torchrun no more processes than the machine has GPUs")
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """What the first process does before the others do it: they find it done."""
    own = group()
    if not own.leads:
        dist.barrier()
    yield
    if own.leads and own.size > 1:
        dist.barrier()


def together() -> None:
    """Wait until all processes have come here."""
    if _is_joined():
        dist.barrier()


def mean(value: Tensor) -> Tensor:
    """The mean of a number over all processes."""
    if _is_joined():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def average_moments(model: nn.Module) -> None:
    """Give the running moments of batch normalisations the mean of all processes, in place."""
    if _is_joined():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(mean(buffer))


def wrapped(model: nn.Module, device: torch.device) -> nn.Module:
    """The network whose gradients are averaged over all processes; itself where there is one."""
    if not _is_joined():
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name in newer torch
        return DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
        )


def averaging(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Average gradients after the last of several passes only."""
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return contextlib.nullcontext()


class Share(Sampler[list[tuple[int, int]]]):
    """This process's part of each batch: of consecutive pieces of `micro` clips every `size`-th.

    All processes together see, in as many passes fewer, what one process sees with the same `micro`.
    """

    def __init__(self, batches: Sampler[list[tuple[int, int]]], micro: int, own: Group) -> None:
        self.batches, self.micro, self.own = batches, micro, own

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            pieces = [batch[i : i + self.micro] for i in range(0, len(batch), self.micro)]
            yield [item for piece in pieces[self.own.rank :: self.own.size] for item in piece]


def passes_of(batch: int, micro: int, own: Group, balanced: Sequence[int] | None = None) -> int:
    """How many passes each process makes for a batch; ReproError where it cannot be divided."""
    if balanced and own.size > 1:
        raise ReproError("the loss compares all clips of a batch: train this network in one process")
    if batch % (micro * own.size):
        raise ReproError(
            f"batch {batch} is no multiple of micro_batch {micro} x {own.size} processes: change one of them"
        )
    return batch // (micro * own.size)
