"""2D weights made 3D (Carreira and Zisserman, CVPR 2017, Sec. 2.4, "bootstrapping 3D filters from 2D filters").

A 2D kernel is repeated T times along time and divided by T. On a clip that repeats one frame, the network then gives
the image network's outputs: at all time steps if the clip goes on like this for ever, in a real clip at the steps whose
receptive field in time lies inside the clip. A kernel that reaches into the zeros before the first or after the last
frame misses part of its weight; max-pools do no harm, since what they see is never negative.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from repro.errors import ReproError
from repro.models.weights import averaged

State = dict[str, Tensor]

# torchvision's GoogLeNet is Inception-v1 with batch normalisation and with 3x3 where Szegedy et al. (2015) have 5x5
# kernels; I3D inflates the same variant, so that every layer of its trunk has one of the same shape there.
GOOGLENET = {
    "conv1": "Conv3d_1a_7x7",
    "conv2": "Conv3d_2b_1x1",
    "conv3": "Conv3d_2c_3x3",
    "inception3a": "Mixed_3b",
    "inception3b": "Mixed_3c",
    "inception4a": "Mixed_4b",
    "inception4b": "Mixed_4c",
    "inception4c": "Mixed_4d",
    "inception4d": "Mixed_4e",
    "inception4e": "Mixed_4f",
    "inception5a": "Mixed_5b",
    "inception5b": "Mixed_5c",
}
BRANCHES = {
    "branch1.": "b0.",
    "branch2.0.": "b1a.",
    "branch2.1.": "b1b.",
    "branch3.0.": "b2a.",
    "branch3.1.": "b2b.",
    "branch4.1.": "b3b.",
}
GOOGLENET_HEADS = ("fc.", "aux1.", "aux2.")  # ImageNet's classifier and the two beside the trunk, used in training


def inflate_conv(weight: Tensor, time: int) -> Tensor:
    """Repeat a 2D kernel (out, in, kh, kw) `time` times and divide it by `time`: (out, in, time, kh, kw).

    Raises ReproError for anything but a 2D kernel and a positive whole number.
    """
    if weight.ndim != 4 or time < 1:
        raise ReproError(
            f"cannot inflate a kernel {tuple(weight.shape)} to {time} frames: give (out, in, kh, kw) and at least 1"
        )
    return weight.unsqueeze(2).expand(-1, -1, time, -1, -1) / time


def inflate_state(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> State:
    """Inflate every 2D kernel of `state` to the duration that it has in `target`, a 3D state dict of the same names.

    Biases and batch normalisations (weight, bias, statistics, counter) are the same in 2D and 3D and stay as they are,
    and so does what `target` has not. Shapes are for the loader to check.
    """
    out = {}
    for name, value in state.items():
        is_kernel = value.ndim == 4 and name in target and target[name].ndim == 5
        out[name] = inflate_conv(value, target[name].shape[2]) if is_kernel else value
    return out


def is_googlenet(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the names of torchvision's GoogLeNet."""
    return any(name.startswith("inception3a.") for name in state)


def i3d_name(name: str) -> str:
    """Translate a weight's name in torchvision's GoogLeNet to I3D's; names of no trunk layer stay as they are."""
    stage, _, rest = name.partition(".")
    for branch, unit in BRANCHES.items():
        if rest.startswith(branch):
            rest = unit + rest.removeprefix(branch)
    return f"{GOOGLENET[stage]}.{rest.replace('conv.', 'conv3d.')}" if stage in GOOGLENET else name


def googlenet_to_i3d(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> State:
    """Turn a GoogLeNet state dict in torchvision's names into one for an I3D whose state dict is `target`.

    The classifiers (`GOOGLENET_HEADS`) are left out. For flow the first kernel is averaged over RGB and repeated, not
    rescaled (`weights.averaged`), then inflated.

    The layers are the same, their borders not quite: torchvision pads the strided convolution by 3 px on both sides and
    the strided max-pools behind only, I3D as `i3d.same_padding` says. On images of 31 px the two coincide; at 224 px
    the first convolution sees every patch one pixel further back.
    """
    renamed = {i3d_name(name): value for name, value in state.items() if not name.startswith(GOOGLENET_HEADS)}
    first = f"{GOOGLENET['conv1']}.conv3d.weight"
    channels = target[first].shape[1]
    if first in renamed and renamed[first].ndim == 4 and renamed[first].shape[1] == 3 != channels:
        renamed[first] = averaged(renamed[first], channels)
    return inflate_state(renamed, target)
