"""The command line: what it does, how it ends, and that an error is one line that says what to do."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from fakes import RECIPE, SAMPLING, save_clip, tiny_net
from nbformat.v4 import new_code_cell, new_notebook

from repro import cli, setup
from repro.cli import console, main, tools
from repro.cli import results as cli_results
from repro.data.catalog import load_dataset
from repro.errors import ReproError
from repro.experiments import Experiment
from repro.flow.store import ClipStore
from repro.flow.tvl1 import BACKENDS, backend_name
from repro.papers import PAPERS, Paper
from repro.results import rows
from repro.setup import committed, open_lab, recorded_folder, runs_folder, splits_of, store_folder


def experiments(preset: str, dataset: str, weights: str = "auto") -> dict[str, Experiment]:
    tiny = Experiment(
        paper="paper", name="tiny", preset=preset, config={"weights": "none"}, recipe=replace(RECIPE, iterations=3),
        sampling=SAMPLING, protocol="smoke", build=tiny_net, weights=weights,
    )  # fmt: skip
    return {"tiny": tiny, "other": replace(tiny, name="other", config={"weights": "none", "x": 1})}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for i in range(8):
        save_clip(root / ("right" if i % 2 else "down") / f"v{i}.avi", i, i % 2)
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def place(tmp_path, videos, store, monkeypatch):
    """An empty working directory, a paper with two small networks, and the videos where they are looked for."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "folder").symlink_to(videos)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("REPRO_STORE", str(store))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "recorded"))
    monkeypatch.delenv("REPRO_RUNS", raising=False)
    paper = Paper("paper", "A paper", "nobody", "n.ipynb", experiments, lambda *_: [], lambda *_: 16)
    monkeypatch.setitem(PAPERS, "paper", paper)


def repro(line: str) -> int:
    try:
        return main(shlex.split(line))
    except SystemExit as end:
        return int(end.code or 0)


TRAIN = "train paper tiny --dataset folder"


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian paper", "did you mean 'train'?"),
        ("data info hmdb", "did you mean 'hmdb51'?"),
        ("data info weizmann --root nowhere", "no folder nowhere"),
        ("data verify weizmann --root nowhere", "no folder nowhere"),
        ("data verify hmdb", "did you mean 'hmdb51'?"),
        ("data verify folder --workers 0", "'0' is no number from 1 on"),
        ("train papers tiny", "unknown paper 'papers' (did you mean 'paper'?)"),
        ("train paper tyni --dataset folder", "no variant 'tyni' (did you mean 'tiny'?)"),
        ("train paper --dataset folder", "name variants, or give --all: tiny, other"),
        (f"{TRAIN} --preset smal", "did you mean 'small'?"),
        (f"{TRAIN} --split stratifid", "unknown split 'stratifid' (did you mean 'stratified'?)"),
        (f"{TRAIN} --device gpu", "unknown device 'gpu': use auto, cpu, cuda or cuda:N"),
        (f"{TRAIN} --seeds one", 'seeds=\'one\' is not understood: write 1, "1,2" or "all"'),
        (f"{TRAIN} --fold 3/2", "'3/2' is no K/N with K from 1 to N"),
        (f"{TRAIN} --fold 0/2", "is no K/N"),
        (f"{TRAIN} --processes 0", "'0' is no number from 1 on"),
        (f"{TRAIN} --set recipe.lrr=1", "recipe has no 'lrr' (did you mean 'lr'?)"),
        (f"{TRAIN} --set recipe.lr=fast", "float expected, such as 0.05"),
        (f"{TRAIN} --set recipe.batch=3", "no multiple of micro_batch"),
        (f"{TRAIN} --set sampling.flow_frames=5", "sampling has no 'flow_frames'"),
        (f"{TRAIN} --set config.width=1", "write recipe.FIELD=VALUE"),
        (f"{TRAIN} --set lr", "write recipe.FIELD=VALUE"),
        (f"{TRAIN} --set protocol=quik", "did you mean 'quick'?"),
        (f"{TRAIN} --flow-root nowhere", "flow_root: no folder nowhere"),
        (f"{TRAIN} --flow-bound 32", "--flow-bound is for flow that was extracted before: give its folder"),
        (f"{TRAIN} --flow-backend opencvv", "did you mean 'opencv'?"),
        ("flow extract folder --flow-bound 20", "--flow-bound is for flow that was extracted before"),
        ("flow extract folder --flow-root data --flow-bound 0", "'0' is no number of px above 0"),
        ("flow extract folder --flow-root data --flow-bound nan", "'nan' is no number of px above 0"),
        ("flow extract folder --flow-root data --flow-backend opencv", "give one of them"),
        ("flow verify folder --store nowhere", "make it with repro flow extract folder"),
        ("flow extract folder --split no", "has no split 'no'"),
        ("results show papr", "unknown paper 'papr' (did you mean 'paper'?)"),
        ("reported nothing", "no published data named"),
        ("predict none.avi --run ab", "no video none.avi"),
        ("run nowhere", "no notebook nowhere"),
        ("bench flow --size 320x8", "'320x8' is no WxH from 16x16 on"),
        ("bench flow --clips nowhere", "no videos in nowhere"),
    ],
)
def test_errors_are_one_line_and_exit_with_2(line, message, capsys):
    assert repro(line) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""


def test_debug_shows_the_traceback(capsys):
    for line in ("--debug train papers tiny", "train papers tiny --debug"):
        with pytest.raises(ReproError, match="unknown paper"):
            main(shlex.split(line))


@pytest.mark.parametrize(("error", "message"), [
    (RuntimeError("two\nlines"), "error: RuntimeError: two lines (--debug shows where)\n"),
    (OSError(28, "No space left on device", "x"), "error: OSError: [Errno 28] No space left on device: 'x'\n"),
])  # fmt: skip
def test_what_nobody_expected_is_one_line_too(error, message, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("repro.cli.train.run_all", fail)
    assert repro(TRAIN) == 2
    assert capsys.readouterr().err == message


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(capsys, monkeypatch):
    def interrupt(self, what, done, total):
        if what == "tiny seed 1" and done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(console.Progress, "__call__", interrupt)
        assert repro(TRAIN) == 130
    assert capsys.readouterr().err.endswith("what is finished is kept: the same command goes on from there\n")
    assert not list(rows(runs_folder()))
    assert repro(TRAIN) == 0
    assert len(list(rows(runs_folder()))) == 1


def test_the_module_is_the_command_and_help_needs_no_torch():
    code = "import sys; from repro.cli import parser; parser().format_help(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    done = subprocess.run([sys.executable, "-m", "repro", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "repro")
    bad = subprocess.run([sys.executable, "-m", "repro", "dcotor"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)


def test_all_flow_backends_can_be_asked_for():
    assert set(cli.BACKENDS) == set(BACKENDS)


# ---------------------------------------------------------------- doctor, reported


def test_doctor(capsys, monkeypatch, tmp_path):
    assert repro("doctor") == 0
    out = capsys.readouterr().out
    for part in ("torch 2", "decoding: 3 frames", "moved by 1 px", "store", "writable", "no recorded results"):
        assert part in out
    assert "MISSING" not in out
    monkeypatch.setattr(tools, "NEEDED", ("no-such-package",))
    (tmp_path / "file").touch()
    assert repro("doctor --store file/store") == 1
    out = capsys.readouterr().out
    assert "MISSING no-such-package is not installed" in out
    assert "MISSING store file/store: cannot write" in out
    assert "2 things are missing" in out


def test_published_numbers(capsys):
    assert repro("reported stilt --json") == 0
    cells = json.loads(capsys.readouterr().out)
    assert {"paper", "table", "row", "column", "value", "unit", "source"} == cells[0].keys()
    assert repro("reported stilt") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(cells) + 1


# ---------------------------------------------------------------- data and flow


def test_data_sets(capsys):
    assert repro("data list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["ucf101"].endswith(" no")
    assert "yes, 8 clips in" in lines["folder"]
    assert "made when needed" in lines["motionshapes"]
    assert repro("data info folder") == 0
    out = capsys.readouterr().out
    assert "classes   2: down, right" in out
    assert out.splitlines()[-1].split() == ["stratified", "6", "6", "2", "2"]
    assert repro("data info ucf101") == 0
    assert "here      no (" in capsys.readouterr().out


def test_extracting_flow_goes_on_where_it_was(capsys, tmp_path):
    line = "flow extract folder --store s --short-side 16"
    assert repro(f"{line} --split stratified") == 0
    out = capsys.readouterr().out
    assert "to do: 80 frames, 72 flow fields" in out
    assert "8 clips: 8 extracted, 0 were there, 0 left out; 80 frames in" in out
    [folder] = (tmp_path / "s").iterdir()
    next(folder.rglob("*.clip")).unlink()
    assert repro(line) == 0
    out = capsys.readouterr().out
    assert "to do: 10 frames, 9 flow fields" in out
    assert "1 extracted, 7 were there, 0 left out; 10 frames" in out


def test_closing_lines_of_an_extraction(capsys, tmp_path):
    assert repro("flow extract folder --store s --short-side 16 --flow-backend opencv") == 0
    *_, speed, cost = capsys.readouterr().out.splitlines()
    assert re.search(r"; 80 frames in [\d.]+ s \([\d.]+ frames/s, [\d.]+ a core\)$", speed)
    size = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*.clip"))
    written, peak = re.fullmatch(r"([\d.]+) MB written, peak memory (\d+) MB.*", cost).groups()
    assert float(written) == pytest.approx(size / 1e6, abs=0.06)
    assert 50 < int(peak) < 20_000
    [folder] = (tmp_path / "s").iterdir()
    assert folder.name.endswith(backend_name("opencv"))


def test_verifying_a_store(capsys, tmp_path):
    line = "folder --store s --short-side 16"
    assert repro(f"flow extract {line}") == 0
    capsys.readouterr()
    assert repro(f"flow verify {line} --workers 2") == 0
    assert capsys.readouterr().out.endswith("8 of 8 clips are sound, 0 missing, 0 damaged\n")
    [folder] = (tmp_path / "s").iterdir()
    damaged, gone = sorted(folder.rglob("*.clip"))[:2]
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    gone.unlink()
    for options in ("", "--remove"):
        assert repro(f"flow verify {line} {options}") == 1
        first, second, last = capsys.readouterr().out.splitlines()
        assert first.startswith(f"damaged down/{damaged.stem}: ") and "wrong checksum of image" in first
        assert second == f"missing down/{gone.stem}: not stored"
        assert "6 of 8 clips are sound, 1 missing, 1 damaged" in last
        assert ("removed: repro flow extract makes them again" in last) == (options == "--remove") != damaged.exists()
    assert repro(f"flow verify {line}") == 0, "what is missing is not damaged"
    assert "2 missing, 0 damaged" in capsys.readouterr().out
    assert repro(f"flow extract {line}") == 0
    assert "2 extracted, 6 were there" in capsys.readouterr().out
    assert damaged.read_bytes() == good


def test_a_bad_video_stops_the_extraction_or_is_left_out(capsys, tmp_path):
    root = tmp_path / "own"
    for i in range(4):
        save_clip(root / "ab"[i % 2] / f"v{i}.avi", i, i % 2)
    (root / "a" / "v2.avi").write_bytes(b"no video")
    line = f"flow extract folder --root {root} --store s --short-side 16"
    assert repro(line) == 2
    err = capsys.readouterr().err
    assert "v2.avi" in err
    assert err.count("\n") == 1
    assert repro(f"{line} --skip-errors") == 0
    out, err = capsys.readouterr()
    assert "1 left out" in out
    assert err.startswith("left out a/v2: ")


# ---------------------------------------------------------------- train


def test_training_and_what_is_shown_of_it(capsys, monkeypatch):
    assert repro(f"{TRAIN} --seeds 1,2 --preset small") == 0
    out = capsys.readouterr().out
    assert "preset small, cpu: 2 runs to train" in out
    table = out.splitlines()[-3:]
    assert table[1].split()[:6] == ["paper", "tiny", "small", "folder", "stratified", "1"]
    assert "spatial " in table[1]
    assert "temporal " in table[1]
    monkeypatch.setattr("repro.experiments.train", None)  # nothing is trained any more
    assert repro(f"{TRAIN} --seeds 1,2") == 0
    assert "0 runs to train" in capsys.readouterr().out
    assert repro("train paper --dataset folder --list --seeds 1,2") == 0
    out = capsys.readouterr().out
    assert "stratified/1, stratified/2" in out
    assert "the rest: 2 runs to train" in out
    assert repro("results status") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["own", "paper", "folder", "small", "2"]
    assert repro("results show paper --dataset folder") == 0
    assert capsys.readouterr().out.splitlines() == table
    assert repro("results show --dataset ucf101") == 0
    assert capsys.readouterr().out == "no results\n"


def test_changed_recipes_and_folds_do_not_pass_for_the_chapter_s(capsys):
    line = f"{TRAIN} --set recipe.lr=0.5 --set sampling.scales=1 --set recipe.milestones=1,2 --set sampling.flip=false"
    assert repro(f"{line} --fold 2/3") == 0
    [(_, row)] = rows(runs_folder())
    assert row["identity"]["recipe"]["lr"] == 0.5
    assert row["identity"]["recipe"]["milestones"] == [1, 2]
    assert row["identity"]["sampling"]["scales"] == [1]
    assert row["identity"]["sampling"]["flip"] is False
    assert row["identity"]["fold"] == [1, 3]
    assert row["experiment"] == "tiny/fold-2-of-3"
    assert row["preset"].startswith("small --set recipe.lr=0.5")
    capsys.readouterr()
    assert repro(row["command"].removeprefix("repro ")) == 0, "the row says how it was made"
    assert "0 runs to train" in capsys.readouterr().out
    assert repro("results verify") == 0
    assert "1 repeats" in capsys.readouterr().out


def test_a_row_s_command_has_the_weights_that_were_asked_for(capsys):
    assert repro(f"{TRAIN} --weights none") == 0
    [(_, row)] = rows(runs_folder())
    assert row["command"].endswith(" --preset small --weights none")
    capsys.readouterr()
    assert repro(row["command"].removeprefix("repro ")) == 0
    assert "0 runs to train" in capsys.readouterr().out


def test_a_single_file_does_not_serve_several_base_networks(capsys):
    Path("resnet50.pth").touch()
    line = "train heterogeneous --all --dataset folder --preset smoke --device cpu --weights"
    assert repro(f"{line} resnet50.pth") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "give a folder" in err
    assert err.endswith("missing: resnet101, resnet152, bn_inception\n")
    Path("weights").mkdir()
    Path("resnet50.pth").rename("weights/resnet50.pth")
    assert repro(f"{line} weights") == 2
    assert capsys.readouterr().err.endswith("missing: resnet101, resnet152, bn_inception\n")


def test_recording_needs_committed_code(capsys, monkeypatch, tmp_path):
    for found, message in (("unknown", "no git commit is known"), ("0123456789ab+dirty", "source files differ")):
        monkeypatch.setattr(setup, "commit", lambda found=found: found)
        assert repro(f"{TRAIN} --record") == 2
        err = capsys.readouterr().err
        assert message in err
        assert "commit code before recording" in err
    assert repro(TRAIN) == 0  # with a checkpoint that a recording must not start from
    monkeypatch.setattr(setup, "commit", lambda: "0123456789ab")
    assert committed() == "0123456789ab"
    capsys.readouterr()
    assert repro(f"{TRAIN} --record") == 0
    assert "1 runs to train" in capsys.readouterr().out
    [(path, _)] = rows(tmp_path / "recorded")
    assert path.parent == tmp_path / "recorded" / "paper" / "folder"
    assert (tmp_path / "runs" / "recording" / "0123456789ab" / "checkpoints").is_dir()
    assert repro("results status") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["whose", "own", "recorded"]


# ---------------------------------------------------------------- verify, predict


def verdict(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_verifying(capsys, monkeypatch, tmp_path):
    assert repro("train paper --all --dataset folder") == 0
    capsys.readouterr()
    assert repro("results verify paper --dataset folder") == 0
    assert verdict(capsys) == "2 repeats"
    for path, row in list(rows(runs_folder())):
        if row["experiment"] == "tiny":
            row["provenance"]["first_losses"][0] += 0.1
            path.write_text(json.dumps(row))
    assert repro("results verify") == 1
    assert verdict(capsys) == "1 repeats, 1 stale"
    changed = replace(
        PAPERS["paper"], experiments=lambda *_: {"tiny": replace(experiments("small", "")["tiny"], config={})}
    )
    with monkeypatch.context() as patch:
        patch.setitem(PAPERS, "paper", changed)
        assert repro("results verify") == 1
        out = capsys.readouterr().out
        assert "stale: the configuration or the way flow is computed has changed" in out
        assert "stale: paper has no variant 'other' any more" in out
    for path, row in list(rows(runs_folder())):
        row |= {"fingerprint": "other"} if row["experiment"] == "tiny" else {"dataset": "ucf101"}
        path.write_text(json.dumps(row))
    assert repro("results verify") == 0
    assert sorted(verdict(capsys).split(", ")) == ["1 data absent", "1 other data"]


def test_verifying_a_training_on_images_and_what_starts_from_it(capsys, monkeypatch):
    def begin(model: torch.nn.Module, states: list[dict[str, torch.Tensor]]) -> None:
        own = {k: v for k, v in states[0].items() if k.startswith("convolutions")}
        model.load_state_dict(own, strict=False)

    def both(preset: str, dataset: str, weights: str = "auto") -> dict[str, Experiment]:
        tiny = experiments(preset, dataset)["tiny"]
        pictures = {"classes": 3, "per_class": 8, "size": 20, "crop": 12, "seed": 0}
        sampling = replace(SAMPLING, streams=("rgb",))
        images = replace(tiny, name="images", images=pictures, sampling=sampling)
        return {"images": images, "tiny": replace(tiny, start=(images,), begin=begin)}

    monkeypatch.setitem(PAPERS, "paper", replace(PAPERS["paper"], experiments=both))
    assert repro("train paper --all --dataset folder --seeds 1,2") == 0
    shown = capsys.readouterr().out
    assert shown.count("textures") == 1 and len(list(rows(runs_folder()))) == 3, "one pre-training for both seeds"
    assert repro("results verify paper") == 0
    assert verdict(capsys) == "3 repeats"
    [key] = [row["key"] for _, row in rows(runs_folder()) if row["experiment"] == "images"]
    Path("video.avi").touch()
    assert repro(f"predict video.avi --run {key}") == 2
    assert "generated images" in capsys.readouterr().err
    for path, row in list(rows(runs_folder())):
        if row["experiment"] == "images":
            row["provenance"]["first_losses"][0] += 0.1
            path.write_text(json.dumps(row))
    assert repro("results verify paper") == 1
    assert verdict(capsys) == "2 repeats, 1 stale"


def test_verifying_skips_what_starts_from_long_trainings_that_are_missing(capsys, monkeypatch, tmp_path):
    def both(preset: str, dataset: str, weights: str = "auto") -> dict[str, Experiment]:
        tiny = experiments(preset, dataset)["tiny"]
        second = replace(tiny, config={"x": 2}, start=(tiny,), begin=lambda model, s: model.load_state_dict(s[0]))
        return {"tiny": tiny, "second": replace(second, name="second"), "third": replace(second, name="third",
                config={"x": 3})}  # fmt: skip

    monkeypatch.setitem(PAPERS, "paper", replace(PAPERS["paper"], experiments=both))
    assert repro("train paper --all --dataset folder") == 0
    checkpoints = tmp_path / "runs" / "checkpoints"
    shutil.rmtree(checkpoints)
    with monkeypatch.context() as patch:
        patch.setattr(cli_results, "CHEAP", -1.0)
        capsys.readouterr()
        assert repro("results verify paper") == 0
        out = capsys.readouterr().out
        assert out.count("starts missing: tiny, about 0 s to train") == 2
        assert out.splitlines()[-2] == "2 starts missing, 1 repeats"
        assert out.splitlines()[-1] == "--train-starts also trains the starts that are missing: 1 trainings, about 0 s"
        assert not checkpoints.exists(), "nothing was trained"
        assert repro("results verify paper --train-starts") == 0
        assert verdict(capsys) == "3 repeats"
        assert repro("results verify paper") == 0
        assert verdict(capsys) == "3 repeats", "now they are at hand"
    shutil.rmtree(checkpoints)
    assert repro("results verify paper") == 0
    assert verdict(capsys) == "3 repeats", "what takes seconds is trained unasked"


def test_verifying_on_another_device_than_the_starts(capsys):
    assert repro(TRAIN) == 0
    [(path, row)] = rows(runs_folder())
    row["provenance"]["device"] = "A GPU + cpu"
    path.write_text(json.dumps(row))
    capsys.readouterr()
    assert repro("results verify") == 0
    out = capsys.readouterr().out
    assert "other device: recorded on A GPU + cpu" in out and "\n1 other device\n" in out


def test_predicting(capsys, videos, tmp_path):
    assert repro(TRAIN) == 0
    [(_, row)] = rows(runs_folder())
    clip = load_dataset("folder").select("stratified", "test")[0]
    capsys.readouterr()
    assert repro(f"predict {videos / clip.path} --run {row['key'][:6]}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["class", "spatial", "temporal", "fused"]
    assert {line.split()[0] for line in lines[2:]} == {"down", "right"}
    # The scores are those that the run's own test gave this clip.
    result = open_lab("folder", short_side=16).library.get(row["key"])
    position = result.ids().index(clip.id)
    for line in lines[2:]:
        name, *scores = line.split()
        each = [np.exp(x) / np.exp(x).sum() for x in (result.logits(o)[position] for o in ("spatial", "temporal"))]
        expected = [p[row["classes"].index(name)] for p in each]
        assert [float(s) for s in scores] == pytest.approx([*expected, sum(expected) / 2], abs=2e-3)
    assert float(lines[2].split()[-1]) >= float(lines[3].split()[-1])
    checkpoint = tmp_path / "runs" / "checkpoints" / row["key"] / "checkpoint.pt"
    assert repro(f"predict {videos / clip.path} --checkpoint {checkpoint} --top 1") == 0
    assert capsys.readouterr().out.splitlines() == lines[:3]
    checkpoint.unlink()
    for options, message in (
        (f"--run {row['key']}", f"make it with: {row['command']}"), ("--run x", "no result has the key x"),
        ("", "name a trained run"), ("--checkpoint none.pt", "no checkpoint none.pt"),
    ):  # fmt: skip
        assert repro(f"predict {videos / clip.path} {options}") == 2
        assert message in capsys.readouterr().err


# ---------------------------------------------------------------- notebooks


@pytest.fixture
def notebook(tmp_path):
    (tmp_path / "notebooks").mkdir()
    parameters = 'splits: str = "default"  # which\nworkers: int = 0\nmax_hours: float = 12.0'
    body = "if workers:\n    raise ValueError('no\\nworkers')\nprint(repr(splits), max_hours)"
    nb = new_notebook(cells=[new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(body)])
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, tmp_path / "notebooks" / "page.ipynb")


def test_a_notebook_is_run_with_its_parameters_kept_as_they_were_typed(notebook, capsys):
    assert repro("run page -p splits 01 -p max_hours 3 -o done.ipynb") == 0
    assert capsys.readouterr().out == "done.ipynb is complete\n"
    assert nbformat.read("done.ipynb", 4).cells[-1].outputs[0].text == "'01' 3.0\n"


def test_a_cell_that_fails_is_one_line(notebook, capsys):
    assert repro("run notebooks/page.ipynb -p workers 1") == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == "error: page.ipynb: ValueError: no workers (what ran is in out.ipynb)"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("page -p split 1", "'split' is no parameter (did you mean 'splits'?): use splits, workers, max_hours"),
        ("page -p workers two", "workers='two': int expected, such as 0"),
        ("pge", "no notebook pge (did you mean 'page'?)"),
        ("page -o notebooks/page.ipynb", "is the notebook itself"),
    ],
)
def test_parameters_are_checked_before_anything_runs(notebook, line, message, capsys):
    assert repro(f"run {line}") == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------- progress


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch):
    clock = iter(range(0, 10_000, 8))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    stream = io.StringIO()
    with console.Progress(stream) as progress:
        for done in range(41, 61):  # resumed at 40: the rate must not count what was there
            progress("tiny", done, 60)
    lines = stream.getvalue().splitlines()
    assert 4 <= len(lines) <= 8
    assert lines[0].startswith("tiny: 4")
    assert lines[-1].startswith("tiny: 60/60 in ")
    assert all(line.endswith(" left") for line in lines[:-1])
    assert lines[-2] == "tiny: 59/60, 8 s left" or "s left" in lines[-2]


def test_progress_on_a_terminal_is_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with console.Progress(stream) as progress:
        for what in ("first", "second"):
            for done in (1, 2, 3):
                progress(what, done, 3)
    assert "first: 100%" in stream.getvalue()
    assert "second: 100%" in stream.getvalue()
    assert "3/3" in stream.getvalue()


def test_durations():
    assert [console.duration(s) for s in (0.4, 45, 61, 3600, 3725)] == ["0 s", "45 s", "1:01", "1:00:00", "1:02:05"]


# ---------------------------------------------------------------- where things are


def test_folders(monkeypatch, tmp_path):
    assert runs_folder() == Path("runs")
    assert recorded_folder() == tmp_path / "recorded"
    monkeypatch.setenv("REPRO_RUNS", "mine")
    assert runs_folder() == Path("mine")
    assert runs_folder("given") == Path("given")
    monkeypatch.delenv("REPRO_RESULTS")
    checkout = Path(setup.__file__).parents[2] / "book" / "results"
    assert recorded_folder() == (checkout if checkout.is_dir() else None)
    monkeypatch.delenv("REPRO_STORE")
    weizmann = SimpleNamespace(name="weizmann", render=None, root=Path("x"))
    assert store_folder(weizmann, 64) == Path("store/weizmann-64")
    assert store_folder(weizmann, 256, "s", "some/flow") == Path("s/weizmann-256-given-flow")
    assert store_folder(weizmann, 256, "s", "f", flow_bound=32) == Path("s/weizmann-256-given-f-bound-32")
    assert store_folder(weizmann, 64, "s", flow_backend="opencv") == Path(f"s/weizmann-64-{backend_name('opencv')}")
    rendered = [SimpleNamespace(name="ms", render=print, fingerprint=f * 16) for f in "ab"]
    assert store_folder(rendered[0], 64) == Path("store/ms-aaaaaaaa-64")
    assert store_folder(rendered[1], 64) != store_folder(rendered[0], 64)
    own = [SimpleNamespace(name="folder", render=None, root=Path(r)) for r in ("one", "two")]
    assert store_folder(own[0], 64) != store_folder(own[1], 64), "equal ids, other videos"


def test_opening_a_lab(tmp_path, monkeypatch):
    lab = open_lab("folder", short_side=16)
    assert (lab.split, lab.dataset.name, lab.runs_dir) == ("stratified", "folder", Path("runs"))
    assert isinstance(lab.store, ClipStore)
    assert open_lab(lab.dataset, short_side=16, split="stratified").dataset is lab.dataset
    with pytest.raises(ReproError, match=r"no split 'stratifid' \(did you mean 'stratified'\?\)"):
        open_lab("folder", short_side=16, split="stratifid")
    (tmp_path / "file").touch()
    with pytest.raises(ReproError, match="cannot write to the store"):
        open_lab("folder", short_side=16, store=tmp_path / "file")
    opened = [
        lab,
        open_lab("folder", short_side=16, flow_root=tmp_path),
        open_lab("folder", short_side=16, flow_root=tmp_path, flow_bound=32),
        open_lab("folder", short_side=16, flow_backend="opencv"),
    ]
    assert len({one.key(experiments("small", "")["tiny"], 1) for one in opened}) == 4
    assert [one.store.settings.bound for one in opened] == [20, 20, 32, 20]
    assert opened[3].store.settings.flow_backend == backend_name("opencv")
    for options, message in (
        ({"flow_bound": 0.0}, "flow_bound=0: give the px"), ({"flow_bound": float("nan")}, "flow_bound=nan: give"),
        ({"flow_bound": -20.0}, "flow_bound=-20: give the px"), ({"flow_bound": float("inf")}, "flow_bound=inf: give"),
        ({"flow_backend": "opencv"}, "give one of them"), ({"flow_backend": "opncv"}, "did you mean 'opencv'?"),
    ):  # fmt: skip
        with pytest.raises(ReproError) as error:
            open_lab("folder", short_side=16, flow_root=tmp_path, **options)
        assert message in str(error.value)
    with pytest.raises(ReproError, match="flow_bound=32 is for flow that was extracted before: give its folder"):
        open_lab("folder", short_side=16, flow_bound=32)


def test_splits():
    known = ("1", "2", "3")
    assert splits_of(None, known) == splits_of("default", known) == ["1"]
    assert splits_of("all", known) == ["1", "2", "3"]
    assert splits_of("all", ("manifest", "eli", "ido")) == ["eli", "ido"]
    assert splits_of("all", ("manifest",)) == ["manifest"]
    assert splits_of("3, 1", known) == ["3", "1"]
    with pytest.raises(ReproError, match="unknown split '4': use all or some of 1, 2, 3"):
        splits_of("1,4", known)
