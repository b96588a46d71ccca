"""Runs of the ST-ResNet chapter that start from a trained network: probes of what it relies on, and a ten-crop test.

Each is filed as a result of its own, because the network itself is not kept.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.catalog import Clip
from repro.data.clips import Sampling, Store, TestSamples, TestViews
from repro.errors import ReproError
from repro.evaluation import evaluate, protocol, score
from repro.experiments import Experiment, Lab
from repro.models.count import evaluating
from repro.papers.st_resnet import Maps, STResNet
from repro.papers.st_resnet_layers import moment_noise, printed_units
from repro.results import Result, compact
from repro.training import to_network

Parts = tuple[Clip, ...]
MAIN = "st-resnet"
PROBED = (MAIN, "both-ways", "joint", "plain", "skips")
FEW, CHUNKS = 16, 5  # test clips and chunks of each on which numbers of the trained network are taken
MOMENTS_OVER = 4  # clips that share their moments in the phase of ST-ResNet (Table 2)
WARM_UP = 8  # clips tested before the clock starts

# ---------------------------------------------------------------- the frames of another clip


def donors(clips: Sequence[Clip]) -> list[Clip]:
    """For every clip another one, of another class, whose frames it gets: a fixed permutation of the clips.

    Clips in the order of a hash of their ids give to the next in that order; wherever giver and taker are of one
    class, two takers exchange their givers. Where one class has more than half of the clips that cannot work out for
    all, and the rest take the first clip of another class. All of one class: ReproError.
    """
    if len({c.label for c in clips}) < 2:
        raise ReproError("all test clips are of one class, so none can lend its frames: test on two classes or more")
    order = sorted(clips, key=lambda c: hashlib.blake2b(c.id.encode()).digest())
    given = [*order[1:], order[0]]
    for i, clip in enumerate(order):
        if given[i].label != clip.label:
            continue
        fits = (j for j, c in enumerate(order) if given[j].label != clip.label and given[i].label != c.label)
        j = next(fits, None)
        if j is None:
            given[i] = next(c for c in order if c.label != clip.label)
        else:
            given[i], given[j] = given[j], given[i]
    found = dict(zip((c.id for c in order), given, strict=True))
    return [found[c.id] for c in clips]


class SwappedFrames:
    """Test samples whose `flow` is the clip's own and whose `rgb` comes from another clip (`donors`)."""

    def __init__(self, store: Store, clips: Sequence[Clip], sampling: Sampling, views: TestViews) -> None:
        self.flow = TestSamples(store, clips, replace(sampling, streams=("flow",)), views)
        self.rgb = TestSamples(store, donors(clips), replace(sampling, streams=("rgb",)), views)

    def __len__(self) -> int:
        return len(self.flow)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """`rgb` (V, T, 3, h, w) and `flow` (V, T, 2L, h, w), uint8; frames of another size are resized."""
        flow, rgb = self.flow[position]["flow"], self.rgb[position]["rgb"]
        return {"rgb": _resized(rgb, flow.shape[-2], flow.shape[-1]), "flow": flow}


def _resized(frames: Tensor, height: int, width: int) -> Tensor:
    """The largest centred part of frames (V, T, 3, h, w) that has the shape height x width, in that size."""
    h, w = frames.shape[-2:]
    if (h, w) == (height, width):
        return frames
    scale = min(h / height, w / width)
    high, wide = round(scale * height), round(scale * width)
    top, left = (h - high) // 2, (w - wide) // 2
    cut = frames[..., top : top + high, left : left + wide].flatten(0, 1).float()  # (V T, 3, high, wide)
    resized = F.interpolate(cut, (height, width), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte().reshape(*frames.shape[:3], height, width)


# ---------------------------------------------------------------- what a trained network relies on


class Altered(nn.Module):
    """A trained network under another condition; `read(model, rgb, flow)` says which."""

    def __init__(self, model: STResNet, read: Callable[[STResNet, Tensor, Tensor], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model, self.read = model, read

    def forward(self, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) by output for rgb (B, T, 3, H, W) and flow (B, T, 2L, H, W)."""
        return self.read(self.model, rgb, flow)


def _no_motion(model: STResNet, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """Nothing moves. The motion stream still answers to that, and the skips pass its answer on."""
    found: dict[str, Tensor] = model(rgb, torch.zeros_like(flow))
    return found


def _no_appearance(model: STResNet, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """Every pixel has ImageNet's mean colour, which is 0 once normalised."""
    found: dict[str, Tensor] = model(torch.zeros_like(rgb), flow)
    return found


def _no_skips(model: STResNet, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """What crosses between the streams is 0: f(m) = 0 in Eq. 2 (ledger st_resnet-L30)."""
    own = model.config
    model.config = replace(own, skip="none")
    try:
        found: dict[str, Tensor] = model(rgb, flow)
        return found
    finally:
        model.config = own


PROBES = {"no-motion": _no_motion, "no-appearance": _no_appearance, "no-skips": _no_skips}
SWAPPED = "swapped"


def probes(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """The trained network under other test conditions: logits `<probe>_<output>` (clips, classes), float16.

    Probes: `swapped` (the frames come from another clip, the flow stays: `donors`; claims 8 and 9) and `PROBES`, of
    which `no-skips` only where something crosses between the streams. For the ST-ResNet itself also
    `printed_units` (stages, 3) and `moment_noise` (stages, 2), see `numbers`.
    """
    views = protocol(experiment.protocol)

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        assert isinstance(model, STResNet)
        samples = SwappedFrames(lab.store, testing, experiment.sampling, views)
        found = {SWAPPED: score(model, samples, experiment.sampling, device=str(lab.device), workers=lab.workers)}
        for name, read in PROBES.items():
            if name != "no-skips" or model.config.skip != "none":
                found[name] = lab.evaluate(Altered(model, read), experiment, testing)
        arrays = {f"{name}_{out}": compact(x) for name, logits in found.items() for out, x in logits.items()}
        return arrays | (numbers(lab, experiment, model, testing) if experiment.name == MAIN else {})

    settings = {"probes": [SWAPPED, *PROBES], "few": [FEW, CHUNKS, MOMENTS_OVER]}
    return lab.derived(experiment, seed, "probes", settings, [], compute)


@torch.no_grad()
def numbers(lab: Lab, experiment: Experiment, model: STResNet, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    """Numbers of the trained network on a few test clips, float32, a row for each of conv2_x to conv5_x.

    `printed_units`: share of outputs below zero of Eq. 2 as printed, the same at m = 0, and there its difference from
    the pretrained unit (ledger st_resnet-L1). `moment_noise`: of the first appearance unit's outputs, how far batch
    means stray over 4 clips with all chunks and over 4 images of one chunk (st_resnet-L13), averaged over the channels
    that are not constant; left out below 8 clips.
    """
    few = sorted(clips, key=lambda c: hashlib.blake2b(c.id.encode()).digest())[:FEW]
    few = few[: max(len(few) // MOMENTS_OVER, 1) * MOMENTS_OVER]
    samples = TestSamples(lab.store, few, experiment.sampling, TestViews("numbers", CHUNKS, "centre"))
    batch = {k: torch.cat([sample[k] for sample in (samples[i] for i in range(len(few)))]) for k in ("rgb", "flow")}
    given = to_network(batch, lab.device, experiment.sampling)  # (B, T, C, h, w), B clips
    rgb, flow = given["rgb"], given["flow"]
    assert rgb is not None and flow is not None
    with evaluating(model.to(lab.device)):
        units = printed_units(model, rgb[:MOMENTS_OVER], flow[:MOMENTS_OVER])
        trace: Maps = {}
        model.maps(rgb, flow, trace)
    out = {"printed_units": np.array([u[1:] for u in units], np.float32)}
    if len(few) >= 2 * MOMENTS_OVER:
        first = [trace[f"appearance.conv{stage}_1"].float() for stage in range(2, 6)]  # (B*T, C, h, w)
        alive = [x[:, x.std(dim=(0, 2, 3)) > 0] for x in first]  # a channel that is always 0 has no noise to compare
        noise = [moment_noise(x.reshape(*rgb.shape[:2], *x.shape[1:]), MOMENTS_OVER) for x in alive]
        out["moment_noise"] = np.array(noise, np.float32)
    return out


# ---------------------------------------------------------------- Sec. 3.4: one pass instead of ten crops


def crops(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """The ten-crop test with as many chunks as the fully convolutional one (claim st_resnet-22).

    Logits `test_<output>` of the ten crops, and the seconds of either test, with reading, `seconds_crops` and
    `seconds_full` (1,). A clock decides nothing else.
    """
    full = protocol(experiment.protocol)
    ten = TestViews(f"{full.name}, ten crops", full.snippets, "ten")

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        def timed(views: TestViews, clips: Sequence[Clip]) -> tuple[dict[str, np.ndarray], float]:
            began = time.perf_counter()
            logits = evaluate(
                model, lab.store, clips, experiment.sampling, views, device=str(lab.device), workers=lab.workers
            )
            return logits, time.perf_counter() - began

        timed(full, testing[:WARM_UP])
        seconds = {"full": timed(full, testing)[1]}
        logits, seconds["crops"] = timed(ten, testing)
        arrays = {f"test_{name}": compact(x) for name, x in logits.items()}
        return arrays | {f"seconds_{name}": np.array([s], np.float32) for name, s in seconds.items()}

    settings = {"views": [full.views, ten.views], "chunks": ten.snippets}
    return lab.derived(experiment, seed, "crops", settings, ["appearance", "motion"], compute)


def derive(lab: Lab, experiment: Experiment, seed: int) -> list[Result]:
    """The runs that start from a trained network and belong to this chapter."""
    done = [probes(lab, experiment, seed)] if experiment.name in PROBED else []
    return [*done, crops(lab, experiment, seed)] if experiment.name == MAIN else done
