"""Pictures of what goes in and of what is looked at: flow in colours, strips of clips, attention over them.

n snippets, H W pixels. Frames are (n, H, W, 3) uint8 RGB; flow is (n, 2, H, W) in pixels, u to the right, v down.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from repro.report import theme
from repro.report.theme import INK, SMALL, WIDTH, Shown, themed

Array = NDArray[Any]

# The wheel of Baker et al., "A database and evaluation methodology for optical flow", IJCV 2011: where the eye tells
# more hues apart, they get a larger share of the circle. Its corners, and the shares of the arcs that follow them.
CORNERS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], dtype=np.float64)
ARCS = np.array([15, 6, 4, 11, 13, 6])
LIMIT = 150_000  # bytes of a moving clip


# -------------------------------------------------------------------------------------------------------- optical flow


def flow_to_rgb(flow: ArrayLike, maximum: float | None = None) -> Array:
    """Colours of flow (..., 2, H, W) in pixels, (..., H, W, 3) uint8: the hue is the direction, pale is slow.

    Zero is white, red is to the right; `maximum` (by default the largest speed there is) is fully coloured, and what
    is faster is darker.
    """
    values = np.asarray(flow, dtype=np.float64)
    u, v = values[..., 0, :, :], values[..., 1, :, :]
    speed = np.hypot(u, v)
    top = float(speed.max()) if maximum is None else maximum
    share = speed / top if top > 0 else speed
    turn = (np.arctan2(v, u) / (2 * np.pi)) % 1.0
    ends = np.concatenate([[0], np.cumsum(ARCS)]) / ARCS.sum()
    pure = np.stack([np.interp(turn, ends, CORNERS[:, c]) for c in range(3)], axis=-1)  # (..., H, W, 3)
    share = share[..., None]
    colour = np.where(share <= 1, 1 - share * (1 - pure), 0.75 * pure)
    return np.round(255 * colour).astype(np.uint8)


@themed
def colour_wheel(maximum: float | None = None) -> Figure:
    """The key to `flow_to_rgb`: a disc whose rim is `maximum` pixels per frame."""
    fig = Figure(figsize=(2.6, 2.6))
    ax = fig.add_axes((0.2, 0.25, 0.6, 0.6))
    _wheel(ax)
    ax.set_title("up", loc="center", pad=3)
    ax.set_xlabel("down" if maximum is None else f"down\n(rim: {maximum:g} px)", labelpad=2)
    ax.set_ylabel("left", rotation=90, labelpad=3)
    ax.text(1.04, 0.5, "right", transform=ax.transAxes, rotation=270, va="center")
    return fig


def _wheel(ax: Axes, pixels: int = 120) -> None:
    y, x = np.mgrid[-1 : 1 : pixels * 1j, -1 : 1 : pixels * 1j]
    picture = flow_to_rgb(np.stack([x, y]), 1.0)
    picture[np.hypot(x, y) > 1] = 255
    ax.imshow(picture)
    _bare(ax)


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


# --------------------------------------------------------------------------------------------------------------- clips


@themed
def clip_strip(rgb: ArrayLike, flow: ArrayLike, maximum: float | None = None, labels: Sequence[str] = ()) -> Figure:
    """Frames (n, H, W, 3) above their flow (n, 2, H, W), up to eight side by side, with the wheel as a key.

    `labels`: one above each frame, such as its number.
    """
    frames, colours = np.asarray(rgb), flow_to_rgb(flow, maximum)
    n, height, width = frames.shape[:3]
    margin, key = 0.55, 0.75  # inches: row names, wheel
    tile = (WIDTH - margin - key) / n
    tall = tile * height / width
    top = 0.3 if labels else 0.05
    fig = Figure(figsize=(WIDTH, 2 * tall + top + 0.1))
    for row, (name, pictures) in enumerate((("RGB", frames), ("flow", colours))):
        bottom = 0.05 + (1 - row) * tall
        ax = _panel(fig, margin, bottom, n * tile, tall)
        ax.imshow(_montage(pictures), aspect="auto", interpolation="nearest", extent=(0, n, 0, 1))
        ax.text(-0.03 * n / 5, 0.5, name, ha="right", va="center")
        for i, label in enumerate(labels if row == 0 else ()):
            ax.text(i + 0.5, 1.04, label, ha="center", va="bottom", fontsize=SMALL)
    _wheel(_panel(fig, WIDTH - key + 0.08, 0.05 + max(0.0, (tall - key + 0.1) / 2), key - 0.1, key - 0.1))
    return fig


def moving_clip(
    rgb: ArrayLike, flow: ArrayLike, *, alt: str, caption: str = "", fps: float = 12.5, maximum: float | None = None
) -> Shown:
    """Frames (n, H, W, 3) and their flow (n, 2, H, W) side by side, moving, as a WebP of at most 150 kB.

    Small frames are enlarged by whole factors without smoothing. Whoever asked their system for less motion sees the
    middle frame only.
    """
    count = min(len(np.asarray(rgb)), len(np.asarray(flow)))
    frames, colours = np.asarray(rgb)[:count], flow_to_rgb(np.asarray(flow)[:count], maximum)
    gap = np.full((*frames.shape[:2], max(2, frames.shape[2] // 32), 3), 255, np.uint8)
    both = np.concatenate([frames, gap, colours], axis=2)
    scale = max(1, 256 // both.shape[2] + 1)  # file pixels per pixel: keeps the hues of single pixels apart
    both = both.repeat(scale, axis=1).repeat(scale, axis=2)
    data, shown = _webp(both, fps)
    still = io.BytesIO()
    Image.fromarray(shown[len(shown) // 2]).save(still, "WEBP", quality=60, method=6)
    extra = f'<source media="(prefers-reduced-motion: reduce)" srcset="{theme.address(still.getvalue())}">'
    width = both.shape[2] * max(1, 560 // both.shape[2])
    return theme.picture(
        data, width, alt=alt, caption=caption, extra=extra, style="image-rendering:pixelated"
    )  # fmt: skip


def _webp(frames: Array, fps: float) -> tuple[bytes, Array]:
    """Encode at the best quality that fits; when none does, drop every other frame, at half the rate."""
    while True:
        images = [Image.fromarray(f) for f in frames]
        for quality in (80, 60, 40, 20):
            out = io.BytesIO()
            images[0].save(out, "WEBP", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0,
                           quality=quality, method=4)  # fmt: skip
            if out.tell() <= LIMIT or (len(frames) == 1 and quality == 20):
                return out.getvalue(), frames
        frames, fps = frames[::2], fps / 2


def _panel(fig: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Bare axes placed in inches."""
    w, h = fig.get_size_inches()
    ax = fig.add_axes((left / w, bottom / h, width / w, height / h))
    _bare(ax)
    return ax


def _montage(pictures: Array) -> Array:
    """Pictures (n, H, W, 3) side by side with a white gap of about a thirtieth of their width."""
    gap = max(1, pictures.shape[2] // 30)
    padded = np.pad(pictures, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)


# ----------------------------------------------------------------------------------------------------------- attention


@themed
def attention_over_snippets(
    frames: ArrayLike,
    attention: Mapping[str, ArrayLike],
    flow: ArrayLike | None = None,
    event: tuple[float, float] | None = None,
) -> Figure:
    """The weight of each snippet, per step ("S1", "T", "S2" -> (n,)), under its frame and flow.

    `frames`: (n, H, W, 3); `flow`: (n, 2, H, W); `event`: first and last snippet of what gives the class, shaded. The
    dashed line is uniform attention, 1/n.
    """
    rows = [np.asarray(frames)] + ([] if flow is None else [flow_to_rgb(flow)])
    n, height, width = rows[0].shape[:3]
    every = -(-n // 10)  # many snippets: only each k-th frame is drawn, k times as wide
    left, bar, gap = 0.75, 0.85, 0.2
    wide = WIDTH - left - 0.1
    tall = wide / n * every * height / width
    fig = Figure(figsize=(WIDTH, len(rows) * tall + len(attention) * (bar + gap) + 0.65))
    bottom = 0.55
    limit = 1.15 * max(float(np.max(a)) for a in attention.values())
    for i, (step, weights) in enumerate(reversed(list(attention.items()))):
        ax = _panel(fig, left, bottom, wide, bar)
        ax.bar(np.arange(n) + 0.5, np.asarray(weights), 0.8, color=theme.colour(step), zorder=2)
        ax.axhline(1 / n, color=INK, ls="--", lw=1.2, zorder=3)
        ax.axhline(0, color=INK, lw=1)
        if event:
            ax.axvspan(event[0], event[1] + 1, color="#f0e442", alpha=0.35, lw=0, zorder=1)
        ax.set(xlim=(0, n), ylim=(0, limit))
        ax.set_yticks([0, limit / 1.15], ["0", f"{limit / 1.15:.2f}"])
        ax.text(-0.115, 0.5, step, transform=ax.transAxes, rotation=90, va="center", color=theme.colour(step))
        if i == 0:
            ax.set_xticks(np.arange(0, n, every) + 0.5, [str(k + 1) for k in range(0, n, every)])
            ax.set_xlabel("snippet (dashed: uniform attention)")
        bottom += bar + gap
    for pictures in reversed(rows):
        shown = pictures[: n // every * every : every]
        ax = _panel(fig, left, bottom, wide * len(shown) * every / n, tall)
        ax.imshow(_montage(shown), aspect="auto", interpolation="nearest")
        bottom += tall
    return fig


@themed
def attention_over_regions(
    frame: ArrayLike, maps: Mapping[str, ArrayLike], backgrounds: Mapping[str, ArrayLike] | None = None
) -> Figure:
    """A frame (H, W, 3), then where each step attends: maps name -> (h, w); what gets no weight fades to white.

    Each map is scaled by its own largest weight, which stands above it; above the frame, 1/(h w), uniform attention.
    `backgrounds`: another picture (H, W, 3) for a step, such as its flow in colours.
    """
    base = np.asarray(frame)
    gap = 0.12
    tile = (WIDTH - gap * (len(maps) + 1)) / (len(maps) + 1)
    tall = tile * base.shape[0] / base.shape[1]
    fig = Figure(figsize=(WIDTH, tall + 0.6))
    ax = _panel(fig, gap / 2, 0.04, tile, tall)
    ax.imshow(base, aspect="auto", interpolation="nearest")
    ax.set_title(
        f"uniform:\n{' or '.join(sorted({f'{1 / np.size(a):.2f}' for a in maps.values()}))}",
        loc="center",
        fontsize=SMALL,
    )
    for i, (name, weights) in enumerate(maps.items(), start=1):
        a = np.asarray(weights, dtype=np.float64)
        ground = np.asarray((backgrounds or {}).get(name, base))
        rows = np.arange(ground.shape[0]) * a.shape[0] // ground.shape[0]
        columns = np.arange(ground.shape[1]) * a.shape[1] // ground.shape[1]
        keep = 0.08 + 0.92 * (a / a.max())[rows[:, None], columns[None, :], None]  # nearest: the map's true resolution
        ax = _panel(fig, gap / 2 + i * (tile + gap), 0.04, tile, tall)
        ax.imshow((255 * (1 - keep) + ground * keep).astype(np.uint8), aspect="auto", interpolation="nearest")
        ax.spines[:].set(visible=True, color=theme.colour(name), linewidth=2.5)
        ax.set_title(f"{name}:\nup to {a.max():.2f}", loc="center", color=theme.colour(name), fontsize=SMALL)
    return fig
