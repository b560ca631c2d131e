"""Rows from files, URLs and databases; every broken source is refused in a sentence."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import source_files, source_tables
from pipeline.csv_rows import MISSING, read_csv
from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.mask import mask
from pipeline.sources import SKLEARN, describe
from pipeline.spec import Data
from tests.support.batches import read_source


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
    b'a,b\n"1,2\n': "r.csv:2: not CSV",
    b'a,b\n1,2\n"x\ny\nz",3,4\n5\n': "r.csv:3: 3 fields where the header has 2 -> close the quotes",
    "a,b\n1,2\n".encode("utf-16-le"): "r.csv:1: a zero byte is no text",
    gzip.compress(b"a,b\n1,2\n", mtime=0): "this is a gzip file -> unpack it",
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


def test_text_stands_exactly_and_missing_is_missing() -> None:
    lines = ["code,y", "007,a", "1.50,b ", '" x",""', "1e3,c", *(f"{spelling},z" for spelling in MISSING if spelling)]
    frame = read_csv("\n".join(lines).encode(), "r.csv")
    assert frame["code"].tolist()[:4] == ["007", "1.50", " x", "1e3"]
    assert frame["code"].isna().sum() == len(MISSING) - 1
    assert frame["y"].tolist()[:2] == ["a", "b "]
    assert frame["y"].isna().iloc[2]


def test_quotes_hold_delimiters_lines_and_quotes() -> None:
    frame = read_csv(b'a;b\r\n"1;2";"x ""y""\r\nz"\r\n3;4\r\n', "r.csv")
    assert frame.to_numpy().tolist() == [["1;2", 'x "y"\nz'], ["3", "4"]]


def test_one_column_has_its_missing_values_and_no_empty_lines() -> None:
    assert read_csv(b'a\n1\n""\n\n  \n2\n', "r.csv")["a"].isna().tolist() == [False, True, False]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_bring_a_traceback(content: bytes) -> None:
    try:
        assert not read_csv(content, "fuzz.csv").empty
    except SlipwayError as error:
        assert "fuzz.csv" in str(error)  # noqa: PT017 (either end is right)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=',;\t|"\n\r ab1?\u00e9\u2028', max_size=24))
def test_no_text_bring_a_traceback_and_both_readings_agree(text: str) -> None:
    try:
        assert not read_csv(f"a,b\n{text}".encode(), "fuzz.csv").empty
    except SlipwayError as error:
        assert "fuzz.csv" in str(error)  # noqa: PT017
        assert "told apart" not in str(error)  # noqa: PT017


VALUES = st.text(alphabet='ab1,;"\n ?-', max_size=6).filter(lambda text: text == text.strip() and text not in MISSING)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6))
def test_what_pandas_writes_is_read_as_it_was(values: list[tuple[str, str]]) -> None:
    frame = pd.DataFrame(values, columns=["a", "b"], dtype="str")
    read = read_csv(frame.to_csv(index=False).encode(), "r.csv")
    assert read.to_numpy().tolist() == frame.to_numpy().tolist()


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


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("postgresql://me:se/cr@et@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@host/db?password=secret&a=1", "postgresql://me@host/db?password=***&a=1"),
        ("https://secret@host/r.csv?X-Amz-Signature=secret&e=1", "https://***@host/r.csv?X-Amz-Signature=***&e=1"),
        ("s3://key:secret@bucket/r.csv", "s3://key:***@bucket/r.csv"),
        ("/rows/me@home.csv", "/rows/me@home.csv"),
    ],
)
def test_every_place_of_a_secret_is_masked(source: str, shown: str) -> None:
    assert mask(source) == shown


def test_a_token_of_a_server_comes_by_the_environment(tmp_path: Path) -> None:
    """The way that docs/guide.md names for what may not stand in the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == "Bearer hunter2"
            body = b"a,y\n1,p\n2,n\n" if known else b""
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 (the name that http.server calls)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}/rows.csv"
        code = (
            "from pathlib import Path; from pipeline.sources import read_batches; from pipeline.spec import Data; "
            f"print(sum(map(len, read_batches(Data(source={source!r}, target='y'), Path()))))"
        )
        said = []
        for more in ({}, {"FSSPEC_HTTP": '{"headers": {"Authorization": "Bearer hunter2"}}'}):
            done = subprocess.run(
                [sys.executable, "-c", code], env=os.environ | more, capture_output=True, text=True, check=False
            )
            said.append(done.stdout.strip() or done.stderr)
        server.shutdown()
    assert "HTTP 401" in said[0]
    assert said[1] == "2"


def test_a_secret_is_masked_by_its_value_too() -> None:
    assert mask("wrong password hunter2 for me", "hunter2", None) == "wrong password *** for me"


def test_files_that_are_not_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,y\n1,2\n")
    for source, expected in {
        "row.csv": "did you mean 'rows.csv'?",
        "nowhere/rows.csv": "there is no such folder",
        "htp://host/rows.csv": "did you mean 'http'?",
        "postgresql://me:secret@host/db": "add `table` or `query` to data",
        "github://rows.csv": "cannot be read",
        "http://[::1/rows.csv": "cannot be read",
        "memory://none.csv": "there is no such file",
    }.items():
        with pytest.raises(Invalid) as refused:
            rows(source, tmp_path)
        assert expected in str(refused.value)
        assert "secret" not in str(refused.value)


def test_parquet_as_others_write_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"i": [3, 4], "c": pd.Categorical(["a", None]), "y": ["p", "n"]})
    frame.set_index("i").to_parquet(tmp_path / "named.parquet")
    assert set(rows("named.parquet", tmp_path).columns) == {"i", "c", "y"}
    frame.iloc[::-1].to_parquet(tmp_path / "unnamed.parquet")
    assert list(rows("unnamed.parquet", tmp_path).columns) == ["i", "c", "y"]
    assert rows("unnamed.parquet", tmp_path)["c"].dtype == "str"
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "double.parquet")
    with pytest.raises(Invalid, match="two columns share the name 'a'"):
        rows("double.parquet", tmp_path)


class _Answers(BaseHTTPRequestHandler):
    """An HTTP server that is as servers are: it answers, lacks, forbids, breaks, or says nothing."""

    def do_GET(self) -> None:
        if "silent" in self.path:
            threading.Event().wait(3)
            return
        status = int(self.path.strip("/").split(".")[0])
        content = b"a,y\n1,p\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_web_server_in_all_its_moods(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_files, "SILENCE_S", 1.0)
    assert len(rows(f"{web}/200.csv")) == 1
    for path, kind, says in (
        ("404.csv", Invalid, "there is no such file"),
        ("403.csv", Invalid, "HTTP 403"),
        ("500.csv", Unavailable, "does not answer"),
        ("silent.csv", Unavailable, "does not answer"),
    ):
        with pytest.raises(kind, match=says):
            rows(f"{web}/{path}")


def test_a_database_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(source_tables.POSTGRES_OPTIONS, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable, match="does not answer"):
        rows(f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/db", table="t")


def test_a_query_is_as_the_database_reads_it(tmp_path: Path) -> None:
    sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'd.sqlite'}").connect().close()
    found = rows("sqlite:///d.sqlite", tmp_path, query="select '10:30 100% :x' as a")
    assert found["a"].tolist() == ["10:30 100% :x"]
    with pytest.raises(Invalid, match="write a SELECT"):
        rows("sqlite:///d.sqlite", tmp_path, query="create table t (a int)")
    with pytest.raises(Invalid, match="there is no such file"):
        rows("sqlite:///none.sqlite", tmp_path, table="t")
    assert not (tmp_path / "none.sqlite").exists()
