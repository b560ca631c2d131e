"""On a real Ray cluster: the same result as on one machine, though workers are killed; and nothing of it is left."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.engine import Local, Ray
from pipeline.errors import Invalid
from pipeline.settings import Settings
from pipeline.sweep import marked
from tests.support.polling import wait_for
from tests.training.ray_worlds import Asked, asked, held, joined
from training.engine import fit
from training.models.base import Fold
from training.on_ray.cluster import cluster
from training.tune import Search, Tuned

pytestmark = pytest.mark.stack
HERE, TWO = Local(kind="local"), Ray(kind="ray", workers=2)
SEEDS, FARTHER, AUC = (8, 9, 10), 1.25, 0.01  # what another seed changes on one machine, workers may change too


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A cluster that the tests of this file share."""
    home = tmp_path_factory.mktemp("ray")
    with held(home) as (_, address, token):
        joined(token)
        yield Settings(home=home, ray_address=address)


@pytest.mark.parametrize(("kind", "changes"), [("xgboost", {"trials": 4, "rounds": 120}), ("torch", {"trials": 1, "epochs": 10})])  # fmt: skip
def test_two_workers_find_and_fit_what_one_machine_does(kind: str, changes: dict[str, int], settings: Settings) -> None:
    here, there = asked(kind, HERE, settings, **changes), asked(kind, TWO, settings, **changes)
    tuned, fitted, _ = fit(here.work)
    tuned_there, fitted_there, _ = fit(there.work)
    assert tuned_there.params == tuned.params
    assert tuned_there.length == tuned.length
    assert [trial.value for trial in tuned_there.trials] == pytest.approx(
        [trial.value for trial in tuned.trials], abs=1e-6
    )
    one, two = (model.predict(here.x)[:, 1] for model in (fitted.model, fitted_there.model))
    assert apart(one, two) < FARTHER * max(apart(one, refitted(here, tuned, seed)) for seed in SEEDS)
    assert roc_auc_score(here.y, two) == pytest.approx(roc_auc_score(here.y, one), abs=AUC)
    assert not np.array_equal(one, two)  # it was not fitted here
    assert not there.work.run.store.exists(f"{there.work.run.key}/ray_{kind}")


def test_a_worker_that_is_killed_costs_the_rounds_since_the_last_checkpoint(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = 1500
    one = asked("xgboost", TWO, settings, name="killed")
    params = one.work.trainer.defaults()
    tuned = Tuned(params, rounds, 0.9, 1, (), 1)
    killed: list[int] = []

    def kill() -> None:
        folder = Path(one.work.run.store.path(f"{one.work.run.key}/ray_killed"))
        wait_for(lambda: list(folder.glob("*/checkpoint_manager_snapshot.json")), "a checkpoint", interval_s=0.01)
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[0].startswith("ray::RayTrainWorker") and process in _mine(settings):
                killed.append(process.pid)
                process.kill()
                return

    from training.on_ray.fitting import fit_all

    with cluster(TWO, settings), caplog.at_level(logging.WARNING, logger="slipway"):
        threading.Thread(target=kill, daemon=True).start()
        fitted = fit_all(one.work, TWO, tuned, Fold(*one.work.rows.sample()))
    assert len(killed) == 1
    assert "workers were lost, others went on at" in caplog.text
    assert fitted.model.booster.num_boosted_rounds() == rounds
    alone, *others = (refitted(one, tuned, seed) for seed in (one.work.spec.seed, *SEEDS))
    there = fitted.model.predict(one.x)[:, 1]
    assert apart(alone, there) < FARTHER * max(apart(alone, other) for other in others)


def refitted(one: Asked, tuned: Tuned, seed: int) -> np.ndarray:
    """The answers of the same fit in this process."""
    fold = Fold(*one.work.rows.sample())
    answers: np.ndarray = one.work.trainer.fit(fold, tuned.params, seed, tuned.length, None).model.predict(one.x)[:, 1]
    return answers


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two models' probabilities."""
    return float(np.abs(one - other).mean())


def _mine(settings: Settings) -> list[psutil.Process]:
    return marked(settings.home)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_step_that_is_ended(how: signal.Signals, tmp_path: Path) -> None:
    with held(tmp_path) as (process, address, _):
        assert address.startswith("127.0.0.1:")
        own = marked(tmp_path)
        assert {"gcs_server", "raylet"} <= {one.name() for one in own}
        served = {one.laddr.ip for each in own for one in each.net_connections("inet") if one.status == "LISTEN"}
        assert {ip.removeprefix("::ffff:") for ip in served} == {"127.0.0.1"}
        os.kill(process.pid, how)
        process.wait(60)
        wait_for(lambda: not marked(tmp_path), lambda: f"{marked(tmp_path)} are left", seconds=120)


def test_the_first_trial_is_asked_for_however_late_it_is(settings: Settings) -> None:
    from ray.tune.search import Searcher

    from training.on_ray.search import StudySearcher

    work = asked("xgboost", TWO, settings, trials=3).work
    study, defaults = optuna.create_study(), work.trainer.defaults()
    study.enqueue_trial(defaults)
    x, y = work.rows.sample()
    late = Search(work.trainer, work.dataset.row_schema, x, y, [], "log_loss", 7, time.monotonic() - 1)
    trials = StudySearcher(study, late, work.candidate, workers=2)
    first = trials.suggest("a")
    assert isinstance(first, dict)
    assert (first["number"], first["params"]) == (0, defaults)
    assert trials.suggest("b") == Searcher.FINISHED


def test_without_ray_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Invalid, match=r"Ray is not installed .*pip install '\.\[ray\]'"):
        fit(asked("xgboost", TWO, Settings(home=tmp_path), trials=1).work)
