"""motionshapes: the embedded diagnostic data set, 1050 procedural clips in 14 classes that tell two-stream ideas apart.

| factor     | classes                  | what gives the class                          | who can see it             |
|------------|--------------------------|-----------------------------------------------|----------------------------|
| appearance | LookRed, ...             | the hue; the motion is the same               | RGB, never grey-level flow |
| motion     | MoveShake, ...           | the motion; half the clips show it briefly    | flow, never a single frame |
| product    | PinkShake, ...           | hue and motion, independently                 | both, fused late           |
| binding    | AmberShakeVioletNod, ... | which of two actors makes which motion        | both, joined by position   |
| order      | ShakeThenNod, ...        | which motion comes first, a long rest between | flow filtered over time    |

Each factor can be told from the others by either stream (its hues, the size and the number of its actors), so that
confusions stay within a factor. Labels are the same after mirroring. Files are laid out as UCF101's:
`<Class>/v_<Class>_gGG_cCC.mp4`, 25 groups of 3 clips per class; a group shares background and textures, over the
classes too; clip c01, c02, c03 has camera level 0 (static), 1 (mild), 2 (shaken). `motionshapes_scene` draws.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from repro.data.motionshapes_scene import (
    FOLLOW,
    FRAMES,
    LUMA_MEAN,
    LUMA_SHIFT,
    SIZE,
    VERSION,
    Actor,
    Bar,
    Bytes,
    Scene,
    actor_path,
    camera_path,
    chroma,
    draw,
    stream,
)
from repro.data.video import write_video
from repro.errors import ReproError, nearest

__all__ = ["CLASSES", "FRAMES", "SIZE", "VERSION", "Record", "Truth", "frames", "records", "render", "splits", "truth"]

FPS = 25
GROUPS = 25
CLIPS = 3  # per class and group
TEST_GROUPS = 8  # per split
EVENT_FRAMES = (13, 15)  # length of a short event
# Frames of each half of an order clip, first and second alike. At most 15: then 11 or more steps of rest lie between
# them, and no window of 11 frames (a stack of ten flow fields) sees both motions.
HALF_FRAMES = (13, 15)
PAIR_DISTANCE = 26.0  # px between the rest points of two actors
BAR_WIDTH = (4.0, 6.0)  # px
BAR_OFFSET = (3.0, 7.0)  # px between an actor's rest point and the middle of the bar


class Role(NamedTuple):
    hues: tuple[str, ...]  # one is drawn per clip
    verbs: tuple[str, ...]  # motions one after the other


class Factor(NamedTuple):
    verbs: tuple[str, ...]  # every motion of its classes
    radius: tuple[float, float]  # px, of its actors
    spread: float  # px, rest points lie within +- spread of their middle


FACTORS = {
    "appearance": Factor(("slash",), radius=(8.0, 9.0), spread=9.0),
    "motion": Factor(("shake", "nod", "circle"), radius=(8.0, 9.0), spread=6.0),
    "product": Factor(("shake", "nod"), radius=(13.0, 14.0), spread=4.0),
    "binding": Factor(("shake", "nod"), radius=(7.5, 8.5), spread=1.5),
    "order": Factor(("shake", "nod"), radius=(10.5, 11.5), spread=6.0),
}
_ANY = ("amber", "violet")
SCRIPTS: dict[str, tuple[str, tuple[Role, ...]]] = {  # class -> factor, actors
    **{f"Look{hue.title()}": ("appearance", (Role((hue,), ("slash",)),)) for hue in ("red", "green", "blue")},
    **{f"Move{verb.title()}": ("motion", (Role(("lime",), (verb,)),)) for verb in ("shake", "nod", "circle")},
    **{
        f"{hue.title()}{verb.title()}": ("product", (Role((hue,), (verb,)),))
        for hue in ("pink", "cyan")
        for verb in ("shake", "nod")
    },
    "AmberShakeVioletNod": ("binding", (Role(("amber",), ("shake",)), Role(("violet",), ("nod",)))),
    "AmberNodVioletShake": ("binding", (Role(("amber",), ("nod",)), Role(("violet",), ("shake",)))),
    "ShakeThenNod": ("order", (Role(_ANY, ("shake", "nod")),)),
    "NodThenShake": ("order", (Role(_ANY, ("nod", "shake")),)),
}
CLASSES: tuple[str, ...] = tuple(SCRIPTS)


class Record(NamedTuple):
    """One clip as the catalogue wants it; `path` is posix, relative to the data root; `id` is `path` without suffix."""

    id: str
    path: str
    label: int
    group: str
    tags: dict[str, str]


@dataclass(frozen=True)
class Truth:
    """What the generator knows about a clip. A: actors, in the order of the class's name."""

    masks: Bytes  # (T, H, W): 0, or 1 + the index of the actor visible at that pixel
    event: tuple[int, int]  # the class-giving motion is shown by frames start .. stop - 1
    rest: tuple[int, int] | None  # order clips: frames start .. stop - 1 stand still
    paths: npt.NDArray[np.float64]  # (A, T, 2): displacement (x, y) in px by the actors' own motion, camera left out


def _tags(name: str, group: int, clip: int) -> dict[str, str]:
    """Tags of a clip. They depend on the class only through the factor, hence are balanced over a factor's classes."""

    def half(tag: str) -> bool:  # true for half of the groups, another half for each tag and clip number
        return bool(stream("tag", tag, str(clip)).permutation(GROUPS)[group - 1] < (GROUPS + clip % 2) // 2)

    factor = SCRIPTS[name][0]
    return {
        "factor": factor,
        "camera": str(clip - 1),
        "speed": "fast" if half("speed") else "slow",
        "event": "short" if factor == "motion" and half("event") else "whole",
        "occluded": "yes" if half("occluded") else "no",
    }


def records() -> list[Record]:
    """The 1050 clips, sorted by label, group and clip."""
    rows = []
    for label, name in enumerate(CLASSES):
        for group in range(1, GROUPS + 1):
            for clip in range(1, CLIPS + 1):
                key = f"{name}/v_{name}_g{group:02d}_c{clip:02d}"
                rows.append(Record(key, f"{key}.mp4", label, f"g{group:02d}", _tags(name, group, clip)))
    return rows


_BY_ID = {record.id: record for record in records()}


def splits() -> dict[str, set[str]]:
    """Split name -> the groups whose clips are its test part (all others train), as in UCF101's three splits."""
    starts = {str(split + 1): split * TEST_GROUPS + 1 for split in range(3)}
    return {name: {f"g{group:02d}" for group in range(start, start + TEST_GROUPS)} for name, start in starts.items()}


class _Plan(NamedTuple):
    scene: Scene
    event: tuple[int, int]
    rest: tuple[int, int] | None
    noise: np.random.Generator


def _record(clip_id: str) -> Record:
    if clip_id not in _BY_ID:
        raise ReproError(f"motionshapes has no clip {clip_id!r}{nearest(clip_id, _BY_ID)}: see records() for the ids")
    return _BY_ID[clip_id]


def _rest_points(count: int, spread: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(count, 2) points in px: near the middle of the frame, or two on opposite sides of it at a random angle."""
    angle = rng.uniform(0, 2 * np.pi)
    away = PAIR_DISTANCE / 2 * np.array([np.cos(angle), np.sin(angle)]) if count == 2 else np.zeros(2)
    return SIZE / 2 + np.stack([away, -away][:count]) + rng.uniform(-spread, spread, (count, 2))


def _bar(rests: npt.NDArray[np.float64], rng: np.random.Generator) -> Bar:
    """A bar beside the rest point of one actor, so that it covers part of the actor's way."""
    upright, side = bool(rng.integers(2)), int(rng.choice((-1, 1)))
    rest = rests[rng.integers(len(rests)), 0 if upright else 1]
    offset, width = rng.uniform(*BAR_OFFSET), rng.uniform(*BAR_WIDTH)
    return Bar(upright, rest + side * offset, width, LUMA_MEAN + rng.uniform(-LUMA_SHIFT, LUMA_SHIFT))


def _plan(record: Record) -> _Plan:
    """Draw everything about a clip that is random, in an order of draws that the class's label does not change."""
    factor_name, roles = SCRIPTS[CLASSES[record.label]]
    factor, tags, rng = FACTORS[factor_name], record.tags, stream("clip", record.id)
    length = int(rng.integers(EVENT_FRAMES[0], EVENT_FRAMES[1] + 1)) if tags["event"] == "short" else FRAMES
    start = int(rng.integers(0, FRAMES - length + 1))
    first, second = (int(n) for n in rng.integers(HALF_FRAMES[0], HALF_FRAMES[1] + 1, 2))
    ordered = factor_name == "order"
    stints = [(0, first), (FRAMES - second, FRAMES)] if ordered else [(start, start + length)]

    rests = _rest_points(len(roles), factor.spread, rng)
    skins = rng.permutation(2)
    actors = []
    for index, role in enumerate(roles):
        shown = dict.fromkeys(factor.verbs, (0, 0)) | dict(zip(role.verbs, stints, strict=True))
        actor = Actor(
            chroma=chroma(str(rng.choice(role.hues)), rng),
            luma=LUMA_MEAN + rng.uniform(-LUMA_SHIFT, LUMA_SHIFT),
            skin=int(skins[index]),
            round=bool(rng.integers(2)),
            radius=rng.uniform(*factor.radius),
            rest=(float(rests[index, 0]), float(rests[index, 1])),
            path=actor_path(shown, tags["speed"], rng),
        )
        actors.append(actor)
    order = tuple(int(i) for i in rng.permutation(len(roles)))
    camera, follow = camera_path(tags["camera"], rng), rng.uniform(*FOLLOW)
    bar = _bar(rests, rng) if tags["occluded"] == "yes" else None
    scene = Scene(record.group, tuple(actors), order, camera, follow, bar)
    return _Plan(scene, (start, start + length), (first, FRAMES - second) if ordered else None, rng)


def frames(clip_id: str) -> Bytes:
    """(T, 64, 64, 3) uint8 RGB frames of a clip, the same on every call. Unknown id: `ReproError`."""
    plan = _plan(_record(clip_id))
    return draw(plan.scene, plan.noise)[0]


def truth(clip_id: str) -> Truth:
    """Masks, event and paths of a clip: for probes and figures, never for training."""
    plan = _plan(_record(clip_id))
    paths = np.stack([actor.path for actor in plan.scene.actors])
    return Truth(draw(plan.scene, plan.noise)[1], plan.event, plan.rest, paths)


def render(clip_id: str, path: Path) -> None:
    """Write a clip's video file."""
    write_video(path, frames(clip_id), fps=FPS)
