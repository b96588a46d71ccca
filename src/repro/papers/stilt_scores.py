"""Scores of every method of the STILT chapter, computed from the logits of finished runs; nothing is trained here.

A method is written `base[:stream][+fusion]`: `stil-snippets` is the late average of that network's two outputs,
`stil-snippets:spatial` its spatial output alone, `+awf`, `+awf-regularised`, `+awf-held-out` and `+svm` replace the
average. `two-stream` averages the plain streams; `best-single` is the plain stream that is better on the test clips,
which can only make "two beat one" harder to observe.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from repro.metrics import softmax
from repro.papers.stilt_derived import STIL
from repro.papers.stilt_experiments import VARIANTS
from repro.papers.stilt_fusion import (
    Choice,
    awf_coefficients,
    awf_regularised,
    awf_weights,
    choose_lambda,
    fuse,
    late_average,
)
from repro.scores import Scores

Array = np.ndarray[Any, Any]
PLAIN = ("spatial", "temporal")  # the streams trained alone

# Candidates of lambda: 0 looks at the own class only; 1 / (C - 1) makes both terms of Eq. 5 equal in size (it is added
# for the data set at hand); the paper gives none (ledger stilt-L9). The first of equals is chosen.
LAMBDAS = (0.01, 0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
STRENGTHS = (3.0, 1.0, 10.0, 30.0, 0.3)  # of the entropy term, in units of summed probability (ledger stilt-L8)


def _methods() -> dict[str, tuple[str, ...]]:
    """Every method, and every run that starts from a trained network, with the experiments that it needs."""
    fitted = ("", "+awf", "+awf-regularised")
    out = {name: (name,) for name in PLAIN} | {"best-single": PLAIN} | {f"two-stream{f}": PLAIN for f in fitted}
    for name in VARIANTS:
        if name not in PLAIN:
            out |= {name + suffix: (name,) for suffix in (":spatial", ":temporal", *fitted)}
    for name in STIL:
        out |= {f"{name}+{run}": (f"{name}+{run}", name) for run in ("svm", "attention", "probes")}
    main = STIL[0]
    return out | {f"{main}+awf-held-out": (main, f"{main}/held-out-0", f"{main}/held-out-1")}


METHODS = _methods()


@dataclass(frozen=True)
class Fitted:
    """A fusion fitted on training scores: its weights (C, 2) and the choice on folds."""

    weights: Array
    choice: Choice


class StiltScores(Scores):
    """Scores on the test clips of one data set, all seeds and splits of one scale together."""

    methods = METHODS

    # -- scores -----------------------------------------------------------------------------------------------------

    @lru_cache(maxsize=512)  # noqa: B019  (a Scores lives as long as the page that asks)
    def scores(self, method: str, split: str, seed: int, part: str = "test") -> Array:
        """Class scores (N, C) of a method: probabilities, or decision values for `+svm`."""
        base, _, fusion = method.partition("+")
        if fusion == "svm":
            return self.runs[f"{base}+svm", split, seed].logits("svm", part)
        if base == "best-single":
            return self.scores(self.best(PLAIN, base), split, seed, part)
        if base in PLAIN or ":" in base:
            name, _, stream = base.partition(":")
            return softmax(self.runs[name, split, seed].logits(stream or name, part))
        spatial, temporal = self.pair(base, split, seed, part)
        if not fusion:
            return late_average(spatial, temporal)
        return fuse(self.fitted(method, split, seed).weights, spatial, temporal)

    def pair(self, base: str, split: str, seed: int, part: str = "test") -> tuple[Array, Array]:
        """Probabilities (N, C) of the spatial and of the temporal output."""
        if base == "two-stream":
            return self.scores("spatial", split, seed, part), self.scores("temporal", split, seed, part)
        return self.scores(f"{base}:spatial", split, seed, part), self.scores(f"{base}:temporal", split, seed, part)

    @lru_cache(maxsize=512)  # noqa: B019
    def fitted(self, method: str, split: str, seed: int) -> Fitted:
        """Weights of an adaptively weighted fusion (STILT, Sec. 3.3), lambda and strength chosen on training folds."""
        base, _, fusion = method.partition("+")
        if fusion == "awf-held-out":  # scores of clips that the network was not trained on (ledger stilt-L10)
            parts = [self.runs[f"{base}/held-out-{k}", split, seed] for k in (0, 1)]
            pairs = [[softmax(r.logits(m)) for r in parts] for m in ("spatial", "temporal")]
            spatial, temporal = (np.concatenate(p) for p in pairs)
            labels = np.concatenate([r.labels() for r in parts])
            groups = np.concatenate([r.groups() for r in parts])
        else:
            spatial, temporal = self.pair(base, split, seed, "train")
            run = self.runs[self.needs(base)[0], split, seed]
            labels, groups = run.labels("train"), run.groups("train")
        candidates = (1 / (len(self.classes) - 1), *LAMBDAS)
        strengths = (None,) if fusion == "awf" else STRENGTHS
        choice = choose_lambda(
            (spatial, temporal), labels, groups, candidates, num_classes=len(self.classes), strengths=strengths
        )
        coefficients = awf_coefficients(spatial, temporal, labels, len(self.classes), choice.lambda_)
        if choice.strength is None:
            return Fitted(awf_weights(coefficients), choice)
        return Fitted(awf_regularised(coefficients, choice.strength), choice)
