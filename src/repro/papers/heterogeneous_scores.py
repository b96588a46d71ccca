"""Scores of every method of the heterogeneous network's chapter, from the logits of finished runs; nothing is trained.

A method is a training's name (`temporal-resnet50-scratch`), or a pair `<spatial>+<temporal>` of base networks
(`resnet101+bn-inception`, the whole 4 x 4 grid) whose probabilities are averaged 1:1.5; `-transplanted` takes the
temporal network with a transplanted conv1, and `proposed` is the paper's pair that way. `+logits` averages logits,
`@chosen` takes the weight chosen on held-out training clips. `best-isomorphic` is the like pair that is best on the
test clips, which can only make "unlike beats like" harder to observe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from repro.errors import ReproError
from repro.experiments import IMAGES
from repro.metrics import softmax
from repro.papers.heterogeneous import TRIED
from repro.papers.heterogeneous_derived import MAIN, TEMPORAL_RUNS
from repro.papers.heterogeneous_experiments import SPATIAL, STRATEGIES, TEMPORAL, VARIANTS, dashed
from repro.papers.heterogeneous_fusion import WEIGHT, Array, Choice, choose_weight, fuse
from repro.results import Result
from repro.scores import RunKey, Scores

BASES = tuple(dashed(b) for b in TRIED)  # Table 2, as methods name them
PAIR = f"{dashed(SPATIAL)}+{dashed(TEMPORAL)}"
GRID = {f"{s}+{t}": (f"spatial-{s}", f"temporal-{t}") for s in BASES for t in BASES}
LIKE = tuple(f"{b}+{b}" for b in BASES)
UNLIKE = tuple(pair for pair in GRID if pair not in LIKE)
# Table 2 has the temporal networks of Table 3's last row, which were trained twice; the grid has those trained once.
TRANSPLANTED = {
    f"{s}+{dashed(t)}-transplanted": (f"spatial-{s}", f"temporal-{dashed(t)}-transplanted")
    for s in BASES
    for t in STRATEGIES
}
PAIRS = {**GRID, **TRANSPLANTED, "proposed": TRANSPLANTED[f"{PAIR}-transplanted"]}
FOLDS = (0, 1)


def _methods() -> dict[str, tuple[str, ...]]:
    """Every method, and every run that starts from a trained network, with the experiments that it needs."""
    out: dict[str, tuple[str, ...]] = {name: (name,) for name, v in VARIANTS.items() if v.begins != "images"}
    for name, pair in PAIRS.items():
        out |= {name: pair, f"{name}+logits": pair}
    out["best-isomorphic"] = tuple(f"{role}-{b}" for role in ("spatial", "temporal") for b in BASES)
    out[f"{PAIR}@chosen"] = (*MAIN, *(f"{name}/held-out-{k}" for name in MAIN for k in FOLDS))
    return out | {f"{name}+conv1": (f"{name}+conv1", name) for name in TEMPORAL_RUNS}


class HeterogeneousScores(Scores):
    """Scores on the test clips of one data set. `images`: by name, the pre-trainings, which have no clips."""

    methods = _methods()

    def __init__(self, runs: Mapping[RunKey, Result], dataset: str = "", classes: Sequence[str] = ()) -> None:
        on_images = {k: r for k, r in runs.items() if r.row["dataset"] == IMAGES}
        self.images = {name: r for (name, _, _), r in on_images.items()}
        super().__init__({k: r for k, r in runs.items() if k not in on_images}, dataset, classes)

    @lru_cache(maxsize=512)  # noqa: B019  (a Scores lives as long as the page that asks)
    def scores(self, method: str, split: str, seed: int, part: str = "test") -> Array:
        """Class scores (N, C) of a method: probabilities, or averaged logits for `+logits`."""
        if method == "best-isomorphic":
            return self.scores(self.best(LIKE, method), split, seed, part)
        if method == f"{PAIR}@chosen":
            return self.fused(PAIR, split, seed, self.choice(split, seed).weight, part=part)
        pair = method.removesuffix("+logits")
        if pair in PAIRS:
            return self.fused(pair, split, seed, scores="probabilities" if pair == method else "logits", part=part)
        return softmax(self.logits(method, split, seed, part))

    def logits(self, name: str, split: str, seed: int, part: str = "test") -> Array:
        """Logits (N, C) of a stream, averaged over snippets and views."""
        return self.runs[name, split, seed].logits(name.partition("-")[0], part)

    def fused(
        self, pair: str, split: str, seed: int, weight: float = WEIGHT, *, scores: str = "probabilities",
        part: str = "test",
    ) -> Array:  # fmt: skip
        """Scores (N, C) of a pair with some weight of the temporal stream."""
        spatial, temporal = (self.logits(name, split, seed, part) for name in self.needs(pair))
        return fuse(spatial, temporal, weight, scores)

    @lru_cache(maxsize=64)  # noqa: B019
    def choice(self, split: str, seed: int) -> Choice:
        """The fusion weight of the paper's pair, chosen on training clips that neither network was trained on."""
        folds = []
        for k in FOLDS:
            spatial, temporal = (self.runs[f"{name}/held-out-{k}", split, seed] for name in MAIN)
            if spatial.ids() != temporal.ids():
                raise ReproError(f"held-out runs {k} of both streams hold other clips: remove their rows and run again")
            folds.append((spatial.logits("spatial"), temporal.logits("temporal"), spatial.labels()))
        return choose_weight(folds)
