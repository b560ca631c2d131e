"""CSV as it comes from people: every broken line is named, nothing is guessed away."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import pandas as pd

from pipeline.errors import Invalid, Problem

DELIMITERS = ",;\t|"
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")  # spellings of a missing value
_SHOWN = 5  # broken lines that are named one by one
_QUOTE = "quote values that hold the delimiter, and leave missing ones empty"


def read_csv(content: bytes, where: str) -> pd.DataFrame:
    """The rows of a CSV with a header: UTF-8, delimiter `,` `;` tab or `|`. Every column is text, None for missing.

    Spaces after a delimiter are dropped; all other text stands exactly (`007` stays `007`), for `pipeline.kinds`
    tells numbers, booleans and timestamps. Lines with nothing in them are skipped.

    Raises:
        Invalid: not UTF-8, no header, no rows, a line with too many or few fields, names that double.
            Names file, line and remedy of each. A retry does not help.
    """
    text = _decode(content, where)
    if not text.strip():
        raise Invalid("the file is empty", where, "name a file with a header and rows")
    delimiter = _delimiter(text)
    names, rows, problems = _structure(text, delimiter, where)
    if problems:
        raise Invalid(problems)
    if not rows:
        raise Invalid("there is a header and no rows", where, "name a file that has some")
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            sep=delimiter,
            skipinitialspace=True,
            keep_default_na=False,
            na_values=list(MISSING),
            names=names,
            header=0,
            index_col=False,
            dtype="str",
        )
    except pd.errors.ParserError as error:
        raise _unclear(where) from error
    if len(frame) != rows:  # the two readings differ only where quotes or line ends are broken
        raise _unclear(where)
    return frame


def _unclear(where: str) -> Invalid:
    return Invalid("its rows cannot be told apart", where, 'write quotes and line ends alike: value, "quoted, value"')


def _decode(content: bytes, where: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Invalid(
            f"byte {content[error.start]:#04x} is not UTF-8",
            f"{where}:{line}",
            "save the file as UTF-8 (`iconv -f latin1 -t utf-8`)",
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise Invalid("a zero byte is no text", f"{where}:{line}", "save the file as UTF-8 (is it UTF-16, or binary?)")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _delimiter(text: str) -> str:
    """The delimiter that the header has most of, outside quotes."""
    header = next(line for line in io.StringIO(text) if line.strip())
    plain = "".join(part for index, part in enumerate(header.split('"')) if index % 2 == 0)
    return max(DELIMITERS, key=plain.count)


def _structure(text: str, delimiter: str, where: str) -> tuple[list[str], int, list[Problem]]:
    """Names of the columns, number of rows, and what is wrong with header and lines."""
    problems: list[Problem] = []
    raw = ""  # the line read last

    def lines() -> Iterator[str]:
        nonlocal raw
        for line in io.StringIO(text):
            raw = line
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, skipinitialspace=True, strict=True)
    names: list[str] = []
    rows = ragged = 0
    start = 1  # the line on which the row at hand begins
    try:
        for row in reader:
            begin, start = start, reader.line_num + 1
            if len(row) <= 1 and not raw.strip(" \t\n"):  # `""` is a value
                continue
            if not names:
                names = [name.strip() for name in row]
                problems += _header(names, where, begin)
                continue
            rows += 1
            if len(row) != len(names):
                ragged += 1
                if ragged <= _SHOWN:
                    open_quote = reader.line_num > begin + 1
                    remedy = "close the quotes" if open_quote else _QUOTE
                    what = f"{len(row)} fields where the header has {len(names)}"
                    problems.append(Problem(what, f"{where}:{begin}", remedy))
    except csv.Error as error:
        problems.append(
            Problem(f"not CSV: {error}", f"{where}:{start}", "close every quote, and write one within a value twice")
        )
    if ragged > _SHOWN:
        problems.append(Problem(f"{ragged - _SHOWN} more lines have a wrong number of fields", where, "as above"))
    return names, rows, problems


def _header(names: list[str], where: str, line: int) -> list[Problem]:
    place = f"{where}:{line}"
    found = [
        Problem(f"column {index + 1} has no name", place, "name every column (pandas: `to_csv(index=False)`)")
        for index, name in enumerate(names)
        if not name
    ]
    doubles = sorted({name for name in names if name and names.count(name) > 1})
    return found + [
        Problem(f"two columns share the name {name!r}", place, "give each column a name of its own") for name in doubles
    ]
