"""Measurements and live values of the CCS chapter, from invented runs and live models, against plain loops."""

from __future__ import annotations

import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from fake_ccs_runs import STEPS, CCSInventor
from test_ccs_scores import shapes

from repro.errors import ReproError
from repro.metrics import NOT_RUN
from repro.papers import ccs_models as models
from repro.papers import ccs_numbers as numbers
from repro.papers.ccs_losses import parts
from repro.papers.ccs_printed import from_cells, printed_fusion, printed_margins
from repro.papers.ccs_scores import CCSScores
from repro.report import claims
from repro.report.ledger import ledger, load_ledger

PLACES = [(seed, split) for seed in (1, 2) for split in ("1", "2")]


@cache
def weizmann() -> CCSScores:
    """One seed, one split, everything run."""
    return CCSScores(CCSInventor("weizmann").all_runs((1,)))


def measured(name: str, scores: CCSScores | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = numbers.MEASURES[name](scores or shapes())
    assert found is not None
    a, b, groups = found
    assert a.shape == b.shape and a.shape[1] == len(groups)
    assert ((a >= 0) & (a <= 1)).all() and ((b >= 0) & (b <= 1)).all()
    return found


def kept(run: str, name: str, seed: int) -> list[float]:
    """An array of a derived run, splits one after the other; of both modalities the mean."""
    out: list[float] = []
    for split in ("1", "2"):
        x = shapes().runs[run, split, seed].arrays[name].astype(float)
        out += list(x if x.ndim == 1 else (x[0] + x[1]) / 2)
    return out


# ---------------------------------------------------------------- measurements


@pytest.mark.parametrize(("name", "shown", "array"), [("swapped-flow", "rgb", "swapped-flow_rgb"),
                                                      ("swapped-rgb", "flow", "swapped-rgb_flow")])  # fmt: skip
def test_an_output_with_its_own_and_with_another_clip_s_input(name: str, shown: str, array: str) -> None:
    a, b, groups = measured(name)
    expected: dict[int, list[tuple[bool, bool]]] = {1: [], 2: []}
    for seed, split in PLACES:
        run, probe = shapes().runs["all", split, seed], shapes().runs["all+probes", split, seed]
        for own, other, y in zip(run.logits(shown), probe.arrays[array], run.labels(), strict=True):
            expected[seed].append((int(np.argmax(own)) == y, int(np.argmax(other)) == y))
    for row, seed in enumerate((1, 2)):
        assert list(zip(a[row], b[row], strict=True)) == expected[seed]
    assert groups.tolist() == shapes().groups("all").tolist() and (a != b).any()


def test_convergence_is_the_first_time_that_the_loss_has_gone_nine_tenths_of_its_way() -> None:
    losses = np.array([10.0] * 2 + [6] * 3 + [1.5] * 2 + [0.4] + [0] * 42)  # the window is one iteration
    assert numbers.convergence(losses) == pytest.approx(8 / 50)
    assert numbers.convergence(-losses) == pytest.approx(8 / 50)
    long = np.repeat(losses, 4)  # 200 iterations, means of four: two of 1.5 and two of 0.4 are less than 1
    assert numbers.convergence(long) == pytest.approx(30 / 200)
    assert numbers.convergence(np.ones(50)) == pytest.approx(1 / 50)
    rng = np.random.default_rng(0)
    noisy = np.exp(-np.arange(STEPS) / 15) + 0.02 * rng.normal(size=STEPS)
    means = [(noisy[i] + noisy[i + 1]) / 2 for i in range(STEPS - 1)]
    goal = means[0] + 0.9 * (means[-1] - means[0])
    first = next(i for i, m in enumerate(means) if m <= goal)
    assert numbers.convergence(noisy) == pytest.approx((first + 2) / STEPS)


def test_larger_margins_beside_smaller_ones() -> None:
    a, b, units = measured("steps-to-converge")
    assert a.shape == (2, 4) and units.tolist() == [0, 1, 2, 3]
    for side, found in ((0, a), (1, b)):
        for row, seed in enumerate((1, 2)):
            names = [(pair[side], split) for pair in numbers.MARGIN_PAIRS for split in ("1", "2")]
            losses = [shapes().runs[name, split, seed].arrays["losses"] for name, split in names]
            assert found[row].tolist() == [numbers.convergence(x) for x in losses]
    assert all(float(a.split("-")[1]) > float(b.split("-")[1]) for a, b in numbers.MARGIN_PAIRS)


@pytest.mark.parametrize("scores", [shapes, weizmann])
def test_confusions_among_alike_classes(scores: object) -> None:
    assert callable(scores)
    s: CCSScores = scores()
    a, b, groups = measured("confused-alike", s)
    alike = [s.classes.index(c) for c in numbers.ALIKE[s.dataset]]
    for method, found in (("best-single", a), ("all", b)):
        for row, seed in zip(found, s.seeds, strict=True):
            expected = []
            for x, y in zip(s.all_scores(method, seed), s.labels("all"), strict=True):
                if y in alike:
                    expected.append(int(np.argmax(x)) in alike and int(np.argmax(x)) != y)
            assert row.tolist() == expected
    assert len(groups) == sum(y in alike for y in s.labels("all"))
    assert s.dataset == "weizmann" or a.any(), "a test of nothing"


@pytest.mark.parametrize(
    ("name", "without", "array"),
    [("modality-gap", "no-triplet", "gap"), ("foreign-neighbours", "no-triplet", "foreign"),
     ("scatter-within", "no-embedding", "within")],
)  # fmt: skip
def test_features_without_a_loss_and_with_all(name: str, without: str, array: str) -> None:
    a, b, groups = measured(name)
    for row, seed in enumerate((1, 2)):
        np.testing.assert_allclose(a[row], kept(f"all@{without}+embedding", array, seed), rtol=1e-6)
        np.testing.assert_allclose(b[row], kept("all+embedding", array, seed), rtol=1e-6)
    assert groups.tolist() == shapes().groups("all").tolist()


def test_class_means_with_the_embedding_loss_and_without() -> None:
    a, b, units = measured("distance-between")
    for row, seed in enumerate((1, 2)):
        np.testing.assert_allclose(a[row], kept("all+embedding", "between", seed), rtol=1e-6)
        np.testing.assert_allclose(b[row], kept("all@no-embedding+embedding", "between", seed), rtol=1e-6)
    assert units.tolist() == list(range(28))  # 14 classes in either split


def test_maps_on_the_actor_leave_out_clips_whose_actor_nobody_knows() -> None:
    a, b, _ = measured("cam-on-actor")
    assert a[1].tolist() == kept("all+cam", "share_map", 2) and b[1].tolist() == kept("all+cam", "share_actor", 2)
    a, b, groups = measured("cam-over-baseline", weizmann())
    run, plain = (weizmann().runs[f"{n}+cam", "1", 1].arrays["share_map"] for n in ("all", "baseline"))
    assert a[0].tolist() == run[1:-1].tolist() and b[0].tolist() == plain[1:-1].tolist()
    assert len(groups) == len(run) - 2
    without = dict(weizmann().runs)
    del without["all+cam", "1", 1].arrays["share_map"]
    try:
        assert numbers.MEASURES["cam-on-actor"](CCSScores(without)) is None
    finally:
        without["all+cam", "1", 1].arrays["share_map"] = run


def test_only_seeds_that_all_runs_have_are_compared() -> None:
    runs = dict(shapes().runs)
    del runs["all@no-triplet+embedding", "2", 1]
    del runs["all@alpha1-0.2", "1", 2]
    scores = CCSScores(runs)
    a, b, _ = measured("modality-gap", scores)
    assert a.shape[0] == 1
    np.testing.assert_allclose(b[0], kept("all+embedding", "gap", 2), rtol=1e-6)
    assert measured("steps-to-converge", scores)[0].shape == (1, 4)


def test_nothing_is_measured_without_runs() -> None:
    nothing = CCSScores({}, "motionshapes", shapes().classes)
    for name, measure in numbers.MEASURES.items():
        assert measure(nothing) is None, name
    assert numbers.MEASURES["confused-alike"](CCSScores({}, "ucf101", ["a"])) is None


def test_counts_are_measured_without_any_run() -> None:
    nothing = numbers.CCSClaims({})
    a, b, units = nothing.measure("parameters", "ucf101") or ()
    assert a.tolist() == [[pytest.approx(24_284_773 / 20_769_482), pytest.approx(28_274_917 / 24_759_626)]]
    assert b.tolist() == [[1, 1]] and len(units) == 2
    a, _, _ = nothing.measure("multiply-adds", "ucf101") or ()
    assert a.round(3).tolist() == [[1.040, 1.008]]
    assert nothing.measure("modality-gap", "ucf101") is None
    with pytest.raises(ReproError, match="unknown measurement 'colour'"):
        nothing.measure("colour", "motionshapes")


def test_verdicts_come_out_for_every_claim() -> None:
    both = {"motionshapes": shapes(), "weizmann": weizmann()}
    rows = claims.evaluate(claims.load_claims("ccs"), numbers.CCSClaims(both))
    ran = {row.comparison for row in rows if row.difference}
    assert {t.measure for c in claims.load_claims("ccs") for t in c.tests if t.measure} <= ran
    for row in rows:
        assert (row.difference is not None) == (row.dataset in both or row.test.kind in ("counted", "cells"))
    found = rows.verdicts()
    assert found["ccs-14"].word == NOT_RUN
    words = [row.verdict.word for row in rows if row.test.kind == "counted"]
    assert words == ["opposite observed", "observed"]


# ---------------------------------------------------------------- live values


def test_every_live_value_with_everything_and_with_nothing_run() -> None:
    names = {entry.live for entry in load_ledger("ccs") if entry.live}
    both = {"motionshapes": shapes(), "weizmann": weizmann()}
    for scores in (both, {}):
        values = numbers.ledger_values(scores)
        assert values.keys() == names
        ledger("ccs", values)
        assert not any(re.search(r"\bnan\b|\binf\b", text) for text in values.values())
    for name, text in numbers.from_runs(both).items():
        assert text.count("motionshapes: ") == text.count("weizmann: ") == 1 and NOT_RUN not in text, name
    assert all(text.endswith(NOT_RUN) for text in numbers.from_runs({}).values())


def test_live_values_against_loops() -> None:
    scores = shapes()
    run = numbers.from_runs({"motionshapes": scores})

    def accuracy(predicted: list[np.ndarray]) -> str:
        labels = [shapes().runs["all", split, seed].labels() for seed, split in PLACES]
        return f"{100 * np.mean(np.concatenate([p == y for p, y in zip(predicted, labels, strict=True)])):.1f} %"

    def of(name: str, *outputs: str) -> str:
        found = [[scores.runs[name, split, seed].logits(m) for m in outputs] for seed, split in PLACES]
        return accuracy([np.sum(x, axis=0).argmax(1) for x in found])

    for name, methods in {
        "scalar-reading": ("cb", "cb@scalar"),
        "gradient-across": ("cb", "cb@own"),
        "block-place": ("cb", "cb@pooled"),
        "choice-of-positive": ("all", "all@same-clip"),
        "margins": ("all", "all@alpha1-0.2", "all@alpha3-1.2", "all@margins-0.8-0.5-1.2"),
        "margins-and-speed": ("all@alpha1-0.2", "all@alpha1-0.5", "all@alpha3-0.4", "all@alpha3-1.2"),
        "aggregations": ("all", "all@maximum", "all@product", "all@concatenation"),
        "backbone-sizes": ("all", "all@vgg16", "all@resnet50"),
        "relations": ("baseline", "trn-baseline", "trn-all"),
        "joins": ("cb", "cb@concatenation", "cb@average"),
        "test-groups": ("all", "all+groups"),
    }.items():
        for method in methods:
            assert f"{method} {of(method, 'rgb', 'flow')}" in run[name], (name, method)
    binding = scores.correct("cb@own", {"factor": "binding"})
    assert binding is not None and f"(binding {100 * binding[0].mean():.1f} %)" in run["gradient-across"]
    assert run["relations"].count("(order ") == 3 and run["fusion-weight"].count("%") == 2
    for changed, shown in (("flow", "rgb"), ("rgb", "flow")):
        probe = {
            way: accuracy(
                [scores.runs["cb+probes", x, s].arrays[f"{way}-{changed}_{shown}"].argmax(1) for s, x in PLACES]
            )
            for way in ("swapped", "no")
        }
        expected = f"cb:{shown} {of('cb', shown)}, with another clip's {changed} {probe['swapped']}, with none "
        assert expected + probe["no"] in run["other-input"]
    late = [scores.runs["all+probes", x, s].arrays["late-product"].argmax(1) for s, x in PLACES]
    assert run["aggregations"].endswith(f"product {accuracy(late)}")
    share = np.mean([numbers.convergence(scores.runs["all@alpha1-0.2", x, s].arrays["losses"]) for s, x in PLACES])
    assert f"0.9 of the loss's way after {100 * share:.0f} % of the steps; all@alpha1-0.5" in run["margins-and-speed"]

    def right(name: str, *outputs: str) -> float:
        return float(of(name, *outputs).removesuffix(" %"))

    for name in ("baseline", "all"):
        gain = right(name, "rgb", "flow") - max(right(name, m) for m in ("rgb", "flow"))
        found = re.search(rf"\b{name} ([+-]\d+\.\d)", run["gain-by-fusing"].partition("here")[2])
        assert found and float(found[1]) == pytest.approx(gain, abs=0.15)


def test_live_values_from_printed_cells() -> None:
    values = from_cells()
    assert values["last-rates"] == "dropped once: 1e-04; every 50 of 400 epochs: 1e-10 (7 drops)"
    assert "Table 1 60.5, 62.1, 77.2; Table 3, TSN CB 60.5, 62.1, 76.3" in values["cells-of-cb"]
    for part in ("table +11.6, text +12.3 (which needs 98.1)", "+9.4, text +9.7 (which needs 97.7)", "82.3)"):
        assert part in values["stated-gains"]
    assert "10 of the 10 cells" in values["quoted-baselines"] and "I3D's 6, 6 are" in values["quoted-baselines"]
    assert values["block-on-i3d"].endswith("TSN UCF-101 +0.4, HMDB-51 +7.8; I3D UCF-101 -0.7, HMDB-51 +1.2")
    for part in ("RGB I3D UCF-101 +2.2, HMDB-51 +10.3", "flow TSN UCF-101 -0.5", "flow I3D UCF-101 -3.5, HMDB-51 +0.4"):
        assert part in values["output-gains"]
    assert "96.8 (UCF-101, RGB)" in values["best-one-stream"] and "[5] has 68.2" in values["best-one-stream"]
    assert "82.3, 79.1, 93.4 here, 82.29, 79.05, 93.46" in values["st-resnet-elsewhere"]
    assert "90.6, 58.2 here, 92.5, 65.4" in values["fusion-elsewhere"]
    assert "4 of 3783 clips, standard error 0.26" in values["lead-over-published"]
    assert "49 of 1530 clips, standard error 0.98" in values["lead-over-published"]
    assert "68.5 here" in values["tsn-elsewhere"] and "68.5 in heterogeneous" in values["tsn-elsewhere"]
    assert printed_margins().endswith("0.2 against 0.3 -1.1, 0.3 against 0.5 +1.7")
    assert printed_fusion().endswith(
        "TSN CB +14.2, CS +5.7, All +12.1; I3D Baseline +4.5, CB +11.4, CS +12.4, All +5.9"
    )


def test_live_values_from_models() -> None:
    values = models.from_models()
    assert "3 snippets 147 positions, 55 M" in values["positions"] and "25 snippets 1,225" in values["positions"]
    assert "s.d. 22.6; too large for float16 31 %, float32 0.0044 %" in values["overflow-share"]
    assert "3.1 M, 15 %" in values["block-parameters"] and "2.1 M, 10 %" in values["block-parameters"]
    block, layer = 1024 * 512 + 512 + 512 * 101 + 101, 1024 * 101 + 101
    assert values["head-parameters"] == (
        f"one shared block {block / 1e6:.2f} M, a layer per stream {2 * layer / 1e6:.2f} M, a block per stream "
        f"{2 * block / 1e6:.2f} M"
    )
    raw, unit = (float(re.search(rf"{kind} ([\d.]+)", values["feature-distances"])[1])  # type: ignore[index]
                 for kind in ("as they are", "at unit length"))  # fmt: skip
    variance = 0.5 - 1 / (2 * math.pi)  # of a rectified normal number, whose square is 1/2 and mean 1 / sqrt(2 pi)
    assert raw == pytest.approx(2 * 1024 * variance, rel=0.01)
    assert unit == pytest.approx(2 - 2 * (1 / (2 * math.pi)) / 0.5, rel=0.01)
    assert models.scalar_reading().startswith("with softmax over all pairs Y = 1,")
    assert "24.3 M parameters and 13.5 G multiply-adds" in models.sizes("TSN, All")


def test_what_crosses_in_each_reading() -> None:
    norms = {r: models.jacobian_norm(*r) for r in
             (("cross", "softmax"), ("own", "softmax"), ("own", "none"), ("scalar", "softmax"))}  # fmt: skip
    assert norms["own", "softmax"] < 1e-9 and norms["scalar", "softmax"] < 1e-9
    assert norms["cross", "softmax"] > 0.1 and norms["own", "none"] > 0.1
    assert "own features, softmax 0, own features, no normaliser" in models.gradient_across()


def test_sums_grow_with_the_batch_and_means_do_not() -> None:
    norms = {(n, r): models.gradient_norm(n, 4, r) for n in (8, 16) for r in ("mean", "sum")}
    assert norms[16, "sum"] > 1.3 * norms[8, "sum"] and norms[16, "mean"] < norms[8, "mean"]
    # Against finite differences along the gradient's own direction.
    z_f, z_o, labels = models._batch(8, 4)
    losses = models.Losses(reduction="mean")

    def total(z: torch.Tensor) -> torch.Tensor:
        dummy = {"rgb": torch.zeros(32, 8), "flow": torch.zeros(32, 8), "rgb.feature": z[0], "flow.feature": z[1]}
        terms = parts(dummy, labels, losses)
        return losses.lambda1 * terms.triplet + losses.lambda2 * terms.embedding

    z = torch.stack([z_f, z_o]).requires_grad_()
    (slope,) = torch.autograd.grad(total(z), z)
    step = 1e-4 * slope / slope.norm()
    with torch.no_grad():
        change = float(total(z + step) - total(z - step)) / 2e-4
    assert norms[8, "mean"] == pytest.approx(change, rel=1e-3)
