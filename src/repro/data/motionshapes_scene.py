"""The physics of motionshapes: textures, motions, the camera, and the drawing of one scene.

Three rules keep what the streams can see apart. (1) Looks are hues of equal luminance, so that grey-level optical flow
cannot see them. (2) Motions are translations of equal energy around a random point, and every motion of a factor
displaces the actor in every clip, all but the class's own being frozen at a random phase: the position of an actor in a
single frame has exactly the same distribution for every class of the factor. (3) Nothing else depends on the label.

Positions are rounded to 1/64 px, textures to whole grey levels, and sampled with exact float32 arithmetic: the frames
do not depend on the processor's last bit. T frames, H W pixels; positions are (x, y) in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Path = npt.NDArray[np.float64]  # (T, 2)
Bytes = npt.NDArray[np.uint8]

VERSION = "1"  # of every pixel: change it with any change of the frames
SIZE = 64  # px, height and width
FRAMES = 40

# Eight hues, 45 degrees apart on an ellipse of the (Cb, Cr) plane that stays inside RGB for every luma of LUMA_RANGE.
HUES = ("violet", "pink", "red", "amber", "lime", "green", "cyan", "blue")
CHROMA_RADIUS = (40.0, 50.0)  # along Cb and Cr, grey levels
CHROMA_JITTER = 3.0  # grey levels, uniform
LUMA_MEAN, LUMA_SHIFT, LUMA_CONTRAST = 125.0, 15.0, 20.0  # grey levels; shift uniform, contrast is a standard deviation
LUMA_RANGE = (75.0, 175.0)
BACKGROUND_CHROMA = 8.0  # standard deviation, grey levels
SENSOR_NOISE = 4  # grey levels of luma, uniform

SPEEDS = {"slow": (0.075, 0.095), "fast": (0.12, 0.15)}  # oscillations per frame
AMPLITUDE = (5.0, 6.0)  # px

CANVAS = SIZE + 2 * 40  # px, side of a texture: 40 px of margin for the camera
GRID = 64  # positions are multiples of 1 / GRID px


@dataclass(frozen=True)
class Camera:
    """A damped spring driven by noise: `step` px of noise per frame, `memory` of the velocity, `pull` to the centre."""

    step: float
    memory: float
    pull: float
    reach: float  # px, largest excursion along an axis


CAMERAS = {
    "1": Camera(step=0.35, memory=0.9, pull=0.01, reach=8.0),  # a slow drift, below 1 px per frame
    "2": Camera(step=4.5, memory=0.2, pull=0.35, reach=12.0),  # a running operator: several px per frame, jerky
}
# The camera carries an actor along by a share of the background's displacement (the operator follows the actor). The
# share is unknown to the viewer, so that subtracting the background's motion does not restore the actor's.
FOLLOW = (0.3, 0.5)


def stream(*key: str) -> np.random.Generator:
    """The random stream of a key (a clip's id, a group), stable over machines and versions of Python."""
    digest = blake2b("\n".join((VERSION, *key)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _noise(rng: np.random.Generator, sigmas: Sequence[float]) -> Path:
    """(CANVAS, CANVAS) periodic noise, mean 0 and standard deviation 1: equal parts of each Gaussian scale (px)."""
    frequency = 2 * np.pi * np.fft.fftfreq(CANVAS)
    square = frequency[:, None] ** 2 + frequency[None, :] ** 2
    noise = np.zeros((CANVAS, CANVAS))
    for sigma in sigmas:
        white = np.fft.fft2(rng.standard_normal((CANVAS, CANVAS)))
        part = np.fft.ifft2(white * np.exp(-0.5 * sigma**2 * square)).real
        noise += part / part.std()
    noise -= noise.mean()
    return np.asarray(noise / noise.std())


@dataclass(frozen=True)
class World:
    """What the clips of a group share, as whole grey levels: (CANVAS, CANVAS) textures, luma around 0 except `back`."""

    back: Array  # (CANVAS, CANVAS, 3) luma, Cb, Cr
    skins: tuple[Array, Array]  # of the actors
    bar: Array  # of the occluder


@lru_cache(maxsize=32)
def world(group: str) -> World:
    """The textures of a group ("g01")."""
    rng = stream("group", group)
    luma = LUMA_MEAN + rng.uniform(-LUMA_SHIFT, LUMA_SHIFT) + LUMA_CONTRAST * _noise(rng, (1.2, 2.5, 5.0))
    chroma = [np.clip(BACKGROUND_CHROMA * _noise(rng, (6.0,)), -40, 40) for _ in "br"]
    back = np.stack([np.clip(luma, *LUMA_RANGE), *chroma], axis=-1)
    skins = [np.rint(LUMA_CONTRAST * _noise(rng, (1.2, 2.2))).astype(np.float32) for _ in range(2)]
    bar = np.rint(LUMA_CONTRAST * _noise(rng, (1.5, 4.0))).astype(np.float32)
    return World(np.rint(back).astype(np.float32), (skins[0], skins[1]), bar)


def chroma(hue: str, rng: np.random.Generator) -> tuple[float, float]:
    """A (Cb, Cr) of the named hue, with a little jitter, in grey levels."""
    angle = np.pi * (0.125 + 0.25 * HUES.index(hue))
    centre = CHROMA_RADIUS * np.array([np.cos(angle), np.sin(angle)])
    cb, cr = np.rint(centre + rng.uniform(-CHROMA_JITTER, CHROMA_JITTER, 2))
    return float(cb), float(cr)


def displacement(verb: str, phase: Path, sign: int) -> Path:
    """(T,) phases in radians -> (T, 2) displacement of a motion of unit amplitude; all motions have the same energy.

    The sign chooses the diagonal of a slash and the sense of a circle: mirroring a motion gives the same motion.
    """
    wave, still, half = np.sin(phase), np.zeros_like(phase), np.sqrt(0.5)
    paths = {
        "shake": (wave, still),
        "nod": (still, wave),
        "slash": (half * wave, sign * half * wave),
        "circle": (half * np.cos(phase), sign * half * wave),
    }
    return np.stack(paths[verb], axis=-1)


def actor_path(stints: dict[str, tuple[int, int]], speed: str, rng: np.random.Generator) -> Path:
    """(T, 2) displacement, in px, of an actor that makes each motion during its stint (start, stop), frozen outside.

    An empty stint (start = stop) is a motion that only displaces: see rule (2) above. Frames start .. stop - 1 show the
    motion, hence the stop - start - 1 steps between them.
    """
    path = np.zeros((FRAMES, 2))
    amplitude, pace = rng.uniform(*AMPLITUDE), 2 * np.pi * rng.uniform(*SPEEDS[speed])
    for verb in sorted(stints):  # sorted: the same draws whatever the class
        start, stop = stints[verb]
        clock = np.clip(np.arange(FRAMES, dtype=np.float64), start, max(start, stop - 1))
        phase = pace * clock + rng.uniform(0, 2 * np.pi)
        path += amplitude * displacement(verb, phase, int(rng.choice((-1, 1))))
    return path


def camera_path(level: str, rng: np.random.Generator) -> Path:
    """(T, 2) displacement of the background in px. Begins in the steady state: no frame is calmer than another."""
    camera = CAMERAS.get(level)
    if camera is None:
        return np.zeros((FRAMES, 2))
    warm_up = 60
    position, velocity, path = np.zeros(2), np.zeros(2), []
    for kick in camera.step * rng.standard_normal((warm_up + FRAMES, 2)):
        velocity = camera.memory * velocity - camera.pull * position + kick
        position = position + velocity
        path.append(position)
    return np.asarray(camera.reach * np.tanh(np.array(path[warm_up:]) / camera.reach))


@dataclass(frozen=True)
class Actor:
    chroma: tuple[float, float]
    luma: float  # mean, grey levels
    skin: int  # which of the group's two textures
    round: bool  # or square, of the same area
    radius: float  # px
    rest: tuple[float, float]  # px, the point around which it moves
    path: Path  # (T, 2) px, its own displacement from there, without the camera's


@dataclass(frozen=True)
class Bar:
    """The occluder: a straight textured bar across the whole frame, at rest in the world, in front of every actor."""

    upright: bool
    centre: float  # px, along x when upright, else along y
    width: float  # px
    luma: float


@dataclass(frozen=True)
class Scene:
    group: str
    actors: tuple[Actor, ...]
    order: tuple[int, ...]  # of drawing, the last in front
    camera: Path  # (T, 2) px
    follow: float  # share of the camera's displacement by which actors move
    bar: Bar | None


def _window(texture: Array, x: float, y: float) -> Array:
    """(SIZE, SIZE, ...) bilinear sample of a canvas whose centre lies at frame position (x, y)."""
    left, top = CANVAS // 2 - x, CANVAS // 2 - y
    i, j = int(np.floor(top)), int(np.floor(left))
    fy, fx = np.float32(top - i), np.float32(left - j)
    patch = texture[i : i + SIZE + 1, j : j + SIZE + 1]
    rows = patch[:-1] * (1 - fy) + patch[1:] * fy
    return np.asarray(rows[:, :-1] * (1 - fx) + rows[:, 1:] * fx)


def _shape(actor: Actor, x: float, y: float) -> Array:
    """(SIZE, SIZE) coverage in [0, 1] of an actor centred at (x, y); the edge is one pixel wide."""
    dx, dy = np.arange(SIZE) - x, (np.arange(SIZE) - y)[:, None]
    if actor.round:
        inside = actor.radius - np.sqrt(dx**2 + dy**2)
    else:
        inside = actor.radius * np.sqrt(np.pi) / 2 - np.maximum(abs(dx), abs(dy))
    return np.clip(inside + 0.5, 0, 1).astype(np.float32)


def _bar(bar: Bar, x: float, y: float) -> Array:
    """(SIZE, SIZE) coverage of the bar when the world is displaced by (x, y)."""
    distance = abs(np.arange(SIZE) - bar.centre - (x if bar.upright else y))
    line = np.clip(bar.width / 2 - distance + 0.5, 0, 1).astype(np.float32)
    return np.broadcast_to(line if bar.upright else line[:, None], (SIZE, SIZE))


def _paint(canvas: Array, cover: Array, luma: Array, tint: tuple[float, float]) -> None:
    """Lay a surface over a (SIZE, SIZE, 3) luma-Cb-Cr canvas, in place."""
    surface = np.empty_like(canvas)
    surface[..., 0] = np.clip(luma, *LUMA_RANGE)
    surface[..., 1:] = tint
    canvas += (surface - canvas) * cover[..., None]


def to_rgb(image: Array) -> Array:
    """Luma, Cb, Cr in grey levels -> R, G, B (ITU-R BT.601, full range), whose grey level is the luma."""
    y, cb, cr = image[..., 0], image[..., 1], image[..., 2]
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1).astype(np.float32)


def draw(scene: Scene, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
    """(T, SIZE, SIZE, 3) uint8 RGB frames and (T, SIZE, SIZE) uint8 masks: 0, or 1 + the index of the visible actor."""
    textures = world(scene.group)
    video = np.empty((FRAMES, SIZE, SIZE, 3), np.float32)
    masks = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    centre = SIZE / 2
    camera = np.rint(scene.camera * GRID) / GRID
    paths = [np.rint((a.rest + a.path + scene.follow * scene.camera) * GRID) / GRID for a in scene.actors]
    for t, (cx, cy) in enumerate(camera):
        canvas = video[t]
        canvas[:] = _window(textures.back, centre + cx, centre + cy)
        for index in scene.order:
            actor, (x, y) = scene.actors[index], paths[index][t]
            cover = _shape(actor, x, y)
            _paint(canvas, cover, actor.luma + _window(textures.skins[actor.skin], x, y), actor.chroma)
            masks[t][cover > 0.5] = index + 1
        if scene.bar is not None:
            cover = _bar(scene.bar, cx, cy)
            _paint(canvas, cover, scene.bar.luma + _window(textures.bar, centre + cx, centre + cy), (0.0, 0.0))
            masks[t][cover > 0.5] = 0
    video[..., 0] += rng.integers(-SENSOR_NOISE, SENSOR_NOISE + 1, video.shape[:3])
    return np.clip(np.rint(to_rgb(video)), 0, 255).astype(np.uint8), masks
