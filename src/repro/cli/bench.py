"""`repro bench`: what the flow of a pair and a training sample cost on this machine, on one thread."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from repro.data.catalog import Clip
from repro.data.clips import Sampling, TrainingSamples
from repro.data.video import read_frames
from repro.errors import ReproError
from repro.flow.store import ClipStore, quantise
from repro.flow.tvl1 import BACKENDS, SMALLEST, tvl1

VIDEOS = {".avi", ".mp4", ".mkv", ".mov", ".mpg", ".mpeg", ".webm"}
KINDS = ("translation", "rotation", "zoom", "occlusion", "noise")  # of invented pairs
BOUND = 20.0  # px at the ends of the 8 bits that stored flow has
Grey = NDArray[np.uint8]  # (H, W)


class Pair(NamedTuple):
    kind: str  # one of KINDS, or the clip's file name
    first: Grey
    second: Grey


# ---------------------------------------------------------------- flow


def bench_flow(options: Namespace) -> int:
    """Time both backends on the same pairs, in turn, and say how far their flows differ."""
    torch.set_num_threads(1)
    width, height = options.size
    clips = Path(options.clips) if options.clips else None
    for backend in BACKENDS:  # the first call compiles or loads libraries
        tvl1(*np.zeros((2, 1, SMALLEST, SMALLEST), np.uint8), backend=backend)
    pairs = clip_pairs(clips, options.pairs, height, width) if clips else invented_pairs(options.pairs, height, width)
    measured = [_measure(pair) for pair in pairs]
    ratios = [pair["ms"]["opencv"] / pair["ms"]["fused"] for pair in measured]
    found = {
        "size": [width, height],
        "source": "clips" if clips else "invented",
        "backends": BACKENDS,
        "ms": {backend: _spread([pair["ms"][backend] for pair in measured]) for backend in BACKENDS},
        "ratio": _spread(ratios),
        "difference": {
            "mean_px": statistics.mean(pair["mean_px"] for pair in measured),
            "median_px": statistics.median(pair["mean_px"] for pair in measured),
            "within_quarter_px": statistics.mean(pair["within_quarter_px"] for pair in measured),
            "bytes_within_1": statistics.mean(pair["bytes_within_1"] for pair in measured),
        },
        "pairs": measured,
    }
    print(json.dumps(found, indent=1) if options.json else _flow_text(found))
    return 0


def clip_pairs(folder: Path, count: int, height: int, width: int) -> Iterator[Pair]:
    """Neighbouring frames, equally spaced over the videos below a folder, reduced and cut to one size."""
    videos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS)[:count]
    if not videos:
        raise ReproError(f"no videos in {folder}: give a folder that holds some, or leave --clips out")
    for i, video in enumerate(videos):
        share = len(range(i, count, len(videos)))  # pairs from this video
        frames = read_frames(video)
        if len(frames) < 2:
            raise ReproError(f"{video} has a single frame: take it out of {folder}")
        for start in np.linspace(0, len(frames) - 2, share + 2).round().astype(int)[1:-1]:
            yield Pair(video.name, *(_cut(frame, height, width) for frame in frames[start : start + 2]))


def _cut(frame: NDArray[np.uint8], height: int, width: int) -> Grey:
    """The grey middle of a frame, scaled so that the frame just covers (height, width)."""
    scale = max(height / frame.shape[0], width / frame.shape[1])
    size = (max(width, round(frame.shape[1] * scale)), max(height, round(frame.shape[0] * scale)))
    grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return np.asarray(grey[top : top + height, left : left + width], np.uint8)


def invented_pairs(count: int, height: int, width: int) -> Iterator[Pair]:
    """Textures in motion, each kind in turn; the same ones every time."""
    for i in range(count):
        kind, rng = KINDS[i % len(KINDS)], np.random.default_rng(i)
        angle = rng.uniform(-3, 3) if kind == "rotation" else 0.0  # degrees
        zoom = rng.uniform(0.95, 1.05) if kind == "zoom" else 1.0
        shift = rng.uniform(-4, 4, 2) if kind in ("translation", "noise") else rng.uniform(-1, 1, 2)  # px
        scene = _texture(rng, height, width)
        first, second = scene, _moved(scene, angle, zoom, shift)
        if kind == "occlusion":  # a disc with a motion of its own, in front
            disc, mask = _texture(rng, height, width), np.zeros((height, width), np.float32)
            cv2.circle(mask, (width // 2, height // 2), min(height, width) // 4, 1.0, -1)
            own = rng.uniform(-8, 8, 2)
            first = np.where(mask > 0.5, disc, first)
            second = np.where(_moved(mask, 0, 1, own) > 0.5, _moved(disc, 0, 1, own), second)
        noise = rng.normal(0, 5 if kind == "noise" else 0.5, (2, height, width))  # grey levels; of a camera otherwise
        images = (np.stack([first, second]) + noise).clip(0, 255).round().astype(np.uint8)
        yield Pair(kind, *images)


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Random detail of all sizes, the finer the weaker, as in natural pictures; (height, width), 20 to 235."""
    picture = np.zeros((height, width), np.float32)
    for cells in (3, 6, 12, 24, 48, 96):
        noise = rng.normal(0, 1 / cells, (cells, cells * width // height + 1)).astype(np.float32)
        picture += np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray((picture - picture.min()) / np.ptp(picture) * 215 + 20, np.float32)


def _moved(image: NDArray[np.float32], angle: float, zoom: float, shift: NDArray[np.float64]) -> NDArray[np.float32]:
    """The image turned and enlarged about its middle, and shifted (right, down); mirrored beyond its border."""
    height, width = image.shape
    matrix = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, zoom), np.float64)
    matrix[:, 2] += shift
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.float32)


def _measure(pair: Pair) -> dict[str, Any]:
    """Milliseconds of both backends for one pair, and the difference of their flows."""
    milliseconds, flows = {}, {}
    for backend in BACKENDS:
        began = time.perf_counter()
        flows[backend] = tvl1(pair.first[None], pair.second[None], backend=backend)[0].numpy()
        milliseconds[backend] = (time.perf_counter() - began) * 1e3
    distance = np.linalg.norm(flows["fused"] - flows["opencv"], axis=0)  # (H, W)
    levels = [quantise(flow, BOUND).astype(int) for flow in flows.values()]
    return {
        "kind": pair.kind,
        "ms": milliseconds,
        "mean_px": float(distance.mean()),
        "within_quarter_px": float((distance <= 0.25).mean()),
        "bytes_within_1": float((np.abs(levels[0] - levels[1]) <= 1).mean()),
    }


def _spread(values: list[float]) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {"median": float(median), "low": float(low), "high": float(high)}


def _flow_text(found: dict[str, Any]) -> str:
    width, height = found["size"]
    what = f"{len(found['pairs'])} pairs of {width}x{height} ({found['source']})"
    lines = [f"TV-L1, {what}, one thread; in brackets 10 to 90 % of the pairs"]
    for backend, name in BACKENDS.items():
        ms = found["ms"][backend]
        lines.append(f"{name:16} median {ms['median']:7.1f} ms/pair  ({ms['low']:.1f} to {ms['high']:.1f})")
    ratio, difference = found["ratio"], found["difference"]
    lines.append(f"{'ratio':16} median {ratio['median']:7.1f}          ({ratio['low']:.1f} to {ratio['high']:.1f})")
    lines.append(
        f"{'difference':16} {difference['mean_px']:.4f} px, {difference['within_quarter_px']:.2%} of pixels within "
        f"0.25 px, {difference['bytes_within_1']:.2%} of bytes within 1"
    )
    return "\n".join(lines)


# ---------------------------------------------------------------- training samples


def bench_loader(options: Namespace) -> int:
    """Seconds for one training sample: 4 snippets of a frame and ten fields, read, cut, resized to 224x224."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = ClipStore(folder, short_side=240, flow_backend="none: invented")
        texture = _texture(rng, 240, 320).astype(np.uint8)
        frames = np.stack([np.roll(texture, t, axis=1) for t in range(40)])[..., None].repeat(3, axis=3)
        store.write("a/b", frames, rng.normal(0, 0.3, (39, 2, 240, 320)).astype(np.float32))
        samples = TrainingSamples(store, [Clip("a/b", "", 0, "g")], Sampling(4, 10, 224), seed=1)
        epochs = iter(range(10**6))
        _report("a training sample", "samples", _timings(lambda: samples[next(epochs), 0], options.repeats))
    return 0


def _timings(work: Callable[[], object], repeats: int) -> list[float]:
    work()  # the first time includes loading libraries
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


def _report(what: str, unit: str, seconds: list[float]) -> None:
    middle = statistics.median(seconds)
    spread = f"{min(seconds) * 1e3:.0f} to {max(seconds) * 1e3:.0f} ms"
    print(f"{what}: median {middle * 1e3:.0f} ms of {len(seconds)} ({spread}), {1 / middle:.1f} {unit}/s, one thread")
