"""Plots of the CCS chapter: its connection block, confusions of alike classes, the two modalities in one plane, class
activation maps over frames.

N clips, D features, C classes, H W pixels, h w places of a map. Figures are made as in `repro.report.figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import ArrayLike, NDArray

from repro.errors import ReproError
from repro.report import theme
from repro.report.drawings import flow_to_rgb
from repro.report.theme import APPEARANCE, CROSSING, INK, MOTION, PALE, SMALL, TEXT, WIDTH, themed

Array = NDArray[Any]
OTHERS = "another"  # predicted class outside the group
MARKERS = "osD^vP"  # of classes, in order


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


# ---------------------------------------------------------------------------------------------------- connection block


class Part(NamedTuple):
    """A box of the block: what it does, the shape that it gives, its centre in inches and its colour."""

    name: str
    shape: str
    x: float
    y: float
    hue: str


@themed
def block_drawing(shapes: Mapping[str, str]) -> Figure:
    """The connection block, appearance at the left. `shapes`: of "maps", "inner" and "affinity", as they are shown."""
    left, middle, right = 1.25, WIDTH / 2, WIDTH - 1.25
    high, wide, inner = 0.25, 0.86, 0.66  # half a box, and half of the one in the middle
    top, pitch = -0.35, 0.92
    sides = {"f": (left, APPEARANCE), "o": (right, MOTION)}
    parts = {"y": Part("$y$, Eq. 2", shapes["affinity"], middle, top - pitch, CROSSING)}
    for m, (x, hue) in sides.items():
        letter, sums = (
            ("\\varphi", "\\Sigma_j\\; y_{ij}\\, x^o_j") if m == "f" else ("\\kappa", "\\Sigma_i\\; y_{ij}\\, x^f_i")
        )
        parts[f"x{m}"] = Part(f"$x^{m}$", shapes["maps"], x, top, hue)
        parts[f"inner{m}"] = Part(f"${letter}(x^{m})$", shapes["inner"], x, top - pitch, hue)
        parts[f"sum{m}"] = Part(f"${sums}$", shapes["maps"], x, top - 2 * pitch, CROSSING)
        parts[f"w{m}"] = Part(f"$W^{m}$", shapes["maps"], x, top - 3 * pitch, hue)
        parts[f"out{m}"] = Part(f"$x^{{\\prime\\, {m}}}$, Eq. 3", shapes["maps"], x, top - 4 * pitch, hue)
    height = 0.7 - top + 4 * pitch
    fig = Figure(figsize=(WIDTH, height))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0.35 - height, 0.35))
    ax.set_axis_off()
    for part in parts.values():
        _part(ax, part, inner if part.x == middle else wide, high)
    for m, (x, hue) in sides.items():
        toward, other = (1, "o") if m == "f" else (-1, "f")
        name = "RGB stream" if m == "f" else "flow stream"
        ax.text(x, 0.12, name, color=hue, fontsize=TEXT + 1, fontweight="bold", ha="center", va="center")
        for above, below in ((f"x{m}", f"inner{m}"), (f"sum{m}", f"w{m}"), (f"w{m}", f"out{m}")):
            _line(ax, [(x, parts[above].y - high), (x, parts[below].y + high)], hue)
        y = parts["y"].y
        _line(ax, [(x + toward * wide, y), (middle - toward * inner, y)], hue)
        # What crosses: the affinity, and the other stream's own maps, in that stream's colour.
        low = parts[f"sum{m}"].y
        _line(ax, [(middle - toward * 0.3, y - high), (middle - toward * 0.3, low), (x + toward * wide, low)], CROSSING)
        column = x + toward * (wide + 0.12)
        level = parts[f"x{other}"].y + toward * 0.1
        _line(ax, [(sides[other][0] - toward * wide, level), (column, level), (column, low + 0.14),
                   (x + toward * wide, low + 0.14)], sides[other][1])  # fmt: skip
        edge = x - toward * (wide + 0.17)  # around the block
        first, last = parts[f"x{m}"].y, parts[f"out{m}"].y
        _line(ax, [(x - toward * wide, first), (edge, first), (edge, last), (x - toward * wide, last)], hue)
    return fig


def _part(ax: Axes, part: Part, wide: float, high: float) -> None:
    ax.add_patch(
        FancyBboxPatch((part.x - wide, part.y - high), 2 * wide, 2 * high, boxstyle="round,pad=0,rounding_size=0.08",
                       facecolor=theme.lighter(part.hue, 0.86), edgecolor=part.hue, lw=1.6, zorder=3)
    )  # fmt: skip
    ax.text(part.x, part.y - 0.01, part.name, ha="center", va="bottom", fontsize=TEXT, zorder=5)
    ax.text(part.x, part.y - 0.04, part.shape, ha="center", va="top", fontsize=SMALL, zorder=5)


def _line(ax: Axes, points: Sequence[tuple[float, float]], hue: str) -> None:
    """A line through points with an arrowhead at its end."""
    xs, ys = zip(*points[:-1], strict=True)
    ax.plot(xs, ys, color=hue, lw=1.8, solid_joinstyle="round", zorder=2)
    ax.add_patch(FancyArrowPatch(points[-2], points[-1], arrowstyle="-|>", mutation_scale=14, color=hue, lw=1.8,
                                 shrinkA=0, shrinkB=0, zorder=2))  # fmt: skip


# ------------------------------------------------------------------------------------------ confusions of alike classes


@themed
def alike_confusions(
    frames: ArrayLike,
    flow: ArrayLike,
    counts: Mapping[str, ArrayLike],
    names: Sequence[str],
    colours: Mapping[str, str],
) -> Figure:
    """A frame and its flow of each of k alike classes, and under them, for each method, what these are taken for.

    `frames` (k, H, W, 3) uint8, `flow` (k, 2, H, W) in px; `counts`: method -> (k, k + 1) clips, row = true class,
    column = predicted class, the last column all classes outside the group; drawn as percent of each row.
    """
    k = len(names)
    tables = {name: np.asarray(table, dtype=np.float64) for name, table in counts.items()}
    for name, table in tables.items():
        if table.shape != (k, k + 1) or not table.sum(1).all():
            raise ReproError(f"'{name}': {k} alike classes need counts ({k}, {k + 1}) with clips in every row")
    letters = [chr(ord("A") + i) for i in range(k)]
    shown = np.concatenate([np.asarray(frames), flow_to_rgb(flow)], axis=2)
    tall = WIDTH / k * shown.shape[1] / shown.shape[2] + 0.4  # of the pictures, inches
    rows = -(-len(tables) // 2)
    fig = Figure(figsize=(WIDTH, tall + (0.6 + 0.42 * k) * rows + 0.4), layout="constrained")
    above, below = np.ravel(fig.subfigures(2, 1, height_ratios=[tall, fig.get_figheight() - tall], squeeze=False))
    for ax, picture, letter, name in zip(np.atleast_1d(above.subplots(1, k)), shown, letters, names, strict=True):
        ax.imshow(picture, interpolation="nearest")
        ax.axvline(picture.shape[1] / 2 - 0.5, color="white", lw=3)
        ax.set_title(f"{letter}: {name}", loc="center", fontsize=SMALL if k < 3 else SMALL - 1)
        _bare(ax)
    grid = below.subplots(rows, 2, squeeze=False)
    for ax in grid.flat[len(tables) :]:
        ax.set_axis_off()
    for ax, (name, table) in zip(grid.flat, tables.items(), strict=False):
        share = 100 * table / table.sum(1, keepdims=True)
        ax.imshow(share, cmap=sns.light_palette(colours[name], as_cmap=True), vmin=0, vmax=100, aspect="auto")
        for i, j in np.ndindex(share.shape):
            ax.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center",
                    color="white" if share[i, j] > 60 else INK)  # fmt: skip
        ax.set_xticks(range(k + 1), [*letters, OTHERS])
        ax.set_yticks(range(k), letters)
        ax.set_title(name, color=colours[name], fontweight="bold")
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    below.supylabel("true class", fontsize=TEXT)
    below.supxlabel("taken for (% of the true class)", fontsize=TEXT)
    return fig


# ------------------------------------------------------------------------------------------------ features in one plane


class Plane(NamedTuple):
    """Features of both modalities in the plane in which they differ most: (N, 2) each, and the plane's share of all
    variance."""

    rgb: Array
    flow: Array
    share: float


def principal_plane(rgb: ArrayLike, flow: ArrayLike, scatter: float | None = None) -> Plane:
    """Project features (N, D) of both modalities on the first two principal components of all 2 N together.

    Both must have the same D >= 2. `scatter`: the sum of squares about the mean, where features have lost some of it to
    dropped dimensions. The signs of the components are free: flow lies to the right of RGB on average, and
    the largest weight of the second is positive.
    """
    a, b = np.asarray(rgb, dtype=np.float64), np.asarray(flow, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or a.shape[1] < 2:
        raise ReproError(f"features of {a.shape} and {b.shape}: give both modalities of the same clips, (N, D) each")
    both = np.concatenate([a, b])
    centred = both - both.mean(0)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    right = float(((b - a) @ axes[0]).mean())
    up = float(axes[1][np.abs(axes[1]).argmax()])
    first = axes[:2] * np.where(np.array([right, up]) < 0, -1.0, 1.0)[:, None]
    at = centred @ first.T
    total = float((size**2).sum()) if scatter is None else scatter
    return Plane(at[: len(a)], at[len(a) :], float((size[:2] ** 2).sum()) / total if total else 1.0)


@themed
def embedding(
    panels: Mapping[str, Plane], labels: ArrayLike, names: Sequence[str], notes: Mapping[str, str] | None = None
) -> Figure:
    """The same clips in several planes, two side by side: RGB features filled, flow features open, a shape per class.

    `labels` (N,) index `names`, of which there are six at most. A thin line joins the two features of a clip; all
    panels have one scale. `notes`: a second line above a panel.
    """
    of = np.asarray(labels)
    if len(names) > len(MARKERS):
        raise ReproError(f"{len(names)} classes are too many to tell their shapes apart: show {len(MARKERS)} at most")
    rows = -(-len(panels) // 2)
    fig = Figure(figsize=(WIDTH, 3.6 * rows + 0.8), layout="constrained")
    axes = fig.subplots(rows, 2, squeeze=False)
    reach = 1.08 * max(float(np.abs(np.concatenate([p.rgb, p.flow])).max()) for p in panels.values())
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, plane) in zip(axes.flat, panels.items(), strict=False):
        joined = np.stack([plane.rgb, plane.flow], axis=1)  # (N, 2 ends, 2)
        ax.plot(joined[..., 0].T, joined[..., 1].T, color=PALE, lw=0.6, zorder=1)
        for c, marker in zip(range(len(names)), MARKERS, strict=False):
            a, b = plane.rgb[of == c], plane.flow[of == c]
            ax.scatter(a[:, 0], a[:, 1], s=26, marker=marker, color=APPEARANCE, lw=0, alpha=0.8, zorder=3)
            ax.scatter(b[:, 0], b[:, 1], s=26, marker=marker, facecolor="none", edgecolor=MOTION, lw=1.1, zorder=3)
        _bare(ax)
        ax.spines[:].set(visible=True, color=PALE)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        ax.set_title("\n".join([title, *([notes[title]] if notes and title in notes else [])]), fontsize=SMALL)
    handles = [
        Line2D([], [], ls="none", marker=m, color=INK, markerfacecolor=PALE, label=n)
        for n, m in zip(names, MARKERS, strict=False)
    ]
    handles.append(Line2D([], [], ls="none", marker="o", color=APPEARANCE, label="RGB"))
    handles.append(Line2D([], [], ls="none", marker="o", color=MOTION, markerfacecolor="none", label="flow"))
    columns = -(-len(handles) // 2)
    while columns > 2 and _characters([*names, "RGB", "flow"], columns) > 52:
        columns -= 1
    fig.legend(handles=handles, loc="outside upper left", ncols=columns, handletextpad=0.2, columnspacing=1.2)
    return fig


def _characters(labels: Sequence[str], columns: int) -> int:
    """How wide a legend of so many columns is, its marks counted as three."""
    high = -(-len(labels) // columns)
    return sum(3 + max(map(len, labels[i : i + high])) for i in range(0, len(labels), high))


# ------------------------------------------------------------------------------------------------ class activation maps


class Looked(NamedTuple):
    """A frame (H, W, 3) uint8, how much of each pixel is an actor's (H, W), 0 to 1, and maps of it (H, W) by network
    with their share on the actors; None where nobody knows. What is negative in a map counts as nothing."""

    title: str
    frame: Array
    actor: Array | None
    maps: Mapping[str, tuple[Array, float | None]]


@themed
def activation_maps(rows: Sequence[Looked], colours: Mapping[str, str]) -> Figure:
    """Frames with the actors outlined, and beside each what every network's map leaves of it: the rest fades to white.

    Each map is scaled by its own largest value. A number is the share of the map that lies on the actors; the one at
    the frame is the actors' share of the frame.
    """
    columns = ["frame", *dict.fromkeys(name for row in rows for name in row.maps)]
    left, gap, head, foot = 0.1, 0.12, 0.34, 0.3
    tile = min(1.62, (WIDTH - left) / len(columns) - gap)
    tall = max(tile * row.frame.shape[0] / row.frame.shape[1] for row in rows)
    height = head + len(rows) * (tall + foot + 0.24)
    fig = Figure(figsize=(WIDTH, height))
    start = (WIDTH - len(columns) * (tile + gap) + gap) / 2
    for i, row in enumerate(rows):
        bottom = height - head - (i + 1) * (tall + foot + 0.24) + foot
        actor = np.zeros(row.frame.shape[:2]) if row.actor is None else np.asarray(row.actor, dtype=np.float64)
        area = None if row.actor is None else float(actor.mean())
        fig.text(start / WIDTH, (bottom + tall + 0.05) / height, row.title, fontsize=SMALL, va="bottom")
        for j, name in enumerate(columns):
            if j and name not in row.maps:
                continue
            x = start + j * (tile + gap)
            ax = fig.add_axes((x / WIDTH, bottom / height, tile / WIDTH, tall / height))
            picture, share = row.frame, area
            if j:
                weights, share = row.maps[name]
                picture = _faded(np.asarray(row.frame), weights)
            ax.imshow(picture, interpolation="nearest", aspect="auto")
            if actor.min() <= 0.5 < actor.max():
                ax.contour(actor, levels=[0.5], colors=[INK if j else "white"], linewidths=1.4)
            _bare(ax)
            hue = colours.get(name, INK)
            ax.spines[:].set(visible=True, color=hue, linewidth=2)
            if share is not None:
                ax.set_xlabel(f"{100 * share:.0f} %", color=hue, fontsize=SMALL, labelpad=2)
            if i == 0:
                middle = (x + tile / 2) / WIDTH
                fig.text(middle, 1 - 0.06 / height, name, ha="center", va="top", color=hue, fontweight="bold")
    return fig


def _faded(frame: Array, weights: Array) -> Array:
    """A frame (H, W, 3) of which a place keeps as much as its positive weight (H, W) is of the largest."""
    w = np.maximum(np.asarray(weights, dtype=np.float64), 0)
    keep = 0.1 + 0.9 * (w / w.max() if w.max() > 0 else w)[..., None]
    return np.asarray((255 * (1 - keep) + frame * keep).astype(np.uint8))
