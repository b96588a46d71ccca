"""Partial batch normalisation (TSN: Wang et al., ECCV 2016, Sec. 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A batch normalisation that always uses its stored statistics and learns nothing; same names in a state_dict."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, h, w) by the running statistics, in training too."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def freeze_all_but_first(module: nn.Module) -> list[str]:
    """Freeze statistics, scale and shift of every BatchNorm2d but the first; return the names of the frozen ones.

    The first, in the order in which the module defines them, adapts to the new input. Weights may be loaded before or
    after. A network without batch normalisation is left as it is.
    """
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)][1:]
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, _frozen(module.get_submodule(name)))
    return names


def _frozen(layer: nn.Module) -> FrozenBatchNorm2d:
    assert isinstance(layer, nn.BatchNorm2d)
    frozen = FrozenBatchNorm2d(layer.num_features, eps=layer.eps, momentum=layer.momentum)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(frozen, name, getattr(layer, name))
    frozen.requires_grad_(False)
    return frozen
