"""Rows from files, URLs and databases; every broken source is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pandas as pd
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.csv_rows import read_csv
from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.sources import SKLEARN, describe, read_source
from pipeline.spec import Data


def rows(source: str, base: Path = Path(), **more: str) -> pd.DataFrame:
    return read_source(Data.model_validate({"source": source, "target": "y", **more}), base)


@pytest.mark.parametrize("name", SKLEARN)
def test_bundled_data_sets(name: str) -> None:
    frame = rows(f"sklearn://{name}")
    assert len(frame) > 100
    assert frame.columns[-1] == "target"
    assert all(str(column).isidentifier() for column in frame.columns)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_with_any_common_delimiter_and_missing_values(tmp_path: Path, delimiter: str) -> None:
    lines = [["a", "b", "y"], ["1", " x", "?"], ["", "NA", "no"], ["3.5", '"x;,y"', "yes"]]
    text = "\n".join(delimiter.join(line) for line in lines if delimiter not in ";," or line[1] != '"x;,y"')
    (tmp_path / "r.csv").write_text("\ufeff" + text + "\n\n", encoding="utf-8")
    frame = rows("r.csv", tmp_path)
    assert list(frame.columns) == ["a", "b", "y"]
    assert frame["b"].iloc[0] == "x"
    assert frame["y"].isna().iloc[0]
    assert frame["a"].isna().iloc[1]


def test_parquet_and_any_fsspec_url(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, None], "y": ["p", "n"]})
    frame.to_parquet(tmp_path / "r.parquet")
    with fsspec.open("memory://slipway/r.parquet", "wb") as stream:
        stream.write((tmp_path / "r.parquet").read_bytes())
    for source in ("r.parquet", (tmp_path / "r.parquet").as_uri(), "memory://slipway/r.parquet"):
        assert rows(source, tmp_path)["y"].tolist() == ["p", "n"]


BROKEN_CSV = {
    b"": "the file is empty",
    b"\n \n": "the file is empty",
    b"a,b\n": "there is a header and no rows",
    b"a,a\n1,2\n": "two columns share the name 'a'",
    b"a,\n1,2\n": "column 2 has no name",
    b"a,b\n1,2,3\n4\n5,6\n": "r.csv:2: 3 fields where the header has 2",
    b"a,b\n1,\xff\n": "r.csv:2: byte 0xff is not UTF-8",
    b'a,b\n"1,2\n': "r.csv:2",
}


@pytest.mark.parametrize("content", BROKEN_CSV)
def test_broken_csv_names_the_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(Invalid) as refused:
        rows("r.csv", tmp_path)
    assert BROKEN_CSV[content] in str(refused.value)


def test_many_ragged_lines_are_counted() -> None:
    with pytest.raises(Invalid) as refused:
        read_csv(b"a,b\n" + b"1\n" * 50, "r.csv")
    assert len(refused.value.problems) == 6
    assert "45 more lines" in str(refused.value)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_bring_a_traceback(content: bytes) -> None:
    try:
        assert not read_csv(content, "fuzz.csv").empty
    except SlipwayError as error:
        assert "fuzz.csv" in str(error)  # noqa: PT017 (either end is right)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for source, expected in {
        "none.csv": "there is no such file",
        str(tmp_path): "this is a folder",
        "sklearn://brest_cancer": "did you mean 'breast_cancer'?",
        "gopher://host/x.csv": "no source is read by gopher://",
    }.items():
        with pytest.raises(Invalid) as refused:
            rows(source, tmp_path)
        assert expected in str(refused.value)
    (tmp_path / "r.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(Invalid, match="not a Parquet file"):
        rows("r.parquet", tmp_path)
    with pytest.raises(Unavailable, match="does not answer"):
        rows("http://127.0.0.1:9/rows.csv", tmp_path)


def test_a_table_or_a_query_of_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'd.sqlite'}"
    engine = sqlalchemy.create_engine(url)
    pd.DataFrame({"a": [1, 2], "y": ["p", "n"]}).to_sql("t", engine, index=False)
    pd.DataFrame({"a": []}).to_sql("empty", engine, index=False)
    assert len(rows(url, table="t")) == 2
    assert rows(url, query="select a from t where y = 'p'")["a"].tolist() == [1]
    for more, expected in (
        ({"table": "none"}, "there is no table 'none'"),
        ({"query": "selec"}, "the database refused"),
        ({"query": "select 1 as a, 2 as a"}, "two columns share the name 'a'"),
        ({"table": "empty"}, "there are no rows"),
        ({"table": "t", "password_env": "NOT_SET_ANYWHERE"}, "is not set"),
    ):
        with pytest.raises(Invalid) as refused:
            rows(url, **more)
        assert expected in str(refused.value)
    with pytest.raises(Invalid, match="not a database's address"):
        rows("no url", table="t")
    with pytest.raises(Invalid, match="no driver"):
        rows("nothing+never://host/db", table="t")
    with pytest.raises(Unavailable, match="does not answer"):
        rows("postgresql://nobody@127.0.0.1:9/none", table="t")


def test_passwords_are_not_told() -> None:
    shown = describe(Data(source="postgresql://me:secret@host/db", target="y", table="t"))
    assert shown == "postgresql://me:***@host/db#t"
    assert "secret" not in describe(Data(source="ftp://me:secret@host/rows.csv", target="y"))
    with pytest.raises(SlipwayError) as refused:
        rows("postgresql://me:secret@127.0.0.1:9/none", table="t")
    assert "secret" not in str(refused.value)
