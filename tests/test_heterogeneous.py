"""The heterogeneous two-stream network: its equations against slow versions, its initialisations, counts and fusion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.metrics import paired_difference, softmax
from repro.models import backbone
from repro.models.count import parameters
from repro.models.normalisation import FrozenBatchNorm2d
from repro.papers.heterogeneous import (
    SPATIAL,
    TEMPORAL,
    Config,
    Count,
    Stream,
    averaged_conv1,
    build,
    consensus,
    consensus_loss,
    conv1_table,
    counts,
    first_convolution,
    initialise,
    probabilities,
    transplanted_conv1,
)
from repro.papers.heterogeneous_fusion import (
    WEIGHT,
    WEIGHTS,
    agreement,
    choose_weight,
    fuse,
    weight_curve,
)
from repro.training import sum_of_losses

SMALL = Config("spatial", "resnet18", width=0.125, dropout=0.0, partial_bn=False)
FLOW = replace(SMALL, role="temporal")
BACKBONES = ("resnet18", "bn_inception")


def stream(config: Config = SMALL, classes: int = 5) -> Stream:
    torch.manual_seed(0)
    model = build(config, classes)
    nn.init.normal_(model.classify.weight)  # the initial .001 would hide differences
    return model


# --- the network


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("role", ["spatial", "temporal"])
def test_equation_2_is_the_softmax_of_the_mean_of_the_snippets_scores(role: str, name: str) -> None:
    model = stream(replace(SMALL, role=role, backbone=name)).eval().double()
    x = torch.randn(2, 4, model.config.in_channels, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        g = model(**{"rgb" if role == "spatial" else "flow": x})
        assert list(g) == [role]
        for video in range(2):
            scores = [model.snippet_scores(x[video : video + 1, k : k + 1])[0, 0] for k in range(4)]  # one by one
            torch.testing.assert_close(g[role][video], sum(scores) / 4, rtol=1e-4, atol=1e-5)
        # Before the softmax: the mean of the snippets' probabilities would be something else.
        model.classify.weight /= g[role].abs().max() / 3  # scores of an ordinary size
        scores_of_all, f = model.snippet_scores(x), probabilities(consensus(model.snippet_scores(x)))
    torch.testing.assert_close(f, scores_of_all.mean(1).exp() / scores_of_all.mean(1).exp().sum(1, keepdim=True))
    assert (probabilities(scores_of_all).mean(1) - f).abs().max() > 1e-5


def test_equation_3_is_the_loss_that_training_uses() -> None:
    torch.manual_seed(0)
    g, labels = 3 * torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    value = consensus_loss(F.one_hot(labels, 5).float(), g)
    slow = 0.0
    for video in range(6):
        for i in range(5):
            y = float(i == labels[video])
            slow -= y * (float(g[video, i]) - np.log(sum(np.exp(float(g[video, j])) for j in range(5)))) / 6
    assert float(value) == pytest.approx(slow, rel=1e-5)
    torch.testing.assert_close(value, sum_of_losses({"spatial": g}, labels))


def test_equation_4_is_the_gradient_of_backward() -> None:
    """dL/dW = dL/dg sum_k dG/dF(x_k) dF(x_k)/dW, each snippet's Jacobian taken apart from the others."""
    model = stream().eval().double()  # batch statistics would tie the snippets together
    x, labels = torch.randn(2, 3, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 3])
    weights = list(model.parameters())
    with torch.no_grad():
        g = model(rgb=x)["spatial"]
    at_g = g.clone().requires_grad_()
    (dL_dg,) = torch.autograd.grad(F.cross_entropy(at_g, labels), at_g)  # (B, n)
    expected = [torch.zeros_like(w) for w in weights]
    for k in range(3):
        scores = model.snippet_scores(x[:, k : k + 1])[:, 0]  # F(x_k), (B, n)
        dG_dF = 1 / 3
        for total, part in zip(expected, torch.autograd.grad(scores, weights, dG_dF * dL_dg), strict=True):
            total += part
    found = torch.autograd.grad(F.cross_entropy(model(rgb=x)["spatial"], labels), weights)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_equation_1_is_the_residual_unit() -> None:
    unit = stream().trunk.stages()["conv3_x"][0][1].eval()  # type: ignore[index]
    x = torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        residual = unit.bn2(unit.conv2(torch.relu(unit.bn1(unit.conv1(x)))))  # F(x_l; W_l)
        torch.testing.assert_close(unit(x.clone()), torch.relu(x + residual))


def test_consensus_is_a_mean_and_order_does_not_matter() -> None:
    scores = torch.randn(2, 3, 4)
    torch.testing.assert_close(consensus(scores), (scores[:, 0] + scores[:, 1] + scores[:, 2]) / 3)
    torch.testing.assert_close(consensus(scores.flip(1)), consensus(scores))


def test_head_is_initialised_as_stated() -> None:
    model = build(replace(SMALL, width=1.0), 400)
    assert float(model.classify.weight.detach().std()) == pytest.approx(0.001, rel=0.02)
    assert not model.classify.bias.detach().any()
    assert (SPATIAL.dropout, TEMPORAL.dropout) == (0.8, 0.7)
    assert build(replace(SMALL, dropout=0.8), 2).dropout.p == 0.8


def test_dropout_acts_in_training_only() -> None:
    model = stream(replace(SMALL, dropout=0.8))
    x = torch.randn(4, 3, 3, 32, 32)
    model.train()
    for m in model.trunk.modules():
        m.training = False
    with torch.no_grad():
        assert not torch.equal(model(rgb=x)["spatial"], model(rgb=x)["spatial"])
        model.eval()
        assert torch.equal(model(rgb=x)["spatial"], model(rgb=x)["spatial"])


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("partial", [False, True])
def test_partial_batch_normalisation_is_a_choice(name: str, partial: bool) -> None:
    model = build(replace(SMALL, backbone=name, partial_bn=partial), 3).train()
    frozen = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    everything = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(frozen) == (len(everything) - 1 if partial else 0)
    assert all(p.requires_grad for p in (model.classify.weight, first_convolution(model.trunk).weight))


@pytest.mark.parametrize("name", BACKBONES)
def test_one_batch_can_be_learned(name: str) -> None:
    torch.manual_seed(0)
    model = build(replace(FLOW, backbone=name), 4)
    x, labels = torch.randn(4, 3, 10, 32, 32), torch.arange(4)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(25):
        optimiser.zero_grad()
        value = sum_of_losses(model(flow=x), labels)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert float(value.detach()) < 0.1


def test_wrong_input_is_one_line() -> None:
    with pytest.raises(ReproError, match="temporal stream got no input: pass flow"):
        stream(FLOW)(rgb=torch.zeros(1, 3, 3, 32, 32))
    with pytest.raises(ReproError, match="2 snippets in training, 3 segments"):
        stream().train()(rgb=torch.zeros(1, 2, 3, 32, 32))
    with pytest.raises(ReproError, match="did you mean 'spatial'"):
        Config("spacial", "resnet50")
    with pytest.raises(ReproError, match="did you mean 'bn_inception'"):
        Config("spatial", "bninception")


# --- Table 1 and Table 3: how the temporal stream begins


@pytest.fixture(params=BACKBONES)
def rgb_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, dict[str, Tensor]]:
    torch.manual_seed(3)
    state = backbone(request.param, width=0.125).state_dict()
    torch.save(state, tmp_path / "rgb.pth")
    return request.param, tmp_path / "rgb.pth", state


def test_three_initialisations(rgb_file: tuple[str, Path, dict[str, Tensor]]) -> None:
    name, path, state = rgb_file
    config = replace(FLOW, backbone=name)
    first = next(key for key, value in state.items() if value.ndim == 4)
    rgb = state[first]

    scratch = build(config, 3)
    before = {k: v.clone() for k, v in scratch.state_dict().items()}
    assert initialise(scratch, "none").loaded == ()
    assert all(torch.equal(v, before[k]) for k, v in scratch.state_dict().items())

    mean = build(config, 3)
    assert initialise(mean, path).adapted == (first,)
    expected = ((rgb[:, 0] + rgb[:, 1] + rgb[:, 2]) / 3)[:, None].repeat(1, 10, 1, 1)
    torch.testing.assert_close(first_convolution(mean.trunk).weight, expected)
    torch.testing.assert_close(averaged_conv1(rgb, 5), expected)

    donor = torch.randn_like(first_convolution(scratch.trunk).weight)
    modified = build(config, 3)
    initialise(modified, path, donor)
    assert torch.equal(first_convolution(modified.trunk).weight, donor)
    assert first_convolution(modified.trunk).weight.requires_grad
    # Everything but conv1 is the image network's, in both.
    for model in (mean, modified):
        found = model.trunk.state_dict()
        assert all(torch.equal(found[k], v) for k, v in state.items() if k != first)


def test_wrong_donors(rgb_file: tuple[str, Path, dict[str, Tensor]]) -> None:
    name, path, _ = rgb_file
    model = build(replace(FLOW, backbone=name), 3)
    with pytest.raises(ReproError, match="another size .*same base network and width"):
        initialise(model, path, torch.zeros(8, 20, 7, 7))
    with pytest.raises(ReproError, match="temporal stream only"):
        initialise(build(replace(SMALL, backbone=name), 3), path, torch.zeros(8, 3, 7, 7))
    with pytest.raises(ReproError, match="set partial_bn=False"):
        initialise(build(replace(FLOW, backbone=name, partial_bn=True), 3), "none")


def test_transplant_copies_and_does_not_tie() -> None:
    trunk, donor = stream(FLOW).trunk, torch.zeros(8, 10, 7, 7)
    transplanted_conv1(trunk, donor)
    donor += 1
    assert not first_convolution(trunk).weight.detach().any()


def test_table_1() -> None:
    """The shapes that the paper prints, from live networks."""
    shapes = {row.step: row.shape for row in conv1_table()}
    assert shapes["spatial network, conv1"] == (64, 3, 7, 7)
    assert shapes["temporal network, conv1"] == (64, 10, 7, 7)
    assert shapes["method in [5], step 1: average over the 3 channels"] == (64, 1, 7, 7)
    assert [v for k, v in shapes.items() if k.startswith(("method in [5], step 2", "proposed"))] == [(64, 10, 7, 7)] * 3
    quarter = conv1_table(replace(SPATIAL, width=0.25), replace(TEMPORAL, width=0.25, flow_frames=10))
    assert quarter[1].shape == (16, 20, 7, 7)


# --- counts


@pytest.fixture(scope="module")
def counted() -> dict[str, Count]:
    return {row.network: row for row in counts()}


def test_counts_against_known_numbers(counted: dict[str, Count]) -> None:
    """ResNet-101 and BN-Inception with ten channels: 53.1 M, not 182 M (ledger heterogeneous-L2)."""
    rows = counted
    assert rows["spatial resnet101"].parameters == 42_707_109
    assert rows["temporal bn_inception"].parameters == 10_395_717
    pair = rows["resnet101 + bn_inception"]
    assert pair.parameters == 42_707_109 + 10_395_717
    assert pair.megabytes == pytest.approx(212.4, abs=0.05)
    assert rows["resnet50 + resnet50"].megabytes * 1e6 / 2**20 == pytest.approx(181.0, abs=0.05)  # ledger L3
    assert len([name for name in rows if " + " in name]) == 16
    assert pair.multiply_adds == rows["spatial resnet101"].multiply_adds + rows["temporal bn_inception"].multiply_adds
    with torch.device("meta"):
        assert pair.parameters == parameters(build(SPATIAL, 101)) + parameters(build(TEMPORAL, 101))


def test_multiply_adds_of_image_networks(counted: dict[str, Count]) -> None:
    """He et al. print 3.8, 7.6 and 11.3 G for their stride placement; VGG-19 has 19.6 G, VGG-16 15.3 G unless its fully
    connected layers count."""
    giga = {name: row.multiply_adds / 1e9 for name, row in counted.items()}
    for name, published in (("resnet50", 3.8), ("resnet101", 7.6), ("resnet152", 11.3)):
        assert giga[f"{name}, stride in the first 1x1"] == pytest.approx(published, abs=0.07)
        assert giga[f"{name}, stride in the 3x3"] > giga[f"{name}, stride in the first 1x1"] + 0.2
    assert giga["vgg19"] == pytest.approx(19.63, abs=0.01)
    assert giga["vgg16"] == pytest.approx(15.47, abs=0.01)
    assert giga["vgg16, convolutions only"] == pytest.approx(15.35, abs=0.01)


# --- fusion and agreement


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weak spatial and a strong temporal stream whose best fusion is a mixture."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 600)
    truth = np.eye(6)[labels]
    return truth + rng.normal(0, 1.2, truth.shape), 1.8 * truth + rng.normal(0, 1.2, truth.shape), labels


def test_fusion_is_the_weighted_mean(logits: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    s, t, _ = logits
    np.testing.assert_allclose(fuse(s, t), (softmax(s) + 1.5 * softmax(t)) / 2.5)
    np.testing.assert_allclose(fuse(s, t).sum(1), 1)
    np.testing.assert_allclose(fuse(s, t, 3.0, "logits"), (s + 3 * t) / 4)
    np.testing.assert_allclose(fuse(s, t, 0.0), softmax(s))
    np.testing.assert_allclose(fuse(s, t, float("inf")), softmax(t))
    # The two readings of ledger heterogeneous-L11 differ.
    assert (fuse(s, t).argmax(1) != fuse(s, t, scores="logits").argmax(1)).any()


def test_weight_curve_and_choice(logits: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    s, t, labels = logits
    curve = weight_curve(s, t, labels)
    assert curve.shape == (len(WEIGHTS),)
    for weight, accuracy in zip(WEIGHTS, curve, strict=True):
        assert accuracy == (fuse(s, t, weight).argmax(1) == labels).mean()
    assert curve.max() > max(curve[0], curve[-1]) + 0.02  # both streams are needed
    folds = [(s[:400], t[:400], labels[:400]), (s[400:], t[400:], labels[400:])]
    choice = choose_weight(folds)
    np.testing.assert_allclose(choice.curve, curve)  # over all videos together, whatever the sizes of the folds
    assert curve[WEIGHTS.index(choice.weight)] == curve.max()
    assert choose_weight([(s, np.zeros_like(t), labels)], (0.0, float("inf"))).weight == 0.0
    assert choose_weight([(np.zeros_like(s), t, labels)], (0.0, float("inf"))).weight == float("inf")


def test_ties_go_to_the_papers_weight() -> None:
    same, labels = np.eye(3), np.arange(3)
    assert choose_weight([(same, same, labels)]).weight == WEIGHT
    assert choose_weight([(same, same, labels)], (0.0, 1.0, float("inf"))).weight == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1.0}, "at least 0"),
        ({"weight": float("nan")}, "at least 0"),
        ({"scores": "probability"}, "did you mean 'probabilities'"),
        ({"temporal": np.zeros((3, 4))}, "same videos and classes"),
    ],
)
def test_wrong_fusion_arguments(arguments: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"spatial": np.zeros((2, 4)), "temporal": np.zeros((2, 4))}
    with pytest.raises(ReproError, match=message):
        fuse(**{**given, **arguments})  # type: ignore[arg-type]


def test_agreement_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    a = np.array([0, 0, 0, 1, 1, 1, 0, 2])
    b = np.array([0, 0, 1, 1, 1, 0, 1, 0])
    found = agreement(a, b, labels)
    # right a: 11101100; right b: 11001010; they differ in 00100111
    expected = {"right_a": 5 / 8, "right_b": 4 / 8, "disagree": 4 / 8, "one_right": 3 / 8, "oracle": 6 / 8}
    summary = found.summary()
    for name, value in expected.items():
        assert summary[name] == pytest.approx(value), name
    assert summary["error_product"] == pytest.approx(np.corrcoef(a != labels, b != labels)[0, 1])
    scores = np.eye(3)
    assert agreement(scores[a], scores[b], labels).summary() == summary


def test_agreement_of_equal_opposite_and_independent_models() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(4000, int)
    a, b = rng.integers(0, 2, (2, 4000))
    assert agreement(a, a, labels).summary()["error_product"] == pytest.approx(1)
    assert agreement(a, 1 - a, labels).summary()["error_product"] == pytest.approx(-1)
    assert agreement(a, 1 - a, labels).summary()["oracle"] == 1
    assert abs(agreement(a, b, labels).summary()["error_product"]) < 0.05
    assert np.isnan(agreement(labels, a, labels).summary()["error_product"])  # never wrong: no correlation


def test_agreement_goes_into_a_paired_comparison() -> None:
    """Unlike against like pairs: values per video, so that claims get an interval."""
    rng = np.random.default_rng(0)
    labels = np.zeros(500, int)
    a = rng.integers(0, 2, 500)
    like, unlike = np.where(rng.random(500) < 0.9, a, 1 - a), rng.integers(0, 2, 500)
    first, second = agreement(a, unlike, labels), agreement(a, like, labels)
    difference = paired_difference(first.error_product[None], second.error_product[None])
    assert difference.high < -0.5
    assert paired_difference(first.oracle[None], second.oracle[None]).low > 0


def test_agreement_needs_the_same_videos() -> None:
    with pytest.raises(ReproError, match="same videos"):
        agreement(np.zeros(3, int), np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(ReproError, match="at least one"):
        choose_weight([])
