"""Runs of the heterogeneous network's chapter that follow from trained ones: its first filters, and held-out scores.

Each is filed as a result of its own, because the network itself is not kept.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from repro.experiments import Experiment, Lab
from repro.papers.heterogeneous import Stream, first_convolution
from repro.papers.heterogeneous_experiments import SPATIAL, STRATEGIES, TEMPORAL, dashed
from repro.results import Result

MAIN = (f"spatial-{dashed(SPATIAL)}", f"temporal-{dashed(TEMPORAL)}")  # the pair whose fusion weight is chosen
BEGINNINGS = {"scratch": "-scratch", "averaged": "", "transplanted": "-transplanted"}  # Table 3 -> end of the name
TEMPORAL_RUNS = tuple(f"temporal-{dashed(b)}{end}" for b in STRATEGIES for end in BEGINNINGS.values())
FILTERS_KEPT = 4  # those with the largest energy after training


# ---------------------------------------------------------------- Table 3: the first filters


def beginning(lab: Lab, experiment: Experiment, seed: int) -> nn.Module:
    """The network as its training began. What it started from is trained again where no checkpoint is at hand."""
    states = [lab.network(start, seed).state_dict() for start in experiment.starts()]
    torch.manual_seed(seed)
    model = experiment.build(len(lab.dataset.classes))
    if experiment.begin:
        experiment.begin(model, states)
    return model


def _filters(model: nn.Module) -> Tensor:
    assert isinstance(model, Stream)
    return first_convolution(model.trunk).weight.detach().float().cpu()


def equal_share(filters: Tensor) -> float:
    """How much of the energy of filters (maps, 2L, 7, 7) is the same in all channels, in [0, 1].

    1: every channel has the same filter, so the network adds up the fields and cannot tell u from v or first from
    last; an averaged conv1 begins there. Unrelated channels have 1 / 2L.
    """
    mean = filters.mean(dim=1, keepdim=True)
    return float(mean.square().sum() * filters.shape[1] / filters.square().sum())


def conv1(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """The first filters of a temporal network before and after its training (ledger heterogeneous-L4).

    Arrays, before and after side by side: `conv1` (2, maps, 2L, 7, 7), `FILTERS_KEPT` maps, the strongest first;
    `equal_share` (2,), see there. `change` (1,): the length of after - before as a share of before's. The last two are
    over all maps.
    """

    def compute(model: nn.Module, *_: object) -> dict[str, np.ndarray]:
        before, after = (_filters(m) for m in (beginning(lab, experiment, seed), model))
        strongest = after.square().sum((1, 2, 3)).argsort(descending=True)[:FILTERS_KEPT]
        return {
            "conv1": torch.stack([before, after])[:, strongest].numpy().astype(np.float16),
            "equal_share": np.array([equal_share(before), equal_share(after)], np.float32),
            "change": np.array([float((after - before).norm() / before.norm())], np.float32),
        }

    return lab.derived(experiment, seed, "conv1", {"kept": FILTERS_KEPT}, [], compute)


# ---------------------------------------------------------------- Sec. IV.B.2: scores to choose the weight on


def held_out(experiment: Experiment) -> list[Experiment]:
    """Two trainings on half of the training groups each: the fusion weight is chosen on the other halves' scores
    (ledger heterogeneous-L12)."""
    return [replace(experiment, name=f"{experiment.name}/held-out-{k}", fold=(k, 2)) for k in (0, 1)]


# ---------------------------------------------------------------- all of them


def derive(lab: Lab, experiment: Experiment, seed: int) -> list[Result]:
    """The runs that start from a trained network, or belong to it, and are this chapter's."""
    done = [conv1(lab, experiment, seed)] if experiment.name in TEMPORAL_RUNS else []
    if experiment.name in MAIN and not experiment.per_class:
        done += [lab.run(part, seed) for part in held_out(experiment)]
    return done
