"""Numbers of the comparison: gains, costs, what networks can tell by construction, claims and ledger."""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch
from fake_comparison_runs import SECONDS, ComparisonInventor
from fakes import FakeStore, make_clips

from repro.data.motionshapes import records
from repro.metrics import chosen_elsewhere, paired_difference
from repro.models.count import parameters
from repro.papers.comparison_experiments import JOINT, METHODS, TaughtStream, networks, preset
from repro.papers.comparison_numbers import (
    IDEAS,
    MEASURES,
    OWN,
    WAYS,
    ComparisonClaims,
    Structure,
    answer,
    best_way,
    clipped_share,
    costs,
    difference,
    gain,
    ledger_values,
    lively,
    own_gain,
    reported_order,
    reversed_order,
    structure,
    swapped,
    training_seconds,
)
from repro.papers.comparison_printed import PROTOCOLS, best_printed, printed
from repro.papers.comparison_scores import ComparisonScores
from repro.report.claims import evaluate, load_claims
from repro.report.ledger import ledger

RUNS = ComparisonInventor("motionshapes").all_runs((1, 2, 3))
SCORES = ComparisonScores(RUNS)
WEIZMANN = ComparisonScores(ComparisonInventor("weizmann").all_runs((1, 2, 3), ("manifest",)))
FACTOR = {r.id: r.tags["factor"] for r in records()}
NOTHING = ComparisonScores({}, "motionshapes", SCORES.classes)


def logits(name: str, array: str, seed: int) -> np.ndarray:
    return RUNS[name, "1", seed].arrays[array].astype(float)


# ---------------------------------------------------------------- gains


def test_a_gain_is_the_paired_difference_to_two_plain_streams() -> None:
    left, right = SCORES.correct("ccs"), SCORES.correct("two-stream")
    assert left and right
    assert gain(SCORES, "ccs") == paired_difference(left[0], right[0], left[1])
    found = gain(SCORES, "two-stream", {"factor": "order"})
    assert found and found.mean == 0
    assert gain(NOTHING, "ccs") is None


def test_only_seeds_of_both_are_compared() -> None:
    part = ComparisonScores({key: run for key, run in RUNS.items() if key[0] != "stilt" or key[2] == 2})
    left, right = SCORES.correct("stilt", None, [2]), SCORES.correct("two-stream", None, [2])
    found = difference(part, "stilt", "two-stream")
    assert left and right and found == paired_difference(left[0], right[0], left[1]) and found.seeds == 1


def test_a_chapter_s_own_gain() -> None:
    chapters = {OWN["ccs"][0]: {"motionshapes": _Renamed(RUNS)}}
    found = own_gain(chapters, "ccs", "motionshapes")
    assert found == gain(SCORES, "ccs")
    assert own_gain(chapters, "ccs", "weizmann") is None and own_gain(chapters, "stilt", "motionshapes") is None


class _Renamed(ComparisonScores):
    """The same runs under the names of the CCS chapter."""

    methods: ClassVar = {OWN["ccs"][1]: ("ccs",), OWN["ccs"][2]: ("frames", "flow")}

    def scores(self, method: str, split: str, seed: int, part: str = "test") -> np.ndarray:
        return SCORES.scores({OWN["ccs"][1]: "ccs", OWN["ccs"][2]: "two-stream"}[method], split, seed, part)


# ---------------------------------------------------------------- costs


def test_costs_of_a_pair_are_those_of_both_and_a_teacher_is_gone_at_the_test() -> None:
    found = costs("small", classes=14)
    assert tuple(found) == tuple(METHODS)
    for one, two, both in (("frames", "flow", "two-stream"), ("frames", "flow", "cross-enhancement")):
        assert found[both].parameters == found[one].parameters + found[two].parameters
        assert found[both].multiply_adds == found[one].multiply_adds + found[two].multiply_adds
    teacher = found["cross-enhancement"].training - found["two-stream"].training
    assert teacher == found["flow"].training / 3  # once forward, where a training has forward and twice that backward
    model = networks(preset("small", "motionshapes"))["taught-frames"].build(14)
    assert isinstance(model, TaughtStream) and parameters(model) > parameters(model.student)
    assert parameters(model.student) == found["frames"].parameters


def test_a_step_costs_three_times_its_forward_pass() -> None:
    found, scale = costs("small", classes=14), preset("small", "motionshapes")
    assert found["frames"].training * 8 == found["frames"].multiply_adds * 3 * scale.sampling.snippets  # quick has 8


def test_seconds_of_all_trainings_of_a_method() -> None:
    found = training_seconds(SCORES, "cross-enhancement")
    assert found is not None and found.tolist() == [2 * SECONDS] * 3
    assert training_seconds(NOTHING, "ccs") is None


# ---------------------------------------------------------------- by construction


def test_what_holds_for_any_weights() -> None:
    separate = dict.fromkeys(("frames", "flow", "two-stream", "heterogeneous", "cross-enhancement"), True)
    for method, found in structure().items():
        assert found == Structure(separate.get(method, False), method != "st-resnet"), method


def test_a_filter_over_time_must_leave_its_first_weights_to_tell_the_order() -> None:
    """ST-ResNet's filters begin as a mean, which reads every order alike where it reaches over all snippets."""
    network = networks(preset("smoke", "motionshapes"))["st-resnet"]
    torch.manual_seed(0)
    model = network.build(5)
    clips = {"rgb": torch.randn(1, 3, 3, 32, 32), "flow": torch.randn(1, 3, 10, 32, 32)}
    back = {name: x.flip(1) for name, x in clips.items()}
    assert torch.allclose(answer(model, network, clips), answer(model, network, back))
    lively(model)
    assert not torch.allclose(answer(model, network, clips), answer(model, network, back))


# ---------------------------------------------------------------- measurements


def test_the_best_and_the_worst_are_chosen_elsewhere() -> None:
    found = best_way(SCORES, "binding")
    assert found
    every = []
    for method in WAYS:
        correct = SCORES.correct(method, {"factor": "binding"})
        assert correct
        every.append(correct[0].astype(float))
    groups = found[2]
    names = sorted(set(groups))
    for seed, (clip, group) in itertools.product(range(3), enumerate(groups)):
        others = [s for s in range(3) if s != seed]
        far = [i for i, g in enumerate(groups) if names.index(g) % 2 != names.index(group) % 2]
        mean = [np.mean([[x[s, i] for i in far] for s in others]) for x in every]
        assert found[0][seed, clip] == every[int(np.argmax(mean))][seed, clip]
        assert found[1][seed, clip] == every[int(np.argmin(mean))][seed, clip]
    assert best_way(NOTHING) is None and best_way(WEIZMANN, "binding") is None
    assert chosen_elsewhere(np.ones((2, 1, 4)), np.arange(4)) is None  # one training: no other to choose on
    assert chosen_elsewhere(np.ones((2, 3, 4)), np.zeros(4)) is None


def test_the_printed_order_pair_by_pair() -> None:
    found = reported_order(SCORES)
    assert found
    ranked = list(best_printed("UCF101"))
    assert ranked == ["ccs", "stilt", "heterogeneous", "cross-enhancement", "st-resnet"]
    gaps = []
    for a, b in itertools.combinations(ranked, 2):
        left, right = SCORES.correct(a), SCORES.correct(b)
        assert left and right
        gaps.append(left[0].astype(float) - right[0])
    assert np.allclose(found[0] - found[1], np.mean(gaps, axis=0))
    assert reported_order(NOTHING) is None


@pytest.mark.parametrize("network", JOINT)
@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_an_output_with_its_own_and_with_another_clip_s_input(network: str, stream: str) -> None:
    found = swapped(SCORES, network, stream)
    assert found
    labels = SCORES.labels(network)
    for seed in (1, 2, 3):
        own = SCORES.scores(f"{network}:{stream}", "1", seed).argmax(1) == labels
        other = logits(f"{network}+probes", f"swapped_{stream}", seed).argmax(1) == labels
        assert np.array_equal(found[0][seed - 1], own) and np.array_equal(found[1][seed - 1], other)
    assert swapped(NOTHING, network, stream) is None


def test_the_order_of_snippets_is_reversed_for_clips_of_that_factor() -> None:
    found = reversed_order(SCORES, "st-resnet")
    assert found
    ids, labels = SCORES.ids("st-resnet"), SCORES.labels("st-resnet")
    keep = [i for i, name in enumerate(ids) if FACTOR[name] == "order"]
    classes = sorted({int(labels[i]) for i in keep})
    assert found[0].shape == (3, len(keep)) and len(classes) == 2
    for seed in (1, 2, 3):
        mean = (
            logits("st-resnet+probes", "reversed_rgb", seed) + logits("st-resnet+probes", "reversed_flow", seed)
        ) / 2
        right = [classes[int(mean[i, classes].argmax())] == labels[i] for i in keep]
        assert found[1][seed - 1].tolist() == right
    assert found[0].mean() == SCORES.correct("st-resnet", {"factor": "order"})[0].mean()  # type: ignore[index]
    assert reversed_order(WEIZMANN, "st-resnet") is None


def test_every_claim_is_tested() -> None:
    claims = load_claims("comparison")
    assert {t.measure for c in claims for t in c.tests if t.kind == "measured"} == set(MEASURES)
    rows = evaluate(claims, ComparisonClaims({"motionshapes": SCORES, "weizmann": WEIZMANN}))
    ran = {row.dataset for row in rows if row.difference}
    assert ran == {"motionshapes", "weizmann"} and set(rows.verdicts()) == {f"comparison-{n}" for n in (1, 2, 3)}
    empty = evaluate(claims, ComparisonClaims({"motionshapes": NOTHING}))
    assert all(row.difference is None for row in empty)


# ---------------------------------------------------------------- ledger


def test_every_live_value_with_everything_and_with_nothing_run() -> None:
    found = ledger_values({"motionshapes": SCORES, "weizmann": WEIZMANN}, {}, "0.1 %")
    ledger("comparison", found)
    assert "frames" not in found["averaged"] and "motionshapes: two-stream" in found["averaged"]
    assert "ResNet-50 here on motionshapes" in found["leading-stream"] and "shaken" in found["leading-stream"]
    none = ledger_values({"motionshapes": NOTHING}, {}, "not run")
    ledger("comparison", none)
    assert none["two-protocols"] == none["averaged"] == "not run"


def test_live_values_from_printed_cells() -> None:
    found = ledger_values({}, {}, "not run")
    assert "heterogeneous 94.0 / 68.5" in found["tsn"] and "stilt 94.2 / 69.4" in found["tsn"]
    assert "ccs 90.6 / 58.2" in found["fusion"] and found["fusion"].count("92.5 / 65.4") == 3
    assert "19.6 G in st_resnet, 15.3 G in heterogeneous; counted 15.5 G" in found["vgg"]
    assert {p.method for p in PROTOCOLS} == set(IDEAS) - {"two-stream"}
    assert printed(PROTOCOLS[0].place, "Kinetics") is None and printed(PROTOCOLS[-1].place, "Kinetics") == 72.4


def test_accuracies_of_both_averages_by_hand() -> None:
    text = ledger_values({"motionshapes": SCORES}, {}, "-")["averaged"]
    plain, mean = (SCORES.correct(m) for m in ("stilt", "stilt+softmax"))
    assert plain and mean
    assert f"stilt {100 * plain[0].mean():.1f} and {100 * mean[0].mean():.1f} %" in text


def test_the_share_of_clipped_vectors() -> None:
    class Clipped(FakeStore):
        def open(self, clip_id: str):  # type: ignore[no-untyped-def]
            stored = super().open(clip_id)
            codes = torch.full((4, 2, 3, 3), 128, dtype=torch.uint8)
            codes[0, 0, 0, 0], codes[1, 1, 0, 0] = 255, 0
            codes[2, :, 1, 1] = 0  # both components of one vector
            return _Stored(codes) if stored else None

    assert clipped_share(Clipped(), [c.id for c in make_clips(2)]) == pytest.approx(3 / 36)


class _Stored:
    def __init__(self, codes: torch.Tensor) -> None:
        self.codes, self.n_flow = codes, len(codes)

    def flow(self, positions: range) -> torch.Tensor:
        return self.codes[list(positions)]

    def close(self) -> None:
        pass
