"""ST-ResNet: spatiotemporal residual networks for video action recognition (Feichtenhofer, Pinz, Wildes, NIPS 2016).

The file follows the paper: residual units (Eq. 1), motion residuals (Eq. 2-4), filters over time (Eq. 5), the network
(Sec. 3.3, Table 1), the way from one training phase to the next (Sec. 3.4). Table 1 itself and the counts are in
`st_resnet_layers`. B clips, T chunks, L flow frames, C H W; a and m are appearance and motion features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError, nearest
from repro.models.base import Backbone
from repro.models.resnet import resnet
from repro.models.subbatch import use_sub_batches
from repro.models.temporal import TemporalAverage, TemporalConv, TemporalPool, inflate, set_chunks
from repro.models.weights import load_weights

CHOICES = {
    "streams": ("both", "appearance", "motion"),
    "skip": ("residual", "none", "direct", "both", "printed", "preactivation"),
    "temporal": ("learned", "none", "frozen", "tied"),
    "temporal_pool": ("none", "max", "average"),
    "temporal_pool_at": ("conv5", "pool5"),
    "head": ("separate", "joint"),
    "backbone": ("resnet50", "resnet101", "resnet152"),
    "conv1": ("mean", "cyclic"),
    "dropout_at": ("features", "scores"),
    "space": ("slide", "global"),
}
Block = nn.Module  # a bottleneck of torchvision: conv1-3, bn1-3, relu, downsample
Maps = dict[str, Tensor]


@dataclass(frozen=True)
class Config:
    """The network. A single stream of `streams` is a plain ResNet (phase 1 of Table 2), with or without filters over
    time; "both" with skip and temporal "none" is the two-stream baseline of Table 3."""

    streams: str = "both"
    # "residual": Eq. 2 as f(a + F(a + f(m))). "direct": a sum on the main line (ledger st_resnet-L2, L27). "both":
    # Eq. 2 in both directions (L27). "printed": Eq. 2 to the letter (L1). "preactivation": the authors' code (L1).
    skip: str = "residual"
    temporal: str = "learned"  # Eq. 5; "frozen": w/T' stays; "tied": w is learned, its taps stay equal (claim 4)
    temporal_pool: str = "none"  # Sec. 3.4: "max" makes it ST-ResNet*, "average" was found inferior
    # DEVIATION: Sec. 3.4 pools over time after pool5, Fig. 3 and the authors' code at each position of conv5_3.
    temporal_pool_at: str = "conv5"
    head: str = "separate"  # a loss per stream; "joint": one loss on the summed logits (ledger st_resnet-L28)
    backbone: str = "resnet50"  # Sec. 3.1; filters over time need bottlenecks
    width: float = 1.0  # scales all channels
    flow_frames: int = 10  # L, Sec. 3.1: 2 x 10 channels
    stride_in: str = "3x3"  # "1x1" in Table 1 and in the weights it started from (ledger st_resnet-L10)
    conv1: str = "mean"  # how the motion stream takes over RGB filters (ledger st_resnet-L14)
    sub_batch: int | None = None  # clips per estimate of batch moments, Sec. 3.3; None: all that are in memory
    dropout: float = 0.0  # Sec. 3.3: it lowered accuracy
    dropout_at: str = "features"  # before the classifier; "scores": after it, as Sec. 3.3 has it (ledger st_resnet-L20)
    space: str = "slide"  # the 7x7 pool slides over larger maps; "global": one mean (ledger st_resnet-L32)

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            value = getattr(self, name)
            if value not in options:
                raise ReproError(f"{name} '{value}'{nearest(value, options)}: use one of {', '.join(options)}")
        if self.streams != "both" and (self.skip != "none" or self.head != "separate"):
            raise ReproError(f"streams '{self.streams}' has nothing to connect: set skip 'none' and head 'separate'")
        if self.sub_batch is not None and self.sub_batch < 1:
            raise ReproError(f"sub_batch {self.sub_batch}: give the number of clips, at least 1, or None")

    @property
    def modalities(self) -> tuple[str, ...]:
        """The streams by name, in the order in which they run."""
        return ("appearance", "motion") if self.streams == "both" else (self.streams,)


# ---------------------------------------------------------------- Sec. 3.1: residual units, connected


def branch(unit: Block, x: Tensor) -> Tensor:
    """F(x; W) of Eq. 1: 1x1, 3x3 and 1x1 convolution with batch normalisation, rectified but for the last."""
    x = unit.relu(unit.bn1(unit.conv1(x)))  # type: ignore[operator]
    x = unit.relu(unit.bn2(unit.conv2(x)))  # type: ignore[operator]
    y: Tensor = unit.bn3(unit.conv3(x))  # type: ignore[operator]
    return y


def residual_sum(unit: Block, x: Tensor) -> Tensor:
    """The sum inside f of Eq. 1, x + F(x; W); where the unit changes the shape, its shortcut maps x."""
    shortcut = x if unit.downsample is None else unit.downsample(x)  # type: ignore[operator]
    y: Tensor = shortcut + branch(unit, x)
    return y


def connected_units(skip: str, units: Mapping[str, Block], x: Maps, sums: Maps) -> Maps:
    """The second units of a stage, both streams, connected as `skip` says.

    `x` are their inputs (N, C, h, w), `sums` the same before they were rectified; f(m) is x["motion"].
    """
    a, m = x["appearance"], x["motion"]
    if skip == "direct":  # Sec. 3.1: "direct connections", here a sum on the main line (ledger st_resnet-L2, L27)
        a = a + m
    seen = sums["appearance"] if skip == "preactivation" else a  # by the appearance branch
    if skip not in ("none", "direct"):
        seen = seen + m
    # DEVIATION: Eq. 2 prints f(a) + F(a + f(m)) without a rectification around the sum. Unit inputs are rectified in a
    # pretrained ResNet, so read that way the unit lets negative values out and is not the pretrained one at m = 0; the
    # default is f(a + F(a + f(m))), "printed" the letter. If a is the sum before its rectification, as in the authors'
    # code, Eq. 2 holds as printed: "preactivation" (ledger st_resnet-L1).
    out = a + branch(units["appearance"], seen)
    # "both": Eq. 2 with the streams exchanged (ledger st_resnet-L27); else Eq. 1. Eq. 4 is autograd's.
    motion = m + branch(units["motion"], m + a if skip == "both" else m)
    return {"appearance": out if skip == "printed" else torch.relu(out), "motion": torch.relu(motion)}


# ---------------------------------------------------------------- Sec. 3.2: filters over time


def add_filters_over_time(trunk: Backbone, how: str) -> None:
    """Turn the first and last 1x1 of every stage's second unit into 1x1x3 (Table 1), starting from its weights."""
    for layer in stage_layers(trunk):
        for name in ("conv1", "conv3"):
            old = layer[1].get_submodule(name)
            assert isinstance(old, nn.Conv2d)
            new = TemporalAverage(old) if how == "tied" else TemporalConv(old, learned=how != "frozen")
            setattr(layer[1], name, new)


def stage_layers(trunk: nn.Module) -> list[nn.Sequential]:
    """The residual units of conv2_x to conv5_x."""
    layers = [trunk.get_submodule(f"layer{i}") for i in range(1, 5)]
    return [layer for layer in layers if isinstance(layer, nn.Sequential)]


# ---------------------------------------------------------------- Sec. 3.3: the network


class STResNet(nn.Module):
    """One or two residual streams over T chunks; logits per stream and chunk in training, per clip in evaluation."""

    def __init__(self, config: Config, trunks: Mapping[str, Backbone], num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.streams = nn.ModuleDict(dict(trunks))
        for trunk in trunks.values():
            if config.temporal != "none":
                add_filters_over_time(trunk, config.temporal)
            if config.sub_batch is not None:
                use_sub_batches(trunk, config.sub_batch)
        self.temporal_pool = None if config.temporal_pool == "none" else TemporalPool(config.temporal_pool)
        self.dropout = nn.Dropout(config.dropout)
        # Table 1: a fully connected layer and a softmax for each stream.
        self.classify = nn.ModuleDict({name: nn.Linear(trunk.channels, num_classes) for name, trunk in trunks.items()})

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> dict[str, Tensor]:
        """Return logits by stream ("joint": their sum) for rgb (B, T, 3, H, W) and flow (B, T, 2L, H, W).

        In training mode (B, T', classes), one loss each; T' is T, or with a temporal pool (T - 5) // 2 + 1. In
        evaluation mode (B, classes), averaged over chunks and positions (Sec. 3.4). Streams the network has not may
        be None.
        """
        maps = self.maps(rgb, flow)
        logits = {name: self.scores(name, x) for name, x in maps.items()}  # (B, T', classes) each
        if self.config.head == "joint":
            logits = {"joint": torch.stack(list(logits.values())).sum(0)}
        return logits if self.training else {name: x.mean(dim=1) for name, x in logits.items()}

    def maps(self, rgb: Tensor | None, flow: Tensor | None, trace: Maps | None = None) -> Maps:
        """Return each stream's conv5_3, (B, T, C, h, w).

        `trace` receives the output of conv1, pool1 and of every unit, "appearance.conv2_1" and so on, (B*T, C, h, w).
        """
        clips = self._inputs(rgb, flow)
        chunks = next(iter(clips.values())).shape[1]
        set_chunks(self, chunks)
        x = {name: self._stem(name, images, trace) for name, images in clips.items()}  # (B*T, 64, h, w)
        layers = {name: stage_layers(trunk) for name, trunk in self.streams.items()}
        for stage in range(4):
            sums: Maps = {}
            for number in range(len(layers[self.config.modalities[0]][stage])):
                units = {name: layers[name][stage][number] for name in x}
                if number == 1 and len(x) == 2:  # Table 1: "skip-stream" before the second unit
                    x = connected_units(self.config.skip, units, x, sums)
                else:  # Eq. 1
                    sums = {name: residual_sum(units[name], y) for name, y in x.items()}
                    x = {name: torch.relu(y) for name, y in sums.items()}
                if trace is not None:
                    trace.update({f"{name}.conv{stage + 2}_{number + 1}": y for name, y in x.items()})
        return {name: y.reshape(-1, chunks, *y.shape[1:]) for name, y in x.items()}

    def pooled(self, maps: Tensor) -> Tensor:
        """Pool conv5_3 (B, T, C, h, w) over space and, in ST-ResNet*, time: (B, C, T', h', w')."""
        at_conv5 = self.config.temporal_pool_at == "conv5"
        y = maps.transpose(1, 2)  # (B, C, T, h, w)
        y = self._over_time(y) if at_conv5 else y
        height, width = y.shape[-2:]
        if self.config.space == "slide":  # Sec. 3.4; maps smaller than 7 x 7 have one mean
            height, width = min(7, height), min(7, width)
        z = F.avg_pool2d(y.flatten(0, 1), (height, width), stride=1)
        y = z.reshape(*y.shape[:2], *z.shape[1:])  # (B, C, T, h', w')
        return y if at_conv5 else self._over_time(y)

    def scores(self, name: str, maps: Tensor) -> Tensor:
        """Classify conv5_3 (B, T, C, h, w) of one stream: (B, T', classes).

        Sec. 3.4 averages the predictions over positions; the classifier is linear, so its inputs are averaged.
        """
        y = self.pooled(maps).mean(dim=(-2, -1)).transpose(1, 2)  # (B, T', C)
        if self.config.dropout_at == "features":
            y = self.dropout(y)
        logits: Tensor = self.classify[name](y)
        return logits if self.config.dropout_at == "features" else self.dropout(logits)

    def _over_time(self, x: Tensor) -> Tensor:
        if self.temporal_pool is None:
            return x
        y: Tensor = self.temporal_pool(x.flatten(3))  # (B, C, T', h*w)
        return y.reshape(*y.shape[:3], *x.shape[3:])

    def _stem(self, name: str, images: Tensor, trace: Maps | None) -> Tensor:
        trunk = self.streams[name]
        y: Tensor = trunk.relu(trunk.bn1(trunk.conv1(images.flatten(0, 1))))  # type: ignore[operator]
        pooled: Tensor = trunk.maxpool(y)  # type: ignore[operator]
        if trace is not None:
            trace.update({f"{name}.conv1": y, f"{name}.pool1": pooled})
        return pooled

    def _inputs(self, rgb: Tensor | None, flow: Tensor | None) -> Maps:
        clips: Maps = {}
        for name in self.config.modalities:
            x, what = (rgb, "rgb") if name == "appearance" else (flow, "flow")
            if x is None:
                raise ReproError(f"the {name} stream got no input: pass {what}")
            clips[name] = x
        sizes = {tuple(x.shape[:2]) + tuple(x.shape[3:]) for x in clips.values()}
        if len(sizes) > 1:
            raise ReproError("rgb and flow differ in clips, chunks or image size: give both the same")
        return clips


def build(config: Config, num_classes: int, weights: str | Path = "none") -> STResNet:
    """Build the network; its trunks start from `weights` ("none", "imagenet" or a file), then Eq. 5 is applied."""
    trunks = {name: starting_trunk(config, name, weights) for name in config.modalities}
    return STResNet(config, trunks, num_classes)


def starting_trunk(config: Config, name: str, weights: str | Path) -> Backbone:
    """Build one stream's plain ResNet and load its weights (Sec. 3.1)."""
    channels = 3 if name == "appearance" else 2 * config.flow_frames
    cyclic = name == "motion" and config.conv1 == "cyclic" and str(weights) != "none"
    trunk = resnet(
        config.backbone, in_channels=3 if cyclic else channels, width=config.width, stride_in=config.stride_in
    )
    # DEVIATION: Sec. 3.1 replicates the three RGB filters to 20 channels; the authors' code copies their mean, as
    # load_weights does. "cyclic" is the text (ledger st_resnet-L14).
    load_weights(trunk, weights)
    if cyclic:
        old = trunk.get_submodule("conv1")
        assert isinstance(old, nn.Conv2d)
        old.weight = nn.Parameter(cyclic_copies(old.weight.detach(), channels))
        old.in_channels = channels
    return trunk


def cyclic_copies(weight: Tensor, channels: int) -> Tensor:
    """Repeat RGB filters (O, 3, k, k) as R, G, B, R, ... over `channels` inputs, as written in Sec. 3.1."""
    return weight[:, torch.arange(channels, device=weight.device) % weight.shape[1]].clone()


# ---------------------------------------------------------------- Sec. 3.4: from phase to phase


def start_from(model: STResNet, *states: Mapping[str, Tensor], classifier: bool = True) -> None:
    """Start a phase of Table 2 from the weights (state dicts) of the phase before.

    Phase 2: the two plain streams, each in its place; their 1x1 kernels become filters over time by Eq. 5. Phase 3: the
    ST-ResNet, weight by weight. Without `classifier` the last layers keep their own values, for a start from another
    data set (Sec. 4.1). ReproError when a weight is missing, unknown, given twice or of another size; then nothing is
    loaded.
    """
    found: dict[str, Tensor] = {}
    for state in states:
        kept = {key: value for key, value in state.items() if classifier or not key.startswith("classify.")}
        if twice := sorted(found.keys() & kept.keys()):
            raise ReproError(f"two of the networks to start from hold {twice[0]}: give each stream once")
        found |= kept
    target = {k: v for k, v in model.state_dict().items() if classifier or not k.startswith("classify.")}
    if differing := sorted(found.keys() ^ target.keys()):
        where = "missing in" if differing[0] in target else "not wanted from"
        raise ReproError(f"{differing[0]} is {where} the networks to start from: give networks of the same streams")
    for key, want in target.items():
        have = found[key]
        if have.shape[2:] == (1, 1) and want.shape[2:] == (3, 1):
            found[key] = inflate(have)
        if found[key].shape != want.shape:
            sizes = f"{tuple(have.shape)} there, {tuple(want.shape)} here"
            raise ReproError(f"{key} is of another size ({sizes}): start from the same backbone, width and classes")
    model.load_state_dict(found, strict=classifier)
