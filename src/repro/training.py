"""The training loop: one flat function, no callbacks.

SGD with momentum, a rate per iteration, gradients accumulated to the paper's batch size, checkpoints that are written
whole or not at all. On a CPU with one thread a run that is killed and resumed ends with the bits of one that was not.
"""

from __future__ import annotations

import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TextIO, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from repro import parallel
from repro.data.balanced import BalancedOrder
from repro.data.clips import EndlessOrder, Sampling, TrainingSamples
from repro.data.sampling import sample_rng
from repro.data.transforms import normalise_flow, normalise_rgb
from repro.errors import ReproError

Outputs = dict[str, Tensor]
Loss = Callable[[Outputs, Tensor], Tensor]


class TrainingError(ReproError):
    """Training cannot go on, and why."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Rates follow `schedule`: "step" multiplies by `gamma` at each milestone, "cosine" falls
    to zero; both after `warmup` iterations of linear growth."""

    iterations: int
    batch: int  # clips an update
    micro_batch: int  # clips in memory at once; gradients of batch / micro_batch passes are summed
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "step"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: int = 0
    clip_norm: float = 40.0
    # (N, M): every batch has M clips of each of N classes, for losses that compare clips. None enters no run's key.
    balanced: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "micro_batch"):
            if getattr(self, name) < 1:
                raise ReproError(f"{name}={getattr(self, name)}: it must be at least 1")
        if self.batch % self.micro_batch:
            raise ReproError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}: change one of them")
        if self.balanced and not self.balanced[0] * self.balanced[1] == self.batch == self.micro_batch:
            n, m = self.balanced
            raise ReproError(f"{n} classes of {m} clips need batch and micro_batch {n * m}: the loss compares them all")
        if self.schedule not in ("step", "cosine"):
            raise ReproError(f"unknown schedule {self.schedule!r}: step or cosine")

    def rate(self, iteration: int) -> float:
        """Learning rate of an iteration counted from 0."""
        if iteration < self.warmup:
            return self.lr * (iteration + 1) / self.warmup
        if self.schedule == "cosine":
            done = (iteration - self.warmup) / max(1, self.iterations - self.warmup)
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        return float(self.lr * self.gamma ** sum(iteration >= m for m in self.milestones))


@dataclass
class History:
    """What happened: the loss of every iteration, seconds spent, and where it resumed (0 when it did not).

    `devices` are the names of those that trained the weights, in order: first those of what the network began from.
    """

    losses: list[float]
    seconds: float = 0.0
    resumed_at: int = 0
    devices: tuple[str, ...] = ()


def sum_of_losses(outputs: Outputs, labels: Tensor) -> Tensor:
    """Cross-entropy of every output, summed (a softmax loss per stream).

    An output is (B, classes), or (B, T', classes) where a clip's chunks have a loss each: then their mean.
    """
    return torch.stack([_cross_entropy(logits.float(), labels) for logits in outputs.values()]).sum()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.ndim == 3:
        labels = labels.repeat_interleave(logits.shape[1])
        logits = logits.flatten(0, 1)
    return F.cross_entropy(logits, labels)


def order_of(labels: Sequence[int], recipe: Recipe, seed: int, first: int, last: int) -> EndlessOrder | BalancedOrder:
    """Which clips, by (epoch, position), make up the batches from `first` up to `last`; `labels` of all clips."""
    if recipe.balanced:
        return BalancedOrder(labels, *recipe.balanced, seed, first, last)
    return EndlessOrder(len(labels), recipe.batch, seed, first, last)


def channels_last(model: nn.Module) -> nn.Module:
    """Lay the weights of 2D convolutions out as their images are. Of 3D ones only I3D's gain, which sees to its own."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
    return model


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Asking for CUDA where there is none is an error, not a slow surprise."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ReproError(f"device '{name}': this machine has no CUDA; use device=cpu or device=auto")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ReproError(f"unknown device '{name}': use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ReproError(f"device '{name}': this machine has {torch.cuda.device_count()} CUDA devices, counted from 0")
    return device


def tuned(device: torch.device) -> None:
    """Settings of the process for training on a device."""
    if device.type == "cpu":
        torch.set_num_threads(1)  # the bits of a sum depend on the number of threads; parallelism is over runs
    else:
        torch.backends.cudnn.benchmark = True  # all batches have one shape


def device_name(device: torch.device) -> str:
    """What rows call a device: "cpu", or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast on CUDA, plain float32 elsewhere."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def to_network(batch: dict[str, Tensor], device: torch.device, sampling: Sampling) -> dict[str, Tensor | None]:
    """uint8 `rgb` (..., 3, H, W), `flow` (..., 2L, H, W) to normalised float32 on the device; absent streams: None."""
    rgb, flow = (x if x is None else x.to(device, non_blocking=True) for x in (batch.get("rgb"), batch.get("flow")))
    return {
        "rgb": None if rgb is None else normalise_rgb(rgb),
        "flow": None if flow is None else normalise_flow(flow, subtract_mean=sampling.subtract_mean_flow),
    }


def save_atomically(state: object, path: Path) -> None:
    """Write a checkpoint so that a reader finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: Path, model: nn.Module) -> dict[str, Any]:
    """Read a checkpoint and load its weights into `model`; a checkpoint of another network is a one-line error."""
    state = _read(path)
    weights: dict[str, Tensor] = state["model"]
    own = model.state_dict()
    wrong = [k for k in sorted(own.keys() | weights.keys()) if k not in own or k not in weights]
    wrong += [k for k in own if k in weights and own[k].shape != weights[k].shape]
    if wrong:
        raise ReproError(f"{path} belongs to another network or class count (first difference: {wrong[0]})")
    model.load_state_dict(weights)
    return state


def read_history(path: Path) -> History:
    """What a checkpoint says of its training so far. Its weights are not read; ReproError where it is damaged."""
    file = path.stat()
    history = _history(path.resolve(), file.st_mtime_ns, file.st_size)
    return replace(history, losses=list(history.losses))


@cache
def _history(path: Path, mtime_ns: int, size: int) -> History:
    return _history_of(_read(path, weights=False))


def _history_of(state: dict[str, Any]) -> History:
    # Checkpoints from before devices were written down tell a GPU's by its random state.
    devices = state.get("devices") or ["cuda" if "cuda_rng" in state else "cpu"]
    return History(state["losses"], state["seconds"], len(state["losses"]), tuple(devices))


def _read(path: Path, weights: bool = True) -> dict[str, Any]:
    """The contents of a checkpoint; without `weights` its tensors stay on the disk, unread and unchecked."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads past flipped bits
            if weights and archive.testzip() is not None:
                raise zipfile.BadZipFile
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=not weights)
        if not ({"model"} if weights else {"losses", "seconds"}) <= state.keys():
            raise KeyError
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise ReproError(
            f"{path} is no readable checkpoint ({type(error).__name__}): delete it to start anew"
        ) from error
    return state


def sgd(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.SGD:
    """The optimiser of a recipe, in one kernel for all weights on CUDA."""
    return torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
        **({"fused": True} if device.type == "cuda" else {}),
    )  # fmt: skip


def gradients(
    network: nn.Module, batch: dict[str, Tensor], micro: int, passes: int, sampling: Sampling, loss: Loss,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """Add the gradients of a batch to a network's, in `passes` pieces of `micro` clips; returns the mean loss."""
    total = torch.zeros((), device=device)
    # At once and before the first pass: a copy that waits for the device would hold up what follows.
    batch = {**batch, "label": batch["label"].to(device, non_blocking=True)}
    for part in range(passes):
        piece = {k: v[part * micro : (part + 1) * micro] for k, v in batch.items()}
        with parallel.averaging(network, last=part == passes - 1):
            with precision(device):
                outputs = network(**to_network(piece, device, sampling))
            value = loss(outputs, piece["label"]) / passes
            value.backward()  # type: ignore[no-untyped-call]
        total += value.detach()
    return total


def loader_of(
    samples: TrainingSamples, order: Any, device: torch.device, workers: int
) -> DataLoader[dict[str, Tensor]]:
    """The batches of an order. `workers`: processes that read them ahead; 0 reads them here, when they are due."""
    # A generator of its own: the loader must not draw from the stream that dropout uses.
    return DataLoader(
        samples, batch_sampler=order, num_workers=workers, pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(samples.seed), multiprocessing_context="spawn" if workers else None,
        collate_fn=samples.collate,
    )  # fmt: skip


def train(
    model: nn.Module,
    samples: TrainingSamples,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    run_dir: Path | None = None,
    loss: Loss = sum_of_losses,
    workers: int = 0,
    compiled: bool = False,
    stop_after: int | None = None,
    begun_on: Sequence[str] = (),
    checkpoint_seconds: float = 60.0,
    progress: Callable[[int, int, float], None] | None = None,
) -> History:
    """Train `model` in place and return its history.

    `model(rgb=, flow=)` returns named logits (B, classes). With a `run_dir` the state is saved there every
    `checkpoint_seconds` and at the end, `log.jsonl` gets one line an iteration, and a second call goes on from the last
    checkpoint. `stop_after` ends early without changing the schedule (used to re-check the first losses of a run).
    `begun_on` names the devices that trained what the network begins with, for its history. `compiled` leaves the
    network to torch.compile: minutes at first, then faster steps, and the last bits of a sum are others.

    Processes that have joined (`repro.parallel`) call it alike. Each takes its pieces of `micro_batch` clips of every
    batch and normalises by their moments, as one process does with as many passes; the first one writes and reports.
    """
    own = parallel.group()
    passes = parallel.passes_of(recipe.batch, recipe.micro_batch, own, recipe.balanced)
    if not len(samples):
        raise TrainingError("there is no training clip: check the split and the data set")
    device = pick_device(str(device))
    tuned(device)
    channels_last(model.to(device)).train()
    optimiser = sgd(model, recipe, device)
    history, first = History([], devices=tuple(begun_on)), 0
    checkpoint = run_dir / "checkpoint.pt" if run_dir else None
    if checkpoint and checkpoint.exists():
        state = load_checkpoint(checkpoint, model)
        optimiser.load_state_dict(state["optimiser"])
        history = _history_of(state)
        first = history.resumed_at
    last = min(recipe.iterations, stop_after or recipe.iterations)
    if first < last:
        name = device_name(device) + (" compiled" if compiled else "") + samples.remark(device)
        name = name if own.size == 1 else f"{own.size} x {name}"
        history.devices = tuple(dict.fromkeys([*history.devices, name]))
    order: Any = order_of(samples.labels, recipe, samples.seed, first, last)
    if own.size > 1:
        order = parallel.Share(order, recipe.micro_batch, own)
    loader = loader_of(samples, order, device, workers)
    if first:
        torch.set_rng_state(state["rng"])
        if device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], device)
    if not own.leads:  # dropout of its own
        torch.manual_seed(int(sample_rng(samples.seed, first, f"process {own.rank}").integers(2**31)))
    network = parallel.wrapped(model, device)
    if compiled:
        network = cast(nn.Module, torch.compile(network))
    began, saved = time.monotonic(), time.monotonic()
    spent = history.seconds
    with _open_log(run_dir if own.leads else None, first) as log:
        for iteration, loaded in enumerate(loader, start=first):
            batch = samples.pixels(loaded, device)
            rate = recipe.rate(iteration)
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
            mean_loss = gradients(network, batch, recipe.micro_batch, passes, samples.sampling, loss, device)
            late = own.leads and time.monotonic() - saved > checkpoint_seconds
            total, due = parallel.mean(torch.stack([mean_loss, mean_loss.new_tensor(late)])).tolist()
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            if not math.isfinite(total) or not math.isfinite(norm):
                what = f"the loss is {total:.4g}, its gradient's norm {float(norm):.4g}, at iteration {iteration + 1}"
                raise TrainingError(f"{what}: lower lr (now {rate:g})")
            optimiser.step()
            history.losses.append(total)
            history.seconds = spent + time.monotonic() - began
            if log:
                log.write(json.dumps({"iteration": iteration + 1, "loss": total, "lr": rate}) + "\n")
            if progress and own.leads:
                progress(iteration + 1, recipe.iterations, total)
            if checkpoint and (iteration + 1 == last or due):
                parallel.average_moments(model)
                if log:
                    log.flush()  # first, so that the log never lacks an iteration that the checkpoint has
                if own.leads:
                    _save(checkpoint, model, optimiser, history, device)
                saved = time.monotonic()
    parallel.average_moments(model)
    parallel.together()  # the checkpoint is there for all
    return history


def _save(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, history: History, device: torch.device
) -> None:
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "rng": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state(device)
    state |= {"losses": history.losses, "seconds": history.seconds, "devices": list(history.devices)}
    save_atomically(state, path)


def _open_log(run_dir: Path | None, first: int) -> AbstractContextManager[TextIO | None]:
    """Open log.jsonl for appending, without the lines that a killed run wrote after its last checkpoint."""
    if run_dir is None:
        return nullcontext()
    path = run_dir / "log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.read_text(encoding="utf-8").splitlines()[:first] if path.exists() else []
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")
