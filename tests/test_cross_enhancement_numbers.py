"""Measurements and live values of the cross-enhancement chapter, from invented runs, against plain loops."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from fake_runs import Runs
from test_cross_enhancement_scores import TWO, Maker, shapes

from repro.errors import ReproError
from repro.metrics import NOT_RUN, paired_difference
from repro.papers import cross_enhancement_numbers as numbers
from repro.papers.cross_enhancement import BRIDGES
from repro.papers.cross_enhancement_derived import TENTHS
from repro.papers.cross_enhancement_scores import PAIRS, CrossEnhancementScores
from repro.report import claims
from repro.report.ledger import ledger, load_ledger
from repro.scores import clip_tags

Array = np.ndarray[Any, Any]
Scores = CrossEnhancementScores
PERSONS = ("ido", "lyova")


@cache
def folds() -> Scores:
    """Weizmann with each person left out once: one seed, a split for each."""
    runs: Runs = {}
    for who in PERSONS:
        runs |= Maker("weizmann").all_runs((1,), (who,))
    return Scores(runs)


@cache
def plain(dataset: str) -> Scores:
    """One seed, one split, the trainings alone."""
    return Scores(Maker(dataset).all_runs((1,), derived=False))


def without(scores: Scores, *gone: tuple[str, int]) -> Scores:
    """The same without some runs, by name and seed."""
    return Scores({(name, x, seed): r for (name, x, seed), r in scores.runs.items() if (name, seed) not in gone})


def hits(scores: Scores, method: str, seed: int) -> list[bool]:
    """Whether every test clip comes out right, splits one after the other."""
    rows = [row for x in scores.splits for row in scores.scores(method, x, seed).tolist()]
    return [max(range(len(r)), key=r.__getitem__) == y for r, y in zip(rows, scores.labels("rgb"), strict=True)]


def tags(scores: Scores) -> list[Mapping[str, str]]:
    return [clip_tags(scores.dataset)[i] for i in scores.ids("rgb")]


# ---------------------------------------------------------------- the stronger stream


def told_apart(ahead: Mapping[str, str]) -> Scores:
    """Runs of motionshapes in which one plain stream is right on all clips of a level of the camera."""
    made = Maker("motionshapes").all_runs((1, 2), derived=False)
    level = np.array([clip_tags("motionshapes")[i]["camera"] for i in made["rgb", "1", 1].ids()])
    for camera, name in ahead.items():
        for seed in (1, 2):
            run = made[name, "1", seed]
            run.arrays[f"test_{name}"][level == camera] = np.eye(14)[run.labels()][level == camera]
    return Scores(made)


def test_the_stronger_stream_teaches_where_it_is_clearly_stronger() -> None:
    scores = told_apart({"0": "flow", "2": "rgb"})
    a, b, groups = numbers.stronger_teaches(scores)
    slow: dict[str, list[list[bool]]] = {"a": [], "b": []}
    for seed in (1, 2):
        by_flow, by_rgb = hits(scores, "rgb-taught+flow", seed), hits(scores, "rgb+flow-taught", seed)
        camera = [t["camera"] for t in tags(scores)]
        for pairs, column in (((by_flow, by_rgb), "a"), ((by_rgb, by_flow), "b")):
            slow[column].append([pairs[level == "2"][i] for level in "02" for i, c in enumerate(camera) if c == level])
    assert a.tolist() == slow["a"] and b.tolist() == slow["b"] and a.tolist() != b.tolist()
    assert groups.tolist() == [g for x in "02" for g, c in zip(scores.groups("rgb"), camera, strict=True) if c == x]
    rest, mild, shaken = numbers.leads(scores).values()
    assert rest.high < 0 < shaken.low and mild.low < 0 < mild.high


def test_no_pair_is_compared_where_neither_stream_is_stronger_or_one_is_missing() -> None:
    scores = plain("weizmann")  # one seed, one person: no group to resample, but a gap that is not 0
    found = paired_difference([hits(scores, "rgb", 1)], [hits(scores, "flow", 1)], scores.groups("rgb"))
    assert (numbers.stronger_teaches(scores) is None) == (found.low <= 0 <= found.high)
    level = Maker("weizmann").all_runs((1,), derived=False)
    level["flow", "1", 1].arrays["test_flow"][:] = level["rgb", "1", 1].arrays["test_rgb"]
    assert numbers.stronger_teaches(Scores(level)) is None
    assert numbers.stronger_teaches(without(told_apart({"0": "rgb"}), ("flow-taught", 1), ("flow-taught", 2))) is None


def test_seeds_that_lack_a_stream_do_not_count() -> None:
    scores = without(told_apart({"0": "rgb"}), ("flow-taught", 1))
    a, b, _ = numbers.stronger_teaches(scores)
    assert a.shape == b.shape and len(a) == 1
    camera = [t["camera"] for t in tags(scores)]
    found = [x for x, c in zip(hits(scores, "rgb+flow-taught", 2), camera, strict=True) if c == "0"]
    assert a[0].tolist() == found


# ---------------------------------------------------------------- the camera


def test_units_of_the_camera_are_two_clips_of_one_class_and_group() -> None:
    scores = shapes()
    lead, loss = numbers.lead_by_camera(scores), numbers.camera_loss(scores)
    place = {i: n for n, i in enumerate(scores.ids("rgb"))}
    shaken = [i for i in scores.ids("rgb") if i.endswith("_c03")]
    assert len(shaken) == lead[0].shape[1] == 14 * 3 and len(lead[0]) == 2
    for s, seed in enumerate((1, 2)):
        right = {m: hits(scores, m, seed) for m in ("rgb", "flow", "flow-taught")}
        for unit, clip in enumerate(shaken):
            at2, at0 = place[clip], place[f"{clip[:-3]}c01"]
            assert lead[0][s, unit] == float(right["rgb"][at2]) - right["flow"][at2]
            assert lead[1][s, unit] == float(right["rgb"][at0]) - right["flow"][at0]
            for column, name in ((0, "flow-taught"), (1, "flow")):
                assert loss[column][s, unit] == float(right[name][at0]) - right[name][at2]
            assert lead[2][unit] == loss[2][unit] == re.search(r"_(g\d\d)_", clip)[1]
    assert len(np.unique(lead[0])) == 3, "a test of nothing"
    assert numbers.lead_by_camera(plain("weizmann")) is None and numbers.camera_loss(folds()) is None


# ---------------------------------------------------------------- training clips


@pytest.mark.parametrize("scores", [shapes, folds])
def test_the_training_error_is_that_of_training_clips(scores: Any) -> None:
    scores = scores()
    a, b, groups = numbers.training_error(scores)
    for s, seed in enumerate(scores.seeds):
        for found, name in ((a, "rgb-taught"), (b, "rgb-taught@output-only")):
            slow, who = [], []
            for split in scores.splits:
                run = scores.runs[name, split, seed]
                slow += [
                    int(np.argmax(r) != y) for r, y in zip(run.arrays["train_rgb"], run.labels("train"), strict=True)
                ]
                who += run.arrays["train_groups"].tolist()
            assert found[s].tolist() == slow and 0 < sum(slow) < len(slow)
    assert groups.tolist() == who
    assert numbers.training_error(without(scores, *(("rgb-taught", s) for s in scores.seeds))) is None


# ---------------------------------------------------------------- nine bridges


def test_bridges_are_chosen_on_other_trainings_and_other_clips() -> None:
    scores = Scores({**shapes().runs, **Maker("motionshapes").all_runs((3,)), **Maker("motionshapes", TWO).all_runs(
        (3,), ("2",))})  # fmt: skip
    a, b, groups = numbers.place_of_bridge(scores)
    assert a.shape == (3, 126)
    names = {x: "rgb-taught" if x == "e" else f"rgb-taught@bridge-{x}" for x in "abcdefghi"}
    right = {x: [hits(scores, name, seed) for seed in (1, 2, 3)] for x, name in names.items()}
    half = {g: i % 2 for i, g in enumerate(sorted(set(groups.tolist())))}
    picked = set()
    for s in range(3):
        for h in (0, 1):
            means = {}
            for x in "abcdefghi":
                seen = [right[x][t][n] for t in range(3) if t != s for n, g in enumerate(groups) if half[g] != h]
                means[x] = sum(seen) / len(seen)
            best, worst = (next(x for x in means if means[x] == end(means.values())) for end in (max, min))
            picked |= {(best, worst)}
            for n in (n for n, g in enumerate(groups) if half[g] == h):
                assert (a[s, n], b[s, n]) == (right[best][s][n], right[worst][s][n])
    assert len(picked) > 1, "a test of nothing"
    assert {*names} == {*BRIDGES} == {*numbers.BRIDGED}


def test_of_equal_bridges_the_first_letter_is_taken() -> None:
    runs = dict(shapes().runs)
    for (name, split, seed), run in shapes().runs.items():
        if name.startswith("rgb-taught@bridge-"):  # all alike, and 'e' as good as the others on other clips
            same = shapes().runs["rgb-taught@bridge-a", split, seed].arrays["test_rgb"]
            runs[name, split, seed] = type(run)(run.row, run.arrays | {"test_rgb": same})
        if name == "rgb-taught":
            wrong = np.eye(14)[(run.labels() + 1) % 14]
            runs[name, split, seed] = type(run)(run.row, run.arrays | {"test_rgb": wrong})
    a, b, _ = numbers.place_of_bridge(Scores(runs))
    assert a.tolist() == [hits(shapes(), "rgb-taught@bridge-a", seed) for seed in (1, 2)]
    assert not b.any()


def test_one_training_of_each_bridge_chooses_none() -> None:
    assert numbers.place_of_bridge(folds()) is None
    assert numbers.place_of_bridge(without(shapes(), ("rgb-taught@bridge-d", 2))) is None


# ---------------------------------------------------------------- distances


def test_distances_by_weight_are_shares_clip_by_clip() -> None:
    scores = shapes()
    runs = {(name, x, seed): r for (name, x, seed), r in scores.runs.items()}
    for weight in ("10", "0.1"):
        runs[f"rgb-taught@weights-{weight}+distance", "1", 1].arrays["distance_middle"][5] = 0
    for measure, array in (("inner", "distance_middle"), ("output", "distance_output")):
        a, b, groups = numbers.MEASURES[f"{measure}-distance-by-weight"](Scores(runs))
        for s, seed in enumerate((1, 2)):
            strong, weak = ([d for x in "12" for d in runs[f"rgb-taught@weights-{w}+distance", x, seed].arrays[array]]
                            for w in ("10", "0.1"))  # fmt: skip
            shares = [p / (p + q) if p + q else 0.5 for p, q in zip(strong, weak, strict=True)]
            np.testing.assert_allclose(a[s], shares, rtol=1e-5)
            np.testing.assert_allclose(a[s] + b[s], 1)
        assert len(groups) == a.shape[1] == 126
        assert (a[0, 5] == 0.5) == (measure == "inner")
    gone = without(scores, *((f"{numbers.WEAK}+distance", seed) for seed in (1, 2)))
    assert numbers.MEASURES["inner-distance-by-weight"](gone) is None


def test_distances_as_shares_of_the_teacher() -> None:
    scores, run = shapes(), "flow-taught+distance"
    for s, share in enumerate(numbers.distance_shares(scores, "flow-taught", "rear", (1, 2))):
        arrays = [scores.runs[run, x, s + 1].arrays for x in "12"]
        own, teacher = (np.concatenate([x[f"{what}_rear"] for x in arrays]) for what in ("distance", "teacher"))
        assert share == pytest.approx(own.sum() / teacher.sum())


# ---------------------------------------------------------------- the way through a training


def on_the_way(scores: Scores, name: str, seed: int, split: str) -> list[list[bool]]:
    """Whether every test clip comes out right after each tenth."""
    run = scores.runs[f"{name}+curve", split, seed]
    return [[bool(c == y) for c, y in zip(part, run.labels(), strict=True)]
            for part in run.arrays["curve_rgb"]]  # fmt: skip


@pytest.mark.parametrize("scores", [shapes, folds])
def test_epochs_to_accuracy(scores: Any) -> None:
    scores = scores()
    a, b, units = numbers.epochs_to_accuracy(scores)
    assert a.shape == b.shape == (len(scores.seeds), len(scores.splits)) and len(set(units)) == len(units) == 2
    ends = [x for s in scores.seeds for split in scores.splits for x in on_the_way(scores, "rgb", s, split)[-1]]
    threshold = (1 / len(scores.classes) + sum(ends) / len(ends)) / 2
    for s, seed in enumerate(scores.seeds):
        for x, split in enumerate(scores.splits):
            for found, name in ((a, "rgb-taught"), (b, "rgb")):
                means = [sum(part) / len(part) for part in on_the_way(scores, name, seed, split)]
                there = [k for k, mean in enumerate(means, 1) if mean >= threshold]
                assert found[s, x] == (there[0] / 10 if there else 1)
    assert 0.1 < b.min() < 1


def test_a_stream_that_never_gets_there_takes_the_whole_training() -> None:
    runs = dict(shapes().runs)
    for split in "12":
        run = runs["rgb-taught+curve", split, 2]
        never = np.broadcast_to((run.labels() + 1) % 14, (TENTHS, len(run.labels())))
        runs["rgb-taught+curve", split, 2] = type(run)(run.row, run.arrays | {"curve_rgb": never})
    a, _, _ = numbers.epochs_to_accuracy(Scores(runs))
    assert (a[1] == 1).all() and (a[0] < 1).all()


def test_accuracy_on_the_way() -> None:
    scores = shapes()
    a, b, groups = numbers.accuracy_on_the_way(scores)
    for s, seed in enumerate((1, 2)):
        for found, name in ((a, "rgb-taught"), (b, "rgb")):
            slow = [np.mean(column) for x in "12" for column in zip(*on_the_way(scores, name, seed, x), strict=True)]
            np.testing.assert_allclose(found[s], slow)
    assert groups.tolist() == scores.groups("rgb").tolist()
    for measure in ("epochs-to-accuracy", "accuracy-on-the-way"):
        assert numbers.MEASURES[measure](plain("weizmann")) is None


# ---------------------------------------------------------------- claims


def test_verdicts_come_out_for_every_claim() -> None:
    every = claims.load_claims("cross_enhancement")
    rows = claims.evaluate(every, numbers.CrossEnhancementClaims({"motionshapes": told_and_derived()}))
    assert all(row.difference for row in rows if row.dataset == "motionshapes")
    assert {t.measure for c in every for t in c.tests if t.measure} == numbers.MEASURES.keys()
    nothing = numbers.CrossEnhancementClaims({})
    assert nothing.measure("camera-loss", "motionshapes") is None
    with pytest.raises(ReproError, match="unknown measurement 'colour'"):
        nothing.measure("colour", "motionshapes")


def told_and_derived() -> Scores:
    return Scores({**told_apart({"0": "flow", "2": "rgb"}).runs, **{
        key: r for key, r in Maker("motionshapes").all_runs((1, 2)).items() if r.row.get("derived")}})  # fmt: skip


# ---------------------------------------------------------------- live values


def test_every_live_value_with_everything_and_with_nothing_run() -> None:
    names = {entry.live for entry in load_ledger("cross_enhancement") if entry.live}
    both = {"motionshapes": shapes(), "weizmann": folds()}
    for scores in (both, {}, {"weizmann": plain("weizmann")}, {"weizmann": Scores({}, "weizmann", ("a", "b"))}):
        values = numbers.ledger_values(scores)
        assert values.keys() == names
        ledger("cross_enhancement", values)
        assert not any(re.search(r"\bnan\b|\binf\b", text) for text in values.values())
    run = numbers.from_runs(both)
    for name, text in run.items():
        assert NOT_RUN not in text, name
        assert text.count("motionshapes: ") == 1 and ("weizmann: " in text) == (name != "camera-sweep"), name
    assert all(NOT_RUN in text for text in numbers.from_runs({}).values())


def test_live_values_against_loops() -> None:
    scores = shapes()
    run = numbers.from_runs({"motionshapes": scores})

    def percent(values: Any) -> str:
        return f"{100 * np.mean(values):.1f} %"

    def accuracy(method: str) -> str:
        return percent([hits(scores, method, seed) for seed in (1, 2)])

    for name, methods in {
        "weights-sweep": ("rgb", "rgb-taught@weights-0.1", "rgb-taught", "rgb-taught@weights-10", "rgb-taught@inner-10",
                          "rgb-taught@output-10"),
        "second-bridge": ("rgb-taught", "rgb-taught@logits"),
        "last-stage": ("rgb-taught+flow+layer", "together"),
        "fusion-control": ("two-stream", "two-stream+layer", "rgb-taught+flow", "rgb-taught+flow+layer"),
        "fused-3d": ("fused-3d", "two-stream"),
        "two-by-two": ("rgb", "rgb-taught@inner-only", "rgb-taught@output-only", "rgb-taught"),
        "stronger-stream": ("rgb", "flow", "rgb-taught+flow", "rgb+flow-taught"),
    }.items():  # fmt: skip
        assert f"motionshapes: {', '.join(f'{m} {accuracy(m)}' for m in methods)}" in run[name]
    letters = {x: 100 * np.mean([hits(scores, name, s) for s in (1, 2)]) for x, name in numbers.BRIDGED.items()}
    assert ", ".join(f"{x} {mean:.1f} %" for x, mean in letters.items()) in run["nine-bridges"]
    top = max(letters, key=letters.__getitem__)
    chosen = 100 * numbers.place_of_bridge(scores)[0].mean()
    assert f"; best {top} (teacher's {BRIDGES[top][0]}" in run["nine-bridges"]
    assert f"), {letters[top] - chosen:+.1f} points from the {chosen:.1f} % of bridges chosen on" in run["nine-bridges"]
    for words, wanted in (("all factors", {}), ("factor motion", {"factor": "motion"})):
        texts = []
        for level, name in (("0", "camera at rest"), ("1", "mild"), ("2", "shaken")):
            found = [scores.correct(m, {**wanted, "camera": level})[0].mean() for m in ("rgb", "flow")]
            texts.append(f"{name} {100 * (found[0] - found[1]):+.1f}")
        assert f"{words}: {', '.join(texts)}" in run["camera-sweep"]
    level = [scores.correct(m, {"camera": "2"})[0] for m in ("rgb", "flow")]
    assert f"shaken: rgb {percent(level[0])}, flow {percent(level[1])}, " in run["stronger-stream"]
    errors = [numbers.training_errors(scores, m, (1, 2)) for m in ("rgb", "rgb-taught@output-only", "rgb-taught")]
    assert f"rgb {percent(errors[0])}, rgb-taught@output-only {percent(errors[1])}, " in run["training-error"]
    assert run["training-error"].endswith(f"rgb-taught {percent(errors[2])}")
    for pair in ("two-stream", "rgb-taught+flow"):
        either = [np.logical_or(*(hits(scores, m, s) for m in PAIRS[pair])) for s in (1, 2)]
        text = f"{' or '.join(PAIRS[pair])} right {percent(either)}, averaged {accuracy(pair)}"
        assert text in run["complementarity"]
    lengths = [n for x in "12" for n in scores.runs["rgb+distance", x, 1].arrays["frames"]]
    short = percent([n < 17 for n in lengths])
    assert f"16 frames, 2 apart; {short} of the test clips have fewer than 17 frames" in run["clip-length"]


def test_methods_are_compared_over_the_seeds_that_they_share() -> None:
    scores = without(shapes(), ("rgb-taught@logits", 2))
    text = numbers.from_runs({"motionshapes": scores})["second-bridge"]
    found = [100 * np.mean(hits(scores, m, 1)) for m in ("rgb-taught", "rgb-taught@logits")]
    assert text == f"motionshapes: rgb-taught {found[0]:.1f} %, rgb-taught@logits {found[1]:.1f} % (1 of 2 seeds)"


def test_live_values_that_need_no_run() -> None:
    values = numbers.ledger_values({})
    assert values["changed-column"].endswith(": HMDB51 RGB +8.9, UCF101 RGB +1.6, Kinetics Flow +1.9")
    for clips, error in ((3, 1.21), (8, 0.40), (60, 0.31)):
        assert re.search(
            rf"points are {clips} of \d+ clips, one standard error {error:.2f}", values["fused-gain-in-clips"]
        )
    for part in ("6766 - 1528 = 5238", "has 3570 and 1530, and leaves 1666"):
        assert part in values["hmdb51-clips"]
    assert values["teacher-cells"].startswith("3 of 3 ") and "; 6 of 6 cells" in values["teacher-cells"]
    assert (
        "rear Mixed_5c (1024, 8, 7, 7); at 16 x 56 x 56, width 0.25: front Mixed_3c (120, 8, 7, 7)"
        in values["positions"]
    )
    assert values["adapters"].count("parameters") == 6
    assert "b (832, 16, 14, 14) to (480, 32, 28, 28) 399,840" in values["adapters"] and "852,992" in values["adapters"]
    for count in ("front 12,042,240", "middle 2,609,152", "rear 401,408", "output 1,024"):
        assert count in values["elements"]
    for count in ("trunk 12,287,264", "rgb stream 12,697,264", "flow stream 12,675,312"):
        assert count in values["counts"]
    assert values["fused-3d"] == f"39.8 M parameters, 20.0 M with one stream; {NOT_RUN}"
    assert "= 2.56 s" in values["clip-length"]
    assert "+7.7 on Kinetics here, flow over RGB +2.3 there in stilt, RGB over flow +3.2" in values["camera-sweep"]
