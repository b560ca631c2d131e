"""Trials on Ray Tune around the one Optuna study: as many beside each other as there are workers."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import tune
from ray.exceptions import RayError
from ray.tune.error import TuneError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from pipeline.engine import Ray
from pipeline.spec import Torch, XGBoost
from training.on_ray.failures import LOST, raise_from
from training.tune import Answer, Drive, Search, tell


def beside_each_other(engine: Ray) -> Drive:
    """Makes trials on the cluster, `engine.workers` at a time; the answers by number.

    The study hears of a batch when all of it has ended, in the order of the numbers: which trial was quicker decides
    nothing, and the same seed gives the same parameters.
    """

    def drive(
        study: optuna.Study, search: Search, candidate: XGBoost | Torch, log: logging.Logger
    ) -> dict[int, Answer]:
        asked = StudySearcher(study, search, candidate, engine.workers)
        resources = {"CPU": engine.cpus_per_worker, "GPU": engine.gpus_per_worker}
        trainable = tune.with_resources(tune.with_parameters(_attempt, search=search), resources)
        with tempfile.TemporaryDirectory(prefix="slipway-", ignore_cleanup_errors=True) as folder:
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=asked, scheduler=_Pruner(asked), num_samples=candidate.trials, reuse_actors=True
                ),
                run_config=tune.RunConfig(
                    storage_path=folder, verbose=0, failure_config=tune.FailureConfig(max_failures=LOST)
                ),
            )
            try:
                found = tuner.fit()
            except (TuneError, RayError) as error:
                raise_from(error, "tuning")
        asked.tell()
        for failure in found.errors:
            raise_from(failure, "a trial")
        for number in asked.answers:
            tell(log, candidate, search, {at: asked.answers[at] for at in asked.answers if at <= number}, number)
        return asked.answers

    return drive


@dataclass
class _Reporting:
    """A trial as its worker sees it; whether it is behind is the study's to say, which ends the worker."""

    number: int

    def report(self, value: float, step: int) -> None:
        tune.report({"value": value, "step": step})

    def should_prune(self) -> bool:
        return False


def _attempt(config: dict[str, Any], search: Search) -> None:
    """What a worker does: a trial as on one machine. Its last report is the answer; a trial without one is pruned."""
    search = replace(search, deadline=time.monotonic() + config["seconds"])
    try:
        tune.report(asdict(search.attempt(_Reporting(config["number"]), config["params"])))
    except optuna.TrialPruned:
        return
    except FloatingPointError:
        tune.report({"undefined": True})


class StudySearcher(Searcher):  # type: ignore[misc]
    """Asks the study for trials, and tells it of a batch of them at once."""

    def __init__(self, study: optuna.Study, search: Search, candidate: XGBoost | Torch, workers: int) -> None:
        super().__init__()
        self.study, self.search, self.workers = study, search, workers
        self.asked, self.trials = 0, candidate.trials
        self.batch: dict[str, optuna.Trial] = {}
        self.over: dict[str, dict[str, Any]] = {}
        self.answers: dict[int, Answer] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; none while the batch is full. The first is asked for, however late it is."""
        seconds = self.search.deadline - time.monotonic()
        if self.asked == self.trials or (self.asked and seconds < 0):
            return str(Searcher.FINISHED)
        if len(self.batch) == self.workers:
            return None
        self.asked += 1
        self.batch[trial_id] = trial = self.study.ask()
        return {"number": trial.number, "params": self.search.suggest(trial), "seconds": seconds}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended; with the last of a full batch the study is told."""
        self.over[trial_id] = result or {}
        if len(self.over) == len(self.batch) and (len(self.batch) == self.workers or self.asked == self.trials):
            self.tell()

    def tell(self) -> None:
        """Tell the study of the trials of the batch, by number."""
        for trial_id, trial in self.batch.items():
            result = self.over.get(trial_id, {})
            if "rows" in result:
                fields = {name: result[name] for name in ("value", "rows", "length")}
                self.answers[trial.number] = Answer(**fields, curve=tuple(result["curve"]))
                self.study.tell(trial, result["value"])
            else:
                failed = "undefined" in result
                self.study.tell(trial, state=TrialState.FAIL if failed else TrialState.PRUNED)
        self.batch, self.over = {}, {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search that was killed starts anew."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


class _Pruner(FIFOScheduler):  # type: ignore[misc]
    """Ends the trials that the study calls behind."""

    def __init__(self, study: StudySearcher) -> None:
        super().__init__()
        self.study = study

    def on_trial_result(self, tune_controller: object, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after this fold."""
        if "step" not in result or len(self.study.search.folds) == 1:
            return str(FIFOScheduler.CONTINUE)
        asked = self.study.batch[trial.trial_id]
        asked.report(result["value"], result["step"])
        return str(FIFOScheduler.STOP if asked.should_prune() else FIFOScheduler.CONTINUE)
