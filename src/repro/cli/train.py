"""`repro train`: a paper's experiments through `Lab.run`."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace

from repro import parallel
from repro.cli.console import Progress, table
from repro.cli.data import flow_options
from repro.cli.results import paper_named, summary
from repro.cli.tools import typed
from repro.costs import Estimate, together
from repro.data.catalog import load_dataset
from repro.errors import ReproError, nearest
from repro.evaluation import protocol
from repro.experiments import Experiment, Lab, seeds_of
from repro.plans import estimate, fit_all, run_all
from repro.setup import open_lab, splits_of
from repro.training import pick_device

CHANGEABLE = {"recipe": None, "sampling": ("snippets", "crop", "scales", "flip")}  # other fields shape the network


def train(options: Namespace) -> int:
    """Train what is asked for and not done, then what starts from trained networks; print the accuracies."""
    with parallel.joined(options.device) as options.device:
        return _train(options, parallel.group())


def _train(options: Namespace, own: parallel.Group) -> int:
    if own.size > 1 and options.processes > 1:
        raise ReproError("--processes trains several runs side by side, torchrun one in several processes: give one")
    paper = paper_named(options.paper)
    cuda = pick_device(options.device).type == "cuda"
    preset = options.preset if options.preset != "auto" else "paper" if cuda else "small"
    experiments = paper.experiments(preset, options.dataset, options.weights)
    chosen = [divided(changed(experiments[name], options), own) for name in _names(options, list(experiments))]
    seeds = seeds_of(options.seeds)
    with Progress() as progress:
        labs = _labs(options, paper.short_side(preset, options.dataset), progress)
        if options.list:
            print(_listing(labs, chosen, seeds))
            return 0
        runs = [(experiment, seed) for experiment in chosen for seed in seeds]
        if own.leads:
            print(f"{options.dataset}, preset {preset}, {labs[0].device}: {_cost(labs, runs)}", flush=True)
        if own.size > 1:
            fit_all(labs, runs)  # what follows is the first process's
        if not own.leads:
            parallel.together()
            return 0
        with parallel.apart():
            results = []
            for lab in labs:
                run_all(lab, runs, options.processes)
                for experiment, seed in runs:
                    results.append(lab.run(experiment, seed))
                    if not (options.fold or options.changes):  # those are for tuning
                        results += paper.derive(lab, experiment, seed)
        parallel.together()
    print(summary({result.key: result for result in results}.values()))  # a pre-training serves all seeds
    _tell_left_out(labs)
    return 0


def _names(options: Namespace, known: Sequence[str]) -> list[str]:
    for name in options.variants:
        if name not in known:
            raise ReproError(f"{options.paper} has no variant '{name}'{nearest(name, known)}: {', '.join(known)}")
    if not options.variants and not options.all and not options.list:
        raise ReproError(f"name variants, or give --all: {', '.join(known)}")
    return list(options.variants) or list(known)


def _labs(options: Namespace, short_side: int, progress: Progress) -> list[Lab]:
    """A lab for each split asked for."""
    dataset = load_dataset(options.dataset, options.root)
    return [
        open_lab(
            dataset, short_side=short_side, split=split, store=options.store, runs=options.runs,
            recorded=options.recorded, device=options.device, workers=options.workers, decode=options.decode,
            compiled=options.compile,
            on_error="skip" if options.skip_errors else "raise", progress=progress, record=options.record,
            **flow_options(options),
        )
        for split in splits_of(options.split, dataset.splits)
    ]  # fmt: skip


def changed(experiment: Experiment, options: Namespace) -> Experiment:
    """The experiment with the options --set and --fold applied.

    Its preset or its name says so: such a row must not pass for one of the chapter's. A training on generated images,
    which others start from, stays as it is.
    """
    if experiment.images:
        return experiment
    for change in options.changes:
        name, given, text = change.partition("=")
        part, _, field = name.partition(".")
        if not given or (name != "protocol" and (part not in CHANGEABLE or not field)):
            raise ReproError(f"--set {change}: write recipe.FIELD=VALUE, sampling.FIELD=VALUE or protocol=NAME")
        if name == "protocol":
            experiment = replace(experiment, protocol=protocol(text).name)
        else:
            value = getattr(experiment, part)
            known = CHANGEABLE[part] or [f.name for f in dataclasses.fields(value)]
            if field not in known:
                raise ReproError(f"--set {change}: {part} has no '{field}'{nearest(field, known)}: {', '.join(known)}")
            new = replace(value, **{field: typed(text, getattr(value, field), name)})
            experiment = replace(experiment, **{part: new})
        experiment = replace(experiment, preset=f"{experiment.preset} --set {change}")
    if options.fold:
        name = f"{experiment.name}/fold-{options.fold[0] + 1}-of-{options.fold[1]}"
        experiment = replace(experiment, name=name, fold=options.fold)
    return experiment


def divided(experiment: Experiment, own: parallel.Group) -> Experiment:
    """The experiment, and what it starts from, with pieces of a batch small enough for every process to have one.

    Its preset says so, since moments are over a piece; one process with that `--set` does the same. ReproError where a
    batch has no equal parts.
    """
    if own.size == 1:
        return experiment
    start = tuple(divided(one, own) for one in experiment.start)
    recipe, preset = experiment.recipe, experiment.preset
    if not recipe.balanced and recipe.batch % (recipe.micro_batch * own.size) and recipe.batch % own.size == 0:
        recipe = replace(recipe, micro_batch=recipe.batch // own.size)
        preset = f"{preset} --set recipe.micro_batch={recipe.micro_batch}"
    try:
        parallel.passes_of(recipe.batch, recipe.micro_batch, own, recipe.balanced)
    except ReproError as error:
        raise ReproError(f"{experiment.name}: {error}") from error
    if start != experiment.start and not experiment.images:
        preset = f"{preset}, what it starts from in {own.size} parts"
    return replace(experiment, start=start, recipe=recipe, preset=preset)


def _cost(labs: Sequence[Lab], runs: Sequence[tuple[Experiment, int]]) -> Estimate:
    """What all labs together have to do; flow is shared by the splits."""
    return together(estimate(lab, runs) for lab in labs)


def _listing(labs: Sequence[Lab], experiments: Sequence[Experiment], seeds: Sequence[int]) -> str:
    """Every variant with its size and the runs that are done, then the cost of the rest."""
    lines = []
    for experiment in experiments:
        done = [f"{lab.split}/{seed}" for lab in labs for seed in seeds if lab.has(experiment, seed)]
        r = experiment.recipe
        lines.append((experiment.name, f"{r.iterations} x {r.batch}", experiment.protocol, ", ".join(done) or "-"))
    try:
        cost = str(_cost(labs, [(e, seed) for e in experiments for seed in seeds]))
    except ReproError as error:  # starting weights that are not there
        cost = f"cannot be trained yet: {error}"
    header = ("variant", "iterations x clips", "protocol", "done (split/seed)")
    return f"{table(header, lines)}\n\nthe rest: {cost}"


def _tell_left_out(labs: Sequence[Lab]) -> None:
    for id_, reason in {id_: reason for lab in labs for id_, reason in lab.unusable.items()}.items():
        print(f"left out {id_}: {reason}")
