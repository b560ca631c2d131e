"""The search for a candidate's parameters: Optuna within the spec's trials and seconds, cross-validated on few rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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
class Answer:
    """What a trial has measured."""

    value: float
    rows: int
    length: int
    curve: tuple[float, ...]


class Progress(Protocol):
    """The trial as a fit sees it: it tells how it does, and is told whether that is enough."""

    number: int

    def report(self, value: float, step: int) -> None:
        """The mean metric after the fold of this number."""

    def should_prune(self) -> bool:
        """Whether the trial is behind."""


def tune(
    trainer: Trainer,
    candidate: XGBoost | Torch,
    schema: RowSchema,
    x: Floats,
    y: npt.NDArray[np.float64],
    metric: Metric,
    seed: int,
    log: logging.Logger,
    *,
    drive: Drive | None = None,
) -> Tuned:
    """Search until the trials or the seconds are spent; the first trial, the defaults, always counts.

    `x`: (rows, width) float32, `y`: (rows,) float64. The same seed and number of trials give the same parameters.
    `drive` has the trials made elsewhere (default: here, one after the other).

    Raises:
        Invalid: no trial gave a finite metric. A retry does not help.
    """
    deadline = time.monotonic() + candidate.budget_s
    folds = split(schema, y, candidate.folds, seed)
    search = Search(trainer, schema, x, y, folds, metric, seed, deadline)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="minimize" if metric in LOWER_IS_BETTER else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, candidate.trials // 3)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0),
    )
    study.enqueue_trial(trainer.defaults())  # asked of the study, so that the sampler learns from it
    answers = (drive or one_by_one)(study, search, candidate, log)
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
class Search:
    """What every trial shares."""

    trainer: Trainer
    schema: RowSchema
    x: Floats
    y: npt.NDArray[np.float64]
    folds: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]
    metric: Metric
    seed: int
    deadline: float

    def suggest(self, trial: optuna.Trial) -> Params:
        """The parameters of a trial, which are kept with it too."""
        params = self.trainer.suggest(trial)
        trial.set_user_attr("params", params)
        return params

    def attempt(self, trial: Progress, params: Params) -> Answer:
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
        return Answer(float(np.mean(values)), rows, max(1, round(float(np.mean(lengths)))), curve)


Drive = Callable[[optuna.Study, Search, XGBoost | Torch, logging.Logger], dict[int, Answer]]


def one_by_one(
    study: optuna.Study, search: Search, candidate: XGBoost | Torch, log: logging.Logger
) -> dict[int, Answer]:
    """Make the trials in this process; the answers by number."""
    answers: dict[int, Answer] = {}

    def objective(trial: optuna.Trial) -> float:
        answers[trial.number] = found = search.attempt(trial, search.suggest(trial))
        tell(log, candidate, search, answers, trial.number)
        return found.value

    study.optimize(objective, n_trials=candidate.trials, timeout=candidate.budget_s, catch=(FloatingPointError,))
    return answers


def tell(
    log: logging.Logger, candidate: XGBoost | Torch, search: Search, answers: dict[int, Answer], number: int
) -> None:
    """Log what a trial has measured, beside the best so far, for which the study would copy every trial."""
    best = (min if search.metric in LOWER_IS_BETTER else max)(answer.value for answer in answers.values())
    value = answers[number].value
    log.info("%s: trial %d, %s %.5f, best %.5f", candidate.name, number, search.metric, value, best)


def _record(trial: optuna.trial.FrozenTrial, answer: Answer | None) -> TrialRecord:
    return TrialRecord(
        number=trial.number,
        params=trial.user_attrs.get("params", {}),
        value=answer.value if answer else None,
        state=trial.state.name.lower(),
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
        curve=answer.curve if answer else (),
    )
