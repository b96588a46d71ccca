"""A small HMDB51 and a small UCF101 in their official layouts: class folders, and split lists as the authors publish
them.

`python tests/official.py DIR [REAL]` makes the first in DIR, with the real clips of REAL (laid out as REPRO_REAL_DATA)
where it has some. All other videos are invented: textures that move, a direction and a speed for each class.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.video import write_video

HMDB51 = """
brush_hair cartwheel catch chew clap climb climb_stairs dive draw_sword dribble drink eat fall_floor fencing flic_flac
golf handstand hit hug jump kick kick_ball kiss laugh pick pour pullup punch push pushup ride_bike ride_horse run
shake_hands shoot_ball shoot_bow shoot_gun sit situp smile smoke somersault stand swing_baseball sword sword_exercise
talk throw turn walk wave
""".split()
# The first of UCF101's 101 classes: as many as there are take long to decode, and add nothing to the layout.
UCF101 = """
ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball BasketballDunk
BenchPress Biking Billiards BlowDryHair BlowingCandles BodyWeightSquats Bowling
""".split()
LISTS = "testTrainMulti_7030_splits"
SPLITS = (1, 2, 3)
# Titles of films, in the manner of the official ones: brackets, plus and exclamation marks, ampersands, leading digits.
TITLES = (
    "(Rad)Schlag_die_Bank!", "300+_Yards!!!", "Tips_&_Tricks;-)", "Handball_(1)", "21_Rough_Cut_-_Part#2", "April_09",
    "Torwart_2_(_sterreich)", "prelinger_How_To[1]", "A_Beautiful_Mind,_2", "50_FIRST_DATES",
)  # fmt: skip


def build_hmdb51(
    root: Path,
    real: Path | None = None,
    per_class: tuple[int, int] = (2, 1),
    *,
    frames: int = 14,
    size: tuple[int, int] = (64, 48),
) -> dict[str, str]:
    """Write the data set into `root`; returns the marks of its clips: path -> such as "121" for three splits.

    per_class: clips that each split trains and tests on, in every class; one clip more is marked 0 in all lists, as
    some official ones are. Each clip has a film of its own, so that no film is on both sides. `real` supplies clips
    from `clips/hmdb51/<class>/*.avi`; invented ones have `frames` of `size` (width, height).
    """
    marks: dict[str, str] = {}
    for label, name in enumerate(HMDB51):
        clips = sorted((real / "clips" / "hmdb51" / name).glob("*.avi")) if real else []
        count = sum(per_class) + 1
        names = [clip.name for clip in clips[:count]]
        names += [_file_name(name, label + i) for i in range(len(names), count)]
        (root / name).mkdir(parents=True)
        for i, file in enumerate(names):
            if i < len(clips):
                shutil.copyfile(clips[i], root / name / file)
            else:
                write_video(
                    root / name / file, moving_texture(label, i, frames, size), 30, codec="mpeg4", pix_fmt="yuv420p"
                )
            marks[f"{name}/{file}"] = "".join(_mark(i, split, per_class) for split in SPLITS)
    write_lists(root / LISTS, marks)
    return marks


def build_ucf101(
    root: Path,
    real: Path | None = None,
    per_class: tuple[int, int] = (2, 1),
    *,
    frames: int = 14,
    size: tuple[int, int] = (64, 48),
) -> dict[str, str]:
    """Write the first classes of the data set into `root`; returns the marks of its clips: path -> "1" or "2" (test).

    Only the first of the three splits. A clip is v_<class>_g<group>_c<number>.avi; of the 25 groups of a class the
    first seven are tested. `real` supplies clips from `clips/ucf101/<class>/*.avi`; invented ones have `frames` of
    `size` (width, height).
    """
    marks: dict[str, str] = {}
    for label, name in enumerate(UCF101):
        (root / "UCF-101" / name).mkdir(parents=True)
        clips = sorted((real / "clips" / "ucf101" / name).glob("*.avi")) if real else []
        found = {clip.name: clip for clip in clips}
        groups = [*range(1, 1 + per_class[1]), *range(8, 8 + per_class[0])]
        for i, group in enumerate(groups):
            path = f"{name}/v_{name}_g{group:02d}_c01.avi"
            if real_clip := found.get(Path(path).name):
                shutil.copyfile(real_clip, root / "UCF-101" / path)
            else:
                pictures = moving_texture(label, i, frames, size)
                write_video(root / "UCF-101" / path, pictures, 25, codec="mpeg4", pix_fmt="yuv420p")
            marks[path] = "2" if group < 8 else "1"
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\r\n" for i, name in enumerate(UCF101, 1)), newline="")
    for part, mark in (("train", "1"), ("test", "2")):
        rows = [path for path in marks if marks[path] == mark]
        tails = [f" {UCF101.index(path.partition('/')[0]) + 1}" if part == "train" else "" for path in rows]
        text = "".join(f"{path}{tail}\r\n" for path, tail in zip(rows, tails, strict=True))
        (lists / f"{part}list01.txt").write_text(text, newline="")
    return marks


def write_lists(folder: Path, marks: dict[str, str]) -> None:
    """`<class>_test_split<k>.txt` of every class, with the stray blank that ends each official line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted({path.partition("/")[0] for path in marks}):
        rows = {path.partition("/")[2]: mark for path, mark in marks.items() if path.startswith(f"{name}/")}
        for k, split in enumerate(SPLITS):
            text = "".join(f"{file} {mark[k]} \n" for file, mark in sorted(rows.items()))
            (folder / f"{name}_test_split{split}.txt").write_text(text, encoding="utf-8", newline="\n")


def moving_texture(label: int, clip: int, frames: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """A smooth random texture that drifts: where to and how fast is the class's, what it looks like the clip's."""
    width, height = size
    rng = np.random.default_rng([label, clip])
    small = rng.integers(40, 216, (6, 8, 3))
    y, x = np.arange(height)[:, None] * 6 / height, np.arange(width)[None] * 8 / width
    angle, speed = 2 * np.pi * label / len(HMDB51), 0.1 + 0.1 * (label % 2)
    return [_sampled(small, y + t * speed * np.sin(angle), x + t * speed * np.cos(angle)) for t in range(frames)]


def _sampled(picture: NDArray[np.int64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A small picture (h, w, 3), repeated without end, at the places `y` (H, 1) and `x` (1, W), bilinear: (H, W, 3)."""
    h, w = picture.shape[:2]
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    dy, dx = (y - top)[..., None], (x - left)[..., None]
    corners = [[picture[(top + j) % h, (left + i) % w] for i in (0, 1)] for j in (0, 1)]
    upper, lower = ((1 - dx) * row[0] + dx * row[1] for row in corners)
    return np.asarray((1 - dy) * upper + dy * lower, np.uint8)


def _file_name(class_name: str, i: int) -> str:
    """<film>_<class>_<body>_<camera>_np<people>_<view>_<quality>_<number>.avi, a film of its own for every i."""
    film = f"{TITLES[i % len(TITLES)]}_{i}"
    body, view, quality = "fulh"[i % 4], ("fr", "le", "ri", "ba")[i % 4], ("goo", "med", "bad")[i % 3]
    return f"{film}_{class_name}_{body}_{('cm', 'nm')[i % 2]}_np{1 + i % 2}_{view}_{quality}_{i % 5}.avi"


def _mark(i: int, split: int, per_class: tuple[int, int]) -> str:
    """1: train, 2: test, 0: neither. The splits test on different clips where there are enough."""
    train, test = per_class
    if i == train + test:
        return "0"
    return "2" if (i - (split - 1) * test) % (train + test) < test else "1"


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python tests/official.py DIR [REAL]")
    made = build_hmdb51(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else None)
    print(f"{len(made)} clips of {len(HMDB51)} classes in {sys.argv[1]}")
