"""Filters over the chunks of a clip inside an image network (Feichtenhofer et al., NIPS 2016, Sec. 3.2).

B clips of T chunks go through an image network as B*T images, clip by clip; these layers look at neighbouring chunks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models.subbatch import SubBatchNorm2d

TAPS = 3  # T', Table 1: 1 x 1 x 3


def inflate(weight: Tensor) -> Tensor:
    """Eq. 5: copy a 1x1 kernel (O, C, 1, 1) to T' taps in time, each divided by T': (O, C, T', 1)."""
    return weight.expand(-1, -1, TAPS, 1) / TAPS


class OverTime(nn.Conv2d, ABC):
    """A convolution that sees (B*T, C, h, w) as (B, C, T, h*w): one axis of time and one of positions.

    Channels-last memory makes this a view, and a 1x1x3 convolution a 3x1 one. `chunks` is T; the network sets it in
    each pass. In time the map is padded with zeros, as in space (ledger st_resnet-L5).
    """

    chunks: int = 1

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B*T, C, h, w) to (B*T, O, h, w)."""
        y = x.reshape(-1, self.chunks, *x.shape[1:]).transpose(1, 2).flatten(3)  # (B, C, T, h*w)
        y = self.over_time(y)  # (B, O, T, h*w)
        return y.reshape(*y.shape[:3], *x.shape[2:]).transpose(1, 2).flatten(0, 1)

    @abstractmethod
    def over_time(self, x: Tensor) -> Tensor:
        """Map x (B, C, T, h*w) to (B, O, T, h*w)."""


class TemporalConv(OverTime):
    """A 1x1xT' convolution that starts as the average of a 1x1 one over neighbouring chunks (Eq. 5).

    With `learned` False it stays there: its weight gets no gradient.
    """

    def __init__(self, spatial: nn.Conv2d, *, learned: bool = True) -> None:
        super().__init__(
            spatial.in_channels, spatial.out_channels, (TAPS, 1), padding=(TAPS // 2, 0), bias=False, device="meta"
        )
        check_pointwise(spatial)
        self.weight = nn.Parameter(inflate(spatial.weight.detach()).clone(), requires_grad=learned)

    def over_time(self, x: Tensor) -> Tensor:
        """Convolve over time."""
        return F.conv2d(x, self.weight, padding=self.padding)


class TemporalAverage(OverTime):
    """A 1x1 convolution whose output is averaged over T' chunks: Eq. 5 with taps that stay equal while w is learned."""

    def __init__(self, spatial: nn.Conv2d) -> None:
        super().__init__(spatial.in_channels, spatial.out_channels, 1, bias=False, device="meta")
        check_pointwise(spatial)
        self.weight = spatial.weight

    def over_time(self, x: Tensor) -> Tensor:
        """Convolve, then average over time; chunks outside the clip count as zeros."""
        y = F.conv2d(x, self.weight)
        return F.avg_pool2d(y, (TAPS, 1), stride=1, padding=(TAPS // 2, 0))


def check_pointwise(layer: nn.Conv2d) -> None:
    """Raise ReproError unless `layer` is a 1x1 convolution with stride 1 and no bias."""
    if layer.kernel_size != (1, 1) or layer.stride != (1, 1) or layer.bias is not None:
        raise ReproError("only 1x1 convolutions with stride 1 and without bias become temporal filters (Eq. 5)")


class TemporalPool(nn.Module):
    """Pool (B, C, T, P) over `window` neighbours of the time axis T, with a stride and without padding.

    Of 11 chunks a window of 5 with stride 2 leaves 4, of 25 chunks 11. Fewer chunks than the window become one.
    """

    def __init__(self, how: str, window: int = 5, stride: int = 2) -> None:
        super().__init__()
        self.how, self.window, self.stride = how, window, stride

    def forward(self, x: Tensor) -> Tensor:
        """Pool x (B, C, T, P) to (B, C, T', P)."""
        size = (min(self.window, x.shape[2]), 1)
        pool = F.max_pool2d if self.how == "max" else F.avg_pool2d
        return pool(x, size, stride=(self.stride, 1))


def set_chunks(model: nn.Module, chunks: int) -> None:
    """Tell the layers that treat a clip's chunks together how many there are."""
    for module in model.modules():
        if isinstance(module, OverTime | SubBatchNorm2d):
            module.chunks = chunks
