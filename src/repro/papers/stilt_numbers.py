"""Numbers of the STILT chapter beyond accuracy: measurements for its claims and live values for its ledger.

Everything is computed from finished runs (`Scores`) or read off a live model; a value that nobody ran says "not run".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from repro.metrics import NOT_RUN, softmax
from repro.models import BACKBONES, backbone
from repro.models.count import parameters
from repro.papers.stilt import STILT, Config, build
from repro.papers.stilt_derived import PROBES, SNIPPET_COUNTS
from repro.papers.stilt_fusion import awf_coefficients, awf_weights, fuse, temperature
from repro.papers.stilt_scores import LAMBDAS
from repro.papers.stilt_scores import StiltScores as Scores
from repro.scores import clip_tags

Array = np.ndarray[Any, Any]
MAIN = "stil-snippets"  # the chapter's main reading (ledger stilt-L1)
# Classes that differ from another one in little, decided before any run: claims stilt-13, ccs-10.
TWINS = {
    "motionshapes": ("AmberShakeVioletNod", "AmberNodVioletShake", "ShakeThenNod", "NodThenShake"),
    "weizmann": ("run", "skip", "jump"),
}
# Two of the five kinds into which HMDB51's authors sort its classes (Kuehne et al., ICCV 2011, Sec. 3).
INTERACTIONS = ("fencing", "hug", "kick", "kiss", "punch", "shake_hands", "sword")
BODY_MOVEMENTS = (
    "cartwheel", "clap", "climb", "climb_stairs", "dive", "fall_floor", "flic_flac", "handstand", "jump", "pullup",
    "pushup", "run", "sit", "situp", "somersault", "stand", "turn", "walk", "wave",
)  # fmt: skip


# ---------------------------------------------------------------- measurements


def _attention(scores: Scores, base: str, step: str, subset: Mapping[str, str]) -> tuple[Array, Array, Array] | None:
    name = f"{base}+attention"
    seeds = scores.seeds_with(name)
    tags = clip_tags(scores.dataset)
    if not seeds or not tags:
        return None
    runs = [[scores.runs[name, split, seed] for split in scores.splits] for seed in seeds]
    ids = [i for r in runs[0] for i in r.ids()]
    keep = np.array([all(tags[i].get(k) == v for k, v in subset.items()) for i in ids])
    a, b = (
        np.stack([np.concatenate([r.arrays[array] for r in row]) for row in runs])[:, keep]
        for array in (f"share_attended_{step}", "share_uniform")
    )
    return a, b, np.concatenate([r.groups() for r in runs[0]])[keep]


def _on_event(scores: Scores) -> tuple[Array, Array, Array] | None:
    """Attention of the temporal stream on the snippets in which a short event happens, against 1/n."""
    return _attention(scores, MAIN, "T", {"factor": "motion", "event": "short"})


def _on_actor(scores: Scores) -> tuple[Array, Array, Array] | None:
    """Attention of the spatial stream on the regions that an actor covers, against 1/n."""
    return _attention(scores, "stil-regions", "S2", {})


def _weight_by_factor(scores: Scores) -> tuple[Array, Array, Array] | None:
    """AWF's weight of the appearance stream on classes told by their look, and on classes told by their motion."""
    method = f"{MAIN}+awf"
    seeds = scores.seeds_with(method)
    if scores.dataset != "motionshapes" or not seeds:
        return None
    from repro.data.motionshapes import SCRIPTS

    look, move = ([i for i, c in enumerate(scores.classes) if SCRIPTS[c][0] == f] for f in ("appearance", "motion"))
    weights = np.stack([scores.fitted(method, scores.splits[0], s).weights[:, 0] for s in seeds])  # (S, C)
    return weights[:, look], weights[:, move], np.arange(len(look))


def _split_by(scores: Scores, easy: Array, hard: Array) -> tuple[Array, Array, Array] | None:
    """Accuracy of the whole network on easy and on hard clips, (S, G) each, over the groups that have both kinds."""
    found = scores.correct(f"{MAIN}+awf")
    if found is None:
        return None
    correct, groups, _ = found
    both = [g for g in np.unique(groups) if easy[groups == g].any() and hard[groups == g].any()]
    if not both:
        return None
    a, b = (np.stack([correct[:, (groups == g) & kind].mean(1) for g in both], axis=1) for kind in (easy, hard))
    return a, b, np.array(both)


def _by_camera(scores: Scores) -> tuple[Array, Array, Array] | None:
    tags = clip_tags(scores.dataset)
    if not tags or not scores.seeds_with(f"{MAIN}+awf"):
        return None
    level = np.array([tags[i]["camera"] for i in scores.ids(MAIN)])
    return _split_by(scores, level == "0", level == "2")


def _by_likeness(scores: Scores) -> tuple[Array, Array, Array] | None:
    if scores.dataset not in TWINS or not scores.seeds_with(f"{MAIN}+awf"):
        return None
    twins = [scores.classes.index(name) for name in TWINS[scores.dataset]]
    alike = np.isin(scores.labels(MAIN), twins)
    return _split_by(scores, ~alike, alike)


def _by_resolution(scores: Scores) -> tuple[Array, Array, Array] | None:
    probed = probe(scores, "half-size")
    found = scores.correct(MAIN, seeds=scores.seeds_with(f"{MAIN}+probes"))
    if probed is None or found is None:
        return None
    return found[0].astype(float), probed.astype(float), found[1]


def _weight_by_class_name(scores: Scores) -> tuple[Array, Array, Array] | None:
    """AWF's weight of the appearance stream on the classes that Sec. 3.3 names: laugh, chew against walk, jump."""
    method = f"{MAIN}+awf"
    seeds = scores.seeds_with(method)
    still, moving = ("laugh", "chew"), ("walk", "jump")
    if not seeds or not {*still, *moving} <= set(scores.classes):
        return None
    fits = [[scores.fitted(method, split, s).weights[:, 0] for split in scores.splits] for s in seeds]
    weights = np.asarray(fits).mean(1)  # (S, C)
    a, b = (weights[:, [scores.classes.index(c) for c in names]] for names in (still, moving))
    return a, b, np.arange(len(still))


def _by_kind(scores: Scores) -> tuple[Array, Array, Array] | None:
    """Accuracy on HMDB51's interactions between people and body movements, and on its other classes."""
    found = scores.correct(f"{MAIN}+awf")
    if scores.dataset != "hmdb51" or found is None:
        return None
    kind = np.isin([scores.classes[i] for i in scores.labels(MAIN)], INTERACTIONS + BODY_MOVEMENTS)
    return found[0][:, kind].mean(1, keepdims=True), found[0][:, ~kind].mean(1, keepdims=True), np.arange(1)


MEASURES = {
    "attention-on-event": _on_event,
    "attention-on-actor": _on_actor,
    "awf-weight-by-factor": _weight_by_factor,
    "awf-weight-by-class-name": _weight_by_class_name,
    "accuracy-by-camera": _by_camera,
    "accuracy-by-resolution": _by_resolution,
    "accuracy-by-likeness": _by_likeness,
    "accuracy-by-kind": _by_kind,
}


def probe(scores: Scores, name: str) -> Array | None:
    """Correctness (S, N) of the main network under another test condition (`stilt_derived.probes`)."""
    run = f"{MAIN}+probes"
    seeds = scores.seeds_with(run)
    if not seeds:
        return None
    fused = [np.concatenate([scores.runs[run, x, s].arrays[f"fused_{name}"] for x in scores.splits]) for s in seeds]
    return np.stack([p.argmax(1) == scores.labels(run) for p in fused])


# ---------------------------------------------------------------- live values of the ledger


def ledger_values(scores: Mapping[str, Scores]) -> dict[str, str]:
    """Live values by name, for `repro.report.ledger`; those that follow from the printed cells are added there."""
    return {**from_models(), **from_runs(scores)}


def from_models() -> dict[str, str]:
    """What the paper's networks show without any training (101 classes, as UCF101 has)."""
    with torch.device("meta"):
        separate, shared = (parameters(build(Config(shared=s), 101)) for s in (False, True))
        head = build(Config(), 101)
        widths = {n: backbone(n).channels for n in ("resnet50", "resnet34", "vgg19") if n in BACKBONES}
        temporal = build(Config(streams="temporal"), 101).backbones["temporal"].state_dict()["conv1.weight"]
    assert isinstance(head, STILT)
    layers = head.heads["spatial"]
    matrices = [w for name, w in layers.state_dict().items() if name.endswith("weight")]
    sizes = [matrices[0].shape[1], *(w.shape[0] for w in matrices)]
    small = build(replace(Config(), width=0.25, backbone="resnet18"), 4).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        out = small.explain(torch.randn(1, 1, 3, 64, 64), torch.randn(1, 1, 20, 64, 64))
    largest = max(float((a - 1).abs().max()) for a in out.attention.values())
    return {
        "attention-at-one": f"with one snippet every weight is 1 (largest difference {largest:.0e}): the identity",
        "head-shapes": " -> ".join(map(str, sizes)) + f", {parameters(layers):,} parameters per stream",
        "step-parameters": f"{separate:,} with separate weights, {shared:,} shared",
        "backbone-widths": ", ".join(f"{n} {c}" for n, c in widths.items()),
        "flow-channels": f"the temporal conv1 has {temporal.shape[1]} input channels",
    }


def from_runs(scores: Mapping[str, Scores]) -> dict[str, str]:
    """What finished runs show, data set by data set."""
    values: dict[str, Callable[[Scores], str]] = {
        "uniform-start": lambda s: _changed(s, "uniform-start"),
        "second-pass": lambda s: _changed(s, "second-pass"),
        "awf-vertices": _vertices,
        "weights-against-lambda": _against_lambda,
        "coefficient-margin": _margin,
        "calibrated-awf": _calibrated,
        "accuracy-against-snippets": _against_snippets,
        "svm-features": _svm_features,
        "control-gain": lambda s: _accuracies(s, ("two-stream", "control-snippets", MAIN)),
        "order-of-steps": lambda s: _accuracies(s, (MAIN, "tst-snippets")),
        "attended-single-streams": lambda s: _accuracies(
            s, ("spatial", f"{MAIN}:spatial", "temporal", f"{MAIN}:temporal")
        ),
    }
    out = {"hmdb51-frequent-classes": NOT_RUN}
    for name, value in values.items():
        texts = [f"{dataset}: {text}" for dataset, s in scores.items() if (text := value(s))]
        out[name] = "; ".join(texts) or NOT_RUN
    return out


def _percent(correct: Array) -> str:
    return f"{100 * correct.mean():.1f} %"


def _accuracies(scores: Scores, methods: Sequence[str]) -> str:
    found = {m: scores.correct(m) for m in methods}
    return ", ".join(f"{m} {_percent(f[0])}" for m, f in found.items() if f)


def _changed(scores: Scores, name: str) -> str:
    assert name in PROBES
    changed, found = probe(scores, name), scores.correct(MAIN, seeds=scores.seeds_with(f"{MAIN}+probes"))
    if changed is None or found is None:
        return ""
    return (
        f"{_percent(found[0])} becomes {_percent(changed)}, {_percent(changed != found[0])} of the answers change side"
    )


def _vertices(scores: Scores) -> str:
    method = f"{MAIN}+awf"
    seeds = scores.seeds_with(method)
    if not seeds:
        return ""
    fits = [scores.fitted(method, split, s) for split in scores.splits for s in seeds]
    weights = np.concatenate([f.weights for f in fits])
    vertex, tie = (weights.max(1) > 0.999).mean(), (np.abs(weights - 0.5) < 1e-9).all(1).mean()
    empty = [
        (awf_weights(_coefficients(scores, split, s, f.choice.lambda_), "box").max(1) == 0).sum()
        for (split, s), f in zip([(x, s) for x in scores.splits for s in seeds], fits, strict=True)
    ]
    return (
        f"{100 * vertex:.0f} % of the weight pairs are vertices, {100 * tie:.0f} % ties; "
        f"with 0 <= w <= 1, {np.mean(empty):.1f} of {len(scores.classes)} classes can never be predicted"
    )


def _coefficients(scores: Scores, split: str, seed: int, lambda_: float) -> Array:
    labels = scores.runs[MAIN, split, seed].labels("train")
    return awf_coefficients(*scores.pair(MAIN, split, seed, "train"), labels, len(scores.classes), lambda_)


def weights_by_lambda(scores: Scores) -> tuple[list[float], Array]:
    """Candidates of lambda and the weights (len, C, 2) they lead to, first seed and split."""
    lambdas = sorted(LAMBDAS)
    seed, split = scores.seeds_with(MAIN)[0], scores.splits[0]
    return lambdas, np.stack([awf_weights(_coefficients(scores, split, seed, v)) for v in lambdas])


def _against_lambda(scores: Scores) -> str:
    if not scores.seeds_with(MAIN):
        return ""
    lambdas, weights = weights_by_lambda(scores)
    counts = ", ".join(f"{(w[:, 0] > 0.5).sum()} at {v:g}" for v, w in zip(lambdas, weights, strict=True))
    return f"classes that take the appearance stream, by lambda: {counts}"


def _margin(scores: Scores) -> str:
    """How far apart the two coefficients of a class are, in clips of that class."""
    if not scores.seeds_with(MAIN):
        return ""
    seed, split = scores.seeds_with(MAIN)[0], scores.splits[0]
    run = scores.runs[MAIN, split, seed]
    count = np.bincount(run.labels("train"), minlength=len(scores.classes))
    gap = np.abs(np.diff(_coefficients(scores, split, seed, 0.0), axis=1)[:, 0]) / count
    right = [(run.logits(m, "train").argmax(1) == run.labels("train")).mean() for m in ("spatial", "temporal")]
    return (
        f"median margin {np.median(gap):.3f} of a class's clips, on training clips of which "
        f"{100 * right[0]:.0f} and {100 * right[1]:.0f} % are right"
    )


def _calibrated(scores: Scores) -> str:
    """AWF as written, and with each stream's scores softened by a temperature fitted on the training clips."""
    found = scores.correct(f"{MAIN}+awf")
    if found is None:
        return ""
    correct = []
    for seed in scores.seeds_with(MAIN):
        fused = []
        for split in scores.splits:
            run = scores.runs[MAIN, split, seed]
            taus = [temperature(run.logits(m, "train"), run.labels("train")) for m in ("spatial", "temporal")]
            test = [softmax(run.logits(m) / t) for m, t in zip(("spatial", "temporal"), taus, strict=True)]
            fused.append(fuse(scores.fitted(f"{MAIN}+awf", split, seed).weights, test[0], test[1]))
        correct.append(np.concatenate(fused).argmax(1) == scores.labels(MAIN))
    return f"as written {_percent(found[0])}, calibrated {_percent(np.stack(correct))}"


def _against_snippets(scores: Scores) -> str:
    found = {n: probe(scores, f"snippets_{n}") for n in SNIPPET_COUNTS}
    return ", ".join(f"{_percent(c)} with {n}" for n, c in found.items() if c is not None)


def _svm_features(scores: Scores) -> str:
    run = f"{MAIN}+svm"
    seeds = scores.seeds_with(run)
    outputs = {"512 attended and projected": "svm", "2048 attended": "svm_attended", "1024": "svm_fc"} if seeds else {}
    texts = []
    for label, output in outputs.items():
        right = [
            np.concatenate([scores.runs[run, x, s].logits(output) for x in scores.splits]).argmax(1)
            == scores.labels(run)
            for s in seeds
        ]
        texts.append(f"{label} per stream (full width): {_percent(np.stack(right))}")
    return ", ".join(texts)
