"""CSV and Parquet files, by path or at any fsspec URL."""

from __future__ import annotations

import ftplib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.batches import batch_rows
from pipeline.csv_rows import csv_batches
from pipeline.errors import Invalid, Unavailable
from pipeline.mask import one_line
from pipeline.suggest import near

CONNECT_S, SILENCE_S, TOTAL_S = 10.0, 30.0, 600.0  # of an HTTP server: to connect, between two bytes, all in all
_DATABASES = ("postgresql", "postgres", "mysql", "mariadb", "sqlite", "mssql", "oracle", "duckdb", "snowflake")
_NOT_ROWS = {b"\x1f\x8b": "gzip", b"PK": "zip or Excel", b"BZ": "bzip2", b"\x28\xb5\x2f\xfd": "Zstandard"}
_REFUSED = (401, 403)
_BUFFER = 2**20  # bytes of a column that are read at once


def file_batches(source: str, base: Path, where: str) -> Iterator[pd.DataFrame]:
    """The rows of one file; `where` is its address as it may be shown. What is far is copied to the disk first.

    Raises:
        Invalid: there is no such file, or it is neither CSV nor Parquet. A retry does not help.
        Unavailable: a server or disk does not answer. A retry helps.
    """
    if "://" not in source:
        path = (base / Path(source).expanduser()).resolve()
        with _local(path):
            yield from _rows(path, source, where)
        return
    with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
        path = Path(folder) / "rows"
        _copy(source, path, where)
        yield from _rows(path, source, where)


def _rows(path: Path, source: str, where: str) -> Iterator[pd.DataFrame]:
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(0)
        if not head:
            raise Invalid("the file is empty", where, "name a file with a header and rows")
        if head[:4] == b"PAR1" or source.lower().split("?")[0].endswith((".parquet", ".pq")):
            yield from _parquet(path, where)
            return
        for magic, kind in _NOT_ROWS.items():
            if head.startswith(magic) and b"\x00" in head:
                raise Invalid(f"this is a {kind} file", where, "unpack it, or save it as CSV or Parquet")
        yield from csv_batches(file, where)


def _copy(source: str, target: Path, where: str) -> None:
    import fsspec  # noqa: PLC0415
    from aiohttp import ClientError, ClientResponseError  # noqa: PLC0415

    scheme = source.split("://", 1)[0]
    if scheme.split("+")[0] in _DATABASES:
        raise Invalid("a database without a table", where, "add `table` or `query` to data")
    known = (*fsspec.available_protocols(), "sklearn")
    if scheme not in known:
        raise Invalid(f"no source is read by {scheme}://", where, near(scheme, known))
    try:
        files, path = fsspec.url_to_fs(source, **_options(scheme))
        files.get_file(path, str(target))
    except FileNotFoundError as error:
        if isinstance(error.__cause__, ClientError | TimeoutError):  # how fsspec tells of a server that is silent
            raise _silent(error.__cause__, where) from error
        raise Invalid("there is no such file", where, "correct data.source") from None
    except IsADirectoryError:
        raise Invalid("this is a folder", where, "name one CSV or Parquet file") from None
    except PermissionError as error:
        raise Invalid("no permission to read it", where, "give this user the right") from error
    except ClientResponseError as error:
        if error.status in _REFUSED:
            raise Invalid(
                f"the server refuses to give it (HTTP {error.status})", where, "correct user or URL"
            ) from None
        raise _silent(error, where) from error
    except ftplib.error_perm as error:
        raise Invalid(f"the server refuses: {one_line(error)}", where, "correct user or path") from error
    except (OSError, EOFError, ftplib.Error, ClientError) as error:
        raise _silent(error, where) from error
    except (ValueError, TypeError, ImportError) as error:
        raise Invalid(f"this address cannot be read: {one_line(error)}", where, "correct data.source") from error


def _silent(error: BaseException, where: str) -> Unavailable:
    return Unavailable(f"the source does not answer: {one_line(error)}", where, "run again when it does")


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {}
    from aiohttp import ClientTimeout  # noqa: PLC0415

    timeout = ClientTimeout(total=TOTAL_S, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"timeout": timeout}, "skip_instance_cache": True}


@contextmanager
def _local(path: Path) -> Iterator[None]:
    """What the disk says of a file that cannot be read, as a sentence."""
    try:
        yield
    except FileNotFoundError:
        folder = path.parent
        if not folder.is_dir():
            raise Invalid("there is no such folder", str(folder), "correct data.source") from None
        names = sorted(other.name for other in folder.iterdir() if other.suffix in (".csv", ".parquet", path.suffix))
        remedy = near(path.name, names) if names else "correct data.source; a path starts at the spec's folder"
        raise Invalid("there is no such file", str(path), remedy) from None
    except IsADirectoryError:
        raise Invalid("this is a folder", str(path), "name one CSV or Parquet file") from None
    except PermissionError as error:
        raise Invalid("no permission to read it", str(path), "give this user the right") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"the file cannot be read: {one_line(error)}", str(path), "run again") from error


def _parquet(path: Path, where: str) -> Iterator[pd.DataFrame]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    whole = {kind: pd.Int64Dtype() for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())}
    whole |= {kind: pd.UInt64Dtype() for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())}
    try:
        # not ahead: what Arrow has read ahead is kept until the file is closed
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_rows(len(file.schema_arrow))):
                # whole numbers stay whole beside missing ones: a batch that has some reads them as one without
                yield _dense(pa.Table.from_batches([batch]).to_pandas(types_mapper=whole.get))
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:  # pandas trusts its metadata
        raise Invalid(f"this is not a Parquet file: {one_line(error)}", where, "write it anew") from error


def _dense(frame: pd.DataFrame) -> pd.DataFrame:
    """With pandas' index as what it once was, a column, and categories as what they stand for."""
    named = [name for name in frame.index.names if name is not None]
    frame = (frame.reset_index(level=named) if named else frame).reset_index(drop=True)
    if not frame.columns.is_unique:
        return frame  # refused by the caller
    return frame.astype(
        {
            name: kind.categories.dtype
            for name, kind in zip(frame.columns, frame.dtypes, strict=True)
            if isinstance(kind, pd.CategoricalDtype)
        }
    )
