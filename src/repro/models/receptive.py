"""Receptive fields, read off a live network: the part of an input on which one of its units depends.

Numbers are not computed from kernel sizes: a gradient is sent from one unit to the input, and where it is not zero, the
unit looks. For that every weight has to be positive, and a maximum, which passes the gradient to one of its inputs
only, has to be an average over the same window.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models.temporal import TemporalPool


def probe_of(model: nn.Module) -> nn.Module:
    """Return a copy of `model` for probing: its layers, kernels, strides and paddings, but averages for weights.

    In evaluation mode and double precision, so that the smallest product of weights is far from underflow.
    """
    probe = copy.deepcopy(model).double().eval().requires_grad_(False)
    for name, module in list(probe.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            parent, _, own = name.rpartition(".")
            average = nn.AvgPool2d(module.kernel_size, module.stride, module.padding)
            setattr(probe.get_submodule(parent), own, average)
        elif isinstance(module, TemporalPool):
            module.how = "average"
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return probe


def support(unit: Tensor, x: Tensor) -> tuple[range, ...]:
    """Return the positions of x, a range per axis, on which the scalar `unit` of a probe depends.

    `x` is a positive input that requires a gradient. ReproError when the unit does not depend on it.
    """
    (gradient,) = torch.autograd.grad(unit, x, retain_graph=True, allow_unused=True)
    touched = None if gradient is None else gradient.nonzero()
    if touched is None or not len(touched):
        raise ReproError("this unit does not depend on that input: probe another unit, or the stream that feeds it")
    first, last = touched.amin(0).tolist(), touched.amax(0).tolist()
    return tuple(range(a, b + 1) for a, b in zip(first, last, strict=True))


def field(unit: Tensor, x: Tensor, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of the unit's receptive field in x along `axes`.

    ReproError when the field reaches a border of x, where it may be cut off.
    """
    found = support(unit, x)
    for axis in axes:
        if found[axis].start == 0 or found[axis].stop == x.shape[axis]:
            raise ReproError(
                f"the field reaches the border of axis {axis} ({x.shape[axis]} wide): probe a larger input"
            )
    return tuple(len(found[axis]) for axis in axes)
