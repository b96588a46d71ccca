"""Extraction: what is stored is what the video holds; failures are named; killed runs go on."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_flow import MOTIONS, give, moving_videos

from repro.data.catalog import Clip, Dataset
from repro.data.video import read_frames, write_video
from repro.errors import ReproError
from repro.flow import extract as module
from repro.flow.extract import Job, extract
from repro.flow.folders import fit
from repro.flow.store import ClipStore, StoredClip, dequantise, quantise
from repro.flow.tvl1 import BACKENDS, backend_name, tvl1
from repro.processes import each

# A run of its own, so that it can be killed: slow on purpose, one line per finished clip.
SCRIPT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
sys.path.insert(0, {tests!r})
from test_extract import make_dataset, open_store
from repro.flow.extract import extract

def tell(clip_id):
    print(clip_id, flush=True)
    time.sleep({pause})

if __name__ == "__main__":
    dataset = make_dataset(Path({root!r}), {count})
    report = extract(dataset, open_store(Path({store!r})), dataset.clips, workers={workers}, progress=tell)
    print("REPORT", len(report.done), len(report.present), len(report.failed), flush=True)
"""


def make_dataset(root: Path, count: int) -> Dataset:
    """`count` videos of 4 frames, 24x20, each with its own texture in motion."""
    clips = []
    for i in range(count):
        path = root / f"class {i % 2}" / f"v+{i}.mp4"
        if not path.exists():
            noise = np.random.default_rng(i).random((28, 32, 3), np.float32)
            image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, np.stack([image[t : t + 20, t : t + 24] for t in range(4)]))
        clips.append(Clip(f"class {i % 2}/v+{i}", f"class {i % 2}/v+{i}.mp4", i % 2, f"g{i}"))
    return Dataset("test", root, ("class 0", "class 1"), tuple(clips), ("1",), "0" * 16)


def open_store(root: Path, **settings: object) -> ClipStore:
    return ClipStore(root, **{"short_side": 16, "flow_backend": backend_name(), **settings})  # type: ignore[arg-type]


def start(tmp_path: Path, count: int, workers: int, pause: float) -> subprocess.Popen[str]:
    """Start SCRIPT in a process group of its own."""
    script = tmp_path / "run.py"
    text = SCRIPT.format(
        tests=str(Path(__file__).parent),
        root=str(tmp_path / "data"),
        store=str(tmp_path / "store"),
        count=count,
        workers=workers,
        pause=pause,
    )
    script.write_text(text)
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def assert_group_ends(group: int, seconds: float = 120) -> None:
    """Wait until no process of the group is left; end those that stay and fail."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("workers outlive their parent")


def workers_of(process: subprocess.Popen[str]) -> list[Path]:
    """Wait until the process has started a worker, and give /proc/PID of all; none where there is no such folder."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while listed.exists() and process.poll() is None:
        found = [Path("/proc") / child for child in listed.read_text().split()]
        with contextlib.suppress(OSError):
            if workers := [path for path in found if b"spawn_main" in (path / "cmdline").read_bytes()]:
                return workers
        time.sleep(0.001)
    return []


def stored(store: ClipStore, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
    with store.open(clip_id) as clip:
        return clip.rgb(range(clip.n_frames)).numpy(), clip.flow(range(clip.n_flow)).numpy()


def test_what_is_stored(tmp_path: Path) -> None:
    dataset, store = make_dataset(tmp_path / "data", 2), open_store(tmp_path / "store")
    seen: list[str] = []
    report = extract(dataset, store, dataset.clips, progress=seen.append)
    assert report.done == seen == [c.id for c in dataset.clips]
    assert not (report.present or report.failed or report.flawed)
    frames = read_frames(dataset.video(dataset.clips[1]), 16)
    assert frames.shape == (4, 16, 19, 3)
    grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames])
    rgb, flow = stored(store, dataset.clips[1].id)
    assert np.abs(rgb - frames.transpose(0, 3, 1, 2).astype(int)).mean() < 3
    expected = quantise(np.concatenate([tvl1(grey[t : t + 1], grey[t + 1 : t + 2]) for t in range(3)]), 20)
    assert np.abs(flow - expected.astype(int)).max() <= 3
    assert extract(dataset, store, dataset.clips).present == seen


def test_frames_only_then_flow(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data", 1)
    clip_id = dataset.clips[0].id
    frames_only = open_store(tmp_path / "store", flow_backend=None)
    assert extract(dataset, frames_only, dataset.clips).done == [clip_id]
    assert extract(dataset, frames_only, dataset.clips).present == [clip_id]
    store = open_store(tmp_path / "store")
    assert not store.has(clip_id)
    assert extract(dataset, store, dataset.clips).done == [clip_id]
    assert store.has(clip_id)


def test_failures_are_named_and_the_rest_is_done(tmp_path: Path) -> None:
    dataset, store = make_dataset(tmp_path / "data", 4), open_store(tmp_path / "store")
    (dataset.root / dataset.clips[1].path).write_bytes(b"not a video")
    (dataset.root / dataset.clips[2].path).unlink()
    write_video(dataset.root / dataset.clips[3].path, np.zeros((1, 20, 24, 3), np.uint8))  # no pair: no flow, no error
    report = extract(dataset, store, dataset.clips)
    assert report.done == [dataset.clips[0].id, dataset.clips[3].id]
    assert set(report.failed) == {dataset.clips[1].id, dataset.clips[2].id}
    assert all(Path(dataset.clips[i].path).name in report.failed[dataset.clips[i].id] for i in (1, 2))
    with pytest.raises(ReproError, match="opened as a video"):
        extract(dataset, store, dataset.clips, on_error="raise")


def test_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, store = make_dataset(tmp_path / "data", 2), open_store(tmp_path / "store")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ReproError, match="disk is full"):
        extract(dataset, store, dataset.clips)


def test_a_disk_that_gives_back_something_else_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, store = make_dataset(tmp_path / "data", 2), open_store(tmp_path / "store")
    monkeypatch.setattr(StoredClip, "blob", None)
    real = os.fsync

    def flip(handle: int) -> None:
        real(handle)
        for path in store.root.rglob(".*.tmp"):
            path.write_bytes(path.read_bytes()[:-9] + bytes(9))

    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(ReproError, match="reads back damaged .*: check the disk"):
        extract(dataset, store, dataset.clips)
    assert [p.name for p in store.root.rglob("*") if p.is_file()] == ["settings.json"]


def test_the_store_decides_which_backend_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, asked = make_dataset(tmp_path / "data", 1), []
    real = module.tvl1

    def spy(*images: np.ndarray, backend: str) -> object:
        asked.append(backend)
        return real(*images, backend=backend)

    monkeypatch.setattr(module, "tvl1", spy)
    for backend in BACKENDS:
        store = open_store(tmp_path / backend, flow_backend=backend_name(backend))
        assert extract(dataset, store, dataset.clips).done
        assert asked.pop() == backend and not asked
        with store.open(dataset.clips[0].id) as clip:
            assert clip.flow_backend == backend_name(backend)


@pytest.mark.parametrize("given", [False, True])
def test_memory_does_not_grow(tmp_path: Path, given: bool) -> None:
    """Neither with the length of a video nor with their number; the index takes 16 bytes an image."""
    lengths = {"short": 40, "long": 200}
    rng = np.random.default_rng(0)
    (tmp_path / "c").mkdir()
    clips = {}
    for name, length in lengths.items():
        step = cv2.GaussianBlur(rng.random((40, 48 + length, 3), np.float32), (0, 0), 2)
        image = cv2.normalize(step, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        write_video(tmp_path / "c" / f"{name}.mp4", (image[:, t : t + 48] for t in range(length)))
        clips[name] = Clip(f"c/{name}", f"c/{name}.mp4", 0, "g")
    if given:
        field = cv2.imencode(".jpg", np.full((40, 48), 128, np.uint8))[1].tobytes()
        for name, length in lengths.items():
            (tmp_path / "flow" / name).mkdir(parents=True)
            for t, axis in itertools.product(range(1, length), "xy"):
                (tmp_path / "flow" / name / f"flow_{axis}_{t:05d}.jpg").write_bytes(field)
        flow_root, backend = tmp_path / "flow", "given"
    else:
        flow_root, backend = None, backend_name()

    def peak(*names: str) -> int:
        store = ClipStore(tempfile.mkdtemp(dir=tmp_path), short_side=40, flow_backend=backend)
        work = Job(
            Dataset("test", tmp_path, ("c",), (), ("1",), ""), store, flow_root, None if given else "fused", False
        )
        gc.collect()
        tracemalloc.start()  # numpy and OpenCV's arrays tell it what they take
        try:
            for number, name in enumerate(names):
                # the same video under other names
                assert work.run(replace(clips[name], id=f"c/{name}/{number}")) == ("done", "")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak("short")  # imports and compiled loops
    whole = 160 * 40 * 48 * 3  # of the frames that the long one has more
    names = 160 * 2 * 500 * given  # of the flow's images, in a list
    short, long, many = peak("short"), peak("long"), peak(*4 * ["short"])
    assert long < short + whole / 4 + names, (short, long)
    assert many < short + whole / 8, (short, many)


def test_flow_of_another_backend_is_refused(tmp_path: Path) -> None:
    dataset, store = make_dataset(tmp_path / "data", 1), open_store(tmp_path / "store", flow_backend="tvl1-other")
    with pytest.raises(ReproError, match="holds flow by tvl1-other, this installation computes tvl1-fused-1"):
        extract(dataset, store, dataset.clips)


def test_flow_root(tmp_path: Path) -> None:
    dataset, store = make_dataset(tmp_path / "data", 1), open_store(tmp_path / "store", flow_backend="folder")
    clip = dataset.clips[0]
    folder = tmp_path / "flow" / clip.id
    folder.mkdir(parents=True)
    for n in range(1, 4):  # twice the frames' size: 38x32, u = 10 px, v = 0
        for axis, value in (("x", 10), ("y", 0)):
            image = np.full((32, 38), quantise(np.array(float(value)), 20), np.uint8)
            cv2.imwrite(str(folder / f"flow_{axis}_{n:05d}.jpg"), image)
    assert extract(dataset, store, [clip], flow_root=tmp_path / "flow").done == [clip.id]
    _, flow = stored(store, clip.id)
    assert flow.shape == (3, 2, 16, 19)
    assert np.abs(flow[:, 0].astype(int) - quantise(np.array(5.0), 20)).max() <= 1 and (flow[:, 1] == 128).all()
    (folder / "flow_x_00003.jpg").unlink()
    (folder / "flow_y_00003.jpg").unlink()
    store.path(clip.id).unlink()
    report = extract(dataset, store, [clip], flow_root=tmp_path / "flow")
    assert f"{clip.id}: 4 frames in the video, but 2 flow fields in {folder}" in report.failed[clip.id]


def test_flow_root_with_another_bound_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    dataset, clips = moving_videos(tmp_path / "data"), []
    for clip, motion in zip(dataset.clips, MOTIONS, strict=True):
        flow = np.broadcast_to(np.float32(motion)[:, None, None], (8, 2, 72, 96))
        give(tmp_path / "flow" / clip.id, flow, 32, "flow_{axis}_{n:05d}.jpg")
        clips.append(clip)
    wrong = ClipStore(tmp_path / "20", short_side=64, flow_backend="given-flow")
    with pytest.raises(ReproError, match="written with bound 32"):
        extract(dataset, wrong, clips, flow_root=tmp_path / "flow")
    assert [p.name for p in wrong.root.iterdir()] == ["settings.json"]
    right = ClipStore(tmp_path / "32", short_side=64, bound=32, flow_backend="given-flow")
    assert len(extract(dataset, right, clips, flow_root=tmp_path / "flow").done) == 3
    for clip, motion in zip(dataset.clips, MOTIONS, strict=True):
        flow = dequantise(stored(right, clip.id)[1], 32)
        assert np.abs(flow * 96 / flow.shape[3] - np.float32(motion)[:, None, None]).max() < 0.5


def test_fit_scales_displacements() -> None:
    flow = np.ones((2, 10, 20), np.float32)
    resized = fit(flow, (30, 40))
    assert resized.shape == (2, 30, 40)
    assert np.allclose(resized[0], 2) and np.allclose(resized[1], 3)
    assert fit(flow, (10, 20)) is flow


def test_kill_and_resume(tmp_path: Path) -> None:
    """SIGKILL of the parent in the middle: its workers end too, the store holds whole files only, and a second run
    does exactly the rest, with the same bytes as a run that nobody disturbed."""
    dataset, store = make_dataset(tmp_path / "data", 6), open_store(tmp_path / "store")
    process = start(tmp_path, 6, workers=2, pause=0.3)
    assert process.stdout is not None and process.stderr is not None
    for _ in range(2):
        assert process.stdout.readline(), process.stderr.read()
    process.kill()  # the parent alone
    process.wait()
    assert_group_ends(process.pid)
    process.communicate()
    done = [c.id for c in dataset.clips if store.has(c.id)]
    (tmp_path / "store" / "class 0" / ".v+0.half.tmp").write_bytes(b"left behind")
    assert len(done) >= 2
    report = extract(dataset, store, dataset.clips)
    assert sorted(report.present) == sorted(done) and len(report.done) == 6 - len(done)
    undisturbed = open_store(tmp_path / "other")
    extract(dataset, undisturbed, dataset.clips)
    for clip in dataset.clips:
        assert store.path(clip.id).read_bytes() == undisturbed.path(clip.id).read_bytes()


@pytest.mark.parametrize("when", ["workers import", "a clip is done"])
def test_interrupt_ends_all_processes(when: str, tmp_path: Path) -> None:
    """Ctrl-C: the terminal sends SIGINT to the whole group."""
    make_dataset(tmp_path / "data", 6)
    process = start(tmp_path, 6, workers=2, pause=2.0)
    assert process.stdout is not None
    if when == "a clip is done":
        process.stdout.readline()
    elif workers_of(process):
        time.sleep(1)  # of some
    else:
        pytest.skip("finds a worker through Linux' /proc")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert errors.count("Traceback") == 1, errors  # the parent's; the workers say nothing
    assert_group_ends(process.pid)


def held_back(_: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="this system cannot hold signals back")
def test_workers_are_born_deaf_to_interrupts_and_their_parent_is_not() -> None:
    """One that comes while a worker imports would leave a traceback of its own."""
    assert not held_back(0)
    assert [deaf for _, deaf in each(held_back, range(3), 2)] == [True] * 3
    assert not held_back(0)


def test_two_processes_on_one_store(tmp_path: Path) -> None:
    dataset, store = make_dataset(tmp_path / "data", 6), open_store(tmp_path / "store")
    process = start(tmp_path, 6, workers=1, pause=0.05)
    assert process.stdout is not None
    process.stdout.readline()
    report = extract(dataset, store, dataset.clips[::-1], progress=lambda _: time.sleep(0.05))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    done, present, failed = (int(n) for n in output.splitlines()[-1].split()[1:])
    assert done + present == 6 and failed == 0
    assert len(report.done) + len(report.present) == 6 and report.present and not report.failed
    assert len(report.done) + done >= 6
    for clip in dataset.clips:
        stored(store, clip.id)  # checks every checksum
    assert not list((tmp_path / "store").rglob(".*.tmp"))


# Kill an extraction again and again. Forked, not spawned: a start takes milliseconds, so that there are many of them.
KILLS = """
import multiprocessing, os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import cv2, torch
cv2.setNumThreads(1)
torch.set_num_threads(1)
from test_extract import make_dataset, open_store
from repro.flow.extract import extract

def children(pid):
    return [int(child) for child in Path(f"/proc/{{pid}}/task/{{pid}}/children").read_text().split()]

def whole(store, dataset):
    paths = {{clip.id: store.path(clip.id) for clip in dataset.clips}}
    return {{name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in paths.items() if path.exists()}}

if __name__ == "__main__":
    root, count, rng = Path({root!r}), {count}, random.Random(1)
    dataset = make_dataset(root / "data", count)
    extract(dataset, open_store(root / "undisturbed"), dataset.clips)  # which also loads what is compiled
    store, known, kinds = open_store(root / "killed"), {{}}, ["all", "worker", "parent", "parent", "worker"]
    spawn, multiprocessing.get_context = multiprocessing.get_context, lambda _: spawn("fork")
    for kind in kinds:
        pid = os.fork()
        if not pid:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                extract(dataset, store, dataset.clips, workers=2)
            finally:
                os._exit(3)
        while len(whole(store, dataset)) < len(known) + 2:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        if kind == "all":
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid if kind == "parent" else rng.choice(children(pid)), signal.SIGKILL)
        os.waitpid(pid, 0)
        for _ in range(2000):
            try:
                os.killpg(pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.01)
        else:
            sys.exit("workers outlive their parent")
        now = whole(store, dataset)
        assert known.items() <= now.items(), "what was stored was stored again"
        assert len(known) < len(now) < count, (kind, len(now))
        left = len(list(store.root.rglob(".*.tmp")))
        print(f"killed {{kind}} at {{len(now)}} of {{count}}, {{left}} left behind", flush=True)
        known = now
    report = extract(dataset, store, dataset.clips)
    print(len(report.present), len(report.done), len(report.failed))
    assert known.items() <= whole(store, dataset).items()
    again = extract(dataset, store, dataset.clips)
    print(len(again.present), len(again.done), len(again.failed))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a worker through Linux' /proc")
def test_many_kills_in_a_row(tmp_path: Path) -> None:
    """Of everything, of the parent, of one worker, at random moments: each video is done exactly once in the end, with
    the bytes of a run that nobody disturbed."""
    count = 60
    script = tmp_path / "run.py"
    script.write_text(KILLS.format(tests=str(Path(__file__).parent), root=str(tmp_path), count=count))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    *kills, first, second = done.stdout.splitlines()
    assert len(kills) == 5 and all("killed" in line for line in kills)
    present, rest, failed = map(int, first.split())
    assert present == int(kills[-1].split()[3]) and present + rest == count and failed == 0
    assert second == f"{count} 0 0"
    for path in (tmp_path / "undisturbed").rglob("*.clip"):
        assert (tmp_path / "killed" / path.relative_to(tmp_path / "undisturbed")).read_bytes() == path.read_bytes()
