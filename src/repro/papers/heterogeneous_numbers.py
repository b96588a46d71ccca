"""Numbers of the heterogeneous network's chapter beyond accuracy: measurements for its claims, live values for its
ledger.

Everything is computed from finished runs (`Scores`), printed cells or a live model; what nobody ran says "not run".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from repro.metrics import NOT_RUN, mean_class_accuracy
from repro.papers.heterogeneous import SPATIAL, TEMPORAL, Config, Count, conv1_table, counts
from repro.papers.heterogeneous_derived import BEGINNINGS, MAIN
from repro.papers.heterogeneous_experiments import STRATEGIES, dashed, preset
from repro.papers.heterogeneous_fusion import WEIGHT, WEIGHTS, Agreement, agreement
from repro.papers.heterogeneous_scores import BASES, GRID, LIKE, PAIR, UNLIKE, HeterogeneousScores
from repro.papers.reported import number, reported
from repro.scores import ClaimScores

Array = np.ndarray[Any, Any]
Measured = tuple[Array, Array, Array]  # A and B (S, N), groups (N,)
PAPER = "heterogeneous"
# The official lists; the paper prints none of them.
UCF101_TEST, UCF101_TRAINING, HMDB51_TRAINING = 3783, 9537, 3570  # clips of split 1
CLASSES = {"UCF101": 101, "HMDB51": 51}


# ---------------------------------------------------------------- counts


@cache
def counted(num_classes: int = 101) -> Mapping[str, Count]:
    """Every count of `repro.papers.heterogeneous.counts`, by network."""
    return {row.network: row for row in counts(num_classes)}


def pair_count(num_classes: int = 101) -> Count:
    """What the paper's pair has."""
    return counted(num_classes)[f"{SPATIAL.backbone} + {TEMPORAL.backbone}"]


def st_resnet_star(num_classes: int = 101) -> int:
    """Parameters of ST-ResNet*, both streams: two ResNet-50s (3 and 20 channels) and its filters over time.

    A filter of width 3 in place of a 1 x 1 adds two taps: in the first and the last convolution of one unit of each of
    conv2_x to conv5_x, c and 4c maps wide, of both streams (Feichtenhofer et al., NIPS 2016, Sec. 3.3).
    """
    stems = Config("temporal", "resnet50").in_channels  # this paper's 10 channels; theirs has 20
    plain = counted(num_classes)["resnet50 + resnet50"].parameters + (20 - stems) * 64 * 7 * 7
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
    a = np.array([[pair_count(n).parameters / st_resnet_star(n) for n in CLASSES.values()]])
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
    spatial, temporal, pair = rows["spatial resnet101"], rows["temporal bn_inception"], pair_count()
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


def from_cells() -> dict[str, str]:
    """What follows from the printed numbers alone."""

    def cell(table: str, row: str, column: str) -> float:
        return number(PAPER, table, row, column)

    fused = {c.row: float(c.value or 0) for c in reported(PAPER) if (c.table, c.column) == ("2", "Two-Stream")}
    error = {row: 100 * np.sqrt(v / 100 * (1 - v / 100) / UCF101_TEST) for row, v in fused.items()}
    names = {row: row.replace("spatio_", "").replace("+temporal_", " + ") for row in fused}
    middle = "spatio_ResNet101+temporal_ResNet50"
    gaps = [(row, fused[middle] - fused[row]) for row in fused if row.endswith("temporal_ResNet50") and row != middle]
    ours, like = "Ours (spatiotemporal heterogeneity)", "Ours (spatiotemporal isomorphism)"
    sets = ("UCF101", "HMDB51")
    tsn = [(s, cell("4", ours, s) - cell("4", "TSN (2 modalities) [5]", s)) for s in sets]
    star = [number("st_resnet", "4 right", "ST-ResNet* + IDT", s) for s in sets]
    share = cell("prose IV.C chosen pair", "spatio_ResNet101+temporal_BN-Inception", "Two-Stream") / 100
    below = int(share * UCF101_TEST)
    near = " or ".join(f"{n} of {UCF101_TEST} = {100 * n / UCF101_TEST:.2f} %" for n in (below, below + 1))
    return {
        "spatial-depth-errors": "standard errors on split 1: "
        + ", ".join(f"{names[row]} {v:.1f} ± {error[row]:.1f}" for row, v in fused.items())
        + "; " + ", ".join(f"{names[middle]} is {gap:+.1f} against {names[row]}" for row, gap in gaps),
        "table-4-against-tsn": ", ".join(f"{s} {gap:+.1f}" for s, gap in tsn) + " against TSN",
        "epochs-and-rates": "; ".join(_schedule(role) for role in ("Spatial", "Temporal"))
        + f"; a sweep of the rate for training from scratch: {NOT_RUN}",
        "with-trajectories": f"with improved trajectories: P3D {cell('4', 'P3D ResNet + IDT [7]', 'UCF101'):.1f}, "
        f"ST-ResNet* {star[0]:.1f} and {star[1]:.1f}; here, without them, {cell('4', ours, 'UCF101'):.1f} and "
        f"{cell('4', ours, 'HMDB51'):.1f}",
        "_printed-share": f"{100 * share:.2f} % of {UCF101_TEST} clips are {share * UCF101_TEST:.1f}; {near}",
        "_printed-gains": f"printed gain of unlike networks: {max(fused.values()) - min(fused.values()):+.1f} on split 1 "
        "(Table 2), " + ", ".join(f"{cell('4', ours, s) - cell('4', like, s):+.1f} {s}" for s in sets) + " (Table 4)",
    }  # fmt: skip


def _schedule(role: str) -> str:
    """Epochs and last rate of the printed schedule of a stream."""

    def at(row: str) -> float:
        return number(PAPER, "prose IV.B", row, role)

    steps = at("iterations")
    if role == "Spatial":
        drops = int((steps - 1) // at("iterations between drops"))
    else:
        drops = sum(at(f"{which} drop after") < steps for which in ("first", "second"))
    seen = steps * at("batch size")
    epochs = f"{seen / UCF101_TRAINING:,.0f} epochs of UCF101, {seen / HMDB51_TRAINING:,.0f} of HMDB51"
    return f"{role.lower()}: {epochs}, last rate {at('initial rate') / at('rate divided by') ** drops:.0e}"
