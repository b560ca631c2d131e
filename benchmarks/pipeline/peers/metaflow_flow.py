"""The bare script's steps as a Metaflow flow: a branch for each candidate, run on this machine.

python metaflow_flow.py run --held-out mask.npy --trees-trials 3 ...
"""

from __future__ import annotations

from pathlib import Path

import bare
import glue
from metaflow import FlowSpec, Parameter, step


class BenchFlow(FlowSpec):
    """Tune, fit, export and compare two models."""

    held_out = Parameter("held-out", type=str, required=True)
    trees_trials = Parameter("trees-trials", type=int, default=3)
    network_trials = Parameter("network-trials", type=int, default=2)
    folds = Parameter("folds", type=int, default=3)
    epochs = Parameter("epochs", type=int, default=40)
    whole = Parameter("whole", is_flag=True, default=False)

    def candidate(self) -> bare.Candidate:
        return bare.candidates(self.trees_trials, self.network_trials, self.epochs)[self.kind]

    @step
    def start(self) -> None:
        self.rows, self.held = bare.load(Path(self.held_out))
        self.names = ["xgboost", "torch"]
        self.next(self.check_rows)

    @step
    def check_rows(self) -> None:
        if self.whole:
            glue.check_rows()
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
        self.next(self.track)

    @step
    def track(self) -> None:
        self.uri = ""
        if self.whole:
            answer = glue.answers(self.content, self.held)
            self.uri = glue.track(self.kind, self.fitted, self.content, answer, self.loss, self.held)
        self.next(self.join)

    @step
    def join(self, inputs: object) -> None:
        every = list(inputs)  # type: ignore[call-overload]
        self.found = {one.kind: (one.fitted, one.loss) for one in every}
        best = min(every, key=lambda one: one.loss)
        self.content, self.uri, self.held = best.content, best.uri, best.held
        self.next(self.register)

    @step
    def register(self) -> None:
        self.version = glue.register(self.uri) if self.whole else ""
        self.next(self.gates)

    @step
    def gates(self) -> None:
        self.verdict = {}
        if self.whole:
            self.verdict = glue.gates(self.content, self.held, glue.answers(self.content, self.held))
        self.next(self.promote)

    @step
    def promote(self) -> None:
        if self.whole:
            glue.promote(self.version, self.content, self.verdict)
        self.next(self.end)

    @step
    def end(self) -> None:
        print(bare.said(self.found))


if __name__ == "__main__":
    BenchFlow()
