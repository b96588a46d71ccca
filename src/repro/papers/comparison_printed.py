"""What the five papers print of the same networks, and by which protocols: cells, never ranked across protocols."""

from __future__ import annotations

from typing import NamedTuple

from repro.papers.heterogeneous_numbers import counted
from repro.papers.reported import find, number

SETS = ("UCF101", "HMDB51", "Kinetics")
CCS_COLUMNS = {"UCF101": "UCF-101", "HMDB51": "HMDB-51"}
Place = tuple[str, str, str]  # paper, table, row

# The same network as several papers print it (ledger comparison-L1 to L4).
QUOTED: dict[str, tuple[Place, ...]] = {
    "tsn": (
        ("heterogeneous", "4", "TSN (2 modalities) [5]"),
        ("ccs", "1 RGB+Flow", "TSN [38], ImageNet"),
        ("stilt", "6", "TSN [38]"),
    ),
    "c3d": (
        ("st_resnet", "prose 4.2 without IDT", "C3D"),
        ("heterogeneous", "4", "C3D [3]"),
        ("ccs", "1 RGB", "C3D [30]"),
        ("ccs", "1 RGB", "C3D [31]"),
        ("stilt", "6", "C3D [6]"),
    ),
    "fusion": (
        ("st_resnet", "4 left", "Two-Stream Fusion [5]"),
        ("heterogeneous", "4", "Two-stream Fusion [17]"),
        ("stilt", "6", "Two-stream fusion [10]"),
        ("ccs", "1 RGB+Flow", "ConvNet fusion [7]"),
    ),
    "idt": (
        ("st_resnet", "4 right", "IDT [29]"),
        ("heterogeneous", "4", "Improved dense trajectories (IDT) [42]"),
    ),
}


class Protocol(NamedTuple):
    """How a paper comes to its best printed accuracy, which stands at `place`."""

    method: str  # here
    place: Place
    splits: str
    views: str
    averaged: str


# In the order of their years. What a paper does not say stays unsaid (ledger comparison-L7 to L9).
PROTOCOLS = (
    Protocol("st-resnet", ("st_resnet", "4 left", "ST-ResNet*"), "3", "25 frames, fully convolutional, mirrored",
             "logits"),
    Protocol("heterogeneous", ("heterogeneous", "4", "Ours (spatiotemporal heterogeneity)"), "3",
             "25 segments, 10 crops", "not said, 1:1.5"),
    Protocol("cross-enhancement", ("cross_enhancement", "3 RGB+Flow", "Ours"), "UCF101: 1; HMDB51: own lists",
             "not said", "a learned layer"),
    Protocol("ccs", ("ccs", "1 RGB+Flow", "CCS + TSN, ImageNet+Kinetics"), "1", "25 frames, crops not said",
             "not said"),
    Protocol("stilt", ("stilt", "6", "STILT (ResNet-50)"), "3", "not said", "probabilities, learned weights"),
)  # fmt: skip

# Streams alone: what leads where (ledger comparison-L6): label -> data set, RGB, flow.
STREAMS: dict[str, tuple[str, Place, Place]] = {
    "st_resnet": ("UCF101", ("st_resnet", "3", "Appearance stream"), ("st_resnet", "3", "Motion stream")),
    "ccs, TSN": ("UCF101", ("ccs", "1 RGB", "TSN [38], ImageNet"), ("ccs", "1 Flow", "TSN [38], ImageNet")),
    "ccs, I3D": ("UCF101", ("ccs", "1 RGB", "I3D [2]"), ("ccs", "1 Flow", "I3D [2]")),
    "stilt": ("UCF101", ("stilt", "4", "Spatial"), ("stilt", "4", "Temporal")),
    "cross_enhancement on Kinetics": (
        "Kinetics", ("cross_enhancement", "3 RGB", "Two-Stream I3D [1]"),
        ("cross_enhancement", "3 Flow", "Two-Stream I3D [1]"),
    ),
    "stilt on Kinetics": ("Kinetics", ("stilt", "4", "Spatial"), ("stilt", "4", "Temporal")),
}  # fmt: skip
HETEROGENEOUS_ROWS = (
    "spatio_ResNet50+temporal_ResNet50", "spatio_ResNet101+temporal_ResNet50", "spatio_ResNet152+temporal_ResNet50",
    "spatio_ResNet101+temporal_BN-Inception",
)  # fmt: skip


def column(paper: str, dataset: str) -> str:
    """What a paper calls a data set in its tables."""
    return CCS_COLUMNS[dataset] if paper == "ccs" else dataset


def printed(place: Place, dataset: str) -> float | None:
    """The accuracy in percent that stands at a place; None where the table has a dash or no such column."""
    paper, table, row = place
    if dataset == "Kinetics" and paper not in ("stilt", "cross_enhancement"):
        return None
    value = find(paper, table, row, column(paper, dataset)).value
    return value if isinstance(value, float) else None


def quotations(name: str) -> str:
    """All printed accuracies of one network of `QUOTED`, each with its place and the number of splits behind it."""
    splits = {p.place[0]: p.splits for p in PROTOCOLS}
    texts = []
    for place in QUOTED[name]:
        values = " / ".join(
            f"{v:.1f}" for d in SETS if (v := printed(place, d)) is not None
        )  # in the order of `SETS`, without dashes
        paper, table, row = place
        where = f"{table}, {row}" if table.startswith("prose") else f"Table {table}, {row}"
        texts.append(f"{paper} {values} ({where}; splits {splits[paper]})")
    return "; ".join(texts)


def best_printed(dataset: str) -> dict[str, float]:
    """The best printed accuracy of each paper, by our name of its method, highest first."""
    found = {p.method: value for p in PROTOCOLS if (value := printed(p.place, dataset)) is not None}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def leading() -> str:
    """Which plain stream leads in the papers' tables, in points: RGB over flow."""
    texts = []
    for name, (dataset, rgb, flow) in STREAMS.items():
        a, b = printed(rgb, dataset), printed(flow, dataset)
        assert a is not None and b is not None
        texts.append(f"{name} {a - b:+.1f}")
    pairs = [
        (row, number("heterogeneous", "2", row, "Spatial") - number("heterogeneous", "2", row, "Temporal"))
        for row in HETEROGENEOUS_ROWS
    ]
    texts += [f"heterogeneous, {row.replace('+', ' and ')} {gap:+.1f}" for row, gap in pairs]
    return f"printed, RGB over flow in points: {', '.join(texts)}"


def vgg() -> str:
    """Multiply-adds of VGG-16 as two papers print them, and counted."""
    theirs = number("st_resnet", "prose 4.1 size", "multiply-adds", "VGG-16")
    others = number("heterogeneous", "prose III.B", "VGG-16", "FLOPs")
    return (
        f"printed {theirs:.1f} G in st_resnet, {others:.1f} G in heterogeneous; counted "
        f"{counted()['vgg16'].multiply_adds / 1e9:.1f} G, its convolutions alone "
        f"{counted()['vgg16, convolutions only'].multiply_adds / 1e9:.1f} G, VGG-19 "
        f"{counted()['vgg19'].multiply_adds / 1e9:.1f} G"
    )
