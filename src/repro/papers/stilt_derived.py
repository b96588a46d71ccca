"""Runs of the STILT chapter that start from a trained network: the SVM of Table 5, attention maps, and probes.

Each is filed as a result of its own, because the network itself is not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.catalog import Clip
from repro.data.clips import TestViews
from repro.data.sampling import spaced_indices
from repro.evaluation import evaluate, protocol
from repro.experiments import Experiment, Lab
from repro.metrics import softmax
from repro.papers.stilt import STILT, Uniform
from repro.papers.stilt_fusion import late_average, svm_fusion
from repro.results import Result, compact

Parts = tuple[Clip, ...]
STIL = ("stil-snippets", "stil-regions")  # the networks that these runs start from
FEATURES = ("hidden", "attended", "fc")  # what the SVM may see; the first is the chapter's (ledger stilt-L22)
SVM_CANDIDATES = (0.001, 0.01, 0.1, 1.0)  # of C, chosen on group folds of the training clips
MAPS_KEPT = 32  # clips whose attention over regions is stored for the figures (a row stays below 100 kB)
SNIPPET_COUNTS = (1, 2, 4, 8, 16)  # at test (ledger stilt-L16)
SATURATED = 0.99  # training accuracy beyond which AWF is also fitted on held-out scores (ledger stilt-L10)


class Reader(nn.Module):
    """A trained STILT that gives something else than its logits; `read(model, rgb, flow)` says what."""

    def __init__(self, model: STILT, read: Callable[[STILT, Tensor, Tensor], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model, self.read = model, read

    def forward(self, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """Named tensors with one row per clip, for rgb (B, T, 3, H, W) and flow (B, T, 2L, H, W)."""
        return self.read(self.model, rgb, flow)


# ---------------------------------------------------------------- Table 5, "Early"


def _features(model: STILT, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    found = model.explain(rgb, flow).features
    return {name: torch.cat([found[f"spatial.{name}"], found[f"temporal.{name}"]], 1) for name in FEATURES}


def early_fusion(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """Table 5, "Early": both streams' features side by side into a linear SVM; decision values `svm` (clips, classes).

    `svm_attended` and `svm_fc` are the same with other features, which the paper does not exclude (ledger stilt-L22).
    """

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        assert isinstance(model, STILT)
        x_train, x_test = (lab.evaluate(Reader(model, _features), experiment, part) for part in (training, testing))
        labels, groups = np.array([c.label for c in training]), np.array([c.group for c in training])
        scores = {
            name: svm_fusion(
                x_train[name], labels, x_test[name], SVM_CANDIDATES, groups, seed, num_classes=len(lab.dataset.classes)
            )
            for name in FEATURES
        }
        outputs = ("svm", *(f"svm_{name}" for name in FEATURES[1:]))
        return {f"test_{out}": compact(scores[name]) for out, name in zip(outputs, FEATURES, strict=True)}

    settings = {"features": list(FEATURES), "candidates": list(SVM_CANDIDATES)}
    return lab.derived(experiment, seed, "svm", settings, ["svm", "svm_attended", "svm_fc"], compute)


# ---------------------------------------------------------------- Eq. 2: where the network looks


def _maps(model: STILT, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    maps = model.explain(rgb, flow).attention
    return {step: a if a.ndim == 2 else a.reshape(*rgb.shape[:2], *a.shape[1:]) for step, a in maps.items()}


def attention(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """The attention of a trained network on the test clips (claim stilt-10).

    Arrays: `attention_<step>` weights, (clips, T) or for regions (some clips, T, h, w). Where the data set knows what
    matters (motionshapes: when the event happens, where the actors are), also `share_attended_<step>` (clips,), the
    attention-weighted share of event or actor, and `share_uniform` (clips,), the same for a = 1/n.
    """

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        assert isinstance(model, STILT)
        views = protocol(experiment.protocol)
        if lab.dataset.name != "motionshapes":  # frames of unequal size would give maps of unequal size
            views = TestViews(f"{views.name}, centre", views.snippets, "centre")
        maps = evaluate(
            Reader(model, _maps), lab.store, testing, experiment.sampling, views, device=lab.device, workers=lab.workers
        )
        arrays: dict[str, np.ndarray] = {}
        regions = next(iter(maps.values())).ndim == 4
        if lab.dataset.name == "motionshapes":
            shape = next(iter(maps.values())).shape[1:]
            cover = np.stack([_cover(experiment, clip, shape) for clip in testing])  # (clips, T) or (clips, T, h, w)
            arrays["share_uniform"] = cover.reshape(len(cover), -1).mean(1).astype(np.float32)
            for step, a in maps.items():
                weighted = (a * cover).reshape(len(cover), -1).sum(1) / (a.shape[1] if regions else 1)
                arrays[f"share_attended_{step}"] = weighted.astype(np.float32)
        for step, a in maps.items():
            arrays[f"attention_{step}"] = (a[:MAPS_KEPT] if regions else a).astype(np.float16)
        return arrays

    return lab.derived(experiment, seed, "attention", {"maps_kept": MAPS_KEPT}, [], compute)


def _cover(experiment: Experiment, clip: Clip, shape: tuple[int, ...]) -> np.ndarray:
    """How much of each snippet (T,) lies in the event, or of each region (T, h, w) on an actor, in [0, 1]."""
    from repro.data.motionshapes import FRAMES, truth

    window = experiment.sampling.flow_frames + 1
    starts = spaced_indices(FRAMES, protocol(experiment.protocol).snippets, window)
    known = truth(clip.id)
    if len(shape) == 1:
        first, last = known.event
        inside = [max(0, min(last, s + window) - max(first, s)) for s in starts]
        return np.asarray(inside, float) / window
    middle = np.minimum(starts + experiment.sampling.flow_frames // 2, FRAMES - 1)
    masks = torch.from_numpy((known.masks[middle] > 0).astype(np.float32))[:, None]  # (T, 1, H, W)
    return np.asarray(F.adaptive_avg_pool2d(masks, (shape[1], shape[2]))[:, 0].numpy())


# ---------------------------------------------------------------- what changes when the test is changed


def _second_pass(model: STILT, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    return model.explain(rgb, flow, passes=2).logits


def _half_size(model: STILT, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """Every frame and field at half its resolution, brought back to size."""

    def blur(x: Tensor) -> Tensor:
        small = F.interpolate(x.flatten(0, 1), scale_factor=0.5, mode="bilinear", antialias=True)
        return F.interpolate(small, size=x.shape[-2:], mode="bilinear").reshape(x.shape)

    return model.explain(blur(rgb), blur(flow)).logits


def _uniform_start(model: STILT, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """Step 1 as Algorithm 1 prints it: uniform weights instead of Eq. 1-3 with g = 0 (ledger stilt-L3)."""
    summary, model.interaction.summary = model.interaction.summary, Uniform()
    try:
        return model.explain(rgb, flow).logits
    finally:
        model.interaction.summary = summary


PROBES = {"second-pass": _second_pass, "half-size": _half_size, "uniform-start": _uniform_start}


def probes(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """The trained network under other test conditions: late-average probabilities (clips, classes) of each.

    Arrays `fused_<probe>` for `PROBES`, and `fused_snippets_<n>` for `SNIPPET_COUNTS` snippets per clip.
    """

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        assert isinstance(model, STILT)
        arrays = {
            f"fused_{name}": lab.evaluate(Reader(model, read), experiment, testing) for name, read in PROBES.items()
        }
        views = protocol(experiment.protocol).views
        for n in SNIPPET_COUNTS:
            arrays[f"fused_snippets_{n}"] = evaluate(
                model, lab.store, testing, experiment.sampling, TestViews(f"{n} snippets", n, views),
                device=lab.device, workers=lab.workers,
            )  # fmt: skip
        fused = {k: late_average(softmax(x["spatial"]), softmax(x["temporal"])) for k, x in arrays.items()}
        return {k: compact(x) for k, x in fused.items()}

    return lab.derived(experiment, seed, "probes", {"counts": list(SNIPPET_COUNTS)}, [], compute)


# ---------------------------------------------------------------- all of them


def held_out(experiment: Experiment) -> list[Experiment]:
    """Two trainings on half of the training groups each: AWF can be fitted on the other half's scores (stilt-L10)."""
    return [replace(experiment, name=f"{experiment.name}/held-out-{k}", fold=(k, 2)) for k in (0, 1)]


def saturated(result: Result) -> bool:
    """Whether both outputs of a run are right on nearly all training clips, so that their scores say little."""
    labels = result.labels("train")
    return all((result.logits(out, "train").argmax(1) == labels).mean() > SATURATED for out in ("spatial", "temporal"))


def derive(lab: Lab, experiment: Experiment, seed: int) -> list[Result]:
    """The runs that start from a trained network, or follow from its scores, and belong to this chapter."""
    if experiment.name not in STIL:
        return []
    done = [early_fusion(lab, experiment, seed), attention(lab, experiment, seed), probes(lab, experiment, seed)]
    if experiment.name == STIL[0] and not experiment.per_class and saturated(lab.run(experiment, seed)):
        done += [lab.run(part, seed) for part in held_out(experiment)]
    return done
