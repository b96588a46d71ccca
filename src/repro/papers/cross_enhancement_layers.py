"""Parts of the cross-enhancement paper that are not its idea: the adapter of a bridge, the fusion layer, 3D-Fused.

B clips, T frames or snippets, L flow frames of a snippet, n classes, C H W.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d, Inception

from repro.errors import ReproError, nearest
from repro.models.base import Backbone, Stages, initialise, run_stages, scaled
from repro.models.i3d import BLOCKS, published_input
from repro.models.inflate import GOOGLENET, GOOGLENET_HEADS
from repro.models.weights import fetch_weights, fit_weights, read_weights, torchvision_url

STREAMS = ("rgb", "flow")


class Adapter(nn.Module):
    """Maps student features to the shape of the teacher's: a 1x1x1 convolution and trilinear resizing.

    The paper joins positions of unlike shapes and does not say how (ledger cross_enhancement-L4).
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.convolve = nn.Conv3d(student_channels, teacher_channels, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Map student (B, c, t, h, w) to the shape of teacher (B, c', t', h', w'), which gives the shape only."""
        size = teacher.shape[2:]
        # Both steps are linear and a resized voxel is a mean, so they commute: convolve where there are fewer voxels.
        if math.prod(size) < math.prod(student.shape[2:]):
            out: Tensor = self.convolve(resized(student, size))
            return out
        return resized(self.convolve(student), size)


def resized(x: Tensor, size: torch.Size) -> Tensor:
    """Resize x (B, C, t, h, w) to `size` in time and space, trilinearly; voxels keep their places in the clip."""
    return F.interpolate(x, tuple(size), mode="trilinear", align_corners=False)


class FusionLayer(nn.Module):
    """Sec. 3.1, end: a fully connected layer that joins the outputs of the two streams.

    Its input is their logits, its start their mean: then what it learns is all that sets it apart from averaging
    (ledger cross_enhancement-L9).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * num_classes, num_classes)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(num_classes).repeat(1, 2) / 2)
            self.layer.bias.zero_()

    def forward(self, rgb: Tensor, flow: Tensor) -> Tensor:
        """Join the logits (B, n) of both streams: (B, n)."""
        joined: Tensor = self.layer(torch.cat([rgb, flow], dim=1))
        return joined


# ---------------------------------------------------------------- the baseline 3D-Fused
# Carreira and Zisserman, CVPR 2017, Sec. 2.3: 2D Inception-v1 on five frames and their flow, joined by a convolution
# in 3D. The paper calls it one I3D stream (Sec. 2), yet its Table 3 has RGB, flow and both; a single stream here has
# the same head on one trunk (ledger cross_enhancement-L13).

INCEPTIONS = {name: block for name, block in GOOGLENET.items() if block in BLOCKS}  # torchvision's name -> I3D's


class InceptionV1(Backbone):
    """The image network that I3D inflates, without its classifier, under torchvision's names of weights.

    Like I3D, and like torchvision's GoogLeNet, it has a 3x3 where the first publication has a 5x5.
    """

    def __init__(self, in_channels: int = 3, width: float = 1.0) -> None:
        blocks = {name: tuple(scaled(c, width) for c in BLOCKS[block]) for name, block in INCEPTIONS.items()}
        ends = {name: c[0] + c[2] + c[4] + c[5] for name, c in blocks.items()}
        first, last = scaled(64, width), scaled(192, width)
        super().__init__("inception_v1", width, {"conv1": first, "conv3": last, **ends})
        self.conv1 = BasicConv2d(in_channels, first, kernel_size=7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = BasicConv2d(first, first, kernel_size=1)
        self.conv3 = BasicConv2d(first, last, kernel_size=3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        for name, channels in blocks.items():
            self.add_module(name, Inception(last, *channels))
            last = ends[name]
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        initialise(self)

    def stages(self) -> Stages:
        """Return the modules of each stage; a pool belongs to the stage that it feeds."""
        before = {"inception3a": self.maxpool2, "inception4a": self.maxpool3, "inception5a": self.maxpool4}
        out: Stages = {"conv1": (self.conv1,), "conv3": (self.maxpool1, self.conv2, self.conv3)}
        for name in INCEPTIONS:
            pool = (before[name],) if name in before else ()
            out[name] = (*pool, self.get_submodule(name))
        return out

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the output of every stage by name for x (N, in_channels, H, W)."""
        return run_stages(self.stages(), x)


@dataclass(frozen=True)
class Fused3DConfig:
    """3D-Fused. Its snippets are frames with flow stacks, five of them ten frames apart, as published."""

    streams: tuple[str, ...] = STREAMS
    width: float = 1.0
    flow_frames: int = 10  # L
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for stream in self.streams:
            if stream not in STREAMS:
                raise ReproError(f"stream '{stream}'{nearest(stream, STREAMS)}: use one of {', '.join(STREAMS)}")
        if not self.streams:
            raise ReproError("3D-Fused without a stream: give rgb, flow or both")


class Fused3D(nn.Module):
    """Image networks on the T snippets of each stream, then one 3D convolution over what they have found."""

    def __init__(self, config: Fused3DConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        channels = {"rgb": 3, "flow": 2 * config.flow_frames}
        self.trunks = nn.ModuleDict({s: InceptionV1(channels[s], config.width) for s in config.streams})
        joined, hidden = len(config.streams) * scaled(1024, config.width), scaled(512, config.width)
        # Published: 3x3x3 convolution with 512 outputs, 3x3x3 max-pooling, one fully connected layer, Gaussian weights.
        # Ours, unsaid there: the rectifier, the pool's stride, the deviation, and the mean before the last layer, which
        # alone agrees with the 39 million parameters published.
        self.convolve = nn.Conv3d(joined, hidden, 3, padding=1)
        self.pool = nn.MaxPool3d(3, stride=2, padding=1)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(hidden, num_classes)
        for layer in (self.convolve, self.classify):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> dict[str, Tensor]:
        """Return {"fusion": logits (B, n)}, or {stream: logits} of a single one.

        Inputs are rgb (B, T, 3, H, W) and flow (B, T, 2L, H, W), those of the configured streams.
        """
        given = {"rgb": rgb, "flow": flow}
        maps = []
        for stream, trunk in self.trunks.items():
            x = given[stream]
            if x is None:
                raise ReproError(f"3D-Fused of {' and '.join(self.config.streams)} got no {stream}: pass {stream}")
            images = published_input(x.transpose(1, 2)).transpose(1, 2).flatten(0, 1)  # (B*T, C, H, W)
            maps.append(trunk(images).unflatten(0, x.shape[:2]).transpose(1, 2))  # (B, c, T, h, w)
        y = self.pool(torch.relu(self.convolve(torch.cat(maps, dim=1))))
        logits = self.classify(self.dropout(y.mean((2, 3, 4))))
        return {"fusion" if len(maps) > 1 else self.config.streams[0]: logits}


def initialise_trunks(model: Fused3D, weights: str | Path | Mapping[str, Tensor]) -> None:
    """Start every trunk from one GoogLeNet in torchvision's names: "none", "imagenet", a file or a state dict.

    The first convolution of flow is averaged over RGB, as in the other networks. ReproError for what does not fit.
    """
    if not isinstance(weights, Mapping) and str(weights) == "none":
        return
    if isinstance(weights, Mapping) or str(weights) != "imagenet":
        found, source = read_weights(weights)
    elif model.config.width != 1:
        raise ReproError("ImageNet weights exist for width 1 only: set width 1 or weights 'none'")
    else:
        found, source = fetch_weights(torchvision_url("googlenet"))
    trunk = {name: value for name, value in found.items() if not name.startswith(GOOGLENET_HEADS)}
    for module in model.trunks.values():
        fit_weights(module, trunk, source)
