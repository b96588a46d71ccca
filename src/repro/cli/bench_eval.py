"""`repro bench eval`: videos a second through a test, from reading the store to logits, by the clock."""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from repro.cli.bench import alone, begin, finish, peak_bytes
from repro.cli.bench_loader import invented_store
from repro.data.catalog import OFFICIAL, Clip
from repro.evaluation import evaluate, protocol
from repro.flow.store import ClipStore
from repro.papers import PAPERS
from repro.report import performance
from repro.training import device_name, pick_device, tuned

PAPER, STREAMS = "stilt", ("spatial", "temporal")  # the plain two-stream network: a ResNet each
TESTS = ("25x10", "25fc", "25x1")
AHEAD = 8  # videos before the clock starts: as many as a batch has at most
FRAMES = 250  # of a video of ten seconds, each of which a test may decode


def bench_eval(options: Namespace) -> int:
    """Time the two streams of a plain network under the tests that the papers use, one after the other."""
    begin(options)
    device = pick_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        store, clips = invented_store(Path(folder), PAPERS[PAPER].short_side(options.preset, "ucf101"), FRAMES, 2)
        tests = []
        for name in TESTS:
            parts = [
                alone(device, of_stream, stream, options.preset, name, store, clips, options.videos, device,
                      options.workers) for stream in STREAMS
            ]  # fmt: skip
            seconds, peaks = zip(*parts, strict=True)
            peak = max(peaks) if None not in peaks else None
            tests.append({"test": name, "videos_per_second": 1 / sum(seconds), "peak_bytes": peak})
    found = {
        "device": device_name(device),
        "preset": options.preset,
        "videos": options.videos,
        "workers": options.workers,
        "network": f"{PAPER}: {' and '.join(STREAMS)}",
        "tests": tests,
    }
    lines = [f"{found['device']}, preset {options.preset}, {found['network']}, {options.workers} loader processes"]
    for test in tests:
        memory = performance.gigabytes(test["peak_bytes"])
        lines.append(f"{test['test']:8} {test['videos_per_second']:8.3f} videos/s, {memory} GB")
    return finish(options, "eval", found, "\n".join(lines))


def of_stream(
    stream: str, preset: str, test: str, store: ClipStore, clips: Sequence[Clip], videos: int, device: torch.device,
    workers: int,
) -> tuple[float, float | None]:  # fmt: skip
    """Seconds a video takes one stream, by the clock, once the loader's processes are at work; the peak of memory."""
    torch.manual_seed(0)
    tuned(device)
    experiment = PAPERS[PAPER].experiments(preset, "ucf101", "none")[stream]
    model = experiment.network(OFFICIAL["ucf101"][0])
    times: list[tuple[int, float]] = []  # after each batch: videos done, and when
    more = [clips[i % len(clips)] for i in range(videos + AHEAD + 2 * workers)]
    evaluate(
        model, store, more, experiment.sampling, protocol(test), device=device, workers=workers,
        progress=lambda done, _: times.append((done, time.perf_counter())),
    )  # fmt: skip
    first, began = [one for one in times if one[0] <= AHEAD + 2 * workers][-1]
    last, ended = times[-1]
    return (ended - began) / (last - first), peak_bytes(device)
