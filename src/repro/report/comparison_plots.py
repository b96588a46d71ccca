"""Plots of the comparison, functions of arrays: where streams meet, values by method and factor, accuracy against cost.

Accuracies and differences go in as fractions of one and are drawn in percent or points. S seeds. Figures are made as in
`repro.report.figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.textpath import TextPath
from numpy.typing import ArrayLike
from sklearn.isotonic import isotonic_regression

from repro.errors import ReproError
from repro.report.grids import Valued
from repro.report.theme import APPEARANCE, CROSSING, FUSED, INK, MOTION, SMALL, TEXT, WIDTH, lighter, themed

Array = np.ndarray[Any, Any]
HUES = {"frames": APPEARANCE, "flow": MOTION}
PALER = 0.6  # of white: what an interval that includes 0 is drawn with
COLUMNS = 3  # of panels side by side

# ---------------------------------------------------------------- where the streams meet

Place = tuple[str, str]  # stream ("frames" or "flow") and row


class Link(NamedTuple):
    """What passes from a place of one stream to one of the other; `training`: only there."""

    source: Place
    target: Place
    training: bool = False


class Meeting(NamedTuple):
    """A pair of streams: what passes between them, the rows that both pass through with the same weights, and the name
    of the flow stream's backbone where it is another one, which has none of the rows in `stages`."""

    links: tuple[Link, ...] = ()
    shared: tuple[str, ...] = ()
    unlike: str = ""


# Inches: a box and half of it, from row to row, between the columns' centres, a panel, the rows' names, the heads.
WIDE, HALF, PITCH, APART, PANEL, NAMES, HEAD = 0.5, 0.095, 0.29, 0.98, 1.75, 1.12, 0.82
KEY = 0.5  # inches below all panels: what lines mean


@themed
def draw_meetings(
    panels: Mapping[tuple[str, str], Meeting], rows: Sequence[str], stages: Sequence[str], *, across: int = COLUMNS
) -> Figure:
    """Pairs of streams side by side, each a column from top to bottom: (how they meet, whose idea) -> where they do.

    `rows`: the places of a stream; `stages`: those of them that belong to its backbone. Below them both are fused.
    """
    lines = -(-len(panels) // across)
    tall = HEAD + PITCH * (len(rows) + 1) + 0.12
    height = lines * tall + KEY
    fig = Figure(figsize=(WIDTH, height))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    ax.set_axis_off()
    for i, ((title, name), meeting) in enumerate(panels.items()):
        left, top = NAMES + (i % across) * PANEL, (i // across) * tall
        middle = left + PANEL / 2
        ax.text(middle, top + 0.18, title, ha="center", va="center", fontsize=TEXT, fontweight="bold")
        ax.text(middle, top + 0.4, name, ha="center", va="center", fontsize=SMALL)
        _pair(ax, (middle, top + HEAD), meeting, rows, stages)
    for line in range(lines):
        for k, row in enumerate((*rows, "fused")):
            ax.text(NAMES - 0.04, line * tall + HEAD + PITCH * k, row, ha="right", va="center", fontsize=SMALL)
    _key(ax, height - KEY / 2)
    return fig


def _pair(ax: Axes, at: tuple[float, float], meeting: Meeting, rows: Sequence[str], stages: Sequence[str]) -> None:
    """One panel, its first row's middle at (x, y)."""
    middle, top = at
    y = {row: top + PITCH * k for k, row in enumerate(rows)}
    x = {"frames": middle - APART / 2, "flow": middle + APART / 2}
    fused = top + PITCH * len(rows)
    for stream, hue in HUES.items():
        ax.text(x[stream], top - 0.2, stream, ha="center", va="center", fontsize=SMALL, color=hue)
        ax.plot([x[stream]] * 2, [top, y[rows[-1]]], color=hue, lw=1.6, zorder=1)
        other = stream == "flow" and meeting.unlike
        for row in (r for r in rows if not (other and r in stages)):
            _box(ax, x[stream], y[row], hue, WIDE)
        if other:
            first, last = y[stages[0]], y[stages[-1]]
            _box(ax, x[stream], (first + last) / 2, hue, WIDE, HALF + (last - first) / 2, double=True)
            text = meeting.unlike.replace("-", "-\n")
            ax.text(x[stream], (first + last) / 2, text, rotation=90, ha="center", va="center",
                    fontsize=SMALL, zorder=5)  # fmt: skip
        inside = -1 if stream == "flow" else 1
        end = middle - inside * WIDE / 2, fused
        _arrow(ax, (x[stream], y[rows[-1]] + HALF), end, hue, path="angle,angleA=90,angleB=0")
    _box(ax, middle, fused, FUSED, WIDE)
    for row in meeting.shared:
        _box(ax, middle, y[row], CROSSING, APART + WIDE)
    both = {(link.target, link.source) for link in meeting.links}
    for link in meeting.links:
        side = 1 if link.target[0] == "flow" else -1
        start, end = ((x[s] + d * WIDE / 2, y[row]) for (s, row), d in ((link.source, side), (link.target, -side)))
        shift = 0.055 * side if (link.source, link.target) in both else 0.0
        _arrow(ax, (start[0], start[1] - shift), (end[0], end[1] - shift), CROSSING, 2.2, dashed=link.training)


def _box(ax: Axes, x: float, y: float, hue: str, wide: float, half: float = HALF, *, double: bool = False) -> None:
    for inset, width in ((0.0, 1.5), (0.045, 1.0))[: 1 + double]:
        ax.add_patch(
            FancyBboxPatch((x - wide / 2 + inset, y - half + inset), wide - 2 * inset, 2 * (half - inset), lw=width,
                           boxstyle="round,pad=0,rounding_size=0.05", facecolor=lighter(hue, 0.86), edgecolor=hue,
                           zorder=3)
        )  # fmt: skip


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], hue: str, width: float = 1.6, *,
    dashed: bool = False, path: str = "arc3",
) -> None:  # fmt: skip
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=6 + 3 * width, color=hue, lw=width, shrinkA=0,
                        shrinkB=0, joinstyle="miter", connectionstyle=path, ls=(0, (2, 1.2)) if dashed else "-",
                        zorder=4)
    )  # fmt: skip


def _key(ax: Axes, y: float) -> None:
    for x, text, dashed in ((0.2, "always", False), (1.55, "in training only", True)):
        _arrow(ax, (x, y), (x + 0.45, y), CROSSING, 2.2, dashed=dashed)
        ax.text(x + 0.53, y, text, va="center", fontsize=SMALL)
    _box(ax, 3.75, y, CROSSING, WIDE)
    ax.text(4.08, y, "one set of weights for both", va="center", fontsize=SMALL)


# ---------------------------------------------------------------- values by method, panel by panel


class Seeded(NamedTuple):
    """A mean with its interval, and the values (S,) of the seeds."""

    value: Valued
    seeds: ArrayLike


@themed
def dots_by_panel(
    panels: Mapping[str, Mapping[str, Seeded]],
    rows: Sequence[str],
    colours: Mapping[str, str],
    lines: Mapping[str, float],
    *,
    xlabel: str,
    limits: tuple[float, float] | None = None,
    paler: bool = False,
) -> Figure:
    """Dots with intervals, a row for each name and a panel for each subset; all panels have one horizontal axis.

    `lines`: panel -> where its vertical line stands; `limits` of the axis, in percent, else what is drawn; `paler`:
    intervals that include the line are pale.
    """
    for name in (name for found in panels.values() for name in found):
        if name not in rows:
            raise ReproError(f"dots: no row for {name}: give it among the rows")
    across = min(COLUMNS, len(panels))
    down = -(-len(panels) // across)
    tall = 0.29 * len(rows) + 0.42
    fig = Figure(figsize=(WIDTH, down * tall + 0.55), layout="constrained")
    axes = fig.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax, (title, found) in zip(axes, panels.items(), strict=False):
        line = 100 * lines[title]
        for name, (value, seeds) in found.items():
            y = rows.index(name)
            mean, low, high = (100 * v for v in value)
            hue = lighter(colours[name], PALER) if paler and low <= line <= high else colours[name]
            ax.plot([low, high], [y, y], color=hue, lw=2.4, solid_capstyle="butt", zorder=3)
            ax.plot(mean, y, "o", color=hue, ms=8.5, mec="white", zorder=4)
            at = 100 * np.asarray(seeds, dtype=np.float64)
            ax.scatter(at, np.full(len(at), y + 0.3), s=11, color="white", edgecolor=hue, lw=1, zorder=4)
        ax.axvline(line, color=INK, ls="-" if paler else "--", lw=1.2, zorder=2)
        ax.set_title(title)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
    if limits:
        axes[0].set_xlim(*limits)
    fig.supxlabel(xlabel, fontsize=TEXT)
    return fig


# ---------------------------------------------------------------- accuracy against cost

# Of the axis: points that are nearer stand side by side; between a name and what is not its own.
BESIDE, CLEAR = 0.032, 0.025
SIDE, LINE = 4.3, 0.11  # inches of a panel, and the part of its height that a line of text takes


class Priced(NamedTuple):
    """What something costs, and its accuracy."""

    cost: float
    accuracy: Seeded


@themed
def against_cost(
    panels: Mapping[str, Mapping[str, Priced]], colours: Mapping[str, str], chance: Mapping[str, float], *, xlabel: str
) -> Figure:
    """Accuracy against a cost above 0, on a logarithmic axis, a panel under the other. Names stand beside their points,
    and points that would lie on each other side by side."""
    fig = Figure(figsize=(WIDTH, 2.4 * len(panels) + 0.4), layout="constrained")
    axes = fig.subplots(len(panels), 1, sharex=True, squeeze=False).ravel()
    costs = np.log([p.cost for found in panels.values() for p in found.values()])
    spare = max(0.08 * float(np.ptp(costs)), 0.3 - float(np.ptp(costs)) / 2)  # so much that a round number is in it
    first, last = costs.min() - spare, costs.max() + spare
    for ax, (title, found) in zip(axes, panels.items(), strict=True):
        ends = [100 * v for p in found.values() for v in p.accuracy.value] + [100 * chance[title]]
        low, high = max(0.0, min(ends) - 4), min(103.0, max(ends) + 4)
        ax.set(title=title, ylim=(low, high), xlim=(0, 1), ylabel="accuracy (%)")
        x = apart([(np.log(p.cost) - first) / (last - first) for p in found.values()], BESIDE)
        for (name, (_, (value, seeds))), at in zip(found.items(), x, strict=True):
            mean, bottom, top = (100 * v for v in value)
            ax.plot([at, at], [bottom, top], color=colours[name], lw=2, solid_capstyle="butt", zorder=3)
            dots = 100 * np.asarray(seeds, dtype=np.float64)
            ax.scatter(np.full(len(dots), at + 0.013), dots, s=13, color="white", edgecolor=colours[name], lw=1,
                       zorder=5)  # fmt: skip
            ax.plot(at, mean, "o", color=colours[name], ms=8.5, mec="white", zorder=4)
        spans = [[100 * v for v in p.accuracy.value] for p in found.values()]
        places = {name: (at, *span) for name, at, span in zip(found, x, spans, strict=True)}
        _names(ax, places, 100 * chance[title], colours)
        ax.axhline(100 * chance[title], color=INK, ls="--", lw=1.2, zorder=1)
    ticks = _round(np.exp(first), np.exp(last))
    axes[-1].set_xticks([(np.log(v) - first) / (last - first) for v in ticks], [f"{v:g}" for v in ticks])
    axes[-1].set_xlabel(xlabel)
    return fig


def _names(ax: Axes, points: Mapping[str, tuple[float, ...]], line: float, colours: Mapping[str, str]) -> None:
    """Put the name of each point (place, mean, low, high) beside it, where it covers nothing, else at the right of all
    with a thread to it. Places are from 0 to 1; nothing may cover `line` either."""
    low, high = ax.get_ylim()
    tall = LINE * (high - low)
    taken = {name: (x - 0.015, bottom, x + 0.028, top) for name, (x, _, bottom, top) in points.items()}
    taken["the line"] = (0, line - tall / 8, 1, line + tall / 8)
    rest: dict[str, tuple[float, float]] = {}
    for name, (x, mean, bottom, top) in points.items():
        wide = float(TextPath((0, 0), name, size=SMALL).get_extents().width) / 72 / SIDE
        under, over = bottom - 0.6 * tall, top + 0.6 * tall
        tried = [(x + 0.036, mean), (x - 0.026 - wide, mean)]
        for left in (x - wide / 2, x + 0.015 - wide, x - 0.015):
            tried += [(min(max(0.0, left), 1 - wide), y) for y in (under, over)]
        for left, y in tried:
            box = (left, y - tall / 2, left + wide, y + tall / 2)
            inside = box[0] >= 0 and box[1] >= low and box[2] <= 1 and box[3] <= high
            near = (box[0] - CLEAR, box[1], box[2] + CLEAR, box[3])
            if inside and not any(_overlap(near, other) for what, other in taken.items() if what != name):
                ax.text(
                    left, y, name, va="center", fontsize=SMALL, zorder=6, bbox={"fc": "white", "ec": "none", "pad": 0.3}
                )  # over threads
                taken[f"name of {name}"] = box
                break
        else:
            rest[name] = (x, mean)
    heights = apart([mean for _, mean in rest.values()], tall, (low, high))
    for (name, at), y in zip(rest.items(), heights, strict=True):
        thread = {"arrowstyle": "-", "color": lighter(colours[name], 0.4), "lw": 1, "relpos": (0, 0.5), "shrinkB": 6}
        ax.annotate(name, at, xytext=(1.02, y), va="center", fontsize=SMALL, arrowprops=thread, zorder=2)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, bottom, right, top) share anything."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _round(first: float, last: float) -> list[float]:
    """Numbers with one digit, or one and a half, from `first` to `last`, not more than seven over a few decades."""
    tens = 10.0 ** np.arange(np.floor(np.log10(first)), np.log10(last) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 3), (1,)):
        found = [float(t * s) for t in tens for s in steps if first <= t * s <= last]
        if len(found) <= 7:
            break
    return found


def apart(values: ArrayLike, gap: float, limits: tuple[float, float] = (-np.inf, np.inf)) -> Array:
    """Values (n,) moved as little as squares can tell so that none are closer than `gap`, in their order; equals stay
    in the order given. Within `limits`, which must be wide enough."""
    given = np.asarray(values, dtype=np.float64)
    if not given.size:
        return given
    order, steps = np.argsort(given, kind="stable"), gap * np.arange(len(given))
    low, high = limits[0], limits[1] - gap * (len(given) - 1)
    out = np.empty_like(given)
    out[order] = isotonic_regression(given[order] - steps, y_min=low, y_max=high) + steps
    return out
