"""Rows of a column as groups: its values, a number's or a time's quarters, and what is missing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.parse import blank, category_strings

MISSING = "missing"
_FEW = 5  # distinct numbers that are groups of their own


def groups(series: pd.Series) -> npt.NDArray[np.object_]:
    """(rows,) object array of str: each row's group."""
    missing = blank(series)
    labels = np.full(len(series), MISSING, dtype=object)
    known = series[~missing]
    if pd.api.types.is_datetime64_any_dtype(known.dtype):
        ordered = known.dt.tz_localize(None).to_numpy(dtype="datetime64[s]")
    elif pd.api.types.is_numeric_dtype(known.dtype):
        ordered = known.to_numpy(dtype=np.float64)
    else:
        ordered = np.zeros(0)
    many = len(np.unique(ordered)) > _FEW
    labels[~missing] = _quarters(ordered) if many else category_strings(known)
    return labels


def in_order(series: pd.Series, labels: npt.NDArray[np.object_]) -> list[str]:
    """The groups: of numbers and dates by their values, of text by name; missing values last."""
    names = sorted(set(labels) - {MISSING})
    if pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_datetime64_any_dtype(series.dtype):
        names.sort(key=lambda name: series[labels == name].min())
    return [*names, *({MISSING} & set(labels))]


def _quarters(values: npt.NDArray[np.generic]) -> npt.NDArray[np.object_]:
    """Each value's part between the quartiles; equal quartiles make fewer parts, never only one."""
    rising = np.sort(values)
    below_most = rising[rising < rising[-1]][-1]
    cuts = np.unique(np.minimum(rising[[len(rising) // 4, len(rising) // 2, 3 * len(rising) // 4]], below_most))
    shown = [f"{cut:g}" if isinstance(cut, float) else str(cut)[:10] for cut in cuts]
    names = [f"up to {shown[0]}", *(f"{low} to {high}" for low, high in pairwise(shown)), f"above {shown[-1]}"]
    return np.array(names, dtype=object)[np.searchsorted(cuts, values, side="left")]
