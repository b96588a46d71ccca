"""Receptive fields by probing, on networks whose fields can be worked out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from repro.errors import ReproError
from repro.models.receptive import field, probe_of, support
from repro.models.resnet import resnet
from repro.models.temporal import TemporalConv, TemporalPool, set_chunks


def line(model: nn.Module, size: int = 64) -> tuple[int, ...]:
    """The field of the middle unit of a probe, in height and width."""
    probe = probe_of(model)
    x = torch.ones(1, 2, size, size, dtype=torch.float64, requires_grad=True)
    y = probe(x)
    return field(y[0, 0, y.shape[2] // 2, y.shape[3] // 2], x, (2, 3))


def test_fields_by_hand() -> None:
    wide = nn.Conv2d(2, 3, (3, 5))
    assert line(wide) == (3, 5)
    assert line(nn.Sequential(wide, nn.ReLU(), nn.Conv2d(3, 1, 3, stride=2))) == (5, 7)
    assert line(nn.Sequential(nn.Conv2d(2, 2, 3, stride=2), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3))) == (7, 7)
    assert line(nn.Conv2d(2, 2, 3, dilation=4)) == (9, 9)


def test_weights_and_signs_do_not_matter() -> None:
    """Dead units, negative weights and moments of a trained network must not hide a part of the field."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3))
    nn.init.constant_(model[0].weight, -1)
    nn.init.zeros_(model[3].weight)
    nn.init.constant_(model[1].running_mean, 100)
    before = copy.deepcopy(model.state_dict())
    assert line(model.train()) == (5, 5)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_maximum_counts_its_whole_window() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.MaxPool2d(3, stride=2, padding=1))
    assert line(model) == (5, 5)
    nested = nn.Sequential(nn.Sequential(model))
    assert line(nested) == (5, 5)
    assert isinstance(model[1], nn.MaxPool2d)  # of the probe only


@pytest.mark.parametrize(("how", "expected"), [("max", 9), ("average", 9)])
def test_filters_and_pools_over_time(how: str, expected: int) -> None:
    """Two filters of 3 chunks see 5; a pool over 5 of those sees 9."""
    layer = nn.Conv2d(2, 2, 1, bias=False)
    model = nn.ModuleList([TemporalConv(layer), TemporalConv(layer), TemporalPool(how)])
    probe = probe_of(model)
    assert isinstance(probe, nn.ModuleList)
    set_chunks(probe, 21)
    x = torch.ones(21, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    y = probe[1](probe[0](x))  # (T, 2, 1, 1)
    assert field(y[10, 0, 0, 0], x, (0,)) == (5,)
    pooled = probe[2](y.permute(1, 0, 2, 3).flatten(2).unsqueeze(0))  # (1, 2, T', 1)
    assert pooled.shape[2] == 9
    assert field(pooled[0, 0, 4, 0], x, (0,)) == (expected,)
    assert list(support(pooled[0, 0, 0, 0], x)[0]) == list(range(7))  # 0-4 and two to the right; two are padding


def test_a_clipped_field_is_refused() -> None:
    with pytest.raises(ReproError, match="larger input"):
        line(nn.Conv2d(2, 1, 9, padding=4), size=9)


def test_no_dependence_is_refused() -> None:
    x, other = (torch.ones(1, 1, 4, 4, requires_grad=True) for _ in range(2))
    with pytest.raises(ReproError, match="does not depend"):
        support((x * 2)[0, 0, 1, 1], other)


def test_a_deep_network_does_not_underflow() -> None:
    """ResNet-50: 427 = 11 + 3 x 8 + (8 + 3 x 16) + (16 + 5 x 32) + (32 + 2 x 64), one term per 3x3 convolution."""
    probe = probe_of(resnet("resnet50", width=1 / 16))
    x = torch.ones(1, 3, 800, 32, dtype=torch.float64, requires_grad=True)
    y = probe(x)
    assert field(y[0, 0, y.shape[2] // 2, 0], x, (2,)) == (427,)
