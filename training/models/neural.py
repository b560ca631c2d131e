"""Fitting TabM: each member learns for itself, early stopping on the answer of all; CUDA and bf16 where they are."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pipeline.columns import RowSchema
from pipeline.errors import Invalid
from pipeline.spec import Torch
from training.features import Features
from training.models.base import Checkpoints, Fitted, Fold, Params
from training.models.network import MEMBERS, PREDICT_ROWS, Network, Neural, Shape
from training.models.network_checkpoint import Members, resume, save
from training.rows import TrainingRows

PATIENCE = 12  # epochs without a better validation loss


@dataclass(frozen=True)
class NeuralTrainer:
    """Fits networks for one schema."""

    spec: Torch
    schema: RowSchema
    sizes: tuple[int, ...]
    quantities: int
    threads: int

    @classmethod
    def of(cls, spec: Torch, features: Features, threads: int) -> NeuralTrainer:
        """The trainer of a candidate for these features."""
        quantities = features.kinds.count("q")
        return cls(spec, features.row_schema, features.sizes, quantities, threads)

    def defaults(self) -> Params:
        """Between the paper's defaults and what two cores fit in a minute."""
        return {
            "learning_rate": 2e-3,
            "weight_decay": 3e-4,
            "blocks": 2,
            "width": 128,
            "dropout": 0.1,
            "embedding": 12,
            "bins": 24,
        }

    def suggest(self, trial: Any) -> Params:
        """Ranges around the defaults, as in the paper's search space, narrower where a CPU pays."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 5e-4, 5e-3, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
            "blocks": trial.suggest_int("blocks", 1, 3),
            "width": trial.suggest_categorical("width", [64, 128, 256]),
            "dropout": trial.suggest_float("dropout", 0.0, 0.4),
            "embedding": trial.suggest_categorical("embedding", [8, 12, 16]),
            "bins": trial.suggest_int("bins", 8, 48),
        }

    def fit(self, fold: Fold, params: Params, seed: int, length: int | None, deadline: float | None) -> Fitted:
        """Fit to early stopping on the fold's validation part, or for `length` epochs.

        Raises:
            Invalid: CUDA is asked for and there is none. A retry does not help.
        """
        torch.set_num_threads(self.threads)
        torch.manual_seed(seed)
        device = self._device()
        module = self._module(fold, params).to(device)
        optimizer = _optimizer(module, params)
        x, y = torch.from_numpy(fold.x).to(device), self._target(fold.y, module).to(device)
        valid = None
        if fold.x_valid is not None and fold.y_valid is not None:
            valid = torch.from_numpy(fold.x_valid).to(device), self._target(fold.y_valid, module).to(device)
        best, best_epoch, best_state, curve = np.inf, 0, None, []
        shuffle = torch.Generator().manual_seed(seed)
        for epoch in range(1, (length or self.spec.epochs) + 1):
            self._epoch(module, optimizer, device, ((x[some], y[some]) for some in _batches(len(x), shuffle)))
            if valid is not None:
                curve.append(self._validate(module, *valid))
                if curve[-1] < best:
                    best, best_epoch = curve[-1], epoch
                    best_state = {name: value.detach().clone() for name, value in module.state_dict().items()}
                if epoch - best_epoch >= PATIENCE:
                    break
            else:
                best_epoch = epoch
            if deadline is not None and time.monotonic() > deadline:
                break
        if best_state is not None:
            module.load_state_dict(best_state)
        return Fitted(Neural(module.eval().cpu()), max(best_epoch, 1), tuple(curve))

    def fit_rows(self, rows: TrainingRows, params: Params, seed: int, length: int) -> Fitted:
        """Fit on all rows for as many steps as `length` epochs of the sample have, and for one epoch at least.

        Raises:
            Invalid: CUDA is asked for and there is none. A retry does not help.
        """
        torch.set_num_threads(self.threads)
        torch.manual_seed(seed)
        device = self._device()
        fold = Fold(*rows.sample())
        module = self._module(fold, params).to(device)
        epochs = max(1, round(length * len(fold.y) / rows.count))
        del fold
        optimizer, draw = _optimizer(module, params), np.random.default_rng(seed)
        for _ in range(epochs):
            self._epoch(module, optimizer, device, self._shuffled(rows, module, draw))
        return Fitted(Neural(module.eval().cpu()), epochs)

    def _shuffled(
        self, rows: TrainingRows, module: Network, draw: np.random.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """An epoch's batches; what is left of each window of rows comes as a smaller one."""
        device, size = module.median.device, _batch_size(rows.count)
        for x, y in rows.shuffled(draw):
            window, answers = torch.from_numpy(x).to(device), self._target(y, module).to(device)
            yield from zip(window.split(size), answers.split(size), strict=True)

    def begin(self, fold: Fold, params: Params, seed: int) -> Neural:
        """The network before it has learned: its statistics of the columns, and its first weights."""
        torch.manual_seed(seed)
        return Neural(self._module(fold, params))

    def fit_together(self, shard: Fold, params: Params, seed: int, length: int, checkpoints: Checkpoints) -> Neural:
        """Fit for `length` epochs by DistributedDataParallel, inside the process group that the workers have joined.

        A batch has as many rows as on one machine, of which each worker takes its part.

        Raises:
            Invalid: CUDA is asked for and there is none. A retry does not help.
        """
        torch.set_num_threads(self.threads)
        device, rank, workers = self._device(), dist.get_rank(), dist.get_world_size()
        with checkpoints.last() as folder:
            if folder is None:
                raise ValueError("there is nothing to start from: `begin` makes it")
            module = Neural.load(folder).module.to(device)
            optimizer = _optimizer(module, params)
            done = resume(optimizer, folder)
        members = DistributedDataParallel(Members(module))
        x, y = torch.from_numpy(shard.x).to(device), self._target(shard.y, module).to(device)
        size = max(1, _batch_size(len(x) * workers) // workers)
        for epoch in range(done + 1, length + 1):
            draw = seed + epoch * workers + rank  # one that goes on from a checkpoint draws what it would have drawn
            torch.manual_seed(draw)
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(draw))
            self._epoch(module, optimizer, device, ((x[some], y[some]) for some in order.split(size)), members)
            checkpoints.keep(epoch, partial(save, module, optimizer, epoch))
        return Neural(module.eval().cpu())

    def _epoch(
        self,
        module: Network,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        batches: Iterable[tuple[Tensor, Tensor]],
        members: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        module.train()
        for x, y in batches:
            with _mixed(device):
                loss = self._loss((members or module.members)(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()

    def _validate(self, module: Network, x: Tensor, y: Tensor) -> float:
        """Loss of the ensemble's mean answer, which is what is served."""
        module.eval()
        with torch.inference_mode(), _mixed(x.device):
            answer = torch.cat([module(x[at : at + PREDICT_ROWS]).float() for at in range(0, len(x), PREDICT_ROWS)])
        if self.schema.task == "regression":
            truth = y * module.spread + module.centre
            return float(((answer[:, 0] - truth) ** 2).mean().sqrt())
        return float(nn.functional.nll_loss(torch.log(answer.clamp_min(1e-12)), y))

    def _loss(self, members: Tensor, y: Tensor) -> Tensor:
        """Each member learns for itself: the mean of their losses, not the loss of their mean."""
        repeated = y.repeat_interleave(MEMBERS)
        if self.schema.task == "regression":
            return nn.functional.mse_loss(members.flatten(), repeated)
        return nn.functional.cross_entropy(members.flatten(0, 1), repeated)

    def _target(self, y: np.ndarray, module: Network) -> Tensor:
        if self.schema.task == "regression":
            spread, centre = float(module.spread[0]), float(module.centre[0])
            return torch.from_numpy(((y - centre) / spread).astype(np.float32))
        return torch.from_numpy(y.astype(np.int64))

    def _module(self, fold: Fold, params: Params) -> Network:
        numbers = fold.x[:, : self.quantities]
        missing = np.isnan(numbers)
        seen = ~missing.all(axis=0)
        median = np.zeros(self.quantities, dtype=np.float32)
        if seen.any():
            median[seen] = np.nanmedian(numbers[:, seen], axis=0)
        full = np.where(missing, median, numbers)
        mean, std = full.mean(axis=0, dtype=np.float64), full.std(axis=0, dtype=np.float64)
        std = np.where(std > 0, std, 1.0)
        scaled = ((full - mean) / std).astype(np.float32)
        shape = Shape(
            quantities=self.quantities,
            sizes=self.sizes,
            flagged=tuple(int(at) for at in np.flatnonzero(missing.any(axis=0))),
            outputs=self.schema.width,
            regression=self.schema.task == "regression",
            blocks=int(params["blocks"]),
            width=int(params["width"]),
            dropout=float(params["dropout"]),
            embedding=int(params["embedding"]),
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .* feature has just two bin edges")  # a boolean, and meant so
            module = Network(shape, [_edges(scaled[:, at], int(params["bins"])) for at in range(self.quantities)])
        if self.quantities:
            low, high = full.min(axis=0), full.max(axis=0)
            for name, value in (("median", median), ("low", low), ("high", high), ("mean", mean), ("std", std)):
                getattr(module, name).copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))
        if shape.regression:
            module.centre.fill_(float(fold.y.mean()))
            module.spread.fill_(float(fold.y.std()) or 1.0)
        return module

    def _device(self) -> torch.device:
        if self.spec.device != "cpu" and torch.cuda.is_available():
            return torch.device("cuda")
        if self.spec.device == "cuda":
            raise Invalid("there is no CUDA device", "candidates.device", "write `device: auto`, or use a GPU")
        return torch.device("cpu")


def _batches(rows: int, shuffle: torch.Generator) -> Iterator[Tensor]:
    """Shuffled row numbers."""
    yield from torch.randperm(rows, generator=shuffle).split(_batch_size(rows))


def _batch_size(rows: int) -> int:
    """About thirty batches an epoch, between 32 and 1024 rows each."""
    return int(np.clip(2 ** round(np.log2(max(rows / 30, 1))), 32, 1024))


def _optimizer(module: Network, params: Params) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        module.parameters(), lr=float(params["learning_rate"]), weight_decay=float(params["weight_decay"])
    )


def _mixed(device: torch.device) -> torch.autocast:
    """bfloat16 where the GPU has it; on a CPU, nothing."""
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def _edges(values: np.ndarray, bins: int) -> Tensor:
    """Strictly rising bin edges at quantiles; a constant column gets one bin around it."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)).astype(np.float32))
    if len(edges) < 2:
        edges = np.array([edges[0] - 0.5, edges[0] + 0.5], dtype=np.float32)
    return torch.from_numpy(edges)
