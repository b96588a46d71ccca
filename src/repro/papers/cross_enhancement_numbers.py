"""Numbers of the cross-enhancement chapter beyond accuracy: measurements for its claims, live values for its ledger.

Everything is computed from finished runs (`Scores`), printed cells or a live model; what nobody ran says "not run".
S seeds, N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from repro.metrics import NOT_RUN, Difference, chosen_elsewhere, paired_difference
from repro.papers.cross_enhancement import BRIDGES
from repro.papers.cross_enhancement_derived import COMPARED, TENTHS
from repro.papers.cross_enhancement_experiments import PROPOSED, VARIANTS
from repro.papers.cross_enhancement_printed import from_cells, from_models, printed_clip, printed_leads
from repro.papers.cross_enhancement_scores import LAYER, PAIRS, CrossEnhancementScores
from repro.scores import ClaimScores, clip_tags

Array = np.ndarray[Any, Any]
Measured = tuple[Array, Array, Array]  # A and B (S, N), groups (N,)
Tags = Mapping[str, str]
MAIN = "rgb-taught"
BY_FLOW, BY_RGB = "rgb-taught+flow", "rgb+flow-taught"  # the pairs, by the stream that teaches
BRIDGED = {x: MAIN if x == PROPOSED else f"{MAIN}@bridge-{x}" for x in BRIDGES}  # letter -> training
INNER, OUTPUT = BRIDGES[PROPOSED][0], "output"  # where the bridges of `MAIN` are, as `distance` names places
STRONG, WEAK = f"{MAIN}@weights-10", f"{MAIN}@weights-0.1"
WEIGHTS = ("rgb", WEAK, MAIN, STRONG, f"{MAIN}@inner-10", f"{MAIN}@output-10")
GRID = ("rgb", f"{MAIN}@inner-only", f"{MAIN}@output-only", MAIN)
CAMERA = {"0": "camera at rest", "1": "mild", "2": "shaken"}  # levels of motionshapes


# ---------------------------------------------------------------- what the measurements are made of


def right(scores: CrossEnhancementScores, method: str, seeds: Sequence[int], subset: Tags | None = None) -> Array:
    """Right or wrong (S, N), as numbers, of the test clips of a subset, of which there must be one."""
    found = scores.correct(method, subset, seeds)
    assert found is not None
    return found[0].astype(float)


def distances(scores: CrossEnhancementScores, name: str, place: str, seeds: Sequence[int]) -> Array:
    """Mean squared distance (S, N) of a training's features to its teacher's, per test clip (`distance`)."""
    return _derived(scores, f"{name}+distance", f"distance_{place}", seeds)


def distance_shares(scores: CrossEnhancementScores, name: str, place: str, seeds: Sequence[int]) -> Array:
    """Mean squared distances (S,) over the test clips, as shares of the teacher's mean square: 1 is as far as 0 is."""
    scale = _derived(scores, f"{name}+distance", f"teacher_{place}", seeds)
    return np.asarray(distances(scores, name, place, seeds).mean(1) / scale.mean(1))


def curves(scores: CrossEnhancementScores, name: str, seeds: Sequence[int]) -> Array:
    """Right or wrong (S, 10, N), as numbers, after each tenth of a training (`curve`)."""
    run = f"{name}+curve"
    taken_for = _derived(scores, run, f"curve_{VARIANTS[name].stream}", seeds, axis=1)  # (S, 10, N)
    return np.asarray(taken_for == scores.labels(run), float)


def _derived(scores: CrossEnhancementScores, run: str, array: str, seeds: Sequence[int], axis: int = 0) -> Array:
    """An array of a derived run, seeds stacked, splits joined along the axis of the clips."""
    found = [[scores.runs[run, split, seed].arrays[array] for split in scores.splits] for seed in seeds]
    return np.stack([np.concatenate(row, axis) for row in found]).astype(float)


def levels(scores: CrossEnhancementScores) -> dict[str, dict[str, str]]:
    """Where one plain stream may be stronger: each level of the camera's motion where clips have one, else all."""
    if not clip_tags(scores.dataset):
        return {"all clips": {}}
    return {name: {"camera": level} for level, name in CAMERA.items()}


def leads(scores: CrossEnhancementScores) -> dict[str, Difference]:
    """By how much the plain RGB stream is ahead of flow at each of `levels`, over the seeds that both pairs have."""
    seeds = scores.seeds_with(BY_FLOW, BY_RGB)
    if not seeds:
        return {}
    found = {
        name: [scores.correct(m, subset, seeds) for m in ("rgb", "flow")] for name, subset in levels(scores).items()
    }
    return {name: paired_difference(a[0], b[0], a[1]) for name, (a, b) in found.items() if a and b}


# ---------------------------------------------------------------- measurements


def stronger_teaches(scores: CrossEnhancementScores) -> Measured | None:
    """The pair in which the stronger stream teaches, and the other, where one stream is clearly stronger (claim 4)."""
    seeds, a, b, groups = scores.seeds_with(BY_FLOW, BY_RGB), [], [], []
    for level, lead in leads(scores).items():
        if lead.low <= 0 <= lead.high:
            continue
        subset = levels(scores)[level]
        found = scores.correct(BY_FLOW, subset, seeds)
        assert found is not None
        pairs = [found[0].astype(float), right(scores, BY_RGB, seeds, subset)]
        a.append(pairs[lead.mean > 0])
        b.append(pairs[lead.mean < 0])
        groups.append(found[1])
    return (np.concatenate(a, 1), np.concatenate(b, 1), np.concatenate(groups)) if a else None


def _by_camera(scores: CrossEnhancementScores, methods: Sequence[str]) -> tuple[list[Array], list[Array], Array] | None:
    """Right or wrong (S, units) of some methods with the camera shaken, and at rest; groups (units,).

    A unit is a class and a group: of its three clips, one for each level, these are two.
    """
    tags, seeds = clip_tags(scores.dataset), scores.seeds_with(*methods)
    if not (tags and seeds):
        return None
    of = zip(scores.labels(methods[0]), scores.groups(methods[0]), scores.ids(methods[0]), strict=True)
    places = {(label, group, tags[i]["camera"]): n for n, (label, group, i) in enumerate(of)}
    units = [(x, g) for x, g, level in places if level == "2" and (x, g, "0") in places]
    if not units:
        return None
    every = [right(scores, m, seeds) for m in methods]
    shaken, rest = ([x[:, [places[*unit, level] for unit in units]] for x in every] for level in ("2", "0"))
    return shaken, rest, np.array([group for _, group in units])


def lead_by_camera(scores: CrossEnhancementScores) -> Measured | None:
    """The lead of RGB over flow with a shaken camera and with one at rest, unit by unit (claim 5)."""
    found = _by_camera(scores, ("rgb", "flow"))
    return found and (found[0][0] - found[0][1], found[1][0] - found[1][1], found[2])


def camera_loss(scores: CrossEnhancementScores) -> Measured | None:
    """What a shaken camera costs the taught flow stream and the plain one, unit by unit (claim 6)."""
    found = _by_camera(scores, ("flow-taught", "flow"))
    return found and (found[1][0] - found[0][0], found[1][1] - found[0][1], found[2])


def training_errors(scores: CrossEnhancementScores, name: str, seeds: Sequence[int]) -> Array:
    """Which training clips come out wrong (S, N), as numbers, under the test protocol; splits one after the other."""

    def wrong(split: str, seed: int) -> Array:
        labels = scores.runs[name, split, seed].labels("train")
        return np.asarray(scores.scores(name, split, seed, "train").argmax(1) != labels)

    return np.stack([np.concatenate([wrong(split, s) for split in scores.splits]) for s in seeds]).astype(float)


def training_error(scores: CrossEnhancementScores) -> Measured | None:
    """Training clips that come out wrong with both bridges, and with the output's alone (claim 7)."""
    both, output = MAIN, f"{MAIN}@output-only"
    seeds = scores.seeds_with(both, output)
    if not seeds:
        return None
    groups = [scores.runs[both, split, seeds[0]].groups("train") for split in scores.splits]
    return training_errors(scores, both, seeds), training_errors(scores, output, seeds), np.concatenate(groups)


def place_of_bridge(scores: CrossEnhancementScores) -> Measured | None:
    """The best and the worst of the nine bridges, chosen on the other seeds and the other half of the clips (claim 8).

    Of equal bridges the first letter is taken.
    """
    seeds = scores.seeds_with(*BRIDGED.values())
    if not seeds:
        return None
    groups = scores.groups(MAIN)
    found = chosen_elsewhere([right(scores, name, seeds) for name in BRIDGED.values()], groups)
    return found and (*found, groups)


def distance_by_weight(scores: CrossEnhancementScores, place: str) -> Measured | None:
    """Distances to the teacher with weights of 10 and of 0.1, each as a share of both, clip by clip (claim 9)."""
    runs = f"{STRONG}+distance", f"{WEAK}+distance"
    seeds = scores.seeds_with(*runs)
    if not seeds:
        return None
    strong, weak = (distances(scores, name, place, seeds) for name in (STRONG, WEAK))
    total = strong + weak
    share = np.divide(strong, total, out=np.full_like(total, 0.5), where=total > 0)
    return share, 1 - share, scores.groups(runs[0])


def _followed(scores: CrossEnhancementScores) -> tuple[Array, Array] | None:
    """Right or wrong (S, 10, N) on the way through the training of the taught stream and of the plain one."""
    seeds = scores.seeds_with(f"{MAIN}+curve", "rgb+curve")
    return (curves(scores, MAIN, seeds), curves(scores, "rgb", seeds)) if seeds else None


def epochs_to_accuracy(scores: CrossEnhancementScores) -> Measured | None:
    """The part of the training after which each stream is half way from chance to the plain one's end (claim 10).

    A unit is a split: (S, splits). Who is never there has the value 1, as who is there at the end.
    """
    found = _followed(scores)
    if found is None:
        return None
    threshold = (1 / len(scores.classes) + found[1][:, -1].mean()) / 2
    sizes = [len(scores.run("rgb+curve", split).ids()) for split in scores.splits]
    a, b = (
        np.stack([_first(part.mean(2) >= threshold) for part in np.split(x, np.cumsum(sizes)[:-1], axis=2)], axis=1)
        for x in found
    )
    return a, b, np.arange(len(sizes))


def _first(there: Array) -> Array:
    """The first tenth (S,) at which (S, 10) holds, as a part of the training."""
    return np.where(there.any(1), (there.argmax(1) + 1) / TENTHS, 1.0)


def accuracy_on_the_way(scores: CrossEnhancementScores) -> Measured | None:
    """In how many of the ten tests on the way a clip comes out right (claim 10)."""
    found = _followed(scores)
    return found and (found[0].mean(1), found[1].mean(1), scores.groups("rgb+curve"))


MEASURES: dict[str, Callable[[CrossEnhancementScores], Measured | None]] = {
    "stronger-teaches": stronger_teaches,
    "lead-by-camera": lead_by_camera,
    "camera-loss": camera_loss,
    "training-error": training_error,
    "place-of-bridge": place_of_bridge,
    "inner-distance-by-weight": lambda s: distance_by_weight(s, INNER),
    "output-distance-by-weight": lambda s: distance_by_weight(s, OUTPUT),
    "epochs-to-accuracy": epochs_to_accuracy,
    "accuracy-on-the-way": accuracy_on_the_way,
}


class CrossEnhancementClaims(ClaimScores):
    """What the claims ask for."""

    def __init__(self, scores: Mapping[str, CrossEnhancementScores]) -> None:
        super().__init__(scores, MEASURES)


# ---------------------------------------------------------------- live values of the ledger


def ledger_values(scores: Mapping[str, CrossEnhancementScores]) -> dict[str, str]:
    """Live values by name, for `repro.report.ledger`."""
    models, runs = from_models(), from_runs(scores)
    return {**models, **from_cells(), **runs, "fused-3d": f"{models['fused-3d']}; {runs['fused-3d']}"}


def from_runs(scores: Mapping[str, CrossEnhancementScores]) -> dict[str, str]:
    """What finished runs show, data set by data set."""
    values: dict[str, Callable[[CrossEnhancementScores], str]] = {
        "nine-bridges": _nine,
        "weights-sweep": lambda s: _accuracies(s, WEIGHTS),
        "second-bridge": lambda s: _accuracies(s, (MAIN, f"{MAIN}@logits")),
        "last-stage": lambda s: _accuracies(s, (f"{BY_FLOW}{LAYER}", "together")),
        "fusion-control": lambda s: _accuracies(s, [f"{m}{x}" for m in ("two-stream", BY_FLOW) for x in ("", LAYER)]),
        "fused-3d": lambda s: _accuracies(s, ("fused-3d", "two-stream")),
        "two-by-two": lambda s: _accuracies(s, GRID),
        "camera-sweep": _camera_sweep,
        "clip-length": _clip_length,
        "stronger-stream": _stronger,
        "training-error": _training_errors,
        "complementarity": _complementarity,
    }
    out = {}
    for name, value in values.items():
        out[name] = "; ".join(f"{dataset}: {text}" for dataset, s in scores.items() if (text := value(s))) or NOT_RUN
    out["camera-sweep"] += f"; {printed_leads()}"
    out["clip-length"] = f"{printed_clip()}; here {out['clip-length']}"
    return out


def _percent(share: Array) -> str:
    return f"{100 * share.mean():.1f} %"


def _accuracies(scores: CrossEnhancementScores, methods: Sequence[str], subset: Tags | None = None) -> str:
    """Accuracies of those methods that were run, over the seeds that these share."""
    ran = [m for m in methods if scores.correct(m, subset)]
    seeds = scores.seeds_with(*ran)
    if not (ran and seeds):
        return ""
    text = ", ".join(f"{m} {_percent(right(scores, m, seeds, subset))}" for m in ran)
    return text + (f" ({len(seeds)} of {len(scores.seeds)} seeds)" if len(seeds) < len(scores.seeds) else "")


def _nine(scores: CrossEnhancementScores) -> str:
    seeds = scores.seeds_with(*BRIDGED.values())
    if not seeds:
        return ""
    mean = {letter: float(right(scores, name, seeds).mean()) for letter, name in BRIDGED.items()}
    best = max(mean, key=lambda letter: mean[letter])
    text = ", ".join(f"{letter} {100 * x:.1f} %" for letter, x in mean.items())
    text += f"; best {best} (teacher's {BRIDGES[best][0]}, student's {BRIDGES[best][1]})"
    chosen = place_of_bridge(scores)
    if chosen is None:
        return text
    gap = 100 * (mean[best] - chosen[0].mean())
    return f"{text}, {gap:+.1f} points from the {_percent(chosen[0])} of bridges chosen on other trainings and clips"


def _camera_sweep(scores: CrossEnhancementScores) -> str:
    seeds = scores.seeds_with("rgb", "flow")
    if not (seeds and clip_tags(scores.dataset)):
        return ""
    texts = []
    for what, tags in {"all factors": {}, "factor motion": {"factor": "motion"}}.items():
        found = []
        for level, name in CAMERA.items():
            both = [scores.correct(m, {**tags, "camera": level}, seeds) for m in ("rgb", "flow")]
            if both[0] and both[1]:
                found.append(f"{name} {100 * (both[0][0].mean() - both[1][0].mean()):+.1f}")
        texts.append(f"{what}: {', '.join(found)}")
    return f"RGB over flow in points, {'; '.join(texts)}"


def _clip_length(scores: CrossEnhancementScores) -> str:
    """Frames of an input clip, and how many test clips are too short for it."""
    sampling = next((r.row["identity"].get("sampling") for (name, *_), r in scores.runs.items() if name == "rgb"), None)
    measured = next((f"{name}+distance" for name in COMPARED if scores.seeds_with(f"{name}+distance")), None)
    if sampling is None or measured is None:
        return ""
    needed, stride = sampling["snippets"] + 1, sampling["stride"][1]
    short = _derived(scores, measured, "frames", scores.seeds_with(measured)[:1]) < needed
    return f"{needed - 1} frames, {stride} apart; {_percent(short)} of the test clips have fewer than {needed} frames"


def _stronger(scores: CrossEnhancementScores) -> str:
    methods = ("rgb", "flow", BY_FLOW, BY_RGB)
    texts = [_accuracies(scores, methods)]
    if clip_tags(scores.dataset):
        texts += [f"{x}: {text}" for x, tags in levels(scores).items() if (text := _accuracies(scores, methods, tags))]
    return "; ".join(filter(None, texts))


def _training_errors(scores: CrossEnhancementScores) -> str:
    ran = [m for m in ("rgb", f"{MAIN}@output-only", MAIN) if scores.seeds_with(m)]
    seeds = scores.seeds_with(*ran)
    found = [f"{m} {_percent(training_errors(scores, m, seeds))}" for m in ran if seeds]
    return f"wrong on training clips: {', '.join(found)}" if found else ""


def _complementarity(scores: CrossEnhancementScores) -> str:
    pairs = [pair for pair in ("two-stream", BY_FLOW) if scores.seeds_with(pair)]
    seeds, texts = scores.seeds_with(*pairs), []
    for pair in pairs if seeds else ():
        rgb, flow = (right(scores, name, seeds) for name in PAIRS[pair])
        either, averaged = np.maximum(rgb, flow), right(scores, pair, seeds)
        texts.append(f"{' or '.join(PAIRS[pair])} right {_percent(either)}, averaged {_percent(averaged)}")
    return "; ".join(texts)
