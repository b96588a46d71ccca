"""The container file: exact bytes back, damage found, settings kept, names safe."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from repro.data.catalog import Clip
from repro.errors import ReproError
from repro.flow.store import ClipStore, StoreError, WriteError, dequantise, quantise
from repro.flow.verify import verify


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Images (N, H, W, C) without detail, so that JPEG loses little."""
    coarse = np.random.default_rng(seed).integers(40, 215, (shape[0], 3, 3, shape[3]), np.uint8)
    return np.stack([cv2.resize(c, shape[2:0:-1]) for c in coarse]).reshape(shape)


def make(root: Path, **settings: object) -> ClipStore:
    return ClipStore(root, **{"short_side": 20, "flow_backend": "test", **settings})  # type: ignore[arg-type]


FRAMES = smooth((5, 20, 27, 3))
FLOW = quantise((smooth((4, 20, 27, 2), 1).transpose(0, 3, 1, 2).astype(np.float32) - 128) / 20, 20)  # (4, 2, 20, 27)


def test_quantise_is_undone() -> None:
    px = np.linspace(-19.9, 19.9, 4001)
    assert np.abs(dequantise(quantise(px, 20), 20) - px).max() <= 20 / 255 + 1e-6
    assert quantise(np.zeros(3), 20).tolist() == [128] * 3 and dequantise(np.uint8([128]), 20).tolist() == [0.0]
    assert quantise(np.array([-1e9, 1e9]), 20).tolist() == [0, 255]
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantise(dequantise(every, 32), 32), every)
    assert np.array_equal(quantise(-px, 20), np.clip(256 - quantise(px, 20).astype(int), 0, 255))  # mirroring


def test_images_come_back(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write("a/b", FRAMES, FLOW)
    with store.open("a/b") as clip:
        assert (clip.n_frames, clip.n_flow, clip.height, clip.width) == (5, 4, 20, 27)
        rgb, flow = clip.rgb([4, 0, 4]), clip.flow([3, 1])
        assert rgb.dtype == flow.dtype == torch.uint8
        assert rgb.shape == (3, 3, 20, 27) and flow.shape == (2, 2, 20, 27)
        expected = FRAMES[[4, 0, 4]].transpose(0, 3, 1, 2).astype(int)
        assert np.abs(rgb.numpy() - expected).max() <= 10 and torch.equal(rgb[0], rgb[2])
        assert np.abs(flow.numpy() - FLOW[[3, 1]].astype(int)).max() <= 4
        assert clip.rgb([]).shape == (0, 3, 20, 27)
        image = Image.open(io.BytesIO(clip.blob(4)))  # an independent reader
        assert np.abs(np.asarray(image).transpose(2, 0, 1).astype(int) - rgb[0].numpy()).max() <= 2
        for bad in ([5], [-1]):
            with pytest.raises(IndexError):
                clip.rgb(bad)
        with pytest.raises(IndexError):
            clip.flow([4])


def test_u_and_v_do_not_bleed_into_each_other(tmp_path: Path) -> None:
    flow = np.zeros((1, 2, 20, 27), np.float32)
    flow[:, 0], flow[:, 1] = 20, -20  # the hardest edge there is, in the middle of a block were it not for the padding
    store = make(tmp_path)
    store.write("c", FRAMES[:2], flow)
    with store.open("c") as clip:
        u, v = clip.flow([0])[0]
        assert (u == 255).all() and (v == 0).all()


def test_still_flow_is_exactly_zero(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write("c", FRAMES, np.zeros((4, 2, 20, 27), np.float32))
    with store.open("c") as clip:
        assert (clip.flow(range(4)) == 128).all()


def test_frames_first_flow_later(tmp_path: Path) -> None:
    frames_only = make(tmp_path, flow_backend=None)
    frames_only.write("c", FRAMES)
    assert frames_only.has("c", flow=False) and not frames_only.has("c")
    with pytest.raises(StoreError, match="frames only"):
        frames_only.add_flow("c", FLOW)
    with frames_only.open("c") as clip, pytest.raises(StoreError, match="frames only"):
        clip.flow([0])
    store = make(tmp_path)
    with store.open("c") as clip:
        before = clip.rgb(range(5))
    store.add_flow("c", FLOW)
    assert store.has("c")
    with make(tmp_path, flow_backend=None).open("c") as clip:  # flow may stay unused
        assert torch.equal(clip.rgb(range(5)), before) and clip.n_flow == 4
    store.write("one", FRAMES[:1], np.empty((0, 2, 20, 27), np.float32))
    assert store.has("one")


def test_shapes_are_checked(tmp_path: Path) -> None:
    store = make(tmp_path)
    for frames in (FRAMES[:0], FRAMES[..., :1], FRAMES.astype(float)):
        with pytest.raises(ValueError, match="frames must be"):
            store.write("c", frames)
    with pytest.raises(ValueError, match="flow must be"):
        store.write("c", FRAMES, FLOW[:3])
    assert not store.has("c", flow=False)


@pytest.mark.parametrize(
    ("name", "value"), [("short_side", 21), ("quality", 90), ("bound", 32.0), ("flow_backend", "other")]
)
def test_other_settings_are_refused(tmp_path: Path, name: str, value: object) -> None:
    make(tmp_path)
    make(tmp_path)
    with pytest.raises(ReproError, match=name):
        make(tmp_path, **{name: value})
    (tmp_path / "settings.json").write_text(json.dumps({"version": 1, "colour": "red"}))
    with pytest.raises(StoreError, match=r"settings\.json is damaged"):
        make(tmp_path)


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write("c", FRAMES[:2], FLOW[:1])
    path = store.path("c")
    good = path.read_bytes()

    def read_all() -> None:
        with store.open("c") as clip:
            clip.rgb([0, 1])
            clip.flow([0])

    read_all()
    for position in range(0, len(good), 11):
        data = bytearray(good)
        data[position] ^= 4
        path.write_bytes(data)
        with pytest.raises(StoreError, match=r"c\.clip is damaged.*delete it and extract again"):
            read_all()
    for length in (0, 10, 60, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        assert not store.has("c")
        with pytest.raises(StoreError, match="is damaged"):
            store.open("c")
    path.write_bytes(good + b"x")
    assert not store.has("c")
    path.unlink()
    with pytest.raises(StoreError, match="extract it first"):
        store.open("c")


ODD_IDS = [
    "shoot_bow/6arrows",
    "golf/Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0",
    "climb/(HQ)_[x]_&_Dan Osman",
    "grün/видео",
    "a:b/c*d?e|f\"g<h>'\\",
    "../escape",
    "./here",
    "a//b",
    "/root",
    ".hidden",
    "trailing.",
    " ",
    "100%",
    "a.clip/b",
    "a",
    "x" * 300,
    "x" * 299 + "y",
    "нет" * 70,
    "tab\tnew\nline\0zero",
    "bad\udcffbyte",
]


def test_odd_ids_have_safe_and_different_files(tmp_path: Path) -> None:
    store = make(tmp_path / "store")
    for number, clip_id in enumerate(ODD_IDS):
        store.write(clip_id, np.full((1, 8, 8, 3), number, np.uint8))
    assert {p.name for p in tmp_path.iterdir()} == {"store"}
    assert len({store.path(i) for i in ODD_IDS}) == len(ODD_IDS)
    for number, clip_id in enumerate(ODD_IDS):
        with store.open(clip_id) as clip:
            assert abs(int(clip.rgb([0])[0, 0, 0, 0]) - number) <= 2
    for clip_id in ODD_IDS[:4]:
        assert store.path(clip_id) == tmp_path / "store" / f"{clip_id}.clip"  # readable


def test_a_file_of_another_clip_is_refused(tmp_path: Path) -> None:
    """As on file systems that ignore case."""
    store = make(tmp_path)
    store.write("Handstand", FRAMES, FLOW)
    store.path("Handstand").rename(store.path("HandStand"))
    with pytest.raises(StoreError, match="holds the clip Handstand"):
        store.open("HandStand")


def test_failed_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path)
    store.write("c", FRAMES[:1])
    before = store.path("c").read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError, match="the disk is full; what is finished is kept"):
        store.write("c", FRAMES)
    with pytest.raises(WriteError, match="the disk is full"):
        make(tmp_path / "another")
    assert store.path("c").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"settings.json", "c.clip", "another"}
    assert not list((tmp_path / "another").iterdir())


def test_a_disk_that_gives_back_something_else_is_noticed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a byte flips between writing and reading back."""
    store = make(tmp_path)
    store.write("c", FRAMES[:2], FLOW[:1])
    size = store.path("c").stat().st_size
    real = os.fsync
    for position in [*range(0, size, 97), size - 1]:

        def flip(handle: int, position: int = position) -> None:
            real(handle)
            [path] = tmp_path.glob(".*.tmp")
            data = bytearray(path.read_bytes())
            data[position] ^= 4
            path.write_bytes(data)

        monkeypatch.setattr(os, "fsync", flip)
        with pytest.raises(WriteError, match=r"d: what was written to .* reads back damaged .*: check the disk"):
            store.write("d", FRAMES[:2], FLOW[:1])
        assert {p.name for p in tmp_path.iterdir()} == {"settings.json", "c.clip"}


def test_a_disk_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path)
    store.write("c", FRAMES[:2], FLOW[:1])
    with store.open("c") as clip:
        clip.check()

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(Path, "open", fail)
        with pytest.raises(StoreError, match="c.clip is damaged .Input/output error.: delete it"):
            clip.check()


def test_images_may_come_in_any_order(tmp_path: Path) -> None:
    """What is read does not depend on it, and the images are the same bytes."""
    store = make(tmp_path)
    store.write("whole", FRAMES, FLOW)
    with store.writer("mixed", 5, 20, 27, flow=True) as writer:
        for t in range(5):
            writer.add_frame(FRAMES[t])
            if t:
                writer.add_field(FLOW[t - 1])
    with store.open("whole") as whole, store.open("mixed") as mixed:
        mixed.check()
        assert [mixed.blob(i) for i in range(9)] == [whole.blob(i) for i in range(9)]
        assert torch.equal(mixed.rgb([4, 0]), whole.rgb([4, 0])) and torch.equal(mixed.flow([3]), whole.flow([3]))
    assert store.path("whole").stat().st_size == store.path("mixed").stat().st_size


def test_files_written_before_images_were_mixed_can_be_read(tmp_path: Path) -> None:
    """Version 1 as it was first written, from its description: frames, then fields."""
    store = make(tmp_path)
    full = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    images = [cv2.imencode(".jpg", frame[..., ::-1], full)[1].tobytes() for frame in FRAMES[:2]]
    wide = np.concatenate([np.pad(FLOW[0, 0], ((0, 0), (0, 5)), mode="edge"), FLOW[0, 1]], axis=1)
    images.append(cv2.imencode(".jpg", wide)[1].tobytes())
    header = b'{"id": "old", "frames": 2, "height": 20, "width": 27, "flow_backend": "test"}'
    at, index = 24 + len(header) + 16 * 3, b""
    for image in images:
        index += struct.pack("<QII", at, len(image), zlib.crc32(image))
        at += len(image)
    crc = zlib.crc32(struct.pack("<8sIIII", b"reproclp", 1, len(header), 3, 0) + header + index)
    head = struct.pack("<8sIIII", b"reproclp", 1, len(header), 3, crc)
    store.path("old").write_bytes(head + header + index + b"".join(images))
    store.write("new", FRAMES[:2], FLOW[:1])
    with store.open("old") as old, store.open("new") as new:
        old.check()
        assert torch.equal(old.rgb([0, 1]), new.rgb([0, 1])) and torch.equal(old.flow([0]), new.flow([0]))


def test_counts_are_checked(tmp_path: Path) -> None:
    store = make(tmp_path)

    def write(frames: np.ndarray, flow: np.ndarray) -> None:
        with store.writer("c", 3, 20, 27, flow=True) as writer:
            for frame in frames:
                writer.add_frame(frame)
            for field in flow:
                writer.add_field(field)

    for frames, fields, wrong in ((2, 2, "2 of 3 frames"), (3, 1, "1 of 2 fields"), (4, 2, "more"), (3, 3, "more")):
        with pytest.raises(ValueError, match=wrong):
            write(FRAMES[:frames], FLOW[:fields])
    with pytest.raises(ValueError, match="flow must be"):
        write(FRAMES[:3], FLOW.astype(np.float32))
    with pytest.raises(ValueError, match="frames must be"):
        write(FRAMES[:3, 1:], FLOW)
    assert {p.name for p in tmp_path.iterdir()} == {"settings.json"}


def test_a_store_is_verified(tmp_path: Path) -> None:
    frames_only, clips = make(tmp_path, flow_backend=None), [Clip(f"a/v{i}", f"a/v{i}.avi", 0, "g") for i in range(6)]
    frames_only.write(clips[4].id, FRAMES)
    assert verify(frames_only, clips).sound == ["a/v4"]
    store = make(tmp_path)
    for clip in clips[:4]:
        store.write(clip.id, FRAMES, FLOW)
    for i, (position, byte) in enumerate(((-200, 1), (30, 1))):  # an image, the header
        data = bytearray(store.path(clips[i].id).read_bytes())
        data[position] ^= byte
        store.path(clips[i].id).write_bytes(data)
    seen: list[str] = []
    for workers in (1, 3):
        found = verify(store, clips, workers=workers, progress=seen.append)
        assert found.sound == ["a/v2", "a/v3"]
        assert found.missing == {"a/v4": "frames only, no flow", "a/v5": "not stored"}
        assert list(found.damaged) == ["a/v0", "a/v1"]
        assert all(str(store.path(i)) in reason and "\n" not in reason for i, reason in found.damaged.items())
        assert "wrong checksum of image" in found.damaged["a/v0"]
        assert "wrong checksum of the header" in found.damaged["a/v1"]
    assert sorted(seen) == sorted(2 * [clip.id for clip in clips])
    assert list(verify(store, clips, remove=True).damaged) == ["a/v0", "a/v1"]
    assert list(verify(store, clips).missing) == ["a/v0", "a/v1", "a/v4", "a/v5"]


def test_a_file_without_one_of_its_fields_is_damaged(tmp_path: Path) -> None:
    """Every checksum right, but the counts do not agree."""
    store = make(tmp_path)

    def write() -> None:
        with store.writer("c", 5, 20, 27, flow=True) as writer:
            writer._index, writer._n_flow = writer._index[:8], 3
            for frame in FRAMES:
                writer.add_frame(frame)
            for field in FLOW[:3]:
                writer.add_field(field)
            writer._header += b" " * 16  # what the index has lost

    with pytest.raises(WriteError, match="5 frames, 3 flow fields"):
        write()


def test_stale_temporary_files_go_and_fresh_ones_stay(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write("a/b", FRAMES)
    old, fresh = tmp_path / "a" / ".x.tmp", tmp_path / ".y.tmp"
    for path in (old, fresh):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    store.remove_stale()
    assert fresh.exists() and not old.exists() and store.has("a/b", flow=False)


def test_opening_takes_well_under_a_millisecond(tmp_path: Path) -> None:
    store = make(tmp_path)
    store.write("c", np.repeat(FRAMES, 60, axis=0), np.repeat(FLOW, 75, axis=0)[:299])
    times = []
    for _ in range(50):
        start = time.perf_counter()
        store.open("c").close()
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3
