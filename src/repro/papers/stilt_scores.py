"""Scores of every method of the STILT chapter, computed from the logits of finished runs; nothing is trained here.

A method is written `base[:stream][+fusion]`: `stil-snippets` is the late average of that network's two outputs,
`stil-snippets:spatial` its spatial output alone, `+awf`, `+awf-regularised`, `+awf-held-out` and `+svm` replace the
average. `two-stream` averages the plain streams; `best-single` is the plain stream that is better on the test clips,
which can only make "two beat one" harder to observe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from repro.data.catalog import MANIFEST
from repro.errors import ReproError, nearest
from repro.experiments import Experiment, Lab
from repro.metrics import softmax
from repro.papers.stilt_derived import STIL, held_out
from repro.papers.stilt_experiments import VARIANTS
from repro.papers.stilt_fusion import (
    Choice,
    awf_coefficients,
    awf_regularised,
    awf_weights,
    choose_lambda,
    fuse,
    late_average,
)
from repro.results import Result, read, rows

Array = np.ndarray[Any, Any]
RunKey = tuple[str, str, int]  # experiment, split, seed

# Candidates of lambda: 0 looks at the own class only; 1 / (C - 1) makes both terms of Eq. 5 equal in size (it is added
# for the data set at hand); the paper gives none (ledger stilt-L9). The first of equals is chosen.
LAMBDAS = (0.01, 0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
STRENGTHS = (3.0, 1.0, 10.0, 30.0, 0.3)  # of the entropy term, in units of summed probability (ledger stilt-L8)


def _methods() -> dict[str, tuple[str, ...]]:
    """Every method, and every run that starts from a trained network, with the experiments that it needs."""
    plain = ("spatial", "temporal")
    fitted = ("", "+awf", "+awf-regularised")
    out = {name: (name,) for name in plain} | {"best-single": plain} | {f"two-stream{f}": plain for f in fitted}
    for name in VARIANTS:
        if name not in plain:
            out |= {name + suffix: (name,) for suffix in (":spatial", ":temporal", *fitted)}
    for name in STIL:
        out |= {f"{name}+{run}": (f"{name}+{run}", name) for run in ("svm", "attention", "probes")}
    main = STIL[0]
    return out | {f"{main}+awf-held-out": (main, f"{main}/held-out-0", f"{main}/held-out-1")}


METHODS = _methods()


@cache
def clip_tags(dataset: str) -> Mapping[str, Mapping[str, str]]:
    """Tags by clip id, for data sets that know their own factors."""
    if dataset != "motionshapes":
        return {}
    from repro.data.motionshapes import records

    return {r.id: r.tags for r in records()}


@dataclass(frozen=True)
class Fitted:
    """A fusion fitted on training scores: its weights (C, 2) and the choice on folds."""

    weights: Array
    choice: Choice


class Scores:
    """Scores on the test clips of one data set, all seeds and splits of one scale together."""

    def __init__(self, runs: Mapping[RunKey, Result]) -> None:
        if not runs:
            raise ReproError("there is no finished run to compute scores from: run the experiments first")
        self.runs = dict(runs)
        any_row = next(iter(self.runs.values())).row
        self.dataset: str = any_row["dataset"]
        self.classes: list[str] = any_row["classes"]
        self.splits = sorted({split for _, split, _ in self.runs})
        self.seeds = sorted({seed for _, _, seed in self.runs})

    # -- which runs a method needs ----------------------------------------------------------------------------------

    @staticmethod
    def needs(method: str) -> tuple[str, ...]:
        """Names of the experiments whose runs a method is computed from. Unknown: ReproError with the nearest."""
        if method not in METHODS:
            raise ReproError(f"unknown method '{method}'{nearest(method, METHODS)}: write base[:stream][+fusion]")
        return METHODS[method]

    def seeds_with(self, method: str) -> list[int]:
        """Seeds for which every run of a method is there, in every split."""
        names = self.needs(method)
        return [s for s in self.seeds if all((n, split, s) in self.runs for n in names for split in self.splits)]

    # -- scores -----------------------------------------------------------------------------------------------------

    @lru_cache(maxsize=512)  # noqa: B019  (a Scores lives as long as the page that asks)
    def scores(self, method: str, split: str, seed: int, part: str = "test") -> Array:
        """Class scores (N, C) of a method: probabilities, or decision values for `+svm`."""
        base, _, fusion = method.partition("+")
        if fusion == "svm":
            return self.runs[f"{base}+svm", split, seed].logits("svm", part)
        if base == "best-single":
            return self.scores(self.best_single(), split, seed, part)
        if base in ("spatial", "temporal") or ":" in base:
            name, _, stream = base.partition(":")
            return softmax(self.runs[name, split, seed].logits(stream or name, part))
        spatial, temporal = self.pair(base, split, seed, part)
        if not fusion:
            return late_average(spatial, temporal)
        return fuse(self.fitted(method, split, seed).weights, spatial, temporal)

    def best_single(self) -> str:
        """The plain stream with the higher accuracy on the test clips, over all seeds and splits that have both."""
        seeds = self.seeds_with("best-single")
        mean = {m: found[0].mean() for m in ("spatial", "temporal") if (found := self.correct(m, seeds=seeds))}
        return max(mean, key=lambda m: mean[m])

    def pair(self, base: str, split: str, seed: int, part: str = "test") -> tuple[Array, Array]:
        """Probabilities (N, C) of the spatial and of the temporal output."""
        if base == "two-stream":
            return self.scores("spatial", split, seed, part), self.scores("temporal", split, seed, part)
        return self.scores(f"{base}:spatial", split, seed, part), self.scores(f"{base}:temporal", split, seed, part)

    @lru_cache(maxsize=512)  # noqa: B019
    def fitted(self, method: str, split: str, seed: int) -> Fitted:
        """Weights of an adaptively weighted fusion (STILT, Sec. 3.3), lambda and strength chosen on training folds."""
        base, _, fusion = method.partition("+")
        if fusion == "awf-held-out":  # scores of clips that the network was not trained on (ledger stilt-L10)
            parts = [self.runs[f"{base}/held-out-{k}", split, seed] for k in (0, 1)]
            pairs = [[softmax(r.logits(m)) for r in parts] for m in ("spatial", "temporal")]
            spatial, temporal = (np.concatenate(p) for p in pairs)
            labels = np.concatenate([r.labels() for r in parts])
            groups = np.concatenate([r.groups() for r in parts])
        else:
            spatial, temporal = self.pair(base, split, seed, "train")
            run = self.runs[self.needs(base)[0], split, seed]
            labels, groups = run.labels("train"), run.groups("train")
        candidates = (1 / (len(self.classes) - 1), *LAMBDAS)
        strengths = (None,) if fusion == "awf" else STRENGTHS
        choice = choose_lambda(
            (spatial, temporal), labels, groups, candidates, num_classes=len(self.classes), strengths=strengths
        )
        coefficients = awf_coefficients(spatial, temporal, labels, len(self.classes), choice.lambda_)
        if choice.strength is None:
            return Fitted(awf_weights(coefficients), choice)
        return Fitted(awf_regularised(coefficients, choice.strength), choice)

    # -- correctness ------------------------------------------------------------------------------------------------

    def labels(self, method: str) -> Array:
        """True classes (N,) of the test clips, splits one after the other."""
        return np.concatenate([self._run(method, split).labels() for split in self.splits])

    def ids(self, method: str) -> list[str]:
        """Ids of the test clips, splits one after the other."""
        return [i for split in self.splits for i in self._run(method, split).ids()]

    def groups(self, method: str) -> Array:
        """Groups (persons, source videos) of the test clips."""
        return np.concatenate([self._run(method, split).groups() for split in self.splits])

    def _run(self, method: str, split: str) -> Result:
        return self.runs[self.needs(method)[0], split, self.seeds_with(method)[0]]

    def all_scores(self, method: str, seed: int) -> Array:
        """Scores (N, C) of one seed, splits one after the other."""
        return np.concatenate([self.scores(method, split, seed) for split in self.splits])

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


# ---------------------------------------------------------------- where runs come from


def recorded_runs(folder: Path, dataset: str, preset: str, *, leave_one_out: bool = False) -> dict[RunKey, Result]:
    """Recorded runs of one data set and scale, whether or not its videos are at hand.

    Weizmann has two sets of splits with the same clips, which must not be mixed: the manifest's, and with
    `leave_one_out` one for each person.
    """
    found = {}
    for path, row in rows(folder / "stilt" / dataset):
        one_out = dataset == "weizmann" and row["split"] != MANIFEST
        if row["preset"] == preset and one_out == leave_one_out:
            found[row["experiment"], row["split"], int(row["seed"])] = read(path, recorded=True)
    return found


def lab_runs(labs: Iterable[Lab], experiments: Mapping[str, Experiment], seeds: Sequence[int]) -> dict[RunKey, Result]:
    """Runs of these experiments, and those that follow from them, that the labs' libraries hold."""
    everything = [
        *experiments.values(),
        *(e for name in STIL if name in experiments for e in held_out(experiments[name])),
    ]
    found = {}
    for lab in labs:
        names = {lab.key(e, seed): (e.name, seed) for e in everything for seed in seeds}
        for key, row in lab.library.rows.items():
            derived = row.get("derived", {})
            name, seed = names.get(derived.get("of", key), ("", 0))
            if name:  # a row of the same key may bear another name: `repro train --fold 1/2` makes held-out-0
                found[row["experiment"] if derived else name, lab.split, seed] = lab.library.get(key)
    return found
