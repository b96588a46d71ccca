"""Frame sampling: golden values on small numbers, then rules that hold for every length."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from repro.data.sampling import dense_indices, sample_rng, segment_indices, spaced_indices, strided_indices
from repro.errors import ReproError

LENGTHS = [1, 2, 3, 4, 5, 7, 10, 11, 25, 29, 64, 100, 181, 706]


def test_golden_segment_centres():
    assert segment_indices(10, 3).tolist() == [1, 5, 8]
    assert segment_indices(40, 3, window=6).tolist() == [5, 17, 29]
    assert segment_indices(4, 3, window=6).tolist() == [0, 0, 0]  # shorter than the window
    assert segment_indices(2, 5).tolist() == [0, 0, 1, 1, 1]  # fewer starts than segments


def test_golden_spaced():
    assert spaced_indices(10, 4).tolist() == [0, 3, 6, 9]
    assert spaced_indices(15, 4, window=6).tolist() == [0, 3, 6, 9]
    assert spaced_indices(10, 1).tolist() == [4]
    assert spaced_indices(3, 5).tolist() == [0, 0, 1, 1, 2]


def test_golden_dense():
    assert dense_indices(10, 4).tolist() == [3, 4, 5, 6]
    assert dense_indices(3, 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert dense_indices(3, 5, window=2).tolist() == [0, 1, 0, 1, 0]  # frame 2 begins no flow field


def test_golden_strided():
    assert strided_indices(100, 5, (5, 15)).tolist() == [19, 34, 49, 64, 79]
    assert strided_indices(41, 5, (5, 15)).tolist() == [0, 10, 20, 30, 40]  # the largest stride that fits
    assert strided_indices(13, 5, (5, 15)).tolist() == [0, 3, 6, 9, 12]  # below the range
    assert strided_indices(8, 5, (5, 15)).tolist() == [1, 2, 3, 4, 5]  # stride 1, centred
    assert strided_indices(3, 7, 15).tolist() == [0, 1, 2, 1, 0, 1, 2]  # reflected
    assert strided_indices(1, 3, 15).tolist() == [0, 0, 0]
    assert strided_indices(9, 1, 15).tolist() == [4]


def test_generator_depends_on_all_three_and_stays_the_same():
    keys = [(0, 0, "a/b"), (1, 0, "a/b"), (0, 1, "a/b"), (0, 0, "a/c"), (0, 0, "ä (1)+&!")]
    draws = [int(sample_rng(*key).integers(1 << 30)) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws[0] == 574195721  # frozen: recorded runs depend on it


def slow_centres(starts: int, segments: int) -> list[int]:
    edges = [Fraction(k * starts, segments) for k in range(segments + 1)]
    return [int((low + high) / 2) for low, high in itertools.pairwise(edges)]


def slow_owners(starts: int, segments: int) -> list[set[int]]:
    """The starts of each segment by counting: start s belongs to the last segment that begins at or before s."""
    begins = [int(Fraction(k * starts, segments)) for k in range(segments)]
    owned = [
        {s for s in range(starts) if low <= s < high} for low, high in zip(begins, [*begins[1:], starts], strict=True)
    ]
    return [own or {low} for own, low in zip(owned, begins, strict=True)]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("segments", [1, 2, 3, 8, 25])
@pytest.mark.parametrize("window", [1, 2, 6, 11])
def test_segments_against_the_slow_version(n, segments, window):
    starts = max(n - window + 1, 1)
    assert segment_indices(n, segments, window).tolist() == slow_centres(starts, segments)
    owned = slow_owners(starts, segments)
    for epoch in range(3):
        drawn = segment_indices(n, segments, window, sample_rng(0, epoch, "x"))
        assert drawn.tolist() == segment_indices(n, segments, window, sample_rng(0, epoch, "x")).tolist()
        assert all(start in own for start, own in zip(drawn.tolist(), owned, strict=True))
        assert (np.diff(drawn) >= 0).all()


def test_every_start_can_be_drawn():
    rng = np.random.default_rng(0)
    seen = np.unique([segment_indices(12, 3, 2, rng) for _ in range(300)])  # 11 starts: TSN's code never takes 9 and 10
    assert seen.tolist() == list(range(11))
    seen = np.unique([dense_indices(12, 5, 2, rng)[0] for _ in range(200)])
    assert seen.tolist() == list(range(7))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("count", [1, 2, 5, 11, 25])
@pytest.mark.parametrize("window", [1, 6])
def test_other_rules_are_valid_for_every_length(n, count, window):
    last = max(n - window, 0)
    spaced = spaced_indices(n, count, window)
    assert spaced.shape == (count,)
    assert (np.diff(spaced) >= 0).all()
    assert count == 1 or (spaced[0], spaced[-1]) == (0, last)
    assert np.ptp(np.diff(spaced)) <= 1 if count > 2 else True
    for rng in (None, sample_rng(1, 2, "x")):
        dense = dense_indices(n, count, window, rng)
        strided = strided_indices(n, count, (5, 15), window, rng)
        for drawn in (dense, strided):
            assert drawn.shape == (count,)
            assert drawn.dtype == np.int64
            assert 0 <= drawn.min() <= drawn.max() <= last
        assert set(np.diff(dense).tolist()) <= {1, -last}
        steps = np.diff(strided)
        if count > 1 and last >= count - 1:  # some stride fits: it is constant and no larger one was refused
            assert np.ptp(steps) == 0
            fits = last // (count - 1)
            assert min(5, fits) <= steps[0] <= min(15, fits)
            assert rng is not None or steps[0] == min(15, fits)
        elif count > 1:
            assert set(np.abs(steps).tolist()) <= {0, 1}
            assert strided.tolist() == np.pad(np.arange(last + 1), (0, count - 1 - last), "reflect").tolist()


def test_strides_cover_the_range():
    rng = np.random.default_rng(0)
    drawn = [np.diff(strided_indices(200, 5, (5, 15), rng=rng))[0] for _ in range(300)]
    assert sorted(set(drawn)) == list(range(5, 16))


@pytest.mark.parametrize("rule", [segment_indices, spaced_indices, dense_indices])
def test_impossible_requests_are_refused(rule):
    with pytest.raises(ReproError, match="no frames"):
        rule(0, 3)
    with pytest.raises(ReproError, match="at least 1"):
        rule(5, 0)
    with pytest.raises(ReproError, match="at least 1"):
        rule(5, 3, 0)


@pytest.mark.parametrize("stride", [0, (0, 3), (4, 2)])
def test_impossible_strides_are_refused(stride):
    with pytest.raises(ReproError, match="no range"):
        strided_indices(10, 3, stride)
