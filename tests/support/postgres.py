"""A real PostgreSQL of the machine's own binaries, with a folder and a port of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pipeline.sweep import mark
from tests.support.ports import HOST, worker_port

USER = "slipway"
PASSWORD = "a pass/word@with:signs"
BINARIES = Path("/usr/lib/postgresql")


def is_installed() -> bool:
    """Return whether this machine has a PostgreSQL server."""
    return any(BINARIES.glob("*/bin/initdb"))


@dataclass(frozen=True)
class Postgres:
    """A server that asks for a password."""

    folder: Path
    port: int
    owner: Path  # what ends all processes below this folder ends the server too

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the first database, without the password."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database, without the password."""
        return f"postgresql://{USER}@{HOST}:{self.port}/{database}"

    @property
    def password(self) -> str:
        """The password of the user."""
        return PASSWORD

    def create_database(self, name: str) -> str:
        """Create a database and return its SQLAlchemy URL, without the password."""
        with psycopg.connect(
            host=HOST, port=self.port, user=USER, password=PASSWORD, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f'create database "{name}"'.encode())
        return self.url_of(name)

    def control(self, action: str, *options: str) -> None:
        """Start or stop the server by pg_ctl and wait for it."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", *options, action)

    def start(self) -> None:
        """Start the server; files are not synchronised with the disk."""
        settings = f"-p {self.port} -c listen_addresses={HOST} -c unix_socket_directories={self.folder} -c fsync=off"
        self.control("start", "-o", settings, "-l", str(self.folder / "log"))

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; `immediate` is a crash."""
        self.control("stop", "-m", mode)

    def initialise(self) -> None:
        """Create the server's files."""
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(self.folder, "postgres")
            shutil.chown(secret, "postgres")
        options = ("--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
        self._run("initdb", "-D", str(self.folder / "data"), "-U", USER, *options)

    def _run(self, program: str, *arguments: str) -> None:
        binaries = sorted(BINARIES.glob("*/bin"))[-1]
        as_other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*as_other, str(binaries / program), *arguments],
            cwd=self.folder, env={**os.environ, **mark(self.owner)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout


@contextmanager
def running_postgres(owner: Path) -> Iterator[Postgres]:
    """Run a new server as long as the block runs; its processes have the label of the folder `owner`."""
    folder = Path(tempfile.mkdtemp(prefix="slipway-postgres-"))  # pytest's own folders are closed to other users
    server = Postgres(folder, worker_port(), owner)
    server.initialise()
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
