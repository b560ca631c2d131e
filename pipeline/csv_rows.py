"""CSV as it comes from people: every broken line is named, nothing is guessed away."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Iterator
from typing import IO

import pandas as pd

from pipeline.batches import batch_rows
from pipeline.errors import Invalid, Problem

DELIMITERS = ",;\t|"
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")  # spellings of a missing value
_SHOWN = 5  # broken lines that are named one by one
BLOCK = 2**20  # bytes of a file that are read at once
_QUOTE = "quote values that hold the delimiter, and leave missing ones empty"


def read_csv(content: bytes, where: str) -> pd.DataFrame:
    """All rows of a CSV that is in memory, as `csv_batches` reads them. Raises what that raises."""
    return pd.concat(csv_batches(io.BytesIO(content), where), ignore_index=True)


def csv_batches(file: IO[bytes], where: str) -> Iterator[pd.DataFrame]:
    """The rows of a CSV with a header: UTF-8, delimiter `,` `;` tab or `|`. Every column is text, None for missing.

    Spaces after a delimiter are dropped; all other text stands exactly (`007` stays `007`), for `pipeline.kinds`
    tells numbers, booleans and timestamps. Lines with nothing in them are skipped. What is wrong with any line is
    told when all have been read.

    Raises:
        Invalid: not UTF-8, no header, no rows, a line with too many or few fields, names that double.
            Names file, line and remedy of each. A retry does not help.
    """
    table = _Table(where)
    try:
        for text, rows in table.batches(_lines(file, where)):
            yield _frame(text, rows, table, where)
    except Invalid as error:
        raise Invalid([*table.problems, *error.problems]) from error
    if table.ragged > _SHOWN:
        what = f"{table.ragged - _SHOWN} more lines have a wrong number of fields"
        table.problems.append(Problem(what, where, "as above"))
    if table.problems:
        raise Invalid(table.problems)
    if not table.names:
        raise Invalid("the file is empty", where, "name a file with a header and rows")
    if not table.rows:
        raise Invalid("there is a header and no rows", where, "name a file that has some")


def _frame(text: str, rows: int, table: _Table, where: str) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            sep=table.delimiter,
            skipinitialspace=True,
            keep_default_na=False,
            na_values=list(MISSING),
            names=table.names,
            header=None,
            index_col=False,
            dtype="str",
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise _unclear(where) from error
    if len(frame) != rows:  # the two readings differ only where quotes or line ends are broken
        raise _unclear(where)
    return frame


def _unclear(where: str) -> Invalid:
    return Invalid("its rows cannot be told apart", where, 'write quotes and line ends alike: value, "quoted, value"')


def _lines(file: IO[bytes], where: str) -> Iterator[str]:
    """Each line, its end as `\n`; a block of the file at a time."""
    decoder, ends = codecs.getincrementaldecoder("utf-8-sig")(), io.IncrementalNewlineDecoder(None, translate=True)
    begun, line, final = "", 1, False  # what is there of a line; the line on which the block begins
    while not final:
        block = file.read(BLOCK)
        final = not block
        try:
            text = decoder.decode(block, final)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            what, remedy = f"byte {error.object[error.start]:#04x} is not UTF-8", "save the file as UTF-8"
            raise Invalid(what, f"{where}:{line}", f"{remedy} (`iconv -f latin1 -t utf-8`)") from None
        if "\0" in text:
            line += text[: text.index("\0")].count("\n")
            remedy = "save the file as UTF-8 (is it UTF-16, or binary?)"
            raise Invalid("a zero byte is no text", f"{where}:{line}", remedy)
        line += block.count(b"\n")
        lines = [*io.StringIO(begun + str(ends.decode(text, final)))]
        begun = lines.pop() if lines else ""
        yield from lines
    if begun:
        yield begun


def _delimiter(header: str) -> str:
    """The delimiter that the header has most of, outside quotes."""
    plain = "".join(part for index, part in enumerate(header.split('"')) if index % 2 == 0)
    return max(DELIMITERS, key=plain.count)


class _Table:
    """What the lines say of themselves: names of the columns, number of rows, and what is wrong with any of them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.delimiter = ","
        self.names: list[str] = []
        self.rows = self.ragged = 0
        self.problems: list[Problem] = []

    def batches(self, lines: Iterator[str]) -> Iterator[tuple[str, int]]:
        """The text of a batch of rows, and how many it holds; none any more once something is wrong."""
        before = []
        for line in lines:
            before.append(line)
            if line.strip():
                break
        else:
            return
        self.delimiter = _delimiter(line)
        taken: list[str] = []  # the lines of the batch at hand

        def taking() -> Iterator[str]:
            for line in itertools.chain(before, lines):
                taken.append(line)
                yield line

        reader = csv.reader(taking(), delimiter=self.delimiter, skipinitialspace=True, strict=True)
        start, count = 1, 0  # the line on which the row at hand begins; rows of the batch
        try:
            for row in reader:
                begin, start = start, reader.line_num + 1
                if len(row) <= 1 and not taken[-1].strip(" \t\n"):  # `""` is a value
                    continue
                if not self.names:
                    self.names = [name.strip() for name in row]
                    self.problems += _header(self.names, self.where, begin)
                    taken.clear()
                    continue
                count += 1
                if len(row) != len(self.names):
                    self._note(len(row), begin, reader.line_num)
                if count == batch_rows(len(self.names)):
                    yield from self._batch(taken, count)
                    taken.clear()
                    count = 0
        except csv.Error as error:
            remedy = "close every quote, and write one within a value twice"
            self.problems.append(Problem(f"not CSV: {error}", f"{self.where}:{start}", remedy))
        if count:
            yield from self._batch(taken, count)

    def _batch(self, taken: list[str], count: int) -> Iterator[tuple[str, int]]:
        self.rows += count
        if not self.problems:
            yield "".join(taken), count

    def _note(self, fields: int, begin: int, end: int) -> None:
        self.ragged += 1
        if self.ragged <= _SHOWN:
            remedy = "close the quotes" if end > begin + 1 else _QUOTE
            what = f"{fields} fields where the header has {len(self.names)}"
            self.problems.append(Problem(what, f"{self.where}:{begin}", remedy))


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
