"""What is trained for the chapter of CCS: the four methods of Table 3 on TSN and on I3D, TRN, and the variants.

`VARIANTS` names every training. Both streams are in one network, the plain pair of the baseline too, so that all
methods see the same batches of the same clips for as many steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from repro.data.clips import Sampling
from repro.data.facts import OFFICIAL
from repro.errors import ReproError, nearest
from repro.experiments import Experiment
from repro.models.weight_files import weights_for
from repro.papers.ccs import BASES, METHODS, TRN, Config, build, initialise
from repro.papers.ccs_losses import total_loss
from repro.training import Recipe

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """One training. `base`: "tsn", "i3d" or "trn" (a TSN with relations); `method`: a row of Table 3. `config` and
    `losses` say what differs from that."""

    base: str
    method: str
    config: Changes = field(default_factory=dict)
    losses: Changes = field(default_factory=dict)


GROUPED = {"test": "groups"}  # what depends on the number of snippets is tested on groups of as many
# One margin at a time, and Table 4's triples that change several (ledger ccs-L23); the rest are the proposed ones.
MARGINS: dict[str, dict[str, float]] = {
    "alpha1-0.2": {"alpha1": 0.2},  # Table 4
    "alpha1-0.5": {"alpha1": 0.5},
    "alpha2-0.5": {"alpha2": 0.5},
    "alpha3-0.4": {"alpha3": 0.4},
    "alpha3-1.2": {"alpha3": 1.2},
    "margins-0.3-0.5-1.0": {"alpha1": 0.3, "alpha2": 0.5, "alpha3": 1.0},  # Table 4
    "margins-0.5-0.5-1.0": {"alpha1": 0.5, "alpha2": 0.5, "alpha3": 1.0},
    "margins-0.8-0.5-1.2": {"alpha1": 0.8, "alpha2": 0.5, "alpha3": 1.2},
}
VARIANTS: dict[str, Variant] = {
    # Table 3
    "baseline": Variant("tsn", "baseline"),
    "cb": Variant("tsn", "CB"),
    "cs": Variant("tsn", "CS"),
    "all": Variant("tsn", "All"),
    "i3d-baseline": Variant("i3d", "baseline"),
    "i3d-cb": Variant("i3d", "CB"),
    "i3d-cs": Variant("i3d", "CS"),
    "i3d-all": Variant("i3d", "All"),
    # Table 2 (ledger ccs-L33)
    "trn-baseline": Variant("trn", "baseline"),
    "trn-all": Variant("trn", "All"),
    # Figure 5a (ledger ccs-L25)
    "all@maximum": Variant("tsn", "All", {"aggregation": "maximum"}),
    "all@product": Variant("tsn", "All", {"aggregation": "product", **GROUPED}),
    "all@concatenation": Variant("tsn", "All", {"aggregation": "concatenation", **GROUPED}),
    # Sec. 4.3: joins in the block's place (ledger ccs-L34)
    "cb@concatenation": Variant("tsn", "CB", {"connection": "concatenation"}),
    "cb@average": Variant("tsn", "CB", {"connection": "average"}),
    # Figure 5b (ledger ccs-L32)
    **{
        f"{name}@{b}": Variant("tsn", method, {"backbone": b})
        for name, method in (("all", "All"), ("baseline", "baseline"))
        for b in ("vgg16", "resnet50")
    },
    # Table 4
    **{f"all@{name}": Variant("tsn", "All", losses=margins) for name, margins in MARGINS.items()},
    # Eq. 6 without one of its terms
    "all@no-triplet": Variant("tsn", "All", losses={"lambda1": 0.0}),
    "all@no-embedding": Variant("tsn", "All", losses={"lambda2": 0.0}),
    # Other readings: Eq. 3 and Eq. 1 to the letter, the block's place, the positive of Eq. 4
    "cb@own": Variant("tsn", "CB", {"connection": "own"}),  # ledger ccs-L3
    "cb@scalar": Variant("tsn", "CB", {"connection": "scalar"}),  # ledger ccs-L1
    "cb@pooled": Variant("tsn", "CB", {"place": "pooled"}),  # ledger ccs-L6
    "all@same-clip": Variant("tsn", "All", losses={"positive": "same_clip"}),  # ledger ccs-L9
}


@dataclass(frozen=True)
class Preset:
    """One scale; recipes, samplings and test protocols by base ("tsn", "i3d", "trn")."""

    recipes: Mapping[str, Recipe]
    samplings: Mapping[str, Sampling]
    protocols: Mapping[str, str]
    width: float
    weights: str
    short_side: int  # of stored frames, px
    dropout: tuple[float, float] | None = None  # of the RGB and the flow stream; None: the base's own
    per_class: tuple[int, int] | None = None


BATCH = (8, 4)  # N classes of M clips (ledger ccs-L11); one without the losses between clips has the same
EPOCHS, FIRST_EPOCHS = 400, 50  # Sec. 4.1: all, and those before the rate falls (ledger ccs-L12)
# An epoch is as many clips as the set has for training; a set without official lists is trained as long as UCF101.
EPOCH_OF = "ucf101"


def _published(dataset: str) -> Recipe:
    """Sec. 4.1 in iterations."""
    lists = OFFICIAL.get(dataset, OFFICIAL[EPOCH_OF])[1]
    clips = next(iter(lists.values())).train
    batch = BATCH[0] * BATCH[1]
    first, last = (round(epochs * clips / batch) for epochs in (FIRST_EPOCHS, EPOCHS))
    return Recipe(last, batch, batch, 1e-3, milestones=(first,), balanced=BATCH)


def _paper(dataset: str) -> Preset:
    snippets = Sampling(snippets=Config().segments, flow_frames=Config().flow_frames, crop=224)
    i3d = replace(
        snippets, snippets=BASES["i3d"]["segments"], flow_frames=BASES["i3d"]["flow_frames"], stride=(1, 1),
        frame_offset=0,
    )  # fmt: skip
    return Preset(
        # DEVIATION: gradients are clipped at a norm of 40, as in every chapter; new layers and biases have the rate of
        # all others, where [38]'s code raises theirs.
        recipes=dict.fromkeys(("tsn", "i3d", "trn"), _published(dataset)),
        samplings={"tsn": snippets, "i3d": i3d, "trn": replace(snippets, snippets=TRN["segments"])},
        protocols={"tsn": "25x1", "i3d": "chain64", "trn": "25x1"},  # ledger ccs-L36
        width=1.0,
        weights="imagenet",
        short_side=256,
    )


_SNIPPETS = Sampling(snippets=3, flow_frames=5, crop=56, scales=(1.0, 0.875), subtract_mean_flow=True)
_QUARTER = Recipe(300, 32, 32, 0.05, schedule="cosine", warmup=20, balanced=BATCH)
SMALL = Preset(
    # DEVIATION: cosine schedules from random weights, and far fewer steps, of I3D half as many. All methods have one
    # rate: of .015 and .05 that with which the baseline and All together do better, on one of four folds of
    # motionshapes' training clips. On TSN the baseline prefers .05, All .015.
    recipes={"tsn": _QUARTER, "i3d": replace(_QUARTER, iterations=150), "trn": _QUARTER},
    # DEVIATION: every field's mean is taken from it, which removes a shaking camera (Simonyan and Zisserman 2014).
    samplings={
        "tsn": _SNIPPETS,
        # DEVIATION: 16 frames two apart, where I3D has 64 in a row.
        "i3d": replace(_SNIPPETS, snippets=16, flow_frames=1, stride=(2, 2), frame_offset=0),
        # DEVIATION: relations of 4 snippets, where TRN has 8, which cost half as much.
        "trn": replace(_SNIPPETS, snippets=4),
    },
    protocols={"tsn": "quick", "i3d": "chain16", "trn": "quick"},
    width=0.25,
    weights="none",
    short_side=64,
    # DEVIATION: no dropout: [38]'s rates are for pre-trained networks four times as wide (ledger ccs-L41). Nor are
    # there statistics to freeze.
    dropout=(0.0, 0.0),
)
KNOWN = ("paper", "small", "live", "smoke")


def preset(name: str, dataset: str) -> Preset:
    """The scale of that name for a data set: paper, small, live (small, a minute) or smoke (seconds)."""
    if name not in KNOWN:
        raise ReproError(f"unknown preset '{name}'{nearest(name, KNOWN)}: use one of {', '.join(KNOWN)}")
    if name == "paper":
        return _paper(dataset)
    if name == "small":
        if dataset != "weizmann":
            return SMALL
        return replace(SMALL, recipes={b: replace(r, iterations=r.iterations // 2) for b, r in SMALL.recipes.items()})
    if name == "live":
        live = _changed(SMALL, iterations=30, batch=16, micro_batch=16, warmup=0, balanced=(4, 4))
        return replace(live, per_class=(4, 2))
    smoke = _changed(SMALL, iterations=2, batch=4, micro_batch=4, warmup=0, balanced=(2, 2))
    return replace(smoke, protocols=dict.fromkeys(SMALL.protocols, "smoke"), per_class=(1, 1))


def _changed(scale: Preset, **changes: Any) -> Preset:
    """The scale with every recipe changed."""
    return replace(scale, recipes={base: replace(r, **changes) for base, r in scale.recipes.items()})


def experiments(preset_name: str, dataset: str, weights: str = "auto") -> dict[str, Experiment]:
    """Every training of the chapter at one scale, by name. `weights` other than "auto" replaces the preset's."""
    scale = preset(preset_name, dataset)
    first = scale.weights if weights == "auto" else weights
    out = {}
    for name, variant in VARIANTS.items():
        config = _config(variant, scale, first)
        out[name] = Experiment(
            paper="ccs",
            name=name,
            preset=preset_name,
            config={**dataclasses.asdict(config), "weights": first},
            recipe=scale.recipes[variant.base],
            sampling=scale.samplings[variant.base],
            protocol=scale.protocols[variant.base],
            build=partial(network, config, first),
            per_class=scale.per_class,
            weights=weights,
            backbone="" if first == "none" else base_network(config),
            loss=partial(total_loss, losses=config.losses),
            keep=("test",),
        )
    return out


def _config(variant: Variant, scale: Preset, weights: str) -> Config:
    """The network that `variant` describes, as large as `scale` has it."""
    sampling = scale.samplings[variant.base]
    base = TRN if variant.base == "trn" else BASES[variant.base]
    settings = {**base, **METHODS[variant.method], **variant.config}
    settings |= {"segments": sampling.snippets, "flow_frames": sampling.flow_frames}
    # TSN's frozen statistics are those of pre-trained weights; I3D's move (ledger ccs-L41).
    settings |= {"partial_bn": weights != "none" and variant.base != "i3d"}
    settings |= {} if scale.dropout is None else {"dropout": scale.dropout}
    config = Config(width=scale.width, **settings)
    return replace(config, losses=replace(config.losses, **variant.losses))


def base_network(config: Config) -> str:
    """The image network that starting weights are for, and the name of its file in a folder of them.

    I3D inflates torchvision's GoogLeNet: Table 1 has it pre-trained on ImageNet.
    """
    return "googlenet" if config.base == "i3d" else config.backbone


def network(config: Config, weights: str, num_classes: int) -> nn.Module:
    """Build the network; both of its streams start from `weights` ("none", "imagenet", a file or a folder of files)."""
    model = build(config, num_classes)
    initialise(model, dict.fromkeys(config.modalities, weights_for(weights, base_network(config))))
    return model
