"""The papers, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from repro.experiments import Experiment, Lab
from repro.papers import (
    ccs_derived,
    ccs_experiments,
    comparison_derived,
    comparison_experiments,
    cross_enhancement_derived,
    cross_enhancement_experiments,
    heterogeneous_derived,
    heterogeneous_experiments,
    st_resnet_derived,
    st_resnet_experiments,
    stilt_derived,
    stilt_experiments,
)
from repro.results import Result


@dataclass(frozen=True)
class Paper:
    """What the command line and the pages need to know of a paper.

    `experiments(preset, data set)` gives its trainings by name; `derive(lab, experiment, seed)` makes the runs that
    start from a trained network; `short_side(preset, data set)` is the size of the frames they are stored at.
    """

    name: str
    title: str
    citation: str
    notebook: str
    experiments: Callable[..., dict[str, Experiment]]  # (preset, data set, weights="auto")
    derive: Callable[[Lab, Experiment, int], list[Result]]
    short_side: Callable[[str, str], int]


PAPERS = {
    "stilt": Paper(
        name="stilt",
        title="Spatial-Temporal Interaction Learning Two-stream network (STILT)",
        citation="Liu, Ma, Yang, Ji, Wang, Jiang: Spatial-temporal interaction learning based two-stream network for "
        "action recognition. Information Sciences 606 (2022), 864-876.",
        notebook="notebooks/stilt.ipynb",
        experiments=stilt_experiments.experiments,
        derive=stilt_derived.derive,
        short_side=lambda preset, dataset: stilt_experiments.preset(preset, dataset).short_side,
    ),
    "st_resnet": Paper(
        name="st_resnet",
        title="Spatiotemporal residual networks (ST-ResNet)",
        citation="Feichtenhofer, Pinz, Wildes: Spatiotemporal residual networks for video action recognition. NIPS "
        "(2016), 3468-3476.",
        notebook="notebooks/st_resnet.ipynb",
        experiments=st_resnet_experiments.experiments,
        derive=st_resnet_derived.derive,
        short_side=lambda preset, dataset: st_resnet_experiments.preset(preset, dataset).short_side,
    ),
    "heterogeneous": Paper(
        name="heterogeneous",
        title="Spatiotemporal heterogeneous two-stream network",
        citation="Chen, Bai, Gao, Tinega, Ding: Spatiotemporal heterogeneous two-stream network for action "
        "recognition. IEEE Access 7 (2019), doi 10.1109/ACCESS.2019.2910604.",
        notebook="notebooks/heterogeneous.ipynb",
        experiments=heterogeneous_experiments.experiments,
        derive=heterogeneous_derived.derive,
        short_side=lambda preset, dataset: heterogeneous_experiments.preset(preset, dataset).short_side,
    ),
    "cross_enhancement": Paper(
        name="cross_enhancement",
        title="Cross-enhancement transform two-stream 3D ConvNets",
        citation="Cao, Xu, Zhang: Cross-enhancement transform two-stream 3D ConvNets for action recognition. AIIPCC "
        "(2019).",
        notebook="notebooks/cross_enhancement.ipynb",
        experiments=cross_enhancement_experiments.experiments,
        derive=cross_enhancement_derived.derive,
        short_side=lambda preset, dataset: cross_enhancement_experiments.preset(preset, dataset).short_side,
    ),
    "ccs": Paper(
        name="ccs",
        title="Cooperative cross-stream network (CCS)",
        citation="Zhang, Xu, Shen, Shen: Cooperative cross-stream network for discriminative action representation "
        "(2019).",
        notebook="notebooks/ccs.ipynb",
        experiments=ccs_experiments.experiments,
        derive=ccs_derived.derive,
        short_side=lambda preset, dataset: ccs_experiments.preset(preset, dataset).short_side,
    ),
    "comparison": Paper(
        name="comparison",
        title="The five ideas side by side",
        citation="The five papers above, on one backbone with one recipe.",
        notebook="notebooks/comparison.ipynb",
        experiments=comparison_experiments.experiments,
        derive=comparison_derived.derive,
        short_side=lambda preset, dataset: comparison_experiments.preset(preset, dataset).short_side,
    ),
}
