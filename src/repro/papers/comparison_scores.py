"""Scores of every method of the comparison, from the logits of finished runs; nothing is trained.

A method is one of `METHODS`, whose outputs' logits are averaged, or with `+softmax` their probabilities
(ledger comparison-L9), or with `+views` the logits of another test protocol (L8); a training that is a part of one
(`taught-frames`); or a joint network's output of one stream (`ccs:rgb`). `+probes` of a joint network is its run under
other test conditions (`comparison_derived`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from repro.metrics import softmax
from repro.papers.comparison_experiments import JOINT, METHODS, OUTPUTS
from repro.scores import Scores

Array = np.ndarray[Any, Any]
SOFTMAX, VIEWS = "+softmax", "+views"


def _methods() -> dict[str, tuple[str, ...]]:
    """Every method, and every run that starts from a trained network, with the experiments that it needs."""
    out = {name: (name,) for name in OUTPUTS} | METHODS
    out |= {f"{method}{SOFTMAX}": names for method, names in METHODS.items()}
    out |= {f"{method}{VIEWS}": tuple(n + VIEWS for n in names) for method, names in METHODS.items()}
    for name in JOINT:
        out |= {f"{name}:{stream}": (name,) for stream in OUTPUTS[name]}
        out[f"{name}+probes"] = (f"{name}+probes", name)
    return out


class ComparisonScores(Scores):
    """Scores on the test clips of one data set."""

    methods = _methods()

    @lru_cache(maxsize=512)  # noqa: B019  (a Scores lives as long as the page that asks)
    def scores(self, method: str, split: str, seed: int, part: str = "test") -> Array:
        """Class scores (N, C) of a method: logits, or probabilities, averaged over all of its outputs."""
        name, _, stream = method.partition(":")
        averaged = softmax if method.endswith(SOFTMAX) else np.asarray
        found = [
            averaged(self.runs[training, split, seed].logits(output, part).astype(np.float64))
            for training in self.needs(name)
            for own, output in OUTPUTS[training.removesuffix(VIEWS)].items()
            if stream in ("", own)
        ]
        return np.asarray(np.mean(found, axis=0))

    def probed(self, network: str, array: str, split: str, seed: int) -> Array:
        """Logits (N, C) of a joint network under another test condition, such as "swapped_rgb"."""
        return np.asarray(self.runs[f"{network}+probes", split, seed].arrays[array], np.float64)
