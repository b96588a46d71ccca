"""Runs that start from a trained STILT, a very small one, against the network called clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_runs import Inventor, shapes_clips
from torch import Tensor

import repro.experiments
from repro.data.catalog import Clip, Dataset
from repro.data.clips import Sampling, TestSamples, TestViews
from repro.data.motionshapes import CLASSES, truth
from repro.evaluation import PROTOCOLS
from repro.experiments import Experiment, Lab
from repro.flow.store import ClipStore
from repro.papers.stilt import STILT, Config
from repro.papers.stilt_derived import (
    FEATURES,
    MAPS_KEPT,
    PROBES,
    SNIPPET_COUNTS,
    STIL,
    SVM_CANDIDATES,
    attention,
    derive,
    early_fusion,
    held_out,
    probes,
    saturated,
)
from repro.papers.stilt_experiments import experiments, network
from repro.papers.stilt_fusion import svm_fusion
from repro.results import Library, Result, rows, write
from repro.scores import lab_runs
from repro.training import Recipe, load_checkpoint, to_network

Array = np.ndarray[Any, Any]
L = 4  # flow fields of a stack


def experiment(reading: str = "snippets") -> Experiment:
    """The chapter's experiment in everything but size: a ResNet-18 with a sixteenth of its width, two iterations."""
    config = Config(reading=reading, backbone="resnet18", width=1 / 16, flow_frames=L, last_stride=1)
    return Experiment(
        paper="stilt", name=f"stil-{reading}", preset="small", config=asdict(config), protocol="quick",
        recipe=Recipe(2, 4, 4, 0.05), sampling=Sampling(2, L, 32, subtract_mean_flow=True),
        build=partial(network, config, "none"),
    )  # fmt: skip


SNIPPETS, REGIONS = experiment("snippets"), experiment("regions")


def make_lab(folder: Path, name: str, classes: tuple[str, ...], clips: list[Clip], size: Callable[[int], Any]) -> Lab:
    """A lab whose clips are noise, put into the store without a video; `size` gives frames, height, width."""
    store = ClipStore(folder / "store", short_side=64, flow_backend="noise")
    for i, clip in enumerate(clips):
        n, h, w = size(i)
        rng = np.random.default_rng(i)
        frames = rng.integers(0, 256, (n, h, w, 3), np.uint8)
        frames[:, :, : w // 2] //= 1 + clip.label % 3  # something to learn
        store.write(clip.id, frames, rng.normal(0, 2, (n - 1, 2, h, w)).astype(np.float32))
    dataset = Dataset(name, folder, classes, tuple(clips), ("1",), "f")
    return Lab(dataset, store, Library(folder / "runs"), split="1", runs_dir=folder / "runs", device="cpu")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Lab:
    """motionshapes' own ids, so that events and masks are known: 28 training clips, 14 of the test."""
    clips = [
        replace(c, splits={"1": "test" if c.group == "g01" else "train"})
        for c in shapes_clips((1, 9, 10)) if c.tags["camera"] == "0"
    ]  # fmt: skip
    return make_lab(tmp_path_factory.mktemp("shapes"), "motionshapes", CLASSES, clips, lambda _: (40, 64, 64))


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Lab:
    """Clips without tags, of two sizes, some shorter than a stack; three classes."""
    clips = [
        Clip(f"c{i % 3}/v{i:02d}", "", i % 3, f"g{i // 3}", {"1": "test" if i >= 12 else "train"}) for i in range(18)
    ]
    sizes = ((12, 32, 40), (3, 32, 32), (9, 40, 32))
    return make_lab(tmp_path_factory.mktemp("people"), "toy", ("c0", "c1", "c2"), clips, lambda i: sizes[i // 3 % 3])


# ---------------------------------------------------------------- the network, clip by clip


def checkpoint(lab: Lab, e: Experiment, seed: int) -> Path:
    lab.run(e, seed)
    return lab.runs_dir / "checkpoints" / lab.key(e, seed) / "checkpoint.pt"


def trained(lab: Lab, e: Experiment, seed: int = 1) -> STILT:
    model = e.build(len(lab.dataset.classes))
    load_checkpoint(checkpoint(lab, e, seed), model)
    assert isinstance(model, STILT)
    return model.eval()


def inputs(lab: Lab, e: Experiment, part: str, views: TestViews | None = None) -> Iterator[tuple[Clip, Tensor, Tensor]]:
    """One clip at a time, as the network gets it: (1, T, C, h, w)."""
    for clip in lab.clips(e)[part == "test"]:
        sample = TestSamples(lab.store, [clip], e.sampling, views or PROTOCOLS[e.protocol])[0]
        given = to_network(sample, torch.device("cpu"), e.sampling)
        assert given["rgb"] is not None and given["flow"] is not None
        with torch.no_grad():
            yield clip, given["rgb"], given["flow"]


def softmax(x: Tensor) -> Array:
    return torch.softmax(x.double(), -1).numpy()


def average(logits: dict[str, Tensor]) -> Array:
    return (softmax(logits["spatial"]) + softmax(logits["temporal"]))[0] / 2


# ---------------------------------------------------------------- early fusion


@pytest.mark.parametrize(("fixture", "e"), [("people", SNIPPETS), ("shapes", REGIONS)])
def test_early_fusion_is_an_svm_on_both_streams_features(fixture, e, request):
    lab = request.getfixturevalue(fixture)
    result = early_fusion(lab, e, 1)
    model = trained(lab, e)
    features: dict[str, list[Array]] = {}
    for part in ("train", "test"):
        for _, rgb, flow in inputs(lab, e, part):
            found = model.explain(rgb, flow).features
            for name in FEATURES:
                both = [found[f"{stream}.{name}"][0].numpy() for stream in ("spatial", "temporal")]
                features.setdefault(f"{part} {name}", []).append(np.concatenate(both))
    training = lab.clips(e)[0]
    for output, name in (("svm", "hidden"), ("svm_attended", "attended"), ("svm_fc", "fc")):
        x, y = (np.stack(features[f"{part} {name}"]) for part in ("train", "test"))
        labels, groups = np.array([c.label for c in training]), [c.group for c in training]
        slow = svm_fusion(x, labels, y, SVM_CANDIDATES, groups, 1, num_classes=len(lab.dataset.classes))
        np.testing.assert_allclose(result.logits(output), slow, atol=0.02 * max(1, np.abs(slow).max()))
    assert result.outputs == ["svm", "svm_attended", "svm_fc"]
    assert result.row["experiment"] == f"{e.name}+svm"
    assert result.labels().tolist() == [c.label for c in lab.clips(e)[1]]


# ---------------------------------------------------------------- attention


def starts_of(n_frames: int, count: int) -> list[int]:
    last = max(n_frames - (L + 1), 0)
    return [k * last // (count - 1) for k in range(count)]


def test_attention_over_snippets_and_its_share_of_the_event(shapes):
    result = attention(shapes, SNIPPETS, 1)
    model = trained(shapes, SNIPPETS)
    for i, (clip, rgb, flow) in enumerate(inputs(shapes, SNIPPETS, "test")):
        maps = model.explain(rgb, flow).attention
        first, last = truth(clip.id).event
        inside = [sum(first <= f < last for f in range(s, s + L + 1)) / (L + 1) for s in starts_of(40, 8)]
        assert result.arrays["share_uniform"][i] == pytest.approx(sum(inside) / 8, abs=1e-6)
        for step in ("S1", "T", "S2"):
            a = maps[step][0].tolist()
            np.testing.assert_allclose(result.arrays[f"attention_{step}"][i], a, atol=1e-3)
            share = sum(w * x for w, x in zip(a, inside, strict=True))
            assert result.arrays[f"share_attended_{step}"][i] == pytest.approx(share, abs=1e-5)
    shares = result.arrays["share_uniform"]
    short = [c.tags["event"] == "short" for c in shapes.clips(SNIPPETS)[1]]
    assert 0.2 < shares[short].mean() < 0.6 and (shares[~np.array(short)] == 1).all()
    assert result.outputs == []


def test_attention_over_regions_and_its_share_of_the_actors(shapes):
    result = attention(shapes, REGIONS, 1)
    model = trained(shapes, REGIONS)
    for i, (clip, rgb, flow) in enumerate(inputs(shapes, REGIONS, "test")):
        if i % 5:
            continue  # the loops are slow
        maps, masks = model.explain(rgb, flow).attention, truth(clip.id).masks
        frames = [min(s + L // 2, 39) for s in starts_of(40, 8)]
        assert maps["T"].shape == (8, 4, 4)
        cover = [
            [[np.mean(masks[f, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16] > 0) for x in range(4)] for y in range(4)]
            for f in frames
        ]
        assert result.arrays["share_uniform"][i] == pytest.approx(np.mean(cover), abs=1e-6)
        for step in ("S1", "T", "S2"):
            a = maps[step].numpy()
            np.testing.assert_allclose(result.arrays[f"attention_{step}"][i], a, atol=1e-3)
            share = sum(float(a[t, y, x]) * cover[t][y][x] for t in range(8) for y in range(4) for x in range(4)) / 8
            assert result.arrays[f"share_attended_{step}"][i] == pytest.approx(share, abs=1e-5)


def test_only_some_maps_of_regions_are_kept(shapes, monkeypatch):
    monkeypatch.setattr("repro.papers.stilt_derived.MAPS_KEPT", 3)
    result = attention(shapes, REGIONS, 1)
    assert result.arrays["attention_T"].shape == (3, 8, 4, 4)
    assert result.arrays["share_attended_T"].shape == (14,)
    assert result.arrays["attention_T"].sum((2, 3)) == pytest.approx(np.ones((3, 8)), abs=5e-3)


def test_attention_without_known_events_on_frames_of_several_sizes(people):
    for e in (SNIPPETS, REGIONS):
        result = attention(people, e, 1)
        model = trained(people, e)
        centre = TestViews("centre", 8, "centre")
        for i, (_, rgb, flow) in enumerate(inputs(people, e, "test", centre)):
            maps = model.explain(rgb, flow).attention
            for step, a in maps.items():
                expected = a[0] if e is SNIPPETS else a
                np.testing.assert_allclose(result.arrays[f"attention_{step}"][i], expected, atol=1e-3)
        assert not [name for name in result.arrays if name.startswith("share")]


# ---------------------------------------------------------------- other test conditions


def slow_uniform_start(model: STILT, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    s, t = (model.vectors(model.maps(m, rgb, flow)) for m in ("spatial", "temporal"))
    t_hat, _ = model.interaction.second(t, s.mean(1))
    s_hat, _ = model.interaction.first(s, t_hat)
    heads = {m: model.heads[m](x)[0] for m, x in (("spatial", s_hat), ("temporal", t_hat))}
    return {m: x.mean(0, keepdim=True) for m, x in heads.items()}  # one row, or one per snippet of the one clip


def slow_half_size(model: STILT, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """Frame by frame, channel by channel."""

    def blurred(x: Tensor) -> Tensor:
        out = x.clone()
        for t in range(x.shape[1]):
            for c in range(x.shape[2]):
                plane = x[0, t, c][None, None]
                small = F.interpolate(plane, scale_factor=0.5, mode="bilinear", antialias=True)
                out[0, t, c] = F.interpolate(small, size=plane.shape[2:], mode="bilinear")[0, 0]
        return out

    assert blurred(rgb).std() < 0.9 * rgb.std()
    return model.explain(blurred(rgb), blurred(flow)).logits


@pytest.mark.parametrize("e", [SNIPPETS, REGIONS], ids=["snippets", "regions"])
def test_probes(people, e):
    state = torch.load(checkpoint(people, e, 2), weights_only=True)
    for name, weight in state["model"].items():  # two iterations leave attention uniform: every probe would pass
        weight *= 30 if name.startswith("interaction") else 3 if name.startswith("heads") else 1
    torch.save(state, checkpoint(people, e, 2))
    result = probes(people, e, 2)
    model = trained(people, e, 2)
    slow = {"uniform-start": slow_uniform_start, "half-size": slow_half_size}
    slow["second-pass"] = lambda m, rgb, flow: m.explain(rgb, flow, passes=2).logits
    assert slow.keys() == PROBES.keys()
    for name, read in slow.items():
        expected = [average(read(model, rgb, flow)) for _, rgb, flow in inputs(people, e, "test")]
        np.testing.assert_allclose(result.arrays[f"fused_{name}"], expected, atol=1e-3, err_msg=name)
        other = result.arrays[f"fused_{name}"] - result.arrays["fused_snippets_8"].astype(float)
        assert np.abs(other).max() > 4e-3, f"{name} changes nothing that this test could see"
    for n in SNIPPET_COUNTS:
        views = TestViews("", n, "full")
        expected = [average(model.explain(rgb, flow).logits) for _, rgb, flow in inputs(people, e, "test", views)]
        np.testing.assert_allclose(result.arrays[f"fused_snippets_{n}"], expected, atol=1e-3)


def test_a_probe_leaves_the_network_as_it_was(people):
    model = trained(people, SNIPPETS)
    summary = model.interaction.summary
    _, rgb, flow = next(inputs(people, SNIPPETS, "test"))
    before = model.explain(rgb, flow).logits["spatial"]
    PROBES["uniform-start"](model, rgb, flow)
    with pytest.raises(RuntimeError):
        PROBES["uniform-start"](model, rgb, flow[:, :, :2])
    assert model.interaction.summary is summary
    assert torch.equal(model.explain(rgb, flow).logits["spatial"], before)


# ---------------------------------------------------------------- held-out halves, saturation, everything


def test_held_out_halves_share_no_group_and_cover_the_training_clips(people):
    parts = held_out(SNIPPETS)
    assert [p.name for p in parts] == ["stil-snippets/held-out-0", "stil-snippets/held-out-1"]
    training = {c.id for c in people.clips(SNIPPETS)[0]}
    sides = [people.clips(p) for p in parts]
    for k, (train, test) in enumerate(sides):
        assert not {c.group for c in train} & {c.group for c in test}
        assert {c.id for c in train} | {c.id for c in test} == training
        assert {c.id for c in test} == {c.id for c in sides[1 - k][0]}
    assert len({people.key(e, 1) for e in (SNIPPETS, *parts)}) == 3


@pytest.mark.parametrize(("wrong", "expected"), [((0, 0), True), ((0, 2), False), ((2, 2), False), ((1, 1), True)])
def test_saturated(wrong, expected):
    """On more than 99 % of the training clips both outputs must be right: one of 126 may be wrong, two not."""
    result = Inventor("motionshapes").run("stil-snippets")
    labels = result.labels("train")
    for output, n in zip(("spatial", "temporal"), wrong, strict=True):
        logits = np.eye(14, dtype=np.float16)[labels]
        logits[:n] = -logits[:n]
        result.arrays[f"train_{output}"] = logits
    assert saturated(result) is expected


def test_everything_is_derived_once(people, monkeypatch):
    found = derive(people, SNIPPETS, 1)
    names = [r.row["experiment"] for r in found]
    assert names[:3] == ["stil-snippets+svm", "stil-snippets+attention", "stil-snippets+probes"]
    assert not names[3:], "two iterations saturate nothing"
    monkeypatch.setattr("repro.papers.stilt_derived.saturated", lambda _: True)
    names = [r.row["experiment"] for r in derive(people, SNIPPETS, 1)]
    assert names[3:] == ["stil-snippets/held-out-0", "stil-snippets/held-out-1"]
    assert len(derive(people, REGIONS, 1)) == 3
    assert len(derive(people, replace(SNIPPETS, per_class=(3, 1)), 1)) == 3, "too few clips for halves"
    assert derive(people, replace(SNIPPETS, name="control-snippets"), 1) == []
    sizes = {path.name: path.with_suffix(".npz").stat().st_size for path, _ in rows(people.library.own)}
    assert len(sizes) > 8 and max(sizes.values()) < 100_000

    def nothing(*_: object, **__: object) -> None:
        raise AssertionError("something is computed")

    monkeypatch.setattr(repro.experiments, "train", nothing)
    again = Lab(people.dataset, people.store, Library(people.library.own), split="1", runs_dir=people.runs_dir)
    for a, b in zip(derive(again, SNIPPETS, 1), derive(people, SNIPPETS, 1), strict=True):
        assert a.row == b.row
        assert all(np.array_equal(a.arrays[k], b.arrays[k]) for k in a.arrays)
    runs = lab_runs([again], [SNIPPETS, REGIONS, *held_out(SNIPPETS)], [1])
    bases = {"stil-snippets", "stil-regions"}
    expected = bases | {f"{b}+{d}" for b in bases for d in ("svm", "attention", "probes")}
    assert {name for name, _, _ in runs} == expected | {f"stil-snippets/held-out-{k}" for k in (0, 1)}


def test_a_half_trained_from_the_command_line_counts_as_held_out(people, tmp_path):
    """`repro train --fold 1/2` files the same run, the key says so, under another name."""
    lab = Lab(people.dataset, people.store, Library(tmp_path), split="1", runs_dir=tmp_path)
    half = replace(held_out(SNIPPETS)[0], name="stil-snippets/fold-1-of-2")
    lab.run(half, 1)
    assert set(lab_runs([lab], held_out(SNIPPETS), [1])) == {("stil-snippets/held-out-0", "1", 1)}


def test_results_of_motionshapes_stay_below_100_kb(tmp_path):
    """With every clip of a split, the figures of the small preset, and arrays that hardly compress."""
    parts = (shapes_clips(range(9, 26)), shapes_clips(range(1, 9)))
    maker, rng = Inventor("motionshapes", parts), np.random.default_rng(0)
    regions = maker.derived(STIL[1], "attention")
    regions.arrays.update(
        {f"attention_{s}": rng.random((MAPS_KEPT, 8, 4, 4)).astype(np.float16) for s in ("S1", "T", "S2")}
    )
    run = maker.run(STIL[0])
    run.arrays["losses"] = rng.random(experiments("small", "motionshapes")[STIL[0]].recipe.iterations)
    found: list[Result] = [run, regions, *(maker.derived(STIL[0], what) for what in ("svm", "attention", "probes"))]
    for result in found:
        path = write(result, tmp_path).with_suffix(".npz")
        assert path.stat().st_size < 100_000, path.name
