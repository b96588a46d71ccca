"""Plots of results: every function returns a matplotlib `Figure`, `show` puts it on the page with its alt text.

Accuracies go in as fractions of one and are drawn in percent. S seeds, C classes, H W pixels. Bars start at zero,
seeds are dots, whiskers are intervals. Figures are made without pyplot: a notebook shows them only once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from repro.errors import ReproError
from repro.report import theme
from repro.report.theme import APPEARANCE, FUSED, INK, MOTION, PALE, SMALL, WIDTH, Shown, themed

Array = NDArray[Any]
Interval = tuple[float, float]  # low, high


def show(fig: Figure, *, alt: str, caption: str = "") -> Shown:
    """Put a figure on the page. `alt` says what is there, for whoever cannot see it; `caption` what to see in it."""
    width = round(fig.get_figwidth() * theme.PIXELS_PER_INCH)
    return theme.picture(theme.drawn(fig), width, alt=alt, caption=caption)


# ---------------------------------------------------------------------------------------------------------- accuracies


@themed
def bars(
    values: Mapping[str, ArrayLike],
    intervals: Mapping[str, Interval] | None = None,
    colours: Mapping[str, str] | None = None,
    chance: float | None = None,
) -> Figure:
    """One bar per method: its mean over seeds. `values`: method -> accuracies (S,); `chance`: accuracy of guessing."""
    fig = Figure(figsize=(WIDTH, 0.45 * len(values) + 1.0), layout="constrained")
    ax = fig.add_subplot()
    hues = {**theme.colours(values), **(colours or {})}
    for y, (name, accuracies) in enumerate(values.items()):
        _bar(ax, y, 0.66, np.atleast_1d(accuracies), (intervals or {}).get(name), hues[name])
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.45, -0.55)
    _percent_axis(ax, chance)
    return fig


@themed
def per_factor(
    values: Mapping[str, Mapping[str, ArrayLike]],
    intervals: Mapping[tuple[str, str], Interval] | None = None,
    colours: Mapping[str, str] | None = None,
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """Bars grouped by factor. `values`: factor -> method -> accuracies (S,); `intervals`: per (factor, method);
    `chance`: per factor, drawn as a tick across its group."""
    methods = list(dict.fromkeys(m for group in values.values() for m in group))
    hues = {**theme.colours(methods), **(colours or {})}
    height = 0.8 / len(methods)
    fig = Figure(figsize=(WIDTH, len(values) * (0.26 * len(methods) + 0.2) + 1.2), layout="constrained")
    ax = fig.add_subplot()
    for y, (factor, group) in enumerate(values.items()):
        for i, method in enumerate(methods):
            if method in group:
                place = y - 0.4 + height * (i + 0.5)
                interval = (intervals or {}).get((factor, method))
                _bar(ax, place, 0.9 * height, np.atleast_1d(group[method]), interval, hues[method])
        if chance and factor in chance:
            ax.plot([100 * chance[factor]] * 2, [y - 0.46, y + 0.46], "--", color=INK, lw=1.3, zorder=4)
    ax.set_yticks(range(len(values)), list(values))
    ax.set_ylim(len(values) - 0.45, -0.55)
    handles = [mpl.patches.Patch(color=hues[m], label=m) for m in methods]
    if chance:
        handles.append(mpl.lines.Line2D([], [], color=INK, ls="--", lw=1.3, label="chance"))  # type: ignore[arg-type]
    fig.legend(handles=handles, loc="outside upper left", ncols=2, handlelength=1.2)
    _percent_axis(ax, None)
    return fig


def _bar(ax: Axes, y: float, height: float, accuracies: Array, interval: Interval | None, colour: str) -> None:
    """A horizontal bar to the mean, whiskers to the interval, a dot per seed, the mean in figures at the right."""
    mean = 100 * accuracies.mean()
    ax.barh(y, mean, height, color=colour, lw=0, zorder=2)
    if interval is not None:
        low, high = (100 * x for x in interval)
        ax.errorbar(mean, y, xerr=[[max(0, mean - low)], [max(0, high - mean)]], color=INK, capsize=3, lw=1.5, zorder=3)
    spread = np.linspace(-0.3, 0.3, len(accuracies)) * height if len(accuracies) > 1 else np.zeros(1)
    ax.scatter(100 * accuracies, y + spread, s=16, color="white", edgecolor=INK, lw=0.8, zorder=4)
    ax.text(112, y, f"{mean:.1f}", va="center", ha="right", fontsize=SMALL)


def _percent_axis(ax: Axes, chance: float | None) -> None:
    ax.set_xlim(0, 112)  # room for the means
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("accuracy (%)")
    ax.grid(axis="y", visible=False)
    if chance is not None:
        ax.axvline(100 * chance, color=INK, ls="--", lw=1.3, zorder=5)
        ax.text(100 * chance, 1.01, "chance", transform=ax.get_xaxis_transform(), ha="center", fontsize=SMALL)


@themed
def accuracy_against(
    x: Sequence[float] | Sequence[str],
    arrays: Mapping[str, ArrayLike],
    intervals: Mapping[str, ArrayLike] | None = None,
    colours: Mapping[str, str] | None = None,
    chance: float | None = None,
    *,
    xlabel: str,
) -> Figure:
    """Accuracy against a number or a level. `arrays`: method -> (len(x), S); `intervals`: method -> (len(x), 2)."""
    fig = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    ax = fig.add_subplot()
    named = any(isinstance(value, str) for value in x)
    places = np.arange(len(x)) if named else np.asarray(x, dtype=np.float64)
    step = np.diff(np.sort(places)).min() if len(x) > 1 else 1.0
    hues = {**theme.colours(arrays), **(colours or {})}
    for i, (name, values) in enumerate(arrays.items()):
        accuracies = 100 * np.asarray(values, dtype=np.float64)
        at = places + 0.1 * step * (i - (len(arrays) - 1) / 2)  # side by side, so that whiskers do not hide each other
        ax.plot(at, accuracies.mean(axis=1), "-o", color=hues[name], lw=2.2, ms=6, label=name, zorder=3)
        ax.scatter(np.repeat(at, accuracies.shape[1]), accuracies.ravel(), s=14, color="white",
                   edgecolor=hues[name], lw=1, zorder=4)  # fmt: skip
        if intervals and name in intervals:
            low, high = 100 * np.asarray(intervals[name], dtype=np.float64).T
            ax.vlines(at, low, high, color=hues[name], lw=1.5, zorder=2)
    if chance is not None:
        ax.axhline(100 * chance, color=INK, ls="--", lw=1.3, label="chance")
    ax.set_xticks(places, [value if isinstance(value, str) else f"{value:g}" for value in x])
    ax.set(xlabel=xlabel, ylabel="accuracy (%)", ylim=(0, 103))
    fig.legend(loc="outside upper left", ncols=3, handlelength=1.4)
    return fig


@themed
def learning_curve(recorded: ArrayLike, live: ArrayLike) -> Figure:
    """Losses per iteration: the recorded run as a broad pale line, its repetition as a thin dark one on top."""
    fig = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    ax = fig.add_subplot()
    for losses, name, colour, width in (
        (recorded, "recorded", theme.lighter(FUSED, 0.45), 6),
        (live, "repeated live", INK, 1.3),
    ):
        values = np.asarray(losses, dtype=np.float64)
        ax.plot(np.arange(1, len(values) + 1), values, color=colour, lw=width, label=name, solid_capstyle="round")
    ax.set(xlabel="iteration", ylabel="training loss (nats)", ylim=(0, None), xlim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper right")
    return fig


# ------------------------------------------------------------------------------------------------------------- classes


def top_classes(matrix: ArrayLike, names: Sequence[str], counts: ArrayLike, n: int = 20) -> tuple[Array, list[str]]:
    """Keep the `n` classes with the highest `counts` (C,), ties by name; fold the rest of matrix (C, C) into "other".

    Returns the smaller matrix, the most frequent class first, and its names. No clip is lost: the sum stays.
    """
    full, sizes = np.asarray(matrix), np.asarray(counts)
    if full.shape != (len(names), len(names)) or sizes.shape != (len(names),):
        raise ReproError(f"{len(names)} names need a square matrix and counts of that size, not {full.shape}")
    if n >= len(names):
        return full.copy(), list(names)
    order = sorted(range(len(names)), key=lambda c: (-sizes[c], names[c]))
    place = {c: min(i, n) for i, c in enumerate(order)}
    index = np.array([place[c] for c in range(len(names))])
    folded = np.zeros((n + 1, n + 1), dtype=full.dtype)
    np.add.at(folded, (index[:, None], index[None, :]), full)
    return folded, [*(names[c] for c in order[:n]), "other"]


@themed
def confusion(matrix: ArrayLike, class_names: Sequence[str], title: str = "") -> Figure:
    """Counts (C, C), row = true class, column = predicted class: drawn as percent of each row, blank where none.

    More than 40 classes are drawn without their names: fold them with `top_classes` first.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    total = counts.sum(axis=1, keepdims=True)
    share = 100 * np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    n = len(class_names)
    fig = Figure(figsize=(WIDTH, 4.6 if n <= 6 else WIDTH if n <= 13 else 1.15 * WIDTH), layout="constrained")
    ax = fig.add_subplot()
    image = ax.imshow(share, cmap=sns.light_palette(INK, as_cmap=True), vmin=0, vmax=100)
    shown = range(n) if n <= 40 else range(0)
    ax.set_xticks(shown, [class_names[i] for i in shown], rotation=90)
    ax.set_yticks(shown, [class_names[i] for i in shown])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted", ylabel="true", title=title)
    if n <= 13:
        for i, j in np.argwhere(share >= 0.5):
            ax.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=SMALL,
                    color="white" if share[i, j] > 55 else INK)  # fmt: skip
    else:
        bar = fig.colorbar(image, ax=ax, location="top", shrink=0.5, aspect=30, label="% of the true class")
        bar.outline.set_visible(False)
    return fig


class Sample(TypedDict):
    """A test clip: one frame (H, W, 3) uint8, its class, the predicted one, probabilities of some classes."""

    frame: Array
    truth: str
    predicted: str
    scores: Mapping[str, float]


@themed
def samples(rows: Sequence[Sample], columns: int = 3) -> Figure:
    """Right and wrong samples: each frame with its class, and under it the three most probable classes as bars."""
    lines = -(-len(rows) // columns)
    fig = Figure(figsize=(WIDTH, 3.3 * lines), layout="constrained")
    grid = fig.add_gridspec(2 * lines, columns, height_ratios=[2, 1] * lines)
    for i, row in enumerate(rows):
        r, c = divmod(i, columns)
        right = row["truth"] == row["predicted"]
        ax = fig.add_subplot(grid[2 * r, c])
        ax.imshow(row["frame"], interpolation="nearest")
        ax.set_axis_off()
        ax.set_title(f"{'✓' if right else '✗'} {row['truth']}", fontweight="normal" if right else "bold", loc="center")
        ax = fig.add_subplot(grid[2 * r + 1, c])
        best = sorted(row["scores"].items(), key=lambda item: -item[1])[:3]
        for y, (name, p) in enumerate(best):
            true = name == row["truth"]
            ax.barh(y, p, 0.86, color=theme.lighter(INK, 0.6) if true else PALE)
            ax.text(
                0.03,
                y,
                f"{name}  {100 * p:.0f} %",
                va="center",
                fontsize=SMALL,
                fontweight="bold" if true else "normal",
            )
        ax.set(xlim=(0, 1), ylim=(2.6, -0.6))
        ax.set_axis_off()
    return fig


# ------------------------------------------------------------------------------------------------------ fusion weights


@themed
def weights_per_class(names: Sequence[str], weights: ArrayLike) -> Figure:
    """A pair of weights (appearance, motion) per class, (C, 2), as dumbbells; classes from appearance to motion."""
    pairs = np.asarray(weights, dtype=np.float64)
    order = sorted(range(len(names)), key=lambda c: (pairs[c, 1] - pairs[c, 0], names[c]))
    fig = Figure(figsize=(WIDTH, 0.33 * len(names) + 1.3), layout="constrained")
    ax = fig.add_subplot()
    y = np.arange(len(names))
    ax.hlines(y, pairs[order].min(axis=1), pairs[order].max(axis=1), color=PALE, lw=4, zorder=1)
    # A ring around a disc: equal weights stay visible as both.
    ax.scatter(pairs[order, 1], y, s=130, facecolor="none", edgecolor=MOTION, lw=2.6, zorder=3, label="motion")
    ax.scatter(pairs[order, 0], y, s=46, color=APPEARANCE, zorder=2, label="appearance")
    ax.set_yticks(y, [names[c] for c in order])
    ax.set(xlabel="weight", ylim=(len(names) - 0.4, -0.6))
    ax.set_xlim(min(0, pairs.min()) - 0.04, max(1, pairs.max()) + 0.04)
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside upper left", ncols=2)
    return fig


@themed
def weights_against_lambda(lambdas: ArrayLike, weights: ArrayLike, names: Sequence[str] | None = None) -> Figure:
    """Which stream each class leans on as lambda grows: weights (len(lambdas), C, 2), drawn as appearance - motion.

    A strip per class, not a line: vertices of the simplex would lie on top of each other.
    """
    pairs = np.asarray(weights, dtype=np.float64)
    lean = (pairs[..., 0] - pairs[..., 1]).T  # (C, len(lambdas))
    fig = Figure(figsize=(WIDTH, max(2.6, 0.3 * len(lean) + 1.5)), layout="constrained")
    ax = fig.add_subplot()
    between = LinearSegmentedColormap.from_list("lean", [MOTION, "#f4f4f4", APPEARANCE])
    limit = max(1.0, float(np.abs(lean).max()))
    image = ax.imshow(lean, cmap=between, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.hlines(np.arange(1, len(lean)) - 0.5, -0.5, len(pairs) - 0.5, color="white", lw=2)
    values = np.asarray(lambdas, dtype=np.float64)
    every = -(-len(values) // 10)
    ax.set_xticks(range(0, len(values), every), [f"{v:g}" for v in values[::every]])
    ax.set_yticks(range(len(lean)) if names else [], list(names or []))
    ax.set(xlabel="λ")
    ax.grid(visible=False)
    bar = fig.colorbar(image, ax=ax, location="top", shrink=0.7, aspect=30, ticks=[-1, 0, 1])
    bar.ax.set_xticklabels(["motion", "equal", "appearance"])
    bar.outline.set_visible(False)
    return fig
