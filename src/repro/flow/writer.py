"""Stored clips are written image by image: memory does not grow with the length of a video.

How many images there will be is known before the first one, so that the header and the index have their place at the
beginning of the file and are filled in at the end. The format is described in `repro.flow.store`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from repro.errors import ReproError
from repro.processes import unfinished

MAGIC, VERSION = b"reproclp", 1
HEAD = struct.Struct(
    "<8sIIII"
)  # magic, version, length of the JSON, images, CRC32 of head (with 0 here), JSON and index
INDEX = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
BLOCK = 8  # px, side of a JPEG block


class StoreError(ReproError):
    """A stored file or directory that cannot be used."""


class WriteError(StoreError):
    """A store that cannot be written to, or a disk that does not give back what was written."""


class ClipWriter:
    """One clip on its way into a file: frames and fields, each in order, in any mixture of the two.

    `meta` is what the header says: at least `frames`, `height` and `width`. n_flow: fields that will come. file: empty
    and open for writing. root: of the store, named in errors.
    """

    def __init__(self, file: BinaryIO, root: Path, meta: Mapping[str, Any], n_flow: int, quality: int) -> None:
        self._file, self._root, self._quality = file, root, quality
        self._height, self._width, self._n_frames = int(meta["height"]), int(meta["width"]), int(meta["frames"])
        self._n_flow = n_flow
        self._header = json.dumps(meta).encode()
        self._index = np.zeros(self._n_frames + n_flow, INDEX)
        self._end = HEAD.size + len(self._header) + self._index.nbytes
        self._frames_done, self._flow_done = 0, 0
        with writing(root):
            file.write(bytes(self._end))  # not a gap: the disk must have room for it at the end

    def add_frame(self, frame: NDArray[np.uint8]) -> None:
        """The next frame, (H, W, 3) RGB uint8."""
        if frame.shape != (self._height, self._width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"frames must be {(self._height, self._width, 3)} uint8, not {frame.shape} {frame.dtype}")
        self.add_encoded_frame(self._jpeg(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), np.uint8)))

    def add_encoded_frame(self, data: bytes) -> None:
        """The next frame as the JPEG bytes of another stored clip."""
        if self._frames_done == self._n_frames:
            raise ValueError(f"more than the {self._n_frames} frames announced")
        self._append(self._frames_done, data)
        self._frames_done += 1

    def add_field(self, field: NDArray[np.uint8]) -> None:
        """The next field, (2, H, W) bytes from `quantise`."""
        if field.shape != (2, self._height, self._width) or field.dtype != np.uint8:
            raise ValueError(f"flow must be {(2, self._height, self._width)} uint8, not {field.shape} {field.dtype}")
        if self._flow_done == self._n_flow:
            raise ValueError(f"more than the {self._n_flow} fields announced")
        u, v = field
        wide = np.concatenate([np.pad(u, ((0, 0), (0, -self._width % BLOCK)), mode="edge"), v], axis=1)
        self._append(self._n_frames + self._flow_done, self._jpeg(wide))
        self._flow_done += 1

    def finish(self) -> None:
        """Write header and index into the place kept for them; the file is complete."""
        if (self._frames_done, self._flow_done) != (self._n_frames, self._n_flow):
            raise ValueError(
                f"{self._frames_done} of {self._n_frames} frames, {self._flow_done} of {self._n_flow} fields"
            )
        rest = self._header + self._index.tobytes()
        size = len(self._header), len(self._index)
        crc = zlib.crc32(rest, zlib.crc32(HEAD.pack(MAGIC, VERSION, *size, 0)))
        with writing(self._root):
            self._file.seek(0)
            self._file.write(HEAD.pack(MAGIC, VERSION, *size, crc) + rest)

    def _append(self, number: int, data: bytes) -> None:
        with writing(self._root):
            self._file.write(data)
        self._index[number] = self._end, len(data), zlib.crc32(data)
        self._end += len(data)

    def _jpeg(self, image: NDArray[np.uint8]) -> bytes:
        # full colour resolution: small coloured things would lose their colour to 4:2:0
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444] if image.ndim == 3 else []
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self._quality, *sampling])[1].tobytes()


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn the system's errors into one line that says which store cannot be written and why."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        what = "the disk is full" if full else error.strerror or str(error)
        raise WriteError(f"cannot write to the store {root}: {what}; what is finished is kept") from error


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """An empty file under another name, and that name; flushed to the disk and renamed to `path` on leaving, deleted
    when that is by an exception. `sync` before reading it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    unfinished.add(temporary)
    file = os.fdopen(handle, "wb")
    try:
        yield file, temporary
        sync(file)
        file.close()
        temporary.chmod(0o644)  # mkstemp's files are for their owner alone; a store may be shared
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk says so once more
            file.close()
        temporary.unlink(missing_ok=True)
        raise
    finally:
        unfinished.discard(temporary)


def sync(file: BinaryIO) -> None:
    """Flush to the disk, and let the system forget its copy where it can: what is read next comes from the disk."""
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write a small file, whole or not at all."""
    with new_file(path) as (file, _):
        file.writelines(parts)
