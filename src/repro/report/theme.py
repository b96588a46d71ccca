"""The look of every figure, in one place: seaborn's theme, four colours with fixed meanings, the sizes of text."""

from __future__ import annotations

import base64
import functools
import html
import io
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import seaborn as sns
from matplotlib import colors
from matplotlib.figure import Figure
from PIL import Image

from repro.errors import ReproError

# From the palette of Okabe and Ito (2008), which readers without red or green receptors can tell apart.
APPEARANCE = "#0072B2"
MOTION = "#D55E00"
CROSSING = "#009E73"  # what passes between the streams
FUSED = "#7f7f7f"  # what both give together
INK = "#222832"  # text
PALE = "#d8dce2"  # lines that only guide the eye

WIDTH = 6.4  # inches of every figure: 704 px, no wider than the text column, still legible halved on a phone
PIXELS_PER_INCH = 110  # of the page: text of 11 pt is 17 px high, the page's own is 16
DENSITY = 1.5  # picture pixels per pixel of the page, for sharp text on dense screens
TEXT, SMALL = 12.0, 11.0  # points

# Every picture has a white ground of its own, in dark mode too: frames and fading overlays have no meaning on another
# ground, no grey reads equally well on white and on black, and the book's theme dims pictures in dark mode anyway.
GROUND = "white"

RC: Any = {  # matplotlib types its keys one by one
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("notebook"),
    "figure.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
    "font.size": TEXT,
    "axes.labelsize": TEXT,
    "axes.titlesize": TEXT,
    "axes.titlelocation": "left",
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e8eaee",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
}


@dataclass(frozen=True)
class Shown:
    """Something to show: HTML for the page, which is trusted, and the same in words for whoever cannot see it."""

    text: str
    html: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}


P = ParamSpec("P")
R = TypeVar("R")


def themed(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under the theme, leaving matplotlib's own settings alone."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(RC):
            return draw(*args, **kwargs)

    return wrapper


def colour(method: str) -> str:
    """The colour of a method or stream by its name: "spatial", "stil-snippets:temporal", "two-stream"."""
    name = method.lower().rsplit(":", 1)[-1]
    if name.startswith(("spatial", "appearance", "rgb")) or name in ("s", "s1", "s2"):
        return APPEARANCE
    if name.startswith(("temporal", "motion", "flow")) or name in ("t", "t1", "t2"):
        return MOTION
    # Without anything that crosses a result is fused only: late fusion, and the controls of the interaction.
    return FUSED if name.startswith(("two-stream", "control", "unguided", "late", "early", "average")) else CROSSING


def colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour for each method; methods of one hue get lighter shades in order."""
    names = list(methods)
    size = Counter(colour(name) for name in names)
    used: Counter[str] = Counter()
    out = {}
    for name in names:
        hue = colour(name)
        out[name] = lighter(hue, 0.7 * used[hue] / size[hue])
        used[hue] += 1
    return out


def lighter(hue: str, share: float) -> str:
    """Mix a colour with a share of white, from 0 to 1."""
    r, g, b = ((1 - share) * x + share for x in colors.to_rgb(hue))
    return colors.to_hex((r, g, b))


def drawn(fig: Figure, density: float = DENSITY) -> bytes:
    """The figure as a small lossless WebP that depends on nothing but what is drawn: no date, laid out once."""
    raw = io.BytesIO()
    with mpl.rc_context(RC):
        fig.draw_without_rendering()
        fig.set_layout_engine("none")  # a second layout would move things by a hair
        fig.savefig(raw, format="png", dpi=PIXELS_PER_INCH * density, metadata={"Software": None})
    with Image.open(raw) as image:
        rgb = image.convert("RGB")
    data = _webp(rgb)
    if len(data) <= 30_000:  # bytes; else 256 colours will do; k-means keeps those of small areas
        return data
    few = rgb.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    return _webp(few.convert("RGB"))


def _webp(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True, quality=100, method=6)
    return out.getvalue()


def picture(data: bytes, width: int, *, alt: str, caption: str = "", extra: str = "", style: str = "") -> Shown:
    """A WebP image as a figure of the page, at most `width` pixels wide.

    `alt` says what is there, for whoever cannot see it, and must not be empty; `caption` says what to see in it.
    `extra`: HTML of other sources of the picture; `style`: further CSS.
    """
    if not alt.strip():
        raise ReproError("a figure needs alt text: pass alt='what is there', for readers who cannot see it")
    image = (
        f'<img alt="{html.escape(alt)}" width="{width}" style="max-width:100%;height:auto;{style}" '
        f'src="{address(data)}">'
    )
    image = f"<picture>{extra}{image}</picture>" if extra else image
    foot = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return Shown(f"{alt}\n{caption}" if caption else alt, f'<figure class="repro repro-figure">{image}{foot}</figure>')


def address(data: bytes) -> str:
    """A data URL: the picture itself, so that a page is one file."""
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
