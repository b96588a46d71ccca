"""Numbers of the heterogeneous network's chapter beyond accuracy: measurements for its claims, live values for its
ledger.

Everything is computed from finished runs (`Scores`), printed cells or a live model; what nobody ran says "not run".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from repro.metrics import NOT_RUN, mean_class_accuracy
from repro.models.count import parameters
from repro.papers.heterogeneous import SPATIAL, TEMPORAL, Config, Count, build, conv1_table, counts
from repro.papers.heterogeneous_derived import BEGINNINGS, MAIN
from repro.papers.heterogeneous_experiments import STRATEGIES, dashed, preset
from repro.papers.heterogeneous_fusion import WEIGHT, WEIGHTS, Agreement, agreement
from repro.papers.heterogeneous_printed import CLASSES, PAPER, from_cells, printed_gains, printed_share
from repro.papers.heterogeneous_scores import BASES, GRID, LIKE, PAIR, UNLIKE, HeterogeneousScores
from repro.papers.reported import number
from repro.scores import ClaimScores

Array = np.ndarray[Any, Any]
Measured = tuple[Array, Array, Array]  # A and B (S, N), groups (N,)
ROW = f"{SPATIAL.backbone} + {TEMPORAL.backbone}"  # the paper's pair among the counts


# ---------------------------------------------------------------- counts


@cache
def counted() -> Mapping[str, Count]:
    """Every count of `repro.papers.heterogeneous.counts` for UCF101's classes, by network."""
    return {row.network: row for row in counts(CLASSES["UCF101"])}


def pair_parameters(num_classes: int = 101) -> int:
    """Parameters of the paper's pair."""
    return _parameters(SPATIAL, num_classes) + _parameters(TEMPORAL, num_classes)


@cache
def _parameters(config: Config, num_classes: int) -> int:
    with torch.device("meta"):
        return parameters(build(replace(config, partial_bn=False), num_classes))  # frozen ones count


def st_resnet_star(num_classes: int = 101) -> int:
    """Parameters of ST-ResNet*, both streams: two ResNet-50s (3 and 20 channels) and its filters over time.

    A filter of width 3 in place of a 1 x 1 adds two taps: in the first and the last convolution of one unit of each of
    conv2_x to conv5_x, c and 4c maps wide, of both streams (Feichtenhofer et al., NIPS 2016, Sec. 3.3).
    """
    streams = (Config("spatial", "resnet50"), Config("temporal", "resnet50", flow_frames=10))
    plain = sum(_parameters(config, num_classes) for config in streams)
    taps = sum(2 * 2 * 2 * 4 * c * c for c in (64, 128, 256, 512))  # taps x convolutions x streams
    return plain + taps


# ---------------------------------------------------------------- measurements


@lru_cache(maxsize=16)
def agreements(scores: HeterogeneousScores) -> Mapping[str, Sequence[Agreement]]:
    """How the two streams of every pair of the grid agree on the test clips, one per seed that has all networks."""
    seeds = scores.seeds_with("best-isomorphic")
    if not seeds:
        return {}
    names = {name for pair in GRID.values() for name in pair}
    found = {(name, seed): scores.all_scores(name, seed).argmax(1) for name in names for seed in seeds}
    labels = scores.labels("best-isomorphic")
    return {
        pair: [agreement(found[s, seed], found[t, seed], labels) for seed in seeds] for pair, (s, t) in GRID.items()
    }


def _like_and_unlike(scores: HeterogeneousScores, field: str) -> Measured | None:
    """A measure of `Agreement` per seed and clip: mean over the four like pairs, mean over the twelve unlike ones.

    Every network stands equally often on both sides, so the accuracies of single networks are matched; a pair without
    a value (a network that is always right) would spoil that, hence None.
    """
    found = agreements(scores)
    if not found:
        return None
    a, b = (
        np.mean([[getattr(x, field).astype(float) for x in found[pair]] for pair in pairs], axis=0)
        for pairs in (LIKE, UNLIKE)
    )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    return a, b, scores.groups("best-isomorphic")


def _equal_weights(scores: HeterogeneousScores) -> Measured | None:
    """The paper's pair fused 1:1.5, and 1:1."""
    if not scores.seeds_with(PAIR):
        return None
    return right_at(scores, WEIGHT), right_at(scores, 1.0), scores.groups(PAIR)


def right_at(scores: HeterogeneousScores, weight: float, seeds: Sequence[int] | None = None) -> Array:
    """Right or wrong (S, N), as numbers, of the paper's pair with some fusion weight."""
    found = [
        np.concatenate([scores.fused(PAIR, split, seed, weight) for split in scores.splits]).argmax(1)
        for seed in seeds or scores.seeds_with(PAIR)
    ]
    return np.stack([predicted == scores.labels(PAIR) for predicted in found]).astype(float)


def parameter_shares() -> Measured:
    """Parameters of the paper's pair as a share of ST-ResNet*'s, for 101 and for 51 classes (claim 14)."""
    a = np.array([[pair_parameters(n) / st_resnet_star(n) for n in CLASSES.values()]])
    return a, np.ones_like(a), np.arange(a.shape[1])


def vgg_shares() -> Measured:
    """Multiply-adds of ResNet-152 as a share of VGG-16's and of VGG-19's, whole networks (claim 15)."""
    resnet = counted()["resnet152, stride in the first 1x1"].multiply_adds
    a = np.array([[resnet / counted()[name].multiply_adds for name in ("vgg16", "vgg19")]])
    return a, np.ones_like(a), np.arange(a.shape[1])


MEASURES: dict[str, Callable[[HeterogeneousScores], Measured | None]] = {
    "error-correlation": lambda s: _like_and_unlike(s, "error_product"),
    "disagreement": lambda s: _like_and_unlike(s, "disagree"),
    "oracle": lambda s: _like_and_unlike(s, "oracle"),
    "equal-weights": _equal_weights,
}
COUNTS = {"parameters": parameter_shares, "multiply-adds-vgg": vgg_shares}  # measured on networks, not on clips


class HeterogeneousClaims(ClaimScores):
    """What the claims ask for; counts need no run."""

    def __init__(self, scores: Mapping[str, HeterogeneousScores]) -> None:
        super().__init__(scores, MEASURES)

    def measure(self, name: str, dataset: str) -> Measured | None:
        """A and B (S, N), matched unit by unit, and groups (N,); None when it was not measured."""
        return COUNTS[name]() if name in COUNTS else super().measure(name, dataset)


# ---------------------------------------------------------------- live values of the ledger


def ledger_values(scores: Mapping[str, HeterogeneousScores]) -> dict[str, str]:
    """Live values by name, for `repro.report.ledger`."""
    return {**from_models(), **from_cells(), **from_runs(scores)}


def from_models() -> dict[str, str]:
    """What the paper's networks show without any training (101 classes, as UCF101 has)."""
    rows = counted()
    spatial, temporal, pair = rows["spatial resnet101"], rows["temporal bn_inception"], rows[ROW]
    kernel = conv1_table()[1].shape
    deeper = Config("temporal", TEMPORAL.backbone, flow_frames=10).in_channels
    twice, star = rows["resnet50 + resnet50"], st_resnet_star()
    printed = {who: number(PAPER, "prose III.B", who, "Parameters") for who in ("Ours", "ST-ResNet*")}
    nets = [("ResNet-50", "resnet50"), ("ResNet-101", "resnet101"), ("ResNet-152", "resnet152")]
    flops = [(label, [rows[f"{name}, stride in the first 1x1"]]) for label, name in nets]
    flops += [(f"VGG-{n}", [rows[f"vgg{n}"], rows[f"vgg{n}, convolutions only"]]) for n in (16, 19)]
    return {
        "flow-channels": f"conv1 of the temporal network is {kernel} at L = {TEMPORAL.flow_frames}; "
        f"at L = 10 it has {deeper} input channels",
        "pair-parameters": f"ResNet-101 {spatial.parameters:,} + BN-Inception {temporal.parameters:,} = "
        f"{pair.parameters:,} = {pair.parameters / 1e6:.1f} M; printed {printed['Ours']:g} M",
        "parameters-in-bytes": f"in float32: ST-ResNet* {star:,} parameters = {4 * star / 1e6:.1f} MB (printed "
        f"{printed['ST-ResNet*']:g} M), this pair {pair.megabytes:.1f} MB (printed {printed['Ours']:g} M), ResNet-50 "
        f"twice {twice.megabytes:.0f} MB = {4 * twice.parameters / 2**20:.0f} MiB",
        "multiply-adds-counted": "; ".join(
            f"{label} {' or, convolutions only, '.join(f'{r.multiply_adds / 1e9:.2f}' for r in found)} G (printed "
            f"{number(PAPER, 'prose III.B', label, 'FLOPs'):g})"
            for label, found in flops
        ),
    }


def from_runs(scores: Mapping[str, HeterogeneousScores]) -> dict[str, str]:
    """What finished runs show, data set by data set."""
    beginnings = {b: [f"temporal-{b}{end}" for end in BEGINNINGS.values()] for b in map(dashed, STRATEGIES)}
    budgets = {b: [f"temporal-{b}{end}" for end in ("", "-longer", "-transplanted")] for b in beginnings}
    variants = [f"{name}{change}" for name in MAIN for change in ("", "@one-segment", "@no-augmentation")]
    values: dict[str, Callable[[HeterogeneousScores], str]] = {
        "donor-accuracy": lambda s: _accuracies(s, [m for names in beginnings.values() for m in names]),
        "transplant-budget": lambda s: _accuracies(s, [m for names in budgets.values() for m in names]),
        "grid-of-pairs": _grid,
        "temporal-depth": lambda s: _accuracies(s, [f"temporal-{b}" for b in BASES if b.startswith("resnet")]),
        "fusion-scores": _fusion_scores,
        "fusion-weight": _fusion_weight,
        "frozen-bn": lambda s: _accuracies(s, (MAIN[1], f"{MAIN[1]}@moving-bn")),
        "segments-and-augmentation": lambda s: _accuracies(s, variants),
        "proposed-beside-grid": lambda s: _accuracies(s, (PAIR, "proposed")),
    }
    out = {}
    for name, value in values.items():
        out[name] = _by_dataset(scores, value) or NOT_RUN
    fine_tuned = f"a donor fine-tuned from an averaged conv1: {NOT_RUN}"
    out["donor-accuracy"] += f"; {fine_tuned}"
    out["texture-pretraining"] = f"{_textures(scores)}; {_by_dataset(scores, _texture_gain) or NOT_RUN}"
    out["printed-share"] = f"{printed_share()}; here {_by_dataset(scores, _mean_class) or NOT_RUN}"
    out["averaged-isomorphic"] = f"{printed_gains()}; here {_by_dataset(scores, _isomorphic) or NOT_RUN}"
    return out


def _by_dataset(scores: Mapping[str, HeterogeneousScores], value: Callable[[HeterogeneousScores], str]) -> str:
    return "; ".join(f"{dataset}: {text}" for dataset, s in scores.items() if (text := value(s)))


def _percent(correct: Array) -> str:
    return f"{100 * correct.mean():.1f} %"


def _accuracies(scores: HeterogeneousScores, methods: Sequence[str]) -> str:
    found = {m: scores.correct(m) for m in methods}
    return ", ".join(f"{m} {_percent(f[0])}" for m, f in found.items() if f)


def _grid(scores: HeterogeneousScores) -> str:
    seeds = scores.seeds_with("best-isomorphic")
    if not seeds:
        return ""
    mean = {pair: found[0].mean() for pair in GRID if (found := scores.correct(pair, seeds=seeds))}
    like, unlike = (np.mean([mean[pair] for pair in pairs]) for pairs in (LIKE, UNLIKE))
    best = scores.best(LIKE, "best-isomorphic")
    return (
        f"best like pair {best} {_percent(mean[best])}, {PAIR} {_percent(mean[PAIR])}; mean of the {len(LIKE)} like "
        f"pairs {_percent(like)}, of the {len(UNLIKE)} unlike ones {_percent(unlike)}"
    )


def _fusion_scores(scores: HeterogeneousScores) -> str:
    probabilities, logits = scores.correct(PAIR), scores.correct(f"{PAIR}+logits")
    if probabilities is None or logits is None:
        return ""
    return f"probabilities {_percent(probabilities[0])}, logits {_percent(logits[0])}"


def weight_name(weight: float) -> str:
    """A fusion weight in words."""
    return "temporal alone" if np.isinf(weight) else f"{weight:g}"


def _fusion_weight(scores: HeterogeneousScores) -> str:
    if not scores.seeds_with(PAIR):
        return ""
    chosen, texts = scores.correct(f"{PAIR}@chosen"), []
    if chosen is not None:
        weights = [scores.choice(x, s).weight for s in scores.seeds_with(f"{PAIR}@chosen") for x in scores.splits]
        named = ", ".join(dict.fromkeys(weight_name(w) for w in sorted(weights)))
        texts.append(f"chosen on held-out training clips ({named}) {_percent(chosen[0])}")
    curve = {w: right_at(scores, w) for w in WEIGHTS}
    best = max(WEIGHTS, key=lambda w: curve[w].mean())
    texts += [f"1:{w:g} {_percent(curve[w])}" for w in (WEIGHT, 1.0)]
    return ", ".join([*texts, f"best on the test clips ({weight_name(best)}) {_percent(curve[best])}"])


def _textures(scores: Mapping[str, HeterogeneousScores]) -> str:
    """The images of the pre-training, and how many of new ones the networks recognise."""
    images = preset("small", "").images
    what = f"{images['classes']} classes, {images['classes'] * images['per_class']:,} images"
    runs = next((s.images for s in scores.values() if s.images), {})
    right = {n: (r.logits(r.outputs[0]).argmax(1) == r.labels()).mean() for n, r in sorted(runs.items())}
    return f"{what}; on new images " + (", ".join(f"{n} {_percent(v)}" for n, v in right.items()) or NOT_RUN)


def _texture_gain(scores: HeterogeneousScores) -> str:
    texts = []
    for b in map(dashed, STRATEGIES):
        averaged, scratch = f"temporal-{b}", f"temporal-{b}-scratch"
        seeds = [s for s in scores.seeds_with(averaged) if s in scores.seeds_with(scratch)]
        found = [scores.correct(m, seeds=seeds) for m in (averaged, scratch)]
        if found[0] and found[1]:
            gain = 100 * (found[0][0].mean() - found[1][0].mean())
            texts.append(f"{averaged} {gain:+.1f} points over scratch")
    return ", ".join(texts)


def _mean_class(scores: HeterogeneousScores) -> str:
    found = scores.correct(PAIR)
    if found is None:
        return ""
    labels = scores.labels(PAIR)
    by_class = [mean_class_accuracy(scores.all_scores(PAIR, s), labels) for s in scores.seeds_with(PAIR)]
    return f"{PAIR} {_percent(found[0])} of the clips, {_percent(np.array(by_class))} as a mean over classes"


def _isomorphic(scores: HeterogeneousScores) -> str:
    if not scores.seeds_with("best-isomorphic"):
        return ""
    best = scores.best(LIKE, "best-isomorphic")
    return f"the best like pair is {_accuracies(scores, (best, PAIR))}"
