"""Memoised runs: what is trained, how its identity is computed, and who already did it.

An `Experiment` says everything that decides an outcome. A `Lab` is a data set, a store of frames and flow, and a
library of finished runs: asked for a run it returns the finished one, or prepares the clips, trains, evaluates and
files it.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from repro.costs import extractors
from repro.data.catalog import Clip, Dataset
from repro.data.clips import TrainingSamples
from repro.data.layouts import PARTS
from repro.errors import ReproError
from repro.evaluation import evaluate, protocol, score
from repro.flow.encoded import EncodedSamples
from repro.flow.extract import extract, on_card
from repro.flow.store import ClipStore
from repro.identity import Experiment, States, fold_of, seeds_of, thin
from repro.parallel import in_turn
from repro.results import FIRST, MIXED, TOLERANCE, Library, Result, compact, on_cpu, provenance, repeats, run_key
from repro.training import History, device_name, load_checkpoint, order_of, pick_device, read_history, train

__all__ = ["IMAGES", "Experiment", "Lab", "Progress", "States", "fold_of", "seeds_of", "thin"]

Progress = Callable[[str, int, int], None]
IMAGES = "textures"  # what rows of a training on generated images call their data set


class Lab:
    """Where experiments are run: one data set and split, one store, one library of results."""

    def __init__(
        self,
        dataset: Dataset,
        store: ClipStore,
        library: Library,
        *,
        split: str,
        runs_dir: Path,
        device: str = "auto",
        workers: int = 0,
        decode: Literal["workers", "device"] = "workers",
        compiled: bool = False,
        on_error: Literal["skip", "raise"] = "raise",
        flow_root: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.dataset, self.store, self.library, self.split, self.runs_dir = dataset, store, library, split, runs_dir
        self.device, self.workers, self.on_error = pick_device(device), workers, on_error
        self.samples, self.compiled = EncodedSamples if decode == "device" else TrainingSamples, compiled
        self.flow_root, self.progress = flow_root, progress
        self.unusable: dict[str, str] = {}  # clip id -> why it was left out

    # -- identity ---------------------------------------------------------------------------------------------------

    def key(self, experiment: Experiment, seed: int) -> str:
        """The run's key: configuration, data fingerprint, split, store settings, seed and protocol; not the code.

        A training on generated images has the key it has everywhere.
        """
        if experiment.images:
            return run_key({**experiment.identity(), "seed": experiment.images["seed"]})
        return run_key(
            {
                **experiment.identity(),
                "dataset": self.dataset.name,
                "fingerprint": self.dataset.fingerprint,
                "split": self.split,
                "store": dataclasses.asdict(self.store.settings),
                "seed": seed,
            }
        )

    def clips(self, experiment: Experiment) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
        """Training and test clips of an experiment, without those that could not be decoded; none for images."""
        if experiment.images:
            return (), ()
        training = self.dataset.select(self.split, "train")
        testing = self.dataset.select(self.split, "test")
        if experiment.fold:
            k, n = experiment.fold
            folds = fold_of((c.group for c in training), n)
            testing = tuple(c for c in training if folds[c.group] == k)
            training = tuple(c for c in training if folds[c.group] != k)
        if experiment.per_class:
            training, testing = (thin(p, n) for p, n in zip((training, testing), experiment.per_class, strict=True))
        usable = (tuple(c for c in part if c.id not in self.unusable) for part in (training, testing))
        return next(usable), next(usable)

    def has(self, experiment: Experiment, seed: int) -> bool:
        """Whether the run is in the library already."""
        return self.key(experiment, seed) in self.library

    # -- work -------------------------------------------------------------------------------------------------------

    def prepare(self, clips: Iterable[Clip]) -> None:
        """Decode clips and compute their flow where the store does not hold them yet; note which cannot be used."""
        clips = [c for c in clips if c.id not in self.unusable]
        with in_turn():
            self._extract([c for c in clips if not self.store.has(c.id)])
        for clip in clips:
            if clip.id not in self.unusable and not self._moves(clip):
                reason = f"{self.dataset.video(clip)} has a single frame, hence no optical flow"
                if self.on_error == "raise":
                    raise ReproError(f"{reason}: leave it out of the data set")
                self.unusable[clip.id] = reason

    def _extract(self, absent: Sequence[Clip]) -> None:
        if absent:
            done = itertools.count(1)
            report = extract(
                self.dataset, self.store, absent, workers=extractors(len(absent), on_card(self.store)),
                on_error=self.on_error, flow_root=self.flow_root,
                progress=lambda _: self._tell("flow", next(done), len(absent)),
            )  # fmt: skip
            self.unusable.update(report.failed)

    def _moves(self, clip: Clip) -> bool:
        with self.store.open(clip.id) as stored:
            return bool(stored.n_flow > 0)

    def fit(self, experiment: Experiment, seed: int) -> None:
        """Train a run that is not in the library, no more: what processes that have joined do together."""
        if self.key(experiment, seed) not in self.library:
            self._trained(experiment, seed)

    def run(self, experiment: Experiment, seed: int) -> Result:
        """The run's result: from the library, else trained, evaluated and filed."""
        key = self.key(experiment, seed)
        if key in self.library:
            return self.library.get(key)
        if experiment.images:
            return self._run_on_images(experiment, key)
        model, history, (training, testing) = self._trained(experiment, seed)
        arrays: dict[str, np.ndarray] = {"losses": np.asarray(history.losses, np.float32)}
        outputs: list[str] = []
        for part, clips in zip(PARTS, (training, testing), strict=True):
            if part not in experiment.keep:
                continue
            logits = self.evaluate(model, experiment, clips)
            arrays |= {f"{part}_{name}": compact(x) for name, x in logits.items()} | _who(part, clips)
            outputs = sorted(logits)
        row = self._row(experiment, seed, key, outputs, history)
        result = Result(row, arrays)
        self.library.put(result)
        return result

    def _run_on_images(self, experiment: Experiment, key: str) -> Result:
        """Train on generated images and score pictures of the same classes that were not trained on."""
        assert experiment.images
        model, history, _ = self._trained(experiment, experiment.images["seed"])
        testing = experiment.textures("test")
        logits = score(
            model, testing.views(), testing.sampling, device=self.device,
            progress=lambda done, total: self._tell(f"{experiment.name} test", done, total),
        )  # fmt: skip
        ids = np.array(testing.ids(), np.str_)
        arrays: dict[str, np.ndarray] = {"losses": np.asarray(history.losses, np.float32)}
        arrays |= {f"test_{name}": compact(x) for name, x in logits.items()}
        arrays |= {"test_ids": ids, "test_labels": np.array(testing.labels, np.int16), "test_groups": ids}
        row = self._row(experiment, experiment.images["seed"], key, sorted(logits), history)
        classes = [str(label) for label in range(testing.classes)]
        row |= {"dataset": IMAGES, "classes": classes, "split": "generated", "fingerprint": run_key(experiment.images)}
        row |= {"store": None, "left_out": {}}
        result = Result(row, arrays)
        self.library.put(result)
        return result

    def network(self, experiment: Experiment, seed: int) -> nn.Module:
        """The trained network, from its checkpoint when there is one, else trained again."""
        return self._trained(experiment, seed)[0]

    def derived(
        self, experiment: Experiment, seed: int, name: str, settings: Mapping[str, Any], outputs: Sequence[str],
        compute: Callable[[nn.Module, tuple[Clip, ...], tuple[Clip, ...]], dict[str, np.ndarray]],
    ) -> Result:  # fmt: skip
        """A run of its own that starts from a trained network: an SVM on its features, maps of its attention.

        `compute(model, training clips, test clips)` returns the arrays to keep; `outputs` names the scores among them.
        """
        base = self.key(experiment, seed)
        key = run_key({"of": base, "name": name, "settings": dict(settings)})
        if key in self.library:
            return self.library.get(key)
        began = time.monotonic()
        model, history, (training, testing) = self._trained(experiment, seed)
        arrays = compute(model, training, testing) | _who("test", testing)
        row = self._row(experiment, seed, key, list(outputs), history)
        row |= {"experiment": f"{experiment.name}+{name}", "derived": {"of": base, "settings": dict(settings)}}
        row["provenance"]["seconds"] = round(time.monotonic() - began, 1)
        result = Result(row, arrays)
        self.library.put(result)
        return result

    def evaluate(self, model: nn.Module, experiment: Experiment, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        """Scores of clips under the experiment's protocol, (clips, width) per output of the model."""
        return evaluate(
            model, self.store, clips, experiment.sampling, protocol(experiment.protocol), device=self.device,
            workers=self.workers, mirrored=self.dataset.mirrored,
            progress=lambda done, total: self._tell(f"{experiment.name} test", done, total),
        )  # fmt: skip

    def first_losses(self, experiment: Experiment, seed: int) -> list[float]:
        """The first losses of a run, from the code as it is now; of it nothing is stored.

        What it starts from is trained first, where no checkpoint of it is at hand (`unfinished_starts`).
        """
        if not experiment.images:
            training = self.clips(experiment)[0]
            order = order_of([clip.label for clip in training], experiment.recipe, seed, 0, FIRST)
            self.prepare(training[position] for batch in order for _, position in batch)
        model, samples, _ = self._begun(experiment, seed)
        return train(
            model, samples, experiment.recipe, device=self.device, loss=experiment.loss, stop_after=FIRST
        ).losses

    def verify(self, experiment: Experiment, seed: int) -> bool:
        """Whether a stored run still begins with the same losses."""
        row = self.library.get(self.key(experiment, seed)).row
        self.unusable.update(row["left_out"])  # the order of the clips depends on how many there are
        return repeats(row, self.first_losses(experiment, seed))

    def drifted(self, experiment: Experiment, seed: int) -> bool:
        """Whether a network that a run starts from began as the recorded one and ended as another.

        So it is on another kind of processor: bits differ, and many steps make much of that. Then the run's own losses
        cannot be compared. No more can they where a GPU had a part in what a CPU did, or the other way round.
        """
        row = self.library.rows.get(self.key(experiment, seed))
        if row and MIXED in row["provenance"]["device"]:
            return True
        for start in experiment.starts():
            done, key = self._done(start, seed), self.key(start, seed)
            if self.drifted(start, seed):
                return True
            if done and any(on_cpu(name) != (self.device.type == "cpu") for name in done.devices):
                return True
            if done and key in self.library:
                recorded, losses = self.library.get(key), done.losses
                away = np.abs(np.subtract(losses, recorded.arrays["losses"])).max()
                if repeats(recorded.row, losses) and away > TOLERANCE:
                    return True
        return False

    def repeat(self, experiment: Experiment, seed: int) -> History:
        """Train a run again from scratch, keeping nothing."""
        self.prepare(self.clips(experiment)[0])
        model, samples, _ = self._begun(experiment, seed)
        return train(
            model, samples, experiment.recipe, device=self.device, loss=experiment.loss, workers=self.workers,
            compiled=self.compiled,
        )  # fmt: skip

    def along(self, experiment: Experiment, seed: int, parts: int) -> Iterator[nn.Module]:
        """Train a run again from its beginning; give the network after each of `parts` equal parts of its iterations.

        It is the same object every time, and may be evaluated in between without changing what follows. Where there are
        fewer iterations than parts, some parts have none.
        """
        self.prepare(self.clips(experiment)[0])
        model, samples, _ = self._begun(experiment, seed)
        with tempfile.TemporaryDirectory() as folder:
            for part in range(1, parts + 1):
                train(
                    model, samples, experiment.recipe, device=self.device, run_dir=Path(folder), loss=experiment.loss,
                    workers=self.workers, compiled=self.compiled,
                    stop_after=max(1, part * experiment.recipe.iterations // parts),
                )  # fmt: skip
                yield model

    def unfinished_starts(self, experiment: Experiment, seed: int) -> list[Experiment]:
        """What this run starts from and whose checkpoint is not at hand."""
        return [e for e in experiment.starts() if self._done(e, seed) is None]

    def _done(self, experiment: Experiment, seed: int) -> History | None:
        """What the checkpoint of a finished training says of it, its weights unread; None when there is none."""
        path = self._folder(experiment, seed) / "checkpoint.pt"
        history = read_history(path) if path.exists() else None
        return history if history and len(history.losses) >= experiment.recipe.iterations else None

    def _folder(self, experiment: Experiment, seed: int) -> Path:
        return self.runs_dir / "checkpoints" / self.key(experiment, seed)

    def _begun(self, experiment: Experiment, seed: int) -> tuple[nn.Module, TrainingSamples, list[str]]:
        """The network as its training begins, the samples it will see, and the devices that trained what it starts
        from. The start runs come first."""
        starts = [self._trained(e, seed)[:2] for e in experiment.starts()]
        devices = [name for _, history in starts for name in history.devices]
        seed = experiment.images["seed"] if experiment.images else seed
        torch.manual_seed(seed)
        model = experiment.network(len(self.dataset.classes))
        if experiment.begin:
            experiment.begin(model, [start.state_dict() for start, _ in starts])
        if experiment.images:
            return model, experiment.textures("train"), devices
        clips, mirrored = self.clips(experiment)[0], self.dataset.mirrored
        return model, self.samples(self.store, clips, experiment.sampling, seed, mirrored), devices

    def _trained(self, experiment: Experiment, seed: int) -> tuple[nn.Module, History, tuple[tuple[Clip, ...], ...]]:
        """The trained network, from its checkpoint when there is one, and the clips it belongs to."""
        self.prepare(c for part in self.clips(experiment) for c in part)
        training, testing = self.clips(experiment)
        folder = self._folder(experiment, seed)
        if done := self._done(experiment, seed):  # no need for what it started from
            model = experiment.network(len(self.dataset.classes))
            load_checkpoint(folder / "checkpoint.pt", model)
            return model.to(self.device), done, (training, testing)
        model, samples, devices = self._begun(experiment, seed)
        history = train(
            model, samples, experiment.recipe, device=self.device, run_dir=folder, loss=experiment.loss,
            workers=self.workers, compiled=self.compiled, begun_on=devices,
            progress=lambda i, n, _: self._tell(f"{experiment.name} seed {seed}", i, n),
        )  # fmt: skip
        return model, history, (training, testing)

    def forget(self, experiment: Experiment, seed: int) -> None:
        """Remove a run's checkpoint."""
        shutil.rmtree(self._folder(experiment, seed), ignore_errors=True)

    def _row(
        self, experiment: Experiment, seed: int, key: str, outputs: Sequence[str], history: History
    ) -> dict[str, Any]:
        variant = experiment.name.partition("/")[0]  # what follows says which fold
        return {
            "key": key,
            "paper": experiment.paper,
            "experiment": experiment.name,
            "preset": experiment.preset,
            "dataset": self.dataset.name,
            "classes": list(self.dataset.classes),
            "fingerprint": self.dataset.fingerprint,
            "split": self.split,
            "seed": seed,
            "store": dataclasses.asdict(self.store.settings),
            "identity": experiment.identity(),
            "outputs": list(outputs),
            "left_out": dict(self.unusable),
            "command": f"repro train {experiment.paper} {variant} --dataset {self.dataset.name} "
            f"--split {self.split} --seeds {seed} --preset {experiment.preset}"
            + (f" --weights {shlex.quote(experiment.weights)}" if experiment.weights != "auto" else "")
            + (f" --fold {experiment.fold[0] + 1}/{experiment.fold[1]}" if experiment.fold else "")
            + (" --decode device" if self.samples is EncodedSamples else "")
            + (" --compile" if self.compiled else ""),
            "provenance": {
                **provenance(MIXED.join(dict.fromkeys([*history.devices, device_name(self.device)]))),
                "seconds": round(history.seconds, 1),
                "first_losses": [round(x, 6) for x in history.losses[:FIRST]],
            },
        }

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(what, done, total)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "progress": None}


def _who(part: str, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    return {
        f"{part}_ids": np.array([c.id for c in clips], dtype=np.str_),
        f"{part}_labels": np.array([c.label for c in clips], np.int16),
        f"{part}_groups": np.array([c.group for c in clips], dtype=np.str_),
    }
