"""The command of the README, as typed, in a folder that holds `data/hmdb51`, all 51 classes, and `data/ucf101` in their
official layouts.

Every chapter on one of them, with one store of frames and flow.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from official import HMDB51, UCF101, build_hmdb51, build_ucf101

from repro.experiments import IMAGES
from repro.results import rows

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "papermill {root}/notebooks/{paper}.ipynb out.ipynb -p dataset {dataset} -p preset smoke"
CLASSES = {"hmdb51": len(HMDB51), "ucf101": len(UCF101)}
CHAPTERS = {  # the data set, and some of the runs that each chapter must leave
    "stilt": ("hmdb51", {"spatial", "temporal", "stil-snippets"}),
    "st_resnet": ("hmdb51", {"appearance", "motion", "st-resnet", "star", "st-resnet+probes"}),
    "heterogeneous": ("hmdb51", {"textures-resnet101", "spatial-resnet101", "temporal-bn-inception-transplanted"}),
    "cross_enhancement": ("ucf101", {"rgb", "flow", "rgb-taught", "fused-3d", "together", "rgb-taught+distance"}),
    "ccs": ("ucf101", {"baseline", "cb", "all", "i3d-all", "trn-all", "all@vgg16", "all+probes", "all+groups"}),
    "comparison": ("ucf101", {"frames", "flow", "unlike-flow", "taught-frames", "st-resnet", "ccs", "stilt"}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with both data sets, and the clips of each; real ones where REPRO_REAL_DATA has them."""
    real = os.environ.get("REPRO_REAL_DATA")
    folder = tmp_path_factory.mktemp("official")
    build = {"hmdb51": build_hmdb51, "ucf101": build_ucf101}
    return folder, {name: make(folder / "data" / name, Path(real) if real else None) for name, make in build.items()}


@pytest.mark.parametrize("paper", CHAPTERS)
def test_the_chapter_as_it_is_typed(paper, place):
    """Decodes, computes flow, trains and tests."""
    tmp_path, marks = place
    dataset, experiments = CHAPTERS[paper]
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    (tmp_path / "out.ipynb").unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    ours = ("REPRO_DATA", "REPRO_STORE", "REPRO_RUNS", "REPRO_RESULTS")
    caches = {"TORCH_HOME": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "cache")}  # where downloads would go
    env = {name: value for name, value in os.environ.items() if name not in ours} | caches
    env |= {"OMP_NUM_THREADS": "1", "REPRO_RESULTS": str(tmp_path / "none")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])  # papermill of this environment
    command = COMMAND.format(root=ROOT, paper=paper, dataset=dataset).split()
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    book = nbformat.read(tmp_path / "out.ipynb", 4)
    outputs = [(cell, output) for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for _, output in outputs if output.output_type == "error"] == []
    [plan] = [
        output.text for cell, output in outputs if "open_chapter" in cell.source and output.output_type == "stream"
    ]
    assert f"Data set {dataset}: {len(marks[dataset])} clips, {CLASSES[dataset]} classes; split 1." in plan
    for stage in ("decoding", "optical flow", "training", "testing", "in all"):  # each with its time
        assert re.search(rf"^ *{stage} .*\d (s|min|h)\b", plan, re.MULTILINE), plan
    assert re.search(r"^ *in all .*\d (MB|GB)$", plan, re.MULTILINE), plan  # and the disk

    found = [row for _, row in rows(tmp_path / "runs")]
    assert {row["experiment"] for row in found} >= experiments
    found = [row for row in found if row["dataset"] != IMAGES]
    assert {(row["dataset"], row["preset"], row["split"]) for row in found} == {(dataset, "smoke", "1")}
    assert all(len(row["classes"]) == CLASSES[dataset] and not row["left_out"] for row in found)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out.ipynb", "runs", "store"}  # nothing else was made
