"""`repro bench flow`: TV-L1 by both backends of the processor on the same pairs, and how far their flows differ."""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro.cli.bench import begin, clips_at_hand, clock, finish, seconds_of, spread, videos
from repro.data.video import read_frames
from repro.errors import ReproError
from repro.flow.batched import Operations, operations, tvl1_batched
from repro.flow.extract import ON_CUDA
from repro.flow.store import quantise
from repro.flow.tvl1 import BACKENDS, DEFAULTS, SMALLEST, tvl1
from repro.training import device_name, pick_device

KINDS = (  # of invented pairs: what makes flow hard in real videos, one at a time
    "translation", "rotation", "zoom", "occlusion", "noise", "large motion", "brightness", "blur", "repetition",
    "low contrast", "transparency", "cut",
)  # fmt: skip
TIMED = ("fused", "opencv")
BYTES = 64  # that a step reads and writes of a pixel: 6 planes of state twice, 4 of data, float32
BOUND = 20.0  # px at the ends of the 8 bits that stored flow has
Grey = NDArray[np.uint8]  # (H, W)


class Pair(NamedTuple):
    kind: str  # one of KINDS, or the clip's file name
    first: Grey
    second: Grey


def bench_flow(options: Namespace) -> int:
    """Time both backends on the same pairs, in turn: invented ones and, where clips are at hand, as many natural
    ones."""
    begin(options)
    width, height = options.size
    for backend in TIMED:  # the first call compiles or loads libraries
        tvl1(*np.zeros((2, 1, SMALLEST, SMALLEST), np.uint8), backend=backend)
    clips = clips_at_hand(options)
    natural = options.pairs // 2 if clips else 0
    measured = [_measure(pair) for pair in invented_pairs(options.pairs - natural, height, width)]
    if clips and natural:
        measured += [_measure(pair) for pair in clip_pairs(clips, natural, height, width)]
    sources = {name: [pair for pair in measured if pair["source"] == name] for name in ("invented", "natural")}
    device = pick_device(options.device)
    at_once = options.batch if options.batch is not None else ON_CUDA if device.type == "cuda" else 0
    batch = list(clip_pairs(clips, 24, height, width) if clips else invented_pairs(len(KINDS), height, width))
    found = {
        "device": device_name(device) if at_once else "cpu",
        "size": [width, height],
        "on_device": on_device(batch, at_once, device) if at_once else None,
        "backends": {backend: BACKENDS[backend] for backend in TIMED},
        **_summary(measured),
        "by_source": {name: _summary(pairs) for name, pairs in sources.items() if pairs},
        "pairs": measured,
    }
    return finish(options, "flow", found, _text(found))


class Tallied:
    """Operations that count how many times a pixel was written: of every pair, its steps and medians."""

    def __init__(self, by: Operations) -> None:
        self.by, self.writes = by, 0.0
        self._steps: Tensor | None = None
        self._pixels = 0

    def parts(self, height: int, width: int) -> int:
        return self.by.parts(height, width)

    def linearise(self, *tensors: Tensor) -> None:
        self.close()
        self.by.linearise(*tensors)

    def smooth(self, *args: Any) -> None:
        self.by.smooth(*args)

    def step(self, *args: Any) -> None:
        self._steps, self._pixels = args[5], args[0].shape[2] * args[0].shape[3]
        self.by.step(*args)

    def close(self) -> None:
        """Add what the last warp wrote."""
        if self._steps is not None:
            self.writes += float(self._steps.sum()) * self._pixels
        self._steps = None


def on_device(pairs: Sequence[Pair], count: int, device: torch.device, repeats: int = 3) -> dict[str, Any]:
    """The backend "torch" on `count` pairs at once, some of them several times: pairs a second, by the clock, steps a
    pair at full size, and the share of the measured rate of copying that the state and the data of those steps need."""
    first, second = (
        torch.from_numpy(np.stack([getattr(pairs[i % len(pairs)], name) for i in range(count)])).to(device)
        for name in ("first", "second")
    )
    seconds = statistics.median(seconds_of(lambda: tvl1(first, second, backend="torch"), device, repeats, warm=1))
    tally = Tallied(operations(device))
    tvl1_batched(first, second, **DEFAULTS, by=tally)
    tally.close()
    height, width = first.shape[1:]
    source = torch.empty((1 << 28) if device.type == "cuda" else 1 << 22, device=device)  # float32
    target = torch.empty_like(source)
    copying = statistics.median(seconds_of(lambda: target.copy_(source), device, 5))
    bandwidth = 2 * 4 * source.numel() / copying  # bytes a second, read and written
    return {
        "device": device_name(device),
        "source": "invented" if pairs[0].kind in KINDS else "natural",
        "pairs": count,
        "pairs_per_second": count / seconds,
        "steps_per_pair": tally.writes / count / (height * width),
        "copy_bytes_per_second": bandwidth,
        "share_of_copy_rate": tally.writes * BYTES / seconds / bandwidth,
    }


def clip_pairs(folder: Path, count: int, height: int, width: int) -> Iterator[Pair]:
    """Neighbouring frames, equally spaced over the videos below a folder, reduced and cut to one size."""
    files = videos(folder)[:count]
    for i, video in enumerate(files):
        share = len(range(i, count, len(files)))  # pairs from this video
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
        reach = {"translation": 4.0, "noise": 4.0, "large motion": 16.0, "blur": 6.0}.get(kind, 1.0)  # px
        shift = rng.uniform(-reach, reach, 2)
        scene = texture(rng, height, width)
        if kind == "repetition":  # a grid, ten px from bar to bar
            y, x = np.mgrid[:height, :width].astype(np.float32)
            scene = 128 + 50 * (np.sin(x * np.float32(0.63)) + np.sin(y * np.float32(0.63)))
        first, second = scene, _moved(scene, angle, zoom, shift)
        if kind in ("occlusion", "transparency"):  # something else with a motion of its own: in front, or through
            other, own = texture(rng, height, width), rng.uniform(-8, 8, 2)
            mask = np.zeros((height, width), np.float32)
            cv2.circle(mask, (width // 2, height // 2), min(height, width) // 4, 1.0, -1)
            share = 1.0 if kind == "occlusion" else 0.5
            for image, over, where in ((first, other, mask), (second, *(_moved(z, 0, 1, own) for z in (other, mask)))):
                image[where > 0.5] += share * (over - image)[where > 0.5]
        elif kind == "brightness":  # a lamp, or the camera's exposure
            second = (second * rng.uniform(0.8, 1.2) + rng.uniform(-15, 15)).astype(np.float32)
        elif kind == "blur":  # the camera moves while the shutter is open
            exposed = [_moved(scene, 0, 1, shift * t) for t in np.linspace(0.5, 1.5, 9)]
            second = np.asarray(np.mean(exposed, axis=0), np.float32)
        elif kind == "low contrast":
            first, second = ((100 + image / 20).astype(np.float32) for image in (first, second))
        elif kind == "cut":
            second = texture(rng, height, width)
        noise = rng.normal(0, 5 if kind == "noise" else 0.5, (2, height, width))  # grey levels; of a camera otherwise
        images = (np.stack([first, second]) + noise).clip(0, 255).round().astype(np.uint8)
        yield Pair(kind, *images)


def texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
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
    for backend in TIMED:
        began = clock()
        flows[backend] = tvl1(pair.first[None], pair.second[None], backend=backend)[0].numpy()
        milliseconds[backend] = (clock() - began) * 1e3
    distance = np.linalg.norm(flows["fused"] - flows["opencv"], axis=0)  # (H, W)
    levels = [quantise(flow, BOUND).astype(int) for flow in flows.values()]
    return {
        "source": "invented" if pair.kind in KINDS else "natural",
        "kind": pair.kind,
        "ms": milliseconds,
        "mean_px": float(distance.mean()),
        "within_quarter_px": float((distance <= 0.25).mean()),
        "bytes_within_1": float((np.abs(levels[0] - levels[1]) <= 1).mean()),
    }


def _summary(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "count": len(pairs),
        "ms": {backend: spread([pair["ms"][backend] for pair in pairs]) for backend in TIMED},
        "ratio": spread([pair["ms"]["opencv"] / pair["ms"]["fused"] for pair in pairs]),
        "difference": {
            "mean_px": statistics.mean(pair["mean_px"] for pair in pairs),
            "median_px": statistics.median(pair["mean_px"] for pair in pairs),
            "within_quarter_px": statistics.mean(pair["within_quarter_px"] for pair in pairs),
            "bytes_within_1": statistics.mean(pair["bytes_within_1"] for pair in pairs),
        },
    }


def _text(found: dict[str, Any]) -> str:
    width, height = found["size"]
    mix = ", ".join(f"{part['count']} {name}" for name, part in found["by_source"].items())
    without = "" if "natural" in found["by_source"] else "; no clips at hand, see --clips"
    head = f"TV-L1, {found['count']} pairs of {width}x{height} ({mix}{without}), one thread, processor time"
    lines = [f"{head}; in brackets 10 to 90 % of the pairs"]
    for backend, name in found["backends"].items():
        ms = found["ms"][backend]
        lines.append(f"{name:16} median {ms['median']:7.1f} ms/pair  ({ms['low']:.1f} to {ms['high']:.1f})")
    parts = found["by_source"] if len(found["by_source"]) > 1 else {}
    for name, part in {"ratio": found, **{f"  {name}": part for name, part in parts.items()}}.items():
        ratio = part["ratio"]
        lines.append(f"{name:16} median {ratio['median']:7.1f}          ({ratio['low']:.1f} to {ratio['high']:.1f})")
    for name, part in {"difference": found, **{f"  {name}": part for name, part in parts.items()}}.items():
        difference = part["difference"]
        lines.append(
            f"{name:16} {difference['mean_px']:.4f} px, {difference['within_quarter_px']:.2%} of pixels within "
            f"0.25 px, {difference['bytes_within_1']:.2%} of bytes within 1"
        )
    if gpu := found["on_device"]:
        lines.append(
            f"{BACKENDS['torch']:16} on {gpu['device']}, {gpu['pairs']} pairs at once: {gpu['pairs_per_second']:.1f} "
            f"pairs/s, {gpu['steps_per_pair']:.0f} steps a pair at full size, {gpu['share_of_copy_rate']:.1%} of the "
            f"rate of copying ({gpu['copy_bytes_per_second'] / 1e9:.0f} GB/s)"
        )
    return "\n".join(lines)
