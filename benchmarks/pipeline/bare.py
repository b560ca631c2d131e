"""The bare script: cross-validates, fits, exports and checks the same two models, with nothing of Slipway in it.

    python benchmarks/pipeline/bare.py --trials 1 --folds 3 --epochs 40

Prints one line of JSON: seconds of fitting and the metrics. No data checks, no tracking, no registry, no server, no gates.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as Slipway does

import numpy as np
import onnxruntime as ort
import torch
import xgboost as xgb
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from rtdl_num_embeddings import PiecewiseLinearEmbeddings, compute_bins
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from tabm import TabM
from torch import nn

TREES = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "learning_rate": 0.05,
    "max_depth": 6,
    "min_child_weight": 5.0,
    "subsample": 0.8,
    "colsample_bytree": 0.7,
    "reg_lambda": 2.0,
    "reg_alpha": 0.01,
    "gamma": 0.01,
    "nthread": 1,
    "seed": 7,
    "tree_method": "hist",
}
MEMBERS, PATIENCE = 8, 12


def fit_trees(x: np.ndarray, y: np.ndarray, valid: tuple | None, rounds: int) -> tuple[xgb.Booster, int]:
    """A booster and the rounds that early stopping chose."""
    train = xgb.QuantileDMatrix(x, y, nthread=1)
    if valid is None:
        return xgb.train(TREES, train, rounds), rounds
    watch = xgb.QuantileDMatrix(valid[0], valid[1], ref=train, nthread=1)
    booster = xgb.train(TREES, train, rounds, evals=[(watch, "v")], verbose_eval=False, early_stopping_rounds=50)
    return booster, booster.best_iteration + 1


class Scaled(nn.Module):
    """Standardised numbers into TabM, mean of the members' probabilities out."""

    def __init__(self, x: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(x.mean(0)))
        self.register_buffer("std", torch.from_numpy(x.std(0) + 1e-12))
        scaled = (torch.from_numpy(x) - self.mean) / self.std
        bins = compute_bins(scaled, n_bins=24)
        embeddings = PiecewiseLinearEmbeddings(bins, 12, activation=False, version="B")
        self.net = TabM.make(
            n_num_features=x.shape[1],
            d_out=2,
            num_embeddings=embeddings,
            k=MEMBERS,
            n_blocks=2,
            d_block=128,
            dropout=0.1,
        )

    def members(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x - self.mean) / self.std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.members(x), -1).mean(1)


def fit_network(x: np.ndarray, y: np.ndarray, valid: tuple | None, epochs: int) -> tuple[nn.Module, int]:
    """A network and the epochs that early stopping chose."""
    torch.manual_seed(7)
    module = Scaled(x)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=3e-4)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    size = int(np.clip(2 ** round(np.log2(max(len(x) / 30, 1))), 32, 1024))
    best, best_epoch = np.inf, 0
    for epoch in range(1, epochs + 1):
        module.train()
        order = torch.randperm(len(x))
        for at in range(0, len(x), size):
            rows = order[at : at + size]
            loss = nn.functional.cross_entropy(
                module.members(inputs[rows]).flatten(0, 1), labels[rows].repeat_interleave(MEMBERS)
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if valid is None:
            best_epoch = epoch
            continue
        module.eval()
        with torch.inference_mode():
            answer = module(torch.from_numpy(valid[0]))
        held = float(nn.functional.nll_loss(torch.log(answer.clamp_min(1e-12)), torch.from_numpy(valid[1])))
        if held < best:
            best, best_epoch = held, epoch
        if epoch - best_epoch >= PATIENCE:
            break
    return module.eval(), best_epoch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bunch = load_breast_cancer()
    x, y = bunch.data.astype(np.float32), bunch.target.astype(np.int64)
    x, x_held, y, y_held = train_test_split(x, y, test_size=0.2, random_state=7, stratify=y)
    found: dict[str, float] = {}
    fitting = 0.0
    for name, fit, length in (("xgboost", fit_trees, options.rounds), ("torch", fit_network, options.epochs)):
        begin = time.perf_counter()
        lengths = [
            fit(x[train], y[train], (x[valid], y[valid]), length)[1]
            for train, valid in StratifiedKFold(options.folds, shuffle=True, random_state=7).split(x, y)
        ]
        model, _ = fit(x, y, None, round(float(np.mean(lengths))))
        fitting += time.perf_counter() - begin
        if name == "xgboost":
            native = model.predict(xgb.DMatrix(x_held))
            onnx = convert_xgboost(model, initial_types=[("x", FloatTensorType([None, x.shape[1]]))], target_opset=15)
            answer = ort.InferenceSession(onnx.SerializeToString()).run(["probabilities"], {"x": x_held})[0][:, 1]
        else:
            with torch.inference_mode():
                native = model(torch.from_numpy(x_held)).numpy()[:, 1]
            program = torch.onnx.export(
                model, (torch.from_numpy(x[:3]),), dynamo=True, dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}},
                opset_version=18, external_data=False, verbose=False, input_names=["x"],
            )  # fmt: skip
            answer = ort.InferenceSession(program.model_proto.SerializeToString()).run(None, {"x": x_held})[0][:, 1]
        np.testing.assert_allclose(answer, native, atol=1e-5, rtol=1e-4)
        found[name] = float(roc_auc_score(y_held, answer))
    print(json.dumps({"fit_s": fitting, "roc_auc": found}))


if __name__ == "__main__":
    main()
