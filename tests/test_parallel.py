"""Two processes that train together against one that does it all."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import RECIPE, TinyNet, fresh_run
from torch import nn

from repro import parallel
from repro.cli import parser
from repro.cli.train import changed, divided
from repro.data.clips import TrainingSamples
from repro.errors import ReproError
from repro.papers import PAPERS
from repro.papers.stilt_experiments import experiments
from repro.parallel import Group, Share, passes_of
from repro.results import comparable, read, rows
from repro.training import load_checkpoint, order_of, to_network, train

HERE = Path(__file__).resolve().parent
# Sums in another order: differences of the size of rounding, which training makes grow.
TOLERANCE = 1e-5


def torchrun(*command: str, cwd: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([sys.executable, *launch, *command], cwd=cwd, env=env, capture_output=True, text=True)


RUN = """
import json, sys
from pathlib import Path
from repro import parallel
from repro.training import train
from test_parallel import PIECES, begun

with parallel.joined("cpu") as device:
    own = parallel.group()
    model, samples = begun()
    stop = int(sys.argv[1]) if len(sys.argv) > 1 else None
    history = train(model, samples, PIECES, device=device, run_dir=Path("run"), stop_after=stop)
    state = {name: x.tolist() for name, x in model.state_dict().items()}
    Path(f"{own.rank}-of-{own.size}.json").write_text(json.dumps([history.losses, state]))
"""
PIECES = replace(RECIPE, batch=4, micro_batch=1)


def begun() -> tuple[nn.Module, TrainingSamples]:
    """A tiny network with batch normalisation and without dropout, which has other masks in every process."""
    model, samples = fresh_run()
    assert isinstance(model, TinyNet)
    model.dropout = nn.Identity()
    for name, convolution in list(model.convolutions.items()):
        model.convolutions[name] = nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))
    return model, samples


def in_two(folder: Path, *arguments: str) -> list[tuple[list[float], dict[str, torch.Tensor]]]:
    """Losses and weights of both processes."""
    (folder / "run.py").write_text(RUN)
    done = torchrun("run.py", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((folder / f"{rank}-of-2.json").read_text()) for rank in (0, 1)]
    return [(losses, {name: torch.tensor(x) for name, x in state.items()}) for losses, state in found]


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    model, samples = begun()
    losses = train(model, samples, PIECES).losses
    (first, weights), (second, others) = in_two(tmp_path)
    assert first == second == pytest.approx(losses, abs=TOLERANCE) and len(losses) == PIECES.iterations
    for name, own in model.state_dict().items():
        torch.testing.assert_close(weights[name], others[name], rtol=0, atol=0)  # the moments, too
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(weights[name], own, rtol=0, atol=TOLERANCE)
    kept = begun()[0]
    load_checkpoint(tmp_path / "run" / "checkpoint.pt", kept)
    for name, x in kept.state_dict().items():
        torch.testing.assert_close(x, weights[name].to(x.dtype), rtol=0, atol=1e-6)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in log] == first, "written once"


def test_the_moments_kept_are_the_mean_of_both_processes(tmp_path: Path) -> None:
    """After one iteration: the first process has normalised pieces 1 and 3 of the batch, the second 2 and 4."""
    weights = in_two(tmp_path, "1")[0][1]
    found = []
    for own in (Group(0, 2), Group(1, 2)):
        model, samples = begun()
        order = Share(order_of(samples.labels, PIECES, samples.seed, 0, 1), 1, own)
        with torch.no_grad():
            for _, position in next(iter(order)):
                batch = {k: v[None] for k, v in samples[0, position].items()}
                model.train()(**to_network(batch, torch.device("cpu"), samples.sampling))
        found.append(model.state_dict())
    name = "convolutions.spatial.1.running_mean"
    mean = (found[0][name] + found[1][name]) / 2
    torch.testing.assert_close(weights[name], mean, rtol=0, atol=1e-6)
    assert (found[0][name] - found[1][name]).abs().max() > 1e-4, "a test of nothing"


def test_a_training_goes_on_in_two_processes_and_in_one(tmp_path: Path) -> None:
    model, samples = begun()
    losses = train(model, samples, PIECES).losses
    in_two(tmp_path, "2")
    assert in_two(tmp_path)[0][0] == pytest.approx(losses, abs=TOLERANCE)
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    in_two(tmp_path, "2")
    model, samples = begun()
    assert train(model, samples, PIECES, run_dir=tmp_path / "run").losses == pytest.approx(losses, abs=TOLERANCE)


def test_pieces_of_a_batch() -> None:
    batches = [[(0, i) for i in range(8)], [(1, i) for i in range(8)]]
    shares = [list(Share(batches, 2, Group(rank, 2))) for rank in (0, 1)]  # type: ignore[arg-type]
    assert shares[0][1] == [(1, 0), (1, 1), (1, 4), (1, 5)] and shares[1][0] == [(0, 2), (0, 3), (0, 6), (0, 7)]
    assert list(Share(batches, 2, Group())) == batches  # type: ignore[arg-type]
    assert passes_of(32, 8, Group(1, 2)) == 2 and passes_of(32, 8, Group()) == 4
    with pytest.raises(ReproError, match="batch 32 is no multiple of micro_batch 8 x 3 processes"):
        passes_of(32, 8, Group(0, 3))
    with pytest.raises(ReproError, match="compares all clips of a batch: train this network in one process"):
        passes_of(32, 32, Group(0, 2), (8, 4))


def test_one_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with parallel.joined("auto") as device:
        assert device == "auto" and parallel.group() == Group()
        value = torch.tensor(3.0)
        assert parallel.mean(value) is value and parallel.wrapped(value, "cpu") is value  # type: ignore[arg-type]
        with parallel.in_turn(), parallel.apart():
            parallel.together()


@pytest.mark.parametrize(("device", "message"), [("cuda:0", "use device=cuda"), ("cuda", "no more processes than")])
def test_devices_that_torchrun_chooses(monkeypatch: pytest.MonkeyPatch, device: str, message: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ReproError, match=message), parallel.joined(device):
        raise AssertionError


def test_the_command_line(tmp_path: Path) -> None:
    """`torchrun -m repro train`: the first process files the row that one process with that --set finds again."""
    asked = ("-m", "repro", "train", "stilt", "spatial", "--dataset", "motionshapes", "--preset", "smoke")
    places = ("--store", "store", "--runs", "runs", "--device", "cpu")
    done = torchrun(*asked, *places, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall("^stilt  spatial ", done.stdout, re.MULTILINE)) == 1, "said once"
    [(_, row)] = rows(tmp_path / "runs")
    assert row["preset"] == "smoke"
    assert row["provenance"]["device"] == "2 x cpu + cpu" and not comparable(row, "cpu"), "tested by one"
    env = os.environ | {"OMP_NUM_THREADS": "1", "REPRO_RESULTS": str(tmp_path / "none")}
    again = [sys.executable, *asked, *places[:2], "--runs", "others"]
    subprocess.run(again, cwd=tmp_path, env=env, check=True, capture_output=True)
    [(_, other)] = rows(tmp_path / "others")
    assert other["key"] == row["key"]
    losses = [read(path).arrays["losses"] for path, _ in (*rows(tmp_path / "runs"), *rows(tmp_path / "others"))]
    assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE)


def test_pieces_become_small_enough_for_all_processes() -> None:
    whole = experiments("small", "motionshapes")["spatial"]
    assert divided(whole, Group()) is whole and whole.recipe.batch == whole.recipe.micro_batch == 32
    half = divided(whole, Group(0, 2))
    assert half.recipe.micro_batch == 16 and half.preset == "small --set recipe.micro_batch=16"
    asked = Namespace(changes=["recipe.micro_batch=16"], fold=None)
    assert half == changed(whole, asked), "one process is told the same by hand"
    assert divided(half, Group(1, 2)) == half
    with pytest.raises(ReproError, match=f"{whole.name}: batch 32 is no multiple of micro_batch 32 x 3 processes"):
        divided(whole, Group(0, 3))


@pytest.mark.parametrize("preset", ["small", "paper"])
@pytest.mark.parametrize(("paper", "name"), [("st_resnet", "st-resnet"), ("cross_enhancement", "rgb-taught")])
def test_what_a_run_starts_from_is_divided_too(paper: str, name: str, preset: str) -> None:
    experiment = PAPERS[paper].experiments(preset, "ucf101", "none")[name]
    two = Group(0, 2)
    parts = divided(experiment, two)
    assert experiment.start and len(parts.start) == len(experiment.start)

    for one, before in zip(parts.trainings(), experiment.trainings(), strict=True):
        assert passes_of(one.recipe.batch, one.recipe.micro_batch, two, one.recipe.balanced) >= 1
        assert one.recipe.batch == before.recipe.batch
        if one.identity() != before.identity():
            assert one.preset != before.preset


def test_losses_that_compare_a_whole_batch_are_refused_before_anything_begins() -> None:
    for paper, name in (("ccs", "all"), ("comparison", "taught-frames")):
        with pytest.raises(
            ReproError, match="the loss compares all clips of a batch: train this network in one process"
        ):
            divided(PAPERS[paper].experiments("small", "ucf101", "none")[name], Group(1, 2))


def test_pages_show_commands_that_work() -> None:
    """Those of torchrun, with as many processes as they ask for."""
    found = []
    for page in [HERE.parent / "README.md", *(HERE.parent / "book").glob("*.md")]:
        text = re.sub(r" \\\n +", " ", page.read_text(encoding="utf-8"))  # lines that go on
        found += re.findall(r"torchrun --nproc-per-node (\d+) -m repro (train [^#\n]*)", text)
    assert len(found) >= 3
    for processes, line in found:
        options = parser().parse_args(shlex.split(line))
        preset = "paper" if options.preset == "auto" else options.preset
        known = PAPERS[options.paper].experiments(preset, options.dataset, options.weights)
        for name in options.variants:
            divided(known[name], Group(0, int(processes)))
