"""The page of a check shows what rows hold as text."""

from __future__ import annotations

from feature_checks.outcome import Outcome
from feature_checks.page import render
from pipeline.columns import Column, RowSchema
from pipeline.refs import DatasetRef

HOSTILE = "<script>alert(1)</script>"


def test_what_rows_hold_is_text_and_never_markup() -> None:
    schema = RowSchema(columns=(Column(name="a", kind="number"),), target="y", task="regression")
    dataset = DatasetRef(
        digest="d" * 64, key="k", source=HOSTILE, row_schema=schema, rows=2, train_rows=1, holdout_rows=1
    )
    outcome = Outcome(
        type="expect", column=HOSTILE, severity="critical", passed=False, expected="e", message=HOSTILE,
        unexpected_share=0.5, engine="Great Expectations",
    )  # fmt: skip
    page = render("p", "r", dataset, "s", False, (outcome,))
    assert "<script" not in page
    assert ">Great Expectations</td>" in page
    assert page.count("&lt;script&gt;") == 3
