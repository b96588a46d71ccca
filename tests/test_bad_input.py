"""What a user may get wrong, on the whole path from a folder of videos to scores; every message is one line.

Where each part is tested by itself:
unknown data set, its nearest, missing roots: test_catalog (test_names_and_roots), test_cli (test_errors_are_one_line);
other layouts, damaged lists: test_catalog (test_folder_other_layouts_are_refused, test_damaged_lists_are_refused, ...);
unknown split: test_catalog (test_select_names_the_nearest), test_cli (test_opening_a_lab), test_page;
unknown preset, parameter, seeds, device, wrong types: test_page (test_wrong_parameters_are_one_line, test_what_only),
    test_cli (test_errors_are_one_line, test_parameters_are_checked_before_anything_runs);
CUDA where there is none: test_training (test_asking_for_cuda_where_there_is_none), test_page (test_cuda_where_...);
unreadable, cut and damaged videos, odd names in decoding: test_video (test_unreadable_files_are_named, test_cut_short);
odd names in catalogue and store: test_catalog (test_folder_with_odd_names), test_store (test_odd_ids_have_safe_...);
damaged store files: test_store (test_every_flipped_byte_and_every_cut_is_noticed);
checkpoints and weights of another network or class count: test_training (test_a_checkpoint_of_another_network...,
    test_a_damaged_checkpoint), test_weights (test_another_network_is_an_error, test_another_class_count_is_named).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import RECIPE, SAMPLING, TinyNet, save_clip

from repro.data.catalog import Clip, load_dataset
from repro.data.video import write_video
from repro.errors import ReproError
from repro.experiments import Experiment, Lab
from repro.flow.store import StoreError
from repro.papers import PAPERS
from repro.papers.stilt_experiments import experiments
from repro.report.page import Chapter, Parameters
from repro.results import Library
from repro.setup import open_lab

TINY = Experiment(
    paper="paper", name="tiny", preset="small", config={}, recipe=replace(RECIPE, iterations=3),
    sampling=replace(SAMPLING, flow_frames=5), protocol="smoke", build=lambda classes: TinyNet(classes, flow_frames=5),
)  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATA", "STORE", "RUNS", "RESULTS"):
        monkeypatch.setenv(f"REPRO_{name}", str(tmp_path / name.lower()))
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # flow of these few clips is no work for several processes


@contextmanager
def one_line(*parts: str, kind: type[Exception] = ReproError) -> Iterator[None]:
    """An error of one line that holds all the parts."""
    with pytest.raises(kind) as error:
        yield
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def videos(root: Path, n: int = 8) -> Path:
    for i in range(n):
        save_clip(root / "ab"[i % 2] / f"v{i}.avi", i, i % 2)
    return root


def lab_of(root: Path, **options: object) -> Lab:
    return open_lab("folder", root=root, short_side=20, device="cpu", **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- names

ODD = {
    "a b [1]!": ["with space.avi", "[x] (HQ)!!! +&.avi", "300+ & more, or less.avi", "50%25d_%03d.avi"],
    "émeu (日本)": ["grün – видео.avi", "-i.avi", "#?*'{}$;~.avi", ".".join("abc") + "..avi"],
}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids some of these names")
def test_odd_names_from_the_video_to_the_scores_of_stilt(tmp_path):
    """Catalogue, flow, store, training, test, result, and what is read back of it."""
    for k, (folder, names) in enumerate(ODD.items()):
        for i, name in enumerate(names):
            save_clip(tmp_path / "my videos [2]" / folder / name, 10 * k + i, k)
    given = Parameters(dataset="folder", data_root="my videos [2]", preset="smoke", device="cpu", runs_dir="my runs!")
    chapter = Chapter(PAPERS["stilt"], given)
    chapter.plan()
    lab = chapter.labs[0]
    whole = replace(chapter.experiments["stil-snippets"], per_class=None)
    result = lab.run(replace(whole, recipe=replace(whole.recipe, iterations=2)), 1)
    assert lab.unusable == {} == result.row["left_out"]
    expected = {f"{folder}/{os.path.splitext(name)[0]}" for folder, names in ODD.items() for name in names}
    assert {*result.ids("train"), *result.ids("test")} == expected
    assert result.row["classes"] == list(ODD)
    for part in ("train", "test"):
        assert all(np.isfinite(result.logits(out, part)).all() for out in result.outputs)
    again = Library(Path("my runs!")).get(result.key)
    assert again.row == result.row
    assert again.ids() == result.ids()
    assert "flow 8/8" in Path("my runs!", "progress.log").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep file names in Unicode")
def test_a_name_that_is_no_text(tmp_path):
    videos(tmp_path / "data", 4)
    os.rename(b"data/a/v0.avi", b"data/a/\xff.avi")
    with one_line("is not valid UTF-8: rename the file"):
        load_dataset("folder", tmp_path / "data")


# ---------------------------------------------------------------- videos


def damage(root: Path) -> dict[str, str]:
    """Twelve videos, half of them of no use; returns what is wrong by path."""
    videos(root, 12)
    rng = np.random.default_rng(0)
    wrong = {
        "a/v0.avi": "noise", "b/v1.avi": "empty", "a/v2.avi": "one frame", "b/v3.avi": "cut", "a/v4.avi": "tiny",
        "b/v5.avi": "text",
    }  # fmt: skip
    for path, what in wrong.items():
        file = root / path
        if what == "one frame":
            write_video(file, rng.integers(0, 256, (1, 20, 24, 3), np.uint8))
        elif what == "tiny":
            write_video(file, rng.integers(0, 256, (9, 8, 12, 3), np.uint8))
        elif what == "cut":
            file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
        else:
            file.write_bytes({"noise": rng.bytes(5000), "empty": b"", "text": b"a video, honestly\n"}[what])
    write_video(root / "a/v6.avi", rng.integers(0, 256, (3, 20, 24, 3), np.uint8))  # two fields for a stack of five
    (root / "split.csv").write_text(
        "".join(f"{'ab'[i % 2]}/v{i}.avi,{'test' if i % 4 > 1 else 'train'}\n" for i in range(12))
    )
    return wrong


def test_bad_videos_are_left_out_by_name_and_short_ones_used(tmp_path):
    wrong = damage(tmp_path / "data")
    lab = lab_of(tmp_path / "data", on_error="skip")
    result = lab.run(TINY, 1)
    assert set(lab.unusable) == {path.removesuffix(".avi") for path in wrong}
    for path, what in wrong.items():
        reason = lab.unusable[path.removesuffix(".avi")]
        assert "\n" not in reason
        assert path in reason, (what, reason)
    assert "single frame" in lab.unusable["a/v2"]
    assert result.row["left_out"] == lab.unusable
    used = [*result.ids("train"), *result.ids("test")]
    assert sorted(used) == ["a/v10", "a/v6", "a/v8", "b/v11", "b/v7", "b/v9"]
    assert np.isfinite(result.logits("temporal")).all()
    again = lab_of(tmp_path / "data", on_error="skip")
    assert again.run(TINY, 1).row == result.row
    assert again.repeat(TINY, 1).losses == pytest.approx(result.arrays["losses"], abs=1e-6)


@pytest.mark.parametrize("path", ["a/v0.avi", "b/v1.avi", "a/v2.avi", "b/v3.avi", "a/v4.avi"])
def test_or_each_of_them_ends_the_run_with_its_name(tmp_path, path):
    damage(tmp_path / "data")
    lab = lab_of(tmp_path / "data", on_error="raise")
    clip = Clip(path.removesuffix(".avi"), path, 0, "g")
    for _ in "12":  # a second time too, when the store may hold something
        with one_line(path):
            lab.prepare([clip])


def test_no_video_is_left(tmp_path):
    for i in range(4):
        save_clip(tmp_path / "data" / "ab"[i % 2] / f"v{i}.avi", i, 0)
        (tmp_path / "data" / "ab"[i % 2] / f"v{i}.avi").write_bytes(b"")
    with one_line("there is no training clip"):
        lab_of(tmp_path / "data", on_error="skip").run(TINY, 1)


# ---------------------------------------------------------------- stored files


def test_a_store_file_cut_short_is_made_again(tmp_path):
    lab = lab_of(videos(tmp_path / "data"))
    expected = lab.run(TINY, 1)
    path = lab.store.path(expected.ids("train")[0])
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        again = lab_of(tmp_path / "data", runs=tmp_path / f"runs-{size}").run(TINY, 1)
        assert path.read_bytes() == whole
        np.testing.assert_array_equal(again.arrays["losses"], expected.arrays["losses"])


def test_a_store_file_with_a_flipped_bit_is_named(tmp_path):
    """Its header is sound, so that it is found out only when the picture is read."""
    lab = lab_of(videos(tmp_path / "data"))
    lab.prepare(lab.dataset.clips)
    path = lab.store.path(lab.dataset.clips[0].id)
    whole = path.read_bytes()
    middle = bytearray(whole)
    middle[-200] ^= 1
    for clip in lab.dataset.clips:  # whichever picture of whichever clip comes first
        lab.store.path(clip.id).write_bytes(lab.store.path(clip.id).read_bytes()[:-1] + b"\0")
    path.write_bytes(middle)
    says = (str(path), "is damaged (wrong checksum of image", "delete it and extract again")
    with one_line(*says, kind=StoreError), lab.store.open(lab.dataset.clips[0].id) as stored:
        stored.flow(range(stored.n_flow))
    with one_line("is damaged (wrong checksum of image", "delete it and extract again", kind=StoreError):
        lab.run(replace(TINY, sampling=replace(TINY.sampling, snippets=9)), 1)
    for clip in lab.dataset.clips:
        lab.store.path(clip.id).unlink()
    lab.run(TINY, 1)
    assert path.read_bytes() == whole


# ---------------------------------------------------------------- checkpoints and weights


@pytest.mark.parametrize("other", ["another model", "another class count", "cut short"])
def test_a_checkpoint_that_does_not_belong(tmp_path, other):
    lab = lab_of(videos(tmp_path / "data", 6))
    build = {
        "another model": lambda classes: TinyNet(classes, flow_frames=5, channels=4),
        "another class count": lambda classes: TinyNet(classes + 1, flow_frames=5), "cut short": TINY.build,
    }[other]  # fmt: skip
    foreign = lab_of(tmp_path / "data", runs=tmp_path / "foreign")
    foreign.run(replace(TINY, build=build), 1)  # how a network is built does not enter the key
    path = Path("checkpoints") / lab.key(TINY, 1) / "checkpoint.pt"
    target = lab.runs_dir / path
    target.parent.mkdir(parents=True)
    data = (foreign.runs_dir / path).read_bytes()
    target.write_bytes(data[: len(data) // 2] if other == "cut short" else data)
    with one_line(str(target), "checkpoint" if other == "cut short" else "belongs to another network or class count"):
        lab.run(TINY, 1)
    assert not list(lab.library.rows), "nothing is filed"
    lab.forget(TINY, 1)
    lab.run(TINY, 1)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nowhere.pth", "nowhere.pth"),
        ("imagnet", "give 'none', 'imagenet' or the path of a file"),
        ("imagenet", "of width 1 only"),
        ("data", "data"),
    ],
)
def test_weights_are_checked_before_anything_is_trained(tmp_path, weights, message):
    """ImageNet weights are for whole backbones: the smoke preset's have a quarter of the width."""
    videos(tmp_path / "data")
    given = Parameters(dataset="folder", data_root="data", preset="smoke", device="cpu", weights=weights)
    with one_line(message):
        Chapter(PAPERS["stilt"], given).plan()
    assert experiments("smoke", "folder", "none").keys() == experiments("smoke", "folder").keys()
    assert not Path("runs").exists()


# ---------------------------------------------------------------- names of things


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "weizman"}, "unknown data set 'weizman' (did you mean 'weizmann'?)"),
        ({"splits": "stratifed"}, "unknown split 'stratifed' (did you mean 'stratified'?)"),
        ({"preset": "papr"}, "unknown preset 'papr' (did you mean 'paper'?)"),
        ({"data_root": "data/a"}, "folders with videos"),
        ({"dataset": "ucf101"}, "no official split lists (classInd.txt)"),
        ({"dataset": "hmdb51"}, "no official split lists"),
    ],
)
def test_what_a_chapter_is_asked_for(tmp_path, given, message):
    videos(tmp_path / "data")
    names = {"dataset": "folder", "data_root": "data", "preset": "smoke", "device": "cpu"} | given
    with one_line(message):
        Chapter(PAPERS["stilt"], Parameters(**names))  # type: ignore[arg-type]
