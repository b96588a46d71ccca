"""`repro bench`: what is timed is what is said, whatever the times are."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repro.cli import bench, bench_eval, bench_extract, bench_flow, bench_loader, bench_store, bench_train, main, parser
from repro.data.video import probe, read_frames, write_video
from repro.errors import ReproError
from repro.flow.batched import Plain, tvl1_batched
from repro.flow.store import ClipStore
from repro.flow.tvl1 import DEFAULTS
from repro.papers import PAPERS
from repro.report import performance


def repro(line: str) -> int:
    return main(shlex.split(line))


def moving(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Frames (T, H, W, 3) of a texture that moves to the right."""
    picture = bench_flow.texture(np.random.default_rng(seed), height, width).astype(np.uint8)
    return np.stack([np.roll(picture, t, axis=1) for t in range(count)])[..., None].repeat(3, axis=3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one of them a folder down."""
    root = tmp_path_factory.mktemp("clips")
    (root / "below").mkdir()
    write_video(root / "a.mp4", moving(20, 40, 56))
    write_video(root / "below" / "b.avi", moving(14, 32, 48, seed=1), codec="mpeg4", pix_fmt="yuv420p")
    return root


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No clips at hand unless named, and rows filed in the test's own folder."""
    monkeypatch.delenv("REPRO_REAL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(performance, "FOLDER", tmp_path / "performance")


# ---------------------------------------------------------------- flow


def test_flow_of_invented_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert repro("bench flow --size 24x16 --pairs 6") == 0
    out = capsys.readouterr().out
    for line in (
        "6 pairs of 24x16 (6 invented; no clips at hand, see --clips), one thread, processor time",
        "tvl1-fused-1",
        "tvl1-opencv-",
        "ratio",
        "difference",
    ):
        assert line in out


def test_flow_of_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU only where it is asked for; steps are those of a run that is followed step by step."""
    assert repro("bench flow --size 24x18 --pairs 2 --device cpu --batch 3 --json") == 0
    batch = json.loads(capsys.readouterr().out)["on_device"]
    assert (batch["device"], batch["pairs"]) == ("cpu", 3)
    first, second = (
        torch.from_numpy(np.stack([getattr(pair, name) for pair in bench_flow.invented_pairs(3, 18, 24)]))
        for name in ("first", "second")
    )
    writes = []

    class Followed(Plain):
        def step(self, *args: Any) -> None:
            before = args[5].clone()
            super().step(*args)
            writes.append(int((args[5] != before).sum()) * args[0].shape[2] * args[0].shape[3])

        def smooth(self, *args: Any) -> None:
            before = args[4].clone()
            super().smooth(*args)
            writes.append(int((args[4] != before).sum()) * args[0].shape[2] * args[0].shape[3])

    tvl1_batched(first, second, **DEFAULTS, by=Followed())
    assert batch["steps_per_pair"] == pytest.approx(sum(writes) / 3 / (18 * 24))
    assert batch["pairs_per_second"] > 0 and 0 < batch["share_of_copy_rate"] < 1


@pytest.mark.parametrize("named", [True, False])
def test_flow_of_mixed_pairs(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    """Half of the pairs come from clips, named or where real clips are kept."""
    if not named:
        (tmp_path / "clips").symlink_to(clips)
        monkeypatch.setenv("REPRO_REAL_DATA", str(tmp_path))
    assert repro(f"bench flow --size 30x20 --pairs 7 --json {f'--clips {clips}' if named else ''}") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["size"] == [30, 20]
    assert [pair["kind"] for pair in found["pairs"]] == [*bench_flow.KINDS[:4], "a.mp4", "a.mp4", "b.avi"]
    assert {name: part["count"] for name, part in found["by_source"].items()} == {"invented": 4, "natural": 3}
    natural = [pair["ms"]["opencv"] / pair["ms"]["fused"] for pair in found["pairs"][4:]]
    assert found["by_source"]["natural"]["ratio"]["median"] == pytest.approx(np.median(natural))
    assert found["ratio"]["low"] <= found["ratio"]["median"] <= found["ratio"]["high"]
    assert found["difference"]["mean_px"] < 1 and 0.5 < found["difference"]["bytes_within_1"] <= 1


def test_pairs_of_clips_are_neighbours(clips: Path) -> None:
    frames = [bench_flow._cut(frame, 40, 56) for frame in read_frames(clips / "a.mp4")]
    for pair in bench_flow.clip_pairs(clips, 2, 40, 56):
        if pair.kind == "a.mp4":
            at = next(i for i, frame in enumerate(frames) if np.array_equal(frame, pair.first))
            assert np.array_equal(frames[at + 1], pair.second)


def test_invented_pairs() -> None:
    pairs = list(bench_flow.invented_pairs(len(bench_flow.KINDS), 32, 48))
    assert [pair.kind for pair in pairs] == list(bench_flow.KINDS)
    assert all(a.first.shape == (32, 48) and (a.first != a.second).any() for a in pairs)
    again = list(bench_flow.invented_pairs(len(bench_flow.KINDS), 32, 48))
    assert all(np.array_equal(a.second, b.second) for a, b in zip(pairs, again, strict=True))
    assert not np.array_equal(pairs[0].first, pairs[5].first)


# ---------------------------------------------------------------- reading


def test_store_timing(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repro(f"bench store --clips {clips} --repeats 2 --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(clip["clip"], clip["frames"], clip["size"]) for clip in found["clips"]] == [
        ("a.mp4", 20, [56, 40]),
        ("b.avi", 14, [48, 32]),
    ]
    for clip in found["clips"]:
        assert clip["ratio"]["decoding"] == pytest.approx(clip["ms"]["pyav"] / clip["ms"]["rgb"])
        assert clip["ratio"]["loose"] == pytest.approx(clip["ms"]["pil"] / clip["ms"]["both"])
    assert found["loose"]["ratio"] == pytest.approx(np.median([clip["ratio"]["loose"] for clip in found["clips"]]))
    assert repro(f"bench store --clips {clips} --repeats 1") == 0
    assert "2 clips, one thread, processor time, warm files" in capsys.readouterr().out


def test_all_ways_of_reading_give_the_same(clips: Path, tmp_path: Path) -> None:
    """What is compared is the same work: equal frames, and fields equal up to JPEG."""
    frames = read_frames(clips / "a.mp4")
    flow = bench_store._flow(frames, [2, 3, 11])
    assert flow.shape == (19, 2, 40, 56) and not np.array_equal(flow[2], flow[11])
    assert any(np.array_equal(flow[0], flow[i]) for i in (2, 3, 11))  # those nobody reads repeat the others
    store = ClipStore(tmp_path / "s", short_side=256, flow_backend="test")
    store.write("a", frames, flow)
    bench_store._write_loose(tmp_path / "loose", store, "a", flow)
    assert len(list((tmp_path / "loose").iterdir())) == 20 + 2 * 19
    rgb, fields = bench_store._read_loose(tmp_path / "loose", [4, 17], [2, 3, 11])
    with store.open("a") as clip:
        own = clip.rgb([4, 17]).numpy().astype(int)
        assert rgb.flags.c_contiguous and np.abs(rgb.astype(int) - own).max() <= 2  # another decoder
        assert np.abs(fields.reshape(3, 2, 40, 56).astype(int) - clip.flow([2, 3, 11]).numpy()).max() <= 8
    assert np.array_equal(bench_store._decode(clips / "a.mp4", [4, 17]), frames[[4, 17]].transpose(0, 3, 1, 2))


def test_a_clip_too_short_for_a_snippet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "short.mp4", moving(10, 32, 32))
    assert repro(f"bench store --clips {tmp_path}") == 2
    assert "short.mp4 has 10 frames, a snippet takes 11" in capsys.readouterr().err


def test_loader_timing(capsys: pytest.CaptureFixture[str]) -> None:
    assert repro("bench loader --repeats 1") == 0
    assert "a training sample: median" in capsys.readouterr().out
    assert repro("bench loader --repeats 1 --json") == 0
    assert json.loads(capsys.readouterr().out)["snippets"] == 4


def test_feeding_a_network(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "committed", lambda: "0123456789ab")
    assert repro("bench loader --repeats 1 --workers 1 --preset smoke --device cpu --steps 2 --record --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fed"].keys() == {"workers", "device"} and found["workers"] == 1 and found["step_seconds"] > 0
    for fed in found["fed"].values():
        assert fed["loader"] > 0 and fed["together"] > 0
    page = performance.pages()["performance-loader.md"]
    assert "st_resnet: st-resnet, preset smoke, on cpu, fed by one process" in page
    assert "On a GPU: not measured." in page
    assert "decoded by the device: loader alone" in bench_loader._text(found)


# ---------------------------------------------------------------- extracting


def test_extract_timing(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repro(f"bench extract --clips {clips} --frames 5 --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(clip["clip"], clip["frames"]) for clip in found["clips"]] == [("a.mp4", 5), ("b.avi", 5)]
    assert found["frames_per_second"] == pytest.approx(10 / found["seconds"])
    assert found["stages"].keys() == {"decoding", "flow", "writing"} and found["seconds"] > 0
    assert found["mb_per_1000_frames"] == pytest.approx(sum(clip["bytes"] for clip in found["clips"]) / 10 / 1e3)
    pixels = 5 * (56 * 40 + 48 * 32)
    ucf101 = found["whole"][0]
    assert ucf101["title"] == "UCF101"
    assert ucf101["core_hours"] == pytest.approx(found["seconds"] / pixels * 2.4e6 * 320 * 240 / 3600)
    assert repro(f"bench extract --clips {clips} --frames 3") == 0
    assert "frames/s on one core" in capsys.readouterr().out


def test_a_cut_clip_has_the_first_frames(clips: Path, tmp_path: Path) -> None:
    for number, video in enumerate((clips / "a.mp4", clips / "below" / "b.avi")):
        clip = bench_extract._cut(video, tmp_path / "videos", number, 6)
        assert np.array_equal(read_frames(tmp_path / clip.path), read_frames(video)[:6])
    whole = bench_extract._cut(clips / "a.mp4", tmp_path / "videos", 2, 100)
    assert probe(tmp_path / whole.path).frames == 20


# ---------------------------------------------------------------- recording


def test_recording_needs_a_commit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def dirty() -> str:
        raise ReproError("source files differ from the last commit: commit code before recording")

    monkeypatch.setattr(bench, "committed", dirty)
    assert repro("bench loader --repeats 1 --record") == 2
    assert "commit code before recording" in capsys.readouterr().err
    assert not performance.FOLDER.exists()


def test_recording(clips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "committed", lambda: "0123456789ab")
    assert repro(f"bench flow --clips={clips} --size 24x16 --pairs 2 --record --json") == 0
    out, err = capsys.readouterr()
    row = performance.read("flow")
    assert row is not None and row["found"] == json.loads(out) and "recorded in" in err
    made = row["provenance"]
    assert made["command"] == "repro bench flow --clips=DIR --size 24x16 --pairs 2 --record --json"
    assert made["cpu"] and made["cores"] >= 1 and made["threads"] == 1 and made["versions"]["numpy"] == np.__version__
    assert made["versions"]["numba"]
    assert str(clips) not in json.dumps(row)
    assert performance.made(row) in performance.pages()["performance-flow.md"]


def test_where_a_folder_of_clips_is_named() -> None:
    for line, command in (
        ("bench store --clips /x/y", "repro bench store --clips DIR"),
        ("bench store --clips=/x/y", "repro bench store --clips=DIR"),
        ("bench loader --json", "repro bench loader --json"),
    ):
        options = parser().parse_args(shlex.split(line))
        options.typed = shlex.split(line)
        assert bench.typed(options) == command


@pytest.mark.parametrize("what", ["store", "extract"])
def test_without_clips(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repro(f"bench {what}") == 2
    assert "give --clips DIR" in capsys.readouterr().err
    assert repro(f"bench {what} --clips {tmp_path}") == 2
    assert "no videos in" in capsys.readouterr().err


# ---------------------------------------------------------------- training


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in this process, whose memory is then of no use; another one takes seconds to begin."""
    for module in (bench_train, bench_eval):
        monkeypatch.setattr(module, "alone", lambda _, work, *args: work(*args))


def test_memory_is_that_of_a_process_of_its_own() -> None:
    """This one has used more before."""
    hoard = torch.zeros(1 << 27).add_(1)
    assert hoard.nbytes == 1 << 29
    peak = bench.peak_bytes(torch.device("cpu"))
    assert peak is None or peak > hoard.nbytes
    del hoard
    other = bench.alone(torch.device("cpu"), bench.peak_bytes, torch.device("cpu"))
    assert other is None or (peak is not None and 0 < other < peak - (1 << 28))


@pytest.mark.usefixtures("here")
def test_training_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """Both loops do the same work: on a CPU their first losses are equal up to rounding."""
    assert repro("bench train stilt ccs --preset smoke --steps 1 --device cpu --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["paper"] for one in found["networks"]] == ["stilt", "ccs"] and found["device"] == "cpu"
    for one in found["networks"]:
        assert one["ours"]["first_loss"] == pytest.approx(one["plain"]["first_loss"], rel=1e-4)
        assert one["ratio"] == pytest.approx(one["plain"]["seconds_per_clip"] / one["ours"]["seconds_per_clip"])
        share = one["operations_per_clip"] * one["ours"]["clips_per_second"] / found["matrix_rates"]["float32"]
        assert one["share_of_matrix_rate"] == pytest.approx(share)
        experiment = PAPERS[one["paper"]].experiments("smoke", "hmdb51", "none")[one["network"]]
        assert one["whole"]["hmdb51"]["passes"] == pytest.approx(
            experiment.recipe.iterations * experiment.recipe.batch / 3570
        )
        if not experiment.start:
            seconds = experiment.recipe.iterations * experiment.recipe.batch * one["ours"]["seconds_per_clip"]
            assert one["whole"]["hmdb51"]["hours"] == pytest.approx(seconds / 3600)


def test_a_row_is_of_all_networks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "committed", lambda: None)
    assert repro("bench train stilt --preset smoke --device cpu --record") == 2
    assert "record without naming papers" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_training_curves_are_recorded_and_rendered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_train, "CURVES", {"clips": (1, 2), "crop": (32,)})
    monkeypatch.setattr(bench_train, "FRAMES", (16, 32))
    monkeypatch.setattr(bench, "committed", lambda: None)
    assert repro("bench train stilt --preset smoke --steps 1 --device cpu --curves --record") == 0
    assert re.search(r"stil-snippets +clips +2 +[\d.]+ ms", capsys.readouterr().out)
    text = performance.pages()["performance-curves.md"]
    for line in ("stil-snippets | clips | 1", "stil-snippets | crop | 32", "rgb-taught | frames | 32"):
        assert f"| {line} |" in text
    assert "repro bench train stilt" in text and "On a GPU: not measured." in text
    assert performance.NOT_MEASURED in performance.pages()["performance-train.md"]


def test_invented_batches_are_what_a_loader_gives() -> None:
    sampling = PAPERS["stilt"].experiments("smoke", "hmdb51", "none")["stil-snippets"].sampling
    batch = bench_train.invented(4, sampling, 3)
    assert batch["rgb"].shape == (4, sampling.snippets, 3, sampling.crop, sampling.crop)
    assert batch["flow"].shape == (4, sampling.snippets, 2 * sampling.flow_frames, sampling.crop, sampling.crop)
    assert batch["label"].tolist() == [0, 0, 1, 1] and batch["rgb"].dtype == torch.uint8


def test_an_unknown_paper_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert repro("bench train stillt --preset smoke --device cpu") == 2
    assert "did you mean" in capsys.readouterr().err


# ---------------------------------------------------------------- testing


@pytest.mark.usefixtures("here")
def test_tests(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "committed", lambda: None)
    monkeypatch.setattr(bench_eval, "TESTS", ("quick", "smoke"))
    assert repro("bench eval --preset smoke --videos 2 --device cpu --json --record") == 0
    found = json.loads(capsys.readouterr().out)
    assert [test["test"] for test in found["tests"]] == ["quick", "smoke"] and found["videos"] == 2
    assert all(test["videos_per_second"] > 0 for test in found["tests"])
    text = performance.pages()["performance-eval.md"]
    assert "| quick |" in text and "repro bench eval" in text and "On a GPU: not measured." in text
