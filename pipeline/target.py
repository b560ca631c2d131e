"""The target column as numbers, the same way wherever it is read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.columns import RowSchema
from pipeline.errors import Invalid
from pipeline.gate_rules import Metric
from pipeline.tensors import category_strings


def encode_target(frame: pd.DataFrame, schema: RowSchema) -> npt.NDArray[np.float64]:
    """(rows,) float64: the class index by `schema.classes`, or the number itself for regression.

    Raises:
        Invalid: a label is not one of the classes, or missing. A retry does not help.
    """
    column = frame[schema.target]
    if schema.task == "regression":
        return column.to_numpy(dtype=np.float64, copy=True)  # a view would keep the frame alive
    index = {label: number for number, label in enumerate(schema.classes)}
    labels = category_strings(column)
    if unknown := sorted({str(label) for label in labels if label not in index}):
        raise Invalid(
            f"label {unknown[0]!r} is not one of {list(schema.classes)}",
            f"column {schema.target!r}",
            "correct the label, or drop the row",
        )
    return np.array([index[label] for label in labels], dtype=np.float64)


def answer_unit(schema: RowSchema, target: npt.NDArray[np.float64]) -> float:
    """What a difference of answers is counted in: 1 for probabilities, the target's standard deviation otherwise."""
    return (float(target.std()) or 1.0) if schema.task == "regression" else 1.0


def metric_unit(schema: RowSchema, target: npt.NDArray[np.float64], metric: Metric) -> float:
    """What a difference of a metric is counted in: the target's standard deviation for rmse and mae, 1 otherwise."""
    return answer_unit(schema, target) if metric in ("rmse", "mae") else 1.0
