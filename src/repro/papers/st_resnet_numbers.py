"""Measurements behind the claims of the ST-ResNet chapter, and the live values of its ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from repro.data.clips import Sampling
from repro.data.sampling import spaced_indices
from repro.errors import ReproError
from repro.evaluation import protocol
from repro.metrics import NOT_RUN
from repro.models.count import evaluating
from repro.papers.reported import number
from repro.papers.st_resnet import Config, build
from repro.papers.st_resnet_derived import MAIN
from repro.papers.st_resnet_experiments import preset
from repro.papers.st_resnet_layers import (
    frame_span,
    padded_share,
    pooling_difference,
    receptive_fields,
    sizes,
)
from repro.papers.st_resnet_scores import StResNetScores
from repro.scores import ClaimScores, clip_tags

Array = np.ndarray[Any, Any]
Measured = tuple[Array, Array, Array]  # A and B (S, N), groups (N,)
GRID = ("plain", "skips", "filters", MAIN)
STAR = Config(temporal_pool="max")  # ST-ResNet* at full size
ZEROED = {  # of the appearance output (ledger st_resnet-L30)
    "as trained": f"{MAIN}:appearance",
    "nothing crosses": f"{MAIN}:appearance+no-skips",
    "nothing moves": f"{MAIN}:appearance+no-motion",
    "the appearance stream alone": "appearance",
}
STAGES = ("conv2", "conv3", "conv4", "conv5")

# ---------------------------------------------------------------- measurements


def _lost_by_swap(scores: StResNetScores, name: str) -> Measured | None:
    """What each clip told by its motion loses when its frames come from another clip: the variant, and ST-ResNet.

    All classes are candidates: those told by their motion share one look, so that among them looks decide nothing.
    """
    methods = (name, f"{name}+swapped", MAIN, f"{MAIN}+swapped")
    seeds = scores.seeds_with(*methods)
    tags = clip_tags(scores.dataset)
    if not seeds or not tags:
        return None
    told = np.array([tags[i]["factor"] == "motion" for i in scores.ids(name)])
    found = [f for m in methods if (f := scores.correct(m, None, seeds))]
    correct = [f[0][:, told].astype(float) for f in found]
    return correct[0] - correct[1], correct[2] - correct[3], found[0][1][told]


def _time(scores: StResNetScores) -> Measured | None:
    """Seconds of the test, as shares of the ten-crop test's: 1, and those of the fully convolutional one, by split."""
    run = f"{MAIN}+crops"
    seeds = scores.seeds_with(run)
    if not seeds:
        return None
    runs = [[scores.runs[run, split, seed].arrays for split in scores.splits] for seed in seeds]
    share = np.array([[float(a["seconds_full"][0] / a["seconds_crops"][0]) for a in row] for row in runs])
    return np.ones_like(share), share, np.arange(share.shape[1])


MEASURES: dict[str, Callable[[StResNetScores], Measured | None]] = {
    "texture-swap-both-ways": lambda scores: _lost_by_swap(scores, "both-ways"),
    "texture-swap-joint": lambda scores: _lost_by_swap(scores, "joint"),
    "full-against-crops-time": _time,
}
# Networks printed with and without IDT: (table, row) with it -> (table, row) without, by column (claim st_resnet-20).
STAR_DROP = (("4 right", "ST-ResNet* + IDT"), ("4 left", "ST-ResNet*"))
OTHER_DROPS = {
    "Two-Stream Fusion": (("4 right", "Two-Stream Fusion [5]"), ("4 left", "Two-Stream Fusion [5]")),
    "C3D": (("4 right", "C3D + IDT [26]"), ("prose 4.2 without IDT", "C3D")),
    "Dynamic Image Networks": (
        ("4 right", "Dynamic Image Networks + IDT [2]"),
        ("prose 4.2 without IDT", "Dynamic Image Networks"),
    ),
}
IDT_COLUMNS = {
    "ucf101": ("UCF101", ("Two-Stream Fusion", "C3D", "Dynamic Image Networks")),
    "hmdb51": ("HMDB51", ("Two-Stream Fusion", "Dynamic Image Networks")),  # C3D has no number there
}


def idt_drops(dataset: str) -> tuple[float, dict[str, float]]:
    """Points that ST-ResNet*, and the other networks, lose without IDT, from the printed cells of a data set."""
    column, others = IDT_COLUMNS[dataset]

    def drop(place: tuple[tuple[str, str], tuple[str, str]]) -> float:
        given, without = (number("st_resnet", table, row, column) for table, row in place)
        return given - without

    return drop(STAR_DROP), {name: drop(OTHER_DROPS[name]) for name in others}


class StResNetClaims(ClaimScores):
    """What `repro.report.claims` asks for; the drops without IDT are printed and need no run."""

    def __init__(self, scores: Mapping[str, StResNetScores]) -> None:
        super().__init__(scores, MEASURES)

    def measure(self, name: str, dataset: str) -> Measured | None:
        """A and B (S, N), fractions, and groups (N,); None when it was not measured."""
        if name != "idt-drop":
            return super().measure(name, dataset)
        if dataset not in IDT_COLUMNS:
            return None
        own, others = idt_drops(dataset)
        theirs = np.array([list(others.values())]) / 100
        return theirs, np.full_like(theirs, own / 100), np.arange(theirs.shape[1])


# ---------------------------------------------------------------- live values of the ledger


def ledger_values(
    scores: Mapping[str, StResNetScores], lengths: Mapping[str, Sequence[int]] | None = None
) -> dict[str, str]:
    """Live values by name, for `repro.report.ledger`, but for `conv1-responses`, which needs a clip.

    `lengths`: frames of the training clips of a data set where they are known; motionshapes' always are.
    """
    return {**from_cells(), **from_models(), **from_runs(scores), **from_lengths(scores, lengths or {})}


def from_cells() -> dict[str, str]:
    """What follows from the printed numbers alone."""
    parts = []
    for dataset, (column, _) in IDT_COLUMNS.items():
        own, others = idt_drops(dataset)
        drops = ", ".join(f"{name} {drop:.1f}" for name, drop in others.items())
        parts.append(f"{column}: ST-ResNet* {own:.1f}, {drops}")
    jitter = number("st_resnet", "prose 3.4 data", "jitter of the appearance crop", "value") / 100
    side = number("st_resnet", "prose 3.4 data", "crop resized to", "value")
    frame = number("st_resnet", "prose 3.4 data", "shorter side", "value")
    low, high = (1 - jitter) * side, (1 + jitter) * side
    share = (high - frame) / (high - low)
    crops = (
        f"sides from {low:.0f} to {high:.0f} px: {100 * share:.0f} % of them exceed the shorter side of {frame:.0f} px"
    )
    return {"idt-drops": "points lost without IDT, " + "; ".join(parts), "crop-exceeds-frame": crops}


@cache
def from_models() -> dict[str, str]:
    """What the paper's networks show without any training (101 classes, as UCF101 has, unless said otherwise)."""
    conv5, pool = receptive_fields(STAR)["conv5_x"].time, receptive_fields(STAR)["pool5"].time
    tau = round(number("st_resnet", "prose 3.3", "stride tau", "value"))
    printed = [
        round(number("st_resnet", "prose 3.3", row, "value"))
        for row in ("chunks seen by conv5_3", "window of conv5_3", "window after pool5")
    ]
    length = STAR.flow_frames
    spans = ", ".join(
        f"{n} chunks {frame_span(n, tau)} RGB frames or {frame_span(n, tau, length)} with the flow"
        for n in (conv5, pool)
    )
    pads = [f"{n} chunks {100 * padded_share(n, conv5):.0f} %" for n in (5, 11, 25)]
    pads += [f"{n} with the pool {100 * padded_share(n, pool, window=5, stride=2):.0f} %" for n in (11, 25)]
    own, thousand = sizes(101), sizes(1000)
    counted = ("VGG-16", "ResNet-50, stride in the 3x3", "ST-ResNet, one stream")
    count = [f"{n} {own[n].parameters / 1e6:.1f} M ({thousand[n].parameters / 1e6:.1f} M with 1000)" for n in counted]
    adds = ("VGG-16", "VGG-19", "ResNet-50, stride in the 1x1", "ResNet-50, stride in the 3x3")
    size = {row: [number("st_resnet", "prose 4.1 size", row, c) for c in ("VGG-16", "ResNet-50")]
            for row in ("parameters", "multiply-adds")}  # fmt: skip
    fields = [
        f"{place}: " + ", ".join(str(f.space) for name, f in receptive_fields(replace(STAR, stride_in=place)).items()
                                 if name.startswith(("conv2", "conv3", "conv4", "conv5", "pool5"))) + " px"
        for place in ("1x1", "3x3")
    ]  # fmt: skip
    return {
        "receptive-field-time": f"measured: {conv5} chunks before the pool, {pool} after it, which at tau = {tau} is "
        f"{pool * tau} frames as the paper multiplies; printed: {printed[0]} and {round(printed[2] / tau)}, "
        f"{printed[2]} frames",
        "spans": f"{spans}; printed: {printed[1]} and {printed[2]}",
        "padding-share": f"of the field of a clip's outputs beyond its ends: {', '.join(pads)}; 11 chunks at tau = "
        f"{tau} cover {frame_span(11, tau)} RGB frames",
        "parameter-counts": f"{', '.join(count)}; printed: {size['parameters'][0]:g} M and {size['parameters'][1]:g} M",
        "multiply-add-counts": ", ".join(f"{n} {own[n].multiply_adds / 1e9:.1f} G" for n in adds)
        + f"; printed: {size['multiply-adds'][0]:g} G and {size['multiply-adds'][1]:g} G",
        "fields-by-stride": f"conv2_x to pool5 with the stride in the {'; in the '.join(fields)}",
        **_pools(),
    }


def _pools() -> dict[str, str]:
    """How far the places and kinds of pool are apart, on noise, in narrow untrained networks (L32, L33)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Config(width=0.25, sub_batch=None)
        model = build(config, 101)
        image = torch.randn(1, 1, 3, 256, 341), torch.randn(1, 1, 20, 256, 341)
        with evaluating(model), torch.no_grad():
            height, width = model.pooled(model.maps(*image)["appearance"]).shape[-2:]
        space = pooling_difference(model, *image)
        star = build(replace(config, width=0.125, temporal_pool="max"), 101).eval()
        clip = torch.randn(1, 11, 3, 64, 64), torch.randn(1, 11, 20, 64, 64)
        logits = {}
        for place in ("conv5", "pool5"):
            star.config = replace(star.config, temporal_pool_at=place)
            with torch.no_grad():
                logits[place] = star(*clip)["appearance"]
    apart = float((logits["conv5"] - logits["pool5"]).abs().mean() / logits["conv5"].abs().mean())
    parts = ", ".join(f"{name} {100 * d:.1f} %" for name, d in space.items())
    return {
        "pool-space": f"a frame of 256 x 341 px has {height} x {width} positions; an untrained network's logits "
        f"differ on average by {parts} of their size",
        "pool-place": f"after conv5_3 or after pool5, an untrained network's logits differ on average by "
        f"{100 * apart:.1f} % of their size",
    }


def from_runs(scores: Mapping[str, StResNetScores]) -> dict[str, str]:
    """What finished runs show, data set by data set."""
    both: tuple[Mapping[str, str], ...] = ({}, {"factor": "binding"})
    values: dict[str, Callable[[StResNetScores], str]] = {
        "printed-unit": _printed_units,
        "main-line": lambda s: accuracies(s, (MAIN, "direct"), both),
        "bn-batch": lambda s: accuracies(s, ("appearance-bn4", "appearance", "appearance-bn-batch")),
        "moments-noise": _moments,
        "rgb-frame": lambda s: accuracies(s, (MAIN, "first-frame"), both),
        "dropout-place": lambda s: accuracies(s, ("appearance", "appearance-dropout", "appearance-dropout-scores")),
        "grid": lambda s: accuracies(s, GRID, (*both, {"factor": "order"})),
        "pool-control": lambda s: accuracies(s, (MAIN, "star-control", "star")),
        "connections": lambda s: accuracies(s, (MAIN, "direct", "both-ways")),
        "joint-softmax": lambda s: accuracies(s, (MAIN, "joint")),
        "motion-zeroed": lambda s: accuracies(s, ZEROED),
    }
    out = {}
    for name, value in values.items():
        texts = [f"{dataset}: {text}" for dataset, s in scores.items() if (text := value(s))]
        out[name] = "; ".join(texts) or NOT_RUN
    return out


def accuracies(
    scores: StResNetScores,
    methods: Sequence[str] | Mapping[str, str],
    subsets: Sequence[Mapping[str, str]] = ({},),
) -> str:
    """ "st-resnet 61.2 %, direct 60.0 %; binding, st-resnet ...", or nothing where none of the methods was run.

    `methods`: by their names, or what the text calls them -> their names.
    """
    names = methods if isinstance(methods, Mapping) else {m: m for m in methods}
    parts = []
    for subset in subsets:
        found = {label: scores.correct(m, subset) for label, m in names.items()}
        text = ", ".join(f"{label} {100 * f[0].mean():.1f} %" for label, f in found.items() if f)
        if text:
            parts.append(", ".join([*subset.values(), text]))
    return "; ".join(parts)


def stored(scores: StResNetScores, name: str) -> Array | None:
    """An array of the trained ST-ResNet's probes, (runs, ...), of all seeds and splits; None where none has it."""
    run = f"{MAIN}+probes"
    arrays = [scores.runs[run, x, s].arrays for x in scores.splits for s in scores.seeds_with(run)]
    found = [a[name] for a in arrays if name in a]
    return np.stack(found).astype(float) if found else None


def _printed_units(scores: StResNetScores) -> str:
    found = stored(scores, "printed_units")
    if found is None:
        return ""
    rows = (
        f"{stage}_2 {100 * negative:.0f} % negative, at m = 0 {100 * difference:.0f} % away from the pretrained unit"
        for stage, (negative, _, difference) in zip(STAGES, found.mean(0), strict=True)
    )
    return ", ".join(rows)


def _moments(scores: StResNetScores) -> str:
    found = stored(scores, "moment_noise")
    if found is None or np.isnan(found).all():
        return ""
    clips, images = np.nanmean(found, axis=(0, 1))
    return (
        f"a mean over 4 clips with all chunks strays by {100 * clips:.0f} %, one over 4 images by {100 * images:.0f} % "
        "of the activations' standard deviation"
    )


# ---------------------------------------------------------------- strides on the data at hand (L6, L7)


def from_lengths(scores: Mapping[str, StResNetScores], lengths: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Which strides the lengths of the clips leave, in training and in the test."""
    used, tested = [], []
    for dataset, found in scores.items():
        frames = np.asarray(_lengths(dataset, lengths))
        if not (len(frames) and found.runs):
            continue
        row = next(iter(found.runs.values())).row
        scale = preset(row["preset"], dataset)
        texts = [f"{s.snippets} chunks {strides_used(frames, s)}" for n, s in scale.samplings.items()
                 if n in ("chunks", "pooled")]  # fmt: skip
        used.append(f"{dataset}: {'; '.join(texts)}")
        tested.append(f"{dataset}: {strides_tested(frames, scale.samplings['chunks'], row['identity']['protocol'])}")
    return {"tau-used": "; ".join(used) or NOT_RUN, "tau-at-test": "; ".join(tested) or NOT_RUN}


def _lengths(dataset: str, lengths: Mapping[str, Sequence[int]]) -> Sequence[int]:
    if dataset != "motionshapes":
        return lengths.get(dataset, ())
    from repro.data.motionshapes import FRAMES

    return [FRAMES]


def strides_used(frames: Array, sampling: Sampling) -> str:
    """The strides that training draws (`strided_indices`) for clips of these lengths, each drawn once."""
    if sampling.stride is None:
        raise ReproError("this sampling has no stride: give one of the later phases")
    low, high = sampling.stride
    last = np.maximum(frames - sampling.flow_frames - 1, 0)
    fits = last // (sampling.snippets - 1)
    most = np.minimum(high, np.maximum(fits, 1))
    least = np.minimum(low, most)
    at_one = np.where(least == 1, 1 / (most - least + 1), 0.0).mean()
    return (
        f"({low} to {high} allowed) draw {least.min()} to {most.max()}, {100 * at_one:.0f} % of them 1, "
        f"and {100 * (fits < 1).mean():.0f} % of the clips are padded"
    )


def strides_tested(frames: Array, sampling: Sampling, name: str) -> str:
    """The distance of equally spaced test chunks, averaged over each clip."""
    count = protocol(name).snippets
    taus = [float(np.diff(spaced_indices(int(n), count, sampling.flow_frames + 1)).mean()) for n in frames]
    low, high = min(taus), max(taus)
    span = f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"
    return f"{count} chunks are {span} frames apart, against 15 in the released code"
