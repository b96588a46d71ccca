"""CCS: Cooperative Cross-Stream network (Zhang, Xu, Shen, Shen, 2019).

The file puts the network together in the paper's order: the two streams (Sec. 3.1, `ccs_streams`), the connection block
(Sec. 3.2, `ccs_block`), aggregation and shared block (Sec. 3.3, `ccs_streams`; the losses are in `ccs_losses`), class
activation maps (Sec. 4.4). B clips, T snippets or frames, L flow frames, n classes, C H W; P positions of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repro.errors import ReproError, nearest
from repro.models import BACKBONES
from repro.models.base import scaled
from repro.models.count import evaluating
from repro.models.trn import Relations
from repro.models.weights import LoadReport
from repro.papers.ccs_block import CONNECTIONS, NORMALISERS, PASSING, VALUES, ConnectionBlock, Join
from repro.papers.ccs_losses import CROSS_ENTROPY, FEATURE, PROPOSED, STREAMS, Losses
from repro.papers.ccs_streams import SharedBlock, Snippets, WholeClip, aggregate, groups, regrouped, spatial_mean

Array = NDArray[Any]
FIXED = ("product", "concatenation", "relations")  # aggregations that depend on how many snippets there are

CHOICES = {
    "base": ("tsn", "i3d"),
    "backbone": BACKBONES,
    "streams": ("both", *STREAMS),
    "connection": CONNECTIONS,
    "normaliser": NORMALISERS,
    "values": VALUES,
    "place": ("maps", "pooled"),
    "aggregation": ("average", "maximum", *FIXED),
    "head": ("shared", "linear"),
    "embedding": ("aggregate", "hidden"),
    "test": ("clip", "groups"),
}


@dataclass(frozen=True)
class Config:
    """The network. One of the `streams` alone is a plain TSN or I3D; `METHODS` are the rows of Table 3."""

    base: str = "tsn"  # Table 3
    backbone: str = "bn_inception"  # of TSN; Figure 5b (ledger ccs-L35)
    streams: str = "both"
    connection: str = "cross"  # Sec. 3.2; "own" and "scalar" are Eq. 3 and Eq. 1 to the letter (ledger ccs-L1, L3)
    normaliser: str = "softmax"  # of Eq. 2 (ledger ccs-L4)
    values: str = "features"  # ledger ccs-L5
    place: str = "maps"  # where the block acts: on the last maps, or after their spatial mean (ledger ccs-L6)
    zero_start: bool = True  # W^f and W^o begin at 0; the paper does not say
    aggregation: str = "average"  # Figure 5a; "relations": TRN (Table 2)
    head: str = "shared"  # Sec. 3.3; "linear": the base's own, a layer per stream
    hidden: int = 512  # of the shared block (ledger ccs-L13)
    embedding: str = "aggregate"  # z of Eq. 4, 5: Sec. 3.3's aggregate, or the shared block's "hidden" layer
    losses: Losses = PROPOSED
    width: float = 1.0  # scales the channels of the base, the shared block and the relations alike
    segments: int = 3  # Sec. 4.2; snippets of a video in training. I3D takes all frames of a clip
    flow_frames: int = 5  # L, Sec. 3.1: 5 u and 5 v; 1 for I3D
    # Before the classifier. The paper names none; TSN [38], on which it stands, has .8 for RGB and .7 for flow.
    dropout: tuple[float, float] = (0.8, 0.7)
    partial_bn: bool = True  # TSN's; makes sense for pre-trained weights only: switch it off from scratch and for I3D
    # All test snippets enter together, or `segments` at a time as in training (ledger ccs-L36).
    test: str = "clip"

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            value = getattr(self, name)
            if value not in options:
                raise ReproError(f"{name} '{value}'{nearest(value, options)}: use one of {', '.join(options)}")
        if self.streams != "both" and (self.connection != "none" or self.losses.needed):
            raise ReproError(f"streams '{self.streams}' is one stream: set connection 'none' and losses CROSS_ENTROPY")
        if self.head == "linear" and self.embedding == "hidden":
            raise ReproError("embedding 'hidden' is a layer of the shared block: set head 'shared'")
        if self.base == "i3d" and (self.partial_bn or self.aggregation in FIXED or self.test == "groups"):
            raise ReproError(
                "I3D takes a whole clip: set partial_bn False, aggregation average or maximum, test 'clip'"
            )
        if self.aggregation in FIXED and self.test != "groups":
            raise ReproError(
                f"aggregation '{self.aggregation}' needs as many snippets as in training: set test 'groups'"
            )

    @property
    def modalities(self) -> tuple[str, ...]:
        """The streams by name, in the order in which they run."""
        return STREAMS if self.streams == "both" else (self.streams,)


# Table 3, "Method": what differs from the proposed network. As its caption has it, CB is the block alone, before the
# base's own classifiers; CS is the shared block and its losses alone. (Sec. 4.3 says of CS that the shared layer is
# removed and of both that only cross-entropy is used, which would leave CS nothing to measure.)
METHODS: dict[str, dict[str, Any]] = {
    "baseline": {"connection": "none", "head": "linear", "losses": CROSS_ENTROPY},
    "CB": {"head": "linear", "losses": CROSS_ENTROPY},
    "CS": {"connection": "none"},
    "All": {},
}
# Table 3, "Base Model"; of the I3D variant the paper says nothing: 64 frames and .5 as in its source (ledger ccs-L27).
BASES: dict[str, dict[str, Any]] = {
    "tsn": {},
    "i3d": {"base": "i3d", "segments": 64, "flow_frames": 1, "dropout": (0.5, 0.5), "partial_bn": False},
}
# Table 2 (ledger ccs-L33)
TRN: dict[str, Any] = {"aggregation": "relations", "segments": 8, "test": "groups"}


class Output(NamedTuple):
    """What a forward pass gives, by stream ("rgb", "flow")."""

    logits: dict[str, Tensor]  # (B, n)
    features: dict[str, Tensor]  # z of Eq. 4 and 5 before it is given unit length, (B, D)


Maps = dict[str, Tensor]  # by stream


# ---------------------------------------------------------------- Figure 2: the network


class CCS(nn.Module):
    """Two streams, the connection block between them, the shared block behind them.

    A test clip may be read in groups of snippets (`groups`): then G groups of a clip are as many clips, B * G in all,
    and what is returned is the mean over them.
    """

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.config = config
        inputs = {"rgb": 3, "flow": 2 * config.flow_frames}
        streams = {m: _stream(config, inputs[m]) for m in config.modalities}
        self.streams = nn.ModuleDict(streams)
        channels = streams[config.modalities[0]].channels
        self.block = _connection(config, channels)
        channels *= 2 if config.connection == "concatenation" else 1
        features = channels * (config.segments if config.aggregation == "concatenation" else 1)
        self.relations = nn.ModuleDict()
        if config.aggregation == "relations":
            features = scaled(256, config.width)  # both layers of TRN's released code
            for m in config.modalities:
                self.relations[m] = Relations(channels, config.segments, features, feature=features, hidden=features)
        drop = dict(zip(STREAMS, config.dropout, strict=True))
        self.dropout = nn.ModuleDict({m: nn.Dropout(drop[m]) for m in config.modalities})
        self.shared: SharedBlock | None = None
        self.linear = nn.ModuleDict()
        if config.head == "shared":
            self.shared = SharedBlock(features, scaled(config.hidden, config.width), num_classes)
        else:
            self.linear.update({m: nn.Linear(features, num_classes) for m in config.modalities})
        for m in config.modalities:
            nn.init.normal_(self.classifier(m).weight, std=0.001)  # TSN's code; the paper does not say
            nn.init.zeros_(self.classifier(m).bias)

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> dict[str, Tensor]:
        """Return the logits (B, n) of each stream by name for rgb (B, T, 3, H, W) and flow (B, T, 2L, H, W).

        In training with Eq. 4 or 5 also z (B, D), as "rgb.feature" and "flow.feature", for `ccs_losses.total_loss`.
        T is the number of segments in training and anything in testing; I3D takes any T. An input whose stream the
        network has not may be None.
        """
        output = self.explain(rgb, flow)
        if not (self.training and self.config.losses.needed):
            return output.logits
        return output.logits | {m + FEATURE: z for m, z in output.features.items()}

    def explain(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> Output:
        """Return logits and features (the embedding of Figure 4)."""
        maps, index = self.maps(rgb, flow)
        return self.read(self.connected(maps, "maps"), len(index))

    # -- Sec. 3.1 and 3.2

    def maps(self, rgb: Tensor | None, flow: Tensor | None) -> tuple[Maps, Tensor]:
        """Return each stream's last maps before the block, (B * G, C, K, h, w), and the groups (G, K)."""
        given = {"rgb": rgb, "flow": flow}
        out = {}
        for m in self.config.modalities:
            x = given[m]
            if x is None:
                raise ReproError(f"the {m} stream got no input: pass {m}")
            if self.training and self.config.base == "tsn" and x.shape[1] != self.config.segments:
                raise ReproError(f"{x.shape[1]} snippets in training, {self.config.segments} segments: make them equal")
            out[m] = self.stream(m).maps(x)
        if len({y.shape for y in out.values()}) > 1:
            sizes = " and ".join(str(tuple(y.shape)) for y in out.values())
            raise ReproError(f"maps of {sizes}: give both streams the same clips, snippets and crop")
        snippets = next(iter(out.values())).shape[2]
        index = self.groups(snippets)
        return {m: y if index.shape == (1, snippets) else regrouped(y, index) for m, y in out.items()}, index

    def groups(self, snippets: int) -> Tensor:
        """Return which snippets are read together, (G, K): all of them, or as many as in training (`groups`)."""
        if self.config.test == "clip" or self.training:
            return torch.arange(snippets)[None]
        return groups(snippets, self.config.segments)

    def connected(self, x: Maps, place: str) -> Maps:
        """Sec. 3.2: pass both streams' features (B, C, ...) through the block, if it is at that place."""
        if self.block is None or place != self.config.place:
            return x
        return dict(zip(STREAMS, self.block(x["rgb"], x["flow"]), strict=True))

    def attention(self, rgb: Tensor, flow: Tensor) -> Maps:
        """Return the affinities y (B * G, P, P) as each stream uses them: a row per own position, over the other's.

        Positions are those of (K, h, w) in that order, or the K snippets if the block comes after the pool.
        """
        if not isinstance(self.block, ConnectionBlock):
            raise ReproError(f"connection '{self.config.connection}' has none: use one of {', '.join(PASSING)}")
        maps, _ = self.maps(rgb, flow)
        x = maps if self.config.place == "maps" else spatial_mean(maps)
        return self.block.attention(x["rgb"], x["flow"])

    # -- Sec. 3.3

    def read(self, maps: Maps, count: int) -> Output:
        """Return logits and features for connected maps (B * G, C, K, h, w), G = `count` groups of each clip."""
        out = Output({}, {})
        for m, x in self.sequences(maps).items():
            z = self.relations[m](x) if m in self.relations else aggregate(x, self.config.aggregation)
            logits, feature = self.classify(m, z)
            out.logits[m] = _clip_mean(logits, count)
            out.features[m] = _clip_mean(feature, count)
        return out

    def sequences(self, maps: Maps) -> Maps:
        """Turn connected maps (B, C, T, h, w) into the sequences that are aggregated, (B, T, C)."""
        return {m: self.stream(m).sequence(x) for m, x in self.connected(spatial_mean(maps), "pooled").items()}

    def classify(self, m: str, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, n) and the feature of Eq. 4 and 5 (B, D) for an aggregated feature z of stream m."""
        last = self.shared.hidden(z) if self.shared else z
        logits: Tensor = self.classifier(m)(self.dropout[m](last))
        return logits, last if self.config.embedding == "hidden" else z

    def snippet_scores(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> Maps:
        """Return each snippet's own logits (B, T, n), for `aggregate_scores`; the block connects all T snippets."""
        if self.config.aggregation in FIXED:
            raise ReproError(f"aggregation '{self.config.aggregation}' reads no single snippet: use average or maximum")
        maps, _ = self.maps(rgb, flow)
        sequences = self.sequences(self.connected(maps, "maps"))
        return {m: self.classify(m, x.flatten(0, 1))[0].reshape(*x.shape[:2], -1) for m, x in sequences.items()}

    # -- Sec. 4.4

    def activation_maps(self, classes: Tensor, rgb: Tensor | None = None, flow: Tensor | None = None) -> Maps:
        """Return class activation maps (B, T', h, w) of each stream for one class number per clip, `classes` (B,).

        A place counts sum_k x_k ds/dx_k: its connected features times the class score's gradient there. With average
        aggregation and a linear classifier that is CAM [46], sum_k w_k x_k / (T h w), and all places add up to the
        score less its bias; behind two layers it is the score's linear part. T' is T, or I3D's last time steps. Maps
        are signed and as small as the network's last ones.
        """
        with evaluating(self):
            with torch.no_grad():
                maps, index = self.maps(rgb, flow)
                x = self.connected(maps, "maps")
            with torch.enable_grad():
                x = {m: y.detach().requires_grad_() for m, y in x.items()}
                logits = self.read(x, len(index)).logits
                scores = {m: s.gather(1, classes[:, None].to(s.device)).sum() for m, s in logits.items()}
                slopes = {m: torch.autograd.grad(s, x[m], retain_graph=True)[0] for m, s in scores.items()}
        out = {}
        for m, slope in slopes.items():
            shares = (x[m].detach() * slope).sum(dim=1)  # (B * G, K, h, w)
            shares = shares.reshape(len(classes), -1, *shares.shape[2:])  # (B, G * K, h, w)
            whole = shares.new_zeros(len(classes), int(index.max()) + 1, *shares.shape[2:])
            out[m] = whole.index_add(1, index.flatten().to(whole.device), shares)
        return out

    # -- parts

    def stream(self, m: str) -> Snippets | WholeClip:
        """The base network of stream m."""
        module = self.streams[m]
        assert isinstance(module, Snippets | WholeClip)
        return module

    def classifier(self, m: str) -> nn.Linear:
        """The last layer of stream m; in the shared block both have the same."""
        layer = self.shared.classify if self.shared else self.linear[m]
        assert isinstance(layer, nn.Linear)
        return layer


def _stream(config: Config, in_channels: int) -> Snippets | WholeClip:
    if config.base == "i3d":
        return WholeClip(in_channels, config.width)
    return Snippets(config.backbone, in_channels, config.width, partial_bn=config.partial_bn)


def _connection(config: Config, channels: int) -> ConnectionBlock | Join | None:
    if config.connection == "none":
        return None
    if config.connection not in PASSING:
        return Join(config.connection)
    return ConnectionBlock(
        channels,
        channels // 2,  # as in the non-local block (ledger ccs-L5)
        connection=config.connection,
        normaliser=config.normaliser,
        values=config.values,
        zero_start=config.zero_start,
    )


def _clip_mean(x: Tensor, count: int) -> Tensor:
    return x.reshape(-1, count, x.shape[-1]).mean(dim=1)


def fuse(rgb: Array, flow: Array, weight: float = 1.0) -> Array:
    """Fuse two streams' logits (N, n): their weighted mean, flow's weight against rgb's 1.

    The paper fuses class scores and gives no weights (ledger ccs-L26).
    """
    if not 0 <= weight < np.inf:
        raise ReproError(f"fusion weight {weight}: give a number of at least 0")
    return np.asarray((rgb + weight * flow) / (1 + weight))


def build(config: Config, num_classes: int) -> CCS:
    """Build the network that `config` describes."""
    return CCS(config, num_classes)


def initialise(model: CCS, weights: Mapping[str, str | Path | Mapping[str, Tensor]]) -> dict[str, LoadReport]:
    """Load starting weights into the streams, by name: "none", "imagenet", a file or a state dict each (Table 1).

    Raises ReproError for weights that do not fit, and for partial batch normalisation without pre-trained weights,
    whose statistics would stay those of an untrained network.
    """
    if model.config.partial_bn and any(isinstance(w, str) and w == "none" for w in weights.values()):
        raise ReproError("partial_bn freezes statistics that weights 'none' has not: set partial_bn=False")
    return {m: model.stream(m).load(weights[m]) for m in model.config.modalities}
