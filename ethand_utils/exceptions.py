"""Errors that a user can mend, and the one line in which an unknown name is refused."""

import difflib
from collections.abc import Iterable


class EthandError(Exception):
    """A fault the user can mend: one line that names the file, what was expected and what to do."""


def require_known(kind: str, name: str, known: Iterable[str], error: type[Exception] = EthandError) -> None:
    """Raise `error` when `name` is not among the `known` names of a `kind` (loss, method, source, setting, …).

    The line names the nearest known one and all there are: `loss 'tversk': unknown (did you mean tversky?); expected
    one of ce, ce_dice, …`.
    """
    known = list(known)
    if name not in known:
        raise error(f"{kind} {name!r}: unknown{nearest(str(name), known)}; expected one of {', '.join(known)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` for the known word most like `word`, or nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""
