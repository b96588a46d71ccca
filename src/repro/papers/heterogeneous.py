"""The spatiotemporal heterogeneous two-stream network (Chen, Bai, Gao, Tinega, Ding, IEEE Access 7, 2019).

The file follows the paper: a stream with its base network and the consensus of its snippets (Sec. III.A-C), the three
ways to begin training the temporal stream (Sec. III.D.1, Table 1), the paper's counts (Sec. III.B). The two streams are
trained apart; their fusion is in `heterogeneous_fusion`. B videos, T snippets, L flow frames, n classes, C H W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from repro.errors import ReproError, nearest
from repro.models import BACKBONES, backbone
from repro.models.count import multiply_adds, parameters
from repro.models.normalisation import freeze_all_but_first
from repro.models.weights import LoadReport, averaged, load_weights

ROLES = {"spatial": "rgb", "temporal": "flow"}  # role -> input
TRIED = ("resnet50", "resnet101", "resnet152", "bn_inception")  # Table 2


@dataclass(frozen=True)
class Config:
    """One stream. The network of the paper is a pair of them, each trained by itself (Sec. III.A.1)."""

    role: str  # "spatial": one RGB frame a snippet; "temporal": one stack of flow
    backbone: str  # Table 2; any of `repro.models.BACKBONES`
    width: float = 1.0  # scales the channels of the base network
    segments: int = 3  # Sec. III.C; snippets of a video in training
    # The paper names neither; [5], on which it stands, has both (ledger heterogeneous-L13).
    dropout: float = 0.8  # [5]: .8 for RGB, .7 for flow
    partial_bn: bool = True  # makes sense for pre-trained weights only: switch it off from scratch
    flow_frames: int = 5  # L: "2L = 10" (Sec. III.D.1, Table 1; ledger heterogeneous-L1)

    def __post_init__(self) -> None:
        for name, options in (("role", ROLES), ("backbone", BACKBONES)):
            value = getattr(self, name)
            if value not in options:
                raise ReproError(f"{name} '{value}'{nearest(value, options)}: use one of {', '.join(options)}")

    @property
    def in_channels(self) -> int:
        """Channels of one snippet: 3 of an RGB frame, 2L of a flow stack (u and v of each field)."""
        return 3 if self.role == "spatial" else 2 * self.flow_frames


SPATIAL = Config("spatial", "resnet101")  # the proposed pair: Table 2, last row
TEMPORAL = Config("temporal", "bn_inception", dropout=0.7)


# ---------------------------------------------------------------- Sec. III.A to III.C: one stream


class Stream(nn.Module):
    """A base network whose scores for T snippets of a video become one (Fig. 1)."""

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.config = config
        # Eq. 1, x_{l+1} = relu(x_l + F(x_l; W_l)), is the residual unit of `repro.models.resnet` (tested there).
        self.trunk = backbone(config.backbone, in_channels=config.in_channels, width=config.width)
        self.pool = nn.AdaptiveAvgPool2d(1)  # Sec. III.B.1, "global average pooling"
        self.dropout = nn.Dropout(config.dropout)
        # One linear layer: Sec. III.B.1 says that ResNet ends without one, which it does not (heterogeneous-L18).
        self.classify = nn.Linear(self.trunk.channels, num_classes)
        nn.init.normal_(self.classify.weight, std=0.001)  # [5]'s code; the paper does not say
        nn.init.zeros_(self.classify.bias)
        if config.partial_bn:
            freeze_all_but_first(self.trunk)

    def snippet_scores(self, x: Tensor) -> Tensor:
        """Return F(x_k; W) of Eq. 2 for snippets x (B, T, C, H, W), the same W for all: (B, T, n)."""
        maps: Tensor = self.trunk(x.flatten(0, 1))  # (B*T, c, h, w)
        scores: Tensor = self.classify(self.dropout(self.pool(maps).flatten(1)))  # (B*T, n)
        return scores.reshape(*x.shape[:2], -1)

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> dict[str, Tensor]:
        """Return {role: logits (B, n)} for rgb (B, T, 3, H, W) or flow (B, T, 2L, H, W), whichever the role needs.

        T is the number of segments in training and anything in testing.
        """
        name = ROLES[self.config.role]
        x = rgb if name == "rgb" else flow
        if x is None:
            raise ReproError(f"the {self.config.role} stream got no input: pass {name}")
        if self.training and x.shape[1] != self.config.segments:
            raise ReproError(f"{x.shape[1]} snippets in training, {self.config.segments} segments: make them equal")
        return {self.config.role: consensus(self.snippet_scores(x))}


def consensus(scores: Tensor) -> Tensor:
    """Return g = G(F(x_1), ..., F(x_T)), the mean over T of scores (B, T, n): logits (B, n)."""
    # Eq. 2, G. With it Eq. 4 is what backward() computes: dG/dF(x_k) = 1/T, so each snippet adds 1/T dL/dg dF(x_k)/dW.
    return scores.mean(dim=1)


def probabilities(g: Tensor) -> Tensor:
    """Return f = S(g), the softmax of a consensus (B, n)."""
    # Eq. 2, S
    return torch.softmax(g, dim=-1)


def consensus_loss(y: Tensor, g: Tensor) -> Tensor:
    """Return the mean over videos of Eq. 3 for one-hot labels y (B, n) and consensus g (B, n).

    It is the cross-entropy of g, which training takes from `repro.training`; here as the paper prints it.
    """
    # Eq. 3
    return -(y * (g - torch.log(torch.exp(g).sum(dim=1, keepdim=True)))).sum(dim=1).mean()


def build(config: Config, num_classes: int) -> Stream:
    """Build the stream that `config` describes."""
    return Stream(config, num_classes)


# ---------------------------------------------------------------- Sec. III.D.1: how the temporal stream begins


def first_convolution(trunk: nn.Module) -> nn.Conv2d:
    """Return conv1 of a base network, (64, C, 7, 7) in a ResNet and in BN-Inception."""
    return next(layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d))


def averaged_conv1(rgb: Tensor, flow_frames: int = 5) -> Tensor:
    """Table 1, the method in [5]: a conv1 (64, 3, 7, 7) averaged over RGB, repeated, not rescaled: (64, 2L, 7, 7)."""
    return averaged(rgb, 2 * flow_frames)


@torch.no_grad()
def transplanted_conv1(trunk: nn.Module, donor: Tensor) -> None:
    """Table 1, the proposed method: put the conv1 weight of a trained temporal network into `trunk`, in place.

    `donor` is (64, 2L, 7, 7), from a network trained from scratch (Sec. III.D.1) or fine-tuned from an averaged conv1
    (Table 1), see ledger heterogeneous-L4. Raises ReproError when the sizes differ.
    """
    weight = first_convolution(trunk).weight
    if donor.shape != weight.shape:
        sizes = f"{tuple(donor.shape)} there, {tuple(weight.shape)} here"
        raise ReproError(f"the donor's conv1 has another size ({sizes}): take it from the same base network and width")
    weight.copy_(donor)


def initialise(stream: Stream, weights: str | Path | Mapping[str, Tensor], donor: Tensor | None = None) -> LoadReport:
    """Initialise a stream's base network (Table 3). The head keeps its random weights.

    | strategy              | weights                             | donor                               |
    |-----------------------|-------------------------------------|-------------------------------------|
    | from scratch          | "none"                              | None                                |
    | pre-training of [5]   | "imagenet", a file or a state dict  | None: conv1 is averaged             |
    | modified (the paper's)| "imagenet", a file or a state dict  | conv1 of a trained temporal network |

    A spatial stream takes the weights as they are and no donor. Raises ReproError for weights that do not fit, and for
    partial batch normalisation without pre-trained weights, whose statistics would stay those of an untrained network.
    """
    if stream.config.partial_bn and weights == "none":
        raise ReproError("partial_bn freezes statistics that weights 'none' has not: set partial_bn=False")
    if donor is not None and stream.config.role != "temporal":
        raise ReproError("a donor's conv1 is for flow: give it to a temporal stream only")
    report = load_weights(stream.trunk, weights)
    if donor is not None:
        transplanted_conv1(stream.trunk, donor)
    return report


class Conv1Row(NamedTuple):
    """One kernel of Table 1: what it is, and its shape (maps, channels, height, width)."""

    step: str
    shape: tuple[int, ...]


def conv1_table(spatial: Config = SPATIAL, temporal: Config = TEMPORAL) -> list[Conv1Row]:
    """Return Table 1's kernels, read off networks that are built and initialised as its two columns say."""
    with torch.device("meta"):
        trunks = {c.role: build(c, 1).trunk for c in (spatial, temporal)}
        source = backbone(temporal.backbone, width=temporal.width)  # the temporal network's RGB model
    rgb, flow = first_convolution(source).weight, first_convolution(trunks["temporal"]).weight
    mean = averaged(rgb, 1)
    copied = averaged_conv1(rgb, temporal.flow_frames)
    transplanted_conv1(trunks["temporal"], flow.detach().clone())
    return [
        Conv1Row("spatial network, conv1", tuple(first_convolution(trunks["spatial"]).weight.shape)),
        Conv1Row("temporal network, conv1", tuple(flow.shape)),
        Conv1Row("method in [5], step 1: average over the 3 channels", tuple(mean.shape)),
        Conv1Row("method in [5], step 2: conv1*, expanded", tuple(copied.shape)),
        Conv1Row("proposed, step 1: conv1 of the trained temporal network", tuple(flow.shape)),
        Conv1Row("proposed, step 2: conv1*, replaced", tuple(first_convolution(trunks["temporal"]).weight.shape)),
    ]


# ---------------------------------------------------------------- Sec. III.B: what the networks cost


class Count(NamedTuple):
    """What one network has; `multiply_adds` are those of one snippet. `entry`: the ledger or claim that it answers."""

    network: str
    parameters: int
    multiply_adds: int
    entry: str

    @property
    def megabytes(self) -> float:
        """Size of the parameters in float32, 10^6 bytes."""
        return 4 * self.parameters / 1e6


def counts(num_classes: int = 101, size: int = 224) -> list[Count]:
    """Count the base networks in both roles, the pairs of Table 2, and the image networks that Sec. III.B compares."""
    streams: dict[tuple[str, str], Count] = {}
    with torch.device("meta"):
        for role, name in ((role, name) for role in ROLES for name in TRIED):
            config = Config(role, name, partial_bn=False)
            x = torch.zeros(1, 1, config.in_channels, size, size)
            streams[role, name] = _count(f"{role} {name}", build(config, num_classes), x, x, "heterogeneous-L2")
    rows = list(streams.values())
    for spatial in TRIED:
        for temporal in TRIED:
            s, t = streams["spatial", spatial], streams["temporal", temporal]
            entry = "heterogeneous-L2" if (spatial, temporal) == (SPATIAL.backbone, TEMPORAL.backbone) else ""
            name = f"{spatial} + {temporal}"
            rows.append(Count(name, s.parameters + t.parameters, s.multiply_adds + t.multiply_adds, entry))
    return rows + image_network_counts(size)


def image_network_counts(size: int = 224) -> list[Count]:
    """Count whole ImageNet networks (1000 classes): ResNets in both stride placements, VGG with and without head."""
    entry, rows = "heterogeneous-15", []
    with torch.device("meta"):
        x = torch.zeros(1, 3, size, size)
        for name in ("resnet50", "resnet101", "resnet152"):
            model = torchvision.models.get_model(name)
            rows.append(_count(f"{name}, stride in the 3x3", model, x, None, entry))
            for unit in model.modules():
                if isinstance(unit, Bottleneck):  # as in He et al. [25], whom the paper quotes
                    unit.conv1.stride, unit.conv2.stride = unit.conv2.stride, unit.conv1.stride
            rows.append(_count(f"{name}, stride in the first 1x1", model, x, None, entry))
        for name in ("vgg16", "vgg19"):
            rows.append(_count(name, torchvision.models.get_model(name), x, None, entry))
            rows.append(_count(f"{name}, convolutions only", backbone(name), x, None, entry))
    return rows


def _count(name: str, model: nn.Module, rgb: Tensor, flow: Tensor | None, entry: str) -> Count:
    inputs = (rgb,) if flow is None else (rgb, flow)
    return Count(name, parameters(model), multiply_adds(model, *inputs), entry)
