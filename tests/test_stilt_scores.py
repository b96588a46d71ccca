"""Scores, measurements and live numbers of the STILT chapter, from invented runs, against loops over clips."""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import pytest
from fake_runs import JOINT, SHAPES, Inventor, Runs, shapes_clips

from repro.data.motionshapes import CLASSES, SCRIPTS
from repro.errors import ReproError
from repro.metrics import NOT_RUN, OBSERVED
from repro.papers import stilt_numbers as numbers
from repro.papers.stilt_experiments import VARIANTS, experiments
from repro.papers.stilt_fusion import _folds
from repro.papers.stilt_printed import from_cells
from repro.papers.stilt_scores import LAMBDAS, METHODS, STRENGTHS
from repro.papers.stilt_scores import StiltScores as Scores
from repro.report import claims
from repro.report.ledger import ledger, load_ledger
from repro.report.stilt_page import TABLE_4, TABLE_5, TABLE_6
from repro.results import write
from repro.scores import ClaimScores, recorded_runs

MAIN = "stil-snippets"
TWO = (shapes_clips((11, 12, 13)), shapes_clips((3,)))  # other clips, for a second split


@cache
def shapes() -> Scores:
    """Three seeds of two splits of motionshapes, everything run."""
    return Scores(Inventor("motionshapes").all_runs((1, 2, 3)) | Inventor("motionshapes", TWO).all_runs((1, 2, 3), "2"))


@cache
def single(dataset: str) -> Scores:
    """One seed, one split, nothing that starts from a trained network."""
    return Scores(Inventor(dataset).all_runs((1,), derived=False))


# ---------------------------------------------------------------- slow versions


def softmax(logits: list[float]) -> list[float]:
    high = max(logits)
    total = sum(math.exp(x - high) for x in logits)
    return [math.exp(x - high) / total for x in logits]


def probabilities(scores: Scores, method: str, split: str, seed: int, part: str = "test") -> list[tuple[list, list]]:
    """Both streams' probabilities, clip by clip."""
    if method == "two-stream":
        runs = {s: scores.runs[s, split, seed] for s in ("spatial", "temporal")}
    else:
        runs = dict.fromkeys(("spatial", "temporal"), scores.runs[method, split, seed])
    logits = [runs[s].arrays[f"{part}_{s}"].astype(float).tolist() for s in runs]
    return [(softmax(a), softmax(b)) for a, b in zip(*logits, strict=True)]


def slow_weights(
    pairs: list[tuple[list, list]], labels: list[int], n: int, lambda_: float, strength: float | None
) -> list[tuple[float, float]]:
    """The weight pair of each class: Eq. 5-7 of the paper as sums over clips, then the better end of the segment."""
    out = []
    for y in range(n):
        c = [0.0, 0.0]
        for pair, label in zip(pairs, labels, strict=True):
            for stream in (0, 1):
                c[stream] += pair[stream][y] * (1 if label == y else -lambda_)
        if strength is None:
            out.append((0.5, 0.5) if math.isclose(*c, rel_tol=1e-12) else (1.0, 0.0) if c[0] > c[1] else (0.0, 1.0))
        else:
            share = 1 / (1 + math.exp((c[1] - c[0]) / strength))
            out.append((share, 1 - share))
    return out


def slow_fuse(weights: list[tuple[float, float]], pairs: list[tuple[list, list]]) -> list[list[float]]:
    return [[w * x + v * z for (w, v), x, z in zip(weights, a, b, strict=True)] for a, b in pairs]


def best(values: list[float]) -> int:
    return max(range(len(values)), key=lambda i: values[i])


def slow_choice(
    pairs: list, labels: list[int], groups: list[str], n: int, strengths: tuple
) -> tuple[float, float | None]:
    """The first best (lambda, strength) on the folds of the training groups."""
    table = {}
    folds = [(train.tolist(), test.tolist()) for train, test in _folds(groups, 5)]
    for lambda_ in (1 / (n - 1), *LAMBDAS):
        for strength in strengths:
            right = 0
            for train, test in folds:
                w = slow_weights([pairs[i] for i in train], [labels[i] for i in train], n, lambda_, strength)
                right += sum(best(s) == labels[i] for s, i in zip(slow_fuse(w, [pairs[i] for i in test]), test))  # noqa: B905
            table[lambda_, strength] = right
    return max(table, key=lambda key: table[key])


def slow_awf(
    scores: Scores, base: str, fusion: str, split: str, seed: int
) -> tuple[list[list[float]], tuple[float, float | None]]:
    parts = [(base, "train")]
    if fusion == "awf-held-out":
        parts = [(f"{base}/held-out-{k}", "test") for k in (0, 1)]
    pairs = [p for name, part in parts for p in probabilities(scores, name, split, seed, part)]
    runs = [(scores.runs["spatial" if name == "two-stream" else name, split, seed], part) for name, part in parts]
    labels = [int(x) for run, part in runs for x in run.arrays[f"{part}_labels"]]
    groups = [str(x) for run, part in runs for x in run.arrays[f"{part}_groups"]]
    strengths = (None,) if fusion == "awf" else STRENGTHS
    chosen = slow_choice(pairs, labels, groups, len(scores.classes), strengths)
    weights = slow_weights(pairs, labels, len(scores.classes), *chosen)
    return slow_fuse(weights, probabilities(scores, base, split, seed)), chosen


# ---------------------------------------------------------------- every method


@pytest.mark.parametrize("base", ["two-stream", *JOINT])
def test_late_average(base):
    scores = shapes()
    for split, seed in (("1", 1), ("2", 3)):
        slow = [[(x + y) / 2 for x, y in zip(*pair, strict=True)] for pair in probabilities(scores, base, split, seed)]
        np.testing.assert_allclose(scores.scores(base, split, seed), slow, atol=1e-7)


def test_one_stream():
    scores = shapes()
    for method, i in (("spatial", 0), ("temporal", 1), (f"{MAIN}:spatial", 0), (f"{MAIN}:temporal", 1)):
        base = "two-stream" if method in ("spatial", "temporal") else MAIN
        slow = [pair[i] for pair in probabilities(scores, base, "1", 2)]
        np.testing.assert_allclose(scores.scores(method, "1", 2), slow, atol=1e-7)


@pytest.mark.parametrize(
    ("base", "fusion"),
    [(MAIN, "awf"), (MAIN, "awf-regularised"), (MAIN, "awf-held-out"), ("two-stream", "awf")],
)
def test_weighted_fusion(base, fusion):
    """On motionshapes as it is, so the slow search is made for one seed only."""
    scores = single("weizmann") if fusion != "awf-held-out" else Scores(Inventor("weizmann").all_runs((1,)))
    split = scores.splits[0]
    slow, chosen = slow_awf(scores, base, fusion, split, 1)
    fitted = scores.fitted(f"{base}+{fusion}", split, 1)
    assert (fitted.choice.lambda_, fitted.choice.strength) == chosen
    np.testing.assert_allclose(scores.scores(f"{base}+{fusion}", split, 1), slow, atol=1e-6)


def test_svm_scores_are_decision_values():
    scores = shapes()
    np.testing.assert_array_equal(
        scores.scores(f"{MAIN}+svm", "2", 2), scores.runs[f"{MAIN}+svm", "2", 2].arrays["test_svm"].astype(np.float32)
    )


def test_the_better_single_stream_is_judged_over_the_seeds_that_both_have():
    runs = Inventor("weizmann").all_runs((1, 2), derived=False)
    weak = Inventor("weizmann")
    for seed, bumps in ((1, (9.0, 1.0)), (2, (0.0, 9.0))):
        for name, bump in zip(("spatial", "temporal"), bumps, strict=True):
            runs[name, "1", seed] = weak.run(name, "1", seed, bump=bump)
    del runs["temporal", "1", 2]  # where it would have been the better one
    scores = Scores(runs)
    assert scores.seeds_with("best-single") == [1]
    assert scores.best(("spatial", "temporal"), "best-single") == "spatial"
    np.testing.assert_array_equal(scores.scores("best-single", "1", 1), scores.scores("spatial", "1", 1))


def test_every_name_of_tables_and_claims_is_known_and_others_get_the_nearest():
    asked = {m for t in (TABLE_4, TABLE_5, TABLE_6) for m in t.values()}
    asked |= {m for c in claims.load_claims("stilt") for t in c.tests if t.kind == "correct" for m in (t.a, t.b)}
    assert asked <= METHODS.keys()
    assert {
        name for names in METHODS.values() for name in names if "+" not in name and "/" not in name
    } == VARIANTS.keys()
    assert set(experiments("small", "motionshapes")) == VARIANTS.keys()
    scores = shapes()
    for method in METHODS:
        assert scores.seeds_with(method) == [1, 2, 3], method
    for wrong, meant in (
        ("stil-snipets", MAIN), (f"{MAIN}+awff", f"{MAIN}+awf"), (f"{MAIN}:spatal", f"{MAIN}:spatial"),
        ("two-stream+svm", "two-stream"), ("spatial+awf", "spatial"),
    ):  # fmt: skip
        for ask in (scores.correct, scores.seeds_with, scores.labels):
            with pytest.raises(ReproError, match=rf"unknown method '.*' \(did you mean '{re.escape(meant)}"):
                ask(wrong)


# ---------------------------------------------------------------- right or wrong, of which clips, among which classes


def slow_correct(scores: Scores, method: str, subset: dict[str, str], seed: int) -> tuple[list[bool], list[str]]:
    right, groups = [], []
    for split, (_, test) in (("1", SHAPES), ("2", TWO)):
        values = scores.scores(method, split, seed)
        for clip, row in zip(test, values, strict=True):
            if all(clip.tags[k] == v for k, v in subset.items()):
                among = [
                    i for i, c in enumerate(CLASSES) if "factor" not in subset or SCRIPTS[c][0] == subset["factor"]
                ]
                right.append(max(among, key=lambda i: row[i]) == clip.label)
                groups.append(clip.group)
    return right, groups


@pytest.mark.parametrize(
    ("subset", "classes"),
    [
        ({}, 14), ({"factor": "product"}, 4), ({"factor": "binding"}, 2), ({"camera": "2"}, 14),
        ({"factor": "motion", "event": "short"}, 3), ({"speed": "fast", "camera": "1"}, 14),
    ],
)  # fmt: skip
def test_subsets_against_a_loop(subset, classes):
    scores = shapes()
    for method in (MAIN, f"{MAIN}+svm", "best-single"):
        correct, groups, chance = scores.correct(method, subset)
        assert chance == 1 / classes
        for row, seed in zip(correct, (1, 2, 3), strict=True):
            right, slow_groups = slow_correct(scores, method, subset, seed)
            assert row.tolist() == right
            assert groups.tolist() == slow_groups
        assert 0 < correct.mean() < 1, "a test of nothing"


def test_a_factor_decides_among_its_own_classes():
    """The plain stream that sees only looks must not be charged for confusing a product with another factor."""
    maker, runs = Inventor("motionshapes"), {}
    result = maker.run("spatial", bump=0)
    logits = result.arrays["test_spatial"]
    clips = maker.parts["test"]
    logits[:, CLASSES.index("LookRed")] = 50  # always the best class of all ...
    for i, clip in enumerate(clips):
        logits[i, clip.label] = 40  # ... and the right one is the second
    runs["spatial", "1", 1] = result
    scores = Scores(runs)
    assert scores.correct("spatial", {"factor": "product"})[0].all()
    everything = scores.correct("spatial")[0][0]
    assert everything.tolist() == [c.label == CLASSES.index("LookRed") for c in clips]
    assert scores.correct("spatial", {"camera": "1"})[0].mean() == pytest.approx(1 / 14)


def test_seeds_are_those_for_which_every_run_is_there_in_every_split():
    runs = dict(shapes().runs)
    for gone in (
        ("spatial", "2", 1),
        ("stil-regions", "1", 3),
        (f"{MAIN}+svm", "1", 2),
        (f"{MAIN}/held-out-1", "2", 3),
    ):
        del runs[gone]
    scores = Scores(runs)
    expected = {
        "spatial": [2, 3], "temporal": [1, 2, 3], "two-stream": [2, 3], "best-single": [2, 3],
        "stil-regions+awf": [1, 2], f"{MAIN}+svm": [1, 3], f"{MAIN}+awf-held-out": [1, 2], f"{MAIN}+awf": [1, 2, 3],
    }  # fmt: skip
    for method, seeds in expected.items():
        assert scores.seeds_with(method) == seeds
        assert len(scores.correct(method)[0]) == len(seeds)
    assert len(scores.correct(f"{MAIN}+awf", seeds=[3, 1])[0]) == 2
    assert scores.correct("spatial", seeds=[1]) is None
    assert scores.correct("spatial", seeds=[]) is None


def test_missing_runs_are_none_and_nothing_at_all_is_an_error():
    scores = single("motionshapes")
    for method in (f"{MAIN}+svm", f"{MAIN}+awf-held-out", f"{MAIN}+attention", "stil-regions+probes"):
        assert scores.seeds_with(method) == []
        assert scores.correct(method) is None
    assert scores.correct(MAIN, {"factor": "smell"}) is None
    assert single("weizmann").correct(MAIN, {"factor": "motion"}) is None, "a data set without factors"
    with pytest.raises(ReproError, match="no finished run .* run the experiments first"):
        Scores({})


def test_recorded_runs_are_found_by_data_set_and_scale(tmp_path):
    maker = Inventor("weizmann")
    kept = [maker.run("spatial", "manifest", s) for s in (1, 2)]
    one_out = [maker.run("spatial", person, 1) for person in ("eli", "ido")]
    other = maker.run("temporal", "manifest", 1)
    other.row["preset"] = "paper"
    for result in (*kept, *one_out, other, Inventor("motionshapes").run("spatial")):
        write(result, tmp_path)
    found = recorded_runs(tmp_path, "stilt", "weizmann", "small")
    assert list(found) == [("spatial", "manifest", 1), ("spatial", "manifest", 2)]
    assert all(r.recorded for r in found.values())
    left = recorded_runs(tmp_path, "stilt", "weizmann", "small", leave_one_out=True)
    assert list(left) == [("spatial", "eli", 1), ("spatial", "ido", 1)], "the same clips are not counted twice"
    assert recorded_runs(tmp_path, "stilt", "motionshapes", "small") and not recorded_runs(
        tmp_path, "stilt", "motionshapes", "small", leave_one_out=True
    )
    assert (
        recorded_runs(tmp_path, "stilt", "hmdb51", "small")
        == {}
        == recorded_runs(tmp_path / "no", "stilt", "weizmann", "small")
    )


# ---------------------------------------------------------------- measurements


def by_clip(scores: Scores, array: str, run: str, seed: int) -> dict[str, float]:
    found = {}
    for split in scores.splits:
        result = scores.runs[run, split, seed]
        found |= dict(zip(result.ids(), result.arrays[array].tolist(), strict=True))
    return found


@pytest.mark.parametrize(("measure", "run", "step", "subset"), [
    ("attention-on-event", f"{MAIN}+attention", "T", {"factor": "motion", "event": "short"}),
    ("attention-on-actor", "stil-regions+attention", "S2", {}),
])  # fmt: skip
def test_attention(measure, run, step, subset):
    scores = shapes()
    a, b, groups = ClaimScores({"motionshapes": scores}, numbers.MEASURES).measure(measure, "motionshapes")
    clips = [c for c in (*SHAPES[1], *TWO[1]) if all(c.tags[k] == v for k, v in subset.items())]
    assert a.shape == b.shape == (3, len(clips)) and len(clips) > 3
    for s, seed in enumerate((1, 2, 3)):
        attended, uniform = (by_clip(scores, x, run, seed) for x in (f"share_attended_{step}", "share_uniform"))
        assert a[s].tolist() == [attended[c.id] for c in clips]
        assert b[s].tolist() == [uniform[c.id] for c in clips]
    assert groups.tolist() == [c.group for c in clips]


def test_weights_by_factor():
    scores = shapes()
    a, b, groups = numbers.MEASURES["awf-weight-by-factor"](scores)
    assert a.shape == b.shape == (3, 3) and len(groups) == 3
    for s, seed in enumerate((1, 2, 3)):
        w = scores.fitted(f"{MAIN}+awf", "1", seed).weights
        assert a[s].tolist() == [w[CLASSES.index(c)][0] for c in ("LookRed", "LookGreen", "LookBlue")]
        assert b[s].tolist() == [w[CLASSES.index(c)][0] for c in ("MoveShake", "MoveNod", "MoveCircle")]


def slow_split(scores: Scores, kinds: tuple[set[str], set[str]]) -> list[list[list[float]]]:
    """Accuracy by kind (easy, hard), seed and group; `kinds` are ids."""
    found = []
    for ids in kinds:
        found.append([])
        for seed in scores.seeds:
            right: dict[str, list[bool]] = {}
            for split in scores.splits:
                run, values = scores.runs[MAIN, split, seed], scores.scores(f"{MAIN}+awf", split, seed)
                for i, (id_, label, group) in enumerate(zip(run.ids(), run.labels(), run.groups(), strict=True)):
                    if id_ in ids:
                        right.setdefault(str(group), []).append(values[i].argmax() == label)
            found[-1].append([np.mean(right[g]) for g in sorted(right)])
    return found


def test_accuracy_by_camera_and_by_likeness():
    scores = shapes()
    clips = (*SHAPES[1], *TWO[1])
    alike = {c.id for c in clips if CLASSES[c.label] in numbers.TWINS["motionshapes"]}
    for measure, kinds in (
        ("accuracy-by-camera", tuple({c.id for c in clips if c.tags["camera"] == level} for level in "02")),
        ("accuracy-by-likeness", ({c.id for c in clips} - alike, alike)),
    ):  # fmt: skip
        a, b, groups = numbers.MEASURES[measure](scores)
        assert groups.tolist() == ["g01", "g02", "g03"]
        np.testing.assert_allclose([a, b], slow_split(scores, kinds), atol=1e-12)
    people = single("weizmann")
    a, b, groups = numbers.MEASURES["accuracy-by-likeness"](people)
    assert (a.shape, b.shape, groups.tolist()) == ((1, 1), (1, 1), ["ido"])


def test_groups_without_easy_or_hard_clips_are_left_out():
    test = [c for c in SHAPES[1] if c.group == "g01" or c.tags["camera"] != "2"]
    scores = Scores(Inventor("motionshapes", (SHAPES[0], test)).all_runs((1,), derived=False))
    a, _, groups = numbers.MEASURES["accuracy-by-camera"](scores)
    assert a.shape == (1, 1) and groups.tolist() == ["g01"]
    still = [c for c in test if c.tags["camera"] == "0"]
    assert (
        numbers.MEASURES["accuracy-by-camera"](Scores(Inventor("motionshapes", (SHAPES[0], still)).all_runs((1,))))
        is None
    )


def test_accuracy_by_resolution_holds_the_seeds_that_were_probed():
    runs = dict(shapes().runs)
    del runs[f"{MAIN}+probes", "2", 2]
    scores = Scores(runs)
    a, b, groups = numbers.MEASURES["accuracy-by-resolution"](scores)
    labels = [c.label for c in (*SHAPES[1], *TWO[1])]
    assert groups.tolist() == [c.group for c in (*SHAPES[1], *TWO[1])]
    for s, seed in enumerate((1, 3)):
        fused = [row for x in "12" for row in scores.runs[f"{MAIN}+probes", x, seed].arrays["fused_half-size"].tolist()]
        assert b[s].tolist() == [best(row) == label for row, label in zip(fused, labels, strict=True)]
        assert a[s].tolist() == slow_correct(scores, MAIN, {}, seed)[0]


def test_measurements_that_do_not_apply_are_none_and_unknown_ones_an_error():
    both = ClaimScores({"motionshapes": shapes(), "weizmann": single("weizmann")}, numbers.MEASURES)
    assert both.datasets == ["motionshapes", "weizmann"]
    does = {"weizmann": {"accuracy-by-likeness"}}
    does["motionshapes"] = numbers.MEASURES.keys() - {"awf-weight-by-class-name", "accuracy-by-kind"}
    for dataset, expected in does.items():
        assert {m for m in numbers.MEASURES if both.measure(m, dataset) is not None} == expected
    assert both.measure("accuracy-by-camera", "ucf101") is None
    assert both.correct(MAIN, "ucf101", {}) is None
    with pytest.raises(ReproError, match="unknown measurement 'accuracy-by-weather'"):
        both.measure("accuracy-by-weather", "motionshapes")
    asked = {t.measure for c in claims.load_claims("stilt") for t in c.tests if t.kind == "measured"}
    assert asked == numbers.MEASURES.keys()


def hmdb(runs: Runs, classes: list[str]) -> Scores:
    """Weizmann's runs under HMDB51's name, with other class names."""
    for result in runs.values():
        result.row.update(dataset="hmdb51", classes=classes)
    return Scores(runs)


def test_measurements_of_hmdb51():
    classes = ["laugh", "walk", "chew", "jump", "hug", "kiss", "smoke", "eat", "drink", "talk"]
    scores = hmdb(Inventor("weizmann").all_runs((1, 2), derived=False), classes)
    a, b, _ = numbers.MEASURES["awf-weight-by-class-name"](scores)
    w = [scores.fitted(f"{MAIN}+awf", "1", s).weights[:, 0] for s in (1, 2)]
    assert a.tolist() == [[x[0], x[2]] for x in w] and b.tolist() == [[x[1], x[3]] for x in w]
    a, b, _ = numbers.MEASURES["accuracy-by-kind"](scores)
    right = scores.correct(f"{MAIN}+awf")[0]
    kind = [classes[i] in ("walk", "jump", "hug", "kiss") for i in scores.labels(MAIN)]
    for s in (0, 1):
        assert a[s, 0] == np.mean([r for r, k in zip(right[s], kind, strict=True) if k])
        assert b[s, 0] == np.mean([r for r, k in zip(right[s], kind, strict=True) if not k])


# ---------------------------------------------------------------- claims and ledger


def test_claims_hold_with_everything_run_with_little_and_with_unequal_seeds():
    rows = claims.evaluate(claims.load_claims("stilt"), ClaimScores({"motionshapes": shapes()}, numbers.MEASURES))
    run = {r.comparison for r in rows if r.dataset == "motionshapes" and r.verdict.word != NOT_RUN}
    assert len(run) > 25
    assert not {r.comparison for r in rows if r.dataset == "motionshapes"} - run
    few = ClaimScores({d: single(d) for d in ("motionshapes", "weizmann")}, numbers.MEASURES)
    rows = claims.evaluate(claims.load_claims("stilt"), few)
    assert {r.comparison for r in rows if r.dataset == "weizmann" and r.verdict.word == NOT_RUN} == {
        f"{b}+awf vs {b}+svm" for b in JOINT[:2]
    } | {f"{b}+svm vs {b}" for b in JOINT[:2]} | {"attention-on-actor"}
    runs = dict(shapes().runs)
    for split in "12":  # a backbone of which one seed fewer was trained, one of which other seeds were
        del (
            runs["stil-snippets@vgg19", split, 3],
            runs["unguided-snippets", split, 1],
            runs["spatial", split, 2],
        )
    rows = claims.evaluate(claims.load_claims("stilt"), ClaimScores({"motionshapes": Scores(runs)}, numbers.MEASURES))
    seeds = {r.comparison: r.difference.seeds for r in rows if r.dataset == "motionshapes" and r.difference}
    assert seeds["stil-snippets@resnet34 vs stil-snippets@vgg19"] == 2
    assert seeds[f"{MAIN} vs two-stream"] == 2
    assert seeds[f"{MAIN} vs control-snippets"] == 3


def test_a_claim_is_observed_where_it_holds():
    """The whole way from logits to a word: a network that is right more often than its control."""
    parts = (shapes_clips((9, 10)), shapes_clips(range(1, 9)))
    maker, runs = Inventor("motionshapes", parts), {}
    for seed in (1, 2, 3):
        for name, bump in ((MAIN, 8.0), ("control-snippets", 4.0)):
            runs[name, "1", seed] = maker.run(name, "1", seed, bump=bump)
    rows = claims.evaluate(claims.load_claims("stilt"), ClaimScores({"motionshapes": Scores(runs)}, numbers.MEASURES))
    [row] = [r for r in rows if r.comparison == f"{MAIN} vs control-snippets" and r.dataset == "motionshapes"]
    assert row.verdict.word == OBSERVED


@pytest.mark.parametrize("which", ["everything", "one seed", "one seed of each"])
def test_every_live_name_of_the_ledger_has_a_value(which):
    scores = {
        "everything": {"motionshapes": shapes()},
        "one seed": {"weizmann": single("weizmann")},
        "one seed of each": {d: single(d) for d in ("motionshapes", "weizmann")},
    }[which]
    values = numbers.from_runs(scores) | from_cells()
    models = dict.fromkeys(
        ("attention-at-one", "head-shapes", "step-parameters", "backbone-widths", "flow-channels"), "x"
    )
    assert ledger("stilt", values | models).live.keys() == {e.live for e in load_ledger("stilt") if e.live}
    absent = {name for name, text in values.items() if text == NOT_RUN}
    probed = {"uniform-start", "second-pass", "accuracy-against-snippets", "svm-features"}
    assert absent == {"hmdb51-frequent-classes"} | (set() if which == "everything" else probed)
    assert all(f"{d}: " in values["awf-vertices"] for d in scores)


def test_live_values_from_models_name_what_the_paper_prints():
    values = numbers.from_models()
    assert values["head-shapes"].startswith("2048 -> 512 -> 1024 -> 101, ")
    assert values["backbone-widths"] == "resnet50 2048, resnet34 512, vgg19 512"
    assert values["flow-channels"] == "the temporal conv1 has 20 input channels"
    assert float(values["attention-at-one"].split("difference ")[1].split(")")[0]) < 1e-6


def test_live_values_from_runs_against_loops():
    scores = shapes()
    values = {k: v.removeprefix("motionshapes: ") for k, v in numbers.from_runs({"motionshapes": scores}).items()}
    right = {s: slow_correct(scores, MAIN, {}, s)[0] for s in (1, 2, 3)}
    labels = [c.label for c in (*SHAPES[1], *TWO[1])]

    def probed(name: str) -> list[list[bool]]:
        out = []
        for seed in (1, 2, 3):
            fused = [r for x in "12" for r in scores.runs[f"{MAIN}+probes", x, seed].arrays[f"fused_{name}"].tolist()]
            out.append([best(row) == label for row, label in zip(fused, labels, strict=True)])
        return out

    def percent(rows: list[list[bool]]) -> str:
        return f"{100 * np.mean(rows):.1f} %"

    whole = list(right.values())
    for name in ("uniform-start", "second-pass"):
        other = probed(name)
        moved = [[x != y for x, y in zip(a, b, strict=True)] for a, b in zip(whole, other, strict=True)]
        assert values[name] == f"{percent(whole)} becomes {percent(other)}, {percent(moved)} of the answers change side"
    assert values["accuracy-against-snippets"] == ", ".join(
        f"{percent(probed(f'snippets_{n}'))} with {n}" for n in (1, 2, 4, 8, 16)
    )
    tst = [slow_correct(scores, "tst-snippets", {}, s)[0] for s in (1, 2, 3)]
    assert values["order-of-steps"] == f"{MAIN} {percent(whole)}, tst-snippets {percent(tst)}"
    weights = [w for x in "12" for s in (1, 2, 3) for w in scores.fitted(f"{MAIN}+awf", x, s).weights.tolist()]
    vertices = np.mean([max(w) > 0.999 for w in weights])
    assert values["awf-vertices"].startswith(f"{100 * vertices:.0f} % of the weight pairs are vertices, 0 % ties")
    lambdas, by_lambda = numbers.weights_by_lambda(scores)
    assert lambdas == sorted(LAMBDAS)
    pairs = probabilities(scores, MAIN, "1", 1, "train")
    train = [c.label for c in SHAPES[0]]
    for value, w in zip(lambdas, by_lambda, strict=True):
        np.testing.assert_allclose(w, slow_weights(pairs, train, 14, value, None), atol=1e-9)
    counts = ", ".join(f"{(w[:, 0] > 0.5).sum()} at {v:g}" for v, w in zip(lambdas, by_lambda, strict=True))
    assert values["weights-against-lambda"].endswith(counts)
    gaps = [
        abs(sum(a[y] - b[y] for (a, b), label in zip(pairs, train, strict=True) if label == y)) / train.count(y)
        for y in range(14)
    ]
    assert values["coefficient-margin"].startswith(f"median margin {np.median(gaps):.3f} of a class's clips")
