"""Balanced mini-batches for losses that compare clips: N classes, M clips of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from repro.data.sampling import sample_rng
from repro.errors import ReproError


class BalancedOrder(torch.utils.data.Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position): N classes drawn at random, then M clips of each, both without replacement.

    Clips of a class stand side by side, M at a time. Of a class with fewer than M clips every one comes equally often,
    give or take one; the epoch numbers within a batch differ for repeats of a clip, so that each has its own crop.
    Where there are fewer than N classes, every one comes equally often, give or take one, and brings other clips while
    it has any.

    Batch i is a pure function of (seed, i): loader processes and restarts change nothing. `epoch` counts i and repeats,
    not passes over the data; no (epoch, position) comes twice. Takes the place of `EndlessOrder`.
    """

    def __init__(self, labels: Sequence[int], classes: int, instances: int, seed: int, first: int, last: int) -> None:
        if classes < 1 or instances < 1:
            raise ReproError(f"batches of {classes} classes of {instances} clips: both must be at least 1")
        found = np.asarray(labels)
        self.members = [np.flatnonzero(found == label) for label in np.unique(found)]  # positions per class
        if not self.members:
            raise ReproError("there is no clip to make batches of: check the split and the data set")
        self.classes, self.instances = classes, instances
        self.seed, self.first, self.last = seed, first, last

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return (self.batch(i) for i in range(self.first, self.last))

    def batch(self, i: int) -> list[tuple[int, int]]:
        """Return batch i, counted from 0: N * M pairs (epoch, position)."""
        rng = sample_rng(self.seed, i, "balanced batch")
        count = len(self.members)
        rounds = -(-self.classes // count)  # how often a class may come
        shuffled: dict[int, np.ndarray] = {}
        items = []
        drawn = rng.choice(count, min(count, self.classes), replace=False).tolist()
        for place in range(self.classes):
            c = drawn[place % len(drawn)]
            if c not in shuffled:
                shuffled[c] = rng.permutation(self.members[c])
            for slot in range(place // count * self.instances, (place // count + 1) * self.instances):
                repeat, clip = divmod(slot, len(shuffled[c]))
                items.append((i * rounds * self.instances + repeat, int(shuffled[c][clip])))
        return items
