"""Live values of STILT's ledger that follow from the published cells alone: L7, L13, L15 and L19."""

from __future__ import annotations

from math import ceil

from repro.papers.reported import number, reported

HMDB51_TRAINING_CLIPS = 51 * 70  # every official split: 70 clips of each of 51 classes


def from_cells() -> dict[str, str]:
    """Live values of stilt's ledger that need no run: L7, L13, L15 and L19."""
    return {
        "sizes-under-both": _sizes(),
        "late-average-kinetics": _late_average(),
        "rates-and-epochs": "; ".join(
            schedule(column, clips)
            for column, clips in (
                ("HMDB51", HMDB51_TRAINING_CLIPS),
                ("Kinetics", number("stilt", "prose 4.1", "training clips", "Kinetics")),
            )
        ),
        "best-in-table-6": _best(),
    }


def schedule(column: str, clips: float) -> str:
    """Where the printed schedule of a data set with `clips` training clips ends (L15)."""
    recipe = {
        row: number("stilt", "prose 4.2", row, column)
        for row in ("batch size", "initial rate", "rate multiplied by", "iterations between drops", "iterations")
    }
    epochs = recipe["batch size"] / clips  # per iteration
    step, total = recipe["iterations between drops"], recipe["iterations"]
    drops = ceil(total / step) - 1  # the drop after the last iteration trains nothing
    last = recipe["initial rate"] * recipe["rate multiplied by"] ** drops
    return f"{column}: {total * epochs:.0f} epochs, first drop after {step * epochs:.1f}, last rate {last:.0e}"


def _sizes() -> str:
    """Side of the map after each convolution of Conv3_x (four blocks of three), from the 56 that enter it (L7)."""
    literal, resnet = [56], [56]
    for layer in range(12):
        literal.append(ceil(literal[-1] / (1 if layer == 0 else 2)))  # Table 2: the first stride 1, the others 2
        resnet.append(ceil(resnet[-1] / (2 if layer == 0 else 1)))  # caption: the stride is at 3_1
    first = f"one position from convolution {literal.index(1)} on"
    return f"Conv3_x literally: 56 to {literal[-1]}, {first}; ResNet-50: 56 to {resnet[-1]}"


def _late_average() -> str:
    def at(table: str, row: str) -> float:
        return number("stilt", table, f"Two-stream{row}", "Kinetics")

    stated = number("stilt", "prose 4.3", "STIL over the late average", "Kinetics")
    stated_awf = number("stilt", "prose 4.3", "AWF over STIL", "Kinetics")
    parts = []
    for value in (at("4", " + STIL"), at("5", " + STIL + Late Ave")):
        stil, awf, early = value - at("4", ""), at("4", " + STIL + AWF") - value, at("5", " + STIL + Early") - value
        parts.append(f"with {value:.1f}: STIL {stil:+.1f}, AWF {awf:+.1f}, early fusion {early:+.1f}")
    return "; ".join([*parts, f"the text states {stated:+.1f} and {stated_awf:+.1f}"])


def _best() -> str:
    parts = []
    rows = {cell.row for cell in reported("stilt") if cell.table == "6" and not cell.row.startswith("STILT")}
    for column in ("UCF101", "HMDB51", "Kinetics"):
        cells = [c for c in reported("stilt") if c.table == "6" and c.column == column and c.row in rows]
        best = max((c for c in cells if isinstance(c.value, float)), key=lambda c: float(c.value or 0))
        gap = number("stilt", "6", "STILT (ResNet-50)", column) - number("stilt", "6", best.row, column)
        parts.append(f"{column} {gap:+.1f} against {best.row}")
    return f"{len(rows)} other rows; " + ", ".join(parts)
