"""Backbones, by name."""

from __future__ import annotations

from repro.errors import ReproError, nearest
from repro.models import bn_inception as _bn_inception
from repro.models import resnet as _resnet
from repro.models import vgg as _vgg
from repro.models.base import Backbone

BACKBONES = (*_resnet.LAYOUTS, *_vgg.LAYOUTS, _bn_inception.NAME)


def backbone(name: str, *, in_channels: int = 3, width: float = 1.0, last_stride: int = 2) -> Backbone:
    """Build a backbone: a ResNet, a VGG network or BN-Inception, for normalised RGB or flow.

    `last_stride` is a ResNet's. ReproError for an unknown name.
    """
    if name in _resnet.LAYOUTS:
        return _resnet.resnet(name, in_channels=in_channels, width=width, last_stride=last_stride)
    if name in BACKBONES and last_stride != 2:
        raise ReproError(f"last_stride {last_stride}: {name} has no strided last stage; leave it at 2")
    if name in _vgg.LAYOUTS:
        return _vgg.vgg(name, in_channels=in_channels, width=width)
    if name == _bn_inception.NAME:
        return _bn_inception.Trunk(in_channels=in_channels, width=width)
    raise ReproError(f"unknown backbone '{name}'{nearest(name, BACKBONES)}: use one of {', '.join(BACKBONES)}")
