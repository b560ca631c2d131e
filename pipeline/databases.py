"""`python -m pipeline.databases HOST …`: the release's databases are there, or it is said in sentences why not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import psycopg
import typer
from psycopg import sql

from pipeline.errors import Invalid, Problem, SlipwayError, Unavailable

ANSWER_S = 10
MAINTENANCE = "postgres"  # the database that every server has


def ensure(host: str, port: int, user: str, names: Sequence[str]) -> tuple[str, ...]:
    """Make the databases of these names that are not there yet; return those. The password is libpq's (PGPASSWORD).

    Raises:
        Invalid: the login is refused, or a database is missing and the user may not make it. A retry does not help.
        Unavailable: the server does not answer. A retry helps.
    """
    problems, made = [], []
    for name in names:
        try:
            with _connect(host, port, user, name):
                continue
        except psycopg.OperationalError as error:
            if f'database "{name}" does not exist' not in str(error):
                raise _silent(host, port, user, error) from error
        try:
            with _connect(host, port, user, MAINTENANCE) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            made.append(name)
        except psycopg.errors.DuplicateDatabase:
            pass  # another pod was quicker
        except psycopg.Error as error:
            what = f"database {name!r} is not there, and user {user!r} may not make it: {_said(error)}"
            remedy = f'CREATE DATABASE "{name}" OWNER "{user}"'
            problems.append(Problem(what, f"PostgreSQL {host}:{port}", remedy))
    if problems:
        raise Invalid(problems)
    return tuple(made)


def _connect(host: str, port: int, user: str, name: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(host=host, port=port, user=user, dbname=name, connect_timeout=ANSWER_S, autocommit=True)


def _silent(host: str, port: int, user: str, error: psycopg.Error) -> SlipwayError:
    place, said = f"PostgreSQL {host}:{port}", _said(error)
    if any(sign in said for sign in ("authentication failed", "no pg_hba.conf entry", "role ", "no password supplied")):
        return Invalid(f"user {user!r} is refused: {said}", place, "correct database.user, its Secret or sslMode")
    return Unavailable(f"it does not answer: {said}", place, "look at database.host and database.port, or wait for it")


def _said(error: psycopg.Error) -> str:
    """The server's last line, which is its reason."""
    return " ".join(str(error).strip().splitlines()[-1].split()) if str(error).strip() else type(error).__name__


def main(
    host: Annotated[str, typer.Argument(help="host of PostgreSQL")],
    names: Annotated[list[str], typer.Argument(help="databases that are to be there")],
    port: Annotated[int, typer.Option(help="its port")] = 5432,
    user: Annotated[str, typer.Option(help="owner of the databases; the password is PGPASSWORD")] = "slipway",
) -> None:
    """See that databases are there, and make those that are not."""
    try:
        made = ensure(host, port, user, names)
    except SlipwayError as error:
        for problem in error.problems:
            sys.stderr.write(f"{error.title}: {problem}\n")
        raise typer.Exit(error.exit_code) from None
    sys.stdout.write("".join(f"made database {name}\n" for name in made))


if __name__ == "__main__":
    typer.run(main)
