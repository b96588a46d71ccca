"""Invented results of the CCS chapter, filed as runs would be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fake_runs import Inventor, Runs

from repro.papers.ccs_derived import DERIVED, LATE, OTHER, components, spread
from repro.papers.ccs_experiments import VARIANTS
from repro.results import Result

Array = np.ndarray[Any, Any]
STEPS = 100


class CCSInventor(Inventor):
    """Makes results of one data set; every name, split and seed has logits of its own."""

    def result(self, *args: Any, **kwargs: Any) -> Result:
        made = super().result(*args, **kwargs)
        made.row["paper"] = "ccs"
        return made

    def run(self, name: str, split: str = "1", seed: int = 1, *, key: str = "", bump: float = 4.0) -> Result:
        """What training the experiment `name` would file; its loss falls at a speed of its own."""
        rng = np.random.default_rng([seed, *f"ccs {name} {split}".encode()])
        arrays = {f"{p}_{m}": self._logits(rng, clips, bump) for m in OTHER for p, clips in self.parts.items()}
        noise = 0.02 * rng.normal(size=STEPS)
        arrays["losses"] = (np.exp(-np.arange(STEPS) / (10 + 20 * rng.random())) + noise).astype(np.float32)
        return self.result(name, split, seed, list(OTHER), arrays, key)

    def derived(self, base: str, what: str, split: str = "1", seed: int = 1, *, key: str = "", of: str = "") -> Result:
        """What `ccs_derived` would file under `base+what`."""
        rng = np.random.default_rng([seed, *f"ccs {base}+{what} {split}".encode()])
        clips, outputs = self.parts["test"], []
        labels, n = np.array([c.label for c in clips]), len(clips)
        arrays: dict[str, Array] = {}
        if what == "groups":
            outputs = list(OTHER)
            arrays = {f"test_{m}": self._logits(rng, clips, 4.0) for m in OTHER}
        elif what == "probes":
            names = [f"{way}-{changed}_{shown}" for changed, shown in OTHER.items() for way in ("swapped", "no")]
            names += [f"late-{how}" for how in LATE] if base == "all" else []
            arrays = {name: self._logits(rng, clips, 2.0) for name in names}
        elif what == "embedding":
            rgb, flow = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, n, 6)))
            kept = np.arange(0, n, 3)
            arrays = components(rgb[kept], flow[kept]) | {"kept": kept.astype(np.int16)} | spread(rgb, flow, labels)
        else:
            arrays = {"maps": rng.normal(size=(n, 8, 2, 2)).astype(np.float16)}
            shares = rng.random((2, n)).astype(np.float32)
            shares[:, :: n - 1] = np.nan if self.dataset == "weizmann" else 0.5
            arrays |= {"share_map": shares[0], "share_actor": shares[1]}
        return self.result(f"{base}+{what}", split, seed, outputs, arrays, key, of or "?")

    def all_runs(self, seeds: Sequence[int], splits: Sequence[str] = ("1",), *, derived: bool = True) -> Runs:
        """Every training of the chapter, and what starts from trained networks."""
        found = [self.run(name, split, seed) for split in splits for seed in seeds for name in VARIANTS]
        for split in splits if derived else ():
            for seed in seeds:
                found += [self.derived(n, what, split, seed) for what, (_, names) in DERIVED.items() for n in names]
        return {(r.row["experiment"], r.row["split"], r.row["seed"]): r for r in found}
