"""Kinds of columns, the target, findings: right on ordinary rows, and everything that is wrong at once."""

from __future__ import annotations

from datetime import date, time
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import Invalid
from pipeline.gate_rules import Direction, Gates, Robustness, Slices
from pipeline.labels import guess_task
from pipeline.spec import Binary, Data, Multiclass, Regression, Task
from tests.support.batches import guess_kind, infer_rows

ROWS = 60
BINARY = Binary(kind="binary")


def frame(**columns: object) -> pd.DataFrame:
    random = np.random.default_rng(0)
    base: dict[str, object] = {"a": random.normal(size=ROWS), "y": ["n", "p"] * (ROWS // 2)}
    return pd.DataFrame(base | columns)


def infer(rows: pd.DataFrame, task: Task = BINARY, **more: object) -> tuple[pd.DataFrame, object, object]:
    return infer_rows(rows, Data(source="s", target="y", **more), task, "rows.csv")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "number"),
        ([1.5, None], "number"),
        (["1", "2.5"], "number"),
        ([True, False], "boolean"),
        (["yes", "no"], "boolean"),
        (["x", None], "category"),
        (["2026-01-31", "2026-02-01T10:00:00Z"], "timestamp"),
        ([pd.Timestamp("2026-01-01"), pd.NaT], "timestamp"),
        (["2026-01-31", "soon"], "category"),
        (["now", "today"], "category"),
        (["007", "123"], "category"),
        (["True", "FALSE", "true"], "boolean"),
        ([True, None], "boolean"),
        ([date(2026, 1, 31), None], "timestamp"),
        ([time(1), time(2)], "category"),
        ([Decimal("1.5"), None], "number"),
        (pd.Categorical(["a", "b"]), "category"),
    ],
)
def test_kinds_are_guessed(values: list[object], kind: str) -> None:
    assert guess_kind(pd.Series(values)) == kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"], "binary"),
        ([0, 1, 1], "binary"),
        (list("abc"), "multiclass"),
        ([1.5, 2.5, 9.0], "regression"),
        (list(range(50)), "regression"),
        ([f"{at / 7}" for at in range(50)], "regression"),
        (["1", "2", "3", None], "multiclass"),
    ],
)
def test_tasks_are_guessed(values: list[object], kind: str) -> None:
    series = pd.Series(values)
    assert guess_task([series]).kind == kind
    assert guess_task([series[:2], series[2:2], series[2:]]).kind == kind


def test_the_frame_is_typed_and_the_target_comes_last() -> None:
    rows = frame(b=["yes", "no"] * 30, c=["u", None, "v"] * 20, t=["2026-01-31", None] * 30)
    typed, schema, findings = infer(rows)
    assert [(column.name, column.kind) for column in schema.columns] == [
        ("a", "number"), ("b", "boolean"), ("c", "category"), ("t", "timestamp"),
    ]  # fmt: skip
    assert schema.classes == ("n", "p")
    assert typed["b"].tolist()[:2] == [1.0, 0.0]
    assert typed["t"].isna().sum() == 30
    assert list(typed.columns)[-1] == "y"
    assert not findings


def test_the_positive_class_comes_second() -> None:
    _, schema, _ = infer(frame(), Binary(kind="binary", positive="n"))
    assert schema.classes == ("p", "n")


def test_columns_that_teach_nothing_are_found_and_left_out() -> None:
    rows = frame(
        constant=["x"] * ROWS,
        row_id=range(ROWS),
        name=[f"n{at}" for at in range(ROWS)],
        large=[2**24 + 2 * at % 7 for at in range(ROWS)],
    )
    rows["twin"] = rows["a"]
    _, schema, findings = infer(rows)
    assert {finding.column: (finding.kind, finding.dropped) for finding in findings} == {
        "constant": ("constant", True),
        "row_id": ("identifier", True),
        "name": ("identifier", True),
        "twin": ("duplicate", True),
        "large": ("precision", False),
    }
    assert schema.names() == ("a", "large")
    _, kept, _ = infer(rows, keep=("twin", "name"), drop=("constant", "row_id"))
    assert kept.names() == ("a", "name", "large", "twin")


def test_numbers_kept_as_text_are_numbers() -> None:
    typed, schema, _ = infer(frame(n=["1.5", None, " 2"] * 20))
    assert schema.numeric == ("a", "n")
    assert typed["n"].tolist()[::2][:2] == [1.5, 2.0]


def test_a_column_that_gives_the_answer_away_is_left_out() -> None:
    _, schema, findings = infer(frame(answer=["n", "p"] * (ROWS // 2)))
    assert schema.names() == ("a",)
    assert "equals the target" in findings[0].message


def test_identifiers_are_known_by_name_or_by_counting_and_floats_never_are() -> None:
    random = np.random.default_rng(1)
    rows = frame(
        PassengerId=random.permutation(10_000)[:ROWS],
        account=random.permutation(10_000)[:ROWS],
        idle=random.permutation(10_000)[:ROWS],
        shuffled=random.permutation(ROWS),
        user_id=random.normal(size=ROWS),
        name=[None, *(f"n{at}" for at in range(1, ROWS))],
    )
    _, schema, findings = infer(rows)
    assert schema.names() == ("a", "account", "idle", "user_id")
    assert {finding.kind for finding in findings} == {"identifier"}


def test_what_the_model_reads_with_loss_is_told_and_kept() -> None:
    at = np.arange(120)
    rows = pd.concat([frame(), frame()]).reset_index(drop=True)
    rows = rows.assign(a=at**0.5, many=[f"c{n % 80}" for n in at], even=2**25 + 4 * (at % 9), odd=2**25 + at % 9)
    _, schema, findings = infer(rows)
    assert {finding.column: finding.kind for finding in findings} == {"many": "cardinality", "odd": "precision"}
    assert schema.names() == ("a", "many", "even", "odd")


WRONG = {
    "missing target": (frame().rename(columns={"y": "yy"}), BINARY, {}, ["there is no column 'y' (data.target) -> did you mean 'yy'?"]),
    "target with holes": (frame(y=["p", None] * 30), BINARY, {}, ["30 rows have no target, the first is row 2"]),
    "one class": (frame(y=["p"] * ROWS), BINARY, {}, ["only one class, 'p'"]),
    "too many classes": (frame(y=["p", "n", "m"] * 20), BINARY, {}, ["3 classes", "multiclass"]),
    "too few classes": (frame(), Multiclass(kind="multiclass"), {}, ["two classes", "binary"]),
    "rare class": (frame(y=["p"] * 55 + ["n"] * 5), BINARY, {}, ["class 'n' has 5 rows"]),
    "no such positive": (frame(), Binary(kind="binary", positive="z"), {}, ["no row has the positive label 'z'"]),
    "text for a number": (frame(), Regression(kind="regression"), {}, ["'n' is not a finite number"]),
    "flat target": (frame(y=[1.0] * ROWS), Regression(kind="regression"), {}, ["every row has the same value"]),
    "few rows": (frame().head(30), BINARY, {}, ["30 rows are too few -> bring at least 40"]),
    "all missing": (frame(gone=[None] * ROWS), BINARY, {}, ["column 'gone' has no value at all"]),
    "unknown names": (frame(), BINARY, {"drop": ("q",), "keep": ("r",), "kinds": {"s": "number"}}, ["'q' (data.drop)", "'r' (data.keep)", "'s' (data.kinds)"]),
    "wrong kind": (frame(c=["1", "x"] * 30), BINARY, {"kinds": {"c": "number"}}, ["'x' is not a number (30 such values)", "row 2"]),
    "wrong time": (frame(c=["2026-01-01", "x"] * 30), BINARY, {"kinds": {"c": "timestamp"}}, ["'x' is not a timestamp"]),
    "blank target": (frame(y=["p", " "] * 30), BINARY, {}, ["30 rows have no target"]),
    "binary of numbers": (frame(y=[at / 7 for at in range(ROWS)]), BINARY, {}, ["60 classes", "write `task: {kind: regression}`"]),
    "classes of numbers": (frame(y=[at / 7 for at in range(ROWS)]), Multiclass(kind="multiclass"), {}, ["60 of them with fewer than 10 rows", "kind: regression"]),
    "many rare classes": (frame(y=[f"c{at % 20}" for at in range(ROWS)]), Multiclass(kind="multiclass"), {}, ["has 3 rows", "15 more classes"]),
    "positive by case": (frame(), Binary(kind="binary", positive="P"), {}, ["did you mean 'p'?"]),
    "infinite target": (frame(y=[float("inf"), 1.0] * 30), Regression(kind="regression"), {}, ["inf is not a finite number (30 such values)", "row 1"]),
    "not a time": (frame(c=range(ROWS)), BINARY, {"kinds": {"c": "timestamp"}}, ["0 is not a timestamp"]),
    "not a boolean": (frame(c=range(ROWS)), BINARY, {"kinds": {"c": "boolean"}}, ["2 is not a boolean (58 such values)", "row 3"]),
    "lists": (frame(c=[[at] for at in range(ROWS)]), BINARY, {}, ["column 'c' holds many values in one (list)"]),
    "blank column": (frame(c=[" "] * ROWS), BINARY, {}, ["column 'c' has no value at all"]),
    "no target and more": (frame(gone=[None] * ROWS).rename(columns={"y": "Y"}).head(9), BINARY, {"drop": ("q",)}, ["did you mean 'Y'?", "9 rows are too few", "'gone'", "'q' (data.drop)"]),
    "nothing to learn": (frame(), BINARY, {"drop": ("a",)}, ["no column is left"]),
    "only an id": (frame(a=range(ROWS)), BINARY, {}, ["no column is left", "names each row"]),
    "all at once": (frame(gone=[None] * ROWS, y=["p"] * ROWS).head(20), BINARY, {}, ["only one class", "too few", "'gone'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows_are_refused_with_everything_that_is_wrong(case: str) -> None:
    rows, task, more, expected = WRONG[case]
    with pytest.raises(Invalid) as refused:
        infer(rows, task, **more)
    for part in expected:
        assert part in str(refused.value)


def gates(*slices: str, directions: tuple[Direction, ...] = ()) -> Gates:
    return Gates(slices=Slices(columns=slices), robustness=Robustness(directions=directions))


def test_a_column_of_the_gates_comes_along_and_is_not_read() -> None:
    rows = frame(
        sex=["f", "m", None] * (ROWS // 3), age=[str(one) for one in range(ROWS)], one=["x"] * ROWS, c=["u", "v"] * 30
    )
    data = Data(source="s", target="y", drop=("sex", "age"))
    typed, schema, _ = infer_rows(rows, data, BINARY, "rows.csv", gates("sex", "age", "one", "a"))
    assert list(typed.columns) == ["a", "c", "y", "sex", "age", "one"]
    assert schema.names() == ("a", "c")
    assert typed["age"].dtype == np.float64
    assert typed["sex"].isna().sum() == ROWS // 3
    plain, same, _ = infer_rows(rows, data, BINARY, "rows.csv")
    assert list(plain.columns) == ["a", "c", "y"]
    assert same == schema


def test_what_gates_name_and_columns_lack_is_refused_at_once() -> None:
    with pytest.raises(Invalid) as refused:
        infer_rows(frame(), Data(source="s", target="y", drop=("q",)), BINARY, "rows.csv", gates("aa"))
    assert "no column 'aa' (gates.slices.columns)" in str(refused.value)
    assert "no column 'q' (data.drop)" in str(refused.value)
    unknown = (Direction(column="bb", answer="rises"),)
    with pytest.raises(Invalid, match=r"no column 'bb' \(gates.robustness.directions\)"):
        infer_rows(frame(), Data(source="s", target="y"), BINARY, "rows.csv", gates(directions=unknown))
    empty = Data(source="s", target="y", drop=("n",))
    with pytest.raises(Invalid, match="column 'n' has no value at all"):
        infer_rows(frame(n=[None] * ROWS), empty, BINARY, "rows.csv", gates("n"))
    wrong = (Direction(column="c", answer="rises"), Direction(column="b", answer="falls", label="maybe"))
    with pytest.raises(Invalid) as refused:
        rows, data = frame(c=["u", "v"] * 30, b=range(ROWS)), Data(source="s", target="y", drop=("b",))
        infer_rows(rows, data, BINARY, "rows.csv", gates(directions=wrong))
    for said in ("'c': it is a category", "'b': the model reads no such column", "no class 'maybe'"):
        assert said.split(": ")[-1] in str(refused.value)
