"""Tables of the ST-ResNet chapter, from finished runs and live models; the notebook only calls and tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from repro.evaluation import protocol
from repro.metrics import NOT_RUN
from repro.models.count import multiply_adds, parameters
from repro.papers.reported import reported
from repro.papers.st_resnet import Config, build, starting_trunk
from repro.papers.st_resnet_derived import MAIN, PROBED, PROBES, SWAPPED
from repro.papers.st_resnet_experiments import Preset, preset
from repro.papers.st_resnet_layers import conv1_responses, layer_table
from repro.papers.st_resnet_numbers import StResNetClaims, ledger_values
from repro.papers.st_resnet_scores import StResNetScores
from repro.report import tables
from repro.report.chapter import ChapterPage
from repro.report.chapter_figures import FACTORS
from repro.report.recipes import recipe_table, schedule
from repro.report.st_resnet_figures import STAR, StResNetFigures, clip_tensors
from repro.report.tables import Cell, Column, Table
from repro.report.theme import Shown
from repro.scores import clip_tags
from repro.training import Recipe

Array = np.ndarray[Any, Any]
# Rows of the comparison tables: what the paper calls it -> how the scores call it.
TABLE_3 = {
    "Appearance stream": "appearance",
    "Motion stream": "motion",
    "Two-Streams": "two-stream",
    "Two-Streams, probabilities averaged": "two-stream+probabilities",
    "Two-Streams, trained on as long": "plain",
    "ST-ResNet": MAIN,
    "ST-ResNet, trained on as long": "star-control",
    "ST-ResNet*": "star",
}
TABLE_4 = {"ST-ResNet*": "star", "ST-ResNet* + IDT": "star+idt"}
VARIANTS = {
    "appearance stream": {
        "moments over 8 clips (Table 2)": "appearance",
        "moments over 4 clips": "appearance-bn4",
        "moments over the whole batch": "appearance-bn-batch",
        "dropout before the classifier": "appearance-dropout",
        "dropout on the class scores": "appearance-dropout-scores",
    },
    "connections, filters and losses": {
        "ST-ResNet": MAIN,
        "direct connections": "direct",
        "connected both ways": "both-ways",
        "one loss for both streams": "joint",
        "filters stay averages": "frozen-filters",
        "one stride": "fixed-stride",
        "first frame of each stack": "first-frame",
    },
    "pool over time": {
        "no pool": "star-control",
        "maximum (ST-ResNet*)": "star",
        "average": "star-average",
        "maximum, from the two streams at once": "star-at-once",
    },
}
LABELS = {  # of the networks that were probed
    MAIN: "ST-ResNet",
    f"{MAIN}:appearance": "its appearance output",
    "both-ways": "connected both ways",
    "joint": "one loss for both streams",
    "plain": "two streams, trained on",
    "skips": "residuals only",
}
PHASES = {"Motion stream": "motion", "Appearance stream": "appearance", "ST-ResNet": "chunks", "ST-ResNet*": "pooled"}
BATCHED = {"Motion stream": "motion", "Appearance stream": "appearance", "ST-ResNet": MAIN, "ST-ResNet*": "star"}


class StResNetPage(ChapterPage, StResNetFigures):
    """What the chapter shows, for the data set at hand and, beside it, for those with recorded results."""

    paper = "st_resnet"
    scores_of = StResNetScores
    tables: ClassVar[Mapping[int | str, Mapping[str, str]]] = {3: TABLE_3, "4 left": TABLE_4, "4 right": TABLE_4}

    def claim_scores(self, scores: Mapping[str, Any]) -> StResNetClaims:
        """What the claims are tested on."""
        return StResNetClaims(scores)

    def ledger_values(self) -> dict[str, str]:
        """The live values that the ledger asks for."""
        name = self.chapter.dataset.name
        return {**ledger_values(self.scores, {name: self._lengths()}), "conv1-responses": self._conv1()}

    def _lengths(self) -> list[int]:
        """Frames of those training clips that are stored."""
        lab = self.chapter.labs[0]
        found = []
        for clip in self.chapter.dataset.select(self.chapter.splits[0], "train"):
            if lab.store.has(clip.id):
                with lab.store.open(clip.id) as stored:
                    found.append(stored.n_frames)
        return found

    def _conv1(self) -> str:
        """The two ways from RGB filters to a flow stack, on the example clip (ledger st_resnet-L14)."""
        flow = clip_tensors(self)["flow"].flatten(0, 1)  # (T, 2L, h, w)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            trunk = starting_trunk(Config(streams="appearance", skip="none", width=0.25), "appearance", "none")
            size, correlation = conv1_responses(trunk.get_parameter("conv1.weight"), flow)
        return (
            f"random RGB filters on the {len(flow)} flow stacks of one test clip: cyclic copies answer {size:.2f} "
            f"times as strongly as copies of the mean, correlation {correlation:.2f}"
        )

    # -- at a glance ------------------------------------------------------------------------------------------------

    def glance(self) -> Shown:
        """The card at the top."""
        with torch.device("meta"):
            model = build(Config(), 101)
            chunk = torch.zeros(1, 1, 3, 224, 224), torch.zeros(1, 1, 20, 224, 224)
        main = self.chapter.experiments[MAIN]
        seen, tested = main.sampling, protocol(main.protocol)
        return self.card(
            {
                "Paper": "Feichtenhofer, Pinz, Wildes: NIPS 2016",
                "Streams": "appearance: RGB frames; motion: stacks of 10 optical flow fields (20 channels)",
                "Backbones": "ResNet-50 twice, with residuals from motion to appearance and filters over time",
                "Size at full width": f"{parameters(model) / 1e6:.1f} M parameters, "
                f"{multiply_adds(model, *chunk) / 1e9:.1f} G multiply-adds a chunk (101 classes, counted)",
                "Here": f"{self.chapter.preset}, width {main.config['width']:g}: {seen.snippets} chunks of 1 frame and "
                f"{seen.flow_frames} flow fields in training, {tested.snippets} in the test",
            }
        )

    # -- architecture and recipe ------------------------------------------------------------------------------------

    def blocks(self) -> Table:
        """The blocks of Table 1 beside those of the live ST-ResNet*; the place of the stride changes none of them."""
        paper = {row: [cells["Blocks"]] for row, cells in self._table_1().items()}
        built = {row.layer: [row.block] for row in layer_table(STAR)}
        return tables.layers(paper, built, columns=["block"], caption="Table 1: blocks, printed and built")

    def architecture(self, stride_in: str) -> Table:
        """Table 1 beside the same read off the live ST-ResNet* (full width, 224 px, 11 chunks), fields by probing."""
        columns = {"output": "Output size", "field": "Receptive field"}
        paper = {row: [cells[name] for name in columns.values()] for row, cells in self._table_1().items()}
        built, entries = {}, {}
        for row in layer_table(replace(STAR, stride_in=stride_in)):
            space, time = row.field
            field = f"{space}x{space}x{time}" + (" tau" if time > 1 else "")
            built[row.layer] = ["x".join(map(str, row.output)), field]
        for name in (name for name in paper if paper[name] != built[name]):
            same_space = paper[name][-1].split("x")[0] == built[name][-1].split("x")[0]
            entries[name] = "st_resnet-L3" if same_space else "st_resnet-L10"
        caption = f"Table 1: sizes and fields, printed, and built with the stride in a stage's first {stride_in}"
        return tables.layers(paper, built, columns=list(columns), caption=caption, ledger=entries)

    @staticmethod
    def _table_1() -> dict[str, dict[str, str]]:
        """Table 1 as printed: layer -> column -> text."""
        printed: dict[str, dict[str, str]] = {}
        for cell in reported("st_resnet"):
            if cell.table == "1":
                printed.setdefault(cell.row, {})[cell.column] = str(cell.value)
        return printed

    def recipe(self) -> Table:
        """What all phases share: the paper's, and this page's."""
        rows: dict[str, Callable[[Preset], str]] = {
            "optimiser": lambda p: (
                f"SGD, momentum {p.recipes['chunks'].momentum:g}, weight decay {p.recipes['chunks'].weight_decay:g}"
            ),
            "crop": lambda p: f"{p.samplings['chunks'].crop} px of frames with shorter side {p.short_side} px",
            "flow": lambda p: (
                "mean of each field subtracted" if p.samplings["motion"].subtract_mean_flow else "as it is"
            ),
        }
        note = "Weight decay is the authors' code's; the paper has none (ledger st_resnet-L19)."
        shared = "What all phases of the paper and of this page share"
        return recipe_table(self.chapter, preset, rows, ("star",), note, shared)

    def phases(self) -> Table:
        """Table 2: the phases as printed, and those of this page."""
        printed: dict[str, dict[str, str]] = {}
        for cell in reported("st_resnet"):
            if cell.table == "2":
                value = f"{cell.value:g}" if isinstance(cell.value, float) else str(cell.value)
                printed.setdefault(cell.row, {})[cell.column] = value
        here = phases_of(preset(self.chapter.preset, self.chapter.dataset.name), self.chapter.experiments)
        names = list(next(iter(printed.values())))
        heads: list[Column] = ["phase", *((name, who) for name in names for who in ("paper", "here"))]
        rows = [
            (row, *(text for name in names for text in (cells[name], here[row][name])))
            for row, cells in printed.items()
        ]
        note = (
            "A batch for the moments that exceeds the batch is the whole batch. Strides that do not fit a clip are "
            "never drawn; ledger st_resnet-L6 has those that were."
        )
        return Table(tuple(heads), tuple(rows), f"Table 2: the phases, printed and here ({self.chapter.preset})", note)

    # -- comparisons ------------------------------------------------------------------------------------------------

    def comparisons(self, number: int | str) -> Shown:
        """The comparison of a table on every data set where any of it was run."""
        return self._compared(f"Table {number}", self.tables[number])

    def variants(self, which: str) -> Shown:
        """Networks that differ from the paper's in one thing each, on every data set where any of them was run."""
        title = f"Variants of the {which}" if which != "connections, filters and losses" else which.capitalize()
        return self._compared(title, VARIANTS[which])

    def _compared(self, title: str, methods: Mapping[str, str]) -> Shown:
        found = [s for s in self.scores.values() if any(s.seeds_with(m) for m in methods.values())]
        return _together([self.compared(title, methods, scores) for scores in found])

    def grid(self) -> Shown:
        """Residuals and filters over time apart: the 2 x 2 grid that the paper lacks, on every data set."""
        return _together([self._grid(scores) for scores in self.scores.values()])

    def _grid(self, scores: StResNetScores) -> Table:
        heads: list[Column] = [
            "classes",
            *(
                (filters, skips)
                for filters in ("no filters over time", "filters over time")
                for skips in ("no residuals", "residuals")
            ),
        ]
        rows = []
        for name, subset in _subsets(scores).items():
            cells: list[Cell] = [name]
            for method in ("plain", "skips", "filters", MAIN):
                found = scores.correct(method, subset)
                cells.append(_accuracy(found))
            rows.append(tuple(cells))
        caption = f"Residuals between the streams and filters over time, apart, on {scores.dataset}"
        note = "All four start from the same two streams and take the same steps; the first is late fusion trained on."
        return _seeds_once(heads, rows, caption, note)

    def probes(self) -> Shown:
        """Trained networks under other test conditions, on every data set where they were probed."""
        found = []
        for scores in self.scores.values():
            subsets: dict[str, Mapping[str, str]] = {"all classes": {}}
            if clip_tags(scores.dataset):
                subsets["classes told by their motion"] = {"factor": "motion"}
            if any(scores.seeds_with(f"{name}+probes") for name in PROBED):
                found += [self._probes(scores, name, subset) for name, subset in subsets.items()]
        return _together(found)

    def _probes(self, scores: StResNetScores, what: str, subset: Mapping[str, str]) -> Table:
        conditions = {"as trained": "", "frames of another clip": SWAPPED, "nothing moves": "no-motion",
                      "no frames": "no-appearance", "nothing crosses": "no-skips"}  # fmt: skip
        assert set(conditions.values()) == {"", SWAPPED, *PROBES}
        rows = []
        for base, label in LABELS.items():
            cells: list[Cell] = [label]
            for condition in conditions.values():
                method = f"{base}+{condition}" if condition else base
                known = method in scores.methods
                cells.append(_accuracy(scores.correct(method, subset)) if known else tables.ABSENT)
            rows.append(tuple(cells))
        caption = f"What trained networks rely on, on {scores.dataset}, {what}"
        note = (
            "Frames of another clip: of another class; flow and label stay, so what is told by its look is lost. A "
            "dash: nothing crosses in that network anyway."
        )
        return _seeds_once(["network", *conditions], rows, caption, note)

    def crops(self) -> Shown:
        """The fully convolutional test beside the ten-crop test: accuracy and seconds (claim st_resnet-22)."""
        found = []
        for scores in self.scores.values():
            run = f"{MAIN}+crops"
            if not (seeds := scores.seeds_with(run)):
                continue
            runs = [scores.runs[run, split, seed].arrays for split in scores.splits for seed in seeds]
            rows = []
            for label, method, clock in (
                ("fully convolutional", MAIN, "seconds_full"),
                ("ten crops", run, "seconds_crops"),
            ):
                spent = float(np.mean([a[clock][0] for a in runs]))
                rows.append((label, _accuracy(scores.correct(method, {}, seeds)), f"{spent:.1f}"))
            found.append(
                Table(
                    ("test", "accuracy", "seconds"),
                    tuple(rows),
                    f"Two tests of ST-ResNet on {scores.dataset}",
                    "Ten crops hold five mirrored ones; the fully convolutional test has none here, one in the paper.",
                )
            )
        return _together(found)


def phases_of(scale: Preset, experiments: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Table 2 of a scale: printed row -> printed column -> text."""
    out = {}
    for row, phase in PHASES.items():
        recipe, sampling = scale.recipes[phase], scale.samplings[phase]
        tau = "tau = 1" if sampling.stride is None else f"tau in [{sampling.stride[0]}, {sampling.stride[1]}]"
        out[row] = {
            "SGD batch size": str(recipe.batch),
            "Bnorm batch size": str(experiments[BATCHED[row]].config["sub_batch"]),
            "Learning rate (iterations)": _rates(recipe),
            "Temporal chunks / stride": f"{sampling.snippets} / {tau}",
        }
    return out


def _rates(recipe: Recipe) -> str:
    """ "1e-2 (30K), 1e-3 (10K)", as Table 2 prints it, or a schedule without steps in words."""
    if recipe.schedule != "step" or not recipe.milestones:
        return f"{recipe.lr:g} ({recipe.iterations}), {schedule(recipe)}"
    ends = (0, *recipe.milestones, recipe.iterations)
    rates = [recipe.lr * recipe.gamma**i for i in range(len(ends) - 1)]
    text = (f"{rate:.0e}".replace("e-0", "e-") for rate in rates)
    return ", ".join(f"{t} ({(b - a) // 1000}K)" for t, a, b in zip(text, ends, ends[1:], strict=False))


def _subsets(scores: StResNetScores) -> dict[str, Mapping[str, str]]:
    return {"all": {}} | ({f: {"factor": f} for f in FACTORS} if clip_tags(scores.dataset) else {})


def _accuracy(found: tuple[Array, Array, float] | None) -> str:
    if found is None:
        return NOT_RUN
    return tables.statistic(found[0].mean(1), found[0].shape[1])


def _seeds_once(heads: Sequence[Column], rows: Sequence[tuple[Cell, ...]], caption: str, note: str) -> Table:
    """A table of accuracies that says in its note, not in every cell, how many seeds there are."""
    numbers = [str(cell) for row in rows for cell in row[1:] if cell not in (NOT_RUN, tables.ABSENT)]
    seeds = {text[text.rindex("(") :] for text in numbers}
    meaning = "Top-1 accuracy in percent; ± is the standard deviation over seeds, [ ] the 95 % interval over clips"
    if len(seeds) == 1:
        suffix = f" {seeds.pop()}"
        rows = [(row[0], *(str(cell).removesuffix(suffix) for cell in row[1:])) for row in rows]
        meaning += suffix
    return Table(tuple(heads), tuple(rows), caption, f"{meaning}. {note}")


def _together(found: Sequence[Table]) -> Shown:
    """Tables one under the other."""
    if not found:
        return Shown("Not run.", "<p>Not run.</p>")
    return Shown("\n\n".join(map(repr, found)), "".join(t._repr_html_() for t in found))
