"""The remedy for a name that is none of the known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 20


def near(name: str, known: Iterable[str]) -> str:
    """`did you mean …?` where one is alike, else the known names (the first twenty)."""
    folded = {other.lower(): other for other in known}
    if meant := difflib.get_close_matches(name.lower(), folded, n=1):
        return f"did you mean {folded[meant[0]]!r}?"
    more = ", ..." if len(folded) > _SHOWN else ""
    return f"name one of: {', '.join(list(folded.values())[:_SHOWN])}{more}"
