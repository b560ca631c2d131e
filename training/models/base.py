"""What every trainer offers: fit within a trial, answer from a matrix, keep itself without a pickle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.refs import LoggedModelRef
from pipeline.run import Run
from pipeline.tensors import Tensors
from training.features import Features
from training.rows import TrainingRows

Floats = npt.NDArray[np.float32]
Params = dict[str, float | int | str | bool]
FEATURES_FILE = "features.json"


@dataclass(frozen=True)
class Fold:
    """Matrices (rows, width) float32 and targets (rows,) float64; without a validation part there is no early stop."""

    x: Floats
    y: npt.NDArray[np.float64]
    x_valid: Floats | None = None
    y_valid: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Fitted:
    """A model, the length that early stopping chose (rounds or epochs), and its validation loss by step."""

    model: Model
    length: int
    curve: tuple[float, ...] = field(default=())


class Model(Protocol):
    """A fitted model in its native form."""

    def predict(self, matrix: Floats) -> Floats:
        """(rows, width) -> (rows, outputs): probabilities of the classes, or the prediction."""

    def save(self, folder: Path) -> None:
        """Write the files of the model; nothing pickled."""


class Checkpoints(Protocol):
    """Where workers that fit together leave what they have, so that one that is lost does not cost the fit."""

    def last(self) -> AbstractContextManager[Path | None]:
        """The folder from which to go on: of the last checkpoint, or of what `begin` gave; None: from nothing."""

    def keep(self, done: int, save: Callable[[Path], None]) -> None:
        """After this many rounds or epochs, every worker; `save` writes files where a checkpoint is due."""


class Trainer(Protocol):
    """A family of models: its parameters' defaults and ranges, and how one is fitted."""

    def defaults(self) -> Params:
        """The parameters of the first trial."""

    def suggest(self, trial: Any) -> Params:
        """The parameters of an Optuna trial."""

    def fit(self, fold: Fold, params: Params, seed: int, length: int | None, deadline: float | None) -> Fitted:
        """Fit; `length` fixes rounds or epochs, `deadline` (time.monotonic) ends the fit early."""

    def fit_rows(self, rows: TrainingRows, params: Params, seed: int, length: int) -> Fitted:
        """Fit on all rows, batch after batch; `length` is what was best on the sample of them."""

    def begin(self, fold: Fold, params: Params, seed: int) -> Model | None:
        """What all workers start from, where that needs a look at more rows than one of them has."""

    def fit_together(self, shard: Fold, params: Params, seed: int, length: int, checkpoints: Checkpoints) -> Model:
        """Fit for `length` rounds or epochs with the other workers, each on rows of its own, as many as the others."""


@dataclass(frozen=True)
class Native:
    """A stored candidate: raw tensors to answers, as it was trained."""

    features: Features
    model: Model

    def predict(self, tensors: Tensors) -> Floats:
        """(rows, outputs) float32 from request tensors."""
        return self.model.predict(self.features.matrix(tensors))


def load_model(kind: str, folder: Path) -> Model:
    """The model in `folder`. Raises FileNotFoundError when there is none."""
    if kind == "xgboost":
        from training.models.boosted import Boosted  # noqa: PLC0415 (only the library that is used is loaded)

        return Boosted.load(folder)
    from training.models.network import Neural  # noqa: PLC0415

    return Neural.load(folder)


def load_candidate(run: Run, ref: LoggedModelRef) -> Native:
    """A candidate from the store. Raises Unavailable when that is silent (a retry helps), Invalid when damaged."""
    with run.store.whole(ref.key) as folder:
        features = Features.model_validate_json((folder / FEATURES_FILE).read_bytes())
        return Native(features, load_model(ref.kind, folder))
