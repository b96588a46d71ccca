"""What commands print: tables, and how far long work is."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn, TextIO

from tqdm import tqdm

EVERY = 30.0  # seconds between two lines where there is no terminal
MOMENT = 2.0  # seconds; what is done sooner gets no line


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width with two blanks between them."""
    cells = [list(header), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def duration(seconds: float) -> str:
    """Such as 45 s, 12:05 or 3:20:00."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Shows (what, done, total): a bar with the time left on a terminal, elsewhere a line now and then.

    Use it in `with`, which closes the bar.
    """

    def __init__(self, stream: TextIO | None = None, every: float = EVERY) -> None:
        self.stream, self.every = stream or sys.stderr, every
        self.what = ""
        self.bar: tqdm[NoReturn] | None = None
        self.first, self.began, self.said = 0, 0.0, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that `done` of `total` parts of `what` are through."""
        if what != self.what:
            self._begin(what, done, total)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        else:
            self._line(done, total)
        if done >= total:
            self.close()

    def _line(self, done: int, total: int) -> None:
        """A line every so often, and one at the end of what took longer than a moment."""
        now = time.monotonic()
        if now - self.said >= self.every or (done >= total and now - self.began >= MOMENT):
            left = (now - self.began) / (done - self.first) * (total - done)
            rest = f", {duration(left)} left" if done < total else f" in {duration(now - self.began)}"
            print(f"{self.what}: {done}/{total}{rest}", file=self.stream, flush=True)
            self.said = now

    def _begin(self, what: str, done: int, total: int) -> None:
        self.close()
        self.what, self.first = what, done - 1  # work that is resumed does not begin at 0
        self.began = self.said = time.monotonic()
        if self.stream.isatty():
            self.bar = tqdm(desc=what, total=total, initial=self.first, file=self.stream, dynamic_ncols=True)

    def close(self) -> None:
        """Leave the bar as it is; the next call begins anew."""
        if self.bar is not None:
            self.bar.close()
        self.what, self.bar = "", None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
