"""Errors that a user can mend, and the nearest known name for a misspelt one."""

import difflib
from collections.abc import Iterable


class EthandError(Exception):
    """A fault the user can mend: one line that names the file, what was expected and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` for the known word most like `word`, or nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""
