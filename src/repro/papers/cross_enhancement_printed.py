"""Live values of the cross-enhancement chapter's ledger that need no run: from printed cells (L1, L10 to L12, parts of
L16 and L17), and counted on the networks (L3, L4, L6, L20, part of L13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from repro.models import i3d
from repro.models.count import kept_bytes, parameters
from repro.papers.cross_enhancement import CHANNELS, POSITIONS, Bridge, Config, Count, Stream, bridges, counts
from repro.papers.cross_enhancement_experiments import preset
from repro.papers.reported import number

PAPER = "cross_enhancement"
OURS, I3D = "Ours", "Two-Stream I3D [1]"  # rows of Table 3
PARTS = ("RGB", "Flow", "RGB+Flow")  # of Table 3
SETS = {"HMDB51": "HMDB-51", "UCF101": "UCF-101", "Kinetics": "Kinetics-400"}  # column of Table 3 -> row of Table 1
TEACHERS = {"HMDB51": "Flow", "UCF101": "Flow", "Kinetics": "RGB"}  # Sec. 3.1, 3.2
OFFICIAL = {"training": 51 * 70, "test": 51 * 30}  # clips of every official split of HMDB51; the paper prints none


# ---------------------------------------------------------------- printed cells


def from_cells() -> dict[str, str]:
    """What follows from the printed numbers alone."""
    return {
        "changed-column": _changed(),
        "fused-gain-in-clips": "; ".join(_gain(column) for column in SETS),
        "hmdb51-clips": _hmdb51(),
        "teacher-cells": _teachers(),
    }


def cell(part: str, row: str, column: str) -> float:
    """An accuracy of Table 3, in per cent."""
    return number(PAPER, f"3 {part}", row, column)


def _clips(column: str, what: str) -> int:
    return int(number(PAPER, "1", SETS[column], what))


def _changed() -> str:
    """Which single stream of ours is another than the baseline's (L1)."""
    found = []
    for column in SETS:
        gains = {part: round(cell(part, OURS, column) - cell(part, I3D, column), 1) for part in PARTS[:2]}
        found.append(f"{column} " + " and ".join(f"{part} {gain:+.1f}" for part, gain in gains.items() if gain))
    return f"single streams that differ from {I3D}: {', '.join(found)}"


def _gain(column: str) -> str:
    """The gain of the pair in clips, beside the standard error of its accuracy (L10)."""
    gain, clips = cell("RGB+Flow", OURS, column) - cell("RGB+Flow", I3D, column), _clips(column, "Test")
    p = cell("RGB+Flow", OURS, column) / 100
    error = 100 * np.sqrt(p * (1 - p) / clips)
    return f"{column}: {gain:+.1f} points are {gain / 100 * clips:.0f} of {clips} clips, one standard error {error:.2f}"


def _hmdb51() -> str:
    total, test, training = (_clips("HMDB51", what) for what in ("Total", "Test", "Train"))
    left = total - sum(OFFICIAL.values())
    return (
        f"{total} - {test} = {total - test}, printed as training clips: {training}; an official split has "
        f"{OFFICIAL['training']} and {OFFICIAL['test']}, and leaves {left}"
    )


def _teachers() -> str:
    """How many printed cells are those of another row, or of another paper's (L12)."""
    same = [cell(part, OURS, column) == cell(part, I3D, column) for column, part in TEACHERS.items()]
    others = [
        cell(part, I3D, column) == number("ccs", f"1 {part}", "I3D [2]", SETS[column])
        for column in ("HMDB51", "UCF101")
        for part in PARTS
    ]
    return (
        f"{sum(same)} of {len(same)} teachers have the accuracy of {I3D}; {sum(others)} of {len(others)} cells of that "
        "row on HMDB51 and UCF101 are those of I3D in ccs's Table 1"
    )


def printed_leads() -> str:
    """Which stream leads in other papers' tables (L16)."""
    kinetics = number("stilt", "4", "Temporal", "Kinetics") - number("stilt", "4", "Spatial", "Kinetics")
    ucf101 = (
        number("st_resnet", "3", "Appearance stream", "UCF101") - number("st_resnet", "3", "Motion stream", "UCF101")
    )  # fmt: skip
    own = cell("RGB", I3D, "Kinetics") - cell("Flow", I3D, "Kinetics")
    return (
        f"printed: RGB over flow {own:+.1f} on Kinetics here, flow over RGB {kinetics:+.1f} there in stilt, RGB over "
        f"flow {ucf101:+.1f} on UCF101 in st_resnet"
    )


def printed_clip() -> str:
    """How much time the printed clip covers (L17)."""
    frames, rate = (number(PAPER, "prose 4.3", row, "value") for row in ("frames of a clip", "frames in a second"))
    return f"printed: {frames:g} frames, {rate:g} a second = {frames / rate:.2f} s"


# ---------------------------------------------------------------- counts


@cache
def counted() -> Mapping[str, Count]:
    """Every count of `repro.papers.cross_enhancement.counts`, by network: 400 classes, clips of 64 frames of 224 px."""
    return {row.network: row for row in counts()}


@cache
def nine_bridges(scale: str = "paper") -> Sequence[Bridge]:
    """The nine bridges on the clips of a preset, at its width."""
    found = preset(scale, "")
    return bridges(found.sampling.snippets, found.sampling.crop, found.width)


def trunk_parameters() -> int:
    """Parameters of the RGB stream without its classifier."""
    with torch.device("meta"):
        network = Stream(Config("rgb"), 1).i3d
    return parameters(network) - parameters(network.logits)


def from_models() -> dict[str, str]:
    """What the networks show without any training."""
    rgb, flow = (counted()[f"{name} stream"] for name in ("rgb", "flow"))
    output = counted_output()
    unequal = [row for row in nine_bridges() if row.teacher != row.student]
    elements = {row.teacher: row.elements for row in nine_bridges()} | {"output": output}
    both, single = counted()["3D-Fused, rgb and flow"], counted()["3D-Fused, rgb"]
    return {
        "positions": f"{_places('paper')}; {_places('small')}",
        "adapters": "student to teacher: "
        + "; ".join(
            f"{row.letter} {row.student_shape} to {row.teacher_shape} {row.parameters:,} parameters" for row in unequal
        )
        + "; 0 once training is over",
        "elements": "a sum is so many times the mean: "
        + ", ".join(f"{place} {n:,}" for place, n in elements.items())
        + " elements",
        "counts": f"trunk {trunk_parameters():,} parameters; with 400 classes "
        + ", ".join(
            f"{row.network} {row.parameters:,} and {row.multiply_adds / 1e9:.1f} G multiply-adds" for row in (rgb, flow)
        ),
        "fused-3d": f"{both.parameters / 1e6:.1f} M parameters, {single.parameters / 1e6:.1f} M with one stream",
    }


class Memory(NamedTuple):
    """Bytes of one training step in bf16: kept for the backward pass; with checkpointing what is made again at most at
    a time; weights, gradients and momentum in float32."""

    kept: int
    again: int
    weights: int


@cache
def training_memory() -> Mapping[str, Memory]:
    """What a step of a stream keeps by the paper's recipe: its batch of clips of 64 frames of 224 px, 400 classes.

    Counted, not measured. "checkpointed": all between the outputs of I3D's endpoints is computed again (`I3D`).
    """
    scale, found = preset("paper", ""), {}
    for stream, channels in CHANNELS.items():
        with torch.device("meta"):
            sides = (scale.sampling.snippets, scale.sampling.crop, scale.sampling.crop)
            x = torch.zeros(scale.recipes[stream].batch, channels, *sides, dtype=torch.bfloat16)
            model = i3d.I3D(400, channels).bfloat16().train()
            weights = 3 * 4 * parameters(model)
            found[f"{stream} stream"] = Memory(kept_bytes(model, x), 0, weights)
            inputs = [x, *model.features(x).values()]
            again = max(
                kept_bytes(model.get_submodule(n), given) for n, given in zip(i3d.ENDPOINTS, inputs, strict=False)
            )
            model.checkpointing = True
            found[f"{stream} stream, checkpointed"] = Memory(kept_bytes(model, x), again, weights)
    return found


def counted_output() -> int:
    """Elements of the second bridge at full width."""
    with torch.device("meta"):
        return Stream(Config("rgb"), 1).i3d.endpoint_channels[POSITIONS["rear"]]


def _places(scale: str) -> str:
    sampling, shapes = preset(scale, "").sampling, {row.teacher: row.teacher_shape for row in nine_bridges(scale)}
    size = " x ".join(map(str, (sampling.snippets, sampling.crop, sampling.crop)))
    width = preset(scale, "").width
    found = ", ".join(f"{place} {POSITIONS[place]} {shape}" for place, shape in shapes.items())
    return f"at {size}{'' if width == 1 else f', width {width:g}'}: {found}"
