"""Figures of the cross-enhancement chapter: made-up arrays land where they belong, and words say what is drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from page_cells import draw_nothing
from test_cross_enhancement_scores import Maker

from repro.errors import ReproError
from repro.metrics import paired_difference
from repro.papers.cross_enhancement import BRIDGES, POSITIONS
from repro.papers.cross_enhancement_derived import PLACES
from repro.papers.cross_enhancement_scores import CrossEnhancementScores
from repro.report import theme
from repro.report.cross_enhancement_figures import (
    DIRECTIONS,
    DISTANT,
    CrossEnhancementFigures,
    drawn_places,
    teaching_drawing,
    teaching_weights,
)
from repro.report.cross_enhancement_plots import (
    COLUMNS,
    accuracy_map,
    distance_plot,
    draw_teaching,
    gains,
    progress,
)
from repro.report.grids import Valued

PLACED = dict.fromkeys(POSITIONS, ("8 maps", "2x4x4")) | {"pooled": ("8",), "scores": ("5",)}
HUES = {"plain": theme.APPEARANCE, "taught": theme.CROSSING}
CELLS = {("x", "p"): 0.5, ("x", "q"): 0.6, ("y", "q"): 0.75}


def valued(mean: float) -> Valued:
    return Valued(mean, mean - 0.1, mean + 0.1)


def a_map(**given: Any) -> Figure:
    cells = {place: valued(mean) for place, mean in CELLS.items()}
    return accuracy_map(cells, ["x", "y"], ["p", "q"], ("row", "column"), **given)


def a_curve() -> Figure:
    curves = {"plain": np.array([[0.1, 0.2], [0.4, 0.5], [0.6, 0.8]]), "taught": np.full((3, 2), 0.3)}
    bands = {name: np.stack([c.mean(1) - 0.1, c.mean(1) + 0.1], 1) for name, c in curves.items()}
    return progress(curves, bands, HUES, threshold=0.4, chance=0.05)


def some_gains() -> Figure:
    series = {"plain": [valued(0.05), valued(-0.1)], "taught": [valued(0.0), valued(0.2)]}
    return gains(["still", "shaken"], {"left": series, "right": {"taught": series["taught"]}}, HUES, xlabel="camera")


def some_distances() -> Figure:
    values = {"plain": np.array([[2.0, 8.0], [1.0, 1.0]]), "taught": np.array([[0.1, 0.1], [0.2, 0.8]])}
    return distance_plot(["front", "rear"], values, HUES, ylabel="distance")


DRAWN: dict[str, Callable[[], Figure]] = {
    "flow teaches": lambda: draw_teaching("rgb", PLACED, BRIDGES, "e"),
    "rgb teaches": lambda: draw_teaching("flow", PLACED, BRIDGES, "c"),
    "map": lambda: a_map(letters={("x", "p"): "a"}, framed=("y", "q"), beside={"none": valued(0.4)}),
    "curve": a_curve,
    "gains": some_gains,
    "distances": some_distances,
}


def words(fig: Figure) -> dict[str, Any]:
    """Every text of a figure's first axes, by what it says."""
    return {t.get_text(): t for t in fig.axes[0].texts}


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", DRAWN)
def test_text_is_large_enough_and_inside_the_picture(name: str) -> None:
    fig = DRAWN[name]()
    fig.draw_without_rendering()
    width, height = fig.canvas.get_width_height()
    legend = [text for found in fig.legends for text in found.get_texts()]
    texts = [*legend, *(t for ax in fig.axes for t in (*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label))]
    for text in (t for t in texts if t.get_text()):
        assert text.get_fontsize() >= theme.SMALL, text.get_text()
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()


# ---------------------------------------------------------------- who teaches whom


@pytest.mark.parametrize(("student", "chosen"), [("rgb", "e"), ("flow", "c")])
def test_every_bridge_is_drawn_from_its_place_in_the_teacher_to_its_place_in_the_student(
    student: str, chosen: str
) -> None:
    ax = draw_teaching(student, PLACED, BRIDGES, chosen).axes[0]
    boxes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
    teacher = [p for p in boxes if p.get_linestyle() == "--"]
    assert len(teacher) == len(boxes) / 2 == len(COLUMNS)
    hue = theme.MOTION if student == "rgb" else theme.APPEARANCE
    assert {to_hex(p.get_edgecolor()).upper() for p in teacher} == {hue.upper()}
    assert max(p.get_y() for p in teacher) < min(p.get_y() for p in boxes if p not in teacher), "y runs down"
    centre = {round(x + wide / 2, 3): name for name, (x, wide) in COLUMNS.items()}
    crossing = [p for p in ax.patches if isinstance(p, FancyArrowPatch) and p._posA_posB[1][1] - p._posA_posB[0][1] > 1]
    found = {(centre[round(p._posA_posB[0][0], 3)], centre[round(p._posA_posB[1][0], 3)]): p for p in crossing}
    assert found.keys() == {*BRIDGES.values(), ("pooled", "pooled")} and len(crossing) == 10
    bold = {ends for ends, p in found.items() if p.get_linewidth() > 2}
    assert bold == {BRIDGES[chosen], ("pooled", "pooled")}
    letters = {t.get_text(): t for t in ax.texts if t.get_text() in BRIDGES}
    assert list(letters) != sorted(letters) or chosen == "i"  # the bold one is drawn last, on top
    for letter, ends in BRIDGES.items():  # each letter stands on its line
        (x0, y0), (x1, y1) = found[ends]._posA_posB
        x, y = letters[letter].get_position()
        assert (x - x0) / (y - y0) == pytest.approx((x1 - x0) / (y1 - y0))
    places = [letters[letter].get_position()[0] for letter in sorted(BRIDGES)]
    assert np.diff(places) == pytest.approx(places[1] - places[0]), "in a row, evenly"


def test_the_drawing_is_read_off_the_live_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3D at 64 x 224 x 224: see tests/test_i3d.py."""
    draw_nothing(monkeypatch)
    assert drawn_places() == {
        "front": ("480 maps", "32x28x28"),
        "middle": ("832 maps", "16x14x14"),
        "rear": ("1024 maps", "8x7x7"),
        "pooled": ("1024",),
        "scores": ("400",),
    }
    first, second = repr(teaching_drawing("rgb")), repr(teaching_drawing("flow"))
    assert "Above the flow stream, which teaches" in first and "Figure 1 of the paper" in first
    assert "Above the RGB stream, which teaches" in second and "Figure 2 of the paper" in second
    assert "e, middle to middle, is drawn bold" in first and "832 maps, 16x14x14" in first


# ---------------------------------------------------------------- plots of arrays


def test_a_map_has_every_value_in_its_cell() -> None:
    fig = a_map(letters={("x", "p"): "a"}, framed=("y", "q"), beside={"none": valued(0.4)})
    found = words(fig)
    at = {text: tuple(round(v) for v in found[text].get_position()) for text in ("50.0", "60.0", "75.0", "–")}
    assert at == {"50.0": (0, 0), "60.0": (1, 0), "75.0": (1, 1), "–": (0, 1)}, "x is the column, y the row"
    assert {"40–60", "65–85", "a", "none", "40.0", "30–50"} <= found.keys()
    assert found["40.0"].get_position()[0] > 1.5, "beside the map"
    patches = [p for p in fig.axes[0].patches if isinstance(p, Rectangle)]
    frames = [p for p in patches if not p.get_fill()]
    assert [tuple(round(v + 0.46) for v in p.get_xy()) for p in frames] == [(1, 1)]
    with pytest.raises(ReproError, match=r"no place for \(z, p\)"):
        accuracy_map({("z", "p"): valued(0.5)}, ["x"], ["p"], ("", ""))


def test_better_cells_are_darker_and_all_text_is_legible() -> None:
    def shade(fig: Figure) -> dict[tuple[int, int], float]:
        cells = [p for p in fig.axes[0].patches if isinstance(p, Rectangle) and p.get_fill()]
        return {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)): luminance(p.get_facecolor()) for p in cells}

    found = shade(a_map())
    assert found[0, 0] > found[1, 0] > found[1, 1]
    assert all((light + 0.05) / (luminance(theme.INK) + 0.05) > 4.5 for light in found.values())
    close = {place: valued(0.5 + 0.1 * (mean - 0.5)) for place, mean in CELLS.items()}  # 2.5 points apart
    near = shade(accuracy_map(close, ["x", "y"], ["p", "q"], ("", "")))
    assert near[0, 0] - near[1, 1] < 0.5 * (found[0, 0] - found[1, 1]), "a small spread looks small"


def luminance(colour: Any) -> float:
    """Relative luminance (WCAG 2)."""
    rgb = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(rgb, (0.2126, 0.7152, 0.0722)))


def test_curves_over_the_training_and_where_they_pass_the_threshold() -> None:
    ax = a_curve().axes[0]
    plain, taught = (line for line in ax.lines if line.get_label() in HUES)
    np.testing.assert_allclose(plain.get_xdata(), [100 / 3, 200 / 3, 100])
    np.testing.assert_allclose(plain.get_ydata(), [15, 45, 70])
    np.testing.assert_allclose(taught.get_ydata(), 30)
    circles = [c.get_offsets() for c in ax.collections if list(c.get_sizes()) == [190]]
    assert len(circles) == 1, "the taught one never gets there"
    np.testing.assert_allclose(circles[0], [[200 / 3, 45]])
    level = {line.get_label(): line.get_ydata()[0] for line in ax.lines if line.get_label() in ("half way", "chance")}
    assert level == {"half way": pytest.approx(40), "chance": pytest.approx(5)}


def test_gains_stand_at_their_level() -> None:
    fig = some_gains()
    left, right = fig.axes
    assert [left.get_title(loc="left"), right.get_title(loc="left")] == ["left", "right"]
    dots = [line for line in left.lines if line.get_marker() in ("o", "s")]
    np.testing.assert_allclose(dots[0].get_ydata(), [5, -10])
    np.testing.assert_allclose(dots[1].get_ydata(), [0, 20])
    assert [t.get_text() for t in left.get_xticklabels()] == ["still", "shaken"]
    whiskers = np.concatenate([c.get_segments() for c in left.collections])
    np.testing.assert_allclose(whiskers[:, :, 1], [[-5, 15], [-20, 0], [-10, 10], [10, 30]])
    ((lone,),) = ([line for line in right.lines if line.get_marker() in ("o", "s")],)
    assert (lone.get_marker(), lone.get_color()) == (dots[1].get_marker(), theme.CROSSING), "the legend's"
    np.testing.assert_allclose(lone.get_xdata(), dots[1].get_xdata())
    with pytest.raises(ReproError, match="plain has 1 values for 2 levels"):
        gains(["a", "b"], {"": {"plain": [valued(0)]}}, HUES, xlabel="")


def test_distances_are_drawn_on_a_logarithmic_axis_with_one_in_sight() -> None:
    ax = some_distances().axes[0]
    assert ax.get_yscale() == "log" and ax.get_ylim()[0] < 0.1 and ax.get_ylim()[1] > 8
    plain, taught = (line for line in ax.lines if line.get_label() in HUES)
    np.testing.assert_allclose(plain.get_ydata(), [5, 1])
    np.testing.assert_allclose(taught.get_ydata(), [0.1, 0.5])
    low, high = distance_plot(["p"], {"plain": [[0.9, 1.1]]}, HUES, ylabel="").axes[0].get_ylim()
    assert low < 0.7 and high > 1.5, "a small spread looks small"
    with pytest.raises(ReproError, match=r"plain is \(2,\), not \(2, seeds\)"):
        distance_plot(["p", "q"], {"plain": [1.0, 2.0]}, HUES, ylabel="")


# ---------------------------------------------------------------- from runs


def test_the_sweep_has_every_training_that_differs_by_its_weights_alone() -> None:
    assert teaching_weights() == {
        ("0", "0"): "rgb",
        ("0", "1"): "rgb-taught@output-only",
        ("1", "0"): "rgb-taught@inner-only",
        ("0.1", "0.1"): "rgb-taught@weights-0.1",
        ("1", "1"): "rgb-taught",
        ("10", "10"): "rgb-taught@weights-10",
        ("10", "1"): "rgb-taught@inner-10",
        ("1", "10"): "rgb-taught@output-10",
    }


def of(scores: CrossEnhancementScores) -> CrossEnhancementFigures:
    return CrossEnhancementFigures(SimpleNamespace(dataset=SimpleNamespace(name=scores.dataset)), scores)


@pytest.fixture(scope="module")
def shapes() -> CrossEnhancementScores:
    """Two seeds of motionshapes, everything run."""
    return CrossEnhancementScores(Maker("motionshapes").all_runs((1, 2)))


def accuracy(scores: CrossEnhancementScores, method: str) -> float:
    found = [scores.scores(method, "1", seed).argmax(1) == scores.labels("rgb") for seed in (1, 2)]
    return 100 * float(np.mean(found))


def test_the_words_of_the_maps_are_the_scores(shapes: CrossEnhancementScores, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    grid, weights = repr(of(shapes).grid()), repr(of(shapes).weights())
    for letter, (there, here) in BRIDGES.items():
        method = "rgb-taught" if letter == "e" else f"rgb-taught@bridge-{letter}"
        assert f"{letter} ({there} to {here}) {accuracy(shapes, method):.1f}" in grid
    assert f"no bridge {accuracy(shapes, 'rgb'):.1f}" in grid
    assert f"output only {accuracy(shapes, 'rgb-taught@output-only'):.1f}" in grid
    for (alpha, beta), method in teaching_weights().items():
        assert f"alpha {alpha}, beta {beta}: {accuracy(shapes, method):.1f}" in weights


def test_the_words_of_the_directions_are_paired_differences(
    shapes: CrossEnhancementScores, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    told = repr(of(shapes).directions())
    for name, (taught, alone, pair) in DIRECTIONS.items():
        for panel, (a, b) in {"student": (taught, alone), "pair": (pair, "two-stream")}.items():
            line = re.search(rf"the {panel} gains, {name}: still (\S+), drifting (\S+), shaken ([-+]\d+\.\d)", told)
            for level, text in enumerate(line.groups()):
                both = [shapes.correct(m, {"camera": str(level)}) for m in (a, b)]
                expected = 100 * paired_difference(both[0][0], both[1][0], both[0][1]).mean
                assert float(text) == pytest.approx(expected, abs=0.051)
    weizmann = CrossEnhancementScores(Maker("weizmann").all_runs((1,), ("ido",), derived=False))
    assert "flow teaches RGB: all clips " in repr(of(weizmann).directions())


def test_the_words_of_curves_and_distances_are_what_was_measured(
    shapes: CrossEnhancementScores, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_nothing(monkeypatch)
    figures, labels = of(shapes), shapes.labels("rgb")
    told = repr(figures.on_the_way())
    for name, label in {"rgb": "RGB", "rgb-taught": "RGB, taught by flow"}.items():
        runs = [shapes.runs[f"{name}+curve", "1", s].arrays["curve_rgb"] for s in (1, 2)]
        tenths = [np.mean([r[k] == labels for r in runs]) for k in range(10)]
        assert f"{label}: {', '.join(f'{100 * x:.0f}' for x in tenths)}" in told
    told = repr(figures.distances())
    for name, label in DISTANT.items():
        runs = [shapes.runs[f"{name}+distance", "1", s].arrays for s in (1, 2)]
        means = [np.mean([r[f"distance_{p}"].mean() / r[f"teacher_{p}"].mean() for r in runs]) for p in PLACES]
        listed = re.split(r";|\.\n", told.split(f"{label}: ")[1])[0]
        found = dict(part.split() for part in listed.split(", "))
        assert tuple(found) == PLACES
        np.testing.assert_allclose([float(x) for x in found.values()], means, rtol=0.06)


def test_figures_without_their_runs_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    for runs in ({}, {("fused-3d", "1", 1): Maker("weizmann").run("fused-3d")}):
        figures = of(CrossEnhancementScores(runs, "weizmann", ["a", "b"]))
        for method in ("grid", "weights", "directions", "on_the_way", "distances"):
            assert repr(getattr(figures, method)()).startswith("Not run"), method


def test_part_of_the_runs_is_shown_as_far_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    made = Maker("weizmann").all_runs((1,))
    kept = ("rgb-taught", "rgb", "rgb-taught@bridge-c", "rgb-taught+curve", "rgb-taught@weights-10+distance",
            "rgb-taught@weights-10")  # fmt: skip
    figures = of(CrossEnhancementScores({k: r for k, r in made.items() if k[0] in kept}))
    grid = repr(figures.grid())
    assert "c (front to rear)" in grid and "d (" not in grid and "output only 0" not in grid
    assert "alpha 10, beta 10" in repr(figures.weights()) and "alpha 0.1" not in repr(figures.weights())
    assert "RGB, taught by flow: " in repr(figures.on_the_way()) and "RGB: " not in repr(figures.on_the_way())
    distances = repr(figures.distances())
    assert "both, weights 10: " in distances and "untaught: " not in distances
    directions = repr(figures.directions())
    assert "the student gains, flow teaches RGB" in directions and "the pair gains" not in directions
