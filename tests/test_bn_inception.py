"""BN-Inception against a slow version written from the published table and against a published implementation."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.transforms import BGR_MEAN, FLOW_STD, bgr_less_mean, flow_less_zero, normalise_flow, normalise_rgb
from repro.errors import ReproError
from repro.models import backbone
from repro.models.bn_inception import BNInception, Trunk
from repro.models.count import multiply_adds, parameters, stage_shapes
from repro.models.normalisation import FrozenBatchNorm2d, freeze_all_but_first

State = dict[str, Tensor]

# The published table: in, 1x1, 3x3 (reduce, out), double 3x3 (reduce, first, second), pool and projection, out.
TABLE = """
3a 192 64 64 64 64 96 96 avg 32 256
3b 256 64 64 96 64 96 96 avg 64 320
3c 320 - 128 160 64 96 96 max - 576
4a 576 224 64 96 96 128 128 avg 128 576
4b 576 192 96 128 96 128 128 avg 128 576
4c 576 160 128 160 128 160 160 avg 128 608
4d 608 96 128 192 160 192 192 avg 128 608
4e 608 - 128 192 192 256 256 max - 1056
5a 1056 352 192 320 160 224 224 avg 128 1024
5b 1024 352 192 320 192 224 224 max 128 1024
"""
ROWS = {row.split()[0]: row.split()[1:] for row in TABLE.strip().splitlines()}


def slow(w: State, x: Tensor, *, train: bool) -> dict[str, Tensor]:
    """Every stage of the network on BGR images, from a state dict alone."""

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"].shape[-1]
        y = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, (kernel - 1) // 2)
        if train:
            mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        else:
            mean, var = w[f"{name}_bn.running_mean"], w[f"{name}_bn.running_var"]
        y = (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return (y * w[f"{name}_bn.weight"][:, None, None] + w[f"{name}_bn.bias"][:, None, None]).clamp(min=0)

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True)

    out = {"conv1": unit("conv1_7x7_s2", x, 2)}
    out["pool1"] = pool(out["conv1"])
    out["conv2"] = unit("conv2_3x3", unit("conv2_3x3_reduce", out["pool1"]))
    x = out["pool2"] = pool(out["conv2"])
    for name, (_, one, *_sizes, kind, projection, _out) in ROWS.items():
        p, stride = f"inception_{name}", 2 if projection == "-" else 1
        parts = [] if one == "-" else [unit(f"{p}_1x1", x)]
        parts.append(unit(f"{p}_3x3", unit(f"{p}_3x3_reduce", x), stride))
        double = unit(f"{p}_double_3x3_1", unit(f"{p}_double_3x3_reduce", x))
        parts.append(unit(f"{p}_double_3x3_2", double, stride))
        if stride == 2:
            parts.append(pool(x))
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1) if kind == "avg" else F.max_pool2d(x, 3, 1, 1)
            parts.append(unit(f"{p}_pool_proj", pooled))
        x = out[p] = torch.cat(parts, 1)
    return out


def randomised(model: nn.Module) -> nn.Module:
    """Give the batch norms statistics, scales and shifts that a mistake would show with."""
    torch.manual_seed(2)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            assert isinstance(layer.running_mean, Tensor) and isinstance(layer.running_var, Tensor)
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.5, 2)
    return model


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def test_counts() -> None:
    """Published: 11,295,240 with 1000 classes, 10,373,765 with 101; 69 convolutions with bias, 69 batch norms."""
    model = on_meta(BNInception)
    assert parameters(model) == 11_295_240
    assert parameters(on_meta(lambda: BNInception(101))) == 10_373_765
    assert parameters(on_meta(lambda: BNInception(num_classes=101, in_channels=10))) == 10_395_717
    assert parameters(on_meta(lambda: backbone("bn_inception"))) == 11_295_240 - 1_025_000
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 69
    assert all(m.bias is not None for m in convolutions)
    assert multiply_adds(model, torch.zeros(1, 3, 224, 224, device="meta")) / 1e9 == pytest.approx(2.03, abs=0.01)


def test_names_are_the_published_ones() -> None:
    """From the table: a convolution and a batch norm of every unit, flat, and `last_linear`."""
    units = ["conv1_7x7_s2", "conv2_3x3_reduce", "conv2_3x3"]
    for name, (_, one, *_rest, projection, _out) in ROWS.items():
        kinds = ["3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "double_3x3_2"]
        kinds += [] if one == "-" else ["1x1"]
        kinds += [] if projection == "-" else ["pool_proj"]
        units += [f"inception_{name}_{kind}" for kind in kinds]
    buffers = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"{u}.{p}" for u in units for p in ("weight", "bias")} | {f"{u}_bn.{p}" for u in units for p in buffers}
    trunk = on_meta(lambda: backbone("bn_inception"))
    assert set(trunk.state_dict()) == expected
    assert set(on_meta(BNInception).state_dict()) == expected | {"last_linear.weight", "last_linear.bias"}
    assert {name for name, _ in trunk.named_parameters()} <= expected


def test_shapes_are_the_tables() -> None:
    shapes = {k: tuple(v.shape) for k, v in on_meta(BNInception).state_dict().items()}
    for name, (inputs, one, reduce, three, double_reduce, first, second, _, projection, _) in ROWS.items():
        p, i = f"inception_{name}", int(inputs)
        assert shapes[f"{p}_3x3_reduce.weight"] == (int(reduce), i, 1, 1)
        assert shapes[f"{p}_3x3.weight"] == (int(three), int(reduce), 3, 3)
        assert shapes[f"{p}_double_3x3_reduce.weight"] == (int(double_reduce), i, 1, 1)
        assert shapes[f"{p}_double_3x3_1.weight"] == (int(first), int(double_reduce), 3, 3)
        assert shapes[f"{p}_double_3x3_2.weight"] == (int(second), int(first), 3, 3)
        assert one == "-" or shapes[f"{p}_1x1.weight"] == (int(one), i, 1, 1)
        assert projection == "-" or shapes[f"{p}_pool_proj.weight"] == (int(projection), i, 1, 1)
    endpoints = on_meta(lambda: backbone("bn_inception")).endpoints
    assert {name: endpoints[f"inception_{name}"] for name in ROWS} == {n: int(row[-1]) for n, row in ROWS.items()}


@pytest.mark.parametrize("train", [False, True])
def test_equals_the_slow_version(train: bool) -> None:
    torch.manual_seed(0)
    model = randomised(BNInception(num_classes=7, width=0.25)).train(train).double()
    x = 60 * torch.randn(2, 3, 64, 96, dtype=torch.float64)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        expected = slow(weights, x, train=train)
        assert isinstance(model, BNInception)
        stages = model.features(x)
        if train:
            model.load_state_dict(weights)
        logits = model(x)
    assert list(stages) == list(expected) == list(model.endpoints) == list(model.stages())
    for name, y in expected.items():
        torch.testing.assert_close(stages[name], y, rtol=1e-9, atol=1e-9)
        assert stages[name].shape[1] == model.endpoints[name]
    pooled = expected["inception_5b"].mean((2, 3))
    torch.testing.assert_close(
        logits, pooled @ weights["last_linear.weight"].T + weights["last_linear.bias"], rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("train", [False, True])
def test_equals_a_published_implementation(train: bool) -> None:
    """`pretrainedmodels` (Cadene), where it is installed; its one file is imported, the rest needs old packages."""
    spec = importlib.util.find_spec("pretrainedmodels")
    if spec is None or spec.origin is None:
        pytest.skip("pretrainedmodels is not installed; the slow version above is")
    file = Path(spec.origin).parent / "models" / "bninception.py"
    one = importlib.util.spec_from_file_location("published_bninception", file)
    assert one is not None and one.loader is not None
    published = importlib.util.module_from_spec(one)
    one.loader.exec_module(published)
    torch.manual_seed(0)
    theirs = randomised(published.BNInception(num_classes=1000)).train(train)
    ours = BNInception().train(train)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = 60 * torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


# --- as a backbone


def test_backbone_converts_its_input() -> None:
    """From normalised RGB the trunk makes what the published network gets; from flow, grey levels less 128."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    trunk = randomised(backbone("bn_inception", width=0.125)).eval()
    whole = BNInception(5, width=0.125).eval()
    whole.load_state_dict({**whole.state_dict(), **trunk.state_dict()})
    assert isinstance(trunk, Trunk)
    with torch.no_grad():
        bgr = pixels.flip(1).float() - torch.tensor([104.0, 117.0, 128.0])[:, None, None]
        expected = list(whole.features(bgr).values())[-1]
        torch.testing.assert_close(trunk(normalise_rgb(pixels)), expected, rtol=0, atol=0)
        torch.testing.assert_close(list(trunk.features(normalise_rgb(pixels)).values())[-1], expected, rtol=0, atol=0)
        flow = torch.randint(0, 256, (2, 10, 64, 64), dtype=torch.uint8)
        temporal = randomised(backbone("bn_inception", in_channels=10, width=0.125)).eval().double()
        raw = slow(temporal.state_dict(), flow.double() - 128, train=False)["inception_5b"]
        torch.testing.assert_close(temporal((flow.double() - 128) / (255 * FLOW_STD)), raw, rtol=1e-9, atol=1e-9)


def test_all_grey_levels_come_back_exactly() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 1, 1)  # (3, 1, 256)
    found = bgr_less_mean(normalise_rgb(levels))
    for channel, mean in enumerate((104, 117, 128)):  # blue, green, red
        assert BGR_MEAN[channel] == mean
        assert found[channel, 0].tolist() == [level - mean for level in range(256)]
    red = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    red[:, 0] = 200
    assert bgr_less_mean(normalise_rgb(red))[1, :, 0, 0].tolist() == [-104, -117, 72]
    flow = torch.arange(256, dtype=torch.uint8).reshape(1, 2, 1, 128)
    torch.testing.assert_close(flow_less_zero(normalise_flow(flow)), flow.float() - 128, rtol=1e-6, atol=1e-5)
    assert not flow_less_zero(normalise_flow(torch.full((1, 2, 1, 1), 128, dtype=torch.uint8))).any()


def test_the_gradient_passes_the_conversion() -> None:
    x = normalise_rgb(torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8)).requires_grad_()
    bgr_less_mean(x)[0].sum().backward()  # blue
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, 0, 0], torch.tensor([0, 0, 255 * 0.225]))
    y = torch.zeros(1, 2, 1, 1, requires_grad=True)
    flow_less_zero(y).sum().backward()
    assert y.grad is not None
    torch.testing.assert_close(y.grad, torch.full_like(y, 255 * FLOW_STD))


def test_sides_that_are_odd_on_the_way_work() -> None:
    """56 px, the crop of small networks, leave 7 px before block 3c, where the published network fails."""
    trunk = backbone("bn_inception", width=0.125).eval()
    with torch.no_grad():
        shapes = {name: tuple(y.shape[2:]) for name, y in trunk.features(torch.randn(1, 3, 56, 80)).items()}
    assert (shapes["pool2"], shapes["inception_3c"], shapes["inception_4e"]) == ((7, 10), (4, 5), (2, 3))
    with pytest.raises(RuntimeError, match="[Ss]izes of tensors"):
        slow(backbone("bn_inception", width=0.125).state_dict(), torch.randn(1, 3, 56, 56), train=False)


def test_odd_pool_takes_the_last_pixel() -> None:
    """The added border never wins: the pool is a maximum over what is there."""
    trunk = backbone("bn_inception", width=0.125).eval()
    pool = trunk.stages()["inception_3c"][0]._pool  # type: ignore[operator, union-attr]
    x = -1 - torch.rand(1, 2, 5, 7)
    y = pool(x)
    assert y.shape == (1, 2, 3, 4)
    for i in range(3):
        for j in range(4):
            patch = x[..., 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].amax((2, 3))
            torch.testing.assert_close(y[..., i, j], patch, rtol=0, atol=0)


def test_width_keeps_depth_and_names() -> None:
    full, quarter = on_meta(lambda: backbone("bn_inception")), on_meta(lambda: backbone("bn_inception", width=0.25))
    assert list(full.state_dict()) == list(quarter.state_dict())
    wide, narrow = ([m for m in model.modules() if isinstance(m, nn.Conv2d)] for model in (full, quarter))
    for before, after in zip(wide, narrow, strict=True):
        assert (after.out_channels * 4, after.stride) == (before.out_channels, before.stride)
    assert isinstance(quarter, Trunk)
    assert quarter.channels == 256


def test_it_is_a_backbone_like_others() -> None:
    assert backbone("bn_inception", in_channels=10, width=0.125).name == "bn_inception"
    with pytest.raises(ReproError, match="last_stride"):
        backbone("bn_inception", last_stride=1)
    with pytest.raises(ReproError, match="did you mean 'bn_inception'"):
        backbone("bninception")
    with pytest.raises(ReproError, match="no channels"):
        backbone("bn_inception", width=0.001)


def test_copies_and_hooks_see_the_network_they_belong_to() -> None:
    """The blocks hold no layers of their own: a copy must run its own, and a layer that is replaced must be used."""
    torch.manual_seed(0)
    trunk = backbone("bn_inception", width=0.125).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, other = trunk(x), copy.deepcopy(trunk)
        for p in other.parameters():
            p.zero_()
        torch.testing.assert_close(trunk(x), before, rtol=0, atol=0)
        assert not other(x).any()
        trunk.inception_5b_1x1_bn = nn.BatchNorm2d(44).eval().requires_grad_(False)
        trunk.inception_5b_1x1_bn.bias.fill_(7)
        trunk.inception_5b_1x1_bn.weight.zero_()
        assert (trunk(x)[:, :44] == 7).all()
    shapes = stage_shapes(trunk, trunk.stages(), x)
    assert list(shapes) == list(trunk.endpoints)
    assert {name: after[1] for name, (_, after) in shapes.items()} == trunk.endpoints


def test_endpoints_are_not_overwritten_by_later_stages() -> None:
    trunk = backbone("bn_inception", width=0.125).eval()
    x = torch.randn(1, 3, 64, 64)
    outputs = trunk.features(x)
    with torch.no_grad():
        for end, modules in trunk.stages().items():
            for module in modules:
                x = module(x.clone())
            torch.testing.assert_close(outputs[end], x)


# --- partial batch normalisation


@pytest.mark.parametrize("name", ["bn_inception", "resnet18", "vgg16"])
def test_partial_batch_normalisation(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(randomised(backbone(name, width=0.125)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    frozen = freeze_all_but_first(model)
    assert list(model.state_dict()) == list(before)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert frozen == list(layers)[1:]
    assert len(frozen) == {"bn_inception": 68, "resnet18": 19, "vgg16": 0}[name]
    model.eval()
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(torch.randn(2, 3, 32, 32)).square().mean().backward()
        optimiser.step()
    after = model.state_dict()
    for key in before:
        layer = key.rpartition(".")[0]
        assert torch.equal(before[key], after[key]) == (layer in frozen), key


def test_frozen_layers_use_their_statistics_in_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    randomised(model)
    last = copy.deepcopy(model[1]).eval()
    freeze_all_but_first(model)
    assert isinstance(model[1], FrozenBatchNorm2d)
    x = torch.randn(3, 2, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(model.train()[1](x), last(x))
        assert not torch.allclose(model[0](x), copy.deepcopy(model[0]).eval()(x))
