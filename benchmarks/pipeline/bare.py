"""The bare script: tunes, fits, exports and compares the same two models, with nothing of Slipway in it.

    python benchmarks/pipeline/bare.py --trees-trials 3 --network-trials 2 --folds 3 --epochs 40 --held-out mask.npy

`--held-out` is a (569,) bool array, so that all sides fit the same rows. Prints one line of JSON: for each model its
parameters, its length, its seconds of fitting, and its log loss on the held-out rows, by which it is known to be the
same model. No data checks, no tracking, no plots, no registry, no server, no gates. The peers' flows call these functions.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as Slipway does

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import optuna
import torch
import xgboost as xgb
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from rtdl_num_embeddings import PiecewiseLinearEmbeddings
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from tabm import EnsembleView, LinearEnsemble, make_tabm_backbone
from torch import Tensor, nn

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Part = tuple[Floats, Labels]
Params = dict[str, Any]
SEED, MEMBERS = 7, 8
ROUNDS, TREES_PATIENCE, EPOCHS_PATIENCE = 2000, 50, 12
TREES: Params = {
    "learning_rate": 0.05, "max_depth": 6, "min_child_weight": 5.0, "subsample": 0.8, "colsample_bytree": 0.7,
    "reg_lambda": 2.0, "reg_alpha": 0.01, "gamma": 0.01, "max_cat_to_onehot": 8,
}  # fmt: skip
NETWORK: Params = {
    "learning_rate": 2e-3, "weight_decay": 3e-4, "blocks": 2, "width": 128, "dropout": 0.1, "embedding": 12, "bins": 24,
}  # fmt: skip


def suggest_trees(trial: optuna.Trial) -> Params:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.2, log=True),
        "max_depth": trial.suggest_int("max_depth", 3, 9),
        "min_child_weight": trial.suggest_float("min_child_weight", 0.5, 30.0, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.3, 1.0),
        "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 30.0, log=True),
        "reg_alpha": trial.suggest_float("reg_alpha", 1e-3, 10.0, log=True),
        "gamma": trial.suggest_float("gamma", 1e-3, 5.0, log=True),
        "max_cat_to_onehot": trial.suggest_int("max_cat_to_onehot", 2, 32),
    }


def suggest_network(trial: optuna.Trial) -> Params:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 5e-4, 5e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True),
        "blocks": trial.suggest_int("blocks", 1, 3),
        "width": trial.suggest_categorical("width", [64, 128, 256]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4),
        "embedding": trial.suggest_categorical("embedding", [8, 12, 16]),
        "bins": trial.suggest_int("bins", 8, 48),
    }


def fit_trees(part: Part, params: Params, length: int, valid: Part | None) -> tuple[xgb.Booster, int]:
    """A booster, cut to the rounds that early stopping chose, and their number."""
    fixed = {"objective": "binary:logistic", "eval_metric": "logloss", "seed": SEED, "nthread": 1, "device": "cpu"}
    train = xgb.QuantileDMatrix(*part, nthread=1)
    if valid is None:
        return xgb.train(params | fixed | {"tree_method": "hist"}, train, length), length
    watch = xgb.QuantileDMatrix(*valid, ref=train, nthread=1)
    booster = xgb.train(
        params | fixed | {"tree_method": "hist"}, train, length,
        evals=[(watch, "v")], verbose_eval=False, early_stopping_rounds=TREES_PATIENCE,
    )  # fmt: skip
    best = int(booster.best_iteration) + 1
    return booster[:best], best


def ask_trees(model: xgb.Booster, x: Floats) -> Floats:
    return np.asarray(model.predict(xgb.DMatrix(x)), dtype=np.float32)


class Network(nn.Module):  # type: ignore[misc, unused-ignore]
    """Numbers held at their range and standardised, into TabM; mean of the members' probabilities out."""

    def __init__(self, x: Floats, params: Params) -> None:
        super().__init__()
        mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        scaled = ((x - mean) / std).astype(np.float32)
        for name, value in (("low", x.min(axis=0)), ("high", x.max(axis=0)), ("mean", mean), ("std", std)):
            self.register_buffer(name, torch.from_numpy(value.astype(np.float32)))
        levels = np.linspace(0, 1, params["bins"] + 1)
        edges = [torch.from_numpy(np.unique(np.quantile(one, levels).astype(np.float32))) for one in scaled.T]
        self.numbers = PiecewiseLinearEmbeddings(edges, params["embedding"], activation=False, version="B")
        self.ensemble = EnsembleView(k=MEMBERS)
        chunks = [params["embedding"]] * x.shape[1]
        self.backbone = make_tabm_backbone(
            d_in=sum(chunks), n_blocks=params["blocks"], d_block=params["width"], dropout=params["dropout"],
            activation="ReLU", k=MEMBERS, arch_type="tabm", start_scaling_init="normal", start_scaling_init_chunks=chunks,
        )  # fmt: skip
        self.output = LinearEnsemble(params["width"], 2, k=MEMBERS)

    def members(self, x: Tensor) -> Tensor:
        held = (torch.minimum(torch.maximum(x, self.low), self.high) - self.mean) / self.std
        logits: Tensor = self.output(self.backbone(self.ensemble(self.numbers(held).flatten(1))))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.members(x), -1).mean(1)


def fit_network(part: Part, params: Params, length: int, valid: Part | None) -> tuple[nn.Module, int]:
    """A network with the weights of its best epoch, and that epoch."""
    torch.manual_seed(SEED)
    module = Network(part[0], params)
    optimizer = torch.optim.AdamW(module.parameters(), lr=params["learning_rate"], weight_decay=params["weight_decay"])
    inputs, labels = map(torch.from_numpy, part)
    size = int(np.clip(2 ** round(np.log2(max(len(inputs) / 30, 1))), 32, 1024))
    shuffle = torch.Generator().manual_seed(SEED)
    best, best_epoch, best_state = np.inf, length, None
    for epoch in range(1, length + 1):
        module.train()
        for rows in torch.randperm(len(inputs), generator=shuffle).split(size):
            logits = module.members(inputs[rows]).flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, labels[rows].repeat_interleave(MEMBERS))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
        if valid is None:
            continue
        module.eval()
        with torch.inference_mode():
            answer = torch.log(module(torch.from_numpy(valid[0])).clamp_min(1e-12))
            held = float(nn.functional.nll_loss(answer, torch.from_numpy(valid[1])))
        if held < best:
            best, best_epoch = held, epoch
            best_state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        if epoch - best_epoch >= EPOCHS_PATIENCE:
            break
    if best_state is not None:
        module.load_state_dict(best_state)
    return module.eval(), best_epoch


def ask_network(model: nn.Module, x: Floats) -> Floats:
    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(x)).numpy()[:, 1])


Fit = Callable[[Part, Params, int, Part | None], tuple[Any, int]]
Ask = Callable[[Any, Floats], Floats]
Suggest = Callable[[optuna.Trial], Params]


def tune(
    fit: Fit, ask: Ask, defaults: Params, suggest: Suggest, part: Part, trials: int, folds: int, length: int
) -> tuple[Params, int]:
    """The parameters of the best trial by mean ROC AUC over the folds, and its mean length; the first has the defaults."""
    x, y = part
    pairs = list(StratifiedKFold(folds, shuffle=True, random_state=SEED).split(x, y))
    found: dict[int, tuple[Params, int]] = {}

    def objective(trial: optuna.Trial) -> float:
        params, values, lengths = suggest(trial), [], []
        for step, (train, valid) in enumerate(pairs):
            model, best = fit((x[train], y[train]), params, length, (x[valid], y[valid]))
            values.append(roc_auc_score(y[valid], ask(model, x[valid])))
            lengths.append(best)
            trial.report(float(np.mean(values)), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        found[trial.number] = params, max(1, round(float(np.mean(lengths))))
        return float(np.mean(values))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=SEED, n_startup_trials=max(4, trials // 3)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0),
    )
    study.enqueue_trial(defaults)
    study.optimize(objective, n_trials=trials)
    return found[study.best_trial.number]


def trees_onnx(model: xgb.Booster, width: int) -> bytes:
    kind = FloatTensorType([None, width])
    return bytes(convert_xgboost(model, initial_types=[("x", kind)], target_opset=15).SerializeToString())


def network_onnx(model: nn.Module, width: int) -> bytes:
    program = torch.onnx.export(
        model, (torch.zeros(3, width),), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        opset_version=18, external_data=False, verbose=False, input_names=["x"],
    )  # fmt: skip
    return bytes(program.model_proto.SerializeToString())


@dataclass(frozen=True)
class Candidate:
    """How a kind of model is fitted, asked, tuned and exported; `length`: at most so many rounds or epochs."""

    fit: Fit
    ask: Ask
    defaults: Params
    suggest: Suggest
    export: Callable[[Any, int], bytes]
    trials: int
    length: int


@dataclass(frozen=True)
class Fitted:
    """A model that was tuned and fitted, and the seconds that took."""

    model: Any
    params: Params
    length: int
    fit_s: float


def options() -> argparse.Namespace:
    """The command line, which whole.py and every peer have too."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"trees-trials": 3, "network-trials": 2, "folds": 3, "epochs": 40}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--whole", action="store_true", help="with the steps of glue.py")
    return parser.parse_args()


def candidates(trees_trials: int, network_trials: int, epochs: int) -> dict[str, Candidate]:
    """Both, by name."""
    torch.set_num_threads(1)
    return {
        "xgboost": Candidate(fit_trees, ask_trees, TREES, suggest_trees, trees_onnx, trees_trials, ROUNDS),
        "torch": Candidate(fit_network, ask_network, NETWORK, suggest_network, network_onnx, network_trials, epochs),
    }


def load(held_out: Path) -> tuple[Part, Part]:
    """Training rows and held-out rows."""
    bunch, held = load_breast_cancer(), np.load(held_out)
    x, y = bunch.data.astype(np.float32), (bunch.target == 0).astype(np.int64)  # 1 is malignant
    return (x[~held], y[~held]), (x[held], y[held])


def fitted(candidate: Candidate, part: Part, folds: int) -> Fitted:
    """Tune on the folds, then fit on all training rows."""
    begin = time.perf_counter()
    params, best = tune(
        candidate.fit, candidate.ask, candidate.defaults, candidate.suggest, part, candidate.trials, folds, candidate.length
    )  # fmt: skip
    model, _ = candidate.fit(part, params, best, None)
    return Fitted(model, params, best, time.perf_counter() - begin)


def checked(candidate: Candidate, model: Any, content: bytes, held: Part) -> float:
    """The log loss of the graph's answers to the held-out rows, which are the model's."""
    x, y = held
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    answer = session.run([session.get_outputs()[-1].name], {"x": x})[0][:, 1]
    np.testing.assert_allclose(answer, candidate.ask(model, x), atol=1e-5, rtol=1e-4)
    return float(log_loss(y, answer))


def said(found: Mapping[str, tuple[Fitted, float]]) -> str:
    """What a run prints last: each model with its seconds of fitting and its log loss."""
    shown = ("params", "length", "fit_s")
    every = {name: {key: vars(one)[key] for key in shown} | {"log_loss": loss} for name, (one, loss) in found.items()}
    return json.dumps(every)


def main() -> None:
    asked, found = options(), {}
    train, held = load(asked.held_out)
    for name, candidate in candidates(asked.trees_trials, asked.network_trials, asked.epochs).items():
        one = fitted(candidate, train, asked.folds)
        found[name] = one, checked(candidate, one.model, candidate.export(one.model, train[0].shape[1]), held)
    print(said(found))


if __name__ == "__main__":
    main()
