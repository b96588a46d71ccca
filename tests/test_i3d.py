"""I3D against slow padding arithmetic, a second implementation, published counts and names, and itself checkpointed."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from repro.data.transforms import normalise_flow, normalise_rgb
from repro.errors import ReproError
from repro.models.count import kept_bytes, multiply_adds, parameters
from repro.models.i3d import ENDPOINTS, I3D, SamePool, Unit, load_i3d, published_input, same_padding

State = dict[str, Tensor]
Array = NDArray[np.float64]

# The published network, one line an endpoint: channels; kernel and stride of time, of space; or the six sizes.
TABLE = """
Conv3d_1a_7x7 conv 64 7 2
MaxPool3d_2a_3x3 pool 1 1 3 2
Conv3d_2b_1x1 conv 64 1 1
Conv3d_2c_3x3 conv 192 3 1
MaxPool3d_3a_3x3 pool 1 1 3 2
Mixed_3b mixed 64 96 128 16 32 32
Mixed_3c mixed 128 128 192 32 96 64
MaxPool3d_4a_3x3 pool 3 2 3 2
Mixed_4b mixed 192 96 208 16 48 64
Mixed_4c mixed 160 112 224 24 64 64
Mixed_4d mixed 128 128 256 24 64 64
Mixed_4e mixed 112 144 288 32 64 64
Mixed_4f mixed 256 160 320 32 128 128
MaxPool3d_5a_2x2 pool 2 2 2 2
Mixed_5b mixed 256 160 320 32 128 128
Mixed_5c mixed 384 192 384 48 128 128
"""
ROWS = {row.split()[0]: row.split()[1:] for row in TABLE.strip().splitlines()}
NARROW = 1 / 16


# --- slow versions


def places(n: int, kernel: int, stride: int) -> list[list[int]]:
    """The indices that each output place sees along one axis; those outside 0..n-1 are padding (TensorFlow's SAME)."""
    remainder = stride if n % stride == 0 else n % stride
    front = max(kernel - remainder, 0) // 2
    return [[i * stride - front + j for j in range(kernel)] for i in range(math.ceil(n / stride))]


def slow_same(x: Array, kernel: tuple[int, ...], stride: tuple[int, ...], reduce: Callable[[Array], Any]) -> Array:
    """Apply `reduce` to every patch (C, kt, kh, kw) of x (C, T, H, W), with zeros where a patch leaves x."""
    axes = [places(n, k, s) for n, k, s in zip(x.shape[1:], kernel, stride, strict=True)]
    out = None
    for place in itertools.product(*(range(len(axis)) for axis in axes)):
        patch = np.zeros((len(x), *kernel))
        for offset in itertools.product(*(range(k) for k in kernel)):
            at = [axis[i][j] for axis, i, j in zip(axes, place, offset, strict=True)]
            if all(0 <= i < n for i, n in zip(at, x.shape[1:], strict=True)):
                patch[(slice(None), *offset)] = x[(slice(None), *at)]
        value = np.asarray(reduce(patch))
        out = np.zeros((len(value), *(len(axis) for axis in axes))) if out is None else out
        out[(slice(None), *place)] = value
    assert out is not None
    return out


class Slow:
    """The network from a state dict alone: padding written out, patches unfolded, batch normalisation by its formula.

    Counts multiply-adds as it goes.
    """

    def __init__(self, w: State, *, train: bool = False) -> None:
        self.w, self.train, self.multiply_adds = w, train, 0

    def padded(self, x: Tensor, kernel: list[int], stride: list[int]) -> Tensor:
        for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
            seen = places(x.shape[axis], k, s)
            before, after = -seen[0][0], max(seen[-1][-1] - x.shape[axis] + 1, 0)
            ends = [x.new_zeros(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in (before, after)]
            x = torch.cat([ends[0], x, ends[1]], dim=axis)
        return x

    def unit(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.w[f"{name}.conv3d.weight"]
        y = F.conv3d(self.padded(x, list(weight.shape[2:]), [stride] * 3), weight, stride=stride)
        self.multiply_adds += y.numel() * weight[0].numel()
        mean, var = self.w[f"{name}.bn.running_mean"], self.w[f"{name}.bn.running_var"]
        if self.train:
            mean, var = y.mean((0, 2, 3, 4)), y.var((0, 2, 3, 4), unbiased=False)
        scale, shift = self.w[f"{name}.bn.weight"], self.w[f"{name}.bn.bias"]
        mean, var, scale, shift = (v[:, None, None, None] for v in (mean, var, scale, shift))
        return ((y - mean) / (var + 0.001).sqrt() * scale + shift).clamp(min=0)

    def pool(self, x: Tensor, time: tuple[int, int], space: tuple[int, int]) -> Tensor:
        x = self.padded(x, [time[0], space[0], space[0]], [time[1], space[1], space[1]])
        for axis, (k, s) in enumerate((time, space, space), start=2):
            x = x.unfold(axis, k, s).amax(-1)
        return x

    def endpoints(self, x: Tensor) -> State:
        out = {}
        for name, (kind, *numbers) in ROWS.items():
            sizes = [int(n) for n in numbers]
            if kind == "conv":
                x = self.unit(name, x, sizes[2])
            elif kind == "pool":
                x = self.pool(x, (sizes[0], sizes[1]), (sizes[2], sizes[3]))
            else:
                b1 = self.unit(f"{name}.b1b", self.unit(f"{name}.b1a", x))
                b2 = self.unit(f"{name}.b2b", self.unit(f"{name}.b2a", x))
                b3 = self.unit(f"{name}.b3b", self.pool(x, (3, 1), (3, 1)))
                x = torch.cat([self.unit(f"{name}.b0", x), b1, b2, b3], dim=1)
            out[name] = x
        return out

    def published_head(self, x: Tensor) -> Tensor:
        """Average pool 2x7x7 at stride 1, 1x1x1 convolution, mean over time; for maps of 7x7."""
        windows = torch.stack([x[:, :, t : t + 2].mean((2, 3, 4)) for t in range(x.shape[2] - 1)], dim=1)
        weight, bias = self.w["logits.conv3d.weight"], self.w["logits.conv3d.bias"]
        self.multiply_adds += windows[..., 0].numel() * weight.numel()
        return (windows @ weight[:, :, 0, 0, 0].T + bias).mean(1)


def randomised(model: I3D) -> I3D:
    """Give the batch norms statistics, scales and shifts that a mistake would show with."""
    torch.manual_seed(2)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm3d):
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    nn.init.normal_(model.logits[0].bias)
    return model


def narrow(num_classes: int = 7, in_channels: int = 3, **options: Any) -> I3D:
    torch.manual_seed(1)
    return randomised(I3D(num_classes, in_channels, width=NARROW, **options))


# --- padding


@pytest.mark.parametrize(("kernel", "stride"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))])
@pytest.mark.parametrize("sizes", [(4, 5, 6), (1, 1, 2), (3, 4, 7)])
def test_max_pool_pads_as_tensorflow_does(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], sizes: tuple[int, int, int]
) -> None:
    x = np.random.default_rng(0).normal(size=(2, *sizes))  # negative too: the padding is zeros
    want = slow_same(x, kernel, stride, lambda patch: patch.max((1, 2, 3)))
    got = SamePool(kernel, stride)(torch.from_numpy(x)[None])[0]
    np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1), (3, 2)])
@pytest.mark.parametrize("sizes", [(4, 5, 6), (1, 2, 3), (7, 4, 1)])
def test_convolution_pads_as_tensorflow_does(kernel: int, stride: int, sizes: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    unit = Unit(2, 3, kernel, stride).double().eval()
    x = np.random.default_rng(0).normal(size=(2, *sizes))
    weight = unit.conv3d.weight.detach().numpy()
    want = slow_same(x, (kernel,) * 3, (stride,) * 3, lambda p: np.einsum("cthw,octhw->o", p, weight))
    want = np.maximum(want / np.sqrt(1 + 1e-3), 0)  # a fresh batch norm: mean 0, variance 1
    with torch.no_grad():
        got = unit(torch.from_numpy(x)[None])[0]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12, atol=1e-12)


def test_the_odd_padding_is_behind() -> None:
    # 224 px, kernel 7, stride 2: (112 - 1) 2 + 7 - 224 = 5, of which 2 before; 64 frames alike.
    assert same_padding((64, 224, 224), (7, 7, 7), (2, 2, 2)) == [2, 3, 2, 3, 2, 3]
    assert same_padding((32, 112, 112), (1, 3, 3), (1, 2, 2)) == [0, 1, 0, 1, 0, 0]
    assert same_padding((5, 3, 4), (3, 1, 2), (2, 1, 2)) == [0, 0, 0, 0, 1, 1]


# --- the whole network


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(3, (17, 33, 48)), (2, (8, 32, 32))])
def test_every_endpoint_against_a_second_implementation(channels: int, size: tuple[int, int, int], train: bool) -> None:
    model = narrow(in_channels=channels).double().train(train)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    with torch.no_grad():
        got, want = model.features(x), Slow(state, train=train).endpoints(x)
    assert list(got) == list(want) == list(ENDPOINTS)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-9, atol=1e-9)
        assert got[name].shape[1] == model.endpoint_channels[name]
    assert got["Mixed_5c"].abs().max() > 0.1


def test_the_head_is_the_published_one_at_224_px() -> None:
    model = narrow().double().eval()
    maps = torch.rand(2, model.endpoint_channels["Mixed_5c"], 8, 7, 7, dtype=torch.float64)
    slow = Slow(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.head(maps), slow.published_head(maps))
        # By the layers that the port has, too.
        port = model.logits(F.avg_pool3d(maps, (2, 7, 7), stride=1)).squeeze(3).squeeze(3).mean(2)
        torch.testing.assert_close(model.head(maps), port)
        # The windows weigh the first and the last step half: a plain mean over time is something else.
        plain = model.logits(maps.mean((2, 3, 4), keepdim=True)).flatten(1)
        assert (model.head(maps) - plain).abs().max() > 1e-4
        torch.testing.assert_close(
            model.logits(model.pooled(maps)[..., None, None, None]).flatten(1), plain_head(maps, model)
        )


def plain_head(maps: Tensor, model: I3D) -> Tensor:
    """The head's logits, from weights of the steps written out: 1 at both ends, 2 between, over 2 (t - 1)."""
    t = maps.shape[2]
    weights = torch.full((t,), 2.0, dtype=maps.dtype)
    weights[0] = weights[-1] = 1
    features = (maps.mean((3, 4)) * weights / (2 * (t - 1))).sum(2)
    layer = model.logits[0]
    return features @ layer.weight[:, :, 0, 0, 0].T + layer.bias


@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 4, 4), (3, 8, 8), (1, 1, 1)])
def test_the_head_averages_over_whatever_is_left(shape: tuple[int, int, int]) -> None:
    model = narrow().eval()
    maps = torch.rand(2, model.endpoint_channels["Mixed_5c"], *shape)
    with torch.no_grad():
        if shape[0] < 3:  # with one or two steps all count alike
            torch.testing.assert_close(model.pooled(maps), maps.mean((2, 3, 4)))
        else:
            torch.testing.assert_close(model.head(maps), plain_head(maps, model))
        assert model.head(maps).shape == (2, 7)


def test_dropout_stands_before_the_logits() -> None:
    model = narrow(dropout=0.5).train()
    maps = torch.ones(1, model.endpoint_channels["Mixed_5c"], 2, 2, 2)
    seen: list[Tensor] = []
    hook = model.logits.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    torch.manual_seed(0)
    model.head(maps)
    hook.remove()
    assert set(seen[0].flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(model.eval().head(maps), model.head(maps))


def test_continuing_from_an_endpoint_gives_the_same() -> None:
    model = narrow().eval()
    x = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        features = model.features(x)
        for name in ENDPOINTS:
            assert torch.equal(model.from_endpoint(features[name], name), features["Mixed_5c"])
        assert torch.equal(model(x), model.head(features["Mixed_5c"]))
    with pytest.raises(ReproError, match=r"unknown endpoint 'Mixed_4g' \(did you mean 'Mixed_4"):
        model.from_endpoint(x, "Mixed_4g")


def test_clips_of_all_sizes_pass() -> None:
    with torch.device("meta"):
        for size, width, channels in (((16, 56, 56), 0.25, 2), ((64, 112, 112), 1.0, 3), ((64, 224, 224), 1.0, 3)):
            model = I3D(5, channels, width=width)
            x = torch.zeros(1, channels, *size)
            features = model.features(x)
            shapes = {name: tuple(maps.shape[1:]) for name, maps in features.items()}
            frames, side, _ = size
            c = model.endpoint_channels
            assert shapes["Mixed_3c"] == (c["Mixed_3c"], frames // 2, side // 8, side // 8)
            assert shapes["Mixed_4f"] == (c["Mixed_4f"], frames // 4, -(-side // 16), -(-side // 16))
            assert shapes["Mixed_5c"] == (1024 * width, frames // 8, -(-side // 32), -(-side // 32))
            assert model.head(features["Mixed_5c"]).shape == (1, 5)
            assert model.eval()(x[:, :, :1, :1, :1]).shape == (1, 5)  # no pool leaves nothing


# --- counts and initialisation


def test_published_counts() -> None:
    with torch.device("meta"):
        rgb, flow = I3D(400), I3D(400, 2)
        assert parameters(rgb) == 12_697_264
        assert parameters(flow) == 12_675_312
        assert parameters(rgb) - parameters(rgb.logits) == 12_287_264
        assert parameters(flow) - parameters(flow.logits) == 12_265_312
        x = torch.zeros(1, 3, 64, 224, 224)
        slow = Slow(rgb.state_dict())
        slow.published_head(slow.endpoints(x)["Mixed_5c"])
        assert multiply_adds(rgb, x) == slow.multiply_adds == 111_153_143_808


def test_width_scales_every_layer() -> None:
    with torch.device("meta"):
        whole, quarter = I3D(7), I3D(7, width=0.25)
    for name, channels in whole.endpoint_channels.items():
        assert quarter.endpoint_channels[name] == channels / 4
    for name, value in quarter.state_dict().items():
        if value.ndim == 1 and "logits" not in name:
            assert len(value) == len(whole.state_dict()[name]) / 4
    with pytest.raises(ReproError, match=r"width 0\.05 .* at least 0\.0625"):
        I3D(7, width=0.05)


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = I3D(50, width=0.25)
    for name in ("Conv3d_1a_7x7", "Mixed_4b.b1b", "logits"):
        weight = model.get_submodule(name).conv3d.weight  # type: ignore[union-attr]
        assert isinstance(weight, Tensor)
        unit = weight.detach() * weight[0].numel() ** 0.5  # a standard normal, cut off at 2
        assert unit.abs().max() <= 2.0001
        assert unit.std().item() == pytest.approx(0.8796, rel=0.05)
        assert unit.mean().item() == pytest.approx(0, abs=0.05)
    assert model.logits[0].bias.abs().sum() == 0


# --- activation checkpointing


@pytest.mark.parametrize("train", [True, False])
def test_checkpointing_changes_nothing_but_memory(train: bool) -> None:
    plain = narrow().train(train)
    again = copy.deepcopy(plain)
    again.checkpointing = True
    x, target = torch.randn(2, 3, 8, 32, 32), torch.tensor([1, 4])
    losses = []
    for model in (plain, again):
        losses.append(F.cross_entropy(model(x), target) + model.features(x)["Mixed_4f"].square().mean())
        losses[-1].backward()
    assert torch.equal(losses[0], losses[1])
    for (name, one), two in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None, name
        assert torch.equal(one.grad, two.grad), name
    # The statistics moved twice, once a forward pass, and not once more when layers ran again.
    for (name, one), two in zip(plain.named_buffers(), again.buffers(), strict=True):
        assert torch.equal(one, two), name
        if name.endswith("num_batches_tracked"):
            assert two == (2 if train else 0)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in again.Conv3d_1a_7x7.parameters())


def test_checkpointing_keeps_less() -> None:
    """Six clips of 64 x 224 x 224 in 16 bits: what is kept, and the most that running one endpoint again adds."""
    with torch.device("meta"):
        x = torch.zeros(6, 3, 64, 224, 224, dtype=torch.bfloat16)
        model = I3D(400).bfloat16()
        plain = kept_bytes(model, x)
        model.checkpointing = True
        outputs = model.features(x)
        inputs = zip(ENDPOINTS, [x, *outputs.values()], strict=False)
        most = max(kept_bytes(model.get_submodule(name), given) for name, given in inputs)
        kept = kept_bytes(model, x)
    # The clip, every output, and the pooled windows and statistics of the head, which are small.
    assert kept == pytest.approx(sum(tensor.nbytes for tensor in [x, *outputs.values()]), rel=1e-3)
    assert kept + most < plain / 2


def test_nothing_runs_again_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.models.i3d.checkpoint", lambda *_, **__: pytest.fail("checkpointed"))
    with torch.no_grad():
        narrow(checkpointing=True).eval()(torch.zeros(1, 3, 8, 32, 32))


# --- published files


def expected_names() -> set[str]:
    units = [f"{name}" for name, row in ROWS.items() if row[0] == "conv"]
    units += [
        f"{name}.{b}" for name, row in ROWS.items() if row[0] == "mixed" for b in "b0 b1a b1b b2a b2b b3b".split()
    ]
    layers = ("conv3d.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    return {f"{unit}.{layer}" for unit in units for layer in layers} | {"logits.conv3d.weight", "logits.conv3d.bias"}


def published(num_classes: int = 7, channels: int = 3) -> State:
    """What the port's files hold, at a sixteenth of the width: written before batch norms had counters."""
    state = narrow(num_classes, channels).state_dict()
    return {k: torch.randn_like(v) for k, v in state.items() if not k.endswith("num_batches_tracked")}


def save(state: State, path: Path, **options: Any) -> Path:
    torch.save(state, path, **options)
    return path


def test_names_are_the_published_ones() -> None:
    with torch.device("meta"):
        state = I3D(400).state_dict()
    names = {name for name in state if not name.endswith(".num_batches_tracked")}
    assert names == expected_names() and len(names) == 57 * 5 + 2
    shapes = {
        "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
        "Mixed_3b.b1b.conv3d.weight": (128, 96, 3, 3, 3),
        "Mixed_3b.b1b.bn.running_mean": (128,),
        "logits.conv3d.weight": (400, 1024, 1, 1, 1),
        "logits.conv3d.bias": (400,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_a_published_file_loads(zipped: bool, wrap: Callable[[State], Any], tmp_path: Path) -> None:
    state = published(channels=2)
    path = save(wrap(state), tmp_path / "flow_imagenet.pt", _use_new_zipfile_serialization=zipped)
    model = narrow(in_channels=2)
    report = load_i3d(model, path)
    assert set(report.loaded) == expected_names() and report.skipped == report.adapted == ()
    assert len(report.absent) == 57 and all(name.endswith("num_batches_tracked") for name in report.absent)
    assert report.source == str(path)
    for name, value in state.items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_classifier_of_other_classes_is_left_out() -> None:
    state, model = published(400), narrow(7)
    before = copy.deepcopy(model.state_dict())
    report = load_i3d(model, state)
    assert set(report.skipped) == {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert set(report.loaded) == expected_names() - set(report.skipped)
    for name, value in model.state_dict().items():
        if name not in report.absent:
            assert torch.equal(value, before[name] if name in report.skipped else state[name])


def test_what_was_saved_here_loads_whole() -> None:
    one, two = narrow(), narrow()
    nn.init.normal_(one.logits[0].weight)
    report = load_i3d(two, one.state_dict())
    assert set(report.loaded) == set(one.state_dict()) and report.skipped == report.absent == ()
    assert load_i3d(two, "none").loaded == ()
    for name, value in two.state_dict().items():
        assert torch.equal(value, one.state_dict()[name])


def test_weights_are_laid_out_channels_last_and_stay_so() -> None:
    one = narrow()
    load_i3d(one, {name: value.contiguous() for name, value in one.state_dict().items()})
    other = copy.deepcopy(one).to(memory_format=torch.contiguous_format)
    kernel = "Conv3d_2c_3x3.conv3d.weight"
    assert one.get_parameter(kernel).is_contiguous(memory_format=torch.channels_last_3d)
    assert other.get_parameter(kernel).is_contiguous() and not one.get_parameter(kernel).is_contiguous()
    x = torch.randn(2, 3, 8, 32, 32)
    torch.testing.assert_close(one(x), other(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("Mixed_5c.b3b.bn.running_var"), r"lacks weights .*Mixed_5c\.b3b\.bn\.running_var"),
        (lambda s: s.pop("logits.conv3d.bias"), r"lacks weights .*logits\.conv3d\.bias"),
        (lambda s: s.update({"Mixed_6a.weight": torch.zeros(1)}), r"this network has not: Mixed_6a\.weight"),
        (lambda s: s.update({"Mixed_3b.b0.conv3d.weight": torch.zeros(4)}), r"other sizes .*Mixed_3b\.b0"),
        (lambda s: s.update({"Conv3d_1a_7x7.conv3d.weight": torch.zeros(4, 2, 7, 7, 7)}), r"other sizes .*Conv3d_1a"),
        (lambda s: s.update({"logits.conv3d.bias": torch.zeros(9)}), r"other sizes .*logits\.conv3d\.bias"),
        (lambda s: s.update({"logits.conv3d.weight": torch.zeros(7, 9, 1, 1, 1)}), r"other sizes .*logits"),
    ],
)
def test_what_does_not_fit_is_an_error_and_loads_nothing(
    change: Callable[[State], Any], message: str, tmp_path: Path
) -> None:
    state, model = published(), narrow()
    change(state)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ReproError, match=message) as caught:
        load_i3d(model, save(state, tmp_path / "rgb_imagenet.pt"))
    assert "\n" not in str(caught.value) and "rgb_imagenet.pt" in str(caught.value)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_published_input_is_between_minus_one_and_one() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    rgb = normalise_rgb(grey.expand(3, 256)[None, :, None].clone())  # (1, 3, 1, 256): frames, channels, H, W
    got = published_input(rgb.transpose(0, 1)[None])  # (1, 3, 1, 1, 256)
    want = grey.float() / 127.5 - 1
    torch.testing.assert_close(got[0, :, 0, 0], want.expand(3, 256), rtol=0, atol=1e-6)
    flow = normalise_flow(grey.expand(1, 2, 1, 256))
    got = published_input(flow.transpose(0, 1)[None])
    px = (grey.float() - 128) * 40 / 255  # the store's code, clipped at 20 px
    torch.testing.assert_close(got[0, :, 0, 0], (px / 20).expand(2, 256), rtol=0, atol=1e-6)
    assert got[0, 0, 0, 0, 128] == 0
