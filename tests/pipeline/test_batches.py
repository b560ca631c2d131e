"""Rows come in batches, and nothing that is read from them depends on how many."""

from __future__ import annotations

import io
import tempfile
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import batches, distinct
from pipeline.batches import Spool
from pipeline.csv_rows import csv_batches, read_csv
from pipeline.dataset import mixed
from pipeline.distinct import Distinct
from pipeline.errors import Invalid
from pipeline.gate_rules import Gates, Slices
from pipeline.infer import infer
from pipeline.sources import read_batches
from pipeline.spec import Binary, Data, Multiclass, Regression, Task
from tests.support.batches import read_source
from training.snapshot import to_parquet

ROWS = 60
WHERE = "rows.csv"


def parts(frame: pd.DataFrame, rows: int) -> list[pd.DataFrame]:
    return [frame.iloc[at : at + rows].reset_index(drop=True) for at in range(0, len(frame), rows)]


def told(source: list[pd.DataFrame], data: Data, task: Task, gates: Gates) -> object:
    """All that is read from the rows: bytes, schema and findings, or the refusal."""
    with Spool(iter(source)) as rows:
        try:
            found = infer(rows, data, task, WHERE, gates)
        except Invalid as error:
            return str(error)
        content = to_parquet(pd.concat(found, ignore_index=True))
        return content, found.schema, found.findings, found.rows


SPELLED = ["true", "False", "yes", "no", "1", "0", "1.0", "007", "2.5", "x", " ", "", "2026-01-31", "9007199254740993"]
CELLS = st.one_of(
    st.none(), st.sampled_from(SPELLED), st.integers(-9, 9), st.floats(width=32), st.integers(2**24, 2**60)
)  # fmt: skip
POOLS = st.one_of(  # no source gives booleans beside other values
    st.lists(CELLS, min_size=1, max_size=4), st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=3)
)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Columns of few values each, alike or not, as a source may give them."""
    order = np.random.default_rng(draw(st.integers(0, 99)))
    columns: dict[str, object] = {"a": order.normal(size=ROWS), "n_id": np.arange(ROWS), "s": ["f", "m"] * (ROWS // 2)}
    for at, pool in enumerate(draw(st.lists(POOLS, min_size=1, max_size=3))):
        columns[f"c{at}"] = pd.Series([pool[i] for i in order.integers(0, len(pool), ROWS)], dtype=object)
    columns["twin"] = columns[draw(st.sampled_from([*columns]))]
    text = draw(st.sampled_from(["c0", "twin"]))
    columns["text"] = pd.Series(columns[text]).map(lambda value: None if pd.isna(value) else str(value)).astype("str")
    columns["y"] = draw(
        st.sampled_from([["p", "n"] * (ROWS // 2), [*range(ROWS)], [1, 2, 3] * (ROWS // 3), columns["c0"]])
    )
    return pd.DataFrame(columns)


SIZES = st.one_of(st.integers(2, ROWS), st.just(1))  # batches of one row are in the examples for certain


@pytest.mark.heavy
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames(), SIZES, st.sampled_from(["binary", "multiclass", "regression"]), st.data())
def test_no_size_of_batches_changes_anything(frame: pd.DataFrame, rows: int, kind: str, draw: st.DataObject) -> None:
    task: Task = {"binary": Binary(kind="binary"), "multiclass": Multiclass(kind="multiclass"), "regression": Regression(kind="regression")}[kind]  # fmt: skip
    asked = draw.draw(st.dictionaries(st.sampled_from(["a", "c0"]), st.sampled_from(["number", "boolean", "category", "timestamp"])))  # fmt: skip
    data = Data(source="s", target="y", drop=("s",), kinds=asked)
    gates = Gates(slices=Slices(columns=("s",)))
    assert told(parts(frame, rows), data, task, gates) == told([frame], data, task, gates)


def test_a_wrong_value_is_named_by_its_row_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"a": ["1"] * 50 + ["x"] + ["2"] * 8 + ["z"], "y": ["p", "n"] * 29 + [None, "p"]})
    data = Data(source="s", target="y", kinds={"a": "number"})
    said = str(told(parts(frame, 7), data, Binary(kind="binary"), Gates()))
    assert "column 'a', row 51: 'x' is not a number (2 such values)" in said
    assert "1 rows have no target, the first is row 59" in said


BROKEN = {
    b"1,2,3\n": "r.csv:12: 3 fields where the header has 2",
    b'"1\n2\n3",3,4\n': "r.csv:12: 3 fields where the header has 2 -> close the quotes",
    b"1,\xff\n": "r.csv:12: byte 0xff is not UTF-8",
    b"1,\0\n": "r.csv:12: a zero byte is no text",
    b'"1,2\n': "r.csv:12: not CSV",
}


@pytest.mark.parametrize("line", BROKEN)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_that_is_broken_beyond_the_first_batch_is_named(
    line: bytes, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_CELLS", 6)
    monkeypatch.setattr("pipeline.csv_rows.BLOCK", 5)
    content = (b"a,b\n" + b"1,2\n" * 5 + b"\n" + b"3,4\n" * 4 + line + b"5,6\n" * 9).replace(b"\n", end.encode())
    rows = csv_batches(io.BytesIO(content), "r.csv")
    assert next(rows)["a"].tolist() == ["1", "1", "1"]
    with pytest.raises(Invalid) as refused:
        list(rows)
    assert BROKEN[line] in str(refused.value)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.sampled_from('ab1 ,"\n\ré'), max_size=3), min_size=1, max_size=9),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_a_csv_is_the_same_in_any_blocks(values: list[str], cells: int, block: int) -> None:
    content = pd.DataFrame({"a": values, "b": values}).to_csv(index=False).encode()

    def read() -> object:
        try:
            return read_csv(content, "r.csv").astype(object).where(lambda frame: frame.notna(), None).to_dict()
        except Invalid as error:
            return str(error)

    with pytest.MonkeyPatch.context() as patched:
        whole = read()
        patched.setattr(batches, "BATCH_CELLS", cells)
        patched.setattr("pipeline.csv_rows.BLOCK", block)
        assert read() == whole


def test_every_source_comes_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"i": pd.array([1, 2, None, 2**60 + 1] * 5, dtype="Int64"), "c": ["x", None, "y", "z"] * 5})
    frame.to_parquet(tmp_path / "r.parquet", row_group_size=7)
    frame.to_csv(tmp_path / "r.csv", index=False)
    frame.astype({"i": "float64"}).to_sql("t", sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'r.db'}"), index=False)
    sources: dict[str, Callable[[], Data]] = {
        "r.parquet": lambda: Data(source="r.parquet", target="c"),
        "r.csv": lambda: Data(source="r.csv", target="c"),
        "r.db": lambda: Data(source="sqlite:///r.db", table="t", target="c"),
    }
    for name, data in sources.items():
        whole = read_source(data(), tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(batches, "BATCH_CELLS", 6)
            found = list(read_batches(data(), tmp_path))
        assert max(map(len, found)) == 3, name
        pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), whole)


def test_a_spool_gives_again_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def files() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    odd = [1, "x", None, Decimal("1.5"), uuid.UUID(int=7), [1], 2**70]
    source = [pd.DataFrame({"o": pd.Series(odd[at:] + odd[:at], dtype=object), "n": range(7)}) for at in range(3)]
    with Spool(iter(source)) as rows:
        first = list(rows)
        again = [list(rows) for _ in range(2)]
        assert len(files()) == 3
    assert not list(tmp_path.iterdir())
    for one in again:
        for before, after in zip(first, one, strict=True):
            assert after["n"].tolist() == before["n"].tolist()
            assert after["o"].isna().tolist() == before["o"].isna().tolist()
    with Spool(iter(source[:1])) as rows:
        assert [id(frame) for frame in rows] == [id(frame) for frame in rows] == [id(source[0])]
        assert not files()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 3), st.integers(1, 50), st.integers(0, 9))
def test_values_that_differ_are_counted_in_bounded_memory(values: int, times: int, rows: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distinct, "MOST", 64)
        order = np.random.default_rng(seed)
        hashes = mixed(order.permutation(np.repeat(np.arange(1, values + 1, dtype=np.uint64), times)))
        counts = []
        for size in (rows, len(hashes)):
            count = Distinct()
            for at in range(0, len(hashes), size):
                count.see(hashes[at : at + size])
                assert count.kept <= 64
            counts.append((count.count, count.repeats))
        assert counts[0] == counts[1]
        assert counts[0][1] == (times > 1)
        assert counts[0][0] == values if values <= 64 else 0.4 * values < counts[0][0] < 2 * values


@pytest.mark.parametrize("rows", [1, 7, ROWS])
def test_a_zero_has_no_sign_whatever_it_stands_beside(rows: int) -> None:
    zeros = pd.Series([-0.0, "1", -0.0, "2"] * (ROWS // 4), dtype=object)
    frame = pd.DataFrame({"a": zeros, "b": zeros.astype(float), "y": ["p", "n", "n", "p"] * (ROWS // 4)})
    data = Data(source="s", target="y", keep=("b",))
    found = told(parts(frame, rows), data, Binary(kind="binary"), Gates())
    assert found == told([frame], data, Binary(kind="binary"), Gates())
