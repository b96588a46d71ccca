"""What is trained: everything that decides the outcome of a run, and the clips that it sees."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from repro.data.catalog import Clip
from repro.data.clips import Sampling
from repro.data.layouts import PARTS
from repro.data.textures import Textures
from repro.errors import ReproError
from repro.training import Loss, Recipe, sum_of_losses

States = Sequence[Mapping[str, Tensor]]  # the weights that runs ended with


@dataclass(frozen=True)
class Experiment:
    """One row of a paper's tables as something that can be trained.

    `build(num_classes)` makes the network; like the name and the `loss` it does not enter the key: `config` says what
    decides both. `per_class` keeps that many clips of each class for training and for testing; `fold` (k, n) trains on
    all but the k-th of n group-wise folds of the training clips and tests on that fold, which is how recipes are tuned
    without looking at test clips.

    `start` are experiments that come first, with the same seed, split and fold: `begin(model, states)` puts their
    weights into the network. `images` (arguments of `Textures`, with a `seed` that all runs share) trains on generated
    images instead of clips: a pre-training for others to start from.

    `weights` are those that somebody asked for ("auto": the preset's), `backbone` is the base network that `build`
    loads them into ("": into none). Neither enters the key, which has the weights with the configuration.

    `keep` are the parts of the data whose scores are filed: "train" where something is computed from them.
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
    weights: str = "auto"
    backbone: str = ""
    loss: Loss = field(default=sum_of_losses, compare=False, repr=False)
    keep: tuple[str, ...] = PARTS

    def starts(self) -> tuple[Experiment, ...]:
        """The experiments that come first, on the same clips; in a fold they bear its name too."""
        _, slash, fold = self.name.partition("/")
        return tuple(
            e
            if e.images
            else dataclasses.replace(e, name=f"{e.name}{slash}{fold}", per_class=self.per_class, fold=self.fold)
            for e in self.start
        )

    def trainings(self) -> tuple[Experiment, ...]:
        """All that are needed: what comes first, in order and each once, then itself."""
        first = (one for start in self.starts() for one in start.trainings())
        found: list[Experiment] = []
        for one in (*first, self):
            if one not in found:
                found.append(one)
        return tuple(found)

    def scored(self, training: int, testing: int) -> int:
        """How many clips are scored once a network is trained, of so many training and test clips."""
        counts = dict(zip(PARTS, (training, testing), strict=True))
        return sum(counts[part] for part in self.keep)

    def depth(self) -> int:
        """How many trainings come first, one after the other."""
        return max((1 + e.depth() for e in self.start), default=0)

    def identity(self) -> dict[str, Any]:
        """Everything that decides the outcome, as plain values."""
        out: dict[str, Any] = {
            "paper": self.paper,
            "config": dict(self.config),
            "recipe": _given(self.recipe),
            "sampling": _given(self.sampling),
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

    def network(self, classes: int) -> nn.Module:
        """The untrained network for a data set of so many classes; generated images have a number of their own."""
        return self.build(self.images["classes"] if self.images else classes)

    def textures(self, part: str) -> Textures:
        """The generated images of one part, "train" or "test"."""
        kept = dict(self.images or {})
        per_class = kept.pop("per_class")
        return Textures(part, per_class=per_class if part == "train" else max(1, per_class // 5), **kept)


def _given(settings: Recipe | Sampling) -> dict[str, Any]:
    """The fields that are used: later ones are None where they are not, and older keys stay as they are."""
    return {k: v for k, v in dataclasses.asdict(settings).items() if v is not None}


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


def seeds_of(value: str | int, known: Sequence[int] = (1, 2, 3)) -> list[int]:
    """Read the `seeds` parameter: 1, "1,2" or "all" (those that the book records)."""
    if str(value).strip() == "all":
        return list(known)
    try:
        found = [int(part) for part in str(value).split(",")]
    except ValueError:
        raise ReproError(f'seeds={value!r} is not understood: write 1, "1,2" or "all"') from None
    return found
