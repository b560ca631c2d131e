"""Fairness between the groups of a column, by the field's definitions. The importer of fairlearn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.gate_rules import Fairness


def unfair(metric: Fairness, value: float, bound: float) -> bool:
    """Whether a difference is above its bound, or a ratio below; NaN is, for what is undefined proves nothing."""
    return not (value >= bound if metric.endswith("_ratio") else value <= bound)


def measure(
    metric: Fairness, target: npt.NDArray[np.float64], label: npt.NDArray[np.int64], group: npt.NDArray[np.str_]
) -> float:
    """fairlearn's metric of yes-or-no answers, (rows,) each; NaN where a group gives it nothing to divide by."""
    from fairlearn import metrics  # noqa: PLC0415 (only specs that ask for it pay for its import)

    function = getattr(metrics, metric)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(function(target.astype(np.int64), label, sensitive_features=group))
