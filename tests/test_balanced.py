"""Balanced batches: N classes of M clips, the same whatever loads them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from fakes import SAMPLING, FakeStore, make_clips

from repro.data.balanced import BalancedOrder
from repro.data.clips import TrainingSamples
from repro.errors import ReproError

LABELS = [0] * 9 + [3] * 4 + [5] * 2 + [7] * 6 + [9]  # in any order and with gaps; 5 has two clips, 9 one
SHUFFLED = list(np.random.default_rng(0).permutation(LABELS))


def order(classes: int = 3, instances: int = 4, seed: int = 1, first: int = 0, last: int = 60) -> BalancedOrder:
    return BalancedOrder(SHUFFLED, classes, instances, seed, first, last)


def test_each_batch_has_n_classes_of_m_clips_side_by_side() -> None:
    batches = list(order())
    assert len(batches) == len(order()) == 60
    for batch in batches:
        assert len(batch) == 12
        labels = [SHUFFLED[position] for _, position in batch]
        assert len(set(labels)) == 3
        for start in range(0, 12, 4):
            assert len(set(labels[start : start + 4])) == 1


def test_clips_of_large_classes_come_once_a_batch_and_those_of_small_ones_equally_often() -> None:
    sizes, seen = Counter(SHUFFLED), set()
    for batch in order():
        times = Counter(position for _, position in batch)
        for position, count in times.items():
            label = SHUFFLED[position]
            seen.add(label)
            assert 4 // sizes[label] <= count <= -(-4 // sizes[label])
    assert seen == set(sizes)


def test_no_sample_comes_twice_so_that_every_crop_is_its_own() -> None:
    items = [item for batch in order() for item in batch]
    assert len(set(items)) == len(items)


def test_classes_and_clips_are_drawn_evenly() -> None:
    batches = list(order(last=2000))
    classes = Counter(SHUFFLED[p] for batch in batches for _, p in batch[::4])
    assert sum(classes.values()) == 6000
    assert all(abs(n - 1200) < 5 * (2000 * 0.6 * 0.4) ** 0.5 for n in classes.values())
    nine = [p for p, label in enumerate(SHUFFLED) if label == 0]
    clips = Counter(p for batch in batches for _, p in batch if p in nine)
    assert all(abs(n - classes[0] * 4 / 9) < 5 * (classes[0] * 4 / 9) ** 0.5 for n in clips.values())


def test_a_batch_depends_on_seed_and_number_only() -> None:
    whole = list(order())
    assert list(order(first=17, last=23)) == whole[17:23]  # a restart
    assert list(order()) == whole
    assert list(order(seed=2)) != whole
    assert [order().batch(i) for i in (5, 0)] == [whole[5], whole[0]]
    assert list(order(first=9, last=3)) == []
    assert len(order(first=9, last=3)) == 0


def test_loading_order_changes_nothing() -> None:
    """So the number of loader processes does not either: each asks for whole batches, in an order of its own."""
    clips = make_clips(8, classes=3)
    batches = BalancedOrder([c.label for c in clips], 2, 4, 1, 0, 3)

    def samples() -> TrainingSamples:
        return TrainingSamples(FakeStore(), clips, SAMPLING, seed=1)  # type: ignore[arg-type]

    loader = torch.utils.data.DataLoader(samples(), batch_sampler=batches)
    for i, together in reversed(list(enumerate(loader))):
        fresh = samples()
        alone = [fresh[item] for item in reversed(batches.batch(i))][::-1]
        assert together.keys() == {"rgb", "flow", "label"}
        for name, x in together.items():
            assert torch.equal(x, torch.stack([sample[name] for sample in alone]))
        assert len(together["label"].unique()) == 2
        assert len(together["rgb"]) == len(together["flow"]) == 8  # both modalities of each of N x M clips


def test_repeats_of_a_clip_have_crops_of_their_own() -> None:
    clips = make_clips(2, classes=1)
    samples = TrainingSamples(FakeStore(), clips, SAMPLING, seed=1)  # type: ignore[arg-type]
    (batch,) = BalancedOrder([0, 0], 1, 6, 1, 0, 1)
    assert Counter(position for _, position in batch) == {0: 3, 1: 3}
    views = [samples[item]["rgb"] for item in batch if item[1] == 0]
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])


@pytest.mark.parametrize("classes", [6, 7, 13])
def test_where_there_are_fewer_classes_they_come_again_with_other_clips(classes: int) -> None:
    sizes = Counter(SHUFFLED)
    batches = list(order(classes=classes))
    for batch in batches:
        assert len(batch) == 4 * classes
        firsts = Counter(SHUFFLED[position] for _, position in batch[::4])
        assert set(firsts) == set(sizes)
        for label, blocks in firsts.items():
            assert blocks in (classes // 5, -(-classes // 5))
            times = Counter(position for _, position in batch if SHUFFLED[position] == label)
            assert len(times) == min(4 * blocks, sizes[label])
            assert set(times.values()) <= {4 * blocks // sizes[label], -(-4 * blocks // sizes[label])}
    items = [item for batch in batches for item in batch]
    assert len(set(items)) == len(items)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ReproError, match="no clip to make batches of"):
        BalancedOrder([], 2, 2, 1, 0, 1)
    for classes, instances in ((0, 4), (3, 0)):
        with pytest.raises(ReproError, match="both must be at least 1"):
            order(classes=classes, instances=instances)
