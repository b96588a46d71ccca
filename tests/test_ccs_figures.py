"""Figures of the CCS chapter that are functions of arrays, on made-up arrays, and what it draws before any run."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from page_cells import quick, shown

from repro.errors import ReproError
from repro.papers.ccs_derived import components
from repro.report import ccs_drawings, ccs_plots, theme
from repro.report.ccs_plots import Looked, Plane
from repro.report.theme import APPEARANCE, CROSSING, MOTION

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


# ---------------------------------------------------------------- before any run


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theme, "drawn", quick)


@pytest.mark.usefixtures("laid_out")
def test_the_drawings_are_read_off_the_live_model() -> None:
    """Sec. 3.1, 4.1: three snippets of 224 px, BN-Inception's 1024 maps of 7 x 7 places."""
    model, maps = ccs_drawings._live()
    assert {m: tuple(x.shape) for m, x in maps.items()} == dict.fromkeys(("rgb", "flow"), (1, 1024, 3, 7, 7))
    assert next(model.parameters()).device.type == "meta", "no arithmetic"
    for drawing in (ccs_drawings.network_drawing(), ccs_drawings.connection_drawing()):
        assert len(shown(drawing)) == 1
    assert "147 positions of 3 snippets" in repr(ccs_drawings.connection_drawing())


def test_the_block_shows_whose_features_cross() -> None:
    ax = ccs_plots.block_drawing({"maps": "8 x 9", "inner": "4 x 9", "affinity": "9 x 9"}).axes[0]
    texts = [t.get_text() for t in ax.texts]
    assert texts.count("8 x 9") == 8 and texts.count("4 x 9") == 2 and texts.count("9 x 9") == 1
    # Lines that end in a sum, left and right: the affinity's, and the other stream's own.
    heads = [p for p in ax.patches if type(p).__name__ == "FancyArrowPatch"]
    ends = {(to_hex(p.get_edgecolor()), round(p._posA_posB[1][0] * 2) / 2) for p in heads if p._posA_posB[1][1] < -1.9}
    middle = 3.2
    assert {hue for hue, x in ends if x < middle} >= {CROSSING.lower(), MOTION.lower(), APPEARANCE.lower()}
    assert {hue for hue, x in ends if x > middle} >= {CROSSING.lower(), MOTION.lower(), APPEARANCE.lower()}


@pytest.mark.usefixtures("laid_out")
def test_the_losses_fall_and_the_gap_may_stay() -> None:
    text = repr(ccs_drawings.losses_drawing(4, 120))
    found = {
        name: [float(x) for x in numbers]
        for name, *numbers in re.findall(r"[:;] ([\w .]+): L1 ([\d.]+), L2 ([\d.]+), gap (\d+\.\d+)", text)
    }
    assert list(found) == ["before", "Eq. 4 alone", "Eq. 5 alone", "both"]
    assert found["Eq. 4 alone"][0] < 0.1 * found["before"][0] and found["Eq. 5 alone"][1] < 0.1 * found["before"][1]
    assert max(found["both"][:2]) < 0.1
    assert found["Eq. 4 alone"][2] > 0.5 * found["before"][2], "the caption says that the gap may stay"


# ---------------------------------------------------------------- confusions


NAMES = ("A1", "B1")
HUES = {"one": APPEARANCE, "two": MOTION, "three": CROSSING}


def test_confusions_are_shares_of_the_true_class() -> None:
    frames, flow = np.zeros((2, 8, 10, 3), np.uint8), np.zeros((2, 2, 8, 10))
    counts = {"one": [[3, 1, 0], [0, 0, 4]], "two": [[2, 2, 4], [1, 0, 0]], "three": [[1, 0, 0], [0, 1, 0]]}
    fig = ccs_plots.alike_confusions(frames, flow, counts, NAMES, HUES)
    panels = {ax.get_title(loc="left"): [t.get_text() for t in ax.texts] for ax in fig.axes if ax.get_title(loc="left")}
    assert panels["one"] == ["75", "25", "0", "0", "0", "100"]
    assert panels["two"] == ["25", "25", "50", "100", "0", "0"]
    assert [ax.get_title() for ax in fig.axes][:2] == ["A: A1", "B: B1"]
    assert fig.axes[0].images[0].get_array().shape == (8, 20, 3), "a frame beside its flow"
    with pytest.raises(ReproError, match=r"'one': 2 alike classes need counts \(2, 3\) with clips in every row"):
        ccs_plots.alike_confusions(frames, flow, {"one": [[1, 0, 0], [0, 0, 0]]}, NAMES, HUES)
    with pytest.raises(ReproError, match="alike classes need counts"):
        ccs_plots.alike_confusions(frames, flow, {"one": [[1, 0], [0, 1]]}, NAMES, HUES)


# ---------------------------------------------------------------- the plane


def test_the_plane_is_that_of_the_largest_variance() -> None:
    """Three directions of 5, 2 and 0.1 in ten dimensions, in any orientation: the first two are kept, to the sign."""
    basis = np.linalg.qr(RNG.normal(size=(10, 10)))[0]
    made = RNG.normal(size=(40, 3)) * [5, 2, 0.1]
    points = made @ basis[:3] + 7
    plane = ccs_plots.principal_plane(points[:20], points[20:])
    seen = np.concatenate([plane.rgb, plane.flow])
    # Distances in the plane are those of the points, but for the direction that is lost.
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    real = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(apart, real, atol=1.0)
    assert (apart <= real + 1e-9).all()
    covariance = np.linalg.eigvalsh(np.cov(points.T))[::-1]
    assert plane.share == pytest.approx(covariance[:2].sum() / covariance.sum())
    assert seen.mean(0) == pytest.approx([0, 0]) and np.abs(np.cov(seen.T)[0, 1]) < 1e-9
    assert plane.flow[:, 0].mean() > plane.rgb[:, 0].mean(), "flow is at the right, in every figure"
    turned = ccs_plots.principal_plane(points[20:], points[:20])
    np.testing.assert_allclose(turned.flow[:, 0], -plane.rgb[:, 0])
    np.testing.assert_allclose(turned.flow[:, 1], plane.rgb[:, 1])


def test_the_plane_of_the_components_that_are_kept_is_that_of_the_features() -> None:
    rgb, flow = RNG.normal(size=(2, 20, 30)) * np.linspace(3, 1, 30)
    kept = components(rgb, flow)
    assert kept["rgb"].shape[1] < 30
    whole = ccs_plots.principal_plane(rgb, flow)
    short = ccs_plots.principal_plane(kept["rgb"], kept["flow"], float(kept["scatter"]))
    assert short.share == pytest.approx(whole.share) and short.share < 0.5
    for m in ("rgb", "flow"):
        np.testing.assert_allclose(np.abs(getattr(short, m)), np.abs(getattr(whole, m)), atol=1e-4)


def test_the_plane_of_one_point_and_of_unlike_arrays() -> None:
    same = np.ones((3, 4))
    plane = ccs_plots.principal_plane(same, same)
    assert plane.share == 1 and not plane.rgb.any()
    for other in (np.ones((2, 4)), np.ones((3, 5)), np.ones(3)):
        with pytest.raises(ReproError, match="give both modalities of the same clips"):
            ccs_plots.principal_plane(same, other)
    with pytest.raises(ReproError, match="give both modalities"):
        ccs_plots.principal_plane(np.ones((3, 1)), np.ones((3, 1)))


def test_every_clip_is_drawn_twice_and_joined() -> None:
    labels = np.array([0, 0, 1, 2])
    planes = {f"panel {i}": Plane(RNG.normal(size=(4, 2)), RNG.normal(size=(4, 2)), 0.5) for i in range(3)}
    fig = ccs_plots.embedding(planes, labels, ["a", "b", "c"], {"panel 1": "gap 3"})
    assert [ax.get_title(loc="left") for ax in fig.axes if ax.axison] == ["panel 0", "panel 1\ngap 3", "panel 2"]
    for ax, plane in zip(fig.axes, planes.values(), strict=False):
        drawn = [c.get_offsets() for c in ax.collections]  # rgb and flow of each class in turn
        np.testing.assert_allclose(np.concatenate(drawn[::2]), plane.rgb)
        np.testing.assert_allclose(np.concatenate(drawn[1::2]), plane.flow)
        ends = np.array([line.get_xydata() for line in ax.lines])  # (N, 2 ends, 2)
        np.testing.assert_allclose(ends, np.stack([plane.rgb, plane.flow], axis=1))
        assert ax.get_xlim() == fig.axes[0].get_xlim() and ax.get_aspect() == 1, "one scale"
    legend = [t.get_text() for t in fig.legends[0].get_texts()]
    assert legend == ["a", "b", "c", "RGB", "flow"]
    with pytest.raises(ReproError, match="7 classes are too many to tell their shapes apart: show 6 at most"):
        ccs_plots.embedding(planes, labels, list("abcdefg"))


# ---------------------------------------------------------------- activation maps


def test_what_counts_nothing_fades_to_white() -> None:
    frame = np.full((4, 4, 3), 100, np.uint8)
    weights = np.zeros((4, 4))
    weights[0, 0], weights[0, 1], weights[1] = 2, 1, -3
    actor = np.zeros((4, 4))
    actor[0, :2] = 1
    rows = [Looked("first", frame, actor, {"net": (weights, 0.75), "other": (-np.ones((4, 4)), 0.125)}),
            Looked("second", frame, None, {"net": (weights, None)})]  # fmt: skip
    fig = ccs_plots.activation_maps(rows, {"net": CROSSING})
    pictures = [ax.images[0].get_array() for ax in fig.axes]
    assert len(pictures) == 5 and (pictures[0] == 100).all()
    net = pictures[1][..., 0]
    assert net[0, 0] == 100 and net[0, 1] == int(255 - 155 * 0.55) and (net[1] == 239).all(), "negative is nothing"
    assert (pictures[2] == 239).all(), "no positive place"
    assert [ax.get_xlabel() for ax in fig.axes] == ["12 %", "75 %", "12 %", "", ""]
    outlined = [any(path.vertices.size for c in ax.collections for path in c.get_paths()) for ax in fig.axes]
    assert outlined == [True, True, True, False, False]
    texts = [t.get_text() for t in fig.texts]
    assert texts == ["first", "frame", "net", "other", "second"]
