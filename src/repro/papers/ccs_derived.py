"""Runs of the CCS chapter that start from a trained network: probes of what an output knows from the other stream, the
features of Figure 4, the maps of Figure 6, and the test on groups of snippets.

Each is filed as a result of its own, because the network itself is not kept. N test clips, C classes, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as V

from repro.data.catalog import Clip, Dataset
from repro.data.clips import Sampling, Store, TestSamples, TestViews
from repro.errors import ReproError
from repro.evaluation import protocol, score
from repro.experiments import Experiment, Lab
from repro.papers.ccs import CCS, fuse
from repro.papers.ccs_actors import seen, views_of
from repro.papers.ccs_losses import STREAMS
from repro.papers.ccs_streams import aggregate_scores
from repro.results import Result, compact
from repro.training import to_network

Array = np.ndarray[Any, Any]
Parts = tuple[Clip, ...]
MAIN = "all"
PROBED = (MAIN, "cb")
EMBEDDED = ("baseline", MAIN, "all@no-triplet", "all@no-embedding")
MAPPED = (MAIN, "baseline")
GROUPED = (MAIN,)
OTHER = {"rgb": "flow", "flow": "rgb"}
LATE = ("average", "maximum", "product")  # Figure 5a read as fusion of scores (ledger ccs-L25)
# Test clips whose features and maps are kept for the figures, and how many principal components of the features.
FEATURES_KEPT, MAPS_KEPT, COMPONENTS_KEPT = 70, 400, 8


class Reader(nn.Module):
    """A trained CCS that gives something else than its logits; `read(model, rgb, flow)` says what."""

    def __init__(self, model: CCS, read: Callable[[CCS, Tensor, Tensor], dict[str, Tensor]]) -> None:
        super().__init__()
        self.model, self.read = model, read

    def forward(self, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """Named tensors with one row per clip, for rgb (B, T, 3, H, W) and flow (B, T, 2L, H, W)."""
        return self.read(self.model, rgb, flow)


# ---------------------------------------------------------------- the other input comes from another clip


def partners(clips: Sequence[Clip], foreign: Callable[[Clip, Clip], bool]) -> list[Clip]:
    """For every clip another one whose input it gets: the next `foreign` one in the order of a hash of the ids.

    ReproError where a clip has none.
    """
    order = sorted(clips, key=lambda c: hashlib.blake2b(c.id.encode()).digest())
    place = {clip.id: i for i, clip in enumerate(order)}
    found = []
    for clip in clips:
        i = place[clip.id]
        fits = (other for other in (*order[i + 1 :], *order[:i]) if foreign(clip, other))
        if (other := next(fits, None)) is None:
            raise ReproError(f"no test clip is so unlike {clip.id} that it could lend its input: test on more classes")
        found.append(other)
    return found


def foreign_to(dataset: Dataset, swapped: str) -> Callable[[Clip, Clip], bool]:
    """Whether a clip's `swapped` input ("rgb" or "flow") says another class than one's own.

    motionshapes shares looks and motions between classes: there the look (rgb) or the motion (flow) must be another.
    """
    if dataset.name != "motionshapes":
        return lambda a, b: a.label != b.label
    from repro.data.motionshapes import CLASSES, SCRIPTS  # here, because it needs OpenCV

    roles = [SCRIPTS[name][1] for name in CLASSES]
    shown = [tuple(role.hues if swapped == "rgb" else role.verbs for role in actors) for actors in roles]
    return lambda a, b: shown[a.label] != shown[b.label]


class SwappedInput:
    """Test samples whose `swapped` input ("rgb" or "flow") comes from another clip; the other one is the clip's own."""

    def __init__(self, store: Store, clips: Sequence[Clip], lent: Sequence[Clip], sampling: Sampling,
                 views: TestViews, swapped: str) -> None:  # fmt: skip
        self.swapped, self.kept = swapped, OTHER[swapped]
        self.own = TestSamples(store, clips, replace(sampling, streams=(self.kept,)), views)
        self.lent = TestSamples(store, lent, replace(sampling, streams=(swapped,)), views)

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """`rgb` (V, T, 3, h, w) and `flow` (V, T, 2L, h, w), uint8; what is lent is resized to the clip's own size."""
        own, lent = self.own[position][self.kept], self.lent[position][self.swapped]
        if lent.shape[-2:] != own.shape[-2:]:
            lent = V.resize(lent, list(own.shape[-2:]), antialias=True)
        return {self.kept: own, self.swapped: lent}


def _no(silent: str) -> Callable[[CCS, Tensor, Tensor], dict[str, Tensor]]:
    """Zeros for an input: nothing moves, or every pixel has ImageNet's mean colour."""

    def read(model: CCS, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
        given = {"rgb": rgb, "flow": flow}
        given[silent] = torch.zeros_like(given[silent])
        found: dict[str, Tensor] = model(**given)
        return found

    return read


def _late(model: CCS, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    found = model.snippet_scores(rgb, flow)
    return {f"{how}_{m}": aggregate_scores(x.float(), how) for m, x in found.items() for how in LATE}


def probes(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """What an output knows from the other stream: logits (N, C), float16, of one output with the other input changed.

    `swapped-flow_rgb`: the RGB output, with flow of another clip (`foreign_to`); `no-flow_rgb`: with zeros for flow;
    `swapped-rgb_flow` and `no-rgb_flow`: the flow output (ledger ccs-L21). For the whole network also `late-average`,
    `late-maximum` and `late-product`: Figure 5a on each snippet's scores, both outputs fused (ledger ccs-L25).
    """
    views = protocol(experiment.protocol)

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        assert isinstance(model, CCS)
        arrays = {}
        for changed, shown in OTHER.items():
            lent = partners(testing, foreign_to(lab.dataset, changed))
            samples = SwappedInput(lab.store, testing, lent, experiment.sampling, views, changed)
            swapped = score(model, samples, experiment.sampling, device=str(lab.device), workers=lab.workers)
            arrays[f"swapped-{changed}_{shown}"] = swapped[shown]
            arrays[f"no-{changed}_{shown}"] = lab.evaluate(Reader(model, _no(changed)), experiment, testing)[shown]
        if experiment.name == MAIN:
            late = lab.evaluate(Reader(model, _late), experiment, testing)
            arrays |= {f"late-{how}": fuse(late[f"{how}_rgb"], late[f"{how}_flow"]) for how in LATE}
        return {name: compact(x) for name, x in arrays.items()}

    return lab.derived(experiment, seed, "probes", {"changed": list(OTHER), "late": list(LATE)}, [], compute)


# ---------------------------------------------------------------- Figure 4: features of both modalities


def _features(model: CCS, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    return model.explain(rgb, flow).features


def embedding(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """The features z of Eq. 4 and 5 of the test clips, at unit length, and how they lie (claims ccs-11 and ccs-12).

    Arrays: `rgb` and `flow` (K, c), see `components`, of `FEATURES_KEPT` clips at most, equally many of every class,
    with their `scatter`, and `kept` (K,), where these are among the test clips; and the numbers of `spread` over all.
    """

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        assert isinstance(model, CCS)
        z = lab.evaluate(Reader(model, _features), experiment, testing)
        unit = {m: F.normalize(torch.from_numpy(x), eps=1e-6).numpy() for m, x in z.items()}
        labels = np.array([c.label for c in testing])
        kept = _kept(testing)
        arrays = components(unit["rgb"][kept], unit["flow"][kept]) | {"kept": kept.astype(np.int16)}
        return arrays | spread(unit["rgb"], unit["flow"], labels)

    settings = {"kept": FEATURES_KEPT, "components": COMPONENTS_KEPT}
    return lab.derived(experiment, seed, "embedding", settings, [], compute)


def components(rgb: Array, flow: Array) -> dict[str, Array]:
    """Features (K, D) of both modalities on the first principal components of all 2 K together.

    `rgb` and `flow` (K, c) float32, c = `COMPONENTS_KEPT` or as many as there are, the largest first; their signs mean
    nothing. `scatter` (): the sum of all D components' squares.
    """
    both = np.concatenate([rgb, flow]).astype(np.float64)
    centred = both - both.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:COMPONENTS_KEPT]
    found = (centred @ axes.T).astype(np.float32)
    return {"rgb": found[: len(rgb)], "flow": found[len(rgb) :], "scatter": np.array(np.square(centred).sum())}


def _kept(clips: Sequence[Clip]) -> Array:
    """Positions (K,) of equally many clips of each class, in order; where there are too many classes, of the first."""
    labels = sorted({c.label for c in clips})
    each = max(1, FEATURES_KEPT // len(labels))
    order = sorted(range(len(clips)), key=lambda i: hashlib.blake2b(clips[i].id.encode()).digest())
    chosen = [[i for i in order if clips[i].label == label][:each] for label in labels[:FEATURES_KEPT]]
    return np.array(sorted(i for part in chosen for i in part))


def spread(rgb: Array, flow: Array, labels: Array) -> dict[str, Array]:
    """How features at unit length (N, D) of the same clips lie; float32, squared distances as shares of the largest, 4.

    `gap` (N,): between a clip's two features. `foreign` (N,): whether the nearest feature of the other modality among
    the other clips is of another class, averaged over both directions. `within` (2, N), rgb and flow: from the mean of
    the clip's class. `between` (2, c): from a class's mean to the nearest one of another class. Means are over these
    clips; c classes, those that have clips, in order.
    """
    across = rgb @ flow.T  # (N, N): 1 - d^2 / 2
    classes, index = np.unique(labels, return_inverse=True)
    foreign = []
    for near in (across, across.T):
        others = near.copy()
        np.fill_diagonal(others, -np.inf)
        foreign.append(labels[others.argmax(axis=1)] != labels)
    within, between = [], []
    for z in (rgb, flow):
        means = np.stack([z[index == i].mean(axis=0) for i in range(len(classes))])  # (c, D)
        within.append(np.square(z - means[index]).sum(axis=1) / 4)
        apart = np.square(means[:, None] - means[None]).sum(axis=2) / 4
        np.fill_diagonal(apart, np.inf)
        between.append(apart.min(axis=1))
    found = {
        "gap": np.square(rgb - flow).sum(axis=1) / 4,
        "foreign": np.mean(foreign, axis=0),
        "within": np.stack(within),
        "between": np.stack(between),
    }
    return {name: x.astype(np.float32) for name, x in found.items()}


# ---------------------------------------------------------------- Figure 6: class activation maps


def cam(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """Class activation maps of the RGB stream for each test clip's own class (claim ccs-17).

    Arrays: `maps` (K, T, h, w) float16, signed, as small as the network's last ones, of the first `MAPS_KEPT` test
    clips at most. Where actors are known, `share_map` (N,) and `share_actor` (N,): which share of the map
    lies on them (`on_actor`), and which share of the picture they are; nan for a clip whose actor nobody knows.
    """
    views, sampling = views_of(lab.dataset, experiment), experiment.sampling

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        assert isinstance(model, CCS)
        samples = TestSamples(lab.store, testing, sampling, views)
        maps, shares = [], []
        for i, clip in enumerate(testing):
            given = to_network(samples[i], lab.device, sampling)  # one view: (1, T, C, h, w)
            found = model.activation_maps(torch.tensor([clip.label]), **given)["rgb"][0].float().cpu()  # (T, h, w)
            maps += [found.numpy().astype(np.float16)] if i < MAPS_KEPT else []
            actor = seen(lab.dataset, lab.store, experiment, clip).actor
            shares.append((np.nan, np.nan) if actor is None else on_actor(found, actor))
        arrays = {"maps": np.stack(maps)}
        on_map, on_picture = np.array(shares, np.float32).T
        return arrays | ({} if np.isnan(on_map).all() else {"share_map": on_map, "share_actor": on_picture})

    return lab.derived(experiment, seed, "cam", {"kept": MAPS_KEPT}, [], compute)


def on_actor(maps: Tensor, actor: Array) -> tuple[float, float]:
    """Return which share of rectified maps (T, h, w), enlarged to the picture, lies on the actor (T, H, W in 0..1), and
    which share of the picture the actor is. Without anything positive the first is the second."""
    there = float(actor.mean())
    large = F.interpolate(maps.clamp(min=0)[None], actor.shape[1:], mode="bilinear")[0].double().numpy()
    total = float(large.sum())
    return (float((large * actor).sum() / total) if total > 0 else there), there


# ---------------------------------------------------------------- Sec. 4.2: the test on groups of snippets


def _in_groups(model: CCS, rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    own = model.config
    model.config = replace(own, test="groups")
    try:
        return model.explain(rgb, flow).logits
    finally:
        model.config = own


def groups(lab: Lab, experiment: Experiment, seed: int) -> Result:
    """The test on groups of as many snippets as in training: logits `test_rgb` and `test_flow` (ledger ccs-L36)."""

    def compute(model: nn.Module, training: Parts, testing: Parts) -> dict[str, np.ndarray]:
        assert isinstance(model, CCS)
        logits = lab.evaluate(Reader(model, _in_groups), experiment, testing)
        return {f"test_{m}": compact(x) for m, x in logits.items()}

    return lab.derived(experiment, seed, "groups", {"test": "groups"}, list(STREAMS), compute)


# ---------------------------------------------------------------- all of them

DERIVED = {"probes": (probes, PROBED), "embedding": (embedding, EMBEDDED), "cam": (cam, MAPPED),
           "groups": (groups, GROUPED)}  # fmt: skip


def derive(lab: Lab, experiment: Experiment, seed: int) -> list[Result]:
    """The runs that start from a trained network and belong to this chapter."""
    return [make(lab, experiment, seed) for make, names in DERIVED.values() if experiment.name in names]
