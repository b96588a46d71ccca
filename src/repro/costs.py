"""What a piece of work will cost before it is begun, stage by stage: time on this machine and room on the disk."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from repro.data.clips import Sampling
from repro.evaluation import protocol
from repro.models.count import multiply_adds, parameters
from repro.training import Recipe

# Multiply-adds a second that training reaches: one CPU thread (measured 36e9 for a quarter-width ResNet-50, halved
# for decoding and augmentation) and one data-centre GPU in bf16 (a cautious guess).
RATES = {"cpu": 18e9, "cuda": 20e12}
VIEWS = {"centre": 1.3, "ten": 10.0, "full": 1.3, "full+flip": 3.0}  # crops' worth of pixels a snippet is tested on
ROW_BYTES = 60  # of a result, for a clip: id, group, label and scores


class Price(NamedTuple):
    """What one run costs: seconds to train and to test it, and the bytes that it leaves."""

    train: float
    test: float
    left: int


@dataclass(frozen=True)
class Estimate:
    """Rough cost of the runs that are not done: seconds on this machine, bytes on its disk.

    `shared` are those of the runs, by key, that any other split needs too: trainings on generated images.
    """

    runs: int = 0
    frames: int = 0  # to decode
    pairs: int = 0  # of frames whose flow is to be computed
    decode_seconds: float = 0.0
    flow_seconds: float = 0.0
    train_seconds: float = 0.0
    test_seconds: float = 0.0
    store_bytes: int = 0
    run_bytes: int = 0  # checkpoints and results
    shared: Mapping[str, Price] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """All stages, one after the other."""
        return self.decode_seconds + self.flow_seconds + self.train_seconds + self.test_seconds

    def stages(self) -> list[tuple[str, str, float, int]]:
        """(stage, what it does, seconds, bytes)."""
        return [
            ("decoding", f"{self.frames:,} frames", self.decode_seconds, self.store_bytes),
            ("optical flow", f"{self.pairs:,} fields", self.flow_seconds, 0),
            ("training", f"{self.runs:,} runs", self.train_seconds, self.run_bytes),
            ("testing", f"{self.runs:,} runs", self.test_seconds, 0),
        ]

    def lines(self) -> list[str]:
        """A line a stage, then the sum. Frames and flow lie in one file, so the disk of both stands with the first."""
        rows = [(name, what, duration(s), size(b) if b else "-") for name, what, s, b in self.stages()]
        rows.append(("in all", "", duration(self.seconds), size(self.store_bytes + self.run_bytes)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]

    def __str__(self) -> str:
        return (
            f"{self.runs} runs to train and test ({duration(self.train_seconds + self.test_seconds)}), "
            f"{self.frames} frames to decode ({duration(self.decode_seconds)}), "
            f"{self.pairs} flow fields to compute ({duration(self.flow_seconds)}), "
            f"{size(self.store_bytes + self.run_bytes)} of disk; in all about {duration(self.seconds)}"
        )


def together(parts: Iterable[Estimate]) -> Estimate:
    """The cost of several splits of one data set: each is trained, frames and flow are shared.

    So are trainings on generated images, which count once.
    """
    parts = list(parts)
    most = max(parts, key=lambda e: e.frames, default=Estimate())
    known: dict[str, Price] = {}
    again: list[Price] = []  # of shared runs, every time but the first
    for part in parts:
        again += [price for key, price in part.shared.items() if key in known]
        known |= part.shared
    return Estimate(
        runs=sum(e.runs for e in parts) - len(again),
        frames=most.frames,
        pairs=most.pairs,
        decode_seconds=most.decode_seconds,
        flow_seconds=most.flow_seconds,
        train_seconds=sum(e.train_seconds for e in parts) - sum(p.train for p in again),
        test_seconds=sum(e.test_seconds for e in parts) - sum(p.test for p in again),
        store_bytes=most.store_bytes,
        run_bytes=sum(e.run_bytes for e in parts) - sum(p.left for p in again),
        shared=known,
    )


ON_ONE_CARD = 4  # processes that extract with one GPU: each holds some 2 GB of its memory, and decodes meanwhile


def extractors(absent: int, on_card: bool = False) -> int:
    """How many processes extract that many clips: starting one costs what some clips do."""
    most = min(os.cpu_count() or 1, 1 + absent // 48)
    return min(most, ON_ONE_CARD) if on_card else most


def run_cost(model: nn.Module, recipe: Recipe, sampling: Sampling, views: str, scored: int, device: str) -> Price:
    """What it costs to train a network and to test it.

    `views` names the test protocol, which `scored` clips are seen through; `device` is "cpu" or "cuda".
    """
    counted = copy.deepcopy(model).to("meta")  # without arithmetic
    train = training_multiply_adds(counted, recipe.micro_batch, sampling) * recipe.iterations * recipe.batch
    seen = protocol(views)
    test = _forward(counted, sampling, 1, seen.snippets) * scored * VIEWS[seen.views]
    left = 2 * 4 * parameters(model) + scored * ROW_BYTES  # weights and momentum, 4 bytes each
    return Price(train / RATES[device], test / RATES[device], left)


def training_multiply_adds(model: nn.Module, micro_batch: int, sampling: Sampling) -> float:
    """Multiply-adds of a clip in one step of training; the model is on the "meta" device."""
    size = micro_batch, sampling.snippets
    # Backward is twice what the network itself has forward: of a teacher, which only training has, there is none.
    return (_forward(model, sampling, *size, training=True) + 2 * _forward(model, sampling, *size)) / micro_batch


def _forward(model: nn.Module, s: Sampling, clips: int, snippets: int, training: bool = False) -> int:
    with torch.device("meta"):
        rgb = torch.zeros(clips, snippets, 3, s.crop, s.crop) if "rgb" in s.streams else None
        flow = torch.zeros(clips, snippets, 2 * s.flow_frames, s.crop, s.crop) if "flow" in s.streams else None
    return multiply_adds(model, rgb, flow, training=training)


def duration(seconds: float) -> str:
    """Such as 45 s, 12 min or 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Such as 3 MB or 12.5 GB."""
    return f"{count / 1e6:.0f} MB" if count < 2e9 else f"{count / 1e9:.1f} GB"
