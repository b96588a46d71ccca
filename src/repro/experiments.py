"""Memoised runs: what is trained, how its identity is computed, and who already did it.

An `Experiment` says everything that decides an outcome. A `Lab` is a data set, a store of frames and flow, and a
library of finished runs: asked for a run it returns the finished one, or prepares the clips, trains, evaluates and
files it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from repro.costs import Estimate, run_cost
from repro.data.catalog import Clip, Dataset
from repro.data.clips import EndlessOrder, Sampling, TrainingSamples
from repro.data.textures import Textures
from repro.errors import ReproError
from repro.evaluation import evaluate, protocol, score
from repro.flow.cost import estimate as estimate_flow
from repro.flow.extract import extract
from repro.flow.store import ClipStore
from repro.processes import each
from repro.results import FIRST, TOLERANCE, Library, Result, provenance, repeats, run_key
from repro.training import History, Recipe, load_checkpoint, pick_device, train

Progress = Callable[[str, int, int], None]
States = Sequence[Mapping[str, Tensor]]  # the weights that runs ended with
IMAGES = "textures"  # what rows of a training on generated images call their data set


@dataclass(frozen=True)
class Experiment:
    """One row of a paper's tables as something that can be trained.

    `build(num_classes)` makes the network; like the name it does not enter the key. `per_class` keeps that many clips
    of each class for training and for testing; `fold` (k, n) trains on all but the k-th of n group-wise folds of the
    training clips and tests on that fold, which is how recipes are tuned without looking at test clips.

    `start` are experiments that come first, with the same seed, split and fold: `begin(model, states)` puts their
    weights into the network. `images` (arguments of `Textures`, with a `seed` that all runs share) trains on generated
    images instead of clips: a pre-training for others to start from.
    """

    paper: str
    name: str
    preset: str
    config: Mapping[str, Any]
    recipe: Recipe
    sampling: Sampling
    protocol: str
    build: Callable[[int], nn.Module] = field(compare=False, repr=False)
    per_class: tuple[int, int] | None = None
    fold: tuple[int, int] | None = None
    start: tuple[Experiment, ...] = ()
    begin: Callable[[nn.Module, States], None] | None = field(default=None, compare=False, repr=False)
    images: Mapping[str, Any] | None = None

    def starts(self) -> tuple[Experiment, ...]:
        """The experiments that come first, on the same clips; in a fold they bear its name too."""
        _, slash, fold = self.name.partition("/")
        return tuple(
            e
            if e.images
            else dataclasses.replace(e, name=f"{e.name}{slash}{fold}", per_class=self.per_class, fold=self.fold)
            for e in self.start
        )

    def identity(self) -> dict[str, Any]:
        """Everything that decides the outcome, as plain values."""
        out: dict[str, Any] = {
            "paper": self.paper,
            "config": dict(self.config),
            "recipe": dataclasses.asdict(self.recipe),
            "sampling": {k: v for k, v in dataclasses.asdict(self.sampling).items() if v is not None},
            "protocol": self.protocol,
        }
        if self.per_class:
            out["per_class"] = list(self.per_class)
        if self.fold:
            out["fold"] = list(self.fold)
        if self.start:
            out["start"] = [e.identity() for e in self.starts()]
        if self.images:
            out["images"] = dict(self.images)
        plain: dict[str, Any] = json.loads(json.dumps(out))  # as it is read back: lists for tuples
        return plain


def fold_of(groups: Iterable[str], folds: int) -> dict[str, int]:
    """Assign each group to one of `folds` folds of nearly equal size, by the order of a hash of its name."""
    ordered = sorted(set(groups), key=lambda g: hashlib.blake2b(g.encode()).digest())
    return {group: i % folds for i, group in enumerate(ordered)}


def thin(clips: Sequence[Clip], per_class: int) -> tuple[Clip, ...]:
    """Keep `per_class` clips of each label, chosen by a hash of the id."""
    kept: dict[int, list[Clip]] = {}
    for clip in sorted(clips, key=lambda c: hashlib.blake2b(c.id.encode()).digest()):
        chosen = kept.setdefault(clip.label, [])
        if len(chosen) < per_class:
            chosen.append(clip)
    return tuple(sorted((c for group in kept.values() for c in group), key=lambda c: c.id))


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
        on_error: Literal["skip", "raise"] = "raise",
        flow_root: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.dataset, self.store, self.library, self.split, self.runs_dir = dataset, store, library, split, runs_dir
        self.device, self.workers, self.on_error = pick_device(device), workers, on_error
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

    # -- cost -------------------------------------------------------------------------------------------------------

    def estimate(self, runs: Sequence[tuple[Experiment, int]]) -> Estimate:
        """What the runs of the list that are not in the library would cost."""
        todo = self._todo(runs)
        clips = {c.id: c for e, _ in todo for part in self.clips(e) for c in part}
        stored = estimate_flow(self.dataset, self.store, list(clips.values()), given_flow=self.flow_root is not None)
        cores = self._extractors(stored.clips)
        different = {self.key(e, 0): e for e, _ in todo}  # seeds cost the same, and building a network takes time
        costs = {key: self._run_cost(e) for key, e in different.items()}
        train, test, left = (sum(costs[self.key(e, 0)][i] for e, _ in todo) for i in range(3))
        return Estimate(
            runs=len(todo),
            frames=stored.frames,
            pairs=stored.pairs,
            decode_seconds=stored.decode_seconds / cores,
            flow_seconds=stored.flow_seconds / cores,
            train_seconds=train,
            test_seconds=test,
            store_bytes=stored.bytes,
            run_bytes=round(left),
        )

    def _todo(self, runs: Iterable[tuple[Experiment, int]]) -> list[tuple[Experiment, int]]:
        """Those that are not done, each once, and before them what they start from, unless its network is kept."""
        found: dict[str, tuple[Experiment, int]] = {}
        for experiment, seed in runs:
            if not self.has(experiment, seed):
                found |= self._with_starts(experiment, seed)
        return list(found.values())

    def _with_starts(self, experiment: Experiment, seed: int) -> dict[str, tuple[Experiment, int]]:
        found: dict[str, tuple[Experiment, int]] = {}
        for start in experiment.starts():
            if self._finished(start, seed) is None:
                found |= self._with_starts(start, seed)
        return found | {self.key(experiment, seed): (experiment, seed)}

    def _run_cost(self, experiment: Experiment) -> tuple[float, float, int]:
        counts = tuple(len(part) for part in self._parts(experiment))
        return run_cost(
            self._network(experiment), experiment.recipe, experiment.sampling, experiment.protocol,
            (counts[0], counts[1]), self.device.type,
        )  # fmt: skip

    def _parts(self, experiment: Experiment) -> tuple[Sequence[Any], Sequence[Any]]:
        """What is trained and tested on: clips or pictures."""
        if experiment.images:
            train, test = (range(len(self._textures(experiment, part))) for part in ("train", "test"))
            return train, test
        return self.clips(experiment)

    @staticmethod
    def _textures(experiment: Experiment, part: str) -> Textures:
        kept = dict(experiment.images or {})
        per_class = kept.pop("per_class")
        return Textures(part, per_class=per_class if part == "train" else max(1, per_class // 5), **kept)

    def _network(self, experiment: Experiment) -> nn.Module:
        return experiment.build(experiment.images["classes"] if experiment.images else len(self.dataset.classes))

    @staticmethod
    def _extractors(absent: int) -> int:
        """How many processes extract that many clips: starting one costs what some clips do."""
        return min(os.cpu_count() or 1, 1 + absent // 48)

    # -- work -------------------------------------------------------------------------------------------------------

    def prepare(self, clips: Iterable[Clip]) -> None:
        """Decode clips and compute their flow where the store does not hold them yet; note which cannot be used."""
        clips = [c for c in clips if c.id not in self.unusable]
        absent = [c for c in clips if not self.store.has(c.id)]
        if absent:
            done = itertools.count(1)
            report = extract(
                self.dataset, self.store, absent, workers=self._extractors(len(absent)), on_error=self.on_error,
                flow_root=self.flow_root, progress=lambda _: self._tell("flow", next(done), len(absent)),
            )  # fmt: skip
            self.unusable.update(report.failed)
        for clip in clips:
            if clip.id not in self.unusable and not self._moves(clip):
                reason = f"{self.dataset.video(clip)} has a single frame, hence no optical flow"
                if self.on_error == "raise":
                    raise ReproError(f"{reason}: leave it out of the data set")
                self.unusable[clip.id] = reason

    def _moves(self, clip: Clip) -> bool:
        with self.store.open(clip.id) as stored:
            return bool(stored.n_flow > 0)

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
        for part, clips in (("train", training), ("test", testing)):
            logits = self.evaluate(model, experiment, clips)
            arrays |= {f"{part}_{name}": x.astype(np.float16) for name, x in logits.items()} | _who(part, clips)
            outputs = sorted(logits)
        row = self._row(experiment, seed, key, outputs, history)
        result = Result(row, arrays)
        self.library.put(result)
        return result

    def _run_on_images(self, experiment: Experiment, key: str) -> Result:
        """Train on generated images and score pictures of the same classes that were not trained on."""
        assert experiment.images
        model, history, _ = self._trained(experiment, experiment.images["seed"])
        testing = self._textures(experiment, "test")
        logits = score(
            model, testing.views(), testing.sampling, device=self.device,
            progress=lambda done, total: self._tell(f"{experiment.name} test", done, total),
        )  # fmt: skip
        ids = np.array(testing.ids(), np.str_)
        arrays: dict[str, np.ndarray] = {"losses": np.asarray(history.losses, np.float32)}
        arrays |= {f"test_{name}": x.astype(np.float16) for name, x in logits.items()}
        arrays |= {"test_ids": ids, "test_labels": testing.labels.astype(np.int16), "test_groups": ids}
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
        arrays = compute(model, training, testing) | _who("train", training) | _who("test", testing)
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
            workers=self.workers, progress=lambda done, total: self._tell(f"{experiment.name} test", done, total),
        )  # fmt: skip

    def first_losses(self, experiment: Experiment, seed: int) -> list[float]:
        """The first losses of a run, from the code as it is now; of it nothing is stored.

        What it starts from is trained first, where no checkpoint of it is at hand (`unfinished_starts`).
        """
        if not experiment.images:
            self.prepare(self._first_clips(experiment, self.clips(experiment)[0], seed))
        model, samples = self._begun(experiment, seed)
        return train(model, samples, experiment.recipe, device=self.device, stop_after=FIRST).losses

    def verify(self, experiment: Experiment, seed: int) -> bool:
        """Whether a stored run still begins with the same losses."""
        row = self.library.get(self.key(experiment, seed)).row
        self.unusable.update(row["left_out"])  # the order of the clips depends on how many there are
        return repeats(row, self.first_losses(experiment, seed))

    def drifted(self, experiment: Experiment, seed: int) -> bool:
        """Whether a network that a run starts from began as the recorded one and ended as another.

        So it is on another kind of processor: bits differ, and many steps make much of that. Then the run's own losses
        cannot be compared.
        """
        for start in experiment.starts():
            done, key = self._finished(start, seed), self.key(start, seed)
            if self.drifted(start, seed):
                return True
            if done and key in self.library:
                recorded, losses = self.library.get(key), done[1].losses
                away = np.abs(np.subtract(losses, recorded.arrays["losses"])).max()
                if repeats(recorded.row, losses) and away > TOLERANCE:
                    return True
        return False

    def repeat(self, experiment: Experiment, seed: int) -> History:
        """Train a run again from scratch, keeping nothing."""
        self.prepare(self.clips(experiment)[0])
        model, samples = self._begun(experiment, seed)
        return train(model, samples, experiment.recipe, device=self.device, workers=self.workers)

    def unfinished_starts(self, experiment: Experiment, seed: int) -> list[str]:
        """Names of the runs that this one starts from and whose checkpoints are not at hand."""
        return [e.name for e in experiment.starts() if self._finished(e, seed) is None]

    def _finished(self, experiment: Experiment, seed: int) -> tuple[nn.Module, History] | None:
        """The trained network from its last checkpoint; None when there is none."""
        path = self._folder(experiment, seed) / "checkpoint.pt"
        if not path.exists():
            return None
        model = self._network(experiment)
        state = load_checkpoint(path, model)
        if len(state["losses"]) < experiment.recipe.iterations:
            return None
        return model.to(self.device), History(state["losses"], state["seconds"], len(state["losses"]))

    def _folder(self, experiment: Experiment, seed: int) -> Path:
        return self.runs_dir / "checkpoints" / self.key(experiment, seed)

    def _begun(self, experiment: Experiment, seed: int) -> tuple[nn.Module, TrainingSamples]:
        """The network as its training begins, and the samples it will see. The start runs come first."""
        states = [self.network(e, seed).state_dict() for e in experiment.starts()]
        seed = experiment.images["seed"] if experiment.images else seed
        torch.manual_seed(seed)
        model = self._network(experiment)
        if experiment.begin:
            experiment.begin(model, states)
        if experiment.images:
            return model, self._textures(experiment, "train")
        return model, TrainingSamples(self.store, self.clips(experiment)[0], experiment.sampling, seed)

    def run_all(self, runs: Sequence[tuple[Experiment, int]], processes: int = 1) -> None:
        """Do many runs, several processes side by side with one thread each; finished ones are skipped."""
        todo = self._todo(runs)
        self.prepare({c.id: c for e, _ in todo for part in self.clips(e) for c in part}.values())
        if processes <= 1 or len(todo) <= 1:
            for run in todo:
                _do(self, run)
            return
        work, finished = partial(_do, self), itertools.count(1)
        for phase in self._phases(todo):
            try:
                for _ in each(work, phase, processes):
                    self._tell("runs", next(finished), len(todo))
            finally:
                self.library = Library(self.library.own, self.library.recorded)

    def _phases(self, todo: Sequence[tuple[Experiment, int]]) -> list[list[tuple[Experiment, int]]]:
        """The runs in groups that can be done side by side: what a run starts from is in an earlier group."""

        def depth(experiment: Experiment) -> int:
            return max((1 + depth(e) for e in experiment.start), default=0)

        found: dict[int, list[tuple[Experiment, int]]] = {}
        for experiment, seed in todo:
            found.setdefault(depth(experiment), []).append((experiment, seed))
        return [found[level] for level in sorted(found)]

    def _trained(self, experiment: Experiment, seed: int) -> tuple[nn.Module, History, tuple[tuple[Clip, ...], ...]]:
        """The trained network, from its checkpoint when there is one, and the clips it belongs to."""
        self.prepare(c for part in self.clips(experiment) for c in part)
        training, testing = self.clips(experiment)
        if done := self._finished(experiment, seed):  # no need for what it started from
            return *done, (training, testing)
        model, samples = self._begun(experiment, seed)
        history = train(
            model, samples, experiment.recipe, device=self.device, run_dir=self._folder(experiment, seed),
            workers=self.workers,
            progress=lambda i, n, _: self._tell(f"{experiment.name} seed {seed}", i, n),
        )  # fmt: skip
        return model, history, (training, testing)

    def forget(self, experiment: Experiment, seed: int) -> None:
        """Remove a run's checkpoint."""
        shutil.rmtree(self._folder(experiment, seed), ignore_errors=True)

    def _first_clips(self, experiment: Experiment, training: Sequence[Clip], seed: int) -> list[Clip]:
        order = EndlessOrder(len(training), experiment.recipe.batch, seed, 0, FIRST)
        return [training[position] for batch in order for _, position in batch]

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
            + (f" --fold {experiment.fold[0] + 1}/{experiment.fold[1]}" if experiment.fold else ""),
            "provenance": {
                **provenance(_device_name(self.device)),
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


def _do(lab: Lab, run: tuple[Experiment, int]) -> str:
    if lab.has(*run):  # others start from its network, which is not kept
        lab.network(*run)
        return lab.key(*run)
    return lab.run(*run).key


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def seeds_of(value: str | int, known: Sequence[int] = (1, 2, 3)) -> list[int]:
    """Read the `seeds` parameter: 1, "1,2" or "all" (those that the book records)."""
    if str(value).strip() == "all":
        return list(known)
    try:
        found = [int(part) for part in str(value).split(",")]
    except ValueError:
        raise ReproError(f'seeds={value!r} is not understood: write 1, "1,2" or "all"') from None
    return found
