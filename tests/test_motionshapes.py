"""motionshapes as a data set: records, splits, tags, the timing of its motions, its camera, its masks, its bytes."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from repro.data import motionshapes as ms
from repro.errors import ReproError

RECORDS = ms.records()
GOLDEN = {  # first clip of each factor, camera level 1: a change of these needs a new VERSION
    "appearance": "ee2e7a71f7882f32",
    "motion": "381885ddf382207b",
    "product": "9e68bcb8a470c30d",
    "binding": "338690e717a7e6a0",
    "order": "daac75ed5f683946",
}


def clips(factor: str, cameras: str = "0") -> list[ms.Record]:
    return [r for r in RECORDS if r.tags["factor"] == factor and r.tags["camera"] in cameras]


# Time, camera, masks


def test_no_window_of_eleven_frames_holds_both_motions() -> None:
    for record in clips("order", "012"):
        plan = ms._plan(record)
        steps = abs(np.diff(plan.scene.actors[0].path, axis=0)) > 1e-9  # (T - 1, 2) moves in x, in y
        assert steps[:, 0].any() and steps[:, 1].any()
        sideways, upright = (np.convolve(steps[:, axis], np.ones(10), "valid") > 0 for axis in (0, 1))
        assert not (sideways & upright).any()
        assert plan.rest is not None and not steps[plan.rest[0] : plan.rest[1] - 1].any()


def test_a_short_event_is_short() -> None:
    lengths = set()
    for record in clips("motion"):
        found = ms.truth(record.id)
        start, stop = found.event
        moves = (abs(np.diff(found.paths[0], axis=0)) > 1e-9).any(1)
        assert moves[start : stop - 1].all() and not moves[:start].any() and not moves[stop - 1 :].any()
        lengths.add((record.tags["event"], stop - start))
    assert lengths == {("whole", 40), ("short", 13), ("short", 14), ("short", 15)}


def test_camera_levels_and_actors_in_the_frame() -> None:
    speeds: dict[str, list[float]] = {"0": [], "1": [], "2": []}
    for record in RECORDS:
        scene = ms._plan(record).scene
        speeds[record.tags["camera"]].append(float(np.linalg.norm(np.diff(scene.camera, axis=0), axis=1).mean()))
        for actor in scene.actors:
            away = abs(actor.rest + actor.path + scene.follow * scene.camera - ms.SIZE / 2)
            allowed = 4 if record.tags["factor"] == "binding" else 0  # px that leave the frame
            assert away.max() + actor.radius - ms.SIZE / 2 < allowed, record.id
    assert max(speeds["0"]) == 0
    assert 0.5 < np.mean(speeds["1"]) < 1.2
    assert min(speeds["2"]) > 3.5  # px per frame


def test_masks_lie_where_the_actors_are() -> None:
    record = next(r for r in clips("binding") if r.tags["occluded"] == "no")
    found = ms.truth(record.id)
    assert found.masks.shape == (40, 64, 64) and set(np.unique(found.masks)) == {0, 1, 2}
    assert found.paths.shape == (2, 40, 2) and found.rest is None
    red, _, blue = ms.frames(record.id)[0].astype(int).transpose(2, 0, 1)
    amber, violet = (np.mean((blue - red)[found.masks[0] == i]) for i in (1, 2))
    assert amber < -60 and violet > 20


# Files, groups, splits, tags


def test_records_splits_and_tags() -> None:
    assert len(ms.CLASSES) == 14 and len(RECORDS) == 1050 == len({r.id for r in RECORDS})
    assert RECORDS[0].path == "LookRed/v_LookRed_g01_c01.mp4" == RECORDS[0].id + ".mp4"
    assert {r.group for r in RECORDS} == {f"g{i:02d}" for i in range(1, 26)}
    tests = list(ms.splits().values())
    assert [len(t) for t in tests] == [8, 8, 8] and len(set.union(*tests)) == 24
    assert list(ms.splits()) == ["1", "2", "3"] and tests[0] == {f"g{i:02d}" for i in range(1, 9)}
    for label in range(14):
        rows = [r for r in RECORDS if r.label == label]
        same = [r for r in RECORDS if r.tags["factor"] == rows[0].tags["factor"]]
        for tag in ("camera", "speed", "event", "occluded"):
            mine, all_of_factor = Counter(r.tags[tag] for r in rows), Counter(r.tags[tag] for r in same)
            assert {k: n * len(same) // 75 for k, n in mine.items()} == all_of_factor
            if tag in ("speed", "occluded"):
                assert sorted(mine.values()) in ([37, 38], [36, 39])


def test_groups_share_textures_and_clips_differ() -> None:
    a, b, c = (
        ms.frames(f"{name}_c01")[5]
        for name in ("LookRed/v_LookRed_g03", "MoveNod/v_MoveNod_g03", "LookRed/v_LookRed_g04")
    )
    corner = slice(0, 6), slice(0, 6)
    assert abs(a[corner].astype(int) - b[corner]).max() < 12 < abs(a[corner].astype(int) - c[corner]).max()
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("factor", GOLDEN)
def test_frames_are_what_they_always_were(factor: str) -> None:
    record = clips(factor, "1")[0]
    frames = ms.frames(record.id)
    assert frames.shape == (ms.FRAMES, ms.SIZE, ms.SIZE, 3) and frames.dtype == np.uint8
    assert hashlib.sha256(frames.tobytes()).hexdigest()[:16] == GOLDEN[factor]


def test_an_unknown_clip_names_the_nearest() -> None:
    with pytest.raises(ReproError, match="did you mean 'MoveNod/v_MoveNod_g03_c01'"):
        ms.frames("MoveNodd/v_MoveNod_g03_c01")
