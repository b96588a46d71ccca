"""VGG-16 and VGG-19 (Simonyan and Zisserman, ICLR 2015, Table 1, D and E), with torchvision's names of weights."""

from __future__ import annotations

from torch import Tensor, nn

from repro.errors import ReproError, nearest
from repro.models.base import Backbone, Stages, initialise, run_stages, scaled

# Simonyan and Zisserman, Table 1: convolutions per group; the channels of the five groups.
LAYOUTS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class Layers(nn.Sequential):
    """The flat list of layers that torchvision calls `features`; calling it returns the output of every stage."""

    def __init__(self, counts: tuple[int, ...], in_channels: int, channels: list[int]) -> None:
        layers: list[nn.Module] = []
        ends: dict[str, int] = {}
        for group, (count, outputs) in enumerate(zip(counts, channels, strict=True), start=1):
            for _ in range(count):
                layers += [nn.Conv2d(in_channels, outputs, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
                in_channels = outputs
            ends[f"conv{group}_x"] = len(layers)
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            ends[f"pool{group}"] = len(layers)
        super().__init__(*layers)
        self.ends = ends

    def stages(self) -> Stages:
        """Cut the list at the end of each group of convolutions and after each pool."""
        layers, starts = tuple(self), (0, *self.ends.values())
        return {name: layers[start:end] for start, (name, end) in zip(starts, self.ends.items(), strict=False)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the outputs of all stages for x (N, in_channels, H, W)."""
        return run_stages(self.stages(), x)


class VGG(Backbone):
    """A VGG network up to pool5, without its fully connected layers. Its state_dict has torchvision's keys."""

    features: Layers

    def __init__(self, name: str, *, in_channels: int = 3, width: float = 1.0) -> None:
        channels = [scaled(c, width) for c in CHANNELS]
        names = (f"{kind}{group}{tail}" for group in range(1, 6) for kind, tail in (("conv", "_x"), ("pool", "")))
        super().__init__(name, width, dict(zip(names, (c for c in channels for _ in range(2)), strict=True)))
        self.features = Layers(LAYOUTS[name], in_channels, channels)
        initialise(self)

    def stages(self) -> Stages:
        """Return the modules of conv1_x, pool1 to conv5_x, pool5."""
        return self.features.stages()


def vgg(name: str, *, in_channels: int = 3, width: float = 1.0) -> Backbone:
    """Build vgg16 or vgg19; `width` scales all channels and keeps the depth."""
    if name not in LAYOUTS:
        raise ReproError(f"unknown VGG '{name}'{nearest(name, LAYOUTS)}: use one of {', '.join(LAYOUTS)}")
    return VGG(name, in_channels=in_channels, width=width)
