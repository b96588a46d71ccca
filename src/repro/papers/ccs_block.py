"""The connection block of CCS (Zhang et al., 2019, Sec. 3.2, Eq. 1-3, Figure 3), in the readings that its text allows.

x^f are appearance features and x^o motion features: B clips, C channels, P positions of a clip (every place of every
snippet that reaches the block; ledger ccs-L2). phi, kappa, W^f and W^o are the four 1x1 convolutions of Figure 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PASSING = ("cross", "own", "scalar")  # the block: what Eq. 3 multiplies with the affinity
JOINING = ("concatenation", "average")  # in its place, without parameters (Sec. 4.3)
CONNECTIONS = ("none", *PASSING, *JOINING)
NORMALISERS = ("softmax", "count", "none")
VALUES = ("features", "embedded")


def exponents(phi: Tensor, kappa: Tensor) -> Tensor:
    """Return phi(x_i^f)^T kappa(x_j^o) for all i and j: phi (B, D, P) and kappa (B, D, Q) give (B, P, Q)."""
    # Eq. 2, the exponent
    return phi.transpose(1, 2) @ kappa


def affinity(exponent: Tensor, normaliser: str) -> Tensor:
    """Return y, Eq. 2 normalised over the last axis of `exponent` (..., Q): with "softmax" its sum there is 1."""
    # DEVIATION: Eq. 2 is a plain exponential ("none"), which overflows; by default it is divided by its sum over the
    # other stream's positions, as in the non-local block that it follows, or by their "count" (ledger ccs-L4).
    if normaliser == "softmax":
        return torch.softmax(exponent, dim=-1)
    # Eq. 2
    y = torch.exp(exponent)
    return y / y.shape[-1] if normaliser == "count" else y


def crossing(y: Tensor, other: Tensor) -> Tensor:
    """Return sum_j y_ij x_j of the other stream: y (B, P, Q) and `other` (B, C, Q) give (B, C, P)."""
    # DEVIATION: Eq. 3 prints x_i^f y, a stream's own features. With them nothing of the other stream passes, which the
    # prose promises; Figure 3 multiplies matrices. So the sum of Eq. 1 is over the other stream (ledger ccs-L3).
    return other @ y.transpose(1, 2)


def gained(y: Tensor, own: Tensor) -> Tensor:
    """Return x_i y_i with y_i = sum_j y_ij: y (B, P, Q) and `own` (B, C, P) give (B, C, P). Eq. 3 to the letter."""
    # Eq. 3
    return own * y.sum(dim=2)[:, None]


def rescaled(exponent: Tensor, own: Tensor, normaliser: str) -> Tensor:
    """Return x_i Y with the one number Y = sum_ij y_ij of Eq. 1 to the letter (ledger ccs-L1): (B, C, P).

    Normalised over all pairs, "softmax" makes Y 1.
    """
    # Eq. 1
    total = affinity(exponent.flatten(1), normaliser).sum(dim=1)  # (B,)
    return own * total[:, None, None]


class ConnectionBlock(nn.Module):
    """Figure 3: both streams' maps in, both out, in the same shapes.

    `connection`: "cross" passes the other stream's values, "own" and "scalar" are Eq. 3 and Eq. 1 to the letter.
    `values` "embedded" gives phi(x^f) and kappa(x^o) to W^f and W^o instead of x (ledger ccs-L5).
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        *,
        connection: str = "cross",
        normaliser: str = "softmax",
        values: str = "features",
        zero_start: bool = True,
    ) -> None:
        super().__init__()
        self.connection, self.normaliser, self.values = connection, normaliser, values
        # Sec. 3.2: phi(x) = W_phi x, so without biases.
        self.phi = nn.Conv1d(channels, inner, 1, bias=False)
        self.kappa = nn.Conv1d(channels, inner, 1, bias=False)
        given = inner if values == "embedded" else channels
        self.w_f = nn.Conv1d(given, channels, 1, bias=False)
        self.w_o = nn.Conv1d(given, channels, 1, bias=False)
        if zero_start:  # as in the non-local block: training begins with the plain streams
            nn.init.zeros_(self.w_f.weight)
            nn.init.zeros_(self.w_o.weight)

    def forward(self, f: Tensor, o: Tensor) -> tuple[Tensor, Tensor]:
        """Connect maps f and o, (B, C, ...) each with any axes of positions."""
        x_f, x_o = f.flatten(2), o.flatten(2)  # (B, C, P), (B, C, Q)
        phi, kappa = self.phi(x_f), self.kappa(x_o)
        v_f, v_o = (phi, kappa) if self.values == "embedded" else (x_f, x_o)
        e = exponents(phi, kappa)  # (B, P, Q)
        # Eq. 3
        x_f = self.w_f(self._interaction(e, v_f, v_o)) + x_f
        x_o = self.w_o(self._interaction(e.transpose(1, 2), v_o, v_f)) + x_o
        return x_f.reshape(f.shape), x_o.reshape(o.shape)

    def _interaction(self, exponent: Tensor, own: Tensor, other: Tensor) -> Tensor:
        if self.connection == "scalar":
            return rescaled(exponent, own, self.normaliser)
        y = affinity(exponent, self.normaliser)
        return crossing(y, other) if self.connection == "cross" else gained(y, own)

    def attention(self, f: Tensor, o: Tensor) -> dict[str, Tensor]:
        """Return y as each stream uses it: "rgb" (B, P, Q) over flow positions, "flow" (B, Q, P) over rgb positions."""
        e = exponents(self.phi(f.flatten(2)), self.kappa(o.flatten(2)))
        return {"rgb": affinity(e, self.normaliser), "flow": affinity(e.transpose(1, 2), self.normaliser)}

    def products(self, positions: int) -> int:
        """Count the multiply-adds of one clip that are in no layer: Eq. 2, and for "cross" the sums of Eq. 3."""
        given = self.w_f.in_channels if self.connection == "cross" else 0
        return positions**2 * (self.phi.out_channels + 2 * given)


class Join(nn.Module):
    """What Sec. 4.3 puts in the block's place: both streams go on with the same features, joined position by position.

    "concatenation": (B, 2C, ...), appearance first; "average": (B, C, ...).
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, f: Tensor, o: Tensor) -> tuple[Tensor, Tensor]:
        """Join maps f and o, (B, C, ...) of equal shapes."""
        joined = torch.cat((f, o), dim=1) if self.how == "concatenation" else (f + o) / 2
        return joined, joined
