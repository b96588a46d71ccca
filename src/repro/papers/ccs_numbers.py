"""Numbers of the CCS chapter beyond accuracy: measurements for its claims, live values for its ledger.

Everything is computed from finished runs (`Scores`), printed cells or a live model; what nobody ran says "not run".
S seeds, N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from repro.metrics import NOT_RUN
from repro.papers.ccs_derived import LATE, MAIN, OTHER, PROBED
from repro.papers.ccs_experiments import MARGINS
from repro.papers.ccs_losses import STREAMS
from repro.papers.ccs_models import counted, from_models, gradient_across, scalar_reading, sizes
from repro.papers.ccs_printed import from_cells, printed_fusion, printed_margins
from repro.papers.ccs_scores import WEIGHT, CCSScores
from repro.scores import ClaimScores

Array = np.ndarray[Any, Any]
Measured = tuple[Array, Array, Array]  # A and B (S, N), groups (N,)
BINDING, ORDER = {"factor": "binding"}, {"factor": "order"}
# Classes that are alike (claim ccs-10): those of the binding factor; Figure 1's of HMDB-51; ways to cross the picture.
ALIKE = {
    "motionshapes": ("AmberShakeVioletNod", "AmberNodVioletShake"),
    "weizmann": ("run", "skip", "jump"),
    "hmdb51": ("drink", "eat", "smoke"),
}
# Larger and smaller margin of the same kind (claim ccs-9).
MARGIN_PAIRS = (("all@alpha1-0.5", "all@alpha1-0.2"), ("all@alpha3-1.2", "all@alpha3-0.4"))
WINDOW, FAR = 0.02, 0.9  # of the iterations, over which the loss is averaged; of the loss's way, that is to be gone


# ---------------------------------------------------------------- measurements


def _swapped(scores: CCSScores, shown: str) -> Measured | None:
    """An output with its clip's own other input, and with another clip's (claim ccs-4)."""
    run = f"{MAIN}+probes"
    own = scores.correct(f"{MAIN}:{shown}", seeds=scores.seeds_with(run))
    if own is None:
        return None
    return own[0].astype(float), right(scores, run, f"swapped-{OTHER[shown]}_{shown}"), own[1]


def right(scores: CCSScores, run: str, name: str, seeds: Sequence[int] | None = None) -> Array:
    """Right or wrong (S, N), as numbers, of scores that a derived run keeps under a name; all classes compete."""
    predicted = scores.kept(run, name, seeds).argmax(axis=2)  # (S, N)
    return np.asarray((predicted == scores.labels(run)).astype(float))


def convergence(losses: Array) -> float:
    """The share of the iterations after which the loss has first gone `FAR` of its way.

    The way of losses (n,) averaged over `WINDOW` of the iterations, from the first such mean to the last; a mean counts
    when the last of its iterations is over.
    """
    n = len(losses)
    window = max(1, round(WINDOW * n))
    means = np.convolve(losses.astype(np.float64), np.full(window, 1 / window), mode="valid")
    way = means[-1] - means[0]
    arrived = (means - means[0]) * np.sign(way) >= FAR * abs(way)
    return float((arrived.argmax() + window) / n)


def _steps_to_converge(scores: CCSScores) -> Measured | None:
    """Convergence of trainings with a larger and with a smaller margin (claim ccs-9); units: pairs and splits."""
    seeds = scores.seeds_with(*(name for pair in MARGIN_PAIRS for name in pair))
    if not seeds:
        return None

    def shares(side: int) -> Array:
        runs = [[(p[side], x, s) for p in MARGIN_PAIRS for x in scores.splits] for s in seeds]
        return np.array([[convergence(scores.runs[key].arrays["losses"]) for key in row] for row in runs])

    a = shares(0)
    return a, shares(1), np.arange(a.shape[1])


def confused(scores: CCSScores, method: str, seeds: Sequence[int]) -> Array:
    """Whether each clip of an alike class is taken for another one of them, (S, N) as numbers; all classes compete."""
    group = [scores.classes.index(name) for name in ALIKE[scores.dataset]]
    labels = scores.labels(method)
    found = []
    for seed in seeds:
        predicted = scores.all_scores(method, seed).argmax(axis=1)
        found.append((np.isin(predicted, group) & (predicted != labels))[np.isin(labels, group)])
    return np.array(found, float)


def _confused_alike(scores: CCSScores) -> Measured | None:
    """Confusions among alike classes of the better plain stream and of the whole network (claim ccs-10)."""
    known = set(ALIKE.get(scores.dataset, ())) & set(scores.classes)
    seeds = scores.seeds_with("best-single", MAIN)
    if not known or not seeds:
        return None
    alike = np.isin(scores.labels(MAIN), [scores.classes.index(name) for name in known])
    if not alike.any():
        return None
    return confused(scores, "best-single", seeds), confused(scores, MAIN, seeds), scores.groups(MAIN)[alike]


def _beside(scores: CCSScores, a: tuple[str, str], b: tuple[str, str]) -> Measured | None:
    """Arrays of clips, each (run, name), that are there for the same seeds. (2, N) of both modalities: their mean."""
    seeds = scores.seeds_with(a[0], b[0])
    if not seeds:
        return None
    found = []
    for run, name in (a, b):
        kept = scores.kept(run, name, seeds, axis=-1).astype(float)
        found.append(kept.mean(axis=1) if kept.ndim == 3 else kept)
    return found[0], found[1], scores.groups(a[0])


def _spread(scores: CCSScores, name: str, without: str) -> Measured | None:
    """A number of `ccs_derived.spread` without a loss, and with all of them."""
    return _beside(scores, (f"all@{without}+embedding", name), (f"{MAIN}+embedding", name))


def _distance_between(scores: CCSScores) -> Measured | None:
    """Distance from each class's mean to the nearest other, with the embedding loss and without (claim ccs-12)."""
    found = _beside(scores, (f"{MAIN}+embedding", "between"), ("all@no-embedding+embedding", "between"))
    return found and (found[0], found[1], np.arange(found[0].shape[1]))


def _cam(scores: CCSScores, other: tuple[str, str]) -> Measured | None:
    """Which share of the maps lies on the actor, beside something else, over clips whose actor is known (claim 17)."""
    runs = {f"{MAIN}+cam", other[0]}
    seeds = scores.seeds_with(*runs)
    if not all("share_map" in scores.runs[r, x, s].arrays for r in runs for x in scores.splits for s in seeds):
        return None
    found = _beside(scores, (f"{MAIN}+cam", "share_map"), other)
    if found is None:
        return None
    a, b, groups = found
    known = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    return a[:, known], b[:, known], groups[known]


def _added(field: str) -> Measured:
    """The whole network's parameters or multiply-adds in those of the plain streams, TSN and I3D (claim ccs-16)."""
    a = np.array([[getattr(counted(f"{b}, All"), field) / getattr(counted(f"{b}, baseline"), field)
                   for b in ("TSN", "I3D")]])  # fmt: skip
    return a, np.ones_like(a), np.arange(a.shape[1])


MEASURES: dict[str, Callable[[CCSScores], Measured | None]] = {
    "swapped-flow": lambda s: _swapped(s, "rgb"),
    "swapped-rgb": lambda s: _swapped(s, "flow"),
    "steps-to-converge": _steps_to_converge,
    "confused-alike": _confused_alike,
    "modality-gap": lambda s: _spread(s, "gap", "no-triplet"),
    "foreign-neighbours": lambda s: _spread(s, "foreign", "no-triplet"),
    "scatter-within": lambda s: _spread(s, "within", "no-embedding"),
    "distance-between": _distance_between,
    "cam-on-actor": lambda s: _cam(s, (f"{MAIN}+cam", "share_actor")),
    "cam-over-baseline": lambda s: _cam(s, ("baseline+cam", "share_map")),
}
COUNTS: dict[str, Callable[[], Measured]] = {  # measured on networks, not on clips
    "parameters": lambda: _added("parameters"),
    "multiply-adds": lambda: _added("multiply_adds"),
}


class CCSClaims(ClaimScores):
    """What the claims ask for; counts need no run."""

    def __init__(self, scores: Mapping[str, CCSScores]) -> None:
        super().__init__(scores, MEASURES)

    def measure(self, name: str, dataset: str) -> Measured | None:
        """A and B (S, N), matched unit by unit, and groups (N,); None when it was not measured."""
        return COUNTS[name]() if name in COUNTS else super().measure(name, dataset)


# ---------------------------------------------------------------- live values of the ledger


def ledger_values(scores: Mapping[str, CCSScores]) -> dict[str, str]:
    """Live values by name, for `repro.report.ledger`."""
    return {**from_models(), **from_cells(), **from_runs(scores)}


def from_runs(scores: Mapping[str, CCSScores]) -> dict[str, str]:
    """What finished runs show, data set by data set, behind what printed cells and live models say of the same."""
    margins = [f"{MAIN}@{name}" for name in MARGINS]
    backbones = [f"{MAIN}{end}" for end in ("", "@vgg16", "@resnet50")]
    values: dict[str, tuple[str, Callable[[CCSScores], str]]] = {
        "scalar-reading": (scalar_reading(), lambda s: _accuracies(s, ("cb", "cb@scalar"), BINDING)),
        "gradient-across": (gradient_across(), lambda s: _accuracies(s, ("cb", "cb@own"), BINDING)),
        "block-place": ("", lambda s: _accuracies(s, ("cb", "cb@pooled"), BINDING)),
        "choice-of-positive": ("", lambda s: _accuracies(s, (MAIN, f"{MAIN}@same-clip"))),
        "other-input": ("", _other_input),
        "margins": (printed_margins(), lambda s: _accuracies(s, (MAIN, *margins))),
        "margins-and-speed": ("", _margins_and_speed),
        "aggregations": ("", _aggregations),
        "fusion-weight": ("", lambda s: _accuracies(s, (MAIN, f"{MAIN}+weight-{WEIGHT:g}"))),
        "backbone-sizes": (
            sizes("TSN, All", "TSN, All, VGG-16", "TSN, All, ResNet-50"),
            lambda s: _accuracies(s, backbones),
        ),
        "relations": (
            sizes("TSN + TRN", "TSN + TRN, All"),
            lambda s: _accuracies(s, ("baseline", "trn-baseline", "trn-all"), ORDER),
        ),
        "joins": ("", lambda s: _accuracies(s, ("cb", "cb@concatenation", "cb@average"), BINDING)),
        "test-groups": ("", lambda s: _accuracies(s, (MAIN, f"{MAIN}+groups"))),
        "gain-by-fusing": (printed_fusion(), _gain_by_fusing),
    }
    out = {}
    for name, (known, value) in values.items():
        here = _by_dataset(scores, value) or NOT_RUN
        out[name] = f"{known}; here {here}" if known else here
    return out


def _by_dataset(scores: Mapping[str, CCSScores], value: Callable[[CCSScores], str]) -> str:
    return "; ".join(f"{dataset}: {text}" for dataset, s in scores.items() if (text := value(s)))


def _percent(correct: Array) -> str:
    return f"{100 * correct.mean():.1f} %"


def _accuracies(scores: CCSScores, methods: Sequence[str], subset: Mapping[str, str] | None = None) -> str:
    """Accuracies of the methods that were run; those on a factor's clips behind them, where the data set has it."""
    texts = []
    for method in methods:
        if found := scores.correct(method):
            part = scores.correct(method, subset) if subset else None
            behind = f" ({(subset or {})['factor']} {_percent(part[0])})" if part else ""
            texts.append(f"{method} {_percent(found[0])}{behind}")
    return ", ".join(texts)


def _other_input(scores: CCSScores) -> str:
    """Both outputs with their clip's own inputs, with another clip's other input and with none."""
    texts = []
    for name in PROBED:
        run = f"{name}+probes"
        for changed, shown in OTHER.items():
            if own := scores.correct(f"{name}:{shown}", seeds=scores.seeds_with(run)):
                swapped, silent = (
                    _percent(right(scores, run, f"{way}-{changed}_{shown}")) for way in ("swapped", "no")
                )
                texts.append(
                    f"{name}:{shown} {_percent(own[0])}, with another clip's {changed} {swapped}, with none {silent}"
                )
    return ", ".join(texts)


def _margins_and_speed(scores: CCSScores) -> str:
    """Accuracy and speed of the trainings with a smaller and with a larger margin."""
    texts = []
    for name in (name for pair in MARGIN_PAIRS for name in reversed(pair)):
        if found := scores.correct(name):
            runs = [scores.runs[name, x, s] for s in scores.seeds_with(name) for x in scores.splits]
            share = np.mean([convergence(run.arrays["losses"]) for run in runs])
            texts.append(
                f"{name} {_percent(found[0])}, {FAR:g} of the loss's way after {100 * share:.0f} % of the steps"
            )
    return "; ".join(texts)


def _aggregations(scores: CCSScores) -> str:
    """Figure 5a on features, each trained so, and on the snippets' scores of the network that averages features."""
    trained = _accuracies(scores, [f"{MAIN}{end}" for end in ("", "@maximum", "@product", "@concatenation")])
    run = f"{MAIN}+probes"
    if not scores.seeds_with(run):
        return trained
    late = ", ".join(f"{how} {_percent(right(scores, run, f'late-{how}'))}" for how in LATE)
    return f"{trained}; scores of {MAIN}'s snippets: {late}"


def _gain_by_fusing(scores: CCSScores) -> str:
    """What fusing adds to the output that is better on the test clips, plain and joint."""
    texts = []
    for name in ("baseline", MAIN):
        outputs = [scores.correct(f"{name}:{m}") for m in STREAMS]
        fused = scores.correct(name)
        if fused and all(outputs):
            better = max(found[0].mean() for found in outputs if found)
            texts.append(f"{name} {100 * (fused[0].mean() - better):+.1f}")
    return ", ".join(texts)
