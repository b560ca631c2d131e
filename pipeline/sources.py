"""Rows from outside: bundled data sets, CSV and Parquet at any fsspec URL, databases at any SQLAlchemy URL."""

from __future__ import annotations

import difflib
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.csv_rows import read_csv
from pipeline.errors import Invalid, Unavailable
from pipeline.spec import Data

if TYPE_CHECKING:
    from sqlalchemy import URL

SKLEARN = ("breast_cancer", "diabetes", "digits", "wine")
_CONNECT_S = 15


def read_source(data: Data, base: Path) -> pd.DataFrame:
    """Every row of the source, as it stands; a relative path starts at `base`, the spec's folder.

    Raises:
        Invalid: the source does not exist, or is not what it should be. A retry does not help.
        Unavailable: a server or disk does not answer. A retry helps.
    """
    if data.source.startswith("sklearn://"):
        return _sklearn(data.source.removeprefix("sklearn://"))
    frame = _database(data) if data.is_sql else _file(data.source, base)
    names = [str(name) for name in frame.columns]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise Invalid(
            f"two columns share the name {', '.join(map(repr, doubles))}",
            describe(data),
            "give each column a name of its own",
        )
    frame.columns = pd.Index(names)
    if frame.empty:
        raise Invalid("there are no rows", describe(data), "name a source that has some")
    return frame


def describe(data: Data) -> str:
    """The source as it may be shown and kept: with no password in it."""
    if not data.is_sql:
        return re.sub(r"//[^/@]*@", "//", data.source)
    return re.sub(r"//([^/:@]*):[^/]*@", r"//\1:***@", data.source) + (f"#{data.table}" if data.table else "")


def _sklearn(name: str) -> pd.DataFrame:
    """A data set that scikit-learn carries, so that no network is needed; classes by their names."""
    if name not in SKLEARN:
        near = difflib.get_close_matches(name, SKLEARN, n=1)
        raise Invalid(
            f"there is no data set {name!r}",
            f"sklearn://{name}",
            f"did you mean {near[0]!r}?" if near else f"name one of: {', '.join(SKLEARN)}",
        )
    from sklearn import datasets  # noqa: PLC0415 (a second; only for these sources)

    bunch = getattr(datasets, f"load_{name}")()
    names = [re.sub(r"[^a-z0-9]+", "_", str(feature).lower()).strip("_") for feature in bunch.feature_names]
    frame = pd.DataFrame(bunch.data, columns=pd.Index(names))
    if name == "diabetes":
        frame["target"] = bunch.target
    else:
        classes = [str(label) for label in bunch.target_names]
        frame["target"] = [classes[index] for index in bunch.target]
    return frame


def _file(source: str, base: Path) -> pd.DataFrame:
    import fsspec  # noqa: PLC0415

    where = re.sub(r"//[^/@]*@", "//", source)
    url = source if "://" in source else str((base / Path(source).expanduser()).resolve())
    try:
        with fsspec.open(url, "rb") as stream:
            content = stream.read()
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError):  # how fsspec tells of a server that does not answer
            reason = _one_line(error.__cause__)
            raise Unavailable(f"the source does not answer: {reason}", where, "run again when it does") from error
        raise Invalid("there is no such file", where if "://" in source else url, "correct data.source") from None
    except IsADirectoryError:
        raise Invalid("this is a folder", url, "name one CSV or Parquet file") from None
    except PermissionError as error:
        raise Invalid("no permission to read it", where, "give this user the right") from error
    except (ValueError, ImportError) as error:
        raise Invalid(
            f"this address cannot be read: {error}", where, "use a path, or a URL that fsspec knows"
        ) from error
    except Exception as error:
        raise Unavailable(f"the source does not answer: {_one_line(error)}", where, "run again when it does") from error
    if not content:
        raise Invalid("the file is empty", where, "name a file with a header and rows")
    if content[:4] == b"PAR1" or url.lower().split("?")[0].endswith((".parquet", ".pq")):
        return _parquet(content, where)
    return read_csv(content, where)


def _parquet(content: bytes, where: str) -> pd.DataFrame:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        table = pq.read_table(io.BytesIO(content))
        return pd.DataFrame(table.to_pandas())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Invalid(f"this is not a Parquet file: {_one_line(error)}", where, "write it anew") from error


def _database(data: Data) -> pd.DataFrame:
    from sqlalchemy import MetaData, Table, create_engine, exc, text  # noqa: PLC0415

    where = describe(data)
    url = _url(data)
    options = {"connect_timeout": _CONNECT_S} if url.get_backend_name() in ("postgresql", "mysql") else {}
    try:
        engine = create_engine(url, connect_args=options)
    except (exc.ArgumentError, ImportError) as error:
        raise Invalid(f"no driver for this address: {_one_line(error)}", where, "install it, or correct it") from error
    try:
        with engine.connect() as connection:
            if data.query is not None:
                result = connection.execute(text(data.query))
            else:
                schema, _, name = str(data.table).rpartition(".")
                result = connection.execute(
                    Table(name, MetaData(), schema=schema or None, autoload_with=connection).select()
                )
            return pd.DataFrame.from_records(result.fetchall(), columns=list(result.keys()), coerce_float=True)
    except exc.NoSuchTableError:
        raise Invalid(f"there is no table {data.table!r}", where, "correct data.table") from None
    except exc.OperationalError as error:
        reason = _one_line(error.orig or error)
        if any(sign in reason for sign in ("password", "authentication", "no such table", "syntax", "does not exist")):
            raise Invalid(
                f"the database refused: {reason}", where, "correct source, table, query or password"
            ) from error
        raise Unavailable(f"the database does not answer: {reason}", where, "run again when it does") from error
    except exc.SQLAlchemyError as error:
        reason = _one_line(getattr(error, "orig", None) or error)
        raise Invalid(f"the database refused: {reason}", where, "correct data.table or data.query") from error
    finally:
        engine.dispose()


def _url(data: Data) -> URL:
    from sqlalchemy import exc, make_url  # noqa: PLC0415

    try:
        url = make_url(data.source)
    except exc.ArgumentError:
        raise Invalid(
            "this is not a database's address", describe(data), "write it like postgresql+psycopg://user@host/name"
        ) from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if data.password_env is None:
        return url
    password = os.environ.get(data.password_env)
    if password is None:
        raise Invalid(
            f"the environment variable {data.password_env!r} is not set", "data.password_env", "set it to the password"
        )
    return url.set(password=password)


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return re.sub(r"//([^/:@\s]*):[^/\s]*@", r"//\1:***@", text)[:300]
