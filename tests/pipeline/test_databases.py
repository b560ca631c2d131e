"""Databases of a release on a real PostgreSQL: made once, or said why not."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from typing import Any

import psycopg
import pytest
import sqlalchemy

from pipeline.databases import ensure
from pipeline.errors import Invalid, Unavailable


@pytest.fixture
def server(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> sqlalchemy.URL:
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    return sqlalchemy.make_url(postgres.url)


def place(server: sqlalchemy.URL, user: str = "") -> tuple[str, int, str]:
    return str(server.host), int(server.port or 0), user or str(server.username)


def test_what_is_not_there_is_made_once(server: sqlalchemy.URL) -> None:
    names = [f"a-{uuid.uuid4().hex[:6]}", f"b_{uuid.uuid4().hex[:6]}"]
    assert ensure(*place(server), names) == tuple(names)
    assert ensure(*place(server), names) == ()


def test_who_may_not_make_it_is_told_the_statement(server: sqlalchemy.URL) -> None:
    host, port, user = place(server)
    name = f"clerk_{uuid.uuid4().hex[:6]}"
    with psycopg.connect(host=host, port=port, user=user, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{os.environ['PGPASSWORD']}'")
    with pytest.raises(Invalid) as refused:
        ensure(host, port, name, ["one", "two"])
    said = [str(problem) for problem in refused.value.problems]
    assert len(said) == 2
    assert f'permission denied to create database -> CREATE DATABASE "one" OWNER "{name}"' in said[0]


def test_a_wrong_password_is_refused(server: sqlalchemy.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(Invalid, match="password authentication failed"):
        ensure(*place(server), ["airflow"])


def test_no_server() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        ensure("127.0.0.1", 9, "slipway", ["airflow"])


def test_the_command(server: sqlalchemy.URL) -> None:
    host, port, user = place(server)
    airflow, mlflow = (f"{name}-{uuid.uuid4().hex[:6]}" for name in ("airflow", "mlflow"))
    command = [
        sys.executable,
        "-m",
        "pipeline.databases",
        "--port",
        str(port),
        "--user",
        user,
        host,
        airflow,
        mlflow,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"made database {airflow}\nmade database {mlflow}\n",
        "",
    )
    wrong = subprocess.run([*command[:-2], "x"], env={**os.environ, "PGPASSWORD": "w"}, capture_output=True, text=True, check=False)  # fmt: skip
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
    assert wrong.stderr.startswith("invalid: PostgreSQL")
