"""Which rows are held out: by each row's own content, whatever holds it and whatever stands beside it."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import held_out, value_hashes
from pipeline.spec import Split

SPLIT = Split(holdout=0.3)


def rows(count: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "n": np.where(random.random(count) < 0.1, np.nan, random.normal(size=count)),
            "i": random.integers(0, 50, count).astype(float),
            "c": pd.Series(random.choice(["a", "b", None], count), dtype=object),
            "t": pd.Series(pd.to_datetime(random.integers(0, 10**9, count), unit="s", utc=True)).astype(
                "datetime64[us, UTC]"
            ),
        }
    )


STORED = {
    "text as str": lambda frame: frame.astype({"c": "str"}),
    "text as category": lambda frame: frame.astype({"c": "category"}),
    "text from arrow": lambda frame: frame.astype({"c": "string[pyarrow]"}),
    "nullable numbers": lambda frame: frame.astype({"n": "Float64", "i": "Int64"}),
    "small integers": lambda frame: frame.astype({"i": "int8"}),
    "nanoseconds": lambda frame: frame.astype({"t": "datetime64[ns, UTC]"}),
    "another zone": lambda frame: frame.assign(t=frame["t"].dt.tz_convert("UTC").dt.tz_localize(None)),
    "parquet": lambda frame: pd.read_parquet(io.BytesIO(frame.to_parquet())),
}


@pytest.mark.parametrize("stored", STORED)
def test_how_values_are_stored_does_not_matter(stored: str) -> None:
    frame = rows()
    assert (held_out(STORED[stored](frame), SPLIT) == held_out(frame, SPLIT)).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 399), st.integers(1, 400), st.integers(0, 3))
def test_other_rows_do_not_matter(start: int, count: int, seed: int) -> None:
    frame, split = rows(), Split(holdout=0.3, seed=seed)
    part = frame.iloc[start : start + count]
    assert (held_out(part, split) == held_out(frame, split)[start : start + count]).all()
    shuffled = frame.sample(frac=1, random_state=seed)
    assert (held_out(shuffled, split) == held_out(frame, split)[shuffled.index]).all()


def test_the_answer_is_the_same_in_every_version() -> None:
    """A change of these numbers would put rows that a champion has learnt into a later held-out part."""
    frame = pd.DataFrame({"n": [0.0, -0.0, 1.5, np.nan], "c": ["a", "a", None, "\u00e9"]})
    assert value_hashes(frame["n"]).tolist() == [0, 0, 4609434218613702656, 1]
    assert value_hashes(frame["c"]).tolist() == [
        13950350942979735504,
        13950350942979735504,
        1760245841805064774,
        16908809132758853863,
    ]
    assert np.flatnonzero(held_out(rows(60), Split(holdout=0.2))).tolist() == [
        1,
        12,
        16,
        17,
        20,
        23,
        29,
        36,
        39,
        40,
        42,
        47,
        59,
    ]


def test_more_held_out_includes_what_was_held_out() -> None:
    little, much = held_out(rows(), Split(holdout=0.1)), held_out(rows(), Split(holdout=0.4))
    assert much[little].all()
    assert 0.05 < little.mean() < 0.15
    assert 0.33 < much.mean() < 0.47


def test_no_more_are_held_out_than_gates_need() -> None:
    frame, split = rows(20_000), Split(holdout=0.3, most_held_out=1000)
    few = held_out(frame, split)
    assert 850 < few.sum() < 1150
    assert held_out(frame, SPLIT)[few].all()
    assert (held_out(frame.tail(500), split, len(frame)) == few[-500:]).all()
    assert (held_out(frame.head(3000), split) == held_out(frame.head(3000), SPLIT)).all()


def test_every_column_counts() -> None:
    frame = rows()
    for name in frame.columns:
        assert (held_out(frame.drop(columns=name), SPLIT) != held_out(frame, SPLIT)).any()
