"""Tables and figures of the STILT chapter, from finished runs and live models; the notebook only calls and tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from repro.errors import ReproError
from repro.evaluation import protocol
from repro.experiments import Experiment
from repro.models.count import multiply_adds, parameters
from repro.papers.reported import reported
from repro.papers.stilt import STILT, Config, build, layer_table
from repro.papers.stilt_derived import STIL, held_out
from repro.papers.stilt_experiments import Preset, preset
from repro.papers.stilt_numbers import MAIN, MEASURES, ledger_values
from repro.papers.stilt_printed import from_cells
from repro.papers.stilt_scores import StiltScores
from repro.report import tables
from repro.report.chapter import ChapterPage
from repro.report.recipes import recipe_table, schedule
from repro.report.stilt_figures import StiltFigures
from repro.report.tables import Table
from repro.report.theme import Shown
from repro.scores import ClaimScores

Array = np.ndarray[Any, Any]
# Rows of the comparison tables: what the paper calls it -> how the scores call it.
TABLE_4 = {
    "Spatial": "spatial",
    "Temporal": "temporal",
    "Two-stream": "two-stream",
    "same head, no attention (snippets)": "control-snippets",
    "same head, no attention (regions)": "control-regions",
    "Two-stream + STIL (snippets)": "stil-snippets",
    "Two-stream + STIL (regions)": "stil-regions",
    "Two-stream + STIL + AWF (snippets)": "stil-snippets+awf",
    "Two-stream + STIL + AWF (regions)": "stil-regions+awf",
}
TABLE_5 = {
    f"{label} ({reading})": f"stil-{reading}{fusion}"
    for reading in ("snippets", "regions")
    for label, fusion in {
        "Late Ave": "",
        "Early": "+svm",
        "AWF": "+awf",
        "AWF, regularised": "+awf-regularised",
        "AWF on held-out scores": "+awf-held-out",
    }.items()
    if not (reading == "regions" and fusion == "+awf-held-out")
}
TABLE_6 = {
    f"STILT ({name})": f"stil-snippets{backbone}+awf"
    for name, backbone in {"VGG-19": "@vgg19", "ResNet-34": "@resnet34", "ResNet-50": ""}.items()
}
LEAVE_ONE_OUT = {
    "Spatial": "spatial",
    "Temporal": "temporal",
    "Two-stream": "two-stream",
    "Two-stream + STIL (snippets)": "stil-snippets",
    "Two-stream + STIL + Early (snippets)": "stil-snippets+svm",
    "Two-stream + STIL + AWF (snippets)": "stil-snippets+awf",
}


class StiltPage(ChapterPage, StiltFigures):
    """What the chapter shows, for the data set at hand and, beside it, for those with recorded results."""

    paper = "stilt"
    scores_of = StiltScores
    tables: ClassVar[Mapping[int | str, Mapping[str, str]]] = {4: TABLE_4, 5: TABLE_5, 6: TABLE_6}
    alone = LEAVE_ONE_OUT

    def all_experiments(self, experiments: Mapping[str, Experiment]) -> Iterable[Experiment]:
        """The chapter's trainings, and those on half of the training groups."""
        found = (experiments[name] for name in STIL if name in experiments)
        return [*experiments.values(), *(e for experiment in found for e in held_out(experiment))]

    def claim_scores(self, scores: Mapping[str, Any]) -> ClaimScores:
        """What the claims are tested on."""
        return ClaimScores(scores, MEASURES)

    def ledger_values(self) -> dict[str, str]:
        """The live values that the ledger asks for."""
        return {**ledger_values(self.scores), **from_cells()}

    def published_name(self, number: int | str, label: str) -> str:
        """Our row's name in the paper's table; the snippets reading stands for the paper's network."""
        name = label.replace(" (snippets)", "")
        return f"Two-stream + STIL + {name}" if number == 5 else name

    # -- at a glance ------------------------------------------------------------------------------------------------

    def glance(self) -> Shown:
        """The card at the top."""
        with torch.device("meta"):
            model = build(Config(), 101)
            snippet = torch.zeros(1, 1, 3, 224, 224), torch.zeros(1, 1, 20, 224, 224)
        sampling = self.chapter.experiments[MAIN].sampling
        return self.card(
            {
                "Paper": "Liu, Ma, Yang, Ji, Wang, Jiang: Information Sciences 606 (2022)",
                "Streams": "RGB frames; stacks of 10 optical flow fields (20 channels)",
                "Backbones": "ResNet-50 twice; VGG-19 and ResNet-34 as variants",
                "Size": f"{parameters(model) / 1e6:.1f} M parameters, "
                f"{multiply_adds(model, *snippet) / 1e9:.1f} G multiply-adds a snippet (101 classes, counted)",
                "Here": f"{self.chapter.preset}: {sampling.snippets} snippets of 1 frame and "
                f"{sampling.flow_frames} flow fields in training",
            },
            claims="claims",
        )

    # -- architecture -----------------------------------------------------------------------------------------------

    def architecture(self, table: int) -> Table:
        """Table 2 or 3 of the paper beside the same read off the live model (full width, 224 x 224, one snippet)."""
        with torch.device("meta"):
            live = [r for r in layer_table(build(Config(), 101), 224) if r.table == table]
        printed: dict[str, dict[str, str]] = {}
        for cell in reported("stilt"):
            if cell.table == str(table):
                value = f"{cell.value:g}" if isinstance(cell.value, float) else str(cell.value or tables.ABSENT)
                printed.setdefault(cell.row, {})[cell.column] = _spaced(value)
        columns = ["input", "block", "output"] if table == 2 else ["input", "output"]
        names = {"input": "Input size", "block": "Block information", "output": "Output size"}
        paper = {row: [cells[names[c]] for c in columns] for row, cells in printed.items()}
        built = {_row_name(r.layer): [_live(r, c) for c in columns] for r in live}
        entries = (
            {**dict.fromkeys(("Max-Pooling1", "Conv2_x", "Conv3_x", "Conv4_x", "Conv5_x"), "stilt-L7")}
            if table == 2
            else dict.fromkeys([*paper, *built], "stilt-L2")
        )
        return tables.layers(
            paper, built, columns=columns, caption=f"Table {table}: printed, and built", ledger=entries
        )

    def recipe(self) -> Table:
        """The paper's schedule beside the one of this page."""
        rows: dict[str, Callable[[Preset], str]] = {
            "optimiser": lambda p: f"SGD, momentum {p.recipe.momentum:g}, weight decay {p.recipe.weight_decay:g}",
            "clips an update": lambda p: str(p.recipe.batch),
            "iterations": lambda p: f"{p.recipe.iterations:,}",
            "learning rate": lambda p: f"{p.recipe.lr:g}, {schedule(p.recipe)}",
            "snippets in training": lambda p: str(p.sampling.snippets),
            "flow fields a snippet": lambda p: str(p.sampling.flow_frames),
            "crop": lambda p: f"{p.sampling.crop} px of frames with shorter side {p.short_side} px",
        }
        note = "The paper gives neither snippets nor test views (ledger stilt-L16); the first column has our choice."
        return recipe_table(self.chapter, preset, rows, (MAIN,), note)


def _spaced(text: str) -> str:
    """Sizes with blanks, as the live table writes them: 56x56x64 -> 56 x 56 x 64 (kernels stay as they are)."""
    parts = text.split("; ")
    sizes = all(p.replace("x", "").isdigit() for p in parts)
    return "; ".join(p.replace("x", " x ") for p in parts) if sizes else text


def _row_name(layer: str) -> str:
    return {"Pool1": "Max-Pooling1", "Classes": "Softmax"}.get(layer, layer)


def _live(row: Any, column: str) -> str:
    if column == "block":
        return str(row.block)
    sizes = row.inputs if column == "input" else row.outputs
    return "; ".join(dict.fromkeys(sizes.values()))


def steps_on_a_clip(page: StiltPage) -> tuple[STILT, dict[str, torch.Tensor]]:
    """A small untrained network and the snippets of the example clip, for the notebook's demonstrations."""
    from repro.data.clips import TestSamples
    from repro.training import to_network

    experiment = page.chapter.experiments[MAIN]
    torch.manual_seed(0)
    model = experiment.build(len(page.chapter.dataset.classes)).eval()
    if not isinstance(model, STILT):
        raise ReproError("the main experiment of this chapter is no STILT network")
    clip = next(c for c in page.chapter.dataset.clips if c.id == page.example())
    page.chapter.labs[0].prepare([clip])
    views = TestSamples(page.chapter.labs[0].store, [clip], experiment.sampling, protocol(experiment.protocol))[0]
    return model, {
        k: v for k, v in to_network(views, torch.device("cpu"), experiment.sampling).items() if v is not None
    }
