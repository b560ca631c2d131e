"""Tables and queries of databases, at any SQLAlchemy URL (the only importer of sqlalchemy)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.batches import batch_rows
from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.mask import one_line
from pipeline.spec import Data
from pipeline.suggest import near

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection
    from sqlalchemy.exc import SQLAlchemyError

CONNECT_S = 15
QUERY_S = 900  # after which PostgreSQL ends a query
POSTGRES_OPTIONS = {  # a server that falls silent in the middle of an answer is noticed after a minute
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_OURS = (  # what an operational error says when the server answered, and would say so again
    "password", "authentication", "does not exist", "no such table", "no such column", "syntax", "pg_hba",
    "unable to open database", "not a database", "permission denied", "access denied", "unknown database",
)  # fmt: skip


def table_batches(data: Data, base: Path, where: str) -> Iterator[pd.DataFrame]:
    """The rows of `data.table` or `data.query`, from the server's cursor; `where` is the address as it may be shown.

    Raises:
        Invalid: no such driver, database, table or column, a bad query or password. A retry does not help.
        Unavailable: the database does not answer. A retry helps.
    """
    from sqlalchemy import create_engine, exc  # noqa: PLC0415

    url = _url(data, base, where)
    secret = url.password if isinstance(url.password, str) else None
    try:
        engine = create_engine(url, connect_args=_options(url))
    except (exc.ArgumentError, ImportError) as error:
        what = f"no driver for this address: {one_line(error, secret)}"
        raise Invalid(what, where, "install it, or correct data.source") from error
    try:
        with engine.connect() as connection:
            yield from _rows(connection, data, where)
    except exc.SQLAlchemyError as error:
        raise _failure(error, where, secret) from error
    except UnicodeError as error:
        raise Invalid(f"text is not UTF-8: {one_line(error, secret)}", where, "correct its encoding") from error
    finally:
        engine.dispose()


def _rows(connection: Connection, data: Data, where: str) -> Iterator[pd.DataFrame]:
    from sqlalchemy import Executable, MetaData, Table, exc, inspect, text  # noqa: PLC0415

    statement: Executable
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET statement_timeout = {QUERY_S * 1000}")
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
    if data.query is not None:
        statement = text(data.query.replace(":", r"\:"))  # no `:name` is a parameter here
    else:
        schema, _, name = str(data.table).rpartition(".")
        try:
            table = Table(name, MetaData(), schema=schema or None, autoload_with=connection, resolve_fks=False)
        except exc.NoSuchTableError:
            inspector = inspect(connection)
            known = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
            remedy = near(name, known) if known else "the schema has no table that this user may see"
            raise Invalid(f"there is no table {data.table!r}", where, remedy) from None
        statement = table.select()
    result = connection.execute(statement, execution_options={"stream_results": True})
    if not result.returns_rows:
        raise Invalid("the query returns no rows by its nature", where, "write a SELECT in data.query")
    names = list(result.keys())
    for rows in result.partitions(batch_rows(len(names))):
        yield pd.DataFrame.from_records(rows, columns=names, coerce_float=True)


def _failure(error: SQLAlchemyError, where: str, secret: str | None) -> SlipwayError:
    from sqlalchemy import exc  # noqa: PLC0415

    reason = one_line(getattr(error, "orig", None) or error, secret)
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError):
        if not any(sign in reason.lower() for sign in _OURS):
            return Unavailable(f"the database does not answer: {reason}", where, "run again when it does")
        return Invalid(f"the database refused: {reason}", where, "correct source, table, query or password")
    return Invalid(f"the database refused: {reason}", where, "correct data.table or data.query")


def _options(url: URL) -> dict[str, Any]:
    match url.get_backend_name():
        case "postgresql":
            return {name: value for name, value in POSTGRES_OPTIONS.items() if name not in url.query}
        case "mysql" | "mariadb":
            return {"connect_timeout": CONNECT_S, "read_timeout": QUERY_S}
        case _:
            return {}


def _url(data: Data, base: Path, where: str) -> URL:
    from sqlalchemy import exc, make_url  # noqa: PLC0415

    try:
        url = make_url(data.source)
    except (exc.ArgumentError, ValueError):
        remedy = "write it like postgresql://user@host/name, with the password in data.password_env"
        raise Invalid("this is not a database's address", where, remedy) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        file = base / str(url.database)
        if not file.is_file():  # SQLite would make an empty one
            raise Invalid("there is no such file", str(file), "correct data.source")
        url = url.set(database=str(file))
    if data.password_env is None:
        return url
    password = os.environ.get(data.password_env)
    if password is None:
        what = f"the environment variable {data.password_env!r} is not set"
        raise Invalid(what, "data.password_env", "set it to the password")
    return url.set(password=password)
