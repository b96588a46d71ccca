"""Views: allowed crops, mirroring, the two streams staying together, normalisation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from repro.data.transforms import (
    SCALES,
    View,
    apply_view,
    centre_view,
    crop_offsets,
    crop_sizes,
    full_views,
    normalise_flow,
    normalise_rgb,
    random_view,
    ten_views,
)
from repro.errors import ReproError

FRAMES = [(256, 340), (240, 320), (144, 180), (64, 64), (222, 300), (7, 5)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def slow_sizes(height: int, width: int, crop: int) -> set[tuple[int, int]]:
    """Every pair of neighbouring scales, written out."""
    found = set()
    for a, b in itertools.product((1.0, 0.875, 0.75, 0.66), repeat=2):
        if abs(SCALES.index(a) - SCALES.index(b)) > 1:
            continue
        high, wide = int(min(height, width) * a), int(min(height, width) * b)
        high = crop if abs(high - crop) in (0, 1, 2) and crop <= min(height, width) else high
        wide = crop if abs(wide - crop) in (0, 1, 2) and crop <= min(height, width) else wide
        found.add((high, wide))
    return found


def slow_offsets(free_height: int, free_width: int, positions: int) -> set[tuple[int, int]]:
    """TSN's list, in words: corners, centre; middles of the sides; middles of the quadrants."""
    h, w = free_height // 4, free_width // 4
    corners = {(0, 0), (0, 4 * w), (4 * h, 0), (4 * h, 4 * w)}
    sides = {(0, 2 * w), (4 * h, 2 * w), (2 * h, 0), (2 * h, 4 * w)}
    quadrants = {(h, w), (h, 3 * w), (3 * h, w), (3 * h, 3 * w)}
    return corners | {(2 * h, 2 * w)} | (sides | quadrants if positions == 13 else set())


@pytest.mark.parametrize(("height", "width"), FRAMES)
@pytest.mark.parametrize("crop", [224, 112, 56, 4])
def test_crop_sizes_against_the_slow_version(height, width, crop):
    assert set(crop_sizes(height, width, crop)) == slow_sizes(height, width, crop)


def test_sides_less_than_3_px_off_become_the_crop_side():
    sides = [crop_sizes(1000, 1000, 224, [px / 1000 + 1e-6])[0][0] for px in (221, 222, 224, 226, 227)]
    assert sides == [221, 224, 224, 224, 227]


def test_crop_sizes_of_the_papers():
    assert {side for pair in crop_sizes(256, 340, 224) for side in pair} == {256, 224, 192, 168}
    assert len(crop_sizes(256, 340, 224)) == 10  # 4 squares and 3 neighbouring pairs, either way round


@pytest.mark.parametrize("positions", [5, 13])
@pytest.mark.parametrize(("free_height", "free_width"), [(32, 116), (0, 0), (3, 9), (1, 40)])
def test_offsets_against_the_slow_version(free_height, free_width, positions):
    offsets = crop_offsets(free_height, free_width, positions)
    assert len(offsets) == positions
    assert set(offsets) == slow_offsets(free_height, free_width, positions)


@pytest.mark.parametrize(("height", "width"), FRAMES)
@pytest.mark.parametrize("positions", [5, 13])
def test_random_views_are_all_the_allowed_ones_and_no_other(height, width, positions):
    rng = np.random.default_rng(0)
    allowed = {
        View(top, left, high, wide, flip)
        for high, wide in slow_sizes(height, width, 224)
        for top, left in slow_offsets(height - high, width - wide, positions)
        for flip in (False, True)
    }
    drawn = {random_view(height, width, 224, SCALES, rng, positions=positions) for _ in range(1000)}
    assert drawn <= allowed
    assert len(drawn) > 0.9 * len(allowed)
    for view in drawn:
        assert view.top >= 0
        assert view.left >= 0
        assert 0 < view.height <= height - view.top
        assert 0 < view.width <= width - view.left


def test_random_view_repeats_and_switching_mirroring_off_changes_nothing_else():
    for seed in range(20):
        view = random_view(240, 320, 224, SCALES, np.random.default_rng(seed))
        assert view == random_view(240, 320, 224, SCALES, np.random.default_rng(seed))
        plain = random_view(240, 320, 224, SCALES, np.random.default_rng(seed), flip=False)
        assert plain == View(view.top, view.left, view.height, view.width, False)


def test_bad_scales_and_positions_are_refused():
    with pytest.raises(ReproError, match="exceed the frame"):
        crop_sizes(64, 64, 56, (1.2, 1.0))
    with pytest.raises(ReproError, match="5 or 13"):
        crop_offsets(4, 4, 9)


@pytest.mark.parametrize(("height", "width"), FRAMES)
def test_test_views_lie_inside_the_frame(height, width):
    for view in [centre_view(height, width, 224), *ten_views(height, width, 224), *full_views(height, width)]:
        assert 0 <= view.top <= height - view.height
        assert 0 <= view.left <= width - view.width


def test_test_views_of_known_frames():
    assert centre_view(256, 340, 224) == View(16, 58, 224, 224)
    assert ten_views(256, 340, 224)[:5] == [
        View(top, left, 224, 224) for top, left in [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
    ]
    assert len({view for view in ten_views(256, 340, 224) if view.flip}) == 5
    assert full_views(64, 80) == [View(0, 0, 64, 80, False), View(0, 0, 64, 80, True)]


def test_a_view_without_resize_is_a_slice():
    x = noise(2, 3, 20, 30)
    assert torch.equal(apply_view(x, View(3, 4, 10, 12), None, is_flow=False), x[:, :, 3:13, 4:16])
    assert torch.equal(apply_view(x, View(3, 4, 10, 12, True), None, is_flow=False), x[:, :, 3:13, 4:16].flip(-1))


@pytest.mark.parametrize("size", [None, 8, 24, 40])
def test_streams_stay_together(size):
    """RGB and v carry one pattern, u its mirrored sign: after any view the three still say the same."""
    pattern = noise(3, 1, 40, 50)
    rgb, flow = pattern.repeat(1, 3, 1, 1), pattern.repeat(1, 10, 1, 1)
    rng = np.random.default_rng(1)
    flips = set()
    for _ in range(12):
        view = random_view(40, 50, 28, SCALES, rng)
        seen, moved = apply_view(rgb, view, size, is_flow=False), apply_view(flow, view, size, is_flow=True)
        u, v = moved[:, 0::2], moved[:, 1::2]  # (T, L, h, w) each
        assert torch.equal(v, seen[:, :1].expand_as(v))
        expected = (256 - seen[:, :1].int()).clamp(max=255) if view.flip else seen[:, :1].int()
        assert torch.equal(u.int(), expected.expand_as(u))
        flips.add(view.flip)
    assert flips == {False, True}


def test_mirroring_negates_u_only_and_twice_is_the_identity():
    codes = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).repeat(1, 4, 2, 1)
    before = codes.clone()
    view = View(0, 0, 2, 256, True)
    once = apply_view(codes, view, None, is_flow=True)
    assert torch.equal(codes, before)  # the input is left alone
    unflipped = once.flip(-1)
    assert torch.equal(unflipped[:, 1::2], codes[:, 1::2])
    assert unflipped[0, 0, 0, 128] == 128
    assert (unflipped[0, 0, 0, 1:].int() + codes[0, 0, 0, 1:].int() == 256).all()
    assert unflipped[0, 0, 0, 0] == 255
    twice = apply_view(once, view, None, is_flow=True)
    assert torch.equal(twice[:, 1::2], codes[:, 1::2])
    assert torch.equal(twice[:, 0::2, :, 1:], codes[:, 0::2, :, 1:])
    assert (twice[:, 0::2, :, 0] == 1).all()  # 0 would have become 256


def test_a_motion_mirrored_is_the_motion_of_the_mirrored_frames():
    """A dot that moves right by 3 px moves left by 3 px in the mirrored frames; one quantisation step is 1 px here."""
    frames = torch.zeros(2, 3, 8, 16, dtype=torch.uint8)
    frames[0, :, 4, 5], frames[1, :, 4, 8] = 255, 255
    flow = torch.full((1, 2, 8, 16), 128, dtype=torch.uint8)
    flow[0, 0, 4, 5] += 3
    view = View(0, 0, 8, 16, True)
    seen = apply_view(frames, view, None, is_flow=False)
    moved = apply_view(flow, view, None, is_flow=True)
    first, second = (int(frame[0, 4].argmax()) for frame in seen)
    assert second - first == int(moved[0, 0, 4, first]) - 128 == -3


@pytest.mark.parametrize("size", [5, 16, 31, 90])
def test_resize_keeps_range_constants_and_mean(size):
    x = noise(2, 10, 32, 32) // 2 + 40  # codes 40 to 167
    y = apply_view(x, View(0, 0, 32, 32), size, is_flow=True)
    assert y.dtype == torch.uint8
    assert y.shape == (2, 10, size, size)
    assert int(y.min()) >= int(x.min())
    assert int(y.max()) <= int(x.max())
    assert abs(float(y.float().mean() - x.float().mean())) < 2
    still = torch.full((1, 2, 32, 32), 128, dtype=torch.uint8)
    assert (apply_view(still, View(0, 0, 32, 32, True), size, is_flow=True) == 128).all()


def test_resize_against_the_interpolation_formula():
    x = noise(2, 6, 9, 13)
    y = apply_view(x, View(1, 2, 7, 11), 20, is_flow=True)
    exact = torch.nn.functional.interpolate(
        x[:, :, 1:8, 2:13].double(), (20, 20), mode="bilinear", antialias=True, align_corners=False
    )
    assert float((y - exact).abs().max()) <= 1  # 8-bit weights round differently


def test_a_view_of_another_frame_size_is_refused():
    with pytest.raises(ReproError, match="does not fit"):
        apply_view(noise(1, 2, 20, 20), View(0, 10, 16, 16), 16, is_flow=True)


def test_normalisation():
    x = noise(2, 3, 4, 5)
    slow = torch.empty(x.shape)
    for c, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        slow[:, c] = (x[:, c] / 255 - mean) / std
    torch.testing.assert_close(normalise_rgb(x), slow)
    flow = normalise_flow(torch.tensor([[0, 128, 255]], dtype=torch.uint8))
    assert flow.dtype == torch.float32
    assert flow[0, 1] == 0
    torch.testing.assert_close(flow[0], torch.tensor([-128.0, 0, 127]) / 57.63)
