"""Invented results of the STILT chapter: random logits that know a little about the classes, filed as runs would be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from repro.data.catalog import WEIZMANN_CLASSES, Clip
from repro.data.motionshapes import CLASSES, records
from repro.papers.stilt_derived import PROBES, SNIPPET_COUNTS
from repro.results import Result

Array = np.ndarray[Any, Any]
Runs = dict[tuple[str, str, int], Result]
JOINT = (
    "stil-snippets", "stil-regions", "control-snippets", "control-regions", "unguided-snippets", "unguided-regions",
    "tst-snippets", "stil-snippets@resnet34", "stil-snippets@vgg19",
)  # fmt: skip
STEPS = ("S1", "T", "S2")


def shapes_clips(groups: Iterable[int]) -> list[Clip]:
    """motionshapes' own clips of some groups, all 14 classes, 3 clips of each."""
    wanted = {f"g{g:02d}" for g in groups}
    return [Clip(r.id, r.path, r.label, r.group, {}, r.tags) for r in sorted(records()) if r.group in wanted]


def weizmann_clips(people: Iterable[str]) -> list[Clip]:
    clips = [
        Clip(f"{c}/{who}_{c}", f"{who}_{c}.avi", label, who)
        for who in people
        for label, c in enumerate(WEIZMANN_CLASSES)
    ]
    return sorted(clips, key=lambda clip: clip.id)


SHAPES = (shapes_clips((9, 10, 11)), shapes_clips((1, 2)))
PERSONS = (weizmann_clips(("daria", "denis", "eli")), weizmann_clips(("ido",)))
PARTS = {"motionshapes": (SHAPES, CLASSES), "weizmann": (PERSONS, WEIZMANN_CLASSES)}


def who(part: str, clips: Sequence[Clip]) -> dict[str, Array]:
    return {
        f"{part}_ids": np.array([c.id for c in clips], np.str_),
        f"{part}_labels": np.array([c.label for c in clips], np.int16),
        f"{part}_groups": np.array([c.group for c in clips], np.str_),
    }


class Inventor:
    """Makes results of one data set; every name, split and seed has logits of its own."""

    def __init__(self, dataset: str, parts: tuple[list[Clip], list[Clip]] | None = None) -> None:
        own, self.classes = PARTS[dataset]
        self.dataset, self.parts = dataset, dict(zip(("train", "test"), parts or own, strict=True))

    def _logits(self, rng: np.random.Generator, clips: Sequence[Clip], bump: float) -> Array:
        logits = rng.normal(size=(len(clips), len(self.classes)))
        logits[np.arange(len(clips)), [c.label for c in clips]] += bump * rng.random(len(clips))
        return logits.astype(np.float16)

    def result(self, name: str, split: str, seed: int, outputs: Sequence[str], arrays: dict[str, Array],
               key: str = "", of: str = "") -> Result:  # fmt: skip
        row: dict[str, Any] = {
            "key": key or f"{name} {split} {seed}", "paper": "stilt", "experiment": name, "preset": "small",
            "dataset": self.dataset, "classes": list(self.classes), "split": split, "seed": seed,
            "identity": {"protocol": "quick"}, "outputs": list(outputs), "left_out": {},
            "provenance": {"commit": "0" * 12, "date": "2024-01-01", "device": "cpu", "python": "3.11.0",
                           "versions": {"torch": "2.5"}, "seconds": 60.0, "first_losses": [5.0, 4.0, 3.0]},
        }  # fmt: skip
        if of:
            row["derived"] = {"of": of, "settings": {}}
        return Result(row, {k: a for part, c in self.parts.items() for k, a in who(part, c).items()} | arrays)

    def run(self, name: str, split: str = "1", seed: int = 1, *, key: str = "", bump: float = 4.0) -> Result:
        """What training the experiment `name` would file."""
        rng = np.random.default_rng([seed, *f"{name} {split}".encode()])
        outputs = [name] if name in ("spatial", "temporal") else ["spatial", "temporal"]
        arrays = {f"{p}_{o}": self._logits(rng, clips, bump) for o in outputs for p, clips in self.parts.items()}
        arrays["losses"] = np.linspace(5, 1, 40, dtype=np.float32)
        return self.result(name, split, seed, outputs, arrays, key)

    def derived(self, base: str, what: str, split: str = "1", seed: int = 1, *, key: str = "", of: str = "") -> Result:
        """What `stilt_derived` would file under `base+what`."""
        rng = np.random.default_rng([seed, *f"{base}+{what} {split}".encode()])
        clips, outputs = self.parts["test"], []
        n, arrays = len(clips), {}
        if what == "svm":
            outputs = ["svm", "svm_attended", "svm_fc"]
            arrays = {f"test_{o}": self._logits(rng, clips, 3.0) for o in outputs}
        if what == "probes":
            names = (*PROBES, *(f"snippets_{k}" for k in SNIPPET_COUNTS))
            arrays = {f"fused_{p}": np.exp(self._logits(rng, clips, 4.0)) for p in names}
        if what == "attention":
            shape = (32, 8, 4, 4) if base == "stil-regions" else (n, 8)
            arrays = {f"attention_{s}": rng.dirichlet(np.ones(8), shape[0]).astype(np.float16) for s in STEPS}
            if base == "stil-regions":
                arrays = {k: rng.random(shape).astype(np.float16) for k in arrays}
            if self.dataset == "motionshapes":
                arrays |= {f"share_attended_{s}": rng.random(n).astype(np.float32) for s in STEPS}
                arrays["share_uniform"] = rng.random(n).astype(np.float32)
        return self.result(f"{base}+{what}", split, seed, outputs, arrays, key, of or "?")

    def all_runs(self, seeds: Sequence[int], splits: Sequence[str] = ("1",), *, derived: bool = True) -> Runs:
        """Every training of the chapter, and what follows from the two STIL networks."""
        found = [
            self.run(name, split, seed)
            for split in splits for seed in seeds for name in ("spatial", "temporal", *JOINT)
        ]  # fmt: skip
        for split in splits if derived else ():
            for seed in seeds:
                found += [self.derived(b, w, split, seed) for b in JOINT[:2] for w in ("svm", "attention", "probes")]
                found += self.held_out(split, seed)
        return {(r.row["experiment"], r.row["split"], r.row["seed"]): r for r in found}

    def held_out(self, split: str, seed: int) -> list[Result]:
        """Two trainings on half of the training groups each, tested on the other half."""
        groups = sorted({c.group for c in self.parts["train"]})
        halves = [[c for c in self.parts["train"] if groups.index(c.group) % 2 == k] for k in (0, 1)]
        return [
            Inventor(self.dataset, (halves[1 - k], halves[k])).run(f"stil-snippets/held-out-{k}", split, seed)
            for k in (0, 1)
        ]
