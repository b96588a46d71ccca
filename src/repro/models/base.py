"""What every backbone offers: named stages, their channel counts and their outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from repro.errors import ReproError

Stages = dict[str, tuple[nn.Module, ...]]


class Backbone(nn.Module, ABC):
    """An image network without its classifier.

    `endpoints` maps the stages to their output channels, in order; `channels` is the last of them; `features(x)`
    returns the output of every stage by name, (N, endpoints[name], h, w) each.
    """

    features: Callable[[Tensor], dict[str, Tensor]]

    def __init__(self, name: str, width: float, endpoints: dict[str, int]) -> None:
        super().__init__()
        self.name = name
        self.width = width
        self.endpoints = endpoints
        self.channels = list(endpoints.values())[-1]

    @abstractmethod
    def stages(self) -> Stages:
        """Return the modules of each stage, in the order in which they run; names as in `endpoints`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images or flow stacks (N, in_channels, H, W) to the last stage's output (N, channels, h, w)."""
        for modules in self.stages().values():
            for module in modules:
                x = module(x)
        return x


def run_stages(stages: Stages, x: Tensor) -> dict[str, Tensor]:
    """Run the stages in order and return the output of each."""
    outputs = {}
    for name, modules in stages.items():
        for module in modules:
            x = module(x)
        outputs[name] = x
    return outputs


def scaled(channels: int, width: float) -> int:
    """Return `channels * width`, rounded down. Raises ReproError when nothing is left."""
    if int(channels * width) < 1:
        raise ReproError(f"width {width} leaves no channels: use a width of at least {1 / 64}")
    return int(channels * width)


def initialise(module: nn.Module) -> None:
    """Initialise as torchvision does: He et al.'s normal rule over the fan-out, batch norms at 1 and 0, biases at 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
