"""How a network is wired, drawn from names and shapes that the caller reads off the live model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.textpath import TextPath

from repro.errors import ReproError
from repro.report import theme
from repro.report.theme import CROSSING, FUSED, SMALL, TEXT, WIDTH, themed


@dataclass(frozen=True)
class Box:
    """A layer in a stream's column. `row`: its place from the top, by default below the one before; `step`: a number in
    a circle, for what takes part in the interaction; `after`: which box of the stream feeds it, by default the one
    before, -1 for none."""

    name: str
    shape: str = ""
    row: int | None = None
    step: str = ""
    after: int | None = None


Place = tuple[str, int]  # stream, number of the box in it
Point = tuple[float, float]  # inches
# Inches: from row to row, half a box's height, a box's width, from the edge to a box, above the first row.
PITCH, HALF, WIDE, EDGE, TOP = 0.62, 0.2, 2.5, 0.28, 0.45


@themed
def two_stream_drawing(
    streams: Mapping[str, Sequence[Box]], crossings: Sequence[tuple[Place, Place]] = (), fusion: Sequence[Box] = ()
) -> Figure:
    """Two streams as columns from top to bottom, what crosses between them, and what fuses them below.

    Names and shapes come from the live model. `streams`: two names -> boxes, appearance first; `crossings`: from box to
    box; `fusion`: boxes under both, fed by the last box of each stream.
    """
    at: dict[Place, Point] = {}
    last = 0
    for x, (name, boxes) in zip((EDGE + WIDE / 2, WIDTH - EDGE - WIDE / 2), streams.items(), strict=True):
        rows = _rows(boxes)
        last = max(last, *rows)
        at |= {(name, i): (x, -PITCH * (row + 0.5)) for i, row in enumerate(rows)}
    height = PITCH * (last + 1 + len(fusion))
    fig = Figure(figsize=(WIDTH, height + TOP))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(-height, TOP))
    ax.set_axis_off()
    for side, (name, boxes) in zip((-1, 1), streams.items(), strict=True):
        hue = theme.colour(name)
        ax.text(at[name, 0][0], 0.2, f"{name} stream", color=hue, fontsize=TEXT + 1, fontweight="bold",
                ha="center", va="center")  # fmt: skip
        for i, box in enumerate(boxes):
            _box(ax, at[name, i], box, CROSSING if box.step else hue)
            feeder = i - 1 if box.after is None else box.after
            if feeder >= 0:
                _feed(ax, at[name, feeder], at[name, i], hue, 0 if feeder == i - 1 else side)
    for source, target in crossings:
        (x0, y0), (x1, y1) = at[source], at[target]
        toward = np.sign(x1 - x0) * WIDE / 2
        _arrow(ax, (x0 + toward, y0), (x1 - toward, y1), CROSSING, 2.6)
    centre = [(WIDTH / 2, -PITCH * (last + 1.5 + i)) for i in range(len(fusion))]
    for i, box in enumerate(fusion):
        _box(ax, centre[i], box, FUSED)
        if i:
            _feed(ax, centre[i - 1], centre[i], FUSED)
    for side, (name, boxes) in zip((-1, 1), streams.items() if fusion else (), strict=False):
        x, y = at[name, len(boxes) - 1]
        end = centre[0][0] + side * WIDE / 2, centre[0][1]
        _arrow(ax, (x, y - HALF), end, theme.colour(name), 1.8, "angle,angleA=90,angleB=0")
    return fig


def _rows(boxes: Sequence[Box]) -> list[int]:
    rows: list[int] = []
    for box in boxes:
        rows.append(box.row if box.row is not None else (rows[-1] + 1 if rows else 0))
    return rows


def _box(ax: Axes, at: Point, box: Box, hue: str) -> None:
    """A box, its name at the left and its shape at the right; a name alone is in the middle."""
    x, y = at
    ax.add_patch(
        FancyBboxPatch((x - WIDE / 2, y - HALF), WIDE, 2 * HALF, boxstyle="round,pad=0,rounding_size=0.08",
                       facecolor=theme.lighter(hue, 0.86), edgecolor=hue, lw=1.6, zorder=3)
    )  # fmt: skip
    left = x - WIDE / 2 + 0.12
    if box.step:
        ax.add_patch(Circle((left + 0.06, y), 0.135, color=hue, zorder=4))
        ax.text(left + 0.06, y - 0.01, box.step, ha="center", va="center", color="white", fontweight="bold", zorder=5)
        left += 0.3
    right = x + WIDE / 2 - 0.12
    if left + _inches(box.name, TEXT) + 0.1 + _inches(box.shape, SMALL) > right:
        raise ReproError(f"drawing: '{box.name}' and '{box.shape}' do not fit into one box: shorten the name")
    alone = not box.shape and not box.step
    ax.text(x if alone else left, y, box.name, ha="center" if alone else "left", va="center", fontsize=TEXT, zorder=5)
    ax.text(right, y, box.shape, ha="right", va="center", fontsize=SMALL, zorder=5)


def _inches(text: str, size: float) -> float:
    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 if text else 0.0


def _feed(ax: Axes, source: Point, target: Point, hue: str, side: int = 0) -> None:
    """An arrow down a stream, or, with a `side` (-1 left, 1 right), around the boxes in between."""
    (x, y0), (_, y1) = source, target
    if not side:
        _arrow(ax, (x, y0 - HALF), (x, y1 + HALF), hue, 1.8)
        return
    edge = x + side * WIDE / 2
    out = edge + side * 0.17
    ax.plot([edge, out, out], [y0, y0, y1], color=hue, lw=1.8, solid_joinstyle="round", zorder=2)
    _arrow(ax, (out, y1), (edge, y1), hue, 1.8)


def _arrow(ax: Axes, start: Point, end: Point, hue: str, width: float, path: str = "arc3") -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7 + 4 * width, color=hue, lw=width,
                                 shrinkA=0, shrinkB=0, connectionstyle=path, joinstyle="miter", zorder=2))  # fmt: skip
