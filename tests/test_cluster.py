"""Extraction by the workers of a Dask scheduler: what happens when they die, see other files, or are not there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_extract import make_dataset, open_store

from repro.cli import main
from repro.cluster import each_on
from repro.errors import ReproError
from repro.flow.extract import Job, extract
from repro.processes import LOCAL

COUNT = 60
QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical", "OMP_NUM_THREADS": "1"}


def deadly(number: int) -> int:
    """Ends its process at 3."""
    if number == 3:
        os._exit(1)
    return 10 * number


def wrong(number: int) -> int:
    raise ReproError(f"no {number}")


def forbidden(_: int) -> int:
    raise AssertionError


class Cluster:
    """A scheduler and two workers, each a process of its own with one thread, started in another folder."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder, self.processes = folder, list[subprocess.Popen[bytes]]()
        contact = folder / "scheduler.json"
        self._start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(contact))
        wait_for(contact.exists)
        self.address = json.loads(contact.read_text())["address"]
        for _ in range(workers):  # without the nanny who would start it again
            self._start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        self.scheduler, *self.workers = self.processes

    def _start(self, *arguments: str) -> None:
        env = os.environ | QUIET | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        command = [sys.executable, "-m", "dask", *arguments]
        self.processes.append(subprocess.Popen(command, cwd=self.folder, env=env))

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def wait_for(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    found = Cluster(folder)
    try:
        yield found
    finally:
        found.end()


def whole(store, dataset):
    """When each stored clip was written, and as which file."""
    paths = {clip.id: store.path(clip.id) for clip in dataset.clips}
    return {name: (p.stat().st_ino, p.stat().st_mtime_ns) for name, p in paths.items() if p.exists()}


def test_one_of_two_workers_is_killed(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle: every video is done once, with the bytes of a run that nobody disturbed."""
    monkeypatch.chdir(tmp_path)  # a relative store and data set are other folders for the workers
    dataset, store = make_dataset(Path("data"), COUNT), open_store(Path("store"))
    told: list[str] = []
    before = {}

    def tell(clip_id: str) -> None:
        told.append(clip_id)
        if len(told) == COUNT // 4:
            cluster.workers[0].send_signal(signal.SIGKILL)
            cluster.workers[0].wait()
            before.update(whole(store, dataset))

    report = extract(dataset, store, dataset.clips, scheduler=cluster.address, progress=tell)
    everything = sorted(clip.id for clip in dataset.clips)
    assert sorted(told) == everything and not report.failed and not report.flawed
    assert sorted(report.done + report.present) == everything
    assert len(report.present) <= 2, "stored by the worker that was killed before it could say so"
    assert COUNT // 4 <= len(before) < COUNT, "killed too late to show anything"
    assert before.items() <= whole(store, dataset).items(), "what was stored was stored again"
    undisturbed = open_store(tmp_path / "undisturbed")
    extract(dataset, undisturbed, dataset.clips)
    for clip in dataset.clips:
        assert store.path(clip.id).read_bytes() == undisturbed.path(clip.id).read_bytes()
    assert sorted(extract(dataset, store, dataset.clips, scheduler=cluster.address).present) == everything


def test_workers_that_see_other_files(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out where it is done: nothing is written into a folder of the same name on another machine."""
    dataset, store = make_dataset(tmp_path / "data", 2), open_store(tmp_path / "store")
    monkeypatch.setattr(Job, "absolute", lambda job: job)
    monkeypatch.chdir(tmp_path)
    relative = open_store(Path("store"))
    with pytest.raises(ReproError, match=f"{socket.gethostname()} does not see store: workers need the same files"):
        extract(dataset, relative, dataset.clips, scheduler=cluster.address)
    assert not (cluster.folder / "store").exists() and not whole(store, dataset)


def test_a_failure_of_one_video_is_named(cluster: Cluster, tmp_path: Path) -> None:
    dataset, store = make_dataset(tmp_path / "data", 3), open_store(tmp_path / "store")
    (tmp_path / "data" / dataset.clips[1].path).write_bytes(b"no video")
    report = extract(dataset, store, dataset.clips, scheduler=cluster.address)
    assert len(report.done) == 2 and list(report.failed) == [dataset.clips[1].id]
    with pytest.raises(ReproError, match=r"v\+1\.mp4"):
        extract(dataset, store, dataset.clips, scheduler=cluster.address, on_error="raise")


def test_what_kills_every_worker_is_given_up() -> None:
    """Workers of this machine are started again; nobody else's work is lost with the deadly item."""
    done = dict(each_on(LOCAL, deadly, range(8), 2, dead=lambda number: -number))
    assert done == {number: -3 if number == 3 else 10 * number for number in range(8)}


def test_errors_and_early_ends() -> None:
    with pytest.raises(ReproError, match="no 0"):
        list(each_on(LOCAL, wrong, range(2), 1, dead=forbidden))
    with contextlib.closing(each_on(LOCAL, deadly, range(3), 1, dead=forbidden)) as results:
        assert next(results) == (0, 0)


def test_no_scheduler_and_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.cluster.PATIENCE", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ReproError, match=f"no Dask scheduler answers at {address}"):
            list(each_on(address, deadly, [1], 1, dead=forbidden))
    with pytest.raises(ReproError, match="no Dask scheduler answers at nonsense://x"):
        list(each_on("nonsense://x", deadly, [1], 1, dead=forbidden))
    alone = Cluster(tmp_path, workers=0)
    try:
        with pytest.raises(ReproError, match="has no workers: start some"):
            list(each_on(alone.address, deadly, [1], 1, dead=forbidden))
    finally:
        alone.end()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an address: workers of this machine."""
    make_dataset(tmp_path / "data", 4)
    command = ["flow", "extract", "folder", "--root", str(tmp_path / "data"), "--store", str(tmp_path / "store")]
    assert main([*command, "--short-side", "16", "--workers", "2", "--scheduler"]) == 0
    assert "4 clips: 4 extracted, 0 were there, 0 left out" in capsys.readouterr().out
