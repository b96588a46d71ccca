"""Scores of methods, computed from the logits of finished runs: what the pages of all papers have in common.

A paper's `Scores` says which runs each of its methods needs and how its scores follow from them; nothing is trained
here. S seeds, N clips, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from repro.data.catalog import MANIFEST
from repro.errors import ReproError, nearest
from repro.experiments import IMAGES, Experiment, Lab
from repro.results import Result, read, rows

Array = np.ndarray[Any, Any]
RunKey = tuple[str, str, int]  # experiment, split, seed
# From scores: A and B (S, N), matched unit by unit, and groups (N,); None when it was not measured.
Measure = Callable[[Any], tuple[Array, Array, Array] | None]


@cache
def clip_tags(dataset: str) -> Mapping[str, Mapping[str, str]]:
    """Tags by clip id, for data sets that know their own factors."""
    if dataset != "motionshapes":
        return {}
    from repro.data.motionshapes import records

    return {r.id: r.tags for r in records()}


class Scores(ABC):
    """Scores on the test clips of one data set, all seeds and splits of one scale together.

    A paper's subclass gives `methods` and `scores`. Without a run nothing says what the runs are of: `dataset` and
    `classes` do then, every method is "not run", and ReproError when they are not given.
    """

    methods: ClassVar[Mapping[str, tuple[str, ...]]]  # method -> names of the experiments that it needs

    def __init__(self, runs: Mapping[RunKey, Result], dataset: str = "", classes: Sequence[str] = ()) -> None:
        if not (runs or dataset):
            raise ReproError("there is no finished run to compute scores from: run the experiments first")
        self.runs = dict(runs)
        any_run = next(iter(self.runs.values()), None)
        self.dataset: str = any_run.row["dataset"] if any_run else dataset
        self.classes: list[str] = list(any_run.row["classes"] if any_run else classes)
        self.splits = sorted({split for _, split, _ in self.runs})
        self.seeds = sorted({seed for _, _, seed in self.runs})

    # -- which runs a method needs ----------------------------------------------------------------------------------

    @classmethod
    def needs(cls, method: str) -> tuple[str, ...]:
        """Names of the experiments whose runs a method is computed from. Unknown: ReproError with the nearest."""
        if method not in cls.methods:
            raise ReproError(f"unknown method '{method}'{nearest(method, cls.methods)}: write base[:stream][+fusion]")
        return cls.methods[method]

    def seeds_with(self, *methods: str) -> list[int]:
        """Seeds for which every run of all these methods is there, in every split."""
        names = {name for method in methods for name in self.needs(method)}
        return [s for s in self.seeds if all((n, split, s) in self.runs for n in names for split in self.splits)]

    # -- scores -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def scores(self, method: str, split: str, seed: int, part: str = "test") -> Array:
        """Class scores (N, C) of a method; the largest one is the answer."""

    def all_scores(self, method: str, seed: int) -> Array:
        """Scores (N, C) of one seed, splits one after the other."""
        return np.concatenate([self.scores(method, split, seed) for split in self.splits])

    def best(self, among: Sequence[str], method: str) -> str:
        """The method with the highest accuracy on the test clips, over the seeds that `method` has; first of equals."""
        seeds = self.seeds_with(method)
        mean = {m: found[0].mean() for m in among if (found := self.correct(m, seeds=seeds))}
        return max(mean, key=lambda m: mean[m])

    # -- correctness ------------------------------------------------------------------------------------------------

    def run(self, method: str, split: str) -> Result:
        """A run that says which clips a method was tested on: of the first seed that has all of its runs."""
        return self.runs[self.needs(method)[0], split, self.seeds_with(method)[0]]

    def labels(self, method: str) -> Array:
        """True classes (N,) of the test clips, splits one after the other."""
        return np.concatenate([self.run(method, split).labels() for split in self.splits])

    def ids(self, method: str) -> list[str]:
        """Ids of the test clips, splits one after the other."""
        return [i for split in self.splits for i in self.run(method, split).ids()]

    def groups(self, method: str) -> Array:
        """Groups (persons, source videos) of the test clips."""
        return np.concatenate([self.run(method, split).groups() for split in self.splits])

    def correct(
        self, method: str, subset: Mapping[str, str] | None = None, seeds: Sequence[int] | None = None
    ) -> tuple[Array, Array, float] | None:
        """Correctness (S, N) by seed and clip, groups (N,) and chance; None when runs are missing.

        `seeds`: those of them that the method was run with; all, unless given.
        A subset by `factor` decides among that factor's classes only, so that chance is exact; other tags (camera,
        event, ...) pick clips and leave all classes in.
        """
        available = self.seeds_with(method)
        use = available if seeds is None else [s for s in seeds if s in available]
        if not use:
            return None
        labels, groups = self.labels(method), self.groups(method)
        keep, candidates = self._subset(self.ids(method), labels, subset or {})
        if not keep.any():
            return None
        correct = []
        for seed in use:
            scores = np.full((len(labels), len(self.classes)), -np.inf)
            scores[:, candidates] = self.all_scores(method, seed)[:, candidates]
            correct.append((scores.argmax(1) == labels)[keep])
        return np.stack(correct), groups[keep], 1 / len(candidates)

    def _subset(self, ids: Sequence[str], labels: Array, subset: Mapping[str, str]) -> tuple[Array, Array]:
        tags = clip_tags(self.dataset)
        everything = np.arange(len(self.classes))
        if not subset:
            return np.ones(len(ids), bool), everything
        if not tags:
            return np.zeros(len(ids), bool), everything
        keep = np.array([all(tags[i].get(k) == v for k, v in subset.items()) for i in ids])
        return keep, np.unique(labels[keep]) if "factor" in subset else everything


class ClaimScores:
    """What `repro.report.claims` asks for, over the data sets at hand (the page's own first)."""

    def __init__(self, scores: Mapping[str, Scores], measures: Mapping[str, Measure]) -> None:
        self.scores, self.measures = dict(scores), measures

    @property
    def datasets(self) -> Sequence[str]:
        return list(self.scores)

    def correct(
        self, method: str, dataset: str, subset: Mapping[str, str], beside: str = ""
    ) -> tuple[Array, Array, float] | None:
        """Right or wrong (S, N), groups (N,), chance; None when it was not run, or with no seed that `beside` has."""
        if dataset not in self.scores:
            return None
        scores = self.scores[dataset]
        return scores.correct(method, subset, scores.seeds_with(beside or method))

    def measure(self, name: str, dataset: str) -> tuple[Array, Array, Array] | None:
        """A and B (S, N), matched unit by unit, and groups (N,); None when it was not measured."""
        if name not in self.measures:
            raise ReproError(f"unknown measurement '{name}': use one of {', '.join(self.measures)}")
        return self.measures[name](self.scores[dataset]) if dataset in self.scores else None


# ---------------------------------------------------------------- where runs come from


def recorded_runs(
    folder: Path, paper: str, dataset: str, preset: str, *, leave_one_out: bool = False
) -> dict[RunKey, Result]:
    """Recorded runs of one paper, data set and scale, whether or not its videos are at hand.

    Weizmann has two sets of splits with the same clips, which must not be mixed: the manifest's, and with
    `leave_one_out` one for each person.
    """
    found = {}
    for path, row in rows(folder / paper / dataset):
        one_out = dataset == "weizmann" and row["split"] != MANIFEST
        if row["preset"] == preset and one_out == leave_one_out:
            found[row["experiment"], row["split"], int(row["seed"])] = read(path, recorded=True)
    return found


def lab_runs(labs: Iterable[Lab], experiments: Iterable[Experiment], seeds: Sequence[int]) -> dict[RunKey, Result]:
    """Runs of these experiments, and those derived from their networks, that the labs' libraries hold.

    A run goes by its experiment's name here, whatever its row is called: `repro train --fold 1/2` makes the same run
    as a chapter's `held-out-0`. A training on generated images is the same run for all seeds, and is found for each;
    its split is its row's, `generated`.
    """
    everything = list(experiments)
    found = {}
    for lab in labs:
        names: dict[str, list[tuple[str, int]]] = {}
        for experiment in everything:
            for seed in seeds:
                names.setdefault(lab.key(experiment, seed), []).append((experiment.name, seed))
        for key, row in lab.library.rows.items():
            derived = row.get("derived", {})
            split = row["split"] if row["dataset"] == IMAGES else lab.split
            for name, seed in names.get(derived.get("of", key), ()):
                found[row["experiment"] if derived else name, split, seed] = lab.library.get(key)
    return found
