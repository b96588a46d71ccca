"""Probes of motionshapes: what one stream cannot see stays at chance, what the joint shows is there."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from repro.data import motionshapes as ms
from repro.data import motionshapes_scene as scenes
from repro.data.video import read_frames

Array = npt.NDArray[np.float64]
RECORDS = ms.records()
CELL = 8  # px, side of a cell of the probes' grids


def clips(factor: str, cameras: str = "0") -> list[ms.Record]:
    return [r for r in RECORDS if r.tags["factor"] == factor and r.tags["camera"] in cameras]


@cache
def video(clip_id: str) -> npt.NDArray[np.uint8]:
    return ms.frames(clip_id)


def cells(x: npt.NDArray[np.floating]) -> Array:
    """(..., H, W) -> (..., H/8, W/8) means over cells."""
    h, w = x.shape[-2] // CELL, x.shape[-1] // CELL
    return np.asarray(x.reshape(*x.shape[:-2], h, CELL, w, CELL).mean((-3, -1)))


def grey(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(T, H, W, 3) -> (T, H, W): the luma that optical flow is computed from."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.float32)


def chroma(frame: npt.NDArray[np.uint8]) -> Array:
    """(H, W, 3) RGB -> (2, H, W) Cb, Cr around 0."""
    ycc = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb).astype(np.float64)
    return np.stack([ycc[..., 2], ycc[..., 1]]) - 128


def single_frame(frames: npt.NDArray[np.uint8], t: int = 20) -> Array:
    """One frame as a linear probe sees it: thumbnail of luma and chroma, and a histogram of the chroma plane."""
    tint = chroma(frames[t])
    histogram = np.histogram2d(tint[0].ravel(), tint[1].ravel(), bins=9, range=((-60, 60), (-60, 60)))[0]
    return np.concatenate([cells(grey(frames[t : t + 1])).ravel(), cells(tint).ravel(), histogram.ravel()])


def motion_maps(frames: npt.NDArray[np.uint8]) -> Array:
    """(T, 3, 8, 8): u u, v v and u v of a Lucas-Kanade flow per cell, from grey levels at half resolution."""
    y = grey(frames).reshape(len(frames), 32, 2, 32, 2).mean((2, 4), dtype=np.float32)
    gy, gx = np.gradient(y, axis=(1, 2))
    gt = np.diff(y, axis=0)
    gx, gy = (gx[1:] + gx[:-1]) / 2, (gy[1:] + gy[:-1]) / 2

    def window(a: npt.NDArray[np.float32]) -> Array:
        return np.asarray(a.reshape(len(gt), 8, 4, 8, 4).mean((2, 4)), dtype=np.float64)

    xx, yy, xy = window(gx * gx) + 5, window(gy * gy) + 5, window(gx * gy)
    xt, yt, det = window(gx * gt), window(gy * gt), xx * yy - xy * xy
    u, v = (xy * yt - yy * xt) / det, (xy * xt - xx * yt) / det
    return np.stack([u * u, v * v, u * v], axis=1)


@cache
def motion(clip_id: str) -> Array:
    return motion_maps(video(clip_id))


def direction(maps: Array) -> Array:
    """(T, 3, 8, 8) -> the share of horizontal motion over all the clip, its square and the log of the energy."""
    energy = maps[:, :2].sum((0, 2, 3))
    share = energy[0] / energy.sum()
    return np.array([share, share**2, np.log(energy.sum())])


def average_motion(maps: Array) -> Array:
    """(T, 3, 8, 8) -> where and in which direction things move, averaged over time."""
    return np.concatenate([np.sqrt(abs(maps.mean(0))).ravel(), direction(maps)])


def binding_oracle(frames: npt.NDArray[np.uint8]) -> int:
    """0 when what moves sideways is the more amber, else 1: joins hue and motion at each position."""
    tint = np.mean([cells(chroma(frame)) for frame in frames[::4]], axis=0)
    amber = -tint[0]  # amber and violet differ in Cb alone
    maps = motion_maps(frames).mean(0)
    energy = maps[0] + maps[1]
    sideways = (maps[0] - maps[1]) / energy.sum()
    return int((sideways * (amber - (amber * energy).sum() / energy.sum())).sum() < 0)


def order_oracle(frames: npt.NDArray[np.uint8]) -> int:
    """0 when the first half moves more sideways than the second, else 1."""
    maps = motion_maps(frames)
    return int(direction(maps[:15])[0] < direction(maps[24:])[0])


def accuracy(records: list[ms.Record], features: list[Array], labels: list[int] | None = None) -> float:
    """Ridge regression on one-hot labels, five folds that keep groups together."""
    x, y = np.stack(features), np.array([r.label for r in records] if labels is None else labels)
    folds = np.array([int(r.group[1:]) % 5 for r in records])
    classes, hits = np.unique(y), 0
    for fold in range(5):
        train, test = folds != fold, folds == fold
        mean, scale = x[train].mean(0), x[train].std(0) + 1e-6
        a, b = (x[train] - mean) / scale, (x[test] - mean) / scale
        target = (y[train, None] == classes) - 1 / len(classes)
        kernel = a @ a.T + 0.3 * a.shape[1] * np.eye(len(a))
        scores = b @ (a.T @ np.linalg.solve(kernel, target))
        hits += int((classes[scores.argmax(1)] == y[test]).sum())
    return hits / len(y)


def chance(n: int, classes: int) -> float:
    """The accuracy that guessing exceeds once in a thousand times."""
    return float(binom.ppf(0.999, n, 1 / classes)) / n


def frame_features(records: list[ms.Record]) -> list[Array]:
    return [single_frame(video(r.id)) for r in records]


def flow_features(records: list[ms.Record]) -> list[Array]:
    return [average_motion(motion(r.id)) for r in records]


def directions(records: list[ms.Record]) -> list[Array]:
    return [direction(motion(r.id)) for r in records]


# What each stream can and cannot see


def test_appearance_is_seen_by_a_frame_and_not_by_motion_or_luma() -> None:
    records = clips("appearance")
    assert accuracy(records, frame_features(records)) > 0.95
    assert accuracy(records, flow_features(records)) <= chance(len(records), 3)
    thumbnails = [cells(grey(video(r.id)[20:21])).ravel() for r in records]
    assert accuracy(records, thumbnails) <= chance(len(records), 3)


def test_luma_histogram_of_the_actor_does_not_tell_its_hue() -> None:
    records = clips("appearance") + clips("product")
    histograms = []
    for r in records:
        inside = ms.truth(r.id).masks[20] == 1
        histograms.append(np.histogram(grey(video(r.id)[20:21])[0][inside], 16, (60, 190), density=True)[0])
    looks = [r.label for r in records[:75]]
    assert accuracy(records[:75], histograms[:75], looks) <= chance(75, 3)
    hues = [r.label // 2 for r in records[75:]]
    assert accuracy(records[75:], histograms[75:], hues) <= chance(100, 2)


def test_motion_is_seen_by_motion_and_not_by_a_frame() -> None:
    records = clips("motion")
    assert accuracy(records, directions(records)) > 0.85
    records = clips("motion", "012")
    assert accuracy(records, frame_features(records)) <= chance(len(records), 3)


def test_the_shaken_camera_hides_motion_and_not_appearance() -> None:
    still, shaken = clips("motion", "0"), clips("motion", "2")
    assert accuracy(shaken, directions(shaken)) < accuracy(still, directions(still)) - 0.3
    records = clips("appearance", "2")
    assert accuracy(records, frame_features(records)) > 0.95


def test_product_needs_both_streams_and_late_fusion_suffices() -> None:
    records = clips("product")
    hues, verbs = [(r.label - 6) // 2 for r in records], [(r.label - 6) % 2 for r in records]
    bound = chance(len(records), 2)
    frame, flow = frame_features(records), directions(records)
    assert accuracy(records, frame, hues) > 0.95 and accuracy(records, frame, verbs) <= bound
    assert accuracy(records, flow, verbs) > 0.95 and accuracy(records, flow, hues) <= bound


def test_binding_escapes_each_stream_and_late_fusion() -> None:
    records = clips("binding", "012")
    bound = chance(len(records), 2)
    frame, flow = frame_features(records), flow_features(records)
    assert accuracy(records, frame) <= bound
    assert accuracy(records, flow) <= bound
    assert accuracy(records, [np.concatenate(pair) for pair in zip(frame, flow, strict=True)]) <= bound


def test_order_escapes_frames_and_averages_over_time() -> None:
    records = clips("order", "012")
    bound = chance(len(records), 2)
    assert accuracy(records, frame_features(records)) <= bound
    assert accuracy(records, flow_features(records)) <= bound
    averages = [np.mean([single_frame(video(r.id), t) for t in (4, 20, 36)], axis=0) for r in records]
    assert accuracy(records, averages) <= bound


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("factor", ["binding", "order"])
def test_the_joint_tells_binding_and_order_also_when_mirrored(factor: str, mirrored: bool) -> None:
    oracle = {"binding": binding_oracle, "order": order_oracle}[factor]
    records = clips(factor)
    first = min(r.label for r in records)
    guesses = [oracle(video(r.id)[:, :, ::-1] if mirrored else video(r.id)) for r in records]
    assert np.mean([guess == r.label - first for guess, r in zip(guesses, records, strict=True)]) > 0.95


def test_mirrored_motions_are_still_the_motions() -> None:
    phase = np.linspace(0, 6, 40)
    for verb in ("shake", "nod", "slash", "circle"):
        paths = [scenes.displacement(verb, p, sign) for p in (phase, phase + np.pi, np.pi - phase) for sign in (-1, 1)]
        mirrored = scenes.displacement(verb, phase, 1) * np.array([-1, 1])
        assert min(float(abs(mirrored - path).max()) for path in paths) < 1e-9, verb


def test_one_position_says_nothing_about_the_motion() -> None:
    """Moments of an actor's displacement at one frame, over many draws, agree between classes; so does the energy."""
    moments = []
    for verb in ("shake", "nod", "circle"):
        rng = np.random.default_rng(7)
        stints = {"shake": (0, 0), "nod": (0, 0), "circle": (0, 0)} | {verb: (12, 26)}
        paths = np.stack([scenes.actor_path(stints, "fast", rng) for _ in range(1500)])
        x, y = paths[:, 20].T
        energy = (np.diff(paths[:, 12:26], axis=1) ** 2).sum((1, 2))
        moments.append(np.stack([x, y, x * y, x**2, y**2, x**4, y**4, energy]))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        error = np.sqrt((moments[a].var(1) + moments[b].var(1)) / 1500)
        assert (abs(moments[a].mean(1) - moments[b].mean(1)) < 4 * error).all()


@pytest.mark.parametrize("hue", scenes.HUES)
def test_grey_levels_do_not_change_with_the_hue(hue: str) -> None:
    plan = ms._plan(RECORDS[1])
    actor = replace(plan.scene.actors[0], chroma=scenes.chroma(hue, np.random.default_rng(0)))
    coloured = scenes.draw(replace(plan.scene, actors=(actor,)), np.random.default_rng(1))[0]
    colourless = replace(plan.scene, actors=(replace(actor, chroma=(0.0, 0.0)),))
    plain = scenes.draw(colourless, np.random.default_rng(1))[0]
    assert abs(grey(coloured) - grey(plain)).max() <= 1
    assert abs(coloured.astype(int) - plain).max() > 40


def test_the_file_still_shows_what_binds(tmp_path: Path) -> None:
    record = clips("binding")[3]
    ms.render(record.id, tmp_path / "clip.mp4")
    decoded = read_frames(tmp_path / "clip.mp4")
    assert decoded.shape == (40, 64, 64, 3)
    assert abs(grey(decoded) - grey(video(record.id))).mean() < 4
    assert binding_oracle(decoded) == record.label - ms.CLASSES.index("AmberShakeVioletNod")
