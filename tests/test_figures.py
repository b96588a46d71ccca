"""Figures render small, repeatably and with alt text; flow colours, folded confusions and drawings keep their word."""

from __future__ import annotations

import base64
import colorsys
import io
import re
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from repro.errors import ReproError
from repro.report import diagrams, drawings, figures, theme

RNG = np.random.default_rng(5)
NAMES = ["red-shake", "red-nod", "blue-shake", "blue-nod"]
SEEDS = {m: np.clip(RNG.normal(0.7, 0.03, 3), 0, 1) for m in ("spatial", "temporal", "two-stream", "stil-regions")}
WHISKERS = {m: (v.mean() - 0.05, v.mean() + 0.05) for m, v in SEEDS.items()}
FRAMES = np.kron(RNG.integers(60, 200, (8, 16, 16, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
FLOW = np.kron(RNG.normal(0, 2, (8, 2, 8, 8)), np.ones((1, 1, 8, 8)))
MAPS = {"S1": RNG.random((7, 7)), "T": RNG.random((7, 7)), "S2": RNG.random((7, 7))}
SAMPLE = figures.Sample(
    frame=FRAMES[0], truth=NAMES[0], predicted=NAMES[1], scores=dict(zip(NAMES, (0.3, 0.6, 0.1, 0.0), strict=True))
)
WEIGHTS = RNG.dirichlet([1, 1], 4)
Box = diagrams.Box


def drawing() -> Figure:
    spatial = [Box("frame", "3 × 56 × 56"), Box("pool", "4 × 512"), Box("summarise", "512", step="1")]
    spatial += [Box("attend", "512", row=4, step="3", after=1)]
    temporal = [Box("flow", "20 × 56 × 56"), Box("pool", "4 × 512"), Box("attend", "512", row=3, step="2")]
    crossings = [(("spatial", 2), ("temporal", 2)), (("temporal", 2), ("spatial", 3))]
    return diagrams.two_stream_drawing({"spatial": spatial, "temporal": temporal}, crossings, [Box("average", "8")])


def against() -> Figure:
    arrays = {m: np.tile(v, (3, 1)) for m, v in SEEDS.items()}
    whiskers = {m: [WHISKERS[m]] * 3 for m in SEEDS}
    return figures.accuracy_against([1, 4, 25], arrays, whiskers, chance=0.25, xlabel="test snippets")


DRAWN: dict[str, Callable[[], Figure]] = {
    "bars": lambda: figures.bars(SEEDS, WHISKERS, chance=0.25),
    "per_factor": lambda: figures.per_factor(
        {"motion": SEEDS, "order": SEEDS}, {("motion", "spatial"): (0.6, 0.8)}, chance={"motion": 0.5}
    ),
    "learning_curve": lambda: figures.learning_curve(np.linspace(2, 0.5, 50), np.linspace(2, 1, 20)),
    "confusion": lambda: figures.confusion(np.eye(4) * 9 + 1, NAMES, "all"),
    "confusion_of_many": lambda: figures.confusion(np.eye(21), [f"class {i}" for i in range(21)]),
    "confusion_of_a_hundred": lambda: figures.confusion(np.eye(101), [f"class {i}" for i in range(101)]),
    "samples": lambda: figures.samples([SAMPLE] * 4),
    "weights_per_class": lambda: figures.weights_per_class(NAMES, WEIGHTS),
    "weights_against_lambda": lambda: figures.weights_against_lambda([0, 0.1, 1], np.stack([WEIGHTS] * 3), NAMES),
    "accuracy_against": against,
    "colour_wheel": lambda: drawings.colour_wheel(4),
    "clip_strip": lambda: drawings.clip_strip(FRAMES, FLOW, labels=[str(i) for i in range(8)]),
    "attention_over_snippets": lambda: drawings.attention_over_snippets(
        FRAMES, {"S1": np.full(8, 0.125), "T": np.arange(8) / 28}, FLOW, event=(2, 4)
    ),
    "attention_over_regions": lambda: drawings.attention_over_regions(FRAMES[0], MAPS),
    "two_stream_drawing": drawing,
}


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_small_and_sharp_enough(name: str) -> None:
    data = theme.drawn(DRAWN[name]())
    assert 1_000 < len(data) <= 60_000
    with Image.open(io.BytesIO(data)) as image:
        assert image.width <= theme.WIDTH * theme.PIXELS_PER_INCH * theme.DENSITY + 1
        assert not image.info.keys() & {"Software", "Creation Time", "date"}


@pytest.mark.parametrize("name", ["bars", "confusion_of_many", "clip_strip"])
def test_pictures_repeat_to_the_byte(name: str) -> None:
    fig = figures.bars(SEEDS, WHISKERS) if name == "bars" else DRAWN[name]()
    again = figures.bars(SEEDS, WHISKERS) if name == "bars" else DRAWN[name]()
    data = theme.drawn(fig)
    assert data == theme.drawn(again)
    assert data == theme.drawn(fig)  # a figure shown twice, too


def test_no_text_is_smaller_than_the_page() -> None:
    for name, make in DRAWN.items():
        for text in make().findobj(mpl.text.Text):
            assert float(text.get_fontsize()) >= theme.SMALL or not text.get_text(), (name, text.get_text())
    assert theme.SMALL / 72 * theme.PIXELS_PER_INCH >= 16  # pixels of the page's own text


def test_matplotlibs_settings_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    theme.drawn(figures.bars(SEEDS))
    assert dict(mpl.rcParams) == before


def test_bars_start_at_zero_and_show_mean_seeds_and_interval() -> None:
    ax = figures.bars({"spatial": [0.5, 0.7]}, {"spatial": (0.45, 0.75)}, chance=0.1).axes[0]
    assert ax.get_xlim()[0] == 0
    (bar,) = ax.patches
    assert isinstance(bar, mpl.patches.Rectangle)
    assert bar.get_x() == 0
    assert bar.get_width() == pytest.approx(60)
    assert to_hex(bar.get_facecolor()) == theme.APPEARANCE.lower()
    dots = [c for c in ax.collections if isinstance(c, mpl.collections.PathCollection)]
    assert np.allclose(np.asarray(dots[0].get_offsets())[:, 0], [50, 70])
    whisker = next(c for c in ax.collections if isinstance(c, mpl.collections.LineCollection))
    assert np.allclose(whisker.get_segments()[0][:, 0], [45, 75])
    assert "60.0" in [t.get_text() for t in ax.texts]


def test_show_needs_alt_text_and_escapes_it() -> None:
    fig = figures.learning_curve([2, 1], [2, 1])
    for alt in ("", "  "):
        with pytest.raises(ReproError, match="alt text"):
            figures.show(fig, alt=alt)
    shown = figures.show(fig, alt='a "falling" curve', caption="1 < 2")
    html = shown._repr_html_()
    assert html.startswith('<figure class="repro') and 'alt="a &quot;falling&quot; curve"' in html
    assert "<figcaption>1 &lt; 2</figcaption>" in html and 'src="data:image/webp;base64,' in html
    assert shown._repr_mimebundle_() == {"text/html": html, "text/plain": 'a "falling" curve\n1 < 2'}
    assert html == figures.show(figures.learning_curve([2, 1], [2, 1]), alt='a "falling" curve', caption="1 < 2").html


# ---------------------------------------------------------------------------------------------------------------- flow


def colour_of(u: float, v: float, maximum: float | None = 1.0) -> figures.Array:
    colours = drawings.flow_to_rgb(np.array([u, v]).reshape(2, 1, 1), maximum)
    return np.asarray(colours[0, 0] / 255)


def test_zero_flow_is_white() -> None:
    assert (drawings.flow_to_rgb(np.zeros((3, 2, 4, 5))) == 255).all()
    assert drawings.flow_to_rgb(np.zeros((3, 2, 4, 5))).shape == (3, 4, 5, 3)


def test_right_is_red_and_opposite_directions_have_opposite_hues() -> None:
    assert colour_of(1, 0).tolist() == [1, 0, 0]
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        one, other = (colorsys.rgb_to_hsv(*colour_of(s * np.cos(angle), s * np.sin(angle)))[0] for s in (1, -1))
        apart = abs(one - other)
        assert min(apart, 1 - apart) > 0.25  # of the circle; the wheel is uneven, so not always a half


def test_faster_is_more_saturated_and_beyond_the_maximum_darker() -> None:
    saturation = [colorsys.rgb_to_hsv(*colour_of(s, 0.3 * s))[1] for s in (0.1, 0.4, 0.7, 0.9)]
    assert saturation == sorted(saturation) and saturation[0] < saturation[-1]
    assert colour_of(2, 0).max() == pytest.approx(0.75, abs=0.01)
    assert (colour_of(4, 0, None) == colour_of(1, 0)).all()  # by default the fastest is fully coloured


def test_the_wheel_has_no_seam() -> None:
    turn = np.linspace(0, 2 * np.pi, 721)
    colours = drawings.flow_to_rgb(np.stack([np.cos(turn), np.sin(turn)])[:, None], 1.0)[0].astype(int)
    assert np.abs(np.diff(colours, axis=0)).max() <= 10  # a step of half a degree


def test_moving_clip_is_small_moves_and_respects_a_wish_for_stillness() -> None:
    noise = RNG.integers(0, 255, (12, 64, 64, 3)).astype(np.uint8)
    shown = drawings.moving_clip(noise, np.tile(FLOW, (2, 1, 1, 1))[:11], alt="two actors", caption="look")
    data = base64.b64decode(re.findall(r'src="data:image/webp;base64,([^"]+)"', shown.html)[0])
    assert len(data) <= drawings.LIMIT
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames > 1 and image.width >= 256  # type: ignore[attr-defined]
    assert "prefers-reduced-motion" in shown.html and repr(shown) == "two actors\nlook"
    with pytest.raises(ReproError, match="alt text"):
        drawings.moving_clip(noise, FLOW, alt="")


# ------------------------------------------------------------------------------------------------------------- classes


def test_top_classes_keeps_every_clip() -> None:
    matrix = RNG.integers(0, 9, (7, 7))
    names = list("gfedcba")
    counts = np.array([5, 9, 5, 1, 9, 5, 0])
    folded, kept = figures.top_classes(matrix, names, counts, n=3)
    assert kept == ["c", "f", "b", "other"]  # 9 and 9, then the first by name of those with 5
    slow = np.zeros((4, 4), int)
    for i, true in enumerate(names):
        for j, predicted in enumerate(names):
            row, column = (kept.index(x) if x in kept else 3 for x in (true, predicted))
            slow[row, column] += matrix[i, j]
    assert (folded == slow).all() and folded.sum() == matrix.sum()
    same, all_names = figures.top_classes(matrix, names, counts, n=7)
    assert (same == matrix).all() and all_names == names
    with pytest.raises(ReproError, match="square"):
        figures.top_classes(matrix[:3], names, counts)


def test_confusion_of_a_class_without_clips_is_blank() -> None:
    ax = figures.confusion([[3, 1], [0, 0]], ["a", "b"]).axes[0]
    assert [t.get_text() for t in ax.texts] == ["75", "25"]


def test_colours_have_their_meaning() -> None:
    assert theme.colour("stil-snippets:spatial") == theme.APPEARANCE
    assert theme.colour("temporal") == theme.colour("T") == theme.MOTION
    assert theme.colour("two-stream") == theme.colour("control-regions") == theme.FUSED
    hues = theme.colours(["stil-snippets", "stil-regions", "spatial"])
    assert hues["stil-snippets"] == theme.CROSSING.lower() and len(set(hues.values())) == 3


def test_drawing_holds_what_it_was_given() -> None:
    texts = [t.get_text() for t in drawing().axes[0].texts]
    assert {"spatial stream", "temporal stream", "20 × 56 × 56", "summarise", "1", "2", "3", "average"} <= set(texts)
    arrows = [p for p in drawing().axes[0].patches if isinstance(p, mpl.patches.FancyArrowPatch)]
    crossing = [p for p in arrows if to_hex(p.get_edgecolor()) == theme.CROSSING.lower()]
    assert len(crossing) == 2 and len(arrows) == 2 + 3 + 2 + 2  # crossings, feeds of S and of T, into the fusion


def test_drawing_refuses_text_that_would_overlap() -> None:
    with pytest.raises(ReproError, match="shorten"):
        diagrams.two_stream_drawing(
            {"spatial": [Box("a very long name of a layer", "2048 × 7 × 7")], "temporal": [Box("x")]}
        )
