"""`repro data verify`: what it finds on a small HMDB51, and what its index spares the next run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fakes import save_clip
from official import LISTS, build_hmdb51, moving_texture

from repro.cli import console, main, verify
from repro.data import index as store
from repro.data.catalog import load_dataset
from repro.data.index import NAME, Facts, inspect, read_index, write_index
from repro.data.video import write_video

WHOLE = Facts(10, 20, 30, 40, 50, 25.0, "mpeg4")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("built") / "hmdb51"
    build_hmdb51(root)
    return root


@pytest.fixture
def hmdb51(built, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    return Path(shutil.copytree(built, tmp_path / "hmdb51"))


@pytest.fixture(autouse=True)
def quiet(monkeypatch) -> None:
    """No line of progress, however slow the machine is."""
    monkeypatch.setattr(console, "MOMENT", float("inf"))
    monkeypatch.setattr(verify, "Progress", partial(console.Progress, every=float("inf")))


def run(capsys, line: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["data", "verify", *shlex.split(line), "--workers", "1"])
    return status, *capsys.readouterr()


def below(out: str, heading: str) -> list[str]:
    """The indented lines under the line that has `heading` in it."""
    lines = out.splitlines()
    [at] = [i for i, line in enumerate(lines) if heading in line and not line.startswith(" ")]
    rest = lines[at + 1 :]
    return [line.strip() for line in rest[: next(i for i, line in enumerate(rest) if not line.startswith("  "))]]


def clips(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.avi"))


# ---------------------------------------------------------------- findings


def test_nothing_is_wrong(hmdb51, capsys):
    status, out, err = run(capsys, "hmdb51")
    assert (status, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line)
    assert lines["clips"] == "204 of 204"
    assert lines["frames"] == f"{204 * 14:,} in 1.6 minutes"
    assert lines["sizes"] == "64x48 (204)"
    assert lines["rates"] == "30 fps (204)"
    assert lines["bytes"] == f"{sum(path.stat().st_size for path in clips(hmdb51)):,}"
    assert lines["read"].startswith("204 videos in ")
    assert "split 1 has 102 training and 51 test clips in place of 3570 and 1530, and 2, 3 differ too" in out
    assert out.endswith("everything is there and can be used\n")


def test_every_kind_of_damage_is_named_and_then_known(hmdb51, capsys, monkeypatch):
    gone, renamed, half, empty, single, five, flawed = clips(hmdb51)[::30]
    before = [path.name for path in clips(hmdb51)]
    gone.unlink()
    renamed.rename(renamed.with_name("renamed.avi"))
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    empty.write_bytes(b"")
    for path, frames in ((single, 1), (five, 5), (flawed, 60)):
        write_video(path, moving_texture(0, 0, frames, (64, 48)), 30, codec="mpeg4", pix_fmt="yuv420p")
    flawed.write_bytes(flawed.read_bytes()[:-1500])

    def name(path: Path) -> str:
        return path.relative_to(hmdb51).as_posix()

    def check(out: str) -> None:
        assert below(out, "2 missing") == sorted(name(path).removesuffix(".avi") for path in (gone, renamed))
        assert below(out, "1 extra") == [name(renamed.with_name("renamed.avi"))]
        broken = below(out, "2 cannot be decoded")
        assert [line.split(": ")[0] for line in broken] == [name(half), name(empty)]
        assert all(line.split(": ")[1] for line in broken)
        assert below(out, "1 too short: fewer than 2 frames have no flow") == [f"{name(single)}: 1 frame"]
        assert below(out, "1 short: fewer than 11 frames") == [f"{name(five)}: 5 frames"]
        assert [line.split(": ")[0] for line in below(out, "1 damaged, but of use")] == [name(flawed)]
        assert "frames are missing" in "".join(below(out, "1 damaged, but of use"))
        assert out.endswith("\n5 things to mend\n")
        assert "clips     202 of 204" in out

    status, out, err = run(capsys, "hmdb51")
    assert (status, err) == (1, "")
    check(out)
    assert "read      203 videos" in out
    assert len(clips(hmdb51)) == len(before) - 1  # nothing is deleted or moved
    monkeypatch.setattr(verify, "inspect", None)  # the second run reads nothing
    status, out, _ = run(capsys, "hmdb51")
    assert status == 1
    check(out)
    assert re.search(r"^read +0 videos in .*, 203 known before$", out, re.MULTILINE)


def test_repairing_is_seen_without_reading_the_rest(hmdb51, capsys, monkeypatch):
    first = clips(hmdb51)[0]
    whole = first.read_bytes()
    first.write_bytes(b"")
    assert run(capsys, "hmdb51")[0] == 1
    read = []
    monkeypatch.setattr(verify, "inspect", lambda path: read.append(path) or inspect(path))
    first.write_bytes(whole)
    assert run(capsys, "hmdb51")[0] == 0
    assert read == [first]
    os.utime(first, ns=(0, 0))  # another time of change, the same size
    run(capsys, "hmdb51")
    assert read == [first] * 2
    first.unlink()
    run(capsys, "hmdb51")
    assert len(read) == 2
    assert len(read_index(hmdb51)) == 203
    run(capsys, "hmdb51 --again")
    assert len(read) == 2 + 203


def test_long_lists_are_cut(hmdb51, capsys):
    for path in clips(hmdb51)[:25]:
        path.write_bytes(b"")
    out = run(capsys, "hmdb51")[1]
    assert len(below(out, "25 cannot be decoded")) == 21
    assert "  ... and 5 more (--all-names)" in out
    assert len(below(run(capsys, "hmdb51 --all-names")[1], "25 cannot be decoded")) == 25


def test_a_clip_that_is_in_no_part_of_any_split_is_no_extra(hmdb51):
    dataset = load_dataset("hmdb51", hmdb51)
    assert [len(clip.splits) for clip in dataset.clips].count(0) == 51
    assert dataset.unlisted == ()


def test_ctrl_c_keeps_what_was_read(hmdb51, capsys, monkeypatch):
    read = []

    def interrupted(path: Path) -> Facts:
        if len(read) == 7:
            raise KeyboardInterrupt
        read.append(path)
        return inspect(path)

    with monkeypatch.context() as patch:
        patch.setattr(verify, "inspect", interrupted)
        status, out, err = run(capsys, "hmdb51")
    assert (status, out) == (130, "")
    assert err.endswith("the same command goes on from there\n")
    assert sorted(hmdb51 / path for path in read_index(hmdb51)) == read
    out = run(capsys, "hmdb51")[1]
    assert "read      197 videos" in out
    assert "7 known before" in out


def test_what_was_read_is_saved_now_and_then(hmdb51, capsys, monkeypatch):
    sizes = []
    monkeypatch.setattr(verify, "SAVE_EVERY", -1.0)
    monkeypatch.setattr(verify, "write_index", lambda root, index: sizes.append(len(index)))
    run(capsys, "hmdb51")
    assert sizes == [*range(1, 205), 204]


def test_a_folder_that_cannot_be_written(hmdb51, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(verify, "write_index", fail)
    status, out, err = run(capsys, "hmdb51")
    assert status == 0
    assert "204 of 204" in out
    assert err.count("\n") == 1
    assert f"cannot write {hmdb51 / NAME} (Read-only file system)" in err


def test_several_processes_find_the_same(hmdb51, capsys):
    for path in clips(hmdb51)[20:]:
        path.unlink()
    clips(hmdb51)[3].write_bytes(b"nothing")
    status = run(capsys, "hmdb51")[0]
    alone = read_index(hmdb51)
    (hmdb51 / NAME).unlink()
    assert main(["data", "verify", "hmdb51", "--workers", "2"]) == status == 1
    assert read_index(hmdb51) == alone
    assert len(alone) == 20
    capsys.readouterr()


# ---------------------------------------------------------------- other data sets


def test_own_videos_with_a_split_file(tmp_path, capsys):
    for i in range(4):
        save_clip(tmp_path / "ab"[i % 2] / f"v{i}.avi", i, 0)
    (tmp_path / "split.csv").write_text("a/v0,train\na/v2,test\nb/v1,train\nb/gone.avi,test\n")
    status, out, _ = run(capsys, f"folder --root {tmp_path}")
    assert status == 1
    assert below(out, "1 missing") == ["b/gone"]
    assert below(out, "1 extra") == ["b/v3.avi"]
    assert len(below(out, "4 short")) == 4  # also what no list names is read
    assert "lists" not in out
    (tmp_path / "split.csv").unlink()
    status, out, _ = run(capsys, f"folder --root {tmp_path}")
    assert status == 0
    assert "extra" not in out
    assert "read      0 videos" in out


def test_kinetics_names_the_videos_that_vanished(tmp_path, capsys):
    rows = {"train": [("abseiling", "-AbCdEfGhIj"), ("zumba", "_0123456789")], "val": [("zumba", "AbCdEfGhIj-")]}
    gone = [f"gone{i:07d}" for i in range(30)]
    for side, clips in rows.items():
        every = clips + [("zumba", video) for video in gone if side == "train"]
        lines = [f"{label},{video},5,15,{side}" for label, video in every]
        (tmp_path / f"{side}.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *lines]))
        (tmp_path / side).mkdir()
        for i, (_, video) in enumerate(clips):
            write_video(tmp_path / side / f"{video}_000005_000015.mp4", moving_texture(i, 0, 12, (64, 48)), 25)
    status, out, _ = run(capsys, f"kinetics400 --root {tmp_path}")
    assert status == 0
    assert out.endswith("all that is there is sound and can be used\n")
    assert "absent    30 listed clips are not on disk: 30 of 32 train clips of split val\n" in out
    assert "clips     3 of 33" in out
    assert len(below(out, "30 missing")) == 21
    assert "cannot" not in out and "extra" not in out
    names = [f"zumba/{video}_000005_000015" for video in gone]
    assert below(run(capsys, f"kinetics400 --root {tmp_path} --all-names")[1], "30 missing") == names
    for path in tmp_path.rglob("*.mp4"):
        path.unlink()
    status, out, err = run(capsys, f"kinetics400 --root {tmp_path}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "33 of 33 listed clips are missing" in err


def test_weizmann_manifest_names_a_video_that_is_not_there(tmp_path, capsys):
    for name in ("daria_run", "ido_run"):
        save_clip(tmp_path / f"{name}.avi", 0, 0)
    (tmp_path / "manifest.csv").write_text("path,split\nrun/daria_run.avi,train\nrun/moshe_run.avi,test\n")
    status, out, _ = run(capsys, f"weizmann --root {tmp_path}")
    assert status == 1
    assert below(out, "1 missing") == ["run/moshe_run"]
    assert "extra" not in out  # the other person's video is in the leave-one-out splits


def test_motionshapes_is_not_rendered_for_this(tmp_path, capsys):
    dataset = load_dataset("motionshapes", tmp_path)
    dataset.video(dataset.clips[0])
    status, out, _ = run(capsys, f"motionshapes --root {tmp_path}")
    assert status == 0
    assert f"1 of {len(dataset.clips)} rendered so far" in out
    assert len(list(tmp_path.rglob("*.*"))) == 2  # the video and the index


def test_lists_without_any_video_are_one_line(hmdb51, capsys):
    for path in clips(hmdb51):
        path.unlink()
    status, out, err = run(capsys, "hmdb51")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "204 of 204 listed clips are missing" in err
    (hmdb51 / "hmdb51_org.rar").touch()
    assert "but archives (hmdb51_org.rar): unpack them" in run(capsys, "hmdb51")[2]
    shutil.rmtree(hmdb51 / LISTS)
    assert "no official split lists" in run(capsys, "hmdb51")[2]


# ---------------------------------------------------------------- the index


def put(root: Path, *names: str) -> dict[str, Facts]:
    facts = {}
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"0123456789")
        os.utime(root / name, ns=(20, 20))
        facts[name] = WHOLE
    return facts


def test_index_there_and_back(tmp_path):
    facts = put(tmp_path, "a/(x) [1]!.avi", "b/日本.mkv")
    facts["b/日本.mkv"] = replace(WHOLE, frames=0, error="no video", flaws="", fps=0.0)
    write_index(tmp_path, facts)
    assert read_index(tmp_path) == facts
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "a", "b"]
    (tmp_path / "a/(x) [1]!.avi").write_bytes(b"other")
    assert list(read_index(tmp_path)) == ["b/日本.mkv"]
    os.utime(tmp_path / "b/日本.mkv", ns=(21, 21))
    assert read_index(tmp_path) == {}


@pytest.mark.parametrize(
    "damage",
    [
        "", "{", "[]", "null", '{"version": 0, "videos": {}}', '{"version": 1}', '{"version": 1, "videos": [1]}',
        '{"version": 1, "videos": {"a": {"size": 1}}}', '{"version": 1, "videos": {"a": 1}}', "[" * 99999, "\0", "half",
        "text", "name",
    ],
)  # fmt: skip
def test_a_damaged_index_is_none(tmp_path, damage):
    write_index(tmp_path, put(tmp_path, "a"))
    text = (tmp_path / NAME).read_text()
    changed = {
        "half": text[: len(text) // 2],
        "text": text.replace("30", '"30"'),
        "name": text.replace('"a"', '"a\\u0000"'),
    }
    (tmp_path / NAME).write_text(changed.get(damage, damage))
    assert read_index(tmp_path) == {}
    (tmp_path / NAME).write_bytes(b"\xff\xfe")
    assert read_index(tmp_path) == {}
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    assert read_index(tmp_path) == {}
    assert read_index(tmp_path / "nowhere") == {}


def test_a_write_that_fails_leaves_the_old_index(tmp_path, monkeypatch):
    facts = put(tmp_path, "a")
    write_index(tmp_path, facts)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_index(tmp_path, facts | put(tmp_path, "b"))
    monkeypatch.undo()
    assert read_index(tmp_path) == facts
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "a", "b"]


def test_facts_of_videos(tmp_path):
    path = tmp_path / "a:b.mp4"
    write_video(path, np.zeros((3, 20, 30, 3), np.uint8), 12.5)
    found = path.stat()
    assert inspect(path) == Facts(found.st_size, found.st_mtime_ns, 3, 20, 30, 12.5, "h264")
    path.write_bytes(b"text")
    facts = inspect(path)
    assert (facts.size, facts.frames) == (4, 0)
    assert facts.error.startswith("cannot be opened as a video: ")
    assert "\n" not in facts.error
    write_index(tmp_path, {path.name: facts, "gone.avi": inspect(tmp_path / "gone.avi")})
    assert list(read_index(tmp_path)) == [path.name]  # what could not even be opened is tried again
    assert "cannot be read (No such file" in inspect(tmp_path / "gone.avi").error
    assert json.loads((tmp_path / NAME).read_text())["videos"]["gone.avi"]["size"] == -1
