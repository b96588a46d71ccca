"""Runs that start from a trained ST-ResNet, a very small one, against the network called clip by clip."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_runs import shapes_clips
from torch import Tensor

import repro.experiments
from repro.data.catalog import Clip, Dataset
from repro.data.clips import Sampling, TestSamples, TestViews
from repro.data.motionshapes import CLASSES
from repro.errors import ReproError
from repro.evaluation import PROTOCOLS
from repro.experiments import Experiment, Lab
from repro.flow.store import ClipStore
from repro.papers.st_resnet import Config, STResNet
from repro.papers.st_resnet_derived import PROBED, PROBES, SwappedFrames, _resized, crops, derive, donors, probes
from repro.papers.st_resnet_experiments import experiments, network
from repro.papers.st_resnet_layers import moment_noise, printed_units
from repro.results import Library, Result, rows, write
from repro.training import Recipe, load_checkpoint, to_network

Array = np.ndarray[Any, Any]
L = 3  # flow fields of a stack
SIZES = ((9, 32, 44), (4, 32, 32), (14, 40, 32))  # frames, height, width


def experiment(name: str = "st-resnet", **changes: Any) -> Experiment:
    """The chapter's experiment in everything but size: an eighth of the width, a single iteration."""
    config = Config(width=1 / 8, flow_frames=L, sub_batch=4, **changes)
    return Experiment(
        paper="st_resnet", name=name, preset="small", config=asdict(config), protocol="smoke",
        recipe=Recipe(1, 4, 4, 0.05), sampling=Sampling(2, L, 32, sides=(0.75, 1.25), subtract_mean_flow=True),
        build=partial(network, config, "none"),
    )  # fmt: skip


MAIN, PLAIN, JOINT = experiment(), experiment("plain", skip="none", temporal="none"), experiment("joint", head="joint")


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    """Clips of noise, of three sizes, some shorter than a stack; three classes, nine of them in the test."""
    folder = tmp_path_factory.mktemp("lab")
    clips = [
        Clip(f"c{i % 3}/v{i:02d}", "", i % 3, f"g{i // 3}", {"1": "test" if i >= 6 else "train"}) for i in range(15)
    ]
    store = ClipStore(folder / "store", short_side=64, flow_backend="noise")
    for i, clip in enumerate(clips):
        n, h, w = SIZES[i // 3 % 3]
        rng = np.random.default_rng(i)
        frames = rng.integers(0, 256, (n, h, w, 3), np.uint8)
        store.write(clip.id, frames, rng.normal(0, 2, (n - 1, 2, h, w)).astype(np.float32))
    dataset = Dataset("toy", folder, ("c0", "c1", "c2"), tuple(clips), ("1",), "f")
    return Lab(dataset, store, Library(folder / "runs"), split="1", runs_dir=folder / "runs", device="cpu")


def trained(lab: Lab, e: Experiment) -> STResNet:
    lab.run(e, 1)
    model = e.build(len(lab.dataset.classes))
    load_checkpoint(lab.runs_dir / "checkpoints" / lab.key(e, 1) / "checkpoint.pt", model)
    assert isinstance(model, STResNet)
    return model.eval().requires_grad_(False)


def given(lab: Lab, clip: Clip, e: Experiment, views: TestViews | None = None) -> tuple[Tensor, Tensor]:
    """One clip as the network gets it: (V, T, C, h, w)."""
    found = to_network(
        TestSamples(lab.store, [clip], e.sampling, views or PROTOCOLS[e.protocol])[0], torch.device("cpu"), e.sampling
    )
    assert found["rgb"] is not None and found["flow"] is not None
    return found["rgb"], found["flow"]


def inputs(lab: Lab, e: Experiment) -> Iterator[tuple[Tensor, Tensor]]:
    for clip in lab.clips(e)[1]:
        yield given(lab, clip, e)


# ---------------------------------------------------------------- the frames of another clip


def some_clips(counts: tuple[int, ...]) -> list[Clip]:
    return [Clip(f"c{label}/v{i}", "", label, f"g{i}", {}) for label, n in enumerate(counts) for i in range(n)]


@pytest.mark.parametrize("counts", [(3, 3, 3), (1, 1), (5, 5), (6, 1, 2, 3), (2, 40, 38, 1), (1,) * 14])
def test_every_clip_gets_frames_of_another_class_and_all_are_used(counts):
    clips = some_clips(counts)
    found = donors(clips)
    assert all(a.label != b.label for a, b in zip(clips, found, strict=True))
    assert sorted(c.id for c in found) == sorted(c.id for c in clips)
    shuffled = [clips[i] for i in np.random.default_rng(0).permutation(len(clips))]
    again = dict(zip((c.id for c in shuffled), donors(shuffled), strict=True))
    assert [again[c.id] for c in clips] == found, "fixed, whatever the order of the clips"


def test_a_class_with_more_than_half_of_the_clips():
    clips = some_clips((7, 2))
    assert all(a.label != b.label for a, b in zip(clips, donors(clips), strict=True))
    with pytest.raises(ReproError, match="of one class"):
        donors(some_clips((4,)))


def test_givers_of_a_class_are_of_many_classes():
    """Else the probe would only show what two classes have in common."""
    clips = shapes_clips(range(1, 5))
    pairs = {(a.label, b.label) for a, b in zip(clips, donors(clips), strict=True)}
    assert len(pairs) > 5 * len(CLASSES)


def test_swapped_samples(lab):
    """The flow is the clip's own, the frames are the giver's; of another size, their middle is brought to size."""
    clips, views = lab.clips(MAIN)[1], PROTOCOLS["smoke"]
    samples = SwappedFrames(lab.store, clips, MAIN.sampling, views)
    assert len(samples) == len(clips)
    resized = 0
    for i, (clip, giver) in enumerate(zip(clips, donors(clips), strict=True)):
        own, others = (TestSamples(lab.store, [c], MAIN.sampling, views)[0] for c in (clip, giver))
        found = samples[i]
        assert torch.equal(found["flow"], own["flow"])
        assert found["rgb"].shape == own["rgb"].shape and found["rgb"].dtype == torch.uint8
        if others["rgb"].shape == own["rgb"].shape:
            assert torch.equal(found["rgb"], others["rgb"])
        else:
            resized += 1
            assert found["rgb"].float().mean() == pytest.approx(float(others["rgb"].float().mean()), abs=4)
    assert 0 < resized < len(clips)


def test_frames_of_another_size_keep_their_middle():
    frames = torch.zeros(1, 1, 3, 20, 60, dtype=torch.uint8)
    frames[..., 20:40] = 200
    assert (_resized(frames, 10, 10) == 200).all(), "of 20 x 60 px only the middle 20 x 20 are left"
    assert _resized(frames, 20, 60) is frames
    assert _resized(frames, 33, 50).shape == (1, 1, 3, 33, 50)


# ---------------------------------------------------------------- probes


def slow_no_skips(model: STResNet, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """The two streams apart, each in a network of its own."""
    config = replace(model.config, skip="none")
    apart = STResNet(replace(config, temporal="none", sub_batch=None), dict(model.streams), 3)  # type: ignore[arg-type]
    apart.config, apart.classify = config, model.classify
    out: dict[str, Tensor] = apart.eval()(rgb, flow)
    return out


SLOW = {
    "no-motion": lambda model, rgb, flow: model(rgb, 0 * flow),
    "no-appearance": lambda model, rgb, flow: model(0 * rgb, flow),
    "no-skips": slow_no_skips,
}


@pytest.mark.parametrize("e", [MAIN, JOINT], ids=["st-resnet", "joint"])
def test_probes(lab, e):
    result, model = probes(lab, e, 1), trained(lab, e)
    outputs = ("joint",) if e is JOINT else ("appearance", "motion")
    assert SLOW.keys() == PROBES.keys()
    for name, read in SLOW.items():
        expected = [read(model, rgb, flow) for rgb, flow in inputs(lab, e)]
        for output in outputs:
            slow = np.stack([x[output].mean(0).numpy() for x in expected])
            np.testing.assert_allclose(result.arrays[f"{name}_{output}"], slow, atol=2e-3)
    clips = lab.clips(e)[1]
    for i, (clip, giver) in enumerate(zip(clips, donors(clips), strict=True)):
        (rgb, _), (own, flow) = given(lab, giver, e), given(lab, clip, e)
        if rgb.shape == own.shape:
            for output in outputs:
                slow = model(rgb, flow)[output].mean(0).numpy()
                np.testing.assert_allclose(result.arrays[f"swapped_{output}"][i], slow, atol=2e-3)
    assert result.outputs == [] and result.row["experiment"] == f"{e.name}+probes"


def test_what_each_probe_reaches(lab):
    """Frames cannot reach the motion output, for the skips go one way; flow and skips do reach appearance."""
    result, run = probes(lab, MAIN, 1), lab.run(MAIN, 1)
    for name in ("swapped", "no-appearance", "no-skips"):
        np.testing.assert_allclose(result.arrays[f"{name}_motion"], run.logits("motion"), atol=2e-3)
    for name in ("swapped", *PROBES):
        assert np.abs(result.arrays[f"{name}_appearance"] - run.logits("appearance")).max() > 4e-3, name
    assert trained(lab, MAIN).config.skip == "residual"


def test_a_network_without_skips_has_none_to_switch_off(lab):
    names = {name.partition("_")[0] for name in probes(lab, PLAIN, 1).arrays}
    assert {"swapped", "no-motion", "no-appearance"} <= names and "no-skips" not in names
    assert "printed" not in names, "numbers are the ST-ResNet's"


def test_numbers_of_the_trained_network(lab):
    result, model = probes(lab, MAIN, 1), trained(lab, MAIN)
    views = TestViews("", 5, "centre")
    clips = sorted(lab.clips(MAIN)[1], key=lambda c: hashlib.blake2b(c.id.encode()).digest())[:8]  # of nine
    pairs = [given(lab, c, MAIN, views) for c in clips]
    rgb, flow = (torch.cat([p[k] for p in pairs]) for k in (0, 1))
    units = printed_units(model, rgb[:4], flow[:4])
    np.testing.assert_allclose(result.arrays["printed_units"], [u[1:] for u in units], atol=1e-4, equal_nan=False)
    trace: dict[str, Tensor] = {}
    model.maps(rgb, flow, trace)
    slow = []
    for stage in range(2, 6):
        x = trace[f"appearance.conv{stage}_1"]
        x = torch.stack([channel for channel in x.unbind(1) if channel.unique().numel() > 1], dim=1)
        slow.append(moment_noise(x.reshape(8, 5, *x.shape[1:]), 4))
    assert np.isfinite(slow).all()
    np.testing.assert_allclose(result.arrays["moment_noise"], slow, rtol=1e-3)


# ---------------------------------------------------------------- ten crops, and all of it


def test_crops(lab):
    result, model = crops(lab, MAIN, 1), trained(lab, MAIN)
    for i, clip in enumerate(lab.clips(MAIN)[1]):
        rgb, flow = given(lab, clip, MAIN, TestViews("", 2, "ten"))
        assert rgb.shape == (10, 2, 3, 32, 32)
        for output in ("appearance", "motion"):
            slow = np.mean([model(rgb[v : v + 1], flow[v : v + 1])[output][0].numpy() for v in range(10)], axis=0)
            np.testing.assert_allclose(result.logits(output)[i], slow, atol=2e-3)
    full, ten = (float(result.arrays[f"seconds_{name}"][0]) for name in ("full", "crops"))
    assert 0 < full < ten, "ten views take longer than one"


def test_everything_is_derived_once(lab, monkeypatch):
    names = [r.row["experiment"] for r in derive(lab, MAIN, 1)]
    assert names == ["st-resnet+probes", "st-resnet+crops"]
    assert [r.row["experiment"] for r in derive(lab, PLAIN, 1)] == ["plain+probes"]
    assert derive(lab, replace(MAIN, name="star"), 1) == []

    def nothing(*_: object, **__: object) -> None:
        raise AssertionError("something is computed")

    monkeypatch.setattr(repro.experiments, "train", nothing)
    again = Lab(lab.dataset, lab.store, Library(lab.library.own), split="1", runs_dir=lab.runs_dir)
    for a, b in zip(derive(again, MAIN, 1), derive(lab, MAIN, 1), strict=True):
        assert a.row == b.row
        assert [k for k in a.arrays if not np.array_equal(a.arrays[k], b.arrays[k])] == []
    assert len(list(rows(lab.library.own))) >= 3


def test_probed_variants_exist():
    assert set(PROBED) <= set(experiments("small", "motionshapes"))


def test_a_row_of_probes_of_motionshapes_stays_below_100_kb(tmp_path: Path):
    rng = np.random.default_rng(0)
    clips = {"train": shapes_clips(range(9, 26)), "test": shapes_clips(range(1, 9))}
    arrays: dict[str, Array] = {
        f"{name}_{output}": rng.normal(size=(len(clips["test"]), len(CLASSES))).astype(np.float16)
        for name in ("swapped", *PROBES)
        for output in ("appearance", "motion")
    }
    for part, some in clips.items():
        arrays[f"{part}_ids"] = np.array([c.id for c in some], np.str_)
        arrays[f"{part}_labels"] = np.array([c.label for c in some], np.int16)
        arrays[f"{part}_groups"] = np.array([c.group for c in some], np.str_)
    row = {"key": "k" * 16, "paper": "st_resnet", "dataset": "motionshapes", "experiment": "st-resnet+probes"}
    path = write(Result({**row, "split": "1", "seed": 1, "outputs": []}, arrays), tmp_path)
    assert path.with_suffix(".npz").stat().st_size < 100_000
