"""`repro bench store`: reading from the store, against decoding the video again and against loose JPEG files."""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repro.cli.bench import begin, clips_at_hand, finish, timings, videos
from repro.data.clips import Sampling, snippet_tensors
from repro.data.sampling import spaced_indices
from repro.data.video import read_frames, resize_short_side
from repro.errors import ReproError
from repro.flow.store import ClipStore, quantise
from repro.flow.tvl1 import backend_name, tvl1

SHORT_SIDE = 256  # px: videos of 320x240 keep their size
SNIPPETS, FIELDS = 3, 10
Frames = NDArray[np.uint8]


def bench_store(options: Namespace) -> int:
    """For each clip, medians over repeats with warm files: three frames, then three frames with ten fields each.

    What is compared: (a) frames from the store against PyAV, which decodes in order from the start of the file to the
    last frame needed and converts only those needed; (b) frames and fields from the store against one JPEG file for
    each image, as TSN keeps them, read through PIL into arrays. The frames there are the store's own JPEG bytes, the
    fields two grey images each of the same quality. All give arrays of the same layout.
    Only the fields that are read are computed; the others repeat them.
    """
    begin(options)
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        for number, video in enumerate(videos(clips_at_hand(options))):
            clips.append(_measure(video, Path(folder), str(number), options.repeats))
    found = {
        "snippets": SNIPPETS,
        "fields": FIELDS,
        "repeats": options.repeats,
        "decoding": {"ratio": statistics.median(clip["ratio"]["decoding"] for clip in clips)},
        "loose": {"ratio": statistics.median(clip["ratio"]["loose"] for clip in clips)},
        "clips": clips,
    }
    return finish(options, "store", found, _text(found))


def _measure(video: Path, folder: Path, name: str, repeats: int) -> dict[str, Any]:
    """Milliseconds of each way for one video, and the ratios to the store."""
    frames = read_frames(video, SHORT_SIDE)
    if len(frames) <= FIELDS:
        raise ReproError(f"{video} has {len(frames)} frames, a snippet takes {FIELDS + 1}: take it out of the folder")
    starts = spaced_indices(len(frames), SNIPPETS, FIELDS + 1)
    middle = [int(start) + FIELDS // 2 for start in starts]  # as `snippet_tensors` takes them
    fields = [int(start) + k for start in starts for k in range(FIELDS)]
    flow = _flow(frames, fields)
    store = ClipStore(folder / "store", short_side=SHORT_SIDE, flow_backend=backend_name())
    store.write(name, frames, flow)
    loose = folder / "loose" / name
    _write_loose(loose, store, name, flow)

    def stored(*streams: str) -> object:
        with store.open(name) as clip:
            return snippet_tensors(clip, starts, Sampling(SNIPPETS, FIELDS, SHORT_SIDE, streams=streams))

    work = {
        "rgb": lambda: stored("rgb"),
        "pyav": lambda: _decode(video, middle),
        "both": lambda: stored("rgb", "flow"),
        "pil": lambda: _read_loose(loose, middle, fields),
    }
    ms = {what: statistics.median(seconds) * 1e3 for what, seconds in timings(work, repeats).items()}
    return {
        "clip": video.name,
        "frames": len(frames),
        "size": [frames.shape[2], frames.shape[1]],
        "ms": ms,
        "ratio": {"decoding": ms["pyav"] / ms["rgb"], "loose": ms["pil"] / ms["both"]},
        "mb": {"store": store.path(name).stat().st_size / 1e6, "loose": _size(loose) / 1e6},
    }


def _flow(frames: Frames, wanted: Sequence[int]) -> NDArray[np.uint8]:
    """Fields (T - 1, 2, H, W) of frames (T, H, W, 3), in bytes: those `wanted` are computed, the others repeat
    them in turn."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    known = sorted(set(wanted))
    computed = {i: quantise(tvl1(grey[i][None], grey[i + 1][None]).numpy()[0], 20.0) for i in known}
    return np.stack([computed[i if i in computed else known[i % len(known)]] for i in range(len(frames) - 1)])


def _write_loose(folder: Path, store: ClipStore, name: str, flow: NDArray[np.uint8]) -> None:
    """img_00001.jpg, flow_x_00001.jpg, flow_y_00001.jpg and so on, as TSN's tools name them."""
    folder.mkdir(parents=True)
    with store.open(name) as clip:
        for index in range(clip.n_frames):
            (folder / f"img_{index + 1:05d}.jpg").write_bytes(clip.blob(index))
    for index, field in enumerate(flow):
        for axis, image in zip("xy", field, strict=True):
            path = folder / f"flow_{axis}_{index + 1:05d}.jpg"
            cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, store.settings.quality])


def _decode(video: Path, wanted: Sequence[int]) -> Frames:
    """The frames `wanted`, ascending, (T, 3, H, W), by one pass of PyAV that ends with the last of them."""
    kept = []
    with av.open(str(video.absolute())) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                kept.append(resize_short_side(rgb, SHORT_SIDE))
            if index == wanted[-1]:
                break
    return _channels_first(kept)


def _channels_first(frames: Sequence[Frames]) -> Frames:
    """(T, 3, H, W), one after the other in memory, as networks take them and the store gives them."""
    return np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2))


def _read_loose(folder: Path, frames: Sequence[int], fields: Sequence[int]) -> tuple[Frames, NDArray[np.uint8]]:
    """Frames (T, 3, H, W) and fields (T 2L, H, W)."""
    rgb = [np.asarray(Image.open(folder / f"img_{i + 1:05d}.jpg").convert("RGB")) for i in frames]
    names = [folder / f"flow_{axis}_{i + 1:05d}.jpg" for i in fields for axis in "xy"]
    return _channels_first(rgb), np.stack([np.asarray(Image.open(name).convert("L")) for name in names])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _text(found: dict[str, Any]) -> str:
    lines = [f"{len(found['clips'])} clips, one thread, processor time, warm files, medians of {found['repeats']}; ms"]
    for clip in found["clips"]:
        ms, ratio, (width, height) = clip["ms"], clip["ratio"], clip["size"]
        lines.append(
            f"{clip['clip'][:24]:24} {width}x{height} {clip['frames']:4} frames: RGB {ms['rgb']:.1f}, "
            f"PyAV {ms['pyav']:.1f} (x{ratio['decoding']:.1f}); RGB and flow {ms['both']:.1f}, "
            f"loose JPEG {ms['pil']:.1f} (x{ratio['loose']:.1f})"
        )
    lines.append(
        f"median: {found['decoding']['ratio']:.1f} times as fast as decoding, "
        f"{found['loose']['ratio']:.2f} times as fast as loose files"
    )
    return "\n".join(lines)
