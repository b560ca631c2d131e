"""Rows from outside: bundled data sets, CSV and Parquet at any fsspec URL, databases at any SQLAlchemy URL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pipeline.errors import Invalid, Problem
from pipeline.mask import mask
from pipeline.source_files import file_batches
from pipeline.source_tables import table_batches
from pipeline.spec import Data
from pipeline.suggest import near

SKLEARN = ("breast_cancer", "diabetes", "digits", "wine")
_SKLEARN = "sklearn://"


def read_batches(data: Data, base: Path) -> Iterator[pd.DataFrame]:
    """Every row of the source, as it stands, in batches; a relative path starts at `base`, the spec's folder.

    Columns of a CSV are text; their kinds are told by `pipeline.infer`. The source is read once, as the batches are
    asked for.

    Raises:
        Invalid: the source does not exist, or is not what it should be. A retry does not help.
        Unavailable: a server or disk does not answer. A retry helps.
    """
    if data.source.startswith(_SKLEARN):
        yield _bundled(data.source.removeprefix(_SKLEARN))
        return
    where, rows = describe(data), 0
    for frame in table_batches(data, base, where) if data.is_sql else file_batches(data.source, base, where):
        names = [str(name) for name in frame.columns]
        if doubles := sorted({name for name in names if names.count(name) > 1}):
            remedy = "give each column a name of its own"
            raise Invalid([Problem(f"two columns share the name {name!r}", where, remedy) for name in doubles])
        frame.columns = pd.Index(names)
        rows += len(frame)
        yield frame
    if not rows:
        raise Invalid("there are no rows", where, "name a source that has some")


def describe(data: Data) -> str:
    """The source as it may be shown and kept: with no password in it."""
    return mask(data.source) + (f"#{data.table}" if data.table else "")


def _bundled(name: str) -> pd.DataFrame:
    """A data set that scikit-learn carries, so that no network is needed; classes by their names."""
    if name not in SKLEARN:
        raise Invalid(f"there is no data set {name!r}", f"{_SKLEARN}{name}", near(name, SKLEARN))
    from sklearn import datasets  # noqa: PLC0415 (a second; only for these sources)

    bunch = getattr(datasets, f"load_{name}")()
    names = [re.sub(r"[^a-z0-9]+", "_", str(feature).lower()).strip("_") for feature in bunch.feature_names]
    frame = pd.DataFrame(bunch.data, columns=pd.Index(names))
    if name == "diabetes":
        frame["target"] = bunch.target
    else:
        classes = [str(label) for label in bunch.target_names]
        frame["target"] = [classes[index] for index in bunch.target]
    return frame
