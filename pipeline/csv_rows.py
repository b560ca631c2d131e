"""CSV as it comes from people: every broken line is named, nothing is guessed away."""

from __future__ import annotations

import csv
import io

import pandas as pd

from pipeline.errors import Invalid, Problem

DELIMITERS = ",;\t|"
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")  # spellings of a missing value
_SHOWN = 5  # broken lines that are named one by one


def read_csv(content: bytes, where: str) -> pd.DataFrame:
    """The rows of a CSV with a header: UTF-8, delimiter `,` `;` tab or `|`, spaces around values dropped.

    Raises:
        Invalid: not UTF-8, no header, no rows, a line with too many or few fields, names that double.
            Names file, line and remedy of each. A retry does not help.
    """
    text = _decode(content, where)
    if not text.strip():
        raise Invalid("the file is empty", where, "name a file with a header and rows")
    delimiter = _delimiter(text)
    names, problems = _structure(text, delimiter, where)
    if problems:
        raise Invalid(problems)
    frame = pd.read_csv(
        io.StringIO(text),
        sep=delimiter,
        skipinitialspace=True,
        keep_default_na=False,
        na_values=list(MISSING),
        names=names,
        header=0,
        index_col=False,
        skip_blank_lines=True,
        low_memory=False,
    )
    if frame.empty:
        raise Invalid("there is a header and no rows", where, "name a file that has some")
    return frame


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Invalid(
            f"byte {content[error.start]:#04x} is not UTF-8",
            f"{where}:{line}",
            "save the file as UTF-8 (`iconv -f latin1 -t utf-8`)",
        ) from None


def _delimiter(text: str) -> str:
    """The delimiter that the header has most of, outside quotes."""
    header = next(line for line in text.splitlines() if line.strip())
    plain = "".join(part for index, part in enumerate(header.split('"')) if index % 2 == 0)
    return max(DELIMITERS, key=plain.count)


def _structure(text: str, delimiter: str, where: str) -> tuple[list[str], list[Problem]]:
    """Names of the columns, and what is wrong with header and lines."""
    problems: list[Problem] = []
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    names: list[str] = []
    ragged = 0
    try:
        for row in reader:
            if not any(row) and len(row) <= 1:
                continue
            if not names:
                names = [name.strip() for name in row]
                problems += _header(names, where, reader.line_num)
                continue
            if len(row) != len(names):
                ragged += 1
                if ragged <= _SHOWN:
                    problems.append(
                        Problem(
                            f"{len(row)} fields where the header has {len(names)}",
                            f"{where}:{reader.line_num}",
                            "quote values that hold the delimiter, and leave missing ones empty",
                        )
                    )
    except csv.Error as error:
        problems.append(Problem(f"not CSV: {error}", f"{where}:{reader.line_num}", "close the quotes"))
    if ragged > _SHOWN:
        problems.append(Problem(f"{ragged - _SHOWN} more lines have a wrong number of fields", where, "as above"))
    return names, problems


def _header(names: list[str], where: str, line: int) -> list[Problem]:
    place = f"{where}:{line}"
    found = [
        Problem(f"column {index + 1} has no name", place, "name every column in the first line")
        for index, name in enumerate(names)
        if not name
    ]
    doubles = sorted({name for name in names if name and names.count(name) > 1})
    return found + [
        Problem(f"two columns share the name {name!r}", place, "give each column a name of its own") for name in doubles
    ]
