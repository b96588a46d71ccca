"""Live values of the CCS chapter's ledger that follow from printed cells: L12, L14, L15, L18-L20, L22, L23, L28, L30,
L31, L45 and L47."""

from __future__ import annotations

import math
from collections.abc import Iterable

from repro.data.facts import OFFICIAL
from repro.papers.reported import find, number, reported

PAPER = "ccs"
SETS = ("UCF-101", "HMDB-51")
OFFICIAL_NAMES = {"UCF-101": "ucf101", "HMDB-51": "hmdb51"}
OTHER_NAMES = {"UCF-101": "UCF101", "HMDB-51": "HMDB51"}  # in the other papers' tables
PARTS = ("RGB", "Flow", "RGB+Flow")  # of Tables 1 and 3
BASES = ("TSN", "I3D")
METHODS = ("Baseline", "CB", "CS", "All")
KINETICS = "CCS + TSN, ImageNet+Kinetics"
BEST_OTHER = "R(2+1)D [32], ImageNet+Kinetics"
QUOTED = {"TSN": "TSN [38], ImageNet", "I3D": "I3D [2]"}  # rows of Table 1 that are Table 3's baselines


def from_cells() -> dict[str, str]:
    """What follows from the printed numbers alone."""
    return {
        "last-rates": _last_rates(),
        "cells-of-cb": _cells_of_cb(),
        "stated-gains": _stated_gains(),
        "tsn-elsewhere": _tsn_elsewhere(),
        "quoted-baselines": _quoted_baselines(),
        "block-on-i3d": "CB less Baseline, " + "; ".join(f"{b} {_by_set(f'{b} CB', f'{b} Baseline')}" for b in BASES),
        "output-gains": _output_gains(),
        "best-one-stream": _best_one_stream(),
        "st-resnet-elsewhere": _st_resnet_elsewhere(),
        "fusion-elsewhere": _fusion_elsewhere(),
        "lead-over-published": "; ".join(_lead(s) for s in SETS),
    }


def _cell(table: str, row: str, column: str) -> float:
    return number(PAPER, table, row, column)


def _is_number(table: str, row: str, column: str) -> bool:
    return isinstance(find(PAPER, table, row, column).value, float)


def _list(cells: Iterable[float], digits: int = 1) -> str:
    return ", ".join(f"{x:.{digits}f}" for x in cells)


def _gain(table: str, a: str, b: str, column: str) -> str:
    return f"{_cell(table, a, column) - _cell(table, b, column):+.1f}"


def _by_set(a: str, b: str, table: str = "3 RGB+Flow") -> str:
    return ", ".join(f"{s} {_gain(table, a, b, s)}" for s in SETS)


def _last_rates() -> str:
    """The rate at the end when it falls once, and when it falls every so many epochs (L12)."""

    def at(row: str) -> float:
        return _cell("prose 4.1 recipe", row, "value")

    drops = math.ceil(at("epochs at most") / at("epochs before that")) - 1
    once, always = (at("initial rate") / at("rate divided by") ** n for n in (1, drops))
    step, last = at("epochs before that"), at("epochs at most")
    return f"dropped once: {once:.0e}; every {step:g} of {last:g} epochs: {always:.0e} ({drops} drops)"


def _cells_of_cb() -> str:
    """Table 1's row of CCS + TSN on ImageNet beside Table 3's CB and All, HMDB-51 (L14)."""
    row = "CCS + TSN, ImageNet"
    places = {"Table 1": ("1", row), "Table 3, TSN CB": ("3", "TSN CB"), "Table 3, TSN All": ("3", "TSN All")}
    found = {name: [_cell(f"{t} {m}", r, SETS[1]) for m in PARTS] for name, (t, r) in places.items()}
    return "HMDB-51, RGB, flow, both: " + "; ".join(f"{name} {_list(cells)}" for name, cells in found.items())


def _stated_gains() -> str:
    """The gains of the text beside the differences of Table 1 (L15)."""
    table, stated = "1 RGB+Flow", "prose 4.2 gains"
    network = {s: _cell(table, KINETICS, s) for s in SETS}
    one = _cell("prose 4.2", "one stream", SETS[0])
    claimed = _cell(stated, "over one stream", SETS[0])
    texts = [
        f"over one stream, {SETS[0]}: table {network[SETS[0]] - one:+.1f}, text {claimed:+.1f} (which needs "
        f"{one + claimed:.1f})"
    ]
    for s in SETS:
        original, claimed = (
            _cell(table, "Two-stream Network [24]", s),
            _cell(stated, "over the original two-stream network", s),
        )
        texts.append(
            f"over the original two-stream network, {s}: table {network[s] - original:+.1f}, text {claimed:+.1f} "
            f"(which needs {original + claimed:.1f})"
        )
    return "; ".join(texts)


def _tsn_elsewhere() -> str:
    """TSN on HMDB-51 here and in another paper of this book (L18)."""
    here = _cell("3 RGB+Flow", "TSN Baseline", SETS[1])
    there = number("heterogeneous", "4", "TSN (2 modalities) [5]", "HMDB51")
    return f"TSN on HMDB-51: {here:.1f} here, as split 1; {there:.1f} in heterogeneous's Table 4, three splits"


def _quoted_baselines() -> str:
    """How many of Table 3's baselines are Table 1's quoted rows, and I3D's in cross_enhancement (L19)."""
    same = [
        _cell(f"3 {m}", f"{b} Baseline", s) == _cell(f"1 {m}", QUOTED[b], s)
        for b in BASES for m in PARTS for s in SETS if _is_number(f"3 {m}", f"{b} Baseline", s)
    ]  # fmt: skip
    own = [
        _cell(f"3 {m}", "I3D Baseline", s) == number("cross_enhancement", f"3 {m}", "Two-Stream I3D [1]", column)
        for m in PARTS for s, column in OTHER_NAMES.items()
    ]  # fmt: skip
    return (
        f"{sum(same)} of the {len(same)} cells of Table 3's baselines are Table 1's quoted ones; of I3D's {len(own)}, "
        f"{sum(own)} are also in cross_enhancement's Table 3"
    )


def _output_gains() -> str:
    """All less Baseline of either output (L22)."""
    texts = []
    for m, name in (("RGB", "RGB"), ("Flow", "flow")):
        for b in BASES:
            cells = [s for s in SETS if _is_number(f"3 {m}", f"{b} Baseline", s)]
            gains = [f"{s} {_gain(f'3 {m}', f'{b} All', f'{b} Baseline', s)}" for s in cells]
            texts.append(f"{name} {b} {', '.join(gains)}")
        gain = _gain(f"1 {m}", KINETICS, "TSN [38], ImageNet+Kinetics", SETS[0])
        texts.append(f"{name} TSN, Kinetics {SETS[0]} {gain}")
    return "All less Baseline: " + "; ".join(texts)


def printed_margins() -> str:
    """The two pairs of rows of Table 4 that differ in alpha1 alone (L23)."""
    pairs = (("0.2, 0.3, 0.8", "0.3, 0.3, 0.8"), ("0.3, 0.5, 1.0", "0.5, 0.5, 1.0"))
    texts = [f"{a[:3]} against {b[:3]} {_gain('4', a, b, 'Accuracy')}" for a, b in pairs]
    return f"printed, alpha1 alone: {', '.join(texts)}"


def _best_one_stream() -> str:
    """The best single stream of Table 1 outside CCS, and both printed values of the LSTM (L28)."""
    found = {}
    for s in SETS:
        rows = [c for c in reported(PAPER) if c.table in ("1 RGB", "1 Flow") and c.column == s]
        numbers = [c for c in rows if isinstance(c.value, float) and not c.row.startswith("CCS")]
        best = max(numbers, key=lambda c: float(c.value or 0))
        found[s] = f"{best.row} {best.value} ({s}, {best.table[2:]})"
    lstm, stated = _cell("1 RGB", "ConvNets+LSTM [5]", SETS[0]), _cell("prose 4.2", "one stream", SETS[0])
    return f"best of Table 1: {', '.join(found.values())}; [5] has {lstm:.1f} there, the text says {stated:.1f}"


def _st_resnet_elsewhere() -> str:
    """Table 1's row of [6] beside its source (L30)."""
    sources = {"RGB": "Appearance stream", "Flow": "Motion stream", "RGB+Flow": "ST-ResNet*"}
    texts = []
    for s, column in OTHER_NAMES.items():
        here = _list(_cell(f"1 {m}", "ST-resNet [6]", s) for m in PARTS)
        there = _list((number("st_resnet", "3", row, column) for row in sources.values()), digits=2)
        texts.append(f"{s}: {here} here, {there} in st_resnet's Table 3")
    return "; ".join(texts)


def _fusion_elsewhere() -> str:
    """Two-stream fusion here and in st_resnet (L31)."""
    here = _list(_cell("1 RGB+Flow", "ConvNet fusion [7]", s) for s in SETS)
    there = _list(number("st_resnet", "4 left", "Two-Stream Fusion [5]", s) for s in OTHER_NAMES.values())
    return f"{', '.join(SETS)}: {here} here, {there} in st_resnet's Table 4"


def _lead(column: str) -> str:
    """The lead over the best other row, in clips of split 1, and the standard error of the accuracy (L45)."""
    best = _cell("1 RGB+Flow", KINETICS, column)
    lead = best - _cell("1 RGB+Flow", BEST_OTHER, column)
    clips = OFFICIAL[OFFICIAL_NAMES[column]][1]["1"].test
    error = math.sqrt(best * (100 - best) / clips)
    return f"{column} {lead:+.1f}, {lead * clips / 100:.0f} of {clips} clips, standard error {error:.2f}"


def printed_fusion() -> str:
    """What fusing adds to the better output in Table 3, HMDB-51 (L47)."""
    texts = []
    for b in BASES:
        gains = []
        for method in METHODS:
            row = f"{b} {method}"
            if all(_is_number(f"3 {m}", row, SETS[1]) for m in PARTS):
                single = max(_cell(f"3 {m}", row, SETS[1]) for m in PARTS[:2])
                gains.append(f"{method} {_cell('3 RGB+Flow', row, SETS[1]) - single:+.1f}")
        texts.append(f"{b} {', '.join(gains)}")
    return f"printed, HMDB-51: {'; '.join(texts)}"
