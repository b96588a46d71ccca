"""Runs of the comparison that start from a trained network: another test protocol, and what a joint network's output
takes from the other input and from the order of the snippets.

Each is filed as a result of its own, because the network itself is not kept. N test clips, C classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from repro.data.catalog import Clip
from repro.evaluation import protocol, score
from repro.experiments import Experiment, Lab
from repro.papers.ccs_derived import OTHER, SwappedInput, foreign_to, partners
from repro.papers.comparison_experiments import JOINT, OUTPUTS
from repro.results import Result, compact

Parts = tuple[Clip, ...]
OTHER_VIEWS = "25x1"  # 25 snippets through one crop, as two of the papers may have it


class Backwards(nn.Module):
    """A network that is given the last snippet first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """The outputs of the network for rgb (B, T, 3, H, W) and flow (B, T, 2L, H, W), both reversed along T.

        Within a snippet nothing changes: its fields of flow still follow each other as they did.
        """
        found: dict[str, Tensor] = self.model(rgb.flip(1), flow.flip(1))
        return found


def probes(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """The trained network under other test conditions: logits (N, C), float16, by stream ("rgb", "flow").

    `swapped_rgb` is the output of RGB with the flow of another clip, `swapped_flow` that of flow with the frames of
    another clip (`repro.papers.ccs_derived.foreign_to`; claim comparison-3). `reversed_rgb` and `reversed_flow` are
    both outputs with the snippets of both inputs in reversed order.
    """
    seen, outputs = protocol(experiment.protocol), OUTPUTS[experiment.name]

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        arrays = {}
        for stream, output in outputs.items():
            other = OTHER[stream]
            lent = partners(testing, foreign_to(lab.dataset, other))
            samples = SwappedInput(lab.store, testing, lent, experiment.sampling, seen, other)
            found = score(model, samples, experiment.sampling, device=str(lab.device), workers=lab.workers)
            arrays[f"swapped_{stream}"] = found[output]
        backwards = lab.evaluate(Backwards(model), experiment, testing)
        arrays |= {f"reversed_{stream}": backwards[output] for stream, output in outputs.items()}
        return {name: compact(x) for name, x in arrays.items()}

    return lab.derived(experiment, seed, "probes", {"probes": ["swapped", "reversed"]}, [], compute)


def views(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """Logits `test_<output>` (N, C), float16, under the other protocol, `OTHER_VIEWS` (ledger comparison-L8)."""

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        found = lab.evaluate(model, replace(experiment, protocol=OTHER_VIEWS), testing)
        return {f"test_{name}": compact(x) for name, x in found.items()}

    outputs = sorted(OUTPUTS[experiment.name].values())
    return lab.derived(experiment, seed, "views", {"protocol": OTHER_VIEWS}, outputs, compute)


def derive(lab: Lab, experiment: Experiment, seed: int) -> list[Result]:
    """The runs that start from a trained network and belong to this chapter."""
    makers = [views, probes] if experiment.name in JOINT else [views]
    return [make(lab, experiment, seed) for make in makers]
