"""Test protocols: raw logits per video, which everything else is computed from.

A score never travels without its protocol. Logits are averaged over views (crops and mirrors); what a network does with
the snippets of a clip is its own matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from repro.data.catalog import Clip
from repro.data.clips import Sampling, Store, TestSamples, TestViews
from repro.errors import ReproError, nearest
from repro.training import channels_last, pick_device, precision, to_network

PROTOCOLS: dict[str, TestViews] = {
    p.name: p
    for p in (
        TestViews("25x10", 25, "ten"),  # Simonyan & Zisserman (2014), Sec. 5; TSN (2016), Sec. 3.4
        TestViews("25fc", 25, "full+flip"),  # ST-ResNet (2016), Sec. 3.4: fully convolutional, with mirrors
        TestViews("25x1", 25, "centre"),  # 25 frames, centre crop (ledger stilt-L16)
        TestViews("quick", 8, "full"),  # ours, for small networks: 8 snippets of the whole frame
        TestViews("smoke", 2, "full"),  # ours, only to prove the path
        TestViews(
            "chain64", 64, "centre", chain=True
        ),  # I3D (2017): 64 frames in a row; one chain of a clip is our choice
        TestViews("chain16", 16, "full", chain=True),  # ours, for small networks over time
        TestViews("chain5", 5, "full", chain=True),  # 3D-Fused (I3D 2017, Sec. 2.3): five snippets, ten frames apart
    )
}


def protocol(name: str) -> TestViews:
    """The protocol of that name; an unknown one is an error with the nearest name."""
    if name not in PROTOCOLS:
        raise ReproError(f"unknown protocol '{name}'{nearest(name, PROTOCOLS)}: use one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


class Views(Protocol):
    """Test samples: of every item its views, `rgb` (V, T, 3, h, w) and `flow` (V, T, 2L, h, w), uint8."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> dict[str, Tensor]: ...


def batches_of_views(samples: Views, workers: int = 0, at_once: int = 256) -> Iterator[dict[str, Tensor]]:
    """Consecutive clips whose views have equal shapes, stacked: `rgb` (n, V, T, 3, h, w), `flow` (n, V, T, 2L, h, w).

    n V T is at most `at_once` snippets, so that 25 x 10 views do not ask for eight times the memory of 25; n is 1 at
    least and 8 at most.
    """
    loader: DataLoader[dict[str, Tensor]] = DataLoader(
        cast(TorchDataset[dict[str, Tensor]], samples),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    waiting: list[dict[str, Tensor]] = []
    for sample in loader:
        views, snippets = next(iter(sample.values())).shape[:2]
        full = len(waiting) == max(1, min(8, at_once // (views * snippets)))
        if waiting and (full or any(waiting[0][k].shape != sample[k].shape for k in sample)):
            yield {k: torch.stack([s[k] for s in waiting]) for k in waiting[0]}
            waiting = []
        waiting.append(sample)
    if waiting:
        yield {k: torch.stack([s[k] for s in waiting]) for k in waiting[0]}


def evaluate(
    model: nn.Module,
    store: Store,
    clips: Sequence[Clip],
    sampling: Sampling,
    views: TestViews,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    mirrored: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Logits of every clip, one array (clips, width) float32 per output of the model, in the order of `clips`.

    `mirrored` holds for each class the label of its mirrored clips (`Dataset.mirrored`): the class scores of a mirrored
    view count for the classes that they have in the mirror. Outputs of another width stay as they are.
    """
    if not clips:
        raise ReproError("there is no clip to test: check the split, the fold and the data set")
    samples = TestSamples(store, clips, sampling, views)
    flips = [view.flip for view in views.of(sampling.crop, sampling.crop, sampling.crop)]
    turned = mirrored if any(flips) and mirrored and list(mirrored) != list(range(len(mirrored))) else None
    return score(
        model, samples, sampling, device=device, workers=workers, progress=progress,
        of_views=None if turned is None else partial(_turned_back, flips, list(turned)),
    )  # fmt: skip


def _turned_back(flips: Sequence[bool], mirrored: list[int], logits: Tensor) -> Tensor:
    """Class scores (n, V, classes) of all views as the clip shows them that is not mirrored."""
    if logits.shape[-1] != len(mirrored):
        return logits
    return torch.where(logits.new_tensor(flips)[:, None] > 0, logits[..., mirrored], logits)


@torch.no_grad()
def score(
    model: nn.Module,
    samples: Views,
    sampling: Sampling,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    of_views: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, np.ndarray]:
    """Logits of every item of `samples`, (items, width) float32 per output of the model, in their order.

    The model is called with `rgb` (B, T, 3, h, w) and `flow` (B, T, 2L, h, w), B running over clips and views; its
    outputs (B, width) are averaged over the views of an item, after `of_views` of (items, V, width), if any.
    """
    device = pick_device(str(device))
    channels_last(model.to(device)).eval()
    collected: dict[str, list[np.ndarray]] = {}
    done = 0
    for batch in batches_of_views(samples, workers):
        n, v = next(iter(batch.values())).shape[:2]
        with precision(device):
            outputs = model(
                **to_network({k: x.flatten(0, 1) for k, x in batch.items()}, device, sampling)
            )  # (n V, width)
        for name, logits in outputs.items():
            seen = logits.float().unflatten(0, (n, v))
            seen = of_views(seen) if of_views else seen
            collected.setdefault(name, []).append(seen.mean(1).cpu().numpy())
        done += n
        if progress:
            progress(done, len(samples))
    return {name: np.concatenate(parts) for name, parts in collected.items()}
