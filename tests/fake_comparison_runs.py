"""Invented results of the comparison, filed as runs would be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fake_runs import Inventor, Runs

from repro.papers.comparison_experiments import JOINT, OUTPUTS
from repro.results import Result

SECONDS = 60.0  # of every training


class ComparisonInventor(Inventor):
    """Makes results of one data set; every name, split and seed has logits of its own."""

    def result(self, *args: Any, **kwargs: Any) -> Result:
        made = super().result(*args, **kwargs)
        made.row["paper"] = "comparison"
        return made

    def run(self, name: str, split: str = "1", seed: int = 1, *, key: str = "", bump: float = 4.0) -> Result:
        """What training the experiment `name` would file."""
        rng = np.random.default_rng([seed, *f"comparison {name} {split}".encode()])
        outputs = list(OUTPUTS[name].values())
        arrays = {f"test_{out}": self._logits(rng, self.parts["test"], bump) for out in outputs}
        arrays["losses"] = np.linspace(3, 1, 60, dtype=np.float32)
        return self.result(name, split, seed, outputs, arrays, key)

    def derived(self, base: str, what: str, split: str = "1", seed: int = 1, *, key: str = "", of: str = "") -> Result:
        """What `comparison_derived` would file under `base+what`."""
        rng = np.random.default_rng([seed, *f"comparison {base}+{what} {split}".encode()])
        clips, outputs = self.parts["test"], []
        if what == "views":
            outputs = list(OUTPUTS[base].values())
            arrays = {f"test_{out}": self._logits(rng, clips, 3.0) for out in outputs}
        else:
            arrays = {
                f"{way}_{m}": self._logits(rng, clips, 2.0) for way in ("swapped", "reversed") for m in OUTPUTS[base]
            }
        return self.result(f"{base}+{what}", split, seed, outputs, arrays, key, of or "?")

    def all_runs(self, seeds: Sequence[int], splits: Sequence[str] = ("1",), *, derived: bool = True) -> Runs:
        """Every run of the comparison."""
        found: Runs = {}
        for name in OUTPUTS:
            for split in splits:
                for seed in seeds:
                    found[name, split, seed] = self.run(name, split, seed)
                    for what in ("views", *(["probes"] if name in JOINT else [])) if derived else ():
                        found[f"{name}+{what}", split, seed] = self.derived(name, what, split, seed)
        return found
