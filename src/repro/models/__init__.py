"""Backbones, by name."""

from __future__ import annotations

from repro.errors import ReproError, nearest
from repro.models import resnet as _resnet
from repro.models import vgg as _vgg
from repro.models.base import Backbone

BACKBONES = (*_resnet.LAYOUTS, *_vgg.LAYOUTS)


def backbone(name: str, *, in_channels: int = 3, width: float = 1.0, last_stride: int = 2) -> Backbone:
    """Build a backbone: a ResNet or a VGG network; `last_stride` is a ResNet's. ReproError for an unknown name."""
    if name in _resnet.LAYOUTS:
        return _resnet.resnet(name, in_channels=in_channels, width=width, last_stride=last_stride)
    if name in _vgg.LAYOUTS:
        if last_stride != 2:
            raise ReproError(f"last_stride {last_stride}: {name} has no strided last stage; leave it at 2")
        return _vgg.vgg(name, in_channels=in_channels, width=width)
    raise ReproError(f"unknown backbone '{name}'{nearest(name, BACKBONES)}: use one of {', '.join(BACKBONES)}")
