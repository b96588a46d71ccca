"""BN-Inception (Ioffe and Szegedy, ICML 2015, Figure 5), with the names of weights that published files use.

Layer sizes are those of the released Caffe model and its PyTorch ports: 69 convolutions, with biases, and a batch
normalisation after each; 11,295,240 parameters with 1000 classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.transforms import bgr_less_mean, flow_less_zero
from repro.models.base import Backbone, Stages, initialise, run_stages, scaled

NAME = "bn_inception"


class Block(NamedTuple):
    """Output channels inside one inception block; without `one` and `projection` it halves the resolution."""

    one: int  # 1x1
    reduce: int  # 1x1 before the 3x3
    three: int
    double_reduce: int  # 1x1 before the two 3x3
    double: int  # each of the two 3x3
    pool: str  # "avg" or "max"
    projection: int  # 1x1 after the pool

    @property
    def stride(self) -> int:
        return 1 if self.projection else 2


BLOCKS = {
    "3a": Block(64, 64, 64, 64, 96, "avg", 32),
    "3b": Block(64, 64, 96, 64, 96, "avg", 64),
    "3c": Block(0, 128, 160, 64, 96, "max", 0),
    "4a": Block(224, 64, 96, 96, 128, "avg", 128),
    "4b": Block(192, 96, 128, 96, 128, "avg", 128),
    "4c": Block(160, 128, 160, 128, 160, "avg", 128),
    "4d": Block(96, 128, 192, 160, 192, "avg", 128),
    "4e": Block(0, 128, 192, 192, 256, "max", 0),
    "5a": Block(352, 192, 320, 160, 224, "avg", 128),
    "5b": Block(352, 192, 320, 192, 224, "max", 128),
}
STEM = (64, 64, 192)  # 7x7 stride 2; after a pool 1x1 and 3x3


class PublishedInput(nn.Module):
    """The library's normalised RGB or flow, turned into the grey levels that published weights were trained on."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) by `bgr_less_mean`, (N, 2L, H, W) by `flow_less_zero`."""
        return bgr_less_mean(x) if x.shape[1] == 3 else flow_less_zero(x)


class Inception(nn.Module):
    """One block. Its layers belong to the network, whose flat names the published files have; this only runs them."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = (network,)  # in a tuple, so that it is no part of this module
        self.prefix, self.block = f"inception_{name}", BLOCKS[name]

    def forward(self, x: Tensor) -> Tensor:
        """Run the branches on x (N, C, h, w) and join them along the channels."""
        branches = [self._unit("1x1", x)] if self.block.one else []
        branches.append(self._unit("3x3", self._unit("3x3_reduce", x)))
        double = self._unit("double_3x3_1", self._unit("double_3x3_reduce", x))
        branches.append(self._unit("double_3x3_2", double))
        pooled = self._pool(x)
        branches.append(self._unit("pool_proj", pooled) if self.block.projection else pooled)
        return torch.cat(branches, dim=1)

    def _unit(self, name: str, x: Tensor) -> Tensor:
        network, layer = self.network[0], f"{self.prefix}_{name}"
        return F.relu(getattr(network, f"{layer}_bn")(getattr(network, layer)(x)), inplace=True)

    def _pool(self, x: Tensor) -> Tensor:
        if self.block.pool == "avg":
            return F.avg_pool2d(x, 3, stride=1, padding=1)
        if self.block.stride == 1:
            return F.max_pool2d(x, 3, stride=1, padding=1)
        # The published network's branches have unequal sizes when a side is odd here (never at 224 px), and it fails.
        # One more column or row of nothing then makes the pool as large as the strided convolutions beside it.
        odd = (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)
        return F.max_pool2d(F.pad(x, odd, value=float("-inf")), 3, stride=2, ceil_mode=True)


class Trunk(Backbone):
    """BN-Inception without average pool and classifier.

    Stages: conv1, pool1, conv2, pool2, inception_3a to inception_5b. With `normalised` it takes what the library's
    networks get and converts it first; without, the published networks' input: BGR, 0-255 less the mean.
    """

    def __init__(self, *, in_channels: int = 3, width: float = 1.0, normalised: bool = True) -> None:
        stem, reduce, outputs = (scaled(c, width) for c in STEM)
        channels = {"conv1": stem, "pool1": stem, "conv2": outputs, "pool2": outputs}
        for name, block in BLOCKS.items():
            last = scaled(block.projection, width) if block.projection else outputs
            outputs = sum(scaled(c, width) for c in (block.one, block.three, block.double) if c) + last
            channels[f"inception_{name}"] = outputs
        super().__init__(NAME, width, channels)
        self.published = PublishedInput() if normalised else nn.Identity()
        self._add("conv1_7x7_s2", in_channels, stem, 7, stride=2)
        self.conv1_relu_7x7 = nn.ReLU(inplace=True)
        self.pool1_3x3_s2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self._add("conv2_3x3_reduce", stem, reduce, 1)
        self.conv2_relu_3x3_reduce = nn.ReLU(inplace=True)
        self._add("conv2_3x3", reduce, channels["conv2"], 3)
        self.conv2_relu_3x3 = nn.ReLU(inplace=True)
        self.pool2_3x3_s2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        inputs = channels["pool2"]
        for name, block in BLOCKS.items():
            self._add_block(f"inception_{name}", inputs, block)
            inputs = channels[f"inception_{name}"]
        # A plain dict: the blocks own no layers, and registering them would name every layer twice.
        self._blocks = {f"inception_{name}": Inception(self, name) for name in BLOCKS}
        initialise(self)

    def _add(self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _add_block(self, prefix: str, inputs: int, block: Block) -> None:
        def add(name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> int:
            outputs = scaled(outputs, self.width)
            self._add(f"{prefix}_{name}", inputs, outputs, kernel, stride)
            return outputs

        if block.one:
            add("1x1", inputs, block.one, 1)
        add("3x3", add("3x3_reduce", inputs, block.reduce, 1), block.three, 3, block.stride)
        first = add("double_3x3_1", add("double_3x3_reduce", inputs, block.double_reduce, 1), block.double, 3)
        add("double_3x3_2", first, block.double, 3, block.stride)
        if block.projection:
            add("pool_proj", inputs, block.projection, 1)

    def stages(self) -> Stages:
        """Return the modules of conv1, pool1, conv2, pool2 and the ten inception blocks."""
        layer = self.get_submodule
        conv1 = (self.published, layer("conv1_7x7_s2"), layer("conv1_7x7_s2_bn"), self.conv1_relu_7x7)
        reduce = (layer("conv2_3x3_reduce"), layer("conv2_3x3_reduce_bn"), self.conv2_relu_3x3_reduce)
        conv2 = (*reduce, layer("conv2_3x3"), layer("conv2_3x3_bn"), self.conv2_relu_3x3)
        stem: Stages = {"conv1": conv1, "pool1": (self.pool1_3x3_s2,), "conv2": conv2, "pool2": (self.pool2_3x3_s2,)}
        return stem | {name: (block,) for name, block in self._blocks.items()}

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the outputs of all stages for x (N, in_channels, H, W)."""
        return run_stages(self.stages(), x)


class BNInception(Trunk):
    """The whole network: trunk, average pool, `last_linear`. Published checkpoints load with `models.weights`.

    Input is what published weights expect: BGR, 0-255 less (104, 117, 128), which `data.transforms.bgr_less_mean` makes
    from normalised RGB; or flow in grey levels less 128.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__(in_channels=in_channels, width=width, normalised=False)
        self.last_linear = nn.Linear(self.channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, in_channels, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.last_linear(super().forward(x).mean((-2, -1)))
        return logits
