"""What the networks and losses of CCS show without any training: counts, and live values of its ledger (L1-L5, L7, L8,
L13), some of them on noise.

Noise is the same on every call. B clips, C channels, P positions of a clip, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import torch
from scipy import stats
from torch import Tensor

from repro.papers.ccs import Config, build
from repro.papers.ccs_block import ConnectionBlock, rescaled
from repro.papers.ccs_counts import NETWORKS, Count, count
from repro.papers.ccs_losses import (
    PROPOSED,
    Losses,
    between_terms,
    embedding_loss,
    prepared,
    triplet_loss,
    triplet_terms,
    within_terms,
)

CLASSES, SIZE, TEST_SNIPPETS = 101, 224, 25  # of UCF101; px; Sec. 4.2
BATCHES = ((8, 4), (16, 4))  # classes and clips of each (ledger ccs-L8, L11)
FEATURES = 1024  # of BN-Inception


@cache
def counted(name: str) -> Count:
    """What one of `ccs_counts.NETWORKS` has, for UCF101's classes."""
    changes, entry = NETWORKS[name]
    return count(name, Config(**changes), CLASSES, SIZE, entry)


@cache
def from_models() -> Mapping[str, str]:
    """Live values by name; `scalar_reading`, `gradient_across` and `sizes` are for those that need runs too."""
    return {
        "positions": _positions(),
        "overflow-share": _overflow_share(),
        "block-parameters": _block_parameters(),
        "feature-distances": _feature_distances(),
        "gradient-norms": _gradient_norms(),
        "head-parameters": _head_parameters(),
    }


def scalar_reading() -> str:
    """The one number Y of Eq. 1 on noise, and what it leaves of the block (L1)."""
    own, exponent = _noise((2, 6, 9), 0), _noise((2, 9, 9), 1)
    y = rescaled(exponent, own, "softmax") / own
    return f"with softmax over all pairs Y = {float(y.mean()):.0f}, so the block is x + w x"


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _positions() -> str:
    """Positions that a clip has at 224 px, and the multiply-adds between them (L2)."""
    config = Config()
    with torch.device("meta"):
        model = build(config, CLASSES).eval()
        maps = model.stream("rgb").maps(torch.zeros(1, config.segments, 3, SIZE, SIZE))  # (1, C, T, h, w)
    assert isinstance(model.block, ConnectionBlock)
    places = maps.shape[3] * maps.shape[4]
    texts = []
    for snippets in (config.segments, TEST_SNIPPETS):
        products = model.block.products(snippets * places)
        texts.append(
            f"{snippets} snippets {snippets * places:,} positions, {products / 1e6:,.0f} M multiply-adds of Eq. 2, 3"
        )
    return "; ".join(texts)


def gradient_across() -> str:
    """The length of d x'_f / d x_o on noise, in each reading (L3)."""
    readings = {
        "the other stream's features": ("cross", "softmax"),
        "own features, softmax": ("own", "softmax"),
        "own features, no normaliser": ("own", "none"),
        "one number": ("scalar", "softmax"),
    }
    return "length of the gradient across: " + ", ".join(
        f"{name} {round(jacobian_norm(*reading), 9):.2g}" for name, reading in readings.items()
    )


def jacobian_norm(connection: str, normaliser: str) -> float:
    """The Frobenius norm of d x'_f / d x_o of a random block of 8 channels at 6 positions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = ConnectionBlock(8, 4, connection=connection, normaliser=normaliser, zero_start=False).double()
    f, o = _noise((1, 8, 6), 1), _noise((1, 8, 6), 2)
    found = torch.autograd.functional.jacobian(lambda x: block(f, x)[0], o)  # type: ignore[no-untyped-call]
    assert isinstance(found, Tensor)
    return float(found.norm())


def _overflow_share() -> str:
    """How often the exponential of Eq. 2 overflows for embeddings of unit variance (L4)."""
    spread = math.sqrt(FEATURES // 2)  # of a sum of so many products of unit variance
    shares = {
        name: float(stats.norm.sf(math.log(torch.finfo(kind).max) / spread))
        for name, kind in (("float16", torch.float16), ("float32", torch.float32))
    }
    return f"exponents of {FEATURES // 2} products have s.d. {spread:.1f}; too large for " + ", ".join(
        f"{name} {100 * share:.2g} %" for name, share in shares.items()
    )


def _block_parameters() -> str:
    """The block's parameters in both readings of W (L5)."""
    texts = []
    for name, what in (("TSN, All", "W on features"), ("TSN, All, W of embedded values", "W on embeddings")):
        row = counted(name)
        share = row.block / (row.parameters - row.block - row.heads)
        texts.append(f"{what} {row.block / 1e6:.1f} M, {100 * share:.0f} % of the two trunks")
    return "; ".join(texts)


def _batch(classes: int, clips: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rectified noise as features of both modalities, (B, D) each, and labels (B,)."""
    labels = torch.arange(classes).repeat_interleave(clips)
    z_f, z_o = _noise((2, len(labels), FEATURES), 0).relu()
    return z_f, z_o, labels


def _feature_distances() -> str:
    """Distances of rectified noise, and how many terms of Eq. 4 and 5 are active, raw and at unit length (L7)."""
    z_f, z_o, labels = _batch(*BATCHES[0])
    texts = []
    for name, kind in (("as they are", "raw"), ("at unit length", "unit")):
        losses = Losses(features=kind)
        f, o = prepared(z_f, losses), prepared(z_o, losses)
        distance = float((f[:, None] - o[None]).square().sum(2).mean())
        triplets = torch.cat([triplet_terms(f, o, labels, losses), triplet_terms(o, f, labels, losses)])
        brackets = [torch.cat([terms(z, labels, losses) for z in (f, o)]) for terms in (within_terms, between_terms)]
        active = [100 * float((t > 0).double().mean()) for t in (triplets, *brackets)]
        texts.append(
            f"{name} {distance:.3g}, active terms of Eq. 4 {active[0]:.0f} %, of Eq. 5 {active[1]:.0f} % (within) and "
            f"{active[2]:.0f} % (between)"
        )
    margins = ", ".join(f"{x:g}" for x in (PROPOSED.alpha1, PROPOSED.alpha2, PROPOSED.alpha3))
    return f"mean squared distance of {FEATURES} rectified channels of noise: {'; '.join(texts)}; margins {margins}"


def _gradient_norms() -> str:
    """The gradient of the losses' weighted sum with respect to the features, as means and as sums (L8)."""
    texts = []
    for reduction in ("mean", "sum"):
        norms = [f"{n} x {m} {gradient_norm(n, m, reduction):.2g}" for n, m in BATCHES]
        texts.append(f"{reduction}s {', '.join(norms)}")
    return f"length of the gradient of lambda1 L1 + lambda2 L2: {'; '.join(texts)}"


def gradient_norm(classes: int, clips: int, reduction: str) -> float:
    """The length of the gradient of lambda1 L1 + lambda2 L2 with respect to features of noise."""
    z_f, z_o, labels = _batch(classes, clips)
    losses = Losses(reduction=reduction)
    z = torch.stack([z_f, z_o]).requires_grad_()
    f, o = (prepared(x, losses) for x in z)
    total = losses.lambda1 * triplet_loss(f, o, labels, losses) + losses.lambda2 * embedding_loss(f, o, labels, losses)
    return float(torch.autograd.grad(total, z)[0].norm())


def _head_parameters() -> str:
    """Parameters behind the trunks: one shared block, a layer per stream, two blocks (L13)."""
    shared, linear = counted("TSN, All").heads, counted("TSN, baseline").heads
    named = {"one shared block": shared, "a layer per stream": linear, "a block per stream": 2 * shared}
    return ", ".join(f"{name} {n / 1e6:.2f} M" for name, n in named.items())


def sizes(*names: str) -> str:
    """Parameters and multiply-adds of some networks (L32, L33)."""
    rows = {name: counted(name) for name in names}
    return ", ".join(
        f"{name} {row.parameters / 1e6:.1f} M parameters and {row.multiply_adds / 1e9:.1f} G multiply-adds"
        for name, row in rows.items()
    )
