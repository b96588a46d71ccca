"""Figures of the comparison: what is drawn is what was given or measured, and words say what is drawn."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_comparison_runs import ComparisonInventor
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.text import Text
from page_cells import draw_nothing

from repro.errors import ReproError
from repro.papers import ccs, comparison_experiments, st_resnet, stilt
from repro.papers.comparison_experiments import METHODS, OUTPUTS, Preset, networks
from repro.papers.comparison_numbers import IDEAS, PLAIN, Cost, gain
from repro.papers.comparison_scores import ComparisonScores
from repro.report import comparison_drawings, comparison_figures, theme
from repro.report.chapter_figures import FACTORS
from repro.report.comparison_drawings import OVER, POOLED, ROWS, SCORES, STAGES, TITLES, in_words, meetings
from repro.report.comparison_figures import COLOURS, METHODS_SHOWN, NAMES, ComparisonFigures
from repro.report.comparison_plots import (
    APART,
    BESIDE,
    HEAD,
    PITCH,
    Link,
    Meeting,
    Priced,
    Seeded,
    against_cost,
    apart,
    dots_by_panel,
    draw_meetings,
)
from repro.report.grids import Valued

TO_FRAMES = Link(("flow", "conv3_x"), ("frames", "conv3_x"))
BOTH = (Link(("frames", "pooled"), ("flow", "scores"), True), Link(("flow", "scores"), ("frames", "pooled"), True))
ROWS_3, STAGES_1 = ("conv3_x", "pooled", "scores"), ("conv3_x",)


def seeded(mean: float, wide: float = 0.1) -> Seeded:
    return Seeded(Valued(mean, mean - wide, mean + wide), [mean - 0.02, mean + 0.02])


def pairs() -> Figure:
    given = {
        ("one", "A"): Meeting((TO_FRAMES,)),
        ("two", "B"): Meeting(BOTH, shared=("scores",)),
        ("three", "C"): Meeting(unlike="BN-Inception"),
        ("four", "D"): Meeting(),
    }
    return draw_meetings(given, ROWS_3, STAGES_1)


def dots(**given: Any) -> Figure:
    panels = {"binding": {"frames": seeded(0.5), "flow": seeded(0.3)}, "all": {"flow": seeded(-0.05, 0.02)}}
    colours = {"frames": theme.APPEARANCE, "flow": theme.MOTION}
    return dots_by_panel(panels, ["frames", "flow"], colours, {"binding": 0.25, "all": 0.0}, xlabel="%", **given)


def bill(means: tuple[float, ...] = (0.5, 0.55, 0.7, 0.66, 0.72, 0.9, 0.8, 0.81)) -> dict[str, Priced]:
    """Eight methods, as `METHODS_SHOWN` names them without the taught frames."""
    names = [NAMES[m] for m in METHODS]
    costs = (150, 151, 330, 210, 330, 400, 380, 340)
    return {n: Priced(c, seeded(m, 0.04)) for n, c, m in zip(names, costs, means, strict=True)}


def bills() -> Figure:
    panels = {"order": bill((0.5,) * 8), "all": bill()}
    return against_cost(panels, COLOURS, {"order": 0.5, "all": 0.07}, xlabel="cost")


DRAWN: dict[str, Callable[[], Figure]] = {
    "pairs": pairs,
    "meetings": lambda: draw_meetings({title: meetings()[m] for m, title in TITLES.items()}, ROWS, STAGES),
    "dots": lambda: dots(limits=(0, 103)),
    "pale dots": lambda: dots(paler=True),
    "bills": bills,
}


@pytest.mark.parametrize("name", DRAWN)
def test_text_is_large_enough_and_inside_the_picture(name: str) -> None:
    fig = DRAWN[name]()
    fig.draw_without_rendering()
    width, height = fig.canvas.get_width_height()
    texts = [*fig.texts, *(t for ax in fig.axes for t in (*ax.texts, ax.title, ax.xaxis.label))]
    for ax in (ax for ax in fig.axes if ax.axison):
        low, high = sorted(ax.get_ylim())
        texts += [tick.label1 for tick in ax.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    for text in (t for t in texts if t.get_text() and t.get_visible()):
        assert text.get_fontsize() >= theme.SMALL, text.get_text()
        box = Text.get_window_extent(text)  # an annotation's own would hold its thread, too
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()


# ---------------------------------------------------------------- where the streams meet


def test_what_passes_is_drawn_from_its_place_to_its_place() -> None:
    ax = pairs().axes[0]
    titles = {t.get_text(): t.get_position()[0] for t in ax.texts if t.get_fontweight() == "bold"}
    arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    green = [p for p in arrows if to_hex(p.get_edgecolor()).upper() == theme.CROSSING]
    down = {row: HEAD + PITCH * k for k, row in enumerate(ROWS_3)}
    found = []
    for arrow in green[:-2]:  # the last two are the key's
        (x0, y0), (x1, y1) = arrow._posA_posB
        panel = min(titles, key=lambda t: abs(titles[t] - (x0 + x1) / 2))
        stream = ["frames" if x < titles[panel] else "flow" for x in (x0, x1)]
        rows = [min(down, key=lambda r: abs(down[r] - y)) for y in (y0, y1)]
        dashed = arrow.get_linestyle() != "-"
        found.append((panel, Link((stream[0], rows[0]), (stream[1], rows[1]), dashed)))
        assert abs(x1 - x0) < APART, "from edge to edge"
    assert found == [("one", TO_FRAMES), ("two", BOTH[0]), ("two", BOTH[1])]
    assert green[1]._posA_posB[1] != green[2]._posA_posB[0], "the ways there and back lie apart"


def test_what_is_shared_spans_both_and_another_network_has_no_stages() -> None:
    ax = pairs().axes[0]
    boxes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
    hue = [to_hex(p.get_edgecolor()).upper() for p in boxes]
    wide = [p for p, h in zip(boxes, hue, strict=True) if h == theme.CROSSING and p.get_width() > APART]
    assert [round(p.get_y() + p.get_height() / 2, 6) for p in wide] == [pytest.approx(HEAD + 2 * PITCH)]
    assert hue.count(theme.APPEARANCE) == 4 * 3 and hue.count(theme.FUSED.upper()) == 4
    assert hue.count(theme.MOTION) == 4 * 3 + 1, "the other network has a double outline in place of its stage"
    assert "BN-\nInception" in [t.get_text() for t in ax.texts]


def flow_to_frames(*rows: str, training: bool = False) -> tuple[Link, ...]:
    return tuple(Link(("flow", row), ("frames", row), training) for row in rows)


def test_the_live_networks_meet_where_their_papers_say() -> None:
    found = meetings()
    assert list(found) == list(IDEAS) == list(TITLES)
    assert found[PLAIN] == Meeting() and found["heterogeneous"] == Meeting(unlike="BN-Inception")
    assert found["cross-enhancement"].links == flow_to_frames("conv4_x", POOLED, training=True)
    assert found["st-resnet"].links == flow_to_frames(*STAGES)
    back, losses = Link(("frames", "conv5_x"), ("flow", "conv5_x")), Link(("frames", OVER), ("flow", OVER), True)
    both_ways = (*flow_to_frames("conv5_x"), back, *flow_to_frames(OVER, training=True), losses)
    assert found["ccs"] == Meeting(both_ways, shared=(SCORES,))
    assert found["stilt"].links == (Link(("frames", POOLED), ("flow", OVER)), *flow_to_frames(OVER))
    assert {m: v.shared for m, v in found.items() if v.shared} == {"ccs": (SCORES,)}


def changed(monkeypatch: pytest.MonkeyPatch, name: str, build: Any, **settings: Any) -> None:
    """The networks of the comparison, but one with other settings."""

    def other(scale: Preset) -> dict[str, comparison_experiments.Network]:
        found = networks(scale)
        new = replace(found[name].settings, **settings)
        return found | {name: replace(found[name], settings=new, build=partial(build, new))}

    monkeypatch.setattr(comparison_drawings, "networks", other)


def test_the_drawing_follows_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        changed(other, "st-resnet", st_resnet.build, skip="none")
        assert comparison_drawings._residuals() == Meeting()
        changed(other, "st-resnet", st_resnet.build, skip="both")
        assert len(comparison_drawings._residuals().links) == 8
    with monkeypatch.context() as other:
        changed(other, "ccs", ccs.build, place="pooled", losses=ccs.CROSS_ENTROPY, head="linear")
        found = comparison_drawings._affinities()
        assert {link.source[1] for link in found.links} == {POOLED} and not found.shared
    with monkeypatch.context() as other:
        changed(other, "stilt", stilt.build, order="TST")
        assert comparison_drawings._attention().links[0] == Link(("flow", POOLED), ("frames", OVER))
        changed(other, "stilt", stilt.build, attention="unguided")
        assert comparison_drawings._attention() == Meeting()
    with monkeypatch.context() as other:
        other.setattr(comparison_experiments, "INNER", "conv3_x")
        assert comparison_drawings._teaching().links == flow_to_frames("conv3_x", POOLED, training=True)


def test_meetings_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_words(Meeting()) == "nothing passes"
    assert in_words(Meeting(flow_to_frames("a", "b"), shared=("c",))) == (
        "from flow to frames at a and b, one set of weights for both at c"
    )
    draw_nothing(monkeypatch)
    told = repr(ComparisonFigures(SimpleNamespace(), SimpleNamespace()).drawing())
    assert "distilled (cross-enhancement): from flow to frames, in training only, at conv4_x and pooled" in told
    assert "residual (ST-ResNet): from flow to frames at conv2_x and conv3_x and conv4_x and conv5_x" in told


# ---------------------------------------------------------------- plots of arrays


def test_dots_stand_in_their_row_and_panel() -> None:
    fig = dots(paler=True)
    left, right = fig.axes
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["binding", "all"]
    marks = [line for line in left.lines if line.get_marker() == "o"]
    points = {(line.get_xdata()[0], line.get_ydata()[0]): line.get_color() for line in marks}
    assert points == {(50, 0): theme.APPEARANCE, (30, 1): theme.lighter(theme.MOTION, 0.6)}, "25 is inside of 30 +- 10"
    assert [t.get_text() for t in left.get_yticklabels()] == ["frames", "flow"]
    ends = [tuple(line.get_xdata()) for line in left.lines if line.get_marker() != "o"]
    np.testing.assert_allclose(ends, [(40, 60), (20, 40), (25, 25)])
    np.testing.assert_allclose(np.concatenate([c.get_offsets()[:, 0] for c in left.collections]), [48, 52, 28, 32])
    (alone,) = (line for line in right.lines if line.get_marker() == "o")
    assert (alone.get_xdata()[0], alone.get_ydata()[0]) == (-5, 1), "its row is that of its name"
    assert alone.get_color() == theme.MOTION, "wholly below the line"
    full = [line.get_color() for line in dots().axes[0].lines if line.get_marker() == "o"]
    assert full == [theme.APPEARANCE, theme.MOTION]
    with pytest.raises(ReproError, match="no row for flow"):
        dots_by_panel({"x": {"flow": seeded(0)}}, ["frames"], {"flow": "red"}, {"x": 0.0}, xlabel="")


def test_costs_stand_on_a_logarithmic_axis_and_equal_ones_side_by_side() -> None:
    ax = bills().axes[1]
    at = {line.get_color(): (line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "o"}
    found = {name: at[COLOURS[name]] for name in bill()}
    np.testing.assert_allclose([y for _, y in found.values()], [50, 55, 70, 66, 72, 90, 80, 81])
    ticks = {t.get_text(): x for t, x in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)}
    assert ticks["200"] - ticks["150"] == pytest.approx(ticks["400"] - ticks["300"]), "4/3 is as far everywhere"
    where = ticks["200"] + (ticks["400"] - ticks["200"]) * np.log2(210 / 200)
    assert found["heterogeneous"][0] == pytest.approx(where), "alone it stands where it belongs"
    near = [found[n][0] for n in ("two streams", "cross-enhancement", "STILT")]
    assert np.diff(near) == pytest.approx(BESIDE), "330, 330 and 340"
    assert abs(np.mean(near) - np.mean([ticks["300"] + (ticks["400"] - ticks["300"]) * np.log(c / 300) / np.log(4 / 3)
                                        for c in (330, 330, 340)])) < 1e-9  # fmt: skip


def test_one_cost_alone_has_a_tick_beside_it() -> None:
    for cost in (1.7, 9.2, 70, 163):
        ax = against_cost({"all": {"flow": Priced(cost, seeded(0.5))}}, COLOURS, {"all": 0.1}, xlabel="").axes[0]
        assert len(ax.get_xticks()) >= 1


def test_every_name_stands_free_of_points_and_other_names() -> None:
    fig = bills()
    fig.draw_without_rendering()
    for ax in fig.axes:
        boxes = {t.get_text(): Text.get_window_extent(t) for t in ax.texts}
        assert boxes.keys() == bill().keys()
        for a, b in itertools.combinations(boxes, 2):
            assert not boxes[a].overlaps(boxes[b]), (a, b)
        whiskers = [line for line in ax.lines if line.get_marker() != "o" and len(set(line.get_xdata())) == 1]
        assert len(whiskers) == 8
        for name, line in itertools.product(boxes, whiskers):
            low, high = ax.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
            box = boxes[name]
            apart_here = high[1] < box.y0 or low[1] > box.y1 or not box.x0 < low[0] < box.x1
            assert apart_here, f"{name} covers an interval"
    threads = [t for t in fig.axes[1].texts if getattr(t, "arrow_patch", None)]
    assert 0 < len(threads) < 8
    for text in threads:
        np.testing.assert_allclose(text.xy[1], 100 * bill()[text.get_text()].accuracy.value.mean)


def test_values_are_moved_apart_as_little_as_can_be() -> None:
    np.testing.assert_allclose(apart([0, 5, 2], 1), [0, 5, 2])
    np.testing.assert_allclose(apart([1, 1, 1], 2), [-1, 1, 3])
    np.testing.assert_allclose(apart([0.2, 0, 9], 1, (0, 9.5)), [1, 0, 9])
    assert apart([], 1).shape == (0,)
    rng = np.random.default_rng(0)
    given = rng.random(6)
    found = apart(given, 0.3)
    assert (np.argsort(found) == np.argsort(given)).all() and np.diff(np.sort(found)).min() > 0.3 - 1e-9
    best = ((found - given) ** 2).sum()
    for _ in range(2000):  # no other arrangement in this order is nearer
        moved = np.sort(found + 0.05 * rng.normal(size=6))
        if np.diff(moved).min() >= 0.3:
            assert ((moved - np.sort(given)) ** 2).sum() >= best - 1e-9


# ---------------------------------------------------------------- colours

# Machado, Oliveira and Fernandes (2009): no receptors for red, none for green; on linear RGB.
SEEN = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]


def lab(colour: str, seen: Any) -> np.ndarray:
    """CIE L*a*b* of a colour (D65), as a reader with these receptors sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.array(XYZ) @ np.clip(np.array(seen) @ linear, 0, 1) / np.array([0.95047, 1, 1.08883])
    fx, fy, fz = (np.cbrt(t) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


@pytest.mark.parametrize("reader", SEEN)
def test_nine_methods_have_colours_that_can_be_told_apart(reader: str) -> None:
    assert len(COLOURS) == 9 and COLOURS.keys() == METHODS_SHOWN.keys()
    seen = {name: lab(hue, SEEN[reader]) for name, hue in COLOURS.items()}
    # No two are nearer than the theme's own grey and green are to these readers.
    least = min(20.0, float(np.linalg.norm(lab(theme.FUSED, SEEN[reader]) - lab(theme.CROSSING, SEEN[reader]))))
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) >= least - 2.5, (a, b)


# ---------------------------------------------------------------- from runs


def of(scores: ComparisonScores) -> ComparisonFigures:
    return ComparisonFigures(SimpleNamespace(dataset=SimpleNamespace(name=scores.dataset), preset="small"), scores)


@pytest.fixture(autouse=True)
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    counts = {m: Cost(int(1e6 * (i + 1)), int(2e9 * (i + 1)), 0) for i, m in enumerate(METHODS)}
    monkeypatch.setattr(comparison_figures, "costs", lambda preset, dataset, classes: counts)


@pytest.fixture(scope="module")
def shapes() -> ComparisonScores:
    """Two seeds of motionshapes, everything run."""
    return ComparisonScores(ComparisonInventor("motionshapes").all_runs((1, 2)))


def part(told: str, panel: str) -> str:
    """What is told of a panel."""
    return re.search(rf"(?:^|[.;:] ){panel}: (.*?)(?:; \w+: |\.\s*\n|$)", told)[1]


def test_the_words_of_the_gains_are_paired_differences(shapes: ComparisonScores) -> None:
    told = repr(of(shapes).gains())
    for panel in (*FACTORS, "all"):
        subset = {} if panel == "all" else {"factor": panel}
        texts = []
        for method in (m for m in IDEAS if m != PLAIN):
            d = gain(shapes, method, subset)
            assert d is not None
            a, b = (shapes.correct(m, subset) for m in (method, PLAIN))
            assert d.mean == pytest.approx(a[0].mean() - b[0].mean())
            texts.append(f"{NAMES[method]} {100 * d.mean:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})")
        assert f"{panel}: {', '.join(texts)}" in told


def test_gains_are_grey_where_nothing_crosses(shapes: ComparisonScores, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    real = comparison_figures.dots_by_panel
    monkeypatch.setattr(comparison_figures, "dots_by_panel", lambda *a, **k: calls.append((a, k)) or real(*a, **k))
    of(shapes).gains()
    ((panels, rows, hues, lines), options) = calls[0]
    assert rows == [NAMES[m] for m in IDEAS if m != PLAIN] and options["paler"] and set(lines.values()) == {0.0}
    assert {n for n, hue in hues.items() if hue == theme.FUSED} == {"heterogeneous"}
    by_seed = [shapes.correct("ccs", seeds=[s])[0].mean() - shapes.correct(PLAIN, seeds=[s])[0].mean() for s in (1, 2)]
    np.testing.assert_allclose(panels["all"]["CCS"].seeds, by_seed)


def test_the_words_of_the_factors_are_accuracies(shapes: ComparisonScores) -> None:
    told = repr(of(shapes).factors())
    for name, method in METHODS_SHOWN.items():
        for factor in FACTORS:
            right = shapes.correct(method, {"factor": factor})
            assert f"{name} {100 * right[0].mean():.1f}" in part(told, factor)
    weizmann = ComparisonScores(ComparisonInventor("weizmann").all_runs((1,), ("ido",), derived=False))
    assert "binding" not in (told := repr(of(weizmann).factors())) and "all: frames " in told


def test_the_words_of_the_costs(shapes: ComparisonScores) -> None:
    told = repr(of(shapes).against_cost("multiply-adds"))
    assert "Billions: frames 2, flow 4, two streams 6, heterogeneous 8, cross-enhancement 10" in told
    weizmann = ComparisonScores(ComparisonInventor("weizmann").all_runs((1,), ("ido",), derived=False))
    assert "Millions: frames 1, flow 2" in repr(of(weizmann).against_cost("parameters"))
    told = repr(of(shapes).against_cost("seconds"))  # each training took a minute
    assert "Minutes: frames 1, flow 1, two streams 2, heterogeneous 2, cross-enhancement 2, ST-ResNet 1" in told
    for panel in ("binding", "order", "all"):
        right = shapes.correct("stilt", {} if panel == "all" else {"factor": panel})
        assert f"STILT {100 * right[0].mean():.1f}" in part(told, panel)
    with pytest.raises(ReproError, match="did you mean 'seconds'"):
        of(shapes).against_cost("second")


def right_by_hand(scores: ComparisonScores, run: str, array: str) -> float:
    """Accuracy over all classes of a stored array of logits, in percent, over both seeds."""
    found = [scores.runs[run, "1", s] for s in (1, 2)]
    labels = scores.labels("frames")
    return 100 * float(np.mean([r.arrays[array].astype(float).argmax(1) == labels for r in found]))


def test_the_words_of_the_other_input_are_what_was_measured(shapes: ComparisonScores) -> None:
    told = repr(of(shapes).other_input())
    for network, (_, whose) in TITLES.items():
        for stream, output in OUTPUTS.get(network, {}).items():
            name = {"rgb": "frames", "flow": "flow"}[stream]
            alone = right_by_hand(shapes, name, f"test_{OUTPUTS[name][stream]}")
            own = right_by_hand(shapes, network, f"test_{output}")
            lent = right_by_hand(shapes, f"{network}+probes", f"swapped_{stream}")
            assert (
                f"{whose} {name}: the stream alone {alone:.1f}, with its clip's other input {own:.1f}, "
                f"with another clip's {lent:.1f}"
            ) in told
    assert told.partition("\n")[0].count("the stream alone") == 6


def test_the_words_of_the_reversed_order(shapes: ComparisonScores) -> None:
    told = repr(of(shapes).in_reverse())
    forward = shapes.correct("st-resnet", {"factor": "order"})
    labels, ids = shapes.labels("frames"), shapes.ids("frames")
    keep = np.array(["Then" in i for i in ids])
    classes = np.unique(labels[keep])
    found = []
    for seed in (1, 2):
        arrays = shapes.runs["st-resnet+probes", "1", seed].arrays
        mean = np.mean([arrays[f"reversed_{m}"].astype(float) for m in ("rgb", "flow")], axis=0)
        found.append(classes[mean[keep][:, classes].argmax(1)] == labels[keep])
    assert f"ST-ResNet: snippets in order {100 * forward[0].mean():.1f}, in reverse {100 * np.mean(found):.1f}" in told


def test_figures_without_their_runs_say_so() -> None:
    for kept in ((), ("flow",)):
        made = ComparisonInventor("motionshapes")
        runs = {(name, "1", 1): made.run(name) for name in kept}
        figures = of(ComparisonScores(runs, "motionshapes", ["a", "b"]))
        needed = {"gains", "other_input", "in_reverse", *(() if kept else ("factors",))}
        for method in needed:
            assert repr(getattr(figures, method)()) == "Not run.", method
        for what in ("multiply-adds", "seconds"):
            assert (repr(figures.against_cost(what)) == "Not run.") == (not kept)
    bare = of(ComparisonScores(ComparisonInventor("weizmann").all_runs((1,), ("ido",), derived=False)))
    assert "no classes that differ by order alone; motionshapes has" in repr(bare.in_reverse())
    assert repr(bare.other_input()) == "Not run."


def test_part_of_the_runs_is_shown_as_far_as_it_goes(shapes: ComparisonScores) -> None:
    kept = ("frames", "flow", "ccs", "ccs+probes")
    figures = of(ComparisonScores({k: r for k, r in shapes.runs.items() if k[0] in kept}))
    gains, factors = repr(figures.gains()), repr(figures.factors())
    assert "CCS" in part(gains, "all") and "ST-ResNet" not in part(gains, "all")
    assert "two streams" in part(factors, "order") and "taught" not in part(factors, "order")
    other = repr(figures.other_input())
    assert "CCS frames" in other and "STILT" not in other.partition("\n")[0]
    assert "CCS: snippets" in repr(figures.in_reverse())
    assert "cross-enhancement" not in repr(figures.against_cost("seconds")).partition("\n")[0]
