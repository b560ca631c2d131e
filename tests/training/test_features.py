"""The matrix: what is missing, unseen or not finite is NaN; clocks are integers; categories are by frequency."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from pipeline.columns import CATEGORICAL, NUMERIC
from pipeline.tensors import MISSING_TIMESTAMP
from training.features import Features, clock_features, fit_features


def test_names_kinds_and_sizes_go_with_the_matrix(table: Callable) -> None:
    frame, schema, tensors = table("binary")
    features = fit_features(frame, schema)
    matrix = features.matrix(tensors)
    assert matrix.shape == (len(frame), len(features.names))
    assert matrix.dtype == np.float32
    assert features.names == (
        "size",
        "weight",
        "new",
        "seen.days",
        "seen.hour",
        "seen.weekday",
        "seen.yearday",
        "colour",
        "place",
    )
    assert features.kinds == ("q",) * 7 + ("c",) * 2
    assert features.sizes == (3, frame["place"].nunique())
    assert Features.model_validate_json(features.model_dump_json()) == features


def test_what_is_not_known_is_missing(table: Callable) -> None:
    frame, schema, tensors = table("binary")
    features = fit_features(frame, schema)
    one = {name: value[:1].copy() for name, value in tensors.items()}
    one[NUMERIC][:] = np.inf
    one[CATEGORICAL][:] = "never"
    assert np.isnan(features.matrix(one)[0, [0, 1, 2, 7, 8]]).all()


def test_categories_are_by_frequency_then_by_name(table: Callable) -> None:
    frame, schema, _ = table("binary")
    few = frame.head(6).assign(colour=["b", "a", "c", "c", None, "b"], place="x")
    assert fit_features(few, schema).categories["colour"] == ("b", "c", "a")


@given(st.datetimes(datetime(1600, 1, 1), datetime(2400, 1, 1)))  # noqa: DTZ001
def test_clocks_agree_with_the_calendar(moment: datetime) -> None:
    seconds = int(moment.replace(tzinfo=UTC, microsecond=0).timestamp())
    days, hour, weekday, yearday = clock_features(np.array([[seconds]]))[0]
    assert days == seconds // 86_400
    assert (hour, weekday) == (moment.hour, moment.weekday())
    # the mean year drifts from the calendar's by less than two days; at its ends it wraps
    true = moment.timetuple().tm_yday - 1
    assert min(abs(yearday - true), 366 - abs(yearday - true)) <= 2


def test_a_missing_timestamp_has_no_clock() -> None:
    assert np.isnan(clock_features(np.array([[MISSING_TIMESTAMP]]))).all()


def test_no_category_at_all(table: Callable) -> None:
    _, schema, tensors = table("binary")
    empty = pd.DataFrame({"colour": [None], "place": [None]})
    features = fit_features(empty, schema)
    assert features.sizes == (0, 0)
    assert np.isnan(features.matrix(tensors)[:, -2:]).all()
