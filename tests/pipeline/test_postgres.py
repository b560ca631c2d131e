"""Tables and queries of a real PostgreSQL, with every type that matters, and its refusals in sentences."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy

from pipeline.errors import Invalid, SlipwayError
from pipeline.spec import Binary, Data
from tests.support.batches import infer_rows, read_source
from tests.support.postgres import Postgres

Read = Callable[..., tuple[pd.DataFrame, Data]]
TABLE = """
create schema shop;
create table shop.customers (
    id bigint, spent numeric(12, 2), visits integer, score double precision, member boolean, colour text,
    since timestamptz, born date, churned text
);
insert into shop.customers
select i, case when i % 7 = 0 then null else i * 1.25 end, i % 5, sin(i), i % 2 = 0, (array['red', 'green', null])[1 + i % 3],
       timestamptz '2026-01-01' + i * interval '1 hour', date '1980-01-01' + i, case when i % 3 = 0 then 'yes' else 'no' end
from generate_series(1, 300) as i;
"""


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    """URL of a database with the table, which no test changes."""
    source = postgres.create_database(f"shop-{uuid.uuid4().hex[:6]}")
    url = sqlalchemy.make_url(source).set(drivername="postgresql+psycopg", password=postgres.password)
    with sqlalchemy.create_engine(url).begin() as connection:
        for statement in TABLE.split(";"):
            if statement.strip():
                connection.execute(sqlalchemy.text(statement.replace(":", "\\:")))
    return source


@pytest.fixture
def shop(database: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Read:
    """read(...): rows of the database by a spec's data section."""
    monkeypatch.setenv("SHOP_PASSWORD", postgres.password)

    def read(**data: str) -> tuple[pd.DataFrame, Data]:
        section = Data.model_validate(
            {"source": database, "target": "churned", "password_env": "SHOP_PASSWORD", **data}
        )
        return read_source(section, Path()), section

    return read


def test_a_table_has_its_kinds(shop: Read) -> None:
    frame, data = shop(table="shop.customers")
    assert len(frame) == 300
    typed, schema, findings = infer_rows(frame, data, Binary(kind="binary"), "shop")
    assert {column.name: column.kind for column in schema.columns} == {
        "spent": "number", "visits": "number", "score": "number", "member": "boolean", "colour": "category",
        "since": "timestamp", "born": "timestamp",
    }  # fmt: skip
    assert [finding.column for finding in findings if finding.kind == "identifier"] == ["id"]
    assert typed["spent"].isna().sum() == 42
    assert typed["spent"].iloc[0] == 1.25
    assert typed["since"].iloc[0] == pd.Timestamp("2026-01-01T01:00Z")


def test_a_query(shop: Read) -> None:
    frame, _ = shop(query="select spent, churned from shop.customers where visits = 1 and colour like 'r%'")
    assert list(frame.columns) == ["spent", "churned"]
    assert len(frame) == 20


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"table": "shop.nothing"}, "there is no table 'shop.nothing'"),
        ({"query": "select nothing from shop.customers"}, 'the database refused: column "nothing" does not exist'),
        ({"query": "selec 1"}, "the database refused: syntax error"),
        ({"table": "shop.customers", "password_env": "PATH"}, "the database refused"),
    ],
)
def test_its_refusals_are_sentences(shop: Read, data: dict[str, str], says: str, postgres: Postgres) -> None:
    with pytest.raises(Invalid) as refused:
        shop(**data)
    assert says in str(refused.value)
    assert postgres.password not in str(refused.value)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(SlipwayError) as refused:
        read_source(Data(source="postgresql://slipway@127.0.0.1:9/postgres", target="y", table="t"), Path())
    assert refused.value.exit_code == 1
