"""Figures of the STILT chapter, drawn from finished runs, stored clips and live models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from repro.data.sampling import spaced_indices
from repro.metrics import bootstrap_interval
from repro.papers.stilt import Config, build, layer_table
from repro.papers.stilt_derived import SNIPPET_COUNTS
from repro.papers.stilt_numbers import MAIN, probe, weights_by_lambda
from repro.papers.stilt_scores import StiltScores
from repro.report import diagrams, drawings, figures
from repro.report.chapter_figures import NO_RUN, ChapterFigures, absent
from repro.report.figures import show
from repro.report.theme import APPEARANCE, CROSSING, FUSED, MOTION, Shown, lighter
from repro.scores import clip_tags

Array = np.ndarray[Any, Any]
METHODS = {  # what the figures call them -> how the scores call them
    "spatial": "spatial",
    "temporal": "temporal",
    "late fusion": "two-stream",
    "STIL, snippets": "stil-snippets",
    "STIL, regions": "stil-regions",
}
COLOURS = dict(zip(METHODS, (APPEARANCE, MOTION, FUSED, CROSSING, lighter(CROSSING, 0.4)), strict=True))


class StiltFigures(ChapterFigures):
    """Figures for the data set at hand."""

    main: StiltScores
    main_run, whole, whole_name = MAIN, f"{MAIN}+awf", "STIL + AWF"
    methods, colours, on_camera = METHODS, COLOURS, ("spatial", "temporal", "STIL, snippets")

    def examples(self, note: str = " (the paper's Figure 3 shows its three data sets)") -> Shown:
        """Figure 3 of the paper: examples of the data at hand."""
        return super().examples(note)

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

    # -- figures ----------------------------------------------------------------------------------------------------

    def snippets(self) -> Shown:
        """Accuracy against the number of test snippets (ledger stilt-L16)."""

        found = {n: c for n in SNIPPET_COUNTS if (c := probe(self.main, f"snippets_{n}")) is not None}
        if not found:
            return absent(NO_RUN)
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
            return absent(NO_RUN)
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
            return absent(NO_RUN)
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

    def weights(self) -> Shown:
        """The weight pair that AWF gives each class, as written and regularised (first seed)."""
        seeds = self.main.seeds_with(MAIN)
        if not seeds:
            return absent(NO_RUN)
        seed, split = seeds[0], self.main.splits[0]
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
        if not self.main.seeds_with(MAIN):
            return absent(NO_RUN)
        lambdas, weights = weights_by_lambda(self.main)
        share = weights[:, :, 0].mean(1)
        return show(
            figures.weights_against_lambda(lambdas, weights, self.main.classes),
            alt="Per class, the stream chosen as lambda grows; share of classes on appearance: "
            + ", ".join(f"{s:.2f} at {v:g}" for v, s in zip(lambdas, share, strict=True)) + ".",
            caption="AWF as written: one stream per class, and which one depends on a lambda that is never given.",
        )  # fmt: skip


def _starts(n_frames: int, count: int, flow_frames: int) -> list[int]:

    return [int(i) for i in spaced_indices(n_frames, count, flow_frames + 1)]
