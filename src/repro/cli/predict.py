"""`repro predict`: one video through a trained network."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np

from repro.cli.console import Progress, table
from repro.cli.results import Row, experiment_of, found
from repro.data.catalog import Clip, Dataset
from repro.errors import ReproError
from repro.evaluation import evaluate, protocol
from repro.flow.extract import extract
from repro.flow.store import ClipStore
from repro.flow.tvl1 import DEFAULT, backend_name, backend_of
from repro.metrics import softmax
from repro.setup import runs_folder
from repro.training import load_checkpoint, pick_device


def predict(options: Namespace) -> int:
    """Decode the video, compute its flow, and print the classes with the highest scores."""
    video = Path(options.video)
    if not video.is_file():
        raise ReproError(f"no video {video}")
    row, checkpoint = _trained(options)
    experiment = experiment_of(row, weights="none")
    model = experiment.build(len(row["classes"]))
    load_checkpoint(checkpoint, model)
    flow = row["store"]["flow_backend"] if "flow" in experiment.sampling.streams else None
    here = backend_name(backend_of(flow or "") or DEFAULT)
    if flow not in (None, here):
        print(f"note: the network was trained on flow by {flow}, here it is computed by {here}")
    clip = Clip("video", video.name, 0, "")
    dataset = Dataset("one video", video.parent, tuple(row["classes"]), (clip,), (), "")
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        stored = {k: row["store"][k] for k in ("short_side", "quality", "bound")}
        store = ClipStore(folder, **stored, flow_backend=here if flow else None)
        extract(dataset, store, [clip], on_error="raise")
        logits = evaluate(
            model, store, [clip], experiment.sampling, protocol(experiment.protocol),
            device=pick_device(options.device), mirrored=dataset.mirrored,
            progress=lambda done, total: progress("video", done, total),
        )  # fmt: skip
    scores = {name: softmax(x)[0] for name, x in logits.items()}
    if len(scores) > 1:
        scores["fused"] = np.mean(list(scores.values()), axis=0)  # late average
    best = np.argsort(-next(reversed(scores.values())), kind="stable")[: options.top]
    print(f"{video}, by {row['experiment']} trained on {row['dataset']} ({row['key'][:8]})")
    print(table(("class", *scores), [(row["classes"][c], *(f"{x[c]:.3f}" for x in scores.values())) for c in best]))
    return 0


def _trained(options: Namespace) -> tuple[Row, Path]:
    """The row and the checkpoint that the options mean."""
    if not options.run and not options.checkpoint:
        raise ReproError("name a trained run with --run KEY or --checkpoint PATH (keys: repro results show)")
    path = Path(options.checkpoint) if options.checkpoint else None
    if path and not path.is_file():
        raise ReproError(f"no checkpoint {path}")
    key = options.run or path.absolute().parent.name  # type: ignore[union-attr]
    matches = {row["key"]: row for _, row, _ in found(options) if row["key"].startswith(key)}
    if len(matches) != 1:
        what = "several results have keys that begin with" if matches else "no result has the key"
        raise ReproError(f"{what} {key}: give the run's key with --run (keys: repro results show)")
    [row] = matches.values()
    if "derived" in row:
        raise ReproError(f"{key} starts from the network of {row['derived']['of'][:8]}: give that key")
    if "images" in row["identity"]:
        raise ReproError(f"{key} was trained on generated images, not on videos: give a run that starts from it")
    path = path or runs_folder(options.runs) / "checkpoints" / row["key"] / "checkpoint.pt"
    if not path.is_file():
        raise ReproError(f"there is no checkpoint {path}: make it with: {row['command']}")
    return row, path
