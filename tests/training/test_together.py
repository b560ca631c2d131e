"""The part of one worker, with no Ray: what goes on from a checkpoint ends where one ends that was not interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.spec import Torch, XGBoost
from pipeline.target import encode_target
from training.features import fit_features
from training.models.base import Fold, Model, Trainer
from training.models.boosted import BoostedTrainer


class Kept:
    """Checkpoints in folders; the fit starts from one of them, or from what `begin` gave."""

    def __init__(self, folder: Path, start: Path | None) -> None:
        self.folder, self.start = folder, start

    @contextmanager
    def last(self) -> Iterator[Path | None]:
        yield self.start

    def keep(self, done: int, save: Callable[[Path], None]) -> None:
        (self.folder / str(done)).mkdir(parents=True)
        save(self.folder / str(done))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone, found by a file, with no port."""
    from torch import distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fitted(trainer: Trainer, fold: Fold, length: int, folder: Path, start: Path | None = None, seed: int = 7) -> Model:
    params = trainer.defaults()
    if start is None and (begun := trainer.begin(fold, params, seed)) is not None:
        start = folder / "begun"
        start.mkdir(parents=True)
        begun.save(start)
    return trainer.fit_together(fold, params, seed, length, Kept(folder, start))


@pytest.mark.parametrize("task", ["binary", "regression"])
@pytest.mark.parametrize("kind", ["xgboost", "torch"])
@pytest.mark.usefixtures("alone")
def test_what_goes_on_from_a_checkpoint_ends_as_if_it_had_not_stopped(
    kind: str, task: str, table: Callable[..., object], tmp_path: Path
) -> None:
    from training.models.neural import NeuralTrainer

    frame, schema, tensors = table(task)
    features = fit_features(frame, schema)
    fold = Fold(features.matrix(tensors), encode_target(frame, schema))
    trainer: Trainer = (
        BoostedTrainer.of(XGBoost(kind="xgboost"), features, 1)
        if kind == "xgboost"
        else NeuralTrainer.of(Torch(kind="torch"), features, 1)
    )
    length = 20 if kind == "xgboost" else 6
    whole = fitted(trainer, fold, length, tmp_path / "whole")
    at = tmp_path / "whole" / str(length // 2)
    assert not [path for path in at.iterdir() if path.suffix in (".pkl", ".pt", ".pickle")]
    again = fitted(trainer, fold, length, tmp_path / "again", at)
    assert sorted(int(path.name) for path in (tmp_path / "again").iterdir()) == list(range(length // 2 + 1, length + 1))
    one, other = whole.predict(fold.x), again.predict(fold.x)
    if kind == "torch":
        np.testing.assert_allclose(one, other, atol=1e-5)  # the same draws, the same memory of the optimizer
    else:  # XGBoost draws columns by a state that no model keeps: as near as another seed
        seeds = [fitted(trainer, fold, length, tmp_path / str(seed), seed=seed).predict(fold.x) for seed in (8, 9, 10)]
        assert np.abs(one - other).mean() < 1.25 * max(np.abs(one - third).mean() for third in seeds)
    shutil.rmtree(tmp_path / "again")
    assert np.array_equal(fitted(trainer, fold, length, tmp_path / "again").predict(fold.x), whole.predict(fold.x))
