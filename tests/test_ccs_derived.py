"""Runs that follow from trained networks of the CCS chapter, very small ones, against slow versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repro.data import motionshapes
from repro.data.catalog import WEIZMANN_CLASSES, Clip, Dataset
from repro.data.clips import TestSamples, TestViews
from repro.errors import ReproError
from repro.experiments import Experiment, Lab
from repro.flow.store import ClipStore
from repro.papers.ccs import CCS, Config
from repro.papers.ccs_actors import actor_masks, seen, silhouettes, views_of
from repro.papers.ccs_derived import (
    COMPONENTS_KEPT,
    DERIVED,
    FEATURES_KEPT,
    SwappedInput,
    cam,
    derive,
    embedding,
    foreign_to,
    groups,
    on_actor,
    partners,
    probes,
    spread,
)
from repro.papers.ccs_experiments import VARIANTS, experiments, network
from repro.papers.ccs_streams import groups as snippet_groups
from repro.results import Library
from repro.training import to_network

CPU = torch.device("cpu")


def tiny(name: str) -> Experiment:
    """A training of the chapter on a fast network, an eighth of ResNet-18, whose streams hear of each other at once."""
    e = experiments("smoke", "toy")[name]
    assert isinstance(e.build, partial)
    config: Config = replace(e.build.args[0], width=0.125, backbone="resnet18", zero_start=False)
    recipe = replace(e.recipe, lr=0.5)  # the classifier begins at nearly nothing
    return replace(e, build=partial(network, config, "none"), recipe=recipe, per_class=None, protocol="quick")


def make_lab(folder: Path, name: str, clips: list[Clip], classes: tuple[str, ...], frames: Callable[[Clip], np.ndarray]
             ) -> Lab:  # fmt: skip
    """A lab whose clips are put into the store without a video; flow is noise."""
    store = ClipStore(folder / "store", short_side=64, flow_backend="noise")
    for i, clip in enumerate(clips):
        shown = frames(clip)
        flow = np.random.default_rng(i).normal(0, 2, (len(shown) - 1, 2, *shown.shape[1:3]))
        store.write(clip.id, shown, flow)
    dataset = Dataset(name, folder, classes, tuple(clips), ("1",), "f")
    return Lab(dataset, store, Library(folder / "runs"), split="1", runs_dir=folder / "runs", device="cpu")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Ten clips of noise: two classes, five groups, two of them tested."""
    clips = [Clip(f"c{i % 2}/v{i}", "", i % 2, f"g{i // 2}", {"1": "test" if i >= 6 else "train"}) for i in range(10)]

    def noise(clip: Clip) -> np.ndarray:
        return np.random.default_rng([*clip.id.encode()]).integers(0, 256, (10, 64, 64, 3), np.uint8)

    return make_lab(tmp_path_factory.mktemp("lab"), "toy", clips, ("c0", "c1"), noise)


def model_and_inputs(lab: Lab, e: Experiment, views: TestViews | None = None) -> tuple[CCS, dict[str, torch.Tensor]]:
    """The trained network and what it sees of all test clips, (N, T, C, h, w)."""
    model = lab.network(e, 3)
    assert isinstance(model, CCS)
    clips = lab.clips(e)[1]
    samples = TestSamples(lab.store, clips, e.sampling, views or TestViews("quick", 8, "full"))
    batch = {m: torch.cat([samples[i][m] for i in range(len(clips))]) for m in ("rgb", "flow")}
    found = {m: x for m, x in to_network(batch, CPU, e.sampling).items() if x is not None}
    return model.eval(), found


# ---------------------------------------------------------------- the other input of another clip


def test_an_output_with_the_other_input_changed(lab: Lab) -> None:
    e = tiny("all")
    result = probes(lab, e, 3)
    model, x = model_and_inputs(lab, e)
    clips = lab.clips(e)[1]
    own = lab.run(e, 3)
    for changed, shown in (("flow", "rgb"), ("rgb", "flow")):
        lent = partners(clips, foreign_to(lab.dataset, changed))
        assert all(a.label != b.label for a, b in zip(clips, lent, strict=True))
        index = [clips.index(c) for c in lent]
        with torch.no_grad():
            swapped = model(**{changed: x[changed][index], shown: x[shown]})[shown]
            silent = model(**{changed: torch.zeros_like(x[changed]), shown: x[shown]})[shown]
        for name, expected in ((f"swapped-{changed}_{shown}", swapped), (f"no-{changed}_{shown}", silent)):
            np.testing.assert_allclose(result.arrays[name], expected.numpy(), atol=2e-3)
            assert np.abs(result.arrays[name] - own.arrays[f"test_{shown}"]).max() > 1e-3, "a test of nothing"
    with torch.no_grad():
        scores = model.snippet_scores(**x)
    late = {
        "average": [s.mean(1) for s in scores.values()],
        "maximum": [s.amax(1) for s in scores.values()],
        "product": [s.softmax(2).log().sum(1) for s in scores.values()],
    }
    for how, (rgb, flow) in late.items():
        np.testing.assert_allclose(result.arrays[f"late-{how}"], ((rgb + flow) / 2).numpy(), rtol=2e-3, atol=2e-3)
    assert result.row["experiment"] == "all+probes" and result.ids() == [c.id for c in clips]
    assert not any(name.startswith("late") for name in probes(lab, tiny("cb"), 3).arrays)


def test_partners_are_foreign_and_fixed() -> None:
    clips = [Clip(f"v{i}", "", i % 3, "g", {}) for i in range(9)]
    lent = partners(clips, lambda a, b: a.label != b.label)
    assert lent == partners(clips[::-1], lambda a, b: a.label != b.label)[::-1]
    assert all(a.label != b.label for a, b in zip(clips, lent, strict=True)) and len(set(lent)) > 4
    with pytest.raises(ReproError, match="no test clip is so unlike v0"):
        partners(clips[::3], lambda a, b: a.label != b.label)


def test_on_motionshapes_a_partner_has_another_look_or_another_motion() -> None:
    names = motionshapes.CLASSES
    dataset = Dataset("motionshapes", Path(), names, (), ("1",), "f")

    def foreign(swapped: str, a: str, b: str) -> bool:
        one, other = (Clip(n, "", names.index(n), "g", {}) for n in (a, b))
        return foreign_to(dataset, swapped)(one, other)

    assert foreign("flow", "PinkShake", "PinkNod") and not foreign("rgb", "PinkShake", "PinkNod")
    assert foreign("rgb", "PinkShake", "CyanShake") and not foreign("flow", "PinkShake", "CyanShake")
    twins = ("AmberShakeVioletNod", "AmberNodVioletShake")
    assert foreign("flow", *twins) and not foreign("rgb", *twins)
    assert foreign("flow", "ShakeThenNod", "NodThenShake") and not foreign("rgb", "ShakeThenNod", "NodThenShake")
    for swapped in ("rgb", "flow"):
        for name in names:
            assert any(foreign(swapped, name, other) for other in names), (swapped, name)
            assert not foreign(swapped, name, name)


def test_lent_input_of_another_size_is_resized(tmp_path: Path) -> None:
    store = ClipStore(tmp_path, short_side=64, flow_backend="noise")
    rng = np.random.default_rng(0)
    for name, wide in (("a", 80), ("b", 64)):
        store.write(name, rng.integers(0, 256, (9, 64, wide, 3), np.uint8), rng.normal(0, 2, (8, 2, 64, wide)))
    a, b = (Clip(n, "", i, "g", {}) for i, n in enumerate("ab"))
    views = TestViews("two", 2, "full")
    sampling = tiny("all").sampling
    for swapped, kept, channels in (("flow", "rgb", 10), ("rgb", "flow", 3)):
        sample = SwappedInput(store, [a], [b], sampling, views, swapped)[0]
        assert sample[kept].shape[-2:] == sample[swapped].shape[-2:] == (64, 80)
        assert sample[swapped].shape[:3] == (1, 2, channels) and sample[swapped].dtype == torch.uint8
        np.testing.assert_array_equal(sample[kept], TestSamples(store, [a], sampling, views)[0][kept])


# ---------------------------------------------------------------- features


def test_features_of_the_test_clips(lab: Lab) -> None:
    e = tiny("baseline")  # the one without a shared block
    result = embedding(lab, e, 3)
    model, x = model_and_inputs(lab, e)
    with torch.no_grad():
        z = {m: F.normalize(v).numpy() for m, v in model.explain(**x).features.items()}
    clips = lab.clips(e)[1]
    assert result.arrays["kept"].tolist() == list(range(len(clips)))  # so few that all are kept
    both, kept = np.concatenate([z["rgb"], z["flow"]]), np.concatenate([result.arrays["rgb"], result.arrays["flow"]])
    assert kept.shape == (2 * len(clips), min(COMPONENTS_KEPT, *both.shape)) and kept.dtype == np.float32
    centred = both - both.mean(0)
    strength, axes = np.linalg.eigh(centred.T.astype(float) @ centred)  # the smallest first
    assert result.arrays["scatter"] == pytest.approx(np.square(centred).sum(), rel=1e-4)
    for j in range(3):
        np.testing.assert_allclose(np.square(kept[:, j]).sum(), strength[-1 - j], rtol=1e-3)
        np.testing.assert_allclose(np.abs(kept[:, j]), np.abs(centred @ axes[:, -1 - j]), atol=2e-3)
    expected = spread(z["rgb"], z["flow"], np.array([c.label for c in clips]))
    for key in ("gap", "within", "between"):
        np.testing.assert_allclose(result.arrays[key], expected[key], atol=1e-4)


def test_as_many_features_of_every_class_are_kept_as_fit() -> None:
    from repro.papers.ccs_derived import _kept

    clips = [Clip(f"v{i}", "", i % 14, "g", {}) for i in range(336)]
    kept = _kept(clips)
    assert np.bincount([clips[i].label for i in kept]).tolist() == [FEATURES_KEPT // 14] * 14
    assert sorted(kept.tolist()) == kept.tolist()
    many = [Clip(f"v{i}", "", i % 101, "g", {}) for i in range(303)]
    assert len(_kept(many)) == FEATURES_KEPT


def test_spread_against_loops() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([4, 1, 1, 0, 4, 4, 1, 0])
    rgb, flow = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 8, 3)))
    found = spread(rgb, flow, labels)
    n = range(len(labels))

    def d(a: np.ndarray, b: np.ndarray) -> float:
        return float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))) / 4

    for i in n:
        assert found["gap"][i] == pytest.approx(d(rgb[i], flow[i]), rel=1e-5)
        wrong = []
        for a, b in ((rgb, flow), (flow, rgb)):
            nearest = min((j for j in n if j != i), key=lambda j: d(a[i], b[j]))
            wrong.append(labels[nearest] != labels[i])
        assert found["foreign"][i] == sum(wrong) / 2
    for row, z in enumerate((rgb, flow)):
        means = {c: z[labels == c].mean(0) for c in (0, 1, 4)}
        for i in n:
            assert found["within"][row, i] == pytest.approx(d(z[i], means[labels[i]]), rel=1e-5)
        for k, c in enumerate((0, 1, 4)):
            nearest = min(d(means[c], means[o]) for o in means if o != c)
            assert found["between"][row, k] == pytest.approx(nearest, rel=1e-5)
    assert 0 < found["foreign"].mean() < 1 and all(x.dtype == np.float32 for x in found.values())


# ---------------------------------------------------------------- activation maps


def test_maps_of_a_clip_s_own_class_and_their_share_on_the_actor(tmp_path: Path) -> None:
    rows = [
        r for r in motionshapes.records() if r.group in ("g01", "g02") and r.label in (0, 9) and r.tags["camera"] > "0"
    ]
    clips = [Clip(r.id, r.path, r.label, r.group, {"1": "test" if r.group == "g01" else "train"}) for r in rows]
    lab = make_lab(tmp_path, "motionshapes", clips, motionshapes.CLASSES, lambda c: motionshapes.frames(c.id))
    e = tiny("all")
    result = cam(lab, e, 3)
    model, x = model_and_inputs(lab, e)
    testing = lab.clips(e)[1]
    maps = model.activation_maps(torch.tensor([c.label for c in testing]), **x)["rgb"]
    np.testing.assert_allclose(result.arrays["maps"], maps.numpy(), rtol=2e-3, atol=1e-4)
    for i, clip in enumerate(testing):
        masks = motionshapes.truth(clip.id).masks > 0
        frames = [int(s) + 2 for s in np.arange(8) * (40 - 6) // 7]  # the middle of each stack of five fields
        there, total = 0.0, 0.0
        for k, frame in enumerate(frames):
            large = F.interpolate(maps[i : i + 1, k : k + 1].clamp(min=0), (64, 64), mode="bilinear")[0, 0].numpy()
            there, total = there + float(large[masks[frame]].sum()), total + float(large.sum())
        covered = masks[frames].mean()
        assert result.arrays["share_actor"][i] == pytest.approx(covered, rel=1e-4)
        assert result.arrays["share_map"][i] == pytest.approx(there / total if total else covered, rel=1e-3)
    shown = seen(lab.dataset, lab.store, e, testing[0])
    assert shown.frames.shape == (8, 64, 64, 3) and shown.actor is not None and shown.actor.shape == (8, 64, 64)


def test_a_map_without_anything_positive_covers_as_the_picture_does() -> None:
    actor = np.zeros((2, 8, 8), np.float32)
    actor[:, :2, :4] = 1
    assert on_actor(-torch.ones(2, 2, 2), actor) == (0.125, 0.125)
    corner = torch.zeros(2, 8, 8)
    corner[:, :2, :2] = 3
    assert on_actor(corner, actor) == (1, 0.125)


def test_where_actors_are_unknown_there_are_maps_alone(lab: Lab) -> None:
    e = tiny("baseline")
    arrays = cam(lab, e, 3).arrays
    assert "maps" in arrays and "share_map" not in arrays
    assert views_of(lab.dataset, e).views == "centre", "clips of unequal size would give maps of unequal size"
    assert seen(lab.dataset, lab.store, e, lab.clips(e)[1][0]).frames.shape == (8, 56, 56, 3)


# ---------------------------------------------------------------- silhouettes


@pytest.fixture(scope="module")
def weizmann(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Ann before one wall in all her clips, brighter in one; Bob runs elsewhere than he bends; Cy never crosses."""
    names = {"ann": ("run", "bend", "wave1"), "bob": ("run", "bend"), "cy": ("bend",)}
    clips = [
        Clip(f"{c}/{who}_{c}", "", WEIZMANN_CLASSES.index(c), who, {"1": "test"}) for who in names for c in names[who]
    ]

    def frames(clip: Clip) -> np.ndarray:
        action = clip.id.split("/")[0]
        wall = np.random.default_rng(action == "bend" if clip.group == "bob" else 0).integers(90, 160, (8, 10, 3))
        wall = wall.repeat(8, 0).repeat(8, 1) * (1.2 if action == "wave1" else 1)
        shown = np.stack([wall] * 12).clip(0, 255).astype(np.uint8)
        for t, frame in enumerate(shown):
            left = 5 * t if action == "run" else 40
            frame[20:50, left : left + 8] = 20
        return shown

    return make_lab(tmp_path_factory.mktemp("w"), "weizmann", clips, WEIZMANN_CLASSES, frames)


def test_a_silhouette_is_what_differs_from_the_same_person_s_background(weizmann: Lab) -> None:
    clips = {c.id: c for c in weizmann.dataset.clips}
    expected = np.zeros((64, 80), bool)
    expected[20:50, 40:48] = True
    for name in ("run/ann_run", "bend/ann_bend", "wave1/ann_wave1"):
        masks = actor_masks(weizmann.dataset, weizmann.store, clips[name], [8, 3])
        assert masks is not None and masks.shape == (2, 64, 80)
        assert (masks[0] == expected).mean() > 0.99, name
        assert masks[0, 22:48, 41:47].all()
    running = silhouettes(weizmann.dataset, weizmann.store, clips["run/ann_run"], [2])
    assert running is not None and running[0, 22:48, 11:17].all() and not running[0, :, 30:].any()


def test_no_silhouette_without_the_same_background(weizmann: Lab) -> None:
    clips = {c.id: c for c in weizmann.dataset.clips}
    assert silhouettes(weizmann.dataset, weizmann.store, clips["bend/bob_bend"], [0]) is None, "another wall"
    assert silhouettes(weizmann.dataset, weizmann.store, clips["bend/cy_bend"], [0]) is None, "no clip to take it from"
    assert actor_masks(replace(weizmann.dataset, name="toy"), weizmann.store, clips["run/ann_run"], [0]) is None
    e = tiny("all")
    found = seen(weizmann.dataset, weizmann.store, e, clips["run/ann_run"])
    assert found.actor is not None and found.frames.shape == (8, 56, 56, 3) and found.actor.shape == (8, 56, 56)
    dark = found.frames.max(axis=3) < 60
    assert (dark == (found.actor > 0.5)).mean() > 0.98, "frames and silhouettes are cut alike"


# ---------------------------------------------------------------- groups, and all of them


def test_the_test_on_groups_of_snippets(lab: Lab) -> None:
    e = tiny("all")
    result = groups(lab, e, 3)
    model, x = model_and_inputs(lab, e)
    index = snippet_groups(8, 3)
    with torch.no_grad():
        parts = [model(rgb=x["rgb"][:, g], flow=x["flow"][:, g]) for g in index]  # each as a clip of its own
    for m in ("rgb", "flow"):
        expected = torch.stack([p[m] for p in parts]).mean(0).numpy()
        np.testing.assert_allclose(result.arrays[f"test_{m}"], expected, atol=2e-3)
        assert np.abs(expected - lab.run(e, 3).arrays[f"test_{m}"]).max() > 1e-4, "a test of nothing"
    assert result.outputs == ["rgb", "flow"] and model.config.test == "clip"


def test_what_is_derived_from_which_training(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Lab, "derived", lambda _, e, seed, name, *__: asked.append(f"{e.name}+{name}"))
    for name in VARIANTS:
        derive(lab, tiny(name), 1)
    assert sorted(asked) == sorted(
        [f"{n}+probes" for n in ("all", "cb")]
        + [f"{n}+embedding" for n in ("all", "all@no-embedding", "all@no-triplet", "baseline")]
        + ["all+cam", "baseline+cam", "all+groups"]
    )
    assert {n for _, names in DERIVED.values() for n in names} <= VARIANTS.keys()
