"""The last fit, of all training rows by all workers: Ray Data reads and splits them, Ray Train fits on the parts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
import ray.exceptions
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pipeline.digest import digest_json
from pipeline.engine import Ray
from training.engine import Work
from training.models.base import Fitted, Fold, Model, load_model
from training.on_ray.failures import LOST, raise_from
from training.on_ray.rows import training_rows
from training.tune import Tuned

ROWS = "rows"
CHECKPOINTS = 10  # of one fit


def fit_all(work: Work, engine: Ray, tuned: Tuned, sample: Fold) -> Fitted:
    """Fit with the parameters and length of the search; workers that are lost begin again at the last checkpoint.

    Raises as `raise_from` does.
    """
    run, spec, candidate = work.run, work.spec, work.candidate
    begun = work.trainer.begin(sample, tuned.params, spec.seed)
    config = {
        "trainer": work.trainer,
        "params": tuned.params,
        "seed": spec.seed,
        "length": tuned.length,
        "begun": {} if begun is None else _files(begun),
    }
    trainer = _together(
        candidate.kind
    )(
        _work,
        train_loop_config=config,
        datasets={ROWS: training_rows(run, work.dataset, spec.split, work.rows.features)},
        dataset_config=ray.train.DataConfig(
            execution_options=ray.data.ExecutionOptions(
                preserve_order=True
            )  # so that a worker's rows are the same ones
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=engine.workers,
            use_gpu=engine.gpus_per_worker > 0,
            resources_per_worker={"CPU": engine.cpus_per_worker, "GPU": engine.gpus_per_worker},
            placement_strategy="SPREAD",
        ),
        run_config=ray.train.RunConfig(
            name=digest_json({"length": tuned.length, "seed": spec.seed, "workers": engine.workers, **tuned.params})[
                :16
            ],
            storage_path=run.store.path(key := f"{run.key}/ray_{candidate.name}"),
            storage_filesystem=PyFileSystem(FSSpecHandler(run.store.filesystem)),
            failure_config=ray.train.FailureConfig(max_failures=LOST),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        raise_from(error, "the fit")
    if at := result.metrics["went_on_at"]:
        run.log.warning("%s: workers were lost, others went on at %d of %d", candidate.name, at, tuned.length)
    with result.checkpoint.as_directory() as folder:
        model = load_model(candidate.kind, Path(folder))
    run.store.delete(key)
    return Fitted(model, tuned.length)


def _together(kind: str) -> Any:
    """Ray Train's trainer of a kind of candidate: how its workers find each other."""
    if kind == "xgboost":
        from ray.train.xgboost import XGBoostTrainer  # noqa: PLC0415 (only the library that is used is loaded)

        return XGBoostTrainer
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    return TorchTrainer


def _work(config: dict[str, Any]) -> None:
    """What each worker does."""
    parts = list(ray.train.get_dataset_shard(ROWS).iter_batches(batch_size=None, batch_format="numpy"))
    shard = Fold(np.concatenate([part["x"] for part in parts]), np.concatenate([part["y"] for part in parts]))
    checkpoints = _Checkpoints(config["length"], config["begun"])
    config["trainer"].fit_together(shard, config["params"], config["seed"], config["length"], checkpoints)


@dataclass
class _Checkpoints:
    """Checkpoints of Ray Train, in the store."""

    length: int
    begun: dict[str, bytes]
    went_on_at: int = 0

    @contextmanager
    def last(self) -> Iterator[Path | None]:
        """See `Checkpoints`."""
        if (checkpoint := ray.train.get_checkpoint()) is not None:
            with checkpoint.as_directory() as folder:
                self.went_on_at = int((Path(folder) / "done").read_text())
                yield Path(folder)
        elif self.begun:
            with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
                for name, content in self.begun.items():
                    (Path(folder) / name).write_bytes(content)
                yield Path(folder)
        else:
            yield None

    def keep(self, done: int, save: Callable[[Path], None]) -> None:
        """See `Checkpoints`."""
        if done % max(1, self.length // CHECKPOINTS) and done != self.length:
            return
        metrics = {"went_on_at": self.went_on_at}
        if ray.train.get_context().get_world_rank():
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
            save(Path(folder))
            (Path(folder) / "done").write_text(str(done))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _files(model: Model) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
        model.save(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
