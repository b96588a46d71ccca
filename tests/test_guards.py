"""What must hold of the repository as a whole: notebooks, imports, tracked files, deviations."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from repro.report import build

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# A module imports from lower ranks and from its own package only; SAME_RANK lists the exceptions.
RANKS = {
    "errors": -1,
    "processes": 0,
    "parallel": 0,
    "cluster": 0,
    "training": 2,
    "evaluation": 2,
    "costs": 3,
    "identity": 3,
    "experiments": 3,
    "plans": 4,
    "scores": 4,
    "papers": 5,
}
RANKS |= {"setup": 6, "report": 7}
RANKS |= dict.fromkeys(("data", "flow", "models", "metrics", "results"), 1)
RANKS |= {"cli": 8, "__main__": 9}
SAME_RANK = {
    ("flow", "repro.data.video"),
    ("flow", "repro.data.catalog"),
    ("flow", "repro.data.index"),
    ("flow", "repro.data.clips"),
    ("cluster", "repro.processes"),
    ("flow", "repro.data.transforms"),
    ("experiments", "repro.costs"),
    ("experiments", "repro.identity"),
    ("models", "repro.data.transforms"),
    ("training", "repro.evaluation"),
    ("evaluation", "repro.training"),
}

PAPERS = ("st_resnet", "heterogeneous", "cross_enhancement", "ccs", "stilt")

# With a ~ inside, so that this file does not name them.
HOSTS = ["py~pi.org", "python~hosted", "download.py~torch", "ana~conda.org", "index-u~rl", "find-li~nks", "UV_IN~DEX"]
REGISTRY = re.compile("|".join(re.escape(name.replace("~", "")) for name in HOSTS) + r"|https?://[^ \"]*/simple\b")
MACHINE_PATH = re.compile(r"(?<![\w.~/:-])/(work|farm|root|opt|home|Users|tmp|private|mnt)/[\w.]")
MAX_FILE, MAX_TREE = 2_000_000, 25_000_000


@cache
def repository_files() -> tuple[Path, ...]:
    """Files that are tracked or would be: everything git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    names = sorted({name for name in done.stdout.split("\0") if name})
    return tuple(ROOT / name for name in names if (ROOT / name).is_file())


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """`file:line: match` for every match of a pattern in the repository's text files."""
    found = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{path.relative_to(ROOT)}:{number}: {hit.group()}" for hit in pattern.finditer(line)]
    return found


# --- notebooks


def each_notebook() -> object:
    if not NOTEBOOKS:
        return pytest.mark.parametrize("path", [pytest.param(None, marks=pytest.mark.skip("no notebooks yet"))])
    return pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook()
def test_notebook_is_executed_without_errors_or_papermill_notes(path: Path) -> None:
    assert build.problems(build.read(path)) == []


@each_notebook()
def test_notebook_is_tidy(path: Path) -> None:
    """`make notebooks` leaves stable ids, counts 1..n and no timings; a notebook saved by an editor has others."""
    nb = build.read(path)
    ids = [cell.id for cell in nb.cells]
    assert len(set(ids)) == len(ids)
    assert build.tidy(build.read(path)) == nb


@each_notebook()
def test_text_twin_agrees(path: Path) -> None:
    assert build.twin(path).read_text(encoding="utf-8") == build.twin_text(build.read(path))


def test_every_twin_has_a_notebook() -> None:
    twins = {path.stem for path in (ROOT / "notebooks" / "text").glob("*.md")}
    assert twins == {path.stem for path in NOTEBOOKS}


def test_problems_are_found() -> None:
    assert build.problems(bad_notebook()) == [
        "papermill metadata",
        "cell 0: papermill's notes or parameters",
        "cell 1: not executed",
        "cell 2: ValueError: wrong",
        "cell 3: prints to stderr: warning",
    ]


def test_tidy_drops_notes_and_keeps_ids_stable() -> None:
    nb = build.tidy(bad_notebook())
    assert [cell.source for cell in nb.cells] == ["1", "raise", "raise"]
    assert len({cell.id for cell in nb.cells}) == 3
    before = [cell.id for cell in nb.cells]
    del nb.cells[0]
    assert [cell.id for cell in build.tidy(nb).cells] == before[1:]


def bad_notebook() -> nbformat.NotebookNode:
    def code(source: str, count: int | None, outputs: tuple[object, ...] = (), **metadata: object) -> object:
        return v4.new_code_cell(source, execution_count=count, outputs=list(outputs), metadata=metadata)

    error = v4.new_output("error", ename="ValueError", evalue="wrong", traceback=[])
    stderr = v4.new_output("stream", name="stderr", text="warning\n")
    cells = [
        code("x = 1", 1, tags=["injected-parameters"]),
        code("1", None, execution={"iopub.status.busy": "2026-01-01"}),
        code("raise", 2, (error,)),
        code("raise", 3, (stderr,)),
    ]
    return v4.new_notebook(cells=cells, metadata={"papermill": {"version": "2"}})


# --- imports


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports() -> dict[str, frozenset[str]]:
    """The modules of this project that each module imports, at any depth of its code."""
    files = {module_name(path): path for path in SOURCE.rglob("*.py")}
    graph = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets |= {known(target, files) for target in targets_of(node, package)}
        graph[name] = frozenset(targets - {"", name})
    return graph


def targets_of(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*up, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def known(target: str, files: dict[str, Path]) -> str:
    """The longest prefix of a dotted name that is a module here; empty for other people's modules."""
    while target and target not in files:
        target = target.rpartition(".")[0]
    return target


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def paper(module: str) -> str:
    """The paper that a module belongs to (`repro.papers.stilt`, `repro.papers.stilt_fusion`: stilt), or nothing."""
    name = module.removeprefix("repro.papers.")
    return next((paper for paper in PAPERS if name == paper or name.startswith(f"{paper}_")), "")


def test_imports_go_from_higher_to_lower_ranks() -> None:
    wrong = []
    for module, targets in imports().items():
        for target in targets:
            mine, other = part(module), part(target)
            if mine == other or not other or (mine, target) in SAME_RANK:
                continue
            assert {mine, other} <= set(RANKS), f"give {mine} and {other} a rank here"
            if RANKS[mine] <= RANKS[other]:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_papers_do_not_import_each_other() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, targets in imports().items()
        for target in targets
        if paper(module) and paper(target) and paper(module) != paper(target)
    ]
    assert wrong == []


def test_no_import_cycles() -> None:
    graph, done, path = imports(), set[str](), list[str]()

    def visit(module: str) -> None:
        assert module not in path, "cycle: " + " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for target in sorted(graph[module]):
            visit(target)
        path.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)


# --- files


def test_no_registry_host_is_named() -> None:
    assert lines_with(REGISTRY) == []


def test_no_path_of_a_machine_is_named() -> None:
    skip = (f"{Path(__file__).relative_to(ROOT)}:", "tests/sanitize.cfg:")
    assert [hit for hit in lines_with(MACHINE_PATH) if not hit.startswith(skip)] == []


def test_file_sizes() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in repository_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE} == {}
    assert sum(sizes.values()) < MAX_TREE


def test_lock_names_the_registry_builds_with_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([a-z0-9._-]+)==(\S+)(.*\n(?:    --hash.*\n?)*)", lock, re.MULTILINE)
    assert {"torch", "torchvision", "jupyter-book", "hatchling", "editables"} <= {name for name, _, _ in pins}
    assert [name for name, _, rest in pins if "--hash=sha256:" not in rest] == []
    assert [version for _, version, _ in pins if "+" in version] == []  # no local builds such as +cpu


# --- deviations


def test_deviations_can_be_collected() -> None:
    """Every mention in a comment is `# DEVIATION: what and why`, so that the book's list is complete."""
    wrong = []
    for path in SOURCE.rglob("*.py"):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            mentions = token.type == tokenize.COMMENT and re.match(
                r"#\s*(?i:deviation)\b|.*\bDEVIATION\b", token.string
            )
            if mentions and not re.match(r"# DEVIATION: \S.{9,}", token.string):
                wrong.append(f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}")
    assert wrong == []
