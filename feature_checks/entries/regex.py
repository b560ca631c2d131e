"""Python's regular expressions as RE2's, where both find the same."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from feature_checks.entries.rows import Left, text

_ESCAPED = r"\\[ -/:-@\[-^`{-~]"  # a mark that stands for itself
_TOKEN = re.compile(  # what both read alike; anything else ends the reading
    rf"""
      (?P<set> \[\^? (?: [^\\\[\]] | \\[dDwWstnr] | {_ESCAPED} )+ \] )
    | (?P<kind> \\[dDwWbsS] )
    | (?P<end> \$ )
    | (?P<repeat> (?: [*+?] | {{[0-9]{{1,3}}(?:,[0-9]{{0,3}})?}} ) \?? (?![*+?{{]) )
    | (?P<plain> \((?:\?:|(?!\?)) | [^\\\[\](){{}}*+?$] | \) | \\[tnr] | {_ESCAPED} )
    """,
    re.VERBOSE,
)
_SPACE = r"\t-\r\x1c-\x20"  # Python's \s, as far as ASCII goes; RE2's own is less
_CLASS = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Pattern:
    """A pattern for RE2, and what a text must not hold for the answer to be Python's."""

    re2: str
    ascii_only: bool = False
    one_line: bool = False


def translate(pattern: object) -> Pattern:
    """The pattern for RE2. Raises Left for what RE2 does not know, or may take for something else."""
    source = text(pattern)
    try:
        re.compile(source)
    except (re.error, OverflowError, RecursionError):
        raise Left("Python does not read this pattern") from None
    parts, position, ascii_only, one_line = [], 0, False, False
    while position < len(source):
        token = _TOKEN.match(source, position)
        if token is None:
            raise Left(f"RE2 may read the pattern otherwise, from its character {position + 1} on")
        part, position = token[0], token.end()
        if token["kind"] or token["set"]:
            classes = {found[1] for found in _CLASS.finditer(part)} & set("dDwWbsS")
            ascii_only |= bool(classes)
            if token["kind"] and classes & set("sS"):
                part = f"[{'^' if part.endswith('S') else ''}{_SPACE}]"
            elif token["set"]:
                part = _CLASS.sub(lambda found: _SPACE if found[1] == "s" else found[0], part)
        one_line |= bool(token["end"])
        parts.append(part)
    re2 = "".join(parts)
    try:
        pc.match_substring_regex(pa.array([""]), re2)  # Arrow's RE2 reads what DuckDB's reads
    except pa.ArrowInvalid:
        raise Left("RE2 does not read this pattern") from None
    return Pattern(re2, ascii_only, one_line)
