"""CCS: the connection block against slow loops, the identities of its parts, bases, groups, activation maps, counts."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from fakes import SAMPLING, FakeStore, make_clips
from torch import Tensor, nn

from repro.data.clips import TrainingSamples
from repro.errors import ReproError
from repro.models import backbone
from repro.models.count import parameters
from repro.models.i3d import I3D, published_input
from repro.models.normalisation import FrozenBatchNorm2d
from repro.papers import heterogeneous
from repro.papers.ccs import BASES, CCS, METHODS, TRN, Config, build, fuse, initialise
from repro.papers.ccs_block import PASSING, ConnectionBlock, Join, affinity, crossing, exponents
from repro.papers.ccs_counts import NETWORKS, count
from repro.papers.ccs_losses import STREAMS, total_loss
from repro.papers.ccs_streams import aggregate, aggregate_scores, groups
from repro.training import Recipe, train

SMALL: dict[str, Any] = {"backbone": "resnet18", "width": 0.125, "partial_bn": False, "dropout": (0.0, 0.0)}
THREE_D: dict[str, Any] = {**BASES["i3d"], "width": 1 / 16, "dropout": (0.0, 0.0)}
CLASSES = 4


def network(**changes: Any) -> CCS:
    """A small network with weights of an ordinary size where training would begin with tiny ones or zeros."""
    torch.manual_seed(0)
    config = Config(**{**SMALL, **changes})
    model = build(config, CLASSES)
    for m in config.modalities:
        nn.init.normal_(model.classifier(m).weight)
        nn.init.normal_(model.classifier(m).bias)
    if isinstance(model.block, ConnectionBlock):
        for layer in (model.block.w_f, model.block.w_o):
            nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
    return model.eval()


def clips(snippets: int = 3, flow_frames: int = 5, size: int = 40, n: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "rgb": torch.randn(n, snippets, 3, size, size, generator=generator),
        "flow": torch.randn(n, snippets, 2 * flow_frames, size, size, generator=generator),
    }


def copy_all_but_the_block(source: CCS, target: CCS) -> None:
    found = target.load_state_dict({k: v for k, v in source.state_dict().items() if "block" not in k}, strict=False)
    assert not found.unexpected_keys
    assert all(key.startswith("block.") for key in found.missing_keys)


# --- Eq. 1-3


def block(connection: str = "cross", normaliser: str = "softmax", values: str = "features", **more: Any) -> Any:
    torch.manual_seed(0)
    made = ConnectionBlock(5, 3, connection=connection, normaliser=normaliser, values=values, zero_start=False, **more)
    return made.double().requires_grad_(False)


def maps() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    f, o = torch.randn(2, 2, 5, 2, 2, 3, generator=generator, dtype=torch.float64)  # (B, C, T, h, w), P = 12
    return f, o


def slow_block(b: ConnectionBlock, f: Tensor, o: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 1-3 position by position, for one clip: f and o (C, P)."""
    w_phi, w_kappa, w_f, w_o = (layer.weight[:, :, 0] for layer in (b.phi, b.kappa, b.w_f, b.w_o))
    P = f.shape[1]
    g = {(i, j): float(torch.exp((w_phi @ f[:, i]) @ (w_kappa @ o[:, j]))) for i in range(P) for j in range(P)}
    v_f, v_o = (w_phi @ f, w_kappa @ o) if b.values == "embedded" else (f, o)
    new_f, new_o = torch.zeros_like(f), torch.zeros_like(o)
    for w, x, own, other, new, pair in (
        (w_f, f, v_f, v_o, new_f, lambda i, j: g[i, j]),
        (w_o, o, v_o, v_f, new_o, lambda i, j: g[j, i]),
    ):
        over = {"softmax": [sum(pair(i, j) for j in range(P)) for i in range(P)], "count": [P] * P, "none": [1] * P}
        y = [[pair(i, j) / over[b.normaliser][i] for j in range(P)] for i in range(P)]
        everything = sum(g.values()) / {"softmax": sum(g.values()), "count": P * P, "none": 1}[b.normaliser]
        for i in range(P):
            if b.connection == "cross":
                h = sum((y[i][j] * other[:, j] for j in range(P)), torch.zeros_like(other[:, 0]))
            else:
                h = own[:, i] * (sum(y[i]) if b.connection == "own" else everything)
            new[:, i] = w @ h + x[:, i]
    return new_f, new_o


@pytest.mark.parametrize(
    ("connection", "normaliser", "values"),
    [*product(PASSING, ("softmax", "count", "none"), ("features",)), ("cross", "softmax", "embedded")],
)
def test_the_block_equals_a_slow_loop(connection: str, normaliser: str, values: str) -> None:
    b, (f, o) = block(connection, normaliser, values), maps()
    new_f, new_o = b(f, o)
    assert new_f.shape == f.shape and new_o.shape == o.shape
    slow_f, slow_o = slow_block(b, f[1].flatten(1), o[1].flatten(1))
    torch.testing.assert_close(new_f[1].flatten(1), slow_f)
    torch.testing.assert_close(new_o[1].flatten(1), slow_o)


def test_attention_rows_sum_to_1_over_the_other_streams_positions() -> None:
    b, (f, o) = block(), maps()
    o = o[:, :, :, :1]  # fewer flow positions: 6 for 12
    y = b.attention(f, o)
    assert y["rgb"].shape == (2, 12, 6) and y["flow"].shape == (2, 6, 12)
    for rows in y.values():
        assert (rows > 0).all()
        torch.testing.assert_close(rows.sum(2), torch.ones_like(rows[:, :, 0]))
    e = exponents(b.phi(f.flatten(2)), b.kappa(o.flatten(2)))
    torch.testing.assert_close(affinity(e, "count"), e.exp() / 6)
    torch.testing.assert_close(affinity(e, "none"), e.exp())
    assert [x.shape for x in b(f, o)] == [f.shape, o.shape]


def change_of(b: Any, stream: int, f: Tensor, o: Tensor, other: Tensor) -> Tensor:
    """How the output of a stream changes when the other one's features become `other`."""
    changed = b(f, other) if stream == 0 else b(other, o)
    return (changed[stream] - b(f, o)[stream]).abs().max()


@pytest.mark.parametrize("stream", [0, 1])
def test_the_literal_equation_3_passes_nothing_when_rows_are_normalised(stream: int) -> None:
    """It is w x + x, whatever the other stream has; the sum over the other stream's features passes much."""
    f, o = maps()
    other = torch.randn_like(f)
    assert change_of(block("own"), stream, f, o, other) < 1e-12
    assert change_of(block("scalar"), stream, f, o, other) < 1e-12
    assert change_of(block("cross"), stream, f, o, other) > 0.1
    literal = block("own")
    own = ((f, literal.w_f), (o, literal.w_o))[stream]
    torch.testing.assert_close(literal(f, o)[stream].flatten(2), own[1](own[0].flatten(2)) + own[0].flatten(2))


@pytest.mark.parametrize("connection", ["own", "scalar"])
def test_the_literal_readings_without_normalisation_change_a_gain_only(connection: str) -> None:
    """The update is W x times a number: one per position (Eq. 3), one per clip (Eq. 1). The other stream sets it."""
    b, (f, o) = block(connection, "none"), maps()
    straight = b.w_f(f.flatten(2))
    gains = []
    for other in (o, torch.randn_like(o)):
        gain = (b(f, other)[0] - f).flatten(2) / straight  # (B, C, P)
        torch.testing.assert_close(gain, gain[:, :1].expand_as(gain))  # the same for all channels: no direction
        assert (gain > 0).all()
        one_per_clip = (gain - gain[:, :, :1]).abs().max() < 1e-9
        assert one_per_clip == (connection == "scalar")
        gains.append(gain)
    assert (gains[0] / gains[1] - 1).abs().max() > 0.01


@pytest.mark.parametrize(("connection", "passes"), [("cross", True), ("own", False), ("scalar", False)])
def test_gradient_to_the_other_stream(connection: str, passes: bool) -> None:
    b, (f, o) = block(connection), maps()
    f, o = f.requires_grad_(), o.requires_grad_()
    to_own, to_other = torch.autograd.grad(b(f, o)[0].square().sum(), (f, o))
    assert to_own.abs().max() > 0.1
    assert (to_other.abs().max() > 0.01) == passes
    assert passes or to_other.abs().max() < 1e-12


def test_what_crosses_is_linear_in_the_other_streams_values_and_blind_to_their_order() -> None:
    b, (f, o) = block(), maps()
    y, x = b.attention(f, o)["rgb"], o.flatten(2)
    torch.testing.assert_close(crossing(y, 3 * x), 3 * crossing(y, x))
    torch.testing.assert_close(crossing(y, torch.ones_like(x)), torch.ones_like(x))  # weights of sum 1
    order = torch.randperm(12)
    shuffled = x[:, :, order].reshape(o.shape)
    torch.testing.assert_close(b(f, shuffled)[0], b(f, o)[0])  # so the block itself registers nothing by place


def test_joins_give_both_streams_the_same_features() -> None:
    f, o = maps()
    for how, expected in (("concatenation", torch.cat((f, o), 1)), ("average", (f + o) / 2)):
        first, second = Join(how)(f, o)
        assert torch.equal(first, expected) and torch.equal(second, expected)


# --- identities of the network


@pytest.mark.parametrize(("base", "connection"), [*product(["tsn"], PASSING), ("i3d", "cross")])
def test_a_block_that_begins_at_zero_leaves_the_plain_streams(base: str, connection: str) -> None:
    changes: dict[str, Any] = {"aggregation": "maximum"} if base == "tsn" else THREE_D
    plain = network(**{**changes, "connection": "none"})
    x = clips() if base == "tsn" else clips(16, 1, size=32)
    torch.manual_seed(1)
    connected = build(replace(plain.config, connection=connection), CLASSES).eval()
    copy_all_but_the_block(plain, connected)
    with torch.no_grad():
        before, after = plain.explain(**x), connected.explain(**x)
        for m in STREAMS:
            assert torch.equal(before.logits[m], after.logits[m])
            assert torch.equal(before.features[m], after.features[m])
        nn.init.normal_(connected.block.w_f.weight, std=0.1)  # type: ignore[union-attr, arg-type]
        moved = connected(**x)
        assert not torch.equal(moved["rgb"], before.logits["rgb"])
        assert torch.equal(moved["flow"], before.logits["flow"])


def test_the_baseline_is_two_tsn_streams() -> None:
    """Against another chapter's TSN with copied weights; alone a stream is the same."""
    pair, x = network(**METHODS["baseline"]), clips(4)
    for m, role in (("rgb", "spatial"), ("flow", "temporal")):
        tsn = heterogeneous.build(heterogeneous.Config(role, "resnet18", 0.125, 3, 0.0, False), CLASSES).eval()
        tsn.trunk.load_state_dict(pair.stream(m).trunk.state_dict())
        tsn.classify.load_state_dict(pair.classifier(m).state_dict())
        alone = network(**{**METHODS["baseline"], "streams": m})
        copied = {k: v for k, v in pair.state_dict().items() if f".{m}." in k}
        alone.load_state_dict(copied)
        with torch.no_grad():
            expected = tsn(**{m: x[m]})[role]
            torch.testing.assert_close(pair(**x)[m], expected)
            assert list(alone(**{m: x[m]})) == [m]
            torch.testing.assert_close(alone(**{m: x[m]})[m], expected)


@pytest.mark.parametrize("frames", [8, 16])
def test_the_baseline_on_i3d_is_i3d(frames: int) -> None:
    pair, x = network(**THREE_D, **METHODS["baseline"]), clips(frames, 1, size=32)
    for m in STREAMS:
        i3d = I3D(CLASSES, x[m].shape[2], width=1 / 16).eval()
        i3d.load_state_dict(pair.stream(m).trunk.state_dict(), strict=False)
        i3d.logits.conv3d.weight.data = pair.classifier(m).weight.data[:, :, None, None, None]
        i3d.logits.conv3d.bias.data = pair.classifier(m).bias.data
        with torch.no_grad():
            torch.testing.assert_close(pair(**x)[m], i3d(published_input(x[m].transpose(1, 2))))


@pytest.mark.parametrize("base", ["tsn", "i3d"])
@pytest.mark.parametrize("method", METHODS)
def test_each_method_of_table_3_on_each_base(base: str, method: str) -> None:
    changes = METHODS[method]
    model = network(**(SMALL if base == "tsn" else THREE_D), **changes).train()
    x = clips(3 if base == "tsn" else 16, model.config.flow_frames, size=32)
    outputs = model(**x)
    needed = {"rgb", "flow", "rgb.feature", "flow.feature"} if method in ("CS", "All") else {"rgb", "flow"}
    assert set(outputs) == needed
    assert (model.block is not None) == (method in ("CB", "All"))
    assert (model.shared is not None) == (method in ("CS", "All"))
    value = total_loss(outputs, torch.tensor([0, 3]), model.config.losses)
    value.backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert set(model.eval()(**x)) == {"rgb", "flow"}


@pytest.mark.parametrize(("connection", "reaches"), [("none", False), ("own", False), ("cross", True)])
def test_algorithm_1_the_flow_loss_reaches_the_rgb_stream_through_the_block(connection: str, reaches: bool) -> None:
    model = network(connection=connection).double()
    x = {m: v.double() for m, v in clips().items()}
    weight = next(model.stream("rgb").parameters())
    (gradient,) = torch.autograd.grad(model(**x)["flow"].square().sum(), weight, allow_unused=True)
    size = 0.0 if gradient is None else float(gradient.abs().max())
    assert size > 1e-6 if reaches else size < 1e-12


@pytest.mark.parametrize("place", ["maps", "pooled"])
def test_attention_of_the_network(place: str) -> None:
    model, x = network(place=place), clips()
    with torch.no_grad():
        y = model.attention(**x)
        positions = 3 * 2 * 2 if place == "maps" else 3  # 40 px leave 2 x 2
        assert {m: a.shape for m, a in y.items()} == dict.fromkeys(STREAMS, (2, positions, positions))
        torch.testing.assert_close(y["rgb"].sum(2), torch.ones(2, positions))
        other = model(rgb=x["rgb"], flow=x["flow"].flip(0))  # the partner of another clip
        assert (other["rgb"] - model(**x)["rgb"]).abs().max() > 1e-5
    with pytest.raises(ReproError, match="connection 'none' has none"):
        network(connection="none").attention(**x)


# --- Sec. 3.3


def test_aggregations_of_figure_5a() -> None:
    x = torch.randn(2, 3, 4)
    rows = x.unbind(1)
    torch.testing.assert_close(aggregate(x, "average"), (rows[0] + rows[1] + rows[2]) / 3)
    torch.testing.assert_close(aggregate(x, "maximum"), torch.maximum(torch.maximum(rows[0], rows[1]), rows[2]))
    torch.testing.assert_close(aggregate(x, "product"), rows[0] * rows[1] * rows[2])
    assert torch.equal(aggregate(x, "concatenation"), torch.cat(rows, 1))
    product_of_probabilities = x.softmax(2).prod(1)
    torch.testing.assert_close(aggregate_scores(x, "product").exp(), product_of_probabilities)
    torch.testing.assert_close(aggregate_scores(x, "maximum"), x.amax(1))
    with pytest.raises(ReproError, match="scores have no 'concatenation'"):
        aggregate_scores(x, "concatenation")


@pytest.mark.parametrize("aggregation", ["maximum", "product", "concatenation", "relations"])
def test_each_aggregation_reads_a_clip_as_in_training(aggregation: str) -> None:
    more = {} if aggregation == "maximum" else {"test": "groups"}
    model = network(aggregation=aggregation, **more)
    with torch.no_grad():
        for snippets in (2, 3, 7):
            out = model.explain(**clips(snippets))
            assert {x.shape for x in out.logits.values()} == {(2, CLASSES)}
        x = clips(3)
        z = model.stream("rgb").maps(x["rgb"])
        assert z.shape == (2, 64, 3, 2, 2)
        sequence = model.sequences(model.connected(model.maps(**x)[0], "maps"))["flow"]  # (B, T, C)
        alone = model.relations["flow"](sequence) if aggregation == "relations" else aggregate(sequence, aggregation)
        torch.testing.assert_close(model.explain(**x).features["flow"], alone)
        torch.testing.assert_close(model(**x)["flow"], model.classify("flow", alone)[0])


def test_snippet_scores_average_to_the_clips_score_behind_one_layer() -> None:
    model, x = network(head="linear"), clips(5)
    with torch.no_grad():
        scores = model.snippet_scores(**x)
        for m in STREAMS:
            assert scores[m].shape == (2, 5, CLASSES)
            torch.testing.assert_close(aggregate_scores(scores[m], "average"), model(**x)[m])
    with pytest.raises(ReproError, match="reads no single snippet"):
        network(**TRN).snippet_scores(**x)


def test_both_streams_go_through_the_same_shared_block() -> None:
    model, x = network(embedding="hidden"), clips()
    assert model.classifier("rgb") is model.classifier("flow")
    with torch.no_grad():
        hidden = model.explain(**x).features
        z = replace_embedding(model, "aggregate").explain(**x).features
        for m in STREAMS:
            assert z[m].shape == (2, 64) and hidden[m].shape == (2, 64)  # 512 / 8 and 512 / 8
            torch.testing.assert_close(hidden[m], torch.relu(model.shared.fc(z[m])))  # type: ignore[union-attr]
            torch.testing.assert_close(model(**x)[m], model.shared.classify(hidden[m]))  # type: ignore[union-attr]


def replace_embedding(model: CCS, name: str) -> CCS:
    copy = build(replace(model.config, embedding=name), CLASSES).eval()
    copy.load_state_dict(model.state_dict())
    return copy


def test_logits_are_fused() -> None:
    rgb, flow = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_allclose(fuse(rgb, flow), (rgb + flow) / 2)
    np.testing.assert_allclose(fuse(rgb, flow, 1.5), 0.4 * rgb + 0.6 * flow)
    np.testing.assert_allclose(fuse(rgb, flow, 0), rgb)
    for wrong in (-1, float("inf"), float("nan")):
        with pytest.raises(ReproError, match="fusion weight"):
            fuse(rgb, flow, wrong)


def test_dropout_is_before_the_classifier_in_training_only() -> None:
    model, x = network(dropout=(0.5, 0.5), connection="none"), clips()
    assert torch.equal(model(**x)["rgb"], model(**x)["rgb"])
    model.dropout.train()
    assert not torch.equal(model(**x)["rgb"], model(**x)["rgb"])
    assert torch.equal(model.explain(**x).features["rgb"], model.explain(**x).features["rgb"])  # the losses see none
    assert (Config().dropout, Config().partial_bn) == ((0.8, 0.7), True)


# --- testing in groups


def test_groups_cover_every_snippet_in_order() -> None:
    for snippets, size in product(range(1, 30), (1, 2, 3, 8)):
        index = groups(snippets, size)
        assert index.shape == (-(-snippets // size), size)
        assert set(index.flatten().tolist()) == set(range(snippets))
        assert (index.diff(dim=1) >= (1 if snippets >= size else 0)).all()
    assert torch.equal(groups(3, 3), torch.arange(3)[None])
    assert groups(25, 3).shape == (9, 3)


def test_groups_of_a_clip_are_read_like_clips_of_their_own() -> None:
    together, apart = network(), network(test="groups")
    apart.load_state_dict(together.state_dict())
    x = clips(7)
    index = groups(7, 3)
    with torch.no_grad():
        single = [together(**{m: v[:, row] for m, v in x.items()}) for row in index]
        for m in STREAMS:
            torch.testing.assert_close(apart(**x)[m], sum(s[m] for s in single) / len(single))
            assert not torch.allclose(apart(**x)[m], together(**x)[m])
            three = clips(3)
            assert torch.equal(apart(**three)[m], together(**three)[m])


# --- Sec. 4.4: class activation maps


@pytest.mark.parametrize("test", ["clip", "groups"])
def test_activation_maps_of_a_linear_head_are_cam(test: str) -> None:
    model, x, classes = network(head="linear", test=test), clips(5), torch.tensor([1, 3])
    cam = model.activation_maps(classes, **x)
    with torch.no_grad():
        logits = model(**x)
        if test == "clip":
            connected = model.connected(model.maps(**x)[0], "maps")
        for m in STREAMS:
            assert cam[m].shape == (2, 5, 2, 2)
            chosen = logits[m].gather(1, classes[:, None])[:, 0] - model.classifier(m).bias[classes]
            torch.testing.assert_close(cam[m].sum((1, 2, 3)), chosen, rtol=1e-4, atol=1e-4)
            if test == "clip":
                explicit = torch.einsum("bk,bkthw->bthw", model.classifier(m).weight[classes], connected[m]) / 20
                torch.testing.assert_close(cam[m], explicit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("changes", "snippets"), [({"place": "pooled"}, 3), (TRN, 8), (THREE_D, 16)])
def test_activation_maps_are_the_scores_slope_along_the_features(changes: dict[str, Any], snippets: int) -> None:
    """Their sum is d/dt of the score when all of a stream's connected maps are scaled by t, at t = 1."""
    model = network(**changes).double()
    x = {m: v.double() for m, v in clips(snippets, model.config.flow_frames).items()}
    classes = torch.tensor([0, 2])
    cam = model.activation_maps(classes, **x)["rgb"]
    with torch.no_grad():
        maps, index = model.maps(**x)
        y = model.connected(maps, "maps")

        def score(t: float) -> Tensor:
            return model.read({**y, "rgb": t * y["rgb"]}, len(index)).logits["rgb"].gather(1, classes[:, None])[:, 0]

        slope = (score(1 + 1e-6) - score(1 - 1e-6)) / 2e-6
    assert cam.shape == (2, *(y["rgb"].shape[2:]))
    torch.testing.assert_close(cam.sum((1, 2, 3)), slope, rtol=1e-4, atol=1e-6)


def test_activation_maps_leave_the_network_as_it_was() -> None:
    model, x = network(dropout=(0.9, 0.9)).train(), clips()
    with torch.no_grad():
        first, second = (model.activation_maps(torch.tensor([0, 1]), **x)["rgb"] for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.training and model.dropout["rgb"].training
    assert all(p.grad is None for p in model.parameters())


# --- starting weights, training, refusals


def test_starting_weights_go_into_both_streams() -> None:
    torch.manual_seed(5)
    source = backbone("resnet18", width=0.125).state_dict()
    model = network()
    report = initialise(model, {"rgb": source, "flow": source})
    assert torch.equal(model.stream("rgb").trunk.conv1.weight, source["conv1.weight"])
    mean = source["conv1.weight"].mean(1, keepdim=True).expand(-1, 10, -1, -1)
    assert torch.equal(model.stream("flow").trunk.conv1.weight, mean)
    assert (report["rgb"].adapted, report["flow"].adapted) == ((), ("conv1.weight",))
    assert initialise(model, dict.fromkeys(STREAMS, "none"))["rgb"].loaded == ()


def test_starting_weights_of_i3d_come_with_or_without_its_classifier() -> None:
    model, sources = network(**THREE_D), {m: I3D(9, c, width=1 / 16).state_dict() for m, c in (("rgb", 3), ("flow", 2))}
    initialise(model, sources)
    for m, source in sources.items():
        own = model.stream(m).trunk.state_dict()
        assert own.keys() == {k for k in source if not k.startswith("logits.")}
        assert all(torch.equal(own[k], source[k]) for k in own)


def test_partial_batch_normalisation() -> None:
    model = network(partial_bn=True).train()
    for m in STREAMS:
        layers = [layer for layer in model.stream(m).modules() if isinstance(layer, nn.BatchNorm2d)]
        assert [isinstance(layer, FrozenBatchNorm2d) for layer in layers] == [False] + [True] * (len(layers) - 1)
    with pytest.raises(ReproError, match="partial_bn freezes statistics that weights 'none' has not"):
        initialise(model, dict.fromkeys(STREAMS, "none"))


def test_it_can_be_trained_with_its_losses() -> None:
    """By the library's loop, on clips so short that every batch is the same; the loss can travel to another process."""
    config = Config(**{**SMALL, "segments": 2, "flow_frames": 3})
    torch.manual_seed(0)
    model, four = build(config, 2), make_clips(4)
    store = FakeStore({clip.id: (5, 16, 20) for clip in four})
    sampling = replace(SAMPLING, flip=False, scales=(), stride=(1, 1))
    samples = TrainingSamples(store, four, sampling, seed=1)  # type: ignore[arg-type]
    loss = pickle.loads(pickle.dumps(partial(total_loss, losses=config.losses)))
    history = train(model, samples, Recipe(15, 4, 4, 0.02), loss=loss)
    assert history.losses[0] > 2 * np.log(2) + 0.3  # Eq. 4 and 5 on top of two undecided cross-entropies
    assert history.losses[-1] < 0.6 * history.losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connection": "crossing"}, "connection 'crossing'"),
        ({"backbone": "resnet19"}, "backbone 'resnet19' .did you mean"),
        ({"streams": "rgb"}, "streams 'rgb' is one stream: set connection 'none' and losses CROSS_ENTROPY"),
        ({"head": "linear", "embedding": "hidden"}, "embedding 'hidden' is a layer of the shared block"),
        ({"aggregation": "product"}, "aggregation 'product' needs as many snippets as in training"),
        ({**THREE_D, "partial_bn": True}, "I3D takes a whole clip"),
        ({**THREE_D, "aggregation": "relations", "test": "groups"}, "I3D takes a whole clip"),
    ],
)
def test_wrong_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReproError, match=message):
        Config(**changes)


def test_wrong_inputs_are_refused() -> None:
    model, x = network(), clips()
    with pytest.raises(ReproError, match="the flow stream got no input: pass flow"):
        model(rgb=x["rgb"])
    with pytest.raises(ReproError, match="give both streams the same clips, snippets and crop"):
        model(rgb=x["rgb"], flow=x["flow"][:, :2])
    with pytest.raises(ReproError, match="2 snippets in training, 3 segments"):
        model.train()(**clips(2))


# --- Sec. 4.3: counts


def test_counts_of_the_block_and_the_shared_layers() -> None:
    found = {}
    for name in ("TSN, baseline", "TSN, All"):
        changes, entry = NETWORKS[name]
        found[name] = count(name, Config(**changes), 101, 224, entry)
    plain, proposed = found.values()
    trunks = plain.parameters - plain.heads
    assert plain.heads == 2 * (1024 * 101 + 101)
    assert proposed.block == 2 * 1024 * 512 + 2 * 1024 * 1024  # ledger ccs-L5: 3.1M
    assert parameters(ConnectionBlock(1024, 512, values="embedded")) == 4 * 1024 * 512  # 2.1M
    assert proposed.heads == 1024 * 512 + 512 + 512 * 101 + 101
    assert proposed.parameters == trunks + proposed.block + proposed.heads
    assert proposed.added == pytest.approx((proposed.block + proposed.heads) / trunks)
    positions = 3 * 7 * 7
    layers = positions * (2 * 1024 * 512 + 2 * 1024 * 1024) + 2 * (1024 * 512 + 512 * 101) - 2 * 1024 * 101
    products = positions**2 * (512 + 2 * 1024)  # Eq. 2 once, Eq. 3 twice
    assert proposed.multiply_adds - plain.multiply_adds == layers + products


def test_every_network_of_the_chapter_is_a_valid_configuration() -> None:
    configs = [Config(**changes) for changes, _ in NETWORKS.values()]
    assert len(set(configs)) == len(configs)
