"""Backbones against torchvision's own networks, with copied weights; counts and shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from repro.errors import ReproError
from repro.models import BACKBONES, backbone
from repro.models.base import Backbone
from repro.models.count import describe, evaluating, kept_bytes, multiply_adds, parameters, stage_shapes
from repro.models.resnet import resnet
from repro.models.vgg import vgg

IMAGE = (2, 3, 64, 96)


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def torchvision_with_weights_of(ours: Backbone) -> nn.Module:
    """Build torchvision's network of that name and copy our weights; every key but the classifier's must match."""
    theirs = on_meta(lambda: torchvision.models.get_model(ours.name))
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False, assign=True)
    assert not unexpected
    assert all(key.startswith(("fc.", "classifier.")) for key in missing)
    return theirs


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet152"])
@pytest.mark.parametrize("train", [False, True])
def test_resnet_equals_torchvision(name: str, train: bool) -> None:
    torch.manual_seed(0)
    ours = resnet(name).train(train)
    theirs = torchvision_with_weights_of(ours).train(train)
    theirs.avgpool = theirs.fc = nn.Identity()
    x = torch.randn(IMAGE)
    with torch.no_grad():
        y = ours(x)
        torch.testing.assert_close(y.flatten(1), theirs(x))
        assert y.shape == (2, ours.channels, 2, 3)


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_vgg_equals_torchvision(name: str) -> None:
    torch.manual_seed(0)
    ours = vgg(name)
    theirs = torchvision_with_weights_of(ours)
    x = torch.randn(IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.get_submodule("features")(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "vgg19"])
def test_endpoints_have_the_stated_names_and_channels(name: str) -> None:
    model = backbone(name, width=0.125).eval()
    x = torch.randn(IMAGE)
    with torch.no_grad():
        outputs = model.features(x)
        torch.testing.assert_close(list(outputs.values())[-1], model(x))
    assert {key: value.shape[1] for key, value in outputs.items()} == model.endpoints
    assert list(outputs) == list(model.endpoints) == list(model.stages())
    assert list(outputs.values())[-1].shape[1] == model.channels
    expected = ["conv1", "pool1", "conv2_x", "conv3_x", "conv4_x", "conv5_x"]
    if name.startswith("vgg"):
        expected = [f"{kind}" for i in range(1, 6) for kind in (f"conv{i}_x", f"pool{i}")]
    assert list(outputs) == expected


def test_endpoints_are_not_overwritten_by_later_stages() -> None:
    """In-place activations must not reach back into an endpoint that was handed out."""
    for name in ("resnet18", "vgg16"):
        model = backbone(name, width=0.125).eval()
        x = torch.randn(IMAGE)
        outputs = model.features(x)
        with torch.no_grad():
            for end, modules in model.stages().items():
                for module in modules:
                    x = module(x.clone())
                torch.testing.assert_close(outputs[end], x)


# Without the classifier: torchvision's totals of 11,689,512; 21,797,672; 25,557,032; 44,549,160; 60,192,808;
# 138,357,544; 143,667,240 less 513,000 (fc 512), 2,049,000 (fc 2048) or 123,642,856 (classifier).
COUNTS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "vgg16": 14_714_688,
    "vgg19": 20_024_384,
    "bn_inception": 10_270_240,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_parameter_counts(name: str) -> None:
    assert parameters(on_meta(lambda: backbone(name))) == COUNTS[name]


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_flow_input_changes_the_first_convolution_only(name: str) -> None:
    rgb, flow = backbone(name, width=0.25), backbone(name, width=0.25, in_channels=20)
    changed = [k for k, v in flow.state_dict().items() if v.shape != rgb.state_dict()[k].shape]
    assert changed == ["conv1.weight" if name == "resnet18" else "features.0.weight"]
    assert flow.eval()(torch.randn(1, 20, 32, 32)).shape == (1, flow.channels, 1, 1)


@pytest.mark.parametrize("name", BACKBONES)
def test_width_keeps_depth(name: str) -> None:
    full, quarter = on_meta(lambda: backbone(name)), on_meta(lambda: backbone(name, width=0.25))
    assert list(full.state_dict()) == list(quarter.state_dict())
    for before, after in zip(full.modules(), quarter.modules(), strict=True):
        if isinstance(before, nn.Conv2d):
            assert isinstance(after, nn.Conv2d)
            assert after.out_channels * 4 == before.out_channels
            assert after.stride == before.stride


def test_initialisation_is_torchvisions() -> None:
    torch.manual_seed(0)
    model = resnet("resnet50")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
        if isinstance(module, nn.BatchNorm2d):  # the last one of a block too: no zero-initialised residual
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert all((m.bias == 0).all() for m in vgg("vgg16", width=0.1).modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("make", [backbone, resnet, vgg])
def test_unknown_names_get_the_nearest(make: Callable[[str], Backbone]) -> None:
    meant = "vgg16" if make is vgg else "resnet50"
    with pytest.raises(ReproError, match=f"did you mean '{meant}'"):
        make(meant.replace("t", "tt").replace("g1", "g-1"))


def test_too_narrow_is_refused() -> None:
    with pytest.raises(ReproError, match="no channels"):
        backbone("resnet18", width=0.01)


def test_multiply_adds_of_known_networks() -> None:
    """Published: 4.09 G for torchvision's ResNet-50, 1.81 G for ResNet-18, 19.6 G for VGG-19, 15.5 G for VGG-16."""
    x = torch.zeros(1, 3, 224, 224, device="meta")
    for name, giga in (("resnet50", 4.09), ("resnet18", 1.81), ("vgg19", 19.63), ("vgg16", 15.47)):
        model = on_meta(lambda name=name: torchvision.models.get_model(name))  # type: ignore[misc]
        assert multiply_adds(model, x) / 1e9 == pytest.approx(giga, abs=0.006), name


def test_multiply_adds_by_hand() -> None:
    grouped = nn.Conv2d(4, 6, kernel_size=3, padding=1, groups=2)
    assert multiply_adds(grouped, torch.zeros(2, 4, 5, 7)) == 2 * 5 * 7 * 6 * 2 * 9
    assert multiply_adds(nn.Linear(3, 4), torch.zeros(5, 2, 3)) == 5 * 2 * 3 * 4
    assert multiply_adds(nn.Conv3d(2, 3, (3, 1, 1)), torch.zeros(1, 2, 5, 4, 4)) == 3 * 3 * 16 * 2 * 3


def test_counting_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].eval()
    multiply_adds(model, torch.randn(4, 2))
    stage_shapes(model, {"all": (model,)}, torch.randn(4, 2))
    assert model.training
    assert model[0].training
    assert not model[1].training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert model.training


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 2)
    assert parameters(nn.ModuleList([layer, layer])) == 8


def test_descriptions() -> None:
    stages = resnet("resnet50", width=0.25).stages()
    assert describe(stages["conv1"]) == "kernel 7x7, 16 maps, stride 2"
    assert describe(stages["pool1"]) == "kernel 3x3, stride 2"
    assert describe(stages["conv4_x"]) == "[1x1, 64; 3x3, 64; 1x1, 256] x 6, stride 2"
    assert describe(vgg("vgg19", width=0.25).stages()["conv3_x"]) == "[3x3, 64] x 4, stride 1"


def test_bytes_kept_for_the_backward_pass() -> None:
    """Of two linear layers with a ReLU between them: the inputs of both; the ReLU's output is one."""
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    x = torch.randn(4, 5)
    assert kept_bytes(model, x) == 4 * (x.numel() + 4 * 7)
    frozen = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).requires_grad_(False)
    assert kept_bytes(frozen, x) == 0
