"""Scores of every method of the ST-ResNet chapter, computed from the logits of finished runs; nothing is trained here.

A method is written `base[:stream][+what]`: `st-resnet` averages the logits of that network's outputs (Sec. 4.1),
`st-resnet:appearance` is one output alone, `two-stream` averages the logits of the plain streams and
`two-stream+probabilities` their probabilities. `+crops` is the ten-crop test; `+swapped`, `+no-motion`,
`+no-appearance` and `+no-skips` are probes (`st_resnet_derived`). `best-single` is the plain stream that is better on
the test clips, which can only make "two beat one" harder to observe.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from repro.metrics import softmax
from repro.papers.st_resnet_derived import MAIN, PROBED, PROBES, SWAPPED
from repro.papers.st_resnet_experiments import STREAMS, VARIANTS
from repro.scores import Scores

Array = np.ndarray[Any, Any]
PROBABILITIES = "+probabilities"


def outputs_of(variant: str) -> tuple[str, ...]:
    """Names of the logits that a run of the variant stores."""
    config = VARIANTS[variant].config
    if config.get("head") == "joint":
        return ("joint",)
    stream = str(config.get("streams", "both"))
    return STREAMS if stream == "both" else (stream,)


def probes_of(variant: str) -> tuple[str, ...]:
    """Names of the probes that a run of the variant stores, if it is probed."""
    if variant not in PROBED:
        return ()
    connected = VARIANTS[variant].config.get("skip") != "none"
    return (SWAPPED, *(name for name in PROBES if connected or name != "no-skips"))


def _methods() -> dict[str, tuple[str, ...]]:
    """Every method, and every run that starts from a trained network, with the experiments that it needs."""
    out: dict[str, tuple[str, ...]] = {
        "best-single": STREAMS,
        "two-stream": STREAMS,
        f"two-stream{PROBABILITIES}": STREAMS,
    }
    for name in VARIANTS:
        bases = [name, *(f"{name}:{output}" for output in outputs_of(name) if len(outputs_of(name)) > 1)]
        out |= dict.fromkeys(bases, (name,))
        out |= {f"{base}+{probe}": (f"{name}+probes", name) for base in bases for probe in probes_of(name)}
        if name in PROBED:
            out[f"{name}+probes"] = (f"{name}+probes", name)
    out[f"{MAIN}+crops"] = (f"{MAIN}+crops", MAIN)
    # Trajectory features are not computed here: nothing files such a run, so the answer is "not run" (st_resnet-L31).
    return out | {"star+idt": ("star+idt", "star")}


class StResNetScores(Scores):
    """Scores on the test clips of one data set, all seeds and splits of one scale together."""

    methods = _methods()

    @lru_cache(maxsize=512)  # noqa: B019  (a Scores lives as long as the page that asks)
    def scores(self, method: str, split: str, seed: int, part: str = "test") -> Array:
        """Class probabilities (N, C) of a method; only their order counts where logits were averaged."""
        if method == "best-single":
            return self.scores(self.best(STREAMS, method), split, seed, part)
        if method == f"two-stream{PROBABILITIES}":
            both = [softmax(self.runs[name, split, seed].logits(name, part)) for name in STREAMS]
            return np.asarray((both[0] + both[1]) / 2)
        return softmax(self.logits(method, split, seed, part))

    def logits(self, method: str, split: str, seed: int, part: str = "test") -> Array:
        """Mean logits (N, C) of the outputs that a method averages."""
        if method == "two-stream":
            found = [self.runs[name, split, seed].logits(name, part) for name in STREAMS]
        else:
            base, _, what = method.partition("+")
            name, _, output = base.partition(":")
            outputs = (output,) if output else outputs_of(name)
            if what in ("", "crops"):
                run = self.runs[f"{name}+{what}" if what else name, split, seed]
                found = [run.logits(o, part) for o in outputs]
            else:
                arrays = self.runs[f"{name}+probes", split, seed].arrays
                found = [arrays[f"{what}_{o}"].astype(np.float32) for o in outputs]
        return np.asarray(np.mean(found, axis=0))
