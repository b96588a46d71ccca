"""`repro bench train`: steps of the papers' trainings as they are, against a plain loop in the same run.

The plain loop is what one would write first: float32, images one colour after the other, an optimiser that goes from
weight to weight. Inputs are invented and wait in memory; `repro bench loader` says how fast real ones come. Times are
by the clock.
"""

from __future__ import annotations

import contextlib
import statistics
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from repro.cli.bench import alone, begin, finish, peak_bytes, seconds_of
from repro.costs import duration, training_multiply_adds
from repro.data.catalog import OFFICIAL
from repro.data.clips import Sampling
from repro.errors import ReproError, nearest
from repro.experiments import Experiment
from repro.papers import PAPERS
from repro.report import performance
from repro.training import Recipe, channels_last, device_name, gradients, pick_device, sgd, to_network, tuned

# The network of each paper, at the batch and size of its recipe.
NETWORKS = {
    "st_resnet": "st-resnet",
    "heterogeneous": "temporal-bn-inception",
    "cross_enhancement": "rgb-taught",
    "ccs": "all",
    "stilt": "stil-snippets",
}
BIG = ("ucf101", "hmdb51", "kinetics400")
PASSES = 2  # pieces of a batch that are timed on a CPU; a step of the recipe has more of the same
CURVES = {"clips": (1, 2, 4, 8), "snippets": (1, 2, 4, 8), "crop": (56, 112, 168, 224)}
FRAMES = (16, 32, 48, 64)  # of a clip of I3D


def bench_train(options: Namespace) -> int:
    """Time all that was asked for, one network after the other."""
    begin(options)
    device = pick_device(options.device)
    names = options.papers or list(NETWORKS)
    if unknown := next((name for name in names if name not in NETWORKS), None):
        raise ReproError(f"unknown paper '{unknown}'{nearest(unknown, NETWORKS)}: use {', '.join(NETWORKS)}")
    if options.record and options.papers and not options.curves:
        raise ReproError("a row is of all networks: record without naming papers")
    precisions = [torch.float32] + [torch.bfloat16] * (device.type == "cuda")
    rates = {str(kind).removeprefix("torch."): matrix_rate(device, kind) for kind in precisions}
    found = {
        "device": device_name(device),
        "preset": options.preset,
        "steps": options.steps,
        "compiled": options.compile,
        "matrix_rates": rates,
    }
    what = "train-compiled" if options.compile else "train"
    if options.curves:
        found["curves"], what = curves(names[0], options.preset, device, options.steps), "curves"
    else:
        best = max(rates.values())
        found["networks"] = [
            of_network(name, options.preset, device, options.steps, options.compile, best) for name in names
        ]
    return finish(options, what, found, _text(found))


def matrix_rate(device: torch.device, kind: torch.dtype) -> float:
    """Operations a second of large products of matrices: what no training can exceed."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / statistics.median(seconds_of(lambda: a @ b, device, 5))


def of_network(
    paper: str, preset: str, device: torch.device, steps: int, compiled: bool, best: float
) -> dict[str, Any]:
    """Speed, memory and projected hours of a paper's network, ours and plain."""
    experiment = PAPERS[paper].experiments(preset, "ucf101", "none")[NETWORKS[paper]]
    classes = OFFICIAL["ucf101"][0]
    ours, plain = (
        alone(device, measure, experiment, classes, device, steps, loop, compiled and not loop)
        for loop in (False, True)
    )
    recipe, sampling = experiment.recipe, experiment.sampling
    operations = _operations(experiment)
    whole = {}
    for dataset in BIG:
        clips = next(iter(OFFICIAL[dataset][1].values())).train
        runs = PAPERS[paper].experiments(preset, dataset, "none")[NETWORKS[paper]].trainings()
        work = sum(run.recipe.iterations * run.recipe.batch * _operations(run) for run in runs)
        passes = runs[-1].recipe.iterations * runs[-1].recipe.batch / clips
        whole[dataset] = {"hours": work / operations * ours["seconds_per_clip"] / 3600, "passes": passes}
    return {
        "paper": paper,
        "network": experiment.name,
        "batch": recipe.batch,
        "micro_batch": recipe.micro_batch,
        "timed": pieces(recipe, device) * recipe.micro_batch,
        "snippets": sampling.snippets,
        "crop": sampling.crop,
        "operations_per_clip": operations,
        "ours": ours,
        "plain": plain,
        "ratio": plain["seconds_per_clip"] / ours["seconds_per_clip"],
        "share_of_matrix_rate": operations / ours["seconds_per_clip"] / best,
        "whole": whole,
    }


def _operations(experiment: Experiment) -> float:
    """Operations of a clip in a training step, two for a multiply-add."""
    counted = experiment.network(OFFICIAL["ucf101"][0]).to("meta")
    return 2 * training_multiply_adds(counted, experiment.recipe.micro_batch, experiment.sampling)


def measure(
    experiment: Experiment, classes: int, device: torch.device, steps: int, plain: bool = False, compiled: bool = False
) -> dict[str, Any]:
    """Seconds of training per clip, clips and snippets a second, the first loss, and the peak of memory in bytes.

    plain: without what makes it fast.
    """
    tuned(device)
    recipe = experiment.recipe
    clips = pieces(recipe, device) * recipe.micro_batch
    step = stepper(experiment, classes, device, plain=plain, compiled=compiled)
    batch = invented(clips, experiment.sampling, classes, pinned=device.type == "cuda")
    losses: list[Tensor] = []
    with exact_float32() if plain else contextlib.nullcontext():
        seconds = statistics.median(seconds_of(lambda: losses.append(step(batch)), device, steps)) / clips
    return {
        "seconds_per_clip": seconds,
        "clips_per_second": 1 / seconds,
        "images_per_second": experiment.sampling.snippets / seconds,
        "first_loss": float(losses[0]),
        "peak_bytes": peak_bytes(device),
    }


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Convolutions on CUDA with all bits of float32, which PyTorch shortens unless told otherwise (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def pieces(recipe: Recipe, device: torch.device) -> int:
    """How many pieces of a batch are timed: all on CUDA."""
    whole = recipe.batch // recipe.micro_batch
    return whole if device.type == "cuda" else min(PASSES, whole)


def stepper(
    experiment: Experiment, classes: int, device: torch.device, *, plain: bool = False, compiled: bool = False
) -> Callable[[dict[str, Tensor]], Tensor]:
    """What makes one training step of some `pieces` of a batch, and returns its loss."""
    torch.manual_seed(0)
    recipe = experiment.recipe
    model = experiment.network(classes).to(device).train()
    if plain:
        optimiser = torch.optim.SGD(
            model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, foreach=False
        )
        passed = partial(_plain_gradients, model)
    else:
        optimiser = sgd(channels_last(model), recipe, device)
        passed = partial(gradients, cast(nn.Module, torch.compile(model)) if compiled else model)

    def step(batch: dict[str, Tensor]) -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        passes = pieces(recipe, device)
        loss = passed(batch, recipe.micro_batch, passes, experiment.sampling, experiment.loss, device)
        float(nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm))  # which training looks at
        optimiser.step()
        return loss

    return step


def _plain_gradients(
    model: nn.Module, batch: dict[str, Tensor], micro: int, passes: int, sampling: Sampling,
    loss: Callable[[Any, Tensor], Tensor], device: torch.device,
) -> Tensor:  # fmt: skip
    """`repro.training.gradients` in float32."""
    total = torch.zeros((), device=device)
    for part in range(passes):
        piece = {k: v[part * micro : (part + 1) * micro] for k, v in batch.items()}
        value = loss(model(**to_network(piece, device, sampling)), piece["label"].to(device)) / passes
        value.backward()  # type: ignore[no-untyped-call]
        total += value.detach()
    return total


def invented(clips: int, sampling: Sampling, classes: int, pinned: bool = False) -> dict[str, Tensor]:
    """A batch as the loader gives it, of noise."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"rgb": 3, "flow": 2 * sampling.flow_frames}
    batch = {
        stream: torch.randint(
            0, 256, (clips, sampling.snippets, shapes[stream], sampling.crop, sampling.crop), generator=rng,
            dtype=torch.uint8,
        )
        for stream in sampling.streams
    }  # fmt: skip
    # Two clips of a class, one after the other, as losses that compare clips want them.
    batch["label"] = torch.arange(clips) // 2 % classes
    return {name: x.pin_memory() if pinned else x for name, x in batch.items()}


def curves(paper: str, preset: str, device: torch.device, steps: int) -> list[dict[str, Any]]:
    """Time and memory of a step of one network, against one thing that grows at a time; then of I3D, against frames."""
    asked = [(paper, what, value) for what, values in CURVES.items() for value in values]
    asked += [("cross_enhancement", "frames", value) for value in FRAMES]
    found = []
    for name, what, value in asked:
        experiment = PAPERS[name].experiments(preset, "ucf101", "none")[NETWORKS[name]]
        clips = value if what == "clips" else 2
        recipe = replace(experiment.recipe, batch=clips, micro_batch=clips, balanced=None)
        # A clip of 3D convolutions is a chain of snippets of one frame.
        changed = {} if what == "clips" else {"snippets" if what == "frames" else what: value}
        sampling = replace(experiment.sampling, **cast(dict[str, Any], changed))
        one = replace(experiment, recipe=recipe, sampling=sampling)
        speed = alone(device, measure, one, OFFICIAL["ucf101"][0], device, steps)
        seconds = speed["seconds_per_clip"] * clips
        point = {"network": experiment.name, "what": what, "value": value, "seconds": seconds}
        found.append({**point, "peak_bytes": speed["peak_bytes"]})
    return found


def _text(found: dict[str, Any]) -> str:
    rates = ", ".join(f"{name} {rate / 1e12:.2f} T/s" for name, rate in found["matrix_rates"].items())
    lines = [f"{found['device']}, preset {found['preset']}, medians of {found['steps']} steps; matrices: {rates}"]
    for one in found.get("networks", ()):
        ours, plain = one["ours"], one["plain"]
        hours = ", ".join(f"{name} {duration(3600 * each['hours'])}" for name, each in one["whole"].items())
        lines.append(
            f"{one['paper']:18} {one['network']:22} {ours['clips_per_second']:8.2f} clips/s, "
            f"{ours['images_per_second']:8.1f} images/s, {one['share_of_matrix_rate']:.1%} of the matrices' rate, "
            f"{performance.gigabytes(ours['peak_bytes'])} GB; plain {plain['clips_per_second']:.2f} clips/s "
            f"(x{one['ratio']:.1f}); whole recipe: {hours}"
        )
    for one in found.get("curves", ()):
        lines.append(
            f"{one['network']:22} {one['what']:9} {one['value']:4} {one['seconds'] * 1e3:9.1f} ms, "
            f"{performance.gigabytes(one['peak_bytes'])} GB"
        )
    return "\n".join(lines)
