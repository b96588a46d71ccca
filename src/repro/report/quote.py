"""Source code of this library on a page: read from the file itself, never pasted."""

from __future__ import annotations

import html
import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pygments import highlight  # type: ignore[import-untyped]
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
from pygments.lexers import PythonLexer  # type: ignore[import-untyped]

import repro
from repro.errors import ReproError
from repro.report.theme import Shown


def source(obj: Any, between: tuple[str, str] | None = None) -> Shown:
    """The source of a function, class or module of this library, with its file and line numbers.

    `between`: show only from the first line that holds the first text to the next one that holds the second.
    """
    obj = inspect.unwrap(obj) if callable(obj) else obj  # what `torch.no_grad` decorates says so
    lines, first = inspect.getsourcelines(obj)
    first = max(first, 1)  # a module starts at 0
    file = Path(inspect.getsourcefile(obj) or "")
    shown = f"src/{file.relative_to(Path(repro.__file__).parents[1]).as_posix()}"
    if between:
        start = _line_with(lines, between[0], 0, shown)
        stop = _line_with(lines, between[1], start, shown)
        lines, first = lines[start : stop + 1], first + start
    code = textwrap.dedent("".join(lines)).rstrip("\n")
    name = f"{shown}, lines {first}–{first + len(lines) - 1}"
    formatter = HtmlFormatter(cssclass="highlight", linenos="inline", linenostart=first)
    body = highlight(code, PythonLexer(stripnl=False), formatter)
    page = f'<figure class="repro repro-source"><figcaption><code>{html.escape(name)}</code></figcaption>'
    return Shown(f"{name}\n{code}", f'{page}<div class="highlight-python notranslate">{body}</div></figure>')


def _line_with(lines: Sequence[str], text: str, start: int, file: str) -> int:
    for i in range(start, len(lines)):
        if text in lines[i]:
            return i
    raise ReproError(f"{file}: no line with {text!r}: the code has changed, choose another text to show it by")
