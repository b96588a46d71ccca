"""The recipe of a paper beside that of its page, and what the paper's would cost on the big data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import torch

from repro.costs import RATES, duration, run_cost
from repro.data.catalog import OFFICIAL
from repro.evaluation import protocol
from repro.experiments import Experiment
from repro.papers import PAPERS
from repro.report.page import Chapter
from repro.report.tables import ABSENT, Table
from repro.training import Recipe

P = TypeVar("P", bound=Any)  # a paper's scale: a dataclass
CAPTION = "The recipe of the paper and the one of this page"
BIG = {"ucf101": "UCF101", "hmdb51": "HMDB51", "kinetics400": "Kinetics-400"}  # where most papers report


def recipe_table(
    chapter: Chapter,
    preset: Callable[[str, str], P],
    rows: Mapping[str, Callable[[P], str]],
    network: Sequence[str],
    note: str,
    caption: str = CAPTION,
) -> Table:
    """The paper's scale beside the one of a page, and the hours of the paper's.

    `preset(name, data set)`: a paper's scales, with at least `width`, `weights` and `protocol`. `rows`: what stands
    between the weights and the test, row name -> text of a scale; one named "starting weights" replaces the usual text.
    `network`: the experiments that make up the paper's network.
    """
    name = chapter.dataset.name
    here, weights = preset(chapter.preset, name), chapter.parameters.weights
    if weights != "auto":
        here = replace(here, weights=weights)
    columns = {"paper": preset("paper", name), f"here ({chapter.preset})": here}
    texts: dict[str, Callable[[P], str]] = {
        "width of the networks": lambda p: f"{p.width:g}",
        "starting weights": starting_weights,
        **rows,
        "test": lambda p: views_of(p.protocol),
    }
    body = [(label, *(text(p) for p in columns.values())) for label, text in texts.items()]
    hours = hours_on_big_sets(chapter.paper.name, tuple(network))
    body.append(("time of the whole network", "; ".join(f"{k} {v}" for k, v in hours.items()), ABSENT))
    about = (
        "Time: the network and what it starts from, trained and tested once (on the first split), by counted "
        f"multiply-adds at {RATES['cuda'] / 1e12:g} T a second on one GPU; frames and flow come on top."
    )
    return Table(("", *columns), tuple(body), caption, f"{note} {about}")


@cache
def hours_on_big_sets(paper: str, network: tuple[str, ...]) -> dict[str, str]:
    """Time by data set that a paper's network takes by its full recipe on one GPU, with all that it starts from."""
    out = {}
    for dataset, title in BIG.items():
        classes, splits = OFFICIAL[dataset]
        first = next(iter(splits.values()))
        known = PAPERS[paper].experiments("paper", dataset, "none")  # the weights decide nothing about the cost
        runs: dict[str, Experiment] = {}
        for name in network:
            runs |= {e.name: e for e in known[name].trainings()}
        out[title] = duration(sum(_seconds(e, classes, (first.train, first.test)) for e in runs.values()))
    return out


def _seconds(e: Experiment, classes: int, clips: tuple[int, int]) -> float:
    with torch.device("meta"):
        train, test, _ = run_cost(e.build(classes), e.recipe, e.sampling, e.protocol, e.scored(*clips), "cuda")
    return train + test


def starting_weights(preset: Any) -> str:
    """Where the weights of a scale come from, in words."""
    return str({"imagenet": "ImageNet", "none": "random"}.get(preset.weights, preset.weights))


def schedule(recipe: Recipe) -> str:
    """How the rate changes, in words."""
    if recipe.schedule == "cosine":
        return f"cosine to 0 after {recipe.warmup} steps of warm-up"
    return f"times {recipe.gamma:g} at {', '.join(f'{m:,}' for m in recipe.milestones)}"


def views_of(name: str) -> str:
    """A test protocol in words."""
    views = protocol(name)
    seen = {"centre": "centre crop", "ten": "ten crops", "full": "whole frame", "full+flip": "whole frame and mirror"}
    return f"{views.snippets} snippets, {seen[views.views]}"
