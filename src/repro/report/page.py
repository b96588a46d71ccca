"""The common part of every chapter: its parameters, what is run for it, and whether recorded runs still repeat.

A notebook notes its names (`names`), lets papermill set the parameters, and opens its chapter (`open_chapter`), which
reports any new name that is no parameter, checks values and data, and says what is to be done before doing it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from repro.costs import Estimate, together
from repro.data.catalog import DATASETS, absent, load_dataset, unofficial
from repro.errors import ReproError, nearest
from repro.experiments import Experiment, Lab, seeds_of
from repro.papers import PAPERS, Paper
from repro.plans import estimate
from repro.results import FIRST, Result, comparable, repeats, rows
from repro.setup import open_lab, splits_of
from repro.training import History

PRESETS = ("auto", "smoke", "small", "paper")
LIVE = "live"  # preset of the run that is repeated while a page is built


@dataclass(frozen=True)
class Parameters:
    """What a chapter can be asked for; the notebook's parameter cell says the same to its reader."""

    dataset: str = "motionshapes"
    data_root: str = ""
    flow_root: str = ""
    flow_bound: float = 20.0
    store_dir: str = ""
    splits: str = "default"
    seeds: str = "auto"
    preset: str = "auto"
    device: str = "auto"
    workers: int = 0
    weights: str = "auto"
    runs_dir: str = ""
    max_hours: float = 12.0


def names(namespace: Mapping[str, Any]) -> frozenset[str]:
    """The public names of a notebook so far."""
    return frozenset(name for name in namespace if not name.startswith("_"))


def read_parameters(namespace: Mapping[str, Any], before: frozenset[str]) -> Parameters:
    """Collect the parameters from a notebook's names, with the types they are declared with.

    papermill only warns of an unknown parameter and turns `-p splits 01` into 1: here the first is an error that names
    the parameter meant, and the second is read as text again.
    """
    known = {f.name: getattr(Parameters, f.name) for f in fields(Parameters)}  # name -> default
    for name in sorted(names(namespace) - before - known.keys()):
        raise ReproError(f"'{name}' is no parameter of this notebook{nearest(name, known)}: use {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, default in known.items():
        given, kind = namespace.get(name), type(default)
        value = default if given is None else given
        try:
            values[name] = kind(value)
            if kind is not str and not values[name] == float(value) >= 0:  # 2.5 workers, -1, nan
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ReproError(f"{name}={value!r}: {kind.__name__} from 0 on expected, such as {default!r}") from None
    for name, options in (("preset", PRESETS), ("dataset", tuple(DATASETS))):
        if values[name] not in options:
            raise ReproError(
                f"unknown {name} '{values[name]}'{nearest(values[name], options)}: use one of {', '.join(options)}"
            )
    return Parameters(**values)


class Chapter:
    """One paper on one data set: what its page is made from."""

    def __init__(self, paper: Paper, parameters: Parameters) -> None:
        self.paper, self.parameters = paper, parameters
        p = parameters
        self.dataset = load_dataset(p.dataset, p.data_root or None)
        self.splits = splits_of(p.splits, self.dataset.splits)
        self.preset, self.trains = p.preset, True
        asked = seeds_of("all" if p.seeds == "auto" else p.seeds)
        self.seeds = asked if p.seeds != "auto" else [1]
        if p.preset == "auto":
            self.preset = "small"
            self._open_labs()
            recorded = self._recorded(asked)
            self.trains = not recorded if p.seeds == "auto" else recorded != asked
            if not self.trains:
                self.seeds = recorded
            elif self.labs[0].device.type == "cuda":
                self.preset = "paper"
        self._open_labs()

    def _recorded(self, seeds: Sequence[int]) -> list[int]:
        """Those seeds of which every split has a recorded run. Own ones do not count: they may have been stopped.

        One is enough: what was not recorded shows as not run, and `preset=small` trains it.
        """
        folder = self.labs[0].library.recorded
        keys = {row["key"] for _, row in rows(folder)} if folder else set()
        every = [e for e in self.experiments.values() if not e.images]  # those are the same for all data sets
        return [s for s in seeds if any(all(lab.key(e, s) in keys for lab in self.labs) for e in every)]

    def _open_labs(self) -> None:
        p = self.parameters
        self.experiments: dict[str, Experiment] = self.paper.experiments(self.preset, p.dataset, p.weights)
        self.labs = [self._lab(split, self.preset) for split in self.splits]

    def _lab(self, split: str, preset: str) -> Lab:
        p = self.parameters
        return open_lab(
            self.dataset, split=split, short_side=self.paper.short_side(preset, p.dataset), store=p.store_dir or None,
            runs=p.runs_dir or None, device=p.device, workers=p.workers, flow_root=p.flow_root or None,
            flow_bound=p.flow_bound, on_error="skip", progress=self._log,
        )  # fmt: skip

    def _log(self, what: str, done: int, total: int) -> None:
        """Progress goes to a file: in a cell's output it would differ from run to run."""
        path = self.labs[0].runs_dir / "progress.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.now().strftime("%H:%M:%S")
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{now} {what} {done}/{total}\n")

    # -- before -----------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> list[tuple[Experiment, int]]:
        """Every training of the chapter, for one split."""
        return [(e, seed) for e in self.experiments.values() for seed in self.seeds]

    def estimate(self) -> Estimate:
        """What is to be done before the page is complete."""
        if not self.trains:
            return Estimate()
        return together(estimate(lab, self.runs) for lab in self.labs)

    def plan(self) -> str:
        """Say what the page is made from; refuse when it would take longer than `max_hours`."""
        d, p = self.dataset, self.parameters
        seeds = ", ".join(map(str, self.seeds))
        lines = [
            f"Data set {d.name}: {len(d.clips)} clips, {len(d.classes)} classes; split {', '.join(self.splits)}.",
            f"Preset {p.preset}" + (f", here {self.preset}" if p.preset != self.preset else "") + f"; seeds {seeds}.",
        ]
        if different := unofficial(d):
            lines.append(f"These are not the official lists: {different}.")
        if gone := absent(d):
            lines.append(f"{gone[0].upper()}{gone[1:]}.")
        if not self.trains:
            return "\n".join([*lines, "Results recorded for this data set are used; one run is repeated live."])
        cost = self.estimate()
        lines += ["To do now, about:", *(f"  {line}" for line in cost.lines())]
        lines.append("What starts from trained networks (an SVM, maps of attention) comes on top.")
        hours = cost.seconds / 3600
        if hours > p.max_hours:
            raise ReproError(
                f"about {hours:.1f} hours of work, more than max_hours={p.max_hours:g}: "
                "raise max_hours, or ask for fewer seeds or preset=small"
            )
        return "\n".join(lines)

    # -- work -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train what is missing, then make what starts from trained networks."""
        if not self.trains:
            return
        for lab in self.labs:
            for experiment, seed in self.runs:
                lab.run(experiment, seed)
                self.paper.derive(lab, experiment, seed)

    def check(self, seeds: tuple[int, ...] = (1,)) -> list[tuple[str, int, bool]]:
        """Repeat the first losses of the stored runs of some seeds: (experiment, seed, whether they repeat).

        Runs that start from networks which would have to be trained first are left out (`unchecked`).
        """
        lab = self.labs[0]
        return [(e.name, s, lab.verify(e, s)) for e, s in self._stored(seeds) if not self._left_out(e, s)]

    def unchecked(self, seeds: tuple[int, ...] = (1,)) -> list[str]:
        """Stored runs of some seeds that `check` leaves out: what they start from is kept in no checkpoint here, or
        ended differently on this kind of processor."""
        return list(dict.fromkeys(e.name for e, s in self._stored(seeds) if self._left_out(e, s)))

    def _left_out(self, experiment: Experiment, seed: int) -> bool:
        lab = self.labs[0]
        return bool(lab.unfinished_starts(experiment, seed)) or lab.drifted(experiment, seed)

    def _stored(self, seeds: Sequence[int]) -> list[tuple[Experiment, int]]:
        lab = self.labs[0]
        runs = {lab.key(e, s): (e, s) for e in self.experiments.values() for s in seeds if lab.has(e, s)}
        return [run for key, run in runs.items() if comparable(lab.library.get(key).row, lab.device.type)]

    def again(self, name: str) -> Again:
        """Train one recorded run once more, here and now, and compare; real clips are all decoded on the way."""
        lab = self._lab(self.splits[0], LIVE if self.preset != "smoke" else "smoke")
        preset = LIVE if self.preset != "smoke" else "smoke"
        experiment = self.paper.experiments(preset, self.dataset.name)[name]
        if self.dataset.render is None:
            lab.prepare(c for part in ("train", "test") for c in self.dataset.select(self.splits[0], part))
        recorded = lab.run(experiment, 1) if lab.has(experiment, 1) else None
        live = lab.repeat(experiment, 1)
        return Again(experiment, recorded, live, lab, lab.drifted(experiment, 1))


@dataclass(frozen=True)
class Again:
    """A run repeated while the page was built."""

    experiment: Experiment
    recorded: Result | None
    live: History
    lab: Lab
    drifted: bool = False  # what it starts from began as recorded and ended differently

    @property
    def repeats(self) -> bool | None:
        """Whether it begins like the recorded one; None when there is none, or none to compare with."""
        if self.recorded is None:
            return None
        return repeats(self.recorded.row, self.live.losses) or (None if self.drifted else False)

    def __str__(self) -> str:
        if self.recorded is None:
            return f"{self.experiment.name}: trained live; there is no recorded run of this data set to compare with."
        date = self.recorded.row["provenance"]["date"]
        if self.repeats is None:
            return (
                f"{self.experiment.name}, recorded on {date}: the networks that it starts from repeat at first and "
                "drift apart later, as on another kind of processor, so its own losses cannot be compared."
            )
        word = "repeats" if self.repeats else "does NOT repeat: the recorded rows are stale"
        return f"{self.experiment.name}, recorded on {date}: {word} (first {FIRST} losses)."


def open_chapter(paper: str, namespace: Mapping[str, Any], before: frozenset[str]) -> Chapter:
    """Read and check the parameters, open data, store and results, and print the plan."""
    chapter = Chapter(PAPERS[paper], read_parameters(namespace, before))
    print(chapter.plan())
    return chapter
