"""The metrics of each task: what they are, where they are undefined, and which of two values is better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipeline.columns import RowSchema
from pipeline.metrics import better, scores
from pipeline.spec import METRICS


def shape(task: str, classes: int) -> RowSchema:
    labels = tuple(str(at) for at in range(classes))
    return RowSchema.model_validate({"columns": (), "target": "y", "task": task, "classes": labels})


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 3), ("regression", 0)])
def test_every_metric_of_a_task(task: str, classes: int) -> None:
    random = np.random.default_rng(3)
    schema = shape(task, classes)
    target = random.integers(0, classes, 200).astype(float) if classes else random.normal(size=200)
    output = random.dirichlet(np.ones(classes), 200) if classes else random.normal(size=(200, 1))
    found = scores(schema, target, output.astype(np.float32))
    assert set(found) == set(METRICS[schema.task])
    if classes == 2:
        assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(target, output[:, 1]))


def test_a_metric_that_is_undefined_is_absent() -> None:
    schema = shape("binary", 2)
    ones, answers = np.ones(5), np.full((5, 2), 0.5, dtype=np.float32)
    assert "roc_auc" not in scores(schema, ones, answers)
    assert scores(schema, ones, np.full((5, 2), np.nan, dtype=np.float32)) == {}
    assert scores(schema, np.empty(0), np.empty((0, 2), dtype=np.float32)) == {}
    assert "r2" not in scores(shape("regression", 0), np.ones(3), np.ones((3, 1), dtype=np.float32))


@given(st.floats(allow_nan=True), st.floats(allow_nan=False))
def test_better_is_strict_and_nan_is_never_better(a: float, b: float) -> None:
    assert not (better("roc_auc", a, b) and better("log_loss", a, b))
    assert not better("roc_auc", float("nan"), b)
