"""The `repro` command: what can be typed, and how it ends.

Errors are one line on stderr with exit status 2 (`--debug` shows the traceback), Ctrl-C ends with 130 and a state from
which the same command goes on. What each command does is in the modules beside this one, imported when it is asked for.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from repro.data.catalog import DATASETS
from repro.errors import ReproError, nearest
from repro.processes import LOCAL

PRESETS = ("auto", "smoke", "small", "paper", "live")
BACKENDS = ("fused", "opencv", "torch")  # those of `repro.flow.tvl1`, whose import takes seconds


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error, with the nearest of the choices when the value is none of them, and exit with 2."""
        if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            message += nearest(wrong[1], re.findall(r"[^\s,']+", wrong[2]))
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def parser() -> Parser:
    """Everything that can be typed."""
    top = Parser(prog="repro", description="Run and check the experiments of the book.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"repro {importlib.metadata.version('repro')}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _tools(commands)
    _bench(commands)
    _data(commands)
    _train(commands)
    _results(commands)
    return top


Commands = argparse._SubParsersAction  # argparse has no public name for it


def _add(commands: Commands[Parser], name: str, text: str) -> Parser:
    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    # SUPPRESS: without --debug here, the one before the command's name counts.
    command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return command


def _subcommands(command: Parser) -> Commands[Parser]:
    return command.add_subparsers(dest="action", required=True, metavar="ACTION")


def _tools(commands: Commands[Parser]) -> None:
    _add(commands, "doctor", "Look whether everything needed is installed, writable and at hand.").add_argument(
        "--store", help="folder for frames and flow (default: $REPRO_STORE, else store/)"
    )
    notebook = _add(commands, "run", "Execute a notebook with papermill, its parameters checked first.")
    notebook.add_argument("notebook", metavar="NOTEBOOK", help="a file, or the name of one in notebooks/")
    notebook.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter (may be repeated)",
    )  # fmt: skip
    notebook.add_argument("-o", dest="out", default="out.ipynb", metavar="OUT", help="the executed copy (out.ipynb)")
    reported = _add(commands, "reported", "Print the numbers that a paper reports.")
    reported.add_argument("paper", metavar="PAPER")
    reported.add_argument("--json", action="store_true", help="as a JSON list")


def _bench(commands: Commands[Parser]) -> None:
    bench = _subcommands(_add(commands, "bench", "Time a part on this machine, one thread; medians."))
    flow = _add(bench, "flow", "TV-L1 by both backends on the same pairs of frames, and how far they differ.")
    flow.add_argument("--pairs", type=_count, default=24, help="how many (default: 24, about a minute)")
    flow.add_argument("--size", type=_size, default=(320, 240), metavar="WxH", help="of frames (default: 320x240)")
    flow.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N, where batches are computed")
    flow.add_argument("--batch", type=_workers, help="pairs of a batch (default: 256 on CUDA, else none)")
    store = _add(bench, "store", "Reading from the store, against decoding the video and against loose JPEG files.")
    store.add_argument("--repeats", type=_count, default=15, help="timings of each (default: 15)")
    extract = _add(bench, "extract", "Clips into the store, end to end; hours and disk for whole data sets.")
    extract.add_argument("--frames", type=_count, default=60, help="of each clip (default: 60)")
    extract.add_argument("--flow-backend", default="fused", choices=BACKENDS, help="computes flow (fused)")
    loader = _add(bench, "loader", "Training samples of 224x224 px, of invented data.")
    loader.add_argument("--repeats", type=_count, default=5, help="timings (default: 5)")
    loader.add_argument("--workers", type=_workers, default=0, help="also, how fast that many processes feed a network")
    loader.add_argument("--preset", default="paper", choices=("paper", "small", "smoke"), help="its scale (paper)")
    loader.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N, where it trains")
    loader.add_argument("--steps", type=_count, default=10, help="that are timed (default: 10)")
    train = _add(bench, "train", "Steps of the papers' trainings, against a plain loop; hours of the whole recipes.")
    train.add_argument("papers", metavar="PAPER", nargs="*", help="whose network (default: all five)")
    train.add_argument("--preset", default="paper", choices=("paper", "small", "smoke"), help="scale (default: paper)")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    train.add_argument("--steps", type=_count, default=10, help="that are timed (default: 10)")
    train.add_argument("--compile", action="store_true", help="let torch.compile have the network")
    train.add_argument("--curves", action="store_true", help="time and memory against clips, snippets and image size")
    tests = _add(bench, "eval", "Videos a second through the papers' tests, from reading the store to class scores.")
    tests.add_argument("--preset", default="paper", choices=("paper", "small", "smoke"), help="scale (default: paper)")
    tests.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    tests.add_argument("--videos", type=_count, default=8, help="how many (default: 8)")
    tests.add_argument("--workers", type=_workers, default=0, help="loader processes (default: 0)")
    for command in (flow, store, extract):
        command.add_argument("--clips", metavar="DIR", help="videos below a folder (default: $REPRO_REAL_DATA/clips)")
    for command in (flow, store, extract, loader, train, tests):
        command.add_argument("--json", action="store_true", help="as JSON, with all details")
        command.add_argument("--record", action="store_true", help="file it for the book, from a commit")


def _data(commands: Commands[Parser]) -> None:
    data = _subcommands(_add(commands, "data", "What data sets there are, and what is in them."))
    _add(data, "list", "List the data sets and say which are present.")
    info = _add(data, "info", "Show one data set: how to get it, and its clips, splits and groups where present.")
    read = _add(data, "verify", "Read every video once; exit 1 if any is missing, unreadable or too short for flow.")
    read.add_argument("--workers", type=_count, help="processes (default: one per processor)")
    read.add_argument("--again", action="store_true", help="read all, also what an earlier run has read")
    read.add_argument("--all-names", action="store_true", help="name every video, not the first 20 of a kind")
    flow = _subcommands(_add(commands, "flow", "Optical flow."))
    extract = _add(flow, "extract", "Decode videos and compute flow into the store. Run again to go on.")
    verify = _add(flow, "verify", "Read every stored file and compare its checksums; exit 1 if any is damaged.")
    for command in (info, read, extract, verify):
        command.add_argument("name", metavar="NAME", choices=list(DATASETS), help=", ".join(DATASETS))
        command.add_argument("--root", help="the data set's folder (default: $REPRO_DATA/NAME, else data/NAME)")
    for command in (extract, verify):
        command.add_argument("--store", help="folder for frames and flow (default: $REPRO_STORE, else store/)")
        command.add_argument("--short-side", type=_count, default=64, help="of stored frames, px: 64 (default) or 256")
        command.add_argument("--split", help="only the clips of this split (default: all clips)")
        command.add_argument("--workers", type=_count, default=1, help="side by side (default: 1)")
        _flow_options(command)
    extract.add_argument("--skip-errors", action="store_true", help="leave out videos that cannot be read")
    extract.add_argument(
        "--scheduler", metavar="ADDRESS", nargs="?", const=LOCAL,
        help="let the workers of a Dask scheduler do it, or without an address those of a new one on this machine",
    )  # fmt: skip
    verify.add_argument("--remove", action="store_true", help="delete damaged files: extraction makes them again")


def _flow_options(command: Parser) -> None:
    command.add_argument("--flow-root", help="take flow that TSN's or denseflow's tools extracted into this folder")
    command.add_argument("--flow-bound", type=_px, help="px at which that flow was clipped: 20 (default, TSN) or 32")
    command.add_argument("--flow-backend", default="fused", choices=BACKENDS, help="computes flow (fused)")


def _train(commands: Commands[Parser]) -> None:
    train = _add(commands, "train", "Train a paper's experiments; finished ones are kept. Run again to go on.")
    train.add_argument("paper", metavar="PAPER")
    train.add_argument("variants", metavar="VARIANT", nargs="*", help="which (see --list)")
    train.add_argument("--all", action="store_true", help="all of them")
    train.add_argument("--list", action="store_true", help="list them, say which are done and what the rest would cost")
    train.add_argument("--dataset", default="motionshapes", choices=list(DATASETS), help=", ".join(DATASETS))
    train.add_argument("--root", help="the data set's folder (default: $REPRO_DATA/NAME, else data/NAME)")
    train.add_argument("--store", help="folder for frames and flow (default: $REPRO_STORE, else store/)")
    train.add_argument("--split", default="default", help="default (the first), all, or names with commas")
    train.add_argument("--seeds", default="1", help='1 (default), "1,2" or all')
    train.add_argument("--preset", default="auto", choices=PRESETS, help="auto: paper on CUDA, small elsewhere")
    train.add_argument(
        "--weights", default="auto",
        help="auto (the preset's), none, imagenet, a file, or a folder with one for each base network (resnet50.pth)",
    )  # fmt: skip
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    train.add_argument("--workers", type=_workers, default=0, help="loader processes a run (default: 0)")
    train.add_argument(
        "--decode", default="workers", choices=("workers", "device"),
        help="where images are decoded and cut: workers (default), or the device, by nvJPEG",
    )  # fmt: skip
    train.add_argument("--compile", action="store_true", help="let torch.compile have the networks")
    train.add_argument("--processes", type=_count, default=1, help="runs side by side (default: 1)")
    train.add_argument("--fold", type=_fold, metavar="K/N", help="test on the K-th of N folds of the training clips")
    train.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="NAME=VALUE", help="such as recipe.lr=0.03"
    )
    train.add_argument("--record", action="store_true", help="file the rows among the recorded results, from a commit")
    train.add_argument("--skip-errors", action="store_true", help="leave out videos that cannot be read")
    _flow_options(train)
    _result_folders(train)


def _results(commands: Commands[Parser]) -> None:
    results = _subcommands(_add(commands, "results", "Finished runs."))
    status = _add(results, "status", "Count them.")
    show = _add(results, "show", "List them with their accuracies.")
    verify = _add(results, "verify", "Train the first steps again and compare the losses; exit 1 if any is stale.")
    predict = _add(commands, "predict", "Classify a video with a trained run.")
    predict.add_argument("video", metavar="VIDEO")
    predict.add_argument("--run", metavar="KEY", help="the run's key, or its beginning (see results show)")
    predict.add_argument("--checkpoint", metavar="PATH", help="its checkpoint, where it is not in the runs folder")
    predict.add_argument("--top", type=_count, default=5, help="classes to print (default: 5)")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    for command in (show, verify):
        command.add_argument("paper", metavar="PAPER", nargs="?", help="only this paper's")
    for command in (show, verify):
        command.add_argument("--dataset", choices=list(DATASETS), help="only on this data set")
    verify.add_argument("--store", help="folder for frames and flow (default: $REPRO_STORE, else store/)")
    verify.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    verify.add_argument(
        "--train-starts", action="store_true", help="train what a run starts from where that takes minutes or hours"
    )
    for command in (status, show, verify, predict):
        _result_folders(command)


def _result_folders(command: Parser) -> None:
    command.add_argument("--runs", help="folder of your own runs (default: $REPRO_RUNS, else runs/)")
    command.add_argument("--recorded", help="folder of recorded results (default: $REPRO_RESULTS, else book/results)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _px(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of px above 0")
    return value


def _size(text: str) -> tuple[int, int]:
    """`WxH` as (W, H); optical flow needs 16 px."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or min(int(found[1]), int(found[2])) < 16:
        raise argparse.ArgumentTypeError(f"{text!r} is no WxH from 16x16 on, such as 320x240")
    return int(found[1]), int(found[2])


def _workers(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _fold(text: str) -> tuple[int, int]:
    """`K/N`, K counted from 1, as (K - 1, N)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]) or int(found[2]) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no K/N with K from 1 to N, such as 1/5")
    return int(found[1]) - 1, int(found[2])


def _perform(options: argparse.Namespace) -> int:
    """Do what was asked for; return the exit status."""
    if (options.command, getattr(options, "action", "")) == ("data", "verify"):
        from repro.cli.verify import verify  # without torch: under a second where there is nothing new to read

        return verify(options)
    # Imported here: torch takes seconds.
    from repro.cli import (
        bench_eval,
        bench_extract,
        bench_flow,
        bench_loader,
        bench_store,
        bench_train,
        data,
        predict,
        results,
        tools,
        train,
    )

    action = {
        "doctor": tools.doctor,
        "run": tools.run_notebook,
        "reported": tools.reported,
        "bench flow": bench_flow.bench_flow,
        "bench store": bench_store.bench_store,
        "bench extract": bench_extract.bench_extract,
        "bench loader": bench_loader.bench_loader,
        "bench train": bench_train.bench_train,
        "bench eval": bench_eval.bench_eval,
        "data list": data.list_datasets,
        "data info": data.info,
        "flow extract": data.extract_flow,
        "flow verify": data.verify_flow,
        "train": train.train,
        "predict": predict.predict,
        "results status": results.status,
        "results show": results.show,
        "results verify": results.verify,
    }
    return action[" ".join([options.command, *([options.action] if "action" in options else [])])](options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the `repro` command; returns the exit status."""
    options = parser().parse_args(arguments)
    options.typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _perform(options)
    except KeyboardInterrupt:
        print("\ninterrupted; what is finished is kept: the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        kind = "" if isinstance(error, ReproError) else f"{type(error).__name__}: "
        hint = "" if isinstance(error, ReproError | OSError) else " (--debug shows where)"
        print(f"error: {kind}{' '.join(str(error).split())}{hint}", file=sys.stderr)
        return 2
