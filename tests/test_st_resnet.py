"""ST-ResNet: its equations on tiny networks, the way between the phases, Table 1 and the counts from live models."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models.count import multiply_adds
from repro.models.receptive import probe_of, support
from repro.models.resnet import ResNet, resnet
from repro.models.temporal import TemporalAverage, TemporalConv, TemporalPool, set_chunks
from repro.papers.st_resnet import (
    Config,
    Maps,
    STResNet,
    build,
    connected_units,
    cyclic_copies,
    stage_layers,
    start_from,
)
from repro.papers.st_resnet_layers import (
    conv1_responses,
    frame_span,
    layer_table,
    moment_noise,
    padded_share,
    pooling_difference,
    printed_units,
    receptive_fields,
    sizes,
)

SMALL = Config(width=0.125, flow_frames=2)
PLAIN: dict[str, Any] = {"skip": "none", "temporal": "none"}
B, T, SIZE, CLASSES = 2, 3, 32, 5


def network(seed: int = 0, **changes: Any) -> STResNet:
    """A tiny network with running moments and affine weights as varied as a trained one's, in evaluation mode."""
    torch.manual_seed(seed)
    model = build(replace(SMALL, **changes), CLASSES)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def clips(chunks: int = T, size: int = SIZE, batch: int = B, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randn(batch, chunks, 3, size, size, generator=generator)
    return rgb, torch.randn(batch, chunks, 4, size, size, generator=generator)


@cache
def plain_state(name: str) -> dict[str, Tensor]:
    """The weights of a plain stream: the end of phase 1."""
    return network(seed=1 + (name == "motion"), streams=name, **PLAIN).state_dict()


def from_streams(**changes: Any) -> STResNet:
    """A network at the start of phase 2."""
    model = build(replace(SMALL, **changes), CLASSES).eval()
    start_from(model, plain_state("appearance"), plain_state("motion"))
    return model


def silence(model: STResNet) -> None:
    """Make the motion features that the skips carry zero: the first unit of every stage ends in zeros."""
    for layer in stage_layers(model.streams["motion"]):
        for norm in (layer[0].bn3, layer[0].downsample[1]):
            nn.init.zeros_(norm.weight)
            nn.init.zeros_(norm.bias)


# ---------------------------------------------------------------- Sec. 3.1


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("stride_in", ["3x3", "1x1"])
@torch.no_grad()
def test_plain_streams_are_resnets(train: bool, stride_in: str) -> None:
    """Eq. 1 as written here equals torchvision's units, and the head is pool and classifier."""
    model = network(stride_in=stride_in, **PLAIN).train(train)
    trunks = copy.deepcopy(model.streams)
    rgb, flow = clips(size=48)
    found = model(rgb, flow)
    for name, x in (("appearance", rgb), ("motion", flow)):
        features = trunks[name](x.flatten(0, 1)).mean(dim=(2, 3)).view(B, T, -1)
        expected = model.classify[name](features)
        torch.testing.assert_close(found[name], expected if train else expected.mean(1))


@pytest.mark.parametrize("name", ["appearance", "motion"])
@torch.no_grad()
def test_a_single_stream_is_its_half_of_the_baseline(name: str) -> None:
    rgb, flow = clips()
    both = from_streams(**PLAIN)
    one = network(streams=name, **PLAIN)
    one.load_state_dict(plain_state(name))
    found = one(rgb=rgb) if name == "appearance" else one(flow=flow)
    assert list(found) == [name]
    torch.testing.assert_close(found[name], both(rgb, flow)[name])


@pytest.mark.parametrize("skip", ["residual", "direct", "both", "printed", "preactivation"])
@torch.no_grad()
def test_zero_motion_gives_the_plain_resnet(skip: str) -> None:
    """Ledger st_resnet-L1: true of the default, and of neither reading of Eq. 2 to the letter."""
    model, plain = from_streams(skip=skip, temporal="none"), from_streams(**PLAIN)
    rgb, flow = clips()
    assert (model(rgb, flow)["appearance"] - plain(rgb, flow)["appearance"]).abs().max() > 1e-2
    silence(model)
    trace: Maps = {}
    model.maps(rgb, flow, trace)
    assert skip == "both" or all(trace[f"motion.conv{stage}_1"].abs().max() == 0 for stage in range(2, 6))
    difference = (model(rgb, flow)["appearance"] - plain(rgb, flow)["appearance"]).abs().max()
    assert (difference < 1e-5) == (skip in ("residual", "direct", "both"))


@pytest.mark.parametrize("skip", ["residual", "none", "direct", "both", "printed", "preactivation"])
@torch.no_grad()
def test_units_follow_eq_2(skip: str) -> None:
    """Both outputs, with F and f spelt out from the layers, for inputs as they were before f."""
    units = {name: stage_layers(trunk)[2][1] for name, trunk in network(temporal="none").streams.items()}
    torch.manual_seed(0)
    a, m = torch.randn(2, 4, 128, 3, 3)  # what f makes the inputs of

    def mapping(name: str, x: Tensor) -> Tensor:  # F
        unit = units[name]
        x = F.relu(unit.bn1(F.conv2d(x, unit.conv1.weight)))
        x = F.relu(unit.bn2(F.conv2d(x, unit.conv2.weight, padding=1)))
        return unit.bn3(F.conv2d(x, unit.conv3.weight))

    fa, fm = F.relu(a), F.relu(m)
    appearance = {
        "residual": lambda: F.relu(fa + mapping("appearance", fa + fm)),
        "none": lambda: F.relu(fa + mapping("appearance", fa)),
        "direct": lambda: F.relu(fa + fm + mapping("appearance", fa + fm)),
        "both": lambda: F.relu(fa + mapping("appearance", fa + fm)),
        "printed": lambda: F.relu(fa) + mapping("appearance", fa + F.relu(fm)),  # a: inputs that are rectified
        "preactivation": lambda: F.relu(fa + mapping("appearance", a + fm)),  # a: sums that are not; f follows
    }[skip]()
    motion = F.relu(fm + mapping("motion", fm + fa if skip == "both" else fm))
    sums = {"appearance": a, "motion": m}
    found = connected_units(skip, units, {"appearance": fa, "motion": fm}, sums)
    torch.testing.assert_close(found["appearance"], appearance)
    torch.testing.assert_close(found["motion"], motion)
    assert (found["appearance"].min() < 0) == (skip == "printed")


def reached(model: STResNet, stream: str, output: str) -> set[str]:
    """The parts of a stream to which one output's loss sends a gradient: conv1 and units."""
    model.zero_grad(set_to_none=True)
    model(*clips())[output].square().mean().backward()
    trunk = model.streams[stream]
    parts = {"conv1": trunk.conv1} | {
        f"conv{stage}_{number}": unit
        for stage, layer in enumerate(stage_layers(trunk), start=2)
        for number, unit in enumerate(layer, start=1)
    }
    alive = {name: [p.grad for p in part.parameters() if p.requires_grad] for name, part in parts.items()}
    return {name for name, grads in alive.items() if all(g is not None and g.abs().max() > 0 for g in grads)}


@pytest.mark.parametrize("skip", ["residual", "direct", "printed", "preactivation", "both", "none"])
def test_gradients_follow_eq_4(skip: str) -> None:
    """The appearance loss reaches the motion stream up to the last skip; the motion loss stays where it is."""
    model = network(skip=skip).train()
    everything = reached(model, "motion", "motion")
    assert len(everything) == 17  # conv1 and 3 + 4 + 6 + 3 units
    after_the_last_skip = {"conv5_2", "conv5_3"}
    from_appearance = set() if skip == "none" else everything - after_the_last_skip
    assert reached(model, "motion", "appearance") == from_appearance
    assert model.classify["motion"].weight.grad is None
    assert reached(model, "appearance", "motion") == (from_appearance if skip == "both" else set())
    assert reached(model, "appearance", "appearance") == everything


# ---------------------------------------------------------------- Sec. 3.2


@torch.no_grad()
def test_filters_over_time_equal_a_3d_convolution_and_a_loop() -> None:
    torch.manual_seed(0)
    layer = TemporalConv(nn.Conv2d(4, 6, 1, bias=False))
    nn.init.normal_(layer.weight)
    x = torch.randn(2, 5, 4, 3, 2)  # (B, T, C, h, w)
    layer.chunks = 5
    for memory in (torch.contiguous_format, torch.channels_last):
        found = layer(x.flatten(0, 1).to(memory_format=memory)).view(2, 5, 6, 3, 2)
        expected = F.conv3d(x.transpose(1, 2), layer.weight.unsqueeze(-1), padding=(1, 0, 0)).transpose(1, 2)
        torch.testing.assert_close(found, expected)
    for t in range(5):
        taps = [F.conv2d(x[:, s], layer.weight[:, :, s - t + 1, None]) for s in (t - 1, t, t + 1) if 0 <= s < 5]
        torch.testing.assert_close(found[:, t], torch.stack(taps).sum(0))


@torch.no_grad()
def test_eq_5_averages_over_neighbours() -> None:
    spatial = nn.Conv2d(4, 6, 1, bias=False)
    x = torch.randn(2 * 5, 4, 3, 2)
    y = spatial(x).view(2, 5, 6, 3, 2)
    zero = torch.zeros_like(y[:, :1])
    padded = torch.cat([zero, y, zero], dim=1)
    expected = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
    layers = (TemporalConv(spatial), TemporalConv(spatial, learned=False), TemporalAverage(spatial))
    for layer in layers:
        layer.chunks = 5
        torch.testing.assert_close(layer(x).view_as(y), expected)
    assert [layer.weight.requires_grad for layer in layers] == [True, False, True]
    assert layers[2].weight.shape == spatial.weight.shape


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(2, 2, 3, bias=False), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1, 2, bias=False)]
)
def test_only_pointwise_convolutions_become_filters(layer: nn.Conv2d) -> None:
    for kind in (TemporalConv, TemporalAverage):
        with pytest.raises(ReproError, match="1x1"):
            kind(layer)


@torch.no_grad()
def test_a_repeated_frame_looks_as_in_the_spatial_network() -> None:
    """Eq. 5: where no field of 17 chunks reaches the zero padding, averaging equal features changes nothing."""
    temporal, spatial = from_streams(), from_streams(temporal="none")
    chunks = 19
    rgb, flow = (x[:1].expand(-1, chunks, -1, -1, -1) for x in clips(chunks=1))
    found, expected = temporal.maps(rgb, flow), spatial.maps(rgb, flow)
    for name in ("appearance", "motion"):
        equal = [bool(torch.allclose(found[name][0, t], expected[name][0, t], atol=1e-5)) for t in range(chunks)]
        assert equal[8:11] == [True] * 3, name
        assert not any(equal[:4]) and not any(equal[-4:]), name


@torch.no_grad()
def test_chunks_of_different_clips_never_mix() -> None:
    model = network(temporal_pool="max")
    rgb, flow = clips(chunks=7)
    together = model(rgb, flow)
    rgb[1], flow[1] = 5, -5
    other = model(rgb, flow)
    for name in together:
        torch.testing.assert_close(together[name][0], other[name][0])
        assert (together[name][1] - other[name][1]).abs().max() > 1e-3
        assert (together[name] - model(rgb.flip(1), flow.flip(1))[name]).abs().max() > 1e-3  # order matters


@pytest.mark.parametrize(("temporal", "moves"), [("learned", True), ("frozen", False), ("tied", True)])
def test_what_a_step_changes(temporal: str, moves: bool) -> None:
    model = from_streams(temporal=temporal).train()
    kind = TemporalAverage if temporal == "tied" else TemporalConv
    filters = [m for m in model.modules() if isinstance(m, kind)]
    assert len(filters) == 16  # Sec. 4.1
    before = [layer.weight.clone() for layer in filters]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    sum(x.square().mean() for x in model(*clips()).values()).backward()  # type: ignore[union-attr]
    optimiser.step()
    for layer, old in zip(filters, before, strict=True):
        assert (layer.weight.grad is not None) == moves
        assert torch.equal(layer.weight, old) != moves
        if temporal == "learned":
            assert (layer.weight[:, :, 0] - layer.weight[:, :, 2]).abs().max() > 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def test_all_three_kinds_of_filters_start_equal() -> None:
    rgb, flow = clips(chunks=5)
    learned, *others = (from_streams(temporal=kind)(rgb, flow) for kind in ("learned", "frozen", "tied"))
    for other in others:
        torch.testing.assert_close(learned, other)


# ---------------------------------------------------------------- Sec. 3.3


@torch.no_grad()
def test_losses_per_chunk_in_training_and_means_in_evaluation() -> None:
    rgb, flow = clips(chunks=5)
    model = network()
    expected = {name: model.scores(name, x) for name, x in model.maps(rgb, flow).items()}
    assert {name: x.shape for name, x in model(rgb, flow).items()} == dict.fromkeys(expected, (B, CLASSES))
    torch.testing.assert_close(model(rgb, flow), {name: x.mean(1) for name, x in expected.items()})
    model.train()
    assert {name: x.shape for name, x in model(rgb, flow).items()} == dict.fromkeys(expected, (B, 5, CLASSES))


@torch.no_grad()
def test_a_joint_head_sums_the_logits() -> None:
    separate, joint = from_streams(), from_streams(head="joint")
    rgb, flow = clips()
    found = joint(rgb, flow)
    assert list(found) == ["joint"]
    torch.testing.assert_close(found["joint"], sum(separate(rgb, flow).values()))
    assert joint.train()(rgb, flow)["joint"].shape == (B, T, CLASSES)


@pytest.mark.parametrize(("chunks", "expected"), [(11, 4), (25, 11), (5, 1), (3, 1), (1, 1)])
@pytest.mark.parametrize("how", ["max", "average"])
def test_temporal_pool(how: str, chunks: int, expected: int) -> None:
    """Table 1: 11 chunks give 4 outputs; 25 in the test give 11; a clip shorter than the window gives one."""
    x = torch.randn(2, 3, chunks, 4)
    found = TemporalPool(how)(x)
    windows = [x[:, :, start : start + 5] for start in range(0, max(1, chunks - 4), 2)]
    slow = [w.amax(2) if how == "max" else w.mean(2) for w in windows]
    torch.testing.assert_close(found, torch.stack(slow, dim=2))
    assert found.shape[2] == expected


@torch.no_grad()
def test_pool_over_time_comes_before_or_after_the_pool_over_space() -> None:
    maps = torch.randn(B, 11, 256, 9, 8)
    before, after, mean_before, mean_after = (
        network(temporal_pool=how, temporal_pool_at=at).pooled(maps)
        for how in ("max", "average")
        for at in ("conv5", "pool5")
    )
    assert before.shape == after.shape == (B, 256, 4, 3, 2)
    torch.testing.assert_close(mean_before, mean_after)
    assert (before >= after).all() and (before - after).mean() > 0.1
    torch.testing.assert_close(before[:, :, 1, 2, 1], maps[:, 2:7, :, 2:9, 1:8].amax(1).mean(dim=(2, 3)))
    torch.testing.assert_close(after[:, :, 1, 2, 1], maps[:, 2:7, :, 2:9, 1:8].mean(dim=(3, 4)).amax(1))


@torch.no_grad()
def test_fully_convolutional_scores_are_means_over_positions() -> None:
    """Sec. 3.4, ledger st_resnet-L32: a 256 x 341 frame gives 8 x 11 maps and 2 x 5 positions."""
    model = network()
    maps = torch.randn(B, T, 256, 8, 11)
    assert model.pooled(maps).shape == (B, 256, T, 2, 5)
    windows = [maps[..., i : i + 7, j : j + 7].mean(dim=(-2, -1)) for i in range(2) for j in range(5)]
    expected = torch.stack([model.classify["motion"](w) for w in windows]).mean(0)
    torch.testing.assert_close(model.scores("motion", maps), expected)
    everywhere = network(space="global")
    assert everywhere.pooled(maps).shape == (B, 256, T, 1, 1)
    torch.testing.assert_close(everywhere.scores("motion", maps), model.classify["motion"](maps.mean(dim=(3, 4))))
    small = torch.randn(B, T, 256, 2, 2)
    torch.testing.assert_close(model.scores("motion", small), everywhere.scores("motion", small))


@torch.no_grad()
def test_the_two_pools_differ_on_large_frames_only() -> None:
    model = network(temporal_pool="max").train()
    inside = pooling_difference(model, *clips(size=224, chunks=1, batch=1))
    outside = pooling_difference(model, *clips(size=288, chunks=1, batch=1))
    assert all(value < 1e-5 for value in inside.values())
    assert list(outside) == ["appearance", "motion"] and all(value > 1e-3 for value in outside.values())
    assert model.training and model.config.space == "slide"


def test_dropout_before_or_after_the_classifier() -> None:
    """Ledger st_resnet-L20: after it, class scores themselves become zero."""
    rgb, flow = clips()
    for where in ("features", "scores"):
        model = network(dropout=0.5, dropout_at=where).train()
        zeros = torch.stack(list(model(rgb, flow).values())).eq(0).float().mean()
        assert (zeros > 0.2) == (where == "scores")
        assert not torch.stack(list(model.eval()(rgb, flow).values())).eq(0).any()


@torch.no_grad()
def test_sub_batches_see_a_clip_with_all_its_chunks() -> None:
    """Ledger st_resnet-L13: one clip per estimate is the same as training on each clip alone."""
    rgb, flow = (x.double() for x in clips(chunks=4))
    model, alone = from_streams(sub_batch=1).double().train(), from_streams().double().train()
    found = model(rgb, flow)
    for i in range(B):
        each = copy.deepcopy(alone)(rgb[i : i + 1], flow[i : i + 1])
        torch.testing.assert_close({k: v[i : i + 1] for k, v in found.items()}, each)
    assert all((found[k] - v).abs().max() > 1e-3 for k, v in copy.deepcopy(alone)(rgb, flow).items())
    whole = from_streams(sub_batch=B).double().train()
    torch.testing.assert_close(whole(rgb, flow), alone(rgb, flow))
    torch.testing.assert_close(whole.state_dict(), alone.state_dict())


def test_one_batch_can_be_learned() -> None:
    torch.manual_seed(0)
    model = build(replace(SMALL, temporal_pool="max", sub_batch=2), CLASSES).train()
    rgb, flow = clips(batch=4, chunks=5)
    labels, losses = torch.tensor([0, 1, 2, 3]), []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    for _ in range(12):
        loss = torch.stack([F.cross_entropy(x.flatten(0, 1), labels) for x in model(rgb, flow).values()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": "residuals"}, "did you mean 'residual'"),
        ({"backbone": "resnet18"}, "use one of resnet50"),
        ({"temporal": "average"}, "use one of learned"),
        ({"streams": "motion"}, "set skip 'none'"),
        ({"streams": "motion", "skip": "none", "head": "joint"}, "head 'separate'"),
        ({"sub_batch": 0}, "at least 1"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReproError, match=message):
        replace(SMALL, **changes)


def test_wrong_inputs_are_refused() -> None:
    model = network()
    rgb, flow = clips()
    with pytest.raises(ReproError, match="pass flow"):
        model(rgb, None)
    for wrong in (flow[:1], flow[:, :2], flow[..., :16]):
        with pytest.raises(ReproError, match="give both the same"):
            model(rgb, wrong)


# ---------------------------------------------------------------- Sec. 3.1, 3.4: where weights come from


def test_stride_in_moves_the_stride_and_nothing_else() -> None:
    """Ledger st_resnet-L10."""
    v15, original = resnet("resnet50", width=0.125), resnet("resnet50", width=0.125, stride_in="1x1")
    assert [(k, v.shape) for k, v in v15.state_dict().items()] == [
        (k, v.shape) for k, v in original.state_dict().items()
    ]
    for i, layer in enumerate(stage_layers(original)):
        assert isinstance(layer[0].conv1, nn.Conv2d) and isinstance(layer[0].conv2, nn.Conv2d)
        assert layer[0].conv1.stride == ((1, 1) if i == 0 else (2, 2)) and layer[0].conv2.stride == (1, 1)
    original.load_state_dict(v15.state_dict())
    x = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        assert v15.eval()(x).shape == original.eval()(x).shape
        assert (v15(x) - original(x)).abs().max() > 1e-3
    with pytest.raises(ReproError, match="leave it 3x3"):
        resnet("resnet18", stride_in="1x1")
    with pytest.raises(ReproError, match="use 3x3"):
        resnet("resnet50", stride_in="3x1")


def test_start_weights_and_the_motion_stream_s_first_filters(tmp_path: Path) -> None:
    """Ledger st_resnet-L14: cyclic copies of R, G, B, or their mean; the filters over time follow Eq. 5."""
    torch.manual_seed(3)
    donor = resnet("resnet50", width=0.125)
    torch.save(donor.state_dict(), tmp_path / "weights.pt")
    old = donor.state_dict()
    for how in ("cyclic", "mean"):
        model = build(replace(SMALL, conv1=how), CLASSES, tmp_path / "weights.pt")
        new = {name: trunk.state_dict() for name, trunk in model.streams.items()}
        torch.testing.assert_close(new["appearance"]["conv1.weight"], old["conv1.weight"])
        for channel, source in enumerate((0, 1, 2, 0)):
            rgb = old["conv1.weight"][:, source] if how == "cyclic" else old["conv1.weight"].mean(1)
            torch.testing.assert_close(new["motion"]["conv1.weight"][:, channel], rgb)
        for name in new:
            for tap in range(3):
                torch.testing.assert_close(
                    new[name]["layer3.1.conv3.weight"][:, :, tap, 0], old["layer3.1.conv3.weight"][:, :, 0, 0] / 3
                )
            torch.testing.assert_close(new[name]["layer3.2.conv3.weight"], old["layer3.2.conv3.weight"])
        with torch.no_grad():
            assert model.eval()(*clips())["motion"].shape == (B, CLASSES)
        assert model.streams["motion"].conv1.in_channels == 4
    assert [int(w) for w in cyclic_copies(torch.arange(3).view(1, 3, 1, 1), 20).flatten()].count(2) == 6  # 7 + 7 + 6


@torch.no_grad()
def test_phase_2_starts_from_two_streams_and_phase_3_from_it() -> None:
    rgb, flow = clips(chunks=5)
    states = {name: plain_state(name) for name in ("appearance", "motion")}
    phase_2 = network(seed=9)
    start_from(phase_2, *states.values())
    for key, value in phase_2.state_dict().items():
        old = {**states["appearance"], **states["motion"]}[key]
        if old.shape == value.shape:
            assert torch.equal(old, value), key
        else:
            assert key.split(".")[3:] in (["1", "conv1", "weight"], ["1", "conv3", "weight"]) or ".1.conv" in key
            assert torch.equal(value, torch.cat([old / 3] * 3, dim=2)), key
    phase_3 = network(seed=10, temporal_pool="max")
    start_from(phase_3, phase_2.state_dict())
    assert all(torch.equal(value, phase_3.state_dict()[key]) for key, value in phase_2.state_dict().items())
    torch.testing.assert_close(phase_2.maps(rgb, flow), phase_3.maps(rgb, flow))
    # The baseline trained in one network is the same start.
    baseline = from_streams(**PLAIN)
    again = network(seed=11)
    start_from(again, baseline.state_dict())
    torch.testing.assert_close(again.state_dict(), phase_2.state_dict())


def test_a_start_from_another_data_set_keeps_the_own_classifier() -> None:
    """Sec. 4.1: HMDB51's motion stream starts from UCF101's."""
    torch.manual_seed(0)
    model = build(replace(SMALL, streams="motion", **PLAIN), CLASSES + 2)
    own = model.classify["motion"].weight.clone()
    with pytest.raises(ReproError, match="another size"):
        start_from(model, plain_state("motion"))
    assert torch.equal(model.classify["motion"].weight, own)
    start_from(model, plain_state("motion"), classifier=False)
    assert torch.equal(model.classify["motion"].weight, own)
    assert torch.equal(model.streams["motion"].conv1.weight, plain_state("motion")["streams.motion.conv1.weight"])


def test_wrong_starts_are_refused() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    appearance, motion = plain_state("appearance"), plain_state("motion")
    wide = build(replace(SMALL, width=0.25, streams="motion", **PLAIN), CLASSES).state_dict()
    for states, message in (
        ((appearance,), "missing"),
        ((appearance, appearance), "give each stream once"),
        ((appearance, motion, {"fc.weight": torch.zeros(1)}), "not wanted"),
        ((appearance, wide), "another size"),
        ((network(temporal="learned").state_dict(), {}), None),
    ):
        if message is None:
            start_from(network(seed=4), *states)
            continue
        with pytest.raises(ReproError, match=message):
            start_from(model, *states)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ReproError, match="another size"):  # learned taps cannot become one kernel again
        start_from(network(temporal="none"), network().state_dict())


# ---------------------------------------------------------------- Table 1 and the counts


@pytest.mark.parametrize(
    ("stride_in", "fields"),
    [("1x1", [11, 35, 99, 291, 483, 675]), ("3x3", [11, 35, 91, 267, 427, 619])],
)
def test_table_1(stride_in: str, fields: list[int]) -> None:
    """Table 1 prints the fields of the original placement; its 47 chunks after pool5 are 21 (ledger L3, L10)."""
    rows = layer_table(Config(stride_in=stride_in, temporal_pool="max"))
    assert [r.layer for r in rows] == ["conv1", "pool1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "pool5"]
    assert [r.field.space for r in rows] == [7, *fields]
    assert [r.field.time for r in rows] == [1, 1, 5, 9, 13, 17, 21]
    sides = [112, 56, 56, 28, 14, 7, 1]
    assert [r.output for r in rows] == [(n, n, 4 if n == 1 else 11) for n in sides]
    assert rows[4].block == (
        "[1x1x1, 256; 3x3x1, 256; 1x1x1, 1024], skip-stream [1x1x3, 256; 3x3x1, 256; 1x1x3, 1024], "
        "[1x1x1, 256; 3x3x1, 256; 1x1x1, 1024] x 4"
    )
    assert (rows[0].block, rows[1].block) == ("7x7x1, 64, stride 2", "3x3x1 max, stride 2")
    assert rows[6].block == "7x7x1 average, 1x1x5 max, stride 2"


@pytest.mark.parametrize("streams", ["appearance", "motion"])
def test_fields_of_the_parts(streams: str) -> None:
    """Without filters over time a unit sees one chunk; the streams see alike; the place of the pool changes nothing."""
    plain = receptive_fields(Config(streams=streams, **PLAIN))
    assert [f.time for f in plain.values()] == [1] * 7
    tied = receptive_fields(Config(streams=streams, skip="none", temporal="tied", temporal_pool="average"))
    assert [f.time for f in tied.values()] == [1, 1, 5, 9, 13, 17, 21]
    assert [f.space for f in tied.values()] == [f.space for f in plain.values()] == [7, 11, 35, 91, 267, 427, 619]


def test_the_skip_adds_nothing_to_the_field() -> None:
    """A conv5_3 unit of the appearance stream sees as many chunks of flow as of RGB: 17."""
    probe = probe_of(network())
    assert isinstance(probe, STResNet)
    rgb, flow = (torch.ones_like(x, dtype=torch.float64, requires_grad=True) for x in clips(chunks=25, batch=1))
    unit = probe.maps(rgb, flow)["appearance"][0, 12, 0, 0, 0]
    assert support(unit, rgb)[1] == support(unit, flow)[1] == range(4, 21)


def test_spans_and_padding() -> None:
    """Ledger st_resnet-L4 and L5."""
    assert [frame_span(n, 15) for n in (11, 17, 21)] == [151, 241, 301]
    assert [frame_span(n, 15, 10) for n in (11, 17, 21)] == [161, 251, 311]
    probe = probe_of(network(temporal_pool="average", streams="motion", skip="none"))
    assert isinstance(probe, STResNet)
    for chunks in (5, 11):
        flow = torch.ones(1, chunks, 4, 32, 32, dtype=torch.float64, requires_grad=True)
        maps = probe.maps(None, flow)["motion"]
        pooled = probe.pooled(maps)
        seen = [len(support(maps[0, t, 0, 0, 0], flow)[1]) for t in range(chunks)]
        assert padded_share(chunks, 17) == pytest.approx(1 - sum(seen) / (17 * chunks))
        seen = [len(support(pooled[0, 0, t, 0, 0], flow)[1]) for t in range(pooled.shape[2])]
        assert padded_share(chunks, 21, window=5, stride=2) == pytest.approx(1 - sum(seen) / (21 * len(seen)))


def test_sizes_that_the_paper_states() -> None:
    """Ledger st_resnet-L8 and L9: 34 M is no ResNet-50, 19.6 G is VGG-19's."""
    found = sizes(101)
    assert found["VGG-16"].parameters == 134_674_341
    assert found["ResNet-50, stride in the 1x1"].parameters == 23_714_981
    assert found["ST-ResNet, one stream"].parameters == 29_285_541
    giga = {name: round(size.multiply_adds / 1e9, 2) for name, size in found.items()}
    assert giga["ResNet-50, stride in the 1x1"] == 3.86 and giga["ResNet-50, stride in the 3x3"] == 4.09
    assert giga["VGG-16"] == 15.47 and giga["VGG-19"] == 19.63
    # 8 kernels a stream with two more taps each, conv1 with 17 more inputs in the motion stream.
    taps = sum(2 * 2 * c * 4 * c for c in (64, 128, 256, 512))
    assert found["ST-ResNet, one stream"].parameters - 23_714_981 == taps
    assert found["ST-ResNet"].parameters == 2 * 29_285_541 + 17 * 49 * 64


def test_filters_over_time_are_counted() -> None:
    with torch.device("meta"):
        rgb, flow = torch.zeros(1, 5, 3, 32, 32), torch.zeros(1, 5, 4, 32, 32)
        plain, temporal = build(replace(SMALL, **PLAIN), CLASSES), build(replace(SMALL, skip="none"), CLASSES)
        more = multiply_adds(temporal, rgb, flow) - multiply_adds(plain, rgb, flow)
    sides, channels = (8, 4, 2, 1), (8, 16, 32, 64)
    assert more == 2 * 5 * sum(2 * 2 * c * 4 * c * s * s for s, c in zip(sides, channels, strict=True))


def test_printed_eq_2_lets_negative_values_out() -> None:
    """Ledger st_resnet-L1: about a third of the outputs of a unit that was not trained."""
    torch.manual_seed(0)
    model = build(SMALL, CLASSES).train()
    before = copy.deepcopy(model.state_dict())
    rows = printed_units(model, *clips(size=64))
    assert [r.stage for r in rows] == ["conv2_2", "conv3_2", "conv4_2", "conv5_2"]
    assert all(0.25 < r.negative < 0.45 and 0.25 < r.negative_at_zero < 0.45 for r in rows)
    assert all(0.1 < r.difference_at_zero < 0.6 for r in rows)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    units: list[ResNet] = [m for m in model.modules() if isinstance(m, ResNet)]
    for trunk in units:  # a unit whose residual is zero leaves the rectified input as it is
        for layer in stage_layers(trunk):
            nn.init.zeros_(layer[1].bn3.weight)
    assert all(
        (r.negative, r.negative_at_zero, r.difference_at_zero) == (0, 0, 0) for r in printed_units(model, *clips())
    )


def test_noise_of_the_moments() -> None:
    """Ledger st_resnet-L13: independent chunks make a mean over four of them half as noisy, equal ones do not."""
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(800, 4, 3, 1, 1, generator=generator)
    with_chunks, per_chunk = moment_noise(level.expand(-1, -1, -1, 2, 2), 2)
    assert per_chunk == pytest.approx(2**-0.5, rel=0.05)
    assert with_chunks == pytest.approx(8**-0.5, rel=0.08)
    with_chunks, per_chunk = moment_noise(level[:, :1].expand(-1, 4, -1, 2, 2), 2)
    assert with_chunks == pytest.approx(per_chunk, rel=0.02) == pytest.approx(2**-0.5, rel=0.08)


def test_responses_of_the_first_filters() -> None:
    generator = torch.Generator().manual_seed(0)
    flow, weight = torch.randn(2, 20, 16, 16, generator=generator), torch.randn(4, 1, 7, 7, generator=generator)
    grey = conv1_responses(weight.expand(-1, 3, -1, -1), flow)
    assert grey == pytest.approx((1, 1), abs=1e-5)  # filters without colour: the two ways are one
    colour = torch.randn(4, 3, 7, 7, generator=generator)
    ratio, correlation = conv1_responses(colour, flow)
    assert ratio > 1.3 and 0.3 < correlation < 0.8


def test_chunks_are_set_per_pass() -> None:
    model = network()
    set_chunks(model, 3)
    with torch.no_grad():
        first = model(*clips(chunks=2, seed=5))
        model(*clips(chunks=5))
        torch.testing.assert_close(model(*clips(chunks=2, seed=5)), first)
