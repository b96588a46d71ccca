"""Plots of the cross-enhancement chapter, functions of arrays: who teaches whom, accuracies, curves, gains, distances.

Accuracies and differences go in as fractions of one and are drawn in percent or points. S seeds. Figures are made as in
`repro.report.figures`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from repro.errors import ReproError
from repro.report.grids import Valued
from repro.report.theme import APPEARANCE, CROSSING, INK, MOTION, PALE, SMALL, TEXT, WIDTH, lighter, themed

Array = np.ndarray[Any, Any]
HUES = {"rgb": APPEARANCE, "flow": MOTION}
NARROWEST = 10.0  # points: a map's colours span at least these, so that noise does not look like a pattern

# ---------------------------------------------------------------- who teaches whom

# Inches: where boxes begin and how wide they are; rows of boxes from the top.
COLUMNS = {"front": (0.98, 1.0), "middle": (2.18, 1.0), "rear": (3.38, 1.0), "pooled": (4.58, 0.82),
           "scores": (5.56, 0.78)}  # fmt: skip
TALL, TOP_ROW, LOW_ROW, HEIGHT = 0.84, 0.5, 2.75, 3.7
LETTERS = 0.25  # of the way from teacher to student: there the nine letters stand evenly in a row


@themed
def draw_teaching(
    student: str, places: Mapping[str, Sequence[str]], bridges: Mapping[str, tuple[str, str]], chosen: str
) -> Figure:
    """Teacher above, student ("rgb" or "flow") below, the inner bridges with `chosen` bold, and the output bridge.

    `places`: the boxes of a stream, name -> lines of text; names are those of `COLUMNS`. `bridges`: letter -> places in
    the teacher and in the student.
    """
    teacher = "flow" if student == "rgb" else "rgb"
    fig = Figure(figsize=(WIDTH, HEIGHT))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    ax.set_axis_off()
    for name, y, what in ((teacher, TOP_ROW, "teacher,\nfrozen"), (student, LOW_ROW, "student")):
        title = name.upper() if name == "rgb" else name
        ax.text(0.46, y - 0.02, title, color=HUES[name], fontsize=TEXT + 2, fontweight="bold", ha="center", va="bottom")
        ax.text(0.46, y + 0.04, what, ha="center", va="top", fontsize=SMALL)
        _arrow(ax, (0.8, y), (COLUMNS["front"][0], y), HUES[name])
        ends = [(x, x + wide) for x, wide in COLUMNS.values()]
        for (_, right), (left, _) in itertools.pairwise(ends):
            _arrow(ax, (right, y), (left, y), HUES[name])
        for place, lines in places.items():
            _box(ax, place, lines, y, HUES[name], frozen=name == teacher)
    centre = {name: x + wide / 2 for name, (x, wide) in COLUMNS.items()}
    up, down = TOP_ROW + TALL / 2, LOW_ROW - TALL / 2
    for letter, (there, here) in sorted(bridges.items(), key=lambda item: item[0] == chosen):
        bold = letter == chosen
        start, end = (centre[there], up), (centre[here], down)
        _arrow(ax, start, end, CROSSING if bold else lighter(CROSSING, 0.55), 3.0 if bold else 1.2, head=bold)
        at = start[0] + LETTERS * (end[0] - start[0]), start[1] + LETTERS * (end[1] - start[1])
        ax.text(*at, letter, ha="center", va="center", fontsize=TEXT if bold else SMALL, zorder=6,
                fontweight="bold" if bold else "normal", color="white" if bold else INK,
                bbox={"boxstyle": "circle,pad=0.16", "fc": CROSSING if bold else "white",
                      "ec": CROSSING if bold else lighter(CROSSING, 0.55)})  # fmt: skip
    x = centre["pooled"]
    _arrow(ax, (x, up), (x, down), CROSSING, 3.0)
    ax.text(x + 0.12, (up + down) / 2, "output\nbridge, β", va="center", fontsize=SMALL)
    ax.text(0.06, (up + down) / 2, "inner\nbridge, α", va="center", fontsize=SMALL)
    x = centre["scores"]
    foot = LOW_ROW + TALL / 2
    _arrow(ax, (x, foot), (x, foot + 0.3), HUES[student])
    ax.text(WIDTH - 0.06, foot + 0.4, "cross-entropy with the label, γ", ha="right", va="center", fontsize=SMALL)
    return fig


def _box(ax: Axes, name: str, lines: Sequence[str], y: float, hue: str, *, frozen: bool) -> None:
    x, wide = COLUMNS[name]
    ax.add_patch(
        FancyBboxPatch((x, y - TALL / 2), wide, TALL, boxstyle="round,pad=0,rounding_size=0.08", lw=1.6, zorder=3,
                       facecolor=lighter(hue, 0.86), edgecolor=hue, ls="--" if frozen else "-")
    )  # fmt: skip
    step = 0.21
    first = y - step * len(lines) / 2
    for i, line in enumerate((name, *lines)):
        ax.text(x + wide / 2, first + i * step, line, ha="center", va="center", fontsize=TEXT if i == 0 else SMALL,
                fontweight="bold" if i == 0 else "normal", zorder=5)  # fmt: skip


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], hue: str, width: float = 1.8, *, head: bool = True
) -> None:
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>" if head else "-", mutation_scale=7 + 4 * width, color=hue,
                        lw=width, shrinkA=0, shrinkB=0, joinstyle="miter", zorder=2)
    )  # fmt: skip


# ---------------------------------------------------------------- maps of accuracies


@themed
def accuracy_map(
    cells: Mapping[tuple[str, str], Valued],
    rows: Sequence[str],
    columns: Sequence[str],
    titles: tuple[str, str],
    *,
    letters: Mapping[tuple[str, str], str] | None = None,
    framed: tuple[str, str] | None = None,
    beside: Mapping[str, Valued] | None = None,
) -> Figure:
    """Accuracies by two settings, with their intervals; a dash stands for what was not run.

    `cells`: (row, column) -> value; `titles` of rows and columns; `letters` in the corners; `beside`: what to compare
    with, name -> value, in a column of its own at the right and outside the colours.
    """
    for row, column in cells:
        if row not in rows or column not in columns:
            raise ReproError(f"map: no place for ({row}, {column}): give it among the rows and columns")
    others = dict(beside or {})
    tall = max(len(rows), len(others))
    fig = Figure(figsize=(WIDTH, 0.82 * tall + 0.95), layout="constrained")
    ax = fig.add_subplot()
    values = np.full((len(rows), len(columns)), np.nan)
    for (row, column), value in cells.items():
        values[rows.index(row), columns.index(column)] = 100 * value.mean
    low, high = _limits(values)
    palette = sns.light_palette(INK, as_cmap=True)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if (row, column) not in cells:
                ax.text(j, i, "–", ha="center", va="center")
                continue
            value = cells[row, column]
            share = (100 * value.mean - low) / (high - low)
            face = palette(0.04 + 0.4 * share)  # so pale that text is dark in all of them
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, edgecolor="white", lw=3))
            _value(ax, j, i, value)
            if letter := (letters or {}).get((row, column)):
                ax.text(j - 0.42, i - 0.42, letter, ha="left", va="top", style="italic")
            if (row, column) == framed:
                ax.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=CROSSING, lw=3))
    edge = len(columns)
    for i, (name, value) in enumerate(others.items()):
        ax.text(edge + 0.15, i - 0.3, name, ha="center", va="center", fontsize=SMALL)
        _value(ax, edge + 0.15, i + 0.12, value)
    right = edge + (0.75 if others else -0.5)
    ax.set_xlim(-0.5, right)
    ax.set_ylim(tall - 0.5, -0.5)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_ylabel(titles[0], y=1 - len(rows) / tall / 2)
    ax.set_xlabel(titles[1], x=edge / (right + 0.5) / 2)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


def _limits(values: Array) -> tuple[float, float]:
    """The ends of a map's colours, in points."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    spare = max(0.0, NARROWEST - (high - low)) / 2
    return low - spare, high + spare


def _value(ax: Axes, x: float, y: float, value: Valued) -> None:
    ax.text(x, y + 0.02, f"{100 * value.mean:.1f}", ha="center", va="bottom", fontweight="bold")
    ax.text(x, y + 0.08, f"{100 * value.low:.0f}–{100 * value.high:.0f}", ha="center", va="top", fontsize=SMALL)


# ---------------------------------------------------------------- curves, gains and distances


@themed
def progress(
    curves: Mapping[str, ArrayLike],
    bands: Mapping[str, ArrayLike],
    colours: Mapping[str, str],
    *,
    threshold: float | None = None,
    chance: float | None = None,
) -> Figure:
    """Test accuracy on the way: name -> (P, S) after each of P equal parts of the training, with intervals (P, 2).

    `threshold`: the accuracy whose first crossing is compared, a dotted line; a cross marks where the mean gets there.
    """
    fig = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    ax = fig.add_subplot()
    for i, (name, curve) in enumerate(curves.items()):
        values = 100 * np.asarray(curve, dtype=np.float64)
        steps = 100 * np.arange(1, len(values) + 1) / len(values)
        low, high = 100 * np.asarray(bands[name], dtype=np.float64).T
        ax.fill_between(steps, low, high, color=colours[name], alpha=0.16, lw=0, zorder=1)
        ax.plot(steps, values.mean(1), "-o", color=colours[name], lw=2.2, ms=6, label=name, zorder=3)
        shift = 0.7 * (i - (len(curves) - 1) / 2)  # seeds side by side
        ax.scatter(np.repeat(steps + shift, values.shape[1]), values.ravel(), s=14, color="white",
                   edgecolor=colours[name], lw=1, zorder=4)  # fmt: skip
        reached = np.flatnonzero(values.mean(1) >= 100 * (np.inf if threshold is None else threshold))
        for k in reached[:1]:
            ax.scatter(steps[k], values[k].mean(), s=190, facecolor="none", edgecolor=INK, lw=1.8, zorder=5)
    if threshold is not None:
        ax.axhline(100 * threshold, color=INK, ls=":", lw=1.6, label="half way", zorder=2)
    if chance is not None:
        ax.axhline(100 * chance, color=INK, ls="--", lw=1.3, label="chance", zorder=2)
    ax.set(xlabel="part of the training (%)", ylabel="accuracy on test clips (%)", ylim=(0, 103), xlim=(0, 103))
    fig.legend(loc="outside upper left", ncols=2, handlelength=1.6)
    return fig


@themed
def gains(
    levels: Sequence[str],
    panels: Mapping[str, Mapping[str, Sequence[Valued]]],
    colours: Mapping[str, str],
    *,
    xlabel: str,
) -> Figure:
    """Differences at each level, in points with their intervals: panel -> series -> one value per level."""
    fig = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    markers = dict(zip(names, itertools.cycle("os")))
    for ax, (title, series) in zip(axes, panels.items(), strict=True):
        for name, values in series.items():
            if len(values) != len(levels):
                raise ReproError(f"gains: {name} has {len(values)} values for {len(levels)} levels: give one for each")
            mean, low, high = (100 * np.array([getattr(v, f) for v in values]) for f in ("mean", "low", "high"))
            at = np.arange(len(levels)) + 0.22 * (names.index(name) - (len(names) - 1) / 2)
            ax.plot(at, mean, "-", color=lighter(colours[name], 0.4), lw=1.6, zorder=2)
            ax.vlines(at, low, high, color=colours[name], lw=2, zorder=3)
            ax.plot(at, mean, markers[name], color=colours[name], ms=8, mec="white", zorder=4)
        ax.axhline(0, color=INK, lw=1.2, zorder=1)
        ax.set_xticks(range(len(levels)), levels)
        ax.set_xlim(-0.5, len(levels) - 0.5)
        ax.set(title=title, xlabel=xlabel)
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("difference (points)")
    handles: list[Any] = [
        mpl.lines.Line2D([], [], color=colours[n], marker=markers[n], ms=8, lw=2, mec="white", label=n) for n in names
    ]
    fig.legend(handles=handles, loc="outside upper left", ncols=1)
    return fig


@themed
def distance_plot(
    places: Sequence[str], values: Mapping[str, ArrayLike], colours: Mapping[str, str], *, ylabel: str
) -> Figure:
    """Distances of students to their teacher, on a logarithmic axis: name -> (places, S), above 0; a line at 1."""
    fig = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    ax = fig.add_subplot()
    for i, (name, given) in enumerate(values.items()):
        found = np.asarray(given, dtype=np.float64)
        if found.shape[:1] != (len(places),) or found.ndim != 2:
            raise ReproError(f"distances: {name} is {found.shape}, not ({len(places)}, seeds): give a row per place")
        at = np.arange(len(places)) + 0.72 * ((i + 0.5) / len(values) - 0.5)
        beside = np.repeat(at + 0.27 / len(values), found.shape[1])
        ax.scatter(beside, found.ravel(), s=16, color="white", edgecolor=colours[name], lw=1.2, zorder=4)
        marker = "osD^vh"[i % 6]
        ax.plot(at, found.mean(1), marker, color=colours[name], ms=9, mec="white", label=name, zorder=3)
    ends = [float(x) for given in values.values() for x in (np.min(given), np.max(given))]
    ax.set_yscale("log")
    ax.set_ylim(min(0.6, *ends) / 1.2, max(1.6, *ends) * 1.2)
    ax.axhline(1, color=INK, ls="--", lw=1.3, zorder=2)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xticks(range(len(places)), places)
    ax.set_xlim(-0.5, len(places) - 0.5)
    ax.vlines(np.arange(1, len(places)) - 0.5, 0, 1, transform=ax.get_xaxis_transform(), color=PALE, lw=1)
    ax.grid(axis="x", visible=False)
    ax.set(ylabel=ylabel)
    fig.legend(loc="outside upper left", ncols=2, handletextpad=0.3)
    return fig
