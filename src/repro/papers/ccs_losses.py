"""The losses of CCS (Zhang et al., 2019, Sec. 3.3): cross-modal triplets, class means, cross-entropy (Eq. 4-6).

A mini-batch has B clips of c classes, each with an appearance feature z^f and a motion feature z^o of D numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.errors import ReproError, nearest

STREAMS = ("rgb", "flow")  # f and o
FEATURE = ".feature"  # "rgb.feature" is z^f among a network's outputs, "rgb" its class scores

CHOICES = {
    "features": ("unit", "raw"),
    "distance": ("squared", "plain"),
    "positive": ("farthest", "same_clip"),
    "reduction": ("mean", "sum"),
}


@dataclass(frozen=True)
class Losses:
    """Margins, weights and what Sec. 3.3 leaves open."""

    alpha1: float = 0.3  # Sec. 4.1; Table 4
    alpha2: float = 0.3
    alpha3: float = 0.8
    lambda1: float = 0.5  # Sec. 4.1
    lambda2: float = 0.5
    # DEVIATION: the paper does not normalise. Margins on squared distances have a scale only at unit length, so the
    # losses divide features by their length first (ledger ccs-L7); "raw" leaves them.
    features: str = "unit"
    distance: str = "squared"  # Eq. 4, 5; "plain": not squared (ledger ccs-L7)
    # The farthest of the anchor's class, as in [11]; "same_clip": the same clip's other stream (ledger ccs-L9).
    positive: str = "farthest"
    # DEVIATION: Eq. 4 and 5 are sums, whose size grows with the batch; here each sum is a mean (ledger ccs-L8).
    reduction: str = "mean"

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            value = getattr(self, name)
            if value not in options:
                raise ReproError(f"{name} '{value}'{nearest(value, options)}: use one of {', '.join(options)}")
        for name in ("alpha1", "alpha2", "alpha3", "lambda1", "lambda2"):
            if not getattr(self, name) >= 0:
                raise ReproError(f"{name}={getattr(self, name)}: give a number of at least 0")

    @property
    def needed(self) -> bool:
        """Whether Eq. 6 has more than the cross-entropy, so that the network must hand out its features."""
        return self.lambda1 > 0 or self.lambda2 > 0


PROPOSED = Losses()
CROSS_ENTROPY = Losses(lambda1=0.0, lambda2=0.0)  # Table 3, "Baseline" and "CB"


class Parts(NamedTuple):
    """The three terms of Eq. 6, scalars."""

    triplet: Tensor  # L1
    embedding: Tensor  # L2
    cross_entropy: Tensor  # L3


# ---------------------------------------------------------------- distances


def unit(z: Tensor) -> Tensor:
    """Divide each feature (B, D) by its length; a zero stays zero."""
    return F.normalize(z, dim=1, eps=1e-6)


def prepared(z: Tensor, losses: Losses) -> Tensor:
    """Return features (B, D) as the losses see them: float32 or better, at unit length unless told otherwise."""
    z = z if z.dtype == torch.float64 else z.float()
    return unit(z) if losses.features == "unit" else z


def distances(a: Tensor, b: Tensor, how: str = "squared") -> Tensor:
    """Distances of all rows of a (N, D) from all rows of b (M, D): (N, M), squared unless `how` is "plain"."""
    d = (a[:, None] - b[None]).square().sum(dim=2)
    if how == "squared":
        return d
    apart = d > 0  # the root has no gradient at 0: equal features get none
    return torch.where(apart, torch.where(apart, d, 1.0).sqrt(), 0.0)


def _reduced(terms: Tensor, how: str) -> Tensor:
    """The sum of a sum's terms, or their mean; 0 when there are none."""
    return terms.sum() if how == "sum" or not terms.numel() else terms.mean()


# ---------------------------------------------------------------- Eq. 4: between the modalities


def triplet_terms(anchors: Tensor, others: Tensor, labels: Tensor, losses: Losses) -> Tensor:
    """Return one hinge of Eq. 4 per anchor (B,): anchors (B, D) of one modality, positives and negatives of the other.

    Rows of both are the clips of `labels` (B,). The negative is the nearest one of another class (Sec. 3.3: the minimum
    distance of all negative pairs; Eq. 4 shows no minimum). Equally near ones share the gradient. A batch of one class
    has no negatives and gives no terms, (0,).
    """
    same = labels[:, None] == labels[None]
    if bool(same.all()):
        return anchors.new_zeros(0)
    d = distances(anchors, others, losses.distance)  # (B, B)
    farthest = losses.positive == "farthest"
    positive = d.masked_fill(~same, -torch.inf).amax(dim=1) if farthest else d.diagonal()
    negative = d.masked_fill(same, torch.inf).amin(dim=1)
    # Eq. 4, the bracket
    return torch.relu(positive - negative + losses.alpha1)


def triplet_loss(z_f: Tensor, z_o: Tensor, labels: Tensor, losses: Losses) -> Tensor:
    """Return L1 for features (B, D) of both modalities, as `prepared`."""
    first = triplet_terms(z_f, z_o, labels, losses)  # anchors f; positives and negatives o
    second = triplet_terms(z_o, z_f, labels, losses)
    # Eq. 4
    return _reduced(first, losses.reduction) + _reduced(second, losses.reduction)


# ---------------------------------------------------------------- Eq. 5: inside a modality


def class_means(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean feature m_c of each class in the batch (c, D), and each clip's row in it (B,).

    They are means over the mini-batch, and gradients pass through them (ledger ccs-L10).
    """
    found, index = torch.unique(labels, return_inverse=True)
    member = F.one_hot(index, len(found)).to(z.dtype)  # (B, c)
    return member.T @ z / member.sum(dim=0)[:, None], index


def within_terms(z: Tensor, labels: Tensor, losses: Losses) -> Tensor:
    """Return the first bracket of Eq. 5 for each clip (B,): how far beyond alpha2 it is from its class's mean."""
    means, index = class_means(z, labels)
    d = distances(z, means, losses.distance)[torch.arange(len(z), device=z.device), index]
    # Eq. 5, first bracket
    return torch.relu(d - losses.alpha2)


def between_terms(z: Tensor, labels: Tensor, losses: Losses) -> Tensor:
    """Return the second bracket of Eq. 5 for each pair of classes, once (ledger ccs-L10): (c (c - 1) / 2,)."""
    means, _ = class_means(z, labels)
    i, j = torch.triu_indices(len(means), len(means), offset=1, device=z.device)
    d = distances(means, means, losses.distance)[i, j]
    # Eq. 5, second bracket
    return torch.relu(losses.alpha3 - d)


def embedding_loss(z_f: Tensor, z_o: Tensor, labels: Tensor, losses: Losses) -> Tensor:
    """Return L2 for features (B, D) of both modalities, as `prepared`."""
    total = z_f.new_zeros(())
    # Eq. 5
    for z in (z_f, z_o):
        total = total + _reduced(within_terms(z, labels, losses), losses.reduction)
        total = total + _reduced(between_terms(z, labels, losses), losses.reduction)
    return total


# ---------------------------------------------------------------- Eq. 6


def parts(outputs: dict[str, Tensor], labels: Tensor, losses: Losses) -> Parts:
    """Return L1, L2 and L3 of a network's outputs in training.

    `outputs` has "rgb" and "flow" (B, n), and "rgb.feature" and "flow.feature" (B, D) unless both lambdas are 0. L3 is
    the sum over streams of the mean cross-entropy, as each of Eq. 4 and 5 is a sum over streams.
    """
    scores = [logits.float() for name, logits in outputs.items() if name in STREAMS]
    l3 = torch.stack([F.cross_entropy(s, labels) for s in scores]).sum()
    if not losses.needed:
        return Parts(l3.new_zeros(()), l3.new_zeros(()), l3)
    missing = [m + FEATURE for m in STREAMS if m + FEATURE not in outputs]
    if missing:
        raise ReproError(
            f"no {' and '.join(missing)} for Eq. 4 and 5: train a network of both streams with these losses"
        )
    z_f, z_o = (prepared(outputs[m + FEATURE], losses) for m in STREAMS)
    return Parts(triplet_loss(z_f, z_o, labels, losses), embedding_loss(z_f, z_o, labels, losses), l3)


def total_loss(outputs: dict[str, Tensor], labels: Tensor, losses: Losses) -> Tensor:
    """Return the loss that is minimised; with `losses` bound it is what `repro.training.train` takes."""
    l1, l2, l3 = parts(outputs, labels, losses)
    # Eq. 6
    return losses.lambda1 * l1 + losses.lambda2 * l2 + l3
