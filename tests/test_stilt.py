"""STILT: co-attention against a per-position loop, the two readings, the tables, and the fusion of Sec. 3.3."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from repro.errors import ReproError
from repro.models.count import parameters
from repro.papers.stilt import STILT, Attention, Config, Output, PlainStream, Streams, build, layer_table
from repro.papers.stilt_fusion import (
    _folds,
    awf_coefficients,
    awf_regularised,
    awf_weights,
    choose_lambda,
    fuse,
    late_average,
    svm_fusion,
    temperature,
)

SMALL = Config(backbone="resnet18", width=0.125, flow_frames=2)
B, T, SIZE, CLASSES = 2, 3, 48, 5


def stilt(**changes: Any) -> STILT:
    torch.manual_seed(0)
    model = build(replace(SMALL, **changes), CLASSES)
    assert isinstance(model, STILT)
    for name, weight in model.interaction.named_parameters():  # large enough for attention to differ from uniform
        if name.endswith("w_hk.weight"):
            torch.nn.init.normal_(weight, std=3)
    return model.eval()


def clips(seed: int = 0, snippets: int = T, size: int = SIZE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randn(B, snippets, 3, size, size, generator=generator)
    return rgb, torch.randn(B, snippets, 4, size, size, generator=generator)


@torch.no_grad()
def explain(model: Streams, rgb: Tensor, flow: Tensor) -> Output:
    return model.explain(rgb, flow)


def slow_attention(w_k: Tensor, w_g: Tensor | None, w_hk: Tensor, k: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor]:
    """Equations 1-3 for one item, column by column: k (n, C), g (C,)."""
    energies = []
    for column in k:
        inner = w_k @ column
        if g is not None and w_g is not None:
            inner = inner + w_g @ g
        energies.append(w_hk[0] @ torch.tanh(inner))
    exponentials = [torch.exp(e) for e in energies]
    a = [e / sum(exponentials) for e in exponentials]
    return sum(weight * column for weight, column in zip(a, k, strict=True)), torch.stack(a)


def slow_step(step: Attention, k: Tensor, g: Tensor | None) -> tuple[Tensor, Tensor]:
    w_g = None if step.w_g is None else step.w_g.weight
    return slow_attention(step.w_k.weight, w_g, step.w_hk.weight, k, g)


# ---------------------------------------------------------------- Sec. 3.2


@pytest.mark.parametrize("guided", [True, False])
def test_attention_equals_a_loop_over_positions(guided: bool) -> None:
    torch.manual_seed(0)
    step = Attention(6, 4, guided=guided)
    k, g = torch.randn(3, 5, 6), torch.randn(3, 6) if guided else None
    attended, weights = step(k, g)
    for i in range(3):
        expected, a = slow_step(step, k[i], None if g is None else g[i])
        torch.testing.assert_close(attended[i], expected)
        torch.testing.assert_close(weights[i], a)


@pytest.mark.parametrize("order", ["STS", "TST"])
@pytest.mark.parametrize("attention", ["guided", "unguided"])
@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_three_steps_equal_the_text(order: str, attention: str, shared: bool) -> None:
    """Step 1: K = S, g = 0. Step 2: K = T, g = s^. Step 3: K = S, g = t^."""
    model = stilt(order=order, attention=attention, shared=shared)
    rgb, flow = clips()
    found = model.explain(rgb, flow)
    features = {m: model.vectors(model.maps(m, rgb, flow)) for m in ("spatial", "temporal")}
    first, second = (features[m] for m in model.order)
    block, guided = model.interaction, attention == "guided"
    for i in range(B):
        guide = slow_step(block.summary, first[i], None)[0] if guided else None  # type: ignore[arg-type]
        second_hat, a2 = slow_step(block.second, second[i], guide)  # type: ignore[arg-type]
        first_hat, a3 = slow_step(block.first, first[i], second_hat if guided else None)  # type: ignore[arg-type]
        torch.testing.assert_close(found.features[f"{model.order[0]}.attended"][i], first_hat)
        torch.testing.assert_close(found.features[f"{model.order[1]}.attended"][i], second_hat)
        steps = list(found.attention.values())[-2:]
        torch.testing.assert_close(steps[0][i], a2)
        torch.testing.assert_close(steps[1][i], a3)


@pytest.mark.parametrize("reading", ["snippets", "regions"])
@pytest.mark.parametrize("attention", ["guided", "unguided", "uniform"])
@pytest.mark.parametrize("order", ["STS", "TST"])
def test_maps_have_names_and_shapes_and_sum_to_one(reading: str, attention: str, order: str) -> None:
    rgb, flow = clips()
    found = explain(stilt(reading=reading, attention=attention, order=order), rgb, flow)
    names = ["S1", "T", "S2"] if order == "STS" else ["T1", "S", "T2"]
    assert list(found.attention) == (names if attention == "guided" else names[1:])
    for a in found.attention.values():
        assert a.shape == ((B, T) if reading == "snippets" else (B * T, 2, 2))
        torch.testing.assert_close(a.flatten(1).sum(dim=1), torch.ones(len(a)))
        assert (a.std() > 0) == (attention != "uniform")
    assert {k: tuple(v.shape) for k, v in found.logits.items()} == {"spatial": (B, CLASSES), "temporal": (B, CLASSES)}
    for stream in ("spatial", "temporal"):
        widths = {level: found.features[f"{stream}.{level}"].shape for level in ("attended", "hidden", "fc")}
        assert widths == {"attended": (B, 64), "hidden": (B, 64), "fc": (B, 128)}


def test_one_feature_makes_the_module_the_identity() -> None:
    """Ledger stilt-L1: after the pool a frame has n = 1, the softmax gives 1 and guidance cannot act."""
    rgb, flow = clips(snippets=1)
    guided, uniform = stilt(), stilt(attention="uniform")
    uniform.load_state_dict({k: v for k, v in guided.state_dict().items() if not k.startswith("interaction")})
    one, two = explain(guided, rgb, flow), explain(uniform, rgb, flow)
    pooled = guided.pooled(guided.maps("spatial", rgb, flow))[:, 0]
    torch.testing.assert_close(one.features["spatial.attended"], pooled)
    torch.testing.assert_close(one.logits, two.logits)
    assert all((a == 1).all() for a in one.attention.values())
    guided.train()
    sum(x.sum() for x in guided(rgb, flow).values()).backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-6 for p in guided.interaction.parameters())


@pytest.mark.parametrize("reading", ["snippets", "regions"])
def test_uniform_is_the_mean(reading: str) -> None:
    """Over snippets and over regions the mean is the same vector: the pooled feature of the clip."""
    rgb, flow = clips()
    model = stilt(reading=reading, attention="uniform")
    found = explain(model, rgb, flow)
    for stream in ("spatial", "temporal"):
        mean = model.maps(stream, rgb, flow).mean(dim=(1, 3, 4))
        torch.testing.assert_close(found.features[f"{stream}.attended"], mean)
    assert not list(model.interaction.parameters())


@pytest.mark.parametrize("reading", ["snippets", "regions"])
@pytest.mark.parametrize("attention", ["guided", "unguided"])
def test_guidance_acts_when_guided_and_only_then(reading: str, attention: str) -> None:
    model = stilt(reading=reading, attention=attention)
    rgb, flow = clips()
    one, two = explain(model, rgb, flow), explain(model, rgb, clips(seed=1)[1])
    if attention == "guided":
        torch.testing.assert_close(one.attention["S1"], two.attention["S1"])  # g = 0: flow cannot reach step 1
        assert (one.attention["S2"] - two.attention["S2"]).abs().max() > 1e-4
        assert (one.logits["spatial"] - two.logits["spatial"]).abs().max() > 1e-6
        other = explain(model, clips(seed=1)[0], flow)
        assert (one.attention["T"] - other.attention["T"]).abs().max() > 1e-4
    else:
        torch.testing.assert_close(one.attention["S2"], two.attention["S2"])
        torch.testing.assert_close(one.logits["spatial"], two.logits["spatial"])


@pytest.mark.parametrize("reading", ["snippets", "regions"])
def test_clips_do_not_influence_each_other(reading: str) -> None:
    model = stilt(reading=reading)
    rgb, flow = clips()
    both, one = explain(model, rgb, flow), explain(model, rgb[1:], flow[1:])
    torch.testing.assert_close(both.logits["spatial"][1:], one.logits["spatial"])
    torch.testing.assert_close(both.logits["temporal"][1:], one.logits["temporal"])


@pytest.mark.parametrize("reading", ["snippets", "regions"])
def test_order_of_snippets_permutes_attention_and_leaves_logits(reading: str) -> None:
    model = stilt(reading=reading)
    rgb, flow = clips()
    order = [2, 0, 1]
    one, two = explain(model, rgb, flow), explain(model, rgb[:, order], flow[:, order])
    torch.testing.assert_close(one.logits, two.logits)
    for step, a in one.attention.items():
        permuted = a[:, order] if reading == "snippets" else a.unflatten(0, (B, T))[:, order].flatten(0, 1)
        torch.testing.assert_close(permuted, two.attention[step])


def test_regions_attend_each_snippet_alone() -> None:
    model = stilt(reading="regions")
    rgb, flow = clips()
    whole = explain(model, rgb, flow)
    alone = [explain(model, rgb[:, t : t + 1], flow[:, t : t + 1]) for t in range(T)]
    for stream in ("spatial", "temporal"):
        mean = torch.stack([a.logits[stream] for a in alone]).mean(dim=0)
        torch.testing.assert_close(whole.logits[stream], mean)
    torch.testing.assert_close(whole.attention["S2"][0::T], alone[0].attention["S2"])


def test_gradient_from_each_output_reaches_both_backbones() -> None:
    rgb, flow = clips()
    for stream in ("spatial", "temporal"):
        model = stilt()
        model(rgb, flow)[stream].square().sum().backward()
        for trunk in model.backbones.values():
            assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trunk.parameters())
    model = stilt(attention="unguided")
    model(rgb, flow)["spatial"].sum().backward()
    assert all(p.grad is None for p in model.backbones["temporal"].parameters())


@pytest.mark.parametrize("attention", ["guided", "unguided", "uniform"])
@pytest.mark.parametrize("shared", [True, False])
def test_no_parameter_is_dead(attention: str, shared: bool) -> None:
    model = stilt(attention=attention, shared=shared, reading="regions")
    sum(x.square().sum() for x in model(*clips()).values()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_a_second_pass_changes_guided_attention_only() -> None:
    """Ledger stilt-L4: without training there is no loss to converge; the passes settle near the first."""
    rgb, flow = clips()
    with torch.no_grad():
        one, two = (stilt().explain(rgb, flow, passes=p).attention["S2"] for p in (1, 2))
        assert (one - two).abs().max() > 0
        one, two = (stilt(attention="unguided").explain(rgb, flow, passes=p).attention["S2"] for p in (1, 2))
        torch.testing.assert_close(one, two)


# ---------------------------------------------------------------- streams, sizes, tables


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_plain_stream_averages_the_logits_of_its_snippets(stream: str) -> None:
    model = build(replace(SMALL, streams=stream), CLASSES).eval()
    assert isinstance(model, PlainStream)
    rgb, flow = clips()
    x = rgb if stream == "spatial" else flow
    with torch.no_grad():
        found = model(rgb if stream == "spatial" else None, flow if stream == "temporal" else None)
        logits = [model.classify(model.backbones[stream](x[:, t]).mean(dim=(2, 3))) for t in range(T)]
    assert list(found) == [stream]
    torch.testing.assert_close(found[stream], sum(logits) / T)


@pytest.mark.parametrize("size", [33, 64, 80])
@pytest.mark.parametrize("reading", ["snippets", "regions"])
def test_any_input_size(size: int, reading: str) -> None:
    found = explain(stilt(reading=reading), *clips(snippets=2, size=size))
    assert found.logits["spatial"].shape == (B, CLASSES)
    if reading == "regions":
        assert found.attention["S2"].shape == (2 * B, -(-size // 32), -(-size // 32))


def test_a_missing_input_is_named() -> None:
    rgb, flow = clips()
    for model, inputs, meant in ((stilt(), (rgb, None), "flow"), (stilt(), (None, flow), "rgb")):
        with pytest.raises(ReproError, match=f"pass {meant}"):
            model(*inputs)
    with pytest.raises(ReproError, match="same clips and snippets"):
        stilt(reading="regions")(rgb, flow[:, :2])
    with pytest.raises(ReproError, match="same clips and snippets"):
        stilt()(rgb, flow[:1])


def test_unknown_options_get_the_nearest() -> None:
    for change, meant in (
        ({"reading": "region"}, "did you mean 'regions'"),
        ({"attention": "guidd"}, "guided"),
        ({"order": "TSS"}, "one of STS, TST"),
    ):
        with pytest.raises(ReproError, match=meant):
            replace(SMALL, **change)  # type: ignore[arg-type]


def test_overfits_a_tiny_batch() -> None:
    torch.manual_seed(0)
    model = build(replace(SMALL, width=0.25), 2).train()
    rgb, flow = torch.randn(4, 2, 3, 32, 32), torch.randn(4, 2, 4, 32, 32)
    labels = torch.tensor([0, 1, 1, 0])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(15):
        logits = model(rgb, flow)
        loss = sum(torch.nn.functional.cross_entropy(x, labels) for x in logits.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.2
    assert losses[-1] < 0.1


def on_meta(**changes: Any) -> Streams:
    with torch.device("meta"):
        return build(Config(**changes), 101)


def test_tables_2_and_3_off_the_live_model() -> None:
    rows = {row.layer: row for row in layer_table(on_meta())}
    assert rows["Conv1"].inputs == {"spatial": "224 x 224 x 3", "temporal": "224 x 224 x 20"}
    outputs = {name: row.outputs["temporal"] for name, row in rows.items()}
    assert outputs == {  # Table 2; ledger stilt-L7: the printed sizes are those of ResNet-50
        "Conv1": "112 x 112 x 64",
        "Pool1": "56 x 56 x 64",
        "Conv2_x": "56 x 56 x 256",
        "Conv3_x": "28 x 28 x 512",
        "Conv4_x": "14 x 14 x 1024",
        "Conv5_x": "7 x 7 x 2048",
        "Average pooling": "1 x 1 x 2048",
        "Alternating co-attention layer": "2048",  # Table 3 prints 512: ledger stilt-L2
        "Projection": "512",
        "Fully connected layer": "1024",
        "Classes": "101",
    }
    assert {row.table for row in rows.values()} == {2, 3}
    regions = {row.layer: row for row in layer_table(on_meta(reading="regions"))}
    assert regions["Alternating co-attention layer"].inputs["spatial"] == "49 x 2048"
    assert "Average pooling" not in regions
    plain = {row.layer: row for row in layer_table(on_meta(streams="temporal"))}
    assert plain["Classes"].outputs == {"temporal": "1 x 101"}
    assert {row.layer: row for row in layer_table(on_meta(backbone="vgg19"))}["Projection"].inputs["spatial"] == "512"


def test_parameter_counts() -> None:
    trunk, stem = 23_508_032, 64 * 17 * 49  # ResNet-50; 17 more inputs at conv1 of the temporal stream
    head = 2048 * 512 + 512 + 512 * 1024 + 1024 + 1024 * 101 + 101
    guided, free = 2 * 2048 * 512 + 512, 2048 * 512 + 512  # W_k, W_g, w_hk; without W_g
    both = 2 * trunk + stem + 2 * head
    assert parameters(on_meta()) == both + 2 * guided + free == 55_669_642
    assert parameters(on_meta(shared=True)) == both + guided
    assert parameters(on_meta(attention="unguided")) == both + 2 * free
    assert parameters(on_meta(attention="uniform")) == both
    assert parameters(on_meta(streams="temporal")) == trunk + stem + 2049 * 101


# ---------------------------------------------------------------- Sec. 3.3


def scores(seed: int = 0, n: int = 40, classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    s, t = (rng.dirichlet(np.ones(classes), n) for _ in range(2))
    return s, t, labels


def objective(w: np.ndarray, y: int, s: np.ndarray, t: np.ndarray, labels: np.ndarray, lambda_: float) -> float:
    """Eq. 5-7 as written: products of W_y, the stacked scores and the indicator Y_y, sample by sample."""
    p = m = 0.0
    indicator = np.eye(s.shape[1])[y]
    for row_s, row_t, label in zip(s, t, labels, strict=True):
        value = w @ np.stack([row_s, row_t]) @ indicator
        if label == y:
            p += value
        else:
            m += value
    return p - lambda_ * m


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 2.0])
def test_coefficients_are_the_objective(lambda_: float) -> None:
    s, t, labels = scores()
    c = awf_coefficients(s, t, labels, 4, lambda_)
    for y in range(4):
        for w in (np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.3, 0.9])):
            assert c[y] @ w == pytest.approx(objective(w, y, s, t, labels, lambda_))


@pytest.mark.parametrize("bounds", ["simplex", "box"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_linear_programme_equals_the_best_vertex(bounds: str, scale: float) -> None:
    c = np.random.default_rng(0).normal(size=(50, 2)) * scale
    pairs = [(1.0, 0.0), (0.0, 1.0)] if bounds == "simplex" else list(itertools.product((0.0, 1.0), repeat=2))
    expected = [max(pairs, key=lambda w: c[y] @ w) for y in range(50)]
    found = awf_weights(c, bounds)
    np.testing.assert_array_equal(found, expected)
    negative = (c < 0).all(axis=1)
    assert negative.any()
    assert (found[negative].sum(axis=1) == (1 if bounds == "simplex" else 0)).all()


def test_a_class_of_zero_weight_is_never_predicted() -> None:
    s, t, labels = scores()
    c = awf_coefficients(s, t, labels, 4, 0.2)
    c[2] = [-1.0, -0.5]
    fused = fuse(awf_weights(c, "box"), s, t)
    assert not (fused.argmax(axis=1) == 2).any()


def test_ties_are_shared_on_the_simplex() -> None:
    c = np.array([[3.0, 3.0], [0.1 + 0.2, 0.3], [0.0, 0.0], [-1.0, -1.0], [1.0, 1.0 + 1e-9]])
    np.testing.assert_array_equal(awf_weights(c), [[0.5, 0.5]] * 4 + [[0.0, 1.0]])
    assert awf_weights(c, "box")[3].tolist() == [0.0, 0.0]


def test_regularised_runs_from_the_vertex_to_the_average() -> None:
    c = np.array([[2.0, 1.0], [-3.0, -1.0], [0.2, 0.1]])
    np.testing.assert_allclose(awf_regularised(c, 1e6), 0.5, atol=1e-5)
    np.testing.assert_allclose(awf_regularised(c, 1e-3), awf_weights(c), atol=1e-12)
    assert (np.abs(np.diff([awf_regularised(c, x)[0, 0] for x in (0.1, 1, 10)])) > 0.01).all()
    for strength in (0.5, 2.0):  # the closed form against a fine grid
        w = np.linspace(1e-6, 1 - 1e-6, 200_001)
        for y, row in enumerate(awf_regularised(c, strength)):
            value = c[y, 0] * w + c[y, 1] * (1 - w) - strength * (w * np.log(w) + (1 - w) * np.log(1 - w))
            assert row[0] == pytest.approx(w[value.argmax()], abs=1e-4)
            assert row.sum() == pytest.approx(1)


def test_fusion_equals_a_loop() -> None:
    s, t, _ = scores()
    w = np.random.default_rng(1).random((4, 2))
    fused = fuse(w, s, t)
    for x, y in itertools.product(range(len(s)), range(4)):
        assert fused[x, y] == pytest.approx(w[y] @ np.array([s[x], t[x]]) @ np.eye(4)[y])
    np.testing.assert_allclose(fuse(np.full((4, 2), 0.5), s, t), late_average(s, t))


def complementary(n: int = 120) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Scores where the spatial stream knows classes 0 and 1, and the temporal stream 2 and 3."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 4
    streams = []
    for known in ((0, 1), (2, 3)):
        logits = rng.normal(size=(n, 4))
        logits[np.arange(n), labels] += np.where(np.isin(labels, known), 4.0, 0.0)
        streams.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return (streams[0], streams[1]), labels, np.arange(n) // 4 % 6


def test_weights_follow_the_stream_that_knows_the_class() -> None:
    (s, t), labels, _ = complementary()
    w = awf_weights(awf_coefficients(s, t, labels, 4, 0.3))
    np.testing.assert_array_equal(w, [[1, 0], [1, 0], [0, 1], [0, 1]])


def test_choose_lambda_takes_the_best_on_folds_and_the_first_of_equals() -> None:
    pair, labels, groups = complementary()
    choice = choose_lambda(pair, labels, groups, [1e6, 0.3, 0.3000001], num_classes=4, strengths=[None, 1.0], splits=3)
    assert choice.accuracy == max(choice.table.values())
    assert len(choice.table) == 6
    assert (choice.lambda_, choice.strength) == next(k for k, v in choice.table.items() if v == choice.accuracy)
    # Six groups and six folds: each group is tested by weights from the five others, whatever the dealing.
    alone = choose_lambda(pair, labels, groups, [0.3], num_classes=4, splits=6)
    correct = 0
    for group in range(6):
        test = groups == group
        c = awf_coefficients(pair[0][~test], pair[1][~test], labels[~test], 4, 0.3)
        fused = fuse(awf_weights(c), pair[0][test], pair[1][test])
        correct += (fused.argmax(axis=1) == labels[test]).sum()
    assert alone.accuracy == correct / len(labels)


@pytest.mark.parametrize("splits", [2, 3, 10])
def test_folds_keep_groups_whole_and_test_each_sample_once(splits: int) -> None:
    groups = np.array(list("aabbbcddee"))
    for seed in range(3):
        folds = list(_folds(groups, splits, seed))
        assert len(folds) == min(splits, 5)
        assert sorted(i for _, test in folds for i in test) == list(range(10))
        for train, test in folds:
            assert not set(groups[train]) & set(groups[test])
            assert len(train) + len(test) == 10
    assert len({tuple(test) for seed in range(9) for _, test in _folds(groups, 2, seed)}) > 2  # the seed deals


def test_svm_fusion_learns_and_keeps_class_columns() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 2, 4])[np.arange(60) % 3]
    features = np.eye(5)[labels] * 3 + rng.normal(size=(60, 5))
    features[:, 0] *= 1000  # standardised: one feature's unit does not matter
    train, test = slice(0, 45), slice(45, 60)
    settings = ([0.01, 1.0], np.arange(45) // 9, 3)
    found = svm_fusion(features[train], labels[train], features[test], *settings, num_classes=6)
    assert found.shape == (15, 6)
    assert (found.argmax(axis=1) == labels[test]).mean() > 0.8
    assert np.isneginf(found[:, [1, 3, 5]]).all()
    assert svm_fusion(features[train], labels[train], features[test], *settings).shape == (15, 5)


def test_svm_penalty_is_the_best_on_folds() -> None:
    rng = np.random.default_rng(0)
    labels, groups = np.arange(60) % 2, np.arange(60) // 10
    features = rng.normal(size=(60, 30)) + labels[:, None] * 0.4
    candidates = (1e-4, 1e2)
    correct = dict.fromkeys(candidates, 0)
    for penalty, group in itertools.product(candidates, range(6)):  # six groups, six folds
        test = groups == group
        found = svm_fusion(features[~test], labels[~test], features[test], [penalty], groups[~test])
        correct[penalty] += (found.argmax(axis=1) == labels[test]).sum()
    best, worst = sorted(candidates, key=lambda penalty: -correct[penalty])
    assert correct[best] > correct[worst]
    expected = svm_fusion(features, labels, features, [best], groups)
    for order in (candidates, candidates[::-1]):
        found = svm_fusion(features, labels, features, order, groups, splits=6)
        np.testing.assert_array_equal(found, expected)


def test_svm_with_two_classes() -> None:
    features = np.array([[-1.0], [-0.9], [0.8], [1.0]])
    found = svm_fusion(features, np.array([0, 0, 1, 1]), features, [1.0], [0, 1, 0, 1])
    assert found.argmax(axis=1).tolist() == [0, 0, 1, 1]


def test_temperature_undoes_a_scaling() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((4000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    tau = temperature(logits, labels)
    assert tau == pytest.approx(1, abs=0.1)
    assert temperature(logits * 5, labels) == pytest.approx(5 * tau, rel=1e-3)


def test_fusion_errors_say_what_to_do() -> None:
    s, t, labels = scores()
    with pytest.raises(ReproError, match="temporal scores have shape"):
        awf_coefficients(s, t[:-1], labels, 4, 1.0)
    with pytest.raises(ReproError, match="spatial scores hold NaN"):
        awf_coefficients(np.full_like(s, np.nan), t, labels, 4, 1.0)
    with pytest.raises(ReproError, match="unknown bounds"):
        awf_weights(np.zeros((2, 2)), "sphere")
    with pytest.raises(ReproError, match="positive"):
        awf_regularised(np.zeros((2, 2)), 0.0)
    with pytest.raises(ReproError, match="two groups"):
        choose_lambda((s, t), labels, ["a"] * 40, [1.0], num_classes=4)
    with pytest.raises(ReproError, match="two classes"):
        svm_fusion(s, np.zeros(40, dtype=int), s, [1.0], labels, num_classes=4)
