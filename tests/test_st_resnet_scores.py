"""Scores, measurements and live numbers of the ST-ResNet chapter, from invented runs, against loops over clips."""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import pytest
from fake_runs import SHAPES, shapes_clips
from fake_st_resnet_runs import PROBED, PROBES, StResNetInventor, outputs

from repro.data.clips import Sampling
from repro.data.motionshapes import CLASSES, SCRIPTS
from repro.data.sampling import strided_indices
from repro.errors import ReproError
from repro.metrics import NOT_RUN, UNDECIDED
from repro.papers import st_resnet_numbers as numbers
from repro.papers.st_resnet_experiments import VARIANTS, experiments
from repro.papers.st_resnet_scores import StResNetScores, outputs_of
from repro.report import claims
from repro.report.ledger import ledger, load_ledger

MAIN = "st-resnet"
TWO = (shapes_clips((11, 12, 13)), shapes_clips((3,)))  # other clips, for a second split


@cache
def shapes() -> StResNetScores:
    """Three seeds of two splits of motionshapes, everything run."""
    runs = StResNetInventor("motionshapes").all_runs((1, 2, 3))
    return StResNetScores(runs | StResNetInventor("motionshapes", TWO).all_runs((1, 2, 3), "2"))


@cache
def single(dataset: str) -> StResNetScores:
    """One seed, one split, nothing that starts from a trained network."""
    return StResNetScores(StResNetInventor(dataset).all_runs((1,), derived=False))


def best(values: list[float]) -> int:
    return max(range(len(values)), key=lambda i: values[i])


def mean(vectors: list[list[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*vectors, strict=True)]


def softmax(logits: list[float]) -> list[float]:
    high = max(logits)
    total = sum(math.exp(x - high) for x in logits)
    return [math.exp(x - high) / total for x in logits]


def slow_logits(method: str, split: str, seed: int) -> list[list[float]]:
    """Mean of the stored logits, clip by clip."""
    scores = shapes()
    base, _, what = method.partition("+")
    name, _, one = base.partition(":")
    stored: list[tuple[str, str]] = []  # run, array
    if name == "two-stream":
        stored = [("appearance", "test_appearance"), ("motion", "test_motion")]
    elif what == "crops":
        stored = [(method, "test_appearance"), (method, "test_motion")]
    else:
        prefix = what or "test"
        stored = [(f"{name}+probes" if what else name, f"{prefix}_{o}") for o in outputs(name)]
    arrays = [scores.runs[r, split, seed].arrays[a].astype(float).tolist() for r, a in stored if not one or one in a]
    return [mean([list(x) for x in vectors]) for vectors in zip(*arrays, strict=True)]


# ---------------------------------------------------------------- every method


def test_methods_are_those_that_the_runs_allow():
    assert set(outputs_of("joint")) == {"joint"} and outputs_of("star") == ("appearance", "motion")
    for name in VARIANTS:
        assert list(outputs_of(name)) == outputs(name)
    known = set(StResNetScores.methods)
    assert set(VARIANTS) | {"two-stream", "two-stream+probabilities", "best-single", f"{MAIN}+crops"} <= known
    assert {f"{name}+probes" for name in PROBED} <= known
    assert {f"{MAIN}:appearance", "star:motion", "both-ways:appearance+swapped", "joint+no-skips"} <= known
    assert not {"appearance:appearance", "joint:joint", "plain+no-skips", "star+swapped"} & known
    with pytest.raises(ReproError, match="did you mean 'st-resnet'"):
        shapes().scores("stresnet", "1", 1) if shapes().needs("stresnet") else None


@pytest.mark.parametrize(
    "method",
    ["appearance", "motion", "appearance-bn4", MAIN, f"{MAIN}:motion", "joint", "star", "two-stream", f"{MAIN}+crops",
     f"{MAIN}+swapped", "joint+no-motion", "skips:appearance+no-skips", "plain+no-appearance"],
)  # fmt: skip
def test_scores_are_the_softmax_of_the_mean_logits(method):
    scores = shapes()
    for split, seed in (("1", 1), ("2", 3)):
        slow = [softmax(x) for x in slow_logits(method, split, seed)]
        np.testing.assert_allclose(scores.scores(method, split, seed), slow, atol=1e-5)
    found = scores.correct(method)
    assert found and found[0].shape == (3, sum(len(p) for p in (SHAPES[1], TWO[1])))


def test_logits_and_probabilities_are_averaged_differently():
    scores, differing = shapes(), 0
    for seed in (1, 2, 3):
        runs = [scores.runs[name, "1", seed].arrays[f"test_{name}"].astype(float) for name in ("appearance", "motion")]
        slow = [mean([softmax(a), softmax(b)]) for a, b in zip(runs[0].tolist(), runs[1].tolist(), strict=True)]
        found = scores.scores("two-stream+probabilities", "1", seed)
        np.testing.assert_allclose(found, slow, atol=1e-6)
        differing += int((found.argmax(1) != scores.scores("two-stream", "1", seed).argmax(1)).sum())
    assert differing > 0


def test_the_best_single_stream_is_better_on_the_test_clips():
    runs = StResNetInventor("motionshapes").all_runs((1, 2), derived=False)
    for seed in (1, 2):
        runs["motion", "1", seed] = StResNetInventor("motionshapes").run("motion", "1", seed, bump=9.0)
    scores = StResNetScores(runs)
    assert scores.best(("appearance", "motion"), "best-single") == "motion"
    np.testing.assert_array_equal(scores.scores("best-single", "1", 2), scores.scores("motion", "1", 2))
    streams = ("appearance", "motion")
    assert shapes().best(streams, "best-single") == max(streams, key=lambda m: shapes().correct(m)[0].mean())


def test_what_was_not_run_is_none():
    assert shapes().correct("star+idt") is None
    assert single("weizmann").correct(f"{MAIN}+swapped") is None
    assert single("weizmann").correct(MAIN, {"factor": "binding"}) is None
    runs = StResNetInventor("motionshapes").all_runs((1, 2), derived=False)
    del runs["star", "1", 2]
    assert StResNetScores(runs).seeds_with("star") == [1]


# ---------------------------------------------------------------- measurements


def factor(label: int) -> str:
    return str(SCRIPTS[CLASSES[label]][0])


@pytest.mark.parametrize("name", ["both-ways", "joint"])
def test_texture_swap_is_what_a_clip_told_by_its_motion_loses(name):
    scores = shapes()
    found = numbers.MEASURES[f"texture-swap-{name}"](scores)
    assert found is not None
    a, b, groups = found
    allowed = [i for i in range(len(CLASSES)) if factor(i) == "motion"]

    def right(method: str, seed: int) -> list[float]:
        out = []
        for split in ("1", "2"):
            labels = scores.runs[MAIN, split, seed].labels().tolist()
            for logits, label in zip(slow_logits(method, split, seed), labels, strict=True):
                if label in allowed:
                    out.append(float(max(range(len(CLASSES)), key=lambda i: logits[i]) == label))
        return out

    for s, seed in enumerate((1, 2, 3)):
        for array, method in ((a, name), (b, MAIN)):
            plain, swapped = right(method, seed), right(f"{method}+swapped", seed)
            assert array[s].tolist() == [x - y for x, y in zip(plain, swapped, strict=True)]
    assert len(groups) == a.shape[1] and set(np.unique(a)) <= {-1.0, 0.0, 1.0}
    assert numbers.MEASURES[f"texture-swap-{name}"](single("motionshapes")) is None
    assert numbers.MEASURES[f"texture-swap-{name}"](single("weizmann")) is None


def test_texture_swap_on_seeds_that_both_have():
    inventor = StResNetInventor("motionshapes")
    runs = inventor.all_runs((1, 2))
    del runs["joint+probes", "1", 2]
    found = numbers.MEASURES["texture-swap-joint"](StResNetScores(runs))
    assert found and found[0].shape[0] == found[1].shape[0] == 1


def test_time_is_a_share_of_the_ten_crop_tests():
    found = numbers.MEASURES["full-against-crops-time"](shapes())
    assert found is not None
    a, b, groups = found
    assert a.tolist() == [[1, 1]] * 3 and len(groups) == 2
    for s, seed in enumerate((1, 2, 3)):
        for x, split in enumerate(("1", "2")):
            arrays = shapes().runs[f"{MAIN}+crops", split, seed].arrays
            assert b[s, x] == pytest.approx(float(arrays["seconds_full"][0]) / float(arrays["seconds_crops"][0]))
    assert numbers.MEASURES["full-against-crops-time"](single("weizmann")) is None


def test_drops_without_idt_need_no_run():
    asked = numbers.StResNetClaims({"motionshapes": shapes()})
    a, b, groups = asked.measure("idt-drop", "ucf101") or pytest.fail("not measured")
    assert 100 * a[0] == pytest.approx([1.0, 5.2, 12.2]) and 100 * b[0] == pytest.approx([1.2] * 3)
    assert groups.tolist() == [0, 1, 2]
    a, b, _ = asked.measure("idt-drop", "hmdb51") or pytest.fail("not measured")
    assert 100 * a[0] == pytest.approx([3.8, 22.4]) and 100 * b[0] == pytest.approx([3.9] * 2)
    assert asked.measure("idt-drop", "weizmann") is None
    with pytest.raises(ReproError, match="unknown measurement"):
        asked.measure("idt-drops", "ucf101")


def test_every_claim_is_answered():
    rows = claims.evaluate(claims.load_claims("st_resnet"), numbers.StResNetClaims({"motionshapes": shapes()}))
    ran = {row.claim.id for row in rows if row.difference}
    assert {row.claim.id for row in rows} - ran == {"st_resnet-18", "st_resnet-19"}, "only IDT is not run"
    printed = [row for row in rows if row.test.measure == "idt-drop"]
    assert [row.verdict.word for row in printed] == [UNDECIDED] * 2
    alone = claims.evaluate(claims.load_claims("st_resnet"), numbers.StResNetClaims({"weizmann": single("weizmann")}))
    assert any(row.difference for row in alone)


# ---------------------------------------------------------------- live values of the ledger


def test_every_live_value_is_there():
    values = numbers.ledger_values({"motionshapes": shapes(), "weizmann": single("weizmann")})
    wanted = {entry.live for entry in load_ledger("st_resnet") if entry.live}
    assert set(values) == wanted - {"conv1-responses"}, "which needs a clip"
    assert not [name for name, text in values.items() if text == NOT_RUN]
    ledger("st_resnet", values | {"conv1-responses": "given by the page"})
    nothing = numbers.from_runs({"weizmann": single("weizmann")})
    assert nothing["printed-unit"] == nothing["moments-noise"] == NOT_RUN
    assert "weizmann" in nothing["grid"] and "binding" not in nothing["grid"]


def test_values_of_the_printed_cells_and_models():
    values = numbers.from_cells() | numbers.from_models()
    assert values["crop-exceeds-frame"].startswith("sides from 168 to 280 px: 21 %")
    assert "ST-ResNet* 1.2" in values["idt-drops"] and "Dynamic Image Networks 22.4" in values["idt-drops"]
    assert "17 chunks before the pool, 21 after it" in values["receptive-field-time"]
    assert "17 and 47, 705 frames" in values["receptive-field-time"]
    assert re.search(r"241 .* 251 .* 301 .* 311 .*255 and 705", values["spans"])
    assert "35, 99, 291, 483, 675 px" in values["fields-by-stride"] and "619 px" in values["fields-by-stride"]
    assert "VGG-16 134.7 M" in values["parameter-counts"] and "VGG-19 19.6 G" in values["multiply-add-counts"]
    assert "151 RGB frames" in values["padding-share"]
    assert "2 x 5 positions" in values["pool-space"]
    for name in ("pool-space", "pool-place"):
        shares = [float(x) for x in re.findall(r"([\d.]+) %", values[name])]
        assert shares and all(0.1 < x < 100 for x in shares)


def test_accuracies_of_the_ledger():
    scores = shapes()
    text = numbers.accuracies(scores, (MAIN, "plain"), ({}, {"factor": "binding"}))
    everything, binding = text.split("; ")
    own = scores.correct("plain", {"factor": "binding"})
    assert everything.startswith(f"{MAIN} {100 * scores.correct(MAIN)[0].mean():.1f} %")
    assert binding.startswith("binding, ") and binding.endswith(f"plain {100 * own[0].mean():.1f} %")
    assert numbers.accuracies(scores, ("star+idt",)) == ""
    zeroed = numbers.from_runs({"motionshapes": scores})["motion-zeroed"]
    crossed = 100 * scores.correct(f"{MAIN}:appearance+no-skips")[0].mean()
    assert zeroed.startswith("motionshapes: as trained ") and f"nothing crosses {crossed:.1f} %" in zeroed
    stored = np.stack([scores.runs[f"{MAIN}+probes", x, s].arrays["printed_units"] for x in "12" for s in (1, 2, 3)])
    first = numbers.from_runs({"motionshapes": scores})["printed-unit"]
    assert f"conv2_2 {100 * stored[:, 0, 0].mean():.0f} % negative" in first
    assert f"{100 * stored[:, 3, 2].mean():.0f} % away" in first


# ---------------------------------------------------------------- strides


@pytest.mark.parametrize(("snippets", "stride"), [(5, (5, 15)), (11, (1, 15))])
def test_strides_used_are_those_that_training_draws(snippets, stride):
    frames = np.array([40, 12, 90, 200, 15])
    sampling = Sampling(snippets, 10, 56, stride=stride)
    text = numbers.strides_used(frames, sampling)
    rng = np.random.default_rng(0)
    steps, padded = [], 0
    for n in frames:
        padded += n - 10 < snippets
        drawn = [strided_indices(int(n), snippets, stride, 11, rng) for _ in range(300)]
        steps += [int(d[1] - d[0]) if n - 10 >= snippets else 1 for d in drawn]
    low, high, share, pads = (
        int(x) for x in re.search(r"draw (\d+) to (\d+), (\d+) % .* (\d+) % of the clips", text).groups()
    )
    assert (low, high) == (min(steps), max(steps))
    assert abs(share - 100 * np.mean(np.array(steps) == 1)) < 4
    assert pads == round(100 * padded / len(frames))


def test_strides_in_the_test():
    sampling = experiments("small", "motionshapes")[MAIN].sampling
    text = numbers.strides_tested(np.array([40]), sampling, "25x1")
    assert text.startswith("25 chunks are 1.2 frames apart")
    assert "0.0 to" in numbers.strides_tested(np.array([11, 40]), sampling, "25x1")
    assert numbers.from_lengths({"weizmann": single("weizmann")}, {})["tau-used"] == NOT_RUN
    known = numbers.from_lengths({"weizmann": single("weizmann")}, {"weizmann": [60, 70]})
    assert known["tau-used"].startswith("weizmann: 5 chunks (5 to 15 allowed) draw 5 to 14")
    with pytest.raises(ReproError, match="no stride"):
        numbers.strides_used(np.array([40]), Sampling(5, 10, 56))
    assert PROBES[0] == "swapped"
