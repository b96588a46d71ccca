"""Video files in and out: whole files, decoded in order, as uint8 RGB frames.

Nothing here seeks: decord 0.6.0 returns frames up to five places off after a seek on HMDB51's files, whatever the
seek mode. Read in order it is exact, apart from three things, all of them silent: it counts packets instead of frames
and repeats the last frame in place of one that the decoder dropped (every HMDB51 file), it conceals damaged frames,
and it converts odd sizes and more than eight bits differently. A pass of PyAV without colour conversion, a fifth of
the cost, therefore goes first: it counts the frames and finds the damage. decord then supplies the pixels where its
first and last frame equal PyAV's, and PyAV in every other case: the frames returned are always PyAV's, on one thread,
so that even a damaged file decodes to the same pixels every time.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError, nearest

Frames = NDArray[np.uint8]
Used = TypeVar("Used")

DECORD_FRAMES = 2000  # of longer videos PyAV decodes all: decord's memory grows by some 30 KB a frame (measured)
TOLERATED = 0.1  # share of frames, and one more, that may be missing or damaged
CODECS = {
    # no B frames: AVI has no presentation times; one thread: the same bytes every time
    "libx264": {"crf": "10", "preset": "medium", "bf": "0", "threads": "1"},
    "mpeg4": {"qmin": "1", "qmax": "2", "threads": "1"},
}

log = logging.getLogger(__name__)


class VideoError(ReproError):
    """A video that cannot be used. The one-line message names the file."""


class _NotPyAVError(Exception):
    """What decord gives may not be what PyAV gives: begin again with PyAV."""


@dataclass(frozen=True)
class VideoInfo:
    """What a whole pass over a file found. Sizes are those of the frames returned, after rotation."""

    frames: int  # that decode
    missing: int  # that the container declares and the file does not hold
    damaged: int  # that the decoder had to patch up
    height: int
    width: int
    fps: float  # average; 0 when the container does not say
    codec: str

    @property
    def flaws(self) -> str:
        """`""` for a sound file, else a clause such as "71 frames are missing, 2 of 93 are damaged"."""
        missing = f"{self.missing} frames are missing" if self.missing else ""
        damaged = f"{self.damaged} of {self.frames} are damaged" if self.damaged else ""
        return ", ".join(part for part in (missing, damaged) if part)


@dataclass(frozen=True)
class _Scan:
    info: VideoInfo
    first: Frames
    last: Frames


def read_frames(
    path: str | Path, short_side: int | None = None, *, backend: str | None = None, allow_truncated: bool = False
) -> Frames:
    """Decode a whole file: (T, H, W, 3) uint8 RGB. See `read_video`."""
    return read_video(path, short_side, backend=backend, allow_truncated=allow_truncated)[0]


def read_video(
    path: str | Path, short_side: int | None = None, *, backend: str | None = None, allow_truncated: bool = False
) -> tuple[Frames, VideoInfo]:
    """Decode a whole file: its frames, (T, H, W, 3) uint8 RGB, and what is known of it.

    short_side: frames whose shorter side is longer are reduced to it, aspect kept, one at a time; nothing is ever
    enlarged. backend: "decord" or "pyav"; None takes decord where it is installed. The frames are the same.
    allow_truncated: return what decodes of a damaged file. Without it a file raises VideoError when more than 10 % of
    its declared frames (and more than one) are missing or damaged. Rotation in the container is applied; the pixel
    aspect ratio is not; grey videos come back with three equal channels; frames of a variable rate come as they are,
    none repeated and none dropped.
    """
    return stream_video(
        path,
        lambda info, frames: (_stack(frames, info), info),
        short_side,
        backend=backend,
        allow_truncated=allow_truncated,
    )


def stream_video(
    path: str | Path,
    use: Callable[[VideoInfo, Iterator[Frames]], Used],
    short_side: int | None = None,
    *,
    backend: str | None = None,
    allow_truncated: bool = False,
) -> Used:
    """Return `use(info, frames)`, where `frames` yields those of `read_video` in order and one at a time, (H, W, 3).

    So a video of any length takes little memory. `use` must read all `info.frames` frames, and bear being called a
    second time, with the first frame again: decord's frames may turn out not to be PyAV's as late as in place of the
    last one, where `frames` then raises what `use` must let pass. Other arguments and errors: see `read_video`.
    """
    scan = _scan(path, allow_truncated)
    if _backend(backend) == "decord" and not scan.info.damaged and scan.info.frames <= DECORD_FRAMES:
        try:
            return use(scan.info, (resize_short_side(frame, short_side) for frame in _decord_frames(path, scan)))
        except _NotPyAVError as error:
            log.debug("%s: PyAV decodes, not decord: %s", path, error)
    return use(scan.info, (resize_short_side(frame, short_side) for frame in _pyav_frames(path, scan.info)))


def iter_frames(path: str | Path, *, allow_truncated: bool = False) -> Iterator[Frames]:
    """Yield the frames of a file, (H, W, 3) uint8 RGB, in order and one at a time. Errors as in `read_video`, before
    the first one."""
    _scan(path, allow_truncated)
    for frame in _Pass(path):
        yield _rgb(frame)


def first_frames(path: str | Path, count: int, short_side: int | None = None) -> list[Frames]:
    """The first frames of a file, `count` at most, reduced as in `read_video`; the rest is neither decoded nor judged.

    A file of which nothing can be decoded raises VideoError or gives no frame.
    """
    frames = itertools.islice(_Pass(path), count)
    return [resize_short_side(_rgb(frame), short_side) for frame in frames]


def probe(path: str | Path, *, allow_truncated: bool = False) -> VideoInfo:
    """Decode a file without keeping its frames. The count is exact. Errors as in `read_video`."""
    return _scan(path, allow_truncated).info


def resize_short_side(frame: Frames, short_side: int | None) -> Frames:
    """Reduce (H, W, 3) so that the shorter side is `short_side`; a frame that is not larger comes back as it is."""
    height, width = reduced_size(frame.shape[0], frame.shape[1], short_side)
    if (height, width) == frame.shape[:2]:
        return frame
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def reduced_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """(H, W) of a frame after `resize_short_side`."""
    if short_side is None or min(height, width) <= short_side:
        return height, width
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))


def write_video(
    path: str | Path,
    frames: Iterable[Frames],
    fps: float = 25,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv444p",
) -> None:
    """Encode (H, W, 3) uint8 RGB frames at high quality; the same frames give the same bytes. The suffix chooses the
    container.

    codec: "libx264" or "mpeg4". pix_fmt: "yuv444p" (libx264 only: full colour resolution, any size) or "yuv420p"
    (plays everywhere, even sizes with libx264).
    """
    if codec not in CODECS:
        raise VideoError(f"{path}: unknown codec '{codec}'{nearest(codec, CODECS)}, use one of {', '.join(CODECS)}")
    stream: Any = None
    try:
        with av.open(_url(path), "w", options={"fflags": "+bitexact"}) as container:
            for frame in frames:
                if stream is None:
                    if pix_fmt == "yuv420p" and codec == "libx264" and (frame.shape[0] % 2 or frame.shape[1] % 2):
                        raise VideoError(f"{path}: libx264 needs even sides for yuv420p, use yuv444p for {frame.shape}")
                    rate = Fraction(fps).limit_denominator(1001)
                    stream = container.add_stream(codec, rate=rate, options=CODECS[codec])
                    stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], pix_fmt
                    shape = frame.shape
                if frame.shape != shape:
                    raise VideoError(f"{path}: frames of different sizes, {shape} and {frame.shape}")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            if stream is None:
                raise VideoError(f"{path}: no frames to write")
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"{path}: cannot write {codec} {pix_fmt} video: {_reason(error)}") from error


def _backend(name: str | None) -> str:
    installed = importlib.util.find_spec("decord") is not None
    if name is None:
        return "decord" if installed else "pyav"
    if name not in ("decord", "pyav"):
        raise ReproError(f"unknown video backend '{name}'{nearest(name, ('decord', 'pyav'))}, use decord or pyav")
    if name == "decord" and not installed:
        raise ReproError("decord is not installed (it has no build for this platform): use the backend pyav")
    return name


def _url(path: str | Path) -> str:
    """An absolute path: FFmpeg reads a relative one with a colon as the name of a protocol."""
    return str(Path(path).absolute())


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]


class _Pass:
    """One pass of PyAV over a file: iterate for the frames, up to the end or the first packet that cannot be
    decoded."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.packets = 0
        self.missing = 0  # packets, known at the end
        self.fps, self.codec = 0.0, ""
        self.reason = ""  # of an early end

    def __iter__(self) -> Iterator[av.VideoFrame]:
        try:
            container = av.open(_url(self.path))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{self.path}: cannot be opened as a video: {_reason(error)}") from error
        with container:
            if not container.streams.video:
                raise VideoError(f"{self.path}: has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # with more, the frames after a damaged one vary
            self.fps, self.codec = float(stream.average_rate or 0), stream.codec_context.name
            end = 0.0  # of the last frame, seconds
            try:
                for packet in container.demux(stream):
                    self.packets += packet.dts is not None or packet.size > 0  # the last one flushes the decoder
                    for frame in packet.decode():
                        if frame.pts is not None and stream.time_base:
                            shown_until = frame.pts - (stream.start_time or 0) + (frame.duration or 0)
                            end = max(end, float(shown_until * stream.time_base))
                        yield frame
            except av.FFmpegError as error:
                self.reason = _reason(error)
            # Packets are counted, not frames: an edit list, an empty packet or MPEG-4's "not coded" give none, rightly.
            declared: float = stream.frames
            if not declared and end and container.duration and len(container.streams) == 1:
                declared = self.packets * (container.duration / av.time_base) / end  # Matroska declares a duration only
            self.missing = max(0, round(declared) - self.packets)


def _scan(path: str | Path, allow_truncated: bool) -> _Scan:
    """Decode all, convert the first and the last frame, count, and judge the file."""
    frames = _Pass(path)
    first = last = None
    count = damaged = 0
    for last in frames:
        first = first or last
        count, damaged = count + 1, damaged + int(last.is_corrupt)
        if (last.width, last.height) != (first.width, first.height):
            raise VideoError(f"{path}: the frame size changes at frame {count - 1}, leave the file out")
    because = f" ({frames.reason})" if frames.reason else ""
    if first is None or last is None:
        raise VideoError(f"{path}: no frame can be decoded{because}, replace the file or leave it out")
    rgb = _rgb(first)
    info = VideoInfo(count, frames.missing, damaged, rgb.shape[0], rgb.shape[1], frames.fps, frames.codec)
    tolerated = 1 + TOLERATED * (frames.packets + frames.missing)
    if frames.missing + damaged > tolerated and not allow_truncated:
        raise VideoError(f"{path}: damaged or cut short: {info.flaws}{because}, replace the file or leave it out")
    return _Scan(info, rgb, _rgb(last))


def _rgb(frame: av.VideoFrame) -> Frames:
    rgb = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))  # rotation: degrees counter-clockwise


def _stack(frames: Iterable[Frames], info: VideoInfo) -> Frames:
    """One array, filled frame by frame: a list of them would be in memory beside it."""
    out: Frames | None = None
    for index, frame in enumerate(frames):
        if out is None:
            out = np.empty((info.frames, *frame.shape), np.uint8)
        out[index] = frame
    assert out is not None
    return out


def _pyav_frames(path: str | Path, info: VideoInfo) -> Iterator[Frames]:
    count = 0
    for count, frame in enumerate(_Pass(path), start=1):
        if count <= info.frames:
            yield _rgb(frame)
    if count != info.frames:
        raise VideoError(f"{path}: {info.frames} frames at first, {count} when read again: did the file change?")


def _decord_frames(path: str | Path, scan: _Scan) -> Iterator[Frames]:
    """decord's frames; raises _NotPyAVError, before the last one at the latest, where they may not be PyAV's."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    known = {0: scan.first, scan.info.frames - 1: scan.last}
    try:
        reader = decord.VideoReader(_url(path), ctx=decord.cpu(0), num_threads=1)
        if len(reader) < scan.info.frames:
            raise _NotPyAVError(f"{len(reader)} frames, not {scan.info.frames}")
        for index in range(scan.info.frames):
            frame: Frames = reader.next().asnumpy()
            if index in known and not np.array_equal(frame, known[index]):
                raise _NotPyAVError(f"frame {index} differs")
            yield frame
    except _NotPyAVError:
        raise
    except Exception as error:  # whatever decord trips over, PyAV decides
        raise _NotPyAVError(str(error)) from error
