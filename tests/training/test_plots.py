"""Figures say what they show, of any number of candidates, and touch nothing global."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.columns import Column, RowSchema
from pipeline.gate_rules import Tolerance
from pipeline.refs import CandidateScore, ParityCase
from training import plots
from training.parity import UNBOUNDED

ROWS = 60


def schema_of(task: str, classes: int = 0) -> RowSchema:
    labels = tuple(f"class {at} of $1" for at in range(classes))
    return RowSchema(columns=(Column(name="a", kind="number"),), target="y", task=task, classes=labels)


def answers_of(schema: RowSchema, candidates: int = 2) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    found = {}
    for at in range(candidates):
        raw = draw.random((ROWS, schema.width)).astype(np.float32)
        found[f"candidate {at}"] = raw if schema.task == "regression" else raw / raw.sum(axis=1, keepdims=True)
    return found


def drawn(figure: Figure) -> str:
    """Draw it, and every text that is on it."""
    sink = io.BytesIO()
    figure.savefig(sink, dpi=40)
    assert sink.getvalue().startswith(b"\x89PNG")
    return " | ".join(item.get_text() for item in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize(("task", "classes", "candidates"), [("binary", 2, 2), ("binary", 2, 8), ("multiclass", 3, 1), ("multiclass", 15, 2), ("regression", 0, 2)])  # fmt: skip
def test_every_figure_of_a_task(task: str, classes: int, candidates: int) -> None:
    schema = schema_of(task, classes)
    target = np.arange(ROWS) % (classes or 7)
    figures = plots.figures(schema, target.astype(np.float64), answers_of(schema, candidates))
    expected = {"roc", "precision_recall", "calibration", "confusion"}
    assert set(figures) == (expected if classes else {"predicted_against_true", "residuals"})
    for figure in figures.values():
        text = drawn(figure)
        for at in range(candidates):
            assert f"candidate {at}" in text
    assert "pyplot" not in {name.rpartition(".")[2] for name in vars(plots)}


def test_one_class_only_is_drawn_without_a_curve() -> None:
    schema = schema_of("binary", 2)
    figures = plots.figures(schema, np.zeros(ROWS), answers_of(schema))
    assert not [line for line in figures["roc"].axes[0].lines if len(line.get_xdata()) > 2]
    for figure in figures.values():
        drawn(figure)


def test_the_areas_are_those_of_the_rows() -> None:
    schema = schema_of("binary", 2)
    target = (np.arange(ROWS) % 2).astype(np.float64)
    sure = np.stack([1 - target, target], axis=1).astype(np.float32)
    figures = plots.figures(schema, target, {"sure": sure})
    assert "sure: area 1.0000" in drawn(figures["roc"])
    assert "sure: average precision 1.0000" in drawn(figures["precision_recall"])
    assert "sure: 60 of 60 right" in drawn(figures["confusion"])


def test_importance_shows_the_most_telling_columns_first() -> None:
    figure = plots.importance({f"column {at}": at / 10 - 1 for at in range(40)}, "roc_auc", "xgboost")
    text = drawn(figure)
    assert "the first 20 of 40 columns" in text
    assert "column 39" in text
    assert "column 2 " not in text
    assert figure.axes[0].get_yticklabels()[-1].get_text() == "column 39"


def test_comparison_names_the_winner() -> None:
    scores = [
        CandidateScore(candidate="a", passed=True, reason="winner", metrics={"rmse": 1.0, "r2": -0.5}),
        CandidateScore(candidate="b", passed=True, reason="beaten", metrics={"rmse": 2.0}),
        CandidateScore(candidate="c", passed=False, reason="parity", metrics={}),
    ]
    text = drawn(plots.comparison(scores, "rmse", "a"))
    assert "a wins by rmse" in text
    assert "rmse (lower is better)" in text
    assert "no candidate may go on" in drawn(plots.comparison(scores[2:], "rmse", None))


def test_parity_shows_what_failed() -> None:
    equal = ParityCase(name="held_out", rows=9, max_abs=1e-7, max_excess=-1, passed=True)
    wrong = ParityCase(name="batch_of_1", rows=1, max_abs=UNBOUNDED, max_excess=UNBOUNDED, passed=False, message="no")
    assert "is the model on every family" in drawn(plots.parity([equal], Tolerance(), "xgboost"))
    text = drawn(plots.parity([equal, wrong], Tolerance(atol=0, rtol=0), "xgboost"))
    assert "differs on 1 of 2 families" in text
    assert "batch of 1" in text
