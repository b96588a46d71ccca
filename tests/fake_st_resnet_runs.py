"""Invented results of the ST-ResNet chapter, filed as runs would be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fake_runs import Inventor, Runs

from repro.papers.st_resnet_experiments import VARIANTS
from repro.results import Result

Array = np.ndarray[Any, Any]
SINGLE = {name: "motion" if name == "motion" else "appearance" for name in VARIANTS if not VARIANTS[name].start}
PROBED = ("st-resnet", "both-ways", "joint", "plain", "skips")
PROBES = ("swapped", "no-motion", "no-appearance", "no-skips")


def outputs(name: str) -> list[str]:
    if name in SINGLE:
        return [SINGLE[name]]
    return ["joint"] if name == "joint" else ["appearance", "motion"]


class StResNetInventor(Inventor):
    """Makes results of one data set; every name, split and seed has logits of its own."""

    def run(self, name: str, split: str = "1", seed: int = 1, *, key: str = "", bump: float = 4.0) -> Result:
        """What training the experiment `name` would file."""
        rng = np.random.default_rng([seed, *f"st {name} {split}".encode()])
        arrays = {f"{p}_{o}": self._logits(rng, clips, bump) for o in outputs(name) for p, clips in self.parts.items()}
        arrays["losses"] = np.linspace(5, 1, 40, dtype=np.float32)
        return self._filed(self.result(name, split, seed, outputs(name), arrays, key))

    def derived(self, base: str, what: str, split: str = "1", seed: int = 1, *, key: str = "", of: str = "") -> Result:
        """What `st_resnet_derived` would file under `base+what`."""
        rng = np.random.default_rng([seed, *f"st {base}+{what} {split}".encode()])
        clips, arrays = self.parts["test"], {}
        if what == "crops":
            arrays = {f"test_{o}": self._logits(rng, clips, 4.0) for o in outputs(base)}
            arrays["seconds_full"] = np.array([2.0 + rng.random()], np.float32)
            arrays["seconds_crops"] = np.array([9.0 + rng.random()], np.float32)
        else:
            for probe in PROBES if base not in ("plain",) else PROBES[:-1]:
                arrays |= {f"{probe}_{o}": self._logits(rng, clips, 2.0) for o in outputs(base)}
            if base == "st-resnet":
                arrays["printed_units"] = rng.random((4, 3)).astype(np.float32)
                arrays["moment_noise"] = rng.random((4, 2)).astype(np.float32)
        kept = outputs(base) if what == "crops" else []
        return self._filed(self.result(f"{base}+{what}", split, seed, kept, arrays, key, of or "?"))

    @staticmethod
    def _filed(result: Result) -> Result:
        result.row["paper"] = "st_resnet"
        return result

    def all_runs(self, seeds: Sequence[int], splits: Sequence[str] = ("1",), *, derived: bool = True) -> Runs:
        """Every training of the chapter, and what starts from trained networks."""
        found = [self.run(name, split, seed) for split in splits for seed in seeds for name in VARIANTS]
        for split in splits if derived else ():
            for seed in seeds:
                found += [self.derived(base, "probes", split, seed) for base in PROBED]
                found.append(self.derived("st-resnet", "crops", split, seed))
        return {(r.row["experiment"], r.row["split"], r.row["seed"]): r for r in found}
