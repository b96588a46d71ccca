"""The ST-ResNet chapter from invented runs: every cell of its notebook that shows something, as HTML and as text."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jupytext
import numpy as np
import pytest
from fake_runs import PERSONS, Runs, shapes_clips
from fake_st_resnet_runs import StResNetInventor
from matplotlib.figure import Figure

from repro.data.catalog import OFFICIAL
from repro.experiments import Lab, thin
from repro.metrics import NOT_RUN
from repro.papers import PAPERS
from repro.papers.reported import reported
from repro.papers.st_resnet_experiments import experiments, preset
from repro.papers.st_resnet_scores import StResNetScores
from repro.report import theme
from repro.report.page import Again, Chapter, Parameters
from repro.report.st_resnet_figures import support_drawing
from repro.report.st_resnet_page import StResNetPage, phases_of
from repro.report.tables import Table
from repro.results import write
from repro.training import History

ROOT = Path(__file__).parents[1]
TWIN = jupytext.read(ROOT / "notebooks" / "text" / "st_resnet.md", fmt={"extension": ".md", "format_name": "myst"})
CELLS = [c.source for c in TWIN.cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])]
OPENING = next(i for i, source in enumerate(CELLS) if "st_resnet = StResNetPage(chapter)" in source)


def file(chapter: Chapter, runs: Runs) -> None:
    """Put invented runs where the chapter's labs look for the real ones."""
    for (name, split, seed), result in runs.items():
        lab = chapter.labs[chapter.splits.index(split)]
        base, _, derived = name.partition("+")
        key = lab.key(chapter.experiments[base], seed)
        if derived:
            result.row["derived"]["of"] = key
        else:
            result.row["key"] = key
        lab.library.put(result)


def noise(self: Lab, clips: Any) -> None:
    """Instead of decoding and flow: nothing of what is shown depends on them."""
    for clip in clips:
        if clip.id not in self.unusable and not self.store.has(clip.id):
            rng = np.random.default_rng(list(clip.id.encode()))
            n, h, w = (40, 64, 64) if self.dataset.name == "motionshapes" else (14, 64, 80)
            self.store.write(clip.id, rng.integers(0, 256, (n, h, w, 3), np.uint8), rng.normal(0, 2, (n - 1, 2, h, w)))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "recorded"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Lab, "prepare", noise)


def open_chapter(tmp_path: Path, **given: Any) -> Chapter:
    return Chapter(PAPERS["st_resnet"], Parameters(
        data_root=str(tmp_path / "data"), store_dir=str(tmp_path / "store"), runs_dir=str(tmp_path / "runs"),
        device="cpu", **{"preset": "small", **given},
    ))  # fmt: skip


# ---------------------------------------------------------------- every cell


class Balanced(HTMLParser):
    """Whether every element is closed, and which pictures have no words."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs).get("alt") or "")
        elif tag not in ("br", "source", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def shown(value: Any) -> list[str]:
    """Alt texts of a cell's pictures, when it shows something; it must have words too."""
    if not hasattr(value, "_repr_html_"):
        return []
    parser, text = Balanced(), repr(value)
    parser.feed(value._repr_html_())
    parser.close()
    assert not parser.open
    assert text.strip() and " object at 0x" not in text
    assert all(len(alt) > 20 for alt in parser.pictures)
    assert not re.search(r"\bnan\b|\binf\b", text)
    return parser.pictures


def run_cells(chapter: Chapter, sources: list[str]) -> Iterator[tuple[str, Any]]:
    """Run cells as a notebook does; yield what each shows."""
    space: dict[str, Any] = {"chapter": chapter}
    exec(CELLS[OPENING].replace("chapter.run()", ""), space)
    for source in sources:
        tree = ast.parse(source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), space)
        if last is not None:
            yield source, eval(compile(ast.Expression(last.value), "cell", "eval"), space)


def again(self: Chapter, name: str) -> Again:
    """Instead of training for a minute."""
    experiment, lab = self.experiments[name], self.labs[0]
    recorded = lab.library.get(lab.key(experiment, 1)) if lab.has(experiment, 1) else None
    return Again(experiment, recorded, History([5.0, 4.0, 3.0, 2.5]), lab)


def first_losses(self: Lab, experiment: Any, seed: int) -> list[float]:
    return [5.0, 4.0, 3.0 if experiment.name != "motion" else 3.5]


def quick(fig: Figure, density: float = 1.0) -> bytes:
    """Lay a figure out without drawing its pixels."""
    fig.draw_without_rendering()
    return b"png"


def show_all(chapter: Chapter, monkeypatch: pytest.MonkeyPatch, sources: list[str]) -> dict[str, Any]:
    """What every cell shows, by its source; any warning is an error, in drawing too."""
    monkeypatch.setattr(Chapter, "again", again)
    monkeypatch.setattr(Lab, "first_losses", first_losses)
    monkeypatch.setattr(theme, "png", quick)
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source, value in run_cells(chapter, sources):
            found[source] = value
            shown(value)
    return found


def test_the_whole_notebook_with_everything_run(tmp_path, monkeypatch, capsys):
    """Two seeds of motionshapes with all derived runs, and recorded runs of Weizmann beside them."""
    for result in StResNetInventor("weizmann").all_runs((1,), ("manifest", "eli", "ido"), derived=False).values():
        write(result, tmp_path / "recorded")
    chapter = open_chapter(tmp_path, seeds="1,2")
    file(chapter, StResNetInventor("motionshapes").all_runs((1, 2)))
    found = show_all(chapter, monkeypatch, CELLS[OPENING + 1 :])
    methods = {m for source in found for m in re.findall(r"st_resnet\.(\w+)", source)}
    public = {m for m in dir(StResNetPage) if not m.startswith("_") and callable(getattr(StResNetPage, m))}
    inherited = {"example", "comparison", "compared", "one_out", "recorded", "scores_of", "all_experiments",
                 "claim_scores", "ledger_values", "published_name", "leave_one_out"}  # fmt: skip
    assert public - methods - inherited == set(), "shown nowhere"
    pictures = [alt for value in found.values() for alt in shown(value)]
    assert len(pictures) == len(set(pictures)) >= 11
    everything = "\n".join(map(repr, found.values()))
    assert "Not run." not in everything
    assert "on motionshapes and weizmann" in everything
    assert re.search(r"motion +1 +STALE", everything)
    assert "5 of 6 stored runs repeat" in everything and "14 more start from networks" in everything
    assert "stale: 1: motion seed 1" in repr(found["# NBVAL_IGNORE_OUTPUT\nst_resnet.footer()"])
    both = repr(found["st_resnet.comparisons(3)"])
    assert "Table 3 on motionshapes: preset small, test protocol quick, split 1, seeds 1, 2, 84 test clips" in both
    assert "Table 3 on weizmann: preset small, test protocol quick, split manifest, seeds 1, 10 test clips" in both
    assert NOT_RUN not in both
    idt = repr(found['st_resnet.comparisons("4 right")'])
    assert re.search(r"IDT +not run", idt), "nobody ran it"
    printed = capsys.readouterr().out
    for line in (
        "motion on  the plain unit: False", "motion off the plain unit: True",
        "skip 'none': the appearance output does not reach the motion stream",
        "skip 'residual': the appearance output reaches the motion stream",
        "in the middle  the plain network: True", "at the end     the plain network: False",
        "motion     in training (1, 8, 14), in the test (1, 14)",
        "in training, four clips at a time: True", "in evaluation, as usual:           True",
        "max      ['1.0', '1.0', '0.0', '0.0']", "average  ['0.2', '0.2', '0.0', '0.0']",
        " 17 frames: chunks start at [0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2]",
    ):  # fmt: skip
        assert line in printed, line


def test_what_is_shown_without_tags_and_without_derived_runs(tmp_path, monkeypatch):
    """One seed of Weizmann."""
    (tmp_path / "data").mkdir()
    for clip in (*PERSONS[0], *PERSONS[1]):
        (tmp_path / "data" / clip.path).touch()
    chapter = open_chapter(tmp_path, dataset="weizmann", splits="ido", seeds=1)
    file(chapter, StResNetInventor("weizmann").all_runs((1,), ("ido",), derived=False))
    dependent = (
        r"st_resnet\.(?!architecture|drawing|unit|support|published|recipe|phases|deviations|glance)\w+|again = "
    )
    found = show_all(chapter, monkeypatch, [s for s in CELLS[OPENING + 1 :] if re.search(dependent, s)])
    by_method = {re.search(r"st_resnet\.(\w+)", s)[1]: v for s, v in found.items() if "st_resnet." in s}
    assert repr(by_method["probes"]) == repr(by_method["crops"]) == "Not run."
    assert "has no controlled camera motion; motionshapes has" in repr(by_method["camera"])
    assert repr(by_method["factors"]).startswith("Bars of accuracy: late fusion ")
    assert "binding" not in repr(by_method["grid"])
    assert "-p dataset weizmann -p data_root DIR" in repr(by_method["your_data"])
    values = repr(by_method["ledger"])
    assert "weizmann: 5 chunks (5 to 15 allowed) draw 1 to 1" not in values, "no training clip is stored"
    assert re.search(r"live: random RGB filters on the 8 flow stacks of one test clip", values)


def test_smoke_sized_runs(tmp_path, monkeypatch):
    """One clip of each class for training and for testing."""
    chapter = open_chapter(tmp_path, preset="smoke")
    clips = tuple(list(thin(part, 1)) for part in (shapes_clips((9, 10)), shapes_clips((1, 2))))
    runs = StResNetInventor("motionshapes", clips).all_runs((1,))
    for result in runs.values():
        result.row["preset"] = "smoke"
    file(chapter, runs)
    dependent = (
        r"st_resnet\.(examples|comparisons|variants|grid|claims|ledger|probes|crops|samples|conf|fact|cam|batch)"
    )
    found = show_all(chapter, monkeypatch, [s for s in CELLS[OPENING + 1 :] if re.match(dependent, s)])
    assert len(found) == 16


# ---------------------------------------------------------------- honesty


def page_of(name: str, scores: StResNetScores, preset_name: str, **given: Any) -> StResNetPage:
    page = StResNetPage.__new__(StResNetPage)
    splits = given.pop("splits", tuple(scores.splits))
    classes, official = OFFICIAL.get(name, (3, {}))
    data = SimpleNamespace(name=name, splits=splits, classes=range(classes), listed=official)
    page.chapter = SimpleNamespace(
        dataset=data, preset=preset_name, parameters=Parameters(dataset=name, preset=preset_name, **given),
        experiments=experiments(preset_name, name),
    )  # fmt: skip
    page.main, page.scores = scores, {name: scores}
    return page


def reproduced(table: Table) -> dict[tuple[str, str], str]:
    """What the columns of reproduced numbers hold, without what was not run and dashes."""
    found = {}
    for row in table.rows:
        for column, cell in zip(table.columns, row, strict=True):
            if isinstance(column, tuple) and column[1] == "reproduced" and cell not in (NOT_RUN, "–"):
                found[str(row[0]), column[0].removesuffix(" (%)")] = str(cell)
    return found


NUMBERS = (3, "4 left", "4 right")


@pytest.mark.parametrize("preset_name", ["small", "paper"])
def test_published_tables_never_show_a_number_of_another_data_set(preset_name):
    scores = StResNetScores(StResNetInventor("motionshapes").all_runs((1, 2)))
    for name in ("motionshapes", "weizmann", "folder"):
        page = page_of(name, scores, preset_name)
        for number in NUMBERS:
            assert reproduced(page.published(number)) == {}, name


def test_published_tables_show_numbers_by_the_papers_own_data_and_protocol():
    runs = StResNetInventor("weizmann").all_runs((1, 2), ("1", "2", "3"))
    for result in runs.values():
        result.row["dataset"] = "ucf101"
    scores = StResNetScores(runs)
    own = {n: reproduced(page_of("ucf101", scores, "paper").published(n)) for n in NUMBERS}
    assert {row for row, _ in own[3]} == {c.row for c in reported("st_resnet") if c.table == "3"}
    assert set(own["4 left"]) == {("ST-ResNet*", "UCF101")} and own["4 right"] == {}
    star = 100 * scores.correct("star")[0].mean()
    assert own[3]["ST-ResNet*", "UCF101"].startswith(f"{star:.1f} ± ")
    late = 100 * scores.correct("two-stream")[0].mean()
    assert own[3]["Two-Streams", "UCF101"].startswith(f"{late:.1f} ± ")
    assert reproduced(page_of("ucf101", scores, "paper", weights="none").published(3)) == {}
    assert reproduced(page_of("ucf101", scores, "small").published(3)) == {}


def test_the_papers_phases_are_those_of_table_2():
    """Every cell of the printed table, written from the preset at full size."""
    scale, known = preset("paper", "ucf101"), experiments("paper", "ucf101")
    ours = phases_of(scale, known)
    for cell in reported("st_resnet"):
        if cell.table == "2":
            value = f"{cell.value:g}" if isinstance(cell.value, float) else cell.value
            assert ours[cell.row][cell.column] == value, (cell.row, cell.column)
    page = page_of("motionshapes", StResNetScores(StResNetInventor("motionshapes").all_runs((1,))), "small")
    rows = {row[0]: row[1:] for row in page.phases().rows}
    assert rows["ST-ResNet*"][:4] == ("128", str(preset("small", "motionshapes").recipes["pooled"].batch), "4", "4")
    recipe = {row[0]: row[1:] for row in page.recipe().rows}
    assert recipe["starting weights"] == ("ImageNet", "random")


def test_the_grid_and_the_probes_show_what_was_scored():
    scores = StResNetScores(StResNetInventor("motionshapes").all_runs((1, 2)))
    page = page_of("motionshapes", scores, "small")
    rows = {row[0]: row[1:] for row in page._grid(scores).rows}
    for name, subset in (("all", {}), ("binding", {"factor": "binding"}), ("order", {"factor": "order"})):
        for cell, method in zip(rows[name], ("plain", "skips", "filters", "st-resnet"), strict=True):
            assert str(cell).startswith(f"{100 * scores.correct(method, subset)[0].mean():.1f} ± ")
    heads = page._grid(scores).columns[1:]
    assert heads[1] == ("no filters over time", "residuals") and heads[2] == ("filters over time", "no residuals")
    subset = {"factor": "motion"}
    table = page._probes(scores, "classes told by their motion", subset)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["two streams, trained on"][-1] == "–"
    assert str(rows["one loss for both streams"][1]).startswith(
        f"{100 * scores.correct('joint+swapped', subset)[0].mean():.1f}"
    )
    crops = repr(page.crops())
    spent = np.mean([scores.runs["st-resnet+crops", "1", s].arrays["seconds_crops"][0] for s in (1, 2)])
    assert f"{spent:.1f}" in crops


def test_a_data_set_with_some_of_the_runs_is_shown_as_far_as_it_goes():
    """Recordings take hours; the page of another data set must not fall over half of them."""
    whole, maker = StResNetScores(StResNetInventor("motionshapes").all_runs((1,))), StResNetInventor("weizmann")
    page = page_of("motionshapes", whole, "small")
    runs = {(name, "ido", 1): maker.run(name, "ido", 1) for name in ("appearance", "motion")}
    page.scores["weizmann"] = StResNetScores(runs)
    assert "weizmann" not in repr(page.comparisons("4 right"))
    assert re.search(r"ST-ResNet\* +not run", repr(page.comparisons(3)).split("weizmann")[1])
    assert "weizmann" in repr(page.variants("appearance stream"))
    assert "weizmann" not in repr(page.variants("pool over time"))
    assert re.search(r"all +(not run *){4}", repr(page.grid()))


def test_seeds_that_only_some_networks_have():
    """A recording that is half done: curves over several networks hold the seeds that all of them have."""
    runs = StResNetInventor("motionshapes").all_runs((1, 2))
    for name in ("appearance-bn4", "plain", "star"):
        del runs[name, "1", 2]
    page = page_of("motionshapes", StResNetScores(runs), "small")
    for show in (page.batches, page.camera, page.factors, page.grid, page.probes, page.confusions):
        assert show().text
    assert len(page.claims)


def test_table_1_differs_only_where_the_ledger_says():
    page = page_of("motionshapes", StResNetScores(StResNetInventor("motionshapes").all_runs((1,))), "small")
    blocks = page.blocks()
    assert not blocks.marked and len(blocks.rows) == 7
    assert blocks.rows[2][1].count("1x1x3, 64") == 1 and "skip-stream" in blocks.rows[2][1]
    table = page.architecture("1x1")
    assert [table.rows[i][0] for i in table.marked] == ["pool5"]
    assert "st_resnet-L3" in repr(table.rows[-1][-1]) and "675x675x47 tau" in table.rows[-1]
    other = page.architecture("3x3")
    differing = [other.rows[i][0] for i in sorted(other.marked)]
    assert differing == ["conv3_x", "conv4_x", "conv5_x", "pool5"]
    assert {repr(other.rows[i][-1]) for i in other.marked} == {"st_resnet-L10"}


def test_the_support_in_time_is_measured():
    text = support_drawing().text
    assert "5 after conv2_x, 9 after conv3_x, 13 after conv4_x, 17 after conv5_x, 21 after pool5" in text
    assert "makes 4 of 11 chunks" in text and "see 47" in text


def test_departures_are_collected():
    page = page_of("motionshapes", StResNetScores(StResNetInventor("motionshapes").all_runs((1,))), "small")
    rows = page.deviations().rows
    assert len(rows) >= 5 and all(str(row[0]).startswith("st_resnet") for row in rows)
    assert all(re.search(r"[.)]$", str(text)) and len(str(text)) > 60 for _, text in rows)
