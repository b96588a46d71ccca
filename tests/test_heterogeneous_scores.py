"""Scores, measurements and live values of the heterogeneous chapter, from invented logits, against plain loops."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from fake_runs import SHAPES, Inventor, Runs, shapes_clips

from repro.data.motionshapes import CLASSES
from repro.errors import ReproError
from repro.experiments import IMAGES
from repro.metrics import NOT_RUN
from repro.papers import heterogeneous_numbers as numbers
from repro.papers.heterogeneous_derived import MAIN, TEMPORAL_RUNS
from repro.papers.heterogeneous_experiments import VARIANTS, experiments
from repro.papers.heterogeneous_fusion import WEIGHTS
from repro.papers.heterogeneous_scores import BASES, GRID, LIKE, PAIR, PAIRS, UNLIKE, HeterogeneousScores
from repro.report import claims
from repro.report.ledger import ledger, load_ledger
from repro.results import Result

Array = np.ndarray[Any, Any]
TEXTURES = [name for name in VARIANTS if name.startswith("textures-")]


class Maker(Inventor):
    """Makes results of this chapter."""

    def result(self, *args: Any, **kwargs: Any) -> Result:
        made = super().result(*args, **kwargs)
        made.row["paper"] = "heterogeneous"
        return made

    def run(self, name: str, split: str = "1", seed: int = 1, *, key: str = "", bump: float = 4.0) -> Result:
        """What training the experiment `name` would file; generated images are the same for every data set."""
        if name in TEXTURES:
            return self.images(name, key)
        rng = np.random.default_rng([seed, *f"{name} {split}".encode()])
        output = name.partition("-")[0]
        arrays = {f"{part}_{output}": self._logits(rng, clips, bump) for part, clips in self.parts.items()}
        arrays["losses"] = np.linspace(5, 1, 40, dtype=np.float32)
        return self.result(name, split, seed, [output], arrays, key)

    def images(self, name: str, key: str = "") -> Result:
        """A pre-training: four classes, ten new images, of which six to nine are recognised."""
        labels = np.arange(10, dtype=np.int16) % 4
        logits = np.zeros((10, 4), np.float16)
        right = 6 + TEXTURES.index(name)
        logits[np.arange(10), np.where(np.arange(10) < right, labels, (labels + 1) % 4)] = 1
        made = self.result(name, "generated", 0, ["spatial"], {}, key)
        row = made.row | {"dataset": IMAGES, "classes": list("0123")}
        return Result(row, {"test_spatial": logits, "test_labels": labels, "losses": np.zeros(3, np.float32)})

    def conv1(self, base: str, split: str = "1", seed: int = 1, *, key: str = "", of: str = "") -> Result:
        """What `heterogeneous_derived.conv1` would file."""
        rng = np.random.default_rng([seed, *f"{base}+conv1 {split}".encode()])
        arrays = {"conv1": rng.normal(size=(2, 16, 10, 7, 7)).astype(np.float16), "change": np.ones(1, np.float32)}
        if base in ("temporal-resnet50", "temporal-bn-inception"):  # averaged
            arrays["conv1"][0] = arrays["conv1"][0, :, :1]
        arrays["equal_share"] = rng.random(2).astype(np.float32)
        return self.result(f"{base}+conv1", split, seed, [], arrays, key, of or "?")

    def all_runs(self, seeds: Sequence[int], splits: Sequence[str] = ("1",), *, derived: bool = True) -> Runs:
        """Every training of the chapter, and what follows from some."""
        found = [self.run(name, x, s) for x in splits for s in seeds for name in VARIANTS if name not in TEXTURES]
        found += [self.images(name) for name in TEXTURES]
        for split in splits if derived else ():
            for seed in seeds:
                found += [self.conv1(name, split, seed) for name in TEMPORAL_RUNS]
                found += self.held_out(split, seed)
        return {(r.row["experiment"], r.row["split"], r.row["seed"]): r for r in found}

    def held_out(self, split: str, seed: int) -> list[Result]:
        """Two trainings of each stream on half of the training groups, tested on the other half."""
        groups = sorted({c.group for c in self.parts["train"]})
        halves = [[c for c in self.parts["train"] if groups.index(c.group) % 2 == k] for k in (0, 1)]
        return [
            Maker(self.dataset, (halves[1 - k], halves[k])).run(f"{name}/held-out-{k}", split, seed)
            for name in MAIN
            for k in (0, 1)
        ]


TWO = (SHAPES[0], shapes_clips((3,)))  # a second split with other test clips


@cache
def shapes() -> HeterogeneousScores:
    """Two seeds, two splits of motionshapes, everything run."""
    first, second = Maker("motionshapes"), Maker("motionshapes", TWO)
    return HeterogeneousScores(first.all_runs((1, 2)) | second.all_runs((1, 2), ("2",)))


@cache
def single(dataset: str) -> HeterogeneousScores:
    """One seed, one split, the trainings alone."""
    return HeterogeneousScores(Maker(dataset).all_runs((1,), derived=False))


def slow_softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    exps = [math.exp(x - top) for x in row]
    return [x / sum(exps) for x in exps]


def logits(scores: HeterogeneousScores, name: str, split: str, seed: int) -> list[list[float]]:
    return scores.runs[name, split, seed].arrays[f"test_{name.split('-')[0]}"].astype(float).tolist()


def slow_fused(
    scores: HeterogeneousScores, names: tuple[str, str], split: str, seed: int, weight: float, *, soft: bool = True
) -> list[list[float]]:
    spatial, temporal = ([slow_softmax(r) if soft else r for r in logits(scores, n, split, seed)] for n in names)
    if weight == math.inf:
        return temporal
    return [
        [(x + weight * y) / (1 + weight) for x, y in zip(a, b, strict=True)]
        for a, b in zip(spatial, temporal, strict=True)
    ]


def best(row: Sequence[float]) -> int:
    return max(range(len(row)), key=lambda i: row[i])


# ---------------------------------------------------------------- every method


@pytest.mark.parametrize("pair", ["resnet50+resnet50", "resnet152+bn-inception", PAIR, "proposed",
                                  "resnet50+resnet50-transplanted"])  # fmt: skip
def test_pairs_are_fused_one_to_one_and_a_half(pair: str) -> None:
    scores = shapes()
    bases = ("resnet101+bn-inception-transplanted" if pair == "proposed" else pair).split("+")
    names = (f"spatial-{bases[0]}", f"temporal-{bases[1]}")
    for split, seed in (("1", 1), ("2", 2)):
        slow = slow_fused(scores, names, split, seed, 1.5)
        np.testing.assert_allclose(scores.scores(pair, split, seed), slow, atol=1e-6)
        slow = slow_fused(scores, names, split, seed, 1.5, soft=False)
        np.testing.assert_allclose(scores.scores(f"{pair}+logits", split, seed), slow, atol=1e-5)


def test_a_stream_alone() -> None:
    scores = shapes()
    for name in ("spatial-bn-inception", "temporal-resnet50-scratch", "temporal-bn-inception@moving-bn"):
        slow = [slow_softmax(r) for r in logits(scores, name, "2", 1)]
        np.testing.assert_allclose(scores.scores(name, "2", 1), slow, atol=1e-6)


def test_the_weight_is_chosen_on_the_clips_of_both_folds_and_not_on_test_clips() -> None:
    scores = shapes()
    for split, seed in (("1", 1), ("2", 2)):
        right = dict.fromkeys(WEIGHTS, 0)
        for k in (0, 1):
            runs = [scores.runs[f"{name}/held-out-{k}", split, seed] for name in MAIN]
            pairs = [[slow_softmax(r) for r in run.logits(m).tolist()]
                     for run, m in zip(runs, ("spatial", "temporal"), strict=True)]  # fmt: skip
            for w in WEIGHTS:
                share = 1.0 if w == math.inf else w / (1 + w)
                for a, b, label in zip(*pairs, runs[0].labels(), strict=True):
                    right[w] += best([(1 - share) * x + share * y for x, y in zip(a, b, strict=True)]) == label
        chosen = scores.choice(split, seed).weight
        assert right[chosen] == max(right.values()) > min(right.values()), "a test of nothing"
        slow = slow_fused(scores, MAIN, split, seed, chosen)
        np.testing.assert_allclose(scores.scores(f"{PAIR}@chosen", split, seed), slow, atol=1e-6)


def test_folds_of_other_clips_are_an_error() -> None:
    runs = dict(shapes().runs)
    runs[f"{MAIN[1]}/held-out-0", "1", 1] = runs[f"{MAIN[1]}/held-out-1", "1", 1]
    with pytest.raises(ReproError, match="hold other clips: remove their rows and run again"):
        HeterogeneousScores(runs).choice("1", 1)


def test_the_best_like_pair_is_judged_over_the_seeds_that_have_all_networks() -> None:
    maker, runs = Maker("weizmann"), Maker("weizmann").all_runs((1, 2), derived=False)
    for seed, strong in ((1, "resnet101"), (2, "resnet50")):
        for role in ("spatial", "temporal"):
            for b in BASES:
                name = f"{role}-{b}"
                runs[name, "1", seed] = maker.run(name, "1", seed, bump=12.0 if b == strong else 1.0)
    del runs["spatial-resnet152", "1", 2]  # in the seed in which ResNet-50 would be the best
    scores = HeterogeneousScores(runs)
    assert scores.seeds_with("best-isomorphic") == [1]
    assert scores.best(LIKE, "best-isomorphic") == "resnet101+resnet101"
    np.testing.assert_array_equal(
        scores.scores("best-isomorphic", "1", 1), scores.scores("resnet101+resnet101", "1", 1)
    )


def test_images_are_no_clips_of_the_data_set() -> None:
    scores = shapes()
    assert scores.dataset == "motionshapes" and scores.splits == ["1", "2"] and scores.seeds == [1, 2]
    assert sorted(scores.images) == sorted(TEXTURES)
    assert not any(name in TEXTURES for name, _, _ in scores.runs)
    for method in (MAIN[0], PAIR, "best-isomorphic"):
        assert len(scores.labels(method)) == len(SHAPES[1]) + len(TWO[1])
    with pytest.raises(ReproError, match="no finished run"):
        HeterogeneousScores({("textures-resnet50", "generated", 0): Maker("weizmann").images("textures-resnet50")})
    nothing = HeterogeneousScores({}, "weizmann", scores.classes)
    assert (nothing.dataset, nothing.splits, nothing.seeds) == ("weizmann", [], []) and not nothing.correct(PAIR)


def test_every_name_of_the_claims_is_known_and_others_get_the_nearest() -> None:
    asked = {m for c in claims.load_claims("heterogeneous") for t in c.tests if t.kind == "correct" for m in (t.a, t.b)}
    methods = HeterogeneousScores.methods
    assert asked <= methods.keys() and len(GRID) == 16 and len(PAIRS) == 25
    needed = {name for names in methods.values() for name in names if "+" not in name and "/" not in name}
    assert needed == VARIANTS.keys() - set(TEXTURES)
    assert set(experiments("small", "motionshapes")) == VARIANTS.keys()
    scores = shapes()
    for method in methods:
        assert scores.seeds_with(method) == [1, 2], method
    with pytest.raises(ReproError, match=rf"did you mean '{re.escape(PAIR)}'"):
        scores.correct("resnet101+bninception")


# ---------------------------------------------------------------- measurements


def wrong(scores: HeterogeneousScores, name: str, seed: int) -> list[float]:
    found: list[float] = []
    for split in scores.splits:
        run = scores.runs[name, split, seed]
        found += [float(best(r) != y) for r, y in zip(logits(scores, name, split, seed), run.labels(), strict=True)]
    return found


def test_correlation_of_errors_is_that_of_all_like_and_unlike_pairs() -> None:
    scores = shapes()
    a, b, groups = numbers.MEASURES["error-correlation"](scores)
    assert a.shape == b.shape == (2, len(SHAPES[1]) + len(TWO[1])) and len(groups) == a.shape[1]
    for s, seed in enumerate((1, 2)):
        errors = {name: wrong(scores, name, seed) for pair in GRID.values() for name in pair}
        phi = {f"{x}+{y}": np.corrcoef(errors[f"spatial-{x}"], errors[f"temporal-{y}"])[0, 1]
               for x in BASES for y in BASES}  # fmt: skip
        assert a[s].mean() == pytest.approx(np.mean([phi[f"{x}+{x}"] for x in BASES]), abs=1e-9)
        assert b[s].mean() == pytest.approx(np.mean([v for k, v in phi.items() if k not in LIKE]), abs=1e-9)
    assert len(LIKE) == 4 and len(UNLIKE) == 12


def test_disagreement_and_oracle() -> None:
    scores = shapes()
    for measure in ("disagreement", "oracle"):
        a, b, _ = numbers.MEASURES[measure](scores)
        for s, seed in enumerate((1, 2)):
            share = {}
            for pair, names in GRID.items():
                rows = [[best(r) for x in scores.splits for r in logits(scores, n, x, seed)] for n in names]
                labels = scores.labels(pair).tolist()
                hits = [p != q if measure == "disagreement" else y in (p, q)
                        for p, q, y in zip(*rows, labels, strict=True)]  # fmt: skip
                share[pair] = np.mean(hits)
            assert a[s].mean() == pytest.approx(np.mean([share[p] for p in LIKE]))
            assert b[s].mean() == pytest.approx(np.mean([share[p] for p in UNLIKE]))


def test_no_correlation_where_a_network_is_always_right_or_missing() -> None:
    runs = Maker("weizmann").all_runs((1,), derived=False)
    for name in ("spatial-resnet50", "spatial-resnet152"):
        changed = dict(runs)
        if name.endswith("50"):
            changed[name, "1", 1] = Maker("weizmann").run(name, bump=1000.0)
            changed[name, "1", 1].arrays["test_spatial"][:] = np.eye(10)[changed[name, "1", 1].labels()]
        else:
            del changed[name, "1", 1]
        scores = HeterogeneousScores(changed)
        assert numbers.MEASURES["error-correlation"](scores) is None
        assert (numbers.MEASURES["oracle"](scores) is None) == (name == "spatial-resnet152")


def slow_right(scores: HeterogeneousScores, seed: int, weight: float) -> list[bool]:
    """Whether the paper's pair is right, clip by clip."""
    found: list[bool] = []
    for split in scores.splits:
        labels = scores.runs[MAIN[0], split, seed].labels()
        found += [best(r) == y for r, y in zip(slow_fused(scores, MAIN, split, seed, weight), labels, strict=True)]
    return found


def test_equal_weights() -> None:
    scores = shapes()
    a, b, _ = numbers.MEASURES["equal-weights"](scores)
    for values, weight in ((a, 1.5), (b, 1.0)):
        assert values.tolist() == [slow_right(scores, seed, weight) for seed in (1, 2)]
    assert (a != b).any(), "a test of nothing"


def test_counts_are_measured_without_any_run() -> None:
    nothing = numbers.HeterogeneousClaims({})
    a, b, units = nothing.measure("parameters", "ucf101")
    assert a.tolist() == [[pytest.approx(53_102_826 / 58_624_394), pytest.approx(a[0, 1])]]
    assert b.tolist() == [[1, 1]] and len(units) == 2
    assert numbers.st_resnet_star() == 58_624_394  # counted on ST-ResNet* itself in test_st_resnet
    assert numbers.st_resnet_star(51) - numbers.st_resnet_star() == -2 * 50 * 2049
    a, _, _ = nothing.measure("multiply-adds-vgg", "ucf101")
    assert a.round(2).tolist() == [[0.73, 0.57]]
    assert nothing.measure("oracle", "ucf101") is None
    with pytest.raises(ReproError, match="unknown measurement 'colour'"):
        nothing.measure("colour", "motionshapes")


def test_verdicts_come_out_for_every_claim() -> None:
    rows = claims.evaluate(claims.load_claims("heterogeneous"), numbers.HeterogeneousClaims({"motionshapes": shapes()}))
    ran = {row.comparison for row in rows if row.difference}
    assert {t.measure for c in claims.load_claims("heterogeneous") for t in c.tests if t.measure} <= ran
    found = rows.verdicts()
    assert found["heterogeneous-15"].word == "observed" and found["heterogeneous-14"].word == "observed"
    assert all(row.difference for row in rows if row.dataset == "motionshapes")


# ---------------------------------------------------------------- live values


def test_every_live_value_with_everything_and_with_nothing_run() -> None:
    names = {entry.live for entry in load_ledger("heterogeneous") if entry.live}
    both = {"motionshapes": shapes(), "weizmann": single("weizmann")}
    for scores in (both, {}):
        values = numbers.ledger_values(scores)
        assert values.keys() == names
        ledger("heterogeneous", values)
        assert not any(re.search(r"\bnan\b|\binf\b", text) for text in values.values())
    run = numbers.from_runs(both)
    for name, text in run.items():
        assert text.count("motionshapes: ") == 1 or name == "texture-pretraining", name
        assert NOT_RUN not in text.replace("averaged conv1: not run", ""), name
        assert "weizmann: " in text, name
    nothing = numbers.from_runs({})
    assert all(NOT_RUN in text for text in nothing.values())


def test_live_values_against_loops() -> None:
    scores = shapes()
    run = numbers.from_runs({"motionshapes": scores})

    def accuracy(method: str) -> str:
        right = [best(r) == y for s in (1, 2) for r, y in zip(
            scores.all_scores(method, s).tolist(), scores.labels(method), strict=True)]  # fmt: skip
        return f"{100 * np.mean(right):.1f} %"

    for name, methods in {
        "frozen-bn": (MAIN[1], f"{MAIN[1]}@moving-bn"),
        "temporal-depth": [f"temporal-resnet{n}" for n in (50, 101, 152)],
        "proposed-beside-grid": (PAIR, "proposed"),
        "transplant-budget": [f"temporal-bn-inception{x}" for x in ("", "-longer", "-transplanted")],
        "donor-accuracy": ["temporal-resnet50-scratch", "temporal-resnet50-transplanted"],
        "segments-and-augmentation": [f"spatial-resnet101{x}" for x in ("", "@one-segment", "@no-augmentation")],
    }.items():
        for method in methods:
            assert f"{method} {accuracy(method)}" in run[name]
    assert f"logits {accuracy(f'{PAIR}+logits')}" in run["fusion-scores"]
    like = scores.best(LIKE, "best-isomorphic")
    assert f"best like pair {like} {accuracy('best-isomorphic')}" in run["grid-of-pairs"]
    unlike = np.mean([float(scores.correct(pair)[0].mean()) for pair in UNLIKE])
    assert run["grid-of-pairs"].endswith(f"of the 12 unlike ones {100 * unlike:.1f} %")
    assert f") {accuracy(f'{PAIR}@chosen')}" in run["fusion-weight"]
    assert f"1:1.5 {accuracy(PAIR)}" in run["fusion-weight"]
    curve = {w: np.mean([slow_right(scores, seed, w) for seed in (1, 2)]) for w in WEIGHTS}
    assert run["fusion-weight"].endswith(f") {100 * max(curve.values()):.1f} %")
    assert "textures-bn-inception 90.0 %" in run["texture-pretraining"]
    gain = [scores.correct(m)[0].mean() for m in ("temporal-resnet50", "temporal-resnet50-scratch")]
    assert f"temporal-resnet50 {100 * (gain[0] - gain[1]):+.1f} points" in run["texture-pretraining"]
    recalls = []
    for seed in (1, 2):
        right = np.array(
            [best(r) == y for r, y in zip(scores.all_scores(PAIR, seed), scores.labels(PAIR), strict=True)]
        )
        recalls += [right[scores.labels(PAIR) == c].mean() for c in range(len(CLASSES))]
    assert f"{100 * np.mean(recalls):.1f} % as a mean over classes" in run["printed-share"]


def test_live_values_from_printed_cells() -> None:
    values = numbers.ledger_values({})
    assert "53,102,826 = 53.1 M; printed 182 M" in values["pair-parameters"]
    for part in ("58,624,394 parameters = 234.5 MB", "212.4 MB", "190 MB = 181 MiB"):
        assert part in values["parameters-in-bytes"]
    assert values["table-4-against-tsn"] == "UCF101 +0.4, HMDB51 -1.3 against TSN"
    assert "ResNet101 + ResNet50 93.6 ± 0.4" in values["spatial-depth-errors"]
    assert "+0.7 against ResNet50 + ResNet50" in values["spatial-depth-errors"]
    assert "966 epochs of UCF101" in values["epochs-and-rates"] and "last rate 1e-06" in values["epochs-and-rates"]
    assert "3567.7; next to it 3567 = 94.29 % and 3568 = 94.32 %" in values["printed-share"]
    assert "Table 2 (split 1) +1.4; Table 4 (three splits) UCF101 +0.5, HMDB51 +1.9" in values["averaged-isomorphic"]
    assert "ST-ResNet* 94.6 and 70.3" in values["with-trajectories"]
    assert "(64, 10, 7, 7) at L = 5; at L = 10 it has 20" in values["flow-channels"]
    assert "ResNet-152 11.28 G (printed 11.3)" in values["multiply-adds-counted"]
