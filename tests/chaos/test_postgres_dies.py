"""PostgreSQL away, or killed in the middle of the query that a snapshot is made of: a sentence, then the same snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pipeline.refs import DatasetRef
from tests.chaos.world import World
from tests.support.polling import wait_for
from tests.support.postgres import Postgres, running_postgres

pytestmark = [pytest.mark.stack, pytest.mark.postgres]
SPEC = """version: 1
name: {{name}}
task: {{{{kind: binary}}}}
data:
  source: {url}
  password_env: DATABASE_PASSWORD
  query: select a, b, y from lines, lateral (select pg_sleep(0.01 + 0 * a)) as slow order by n
  target: y
candidates: [{{{{kind: xgboost}}}}]
"""
ROWS = """
create table lines as select n, sin(n) as a, cos(3 * n) as b, case when sin(n) > 0 then 'yes' else 'no' end as y
from generate_series(1, 200) as n
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Postgres]:
    """A server of its own, which the test kills."""
    with running_postgres(tmp_path) as server:
        with connect(server) as connection:
            connection.execute(ROWS)
        yield server


def connect(server: Postgres) -> psycopg.Connection:
    return psycopg.connect(f"{server.url}", password=server.password, autocommit=True)


def test_a_database_that_is_away_or_dies_in_the_middle(world: World, database: Postgres) -> None:
    name, secret = "from_postgres", {"DATABASE_PASSWORD": database.password}
    world.spec(name, SPEC.format(url=database.url))
    assert world.step("snapshot", name, "calm", **secret).code == 0

    child = world.start("snapshot", name, "wild", **secret)
    with connect(database) as connection:
        reads = "from pg_stat_activity where state = 'active' and pid <> pg_backend_pid() and query like 'FETCH %'"
        counted = f"select count(*) {reads}"  # the snapshot's, by its cursor
        wait_for(lambda: connection.execute(counted).fetchone() == (1,), "a cursor of the snapshot", interval_s=0.02)
    database.stop()
    ends = [child.end(), world.step("snapshot", name, "wild", **secret)]
    database.start()
    for ended in ends:
        assert ended.code == 1, ended.said
        assert "Traceback" not in ended.said
        assert "the database does not answer: " in ended.said
        assert "-> run again when it does" in ended.said
    assert world.step("snapshot", name, "wild", **secret).code == 0
    calm, wild = (world.run(name, run).ref(DatasetRef) for run in ("calm", "wild"))
    assert calm == wild
