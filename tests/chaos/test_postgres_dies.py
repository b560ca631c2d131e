"""PostgreSQL away, or killed in the middle of the query that a snapshot is made of: a sentence, then the same snapshot."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pipeline.ports import free_ports
from pipeline.refs import DatasetRef
from tests.chaos.conftest import World

pytestmark = pytest.mark.stack
SPEC = """version: 1
name: {{name}}
task: {{{{kind: binary}}}}
data:
  source: postgresql://slipway@127.0.0.1:{port}/postgres
  query: select a, b, y from lines, lateral (select pg_sleep(0.01 + 0 * a)) as slow order by n
  target: y
candidates: [{{{{kind: xgboost}}}}]
"""
ROWS = """
create table lines as select n, sin(n) as a, cos(3 * n) as b, case when sin(n) > 0 then 'yes' else 'no' end as y
from generate_series(1, 200) as n
"""
Control = Callable[..., None]


@pytest.fixture
def database() -> Iterator[tuple[int, Control]]:
    """The port of a PostgreSQL, and its pg_ctl."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    folder, (port,) = Path(tempfile.mkdtemp(prefix="slipway-postgres-")), free_ports("127.0.0.1", 1)
    as_other: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_other = ["runuser", "-u", "postgres", "--"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"

    def run(name: str, *arguments: str) -> None:
        command = [*as_other, str(found[-1].parent / name), "-D", str(folder / "data"), *arguments]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, (folder / "log").read_text()

    def control(*arguments: str) -> None:
        run("pg_ctl", "-o", options, "-l", str(folder / "log"), "-w", *arguments)

    run("initdb", "-U", "slipway", "--auth=trust", "--no-sync")
    control("start")
    try:
        with psycopg.connect(f"postgresql://slipway@127.0.0.1:{port}/postgres", autocommit=True) as connection:
            connection.execute(ROWS)
        yield port, control
    finally:
        control("stop", "-m", "immediate")
        shutil.rmtree(folder, ignore_errors=True)


def test_a_database_that_is_away_or_dies_in_the_middle(world: World, database: tuple[int, Control]) -> None:
    port, control = database
    name = "from_postgres"
    world.spec(name, SPEC.format(port=port))
    assert world.step("snapshot", name, "calm").code == 0

    child = world.start("snapshot", name, "wild")
    url = f"postgresql://slipway@127.0.0.1:{port}/postgres"
    with psycopg.connect(url, autocommit=True) as connection:
        reads = "from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() and query like 'FETCH %'"
        deadline = time.monotonic() + 30
        while connection.execute(f"select count(*) {reads}").fetchone() != (1,):  # the snapshot's, by its cursor
            assert time.monotonic() < deadline
            time.sleep(0.02)
    control("stop", "-m", "immediate")
    ends = [child.end(), world.step("snapshot", name, "wild")]
    control("start")
    for ended in ends:
        assert ended.code == 1, ended.said
        assert "Traceback" not in ended.said
        assert "the database does not answer: " in ended.said
        assert "-> run again when it does" in ended.said
    assert world.step("snapshot", name, "wild").code == 0
    calm, wild = (world.run(name, run).ref(DatasetRef) for run in ("calm", "wild"))
    assert calm == wild
