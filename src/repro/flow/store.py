"""Frames and flow of a video in one file: JPEG images with random access, a checksum each.

A file is, little-endian: magic (8 bytes), version, length of the JSON header, number of images, CRC32 of all that
precedes the images (4 bytes each), the JSON header, the index (offset, length, CRC32 per image: T frames, then the
T - 1 fields, if any), the images in the order in which they were made. A field is one grey JPEG: u, padded to whole
8x8 blocks so that u and v share none, and v to the right of it, 8 bits each.

The directory holds `settings.json`; every file in it was written with these settings. A file appears whole or not at
all: it is written under another name (`repro.flow.writer`), flushed, read back and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro.flow.writer import (
    BLOCK,
    HEAD,
    INDEX,
    MAGIC,
    VERSION,
    ClipWriter,
    StoreError,
    WriteError,
    new_file,
    sync,
    write_whole,
    writing,
)

__all__ = ["ClipStore", "Settings", "StoreError", "StoredClip", "WriteError", "dequantise", "quantise"]

SUFFIX = ".clip"
ZERO = 128  # the byte that means 0 px
STALE = 3600.0  # seconds without a byte: such a temporary file belongs to a process that was killed
LONGEST = 180  # bytes of a file name; file systems allow 255


def quantise(flow_px: NDArray[np.floating[Any]] | Tensor, bound: float) -> NDArray[np.uint8]:
    """Flow in px to bytes: a step is 2 bound / 255 px, 0 px is exactly 128, values beyond +-bound are clipped. A tensor
    becomes bytes on its device."""
    # DEVIATION: TSN and denseflow round 255 (v + bound) / (2 bound), half a step less: 0 px falls on 127.5, no byte.
    if isinstance(flow_px, Tensor):
        flow_px = flow_px.mul(255 / (2 * bound)).round_().add_(ZERO).clamp_(0, 255)
        return np.asarray(flow_px.to(torch.uint8).cpu().numpy(), np.uint8)
    q: NDArray[np.uint8] = np.clip(np.rint(flow_px * (255 / (2 * bound))) + ZERO, 0, 255).astype(np.uint8)
    return q


def dequantise(q: NDArray[np.uint8], bound: float) -> NDArray[np.float32]:
    """Undo `quantise` to half a step, exactly at 128."""
    return (q.astype(np.float32) - ZERO) * np.float32(2 * bound / 255)


@dataclass(frozen=True)
class Settings:
    """What the files of one directory have in common."""

    short_side: int  # px; frames are reduced to it
    quality: int  # JPEG
    bound: float  # px; flow is clipped there
    flow_backend: str | None  # `repro.flow.tvl1.backend_name()`; None: frames only


class ClipStore:
    """A directory of stored clips. Safe for any number of processes: the last writer of a clip wins, readers see
    whole files."""

    def __init__(
        self,
        root: str | Path,
        *,
        short_side: int,
        quality: int = 95,
        bound: float = 20.0,
        flow_backend: str | None = None,
    ) -> None:
        """Open `root`, made if missing. A directory with other settings raises StoreError; one of frames only can be
        given a backend, and one with flow can be opened for its frames."""
        self.root = Path(root)
        wanted = Settings(short_side, quality, float(bound), flow_backend)
        path = self.root / "settings.json"
        found = self._read_settings(path)
        if found is None or found == replace(wanted, flow_backend=None) != wanted:
            with writing(self.root):
                write_whole(path, [json.dumps({"version": VERSION, **asdict(wanted)}, indent=1).encode()])
            found = wanted
        for name, value in asdict(wanted).items():
            if (kept := getattr(found, name)) != value and not (name == "flow_backend" and value is None):
                raise StoreError(f"{self.root} was made with {name} {kept}, not {value}: use another directory")
        self.settings = wanted

    @staticmethod
    def _read_settings(path: Path) -> Settings | None:
        try:
            values = json.loads(path.read_text())
            if values.pop("version") != VERSION:
                raise ValueError
            return Settings(**values)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{path} is damaged or of another version: delete its directory") from error

    def path(self, clip_id: str) -> Path:
        """The file of a clip: the id with odd characters percent-encoded, very long names shortened with a hash."""
        *folders, name = (_safe(part) for part in clip_id.split("/"))
        return self.root.joinpath(*folders, name + SUFFIX)

    def has(self, clip_id: str, flow: bool = True) -> bool:
        """Whether the clip is stored (with flow): reads the header only, not the images."""
        try:
            with self.open(clip_id) as stored:
                return stored.flow_backend is not None or not flow
        except StoreError:
            return False

    def write(self, clip_id: str, frames: NDArray[np.uint8], flow: NDArray[Any] | None = None) -> None:
        """Store frames (T, H, W, 3) uint8 RGB and, when given, flow (T - 1, 2, H, W), float px or bytes from
        `quantise`."""
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise ValueError(f"frames must be (T, H, W, 3) uint8, not {frames.shape} {frames.dtype}")
        with self.writer(clip_id, *frames.shape[:3], flow=flow is not None) as writer:
            for frame in frames:
                writer.add_frame(frame)
            self._add_fields(writer, flow, frames.shape[:3])

    def add_flow(self, clip_id: str, flow: NDArray[Any]) -> None:
        """Give a stored clip flow, (T - 1, 2, H, W) as in `write`; its frames stay as they are, bit by bit."""
        with self.open(clip_id) as stored:
            size = (stored.n_frames, stored.height, stored.width)
            with self.writer(clip_id, *size, flow=True) as writer:
                for index in range(stored.n_frames):
                    writer.add_encoded_frame(stored.blob(index))
                self._add_fields(writer, flow, size)

    @contextlib.contextmanager
    def writer(self, clip_id: str, n_frames: int, height: int, width: int, *, flow: bool) -> Iterator[ClipWriter]:
        """Write a clip image by image, with flow or without: all of `n_frames` frames (H, W, 3) and `n_frames` - 1
        fields. On leaving it is read back, checksum by checksum, and appears under its name; after an exception there
        is nothing. Raises WriteError when the disk is full, cannot be written or gives back something else."""
        if flow and self.settings.flow_backend is None:
            raise StoreError(f"{self.root} was opened for frames only: name a flow_backend to store flow")
        backend = self.settings.flow_backend if flow else None
        meta = {"id": clip_id, "frames": n_frames, "height": height, "width": width, "flow_backend": backend}
        with contextlib.ExitStack() as stack:
            with writing(self.root):  # not around the body, whose errors are of other files
                file, temporary = stack.enter_context(new_file(self.path(clip_id)))
            writer = ClipWriter(file, self.root, meta, n_frames - 1 if flow else 0, self.settings.quality)
            yield writer
            with writing(self.root):
                writer.finish()
                sync(file)
                self._read_back(temporary, clip_id)
                stack.close()  # which renames it

    def open(self, clip_id: str) -> StoredClip:
        """Open a stored clip; StoreError when it is missing or its header is damaged."""
        return StoredClip(self.path(clip_id), clip_id)

    def remove_stale(self, older_than: float = STALE) -> None:
        """Delete the temporary files, at least that many seconds old, that killed processes left."""
        for path in self.root.rglob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # another process is writing, or deleting as we are
                if time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()

    def _read_back(self, path: Path, clip_id: str) -> None:
        try:
            with StoredClip(path, clip_id) as stored:
                stored.check()
        except StoreError as error:
            raise WriteError(
                f"{clip_id}: what was written to {self.root} reads back damaged ({error}): check the disk"
            ) from error

    def _add_fields(self, writer: ClipWriter, flow: NDArray[Any] | None, size: tuple[int, ...]) -> None:
        if flow is None:
            return
        n_frames, height, width = size
        if flow.shape != (n_frames - 1, 2, height, width):
            raise ValueError(f"flow must be {(n_frames - 1, 2, height, width)}, not {flow.shape}")
        for field in flow:
            writer.add_field(field if flow.dtype == np.uint8 else quantise(field, self.settings.bound))


class StoredClip:
    """One stored clip, open for reading: `n_frames`, `n_flow`, `height`, `width`, `flow_backend`. Close it, or use it
    in `with`."""

    def __init__(self, path: Path, clip_id: str) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise StoreError(f"{clip_id} is not stored (no {path}): extract it first") from None
        except ValueError as error:  # an empty file cannot be mapped
            raise self._damaged("empty") from error
        try:
            self._read_header(clip_id)
        except StoreError:
            self.close()
            raise

    def _read_header(self, clip_id: str) -> None:
        if len(self._map) < HEAD.size:
            raise self._damaged("cut short")
        magic, version, n_header, n_images, crc = HEAD.unpack_from(self._map)
        if magic != MAGIC or version != VERSION:
            raise self._damaged(f"no stored clip of version {VERSION}")
        start = HEAD.size + n_header + n_images * INDEX.itemsize
        rest = self._map[HEAD.size : start]
        if zlib.crc32(rest, zlib.crc32(HEAD.pack(magic, version, n_header, n_images, 0))) != crc:
            raise self._damaged("wrong checksum of the header")
        meta = json.loads(rest[:n_header])
        if meta["id"] != clip_id:  # file systems that ignore case
            raise StoreError(
                f"{self.path} holds the clip {meta['id']}, not {clip_id}: give each data set its own store"
            )
        self._index = np.frombuffer(rest, INDEX, offset=n_header)
        if len(self._map) != start + int(self._index["length"].sum()):
            raise self._damaged("cut short or added to")
        self.n_frames, self.height, self.width = int(meta["frames"]), int(meta["height"]), int(meta["width"])
        self.n_flow = n_images - self.n_frames
        self.flow_backend: str | None = meta["flow_backend"]

    def rgb(self, indices: Sequence[int]) -> Tensor:
        """Frames by number: (n, 3, H, W) uint8."""
        out, images = self._images(indices, 0, self.n_frames, 3)
        for planes, bgr in images:
            cv2.split(bgr, list(planes[::-1]))  # into place
        return out

    def flow(self, indices: Sequence[int]) -> Tensor:
        """Fields by number, field i from frame i to frame i + 1: (n, 2, H, W) uint8, see `dequantise`."""
        if self.flow_backend is None:
            raise StoreError(f"{self.path} holds frames only: extract the flow first")
        left = self.width + -self.width % BLOCK
        out, images = self._images(indices, self.n_frames, self.n_flow, 2)
        for (u, v), wide in images:  # (H, 8k + W)
            u[:], v[:] = wide[:, : self.width], wide[:, left:]
        return out

    def blob(self, index: int) -> bytes:
        """The JPEG bytes of an image, checked: frames first, then fields."""
        offset, length, crc = self._index[index].item()  # plain integers
        data = self._map[offset : offset + length]
        if zlib.crc32(data) != crc:
            raise self._damaged(f"wrong checksum of image {index}")
        return data

    def check(self) -> None:
        """Read every image and compare its checksum, and count them; StoreError says what is wrong."""
        if self.n_frames < 1 or self.n_flow != (self.n_frames - 1 if self.flow_backend is not None else 0):
            raise self._damaged(f"{self.n_frames} frames, {self.n_flow} flow fields")
        try:
            # Not through the map: where a disk cannot be read, that ends the process with a signal.
            with self.path.open("rb") as file:
                for index in np.argsort(self._index["offset"]):
                    entry = self._index[index]
                    file.seek(int(entry["offset"]))
                    if zlib.crc32(file.read(int(entry["length"]))) != entry["crc"]:
                        raise self._damaged(f"wrong checksum of image {index}")
        except OSError as error:
            raise self._damaged(error.strerror or str(error)) from error

    def close(self) -> None:
        """Release the file; twice does no harm."""
        self._map.close()

    def __enter__(self) -> StoredClip:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _images(
        self, indices: Sequence[int], first: int, count: int, channels: int
    ) -> tuple[Tensor, Iterator[tuple[NDArray[np.uint8], Any]]]:
        """Room for the images asked for, (n, channels, H, W), and pairs (room for one, image as decoded) to fill it."""
        wanted = [int(index) for index in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < count:
            raise IndexError(f"{self.path}: indices {min(wanted)} to {max(wanted)} of {count}")
        out = np.empty((len(wanted), channels, self.height, self.width), np.uint8)
        colour = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE

        def decoded() -> Iterator[tuple[NDArray[np.uint8], Any]]:
            rows: dict[int, int] = {}
            for row, index in enumerate(wanted):
                if index in rows:  # short clips repeat their last
                    out[row] = out[rows[index]]
                    continue
                # torchvision's decode_jpeg gives the same bytes, but is deprecated and slower
                yield out[row], cv2.imdecode(np.frombuffer(self.blob(first + index), np.uint8), colour)
                rows[index] = row

        return torch.from_numpy(out), decoded()

    def _damaged(self, how: str) -> StoreError:
        return StoreError(f"{self.path} is damaged ({how}): delete it and extract again")


def _safe(part: str) -> str:
    """One part of a clip id as a file name: readable, valid on every file system, injective but for letter case."""
    keep = " _-+!&()[],=@#.~"
    out = "".join(c if c.isalnum() or c in keep else quote(c, safe="", errors="surrogateescape") for c in part)
    if out.strip(". ") != out or out.endswith(SUFFIX) or not out:  # hidden, temporary or clashing names
        out = out.replace(".", "%2E").replace(" ", "%20") or "%"
    data = out.encode()
    if len(data) > LONGEST:
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        out = data[: LONGEST - 17].decode(errors="ignore") + "%" + digest
    return out
