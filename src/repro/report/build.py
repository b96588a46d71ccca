"""Execute the notebooks with papermill and build the book with Jupyter Book.

    python -m repro.report.build               # the book: execute into _build/src, build _build/html
    python -m repro.report.build --notebooks   # refresh the committed notebooks and their text twins
    python -m repro.report.build --smoke       # every notebook with preset=smoke, from nothing
    python -m repro.report.build --check       # no error output, nothing unexecuted, twins in step

The book is built from a staging folder because at the repository's root a virtual environment, a test cache or a text
twin with a notebook's stem each raise warnings, and warnings are errors here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import jupytext
import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from repro.errors import ReproError
from repro.processes import each
from repro.report import performance

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "_build"
STAGE = BUILD / "src"
HTML = BUILD / "html"
AT_ONCE = 4  # notebooks; each takes 2 GB
TWIN_FORMAT = {"extension": ".md", "format_name": "myst"}

Job = tuple[Path, Path, Mapping[str, object]]  # the arguments of `execute`


def say(text: str) -> None:
    """Print one step of the build at once, also into a pipe."""
    print(f"== {text}", flush=True)


def notebooks() -> list[Path]:
    """The committed notebooks, by name."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def twin(path: Path) -> Path:
    """Where the text twin of a notebook lives."""
    return path.parent / "text" / f"{path.stem}.md"


def read(path: Path) -> NotebookNode:
    """Read a notebook, or the inputs of one from its text twin."""
    nb: NotebookNode = (
        jupytext.read(path, fmt=TWIN_FORMAT) if path.suffix == ".md" else nbformat.read(path, as_version=4)
    )
    return nb


def twin_text(nb: NotebookNode) -> str:
    """The text twin of a notebook: its inputs, without anything that depends on who wrote them."""
    bare = nbformat.from_dict({**nb, "metadata": {"kernelspec": nb.metadata.kernelspec}})
    header = "kernelspec,-jupytext.text_representation.jupytext_version"
    text: str = jupytext.writes(bare, fmt={**TWIN_FORMAT, "notebook_metadata_filter": header})
    return text.rstrip("\n") + "\n"


def tidy(nb: NotebookNode) -> NotebookNode:
    """Drop what differs from run to run (papermill's notes, timings, versions); give cells stable ids."""
    kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb.metadata = nbformat.from_dict({"kernelspec": kernelspec, "language_info": {"name": "python"}})
    nb.cells = [cell for cell in nb.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    seen: dict[str, int] = {}
    count = 0
    for cell in nb.cells:
        for key in ("papermill", "execution", "collapsed"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
        # From the text, so that editing or inserting one cell leaves the ids of the others alone.
        digest = hashlib.blake2b(f"{cell.cell_type}\n{cell.source}".encode(), digest_size=6).hexdigest()
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        if cell.cell_type == "code" and cell.execution_count is not None:
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    return nb


def problems(nb: NotebookNode) -> list[str]:
    """What must not be in an executed notebook, one line each."""
    found = []
    if "papermill" in nb.metadata:
        found.append("papermill metadata")
    for index, cell in enumerate(nb.cells):
        if "papermill" in cell.metadata or "injected-parameters" in cell.metadata.get("tags", []):
            found.append(f"cell {index}: papermill's notes or parameters")
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None:
            found.append(f"cell {index}: not executed")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {index}: {output.ename}: {output.evalue}")
            elif output.output_type == "stream" and output.name == "stderr":
                found.append(f"cell {index}: prints to stderr: {output.text.strip().splitlines()[0]}")
    return found


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which the notebooks' kernels inherit, for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def settings(data: Path) -> dict[str, str]:
    """Environment of a build: its own data, and no matplotlib or IPython settings of the user's."""
    config = BUILD / "config"
    return {
        "REPRO_DATA": str(data),
        "MPLCONFIGDIR": str(config / "matplotlib"),
        "IPYTHONDIR": str(config / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": "1",  # several notebooks share the cores
    }


def warm_fonts() -> None:
    """Let matplotlib list the fonts once; in a notebook it would announce that in the first figure's output."""
    code = "import matplotlib.font_manager"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)


def execute(source: Path, target: Path, parameters: Mapping[str, object]) -> NotebookNode:
    """Run a notebook with papermill from the repository's root, write the tidied result and return it.

    Raises ReproError with the last line of the failure when a cell fails or the result has `problems`.
    """
    say(f"executing {source.relative_to(ROOT)}")
    start = time.perf_counter()
    target.parent.mkdir(parents=True, exist_ok=True)
    raw = target.with_suffix(".raw.ipynb")
    prepared = tidy(read(source))
    nbformat.write(prepared, raw)
    try:
        nb = papermill.execute_notebook(
            raw, raw, dict(parameters), cwd=ROOT, kernel_name="python3", progress_bar=False, log_output=False
        )
    except PapermillExecutionError as error:
        raise ReproError(f"{source.name} failed: {error.ename}: {error.evalue} (run so far: {raw})") from error
    raw.unlink()
    nb = tidy(nb)
    found = problems(nb)
    if found:
        raise ReproError(f"{source.name}: " + "; ".join(found))
    nbformat.write(nb, target)
    say(f"{target.name} took {time.perf_counter() - start:.0f} s")
    return nb


def execute_all(jobs: Sequence[Job]) -> None:
    """Run notebooks, the first one alone, which decodes what all of them show, the others side by side."""
    for job in jobs[:1]:
        execute(*job)
    for _ in each(_execute, jobs[1:], min(AT_ONCE, os.cpu_count() or 1, len(jobs) - 1)):
        pass


def _execute(job: Job) -> None:
    execute(*job)


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def newest(path: Path) -> Path:
    """The notebook or its text twin, whichever was edited last (as `jupytext --sync` decides)."""
    text = twin(path)
    return text if text.exists() and (not path.exists() or text.stat().st_mtime > path.stat().st_mtime) else path


def refresh_notebooks() -> None:
    """Execute the committed notebooks in place and write their text twins."""
    stems = {path.stem for path in notebooks()} | {path.stem for path in (NOTEBOOKS / "text").glob("*.md")}
    runs = fresh(BUILD / "runs")
    parameters = {"store_dir": relative(BUILD / "store"), "runs_dir": relative(runs)}
    with environment(settings(BUILD / "data")):
        warm_fonts()
        done = {NOTEBOOKS / f"{stem}.ipynb": BUILD / "executed" / f"{stem}.ipynb" for stem in sorted(stems)}
        execute_all([(newest(path), result, parameters) for path, result in done.items()])
        for path, result in done.items():
            twin(path).parent.mkdir(exist_ok=True)
            twin(path).write_text(twin_text(read(result)), encoding="utf-8")
            shutil.move(result, path)  # last, so that the notebook is the newer of the two


def relative(path: Path) -> str:
    """A path from the repository's root, where notebooks run, so that no page shows a machine's folders."""
    return path.relative_to(ROOT).as_posix()


def smoke() -> None:
    """Run every notebook with preset=smoke from nothing: no data, no store, no runs, no recorded results."""
    home = fresh(BUILD / "smoke")
    hidden = fresh(home / "results")
    with environment({**settings(home / "data"), "REPRO_RESULTS": str(hidden)}):
        warm_fonts()
        own = {"preset": "smoke", "store_dir": relative(home / "store")}
        execute_all([(p, home / p.name, {**own, "runs_dir": relative(home / "runs" / p.stem)}) for p in notebooks()])


def stage() -> None:
    """Fill the staging folder: settings, pages, tables made of recorded timings, and freshly executed notebooks."""
    fresh(STAGE)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, STAGE / name)
    shutil.copytree(ROOT / "book", STAGE / "book", ignore=shutil.ignore_patterns("results", "performance"))
    generated = STAGE / "book" / "generated"
    generated.mkdir()
    for name, text in performance.pages().items():
        (generated / name).write_text(text, encoding="utf-8")
    parameters = {"store_dir": relative(BUILD / "store"), "runs_dir": relative(fresh(BUILD / "runs"))}
    with environment(settings(BUILD / "data")):
        warm_fonts()
        execute_all([(path, STAGE / "notebooks" / path.name, parameters) for path in notebooks()])


def build_html() -> None:
    """Build `_build/html` from the staging folder; a warning is an error."""
    say("building the pages")
    shutil.rmtree(HTML, ignore_errors=True)
    program = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    command = [str(program), "build", str(STAGE), "--path-output", str(ROOT), "--all"]
    strict = ["-W", "-n", "--keep-going"]
    done = subprocess.run([*command, *strict], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    (BUILD / "jupyter-book.log").write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0 or not (HTML / "index.html").is_file():
        print(done.stdout, file=sys.stderr)
        raise ReproError("jupyter-book failed: its output is above and in _build/jupyter-book.log")


def check() -> None:
    """Fail unless the committed notebooks are whole, their twins agree, and those in the book hold no error."""
    found = []
    for path in notebooks():
        nb = read(path)
        found += [f"{path.name}: {problem}" for problem in problems(nb)]
        if not twin(path).is_file() or twin(path).read_text(encoding="utf-8") != twin_text(nb):
            found.append(f"{path.name}: its text twin differs (run make notebooks)")
    for path in sorted((STAGE / "notebooks").glob("*.ipynb")):
        found += [f"{path.name} in the book: {problem}" for problem in problems(read(path))]
    if found:
        raise ReproError("; ".join(found))
    say(f"notebooks executed, without errors, in step with their text twins: {len(notebooks())}")


def book() -> None:
    """Execute the notebooks and build the book."""
    start = time.perf_counter()
    stage()
    build_html()
    say(f"{relative(HTML / 'index.html')} is ready after {time.perf_counter() - start:.0f} s")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m repro.report.build", description="Build the book.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--notebooks", action="store_true", help="refresh the committed notebooks and their text twins")
    what.add_argument("--smoke", action="store_true", help="run every notebook with preset=smoke, from nothing")
    what.add_argument("--check", action="store_true", help="look for error outputs and twins out of step")
    options = parser.parse_args(arguments)
    step = refresh_notebooks if options.notebooks else smoke if options.smoke else check if options.check else book
    try:
        step()
    except ReproError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
