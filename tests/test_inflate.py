"""Inflated weights: on a repeated frame a 3D network gives what the 2D network gives, wherever no zeros come in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d, Inception

from repro.errors import ReproError
from repro.models import backbone, i3d
from repro.models.i3d import ENDPOINTS, I3D, POOLS, UNITS, load_i3d
from repro.models.inflate import googlenet_to_i3d, i3d_name, inflate_conv, inflate_state

State = dict[str, Tensor]


# The sizes of Szegedy et al. (2015), Table 1: inputs; 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; projection.
BLOCKS = {
    "inception3a": (192, 64, 96, 128, 16, 32, 32),
    "inception3b": (256, 128, 128, 192, 32, 96, 64),
    "inception4a": (480, 192, 96, 208, 16, 48, 64),
    "inception4b": (512, 160, 112, 224, 24, 64, 64),
    "inception4c": (512, 128, 128, 256, 24, 64, 64),
    "inception4d": (512, 112, 144, 288, 32, 64, 64),
    "inception4e": (528, 256, 160, 320, 32, 128, 128),
    "inception5a": (832, 256, 160, 320, 32, 128, 128),
    "inception5b": (832, 384, 192, 384, 48, 128, 128),
}
WIDTH = 1 / 8


def whole_googlenet() -> Any:
    with torch.device("meta"):
        return torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False)


@pytest.fixture(scope="module")
def googlenet() -> Any:
    """torchvision's GoogLeNet with an eighth of the channels, and batch norms that a mistake would show with."""
    torch.manual_seed(3)
    model = whole_googlenet()
    model.conv1 = BasicConv2d(3, 8, kernel_size=7, stride=2, padding=3)
    model.conv2 = BasicConv2d(8, 8, kernel_size=1)
    model.conv3 = BasicConv2d(8, 24, kernel_size=3, padding=1)
    for name, sizes in BLOCKS.items():
        setattr(model, name, Inception(*(int(size * WIDTH) for size in sizes)))
    model.fc = nn.Linear(128, 10)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
    return model.double().eval()


def narrow(num_classes: int = 7, in_channels: int = 3) -> I3D:
    return I3D(num_classes, in_channels, width=WIDTH).double().eval()


def googlenet_stages(model: Any, x: Tensor) -> State:
    """Outputs of torchvision's layers for images x (N, 3, H, W), under the names that they have in I3D."""
    order = {
        "Conv3d_1a_7x7": model.conv1,
        "MaxPool3d_2a_3x3": model.maxpool1,
        "Conv3d_2b_1x1": model.conv2,
        "Conv3d_2c_3x3": model.conv3,
        "MaxPool3d_3a_3x3": model.maxpool2,
        "Mixed_3b": model.inception3a,
        "Mixed_3c": model.inception3b,
        "MaxPool3d_4a_3x3": model.maxpool3,
        **{f"Mixed_4{i}": getattr(model, f"inception4{j}") for i, j in zip("bcdef", "abcde", strict=True)},
        "MaxPool3d_5a_2x2": model.maxpool4,
        "Mixed_5b": model.inception5a,
        "Mixed_5c": model.inception5b,
    }
    out = {}
    for name, layer in order.items():
        x = out[name] = layer(x)
    return out


def untouched(inside: list[bool], kernel: int, stride: int, *, zeros_count: bool) -> list[bool]:
    """For each output step: were all the steps that it sees untouched by zeros before the clip and after it?"""
    n = len(inside)
    front = max((-(-n // stride) - 1) * stride + kernel - n, 0) // 2
    windows = [[i * stride - front + j for j in range(kernel)] for i in range(-(-n // stride))]
    return [all(inside[t] if 0 <= t < n else not zeros_count for t in window) for window in windows]


def interior(frames: int) -> dict[str, list[bool]]:
    """The steps of every endpoint whose receptive field lies in the clip; max-pools may see zeros."""
    inside, out = [True] * frames, {}
    for name in ENDPOINTS:
        if name in POOLS:
            (kernel, _, _), (stride, _, _) = POOLS[name]
            inside = untouched(inside, kernel, stride, zeros_count=False)
        else:
            _, kernel, stride = UNITS.get(name, (0, 3, 1))
            inside = untouched(inside, kernel, stride, zeros_count=True)
        out[name] = inside
    return out


# --- one kernel, one layer


def test_a_kernel_is_repeated_and_divided() -> None:
    weight = torch.randn(4, 3, 5, 7, dtype=torch.float64)
    inflated = inflate_conv(weight, 3)
    assert inflated.shape == (4, 3, 3, 5, 7)
    for t in range(3):
        assert torch.equal(inflated[:, :, t], weight / 3)
    torch.testing.assert_close(inflated.sum(2), weight)
    assert torch.equal(inflate_conv(weight, 1)[:, :, 0], weight)
    # The clip that repeats a frame for ever: a kernel sees it whole, and gives what the image gives.
    image = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    clip = image.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    torch.testing.assert_close(F.conv3d(clip, inflated)[:, :, 0], F.conv2d(image, weight))


@pytest.mark.parametrize(("shape", "time"), [((4, 3, 5), 3), ((4, 3, 1, 5, 5), 3), ((4, 3, 5, 5), 0)])
def test_what_cannot_be_inflated(shape: tuple[int, ...], time: int) -> None:
    with pytest.raises(ReproError, match="cannot inflate") as caught:
        inflate_conv(torch.zeros(shape), time)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "layer", "norm", "kernel"),
    [
        ("resnet18", "conv1", "bn1", 7),
        ("bn_inception", "conv2_3x3", "conv2_3x3_bn", 3),
        ("resnet18", "conv1", "bn1", 1),
    ],
)
def test_layers_of_the_image_networks(name: str, layer: str, norm: str, kernel: int) -> None:
    """A convolution without and one with a bias, each with its batch norm, inflated to `kernel` frames."""
    torch.manual_seed(0)
    network = backbone(name, width=0.25).double()
    flat = nn.Sequential(copy.deepcopy(network.get_submodule(layer)), copy.deepcopy(network.get_submodule(norm)))
    old = flat[0]
    for vector in [*flat[1].parameters(), *flat[1].buffers(), *([old.bias] if old.bias is not None else [])]:
        if vector.ndim:
            nn.init.uniform_(vector, 0.5, 1.5)
    deep = nn.Sequential(
        nn.Conv3d(
            old.in_channels,
            old.out_channels,
            (kernel, *old.kernel_size),
            stride=(1, *old.stride),
            padding=(kernel // 2, *old.padding),
            bias=old.bias is not None,
        ),
        nn.BatchNorm3d(old.out_channels),
    ).double()
    deep.load_state_dict(inflate_state(flat.state_dict(), deep.state_dict()))
    image = torch.randn(2, old.in_channels, 12, 12, dtype=torch.float64)
    clip = image.unsqueeze(2).expand(-1, -1, 9, -1, -1)
    edge = kernel // 2
    with torch.no_grad():
        want, got = flat.eval()(image), deep.eval()(clip)
        for t in range(9):
            is_inside = edge <= t < 9 - edge
            assert torch.allclose(got[:, :, t], want, rtol=1e-10, atol=1e-10) == is_inside, t
        # Where the clip goes on before and after, there is no edge.
        ends = F.pad(clip, (0, 0, 0, 0, edge, edge), mode="replicate")
        everywhere = deep(ends)[:, :, edge : edge + 9]
        torch.testing.assert_close(everywhere, want.unsqueeze(2).expand_as(everywhere))


# --- GoogLeNet into I3D


def test_every_layer_of_the_trunk_has_its_own_counterpart() -> None:
    with torch.device("meta"):
        target = I3D(7).state_dict()
    state = whole_googlenet().state_dict()
    names = {name: i3d_name(name) for name in state if not name.startswith("fc.")}
    assert sorted(names.values()) == sorted(name for name in target if not name.startswith("logits."))
    inflated = googlenet_to_i3d(state, target)
    assert {n: v.shape for n, v in inflated.items()} == {n: target[n].shape for n in names.values()}
    assert names["inception4e.branch3.1.conv.weight"] == "Mixed_4f.b2b.conv3d.weight"
    assert names["inception5b.branch4.1.bn.running_var"] == "Mixed_5c.b3b.bn.running_var"
    assert i3d_name("fc.weight") == "fc.weight"


def test_a_repeated_frame_gives_the_image_networks_outputs(googlenet: Any) -> None:
    """On 31 px, where both networks pad alike in space. The clip is long enough that Mixed_5c has steps inside."""
    frames = 104
    model = narrow()
    load_i3d(model, googlenet.state_dict())
    image = torch.randn(1, 3, 31, 31, dtype=torch.float64)
    inside = interior(frames)
    with torch.no_grad():
        got = model.features(image.unsqueeze(2).expand(-1, -1, frames, -1, -1))
        want = googlenet_stages(googlenet, image)
    for name, maps in want.items():
        steps = torch.tensor(inside[name])
        assert got[name].shape[2:] == (len(steps), *maps.shape[2:])
        difference = (got[name] - maps.unsqueeze(2)).abs().amax((0, 1, 3, 4)) / maps.abs().max()
        assert difference[steps].max() < 1e-12, name
        assert difference[~steps].min() > 1e-6, name  # and only there: zeros in time do change the outputs
    assert inside["Mixed_5c"].count(True) == 1  # a receptive field of 99 frames, in steps of 8


def test_with_the_frame_repeated_before_and_after_it_holds_everywhere(
    googlenet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boring video of the paper never ends: replicated instead of zero padding in time makes a short clip one."""

    def replicate_time(unit: i3d.Unit, x: Tensor) -> Tensor:
        width, height, time = (
            pair for pair in zip(*[iter(i3d.same_padding(x.shape[2:], unit.kernel, unit.stride))] * 2, strict=True)
        )
        x = F.pad(x, (0, 0, 0, 0, *time), mode="replicate")
        y = F.conv3d(F.pad(x, (*width, *height, 0, 0)), unit.conv3d.weight, stride=unit.stride)
        return F.relu(unit.bn(y))

    monkeypatch.setattr(i3d.Unit, "forward", replicate_time)
    model = narrow(googlenet.fc.out_features)
    load_i3d(model, googlenet.state_dict())
    model.logits[0].load_state_dict(
        {k: v[..., None, None, None] if v.ndim == 2 else v for k, v in googlenet.fc.state_dict().items()}
    )
    image = torch.randn(1, 3, 31, 31, dtype=torch.float64)
    with torch.no_grad():
        got = model.features(image.unsqueeze(2).expand(-1, -1, 16, -1, -1))
        want = googlenet_stages(googlenet, image)
        for name, maps in want.items():
            torch.testing.assert_close(got[name], maps.unsqueeze(2).expand_as(got[name]))
        # With GoogLeNet's classifier in the head, the logits too: the whole image network, computed in 3D.
        torch.testing.assert_close(model.head(got["Mixed_5c"]), googlenet(image))


def test_loading_reports_every_key(googlenet: Any) -> None:
    state = dict(googlenet.state_dict())
    state["aux1.conv.conv.weight"] = state["aux2.fc2.bias"] = torch.zeros(1)  # the published file has both
    model = narrow(7, 2)
    before = copy.deepcopy(model.state_dict())
    report = load_i3d(model, state)
    first = "Conv3d_1a_7x7.conv3d.weight"
    assert report.adapted == (first,)
    assert set(report.skipped) == {"fc.weight", "fc.bias", "aux1.conv.conv.weight", "aux2.fc2.bias"}
    assert set(report.loaded) == {n for n in model.state_dict() if not n.startswith("logits.")} - {first}
    for name in ("logits.conv3d.weight", "logits.conv3d.bias"):
        assert torch.equal(model.state_dict()[name], before[name])
    # Flow: the mean over RGB in both channels, not rescaled, a seventh in each of the seven frames.
    rgb = state["conv1.conv.weight"]
    for channel in range(2):
        for t in range(7):
            torch.testing.assert_close(
                model.state_dict()[first][:, channel, t], (rgb[:, 0] + rgb[:, 1] + rgb[:, 2]) / 21
            )
    assert load_i3d(narrow(), state).adapted == ()
    # A file of the trunk alone has nothing to leave out.
    trunk = {name: value for name, value in state.items() if not name.startswith(("fc.", "aux"))}
    alone = load_i3d(narrow(7, 2), trunk)
    assert (set(alone.loaded), alone.adapted, alone.skipped) == (set(report.loaded), (first,), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("inception4c.branch2.0.bn.bias"), r"lacks weights .*Mixed_4d\.b1a\.bn\.bias"),
        (lambda s: s.update({"inception6a.branch1.conv.weight": torch.zeros(1)}), "has not: inception6a"),
        (lambda s: s.update({"conv3.conv.weight": torch.zeros(24, 8, 5, 5)}), r"other sizes .*Conv3d_2c_3x3"),
        (lambda s: s.pop("conv1.conv.weight"), r"lacks weights .*Conv3d_1a_7x7\.conv3d\.weight"),
    ],
)
def test_a_googlenet_that_does_not_fit(googlenet: Any, change: Any, message: str) -> None:
    state = dict(googlenet.state_dict())
    change(state)
    model = narrow()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ReproError, match=message) as caught:
        load_i3d(model, state)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_imagenet_is_googlenet_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(i3d, "_initialise", lambda _: None)  # which takes long at full width
    model = I3D(7)
    with pytest.raises(ReproError, match=r"put the file at .*checkpoints/googlenet-1378be20\.pth"):
        load_i3d(model, "imagenet")
    state = {name: torch.ones(value.shape) for name, value in whole_googlenet().state_dict().items()}
    torch.save(state, tmp_path / "checkpoints" / "googlenet-1378be20.pth")
    assert load_i3d(model, "imagenet").source == "imagenet (googlenet-1378be20.pth)"
    kernel = model.state_dict()["Conv3d_2c_3x3.conv3d.weight"]
    torch.testing.assert_close(kernel, torch.full((192, 64, 3, 3, 3), 1 / 3))
    with pytest.raises(ReproError, match="width 1"):
        load_i3d(I3D(7, width=0.25), "imagenet")
