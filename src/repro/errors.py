"""Errors meant for the person who typed the command: one line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ReproError(Exception):
    """A problem the user can solve. The message is one line; the command line prints it without a traceback."""


def nearest(word: object, options: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the option closest to `word`, or an empty string when none is close."""
    found = difflib.get_close_matches(str(word), list(options), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""
