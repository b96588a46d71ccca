"""Figures of the CCS chapter, drawn from finished runs and stored clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from repro.metrics import bootstrap_interval, confusion
from repro.papers.ccs_actors import CROSSING as CROSSING_THE_PICTURE
from repro.papers.ccs_actors import seen
from repro.papers.ccs_derived import on_actor
from repro.papers.ccs_numbers import ALIKE, right
from repro.papers.ccs_scores import CCSScores
from repro.report import ccs_plots, figures
from repro.report.ccs_drawings import connection_drawing, losses_drawing, network_drawing
from repro.report.chapter_figures import FACTORS, NO_RUN, ChapterFigures, absent, square
from repro.report.figures import show
from repro.report.theme import APPEARANCE, CROSSING, FUSED, MOTION, Shown, lighter
from repro.results import Result
from repro.scores import clip_tags

Array = np.ndarray[Any, Any]
METHODS = {  # what the figures call them -> how the scores call them
    "RGB alone": "baseline:rgb",
    "flow alone": "baseline:flow",
    "both alone, fused": "baseline",
    "with the block (CB)": "cb",
    "CCS (All)": "all",
}
COLOURS = dict(zip(METHODS, (APPEARANCE, MOTION, FUSED, lighter(CROSSING, 0.45), CROSSING), strict=True))
AGGREGATIONS = {  # Figure 5a
    "average (CCS)": "all",
    "maximum": "all@maximum",
    "product": "all@product",
    "concatenation": "all@concatenation",
}
BACKBONES = {"BN-Inception": "", "VGG-16": "@vgg16", "ResNet-50": "@resnet50"}  # Figure 5b -> end of a training's name
PANELS = {  # of Figure 4: what is called how -> training
    "plain streams": "baseline",
    "CCS without Eq. 5": "all@no-embedding",
    "CCS without Eq. 4": "all@no-triplet",
    "CCS": "all",
}
KNOWING = {  # what an output knows of the other stream: what that is called -> colour
    "the stream alone": FUSED,
    "CCS": CROSSING,
    "CCS, the other input another clip's": lighter(CROSSING, 0.4),
    "CCS, the other input zero": lighter(CROSSING, 0.7),
}
ON_ACTORS = (
    " Below each map its share on the actors, where one that counts nothing is as good as even; below the frame the "
    "actors' share of it."
)
MAPPED = {"CCS": "all", "RGB alone": "baseline"}  # Figure 6


class CCSFigures(ChapterFigures):
    """Figures for the data set at hand."""

    main: CCSScores
    main_run, whole, whole_name = "all", "all", "CCS"
    methods, colours, on_camera = METHODS, COLOURS, ("RGB alone", "flow alone", "CCS (All)")

    def drawing(self) -> Shown:
        """Figure 2 of the paper."""
        return network_drawing()

    def connection_drawing(self) -> Shown:
        """Figure 3 of the paper."""
        return connection_drawing()

    def losses(self) -> Shown:
        """What the losses do to a few invented points."""
        return losses_drawing()

    def alike(self) -> Shown:
        """Figure 1 of the paper: what alike classes are taken for, by each stream alone and by the network."""
        group = ALIKE.get(self.main.dataset, ())
        if not group or not set(group) <= set(self.main.classes):
            return absent(f"No group of alike classes is named for {self.main.dataset}.")
        picked = [self.main.classes.index(name) for name in group]
        shown = {name: m for name, m in METHODS.items() if name != "with the block (CB)" and self.main.seeds_with(m)}
        counts = {name: self._taken_for(method, picked) for name, method in shown.items()}
        if not counts or not all(table.sum(1).all() for table in counts.values()):
            return absent(NO_RUN)
        clips = [self._clip(self._one_of(label)) for label in picked]
        middle = [len(flow) // 2 for _, flow in clips]
        frames = np.stack([square(r[m], 64) for (r, _), m in zip(clips, middle, strict=True)])
        flow = np.stack([np.moveaxis(square(np.moveaxis(f[m], 0, -1), 64), -1, 0)
                         for (_, f), m in zip(clips, middle, strict=True)])  # fmt: skip
        told = {name: f"{100 * (1 - np.trace(table) / table.sum()):.0f} %" for name, table in counts.items()}
        confused = {name: table[:, :-1].sum() - np.trace(table) for name, table in counts.items()}
        shares = {name: f"{100 * n / counts[name].sum():.0f} %" for name, n in confused.items()}
        return show(
            ccs_plots.alike_confusions(frames, flow, counts, group, {n: COLOURS[n] for n in counts}),
            alt=f"A frame and its flow of each of {', '.join(group)}, and what test clips of these classes are taken "
            f"for. Taken for another of them: {_list(shares)}; wrong in all: {_list(told)}.",
            caption=f"Alike classes of {self.main.dataset}: a frame and its flow above; below, in percent, what the "
            "test clips of each are taken for when all classes may be answered, over all seeds. Taken for another of "
            f"the group: {_list(shares)}.",
        )

    def _taken_for(self, method: str, picked: Sequence[int]) -> Array:
        """Clips of the picked classes by predicted class, (k, k + 1), the last column all others; over all seeds."""
        labels, n = self.main.labels(method), len(self.main.classes)
        seeds = self.main.seeds_with(method)
        matrix = sum(confusion(self.main.all_scores(method, s).argmax(1), labels, n) for s in seeds)
        rows = np.asarray(matrix)[list(picked)]
        inside = rows[:, list(picked)]
        return np.concatenate([inside, rows.sum(1, keepdims=True) - inside.sum(1, keepdims=True)], axis=1)

    def _one_of(self, label: int) -> str:
        """A test clip of a class, with a still camera where that is known."""
        tags = clip_tags(self.main.dataset)
        ids = [i for i, found in self._tested().items() if found == label]
        still = [i for i in ids if tags and tags[i]["camera"] == "0"]
        return min(still or ids)

    def embeddings(self) -> Shown:
        """Figure 4 of the paper: features of test clips at unit length, with each of both losses on and off."""
        seed, runs = self._all_of(PANELS, "embedding")
        if not runs:
            return absent("Not run: the figure needs networks with each of both losses on and off.")
        first = next(iter(runs.values()))
        labels = first.labels()[first.arrays["kept"]]
        picked = self._few_classes(labels)
        inside = np.isin(labels, picked)
        planes, notes = {}, {}
        for name, run in runs.items():
            plane = ccs_plots.principal_plane(run.arrays["rgb"], run.arrays["flow"], float(run.arrays["scatter"]))
            planes[name] = ccs_plots.Plane(plane.rgb[inside], plane.flow[inside], plane.share)
            found = {what: float(run.arrays[what].mean()) for what in ("gap", "within", "between")}
            notes[name] = ", ".join(f"{what} {100 * x:.1f}" for what, x in found.items())
        names = [self.main.classes[c] for c in picked]
        shares = _list({name: f"{100 * plane.share:.0f} %" for name, plane in planes.items()})
        return show(
            ccs_plots.embedding(planes, np.searchsorted(picked, labels[inside]), names, notes),
            alt="Features of test clips of both modalities in a plane, in four networks. In percent of the largest "
            f"squared distance: {'; '.join(f'{name}: {note}' for name, note in notes.items())}.",
            caption=f"Features of test clips of {self.main.dataset} at unit length, seed {seed}, each network in "
            f"the plane in which they differ most (of all variance: {shares}). Lines join the two features of a clip. "
            "Above, over all test clips, in percent of the largest possible squared distance: gap, between the two "
            "features of a clip; within, from the mean of its class; between, from a class's mean to the nearest other "
            "one.",
        )

    def _all_of(self, trainings: Mapping[str, str], what: str) -> tuple[int, dict[str, Result]]:
        """The first seed with which `what` was made of all trainings, and these runs of the first split; or none."""
        for seed in self.main.seeds:
            keys = {name: (f"{m}+{what}", self.main.splits[0], seed) for name, m in trainings.items()}
            if all(key in self.main.runs for key in keys.values()):
                return seed, {name: self.main.runs[key] for name, key in keys.items()}
        return 0, {}

    def _few_classes(self, labels: Array) -> list[int]:
        """Some classes that have features, no more than can be told apart: on motionshapes one of each factor."""
        tags = clip_tags(self.main.dataset)
        present = [int(c) for c in np.unique(labels)]
        if tags:
            factor = {label: tags[i]["factor"] for i, label in self._tested().items()}
            one = {f: min(c for c in present if factor[c] == f) for f in FACTORS if f in {factor[c] for c in present}}
            return sorted(one.values())
        return present[: len(FACTORS)]

    def aggregations(self) -> Shown:
        """Figure 5a of the paper: four ways to put the snippets together."""
        subsets: dict[str, Mapping[str, str]] = {"all classes": {}}
        if clip_tags(self.main.dataset):
            subsets |= {"order classes": {"factor": "order"}}
        found = {
            group: {name: f for name, method in AGGREGATIONS.items() if (f := self.main.correct(method, subset))}
            for group, subset in subsets.items()
        }
        shades = (CROSSING, *(lighter(CROSSING, share) for share in (0.3, 0.55, 0.8)))
        colours = dict(zip(AGGREGATIONS, shades, strict=True))
        return self._grouped(found, colours, "How the features of a clip's snippets are put together")

    def backbones(self) -> Shown:
        """Figure 5b of the paper: base networks, with the streams alone and connected."""
        found = {
            name: {label: f for label, first in (("streams alone, fused", "baseline"), ("CCS", "all"))
                   if (f := self.main.correct(first + end))}
            for name, end in BACKBONES.items()
        }  # fmt: skip
        return self._grouped(found, {"streams alone, fused": FUSED, "CCS": CROSSING}, "Base networks")

    def other_input(self) -> Shown:
        """The figure that the paper should have had: each output with the other stream's input exchanged or silent."""
        run = "all+probes"
        seeds = self.main.seeds_with(run, "baseline")
        if not seeds:
            return absent(NO_RUN)
        found: dict[str, dict[str, tuple[Array, Array, float]]] = {}
        for output, (other, told) in {"rgb": ("flow", "motion"), "flow": ("rgb", "appearance")}.items():
            own = [self.main.correct(f"{name}:{output}", seeds=seeds) for name in ("baseline", "all")]
            made = [f[0] for f in own if f]
            made += [right(self.main, run, f"{how}-{other}_{output}", seeds) for how in ("swapped", "no")]
            name = "RGB" if output == "rgb" else "flow"
            for what, keep in self._told_by(run, told).items():
                kept = self.main.groups(run)[keep], 1 / len(self.main.classes)
                found[f"{name} output,\n{what}"] = {
                    condition: (x[:, keep], *kept) for condition, x in zip(KNOWING, made, strict=True)
                }
        what = "What each output owes to the other stream's input, among all classes: what it lost without it"
        return self._grouped(found, KNOWING, what)

    def _told_by(self, run: str, factor: str) -> dict[str, Array]:
        """Which test clips (N,) are counted: all, and those of a factor's classes where the data set has factors."""
        tags, ids = clip_tags(self.main.dataset), self.main.ids(run)
        every = {"all classes": np.ones(len(ids), bool)}
        return every | ({f"{factor} classes": np.array([tags[i]["factor"] == factor for i in ids])} if tags else {})

    def _grouped(
        self, found: Mapping[str, Mapping[str, tuple[Array, Array, float]]], colours: Mapping[str, str], what: str
    ) -> Shown:
        """Bars by group; of those groups that have any."""
        values = {g: {m: f[0].mean(1) for m, f in methods.items()} for g, methods in found.items() if methods}
        if not values:
            return absent(NO_RUN)
        bounds = {(g, m): bootstrap_interval(f[0], f[1]) for g, methods in found.items() for m, f in methods.items()}
        chance = {g: next(iter(methods.values()))[2] for g, methods in found.items() if methods}
        told = {g: _list({m: f"{100 * v.mean():.1f}" for m, v in methods.items()}) for g, methods in values.items()}
        text = "; ".join(f"{g}: {means}" for g, means in told.items()).replace("\n", " ")
        return show(
            figures.per_factor(values, {k: (i.low, i.high) for k, i in bounds.items()}, colours, chance),
            alt=f"Bars of accuracy in percent on {self.main.dataset}. {text}.",
            caption=f"{what}, on {self.main.dataset}. Dots are seeds, whiskers 95 % intervals over seeds and groups of "
            "clips, dashed lines guessing.",
        )

    def activations(self) -> Shown:
        """Figure 6 of the paper: class activation maps of the RGB stream over frames, and the actors in them."""
        seed, runs = self._all_of(MAPPED, "cam")
        if not runs:
            return absent(NO_RUN)
        rows = [self._looked(clip_id, runs) for clip_id in self._mapped(next(iter(runs.values())))]
        shares = [_list({n: f"{100 * s:.0f} %" for n, (_, s) in row.maps.items() if s is not None}) for row in rows]
        told = "; ".join(f"{row.title}: {text}" for row, text in zip(rows, shares, strict=True) if text)
        known = {name: r.arrays for name, r in runs.items() if np.isfinite(r.arrays.get("share_map", np.nan)).any()}
        over_all = _list({name: f"{100 * np.nanmean(a['share_map']):.1f} %" for name, a in known.items()})
        area = [f"{100 * np.nanmean(a['share_actor']):.1f} %" for a in known.values()][:1]
        small = " x ".join(map(str, runs["CCS"].arrays["maps"].shape[2:]))
        average = f" Over all test clips: {over_all}, where the actors are {area[0]} of the picture." if area else ""
        return show(
            ccs_plots.activation_maps(rows, {"CCS": CROSSING, "RGB alone": APPEARANCE}),
            alt=f"Frames of {', '.join(row.title for row in rows)} and class activation maps over them."
            + (f" Of the map on the outlined actors: {told}." if told else ""),
            caption=f"What counts for the true class in the RGB stream, seed {seed}, middle snippet; what counts "
            f"nothing fades to white. Maps have {small} places and are enlarged."
            + (ON_ACTORS if told else "")
            + average,
        )

    def _mapped(self, run: Result) -> list[str]:
        """Three clips whose maps are kept."""
        kept = run.ids()[: len(run.arrays["maps"])]
        if clip_tags(self.main.dataset):
            wanted = [self.example(f) for f in ("appearance", "product", "binding")]
            if set(wanted) <= set(kept):
                return wanted
        return [kept[k] for k in np.linspace(0, len(kept) - 1, min(3, len(kept))).astype(int)]

    def _looked(self, clip_id: str, runs: Mapping[str, Result]) -> ccs_plots.Looked:
        lab = self.chapter.labs[0]
        data = self.chapter.dataset
        clip = next(c for c in data.clips if c.id == clip_id)
        beside = [c for c in data.clips if c.group == clip.group and data.classes[c.label] in CROSSING_THE_PICTURE]
        lab.prepare([clip, *(beside if data.name == "weizmann" else [])])  # the background comes from these
        frames, actor = seen(data, lab.store, self.chapter.experiments["all"], clip)
        maps: dict[str, tuple[Array, float | None]] = {}
        for name, run in runs.items():
            small = torch.from_numpy(run.arrays["maps"][run.ids().index(clip_id)].astype(np.float32))  # (T, h, w)
            t = len(small) // 2
            large = F.interpolate(small[t].clamp(min=0)[None, None], frames.shape[1:3], mode="bilinear")[0, 0]
            share = None if actor is None else on_actor(small[t : t + 1], actor[t : t + 1])[0]
            maps[name] = large.numpy(), share
        return ccs_plots.Looked(clip_id.split("/")[0], frames[t], None if actor is None else actor[t], maps)


def _list(texts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in texts.items())
