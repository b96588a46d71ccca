"""Figures that every chapter has, drawn from finished runs and stored clips."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, ClassVar

import numpy as np

from repro.flow.store import dequantise
from repro.metrics import bootstrap_interval, confusion, softmax
from repro.report import drawings, figures
from repro.report.figures import show
from repro.report.page import Again, Chapter
from repro.report.theme import Shown
from repro.scores import Scores, clip_tags

Array = np.ndarray[Any, Any]
FACTORS = ("appearance", "motion", "product", "binding", "order")
NO_RUN = "Not run."
CAMERAS = {"still": "0", "drifting": "1", "shaken": "2"}


class ChapterFigures:
    """Figures for the data set at hand."""

    main_run: ClassVar[str]  # the experiment that the page is about
    whole: ClassVar[str]  # the method whose samples and confusions are shown, and how the page calls it
    whole_name: ClassVar[str]
    methods: ClassVar[Mapping[str, str]]  # what the figures call them -> how the scores call them
    colours: ClassVar[Mapping[str, str]]
    on_camera: ClassVar[Sequence[str]]  # those of them that are drawn against camera motion

    def __init__(self, chapter: Chapter, scores: Scores) -> None:
        self.chapter, self.main = chapter, scores

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
            return min(self._tested())
        test = self.chapter.dataset.select(self.chapter.splits[0], "test")
        return min(c.id for c in test if tags[c.id]["factor"] == factor and tags[c.id]["camera"] == "0")

    def _tested(self) -> dict[str, int]:
        """Class of each test clip, by id: of those that could be decoded, or of all where nothing was run."""
        if self.main.seeds_with(self.main_run):
            labels = self.main.labels(self.main_run)
            return {i: int(label) for i, label in zip(self.main.ids(self.main_run), labels, strict=True)}
        clips = (c for split in self.chapter.splits for c in self.chapter.dataset.select(split, "test"))
        return {c.id: c.label for c in clips if c.id not in self.chapter.labs[0].unusable}

    def moving_example(self) -> Shown:
        """A clip with its flow, moving."""
        clip_id = self.example()
        rgb, flow = self._clip(clip_id)
        return drawings.moving_clip(
            rgb, flow, alt=f"A test clip of class {clip_id.split('/')[0]}, moving, and beside it its optical flow.",
            caption=f"Left: {clip_id.split('/')[0]}. Right: its TV-L1 flow; the hue is the direction, pale is slow.",
        )  # fmt: skip

    def examples(self, note: str = "") -> Shown:
        """Examples of the data at hand. `note` follows these words in the caption."""
        tags = clip_tags(self.chapter.dataset.name)
        ids = [self.example(f) for f in FACTORS] if tags else self._one_per_class(5)
        picked = [self._clip(i) for i in ids]
        middle = [len(flow) // 2 for _, flow in picked]
        rgb = np.stack([square(r[m], 64) for (r, _), m in zip(picked, middle, strict=True)])
        flow = np.stack([np.moveaxis(square(np.moveaxis(f[m], 0, -1), 64), -1, 0)
                         for (_, f), m in zip(picked, middle, strict=True)])  # fmt: skip
        labels = list(FACTORS) if tags else [i.split("/")[0] for i in ids]
        return show(
            drawings.clip_strip(rgb, flow, labels=labels),
            alt="Example frames in a row and their optical flow below: " + ", ".join(labels) + ".",
            caption=f"Examples of the data at hand{note}: one frame each, and the flow to the next frame.",
        )

    def _one_per_class(self, count: int) -> list[str]:
        seen: dict[int, str] = {}
        for clip_id, label in self._tested().items():
            seen.setdefault(label, clip_id)
        return [seen[label] for label in sorted(seen)][:count]

    def factors(self) -> Shown:
        """The figure that the paper should have had: what each network can tell, factor by factor."""
        if not clip_tags(self.main.dataset):
            return self._overall()
        values: dict[str, dict[str, Array]] = {}
        intervals, chance = {}, {}
        for factor in FACTORS:
            for label, method in self.methods.items():
                if found := self.main.correct(method, {"factor": factor}):
                    correct, groups, level = found
                    values.setdefault(factor, {})[label] = correct.mean(1)
                    interval = bootstrap_interval(correct, groups)
                    intervals[factor, label], chance[factor] = (interval.low, interval.high), level
        if not values:
            return absent(NO_RUN)
        return show(
            figures.per_factor(values, intervals, self.colours, chance),
            alt="Bars of accuracy for five factors and five networks: "
            + "; ".join(
                f"{f}: " + ", ".join(f"{m} {100 * v.mean():.0f}" for m, v in g.items()) for f, g in values.items()
            ),
            caption="What each network can tell, by factor. Dots are seeds, whiskers 95 % intervals over seeds and "
            "groups of clips, dashed lines guessing among the classes of the factor.",
        )

    def _overall(self) -> Shown:
        found = {label: f for label, m in self.methods.items() if (f := self.main.correct(m))}
        if not found:
            return absent(NO_RUN)
        values = {label: f[0].mean(1) for label, f in found.items()}
        intervals = {label: (i.low, i.high) for label, f in found.items() for i in [bootstrap_interval(f[0], f[1])]}
        return show(
            figures.bars(values, intervals, self.colours, next(iter(found.values()))[2]),
            alt="Bars of accuracy: " + ", ".join(f"{m} {100 * v.mean():.0f} %" for m, v in values.items()) + ".",
            caption="Accuracy of each network. Dots are seeds, whiskers 95 % intervals over seeds and groups of clips.",
        )

    def camera(self) -> Shown:
        """Accuracy against camera motion, where the data set controls it."""
        if not clip_tags(self.chapter.dataset.name):
            return absent(f"{self.chapter.dataset.name} has no controlled camera motion; motionshapes has.")
        arrays, intervals = {}, {}
        for label in self.on_camera:
            found = [self.main.correct(self.methods[label], {"camera": level}) for level in CAMERAS.values()]
            if all(found):
                arrays[label] = np.stack([f[0].mean(1) for f in found if f])
                bounds = [bootstrap_interval(f[0], f[1]) for f in found if f]
                intervals[label] = np.array([(b.low, b.high) for b in bounds])
        if not arrays:
            return absent(NO_RUN)
        text = "; ".join(f"{m}: " + ", ".join(f"{100 * v:.0f}" for v in a.mean(1)) for m, a in arrays.items())
        return show(
            figures.accuracy_against(list(CAMERAS), arrays, intervals, self.colours,
                                     1 / len(self.main.classes), xlabel="camera"),
            alt=f"Accuracy for a still, a drifting and a shaken camera. {text}.",
            caption="Accuracy over all classes as the camera moves more; dots are seeds.",
        )  # fmt: skip

    def samples(self) -> Shown:
        """Clips that the whole network gets right and wrong."""
        seeds = self.main.seeds_with(self.whole)
        if not seeds:
            return absent(NO_RUN)
        seed = seeds[0]
        split = self.main.splits[0]
        run = self.main.runs[self.main_run, split, seed]
        scores = self.main.scores(self.whole, split, seed)
        scores = scores / scores.sum(1, keepdims=True) if scores.min() >= 0 else softmax(scores)
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
            caption=f"Test clips that {self.whole_name} gets right (✓) and wrong (✗), evenly drawn; seed {seed}.",
        )

    def confusions(self) -> Shown:
        """The confusion matrix of the 20 most frequent classes and "other"."""
        seeds = self.main.seeds_with(self.whole)
        if not seeds:
            return absent(NO_RUN)
        labels = self.main.labels(self.whole)
        n = len(self.main.classes)
        matrix = sum(confusion(self.main.all_scores(self.whole, s).argmax(1), labels, n) for s in seeds)
        folded, names = figures.top_classes(matrix, self.main.classes, np.bincount(labels, minlength=n))
        right = folded.diagonal() / np.maximum(folded.sum(1), 1)
        best, worst = names[int(right.argmax())], names[int(right.argmin())]
        return show(
            figures.confusion(folded, names),
            alt=f"Confusion matrix of {len(names)} classes; best {best} at {100 * right.max():.0f} %, "
            f"worst {worst} at {100 * right.min():.0f} %.",
            caption=f"Confusions of {self.whole_name} over all seeds, in percent of the true class.",
        )

    def learning_curve(self, again: Again) -> Shown:
        """The loss of a run repeated while the page was built, over the recorded one."""
        live = np.asarray(again.live.losses)
        recorded = live if again.recorded is None else again.recorded.arrays["losses"]
        what = "the recorded run" if again.recorded is not None else "nothing recorded: the live run alone"
        whose = "live and recorded" if again.recorded is not None else "live"
        return show(
            figures.learning_curve(recorded, live),
            alt=f"Loss from {live[0]:.2f} to {live[-1]:.2f} over {len(live)} iterations, {whose}.",
            caption=f"The run repeated while this page was built (dark) over {what} (pale).",
        )


def square(picture: Array, side: int) -> Array:
    """The central square of (H, W, C), reduced to `side` px."""
    import cv2

    h, w = picture.shape[:2]
    n = min(h, w)
    top, left = (h - n) // 2, (w - n) // 2
    crop = np.ascontiguousarray(picture[top : top + n, left : left + n])
    return np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))


def absent(why: str) -> Shown:
    return Shown(why, f"<p>{html.escape(why)}</p>")
