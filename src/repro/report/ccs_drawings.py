"""What the CCS chapter draws before any run: its network, its connection block, its losses on a few points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from repro.papers.ccs import CCS, Config, build
from repro.papers.ccs_block import ConnectionBlock
from repro.papers.ccs_losses import CROSS_ENTROPY, PROPOSED, embedding_loss, prepared, triplet_loss
from repro.report import ccs_plots, diagrams
from repro.report.figures import show
from repro.report.theme import Shown

CLASSES = 101  # of UCF101, in drawings
FIRST = {"rgb": 3, "flow": 2 * Config().flow_frames}  # channels of a snippet
FALLING = {  # what is shown falling
    "before": CROSS_ENTROPY,
    "Eq. 4 alone": replace(PROPOSED, lambda2=0.0),
    "Eq. 5 alone": replace(PROPOSED, lambda1=0.0),
    "both": PROPOSED,
}

# ---------------------------------------------------------------- the network, before any run


@cache
def _live() -> tuple[CCS, dict[str, Tensor]]:
    """The network at full width and its last maps (1, C, T, h, w) of one clip, without arithmetic."""
    config = Config()
    with torch.device("meta"):
        model = build(config, CLASSES).eval()
        return model, model.maps(**{m: torch.zeros(1, config.segments, c, 224, 224) for m, c in FIRST.items()})[0]


def network_drawing() -> Shown:
    """Figure 2 of the paper: two streams, the connection block between them, the shared block behind them."""
    model, maps = _live()
    assert model.shared is not None
    channels, snippets, h, w = maps["rgb"].shape[1:]
    streams = {}
    for m, first in FIRST.items():
        what = f"{snippets} frames" if m == "rgb" else f"{snippets} stacks"
        streams["RGB" if m == "rgb" else m] = [
            diagrams.Box(what, f"{first} x 224 x 224"),
            diagrams.Box("BN-Inception", f"{channels} x {h} x {w}"),
            diagrams.Box("connection", f"{channels} x {snippets * h * w}", step="1"),
            diagrams.Box("average", str(model.shared.fc.in_features), step="2"),
            diagrams.Box("shared layer", str(model.shared.fc.out_features), step="3"),
            diagrams.Box("shared scores", str(model.shared.classify.out_features), step="3"),
        ]
    both = [((a, i), (b, i)) for i in (2, 3) for a, b in (("RGB", "flow"), ("flow", "RGB"))]
    return show(
        diagrams.two_stream_drawing(streams, both, [diagrams.Box("mean of both", str(CLASSES))]),
        alt="Two columns of layers, the RGB stream from frames and the flow stream from stacks of flow fields, each "
        "through a BN-Inception; double arrows join them at the connection block (1) and at the averaged features (2); "
        "then both pass two layers with the same weights (3), and their class scores are averaged.",
        caption=f"The network, read off the live model (full width, {CLASSES} classes). 1: every place of every "
        "snippet takes up features of the other stream. 2: the losses of Eq. 4 and 5 compare the features of both "
        "streams. 3: both go through the same two layers. The last box is the mean of both class scores.",
    )


def connection_drawing() -> Shown:
    """Figure 3 of the paper: the connection block, in the reading that passes features across."""
    model, maps = _live()
    block = model.block
    assert isinstance(block, ConnectionBlock)
    inner, y = block.phi(maps["rgb"].flatten(2)), block.attention(maps["rgb"], maps["flow"])["rgb"]
    shapes = {"maps": maps["rgb"].flatten(2), "inner": inner, "affinity": y}
    return show(
        ccs_plots.block_drawing({k: " x ".join(map(str, x.shape[1:])) for k, x in shapes.items()}),
        alt="The connection block: maps of both streams are embedded by phi and kappa, these give one affinity y; with "
        "it the RGB stream sums up the flow stream's maps and the flow stream the RGB stream's; each sum passes a "
        "convolution W and is added to the stream's own maps.",
        caption=f"The connection block, shapes read off the live model: {y.shape[-1]} positions of "
        f"{model.config.segments} snippets. The orange line into the left column and the blue one into the right "
        "column are what crosses: the other stream's features.",
    )


@cache
def losses_drawing(clips: int = 8, steps: int = 300, rate: float = 2.4) -> Shown:
    """Figure 4 of the paper, computed: what gradient steps on Eq. 4, on Eq. 5 and on both do to points on a sphere."""
    labels = torch.arange(3).repeat_interleave(clips)
    planes, notes = {}, {}
    for name, losses in FALLING.items():
        z = _points(labels)
        for _ in range(steps if losses.needed else 0):
            first, second = _losses(z, labels)
            slopes = torch.autograd.grad(losses.lambda1 * first + losses.lambda2 * second, list(z.values()))
            z = {m: (x - rate * s).detach().requires_grad_() for (m, x), s in zip(z.items(), slopes, strict=True)}
        at = {m: prepared(x, PROPOSED).detach().numpy() for m, x in z.items()}
        planes[name] = ccs_plots.principal_plane(at["rgb"], at["flow"])
        gap = np.square(at["rgb"] - at["flow"]).sum(1).mean()
        found = {f"$L_{i}$": x.item() for i, x in enumerate(_losses(z, labels), 1)} | {"gap": float(gap)}
        notes[name] = ", ".join(f"{k} {v:.2f}" for k, v in found.items())
    told = "; ".join(f"{name}: {note.replace('$', '').replace('_', '')}" for name, note in notes.items())
    return show(
        ccs_plots.embedding(planes, labels.numpy(), [f"class {c + 1}" for c in range(3)], notes),
        alt=f"Points of three classes and two modalities, before and after training: {told}.",
        caption=f"{3 * clips} invented clips with features of three numbers, at unit length, after {steps} gradient "
        "steps on the losses alone, in the plane in which they differ most. Lines join the two features of a clip; the "
        "gap is their mean squared distance. Eq. 4 compares distances between the modalities with each other, so it "
        "falls to nothing once every class is nearest to itself, and the gap may stay. Eq. 5 acts within a modality, "
        "and neither asks for more than its margins.",
    )


def _points(labels: Tensor) -> dict[str, Tensor]:
    """Two invented features (N, 3) of each clip: a noisy place of its class, with all flow features turned away."""
    noise = torch.Generator().manual_seed(0)
    centre = {"rgb": torch.tensor([1.0, 0.3, 0.0]), "flow": torch.tensor([-1.0, 0.3, 0.0])}
    place = 0.6 * torch.eye(3).roll(1, 0)[labels]
    return {
        m: (c + place + 0.45 * torch.randn(len(labels), 3, generator=noise)).requires_grad_() for m, c in centre.items()
    }


def _losses(z: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 4 and 5 for the features of both modalities."""
    z_f, z_o = (prepared(x, PROPOSED) for x in z.values())
    return triplet_loss(z_f, z_o, labels, PROPOSED), embedding_loss(z_f, z_o, labels, PROPOSED)
