"""Scores of the cross-enhancement chapter's methods, from invented logits, against plain loops."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from fake_runs import SHAPES, Inventor, Runs, shapes_clips
from scipy import optimize

from repro.errors import ReproError
from repro.papers import cross_enhancement_scores as module
from repro.papers.cross_enhancement_derived import COMPARED, FOLLOWED, PLACES, TENTHS
from repro.papers.cross_enhancement_experiments import VARIANTS
from repro.papers.cross_enhancement_scores import LAYER, PAIRS, CrossEnhancementScores, learned_layer
from repro.report import claims
from repro.results import Result

Array = np.ndarray[Any, Any]


class Maker(Inventor):
    """Makes results of this chapter."""

    def result(self, *args: Any, **kwargs: Any) -> Result:
        made = super().result(*args, **kwargs)
        made.row["paper"] = "cross_enhancement"
        made.row["identity"] = {"protocol": "chain16", "sampling": {"snippets": 16, "stride": [2, 2]}}
        return made

    def run(self, name: str, split: str = "1", seed: int = 1, *, key: str = "", bump: Any = 4.0) -> Result:
        """What training the experiment `name` would file."""
        rng = np.random.default_rng([seed, *f"{name} {split}".encode()])
        stream = VARIANTS[name].stream
        outputs = [stream] if stream else ["fusion"] if name == "fused-3d" else ["flow", "fusion", "rgb"]
        arrays = {f"{part}_{o}": self._logits(rng, clips, bump) for o in outputs for part, clips in self.parts.items()}
        arrays["losses"] = np.linspace(5, 1, 40, dtype=np.float32)
        return self.result(name, split, seed, outputs, arrays, key)

    def derived(self, base: str, what: str, split: str = "1", seed: int = 1, *, key: str = "", of: str = "") -> Result:
        """What `cross_enhancement_derived` would file under `base+what`."""
        rng = np.random.default_rng([seed, *f"{base}+{what} {split}".encode()])
        clips = self.parts["test"]
        if what == "curve":
            found = [self._logits(rng, clips, 0.5 * tenth) for tenth in range(TENTHS)]
            arrays = {f"curve_{VARIANTS[base].stream}": np.stack(found).argmax(2)}
        else:
            names = [f"{which}_{place}" for which in ("distance", "teacher") for place in PLACES]
            arrays = {name: rng.random(len(clips)).astype(np.float32) for name in names}
            arrays["frames"] = np.array([40 - i % 30 for i in range(len(clips))], np.int32)
        return self.result(f"{base}+{what}", split, seed, [], arrays, key, of or "?")

    def all_runs(self, seeds: Sequence[int], splits: Sequence[str] = ("1",), *, derived: bool = True) -> Runs:
        """Every training of the chapter, and what follows from some."""
        found = [self.run(name, x, s) for x in splits for s in seeds for name in VARIANTS]
        for split in splits if derived else ():
            for seed in seeds:
                found += [self.derived(name, "distance", split, seed) for name in COMPARED]
                found += [self.derived(name, "curve", split, seed) for name in FOLLOWED]
        return {(r.row["experiment"], r.row["split"], r.row["seed"]): r for r in found}


TWO = (SHAPES[0], shapes_clips((3,)))  # a second split with other test clips


@cache
def shapes() -> CrossEnhancementScores:
    """Two seeds, two splits of motionshapes, everything run."""
    first, second = Maker("motionshapes"), Maker("motionshapes", TWO)
    return CrossEnhancementScores(first.all_runs((1, 2)) | second.all_runs((1, 2), ("2",)))


def given(scores: CrossEnhancementScores, name: str, split: str, seed: int, part: str = "test") -> Array:
    """Logits as they are stored."""
    run = scores.runs[name, split, seed]
    output = f"{part}_{name[: name.find('-taught')] if '-taught' in name else name}"
    return run.arrays[output if output in run.arrays else f"{part}_fusion"].astype(float)


# ---------------------------------------------------------------- methods


def test_a_training_has_the_logits_of_its_own_output() -> None:
    scores = shapes()
    for name in ("rgb", "flow", "flow-taught", "rgb-taught@bridge-a", "fused-3d", "together"):
        np.testing.assert_array_equal(scores.scores(name, "2", 1), given(scores, name, "2", 1))
    run = scores.runs["together", "2", 1]
    assert run.outputs == ["flow", "fusion", "rgb"] and (run.logits("fusion") != run.logits("rgb")).any()


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_is_the_mean_of_its_logits(pair: str) -> None:
    scores = shapes()
    names = {"two-stream": ("rgb", "flow")}.get(pair, tuple(pair.split("+")))
    for split, seed in (("1", 1), ("2", 2)):
        rgb, flow = (given(scores, name, split, seed) for name in names)
        np.testing.assert_allclose(scores.scores(pair, split, seed), (rgb + flow) / 2, atol=1e-6)


def test_the_best_single_stream_is_the_better_one_on_the_test_clips() -> None:
    maker, runs = Maker("weizmann"), {}
    for seed, bumps in ((1, {"rgb": 9.0, "flow": 3.0}), (2, {"rgb": 3.0, "flow": 4.0})):
        runs |= {(name, "1", seed): maker.run(name, "1", seed, bump=bump) for name, bump in bumps.items()}
    scores = CrossEnhancementScores(runs)
    for seed in (1, 2):  # over both seeds RGB is better
        np.testing.assert_array_equal(scores.scores("best-single", "1", seed), scores.scores("rgb", "1", seed))
    runs["flow", "1", 1] = maker.run("flow", "1", 1, bump=1000.0)
    scores = CrossEnhancementScores(runs)
    np.testing.assert_array_equal(scores.scores("best-single", "1", 2), scores.scores("flow", "1", 2))


def test_streams_that_hold_other_clips_are_an_error() -> None:
    runs = {("rgb", "1", 1): Maker("motionshapes").run("rgb"), ("flow", "1", 1): Maker("motionshapes", TWO).run("flow")}
    with pytest.raises(ReproError, match="two-stream: the runs of both streams hold other clips: remove their rows"):
        CrossEnhancementScores(runs).scores("two-stream", "1", 1)


def test_every_name_of_the_claims_is_known_and_others_get_the_nearest() -> None:
    every = claims.load_claims("cross_enhancement")
    asked = {m for claim in every for t in claim.tests if t.kind == "correct" for m in (t.a, t.b)}
    methods = CrossEnhancementScores.methods
    assert asked <= methods.keys()
    needed = {name for names in methods.values() for name in names}
    assert needed == {*VARIANTS, *(f"{x}+distance" for x in COMPARED), *(f"{x}+curve" for x in FOLLOWED)}
    for method in methods:
        assert shapes().seeds_with(method) == [1, 2], method
    with pytest.raises(ReproError, match=re.escape("did you mean 'rgb-taught+flow'")):
        shapes().correct("rgb-taught+flw")


# ---------------------------------------------------------------- the learned layer


def slow_layer(rgb: Array, flow: Array, labels: Array) -> tuple[Array, Array]:
    """Weights (C, 2C) and biases (C,) where cross-entropy plus weight decay is least, from another start."""
    x, classes = np.concatenate([rgb, flow], axis=1), rgb.shape[1]
    truth = np.eye(classes)[labels]

    def objective(packed: Array) -> tuple[float, Array]:
        w, b = packed[:-classes].reshape(classes, -1), packed[-classes:]
        z = x @ w.T + b
        z -= z.max(1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        value = -np.log((p * truth).sum(1)).mean() + 5e-4 / 2 * (packed**2).sum()
        slope = (p - truth) / len(x)
        return value, np.concatenate([(slope.T @ x).ravel(), slope.sum(0)]) + 5e-4 * packed

    start = np.random.default_rng(0).normal(size=classes * (2 * classes + 1))
    found = optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 9999, "gtol": 1e-8, "ftol": 0},
    )
    return found.x[:-classes].reshape(classes, -1), found.x[-classes:]


@pytest.mark.parametrize("pair", ["two-stream", "rgb+flow-taught"])
def test_the_layer_is_where_the_loss_on_training_clips_is_least(pair: str) -> None:
    scores, names = shapes(), PAIRS[pair]
    labels = scores.runs["rgb", "2", 1].labels("train")
    w, b = slow_layer(*(given(scores, name, "2", 1, "train") for name in names), labels)
    layer = scores.layer(pair, "2", 1).layer
    np.testing.assert_allclose(layer.weight.numpy(), w, atol=2e-3)
    np.testing.assert_allclose(layer.bias.numpy(), b, atol=2e-3)
    joined = np.concatenate([given(scores, name, "2", 1) for name in names], axis=1) @ w.T + b
    found = scores.scores(pair + LAYER, "2", 1)
    np.testing.assert_allclose(found, joined, atol=0.05)
    assert (found.argmax(1) != scores.scores(pair, "2", 1).argmax(1)).any(), "a test of nothing"
    assert scores.layer(pair, "2", 1) is scores.layer(pair, "2", 1)


def test_test_clips_have_no_part_in_the_layer() -> None:
    scores = shapes()
    runs = {(name, "1", 1): scores.runs[name, "1", 1] for name in ("rgb", "flow")}
    rgb = runs["rgb", "1", 1]
    runs["rgb", "1", 1] = Result(rgb.row, rgb.arrays | {"test_rgb": rgb.arrays["test_rgb"][::-1]})
    other = CrossEnhancementScores(runs)
    assert torch.equal(other.layer("two-stream", "1", 1).layer.weight, scores.layer("two-stream", "1", 1).layer.weight)
    assert (other.scores("two-stream+layer", "1", 1) != scores.scores("two-stream+layer", "1", 1)).any()


def test_the_layer_starts_as_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLAT", 1e9)  # any slope is flat: it stays where it starts
    torch.manual_seed(0)
    rgb, flow = torch.randn(2, 6, 3)
    joined = learned_layer(rgb, flow, torch.tensor([0, 1, 2, 0, 1, 2]))(rgb.double(), flow.double())
    torch.testing.assert_close(joined, ((rgb + flow) / 2).double())


def test_logits_that_are_not_finite_train_no_layer() -> None:
    rgb, flow = torch.zeros(2, 4, 3)
    flow[1, 2] = float("nan")
    with pytest.raises(ReproError, match="not finite: a stream diverged; train it again"):
        learned_layer(rgb, flow, torch.tensor([0, 1, 2, 0]))
