"""Residual networks (He et al., CVPR 2016, Table 1), from torchvision's blocks and with its names of weights."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from repro.errors import ReproError, nearest
from repro.models.base import Backbone, Stages, initialise, run_stages, scaled

Block = type[BasicBlock] | type[Bottleneck]

# He et al., Table 1: the block and how many of them conv2_x to conv5_x have.
LAYOUTS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
PLANES = (64, 128, 256, 512)  # He et al., Table 1: conv2_x to conv5_x


class ResNet(Backbone):
    """A ResNet without average pool and classifier. Its state_dict has torchvision's keys: conv1, bn1, layer1..layer4.

    As in torchvision, the 3x3 convolution of a bottleneck carries the stride; `stride_in` "1x1" moves it to the first
    1x1, where the original and the Caffe and MatConvNet weights have it (ledger st_resnet-L10).
    `last_stride` 1 keeps the resolution of conv4_x in conv5_x, for images so small that little else would be left.
    """

    def __init__(
        self, name: str, *, in_channels: int = 3, width: float = 1.0, last_stride: int = 2, stride_in: str = "3x3"
    ) -> None:
        block, counts = LAYOUTS[name]
        if stride_in not in ("3x3", "1x1"):
            raise ReproError(f"stride_in '{stride_in}': use 3x3 (torchvision) or 1x1 (the original)")
        if stride_in == "1x1" and block is BasicBlock:
            raise ReproError(f"stride_in 1x1: {name} has no 1x1 convolution that could carry the stride; leave it 3x3")
        stem, *planes = (scaled(p, width) for p in (64, *PLANES))
        outputs = {f"conv{i}_x": p * block.expansion for i, p in enumerate(planes, start=2)}
        super().__init__(name, width, {"conv1": stem, "pool1": stem, **outputs})
        self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        inputs = (stem, *outputs.values())
        self.layer1 = _layer(block, inputs[0], planes[0], counts[0], stride=1)
        self.layer2 = _layer(block, inputs[1], planes[1], counts[1], stride=2, stride_in=stride_in)
        self.layer3 = _layer(block, inputs[2], planes[2], counts[2], stride=2, stride_in=stride_in)
        self.layer4 = _layer(block, inputs[3], planes[3], counts[3], stride=last_stride, stride_in=stride_in)
        initialise(self)

    def stages(self) -> Stages:
        """Return the modules of conv1, pool1 and conv2_x to conv5_x."""
        stem: Stages = {"conv1": (self.conv1, self.bn1, self.relu), "pool1": (self.maxpool,)}
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        return stem | {f"conv{i}_x": (layer,) for i, layer in enumerate(layers, start=2)}

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the outputs of all stages for x (N, in_channels, H, W)."""
        return run_stages(self.stages(), x)


def _layer(block: Block, inputs: int, planes: int, count: int, stride: int, stride_in: str = "3x3") -> nn.Sequential:
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    first = block(inputs, planes, stride, shortcut)
    if stride_in == "1x1":
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    return nn.Sequential(first, *(block(outputs, planes) for _ in range(count - 1)))


def resnet(
    name: str, *, in_channels: int = 3, width: float = 1.0, last_stride: int = 2, stride_in: str = "3x3"
) -> Backbone:
    """Build resnet18, 34, 50, 101 or 152; `width` scales all channels and keeps the depth."""
    if name not in LAYOUTS:
        raise ReproError(f"unknown ResNet '{name}'{nearest(name, LAYOUTS)}: use one of {', '.join(LAYOUTS)}")
    return ResNet(name, in_channels=in_channels, width=width, last_stride=last_stride, stride_in=stride_in)
