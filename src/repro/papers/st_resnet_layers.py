"""Table 1 of ST-ResNet read off a live model, and the counts behind the paper's statements about size and support.

Nothing here needs data or training. Chunks are the T inputs of a clip, tau frames apart.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from repro.models.count import evaluating, multiply_adds, parameters
from repro.models.receptive import field, probe_of
from repro.models.temporal import OverTime
from repro.papers.st_resnet import Config, Maps, STResNet, branch, build, cyclic_copies, stage_layers

# Large enough that no field reaches a border: 675 px (Table 1) and 21 chunks around a unit near the middle.
PROBE_PX, PROBE_CHUNKS = 800, 33


class Field(NamedTuple):
    """What a unit sees: `space` px in height and width, `time` chunks."""

    space: int
    time: int


class LayerRow(NamedTuple):
    """One column of Table 1, read off a model."""

    layer: str
    block: str  # "[1x1x1, 64; 3x3x1, 64; 1x1x1, 256]" for each unit, W x H x T and channels
    output: tuple[int, int, int]  # W, H, T
    field: Field


class PrintedUnit(NamedTuple):
    """What Eq. 2 to the letter does in the second unit of a stage (ledger st_resnet-L1)."""

    stage: str
    negative: float  # share of outputs below zero
    negative_at_zero: float  # the same without motion, m = 0
    difference_at_zero: float  # from the pretrained unit without motion: mean |difference| over mean |output|


# ---------------------------------------------------------------- Table 1


def layer_table(config: Config, size: int = 224, chunks: int = 11) -> list[LayerRow]:
    """Return Table 1 for one stream of `config`: blocks and sizes at full width, fields by probing."""
    with torch.device("meta"):
        model = build(config, 1)
        inputs = _clip(config, chunks, (size, size))
    shapes = {name: (x.shape[-1], x.shape[-2], x.shape[2]) for name, x in outputs(model, *inputs).items()}
    fields, blocks = receptive_fields(config), _blocks(model)
    return [LayerRow(name, blocks[name], shape, fields[name]) for name, shape in shapes.items()]


def receptive_fields(config: Config) -> dict[str, Field]:
    """Probe one stream, at the least width there is: the field of conv1, pool1, conv2_x to conv5_x and pool5.

    Measured in the stream's own input. All kernels are square, so a strip as high as one unit of conv5_x shows it all.
    """
    probe = probe_of(build(replace(config, width=1 / 64, flow_frames=1, sub_batch=None, space="slide"), 1))
    assert isinstance(probe, STResNet)
    found: dict[str, list[int]] = {}
    for chunks, width, axis in ((1, PROBE_PX, 4), (PROBE_CHUNKS, 32, 1)):
        inputs = _clip(probe.config, chunks, (32, width), torch.float64)
        own = inputs[0] if config.modalities[0] == "appearance" else inputs[1]
        for name, x in outputs(probe, *inputs).items():
            unit = x[0, 0, x.shape[2] // 2, x.shape[3] // 2, x.shape[4] // 2]
            found.setdefault(name, []).extend(field(unit, own, (axis,)))
    return {name: Field(*both) for name, both in found.items()}


def outputs(model: STResNet, rgb: Tensor, flow: Tensor) -> Maps:
    """Run one clip (1, T, ., H, W); return (1, C, T, h, w) of each layer of Table 1, first stream, conv1 to pool5."""
    trace: Maps = {}
    stream = model.config.modalities[0]
    with evaluating(model):
        maps = model.maps(rgb, flow, trace)[stream]
        pooled = model.pooled(maps)
    named = {name: trace[f"{stream}.{name}"] for name in ("conv1", "pool1")}
    for stage, layer in enumerate(stage_layers(model.streams[stream]), start=2):
        named[f"conv{stage}_x"] = trace[f"{stream}.conv{stage}_{len(layer)}"]
    return {name: x.transpose(0, 1).unsqueeze(0) for name, x in named.items()} | {"pool5": pooled}


def _clip(
    config: Config, chunks: int, size: tuple[int, int], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    rgb = torch.ones(1, chunks, 3, *size, dtype=dtype, requires_grad=True)
    flow = torch.ones(1, chunks, 2 * config.flow_frames, *size, dtype=dtype, requires_grad=True)
    return rgb, flow


def _blocks(model: STResNet) -> dict[str, str]:
    trunk, config = model.streams[model.config.modalities[0]], model.config
    conv1, pool1 = trunk.get_submodule("conv1"), trunk.get_submodule("maxpool")
    assert isinstance(conv1, nn.Conv2d)
    blocks = {
        "conv1": f"{_kernel(conv1)}, stride {conv1.stride[0]}",
        "pool1": f"{pool1.kernel_size}x{pool1.kernel_size}x1 max, stride {pool1.stride}",
    }
    for stage, layer in enumerate(stage_layers(trunk), start=2):
        units = []
        for number, unit in enumerate(layer):
            skip = "skip-stream " if number == 1 and config.skip != "none" else ""
            kernels = [_kernel(c) for c in unit.children() if isinstance(c, nn.Conv2d)]
            units.append(f"{skip}[{'; '.join(kernels)}]")
        runs = [(text, len(list(same))) for text, same in groupby(units)]
        blocks[f"conv{stage}_x"] = ", ".join(text + (f" x {n}" if n > 1 else "") for text, n in runs)
    blocks["pool5"] = "7x7x1 average" if config.space == "slide" else "average over all positions"
    if (pool := model.temporal_pool) is not None:
        blocks["pool5"] += f", 1x1x{pool.window} {pool.how}, stride {pool.stride}"
    return blocks


def _kernel(layer: nn.Conv2d) -> str:
    kernel = "1x1x3" if isinstance(layer, OverTime) else f"{layer.kernel_size[0]}x{layer.kernel_size[1]}x1"
    return f"{kernel}, {layer.out_channels}"


# ---------------------------------------------------------------- spans and padding (ledger st_resnet-L4, L5)


def frame_span(chunks: int, tau: int, flow_frames: int = 0) -> int:
    """Return how many frames `chunks` inputs span, tau apart: RGB frames, or with L flow fields each, which span L + 1.

    The paper multiplies: 17 chunks at tau = 15 are "255 frames"; they span 241, or 251 with ten flow fields.
    """
    return (chunks - 1) * tau + 1 + flow_frames


def padded_share(chunks: int, field_chunks: int, *, window: int = 1, stride: int = 1) -> float:
    """Return the share of the fields of a clip's outputs that lies outside the clip, where padding is.

    A field reaches equally far to both sides. Outputs are conv5_3's, one a chunk, or those of a temporal pool: window
    5 and stride 2 in ST-ResNet*.
    """
    reach = field_chunks // 2
    centres = range(window // 2, chunks - (window - 1) // 2, stride)
    seen = sum(min(chunks - 1, c + reach) - max(0, c - reach) + 1 for c in centres)
    return 1 - seen / (len(centres) * field_chunks)


# ---------------------------------------------------------------- sizes (ledger st_resnet-L8, L9)


class Size(NamedTuple):
    """A network's parameters and the multiply-adds of one chunk of 224 x 224."""

    parameters: int
    multiply_adds: int


def sizes(num_classes: int = 101) -> dict[str, Size]:
    """Count the networks that Sec. 4.1 compares, one stream each, and the whole ST-ResNet, with `num_classes`."""
    plain = Config(streams="appearance", skip="none", temporal="none")
    found = {}
    with torch.device("meta"):
        rgb, flow = torch.zeros(1, 1, 3, 224, 224), torch.zeros(1, 1, 20, 224, 224)
        for name, config in {
            "ResNet-50, stride in the 1x1": replace(plain, stride_in="1x1"),
            "ResNet-50, stride in the 3x3": plain,
            "ST-ResNet, one stream": replace(plain, temporal="learned"),
            "ST-ResNet": Config(),
        }.items():
            model = build(config, num_classes)
            found[name] = Size(parameters(model), multiply_adds(model, rgb, flow))
        for name in ("VGG-16", "VGG-19"):
            vgg = torchvision.models.get_model(name.lower().replace("-", ""), num_classes=num_classes)
            found[name] = Size(parameters(vgg), multiply_adds(vgg, rgb[0]))
    return found


# ---------------------------------------------------------------- readings compared (ledger L1, L13, L14, L32)


@torch.no_grad()
def printed_units(model: STResNet, rgb: Tensor, flow: Tensor) -> list[PrintedUnit]:
    """Put Eq. 2 as printed in the place of each stage's second appearance unit, given what reaches it in `model`.

    rgb (B, T, 3, H, W), flow (B, T, 2L, H, W). Batch moments are used if the model is in training mode, as they should
    be for one that was not trained; the model's own running moments are left alone.
    """
    model = copy.deepcopy(model)
    trace: Maps = {}
    model.maps(rgb, flow, trace)
    rows = []
    for stage, layer in enumerate(stage_layers(model.streams["appearance"]), start=2):
        a, m = trace[f"appearance.conv{stage}_1"], trace[f"motion.conv{stage}_1"]
        printed, at_zero = a + branch(layer[1], a + m), a + branch(layer[1], a)
        pretrained = torch.relu(at_zero)  # Eq. 1
        rows.append(
            PrintedUnit(
                f"conv{stage}_2",
                _negative(printed),
                _negative(at_zero),
                float((at_zero - pretrained).abs().mean() / pretrained.abs().mean()),
            )
        )
    return rows


def _negative(x: Tensor) -> float:
    return float((x < 0).float().mean())


def moment_noise(x: Tensor, k: int) -> tuple[float, float]:
    """Return how far a batch mean strays: over k clips with all chunks, and over k clips at one chunk (st_resnet-L13).

    For activations x (B, T, C, h, w), B a multiple of k: the standard deviation of the groups' means over that of the
    activations, averaged over the channels.
    """
    groups = x.reshape(-1, k, *x.shape[1:])  # (B/k, k, T, C, h, w)
    own = x.std(dim=(0, 1, 3, 4))  # (C,)
    clips, chunks = groups.mean(dim=(1, 2, 4, 5)), groups.mean(dim=(1, 4, 5)).flatten(0, 1)  # (B/k, C), (B/k T, C)
    return float((clips.std(dim=0) / own).mean()), float((chunks.std(dim=0) / own).mean())


def conv1_responses(weight: Tensor, flow: Tensor) -> tuple[float, float]:
    """Compare the two ways from RGB filters (O, 3, k, k) to a flow stack (N, 2L, H, W) (ledger st_resnet-L14).

    Returns the size of the response of cyclic copies over that of the copied mean, and the correlation of the two.
    """
    mean = weight.mean(dim=1, keepdim=True).expand(-1, flow.shape[1], -1, -1)
    responses = [F.conv2d(flow, w).flatten() for w in (cyclic_copies(weight, flow.shape[1]), mean)]
    cyclic, copied = responses
    return float(cyclic.norm() / copied.norm()), float(torch.corrcoef(torch.stack(responses))[0, 1])


@torch.no_grad()
def pooling_difference(model: STResNet, rgb: Tensor, flow: Tensor) -> dict[str, float]:
    """Return by output how far a global pool is from the sliding one: mean |difference| over mean |logit|."""
    found, own = {}, model.config
    with evaluating(model):
        for space in ("slide", "global"):
            model.config = replace(own, space=space)
            try:
                found[space] = model(rgb, flow)
            finally:
                model.config = own
    return {
        name: float((found["global"][name] - x).abs().mean() / x.abs().mean()) for name, x in found["slide"].items()
    }
