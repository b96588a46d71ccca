"""Decoding: equal to PyAV frame by frame, damage named, odd names and shapes."""

from __future__ import annotations

import importlib.util
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from repro.data import video
from repro.data.video import (
    VideoError,
    first_frames,
    iter_frames,
    probe,
    read_frames,
    read_video,
    resize_short_side,
    stream_video,
    write_video,
)
from repro.errors import ReproError

HAS_DECORD = importlib.util.find_spec("decord") is not None
BACKENDS = ["pyav", pytest.param("decord", marks=pytest.mark.skipif(not HAS_DECORD, reason="decord has no build here"))]


def scene(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth coloured texture that drifts by a pixel a frame."""
    noise = np.random.default_rng(0).random((height + count, width + count, 3), np.float32)
    blurred = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([blurred[i : i + height, i : i + width] for i in range(count)])


def by_pyav(path: Path) -> np.ndarray:
    """The obvious version."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def encode(path: Path, frames: np.ndarray, codec: str, pix_fmt: str, *, steps: list[int] | None = None) -> None:
    """Write what `write_video` does not: other codecs, B frames, varying frame times in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        if steps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if steps is not None:
                frame.pts, frame.time_base = steps[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "shape"),
    [
        ("a.mp4", "libx264", "yuv444p", (48, 64)),
        ("a.avi", "libx264", "yuv444p", (48, 64)),
        ("odd.mp4", "libx264", "yuv444p", (47, 61)),
        ("a.mp4", "libx264", "yuv420p", (48, 64)),
        ("a.avi", "mpeg4", "yuv420p", (48, 64)),
        ("odd.avi", "mpeg4", "yuv420p", (47, 61)),  # decord converts these differently
    ],
)
def test_written_frames_come_back(
    tmp_path: Path, backend: str, name: str, codec: str, pix_fmt: str, shape: tuple[int, int]
) -> None:
    frames, path = scene(9, *shape), tmp_path / name
    write_video(path, frames, codec=codec, pix_fmt=pix_fmt)
    back, info = read_video(path, backend=backend)
    assert np.array_equal(back, by_pyav(path))
    assert (info.frames, info.height, info.width, info.missing, info.damaged, info.fps) == (9, *shape, 0, 0, 25)
    error = np.abs(back.astype(int) - frames).mean()
    assert error < (2 if pix_fmt == "yuv444p" else 5)  # a very colourful scene


def test_writing_is_deterministic_and_full_colour_is_closer(tmp_path: Path) -> None:
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[:, 9:20, 9:20] = (200, 40, 40)
    write_video(tmp_path / "a.mp4", frames)
    write_video(tmp_path / "b.mp4", frames)
    write_video(tmp_path / "c.mp4", frames, pix_fmt="yuv420p")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    error = [np.abs(read_frames(tmp_path / n).astype(int) - frames).mean() for n in ("a.mp4", "c.mp4")]
    assert error[0] < error[1] / 2


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("b-frames.mp4", "libx264", "yuv420p"),
        ("b.mkv", "libx264", "yuv420p"),
        ("grey.mp4", "libx264", "gray"),
        ("ten-bit.mp4", "libx264", "yuv420p10le"),  # decord converts these differently
        ("full-range.avi", "mjpeg", "yuvj420p"),
        ("vp9.webm", "libvpx-vp9", "yuv420p"),
        ("no-count.ts", "libx264", "yuv420p"),  # decord cannot read its end
        ("a.gif", "gif", "rgb8"),  # decord cannot open it
    ],
)
def test_other_formats_equal_pyav(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    path = tmp_path / name
    encode(path, scene(12), codec, pix_fmt)
    assert np.array_equal(read_frames(path), by_pyav(path))
    assert np.array_equal(np.stack(list(iter_frames(path))), by_pyav(path))
    assert probe(path).frames == 12 and probe(path).flaws == ""


def test_variable_rate_and_still_videos_keep_every_frame(tmp_path: Path) -> None:
    encode(tmp_path / "vfr.mp4", scene(6), "libx264", "yuv420p", steps=[0, 40, 90, 300, 310, 900])
    encode(tmp_path / "vfr.mkv", scene(6), "libx264", "yuv420p", steps=[0, 40, 90, 300, 310, 900])
    encode(tmp_path / "still.mp4", np.repeat(scene(1), 7, axis=0), "libx264", "yuv420p")
    for name, count in (("vfr.mp4", 6), ("vfr.mkv", 6), ("still.mp4", 7)):
        assert np.array_equal(read_frames(tmp_path / name), by_pyav(tmp_path / name))
        assert probe(tmp_path / name).frames == count


def test_edit_list_is_no_damage(tmp_path: Path) -> None:
    """What `ffmpeg -ss 0.4 -c copy` leaves: frames before the cut are in the file but are not shown."""
    write_video(tmp_path / "whole.mp4", scene(20))
    with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                shift = int(10 / 25 / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    assert np.array_equal(read_frames(tmp_path / "cut.mp4"), read_frames(tmp_path / "whole.mp4")[10:])


def test_rotation_is_applied(tmp_path: Path) -> None:
    write_video(tmp_path / "plain.mp4", scene(4))
    with av.open(str(tmp_path / "plain.mp4")) as source, av.open(str(tmp_path / "turned.mp4"), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        copy.set_display_rotation(90)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    plain, turned = read_frames(tmp_path / "plain.mp4"), read_frames(tmp_path / "turned.mp4")
    assert turned.shape == (4, 64, 48, 3)
    with av.open(str(tmp_path / "turned.mp4")) as container:
        degrees = next(container.decode(video=0)).rotation  # counter-clockwise
    assert abs(degrees) == 90 and np.array_equal(turned, np.rot90(plain, degrees // 90, axes=(1, 2)))
    assert (probe(tmp_path / "turned.mp4").height, probe(tmp_path / "turned.mp4").width) == (64, 48)


def test_short_side(tmp_path: Path) -> None:
    frames = scene(3, 48, 65)
    write_video(tmp_path / "a.mp4", frames)
    full, small = read_frames(tmp_path / "a.mp4"), read_frames(tmp_path / "a.mp4", 24)
    assert small.shape == (3, 24, 32, 3)
    assert np.array_equal(small[1], cv2.resize(full[1], (32, 24), interpolation=cv2.INTER_AREA))
    assert np.array_equal(read_frames(tmp_path / "a.mp4", 480), full)
    assert resize_short_side(full[0].transpose(1, 0, 2), 24).shape == (32, 24, 3)


@pytest.mark.parametrize(
    "name", ["a b.avi", "[x] (HQ)!!! +&.avi", "grün – видео.avi", "50%25d_%03d.avi", "a:b.avi", "-i.avi", "#?*'.avi"]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, backend: str) -> None:
    write_video(tmp_path / name, scene(3), codec="mpeg4", pix_fmt="yuv420p")
    monkeypatch.chdir(tmp_path)
    assert len(read_frames(name, backend=backend)) == 3
    assert len(read_frames(tmp_path / name, backend=backend)) == 3


def test_one_frame(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "libx264"), ("a.avi", "mpeg4")):
        write_video(tmp_path / name, scene(1), codec=codec, pix_fmt="yuv420p")
        assert read_frames(tmp_path / name).shape == (1, 48, 64, 3)


def one_line_error(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        read_frames(path)
    text = str(caught.value)
    assert path.name in text and "\n" not in text
    for use in (probe, lambda p: next(iter_frames(p))):
        with pytest.raises(VideoError):
            use(path)
    return text


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.avi").touch()
    (tmp_path / "noise.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "folder.avi").mkdir()
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    with av.open(str(tmp_path / "zero.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()
    for name in ("empty.avi", "noise.avi", "text.mp4", "folder.avi", "absent.avi"):
        assert "cannot be opened" in one_line_error(tmp_path / name)
    assert "no video stream" in one_line_error(tmp_path / "sound.wav")
    one_line_error(tmp_path / "zero.avi")


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])  # the first declares a count, the second only a duration
def test_cut_short(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_video(path, scene(40), codec="mpeg4", pix_fmt="yuv420p")
    whole, data = read_frames(path), path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    assert "missing" in one_line_error(path)
    kept, info = read_video(path, allow_truncated=True)
    assert 10 < len(kept) < 35 and info.missing > 4
    assert np.array_equal(kept[:-1], whole[: len(kept) - 1])
    assert len(list(iter_frames(path, allow_truncated=True))) == len(kept)


def test_a_few_damaged_frames_are_reported_many_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    write_video(path, scene(40, 96, 128), codec="mpeg4", pix_fmt="yuv420p")
    with av.open(str(path)) as container:
        spans = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    sound = bytearray(path.read_bytes())

    def damage(numbers: range) -> None:
        data = sound.copy()
        for position, size in (spans[n] for n in numbers):
            start = position + 8 + size // 3  # AVI's chunk header is eight bytes
            data[start : start + size // 3] = np.random.default_rng(1).bytes(size // 3)
        path.write_bytes(data)

    damage(range(20, 21))
    frames, info = read_video(path)
    assert 1 <= info.damaged <= 2 and "damaged" in info.flaws
    assert np.array_equal(frames, read_frames(path)) and np.array_equal(frames, read_frames(path, backend="pyav"))
    damage(range(3, 35))
    assert "damaged" in one_line_error(path)


def test_bad_arguments(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", scene(2))
    with pytest.raises(ReproError, match="did you mean 'decord'"):
        read_frames(tmp_path / "a.mp4", backend="decort")
    with pytest.raises(VideoError, match="did you mean 'libx264'"):
        write_video(tmp_path / "b.mp4", scene(2), codec="x264")
    with pytest.raises(VideoError, match="even sides"):
        write_video(tmp_path / "b.mp4", scene(2, 33, 34), pix_fmt="yuv420p")
    with pytest.raises(VideoError, match="no frames"):
        write_video(tmp_path / "b.mp4", [])
    with pytest.raises(VideoError, match="different sizes"):
        write_video(tmp_path / "b.mp4", [*scene(1), *scene(1, 64, 64)])
    with pytest.raises(VideoError, match="cannot write"):
        write_video(tmp_path / "absent" / "b.mp4", scene(2))
    with pytest.raises(VideoError, match="cannot write"):
        write_video(tmp_path / "b.avi", scene(2), codec="mpeg4", pix_fmt="yuv444p")


def test_without_decord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", scene(3))
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    assert len(read_frames(tmp_path / "a.mp4")) == 3
    with pytest.raises(ReproError, match="pyav"):
        read_frames(tmp_path / "a.mp4", backend="decord")


@pytest.mark.skipif(not HAS_DECORD, reason="decord has no build here")
def test_decord_supplies_the_pixels_of_sound_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the comparisons above would compare PyAV with itself."""
    write_video(tmp_path / "a.mp4", scene(5))
    expected = by_pyav(tmp_path / "a.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(video, "_pyav_frames", None)
        assert np.array_equal(read_frames(tmp_path / "a.mp4"), expected)
    monkeypatch.setattr(video, "DECORD_FRAMES", 4)  # its memory grows with the length
    monkeypatch.setattr(video, "_decord_frames", None)
    assert np.array_equal(read_frames(tmp_path / "a.mp4"), expected)


@pytest.mark.skipif(not HAS_DECORD, reason="decord has no build here")
@pytest.mark.parametrize("end", ["first", "last"])
def test_a_stream_begins_again_where_decord_s_frames_are_not_pyav_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The frame that differs is never handed out, and neither end may differ."""
    write_video(tmp_path / "a.mp4", scene(5))
    expected = by_pyav(tmp_path / "a.mp4")
    real = video._scan

    def scan(path: Path, allow_truncated: bool) -> video._Scan:
        found = real(path, allow_truncated)
        return replace(found, **{end: getattr(found, end) ^ 1})  # stands for decord decoding something else

    monkeypatch.setattr(video, "_scan", scan)
    calls: list[list[np.ndarray]] = []

    def use(info: video.VideoInfo, frames: Iterator[np.ndarray]) -> np.ndarray:
        calls.append([])
        calls[-1].extend(frames)
        return np.stack(calls[-1])

    assert np.array_equal(stream_video(tmp_path / "a.mp4", use), expected)
    assert [len(frames) for frames in calls] == [0 if end == "first" else 4, 5]
    assert np.array_equal(read_frames(tmp_path / "a.mp4"), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reading_in_order_takes_as_much_memory_for_a_long_video(tmp_path: Path, backend: str) -> None:
    def peak(count: int) -> int:
        write_video(tmp_path / "a.mp4", scene(count))
        tracemalloc.start()  # numpy tells it what its arrays take
        try:
            stream_video(tmp_path / "a.mp4", lambda _, frames: sum(1 for _ in frames), backend=backend)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(4)
    assert peak(200) < peak(20) + 180 * 48 * 64 * 3 / 3  # decord leaves Python a few hundred bytes a frame to collect


def test_the_first_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    write_video(path, scene(20), codec="mpeg4", pix_fmt="yuv420p")
    whole = read_frames(path, 24)
    for count in (1, 7, 30):
        assert np.array_equal(np.stack(first_frames(path, count, 24)), whole[:count])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])  # more than a tenth is missing
    assert np.array_equal(np.stack(first_frames(path, 4, 24)), whole[:4])
    with pytest.raises(VideoError, match="cannot be opened"):
        first_frames(tmp_path / "absent.avi", 1)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for count, other in ((6, 5), (5, 6)):
        write_video(path, scene(count))
        info = probe(path)
        write_video(path, scene(other))
        with pytest.raises(VideoError, match="did the file change"):
            list(video._pyav_frames(path, info))


def test_real_clips_equal_pyav(real_data: Path) -> None:
    clips = sorted(p for p in (real_data / "clips").glob("*/*/*") if p.suffix in (".avi", ".mp4"))
    clips += sorted((real_data / "weizmann").glob("*/*.avi"))[::30]
    assert len(clips) == 8
    for path in clips:
        frames, info = read_video(path)
        assert np.array_equal(frames, by_pyav(path)), path.name
        assert info.flaws == "" and info.frames == len(frames), path.name
