"""`repro results`: what is finished, how good it is, and whether the code still gives the same."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.cli.console import Progress, table
from repro.costs import Estimate, duration, together
from repro.data.clips import Sampling
from repro.errors import ReproError, nearest
from repro.experiments import IMAGES, Experiment, Lab
from repro.flow.tvl1 import DEFAULT, backend_of
from repro.metrics import topk_accuracy
from repro.papers import PAPERS, Paper
from repro.plans import cost_of_starts
from repro.results import Result, comparable, read, rows
from repro.setup import GIVEN, open_lab, recorded_folder, runs_folder
from repro.training import Recipe

Row = dict[str, Any]
CHEAP = 45.0  # seconds that `verify` spends unasked on what a run starts from: enough for the presets smoke and live


def paper_named(name: str) -> Paper:
    """The paper of that name; an unknown one is an error with the nearest."""
    if name not in PAPERS:
        raise ReproError(f"unknown paper '{name}'{nearest(name, PAPERS)}: choose from {', '.join(PAPERS)}")
    return PAPERS[name]


def found(options: Namespace) -> Iterator[tuple[Path, Row, bool]]:
    """All rows asked for, with their files and whether they are recorded ones; own ones last."""
    paper, dataset = getattr(options, "paper", None), getattr(options, "dataset", None)
    if paper:
        paper_named(paper)
    for folder, is_recorded in ((recorded_folder(options.recorded), True), (runs_folder(options.runs), False)):
        for path, row in rows(folder) if folder else ():
            if paper in (None, row["paper"]) and dataset in (None, row["dataset"]):
                yield path, row, is_recorded


def status(options: Namespace) -> int:
    """How many results there are, by paper, data set and preset, and how many runs have only begun."""
    counts: Counter[tuple[str, ...]] = Counter()
    finished = set()
    for _, row, is_recorded in found(options):
        finished.add(row["key"])
        counts["recorded" if is_recorded else "own", row["paper"], row["dataset"], row["preset"]] += 1
    print(table(("whose", "paper", "data set", "preset", "runs"), [(*k, str(n)) for k, n in sorted(counts.items())]))
    begun = [p for p in runs_folder(options.runs).rglob("checkpoints/*/checkpoint.pt") if p.parent.name not in finished]
    if begun:
        print(f"\n{len(begun)} runs have a checkpoint and no result: repeat their command to finish them")
    return 0


def show(options: Namespace) -> int:
    """Every result with its accuracies."""
    print(summary(read(path, is_recorded) for path, _, is_recorded in found(options)))
    return 0


def summary(results: Iterable[Result]) -> str:
    """A line per result: what it is and the share of test clips that each output gets right."""
    lines = []
    for result in results:
        row = result.row
        top1 = [f"{name} {100 * topk_accuracy(result.logits(name), result.labels()):.1f}" for name in result.outputs]
        what = [str(row[k]) for k in ("paper", "experiment", "preset", "dataset", "split", "seed")]
        whose = "recorded" if result.recorded else "own"
        fold = "" if "fold" not in row["identity"] else " fold {}/{}".format(*_counted(row["identity"]["fold"]))
        what[4] += fold
        lines.append((*what, ", ".join(top1) or "-", row["provenance"]["date"], result.key[:8], whose))
    header = ("paper", "experiment", "preset", "data set", "split", "seed", "top-1 %", "date", "key", "whose")
    return table(header, lines) if lines else "no results"


def _counted(fold: Sequence[int]) -> tuple[int, int]:
    return fold[0] + 1, fold[1]


# ---------------------------------------------------------------- do they repeat?


Where = tuple[object, ...]  # data set, split, size of frames, flow


def verify(options: Namespace) -> int:
    """Train the first steps of every stored training again; exit status 1 if any run is stale.

    Runs whose starts are not at hand and take long to train are skipped, unless `train_starts` asks for them.
    """
    lines, labs, skipped = [], dict[Where, Lab | str](), dict[Where, list[tuple[Experiment, int]]]()
    with Progress() as progress:
        for _, row, is_recorded in list(found(options)):
            if "derived" not in row:  # what starts from a network is as good as the network
                state = _state(row, options, labs, skipped, progress)
                what = [str(row[k]) for k in ("paper", "experiment", "preset", "dataset", "split", "seed")]
                lines.append((*what, row["key"][:8], "recorded" if is_recorded else "own", state))
    header = ("paper", "experiment", "preset", "data set", "split", "seed", "key", "whose", "state")
    print(table(header, lines))
    counts = Counter(line[-1].partition(":")[0] for line in lines)
    print("\n" + (", ".join(f"{n} {state}" for state, n in counts.items()) or "no results"))
    if skipped:
        print(f"--train-starts also trains the starts that are missing: {_in_all(skipped, labs)}")
    return 1 if counts["stale"] else 0


def _in_all(skipped: Mapping[Where, Sequence[tuple[Experiment, int]]], labs: Mapping[Where, Lab | str]) -> str:
    """What it costs to train the starts of the runs that were skipped, each once."""
    costs: dict[Where, list[Estimate]] = {}  # of the splits that share frames and flow
    for where, runs in skipped.items():
        lab, (dataset, _, *store) = labs[where], where
        assert isinstance(lab, Lab)
        costs.setdefault((dataset, *store), []).append(cost_of_starts(lab, runs))
    found = [together(splits) for splits in costs.values()]
    return f"{sum(cost.runs for cost in found)} trainings, about {duration(sum(cost.seconds for cost in found))}"


def _state(
    row: Row,
    options: Namespace,
    labs: dict[Where, Lab | str],
    skipped: dict[Where, list[tuple[Experiment, int]]],
    progress: Progress,
) -> str:
    """`repeats`, `stale: why`, or why it cannot be known here; a run that is skipped is noted."""
    if row["dataset"] == IMAGES:  # needs no data set: any will do
        row = {**row, "dataset": "motionshapes", "split": None, "store": {"short_side": 64, "flow_backend": ""}}
    flow = row["store"]["flow_backend"]
    if flow.startswith(GIVEN):
        return f"other flow: {flow.removeprefix(GIVEN)}, extracted elsewhere"
    where = (row["dataset"], row["split"], row["store"]["short_side"], flow)
    if where not in labs:
        try:
            labs[where] = open_lab(
                row["dataset"], short_side=row["store"]["short_side"], split=row["split"], store=options.store,
                runs=options.runs, recorded=options.recorded, device=options.device, on_error="skip",
                flow_backend=backend_of(flow) or DEFAULT, progress=progress,
            )  # fmt: skip
        except ReproError as error:
            labs[where] = f"data absent: {error}"
    lab = labs[where]
    if isinstance(lab, str):
        return lab
    if "images" not in row["identity"] and row["fingerprint"] != lab.dataset.fingerprint:
        return "other data: its fingerprint is not that of the row"
    if not comparable(row, lab.device.type):
        return f"other device: recorded on {row['provenance']['device']}"
    try:
        experiment = experiment_of(row)
    except ReproError as error:
        return f"stale: {error}"
    if lab.key(experiment, row["seed"]) != row["key"]:
        return "stale: the configuration or the way flow is computed has changed"
    seed = row["seed"]
    try:
        if not options.train_starts and (absent := lab.unfinished_starts(experiment, seed)):
            cost = cost_of_starts(lab, [(experiment, seed)])
            if cost.seconds > CHEAP:
                skipped.setdefault(where, []).append((experiment, seed))
                return f"starts missing: {', '.join(e.name for e in absent)}, about {duration(cost.seconds)} to train"
        if lab.verify(experiment, seed):
            return "repeats"
        if lab.drifted(experiment, seed):
            return "other processor: what it starts from was trained on another device or drifts apart later"
        return "stale: the first losses differ"
    except ReproError as error:  # starting weights or a checkpoint that cannot be read
        return f"cannot be checked: {error}"


def experiment_of(row: Row, weights: str | None = None) -> Experiment:
    """The experiment that a row belongs to, as the code defines it now, with the row's recipe, sampling and protocol.

    `weights` replaces the network's starting weights, for those who load a checkpoint anyway.
    """
    identity, preset = row["identity"], row["preset"].split()[0]  # "small --set recipe.lr=0.03"
    experiments = paper_named(row["paper"]).experiments(
        preset, row["dataset"], weights or identity["config"].get("weights", "auto")
    )
    name = row["experiment"].partition("/")[0]  # "stil-snippets/held-out-0"
    if name not in experiments:
        raise ReproError(f"{row['paper']} has no variant '{name}' any more")

    def tuples(values: Row) -> Row:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

    per_class, fold = identity.get("per_class"), identity.get("fold")
    try:
        recipe, sampling = Recipe(**tuples(identity["recipe"])), Sampling(**tuples(identity["sampling"]))
        return replace(
            experiments[name], name=row["experiment"], preset=row["preset"], recipe=recipe, sampling=sampling,
            protocol=identity["protocol"],
            per_class=tuple(per_class) if per_class else None, fold=tuple(fold) if fold else None,
        )  # fmt: skip
    except TypeError as error:
        raise ReproError(f"the row has fields that the code does not know ({error})") from error
