"""Scores of every method of the cross-enhancement chapter, from the logits of finished runs.

A method is a training's name (`rgb-taught@inner-only`), or a pair whose logits are averaged: `two-stream` of the plain
streams, `rgb-taught+flow` and `rgb+flow-taught` of a teacher and the student that it taught. `+layer` joins a pair by
the fully connected layer of Sec. 3.1, which is all that is trained here. `best-single` is the plain stream that is
better on the test clips, which can only make "two beat one" harder to observe.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.errors import ReproError
from repro.papers.cross_enhancement import average
from repro.papers.cross_enhancement_derived import COMPARED, FOLLOWED
from repro.papers.cross_enhancement_experiments import VARIANTS
from repro.papers.cross_enhancement_layers import STREAMS, FusionLayer
from repro.scores import Scores

Array = np.ndarray[Any, Any]
BEST = "best-single"
LAYER = "+layer"
PAIRS = {  # name -> what is trained on RGB, what on flow
    "two-stream": ("rgb", "flow"),
    "rgb-taught+flow": ("rgb-taught", "flow"),
    "rgb+flow-taught": ("rgb", "flow-taught"),
}
FUSED = "fusion"  # the output of a network of both streams

WEIGHT_DECAY = 5e-4  # Sec. 4.3
STEPS, FLAT = 1000, 1e-7  # at most so many steps of L-BFGS; the gradient that counts as 0


def _methods() -> dict[str, tuple[str, ...]]:
    """Every method, and every run that starts from a trained network, with the experiments that it needs."""
    out: dict[str, tuple[str, ...]] = {name: (name,) for name in VARIANTS}
    out[BEST] = STREAMS
    for pair, names in PAIRS.items():
        out |= {pair: names, f"{pair}{LAYER}": names}
    for what, bases in (("distance", COMPARED), ("curve", FOLLOWED)):
        out |= {f"{name}+{what}": (f"{name}+{what}", name) for name in bases}
    return out


def learned_layer(rgb: Tensor, flow: Tensor, labels: Tensor) -> FusionLayer:
    """Sec. 3.1, end: the fully connected layer that joins logits (N, C) of both streams, learned on `labels` (N,).

    It starts as their average and goes to the least mean cross-entropy plus weight decay, over all clips at once. That
    is one point, wherever it starts: neither a rate nor a number of steps decides what the layer becomes. ReproError
    where the logits are not finite.
    """
    # DEVIATION: Sec. 4.3 trains by SGD; its weight decay is kept, its rate and batches are for networks.
    if not (torch.isfinite(rgb).all() and torch.isfinite(flow).all()):
        raise ReproError("the fusion layer got logits that are not finite: a stream diverged; train it again")
    layer = FusionLayer(rgb.shape[1]).double()
    given = rgb.double(), flow.double()
    optimiser = torch.optim.LBFGS(
        layer.parameters(), max_iter=STEPS, tolerance_grad=FLAT, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        decay = sum(p.square().sum() for p in layer.parameters())
        value: Tensor = F.cross_entropy(layer(*given), labels) + WEIGHT_DECAY / 2 * decay
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return layer.requires_grad_(False)


class CrossEnhancementScores(Scores):
    """Scores on the test clips of one data set, all seeds and splits of one scale together."""

    methods = _methods()

    @lru_cache(maxsize=512)  # noqa: B019  (a Scores lives as long as the page that asks)
    def scores(self, method: str, split: str, seed: int, part: str = "test") -> Array:
        """Class scores (N, C) of a method: logits, averaged ones of a pair, or what its learned layer makes of them."""
        if method == BEST:
            return self.scores(self.best(STREAMS, BEST), split, seed, part)
        pair = method.removesuffix(LAYER)
        if pair not in PAIRS:
            return self.logits(method, split, seed, part)
        rgb, flow = self.both(pair, split, seed, part)
        joined = average(rgb, flow) if method == pair else self.layer(pair, split, seed)(rgb.double(), flow.double())
        return joined.numpy()

    def logits(self, name: str, split: str, seed: int, part: str = "test") -> Array:
        """Logits (N, C) of a training: its stream's, or those of both streams fused."""
        return self.runs[name, split, seed].logits(VARIANTS[name].stream or FUSED, part)

    def both(self, pair: str, split: str, seed: int, part: str = "test") -> tuple[Tensor, Tensor]:
        """Logits (N, C) of the two streams of a pair; ReproError when they hold other clips."""
        rgb, flow = (self.runs[name, split, seed] for name in PAIRS[pair])
        if rgb.ids(part) != flow.ids(part):
            raise ReproError(f"{pair}: the runs of both streams hold other clips: remove their rows and run again")
        first, second = (torch.from_numpy(self.logits(name, split, seed, part)) for name in PAIRS[pair])
        return first, second

    @lru_cache(maxsize=512)  # noqa: B019
    def layer(self, pair: str, split: str, seed: int) -> FusionLayer:
        """The learned fusion layer of a pair, both streams frozen (ledger cross_enhancement-L8, L9).

        It is learned on the training clips. Both streams were trained on these too, so their logits are more sure
        there, and more often right, than on clips that they have not seen.
        """
        labels = self.runs[PAIRS[pair][0], split, seed].labels("train")
        return learned_layer(*self.both(pair, split, seed, "train"), torch.from_numpy(labels))
