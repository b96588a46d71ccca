"""Live values of the heterogeneous chapter's ledger that follow from printed cells: L8, L9, L14, L21, L23 and L24."""

from __future__ import annotations

import numpy as np

from repro.metrics import NOT_RUN
from repro.papers.reported import number, reported

PAPER = "heterogeneous"
OURS, ISOMORPHIC = "Ours (spatiotemporal heterogeneity)", "Ours (spatiotemporal isomorphism)"  # rows of Table 4
STAR_WITH_IDT = ("st_resnet", "4 right", "ST-ResNet* + IDT")  # a printed cell of another paper
# The official lists; the paper prints none of them.
UCF101_TEST, UCF101_TRAINING, HMDB51_TRAINING = 3783, 9537, 3570  # clips of split 1
CLASSES = {"UCF101": 101, "HMDB51": 51}


def from_cells() -> dict[str, str]:
    """What follows from the printed numbers alone."""
    tsn = [(s, _cell("4", OURS, s) - _cell("4", "TSN (2 modalities) [5]", s)) for s in CLASSES]
    ours, star = ([f"{number(*place, s):.1f}" for s in CLASSES] for place in ((PAPER, "4", OURS), STAR_WITH_IDT))
    return {
        "spatial-depth-errors": _depth_errors(),
        "table-4-against-tsn": ", ".join(f"{s} {gap:+.1f}" for s, gap in tsn) + " against TSN",
        "epochs-and-rates": "; ".join(_schedule(role) for role in ("Spatial", "Temporal"))
        + f"; a sweep of the rate for training from scratch: {NOT_RUN}",
        "with-trajectories": f"with improved trajectories: P3D {_cell('4', 'P3D ResNet + IDT [7]', 'UCF101'):.1f} "
        f"(UCF101), ST-ResNet* {' and '.join(star)}; this paper, without them, {' and '.join(ours)}",
    }


def _cell(table: str, row: str, column: str) -> float:
    return number(PAPER, table, row, column)


def _depth_errors() -> str:
    """Standard errors of Table 2, split 1, beside the differences between spatial depths (L8)."""
    fused = {c.row: _cell("2", c.row, c.column) for c in reported(PAPER) if (c.table, c.column) == ("2", "Two-Stream")}
    names = {row: row.replace("spatio_", "").replace("+temporal_", " + ") for row in fused}
    errors = {row: np.sqrt(v * (100 - v) / UCF101_TEST) for row, v in fused.items()}
    best, *others = sorted((r for r in fused if r.endswith("temporal_ResNet50")), key=lambda r: -fused[r])
    return (
        "with standard errors: "
        + ", ".join(f"{names[row]} {v:.1f} ± {errors[row]:.1f}" for row, v in fused.items())
        + f"; {names[best]}: "
        + ", ".join(f"{fused[best] - fused[row]:+.1f} against {names[row]}" for row in others)
    )


def _schedule(role: str) -> str:
    """Epochs and last rate of the printed schedule of a stream (L14)."""

    def at(row: str) -> float:
        return _cell("prose IV.B", row, role)

    steps = at("iterations")
    if role == "Spatial":
        drops = int((steps - 1) // at("iterations between drops"))
    else:
        drops = sum(at(f"{which} drop after") < steps for which in ("first", "second"))
    seen = steps * at("batch size")
    epochs = f"{seen / UCF101_TRAINING:,.0f} epochs of UCF101 and {seen / HMDB51_TRAINING:,.0f} of HMDB51 (split 1)"
    return f"{role.lower()}: {epochs}, last rate {at('initial rate') / at('rate divided by') ** drops:.0e}"


def printed_share() -> str:
    """Which whole numbers of clips are next to the accuracy that is printed with two digits (L21)."""
    share = _cell("prose IV.C chosen pair", "spatio_ResNet101+temporal_BN-Inception", "Two-Stream") / 100
    below = int(share * UCF101_TEST)
    near = " and ".join(f"{n} = {100 * n / UCF101_TEST:.2f} %" for n in (below, below + 1))
    return f"printed: {100 * share:.2f} % of {UCF101_TEST} clips = {share * UCF101_TEST:.1f}; next to it {near}"


def printed_gains() -> str:
    """Gain of the unlike pair in Table 2 and in Table 4 (L24)."""
    pair, twice = "spatio_ResNet101+temporal_BN-Inception", "spatio_ResNet50+temporal_ResNet50"
    first = _cell("2", pair, "Two-Stream") - _cell("2", twice, "Two-Stream")
    all_splits = ", ".join(f"{s} {_cell('4', OURS, s) - _cell('4', ISOMORPHIC, s):+.1f}" for s in CLASSES)
    return f"printed gain over the like pair: Table 2 (split 1) {first:+.1f}; Table 4 (three splits) {all_splits}"
