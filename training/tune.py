"""The search for a candidate's parameters: Optuna within the spec's trials and seconds, cross-validated on few rows."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import optuna
from sklearn.model_selection import KFold, StratifiedKFold, StratifiedShuffleSplit, train_test_split

from pipeline.columns import RowSchema
from pipeline.errors import Invalid
from pipeline.gate_rules import LOWER_IS_BETTER, Metric
from pipeline.metrics import one_score
from pipeline.registry import TrialRecord
from pipeline.spec import Torch, XGBoost
from training.models.base import Fitted, Floats, Fold, Params, Trainer

FEW_ROWS = 2000  # below it one validation part is too noisy to choose by
VALIDATION = 0.2


@dataclass(frozen=True)
class Tuned:
    """The best trial: its parameters, the mean length that early stopping chose, and every trial's record."""

    params: Params
    length: int
    value: float
    rows: int  # that the value was measured on
    trials: tuple[TrialRecord, ...]
    folds: int


@dataclass(frozen=True)
class _Answer:
    value: float
    rows: int
    length: int
    curve: tuple[float, ...]


def tune(
    trainer: Trainer,
    candidate: XGBoost | Torch,
    schema: RowSchema,
    x: Floats,
    y: npt.NDArray[np.float64],
    metric: Metric,
    seed: int,
    log: logging.Logger,
) -> Tuned:
    """Search until the trials or the seconds are spent; the first trial, the defaults, always counts.

    `x`: (rows, width) float32, `y`: (rows,) float64. The same seed and number of trials give the same parameters.

    Raises:
        Invalid: no trial gave a finite metric. A retry does not help.
    """
    begin = time.monotonic()
    folds = split(schema, y, candidate.folds, seed)
    search = _Search(trainer, schema, x, y, folds, metric, seed, begin + candidate.budget_s)
    lower = metric in LOWER_IS_BETTER
    answers: dict[int, _Answer] = {}

    def objective(trial: optuna.Trial) -> float:
        params = trainer.defaults() if trial.number == 0 else trainer.suggest(trial)
        trial.set_user_attr("params", params)
        found = search.attempt(trial, params)
        answers[trial.number] = found
        best = (min if lower else max)(one.value for one in answers.values())  # the study would copy every trial
        log.info("%s: trial %d, %s %.5f, best %.5f", candidate.name, trial.number, metric, found.value, best)
        return found.value

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="minimize" if lower else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, candidate.trials // 3)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0),
    )
    study.optimize(objective, n_trials=candidate.trials, timeout=candidate.budget_s, catch=(FloatingPointError,))
    if not answers:
        raise Invalid(
            f"no trial of {candidate.name} gave a finite {metric}",
            f"candidates.{candidate.name}",
            "look at the target for extremes, or give it more budget_s",
        )
    best = answers[study.best_trial.number]
    return Tuned(
        params=dict(study.best_trial.user_attrs["params"]),
        length=best.length,
        value=best.value,
        rows=best.rows,
        trials=tuple(_record(trial, answers.get(trial.number)) for trial in study.trials),
        folds=len(folds),
    )


def split(
    schema: RowSchema, y: npt.NDArray[np.float64], folds: int, seed: int
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """(training rows, validation rows): `folds` pairs where rows are few, one otherwise; classes in proportion."""
    rows = np.arange(len(y))
    if len(y) < FEW_ROWS:
        if schema.task == "regression":
            return list(KFold(folds, shuffle=True, random_state=seed).split(rows))
        most = int(np.bincount(y.astype(np.int64)).min())
        return list(StratifiedKFold(max(2, min(folds, most)), shuffle=True, random_state=seed).split(rows, y))
    if schema.task == "regression":
        train, valid = train_test_split(rows, test_size=VALIDATION, random_state=seed)
        return [(np.asarray(train), np.asarray(valid))]
    return list(StratifiedShuffleSplit(1, test_size=VALIDATION, random_state=seed).split(rows, y))


@dataclass(frozen=True)
class _Search:
    """What every trial shares."""

    trainer: Trainer
    schema: RowSchema
    x: Floats
    y: npt.NDArray[np.float64]
    folds: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]
    metric: Metric
    seed: int
    deadline: float

    def attempt(self, trial: optuna.Trial, params: Params) -> _Answer:
        """The metric of these parameters over the folds; a trial that is behind, or out of time, is pruned."""
        values: list[float] = []
        lengths: list[int] = []
        rows = 0
        curve: tuple[float, ...] = ()
        for step, (train, valid) in enumerate(self.folds):
            out_of_time = time.monotonic() > self.deadline
            if trial.number and out_of_time:
                raise optuna.TrialPruned
            if values and out_of_time:
                break  # the first trial answers with the folds that it had time for
            fold = Fold(self.x[train], self.y[train], self.x[valid], self.y[valid])
            fitted: Fitted = self.trainer.fit(fold, params, self.seed, None, self.deadline)
            value = one_score(self.schema, self.metric, self.y[valid], fitted.model.predict(self.x[valid]))
            if np.isnan(value):
                raise FloatingPointError(f"{self.metric} is undefined")
            values.append(value)
            lengths.append(fitted.length)
            rows += len(valid)
            curve = curve or fitted.curve
            trial.report(float(np.mean(values)), step)
            if len(self.folds) > 1 and trial.should_prune():
                raise optuna.TrialPruned
        return _Answer(float(np.mean(values)), rows, max(1, round(float(np.mean(lengths)))), curve)


def _record(trial: optuna.trial.FrozenTrial, answer: _Answer | None) -> TrialRecord:
    return TrialRecord(
        number=trial.number,
        params=trial.user_attrs.get("params", {}),
        value=answer.value if answer else None,
        state=trial.state.name.lower(),
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        curve=answer.curve if answer else (),
    )
