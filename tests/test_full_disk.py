"""A disk that is really full: a small file system in memory, mounted where only the test's own processes see it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import save_clip

CLIPS = 12

# The command's own entry, several times in one process, for starting Python takes longer than the work.
SCRIPT = """
import contextlib, io, multiprocessing, os, subprocess, sys
from pathlib import Path
import cv2, torch
from repro.cli import main
cv2.setNumThreads(1)
torch.set_num_threads(1)
disk = Path({disk!r})

LINE = ["flow", "extract", "folder", "--root", {root!r}, "--store", str(disk / "store"), "--short-side", "20"]

def repro(*more, line=LINE):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*line, *more])
    return status, out.getvalue(), err.getvalue()

def full(*more):
    status, out, err = repro(*more)
    assert status == 2 and err.count("\\n") == 1, (status, out, err)
    assert err.startswith("error: cannot write to the store") and "the disk is full" in err, err
    print("full:", err.strip())

def stored():
    assert not list(disk.rglob(".*")), "temporary files stay"
    return {{path: path.stat().st_ino for path in disk.rglob("*.clip")}}

def verified():
    line = ["flow", "verify", *LINE[2:]]
    return repro(line=line)

if __name__ == "__main__":
    spawn = multiprocessing.get_context
    multiprocessing.get_context = lambda _: spawn("fork")  # workers that start in milliseconds
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=True)
    # Not even settings.json has room.
    with contextlib.suppress(OSError), open(disk / "other", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    full()
    assert not stored() and not list(disk.rglob("settings.json"))
    (disk / "other").unlink()
    # Room for some of the clips, in one process and in two.
    known = {{}}
    for size, workers in (("64k", "1"), ("112k", "2")):
        subprocess.run(["mount", "-o", f"remount,size={{size}}", str(disk)], check=True)
        full("--workers", workers)
        now = stored()
        assert known.items() <= now.items() and len(known) < len(now) < {clips}, (len(known), len(now))
        status, out, err = verified()
        assert status == 0 and f"{{len(now)}} of {clips} clips are sound" in out and "0 damaged" in out, out
        known = now
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    status, out, err = repro()
    rest = {clips} - len(known)
    assert status == 0 and f"{{rest}} extracted, {{len(known)}} were there, 0 left out" in out, (out, err)
    assert known.items() <= stored().items(), "what was whole was made again"
    assert verified()[0] == 0 and len(stored()) == {clips}
    print("done:", len(known), "then", rest)
"""


def own_namespace(place: Path) -> list[str]:
    """The command before one that may mount what nobody else sees."""
    mounting = f"mount -t tmpfs none {shlex.quote(str(place))}"
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        with_root = os.geteuid() == 0 or "-rm" in command
        if with_root and shutil.which("unshare") and shutil.which("mount"):
            tried = subprocess.run([*command, "sh", "-c", mounting], capture_output=True, text=True)
            if tried.returncode == 0:
                return command
    pytest.skip("no file system can be mounted here (unshare -m, unshare -rm)")


def test_a_full_disk_leaves_whole_files_and_the_same_command_does_the_rest(tmp_path: Path) -> None:
    for i in range(CLIPS):
        save_clip(tmp_path / "data" / "ab"[i % 2] / f"v{i}.avi", i, i % 2)
    (tmp_path / "disk").mkdir()
    command = own_namespace(tmp_path / "disk")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(disk=str(tmp_path / "disk"), root=str(tmp_path / "data"), clips=CLIPS))
    done = subprocess.run([*command, sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    print(done.stdout)
    assert [line.partition(":")[0] for line in lines] == ["full", "full", "full", "done"]
    assert not list((tmp_path / "disk").iterdir()), "mounted elsewhere only"
