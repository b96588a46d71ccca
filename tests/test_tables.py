"""Tables say what the results say, escape what they are given, and have a plain-text twin."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from repro import metrics
from repro.errors import ReproError
from repro.papers.reported import reported
from repro.report import tables as t
from repro.report.quote import source
from repro.report.theme import Shown

TABLE = t.Table(
    ("method", ("UCF101", "reported"), ("UCF101", "reproduced"), "remark"),
    (("a & <b>", "93.1", "not run", t.link("L1", "#l1")), ("c", "–", "93.1 ± 0.4 (3 seeds)", "x < y")),
    "What < that",
    note="a note",
    marked=frozenset({1}),
)


def page(shown: t.Table | Shown) -> str:
    return shown._repr_html_()


def test_html_is_escaped_once_and_wrapped() -> None:
    html = page(TABLE)
    assert html.startswith('<div class="table-wrap') and "<caption>What &lt; that</caption>" in html
    assert "a &amp; &lt;b&gt;" in html and "x &lt; y" in html and "<b>" not in html and "&amp;amp;" not in html
    assert '<a href="#l1">L1</a>' in html  # what is HTML already stays as it is
    assert html.count('<tr class="differs">') == 1 and "a note" in html


def test_heads_are_grouped() -> None:
    html = page(TABLE)
    assert re.search(r'colspan="2"[^>]*>UCF101<', html) and html.count(">UCF101<") == 1
    assert html.count('rowspan="2"') == 2
    for line in re.findall(r"<tbody>(.*)</tbody>", html)[0].split("</tr>")[:-1]:
        assert len(re.findall(r"<t[dh]", line)) == 4


def test_numbers_are_right_aligned_and_text_left() -> None:
    html = page(TABLE)
    assert '<td class="number" style="text-align:right">93.1</td>' in html
    assert '<td class="not-run" style="text-align:right">not run</td>' in html
    assert '<td class="text" style="text-align:left">x &lt; y</td>' in html
    for text in ("93.1", "+2.0 %", "93.1 ± 0.4 (3 seeds)", "93.1 [90.2, 95.8] (1 seed)", "1,234", "−0.5"):
        assert t.NUMBER.fullmatch(text), text
    for text in ("3x3, 64", "7 x 7", "stilt-L1", "2 streams"):
        assert not t.NUMBER.fullmatch(text), text


def test_plain_text_holds_every_cell_in_columns() -> None:
    lines = repr(TABLE).splitlines()
    assert lines[0] == "What < that" and lines[-1] == "a note"
    assert "UCF101 reported" in lines[1] and "a & <b>" in lines[3] and "L1" in lines[3]
    assert lines[3].index("not run") + len("not run") == lines[4].index("seeds)") + len("seeds)")  # right-aligned


def test_rows_of_a_wrong_length_are_an_error() -> None:
    with pytest.raises(ReproError, match="1 cells for 2"):
        t.Table(("a", "b"), (("x",),), "caption")


def test_statistic() -> None:
    assert t.statistic([0.927, 0.931, 0.935], 100) == "93.1 ± 0.4 (3 seeds)"
    interval = metrics.bootstrap_interval(np.arange(50)[None] < 40)
    assert t.statistic([0.8], 50) == f"80.0 [{100 * interval.low:.1f}, {100 * interval.high:.1f}] (1 seed)"


def test_published_has_every_cell_and_says_not_run() -> None:
    cells = [c for c in reported("stilt") if c.table == "4"]
    table = t.published("stilt", "4", {("Spatial", "HMDB51"): "50.0 ± 1.0 (3 seeds)"})
    html = page(table)
    shown = Counter(re.findall(r">([\d.]+)</td>", html))
    assert shown == Counter(f"{c.value:.1f}" for c in cells)
    assert html.count(">not run<") == len(cells) - 1 and html.count("50.0 ± 1.0") == 1
    row = next(r for r in table.rows if r[0] == "Spatial")
    reproduced = table.columns.index(("HMDB51 (%)", "reproduced"))
    assert row[reproduced] == "50.0 ± 1.0 (3 seeds)" and row[reproduced - 1] == "51.3"


def test_published_without_accuracies_has_no_empty_columns() -> None:
    table = t.published("stilt", "1", {})
    assert all(isinstance(c, str) for c in table.columns) and "not run" not in repr(table)


def test_published_refuses_unknown_places() -> None:
    with pytest.raises(ReproError, match="no table '44'"):
        t.published("stilt", "44", {})
    with pytest.raises(ReproError, match="no cell"):
        t.published("stilt", "4", {("Spatial", "weizmann"): "1"})


def test_comparison_against_means() -> None:
    rng = np.random.default_rng(0)
    three, one = rng.random((3, 40)) < 0.7, rng.random((1, 40)) < 0.5
    table = t.comparison(
        [("A", {"all": three, "order": three[:, :8]}), ("B", {"all": one})], "here", chance={"all": 0.25}
    )
    mean = three.mean(axis=1)
    assert table.rows[0][1] == f"{100 * mean.mean():.1f} ± {100 * mean.std(ddof=1):.1f} (3 seeds)"
    assert str(table.rows[1][1]).startswith(f"{100 * one.mean():.1f} [")
    assert table.rows[1][2] == "not run"
    assert table.rows[2] == ("chance", "25.0", "–")
    with pytest.raises(ReproError, match="seeds, clips"):
        t.comparison([("A", {"all": three[0]})], "here")


def test_comparison_keeps_groups_together_in_a_single_seeds_interval() -> None:
    correct, groups = np.arange(40)[None] < 20, np.arange(40) // 20
    alone = t.comparison([("A", {"all": correct})], "here")
    grouped = t.comparison([("A", {"all": correct})], "here", groups={"all": groups})
    assert alone.rows[0][1] != grouped.rows[0][1] == "50.0 [0.0, 100.0]"
    assert "(1 seed)" in grouped.note


def test_layers_mark_what_differs() -> None:
    paper = {"conv1": ("7x7, 64", "112"), "pool": ("7x7", "56"), "extra": ("1x1", "1")}
    live = {"conv1": ("7x7, 64", "112"), "pool": ("3x3", "56"), "project": ("512", "512")}
    table = t.layers(
        paper, live, columns=("kernels", "size"), caption="c", ledger={"pool": "stilt-L7"}, href="ledger#{}"
    )
    assert [r[0] for r in table.rows] == ["conv1", "pool", "extra", "project"] and table.marked == {1, 2, 3}
    assert table.rows[1][1:5] == ("7x7", "3x3", "56", "56")
    assert table.rows[0][-1] == "same" and table.rows[2] == ("extra", "1x1", "–", "1", "–", "differs")
    assert '<a href="ledger#stilt-L7">stilt-L7</a>' in page(table)


def test_glance_has_both_forms() -> None:
    card = t.glance({"paper": "A & B", "parameters": "23.5 M"}, {"code": "https://example.org/?a=1&b=2"})
    assert "<dt>paper</dt><dd>A &amp; B</dd>" in page(card) and 'href="https://example.org/?a=1&amp;b=2"' in page(card)
    assert repr(card) == "paper: A & B\nparameters: 23.5 M\ncode: https://example.org/?a=1&b=2"
    assert card._repr_mimebundle_() == {"text/html": page(card), "text/plain": repr(card)}


def test_provenance_sums_up() -> None:
    def row(key: str, seed: int, date: str, torch: str) -> dict[str, object]:
        made = {
            "date": date,
            "device": "cpu",
            "python": "3.11.9",
            "versions": {"torch": torch, "av": None},
            "seconds": 1800,
        }
        return {"key": key, "experiment": "spatial", "seed": seed, "provenance": made}

    rows = [row("a", 2, "2025-02-03", "2.5"), row("b", 1, "2025-01-02", "2.6"), row("b", 1, "2025-01-02", "2.6")]
    text = repr(t.provenance(rows, stale={"b"}))
    for part in (
        "runs: 2",
        "2025-01-02 to 2025-02-03",
        "seeds: 1, 2",
        "torch 2.5, torch 2.6",
        "1.0 h",
        "1: spatial seed 1",
    ):
        assert part in text
    assert "None" not in text and repr(t.provenance([])) == "runs: none"


def test_source_shows_the_lines_of_the_file() -> None:
    shown = source(metrics.softmax, between=("def softmax", "return"))
    with open(metrics.__file__, encoding="utf-8") as file:
        lines = file.read().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("def softmax")) + 1
    head, *code = repr(shown).splitlines()
    assert head == f"src/repro/metrics.py, lines {first}–{first + len(code) - 1}"
    assert code == lines[first - 1 : first - 1 + len(code)] and "return" in code[-1]
    assert f">{first}</span>" in page(shown) and 'class="highlight"' in page(shown)
    assert repr(source(metrics.softmax)).splitlines()[1] == code[0]
    with pytest.raises(ReproError, match="no line with 'nowhere'"):
        source(metrics.softmax, between=("def softmax", "nowhere"))
