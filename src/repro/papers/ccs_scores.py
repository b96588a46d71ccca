"""Scores of every method of the CCS chapter, from the logits of finished runs; nothing is trained.

A method is a training's name (`all`), which is the mean of both outputs' logits; `:rgb` or `:flow` behind it is one
output, `+weight-1.5` counts the flow output 1.5 times (ledger ccs-L26). `best-single` is the plain stream that is
better on the test clips, which can only make "both beat one" harder to observe. `all+groups` is tested on groups of
snippets (ledger ccs-L36).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from repro.papers.ccs import fuse
from repro.papers.ccs_derived import DERIVED
from repro.papers.ccs_experiments import VARIANTS
from repro.papers.ccs_losses import STREAMS
from repro.scores import Scores

Array = np.ndarray[Any, Any]
WEIGHT = 1.5  # of flow against rgb's 1, as in TSN [38]
SINGLE = tuple(f"baseline:{m}" for m in STREAMS)
NEVER_RUN = "all@kinetics"  # claim ccs-14: no preset trains on Kinetics first


def _methods() -> dict[str, tuple[str, ...]]:
    """Every method, and every run that starts from a trained network, with the experiments that it needs."""
    out: dict[str, tuple[str, ...]] = {}
    for name in (*VARIANTS, NEVER_RUN):
        ways = ("", *(f":{m}" for m in STREAMS), f"+weight-{WEIGHT:g}")
        out |= {f"{name}{way}": (name,) for way in ways}
    out["best-single"] = ("baseline",)
    derived = {f"{name}+{what}": name for what, (_, names) in DERIVED.items() for name in names}
    return out | {method: (method, name) for method, name in derived.items()}


class CCSScores(Scores):
    """Scores on the test clips of one data set."""

    methods = _methods()

    @lru_cache(maxsize=512)  # noqa: B019  (a Scores lives as long as the page that asks)
    def scores(self, method: str, split: str, seed: int, part: str = "test") -> Array:
        """Class scores (N, C) of a method: logits, averaged where both outputs are fused."""
        if method == "best-single":
            return self.scores(self.best(SINGLE, method), split, seed, part)
        name, _, output = method.partition(":")
        if output:
            return self.runs[name, split, seed].logits(output, part)
        name, weighted, _ = method.partition("+weight-")
        rgb, flow = (self.runs[name, split, seed].logits(m, part) for m in STREAMS)
        return fuse(rgb, flow, WEIGHT if weighted else 1.0)

    def kept(self, method: str, name: str, seeds: Sequence[int] | None = None, axis: int = 0) -> Array:
        """An array that a derived run keeps beside its scores, (S, ...), splits one after the other along `axis`."""
        return np.stack(
            [
                np.concatenate([self.runs[method, x, s].arrays[name] for x in self.splits], axis=axis)
                for s in (self.seeds_with(method) if seeds is None else seeds)
            ]
        )
