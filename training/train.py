"""Step train: tune and fit one candidate on the training rows, and keep it natively, with no pickle."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from pipeline.digest import digest_json, digest_tree
from pipeline.engine import Ray
from pipeline.errors import Problem, Rejected
from pipeline.lanes import at_once
from pipeline.memory import fit_bytes
from pipeline.process import cores
from pipeline.refs import CheckReport, DatasetRef, LoggedModelRef, Validation
from pipeline.run import Run
from pipeline.spec import PipelineSpec, XGBoost
from pipeline.step import main
from training.engine import Work, fit
from training.features import Features
from training.models.base import FEATURES_FILE, Model, Trainer
from training.rows import TrainingRows

CURVE = "learning_curve"
SMALL = 200_000  # values of a matrix below which more threads cost more than they bring


def train(spec: PipelineSpec, dataset: DatasetRef, checks: CheckReport, run: Run) -> LoggedModelRef:
    """Tune and fit a candidate.

    Raises:
        Rejected: the checks refused the rows.
        Invalid: a device is missing, or nothing could be fitted. A retry does not help.
        Unavailable: store or MLflow do not answer. A retry helps.
    """
    if not checks.passed:
        critical = [failure for failure in checks.failures if failure.severity == "critical"]
        raise Rejected(
            [Problem(failure.message, f"check {failure.expectation}", "mend the data") for failure in critical]
        )
    candidate = spec.candidate(str(run.candidate))
    if isinstance(candidate.engine, Ray) and run.settings.runtime == "kubernetes" and not run.settings.ray_address:
        from training.on_ray.job import train_in_job  # noqa: PLC0415 (half a second, which one machine has no use for)

        return train_in_job(candidate.engine, run)
    run_id = run.registry.candidate_run(run, spec, candidate.name)
    run.registry.log_dataset(run_id, dataset)

    is_local = run.settings.runtime == "local"
    beside = at_once(len(spec.candidates)) if is_local else 1  # fits of this machine, or one of a pod
    memory_bytes = fit_bytes(run.settings.memory_gib, beside)
    with run.store.whole(dataset.key) as path:
        rows = TrainingRows.of(path, dataset, spec.split, memory_bytes)
        features = rows.features
        begin = time.monotonic()
        small = rows.count * len(features.names) < SMALL
        threads = 1 if small else run.settings.threads or cores()
        trainer = _trainer(candidate, features, threads)
        tuned, fitted, sampled = fit(Work(spec, candidate, dataset, rows, trainer, run))
    fit_s = time.monotonic() - begin
    run.log.info("%s: fitted on %d rows, %d trials, %.1f s", candidate.name, rows.count, len(tuned.trials), fit_s)

    with tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
        folder = Path(scratch)
        _save(fitted.model, features, folder)
        digest = digest_json(digest_tree(folder))
        key = f"models/{digest}"
        run.store.put(folder, key)
        model_id = run.registry.log_native(run_id, candidate.name, folder, candidate.kind)
    best = max((trial for trial in tuned.trials if trial.value == tuned.value), key=lambda trial: len(trial.curve))
    fitting = {"length": fitted.length, "folds": tuned.folds, "rows": rows.count, "tuned_rows": sampled}
    run.registry.log(
        run_id,
        {f"validation_{spec.primary}": tuned.value, "fit_s": fit_s},
        params={**tuned.params, **fitting, "kind": candidate.kind},
        series={CURVE: best.curve},
    )
    run.registry.log_trials(run_id, tuned.trials)
    return LoggedModelRef(
        candidate=candidate.name,
        kind=candidate.kind,
        key=key,
        digest=digest,
        model_id=model_id,
        run_id=run_id,
        params=tuned.params,
        validation=Validation(value=tuned.value, rows=tuned.rows),
        trials=len(tuned.trials),
        fit_s=round(fit_s, 3),
    )


def _trainer(candidate: object, features: Features, threads: int) -> Trainer:
    """The trainer of the candidate's kind; only its library is loaded."""
    if isinstance(candidate, XGBoost):
        from training.models.boosted import BoostedTrainer  # noqa: PLC0415

        return BoostedTrainer.of(candidate, features, threads)
    from training.models.neural import NeuralTrainer  # noqa: PLC0415

    return NeuralTrainer.of(candidate, features, threads)  # type: ignore[arg-type]


def _save(model: Model, features: Features, folder: Path) -> None:
    model.save(folder)
    (folder / FEATURES_FILE).write_text(json.dumps(features.model_dump(mode="json"), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(train)
