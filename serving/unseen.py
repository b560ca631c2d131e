"""Which held-out rows a champion was not trained on: the only ones on which it can be compared fairly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import ValidationError

from pipeline.dataset import held_share, split_batches, value_hashes
from pipeline.errors import Invalid
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.spec import PipelineSpec

_STEP = np.uint64(0x9E3779B97F4A7C15)  # an odd constant, so that columns that change places are told apart


def unseen(
    held: pd.DataFrame, spec: PipelineSpec, dataset: DatasetRef, run: Run, champion_run: str
) -> npt.NDArray[np.bool_] | None:
    """(rows,) bool: held-out rows that are in no way among the champion's training rows; None for all of them.

    It is all when it was split alike on the same columns and held out no smaller share, for then the hash of a row
    keeps it out. Else rows are compared by content, over the columns that both snapshots have in the same kind.

    Raises:
        Invalid: the champion's run or snapshot is not in the store any longer. A retry does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    theirs = Run(champion_run, run.pipeline, run.settings, run.spec_path)
    known, split = theirs.ref(DatasetRef), _spec(theirs).split
    alike = split.seed == spec.split.seed and known.row_schema == dataset.row_schema
    if alike and held_share(spec.split, dataset.rows) <= held_share(split, known.rows):
        return None
    kinds = {column.name: column.kind for column in known.row_schema.columns}
    common = [column.name for column in dataset.row_schema.columns if kinds.get(column.name) == column.kind]
    common.append(dataset.row_schema.target)
    hashes = _hashes(held, common)
    seen = np.zeros(len(held), dtype=bool)
    try:
        for trained, _ in split_batches(theirs, known, split):
            seen |= np.isin(hashes, _hashes(trained, common))
    except FileNotFoundError as error:
        remedy = "put it back, or waive the gate champion once"
        raise Invalid(
            "the champion's rows are not in the store any longer", run.store.path(known.key), remedy
        ) from error
    return ~seen


def _spec(run: Run) -> PipelineSpec:
    key = f"{run.key}/spec.json"
    try:
        return PipelineSpec.model_validate_json(run.store.read(key))
    except (FileNotFoundError, ValidationError) as error:
        remedy = "put it back, or waive the gate champion once"
        raise Invalid("the spec of the champion's run cannot be read", run.store.path(key), remedy) from error


def _hashes(frame: pd.DataFrame, columns: list[str]) -> npt.NDArray[np.uint64]:
    """(rows,) uint64: a hash of each row's values in these columns."""
    state = np.zeros(len(frame), dtype=np.uint64)
    for name in columns:
        state = (state ^ value_hashes(frame[name])) * _STEP
        state ^= state >> np.uint64(29)
    return state
