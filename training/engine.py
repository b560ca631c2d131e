"""What fits a candidate: this process, or the workers of a Ray cluster. Both search alike and leave the same model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.engine import Ray
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.spec import PipelineSpec, Torch, XGBoost
from training.models.base import Fitted, Floats, Fold, Trainer
from training.rows import Target, TrainingRows
from training.tune import Drive, Tuned, tune


@dataclass(frozen=True)
class Work:
    """A candidate to fit on the training rows of a dataset."""

    spec: PipelineSpec
    candidate: XGBoost | Torch
    dataset: DatasetRef
    rows: TrainingRows
    trainer: Trainer
    run: Run

    def tune(self, x: Floats, y: Target, drive: Drive | None = None) -> Tuned:
        """Search for the parameters on `x` (rows, width) float32 and `y` (rows,) float64. Raises as `tune` does."""
        schema, spec = self.dataset.row_schema, self.spec
        return tune(self.trainer, self.candidate, schema, x, y, spec.primary, spec.seed, self.run.log, drive=drive)


class Done(NamedTuple):
    """The search, the model, and the number of rows that were tuned on."""

    tuned: Tuned
    fitted: Fitted
    sampled: int


def fit(work: Work) -> Done:
    """Tune on the rows that fit in memory, then fit on all training rows, by the candidate's engine.

    Raises:
        Invalid: a device or Ray is missing, or nothing could be fitted. A retry does not help.
        Unavailable: the Ray cluster failed. A retry helps.
    """
    rows, name, seed = work.rows, work.candidate.name, work.spec.seed
    x, y = rows.sample()
    sampled = len(y)
    if isinstance(work.candidate.engine, Ray):
        from training.on_ray.engine import fit_on_ray  # noqa: PLC0415 (an extra, which most have not)

        return Done(*fit_on_ray(work, work.candidate.engine, x, y), sampled)
    tuned = work.tune(x, y)
    if rows.fit:
        return Done(tuned, work.trainer.fit(Fold(x, y), tuned.params, seed, tuned.length, None), sampled)
    del x, y
    gib = rows.memory_bytes / 2**30
    work.run.log.info("%s: tuned on the %d of %d rows that fit in %.3g GiB", name, sampled, rows.count, gib)
    return Done(tuned, work.trainer.fit_rows(rows, tuned.params, seed, tuned.length), sampled)
