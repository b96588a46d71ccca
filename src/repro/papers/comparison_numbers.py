"""Numbers of the comparison beyond accuracy: gains, costs, what a network can tell by construction, measurements for
its claims, live values for its ledger.

Everything is computed from finished runs (`Scores`), printed cells or a live model; what nobody ran says "not run".
S seeds, N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from repro.data.clips import Store
from repro.evaluation import protocol
from repro.metrics import NOT_RUN, Difference, chosen_elsewhere, paired_difference
from repro.models.count import evaluating, multiply_adds, parameters
from repro.papers.comparison_experiments import JOINT, METHODS, OUTPUTS, Network, TaughtStream, networks, preset
from repro.papers.comparison_printed import best_printed, leading, quotations, vgg
from repro.papers.comparison_scores import SOFTMAX, VIEWS, ComparisonScores
from repro.scores import ClaimScores, Scores, clip_tags

Array = np.ndarray[Any, Any]
Measured = tuple[Array, Array, Array]  # A and B (S, N), groups (N,)
Tags = Mapping[str, str]
Chapters = Mapping[str, Mapping[str, Scores]]  # paper -> data set -> its own recorded runs

PLAIN = "two-stream"  # what every idea is compared with
# How two streams meet before their answers are averaged, in the order shown.
IDEAS = {
    PLAIN: "none",
    "heterogeneous": "none, unlike networks",
    "cross-enhancement": "distilled",
    "st-resnet": "residual",
    "ccs": "affinity",
    "stilt": "attention",
}
WAYS = tuple(method for method in IDEAS if method != "heterogeneous")  # the five of claim comparison-1
# The same comparison in each idea's own chapter: paper, the method there, plain streams there.
OWN = {
    "heterogeneous": ("heterogeneous", "proposed", "resnet50+resnet50"),
    "cross-enhancement": ("cross_enhancement", "rgb-taught+flow", "two-stream"),
    "st-resnet": ("st_resnet", "st-resnet", "two-stream"),
    "ccs": ("ccs", "all", "baseline"),
    "stilt": ("stilt", "stil-snippets", "two-stream"),
}
# Plain streams of several backbones (ledger comparison-L6): paper, RGB, flow.
STREAMS = {
    "ResNet-50 here": ("comparison", "frames", "flow"),
    "ResNet-50 (st_resnet)": ("st_resnet", "appearance", "motion"),
    "ResNet-50 (heterogeneous)": ("heterogeneous", "spatial-resnet50", "temporal-resnet50"),
    "BN-Inception (heterogeneous)": ("heterogeneous", "spatial-bn-inception", "temporal-bn-inception"),
    "BN-Inception (ccs)": ("ccs", "baseline:rgb", "baseline:flow"),
    "I3D (cross_enhancement)": ("cross_enhancement", "rgb", "flow"),
    "ResNet-50 (stilt)": ("stilt", "spatial", "temporal"),
}
CAMERA = {"0": "at rest", "1": "drifting", "2": "shaken"}


# ---------------------------------------------------------------- gains


def difference(scores: Scores, a: str, b: str, subset: Tags | None = None) -> Difference | None:
    """A - B in accuracy over the same seeds and clips, with its interval; None where no seed has both."""
    seeds = scores.seeds_with(a, b)
    left, right = (scores.correct(m, subset, seeds) for m in (a, b))
    return paired_difference(left[0], right[0], left[1]) if left and right else None


def gain(scores: ComparisonScores, method: str, subset: Tags | None = None) -> Difference | None:
    """What a method has over two plain streams whose logits are averaged, as fractions of one."""
    return difference(scores, method, PLAIN, subset)


def own_gain(chapters: Chapters, method: str, dataset: str, subset: Tags | None = None) -> Difference | None:
    """What an idea has over plain streams in its own chapter, by its own recipe and test; None where it was not run."""
    paper, a, b = OWN[method]
    scores = chapters.get(paper, {}).get(dataset)
    return difference(scores, a, b, subset) if scores else None


# ---------------------------------------------------------------- costs


class Cost(NamedTuple):
    """What a method costs: parameters and multiply-adds when a clip is tested, multiply-adds a clip of a batch costs in
    one step of all its trainings (backward counts twice; a frozen teacher reads the clip forward)."""

    parameters: int
    multiply_adds: int
    training: int


@cache
def _cost(preset_name: str, dataset: str, classes: int) -> Mapping[str, Cost]:
    scale = preset(preset_name, dataset)
    found = {}
    for name, network in networks(scale).items():
        with torch.device("meta"):
            model = network.build(classes)
        forward = _counter(model, network, scale.sampling.flow_frames, scale.sampling.crop)
        tested = model.student if isinstance(model, TaughtStream) else model
        own = scale.sampling.snippets
        seen = protocol(scale.protocol)
        views = len(seen.of(scale.sampling.crop, scale.sampling.crop, scale.sampling.crop))
        found[name] = Cost(
            parameters(tested), views * forward(seen.snippets), forward(own, training=True) + 2 * forward(own)
        )
    return found


def _counter(model: nn.Module, network: Network, flow_frames: int, crop: int) -> Callable[..., int]:
    def forward(snippets: int, training: bool = False) -> int:
        channels = {"rgb": 3, "flow": 2 * flow_frames}
        given = [
            torch.zeros(1, snippets, c, crop, crop, device="meta") if stream in network.streams else None
            for stream, c in channels.items()
        ]
        return multiply_adds(model, *given, training=training)

    return forward


def costs(preset_name: str, dataset: str = "ucf101", classes: int = 101) -> dict[str, Cost]:
    """What every method costs at one scale, all its networks together; counted without arithmetic."""
    parts = _cost(preset_name, dataset, classes)
    return {
        method: Cost(*(sum(numbers) for numbers in zip(*(parts[name] for name in names), strict=True)))
        for method, names in METHODS.items()
    }


def training_seconds(scores: ComparisonScores, method: str) -> Array | None:
    """Seconds (S,) that the trainings of a method took together, by seed; None when it was not run."""
    seeds = scores.seeds_with(method)
    if not seeds:
        return None
    runs = scores.runs
    return np.array(
        [
            sum(runs[name, x, s].row["provenance"]["seconds"] for name in scores.needs(method) for x in scores.splits)
            for s in seeds
        ]
    )


# ---------------------------------------------------------------- what a network can tell by construction


class Structure(NamedTuple):
    """What holds for any weights: whether a network's answer is a sum of one part for each stream, so that it cannot
    tell which look goes with which motion, and whether it is the same for every order of the snippets."""

    separate: bool
    orderless: bool


@cache
def structure() -> Mapping[str, Structure]:
    """`Structure` of every method, found on the live networks: random weights, random clips, the test's mode.

    With frames a, b and flow c, d, an answer f is separate if f(a, c) + f(b, d) = f(a, d) + f(b, c).
    """
    scale = preset("smoke", "motionshapes")
    generator = torch.Generator().manual_seed(0)
    clips = {
        "rgb": torch.randn(2, 4, 3, 32, 32, generator=generator),
        "flow": torch.randn(2, 4, 2 * scale.sampling.flow_frames, 32, 32, generator=generator),
    }
    found = {}
    for name, network in networks(scale).items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = network.build(5)
        lively(model)
        both = {**clips, "flow": clips["flow"].flip(0)}
        back = {stream: x.flip(1) for stream, x in clips.items()}
        straight, crossed, reverse = (answer(model, network, given) for given in (clips, both, back))
        found[name] = Structure(_same(straight.sum(0), crossed.sum(0)), _same(straight, reverse))
    return {
        m: Structure(*(all(x) for x in zip(*(found[n] for n in names), strict=True))) for m, names in METHODS.items()
    }


def lively(model: nn.Module) -> None:
    """Move all weights off where they begin: a block that starts as nothing, or as a plain mean over time, would pass
    for one that can do no more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            size = float(p.abs().mean()) or 1.0
            p.add_(0.2 * size * torch.randn(p.shape, generator=generator))


def answer(model: nn.Module, network: Network, clips: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean of a network's outputs (B, n), as it is tested, in double precision."""
    given = {stream: clips[stream].double() if stream in network.streams else None for stream in ("rgb", "flow")}
    with torch.no_grad(), evaluating(model.double()):
        return torch.stack(list(model(**given).values())).mean(0)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() < 1e-6 * a.abs().max())


# ---------------------------------------------------------------- measurements


def best_way(scores: ComparisonScores, factor: str = "") -> Measured | None:
    """The best and the worst of the five ways, each chosen on other trainings and clips (claim 1)."""
    subset = {"factor": factor} if factor else None
    seeds = scores.seeds_with(*WAYS)
    found = [scores.correct(m, subset, seeds) for m in WAYS]
    if not seeds or any(f is None for f in found):
        return None
    groups = found[0][1]  # type: ignore[index]
    chosen = chosen_elsewhere([f[0] for f in found if f], groups)
    return chosen and (*chosen, groups)


def reported_order(scores: ComparisonScores) -> Measured | None:
    """Right or wrong of those ideas that are printed higher and of those printed lower, averaged over all pairs of the
    five (claim 2): A - B is how far the printed order, UCF101's, shows here."""
    ranked = list(best_printed("UCF101"))
    seeds = scores.seeds_with(*ranked)
    if not seeds:
        return None
    right = [f[0].astype(float) for m in ranked if (f := scores.correct(m, None, seeds))]
    pairs = [(i, j) for i in range(len(ranked)) for j in range(i + 1, len(ranked))]
    higher, lower = (np.mean([right[pair[k]] for pair in pairs], axis=0) for k in (0, 1))
    return higher, lower, scores.groups(ranked[0])


def _probed(scores: ComparisonScores, network: str, arrays: Sequence[str], seeds: Sequence[int]) -> list[Array]:
    """Class scores (N, C) of each seed, from arrays of `probes`, averaged, splits one after the other."""
    return [
        np.concatenate([np.mean([scores.probed(network, a, x, s) for a in arrays], 0) for x in scores.splits])
        for s in seeds
    ]


def swapped(scores: ComparisonScores, network: str, stream: str) -> Measured | None:
    """Right or wrong of a joint network's output of one stream, with its own other input and with that of another
    clip; all classes compete (claim 3)."""
    seeds = scores.seeds_with(f"{network}+probes")
    if not seeds:
        return None
    labels = scores.labels(network)
    own = [scores.all_scores(f"{network}:{stream}", s) for s in seeds]
    other = _probed(scores, network, [f"swapped_{stream}"], seeds)
    a, b = (np.stack([x.argmax(1) == labels for x in found]) for found in (own, other))
    return a.astype(float), b.astype(float), scores.groups(network)


def reversed_order(scores: ComparisonScores, network: str) -> Measured | None:
    """Right or wrong of a joint network's answer on the clips of the factor order, as they are and with their snippets
    in reversed order; this factor's classes compete. None where a data set has no factors."""
    seeds, tags = scores.seeds_with(f"{network}+probes"), clip_tags(scores.dataset)
    if not (seeds and tags):
        return None
    labels = scores.labels(network)
    keep = np.array([tags[i]["factor"] == "order" for i in scores.ids(network)])
    if not keep.any():
        return None
    classes = np.unique(labels[keep])
    forward = [scores.all_scores(network, s) for s in seeds]
    backward = _probed(scores, network, [f"reversed_{m}" for m in OUTPUTS[network]], seeds)
    a, b = (
        np.stack([classes[x[keep][:, classes].argmax(1)] == labels[keep] for x in found])
        for found in (forward, backward)
    )
    return a.astype(float), b.astype(float), scores.groups(network)[keep]


MEASURES: dict[str, Callable[[ComparisonScores], Measured | None]] = {
    "best-way": best_way,
    **{f"best-way-{f}": lambda s, f=f: best_way(s, f) for f in ("binding", "order", "product")},  # type: ignore[misc]
    "reported-order": reported_order,
    **{
        f"{name}-{stream}-output": lambda s, n=name, m=stream: swapped(s, n, m)  # type: ignore[misc]
        for name in JOINT
        for stream in OUTPUTS[name]
    },
}


class ComparisonClaims(ClaimScores):
    """What the claims ask for."""

    def __init__(self, scores: Mapping[str, ComparisonScores]) -> None:
        super().__init__(scores, MEASURES)


# ---------------------------------------------------------------- live values of the ledger


def ledger_values(scores: Mapping[str, ComparisonScores], chapters: Chapters, clipped: str) -> dict[str, str]:
    """Live values by name, for `repro.report.ledger`; `clipped` says what the page found in its own flow."""
    runs = {
        "two-protocols": lambda s: ". ".join(filter(None, (_accuracies(s, VIEWS), _gains(s, VIEWS)))),
        "averaged": lambda s: _accuracies(s, SOFTMAX),
    }
    found = {name: _by_dataset(scores, value) for name, value in runs.items()}
    return {
        **{name: quotations(name) for name in ("tsn", "c3d", "fusion", "idt")},
        "vgg": vgg(),
        "leading-stream": f"{leads({**chapters, 'comparison': scores})}; {leading()}",
        "printed-order": " over ".join(f"{m} {v:.1f}" for m, v in best_printed("UCF101").items()) + " % (UCF101)",
        **found,
        "clipped": clipped,
    }


def _by_dataset(scores: Mapping[str, ComparisonScores], value: Callable[[ComparisonScores], str]) -> str:
    return "; ".join(f"{dataset}: {text}" for dataset, s in scores.items() if (text := value(s))) or NOT_RUN


def _accuracies(scores: ComparisonScores, end: str) -> str:
    """Accuracies of the ideas, plainly and with `end` behind their names, over the seeds that have both."""
    texts = []
    for method in IDEAS:
        seeds = scores.seeds_with(method, f"{method}{end}")
        found = [f for m in (method, f"{method}{end}") if seeds and (f := scores.correct(m, None, seeds))]
        if found:
            texts.append(f"{method} {' and '.join(f'{100 * f[0].mean():.1f}' for f in found)} %")
    return ", ".join(texts)


def _gains(scores: ComparisonScores, end: str) -> str:
    """Points of each idea over the plain pair, both with `end` behind their names, with intervals."""
    parts = {"": {}, " on order": {"factor": "order"}} if clip_tags(scores.dataset) else {"": {}}
    texts = []
    for method in IDEAS:
        for name, tags in parts.items():
            found = difference(scores, f"{method}{end}", f"{PLAIN}{end}", tags) if method != PLAIN else None
            if found:
                low, high = 100 * found.low, 100 * found.high
                texts.append(f"{method}{name} {100 * found.mean:+.1f} [{low:+.1f}, {high:+.1f}]")
    return f"Points over the plain pair in the second: {', '.join(texts)}" if texts else ""


def strayed(scores: ComparisonScores, method: str) -> tuple[Array, Array] | None:
    """Whether an answer names a class of another factor than its clip's, (S, N), and groups (N,); None when the method
    was not run or the data set has no factors."""
    tags, seeds = clip_tags(scores.dataset), scores.seeds_with(method)
    if not (tags and seeds):
        return None
    labels = scores.labels(method)
    factors = np.array([tags[i]["factor"] for i in scores.ids(method)])
    of_class = dict(zip(labels.tolist(), factors.tolist(), strict=True))
    answers = np.stack([scores.all_scores(method, seed).argmax(1) for seed in seeds])
    named = np.array([[of_class.get(answer, "") for answer in row] for row in answers.tolist()])
    return named != factors, scores.groups(method)


def leads(chapters: Chapters) -> str:
    """By how many points RGB is ahead of flow, backbone by backbone, on motionshapes at each camera level, on others
    over all clips (L6)."""
    texts = []
    for label, (paper, rgb, flow) in STREAMS.items():
        for dataset, scores in chapters.get(paper, {}).items():
            levels = {f", camera {n}": {"camera": k} for k, n in CAMERA.items()} if clip_tags(dataset) else {"": {}}
            found = {name: difference(scores, rgb, flow, tags) for name, tags in levels.items()}
            shown = [f"{100 * d.mean:+.1f}{name.removeprefix(', ').join((' (', ')')) if name else ''}"
                     for name, d in found.items() if d]  # fmt: skip
            if shown:
                texts.append(f"{label} on {dataset} {', '.join(shown)}")
    return f"RGB over flow in points: {'; '.join(texts)}" if texts else NOT_RUN


def clipped_share(store: Store, clips: Iterable[str]) -> float:
    """The share of stored flow vectors of these clips of which a component is at an end of its 8 bits (L10)."""
    ends = total = 0
    for clip in clips:
        stored = store.open(clip)
        try:
            codes = stored.flow(range(stored.n_flow))  # (n, 2, H, W)
        finally:
            stored.close()
        ends += int(((codes == 0) | (codes == 255)).any(1).sum())
        total += codes[:, 0].numel()
    return ends / total
