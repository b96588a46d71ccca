"""Samples from stored clips: the same whatever reads them, in the right order, aligned between the streams."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import SAMPLING, FakeClip, FakeStore, make_clips
from torch.utils.data import DataLoader

from repro.data.clips import EndlessOrder, Sampling, TestSamples, TestViews, TrainingSamples, snippet_tensors
from repro.errors import ReproError


def loaded(workers: int, seed: int = 3) -> list[dict[str, torch.Tensor]]:
    samples = TrainingSamples(FakeStore(), make_clips(5), SAMPLING, seed)
    order = EndlessOrder(5, 4, seed, 0, 3)
    context = "spawn" if workers else None
    return list(DataLoader(samples, batch_sampler=order, num_workers=workers, multiprocessing_context=context))


def test_samples_do_not_depend_on_the_number_of_workers_or_on_global_randomness():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the legacy state must not matter)
    alone = loaded(0)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    for a, b in zip(alone, loaded(2), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in ("rgb", "flow", "label"))


def test_samples_depend_on_seed_and_epoch():
    samples = TrainingSamples(FakeStore(), make_clips(3), SAMPLING, 1)
    other = TrainingSamples(FakeStore(), make_clips(3), SAMPLING, 2)
    assert torch.equal(samples[0, 1]["rgb"], samples[0, 1]["rgb"])
    assert any(not torch.equal(samples[0, i]["rgb"], samples[1, i]["rgb"]) for i in range(3))
    assert any(not torch.equal(samples[0, i]["rgb"], other[0, i]["rgb"]) for i in range(3))


def test_shapes_types_and_closed_files():
    store = FakeStore()
    sample = TrainingSamples(store, make_clips(3), SAMPLING, 1)[0, 2]
    assert sample["rgb"].shape == (2, 3, 12, 12)
    assert sample["flow"].shape == (2, 6, 12, 12)
    assert sample["rgb"].dtype == sample["flow"].dtype == torch.uint8
    assert sample["label"] == 0
    assert all(clip.closed for clip in store.opened)


def test_one_stream_reads_only_that_stream():
    sampling = replace(SAMPLING, streams=("rgb",))
    assert set(TrainingSamples(FakeStore(), make_clips(1), sampling, 1)[0, 0]) == {"rgb", "label"}
    sampling = replace(SAMPLING, streams=("flow",))
    assert set(TestSamples(FakeStore(), make_clips(1), sampling, TestViews("x", 2, "full"))[0]) == {"flow"}


def test_a_snippet_is_the_middle_frame_and_the_flow_around_it():
    clip = FakeClip("a", 12, 4, 5)
    out = snippet_tensors(clip, np.array([2, 5]), Sampling(2, 4, 5))
    assert torch.equal(out["rgb"], clip.rgb([4, 7]))
    for snippet, start in enumerate((2, 5)):
        for j in range(4):  # channels u1 v1 u2 v2 ...
            assert torch.equal(out["flow"][snippet, 2 * j : 2 * j + 2], clip.flow([start + j])[0])


def test_a_clip_shorter_than_a_stack_repeats_its_last_field():
    store = FakeStore({c.id: (3, 16, 20) for c in make_clips(1)})
    clip = store.open("c0/v00")
    out = snippet_tensors(clip, np.array([0]), Sampling(1, 5, 5))
    assert torch.equal(out["flow"][0].view(5, 2, 16, 20), clip.flow([0, 1, 1, 1, 1]))
    assert torch.equal(out["rgb"], clip.rgb([2]))
    TrainingSamples(store, make_clips(1), SAMPLING, 1)[0, 0]
    TestSamples(store, make_clips(1), SAMPLING, TestViews("x", 25, "ten"))[0]


def test_a_clip_of_one_frame_has_no_flow():
    with pytest.raises(ReproError, match="fewer than two frames"):
        snippet_tensors(FakeClip("a", 1, 4, 5), np.array([0]), Sampling(1, 5, 5, streams=("flow",)))


def test_the_first_frame_of_a_stack_instead_of_the_middle_one():
    clip = FakeClip("a", 12, 4, 5)
    out = snippet_tensors(clip, np.array([2, 11]), Sampling(2, 4, 5, frame_offset=0))
    assert torch.equal(out["rgb"], clip.rgb([2, 11]))


def test_chains_of_snippets():
    sampling = Sampling(5, 10, 5, stride=(2, 4))
    steps = set()
    for seed in range(40):
        starts = sampling.training_starts(40, np.random.default_rng(seed))
        [step] = set(np.diff(starts).tolist())
        assert starts[0] >= 0 and starts[-1] <= 29  # the last window ends with the clip
        steps.add(step)
    assert steps == {2, 3, 4}
    assert sampling.test_starts(40, 4).tolist() == [0, 9, 19, 29]  # as without a stride
    assert sampling.test_chain(40, 5).tolist() == [6, 10, 14, 18, 22]  # as trained: the largest stride, centred
    assert sampling.test_chain(24, 5).tolist() == [0, 3, 6, 9, 12]  # or the largest that fits
    chained = TestViews("x", 5, "full", chain=True)
    [sample] = [TestSamples(FakeStore({"c0/v00": (40, 16, 20)}), make_clips(1), sampling, chained)[0]]
    stored = FakeStore({"c0/v00": (40, 16, 20)}).open("c0/v00")
    assert torch.equal(sample["rgb"][0], stored.rgb([11, 15, 19, 23, 27]))  # the middle frames of the windows
    short = sampling.test_starts(13, 5)  # three starts for five snippets: there and back
    assert short.tolist() == [0, 1, 2, 1, 0]
    assert replace(sampling, stride=None).test_starts(13, 5).tolist() == [0, 0, 1, 1, 2]


def test_ways_to_crop():
    rng = np.random.default_rng(0)
    views = [Sampling(1, 1, 40, sides=(0.75, 1.25)).training_view(60, 44, rng) for _ in range(400)]
    heights, widths = ({getattr(v, side) for v in views} for side in ("height", "width"))
    assert (min(heights), max(heights)) == (30, 50)
    assert (min(widths), max(widths)) == (30, 44), "at most the frame"
    assert {v.top for v in views if v.height == 50} <= set(range(11)) and len({v.height - v.width for v in views}) > 10
    assert {v.flip for v in views} == {False, True}
    centre = Sampling(1, 1, 40, scales=(), flip=False).training_view(60, 44, rng)
    assert (centre.top, centre.left, centre.height, centre.width, centre.flip) == (10, 2, 40, 40, False)
    assert not any(Sampling(1, 1, 40, sides=(1, 1), flip=False).training_view(60, 44, rng).flip for _ in range(20))
    with pytest.raises(ReproError, match="no range"):
        Sampling(1, 1, 40, sides=(1.2, 0.8)).training_view(60, 44, rng)


@pytest.mark.parametrize(("n", "batch"), [(7, 3), (5, 5), (3, 8), (1, 2)])
def test_every_epoch_holds_every_clip_once(n, batch):
    batches = list(EndlessOrder(n, batch, 1, 0, 4 * n))
    assert all(len(b) == batch for b in batches)
    items = [item for b in batches for item in b]
    for epoch in range(batch * 4):
        assert sorted(p for e, p in items if e == epoch) == list(range(n))
    assert [e for e, _ in items] == sorted(e for e, _ in items)
    assert max(Counter(items).values()) == 1


def test_epochs_have_their_own_orders():
    orders = [tuple(p for _, p in batch) for batch in EndlessOrder(20, 20, 1, 0, 3)]
    assert len(set(orders)) == 3
    assert [tuple(p for _, p in b) for b in EndlessOrder(20, 20, 2, 0, 1)] != orders[:1]


@pytest.mark.parametrize("first", [0, 1, 4, 9, 10])
def test_an_order_resumed_in_mid_epoch_goes_on_where_it_was(first):
    whole = list(EndlessOrder(7, 3, 5, 0, 10))
    rest = EndlessOrder(7, 3, 5, first, 10)
    assert list(rest) == whole[first:]
    assert len(rest) == 10 - first


@pytest.mark.parametrize(("views", "count", "size"), [("centre", 1, (12, 12)), ("ten", 10, (12, 12)),
                                                      ("full", 1, (16, 20)), ("full+flip", 2, (16, 20))])  # fmt: skip
def test_views_of_the_test_protocols(views, count, size):
    sample = TestSamples(FakeStore(), make_clips(1), SAMPLING, TestViews("x", 4, views))[0]
    assert sample["rgb"].shape == (count, 4, 3, *size)
    assert sample["flow"].shape == (count, 4, 6, *size)
    if views == "full+flip":
        assert torch.equal(sample["rgb"][1], sample["rgb"][0].flip(-1))
        u, mirrored = (sample["flow"][i][:, 0::2].int() for i in (0, 1))
        assert torch.equal(mirrored, (256 - u.flip(-1)).clamp(max=255))


def test_both_streams_of_a_training_sample_are_cut_alike():
    class Ramps(FakeClip):
        """Brightness and flow code rise with the column: a crop shows where it was cut."""

        def rgb(self, indices):
            return torch.arange(self.width, dtype=torch.uint8).expand(len(indices), 3, self.height, self.width)

        def flow(self, indices):
            return torch.arange(self.width, dtype=torch.uint8).expand(len(indices), 2, self.height, self.width)

    class RampStore:
        def open(self, clip_id):
            return Ramps(clip_id, 9, 16, 20)

    samples = TrainingSamples(RampStore(), make_clips(1), replace(SAMPLING, scales=(0.75,)), 1)
    flips = Counter()
    for epoch in range(12):
        sample = samples[epoch, 0]
        row, v = sample["rgb"][0, 0, 0].int(), sample["flow"][0, 1, 0].int()
        assert torch.equal(row, v)
        flips["left" if row[0] < row[-1] else "right"] += 1
    assert len(flips) == 2, "half of the samples should be mirrored"

    # What is a turn to the left is one to the right in the mirror.
    turning = TrainingSamples(RampStore(), make_clips(3), replace(SAMPLING, scales=(0.75,)), 1, mirrored=(1, 0, 2))
    labels = {0: (0, 1), 1: (1, 0), 2: (2, 2)}  # of a clip as it is, and mirrored
    for position, clip in enumerate(turning.clips):
        for epoch in range(6):
            sample = turning[epoch, position]
            row = sample["rgb"][0, 0, 0].int()
            assert int(sample["label"]) == labels[clip.label][int(row[0] > row[-1])]
