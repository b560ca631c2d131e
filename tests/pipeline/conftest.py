"""A real PostgreSQL of the machine's own binaries, with a folder and a port of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.ports import free_ports

PASSWORD = "a pass/word@with:signs"


class Postgres(NamedTuple):
    """A database: its SQLAlchemy URL without the password, and the password."""

    url: str
    password: str


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A database that asks for a password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    binaries = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="slipway-postgres-"))  # pytest's own folders are closed to other users
    secret = folder / "secret"
    secret.write_text(PASSWORD)
    as_other: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        shutil.chown(secret, "postgres")
        as_other = ["runuser", "-u", "postgres", "--"]
    data, (port,) = folder / "data", free_ports("127.0.0.1", 1)

    def run(*command: str) -> None:
        done = subprocess.run([*as_other, *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout

    run(
        str(binaries / "initdb"),
        "-D",
        str(data),
        "-U",
        "slipway",
        "--auth=scram-sha-256",
        f"--pwfile={secret}",
        "--no-sync",
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    run(str(binaries / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield Postgres(f"postgresql://slipway@127.0.0.1:{port}/postgres", PASSWORD)
    finally:
        run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
