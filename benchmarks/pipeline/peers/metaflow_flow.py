"""The bare script's steps as a Metaflow flow: a branch for each candidate, run on this machine.

python metaflow_flow.py run --held-out mask.npy --trees-trials 3 ...
"""

from __future__ import annotations

from pathlib import Path

import bare
from metaflow import FlowSpec, Parameter, step


class BenchFlow(FlowSpec):
    """Tune, fit, export and compare two models."""

    held_out = Parameter("held-out", type=str, required=True)
    trees_trials = Parameter("trees-trials", type=int, default=3)
    network_trials = Parameter("network-trials", type=int, default=2)
    folds = Parameter("folds", type=int, default=3)
    epochs = Parameter("epochs", type=int, default=40)

    def candidate(self) -> bare.Candidate:
        return bare.candidates(self.trees_trials, self.network_trials, self.epochs)[self.kind]

    @step
    def start(self) -> None:
        self.rows, self.held = bare.load(Path(self.held_out))
        self.names = ["xgboost", "torch"]
        self.next(self.train, foreach="names")

    @step
    def train(self) -> None:
        self.kind = self.input
        self.fitted = bare.fitted(self.candidate(), self.rows, self.folds)
        self.next(self.export)

    @step
    def export(self) -> None:
        self.content = self.candidate().export(self.fitted.model, self.rows[0].shape[1])
        self.next(self.check)

    @step
    def check(self) -> None:
        self.loss = bare.checked(self.candidate(), self.fitted.model, self.content, self.held)
        self.next(self.join)

    @step
    def join(self, inputs: object) -> None:
        self.found = {one.kind: (one.fitted, one.loss) for one in inputs}  # type: ignore[attr-defined]
        self.next(self.end)

    @step
    def end(self) -> None:
        print(bare.said(self.found))


if __name__ == "__main__":
    BenchFlow()
