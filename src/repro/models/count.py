"""Numbers read off a live model: parameters, multiply-adds, the shapes and kernels of its stages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


def parameters(model: nn.Module) -> int:
    """Count the parameters (weights that are learned; no buffers), shared ones once."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, *inputs: Tensor | None, training: bool = False) -> int:
    """Count the multiply-adds of one forward pass, those of convolutions and linear layers.

    Runs the model once, in evaluation mode or in that of `training`, where it updates what its layers average; models
    and inputs on the "meta" device are counted without arithmetic.
    """
    total = 0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            total += output.numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        model.train(training)
        for layer in layers:
            hooks.callback(layer.register_forward_hook(add).remove)
        model(*inputs)
    return total


def kept_bytes(model: nn.Module, *inputs: Tensor | None) -> int:
    """Bytes that a forward pass, in the model's own mode, keeps for the backward pass: each storage once, and no
    parameters. On the "meta" device without arithmetic; what a device's kernels need besides is not in it."""
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # held on to, so that no other gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(*inputs)
    del outputs
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    return sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in own)


Shape = tuple[int, ...]


def stage_shapes(
    model: nn.Module, stages: Mapping[str, tuple[nn.Module, ...]], *inputs: Tensor | None
) -> dict[str, tuple[Shape, Shape]]:
    """Run the model once in evaluation mode; return the input and output shape of each stage that ran."""
    before: dict[str, Shape] = {}
    after: dict[str, Shape] = {}
    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        for name, modules in stages.items():

            def enter(_: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                before[name] = tuple(args[0].shape)

            def leave(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...], name: str = name) -> None:
                after[name] = tuple((output if isinstance(output, Tensor) else output[0]).shape)

            hooks.callback(modules[0].register_forward_pre_hook(enter).remove)
            hooks.callback(modules[-1].register_forward_hook(leave).remove)
        model(*inputs)
    return {name: (before[name], after[name]) for name in stages if name in after}


def describe(modules: tuple[nn.Module, ...]) -> str:
    """Describe a stage as architecture tables do: "[1x1, 128; 3x3, 128; 1x1, 512] x 4, stride 2"."""
    first = modules[0]
    if isinstance(first, nn.MaxPool2d):
        return f"kernel {first.kernel_size}x{first.kernel_size}, stride {first.stride}"
    if isinstance(first, nn.Sequential):  # a stage of residual blocks: its first block stands for all
        blocks, layers = len(first), list(first[0].children())
        convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]  # not the shortcut's, which is a level deeper
    else:  # a list of equal convolutions: the first stands for all
        convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
        blocks, convolutions = len(convolutions), convolutions[:1]
    stride = math.prod(c.stride[0] for c in convolutions)
    if blocks == 1 and len(convolutions) == 1:
        only = convolutions[0]
        return f"kernel {only.kernel_size[0]}x{only.kernel_size[1]}, {only.out_channels} maps, stride {stride}"
    kernels = [f"{c.kernel_size[0]}x{c.kernel_size[1]}, {c.out_channels}" for c in convolutions]
    return f"[{'; '.join(kernels)}] x {blocks}, stride {stride}"


def size_text(shape: Shape) -> str:
    """Write a shape without its batch axis, channels last, as architecture tables do: "56 x 56 x 64"."""
    order = (*shape[2:], shape[1]) if len(shape) > 3 else shape[1:]
    return " x ".join(str(n) for n in order)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode and give every module its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
