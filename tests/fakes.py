"""A store of invented clips and a tiny two-stream network, for tests of everything that is above decoding."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from repro.data.catalog import Clip, Dataset
from repro.data.clips import Sampling, TrainingSamples
from repro.data.video import write_video
from repro.experiments import Lab
from repro.flow.store import ClipStore
from repro.results import Library
from repro.training import Recipe, train

SAMPLING = Sampling(snippets=2, flow_frames=3, crop=12, scales=(1.0, 0.75))
RECIPE = Recipe(iterations=12, batch=4, micro_batch=2, lr=0.05, milestones=(6,))


def make_clips(n: int, classes: int = 2) -> list[Clip]:
    return [Clip(f"c{i % classes}/v{i:02d}", f"c{i % classes}/v{i:02d}.avi", i % classes, f"g{i}") for i in range(n)]


class FakeClip:
    """Frame i of a clip is reproducible noise from (clip id, i); field i likewise."""

    def __init__(self, clip_id: str, n_frames: int, height: int, width: int) -> None:
        self.id, self.n_frames, self.n_flow, self.height, self.width = clip_id, n_frames, n_frames - 1, height, width
        self.closed = False

    def _noise(self, kind: str, index: int, channels: int) -> Tensor:
        assert 0 <= index < (self.n_frames if kind == "rgb" else self.n_flow)
        rng = np.random.default_rng([*f"{kind}{self.id}".encode(), index])
        return torch.from_numpy(rng.integers(0, 256, (channels, self.height, self.width), np.uint8))

    def rgb(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._noise("rgb", i, 3) for i in indices])

    def flow(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._noise("flow", i, 2) for i in indices])

    def close(self) -> None:
        self.closed = True


class FakeStore:
    """`sizes`: clip id -> (frames, height, width), (9, 16, 20) unless told."""

    def __init__(self, sizes: dict[str, tuple[int, int, int]] | None = None) -> None:
        self.sizes = sizes or {}
        self.opened: list[FakeClip] = []

    def open(self, clip_id: str) -> FakeClip:
        self.opened.append(FakeClip(clip_id, *self.sizes.get(clip_id, (9, 16, 20))))
        return self.opened[-1]


class TinyNet(nn.Module):
    """One convolution a stream, the mean over snippets, dropout, one linear layer."""

    def __init__(self, classes: int = 2, *, dropout: float = 0.5, flow_frames: int = 3, channels: int = 8) -> None:
        super().__init__()
        inputs = {"spatial": 3, "temporal": 2 * flow_frames}
        self.convolutions = nn.ModuleDict({k: nn.Conv2d(n, channels, 3, stride=2) for k, n in inputs.items()})
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.ModuleDict({k: nn.Linear(channels, classes) for k in inputs})

    def forward(self, rgb: Tensor | None, flow: Tensor | None) -> dict[str, Tensor]:
        out = {}
        for name, x in (("spatial", rgb), ("temporal", flow)):
            if x is not None:
                y = torch.relu(self.convolutions[name](x.flatten(0, 1))).mean((2, 3)).unflatten(0, x.shape[:2]).mean(1)
                out[name] = self.classify[name](self.dropout(y))
        return out


def tiny_net(classes: int) -> nn.Module:
    return TinyNet(classes)


def save_clip(path: Path, seed: int, motion: int) -> None:
    """A square that moves right or down over noise, 10 frames of 24 x 20 px."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(90, 130, (1, 20, 24, 3), np.uint8), 10, axis=0)
    for t, frame in enumerate(frames):
        top, left = (5, 2 + t) if motion else (2 + t, 5)
        frame[top : top + 6, left : left + 6] = 220
    write_video(path, frames)


def fresh_run(seed: int = 1, n: int = 7) -> tuple[nn.Module, TrainingSamples]:
    torch.manual_seed(seed)
    return TinyNet(), TrainingSamples(FakeStore(), make_clips(n), SAMPLING, seed)


def train_slowly(folder: str) -> None:
    """Train with a checkpoint at every iteration, telling stdout how far it is; made to be killed."""
    model, samples = fresh_run()

    def progress(done: int, total: int, loss: float) -> None:
        print(done, flush=True)
        time.sleep(0.05)

    train(model, samples, RECIPE, run_dir=Path(folder), checkpoint_seconds=0.0, progress=progress)


if __name__ == "__main__":
    train_slowly(sys.argv[1])


def noise_lab(folder: Path, count: int, tested_from: int) -> Lab:
    """A lab whose clips are noise, put into the store without a video: two classes, groups of two clips.

    Clips from number `tested_from` on are the test clips; all have 8 frames of 64 px.
    """
    store = ClipStore(folder / "store", short_side=64, flow_backend="noise")
    parts = ["test" if i >= tested_from else "train" for i in range(count)]
    clips = [Clip(f"c{i % 2}/v{i}", "", i % 2, f"g{i // 2}", {"1": part}) for i, part in enumerate(parts)]
    for i, clip in enumerate(clips):
        rng = np.random.default_rng(i)
        store.write(clip.id, rng.integers(0, 256, (8, 64, 64, 3), np.uint8), rng.normal(0, 2, (7, 2, 64, 64)))
    dataset = Dataset("toy", folder, ("c0", "c1"), tuple(clips), ("1",), "f")
    return Lab(dataset, store, Library(folder / "runs"), split="1", runs_dir=folder / "runs", device="cpu")
