"""`repro bench loader`: whole training samples, and whether they come as fast as a network takes them.

A sample's time is the processor's, all others are by the clock.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.cli.bench import begin, finish, seconds_of, timings
from repro.cli.bench_flow import texture
from repro.cli.bench_train import invented, pieces, stepper
from repro.data.catalog import OFFICIAL, Clip
from repro.data.clips import EndlessOrder, Sampling, TrainingSamples
from repro.flow.encoded import EncodedSamples
from repro.flow.store import ClipStore
from repro.papers import PAPERS
from repro.training import device_name, loader_of, pick_device, tuned

PAPER, NETWORK = "st_resnet", "st-resnet"  # two ResNet-50 and the connections between them
CLIPS, FRAMES = 16, 40  # of the invented store
WHERE: dict[str, type[TrainingSamples]] = {"workers": TrainingSamples, "device": EncodedSamples}


def bench_loader(options: Namespace) -> int:
    """Seconds for one training sample: 4 snippets of a frame and ten fields, read, cut, resized to 224x224.

    With `--workers` also how fast that many loader processes feed a network, decoding themselves or leaving it to the
    device, and how fast the network is when its batches wait in memory.
    """
    begin(options)
    with tempfile.TemporaryDirectory() as folder:
        store, clips = invented_store(Path(folder), short_side=240, frames=FRAMES)
        samples = TrainingSamples(store, clips, Sampling(4, 10, 224), seed=1)
        epochs = iter(range(10**6))
        seconds = timings({"sample": lambda: samples[next(epochs), 0]}, options.repeats)["sample"]
    middle = statistics.median(seconds)
    found = {"snippets": 4, "fields": 10, "size": [320, 240], "crop": 224, "repeats": len(seconds), "ms": middle * 1e3}
    between = f"({min(seconds) * 1e3:.0f} to {max(seconds) * 1e3:.0f} ms), {1 / middle:.1f} samples/s, one thread"
    text = f"a training sample: median {middle * 1e3:.0f} ms of {len(seconds)} {between}"
    if options.workers:
        found |= feeding(options.preset, pick_device(options.device), options.workers, options.steps)
        text += "\n" + _text(found)
    return finish(options, "loader", found, text)


def feeding(preset: str, device: torch.device, workers: int, steps: int) -> dict[str, Any]:
    """Seconds a clip of a training step whose batches wait in memory, of the loader without a network, and of both
    together, by where images are decoded."""
    experiment = PAPERS[PAPER].experiments(preset, "ucf101", "none")[NETWORK]
    recipe, sampling, classes = experiment.recipe, experiment.sampling, OFFICIAL["ucf101"][0]
    batch = recipe.micro_batch * pieces(recipe, device)
    tuned(device)
    step = stepper(experiment, classes, device)
    waiting = invented(batch, sampling, classes, pinned=device.type == "cuda")
    alone = statistics.median(seconds_of(lambda: step(waiting), device, steps)) / batch
    fed: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store, clips = invented_store(Path(folder), PAPERS[PAPER].short_side(preset, "ucf101"), FRAMES, CLIPS)
        for where, kind in WHERE.items():
            samples = kind(store, clips, sampling, seed=1)
            fed[where] = {
                "loader": _each_batch(samples, batch, device, workers, steps, lambda _: None) / batch,
                "together": _each_batch(samples, batch, device, workers, steps, step) / batch,
            }
    return {
        "device": device_name(device),
        "preset": preset,
        "network": f"{PAPER}: {NETWORK}",
        "workers": workers,
        "steps": steps,
        "step_seconds": alone,
        "fed": fed,
    }


def _each_batch(
    samples: TrainingSamples, batch: int, device: torch.device, workers: int, steps: int,
    use: Callable[[dict[str, Tensor]], object],
) -> float:  # fmt: skip
    """Seconds from batch to batch, once those are gone that lay ready when the first one was taken.

    Processes deliver in turn, so whole rounds are timed, two at least; and they go on with later batches meanwhile.
    """
    ahead, steps = 2 * workers, workers * max(2, -(-steps // workers))
    order = EndlessOrder(len(samples), batch, 1, 0, ahead + steps + ahead)
    began = 0.0
    for number, loaded in enumerate(loader_of(samples, order, device, workers), start=1):
        use(samples.pixels(loaded, device))
        if number in (ahead, ahead + steps) and device.type == "cuda":
            torch.cuda.synchronize(device)
        if number == ahead:
            began = time.perf_counter()
        if number == ahead + steps:
            break
    return (time.perf_counter() - began) / steps


def invented_store(folder: Path, short_side: int, frames: int, count: int = 1) -> tuple[ClipStore, Sequence[Clip]]:
    """A store with some clips: textures that move, and flow of noise."""
    rng = np.random.default_rng(0)
    height, width = short_side, short_side * 4 // 3
    store = ClipStore(folder, short_side=short_side, flow_backend="none: invented")
    # A class each: where all are of one, its score soon leaves only gradients so small that a CPU takes ages over them.
    clips = [Clip(f"a/{number}", "", number, "g") for number in range(count)]
    for clip in clips:
        picture = texture(rng, height, width).astype(np.uint8)
        video = np.stack([np.roll(picture, t, axis=1) for t in range(frames)])[..., None].repeat(3, axis=3)
        store.write(clip.id, video, rng.normal(0, 0.3, (frames - 1, 2, height, width)).astype(np.float32))
    return store, clips


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['device']}, {found['network']}, preset {found['preset']}, {found['workers']} loader processes; "
        f"ms a clip: {found['step_seconds'] * 1e3:.1f} when batches wait in memory"
    ]
    for where, seconds in found["fed"].items():
        lines.append(
            f"decoded by {'the device' if where == 'device' else 'the workers'}: loader alone "
            f"{seconds['loader'] * 1e3:.1f}, together {seconds['together'] * 1e3:.1f} "
            f"(x{seconds['together'] / found['step_seconds']:.2f})"
        )
    return "\n".join(lines)
