"""`repro bench extract`: frames and flow of real clips into a store, end to end, and what that means for whole data
sets."""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import torch

from repro.cli.bench import begin, clips_at_hand, clock, finish, peak_bytes, videos
from repro.data.catalog import Clip, Dataset
from repro.data.video import read_frames
from repro.errors import ReproError
from repro.flow.extract import chunk_of, extract, flow_bytes
from repro.flow.store import ClipStore
from repro.flow.tvl1 import SMALLEST, backend_name, pick, tvl1
from repro.training import device_name

SHORT_SIDE = 256  # px
CPU = torch.device("cpu")


class Whole(NamedTuple):
    """A data set as large as it is: all figures are about."""

    title: str
    frames: float
    size: tuple[int, int]  # (W, H) of stored frames
    counted: str  # where the figures come from


WHOLE = (
    Whole("UCF101", 2.4e6, (320, 240), "13,320 clips of about 180 frames"),
    Whole("HMDB51", 0.63e6, (320, 240), "6,766 clips of about 93 frames; 240 px high, the width taken as 320"),
    Whole("Kinetics-400", 60e6, (340, 256), "240,000 clips of 10 s, taken as 25 frames/s of 340x256"),
)


def bench_extract(options: Namespace) -> int:
    """Extract the first frames of each clip on one worker; then time the stages alone, on the same frames.

    Times are the processor's, but the clock's where flow is computed on a GPU.
    """
    begin(options)
    backend = options.flow_backend
    device = pick() if backend == "torch" else CPU
    timer = time.perf_counter if device.type == "cuda" else clock
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clips = [_cut(video, root / "videos", n, options.frames) for n, video in enumerate(_videos(options))]
        dataset = Dataset("bench", root, ("all",), tuple(clips), (), "bench")
        # The first call compiles, and is no part of what a long extraction costs.
        tvl1(*np.zeros((2, 1, SMALLEST, SMALLEST), np.uint8), backend=backend)
        before = peak_bytes(CPU)
        store = ClipStore(root / "store", short_side=SHORT_SIDE, flow_backend=backend_name(backend))
        began, at = timer(), time.perf_counter()
        extract(dataset, store, clips, workers=1, on_error="raise")
        seconds, waited = timer() - began, time.perf_counter() - at
        peak = peak_bytes(CPU)
        stored = _stored(store, clips)
        stages = _stages(dataset, clips, root / "again", backend, timer)
    frames = sum(clip["frames"] for clip in stored)
    pixels = sum(clip["frames"] * clip["size"][0] * clip["size"][1] for clip in stored)
    size = sum(clip["bytes"] for clip in stored)
    found = {
        "device": device_name(device),
        "backend": backend,
        "clips": stored,
        "frames": frames,
        "seconds": seconds,
        "wall_seconds": waited,
        "frames_per_second": frames / seconds,
        "stages": stages,
        "mb_per_1000_frames": size / frames / 1e3,
        "peak_mb": peak and peak / 1e6,
        "peak_before_mb": before and before / 1e6,
        "whole": [_projected(whole, seconds / pixels, size / pixels) for whole in WHOLE],
    }
    return finish(options, "extract", found, _text(found))


def _videos(options: Namespace) -> list[Path]:
    return videos(clips_at_hand(options))


def _cut(video: Path, folder: Path, number: int, frames: int) -> Clip:
    """The first packets of a video in a file of their own, not encoded anew: they decode at the same cost."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}{video.suffix}"
    try:
        with av.open(str(video.absolute())) as source, av.open(str(path), "w") as target:
            stream = source.streams.video[0]
            copy = target.add_stream_from_template(stream)
            for packet, _ in zip(source.demux(stream), range(frames), strict=False):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    except (av.FFmpegError, IndexError) as error:
        raise ReproError(f"{video}: cannot be cut to {frames} frames ({error}): take it out of the folder") from error
    return Clip(f"all/{number}", f"{folder.name}/{path.name}", 0, video.name)


def _stored(store: ClipStore, clips: Sequence[Clip]) -> list[dict[str, Any]]:
    facts = []
    for clip in clips:
        with store.open(clip.id) as stored:
            size, frames = [stored.width, stored.height], stored.n_frames
        facts.append({"clip": clip.group, "frames": frames, "size": size, "bytes": store.path(clip.id).stat().st_size})
    return facts


def _stages(
    dataset: Dataset, clips: Sequence[Clip], folder: Path, backend: str, timer: Callable[[], float]
) -> dict[str, float]:
    """Seconds of decoding, of TV-L1 with its 8 bits, and of JPEG encoding with writing, one after the other."""
    store = ClipStore(folder, short_side=SHORT_SIDE, flow_backend=backend_name(backend))
    spent = {"decoding": 0.0, "flow": 0.0, "writing": 0.0}
    for clip in clips:
        began = timer()
        frames = read_frames(dataset.video(clip), SHORT_SIDE)
        decoded = timer()
        grey = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in frames]
        chunk = chunk_of(backend)
        parts = [grey[i : i + chunk + 1] for i in range(0, len(grey) - 1, chunk)]
        flow = np.concatenate([flow_bytes(part, backend, store.settings.bound) for part in parts])
        computed = timer()
        store.write(clip.id, frames, flow)
        written = timer()
        for stage, seconds in zip(spent, (decoded - began, computed - decoded, written - computed), strict=True):
            spent[stage] += seconds
    return spent


def _projected(whole: Whole, seconds_per_pixel: float, bytes_per_pixel: float) -> dict[str, Any]:
    pixels = whole.frames * whole.size[0] * whole.size[1]
    return {
        **whole._asdict(),
        "core_hours": pixels * seconds_per_pixel / 3600,
        "gb": pixels * bytes_per_pixel / 1e9,
    }


def _text(found: dict[str, Any]) -> str:
    total = sum(found["stages"].values())
    shares = ", ".join(f"{stage} {seconds / total:.1%}" for stage, seconds in found["stages"].items())
    memory = f", {found['peak_mb']:.0f} MB of memory at most ({found['peak_before_mb']:.0f} before)"
    lines = [
        f"{len(found['clips'])} clips, {found['frames']} frames in {found['seconds']:.1f} s, flow by "
        f"'{found['backend']}' on {found['device']}: {found['frames_per_second']:.1f} frames/s on one core",
        f"stages, each alone: {shares}; {total:.1f} s in all",
        f"{found['mb_per_1000_frames']:.1f} MB for 1000 frames{memory if found['peak_mb'] else ''}",
    ]
    for whole in found["whole"]:
        lines.append(
            f"{whole['title']:13} about {whole['frames'] / 1e6:.2f} million frames: "
            f"about {whole['core_hours']:.0f} core hours, {whole['gb']:.0f} GB"
        )
    return "\n".join(lines)
