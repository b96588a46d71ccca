"""From stored frames and flow to the tensors that the two streams see.

A *snippet* is one RGB frame and the stack of L flow fields around it. All randomness of a training sample comes from
(seed, epoch, clip id), so the number of loader processes, their order and a restart change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol as TypingProtocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from repro.data.catalog import Clip
from repro.data.sampling import Indices, sample_rng, segment_indices, spaced_indices, strided_indices
from repro.data.transforms import View, apply_view, free_view, full_views, random_view, ten_views
from repro.data.transforms import centre_view as one_centre_view
from repro.errors import ReproError


class Stored(TypingProtocol):
    """What is read from one stored clip (`repro.flow.store.StoredClip`)."""

    n_frames: int
    n_flow: int
    height: int
    width: int

    def rgb(self, indices: Sequence[int]) -> Tensor: ...
    def flow(self, indices: Sequence[int]) -> Tensor: ...
    def close(self) -> None: ...


class Store(TypingProtocol):
    """What opens a stored clip by its id (`repro.flow.store.ClipStore`)."""

    def open(self, clip_id: str) -> Stored: ...


@dataclass(frozen=True)
class Sampling:
    """How snippets are cut from a clip.

    `snippets` T per clip; `flow_frames` L fields per stack; `crop` side in px that enters the network; `scales` crop
    sides as shares of the shorter side (TSN's multi-scale cropping), none for the centre crop; `flip` mirrors half of
    the training samples; `subtract_mean_flow` takes each field's mean from it.

    Without `stride` a training clip gives a snippet of each of T equal parts (TSN); with a range (low, high) it gives a
    chain of T, that many frames apart. `sides` draws each side of the crop from that range of shares of `crop`, instead
    of `scales`. `frame_offset` says which frame of a stack's window is the RGB frame; the middle one unless given.
    """

    snippets: int
    flow_frames: int
    crop: int
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)  # TSN (2016), Sec. 3.2
    flip: bool = True
    streams: tuple[str, ...] = ("rgb", "flow")
    subtract_mean_flow: bool = False
    # Later fields are None where they are not used: what is None does not enter a run's key.
    stride: tuple[int, int] | None = None
    sides: tuple[float, float] | None = None
    frame_offset: int | None = None

    def training_starts(self, n_frames: int, rng: np.random.Generator) -> Indices:
        """Where the snippets of a training clip begin, (T,)."""
        window = self.flow_frames + 1
        if self.stride is None:
            return segment_indices(n_frames, self.snippets, window, rng)
        return strided_indices(n_frames, self.snippets, self.stride, window, rng)

    def test_starts(self, n_frames: int, count: int) -> Indices:
        """Where `count` snippets of a test clip begin, (count,): equally spaced.

        A chain (`stride`) in a clip with fewer starts than that runs to the end and back instead of standing still.
        """
        window = self.flow_frames + 1
        if self.stride is not None and n_frames - window + 1 < count:
            return strided_indices(n_frames, count, 1, window)
        return spaced_indices(n_frames, count, window)

    def test_chain(self, n_frames: int, count: int) -> Indices:
        """Where the snippets of a test clip begin that follow each other as in training, (count,): one chain, centred.

        The stride is the largest that training draws and the clip has room for.
        """
        return strided_indices(n_frames, count, self.stride or 1, self.flow_frames + 1)

    def training_view(self, height: int, width: int, rng: np.random.Generator) -> View:
        """The part of a training clip's frames that enters the network."""
        if not self.scales:
            return replace(one_centre_view(height, width, self.crop), flip=self.flip and bool(rng.integers(2)))
        if self.sides is None:
            return random_view(height, width, self.crop, self.scales, rng, flip=self.flip)
        return free_view(height, width, self.crop, self.sides, rng, flip=self.flip)


def snippet_images(stored: Stored, starts: np.ndarray, sampling: Sampling) -> dict[str, list[int]]:
    """Which images make up the snippets that begin at `starts` (T,): `rgb` T frames, `flow` T L fields.

    The RGB frame is the middle one of its stack, so that both streams look at the same moment, unless the sampling says
    otherwise. Fields past the end of a clip that is shorter than a stack repeat the last one.
    """
    out: dict[str, list[int]] = {}
    flow_frames, streams = sampling.flow_frames, sampling.streams
    if "rgb" in streams:
        offset = flow_frames // 2 if sampling.frame_offset is None else sampling.frame_offset
        out["rgb"] = np.minimum(starts + offset, stored.n_frames - 1).tolist()
    if "flow" in streams:
        if stored.n_flow < 1:
            raise ReproError("a clip with fewer than two frames has no optical flow: leave it out of the data set")
        fields = np.minimum(starts[:, None] + np.arange(flow_frames), stored.n_flow - 1)
        out["flow"] = fields.reshape(-1).tolist()
    return out


def snippet_tensors(stored: Stored, starts: np.ndarray, sampling: Sampling) -> dict[str, Tensor]:
    """Read the snippets that begin at `starts` (T,), those of `snippet_images`.

    Returns uint8 tensors `rgb` (T, 3, H, W) and `flow` (T, 2L, H, W) with channels u1, v1, u2, v2, ...
    """
    wanted = snippet_images(stored, starts, sampling)
    out: dict[str, Tensor] = {}
    if "rgb" in wanted:
        out["rgb"] = stored.rgb(wanted["rgb"])  # (T, 3, H, W)
    if "flow" in wanted:
        flow = stored.flow(wanted["flow"])  # (T L, 2, H, W)
        out["flow"] = flow.view(len(starts), 2 * sampling.flow_frames, *flow.shape[-2:])  # (T, 2L, H, W)
    return out


class TrainingSamples(TorchDataset[dict[str, Tensor]]):
    """Augmented training samples, addressed by (epoch, position of the clip).

    `mirrored` holds for each class the label of its mirrored clips (`Dataset.mirrored`); none: every class keeps its
    own.
    """

    def __init__(
        self, store: Store, clips: Sequence[Clip], sampling: Sampling, seed: int, mirrored: Sequence[int] | None = None
    ) -> None:
        self.store, self.clips, self.sampling, self.seed, self.mirrored = store, list(clips), sampling, seed, mirrored
        self.labels = [clip.label for clip in self.clips]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        clip, rng = self._picked(item)
        stored = self.store.open(clip.id)
        try:
            starts, view = self._cut(stored, rng)
            raw = snippet_tensors(stored, starts, self.sampling)
        finally:
            stored.close()
        sample = {k: apply_view(x, view, self.sampling.crop, is_flow=k == "flow") for k, x in raw.items()}
        sample["label"] = torch.tensor(self._label(clip, view))
        return sample

    @property
    def collate(self) -> Callable[[list[dict[str, Tensor]]], dict[str, Tensor]] | None:
        """How the loader makes a batch of samples; None: by stacking them."""
        return None

    def pixels(self, batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """What a batch of the loader's is for `repro.training.to_network`."""
        return batch

    def remark(self, device: torch.device) -> str:
        """What to add to a device's name where it has another part in the pictures than to show them."""
        return ""

    def _picked(self, item: tuple[int, int]) -> tuple[Clip, np.random.Generator]:
        epoch, position = item
        clip = self.clips[position]
        return clip, sample_rng(self.seed, epoch, clip.id)

    def _cut(self, stored: Stored, rng: np.random.Generator) -> tuple[np.ndarray, View]:
        starts = self.sampling.training_starts(stored.n_frames, rng)
        return starts, self.sampling.training_view(stored.height, stored.width, rng)

    def _label(self, clip: Clip, view: View) -> int:
        return self.mirrored[clip.label] if view.flip and self.mirrored else clip.label


class EndlessOrder(torch.utils.data.Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position), each epoch a new permutation of all clips, without end and without remainders.

    Batch i is a pure function of (seed, i): a run resumed at iteration i sees what it would have seen.
    """

    def __init__(self, n_clips: int, batch: int, seed: int, first: int, last: int) -> None:
        self.n, self.batch, self.seed, self.first, self.last = n_clips, batch, seed, first, last

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        known, order = -1, np.arange(self.n)
        for i in range(self.first, self.last):
            items = []
            for j in range(i * self.batch, (i + 1) * self.batch):
                epoch = j // self.n
                if epoch != known:
                    known, order = epoch, sample_rng(self.seed, epoch, "order of the clips").permutation(self.n)
                items.append((epoch, int(order[j % self.n])))
            yield items


@dataclass(frozen=True)
class TestViews:
    """A test protocol: `snippets` equally spaced per clip, seen through `views`: centre, ten (corners, centre and their
    mirrors), full (the whole frame, for fully convolutional networks) or full+flip. With `chain` the snippets follow
    each other as in training, for networks over time."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    name: str
    snippets: int
    views: str
    chain: bool = False

    def of(self, height: int, width: int, crop: int) -> list[View]:
        """The views of one frame size."""
        if self.views == "centre":
            return [one_centre_view(height, width, crop)]
        if self.views == "ten":
            return ten_views(height, width, crop)
        whole = full_views(height, width)
        return whole if self.views == "full+flip" else whole[:1]


class TestSamples(TorchDataset[dict[str, Tensor]]):
    """Every view of every clip: `rgb` (V, T, 3, h, w) and `flow` (V, T, 2L, h, w), V views, uint8."""

    __test__ = False

    def __init__(self, store: Store, clips: Sequence[Clip], sampling: Sampling, protocol: TestViews) -> None:
        self.store, self.clips, self.sampling, self.protocol = store, list(clips), sampling, protocol

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        clip, s = self.clips[position], self.sampling
        stored = self.store.open(clip.id)
        try:
            cut = s.test_chain if self.protocol.chain else s.test_starts
            starts = cut(stored.n_frames, self.protocol.snippets)
            raw = snippet_tensors(stored, starts, s)
            views = self.protocol.of(stored.height, stored.width, s.crop)
        finally:
            stored.close()
        size = None if self.protocol.views.startswith("full") else s.crop
        return {k: torch.stack([apply_view(x, v, size, is_flow=k == "flow") for v in views]) for k, x in raw.items()}
