"""The parts of CCS (Zhang et al., 2019) around its connection block: a stream's features (Sec. 3.1), their aggregation
and the shared block (Sec. 3.3).

B clips, T snippets or frames, n classes, C H W; c channels of an input, C of the last maps, D of an aggregated feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models import backbone
from repro.models.i3d import I3D, load_i3d, published_input
from repro.models.normalisation import freeze_all_but_first
from repro.models.weights import LoadReport, load_weights

# ---------------------------------------------------------------- Sec. 3.1: features of a stream


class Snippets(nn.Module):
    """TSN's side of a stream: an image network for each snippet."""

    def __init__(self, name: str, in_channels: int, width: float, *, partial_bn: bool) -> None:
        super().__init__()
        self.trunk = backbone(name, in_channels=in_channels, width=width)
        self.channels = self.trunk.channels
        if partial_bn:
            freeze_all_but_first(self.trunk)

    def maps(self, x: Tensor) -> Tensor:
        """Map snippets (B, T, c, H, W) to the last maps, (B, C, T, h, w)."""
        y: Tensor = self.trunk(x.flatten(0, 1))  # (B*T, C, h, w)
        return y.reshape(*x.shape[:2], *y.shape[1:]).transpose(1, 2)

    def sequence(self, pooled: Tensor) -> Tensor:
        """Turn spatial means (B, C, T) into the sequence that is aggregated, (B, T, C)."""
        return pooled.transpose(1, 2)

    def load(self, weights: str | Path | Mapping[str, Tensor]) -> LoadReport:
        """Load weights into the image network, as `load_weights` does."""
        return load_weights(self.trunk, weights)


class WholeClip(nn.Module):
    """I3D's side of a stream: all frames at once."""

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.trunk = I3D(1, in_channels, width=width)
        self.trunk.logits = nn.Sequential()  # its classifier: the head is CCS's
        self.channels = self.trunk.endpoint_channels["Mixed_5c"]

    def maps(self, x: Tensor) -> Tensor:
        """Map frames or fields (B, T, c, H, W) to Mixed_5c, (B, C, T', h, w)."""
        return self.trunk.features(published_input(x.transpose(1, 2)))["Mixed_5c"]

    def sequence(self, pooled: Tensor) -> Tensor:
        """Average spatial means (B, C, T') over neighbouring steps, as I3D does before its classifier: (B, T'-1, C)."""
        return F.avg_pool1d(pooled, min(2, pooled.shape[2]), stride=1).transpose(1, 2)

    def load(self, weights: str | Path | Mapping[str, Tensor]) -> LoadReport:
        """Load weights into the trunk, as `load_i3d` does; a classifier among them is left out."""
        whole = I3D(1, self.in_channels, width=self.trunk.width)
        report = load_i3d(whole, weights)
        if report.source != "none":
            self.trunk.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("logits.")})
        return report


def spatial_mean(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average each stream's maps (B, C, T, h, w) over height and width: (B, C, T)."""
    return {m: y.mean((3, 4)) for m, y in maps.items()}


# ---------------------------------------------------------------- Sec. 4.2: which snippets of a test clip go together


def groups(snippets: int, size: int) -> Tensor:
    """Return groups of `size` snippets, (G, size), as in training: one of each of `size` equal parts of the clip.

    Snippets are in order in a group, and each is in one group at least: 25 snippets make 9 groups of 3, two come twice.
    """
    count = -(-snippets // size)
    bounds = torch.arange(size + 1) * snippets // size
    parts = (bounds[1:] - bounds[:-1]).clamp(min=1)  # with fewer snippets than parts some stand in for a neighbour
    index = bounds[:-1] + torch.arange(count)[:, None] * parts // count
    return index.clamp(max=snippets - 1)


def regrouped(maps: Tensor, index: Tensor) -> Tensor:
    """Read maps (B, C, T, h, w) group by group: (B * G, C, K, h, w) for groups `index` (G, K)."""
    y = maps[:, :, index.to(maps.device)]  # (B, C, G, K, h, w)
    return y.transpose(1, 2).flatten(0, 1)


# ---------------------------------------------------------------- Sec. 3.3: aggregation, shared block


def aggregate(x: Tensor, how: str) -> Tensor:
    """Turn a sequence of features x (B, T, C) into one, (B, C), by element-wise average, maximum or product.

    "concatenation" gives (B, T * C). These are the functions of Figure 5a.
    """
    if how == "concatenation":
        return x.flatten(1)
    if how == "maximum":
        return x.amax(dim=1)
    return x.prod(dim=1) if how == "product" else x.mean(dim=1)


def aggregate_scores(scores: Tensor, how: str) -> Tensor:
    """Figure 5a read as late fusion of the snippets' logits (B, T, n): logits (B, n) (ledger ccs-L25).

    "product" multiplies probabilities and returns the logarithm. Concatenated scores are no scores.
    """
    if how not in ("average", "maximum", "product"):
        raise ReproError(f"scores have no '{how}': use average, maximum or product")
    return torch.log_softmax(scores, dim=2).sum(dim=1) if how == "product" else aggregate(scores, how)


class SharedBlock(nn.Module):
    """Two layers that both streams go through (ledger ccs-L13)."""

    def __init__(self, features: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, hidden)
        self.classify = nn.Linear(hidden, num_classes)

    def hidden(self, z: Tensor) -> Tensor:
        """Map aggregated features (B, D) to the hidden layer (B, hidden)."""
        return torch.relu(self.fc(z))
