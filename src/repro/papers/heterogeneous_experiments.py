"""What is trained for the chapter of the heterogeneous network: both roles of every base network, the three ways to
begin the temporal stream, and the controls.

`VARIANTS` names every training. Streams are trained apart (Sec. III.A.1); pairs of them are only fused, in
`heterogeneous_scores`. Where there are no ImageNet weights, `textures-*` pre-train on generated images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from repro.data.clips import Sampling
from repro.errors import ReproError, nearest
from repro.experiments import Experiment, States
from repro.models.weight_files import weights_for
from repro.papers.heterogeneous import TRIED, Config, Stream, build, initialise, transplanted_conv1
from repro.training import Recipe

TEXTURES = "textures"  # the starting weights that are trained here, in place of ImageNet's
STRATEGIES = ("resnet50", "bn_inception")  # Table 3
SPATIAL, TEMPORAL = "resnet101", "bn_inception"  # the proposed pair
DROPOUT = {"spatial": 0.8, "temporal": 0.7}  # [5]; ledger heterogeneous-L13


def dashed(backbone: str) -> str:
    """A base network's name in a variant's: bn-inception."""
    return backbone.replace("_", "-")


@dataclass(frozen=True)
class Variant:
    """One training of a stream. `begins`: "pretrained" (the role's usual way; a conv1 is averaged), "scratch" or
    "transplanted" (Table 3), or "images", the pre-training itself."""

    role: str
    backbone: str
    begins: str = "pretrained"
    config: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    twice: bool = False  # trained for two budgets


def _variants() -> dict[str, Variant]:
    out = {f"textures-{dashed(b)}": Variant("spatial", b, "images") for b in TRIED}
    out |= {f"{role}-{dashed(b)}": Variant(role, b) for role in ("spatial", "temporal") for b in TRIED}
    for b in STRATEGIES:
        name = f"temporal-{dashed(b)}"
        out[f"{name}-scratch"] = Variant("temporal", b, "scratch")
        out[f"{name}-transplanted"] = Variant("temporal", b, "transplanted")
        # The transplanted row trains twice; this one trains as long with an averaged conv1 (ledger heterogeneous-L5).
        out[f"{name}-longer"] = Variant("temporal", b, twice=True)
    for role, b in (("spatial", SPATIAL), ("temporal", TEMPORAL)):
        name = f"{role}-{dashed(b)}"
        out[f"{name}@one-segment"] = Variant(role, b, config={"segments": 1}, sampling={"snippets": 1})
        out[f"{name}@no-augmentation"] = Variant(role, b, sampling={"scales": (), "flip": False})
    # Without what the paper does not mention: frozen batch normalisation and dropout (ledger heterogeneous-L13).
    out[f"temporal-{dashed(TEMPORAL)}@moving-bn"] = Variant(
        "temporal", TEMPORAL, config={"partial_bn": False, "dropout": 0.0}
    )
    return out


VARIANTS = _variants()


@dataclass(frozen=True)
class Preset:
    """One scale at which all variants are run."""

    recipes: Mapping[str, Recipe]  # by role, and "images"
    sampling: Sampling
    protocol: str
    width: float
    weights: str
    short_side: int  # of stored frames, px
    dropout: Mapping[str, float] = field(default_factory=lambda: DROPOUT)
    per_class: tuple[int, int] | None = None
    images: Mapping[str, Any] = field(default_factory=dict)


PAPER = Preset(
    # Sec. IV.B.1: batch 256, rate 1e-4, times .1 every 15K (stop at 36K) and at 20K and 32K (stop at 40K), clipping 40.
    # DEVIATION: new layers and biases have the same rate as all others; [5] and the authors' code raise theirs.
    recipes={
        "spatial": Recipe(36_000, 256, 8, 1e-4, milestones=(15_000, 30_000)),
        "temporal": Recipe(40_000, 256, 8, 1e-4, milestones=(20_000, 32_000)),
    },
    sampling=Sampling(snippets=3, flow_frames=5, crop=224),
    protocol="25x10",
    width=1.0,
    weights="imagenet",
    short_side=256,
)
SMALL = Preset(
    # Rates: the best of .005, .015, .05 (spatial) and .015, .05, .15 (temporal) for ResNet-50, its conv1 averaged, on
    # one of four folds of motionshapes' training clips; where two were alike, BN-Inception decided.
    recipes={
        "spatial": Recipe(300, 32, 32, 0.015, schedule="cosine", warmup=20),
        "temporal": Recipe(300, 32, 32, 0.05, schedule="cosine", warmup=20),
        "images": Recipe(1000, 32, 32, 0.05, schedule="cosine", warmup=50),
    },
    # Every field's mean is taken from it, which removes a shaking camera (Simonyan and Zisserman 2014).
    sampling=Sampling(snippets=3, flow_frames=5, crop=56, scales=(1.0, 0.875), subtract_mean_flow=True),
    protocol="quick",
    width=0.25,
    weights=TEXTURES,
    short_side=64,
    images={"classes": 32, "per_class": 100, "size": 64, "crop": 56, "seed": 0},
)
KNOWN = ("paper", "small", "live", "smoke")


def preset(name: str, dataset: str) -> Preset:
    """The scale of that name for a data set: paper, small, live (small, a minute) or smoke (seconds)."""
    if name not in KNOWN:
        raise ReproError(f"unknown preset '{name}'{nearest(name, KNOWN)}: use one of {', '.join(KNOWN)}")
    if name == "paper":
        return PAPER
    if name == "small":
        if dataset != "weizmann":
            return SMALL
        halved = {r: replace(x, iterations=150) for r, x in SMALL.recipes.items() if r != "images"}
        return replace(SMALL, recipes={**SMALL.recipes, **halved})
    clips, steps, kept = (16, 30, (4, 2)) if name == "live" else (4, 2, (1, 1))
    recipes = {
        role: replace(r, iterations=steps, batch=clips, micro_batch=clips, warmup=0)
        for role, r in SMALL.recipes.items()
    }
    images = {**SMALL.images, "classes": 8, "per_class": 10}
    test = SMALL.protocol if name == "live" else "smoke"
    return replace(SMALL, recipes=recipes, images=images, protocol=test, per_class=kept)


def experiments(preset_name: str, dataset: str, weights: str = "auto") -> dict[str, Experiment]:
    """Every training of the chapter at one scale, by name. `weights` other than "auto" replaces the preset's.

    Only "textures" are trained here, by the variants `textures-*`; with other weights these are left out.
    """
    scale = preset(preset_name, dataset)
    asked, weights = weights, scale.weights if weights == "auto" else weights
    if weights == TEXTURES and not scale.images:
        raise ReproError(f"preset {preset_name} trains no textures: use weights imagenet, none or a folder")
    out: dict[str, Experiment] = {}
    for name, variant in VARIANTS.items():
        if variant.begins == "images" and weights != TEXTURES:
            continue
        out[name] = replace(_experiment(name, variant, scale, preset_name, weights, out), weights=asked)
    return out


def _experiment(
    name: str, variant: Variant, scale: Preset, preset_name: str, weights: str, done: Mapping[str, Experiment]
) -> Experiment:
    """The training that `variant` describes; those it starts from are in `done`."""
    on_images = variant.begins == "images"
    own = "none" if on_images or variant.begins == "scratch" else weights
    settings: dict[str, Any] = {
        "dropout": 0.0 if on_images else scale.dropout[variant.role],
        "partial_bn": own != "none",
    }
    settings |= {"segments": 1} if on_images else {}
    config = Config(
        variant.role, variant.backbone, width=scale.width, flow_frames=scale.sampling.flow_frames,
        **{**settings, **variant.config},
    )  # fmt: skip
    start = [done[f"textures-{dashed(variant.backbone)}"]] if own == TEXTURES else []
    start += [done[f"temporal-{dashed(variant.backbone)}-scratch"]] if variant.begins == "transplanted" else []
    recipe = scale.recipes["images" if on_images else variant.role]
    if variant.twice:
        recipe = replace(recipe, iterations=2 * recipe.iterations, milestones=tuple(2 * m for m in recipe.milestones))
    return Experiment(
        paper="heterogeneous",
        name=name,
        preset=preset_name,
        config={**dataclasses.asdict(config), "weights": weights, "begins": variant.begins},
        recipe=recipe,
        sampling=_sampling(variant, scale),
        protocol=scale.protocol,
        build=partial(network, config, own),
        per_class=None if on_images else scale.per_class,
        start=tuple(start),
        begin=partial(_begin, own == TEXTURES, variant.begins == "transplanted") if start else None,
        images=scale.images if on_images else None,
        backbone="" if own in ("none", TEXTURES) else variant.backbone,
        keep=("test",),
    )


def _sampling(variant: Variant, scale: Preset) -> Sampling:
    streams = ("rgb",) if variant.role == "spatial" else ("flow",)
    sampling = replace(scale.sampling, streams=streams, **variant.sampling)
    return replace(sampling, snippets=1) if variant.begins == "images" else sampling


def network(config: Config, weights: str, num_classes: int) -> nn.Module:
    """Build the stream and load its starting weights; textures and transplanted filters come when a run begins."""
    model = build(config, num_classes)
    if weights not in ("none", TEXTURES):
        initialise(model, weights_for(weights, config.backbone))
    return model


def _begin(pretrained: bool, transplanted: bool, model: nn.Module, states: States) -> None:
    """Table 3: take over a base network trained on textures, then the conv1 of a temporal network from scratch."""
    assert isinstance(model, Stream)
    trunks = [{k.removeprefix("trunk."): v for k, v in s.items() if k.startswith("trunk.")} for s in states]
    if pretrained:
        initialise(model, trunks[0])
    if transplanted:
        first = next(n for n, layer in model.trunk.named_modules() if isinstance(layer, nn.Conv2d))
        transplanted_conv1(model.trunk, trunks[-1][f"{first}.weight"])
