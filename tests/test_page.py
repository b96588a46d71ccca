"""What every chapter does first: read its parameters, check them, say what is to be done; then run, check, repeat."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace

import jupytext
import nbformat
import pytest
import torch
from fakes import RECIPE, SAMPLING, save_clip, tiny_net
from nbformat.v4 import new_code_cell, new_notebook

import repro.experiments
from repro.data.catalog import DATASETS
from repro.errors import ReproError
from repro.experiments import Experiment, Lab
from repro.papers import PAPERS, Paper
from repro.report import page
from repro.report.page import Again, Chapter, Parameters, open_chapter, read_parameters
from repro.results import rows
from repro.training import History

ROOT = Path(__file__).parents[1]
TWINS = sorted((ROOT / "notebooks" / "text").glob("*.md"))


def experiments(preset: str, dataset: str, weights: str = "auto") -> dict[str, Experiment]:
    """Two small networks; the run that is repeated live is shorter."""
    iterations = {"live": 3, "smoke": 2, "paper": 6}.get(preset, 4)
    tiny = Experiment(
        paper="paper", name="tiny", preset=preset, config={"weights": weights}, sampling=SAMPLING, protocol="smoke",
        recipe=replace(RECIPE, iterations=iterations), build=tiny_net,
    )  # fmt: skip
    return {"tiny": tiny, "other": replace(tiny, name="other", config={"weights": weights, "x": 1})}


DERIVED: list[tuple[str, int]] = []


def derive(lab: Lab, experiment: Experiment, seed: int) -> list:
    DERIVED.append((experiment.name, seed))
    return []


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for i in range(8):
        save_clip(root / ("right" if i % 2 else "down") / f"v{i}.avi", i, i % 2)
    return root


@pytest.fixture(autouse=True)
def place(tmp_path, tmp_path_factory, videos, monkeypatch):
    """An empty working directory, a paper of two networks, one store for all tests, no recorded results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_STORE", str(videos.parent / "store-of-page"))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "recorded"))
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("REPRO_RUNS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # flow of these few clips is no work for several processes
    paper = Paper("paper", "A paper", "nobody", "n.ipynb", experiments, derive, lambda *_: 16)
    monkeypatch.setitem(PAPERS, "paper", paper)
    DERIVED.clear()


def read(**given: object) -> Parameters:
    """As a notebook would: its own names, then the parameter cell, then what papermill sets."""
    namespace: dict[str, object] = {"page": page, "In": [], "_before": None}
    before = page.names(namespace)
    return read_parameters({**namespace, **asdict(Parameters()), **given}, before)


def chapter(videos: Path, **given: object) -> Chapter:
    return Chapter(PAPERS["paper"], read(dataset="folder", data_root=str(videos), device="cpu", **given))


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("twin", TWINS, ids=lambda path: path.stem)
def test_the_parameter_cell_says_what_can_be_asked_for(twin):
    cells = jupytext.read(twin, fmt={"extension": ".md", "format_name": "myst"}).cells
    [cell] = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    found: dict[str, object] = {}
    exec(cell.source, {}, found)
    assert found == asdict(Parameters())
    assert list(found) == [f.name for f in fields(Parameters)]
    comments = dict(re.findall(r"^(\w+) = .*?#(.*)$", cell.source, re.MULTILINE))
    assert comments.keys() == found.keys(), "every parameter has a comment"
    assert re.findall(r"\w+", comments["dataset"]) == list(DATASETS)
    assert set(page.PRESETS) <= set(re.findall(r"\w+", comments["preset"]))


def test_defaults_and_types():
    assert read() == Parameters()
    found = read(splits=1, seeds=2, workers="3", max_hours=1, data_root=None, device="cpu")
    assert found == Parameters(splits="1", seeds="2", workers=3, max_hours=1.0, device="cpu")
    assert [type(v) for v in asdict(found).values()] == [type(f.default) for f in fields(Parameters)]
    assert read(workers=2.0).workers == 2
    assert read(max_hours="0.5").max_hours == 0.5


def test_names_that_were_there_before_and_private_ones_are_no_parameters():
    assert page.names({"a": 1, "_b": 2, "__c": 3}) == {"a"}
    assert read(_i3="cell", _="x") == Parameters()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataste": "weizmann"}, r"'dataste' is no parameter of this notebook \(did you mean 'dataset'\?\): use data"),
        ({"seed": 1}, r"\(did you mean 'seeds'\?\)"),
        ({"zzz": 1}, r"'zzz' is no parameter of this notebook: use dataset, data_root, .*, max_hours$"),
        ({"preset": "smal"}, r"unknown preset 'smal' \(did you mean 'small'\?\): use one of auto, smoke, small, pap"),
        ({"dataset": "hmdb"}, r"unknown dataset 'hmdb' \(did you mean 'hmdb51'\?\): use one of motionshapes, "),
        ({"max_hours": "long"}, r"max_hours='long': float from 0 on expected, such as 12.0$"),
        ({"max_hours": float("nan")}, "max_hours=nan: float from 0 on"),
        ({"max_hours": [1]}, r"max_hours=\[1\]: float"),
        ({"workers": "two"}, r"workers='two': int from 0 on expected, such as 0$"),
        ({"workers": 2.5}, "workers=2.5: int"),
        ({"workers": -1}, "workers=-1: int from 0 on"),
        ({"workers": float("inf")}, "workers=inf: int"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_one_line_that_says_what_is_meant(given, message):
    with pytest.raises(ReproError, match=message) as error:
        read(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"splits": "stratifid"},
            r"unknown split 'stratifid' \(did you mean 'stratified'\?\): use all or some of strat",
        ),
        ({"splits": 1}, "unknown split '1'"),
        ({"seeds": "one"}, r'seeds=\'one\' is not understood: write 1, "1,2" or "all"'),
        ({"seeds": 1.5}, "seeds='1.5' is not understood"),
        ({"device": "gpu"}, "unknown device 'gpu': use auto, cpu, cuda or cuda:N"),
        ({"data_root": "nowhere"}, "folder: no folder nowhere; expected <class>/<video>"),
        ({"data_root": ""}, r"folder: no folder .*data/folder; expected"),
        ({"flow_root": "nowhere"}, "flow_root: no folder nowhere"),
        ({"store_dir": "file"}, "cannot write to the store file"),
        ({"dataset": "weizmann"}, "expected <person>_<action>.avi"),
    ],
)
def test_what_only_data_and_machine_can_tell(videos, tmp_path, given, message):
    (tmp_path / "file").touch()
    names = {"dataset": "folder", "data_root": str(videos), "device": "cpu", "preset": "small"}
    with pytest.raises(ReproError, match=message) as error:
        open_chapter("paper", {**names, **given}, frozenset())
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(videos):
    with pytest.raises(ReproError, match="device 'cuda': this machine has no CUDA; use device=cpu or device=auto"):
        Chapter(PAPERS["paper"], read(dataset="folder", data_root=str(videos), device="cuda"))


@pytest.mark.parametrize(
    ("seeds", "expected"), [(1, [1]), ("1,2", [1, 2]), ("all", [1, 2, 3]), ("auto", [1]), ("7", [7])]
)
def test_seeds(videos, seeds, expected):
    for preset in ("small", "auto"):
        found = chapter(videos, seeds=seeds, preset=preset)
        assert found.seeds == expected
        assert len(found.runs) == 2 * len(expected)


def test_papermill_ends_with_what_to_do(tmp_path):
    """papermill itself only warns of an unknown parameter."""
    defaults = "\n".join(f"{k} = {v!r}" for k, v in asdict(Parameters()).items())
    cells = [
        new_code_cell("from repro.report import page\n\n_before = page.names(globals())"),
        new_code_cell(defaults, metadata={"tags": ["parameters"]}),
        new_code_cell('chapter = page.open_chapter("stilt", globals(), _before)'),
    ]
    nb = new_notebook(cells=cells)
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, tmp_path / "in.ipynb")
    command = [
        sys.executable,
        "-m",
        "papermill",
        "in.ipynb",
        "out.ipynb",
        "-p",
        "dataste",
        "weizmann",
        "-p",
        "splits",
        "01",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ReproError: 'dataste' is no parameter of this notebook (did you mean 'dataset'?): use dataset"
    )


# ---------------------------------------------------------------- the plan


def test_the_plan_says_what_it_takes(videos, capsys):
    names = {"dataset": "folder", "data_root": str(videos), "device": "cpu", "seeds": "1,2", "preset": "small"}
    found = open_chapter("paper", {**names, "other": 1}, frozenset({"other"}))
    first, second, third, *stages, last = capsys.readouterr().out.splitlines()
    assert first == "Data set folder: 8 clips, 2 classes; split stratified."
    assert second == "Preset small; seeds 1, 2."
    assert third == "To do now, about:"
    assert [line.split("  ")[1] for line in stages] == ["decoding", "optical flow", "training", "testing", "in all"]
    assert "72 fields" in stages[1] and "4 runs" in stages[2] and stages[4].endswith(" MB")
    assert last.startswith("What starts from trained networks")
    assert not (Path("runs") / "results").exists(), "nothing is done yet"
    found.run()
    assert [line.split()[-4:] for line in found.plan().splitlines()[3:5]] == [
        "frames 0 s -".split(),
        "fields 0 s -".split(),
    ]


def test_auto_says_which_preset_it_was(videos, monkeypatch):
    assert "Preset auto, here small; seeds 1." in chapter(videos).plan()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = Chapter(PAPERS["paper"], read(dataset="folder", data_root=str(videos)))
    assert (found.preset, found.trains) == ("paper", True)
    assert found.experiments["tiny"].recipe.iterations == 6


def test_too_much_work_is_refused_and_none_is_not(videos):
    found = chapter(videos, max_hours=1e-9, preset="small")
    with pytest.raises(
        ReproError, match=r"hours of work, more than max_hours=1e-09: raise max_hours, or ask for fewer"
    ):
        found.plan()
    chapter(videos, preset="small").run()
    assert "training      0 runs" in chapter(videos, max_hours=0, preset="small").plan()


def test_the_estimate_adds_splits_up(tmp_path):
    for i in range(8):
        save_clip(tmp_path / "w" / f"{('ido', 'eli')[i % 2]}_{('run', 'walk', 'jump', 'side')[i // 2]}.avi", i, i % 2)
    given = {"dataset": "weizmann", "data_root": str(tmp_path / "w"), "device": "cpu", "preset": "small"}
    one, both = (Chapter(PAPERS["paper"], read(**given, splits=s)) for s in ("ido", "all"))
    assert (one.splits, both.splits) == (["ido"], ["eli", "ido"])
    a, b = one.estimate(), both.estimate()
    assert b.runs == 2 * a.runs
    assert b.pairs == a.pairs, "the clips are the same ones"
    assert b.train_seconds == pytest.approx(2 * a.train_seconds)


# ---------------------------------------------------------------- work


def test_running_trains_what_is_missing_and_tells_a_file(videos, tmp_path, capfd, monkeypatch):
    found = chapter(
        videos, seeds="1,2", preset="small", store_dir=str(tmp_path / "store"), runs_dir=str(tmp_path / "own")
    )
    found.run()
    assert "".join(capfd.readouterr()) == "", "a cell's output must not differ from run to run"
    assert DERIVED == [("tiny", 1), ("tiny", 2), ("other", 1), ("other", 2)]
    lines = (tmp_path / "own" / "progress.log").read_text().splitlines()
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d (flow|\w+ seed \d|\w+ test) \d+/\d+", line) for line in lines)
    told = [line.split(maxsplit=1)[1] for line in lines]
    for line in ("flow 8/8", "tiny seed 1 4/4", "other seed 2 4/4", "tiny test 6/6"):
        assert line in told
    assert len(list(rows(tmp_path / "own"))) == 4
    monkeypatch.setattr(repro.experiments, "train", None)
    found.run()
    again = chapter(
        videos, seeds="1,2", preset="small", store_dir=str(tmp_path / "store"), runs_dir=str(tmp_path / "own")
    )
    again.run()
    assert again.estimate().runs == 0


def test_a_stopped_run_goes_on_with_the_same_command(videos, monkeypatch):
    """Own results do not pass for recorded ones: what is missing is trained."""
    with monkeypatch.context() as patch:
        tell = Lab._tell

        def interrupt(self, what, done, total):
            tell(self, what, done, total)
            if what == "other seed 1" and done == 2:
                raise KeyboardInterrupt

        patch.setattr(Lab, "_tell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            chapter(videos).run()
    assert [row["experiment"] for _, row in rows(Path("runs"))] == ["tiny"]
    again = chapter(videos)
    assert again.trains and again.estimate().runs == 1
    again.run()
    assert sorted(row["experiment"] for _, row in rows(Path("runs"))) == ["other", "tiny"]


# ---------------------------------------------------------------- recorded results


@pytest.fixture
def recorded(videos, tmp_path):
    """Seeds 1 and 2 of one network, recorded."""
    lab = chapter(videos, preset="small", runs_dir=str(tmp_path / "recorded")).labs[0]
    for seed in (1, 2):
        lab.run(experiments("small", "folder")["tiny"], seed)
    return lab


def test_recorded_results_are_used(videos, recorded, monkeypatch):
    monkeypatch.setattr(repro.experiments, "train", None)
    found = chapter(videos)
    assert (found.preset, found.trains, found.seeds) == ("small", False, [1, 2])
    plan = found.plan()
    assert "Preset auto, here small; seeds 1, 2." in plan
    assert plan.endswith("Results recorded for this data set are used; one run is repeated live.")
    found.run()
    assert not list(rows(Path("runs")))
    assert found.estimate().runs == 0
    assert chapter(videos, seeds=2).seeds == [2]
    assert chapter(videos, max_hours=0).plan()


def test_what_the_book_does_not_record_is_trained(videos, recorded, tmp_path):
    for given in ({"seeds": 5}, {"seeds": "1,5"}, {"weights": "none"}):
        found = chapter(videos, **given)
        assert found.trains, given
        assert found.preset == "small"
    assert chapter(videos, seeds="1,5").estimate().runs == 3, "one of the four is there"
    assert chapter(videos, preset="small").trains, "asked for by name: own runs, recorded ones taken over"
    assert chapter(videos, preset="paper").experiments["tiny"].recipe.iterations == 6
    other = tmp_path / "others"
    for i in range(6):
        save_clip(other / "ab"[i % 2] / f"v{i}.avi", 50 + i, i % 2)
    assert chapter(other).trains, "other data"


def test_recorded_for_every_split_or_not_at_all(videos, recorded, monkeypatch):
    found = chapter(videos)
    assert found._recorded([1, 2, 3]) == [1, 2]
    other = SimpleNamespace(key=lambda e, s: "a split without a recorded run")
    found.labs.append(other)
    assert found._recorded([1, 2, 3]) == []


def test_whether_recorded_runs_still_repeat(videos, recorded):
    found = chapter(videos)
    assert found.check() == [("tiny", 1, True)]
    assert found.check((1, 2, 3)) == [("tiny", 1, True), ("tiny", 2, True)]
    for path, row in list(rows(Path("recorded"))):
        row["provenance"].update({"first_losses": [9.0, 9.0, 9.0]} if row["seed"] == 1 else {"device": "NVIDIA X"})
        path.write_text(json.dumps(row))
    assert chapter(videos).check((1, 2)) == [("tiny", 1, False)], "of another kind of device nothing can be said"


def test_one_run_again_live(videos):
    found = chapter(videos)
    live = found.again("tiny")
    assert (live.recorded, live.repeats) == (None, None)
    assert len(live.live.losses) == 3, "the shorter run"
    assert str(live) == "tiny: trained live; there is no recorded run of this data set to compare with."
    assert not list(rows(Path("runs"))), "nothing is filed"
    live.lab.run(live.experiment, 1)
    again = chapter(videos).again("tiny")
    assert again.repeats is True
    assert again.live.losses == pytest.approx(live.live.losses, abs=1e-6)
    date = again.recorded.row["provenance"]["date"]
    assert str(again) == f"tiny, recorded on {date}: repeats (first 3 losses)."
    moved = Again(again.experiment, again.recorded, History([x + 0.1 for x in again.live.losses]), again.lab)
    assert moved.repeats is False
    assert "does NOT repeat: the recorded rows are stale" in str(moved)
    assert len(chapter(videos, preset="smoke").again("tiny").live.losses) == 2


def test_a_bad_video_does_not_end_the_live_run(videos, tmp_path):
    root = tmp_path / "own"
    for i in range(8):
        save_clip(root / "ab"[i % 2] / f"v{i}.avi", i, i % 2)
    found = chapter(root)
    bad = found.dataset.select("stratified", "train")[0]
    (root / bad.path).write_bytes(b"no video")
    live = chapter(root).again("tiny")
    assert len(live.live.losses) == 3
    assert list(live.lab.unusable) == [bad.id]
