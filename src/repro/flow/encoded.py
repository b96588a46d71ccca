"""Training samples that leave the loader as JPEG bytes and are decoded, cut, resized and mirrored on the device.

Loader processes then only read. The pictures are those of `repro.data.clips.TrainingSamples`: on a CPU bit by bit; on
CUDA nvJPEG decodes (through torchvision), whose pictures differ from libjpeg's by a few grey levels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from repro.data.clips import TrainingSamples, snippet_images
from repro.data.transforms import View, apply_view
from repro.errors import ReproError
from repro.flow.store import StoredClip
from repro.flow.writer import BLOCK


class EncodedSamples(TrainingSamples):
    """The samples of `TrainingSamples`, drawn alike, as the bytes that are stored.

    A sample has for each stream `<stream>_bytes` (bytes of all its images,) uint8 and `<stream>_lengths` (images,), and
    `view` (6,): top, left, height, width, whether mirrored, and the width of the frames. A batch has the same, images
    of all clips one after the other. The store must be a `repro.flow.store.ClipStore`.
    """

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        clip, rng = self._picked(item)
        sample = {}
        stored = cast(StoredClip, self.store.open(clip.id))
        try:
            starts, view = self._cut(stored, rng)
            for stream, wanted in snippet_images(stored, starts, self.sampling).items():
                first = stored.n_frames if stream == "flow" else 0
                blobs = [np.frombuffer(stored.blob(first + index), np.uint8) for index in wanted]
                sample[f"{stream}_bytes"] = torch.from_numpy(np.concatenate(blobs))
                sample[f"{stream}_lengths"] = torch.tensor([len(blob) for blob in blobs])
            width = stored.width
        finally:
            stored.close()
        sample["view"] = torch.tensor([view.top, view.left, view.height, view.width, int(view.flip), width])
        sample["label"] = torch.tensor(self._label(clip, view))
        return sample

    @property
    def collate(self) -> Callable[[list[dict[str, Tensor]]], dict[str, Tensor]]:
        """Images one after the other, all else stacked."""
        return collated

    def remark(self, device: torch.device) -> str:
        """nvJPEG's pictures are a little different."""
        return " nvJPEG" if device.type == "cuda" else ""

    def pixels(self, batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """A batch of bytes as `TrainingSamples` gives it, on the device: `rgb` (B, T, 3, H, W), `flow` (B, T, 2L, H, W)
        uint8, and `label`."""
        s, out = self.sampling, {"label": batch["label"]}
        views = [View(top, left, high, wide, bool(flip)) for top, left, high, wide, flip, _ in batch["view"].tolist()]
        for stream in s.streams:
            blobs = torch.split(batch[f"{stream}_bytes"], batch[f"{stream}_lengths"].tolist())
            images = decoded(blobs, device, grey=stream == "flow")
            clips = []
            each = len(images) // len(views)
            for number, view in enumerate(views):
                clip = torch.stack(images[number * each : (number + 1) * each])
                if stream == "flow":
                    width = int(batch["view"][number, -1])
                    fields = fields_of(clip, width)  # (T L, 2, H, W)
                    clip = fields.view(s.snippets, 2 * s.flow_frames, *fields.shape[-2:])
                clips.append(apply_view(clip, view, s.crop, is_flow=stream == "flow"))
            out[stream] = torch.stack(clips)
        return out


def collated(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of `EncodedSamples`."""
    join: dict[bool, Callable[..., Tensor]] = {True: torch.cat, False: torch.stack}
    return {
        name: join[name.endswith(("_bytes", "_lengths"))]([sample[name] for sample in samples]) for name in samples[0]
    }


def fields_of(images: Tensor, width: int) -> Tensor:
    """Stored fields (n, 1, H, 8k + W), u left of v, as (n, 2, H, W)."""
    left = width + -width % BLOCK
    return torch.cat([images[..., :width], images[..., left : left + width]], 1)


def decoded(blobs: Sequence[Tensor], device: torch.device, *, grey: bool) -> list[Tensor]:
    """JPEG images as bytes to (1, H, W) or (3, H, W) uint8 on the device: nvJPEG on CUDA, libjpeg-turbo elsewhere.

    Raises ReproError where this torchvision has no nvJPEG.
    """
    if device.type != "cuda":  # as `StoredClip` decodes
        kind = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
        arrays = [cast(Any, cv2.imdecode(blob.numpy(), kind)) for blob in blobs]
        return [
            torch.from_numpy(x[None] if grey else np.ascontiguousarray(x[..., ::-1].transpose(2, 0, 1))) for x in arrays
        ]
    try:
        with warnings.catch_warnings():
            # torchvision 0.29 announces that torchcodec will take this over; torchcodec's own needs a newer torch.
            warnings.simplefilter("ignore")
            return cast(
                list[Tensor],
                decode_jpeg(list(blobs), ImageReadMode.GRAY if grey else ImageReadMode.RGB, device=device),
            )
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ReproError(f"nvJPEG does not decode this ({line}): try without --decode device") from error
