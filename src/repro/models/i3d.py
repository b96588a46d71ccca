"""Inception-v1 I3D (Carreira and Zisserman, CVPR 2017, Figure 3), with the names of weights that published files use.

Layer sizes, paddings and names are those of the released TensorFlow model and of its widely used PyTorch port: 57
convolutions without biases, a batch normalisation after each; 12,697,264 parameters with 400 classes and RGB.
B clips, C channels, T frames, H W.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from repro.data.transforms import FLOW_STD, RGB_MEAN, RGB_STD
from repro.errors import ReproError, nearest
from repro.models.base import Stages, scaled
from repro.models.inflate import GOOGLENET_HEADS, googlenet_to_i3d, is_googlenet
from repro.models.weights import LoadReport, fetch_weights, fit_weights, read_weights, torchvision_url

# Output channels of the branches: b0 1x1; b1a 1x1, b1b 3x3; b2a 1x1, b2b 3x3; b3b 1x1 after the max-pool.
BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
UNITS = {"Conv3d_1a_7x7": (64, 7, 2), "Conv3d_2b_1x1": (64, 1, 1), "Conv3d_2c_3x3": (192, 3, 1)}  # out, kernel, stride
POOLS = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
ENDPOINTS = (
    *("Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3"),
    *("Mixed_3b", "Mixed_3c", "MaxPool3d_4a_3x3"),
    *("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2"),
    *("Mixed_5b", "Mixed_5c"),
)
NARROWEST = 1 / 16  # keeps one of the 16 channels of Mixed_3b's b2a
BN_EPS = 1e-3  # the released model's
# PyTorch's own, not the port's 0.01: with that, the statistics of a network from scratch would still hold a tenth of
# their start values after 230 steps, and small trainings are not much longer.
BN_MOMENTUM = 0.1


def published_input(x: Tensor) -> Tensor:
    """Turn the library's normalised clips (B, C, T, H, W) into the range [-1, 1] that published weights expect.

    Three channels are RGB, 0 to 255; others are flow, clipped where the store clips it, 20 px by default as published.
    """
    if x.shape[1] != 3:
        return x * (2 * FLOW_STD)  # (q - 128) / 127.5 of the 8-bit code q
    mean, std = (torch.tensor(values, device=x.device)[:, None, None, None] for values in (RGB_MEAN, RGB_STD))
    rgb: Tensor = (x * std + mean) * 2 - 1
    return rgb


def same_padding(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """Return TensorFlow's SAME padding of each axis for `F.pad`: last axis first, before and after.

    The output has ceil(n / stride) places. An odd padding has its larger half behind.
    """
    padding: list[int] = []
    for n, k, s in zip(reversed(sizes), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        padding += [total // 2, total - total // 2]
    return padding


class SamePool(nn.Module):
    """Max-pool with SAME padding by zeros. They change no maximum here, since what comes in has passed a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, C, ceil(T / stride), ...)."""
        return F.max_pool3d(F.pad(x, same_padding(x.shape[2:], self.kernel, self.stride)), self.kernel, self.stride)


class Unit(nn.Module):
    """Convolution with SAME padding by zeros, batch normalisation, ReLU; equal kernel and stride along T, H, W."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        # At stride 1 an odd kernel's SAME padding is the same on both sides and spares the copy that F.pad makes.
        inside = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=inside, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, outputs, ceil(T / stride), ceil(H / stride), ceil(W / stride))."""
        if self.stride != (1, 1, 1):
            x = F.pad(x, same_padding(x.shape[2:], self.kernel, self.stride))
        return F.relu(self.bn(self.conv3d(x)), inplace=True)


class Mixed(nn.Module):
    """One inception block: four branches, joined along the channels. `sizes` are those of `BLOCKS`."""

    def __init__(self, inputs: int, sizes: Sequence[int]) -> None:
        super().__init__()
        one, reduce1, three1, reduce2, three2, projection = sizes
        self.b0 = Unit(inputs, one)
        self.b1a = Unit(inputs, reduce1)
        self.b1b = Unit(reduce1, three1, 3)
        self.b2a = Unit(inputs, reduce2)
        self.b2b = Unit(reduce2, three2, 3)  # the image network of Szegedy et al. (2015) has 5x5 here
        self.b3a = SamePool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(inputs, projection)
        self.channels = one + three1 + three2 + projection

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, t, h, w) to (B, channels, t, h, w)."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class I3D(nn.Module):
    """The whole network, for clips (B, in_channels, T, H, W) in [-1, 1] (`published_input`) of any size.

    `width` scales all channels, 1/16 at least. With `checkpointing`, which can be switched at any time, training keeps
    the outputs of the endpoints only and computes what is between them again in the backward pass: the same gradients
    and statistics from less memory.

    Convolutions start as in the released code: normal with variance 1 / fan-in, cut off at two standard deviations;
    biases at 0, batch normalisations at 1 and 0.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        width: float = 1.0,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if width < NARROWEST:
            raise ReproError(f"width {width} leaves no channels in I3D: use a width of at least {NARROWEST}")
        self.width, self.checkpointing = width, checkpointing
        self.endpoint_channels: dict[str, int] = {}
        channels = in_channels
        for name in ENDPOINTS:
            layer: Unit | SamePool | Mixed
            if name in POOLS:
                layer = SamePool(*POOLS[name])
            elif name in UNITS:
                outputs, kernel, stride = UNITS[name]
                layer = Unit(channels, scaled(outputs, width), kernel, stride)
                channels = scaled(outputs, width)
            else:
                layer = Mixed(channels, [scaled(c, width) for c in BLOCKS[name]])
                channels = layer.channels
            self.add_module(name, layer)
            self.endpoint_channels[name] = channels
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(channels, num_classes, 1)))
        _initialise(self)
        # After the random weights, which are drawn in the order of memory. Channels last, a training step of the small
        # network took 0.6 times as long on a CPU.
        self.to(memory_format=torch.channels_last_3d)

    def stages(self) -> Stages:
        """Return the module of each endpoint, in order."""
        return {name: (self.get_submodule(name),) for name in ENDPOINTS}

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the outputs of all endpoints, (B, endpoint_channels[name], t, h, w) each.

        t is T/2 to Mixed_3c, T/4 to Mixed_4f, then T/8; h is H/2, after the pools H/4, H/8, H/16, H/32; each halving
        rounded up.
        """
        outputs = {}
        for name in ENDPOINTS:
            x = outputs[name] = self._endpoint(name, x)
        return outputs

    def from_endpoint(self, x: Tensor, name: str) -> Tensor:
        """Continue from x, the output of endpoint `name`, to the output of Mixed_5c (B, 1024 width, t, h, w)."""
        if name not in ENDPOINTS:
            raise ReproError(f"unknown endpoint '{name}'{nearest(name, ENDPOINTS)}: use one of {', '.join(ENDPOINTS)}")
        for later in ENDPOINTS[ENDPOINTS.index(name) + 1 :]:
            x = self._endpoint(later, x)
        return x

    def pooled(self, mixed_5c: Tensor) -> Tensor:
        """Average Mixed_5c over space and time as the classifier sees it (see `_windows`): (B, 1024 width)."""
        return _windows(mixed_5c).mean((2, 3, 4))

    def head(self, mixed_5c: Tensor) -> Tensor:
        """Map Mixed_5c (B, 1024 width, t, h, w) to logits (B, num_classes), averaged over time."""
        logits: Tensor = self.logits(self.dropout(_windows(mixed_5c)))  # (B, n, t - 1, 1, 1)
        return logits.mean((2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (B, in_channels, T, H, W) to logits (B, num_classes)."""
        return self.head(self.from_endpoint(self._endpoint(ENDPOINTS[0], x), ENDPOINTS[0]))

    def _endpoint(self, name: str, x: Tensor) -> Tensor:
        layer = self.get_submodule(name)
        again = self.checkpointing and torch.is_grad_enabled()
        out: Tensor = _checkpointed(layer, x) if again else layer(x)
        return out


def _windows(x: Tensor) -> Tensor:
    """Average Mixed_5c (B, C, t, h, w) over the map and over neighbouring pairs of steps: (B, C, t - 1, 1, 1).

    The published head averages windows of 2x7x7 at stride 1 and its logits over time, so that the first and the last
    step count half. At 224 px the map is 7x7 and this is the same. On smaller maps a 7x7 window fits nowhere and the
    published network fails; on larger ones it gives logits by place; here the window is the map. A single step (8
    frames or fewer), where it fails too, stays as it is.
    """
    return F.avg_pool3d(x, (min(2, x.shape[2]), x.shape[3], x.shape[4]), stride=1)


def _checkpointed(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer and forget what is inside it until the backward pass, which runs it again.

    The second run works on copies of the running statistics, or they would move twice.
    """
    is_first = True

    def run(x: Tensor) -> Tensor:
        nonlocal is_first
        if is_first:
            is_first = False
            return layer(x)  # type: ignore[no-any-return]
        copies = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        return functional_call(layer, copies, (x,))  # type: ignore[no-any-return]

    # No layer of the trunk draws random numbers, so that there is no state of a generator to preserve.
    return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            std = layer.weight[0].numel() ** -0.5
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def load_i3d(model: I3D, weights: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Load weights into an I3D: "none", "imagenet" (torchvision's GoogLeNet, inflated), a file or a state dict.

    Files: a published I3D in the PyTorch port's names (rgb_imagenet.pt, flow_imagenet.pt and what was saved of this
    class), or torchvision's GoogLeNet, which is inflated (`inflate.googlenet_to_i3d`). A classifier for another number
    of classes, and GoogLeNet's, are left out and reported as skipped: the head keeps its weights. Raises ReproError
    for any other key that is missing, unknown or of another shape; then nothing is loaded.
    """
    if not isinstance(weights, Mapping) and str(weights) == "none":
        return LoadReport("none")
    if isinstance(weights, Mapping) or str(weights) != "imagenet":
        found, source = read_weights(weights)
    elif model.width != 1:
        raise ReproError("ImageNet weights exist for an I3D of width 1 only: set width 1 or weights 'none'")
    else:
        found, source = fetch_weights(torchvision_url("googlenet"))
    target = model.state_dict()
    own = {name: value for name, value in target.items() if name.startswith("logits.")}
    adapted: tuple[str, ...] = ()
    left = set(own)  # what of the model keeps its weights
    if is_googlenet(found):
        skipped = tuple(name for name in found if name.startswith(GOOGLENET_HEADS))
        first = f"{ENDPOINTS[0]}.conv3d.weight"
        found, rgb = googlenet_to_i3d(found, target) | own, found.get("conv1.conv.weight")
        adapted = (first,) if rgb is not None and rgb.shape[1:2] != target[first].shape[1:2] else ()
    else:
        skipped = _other_classifier(found, own)
        left = set(skipped)
        found = found | {name: own[name] for name in left}
    report = fit_weights(model, found, source)
    loaded = tuple(name for name in report.loaded if name not in left and name not in adapted)
    return replace(report, loaded=loaded, adapted=adapted, skipped=skipped)


def _other_classifier(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of a whole classifier that differs from `own` in the number of classes alone."""
    if not own.keys() <= found.keys():
        return ()
    classes = {len(found[name]) if found[name].ndim else 0 for name in own}
    fits = all(found[name].shape[1:] == value.shape[1:] for name, value in own.items())
    mine = {len(value) for value in own.values()}
    return tuple(own) if fits and len(classes) == 1 and classes != mine else ()
