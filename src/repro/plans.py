"""Many runs of a lab: which are to be done and in what order, what they will cost, and doing them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence, Sized
from functools import partial

from repro.costs import Estimate, Price, extractors, run_cost
from repro.data.catalog import Clip
from repro.experiments import Experiment, Lab
from repro.flow.cost import estimate as estimate_flow
from repro.models.weight_files import check_weights
from repro.processes import each
from repro.results import Library

Run = tuple[Experiment, int]  # with its seed


def run_all(lab: Lab, runs: Iterable[Run], processes: int = 1) -> None:
    """Do many runs, several processes side by side with one thread each; finished ones are skipped."""
    todo = _todo(lab, runs)
    lab.prepare(_clips(lab, todo))
    if processes <= 1 or len(todo) <= 1:
        for run in todo:
            _do(lab, run)
        return
    work, finished = partial(_do, lab), itertools.count(1)
    for depth in sorted({e.depth() for e, _ in todo}):  # what a run starts from is less deep
        phase = [(e, seed) for e, seed in todo if e.depth() == depth]
        try:
            for _ in each(work, phase, processes):
                if lab.progress:
                    lab.progress("runs", next(finished), len(todo))
        finally:
            lab.library = Library(lab.library.own, lab.library.recorded)


def fit_all(labs: Iterable[Lab], runs: Sequence[Run]) -> None:
    """Train what is not done, one run after the other: processes that have joined call it alike and share each run."""
    for lab in labs:
        todo = _todo(lab, runs)
        lab.prepare(_clips(lab, todo))
        for run in todo:
            lab.fit(*run)


def _do(lab: Lab, run: Run) -> str:
    if lab.has(*run):  # others start from its network, which is not kept
        lab.network(*run)
        return lab.key(*run)
    return lab.run(*run).key


def estimate(lab: Lab, runs: Iterable[Run]) -> Estimate:
    """What the runs of the list that are not in the library would cost.

    ReproError where the starting weights that somebody asked for cannot serve all base networks, or do not fit.
    """
    return _cost(lab, _todo(lab, runs))


def cost_of_starts(lab: Lab, runs: Iterable[Run]) -> Estimate:
    """What has to be trained before these runs can begin: what they start from and is not at hand; not tested."""
    starts = ((start, seed) for e, seed in runs for start in lab.unfinished_starts(e, seed))
    return dataclasses.replace(_cost(lab, _in_order(lab, starts)), test_seconds=0.0)


def _todo(lab: Lab, runs: Iterable[Run]) -> list[Run]:
    """Those that are not done, and what they start from."""
    return _in_order(lab, (run for run in runs if not lab.has(*run)))


def _in_order(lab: Lab, runs: Iterable[Run]) -> list[Run]:
    """The runs, each once, and before them what they start from, unless its network is kept."""
    found: dict[str, Run] = {}

    def add(experiment: Experiment, seed: int) -> None:
        if (key := lab.key(experiment, seed)) not in found:
            for start in lab.unfinished_starts(experiment, seed):
                add(start, seed)
            found[key] = experiment, seed

    for run in runs:
        add(*run)
    return list(found.values())


def _clips(lab: Lab, runs: Sequence[Run]) -> list[Clip]:
    """All that the runs train and test on, each once."""
    return list({c.id: c for e, _ in runs for part in lab.clips(e) for c in part}.values())


def _cost(lab: Lab, todo: Sequence[Run]) -> Estimate:
    """What the runs cost, with decoding and flow that the store does not hold."""
    clips = _clips(lab, todo)
    _check_weights(e for e, _ in todo)
    stored = estimate_flow(lab.dataset, lab.store, clips, given_flow=lab.flow_root is not None)
    cores = extractors(stored.clips)
    different = {lab.key(e, 0): e for e, _ in todo}  # by more than their seed: building a network takes time
    price = {key: _price(lab, e) for key, e in different.items()}
    prices = [price[lab.key(e, 0)] for e, _ in todo]
    return Estimate(
        runs=len(todo),
        frames=stored.frames,
        pairs=stored.pairs,
        decode_seconds=stored.decode_seconds / cores,
        flow_seconds=stored.flow_seconds / cores,
        train_seconds=sum(p.train for p in prices),
        test_seconds=sum(p.test for p in prices),
        store_bytes=stored.bytes,
        run_bytes=sum(p.left for p in prices),
        shared={lab.key(e, seed): p for (e, seed), p in zip(todo, prices, strict=True) if e.images},
    )


def _check_weights(experiments: Iterable[Experiment]) -> None:
    needed: dict[str, dict[str, None]] = {}  # weights -> base networks, in order
    for e in experiments:
        if e.backbone:
            needed.setdefault(e.weights, {})[e.backbone] = None
    for weights, backbones in needed.items():
        check_weights(weights, list(backbones))


def _price(lab: Lab, e: Experiment) -> Price:
    on: Iterable[Sized] = map(e.textures, ("train", "test")) if e.images else lab.clips(e)
    train, test = map(len, on)
    scored = train + test if e.images else e.scored(train, test)
    return run_cost(e.network(len(lab.dataset.classes)), e.recipe, e.sampling, e.protocol, scored, lab.device.type)
