"""Test protocols: the right clips in the right order, whatever their size, and views that are averaged."""

import numpy as np
import pytest
import torch
from fakes import SAMPLING, FakeStore, TinyNet, make_clips
from torch import nn

from repro.data.clips import TestSamples, TestViews
from repro.errors import ReproError
from repro.evaluation import PROTOCOLS, batches_of_views, evaluate, protocol
from repro.training import to_network

SIZES = [(9, 16, 20), (9, 16, 20), (7, 16, 24), (9, 16, 20), (5, 14, 14), (5, 14, 14), (5, 14, 14)]
CLIPS = make_clips(len(SIZES))
STORE = FakeStore({c.id: size for c, size in zip(CLIPS, SIZES, strict=True)})


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return TinyNet(3)


def one_by_one(model: nn.Module, views: TestViews) -> dict[str, np.ndarray]:
    """The slow version: a clip and a view at a time."""
    model.eval()
    rows: dict[str, list[np.ndarray]] = {}
    samples = TestSamples(STORE, CLIPS, SAMPLING, views)
    for i in range(len(CLIPS)):
        sample = samples[i]
        each: dict[str, list[np.ndarray]] = {}
        for v in range(len(sample["rgb"])):
            with torch.no_grad():
                inputs = to_network({k: x[v : v + 1] for k, x in sample.items()}, torch.device("cpu"), SAMPLING)
                for name, logits in model(**inputs).items():
                    each.setdefault(name, []).append(logits[0].numpy())
        for name, logits in each.items():
            rows.setdefault(name, []).append(np.mean(logits, axis=0))
    return {name: np.stack(parts) for name, parts in rows.items()}


@pytest.mark.parametrize("views", ["centre", "ten", "full", "full+flip"])
def test_batches_give_what_single_clips_give(model, views):
    views = TestViews("x", 2, views)
    found, expected = evaluate(model, STORE, CLIPS, SAMPLING, views), one_by_one(model, views)
    assert found.keys() == expected.keys() == {"spatial", "temporal"}
    for name in found:
        assert found[name].shape == (7, 3)
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_rows_are_in_the_order_of_the_clips(model):
    views = TestViews("x", 2, "full")
    whole = evaluate(model, STORE, CLIPS, SAMPLING, views)["spatial"]
    shuffled = [4, 0, 6, 2, 5, 1, 3]
    again = evaluate(model, STORE, [CLIPS[i] for i in shuffled], SAMPLING, views)["spatial"]
    np.testing.assert_allclose(again, whole[shuffled], atol=1e-5)
    assert len(np.unique(whole.round(6), axis=0)) == 7, "clips must be told apart for this test to mean anything"


def test_loader_processes_change_nothing(model):
    views = TestViews("x", 2, "full")
    alone = evaluate(model, STORE, CLIPS, SAMPLING, views)
    several = evaluate(model, STORE, CLIPS, SAMPLING, views, workers=1)
    assert all(np.array_equal(alone[k], several[k]) for k in alone)


def test_batches_hold_equal_shapes_and_a_bounded_number_of_snippets():
    samples = TestSamples(STORE, CLIPS, SAMPLING, TestViews("x", 2, "full+flip"))
    assert [len(b["rgb"]) for b in batches_of_views(samples)] == [2, 1, 1, 3]
    assert [len(b["rgb"]) for b in batches_of_views(samples, at_once=8)] == [2, 1, 1, 2, 1]
    assert [len(b["rgb"]) for b in batches_of_views(samples, at_once=1)] == [1] * 7
    same = TestSamples(FakeStore(), make_clips(11), SAMPLING, TestViews("x", 2, "full"))
    assert [len(b["rgb"]) for b in batches_of_views(same)] == [8, 3]


def test_a_network_is_tested_without_dropout_and_left_so(model):
    model.train()
    views = TestViews("x", 2, "full")
    first = evaluate(model, STORE, CLIPS, SAMPLING, views)
    second = evaluate(model, STORE, CLIPS, SAMPLING, views)
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert not model.training


def test_progress_counts_clips(model):
    seen = []
    evaluate(model, STORE, CLIPS, SAMPLING, TestViews("x", 2, "full"), progress=lambda *at: seen.append(at))
    assert seen == [(2, 7), (3, 7), (4, 7), (7, 7)]


@pytest.mark.parametrize("views", ["ten", "full+flip", "full"])
def test_scores_of_a_mirrored_view_are_counted_for_the_classes_they_have_in_the_mirror(model, views):
    """Against one view at a time, its columns put in order one by one."""
    protocol_, mirrored = TestViews("x", 2, views), (2, 1, 0)
    samples = TestSamples(STORE, CLIPS, SAMPLING, protocol_)
    expected: dict[str, list] = {}
    for i in range(len(CLIPS)):
        flips = [view.flip for view in protocol_.of(16, 20, SAMPLING.crop)]
        total: dict[str, list] = {}
        for v, flip in enumerate(flips):
            one = {k: x[v : v + 1] for k, x in samples[i].items()}
            with torch.no_grad():
                outputs = model.eval()(**to_network(one, torch.device("cpu"), SAMPLING))
            for name, x in outputs.items():
                total.setdefault(name, []).append([float(x[0, mirrored[c] if flip else c]) for c in range(3)])
        for name, rows in total.items():
            expected.setdefault(name, []).append(np.mean(rows, axis=0))
    found = evaluate(model, STORE, CLIPS, SAMPLING, protocol_, mirrored=mirrored)
    for name, rows in expected.items():
        assert found[name] == pytest.approx(np.array(rows), abs=1e-5)
    plain = evaluate(model, STORE, CLIPS, SAMPLING, protocol_)
    same = evaluate(model, STORE, CLIPS, SAMPLING, protocol_, mirrored=(0, 1, 2))
    assert all((plain[name] == same[name]).all() for name in plain), "to the bit"


def test_what_a_protocol_means():
    snippets_and_views = {"25x10": (25, 10), "25fc": (25, 2), "25x1": (25, 1), "quick": (8, 1), "smoke": (2, 1)}
    snippets_and_views |= {"chain64": (64, 1), "chain16": (16, 1), "chain5": (5, 1)}
    assert snippets_and_views.keys() == PROTOCOLS.keys()
    for name, (snippets, views) in snippets_and_views.items():
        sample = TestSamples(FakeStore(), make_clips(1), SAMPLING, protocol(name))[0]
        assert sample["flow"].shape[:3] == (views, snippets, 6)


def test_errors(model):
    with pytest.raises(ReproError, match=r"unknown protocol '25x100' \(did you mean '25x10'\?\): use one of 25x10, "):
        protocol("25x100")
    with pytest.raises(ReproError, match="no clip to test"):
        evaluate(model, STORE, [], SAMPLING, protocol("quick"))
