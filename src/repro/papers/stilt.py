"""STILT: spatial-temporal interaction learning two-stream network (Liu et al., Information Sciences 606, 2022).

The file follows the paper: the interaction module (Sec. 3.2), the streams (Sec. 3.1, 4.2), the architecture tables.
The fusion of Sec. 3.3 is in `stilt_fusion`. B clips, T snippets, L flow frames, C H W; n features of Sec. 3.2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repro.errors import ReproError, nearest
from repro.models import backbone
from repro.models.base import Backbone, scaled
from repro.models.count import describe, size_text, stage_shapes

CHOICES = {
    "streams": ("both", "spatial", "temporal"),
    "reading": ("snippets", "regions"),
    "attention": ("guided", "unguided", "uniform"),
    "order": ("STS", "TST"),
}


@dataclass(frozen=True)
class Config:
    """The network. `streams`: "spatial" or "temporal" is a plain single stream (Table 4), "both" the STIL network."""

    streams: str = "both"
    reading: str = "snippets"  # what the n features are: a clip's "snippets" or a frame's "regions" (ledger stilt-L1)
    attention: str = "guided"  # Eq. 1-3; "unguided": g = 0 everywhere; "uniform": a = 1/n, the control (stilt-L23)
    order: str = "STS"  # Sec. 3.2; "TST" starts from the temporal side (ledger stilt-L26)
    shared: bool = False  # one set of W_k, W_g, w_hk for the three steps, or one each (ledger stilt-L5)
    backbone: str = "resnet50"  # Sec. 4.2
    width: float = 1.0  # scales the channels of backbone and head alike
    flow_frames: int = 10  # L, Sec. 4.2: 2 x 10 channels
    hidden: int = 512  # Table 3
    fc: int = 1024  # Table 3
    last_stride: int = 2  # Table 2; 1 keeps a map worth attending to when images are small
    dropout: float = 0.0  # none in the paper

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            value = getattr(self, name)
            if value not in options:
                raise ReproError(f"{name} '{value}'{nearest(value, options)}: use one of {', '.join(options)}")


class Output(NamedTuple):
    """What a forward pass gives; streams by name, "spatial" and "temporal"."""

    logits: dict[str, Tensor]  # (B, classes) per stream
    attention: dict[str, Tensor]  # per step, "S1", "T", "S2": (B, n) for snippets, (B*T, h, w) for regions
    features: dict[str, Tensor]  # "spatial.attended" (B, C), ".hidden" (B, 512), ".fc" (B, 1024), also temporal


# ---------------------------------------------------------------- Sec. 3.2: alternating co-attention


class Attention(nn.Module):
    """The operation A(K; g) of Sec. 3.2. Unguided, it has no W_g and g counts as 0. Eq. 1-2 have no biases."""

    def __init__(self, channels: int, hidden: int, *, guided: bool) -> None:
        super().__init__()
        # The paper gives no size for H: the 512 of Table 3.
        self.w_k = nn.Linear(channels, hidden, bias=False)
        self.w_g = nn.Linear(channels, hidden, bias=False) if guided else None
        self.w_hk = nn.Linear(hidden, 1, bias=False)

    def forward(self, k: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend to k (N, n, C) under guidance g (N, C), None for 0; return O (N, C) and a (N, n)."""
        inner = self.w_k(k)  # (N, n, hidden)
        if g is not None and self.w_g is not None:
            inner = inner + self.w_g(g).unsqueeze(1)
        # Eq. 1
        h = torch.tanh(inner)
        # Eq. 2
        a = torch.softmax(self.w_hk(h).squeeze(-1), dim=1)  # (N, n)
        # Eq. 3
        return torch.einsum("bn,bnc->bc", a, k), a


class Uniform(nn.Module):
    """The control without attention: a = 1/n."""

    def forward(self, k: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mean of k (N, n, C) over n and the constant weights (N, n)."""
        return k.mean(dim=1), k.new_full(k.shape[:2], 1 / k.shape[1])


class CoAttention(nn.Module):
    """The three steps of Sec. 3.2 for two streams, `first` and `second` (spatial and temporal in the paper's order)."""

    def __init__(self, config: Config, channels: int, hidden: int) -> None:
        super().__init__()
        guided = config.attention == "guided"

        def operation(guided: bool) -> nn.Module:
            return Uniform() if config.attention == "uniform" else Attention(channels, hidden, guided=guided)

        self.second = operation(guided)
        self.first = self.second if config.shared else operation(guided)
        # Step 1 only makes the guidance of step 2: without guidance it has no effect and no weights.
        self.summary = (self.second if config.shared else operation(False)) if guided else None

    def forward(self, first: Tensor, second: Tensor, passes: int = 1) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Attend to first and second (N, n, C); return both attended (N, C) and the weights (N, n) of each step.

        DEVIATION: Algorithm 1 starts from uniform weights and repeats until the losses converge. Here step 1 is Eq. 1-3
        with g = 0 as the text has it, and one pass is made: the repetition is training (ledger stilt-L3, stilt-L4).
        `passes` repeats steps 2 and 3, to measure what a second pass changes.
        """
        maps: list[Tensor] = []
        guide = None
        if self.summary is not None:
            guide, weights = self.summary(first, None)  # step 1: K = S, g = 0
            maps.append(weights)
        for _ in range(passes):
            second_hat, second_weights = self.second(second, guide)  # step 2: K = T, g = s^
            first_hat, first_weights = self.first(first, second_hat)  # step 3: K = S, g = t^
            guide = first_hat
        return first_hat, second_hat, [*maps, second_weights, first_weights]


class Head(nn.Module):
    """Table 3 after the attention: C -> 512 -> 1024 -> classes, for one stream."""

    def __init__(self, config: Config, channels: int, num_classes: int) -> None:
        super().__init__()
        hidden, fc = scaled(config.hidden, config.width), scaled(config.fc, config.width)
        # DEVIATION: Eq. 3 leaves C channels where Table 3 prints 512; a projection of the attended vector is added
        # (ledger stilt-L2). The paper names no activations: ReLU after both hidden layers, as in its backbone.
        self.project = nn.Linear(channels, hidden)
        self.fc = nn.Linear(hidden, fc)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(fc, num_classes)

    def forward(self, attended: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Map an attended vector (N, C) to logits (N, classes) and the features on the way."""
        hidden = torch.relu(self.project(attended))
        fc = torch.relu(self.fc(hidden))
        return self.classify(self.dropout(fc)), {"attended": attended, "hidden": hidden, "fc": fc}


# ---------------------------------------------------------------- Sec. 3.1, 4.2: the streams


class Streams(nn.Module, ABC):
    """The backbones of one or two streams and the pool behind them (Table 2)."""

    def __init__(self, config: Config, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        inputs = {"spatial": 3, "temporal": 2 * config.flow_frames}  # Table 2: 3 and 20 channels
        backbones = {
            m: backbone(config.backbone, in_channels=inputs[m], width=config.width, last_stride=config.last_stride)
            for m in modalities
        }
        self.backbones = nn.ModuleDict(backbones)
        self.channels = backbones[modalities[0]].channels
        self.pool = nn.AdaptiveAvgPool2d(1)  # Table 2: the mean over whatever is left, 7 x 7 at 224 x 224

    def forward(self, rgb: Tensor | None, flow: Tensor | None) -> dict[str, Tensor]:
        """Return the logits (B, classes) of each stream for rgb (B, T, 3, H, W) and flow (B, T, 2L, H, W).

        An input whose stream the network has not may be None.
        """
        return self.explain(rgb, flow).logits

    @abstractmethod
    def explain(self, rgb: Tensor | None, flow: Tensor | None) -> Output:
        """Return logits, attention maps and features."""

    def maps(self, modality: str, rgb: Tensor | None, flow: Tensor | None) -> Tensor:
        """Return the backbone's last feature maps, (B, T, C, h, w)."""
        x = rgb if modality == "spatial" else flow
        if x is None:
            raise ReproError(f"the {modality} stream got no input: pass {'rgb' if modality == 'spatial' else 'flow'}")
        y: Tensor = self.backbones[modality](x.flatten(0, 1))  # (B*T, C, h, w)
        return y.reshape(*x.shape[:2], *y.shape[1:])

    def pooled(self, maps: Tensor) -> Tensor:
        """Average feature maps (B, T, C, h, w) over all positions, (B, T, C)."""
        y: Tensor = self.pool(maps.flatten(0, 1))
        return y.reshape(maps.shape[:3])


class PlainStream(Streams):
    """One plain stream (Table 4: "Spatial", "Temporal"): pool, one linear layer, mean of the snippets' logits.

    The paper says nothing of the plain streams' head: the consensus of TSN (Wang et al., ECCV 2016, Sec. 3.1).
    """

    def __init__(self, config: Config, modality: str, num_classes: int) -> None:
        super().__init__(config, (modality,))
        self.modality = modality
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(self.channels, num_classes)

    def explain(self, rgb: Tensor | None, flow: Tensor | None) -> Output:
        """Return logits and pooled features ("spatial.pooled" (B, C), mean over snippets); there is no attention."""
        maps = self.maps(self.modality, rgb, flow)
        pooled = self.pooled(maps)  # (B, T, C)
        logits = self.classify(self.dropout(pooled)).mean(dim=1)  # (B, classes)
        return Output({self.modality: logits}, {}, {f"{self.modality}.pooled": pooled.mean(dim=1)})


class STILT(Streams):
    """Two streams that attend to each other (Fig. 2); each ends in logits of its own."""

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, ("spatial", "temporal"))
        self.order = ("spatial", "temporal") if config.order == "STS" else ("temporal", "spatial")
        self.interaction = CoAttention(config, self.channels, scaled(config.hidden, config.width))
        self.heads = nn.ModuleDict({m: Head(config, self.channels, num_classes) for m in ("spatial", "temporal")})

    def explain(self, rgb: Tensor | None, flow: Tensor | None, passes: int = 1) -> Output:
        """Return logits, attention maps and features; for regions logits and features are means over the snippets."""
        maps = {m: self.maps(m, rgb, flow) for m in self.order}
        first, second = (self.vectors(maps[m]) for m in self.order)
        if first.shape[0] != second.shape[0]:
            raise ReproError(
                f"rgb has {len(first)} and flow {len(second)} items: give both the same clips and snippets"
            )
        *attended, weights = self.interaction(first, second, passes)
        output = Output({}, self._named(weights, maps), {})
        clips = len(maps["spatial"])
        for modality, vector in zip(self.order, attended, strict=True):  # (B, C), or (B*T, C) for regions
            logits, features = self.heads[modality](vector)
            output.logits[modality] = _clip_mean(logits, clips)
            output.features.update({f"{modality}.{name}": _clip_mean(x, clips) for name, x in features.items()})
        return output

    def vectors(self, maps: Tensor) -> Tensor:
        """Turn feature maps (B, T, C, h, w) into the n features of Sec. 3.2 (ledger stilt-L1)."""
        if self.config.reading == "regions":  # n = h * w positions of one frame, before the pool
            return maps.flatten(0, 1).flatten(2).transpose(1, 2)  # (B*T, h*w, C)
        return self.pooled(maps)  # (B, T, C): n = T, after the pool

    def _named(self, weights: list[Tensor], maps: dict[str, Tensor]) -> dict[str, Tensor]:
        steps = ("S1", "T", "S2") if self.config.order == "STS" else ("T1", "S", "T2")
        named = dict(zip(steps[-len(weights) :], weights, strict=True))
        if self.config.reading == "regions":
            sizes = {"S": maps["spatial"].shape[-2:], "T": maps["temporal"].shape[-2:]}
            return {step: a.reshape(-1, *sizes[step[0]]) for step, a in named.items()}  # (B*T, h, w)
        return named


def _clip_mean(x: Tensor, clips: int) -> Tensor:
    return x.reshape(clips, -1, x.shape[-1]).mean(dim=1)


def build(config: Config, num_classes: int) -> Streams:
    """Build the network that `config` describes."""
    if config.streams == "both":
        return STILT(config, num_classes)
    return PlainStream(config, config.streams, num_classes)


# ---------------------------------------------------------------- Tables 2 and 3


class LayerRow(NamedTuple):
    """One row of Table 2 or 3, read off a model; sizes per stream, "h x w x channels" or "n x channels"."""

    table: int
    layer: str
    inputs: dict[str, str]
    block: str
    outputs: dict[str, str]


def layer_table(model: Streams, size: int = 224, snippets: int = 1) -> list[LayerRow]:
    """Run the model once on zeros (1, snippets, ., size, size) and return the rows of Tables 2 and 3."""
    stages: dict[str, tuple[nn.Module, ...]] = {}
    blocks = {"Average pooling": "mean over all positions"}
    for stream, trunk in model.backbones.items():
        if isinstance(trunk, Backbone):
            stages.update({f"2/{stream}/{name.capitalize()}": modules for name, modules in trunk.stages().items()})
            blocks.update({name.capitalize(): describe(modules) for name, modules in trunk.stages().items()})
        stages[f"2/{stream}/Average pooling"] = (model.pool,)
        if isinstance(model, STILT):
            attention = model.interaction.first if stream == model.order[0] else model.interaction.second
            stages[f"3/{stream}/Alternating co-attention layer"] = (attention,)
            head = model.heads[stream]
            names = {"project": "Projection", "fc": "Fully connected layer", "classify": "Classes"}
            stages.update({f"3/{stream}/{name}": (getattr(head, part),) for part, name in names.items()})
        if isinstance(model, PlainStream):
            stages[f"3/{stream}/Classes"] = (model.classify,)
    device = next(model.parameters()).device
    rgb = torch.zeros(1, snippets, 3, size, size, device=device)
    flow = torch.zeros(1, snippets, 2 * model.config.flow_frames, size, size, device=device)
    rows: dict[str, LayerRow] = {}
    for key, (before, after) in stage_shapes(model, stages, rgb, flow).items():
        table, stream, layer = key.split("/")
        row = rows.setdefault(layer, LayerRow(int(table), layer, {}, blocks.get(layer, ""), {}))
        row.inputs[stream], row.outputs[stream] = size_text(before), size_text(after)
    return list(rows.values())
