"""Loading pre-trained weights: all of them or an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models import backbone
from repro.models.bn_inception import BNInception
from repro.models.weights import averaged, load_weights

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    """What torchvision would publish for a ResNet-18 of an eighth of the width and 7 classes."""
    torch.manual_seed(1)
    weights = backbone("resnet18", width=0.125).state_dict()
    weights = {k: v if "tracked" in k else torch.randn_like(v) for k, v in weights.items()}
    return {**weights, "fc.weight": torch.randn(7, 64), "fc.bias": torch.randn(7)}


def save(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def check_equal(model: nn.Module, state: State) -> None:
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_file_formats(wrap: Callable[[State], Any], zipped: bool, state: State, tmp_path: Path) -> None:
    path = save(wrap(state), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    model = backbone("resnet18", width=0.125)
    report = load_weights(model, path)
    check_equal(model, state)
    assert set(report.loaded) == set(model.state_dict())
    assert report.skipped == ("fc.weight", "fc.bias")
    assert report.adapted == report.absent == ()
    assert report.source == str(path)


def test_a_state_dict_loads_like_a_file(state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    models = [backbone("resnet18", width=0.125) for _ in range(2)]
    reports = [load_weights(models[0], path), load_weights(models[1], state)]
    assert reports[0].loaded == reports[1].loaded and reports[1].source == "the given state dict"
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_none_changes_nothing() -> None:
    model = backbone("resnet18", width=0.125)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = load_weights(model, "none")
    check_equal(model, before)
    assert report.loaded == report.skipped == ()


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_first_convolution_is_the_mean_over_rgb(name: str, tmp_path: Path) -> None:
    rgb, flow = backbone(name, width=0.125), backbone(name, width=0.125, in_channels=20)
    report = load_weights(flow, save(rgb.state_dict(), tmp_path / "w.pth"))
    first = "conv1.weight" if name == "resnet18" else "features.0.weight"
    assert report.adapted == (first,)
    assert first not in report.loaded
    source, target = rgb.state_dict()[first], flow.state_dict()[first]
    for channel in range(20):
        torch.testing.assert_close(target[:, channel], (source[:, 0] + source[:, 1] + source[:, 2]) / 3)
    if name == "resnet18":
        # Not rescaled: a grey input gives 20/3 of what the RGB network sees.
        x = torch.randn(1, 1, 16, 16)
        convolve = torch.nn.functional.conv2d
        torch.testing.assert_close(
            convolve(x.expand(1, 20, 16, 16), target),
            convolve(x.expand(1, 3, 16, 16), source) * 20 / 3,
            rtol=1e-4,
            atol=1e-4,
        )


def test_flow_weights_into_a_flow_network_are_not_adapted(tmp_path: Path) -> None:
    one, two = (backbone("resnet18", width=0.125, in_channels=20) for _ in range(2))
    assert load_weights(two, save(one.state_dict(), tmp_path / "w.pth")).adapted == ()
    check_equal(two, one.state_dict())


def test_flow_weights_do_not_fit_an_rgb_network(tmp_path: Path) -> None:
    path = save(backbone("resnet18", width=0.125, in_channels=20).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ReproError, match=r"other sizes .*: conv1\.weight"):
        load_weights(backbone("resnet18", width=0.125), path)


def test_old_files_lack_batch_counters(state: State, tmp_path: Path) -> None:
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    model = backbone("resnet18", width=0.125)
    report = load_weights(model, save(old, tmp_path / "w.pth"))
    assert set(report.absent) == {k for k in model.state_dict() if k.endswith("num_batches_tracked")}
    check_equal(model, old | {k: v for k, v in model.state_dict().items() if k in report.absent})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer1.0.bn1.running_var"), r"lacks weights .*layer1\.0\.bn1\.running_var"),
        (lambda s: s.update({"layer9.weight": torch.zeros(1)}), r"this network has not: layer9\.weight"),
        (lambda s: s.update({"conv1.weight": torch.zeros(9)}), r"other sizes .*conv1\.weight"),
        (lambda s: s.update({"layer1.0.conv1.weight": torch.zeros(1, 1, 3, 3)}), r"other sizes .*layer1\.0\.conv1"),
        (lambda s: s.update(epoch=3), "no weights by name"),
        (lambda s: s.clear(), "no weights by name"),
    ],
)
def test_what_does_not_fit_is_an_error_and_loads_nothing(
    change: Callable[[State], Any], message: str, state: State, tmp_path: Path
) -> None:
    change(state)
    model = backbone("resnet18", width=0.125)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ReproError, match=message) as caught:
        load_weights(model, save(state, tmp_path / "w.pth"))
    assert "\n" not in str(caught.value)
    check_equal(model, before)


@pytest.mark.parametrize(("name", "width"), [("resnet34", 0.125), ("vgg16", 0.125), ("resnet18", 0.25)])
def test_another_network_is_an_error(name: str, width: float, state: State, tmp_path: Path) -> None:
    with pytest.raises(ReproError):
        load_weights(backbone(name, width=width), save(state, tmp_path / "w.pth"))


def test_another_class_count_is_named(state: State, tmp_path: Path) -> None:
    model = backbone("resnet18", width=0.125)
    model.fc = nn.Linear(64, 5)
    with pytest.raises(ReproError, match="is for 7 classes, this model has 5"):
        load_weights(model, save(state, tmp_path / "w.pth"))
    model.fc = nn.Linear(64, 7)
    assert load_weights(model, tmp_path / "w.pth").skipped == ()
    check_equal(model, state)


@pytest.mark.parametrize("damage", ["missing", "text", "empty", "short", "list", "code"])
def test_unreadable_files(damage: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if damage == "text":
        path.write_text("hello\n" * 50)
    elif damage == "empty":
        path.touch()
    elif damage == "short":
        path.write_bytes(save(state, tmp_path / "whole.pth").read_bytes()[:5000])
    elif damage == "list":
        save([torch.zeros(1)], path)
    elif damage == "code":  # weights_only refuses what would run code on reading
        save({"conv1.weight": Path("x")}, path)
    with pytest.raises(ReproError, match=r"w\.pth") as caught:
        load_weights(backbone("resnet18", width=0.125), path)
    assert "\n" not in str(caught.value)


def test_imagenet_without_network_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    model = backbone("resnet18", in_channels=20)
    with pytest.raises(ReproError, match=r"put the file at .*checkpoints/resnet18-f37072fd\.pth"):
        load_weights(model, "imagenet")
    # Doing what the message says makes it work.
    rgb = backbone("resnet18").state_dict()
    save(rgb | {"fc.weight": torch.zeros(1000, 512)}, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    report = load_weights(model, "imagenet")
    assert report.source == "imagenet (resnet18-f37072fd.pth)"
    assert (report.adapted, report.skipped) == (("conv1.weight",), ("fc.weight",))


def test_imagenet_is_for_whole_backbones() -> None:
    with pytest.raises(ReproError, match="width 1"):
        load_weights(backbone("resnet18", width=0.5), "imagenet")
    with pytest.raises(ReproError, match="width 1"):
        load_weights(nn.Linear(1, 1), "imagenet")


# --- BN-Inception's files


@pytest.fixture
def published() -> State:
    """What a port of the Caffe model holds, for an eighth of the width and 7 classes."""
    torch.manual_seed(1)
    weights = BNInception(7, width=0.125).state_dict()
    return {k: v if "tracked" in k else torch.randn_like(v) for k, v in weights.items()}


def rows_for_vectors(state: State) -> State:
    """As the oldest ports store batch norms: (1, C), no counters, and the head under the name fc."""
    out = {k.replace("last_linear.", "fc."): v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    return {k: v[None] if "_bn." in k else v for k, v in out.items()}


@pytest.mark.parametrize("change", [lambda s: s, rows_for_vectors])
def test_bn_inception_files(change: Callable[[State], State], published: State, tmp_path: Path) -> None:
    path = save(change(published), tmp_path / "w.pth")
    model = BNInception(7, width=0.125)
    report = load_weights(model, path)
    counters = {k for k in published if k.endswith("num_batches_tracked")}
    check_equal(model, published)
    assert set(report.loaded) | set(report.absent) == set(published)
    assert set(report.absent) == (counters if change is rows_for_vectors else set())
    assert report.skipped == report.adapted == ()


@pytest.mark.parametrize("change", [lambda s: s, rows_for_vectors])
def test_bn_inception_files_into_a_trunk(change: Callable[[State], State], published: State, tmp_path: Path) -> None:
    path = save(change(published), tmp_path / "w.pth")
    trunk = backbone("bn_inception", width=0.125)
    report = load_weights(trunk, path)
    check_equal(trunk, published)
    head = "fc" if change is rows_for_vectors else "last_linear"
    assert report.skipped == (f"{head}.weight", f"{head}.bias")
    flow = backbone("bn_inception", in_channels=10, width=0.125)
    assert load_weights(flow, path).adapted == ("conv1_7x7_s2.weight",)
    torch.testing.assert_close(
        flow.state_dict()["conv1_7x7_s2.weight"], averaged(published["conv1_7x7_s2.weight"], 10), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("inception_4c_pool_proj_bn.weight"), "lacks weights .*inception_4c_pool_proj_bn.weight"),
        (lambda s: s.pop("last_linear.bias"), "lacks weights .*last_linear.bias"),
        (lambda s: s.update({"inception_3c_1x1.weight": torch.zeros(1)}), "has not: inception_3c_1x1.weight"),
        (lambda s: s.update({"conv2_3x3_bn.bias": torch.zeros(2, 24)}), "other sizes .*conv2_3x3_bn.bias"),
        (lambda s: s.update({"conv2_3x3_bn.bias": torch.zeros(1, 9)}), "other sizes .*conv2_3x3_bn.bias"),
        (lambda s: s.update({"last_linear.weight": torch.zeros(9, 128)}), "is for 9 classes, this model has 7"),
    ],
)
def test_wrong_bn_inception_files(
    change: Callable[[State], Any], message: str, published: State, tmp_path: Path
) -> None:
    change(published)
    model = BNInception(7, width=0.125)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ReproError, match=message) as caught:
        load_weights(model, save(published, tmp_path / "w.pth"))
    assert "\n" not in str(caught.value)
    check_equal(model, before)


def test_files_of_other_networks_do_not_fit(published: State, state: State, tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="network has not"):
        load_weights(backbone("resnet18", width=0.125), save(published, tmp_path / "a.pth"))
    with pytest.raises(ReproError, match="network has not"):
        load_weights(BNInception(7, width=0.125), save(state, tmp_path / "b.pth"))


def test_both_names_of_the_head_in_one_file(published: State, tmp_path: Path) -> None:
    """The head that the network has is loaded; the other is reported, not lost."""
    other = {"fc.weight": torch.zeros(9, 128), "fc.bias": torch.zeros(9)}
    model = BNInception(7, width=0.125)
    assert load_weights(model, save({**other, **published}, tmp_path / "w.pth")).skipped == ("fc.weight", "fc.bias")
    check_equal(model, published)


def test_published_bn_inception_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    trunk = backbone("bn_inception")
    with pytest.raises(ReproError, match=r"put the file at .*checkpoints/bn_inception-52deb4733\.pth") as caught:
        load_weights(trunk, "imagenet")
    assert "\n" not in str(caught.value)
    weights = rows_for_vectors(BNInception().state_dict())
    save(weights, tmp_path / "checkpoints" / "bn_inception-52deb4733.pth")
    assert load_weights(trunk, "imagenet").source == "imagenet (bn_inception-52deb4733.pth)"
    whole = BNInception()
    load_weights(whole, "imagenet")
    assert torch.equal(whole.last_linear.weight, weights["fc.weight"])
