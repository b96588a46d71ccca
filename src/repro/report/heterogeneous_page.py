"""Tables and figures of the heterogeneous network's chapter, from finished runs and live models; the notebook only
calls and tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from repro.data.catalog import unofficial
from repro.errors import ReproError
from repro.experiments import Experiment
from repro.papers.heterogeneous import (
    TEMPORAL,
    TRIED,
    Config,
    Stream,
    averaged_conv1,
    build,
    conv1_table,
    first_convolution,
)
from repro.papers.heterogeneous_derived import MAIN, held_out
from repro.papers.heterogeneous_experiments import TEXTURES, Preset, dashed, preset
from repro.papers.heterogeneous_numbers import (
    ROW,
    HeterogeneousClaims,
    counted,
    ledger_values,
    st_resnet_star,
)
from repro.papers.heterogeneous_scores import BASES, LIKE, PAIR, HeterogeneousScores
from repro.papers.reported import find, number
from repro.report import tables
from repro.report.chapter import ChapterPage
from repro.report.chapter_figures import NO_RUN, absent
from repro.report.heterogeneous_figures import NAMES, HeterogeneousFigures, pair_name
from repro.report.recipes import recipe_table, schedule, starting_weights
from repro.report.tables import ABSENT, Cell, Table, link
from repro.report.theme import Shown
from repro.training import Recipe

ROLES = ("spatial", "temporal")
STATED = ("Ours", "ST-ResNet*")  # whose parameters Section III.B gives
# The rows of Table 2: what the paper calls them -> spatial and temporal base network.
PRINTED_PAIRS = {
    "spatio_ResNet50+temporal_ResNet50": ("resnet50", "resnet50"),
    "spatio_ResNet101+temporal_ResNet50": ("resnet101", "resnet50"),
    "spatio_ResNet152+temporal_ResNet50": ("resnet152", "resnet50"),
    "spatio_ResNet101+temporal_BN-Inception": ("resnet101", "bn-inception"),
}
# The printed cells of Tables 2 and 3 -> the method that reproduces them. The temporal networks of Table 2 are those of
# the last row of Table 3.
CELLS_2 = {
    (row, column): method
    for row, (s, t) in PRINTED_PAIRS.items()
    for column, method in {
        "Spatial": f"spatial-{s}",
        "Temporal": f"temporal-{t}-transplanted",
        "Two-Stream": f"{s}+{t}-transplanted",
    }.items()
}
BEGUN = {
    "From Scratch": "-scratch",
    "Pre-training strategy in [5]": "",
    "Modified cross-modal pre-training (ours)": "-transplanted",
}
CELLS_3 = {
    (row, column): f"temporal-{b}{end}"
    for row, end in BEGUN.items()
    for column, b in {"ResNet50": "resnet50", "BN-Inception": "bn-inception"}.items()
}
# Rows of the comparison tables: what we call them -> how the scores call them.
TABLE_2 = {
    **{f"{role}, {NAMES[b]}": f"{role}-{b}" for role in ("spatial", "temporal") for b in BASES},
    **{pair_name(f"{s}+{t}"): f"{s}+{t}" for s, t in PRINTED_PAIRS.values()},
    **{pair_name(pair): pair for pair in LIKE},
}
TABLE_3 = {
    f"{NAMES[b]}, {how}": f"temporal-{b}{end}"
    for b in ("resnet50", "bn-inception")
    for how, end in {
        "from scratch": "-scratch",
        "conv1 averaged [5]": "",
        "conv1 averaged, as long in total": "-longer",
        "conv1 transplanted (the paper's)": "-transplanted",
    }.items()
}
TABLE_4 = {
    "the best like pair": "best-isomorphic",
    f"unlike pair, conv1 averaged ({pair_name(PAIR)})": PAIR,
    "the same, weight chosen on folds": f"{PAIR}@chosen",
    "the same, logits averaged": f"{PAIR}+logits",
    "Ours (spatiotemporal heterogeneity)": "proposed",
}
ABLATIONS = {
    f"{NAMES[name.partition('-')[2]]}, {how}": name + end
    for name in MAIN
    for how, end in {
        "as the paper has it": "",
        "one segment": "@one-segment",
        "no augmentation": "@no-augmentation",
        "moving batch normalisation, no dropout": "@moving-bn",
    }.items()
    if not (name == MAIN[0] and end == "@moving-bn")
}
STEPS = (  # of Table 1, in the order of `conv1_table`: table, row, column
    ("1 question", "Spatial Network", "Kernel of conv1"),
    ("1 question", "Temporal Network", "Kernel of conv1"),
    ("1 method", "Step1", "The method in [5]"),
    ("1 method", "Step2", "The method in [5]"),
    ("1 method", "Step1", "The proposed method"),
    ("1 method", "Step2", "The proposed method"),
)


class HeterogeneousPage(ChapterPage, HeterogeneousFigures):
    """What the chapter shows, for the data set at hand and, beside it, for those with recorded results."""

    paper = "heterogeneous"
    scores_of = HeterogeneousScores
    main: HeterogeneousScores
    tables: ClassVar[Mapping[int | str, Mapping[str, str]]] = {2: TABLE_2, 3: TABLE_3, 4: TABLE_4}
    columns: ClassVar[Mapping[str, str]] = {"ucf101": "UCF101", "hmdb51": "HMDB51"}  # of Table 4

    def all_experiments(self, experiments: Mapping[str, Experiment]) -> Iterable[Experiment]:
        """The chapter's trainings, and those on half of the training groups."""
        return [*experiments.values(), *(e for name in MAIN for e in held_out(experiments[name]))]

    def claim_scores(self, scores: Mapping[str, Any]) -> HeterogeneousClaims:
        """What the claims are tested on."""
        return HeterogeneousClaims(scores)

    def ledger_values(self) -> dict[str, str]:
        """The live values that the ledger asks for."""
        return ledger_values(self.scores)

    # -- at a glance ------------------------------------------------------------------------------------------------

    def glance(self) -> Shown:
        """The card at the top."""
        pair = counted()[ROW]
        spatial, temporal = (self.chapter.experiments[name].sampling for name in MAIN)
        return self.card(
            {
                "Paper": "Chen, Bai, Gao, Tinega, Ding: IEEE Access 7 (2019)",
                "Streams": f"RGB frames; stacks of {TEMPORAL.flow_frames} optical flow fields "
                f"({TEMPORAL.in_channels} channels)",
                "Backbones": f"{pair_name(PAIR)}; all pairs of {', '.join(NAMES.values())} as variants",
                "Size": f"{pair.parameters / 1e6:.1f} M parameters, {pair.multiply_adds / 1e9:.1f} G multiply-adds a "
                "snippet (101 classes, counted)",
                "Here": f"{self.chapter.preset}: {spatial.snippets} snippets of 1 frame or {temporal.flow_frames} flow "
                "fields in training",
            }
        )

    # -- architecture -----------------------------------------------------------------------------------------------

    def first_kernels(self) -> Table:
        """Table 1 of the paper beside the same kernels read off the live networks (maps, channels, height, width)."""
        rows = [
            (row.step, str(find("heterogeneous", *place).value), str(row.shape))
            for row, place in zip(conv1_table(), STEPS, strict=True)
        ]
        return Table(("kernel", "printed", "built"), tuple(rows), "Table 1: printed, and built")

    def counts(self) -> Table:
        """What the networks cost, counted, beside what Section III.B says."""
        found = counted()
        million = {who: f"{number('heterogeneous', 'prose III.B', who, 'Parameters'):g} M" for who in STATED}
        rows: list[tuple[Cell, ...]] = []
        for role in ("spatial", "temporal"):
            rows += [_counted(f"{role}, {NAMES[dashed(b)]}", found[f"{role} {b}"]) for b in TRIED]
        rows.append(_counted(f"both: {pair_name(PAIR)}", found[ROW], million["Ours"], "heterogeneous-L2"))
        rows.append(_counted("both: ResNet-50 twice", found["resnet50 + resnet50"], entry="heterogeneous-L3"))
        star = st_resnet_star()
        entry = link("heterogeneous-L3", "#heterogeneous-L3")
        rows.append(("both: ST-ResNet*", f"{star:,}", f"{4 * star / 1e6:.1f}", ABSENT, million["ST-ResNet*"], entry))
        for name in ("ResNet-50", "ResNet-101", "ResNet-152", "VGG-16", "VGG-19"):
            key = name.lower().replace("-", "")
            key += ", stride in the first 1x1" if name.startswith("ResNet") else ""
            printed = f"{number('heterogeneous', 'prose III.B', name, 'FLOPs'):g} G"
            rows.append(_counted(f"for images: {name}", found[key], printed, "heterogeneous-L22"))
        return Table(
            ("network", "parameters", "MB in float32", "G multiply-adds", "printed", "ledger"), tuple(rows),
            "What the networks cost: counted, and printed in Section III.B",
            "Streams: 101 classes, multiply-adds of one snippet at 224 px. Networks for images: 1000 classes, with the "
            "stride where He et al. have it.",
        )  # fmt: skip

    def recipe(self) -> Table:
        """The paper's schedule beside the one of this page."""
        rows: dict[str, Callable[[Preset], str]] = {
            "starting weights": _start,
            "optimiser": lambda p: (
                f"SGD, momentum {p.recipes['spatial'].momentum:g}, weight decay "
                f"{p.recipes['spatial'].weight_decay:g}, gradient norm at most {p.recipes['spatial'].clip_norm:g}"
            ),
            "clips an update": lambda p: str(p.recipes["spatial"].batch),
            "iterations and rate, spatial": lambda p: _schedule(p.recipes["spatial"]),
            "iterations and rate, temporal": lambda p: _schedule(p.recipes["temporal"]),
            "dropout, spatial and temporal": lambda p: " and ".join(f"{p.dropout[r]:g}" for r in ROLES),
            "batch normalisation": lambda p: "all frozen but the first" if p.weights != "none" else "not frozen",
            "snippets in training": lambda p: str(p.sampling.snippets),
            "flow fields a snippet": lambda p: str(p.sampling.flow_frames),
            "crop": lambda p: (
                f"{p.sampling.crop} px of frames with shorter side {p.short_side} px, sides "
                + ", ".join(str(int(s * p.short_side)) for s in p.sampling.scales)
            ),
        }
        note = (
            "The paper names neither dropout nor frozen batch normalisation; the first column has those of the work it "
            "stands on (ledger heterogeneous-L13). From scratch nothing is frozen."
        )
        network = (MAIN[0], f"{MAIN[1]}-transplanted")
        return recipe_table(self.chapter, preset, rows, network, note)

    # -- tables -----------------------------------------------------------------------------------------------------

    def published(self, number: int | str) -> Table:
        """A table as published, with reproduced columns for runs by the paper's own data set and protocol.

        Tables 2 and 3 are UCF101's first split, with one method a cell; Table 4 is the mean over all splits.
        """
        if number not in (2, 3):
            return super().published(number)
        first, found = self._first_split(), {}
        for place, method in (CELLS_2 if number == 2 else CELLS_3).items() if first else ():
            if first and (correct := first.correct(method)):
                found[place] = tables.statistic(correct[0].mean(1), correct[0].shape[1])
        return tables.published(self.paper, str(number), found)

    def _first_split(self) -> HeterogeneousScores | None:
        """The runs on split 1 of UCF101 by the paper's recipe; None when this page has none."""
        own = self.chapter.dataset.name == "ucf101" and self.chapter.preset == "paper"
        if not own or self.chapter.parameters.weights != "auto" or unofficial(self.chapter.dataset):
            return None
        runs = {key: result for key, result in self.main.runs.items() if key[1] == "1"}
        return HeterogeneousScores(runs) if runs else None

    def ablations(self) -> Shown:
        """What the paper never takes away: segments, augmentation, frozen batch normalisation; every data set."""
        changed = [method for method in ABLATIONS.values() if method not in MAIN]
        run = [s for s in self.scores.values() if any(s.seeds_with(method) for method in changed)]
        if not run:
            return absent(NO_RUN)
        found = [self.compared("Without a part of the recipe", ABLATIONS, s) for s in run]
        return Shown("\n\n".join(map(repr, found)), "".join(t._repr_html_() for t in found))

    def footer(self) -> Shown:
        """Where the rows of this page come from, the pre-trainings on images among them."""
        runs = [r for s in self.scores.values() for r in (*s.runs.values(), *s.images.values())]
        return tables.provenance([r.row for r in runs], self.stale)

    # -- for the notebook's demonstrations --------------------------------------------------------------------------

    def first_filters(self) -> dict[str, Tensor]:
        """First filters (maps, 2L, 7, 7) that a temporal network begins with: averaged, and transplanted.

        Those of the recorded runs, or random ones where nothing is recorded.
        """
        found = {}
        for way, end in {"averaged": "", "transplanted": "-transplanted"}.items():
            name = f"{MAIN[1]}{end}+conv1"
            if seeds := self.main.seeds_with(name):
                before = self.main.runs[name, self.main.splits[0], seeds[0]].arrays["conv1"][0]
                found[way] = torch.from_numpy(before.astype("float32"))
        if len(found) == 2:
            return found
        torch.manual_seed(0)
        trunks = [build(Config(role, "resnet18", width=0.25, partial_bn=False), 2).trunk for role in ROLES]
        rgb, flow = (first_convolution(trunk).weight.detach() for trunk in trunks)
        return {"averaged": averaged_conv1(rgb), "transplanted": flow}


def _schedule(recipe: Recipe) -> str:
    return f"{recipe.iterations:,}; {recipe.lr:g}, {schedule(recipe)}"


def _start(p: Preset) -> str:
    """Where the weights of a preset come from, in words."""
    if p.weights == TEXTURES:
        r = p.recipes["images"]
        pictures = p.images["classes"] * p.images["per_class"]
        return f"trained here on {pictures:,} generated textures, {r.iterations:,} updates of {r.batch}"
    return starting_weights(p)


def _counted(label: str, count: Any, printed: str = ABSENT, entry: str = "") -> tuple[Cell, ...]:
    """A row of the table of counts."""
    remark: Cell = link(entry, f"#{entry}") if entry else ""
    cells = (f"{count.parameters:,}", f"{count.megabytes:.1f}", f"{count.multiply_adds / 1e9:.2f}")
    return (label, *cells, printed, remark)


def streams_on_a_clip(page: HeterogeneousPage) -> tuple[Stream, Stream, dict[str, Tensor]]:
    """Both streams, untrained, and three snippets of the example clip, for the notebook's demonstrations."""
    from repro.data.clips import TestSamples, TestViews
    from repro.training import to_network

    experiments = [page.chapter.experiments[name] for name in MAIN]
    sampling = replace(experiments[0].sampling, streams=("rgb", "flow"))
    clip = next(c for c in page.chapter.dataset.clips if c.id == page.example())
    page.chapter.labs[0].prepare([clip])
    views = TestViews("three snippets", TEMPORAL.segments, "full")
    sample = TestSamples(page.chapter.labs[0].store, [clip], sampling, views)[0]
    inputs = {k: x for k, x in to_network(sample, torch.device("cpu"), sampling).items() if x is not None}
    torch.manual_seed(0)
    classes = len(page.chapter.dataset.classes)
    spatial, temporal = (_demonstrator(e, classes, x) for e, x in zip(experiments, inputs.values(), strict=True))
    return spatial, temporal, inputs


def _demonstrator(experiment: Experiment, classes: int, x: Tensor) -> Stream:
    """A stream as it would begin, with scores that differ from class to class on snippets x (1, T, C, H, W).

    Untrained statistics (0 and 1) would let a deep network's maps grow without end, so those of x take their place; and
    the head gets larger weights than training begins with.
    """
    model = experiment.build(classes)
    if not isinstance(model, Stream):
        raise ReproError(f"{experiment.name} is no stream of this chapter")
    nn.init.normal_(model.classify.weight, std=0.1)
    if experiment.config["weights"] in (TEXTURES, "none"):
        free = build(replace(model.config, partial_bn=False), classes)
        free.load_state_dict(model.state_dict())
        for layer in free.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # the mean of what it has seen
        with torch.no_grad():
            free.train().snippet_scores(x)
        model.load_state_dict(free.state_dict())
    return model.eval()
