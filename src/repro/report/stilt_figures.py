"""Figures of the STILT chapter, drawn from finished runs, stored clips and live models."""

from __future__ import annotations

import html
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from repro.data.sampling import spaced_indices
from repro.flow.store import dequantise
from repro.metrics import bootstrap_interval, confusion
from repro.papers.stilt import Config, build, layer_table
from repro.papers.stilt_derived import SNIPPET_COUNTS
from repro.papers.stilt_numbers import MAIN, probe, weights_by_lambda
from repro.papers.stilt_scores import Scores, clip_tags
from repro.report import diagrams, drawings, figures
from repro.report.figures import show
from repro.report.page import Again, Chapter
from repro.report.theme import APPEARANCE, CROSSING, FUSED, MOTION, Shown, lighter

Array = np.ndarray[Any, Any]
FACTORS = ("appearance", "motion", "product", "binding", "order")
CAMERAS = {"still": "0", "drifting": "1", "shaken": "2"}
METHODS = {  # what the figures call them -> how the scores call them
    "spatial": "spatial",
    "temporal": "temporal",
    "late fusion": "two-stream",
    "STIL, snippets": "stil-snippets",
    "STIL, regions": "stil-regions",
}
COLOURS = dict(zip(METHODS, (APPEARANCE, MOTION, FUSED, CROSSING, lighter(CROSSING, 0.4)), strict=True))
WHOLE = f"{MAIN}+awf"  # the whole network, which the sample and confusion figures show


class StiltFigures:
    """Figures for the data set at hand."""

    def __init__(self, chapter: Chapter, scores: Scores) -> None:
        self.chapter, self.main = chapter, scores

    def drawing(self) -> Shown:
        """Figures 1 and 2 of the paper: the streams and the alternating co-attention, shapes from the live model."""
        with torch.device("meta"):
            rows = layer_table(build(Config(), 101), 224, snippets=8)
        trunk = [r for r in rows if r.table == 2]
        streams = {}
        for name, first in (("spatial", "3 x 224 x 224"), ("temporal", "20 x 224 x 224")):
            boxes = [diagrams.Box("frame" if name == "spatial" else "10 flows", first)]
            boxes += [diagrams.Box(r.layer, r.outputs[name].rpartition(" x ")[2] + " maps") for r in trunk[:-1]]
            boxes.append(diagrams.Box("pool", f"8 x {trunk[-1].outputs[name].rpartition(' x ')[2]}"))
            streams[name] = boxes
        n = len(streams["spatial"])
        head = [("project", "Projection"), ("fc", "Fully connected layer"), ("softmax", "Classes")]
        width = {r.layer: r.outputs["spatial"].rpartition(" x ")[2] for r in rows if r.table == 3}
        tail = [diagrams.Box(label, width[layer]) for label, layer in head]
        streams["spatial"] += [
            diagrams.Box("summarise", step="1", row=n),
            diagrams.Box("attend", step="3", row=n + 2, after=n - 1),
            *tail,
        ]
        streams["temporal"] += [diagrams.Box("attend", step="2", row=n + 1), *tail]
        crossing = [(("spatial", n), ("temporal", n)), (("temporal", n), ("spatial", n + 1))]
        fig = diagrams.two_stream_drawing(streams, crossing, [diagrams.Box("weighted per class", "101")])
        return show(
            fig,
            alt="Two columns of layers, the spatial stream from a frame and the temporal stream from ten flow fields; "
            "a numbered path 1, 2, 3 crosses from the spatial to the temporal stream and back; both end in class "
            "scores that are weighted per class.",
            caption="The network, read off the live model (full width, 8 snippets, 101 classes). "
            "Step 1 summarises the spatial features, step 2 attends to the temporal ones guided by that summary, "
            "step 3 attends to the spatial ones again guided by what step 2 found.",
        )

    # -- what the network sees --------------------------------------------------------------------------------------

    def _clip(self, clip_id: str) -> tuple[Array, Array]:
        """Frames (n, H, W, 3) and flow in px (n - 1, 2, H, W) of a stored clip."""

        lab = self.chapter.labs[0]
        lab.prepare(c for c in self.chapter.dataset.clips if c.id == clip_id)
        with lab.store.open(clip_id) as stored:
            rgb = stored.rgb(range(stored.n_frames)).permute(0, 2, 3, 1).numpy()
            flow = dequantise(stored.flow(range(stored.n_flow)).numpy(), lab.store.settings.bound)
        return rgb, flow

    def example(self, factor: str = "binding") -> str:
        """The id of a test clip to show: of a factor, with a still camera, where the data set has such."""
        tags = clip_tags(self.chapter.dataset.name)
        if not tags:
            return min(self.main.ids(MAIN))  # of those that could be decoded
        test = self.chapter.dataset.select(self.chapter.splits[0], "test")
        return min(c.id for c in test if tags[c.id]["factor"] == factor and tags[c.id]["camera"] == "0")

    def moving_example(self) -> Shown:
        """A clip with its flow, moving."""
        clip_id = self.example()
        rgb, flow = self._clip(clip_id)
        return drawings.moving_clip(
            rgb, flow, alt=f"A test clip of class {clip_id.split('/')[0]}, moving, and beside it its optical flow.",
            caption=f"Left: {clip_id.split('/')[0]}. Right: its TV-L1 flow; the hue is the direction, pale is slow.",
        )  # fmt: skip

    def examples(self) -> Shown:
        """Figure 3 of the paper: examples of the data at hand."""
        tags = clip_tags(self.chapter.dataset.name)
        ids = [self.example(f) for f in FACTORS] if tags else self._one_per_class(5)
        picked = [self._clip(i) for i in ids]
        middle = [len(flow) // 2 for _, flow in picked]
        rgb = np.stack([_square(r[m], 64) for (r, _), m in zip(picked, middle, strict=True)])
        flow = np.stack([np.moveaxis(_square(np.moveaxis(f[m], 0, -1), 64), -1, 0)
                         for (_, f), m in zip(picked, middle, strict=True)])  # fmt: skip
        labels = list(FACTORS) if tags else [i.split("/")[0] for i in ids]
        return show(
            drawings.clip_strip(rgb, flow, labels=labels),
            alt="Example frames in a row and their optical flow below: " + ", ".join(labels) + ".",
            caption="Examples of the data at hand (the paper's Figure 3 shows its three data sets): one frame each, "
            "and the flow to the next frame.",
        )

    def _one_per_class(self, count: int) -> list[str]:
        seen: dict[int, str] = {}
        for label, clip_id in zip(self.main.labels(MAIN), self.main.ids(MAIN), strict=True):
            seen.setdefault(int(label), clip_id)
        return [seen[label] for label in sorted(seen)][:count]

    # -- figures ----------------------------------------------------------------------------------------------------

    def factors(self) -> Shown:
        """The figure that the paper should have had: what each network can tell, factor by factor."""
        if not clip_tags(self.main.dataset):
            return self._overall()
        values: dict[str, dict[str, Array]] = {}
        intervals, chance = {}, {}
        for factor in FACTORS:
            for label, method in METHODS.items():
                if found := self.main.correct(method, {"factor": factor}):
                    correct, groups, level = found
                    values.setdefault(factor, {})[label] = correct.mean(1)
                    interval = bootstrap_interval(correct, groups)
                    intervals[factor, label], chance[factor] = (interval.low, interval.high), level
        return show(
            figures.per_factor(values, intervals, COLOURS, chance),
            alt="Bars of accuracy for five factors and five networks: "
            + "; ".join(
                f"{f}: " + ", ".join(f"{m} {100 * v.mean():.0f}" for m, v in g.items()) for f, g in values.items()
            ),
            caption="What each network can tell, by factor. Dots are seeds, whiskers 95 % intervals over seeds and "
            "groups of clips, dashed lines guessing among the classes of the factor.",
        )

    def _overall(self) -> Shown:
        found = {label: f for label, m in METHODS.items() if (f := self.main.correct(m))}
        values = {label: f[0].mean(1) for label, f in found.items()}
        intervals = {label: (i.low, i.high) for label, f in found.items() for i in [bootstrap_interval(f[0], f[1])]}
        return show(
            figures.bars(values, intervals, COLOURS, next(iter(found.values()))[2]),
            alt="Bars of accuracy: " + ", ".join(f"{m} {100 * v.mean():.0f} %" for m, v in values.items()) + ".",
            caption="Accuracy of each network. Dots are seeds, whiskers 95 % intervals over seeds and groups of clips.",
        )

    def camera(self) -> Shown:
        """Accuracy of the plain streams and of STILT against camera motion, where the data set controls it."""
        if not clip_tags(self.chapter.dataset.name):
            return _absent(f"{self.chapter.dataset.name} has no controlled camera motion; motionshapes has.")
        arrays, intervals = {}, {}
        for label in ("spatial", "temporal", "STIL, snippets"):
            found = [self.main.correct(METHODS[label], {"camera": level}) for level in CAMERAS.values()]
            if all(found):
                arrays[label] = np.stack([f[0].mean(1) for f in found if f])
                bounds = [bootstrap_interval(f[0], f[1]) for f in found if f]
                intervals[label] = np.array([(b.low, b.high) for b in bounds])
        text = "; ".join(f"{m}: " + ", ".join(f"{100 * v:.0f}" for v in a.mean(1)) for m, a in arrays.items())
        return show(
            figures.accuracy_against(list(CAMERAS), arrays, intervals, COLOURS,
                                     1 / len(self.main.classes), xlabel="camera"),
            alt=f"Accuracy for a still, a drifting and a shaken camera. {text}.",
            caption="Accuracy over all classes as the camera moves more; dots are seeds.",
        )  # fmt: skip

    def snippets(self) -> Shown:
        """Accuracy against the number of test snippets (ledger stilt-L16)."""

        found = {n: c for n in SNIPPET_COUNTS if (c := probe(self.main, f"snippets_{n}")) is not None}
        if not found:
            return _absent("Not run.")
        groups = self.main.groups(MAIN)
        bounds = np.array([(i.low, i.high) for c in found.values() for i in [bootstrap_interval(c, groups)]])
        arrays = {"STIL, snippets": np.stack([c.mean(1) for c in found.values()])}
        text = ", ".join(f"{100 * c.mean():.0f} with {n}" for n, c in found.items())
        return show(
            figures.accuracy_against(list(map(float, found)), arrays, {"STIL, snippets": bounds},
                                     COLOURS, xlabel="snippets per test clip"),
            alt=f"Accuracy against the number of test snippets: {text}.",
            caption="How many snippets a test clip needs; the network was trained with "
            f"{self.chapter.experiments[MAIN].sampling.snippets}.",
        )  # fmt: skip

    def attention_snippets(self) -> Shown:
        """Attention over the snippets of one clip, with a short event where there is one, from a recorded network."""
        name, seed = f"{MAIN}+attention", self.chapter.seeds[0]
        run = self.main.runs.get((name, self.chapter.splits[0], seed))
        if run is None:
            return _absent("Not run.")
        ids, tags = run.ids(), clip_tags(self.main.dataset)
        short = [k for k, i in enumerate(ids) if tags and tags[i]["event"] == "short" and tags[i]["camera"] == "0"]
        k = short[0] if short else 0
        maps = {s: run.arrays[f"attention_{s}"][k].astype(float) for s in ("S1", "T", "S2")}
        rgb, flow = self._clip(ids[k])
        starts = _starts(len(rgb), len(maps["T"]), self.chapter.experiments[MAIN].sampling.flow_frames)
        event = None
        if short:
            from repro.data.motionshapes import truth

            first, last = truth(ids[k]).event
            inside = [j for j, s in enumerate(starts) if s < last and s + 11 > first]
            event = (float(inside[0]), float(inside[-1])) if inside else None
        middle = np.minimum(np.array(starts) + 5, len(flow) - 1)
        most = {s: int(a.argmax()) + 1 for s, a in maps.items()}
        return show(
            drawings.attention_over_snippets(rgb[middle], maps, flow[middle], event),
            alt=f"Attention of the three steps over the {len(starts)} snippets of a clip ({ids[k].split('/')[0]}); "
            + ", ".join(f"{s} is largest at snippet {n}" for s, n in most.items()) + ".",
            caption=f"Where the trained network looks in a test clip ({ids[k].split('/')[0]}, seed {seed}); "
            "shaded: the snippets that touch the event." if event else f"Where the trained network looks ({ids[k]}).",
        )  # fmt: skip

    def attention_regions(self) -> Shown:
        """Attention over the regions of one frame, from a recorded network."""
        run = self.main.runs.get(("stil-regions+attention", self.chapter.splits[0], self.chapter.seeds[0]))
        if run is None:
            return _absent("Not run.")
        kept = run.ids()[: len(run.arrays["attention_T"])]
        k = next((j for j, i in enumerate(kept) if i.endswith("c01")), 0)
        maps = {s: run.arrays[f"attention_{s}"][k].astype(float) for s in ("S1", "T", "S2")}
        rgb, flow = self._clip(kept[k])
        starts = _starts(len(rgb), len(maps["T"]), self.chapter.experiments[MAIN].sampling.flow_frames)
        t = len(starts) // 2
        middle = min(starts[t] + 5, len(flow) - 1)
        ground = {"T": drawings.flow_to_rgb(flow[middle])}
        return show(
            drawings.attention_over_regions(rgb[middle], {s: a[t] for s, a in maps.items()}, ground),
            alt=f"One frame of {kept[k].split('/')[0]} and the attention of the three steps over its regions.",
            caption="The regions reading: where each step looks within one frame; T is shown on the flow.",
        )

    def samples(self) -> Shown:
        """Figure 4 of the paper: clips that the whole network gets right and wrong."""
        seed = self.main.seeds_with(WHOLE)[0]
        split = self.main.splits[0]
        run = self.main.runs[MAIN, split, seed]
        scores = self.main.scores(WHOLE, split, seed)
        scores = scores / scores.sum(1, keepdims=True)
        right = scores.argmax(1) == run.labels()
        pools = [np.flatnonzero(right), np.flatnonzero(~right)]
        drawn = [pool[np.linspace(0, len(pool) - 1, min(3, len(pool))).astype(int)] for pool in pools]
        rows: list[figures.Sample] = []
        for k in (int(k) for pair in zip_longest(*drawn, fillvalue=-1) for k in pair if k >= 0):  # right, wrong, ...
            frame = self._clip(run.ids()[k])[0]
            rows.append(
                {
                    "frame": frame[len(frame) // 2],
                    "truth": self.main.classes[run.labels()[k]],
                    "predicted": self.main.classes[scores[k].argmax()],
                    "scores": dict(zip(self.main.classes, scores[k].tolist(), strict=True)),
                }
            )
        text = "; ".join(
            f"{r['truth']}, " + ("right" if r["truth"] == r["predicted"] else f"taken for {r['predicted']}")
            for r in rows
        )
        return show(
            figures.samples(rows, columns=2),
            alt=f"Test clips with their three best classes: {text}.",
            caption=f"Test clips that STIL + AWF gets right (✓) and wrong (✗), evenly drawn; seed {seed}.",
        )

    def confusions(self) -> Shown:
        """Figure 5 of the paper: the confusion matrix of the 20 most frequent classes and "other"."""
        seeds = self.main.seeds_with(WHOLE)
        labels = self.main.labels(WHOLE)
        n = len(self.main.classes)
        matrix = sum(confusion(self.main.all_scores(WHOLE, s).argmax(1), labels, n) for s in seeds)
        folded, names = figures.top_classes(matrix, self.main.classes, np.bincount(labels, minlength=n))
        right = folded.diagonal() / np.maximum(folded.sum(1), 1)
        best, worst = names[int(right.argmax())], names[int(right.argmin())]
        return show(
            figures.confusion(folded, names),
            alt=f"Confusion matrix of {len(names)} classes; best {best} at {100 * right.max():.0f} %, "
            f"worst {worst} at {100 * right.min():.0f} %.",
            caption="Confusions of STIL + AWF over all seeds, in percent of the true class.",
        )

    def weights(self) -> Shown:
        """The weight pair that AWF gives each class, as written and regularised (first seed)."""
        seed, split = self.main.seeds_with(MAIN)[0], self.main.splits[0]
        fitted = self.main.fitted(f"{MAIN}+awf-regularised", split, seed)
        w = fitted.weights
        return show(
            figures.weights_per_class(self.main.classes, w),
            alt="Weight of the appearance and of the motion stream per class: "
            + ", ".join(f"{c} {a:.2f}" for c, a in zip(self.main.classes, w[:, 0], strict=True)) + " (appearance).",
            caption=f"Regularised AWF (lambda {fitted.choice.lambda_:.3g}, strength {fitted.choice.strength:g}, "
            f"chosen on training folds; seed {seed}). Without the regulariser every pair is at one of the two ends.",
        )  # fmt: skip

    def weights_by_lambda(self) -> Shown:
        """Which stream each class takes as lambda grows (ledger stilt-L9)."""
        lambdas, weights = weights_by_lambda(self.main)
        share = weights[:, :, 0].mean(1)
        return show(
            figures.weights_against_lambda(lambdas, weights, self.main.classes),
            alt="Per class, the stream chosen as lambda grows; share of classes on appearance: "
            + ", ".join(f"{s:.2f} at {v:g}" for v, s in zip(lambdas, share, strict=True)) + ".",
            caption="AWF as written: one stream per class, and which one depends on a lambda that is never given.",
        )  # fmt: skip

    def learning_curve(self, again: Again) -> Shown:
        """The loss of a run repeated while the page was built, over the recorded one."""
        live = np.asarray(again.live.losses)
        recorded = live if again.recorded is None else again.recorded.arrays["losses"]
        what = "the recorded run" if again.recorded is not None else "nothing recorded: the live run alone"
        return show(
            figures.learning_curve(recorded, live),
            alt=f"Loss from {live[0]:.2f} to {live[-1]:.2f} over {len(live)} iterations, live and recorded.",
            caption=f"The run repeated while this page was built (dark) over {what} (pale).",
        )


def _starts(n_frames: int, count: int, flow_frames: int) -> list[int]:

    return [int(i) for i in spaced_indices(n_frames, count, flow_frames + 1)]


def _square(picture: Array, side: int) -> Array:
    """The central square of (H, W, C), reduced to `side` px."""
    import cv2

    h, w = picture.shape[:2]
    n = min(h, w)
    top, left = (h - n) // 2, (w - n) // 2
    crop = np.ascontiguousarray(picture[top : top + n, left : left + n])
    return np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))


def _absent(why: str) -> Shown:
    return Shown(why, f"<p>{html.escape(why)}</p>")
