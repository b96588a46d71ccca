"""Catalogues: layouts on disk, official lists, splits, fingerprints, and the error for whatever is off."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
import unicodedata
from pathlib import Path

import pytest

from repro.data import motionshapes
from repro.data.catalog import (
    DATASETS,
    OFFICIAL,
    Clip,
    Dataset,
    absent,
    load_dataset,
    mirrored_labels,
    parse_hmdb51,
    parse_kinetics,
    parse_ssv2,
    parse_ucf101,
    unofficial,
)
from repro.errors import ReproError

PEOPLE, ACTIONS = ("daria", "ido", "lena"), ("run", "walk", "wave1")
HMDB = {  # one class folder's lists, with the marks 1 (train), 2 (test), 0 (neither) of the three splits
    "climb/(HQ)_Solo!_-_Dan_climb_f_cm_np1_le_med_2.avi": "120",
    "climb/6arrows_300+_climb_f_nm_np1_fr_med_3.avi": "211",
    "golf/Tips_&_Tricks;-)_golf_f_nm_np1_fr_med_0.avi": "112",
    "golf/swing_golf_u_nm_np2_fr_bad_10.avi": "221",
}
UCF = [  # path in the lists, mark of the one split here
    ("HandstandPushups/v_HandStandPushups_g01_c01.avi", "test"),
    ("HandstandPushups/v_HandStandPushups_g08_c01.avi", "train"),
    ("YoYo/v_YoYo_g01_c02.avi", "test"),
    ("YoYo/v_YoYo_g25_c05.avi", "train"),
]


def put(root: Path, *paths: str, content: bytes = b"video") -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def put_ucf101(root: Path, lists: str = "ucfTrainTestlist", videos: str = "") -> Path:
    put(root, *(f"{videos}{path}" for path, _ in UCF))
    put(root, f"{lists}/classInd.txt", content=b"1 HandstandPushups\r\n2 YoYo\r\n")
    for part in ("train", "test"):
        mark = {"HandstandPushups": " 1", "YoYo": " 2"} if part == "train" else {}
        lines = [path + mark.get(path.split("/")[0], "") for path, side in UCF if side == part]
        put(root, f"{lists}/{part}list01.txt", content="\r\n".join([*lines, ""]).encode())
    return root


def put_hmdb51(root: Path, lists: str = "testTrainMulti_7030_splits", videos: str = "") -> Path:
    put(root, *(videos + path for path in HMDB))
    for name in ("climb", "golf"):
        for k in range(3):
            rows = [f"{path.split('/')[1]} {marks[k]} \r\n" for path, marks in HMDB.items() if path.startswith(name)]
            put(root, f"{lists}/{name}_test_split{k + 1}.txt", content="".join([*rows, "\n"]).encode())
    return root


def ids(clips: tuple[Clip, ...]) -> list[str]:
    return [clip.id for clip in clips]


def message(name: str, root: Path, **options: bool) -> str:
    """The one line that loading ends with; every file is as it was."""

    def state() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*")}

    before = state()
    with pytest.raises(ReproError) as caught:
        load_dataset(name, root, **options)
    assert "\n" not in str(caught.value)
    assert state() == before
    return str(caught.value)


def put_full_size(root: Path, real_data: Path, name: str) -> Path:
    """All videos that the official lists name, as hard links to one file, and the lists."""
    lists = {"ucf101": parse_ucf101, "hmdb51": parse_hmdb51}[name](real_data / "splits" / name)
    root.mkdir()
    (root.parent / "video").write_bytes(b"x")
    for class_name in lists.classes:
        (root / class_name).mkdir()
    for id_ in lists.labels:
        os.link(root.parent / "video", root / f"{id_}.avi")
    shutil.copytree(real_data / "splits" / name, root / "splits")
    for path in (root / "splits", *(root / "splits").iterdir()):
        path.chmod(0o755)
    return root


# -------------------------------------------------------------------------------------------------- official lists


def test_official_ucf101_lists(real_data):
    lists = parse_ucf101(real_data / "splits" / "ucf101")
    assert len(lists.classes) == 101
    assert (lists.classes[0], lists.classes[36], lists.classes[100]) == ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
    assert len(lists.labels) == 13320
    sizes = {
        split: tuple(list(parts.values()).count(p) for p in ("train", "test")) for split, parts in lists.splits.items()
    }
    assert sizes == {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)}
    assert lists.labels["HandstandPushups/v_HandStandPushups_g01_c01"] == 36


def test_official_hmdb51_lists(real_data):
    lists = parse_hmdb51(real_data / "splits" / "hmdb51")
    assert len(lists.classes) == 51
    assert list(lists.classes) == sorted(lists.classes)
    assert len(lists.labels) == 6766
    assert list(lists.splits) == ["1", "2", "3"]
    for parts in lists.splits.values():
        assert (list(parts.values()).count("train"), list(parts.values()).count("test")) == (3570, 1530)


@pytest.mark.parametrize(("name", "clips"), [("ucf101", 13320), ("hmdb51", 6766)])
def test_full_size_trees_load_fast_and_have_disjoint_groups(real_data, tmp_path, name, clips):
    root = put_full_size(tmp_path / "set", real_data, name)
    begin = time.perf_counter()
    dataset = load_dataset(name, root)
    assert time.perf_counter() - begin < 5
    assert len(dataset.clips) == clips
    for split in dataset.splits:  # the official splits keep each source on one side
        train, test = ({clip.group for clip in dataset.select(split, part)} for part in ("train", "test"))
        assert not train & test
    if name == "ucf101":
        assert len({clip.group for clip in dataset.clips}) == 101 * 25
    assert unofficial(dataset) == ""
    (root / dataset.clips[0].path).unlink()
    (root / dataset.clips[-1].path).rename(root / "stray.avi")
    fewer = load_dataset(name, root, allow_missing=True)
    assert unofficial(fewer) == ""  # the lists are what they were
    assert (len(fewer.clips), len(fewer.missing), fewer.unlisted) == (clips - 2, 2, ("stray.avi",))


def test_ucf101_lists_of_another_version(real_data, tmp_path):
    root = put_full_size(tmp_path / "set", real_data, "ucf101")
    lists = root / "splits"
    official = (lists / "testlist01.txt").read_bytes()
    shutil.copyfile(lists / "testlist02.txt", lists / "testlist01.txt")
    says = message("ucf101", root)
    assert "testlist01.txt: v_ApplyEyeMakeup_g08_c01 is in train and in test: get the split lists again" in says
    group = b"YoYo/v_YoYo_g01_c01.avi\r\n"  # one clip of a group changes sides
    assert group in official
    (lists / "testlist01.txt").write_bytes(official.replace(group, b""))
    with (lists / "trainlist01.txt").open("ab") as file:
        file.write(group.replace(b"\r", b" 101\r"))
    assert "'YoYo/g01' is in train and test of '1'" in message("ucf101", root)
    (lists / "testlist01.txt").write_bytes(official)
    shutil.copyfile(real_data / "splits" / "ucf101" / "trainlist01.txt", lists / "trainlist01.txt")
    names = (lists / "classInd.txt").read_bytes()
    (lists / "classInd.txt").write_bytes(names + b"102 Juggling\r\n")
    assert unofficial(load_dataset("ucf101", root)).startswith("102 classes in place of 101: a subset, or lists of")
    (lists / "classInd.txt").write_bytes(names[: names.index(b"101 YoYo")])
    assert "class 'YoYo' is not in classInd.txt" in message("ucf101", root)


def test_hmdb51_lists_of_another_version(real_data, tmp_path):
    root = put_full_size(tmp_path / "set", real_data, "hmdb51")
    path = root / "splits" / "golf_test_split2.txt"
    official = path.read_text()
    path.write_text((path.parent / "golf_test_split1.txt").read_text())  # the counts alone would not tell
    found = unofficial(load_dataset("hmdb51", root))
    assert found.startswith("split 2 has the right numbers of clips but not the same ones: a subset, or lists of")
    path.write_text(official)
    assert unofficial(load_dataset("hmdb51", root)) == ""
    path.write_text(official.replace(" 2 \n", " 0 \n", 1))
    found = unofficial(load_dataset("hmdb51", root))
    assert found.startswith("split 2 has 3570 training and 1529 test clips in place of 3570 and 1530: a subset")
    path.unlink()
    assert "152 lists for 51 classes: get the split lists again" in message("hmdb51", root)
    for path in root.glob("splits/golf_test_split?.txt"):
        path.unlink()
    dataset = load_dataset("hmdb51", root)
    assert unofficial(dataset).startswith("50 classes in place of 51, split 1 has 3500 training and 1500 test clips")
    assert unofficial(dataset).endswith("and 2, 3 differ too: a subset, or lists of another version")
    assert {path.split("/")[0] for path in dataset.unlisted} == {"golf"}


def test_real_clips_with_real_lists(real_data, tmp_path):
    shutil.copytree(real_data / "clips" / "hmdb51", tmp_path / "hmdb51")
    shutil.copytree(real_data / "splits" / "hmdb51", tmp_path / "hmdb51" / "splits")
    assert "6763 of 6766 listed clips are missing" in message("hmdb51", tmp_path / "hmdb51")
    dataset = load_dataset("hmdb51", tmp_path / "hmdb51", allow_missing=True)
    assert len(dataset.classes) == 51
    assert [dataset.classes[clip.label] for clip in dataset.clips] == ["climb", "golf", "shoot_bow"]
    assert all(dataset.video(clip).is_file() for clip in dataset.clips)
    assert dataset.clips[1].group == "golf/Golf_Tips_-_Hit_The_Driver_300+_Yards!!!"


# ---------------------------------------------------------------------------------------------------- ucf101, hmdb51


@pytest.mark.parametrize("lists", ["ucfTrainTestlist", "splits", "."])
@pytest.mark.parametrize("videos", ["", "UCF-101/"])
def test_ucf101_layouts(tmp_path, lists, videos):
    dataset = load_dataset("ucf101", put_ucf101(tmp_path, lists, videos))
    assert dataset.classes == ("HandstandPushups", "YoYo")
    assert dataset.splits == ("1",)
    assert ids(dataset.select("1", "test")) == ["HandstandPushups/v_HandStandPushups_g01_c01", "YoYo/v_YoYo_g01_c02"]
    assert [(clip.label, clip.group) for clip in dataset.select("1", "train")] == [
        (0, "HandstandPushups/g08"),
        (1, "YoYo/g25"),
    ]
    assert all(dataset.video(clip).is_file() for clip in dataset.clips)


def test_ucf101_spellings_and_suffixes_on_disk(tmp_path):
    plain = load_dataset("ucf101", put_ucf101(tmp_path / "a"))
    put_ucf101(tmp_path / "b")
    (tmp_path / "b" / "HandstandPushups").rename(tmp_path / "b" / "HandStandPushups")
    clip = tmp_path / "b" / "HandStandPushups" / "v_HandStandPushups_g01_c01.avi"
    clip.rename(clip.with_name("v_HandstandPushups_g01_c01.mp4"))
    other = load_dataset("ucf101", tmp_path / "b")
    assert ids(other.clips) == ids(plain.clips)
    assert other.fingerprint == plain.fingerprint
    assert other.clips[0].path == "HandStandPushups/v_HandstandPushups_g01_c01.mp4"


def test_hmdb51_marks_groups_and_odd_names(tmp_path):
    dataset = load_dataset("hmdb51", put_hmdb51(tmp_path, videos="hmdb51_org/"))
    assert dataset.splits == ("1", "2", "3")
    assert len(dataset.clips) == 4
    by_path = {clip.path.removeprefix("hmdb51_org/"): clip for clip in dataset.clips}
    for path, marks in HMDB.items():
        sides = {str(k + 1): {"1": "train", "2": "test"}[mark] for k, mark in enumerate(marks) if mark != "0"}
        assert by_path[path].splits == sides
        assert dataset.video(by_path[path]).is_file()
    assert sorted(clip.group for clip in dataset.clips) == [
        "climb/(HQ)_Solo!_-_Dan",
        "climb/6arrows_300+",
        "golf/Tips_&_Tricks;-)",
        "golf/swing",
    ]


@pytest.mark.parametrize(("name", "build"), [("ucf101", put_ucf101), ("hmdb51", put_hmdb51)])
def test_missing_clips_are_named_or_left_out(tmp_path, name, build):
    root = build(tmp_path)
    gone = load_dataset(name, root).clips[0]
    (root / gone.path).unlink()
    assert f"1 of 4 listed clips are missing in {root}: {gone.id}" in message(name, root)
    kept = load_dataset(name, root, allow_missing=True)
    assert len(kept.clips) == 3
    assert kept.missing == (gone.id,)
    assert kept.listed == load_dataset(name, build(tmp_path / "whole")).listed
    assert unofficial(kept).startswith("2 classes in place of")
    assert len(kept.classes) == 2
    for clip in kept.clips:
        (root / clip.path).unlink()
    assert "4 of 4 listed clips" in message(name, root, allow_missing=True)


@pytest.mark.parametrize(("name", "build"), [("ucf101", put_ucf101), ("hmdb51", put_hmdb51)])
def test_a_renamed_video_is_both_missing_and_in_no_list(tmp_path, name, build):
    root = build(tmp_path)
    first, second = (root / clip.path for clip in load_dataset(name, root).clips[:2])
    first.rename(first.with_name("renamed.avi"))
    assert f"; 1 video is in no list, e.g. {first.parent.name}/renamed.avi: renamed?; expected" in message(name, root)
    second.rename(second.with_name("too.avi"))
    says = message(name, root)
    assert "2 of 4 listed clips are missing" in says
    assert f"; 2 videos are in no list, e.g. {first.parent.name}/renamed.avi: renamed?; expected" in says
    kept = load_dataset(name, root, allow_missing=True)
    assert kept.unlisted == (f"{first.parent.name}/renamed.avi", f"{second.parent.name}/too.avi")
    assert not {clip.path for clip in kept.clips} & {*kept.unlisted}


def test_downloads_that_were_not_unpacked(tmp_path):
    root = put(tmp_path / "set", "hmdb51_org.rar", "test_train_splits.rar")
    says = message("hmdb51", root)
    assert "no official split lists (*_test_split1.txt)" in says
    assert "but archives (hmdb51_org.rar, test_train_splits.rar): unpack them" in says
    put_hmdb51(root)
    for path in HMDB:
        (root / path).unlink()
    assert "4 of 4 listed clips are missing" in message("hmdb51", root)
    assert "but archives (hmdb51_org.rar, test_train_splits.rar): unpack them" in message("hmdb51", root)


def test_an_empty_side_is_refused_when_it_is_asked_for(tmp_path):
    root = put_ucf101(tmp_path)
    for path, part in UCF:
        if part == "test":
            (root / path).unlink()
    dataset = load_dataset("ucf101", root, allow_missing=True)
    assert len(dataset.select("1", "train")) == 2
    with pytest.raises(ReproError, match="split '1' has no test clips"):
        dataset.select("1", "test")


def test_damaged_lists_are_refused(tmp_path):
    assert "no official split lists" in message("ucf101", put(tmp_path / "none", "YoYo/v.avi"))
    root = put_ucf101(tmp_path / "ucf")
    lists = root / "ucfTrainTestlist"
    put(lists, "testlist01.txt", content=b"Yoyoo/v_YoYo_g01_c02.avi\n")
    assert "class 'Yoyoo' is not in classInd.txt (did you mean 'YoYo'?)" in message("ucf101", root)
    put(lists, "testlist01.txt", content=b"YoYo/v_YoYo_g25_c05.avi\n")
    assert "in train and in test" in message("ucf101", root)
    put(lists, "testlist01.txt", content=b"<html>\n")
    assert "cannot read the line '<html>'" in message("ucf101", root)
    (lists / "testlist01.txt").unlink()
    assert "testlist01.txt is missing" in message("ucf101", root)
    (lists / "trainlist01.txt").unlink()
    assert "no split lists" in message("ucf101", root)
    root = put_hmdb51(tmp_path / "hmdb")
    (root / "testTrainMulti_7030_splits" / "golf_test_split2.txt").unlink()
    assert "5 lists for 2 classes" in message("hmdb51", root)


# ------------------------------------------------------------------------------------------------------- kinetics400

KINETICS = [  # label, video, seconds, list; ids differ in case alone and begin with a dash, as real ones do
    ("air drumming", "_dbcJuKJQNs", 40, "train"),
    ("air drumming", "-AbCdEfGhIj", 0, "train"),
    ("massaging person's head", "-abcdefghij", 104, "train"),
    ("passing American football (in game)", "0123456789A", 1200, "train"),
    ("air drumming", "--nQbRBEz2s", 104, "val"),
    ("massaging person's head", "3B32lodo2M_", 59, "val"),
]
TEST = [("air drumming", "zzzzzzzzzz0", 7, "test"), ("massaging person's head", "zzzzzzzzzz1", 8, "test")]


def kinetics_name(row: tuple[str, str, int, str]) -> str:
    return f"{row[1]}_{row[2]:06d}_{row[2] + 10:06d}"


def put_kinetics_list(path: Path, rows: list[tuple[str, str, int, str]], word: str) -> None:
    lines = [f'"{label}",{video},{start},{start + 10},{word}' for label, video, start, _ in rows]
    put(path.parent, path.name, content="\n".join(["label,youtube_id,time_start,time_end,split", *lines, ""]).encode())


def put_kinetics(root: Path, videos: str = "{side}/{label}", lists: str = "") -> Path:
    """The data set without a test list; `videos` is the folder of a clip."""
    for row in KINETICS:
        folder = videos.format(side=row[3], label=row[0], label_=row[0].replace(" ", "_"))
        put(root, f"{folder}/{kinetics_name(row)}.mp4")
    for side in ("train", "val"):
        put_kinetics_list(root / lists / f"{side}.csv", [row for row in KINETICS if row[3] == side], side)
    return root


@pytest.mark.parametrize(
    "videos", ["{side}/{label}", "{side}/{label_}", "{side}", ".", "videos/{side}/{label}", "{label_}", "{side}_256"]
)
@pytest.mark.parametrize("lists", ["", "annotations", "kinetics400"])
def test_kinetics_layouts(tmp_path, videos, lists):
    dataset = load_dataset("kinetics400", put_kinetics(tmp_path / "set", videos, lists))
    assert dataset.classes == ("air drumming", "massaging person's head", "passing American football (in game)")
    assert dataset.splits == ("val",)
    expected = [
        (f"{row[0]}/{kinetics_name(row)}", row[1], {"train": "train", "val": "test"}[row[3]]) for row in KINETICS
    ]
    assert [(clip.id, clip.group, clip.splits["val"]) for clip in dataset.clips] == sorted(expected)
    assert all(dataset.classes[clip.label] == clip.id.split("/")[0] for clip in dataset.clips)
    assert all(dataset.video(clip).stem == clip.id.split("/")[1] for clip in dataset.clips)
    assert (dataset.missing, dataset.unlisted, absent(dataset)) == ((), (), "")
    assert dataset.fingerprint == load_dataset("kinetics400", put_kinetics(tmp_path / "plain")).fingerprint


def test_kinetics_lists_in_all_their_forms(tmp_path):
    plain = parse_kinetics(put_kinetics(tmp_path))
    lists = tmp_path / "lists"
    put(
        lists,
        "kinetics-400_train.csv",  # with is_cc, a byte-order mark and CRLF, as saved by a spreadsheet
        content="\r\n".join(
            ["label,youtube_id,time_start,time_end,split,is_cc"]
            + [f"{r[0]},{r[1]},{r[2]},{r[2] + 10},train,0" for r in KINETICS if r[3] == "train"]
        ).encode("utf-8-sig"),
    )
    put(
        lists,
        "kinetics_validate.csv",  # other columns, their names in capitals, seconds as the JSON lists write them
        content="\n".join(
            ["Split,YouTube_ID,time_end,time_start,label"]
            + [f"validate,{r[1]},{r[2] + 10}.0,{r[2]}.0,{r[0]}" for r in KINETICS if r[3] == "val"]
        ).encode(),
    )
    put(lists, "kinetics_400_labels.csv", content=b"id,name\n0,air drumming\n")
    assert parse_kinetics(lists) == plain
    put(lists, "val.csv", content=b"")
    with pytest.raises(ReproError, match=r"kinetics_validate\.csv and val\.csv are both lists of val: keep one"):
        parse_kinetics(lists)


def test_kinetics_without_the_videos_that_vanished(tmp_path):
    root = put_kinetics(tmp_path / "set")
    whole = load_dataset("kinetics400", root)
    gone = [clip for clip in whole.clips if clip.group in ("_dbcJuKJQNs", "--nQbRBEz2s")]
    for clip in gone:
        (root / clip.path).unlink()
    dataset = load_dataset("kinetics400", root)
    assert dataset.missing == tuple(ids(tuple(gone)))
    assert absent(dataset) == (
        "2 listed clips are not on disk: 1 of 4 train clips of split val, 1 of 2 test clips of split val"
    )
    assert dataset.classes == whole.classes
    assert dataset.listed == whole.listed  # the lists are what they were
    assert dataset.fingerprint != whole.fingerprint
    put(root, "train/air drumming/_dbcJuKJQNs_000040_000051.mp4", "train/demo.mp4", "val/demo.mp4")  # other seconds
    assert load_dataset("kinetics400", root).unlisted == (
        "train/air drumming/_dbcJuKJQNs_000040_000051.mp4", "train/demo.mp4", "val/demo.mp4",
    )  # fmt: skip
    for clip in dataset.clips:
        (root / clip.path).unlink()
    assert f"6 of 6 listed clips are missing in {root}" in message("kinetics400", root, allow_missing=True)
    put(root, "train.tar.gz")
    for path in root.rglob("*.mp4"):
        path.unlink()
    assert "but archives (train.tar.gz): unpack them" in message("kinetics400", root)


def test_kinetics_test_list_with_and_without_labels(tmp_path):
    root = put_kinetics(tmp_path)
    before = load_dataset("kinetics400", root)
    rows = [f"{video},{start},{start + 10},test" for _, video, start, _ in TEST]
    put(root, "test.csv", content="\n".join(["youtube_id,time_start,time_end,split", *rows]).encode())
    assert load_dataset("kinetics400", root) == before
    put(root, *(f"test/{kinetics_name(row)}.mp4" for row in TEST))
    assert load_dataset("kinetics400", root) == before  # listed, so not unlisted, but of no use
    put_kinetics_list(root / "test.csv", TEST, "test")
    dataset = load_dataset("kinetics400", root)
    assert dataset.splits == ("val", "test")
    assert [clip.group for clip in dataset.select("test", "test")] == ["zzzzzzzzzz0", "zzzzzzzzzz1"]
    assert dataset.select("test", "train") == tuple(c for c in dataset.clips if c.splits.get("val") == "train")
    assert [clip.group for clip in dataset.select("val", "test")] == ["--nQbRBEz2s", "3B32lodo2M_"]
    (root / f"test/{kinetics_name(TEST[0])}.mp4").unlink()
    assert load_dataset("kinetics400", root).missing == (f"air drumming/{kinetics_name(TEST[0])}",)
    (root / f"test/{kinetics_name(TEST[1])}.mp4").unlink()
    assert load_dataset("kinetics400", root) == before  # nobody has to get the test videos


def test_kinetics_videos_that_are_there_twice(tmp_path):
    root = put_kinetics(tmp_path, "{side}")
    first = load_dataset("kinetics400", root).clips[0]
    name = Path(first.path).name
    put(root, f"replacement/replacement_for_corrupted_k400/{name}", content=b"a whole video")
    dataset = load_dataset("kinetics400", root)
    assert dataset.video(dataset.clips[0]).read_bytes() == b"a whole video"
    assert dataset.unlisted == ()
    for clip in dataset.clips:  # what the mirror's script arranges by classes
        link = root / "videos" / clip.path.split("/")[0] / clip.id.split("/")[0] / Path(clip.path).name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(root / clip.path)
    assert load_dataset("kinetics400", root).fingerprint == dataset.fingerprint
    put(root, f"train_256/{Path(dataset.clips[1].path).name}")
    assert "share a name, 'train/" in message("kinetics400", root)


@pytest.mark.parametrize(
    ("name", "line", "row", "problem"),
    [
        ("train", 1, "label,id,time_start,time_end,split", "no column 'youtube_id'"),
        ("train", 1, "youtube_id,time_start,time_end,split", "no column 'label'"),
        ("val", 1, "<html>", "no column 'youtube_id'"),
        ("train", 2, "air drumming,#NAME?,40,50,train", "'#NAME?' is no YouTube id"),
        ("train", 3, "air drumming,_dbcJuKJQNt,50,40,train", "no seconds from '50' to '40'"),
        ("train", 3, "air drumming,_dbcJuKJQNt,0:40,0:50,train", "no seconds from '0:40' to '0:50'"),
        ("train", 3, "air drumming,_dbcJuKJQNt,40,50", "4 cells under 5 columns"),
        ("train", 5, ",_dbcJuKJQNt,40,50,train", "'' is no class"),
        ("train", 5, "air drumming,_dbcJuKJQNt,40,50,val", "a clip of 'val' in the list of train"),
        ("train", 5, "abseiling,_dbcJuKJQNs,40,50,train", "_dbcJuKJQNs_000040_000050 is in class 'air drumming' too"),
        ("val", 2, "air druming,_dbcJuKJQNt,40,50,val", "no class 'air druming' in train.csv (did you mean 'air dr"),
        ("val", 3, "air drumming,-AbCdEfGhIj,70,80,val", "video -AbCdEfGhIj is in train.csv too"),
    ],
)
def test_damaged_kinetics_lists(tmp_path, name, line, row, problem):
    root = put_kinetics(tmp_path)
    lines = (root / f"{name}.csv").read_text().splitlines()
    lines[line - 1] = row
    put(root, f"{name}.csv", content="\n".join(lines).encode())
    says = message("kinetics400", root)
    assert says.startswith(f"{root / name}.csv, line {line}: {problem}")
    assert says.endswith(": get the lists again")


def test_kinetics_lists_that_are_not_there(tmp_path):
    assert "no official split lists (*train.csv)" in message("kinetics400", put(tmp_path / "none", "train/a.mp4"))
    root = put_kinetics(tmp_path / "set")
    put(root, "val.csv", content=b"label,youtube_id,time_start,time_end,split\n")
    assert "val.csv names no clips" in message("kinetics400", root)
    (root / "val.csv").unlink()
    assert "has no val.csv" in message("kinetics400", root)
    put(root, "val.csv", content="label\né".encode("latin-1"))
    assert "save it as CSV in UTF-8" in message("kinetics400", root)


def test_kinetics_and_ssv2_lists_are_compared_by_number(tmp_path):
    dataset = load_dataset("kinetics400", put_kinetics(tmp_path))
    assert unofficial(dataset).startswith("3 classes in place of 400, split val has 4 training and 2 test clips in pl")
    for name in ("kinetics400", "ssv2"):
        classes, splits = OFFICIAL[name]
        listed = {split: official._replace(digest="of some list") for split, official in splits.items()}
        names = tuple(map(str, range(classes)))
        assert unofficial(Dataset(name, tmp_path, names, (), tuple(splits), "", listed=listed)) == ""
        listed["val"] = listed["val"]._replace(test=5)
        assert "and 5 test clips in place of" in unofficial(
            Dataset(name, tmp_path, names, (), tuple(splits), "", listed=listed)
        )


# --------------------------------------------------------------------------------------------------------------- ssv2

SSV2_CLASSES = {  # name -> number, as the labels file has them: the numbers are strings, in no order
    "Pushing something from right to left": "2",
    "Holding something next to something": "0",
    "Pushing something from left to right": "1",
    "Tilting something with something on it slightly so it doesn't fall down": "3",
}
SSV2 = {
    "train": [("78687", "Holding [something] next to [something]"), ("9", "Pushing [something] from left to right")],
    "validation": [("10", "Pushing [something] from right to left")],
}
ANSWERS = "\n".join(f"{number};{list(SSV2_CLASSES)[at]}" for number, at in (("12", 3), ("11", 1)))


def put_ssv2(
    root: Path, lists: str = "", prefix: str = "something-something-v2-", videos: str = "20bn-something-something-v2/"
) -> Path:
    """The data set as it is downloaded: the videos of the test list too."""
    put(root, *(f"{videos}{number}.webm" for number in ("78687", "9", "10", "11", "12")))
    contents: dict[str, object] = {"labels": SSV2_CLASSES, "test": [{"id": "11"}, {"id": "12"}]}
    for name, rows in SSV2.items():
        contents[name] = [
            {"id": number, "label": template.lower().replace("[something]", "a cup"), "template": template,
             "placeholders": ["a cup"]} for number, template in rows
        ]  # fmt: skip
    for name, content in contents.items():
        put(root / lists, f"{prefix}{name}.json", content=json.dumps(content).encode())
    return root


@pytest.mark.parametrize("videos", ["20bn-something-something-v2/", "videos/20bn-something-something-v2/", ""])
@pytest.mark.parametrize(("lists", "prefix"), [("", "something-something-v2-"), ("labels", ""), ("annotations", "")])
def test_ssv2_layouts(tmp_path, lists, prefix, videos):
    dataset = load_dataset("ssv2", put_ssv2(tmp_path, lists, prefix, videos))
    assert dataset.classes == tuple(sorted(SSV2_CLASSES, key=lambda name: int(SSV2_CLASSES[name])))
    assert dataset.splits == ("val",)
    assert [(clip.id, clip.label) for clip in dataset.select("val", "train")] == [
        ("Holding something next to something/78687", 0), ("Pushing something from left to right/9", 1),
    ]  # fmt: skip
    assert ids(dataset.select("val", "test")) == ["Pushing something from right to left/10"]
    assert len({clip.group for clip in dataset.clips}) == 3
    assert all(dataset.video(clip).stem == clip.id.split("/")[1] for clip in dataset.clips)
    assert (dataset.missing, dataset.unlisted) == ((), ())  # the test list names its videos


def test_ssv2_answers_make_a_test_split(tmp_path):
    root = put_ssv2(tmp_path, "labels", "")
    put(root, "labels/test-answers.csv", content=ANSWERS.encode())
    dataset = load_dataset("ssv2", root)
    assert dataset.splits == ("val", "test")
    assert {clip.id.split("/")[1]: clip.label for clip in dataset.select("test", "test")} == {"11": 0, "12": 3}
    assert parse_ssv2(root / "labels").unlabelled == frozenset()
    (root / "labels/test-answers.csv").unlink()
    assert parse_ssv2(root / "labels").unlabelled == {"11", "12"}
    (root / "labels/test.json").unlink()
    assert load_dataset("ssv2", root).unlisted == tuple(f"20bn-something-something-v2/{n}.webm" for n in (11, 12))


def test_ssv2_must_be_whole_unless_said(tmp_path):
    root = put_ssv2(tmp_path)
    (root / "20bn-something-something-v2/9.webm").unlink()
    assert "1 of 3 listed clips are missing" in message("ssv2", root)
    dataset = load_dataset("ssv2", root, allow_missing=True)
    assert dataset.missing == ("Pushing something from left to right/9",)
    assert absent(dataset) == "1 listed clip is not on disk: 1 of 2 train clips of split val"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("labels.json", {}, ": an object of classes"),
        ("labels.json", {"a": "0", "b": "0"}, ": 'a' and 'b' are both 0"),
        ("labels.json", {"a": "0", "b": "2"}, ": class 'b' has the number '2'"),
        ("labels.json", {"a": "first"}, ": class 'a' has the number 'first'"),
        ("train.json", {"id": "1"}, ": a list of clips expected"),
        ("train.json", [{"id": "1", "template": "Holding [something]"}, 7], ", entry 2: no number as id"),
        ("train.json", [{"id": "1.webm"}], ", entry 1: no number as id"),
        ("validation.json", [{"id": "1"}], ", entry 1 (id 1): no template"),
        (
            "validation.json",
            [{"id": "1", "template": "Pushing [something] from left to rigth"}],
            ", entry 1 (id 1): no class 'Pushing something from left to rigth' in the labels (did you mean 'Pushing so",
        ),
        ("validation.json", [{"id": 9, "template": SSV2["train"][1][1]}], ", entry 1 (id 9): clip 9 is in train.json"),
        ("test-answers.csv", "11;Holding something next to something\n12\n", ", line 2: no id;class in '12'"),
        ("test-answers.csv", "11;Holding something\n", ", line 1: no class 'Holding something' in the labels"),
    ],
)
def test_damaged_ssv2_lists(tmp_path, name, content, problem):
    root = put_ssv2(tmp_path, prefix="")
    put(root, name, content=content.encode() if isinstance(content, str) else json.dumps(content).encode())
    says = message("ssv2", root)
    assert says.startswith(f"{root / name}{problem}")
    assert says.endswith(": get the lists again")


def test_ssv2_lists_that_are_not_there(tmp_path):
    assert "no official split lists (*labels.json)" in message("ssv2", put(tmp_path / "none", "1.webm"))
    root = put_ssv2(tmp_path / "set", prefix="")
    put(root, "validation.json", content=b'[{"id": "10", ')
    assert f"cannot read {root / 'validation.json'} (" in message("ssv2", root)
    (root / "validation.json").unlink()
    assert "has no validation.json" in message("ssv2", root)


def test_labels_in_the_mirror(tmp_path):
    names = (  # every class of Something-Something V2 with left or right in its name, and two others
        "Plugging something into something but pulling it right out as you remove your hand",
        "Pulling something from left to right", "Pulling something from right to left",
        "Pushing something from left to right", "Pushing something from right to left",
        "Tearing something just a little bit", "Putting something upright on the table",
        "Turning the camera left while filming something", "Turning the camera right while filming something",
    )  # fmt: skip
    assert mirrored_labels(names) == (0, 2, 1, 4, 3, 5, 6, 8, 7)
    assert mirrored_labels(names[::-1]) == (1, 0, 2, 3, 5, 4, 7, 6, 8)
    assert mirrored_labels(("turn_left", "Left hook", "bright", "leftover", "turn_right", "Right hook")) == (
        4, 5, 2, 3, 0, 1,
    )  # fmt: skip
    dataset = load_dataset("ssv2", put_ssv2(tmp_path))
    assert dataset.mirrored == (0, 2, 1, 3)
    shapes = load_dataset("motionshapes", tmp_path / "m")
    assert shapes.mirrored == tuple(range(len(shapes.classes)))


# ---------------------------------------------------------------------------------------------------------- weizmann


def put_weizmann(root: Path, folders: bool) -> Path:
    names = [f"{person}_{action}" for person in PEOPLE for action in ACTIONS if (person, action) != ("lena", "run")]
    for name in [*names, "lena_run1", "lena_run2"]:
        action = name.split("_")[1]
        put(root, f"{action if action == 'wave1' else action.rstrip('12')}/{name}.avi" if folders else f"{name}.avi")
    return root


@pytest.mark.parametrize("folders", [False, True])
def test_weizmann_leave_one_person_out(tmp_path, folders):
    dataset = load_dataset("weizmann", put_weizmann(tmp_path, folders))
    assert len(dataset.classes) == 10
    assert dataset.splits == PEOPLE
    test = ["run/lena_run1", "run/lena_run2", "walk/lena_walk", "wave1/lena_wave1"]
    assert ids(dataset.select("lena", "test")) == test
    assert ids(dataset.select("lena", "train")) == [clip.id for clip in dataset.clips if clip.group != "lena"]
    assert {dataset.classes[clip.label] for clip in dataset.clips} == set(ACTIONS)
    assert all(dataset.video(clip).is_file() for clip in dataset.clips)


@pytest.mark.parametrize("folders", [False, True])
def test_weizmann_manifest(tmp_path, folders):
    put_weizmann(tmp_path, folders)
    rows = [
        f"{action}/{who}_{action}.avi,{'test' if who == 'ido' else 'train'}" for who in PEOPLE[:2] for action in ACTIONS
    ]
    put(tmp_path, "manifest.csv", content="\n".join(["path,split", *rows]).encode("utf-8-sig"))
    dataset = load_dataset("weizmann", tmp_path)
    assert dataset.splits == ("manifest", *PEOPLE)
    assert {clip.group for clip in dataset.select("manifest", "test")} == {"ido"}
    assert {clip.group for clip in dataset.select("manifest", "train")} == {"daria"}  # lena is in neither
    put(tmp_path, "manifest.csv", content=b"path,split\nrun/ido_run.avi,train\nwalk/ido_walk.avi,test\n")
    assert "'ido' is in train and test of 'manifest'" in message("weizmann", tmp_path)
    put(tmp_path, "manifest.csv", content=b"path,split\nrun/moshe_run.avi,train\nwalk/ido_walk.avi,test\n")
    assert "1 of 2 listed clips are missing" in message("weizmann", tmp_path)
    put(tmp_path, "manifest.csv", content=b"path,split\nrun/ido_run.avi,val\n")
    assert "found the row 'run/ido_run.avi,val'" in message("weizmann", tmp_path)
    put(tmp_path, "manifest.csv", content=b"file,part\n")
    assert "expected the columns path and split" in message("weizmann", tmp_path)


def test_weizmann_real(real_data):
    dataset = load_dataset("weizmann", real_data / "weizmann")
    assert len(dataset.clips) == 90
    assert {clip.group for clip in dataset.select("manifest", "test")} == {"lena", "moshe", "shahar"}
    assert len(dataset.splits) == 10
    assert all(len(dataset.select(person, "test")) == 10 for person in dataset.splits[1:])


def test_weizmann_other_layouts_are_refused(tmp_path):
    assert "no folder" in message("weizmann", tmp_path / "nowhere")
    assert "expected <person>_<action>.avi" in message("weizmann", tmp_path)
    assert "0 videos of 0 people" in message("weizmann", tmp_path)
    assert "1 videos of 1 people" in message("weizmann", put(tmp_path / "one", "daria_run.avi"))
    assert "'daria_jog.avi'" in message("weizmann", put(tmp_path / "name", "daria_jog.avi"))
    assert "'run/ido_walk.avi'" in message("weizmann", put(tmp_path / "place", "run/ido_walk.avi"))
    assert "are the same clip" in message("weizmann", put(tmp_path / "twice", "run/ido_run.avi", "ido_run.avi"))


# ------------------------------------------------------------------------------------------------------------ folder

ODD = ["a b/(x) [1]!.mp4", "a b/300+ & more.AVI", "a b/x.y.webm", "émeu/日本.mkv", "émeu/#%'\".mov", "émeu/ü.mpg"]


def test_folder_with_odd_names(tmp_path):
    put(tmp_path, *ODD, "a b/notes.txt", "a b/.hidden.mp4", "empty/readme.md", ".cache/x/y.mp4")
    dataset = load_dataset("folder", tmp_path)
    assert dataset.classes == ("a b", "émeu")
    assert sorted(clip.path for clip in dataset.clips) == sorted(ODD)
    assert sorted(ids(dataset.clips)) == sorted(os.path.splitext(path)[0] for path in ODD)
    assert all(dataset.video(clip).read_bytes() == b"video" for clip in dataset.clips)
    assert dataset.splits == ("stratified",)


def test_composed_and_decomposed_names_are_one_id(tmp_path):
    for form in ("NFC", "NFD"):
        put(tmp_path / form, *(unicodedata.normalize(form, path) for path in ODD))
    composed, decomposed = (load_dataset("folder", tmp_path / form) for form in ("NFC", "NFD"))
    assert ids(composed.clips) == ids(decomposed.clips)
    assert composed.fingerprint == decomposed.fingerprint
    assert all(decomposed.video(clip).is_file() for clip in decomposed.clips)


@pytest.mark.parametrize(("count", "tests"), [(2, 1), (3, 1), (4, 1), (5, 2), (10, 3), (20, 6)])
def test_stratified_split(tmp_path, count, tests):
    put(tmp_path, *(f"{name}/{k:02d}.mp4" for name in "ab" for k in range(count)))
    dataset = load_dataset("folder", tmp_path)
    for label in (0, 1):
        sides = [clip.splits["stratified"] for clip in dataset.clips if clip.label == label]
        assert (sides.count("test"), sides.count("train")) == (tests, count - tests)
    assert load_dataset("folder", tmp_path).clips == dataset.clips


def test_stratified_split_stays_as_it_was(tmp_path):
    put(tmp_path, *(f"{name}/{k}.mp4" for name in "ab" for k in range(5)))
    assert ids(load_dataset("folder", tmp_path).select("stratified", "test")) == ["a/0", "a/3", "b/2", "b/4"]


@pytest.mark.parametrize("header", ["path,split\n", ""])
def test_folder_with_a_split_file(tmp_path, header):
    put(tmp_path, *ODD, "lonely/one.mp4")
    lines = 'a b/(x) [1]!.mp4,train\r\n./a b/300+ & more , test \n"émeu/日本.mkv",test\n\nlonely\\one.mp4,train\n'
    put(tmp_path, "split.csv", content=(header + lines).encode("utf-8-sig"))
    dataset = load_dataset("folder", tmp_path)
    assert dataset.splits == ("file",)
    assert ids(dataset.select("file", "test")) == ["a b/300+ & more", "émeu/日本"]
    assert ids(dataset.select("file", "train")) == ["a b/(x) [1]!", "lonely/one"]
    put(tmp_path, "split.csv", content=(header + lines + "a b/gone.mp4,test\n").encode())
    assert "1 of 5 listed clips are missing" in message("folder", tmp_path)
    kept = load_dataset("folder", tmp_path, allow_missing=True)
    assert kept.clips == dataset.clips
    assert (kept.missing, len(kept.unlisted)) == (("a b/gone",), 3)
    assert unofficial(kept) == ""
    put(tmp_path, "split.csv", content=(header + lines + "lonely/one.mp4,test\n").encode())
    assert "'lonely/one' is in train and in test" in message("folder", tmp_path)
    put(tmp_path, "split.csv", content=(header + lines).encode("latin-1", errors="replace"))
    assert "save it as CSV in UTF-8" in message("folder", tmp_path)


def test_folder_other_layouts_are_refused(tmp_path):
    assert "0 folders with videos" in message("folder", tmp_path)
    assert "expected <class>/<video>" in message("folder", tmp_path)
    assert "1 folders with videos" in message("folder", put(tmp_path / "one", "a/1.mp4", "a/2.mp4"))
    assert "(1 videos in none)" in message("folder", put(tmp_path / "flat", "a/1.mp4", "b/1.mp4", "c.mp4"))
    assert "class 'b' in" in message("folder", put(tmp_path / "single", "a/1.mp4", "a/2.mp4", "b/1.mp4"))
    assert "share a name" in message("folder", put(tmp_path / "twice", "a/1.mp4", "a/1.avi"))
    os.mkdir(os.fsencode(tmp_path / "bytes"))
    os.mkdir(os.fsencode(tmp_path / "bytes") + b"/\xe9")
    Path(os.fsdecode(os.fsencode(tmp_path / "bytes") + b"/\xe9/1.mp4")).write_bytes(b"")
    assert "not valid UTF-8" in message("folder", tmp_path / "bytes")


# --------------------------------------------------------------------------------------- fingerprint, names, rendering


def test_fingerprint_follows_names_labels_splits_and_sizes_only(tmp_path):
    names = ["a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4"]
    first = load_dataset("folder", put(tmp_path / "x", *names)).fingerprint
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert load_dataset("folder", put(tmp_path / "elsewhere", *reversed(names))).fingerprint == first
    os.utime(tmp_path / "x" / names[0], (0, 0))
    assert load_dataset("folder", tmp_path / "x").fingerprint == first
    changed = {first}
    put(tmp_path / "x", names[0], content=b"longer video")
    changed.add(load_dataset("folder", tmp_path / "x").fingerprint)
    put(tmp_path / "x", "b/3.mp4")
    changed.add(load_dataset("folder", tmp_path / "x").fingerprint)
    put(tmp_path / "x", "split.csv", content=b"a/1,train\nb/1,train\na/2,test\nb/2,test\n")
    changed.add(load_dataset("folder", tmp_path / "x").fingerprint)
    assert len(changed) == 4


def test_names_and_roots(tmp_path, monkeypatch):
    with pytest.raises(ReproError, match=r"unknown data set 'ucf-101' \(did you mean 'ucf101'\?\): choose from"):
        load_dataset("ucf-101")
    put(tmp_path, *(f"folder/{name}/{k}.mp4" for name in "ab" for k in range(2)))
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    assert load_dataset("folder").root == tmp_path / "folder"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REPRO_DATA")
    (tmp_path / "folder").rename(tmp_path / "data")
    assert load_dataset("folder", "data").clips[0].id == "a/0"
    with pytest.raises(ReproError, match="no folder data/folder"):
        load_dataset("folder")
    assert list(DATASETS) == [
        "motionshapes", "weizmann", "ucf101", "hmdb51", "kinetics400", "ssv2", "folder",
    ]  # fmt: skip


def test_select_names_the_nearest(tmp_path):
    dataset = load_dataset("weizmann", put_weizmann(tmp_path, False))
    with pytest.raises(ReproError, match=r"no split 'dari' \(did you mean 'daria'\?\): choose from daria, ido, lena"):
        dataset.select("dari", "test")
    with pytest.raises(ReproError, match=r"no part 'tests' \(did you mean 'test'\?\)"):
        dataset.select("daria", "tests")


def test_motionshapes_catalogue(tmp_path):
    dataset = load_dataset("motionshapes", tmp_path / "new")
    assert not (tmp_path / "new").exists()  # nothing is rendered before it is needed
    assert dataset.classes == tuple(motionshapes.CLASSES)
    assert len(dataset.clips) == len(motionshapes.records())
    assert ids(dataset.clips) == sorted(record.id for record in motionshapes.records())
    for split, groups in motionshapes.splits().items():
        assert {clip.group for clip in dataset.select(split, "test")} == groups
        assert not groups & {clip.group for clip in dataset.select(split, "train")}
    assert dataset.fingerprint == load_dataset("motionshapes", tmp_path / "other").fingerprint
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    assert len({*dataset.clips}) == len(dataset.clips)  # clips can be keys


def test_motionshapes_fingerprint_follows_the_version(tmp_path, monkeypatch):
    before = load_dataset("motionshapes", tmp_path).fingerprint
    monkeypatch.setattr(motionshapes, "VERSION", "another")
    assert load_dataset("motionshapes", tmp_path).fingerprint != before


def test_motionshapes_video_is_a_real_file(tmp_path):
    dataset = load_dataset("motionshapes", tmp_path)
    path = dataset.video(dataset.clips[0])
    assert path.is_absolute()
    assert path.stat().st_size > 0
    assert os.listdir(path.parent) == [path.name]


def test_rendering_is_whole_or_nothing(tmp_path):
    clip = Clip("a/b", "a/b.mp4", 0, "g")
    calls = []

    def render(clip_id: str, path: Path) -> None:
        calls.append((clip_id, path.suffix))
        path.write_bytes(b"half")
        if len(calls) == 1:
            raise KeyboardInterrupt

    dataset = Dataset("x", tmp_path, ("a",), (clip,), ("1",), "0" * 16, render)
    with pytest.raises(KeyboardInterrupt):
        dataset.video(clip)
    assert os.listdir(tmp_path / "a") == []
    assert dataset.video(clip).read_bytes() == b"half"
    dataset.video(clip)
    assert calls == [("a/b", ".mp4")] * 2  # the third call finds the file
    put(tmp_path, "file")
    blocked = Dataset("x", tmp_path / "file", ("a",), (clip,), ("1",), "0" * 16, render)
    with pytest.raises(ReproError, match="give a data_root with write access"):
        blocked.video(clip)
