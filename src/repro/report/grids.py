"""Plots of pairs, weights and filters: a heat map of pairs, accuracy against a share, points with two intervals,
filters channel by channel, rows of pictures.

Accuracies go in as fractions of one and are drawn in percent. Figures are made as in `repro.report.figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from repro.errors import ReproError
from repro.report.theme import INK, SMALL, WIDTH, lighter, themed

Array = NDArray[Any]


class Valued(NamedTuple):
    """A number with its 95 % interval."""

    mean: float
    low: float
    high: float


# ---------------------------------------------------------------------------------------------------------------- pairs


@themed
def heat_map(
    inside: Sequence[Sequence[Valued]],
    right: Sequence[Valued],
    bottom: Sequence[Valued],
    names: tuple[Sequence[str], Sequence[str]],
    titles: tuple[str, str],
) -> Figure:
    """Accuracies of pairs (R rows, C columns) with their intervals, coloured from the worst to the best pair.

    `right` (R) and `bottom` (C): what each row and each column reaches alone, outside the colours. `names` and `titles`
    of rows and columns; a pair of the same name is framed.
    """
    rows, columns = names
    if len(inside) != len(rows) or any(len(line) != len(columns) for line in inside):
        raise ReproError(f"heat map: {len(rows)} rows of {len(columns)} values are needed, one for each pair of names")
    values = 100 * np.array([[v.mean for v in line] for line in inside])
    fig = Figure(figsize=(WIDTH, 0.72 * (len(rows) + 1) + 1.0), layout="constrained")
    ax = fig.add_subplot()
    low, high = values.min(), max(values.max(), values.min() + 1e-6)
    ax.imshow(
        values, cmap=sns.light_palette(INK, as_cmap=True), vmin=low, vmax=low + 1.25 * (high - low), aspect="auto"
    )
    for i, line in enumerate(inside):
        for j, value in enumerate(line):
            dark = values[i, j] > low + 0.6 * (high - low)
            _cell(ax, j, i, value, "white" if dark else INK)
            if rows[i] == columns[j]:
                ax.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, lw=2.4))
    for i, value in enumerate(right):
        _cell(ax, len(columns) + 0.1, i, value, INK)
    for j, value in enumerate(bottom):
        _cell(ax, j, len(rows) + 0.1, value, INK)
    ax.set_xlim(-0.5, len(columns) + 0.6)
    ax.set_ylim(len(rows) + 0.6, -0.5)
    ax.set_xticks([*range(len(columns)), len(columns) + 0.1], [*map(_two_lines, columns), "alone"])
    ax.set_yticks([*range(len(rows)), len(rows) + 0.1], [*map(_two_lines, rows), "alone"])
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set(ylabel=titles[0], xlabel=titles[1])
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


def _two_lines(name: str) -> str:
    return name.replace("-", "\n", 1)


def _cell(ax: Axes, x: float, y: float, value: Valued, colour: str) -> None:
    ax.text(x, y - 0.02, f"{100 * value.mean:.1f}", ha="center", va="bottom", color=colour, fontweight="bold")
    ax.text(x, y + 0.06, f"{100 * value.low:.0f}–{100 * value.high:.0f}", ha="center", va="top", color=colour,
            fontsize=SMALL)  # fmt: skip


@themed
def points(
    groups: Mapping[str, Mapping[str, tuple[Valued, Valued]]],
    colours: Mapping[str, str],
    labelled: Mapping[str, str],
    *,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Points with an interval in both directions: group -> point -> (x, y). `labelled`: point -> its legend."""
    fig = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    ax = fig.add_subplot()
    for i, ((name, members), marker) in enumerate(zip(groups.items(), "osD^", strict=False)):
        front = 4 - i / len(groups)  # the first group on top
        for label, (x, y) in members.items():
            ax.errorbar(
                x.mean, y.mean, xerr=[[max(0, x.mean - x.low)], [max(0, x.high - x.mean)]],
                yerr=[[max(0, y.mean - y.low)], [max(0, y.high - y.mean)]], color=lighter(colours[name], 0.55), lw=1.2,
                zorder=2,
            )  # fmt: skip
            ax.scatter(
                x.mean, y.mean, s=54, marker=marker, color=colours[name], edgecolor="white", lw=0.8, zorder=front
            )
            if label in labelled:
                ax.scatter(
                    x.mean, y.mean, s=190, facecolor="none", edgecolor=INK, lw=1.8, label=labelled[label], zorder=4
                )
        ax.scatter([], [], s=54, marker=marker, color=colours[name], label=name)
    ax.axhline(0, color=INK, lw=1.2)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    fig.legend(loc="outside upper left", ncols=2)
    return fig


# -------------------------------------------------------------------------------------------------------------- weights


@themed
def against_share(
    weights: Sequence[float],
    curves: Mapping[str, ArrayLike],
    bands: Mapping[str, ArrayLike],
    colours: Mapping[str, str],
    marks: Mapping[str, float],
    streams: tuple[str, str],
) -> Figure:
    """Accuracy against the weight of the second of two streams, drawn over its share w / (1 + w) from none to all.

    `curves`: name -> (len(weights), S); `bands`: name -> (len(weights), 2), an interval; `marks`: weights to be marked.
    """
    share = shares(weights)
    fig = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    ax = fig.add_subplot()
    lowest = 1.0
    for name, curve in curves.items():
        values = np.asarray(curve, dtype=np.float64)
        ax.plot(share, 100 * values.mean(1), "-o", color=colours[name], lw=2.2, ms=5, label=name, zorder=4)
        lowest = min(lowest, float(values.min()))
        if name in bands:
            low, high = np.asarray(bands[name], dtype=np.float64).T
            ax.fill_between(share, 100 * low, 100 * high, color=lighter(colours[name], 0.75), lw=0, zorder=1)
            lowest = min(lowest, float(low.min()))
        dots = np.repeat(share, values.shape[1])
        ax.scatter(dots, 100 * values.ravel(), s=12, color="white", edgecolor=colours[name], lw=0.8, zorder=3)
    for (name, weight), style in zip(marks.items(), ("--", ":", "-."), strict=False):
        ax.axvline(shares([weight])[0], color=INK, ls=style, lw=1.5, label=name, zorder=2)
    kept = [w for w in (0.0, 0.5, 1.0, 1.5, 2.5, 6.0, float("inf")) if w in weights]
    ends = {0.0: f"{streams[0]}\nalone", float("inf"): f"{streams[1]}\nalone"}
    ax.set_xticks(shares(kept), [ends.get(w, f"{w:g}") for w in kept])
    ax.set(xlabel=f"weight of the {streams[1]} stream", ylabel="accuracy (%)", xlim=(-0.04, 1.04))
    ax.set_ylim(max(0, 100 * lowest - 4), None)
    fig.legend(loc="outside upper left", ncols=2, handlelength=1.6)
    return fig


def shares(weights: Sequence[float]) -> Array:
    """w / (1 + w) of weights (W,), 1 for infinity."""
    return np.array([1.0 if np.isinf(w) else w / (1 + w) for w in weights])


# ------------------------------------------------------------------------------------------------ filters and pictures


@themed
def filters(rows: Mapping[tuple[str, str], ArrayLike], channels: Sequence[str]) -> Figure:
    """Filters channel by channel: (group, line) -> (n, C, k, k), n filters under each other. Grey is 0, white positive.

    Every line is scaled by its own largest weight. Lines of one group stand together.
    """
    drawn = {place: np.asarray(x, dtype=np.float64) for place, x in rows.items()}
    per_line = max(len(x) for x in drawn.values())
    left, top, gap, space = 2.05, 0.34, 0.1, 0.22  # inches: names, channel names, between lines, between groups
    tile = (WIDTH - left) / len(channels)
    groups = list(dict.fromkeys(group for group, _ in drawn))
    height = top + len(drawn) * (per_line * tile + gap) + (len(groups) - 1) * space
    fig = Figure(figsize=(WIDTH, height))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(-height, 0))
    ax.set_axis_off()
    for c, name in enumerate(channels):
        ax.text(left + (c + 0.5) * tile, -top / 2, name, ha="center", va="center", fontsize=SMALL)
    y, last = -top, ""
    for (group, line), x in drawn.items():
        if group != last:
            y -= space if last else 0
            ax.text(0.05, y - per_line * tile / 2, group, va="center", fontweight="bold")
            last = group
        ax.text(left - 0.1, y - per_line * tile / 2, line, ha="right", va="center", fontsize=SMALL)
        limit = float(np.abs(x).max()) or 1.0
        for i, kernel in enumerate(x):
            for c, plane in enumerate(kernel):
                x0, y1 = left + c * tile, y - i * tile
                ax.imshow(plane, cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto",
                          extent=(x0 + 0.02, x0 + tile - 0.02, y1 - tile + 0.02, y1 - 0.02))  # fmt: skip
        y -= per_line * tile + gap
    ax.set(xlim=(0, WIDTH), ylim=(-height, 0))
    return fig


@themed
def pictures(rows: Mapping[str, Sequence[ArrayLike]]) -> Figure:
    """Pictures (H, W, 3) uint8 in rows with a name each."""
    count = max(len(line) for line in rows.values())
    left = 1.0
    tile = (WIDTH - left) / count
    height = tile * len(rows)
    fig = Figure(figsize=(WIDTH, height))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(-height, 0))
    ax.set_axis_off()
    for i, (name, line) in enumerate(rows.items()):
        ax.text(left - 0.1, -(i + 0.5) * tile, name, ha="right", va="center", fontsize=SMALL)
        for j, picture in enumerate(line):
            x0, y1 = left + j * tile, -i * tile
            ax.imshow(np.asarray(picture), interpolation="nearest", aspect="auto",
                      extent=(x0 + 0.03, x0 + tile - 0.03, y1 - tile + 0.03, y1 - 0.03))  # fmt: skip
    ax.set(xlim=(0, WIDTH), ylim=(-height, 0))
    return fig
