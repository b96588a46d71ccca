"""The papers, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from repro.experiments import Experiment, Lab
from repro.papers import stilt_derived, stilt_experiments
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
    )
}
