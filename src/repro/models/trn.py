"""Multi-scale temporal relations (Zhou, Andonian, Oliva, Torralba: Temporal relational reasoning in videos, ECCV 2018).

Relations are read from ordered tuples of a clip's snippets: pairs, triples, up to all N of them. B clips, N snippets, C
channels of a snippet.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from repro.errors import ReproError


def ordered_tuples(frames: int, size: int) -> Tensor:
    """Return all tuples i < j < ... of `size` of `frames` snippets, (count, size) int64, in the order of time."""
    return torch.tensor(list(combinations(range(frames), size)))


class Relations(nn.Module):
    """The sum over scales d = 2..N of T_d, the relations of d snippets (Sec. 3.2, "Multi-Scale Temporal Relations").

    As in the released code, snippets are first mapped to `feature` numbers, T_d = sum h_d(g_d(tuple)) with g_d a layer
    of `hidden` units and h_d a linear one, each scale with its own two, and in training `tuples` random tuples of a
    scale are summed (all, where there are fewer).

    DEVIATION: the released code draws tuples in testing too; here T_d is then its expectation, the mean over all tuples
    times the number that training sums, so that scores repeat.
    """

    def __init__(
        self, channels: int, frames: int, outputs: int, *, feature: int = 256, hidden: int = 256, tuples: int = 3
    ) -> None:
        if frames < 2 or tuples < 1:
            raise ReproError(f"relations of {frames} snippets, {tuples} tuples a scale: use at least 2 and 1")
        super().__init__()
        self.frames, self.tuples = frames, tuples
        self.scales = range(2, frames + 1)
        self.project = nn.Linear(channels, feature)
        self.g = nn.ModuleList(nn.Linear(d * feature, hidden) for d in self.scales)
        self.h = nn.ModuleList(nn.Linear(hidden, outputs) for _ in self.scales)

    def forward(self, x: Tensor) -> Tensor:
        """Map snippets x (B, N, C) in the order of time to (B, outputs): class scores, or a feature of the clip.

        Random tuples come from torch's global CPU generator, which checkpoints keep.
        """
        if x.shape[1] != self.frames:
            raise ReproError(f"{x.shape[1]} snippets where the relations were made for {self.frames}: give as many")
        f = torch.relu(self.project(x))  # (B, N, feature)
        return torch.stack([self.relation(f, d) for d in self.scales]).sum(dim=0)

    def relation(self, f: Tensor, size: int) -> Tensor:
        """Return T_d for d = `size`, (B, outputs), of rectified snippet features f (B, N, feature)."""
        index = ordered_tuples(self.frames, size)
        used = min(self.tuples, len(index))
        if self.training:
            index = index[torch.randperm(len(index), device="cpu")[:used]]
        tuples = f[:, index.to(f.device)].flatten(2)  # (B, count, d * feature)
        terms: Tensor = self.h[size - 2](torch.relu(self.g[size - 2](tuples)))  # (B, count, outputs)
        return used * terms.mean(dim=1)  # in training the sum over the tuples drawn
