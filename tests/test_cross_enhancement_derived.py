"""Runs of the cross-enhancement chapter that follow from trained networks, very small ones, against plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from repro.data.catalog import Clip, Dataset
from repro.data.clips import TestSamples, TestViews, TrainingSamples
from repro.experiments import Experiment, Lab
from repro.flow.store import ClipStore
from repro.papers import cross_enhancement_experiments as scales
from repro.papers.cross_enhancement import POSITIONS, Stream, Taught, squared_distance, start_from
from repro.papers.cross_enhancement_derived import COMPARED, FOLLOWED, PLACES, TENTHS, curve, derive, distance
from repro.papers.cross_enhancement_experiments import VARIANTS, experiments
from repro.results import Library
from repro.training import load_checkpoint, to_network, train

SIDE, CROP, FRAMES = 32, 28, (9, 18, 12, 30)  # of the clips that are tested


@pytest.fixture(scope="module")
def chapter() -> Iterator[dict[str, Experiment]]:
    """The chapter's trainings: two updates each, of the narrowest network."""
    with pytest.MonkeyPatch.context() as patch:
        tiny = replace(
            scales.SMALL, width=1 / 16, sampling=replace(scales.SMALL.sampling, crop=CROP), protocol="chain5"
        )
        patch.setattr(scales, "SMALL", tiny)
        yield {name: replace(e, per_class=None) for name, e in experiments("smoke", "toy").items()}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab whose clips are noise, put into the store without a video: two classes, four of eight clips are tested."""
    folder = tmp_path_factory.mktemp("lab")
    store = ClipStore(folder / "store", short_side=SIDE, flow_backend="noise")
    clips = [Clip(f"c{i % 2}/v{i}", "", i % 2, f"g{i // 2}", {"1": "test" if i >= 4 else "train"}) for i in range(8)]
    for i, (clip, n) in enumerate(zip(clips, (17, 17, 17, 17, *FRAMES), strict=True)):
        rng = np.random.default_rng(i)
        store.write(
            clip.id, rng.integers(0, 256, (n, SIDE, SIDE, 3), np.uint8), rng.normal(0, 2, (n - 1, 2, SIDE, SIDE))
        )
    dataset = Dataset("toy", folder, ("c0", "c1"), tuple(clips), ("1",), "f")
    return Lab(dataset, store, Library(folder / "runs"), split="1", runs_dir=folder / "runs", device="cpu")


def trained(lab: Lab, experiment: Experiment, seed: int) -> nn.Module:
    """What training ended with, from its checkpoint."""
    lab.run(experiment, seed)
    model = experiment.network(2)
    load_checkpoint(lab.runs_dir / "checkpoints" / lab.key(experiment, seed) / "checkpoint.pt", model)
    return model.eval()


def streams(lab: Lab, chapter: dict[str, Experiment], name: str, seed: int) -> tuple[Stream, Stream]:
    """Student and teacher: the teacher is the plain stream of the other kind, trained by itself."""
    model = trained(lab, chapter[name], seed)
    student = model.student if isinstance(model, Taught) else model
    teacher = trained(lab, chapter["rgb" if name.startswith("flow") else "flow"], seed)
    assert isinstance(student, Stream) and isinstance(teacher, Stream)
    return student, teacher


# ---------------------------------------------------------------- distances


@pytest.mark.parametrize("name", ["rgb", "rgb-taught@weights-10", "flow-taught"])
def test_distances_are_those_of_the_loss_clip_by_clip(lab: Lab, chapter: dict[str, Experiment], name: str) -> None:
    result = distance(lab, chapter[name], 2)
    student, teacher = streams(lab, chapter, name, 2)
    clips = lab.clips(chapter[name])[1]
    sampling = chapter["rgb-taught"].sampling
    samples = TestSamples(lab.store, clips, sampling, TestViews("", 5, "centre", chain=True))
    assert samples[0]["rgb"].shape == (1, 5, 3, CROP, CROP)
    for i in range(len(clips)):
        given = to_network(samples[i], torch.device("cpu"), sampling)
        with torch.no_grad():
            for place in PLACES:
                at = "rear" if place == "output" else place
                ends = [s.traced(s.clip(**given), at, "pooled")[2 if place == "output" else 1]
                        for s in (student, teacher)]  # fmt: skip
                found = [result.arrays[f"{what}_{place}"][i] for what in ("distance", "teacher")]
                assert found[0] == pytest.approx(float(squared_distance(*ends)), rel=1e-4)
                assert found[1] == pytest.approx(float((ends[1] ** 2).mean()), rel=1e-4)
                assert found[0] > 0 < found[1], "a test of nothing"
    assert set(PLACES) == {*POSITIONS, "output"}
    assert result.arrays["frames"].tolist() == list(FRAMES)
    assert result.row["experiment"] == f"{name}+distance" and result.outputs == []
    assert result.ids() == [c.id for c in clips]


def test_an_untaught_stream_is_compared_with_the_teacher_of_the_taught_one(
    lab: Lab, chapter: dict[str, Experiment]
) -> None:
    (teacher,) = chapter["rgb-taught"].starts()
    settings = distance(lab, chapter["rgb"], 2).row["derived"]["settings"]
    assert settings["teacher"] == lab.key(teacher, 2) != lab.key(teacher, 3)
    assert "teacher" not in distance(lab, chapter["rgb-taught@weights-10"], 2).row["derived"]["settings"]


def test_distances_are_computed_once(lab: Lab, chapter: dict[str, Experiment], monkeypatch: pytest.MonkeyPatch) -> None:
    first = distance(lab, chapter["rgb"], 2)
    monkeypatch.setattr(Lab, "network", None)
    monkeypatch.setattr(Lab, "_trained", None)
    np.testing.assert_array_equal(
        distance(lab, chapter["rgb"], 2).arrays["distance_rear"], first.arrays["distance_rear"]
    )


# ---------------------------------------------------------------- the way through a training


def test_the_curve_is_that_of_the_training_itself(
    lab: Lab, chapter: dict[str, Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = chapter["rgb-taught"]
    experiment = replace(experiment, recipe=replace(experiment.recipe, iterations=3))
    parts: list[np.ndarray] = []
    whole = Lab.evaluate

    def spied(*args: Any) -> dict[str, np.ndarray]:
        parts.append(whole(*args)["rgb"])
        return {"rgb": parts[-1]}

    monkeypatch.setattr(Lab, "evaluate", spied)
    result = curve(lab, experiment, 2)
    found = np.stack(parts)
    assert found.shape == (TENTHS, len(FRAMES), 2)
    np.testing.assert_array_equal(result.arrays["curve_rgb"], [[int(a < b) for a, b in part] for part in found])
    monkeypatch.undo()
    np.testing.assert_array_equal(found[-1].astype(np.float16), lab.run(experiment, 2).arrays["test_rgb"])
    torch.manual_seed(2)
    model = experiment.network(2)
    assert isinstance(model, Taught)
    start_from(model, trained(lab, chapter["flow"], 2).state_dict())
    samples = TrainingSamples(lab.store, lab.clips(experiment)[0], experiment.sampling, 2, lab.dataset.mirrored)
    train(model, samples, experiment.recipe, loss=experiment.loss, stop_after=2)
    slow = lab.evaluate(model, experiment, lab.clips(experiment)[1])["rgb"]
    for part in (7, 8, 9):  # of 3 updates, 2 are done after seven tenths
        np.testing.assert_allclose(found[part - 1], slow, rtol=1e-3, atol=1e-4)
        assert (found[part - 1] != found[-1]).any() and (found[part - 1] != found[5]).any(), "a test of nothing"
    assert result.row["experiment"] == "rgb-taught+curve" and result.outputs == []


# ---------------------------------------------------------------- which runs there are


def test_what_is_derived_from_which_training(
    lab: Lab, chapter: dict[str, Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Lab, "derived", lambda _, e, seed, name, *__: asked.append(f"{e.name}+{name}"))
    for name in VARIANTS:
        derive(lab, chapter[name], 1)
    assert sorted(asked) == sorted([*(f"{x}+distance" for x in COMPARED), *(f"{x}+curve" for x in FOLLOWED)])
    assert set(COMPARED) | set(FOLLOWED) <= set(VARIANTS) and len(COMPARED) == 9
