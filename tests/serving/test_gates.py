"""Each gate passes what is good and stops what was planted; what cannot be judged is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.columns import RowSchema
from pipeline.refs import Verdict
from pipeline.spec import PipelineSpec
from pipeline.spec_file import parse_spec
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from serving.gates.base import Champion, Evidence, Gate, judge
from serving.gates.champion import ChampionGate
from serving.gates.parity import ParityGate
from serving.gates.quality import QualityGate
from serving.gates.robustness import RobustnessGate
from tests.serving.known import SCHEMA, native, rows, spec_of

FRAME = rows(400)
TENSORS = to_tensors(FRAME, SCHEMA)
TARGET = encode_target(FRAME, SCHEMA)
GOOD = native(3.0, TENSORS)
TODAY = date(2026, 11, 25)


@dataclass
class Answering:
    """Stands where the client of a server stands (serving/triton.py, tested on the real one): answers by a function."""

    answer: Callable[[dict[str, np.ndarray]], np.ndarray]

    def replay(
        self, name: str, tensors: dict[str, np.ndarray], output: str, version: str = "", batch: int = 256
    ) -> np.ndarray:
        return self.answer(tensors)


def evidence(gates: str = "{}", **changes: Any) -> Evidence:
    found = Evidence(
        spec=spec_of("m", gates),
        schema=SCHEMA,
        tensors=TENSORS,
        target=TARGET,
        native=GOOD,
        served=GOOD,
        onnx_digest="new",
        champion=None,
        challenger=Answering(lambda tensors: native(3.0, tensors)),  # type: ignore[arg-type]
        version=2,
    )
    return replace(found, **changes)


def verdict(kind: type[Gate], found: Evidence) -> Verdict:
    return judge([kind(found)], TODAY)[0]


def champion(answers: np.ndarray | None, digest: str = "old", problem: str = "") -> Champion:
    return Champion(version=1, onnx_digest=digest, answers=answers, problem=problem)


def test_quality_holds_each_bound() -> None:
    good = verdict(QualityGate, evidence("{quality: {at_least: {roc_auc: 0.9}, at_most: {log_loss: 0.6}}}"))
    assert good.passed
    assert good.observed > good.bound == 0.9  # type: ignore[operator]
    bad = verdict(
        QualityGate, evidence("{quality: {at_least: {roc_auc: 0.9999, accuracy: 0.999}, at_most: {brier: 0.001}}}")
    )
    assert not bad.passed
    assert all(name in bad.reason for name in ("roc_auc", "accuracy", "brier"))
    assert "one answer for all rows is 0.5" in verdict(QualityGate, evidence()).reason


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(lambda good: good[:, ::-1], id="labels swapped"),
        pytest.param(lambda good: np.full_like(good, 0.5), id="a constant model"),
        pytest.param(lambda good: np.where(np.arange(len(good))[:, None] == 3, np.nan, good), id="one NaN"),
        pytest.param(lambda good: np.roll(good, 1, axis=0), id="rows out of order"),
    ],
)
def test_quality_stops_corruptions(planted: Callable) -> None:
    served = planted(GOOD).astype(np.float32)
    assert not verdict(QualityGate, evidence("{quality: {at_least: {roc_auc: 0.9}}}", served=served)).passed
    assert not verdict(ParityGate, evidence(served=served)).passed


def test_the_champion_is_compared_on_the_same_rows() -> None:
    assert "no champion" in verdict(ChampionGate, evidence()).reason
    worse = native(0.2, TENSORS) * 0.7 + 0.15 + 0.3 * np.random.default_rng(1).random((400, 1)) * [[1, -1]]
    better = verdict(ChampionGate, evidence(champion=champion(worse.astype(np.float32))))
    assert better.passed
    assert better.numbers["gain"] > 0
    back = verdict(ChampionGate, evidence(served=worse.astype(np.float32), champion=champion(GOOD)))
    assert not back.passed
    assert back.observed < back.bound  # type: ignore[operator]
    assert "worse than the margin" in back.reason
    assert 0 <= better.numbers["delong_p"] <= 1
    assert "DeLong" in better.reason
    (gains,) = better.tables
    assert sum(row[2] for row in gains.rows) == pytest.approx(1)  # type: ignore[misc]
    assert gains.rows[0][0] <= better.numbers["gain_low"] <= better.numbers["gain_high"] <= gains.rows[-1][1]  # type: ignore[operator]


def test_a_challenger_is_not_compared_with_itself() -> None:
    same = verdict(ChampionGate, evidence(champion=champion(GOOD, digest="new")))
    assert not same.passed
    assert "not compared with itself" in same.reason


def test_a_second_opinion_fits_the_metric() -> None:
    found = evidence(champion=champion(native(0.5, TENSORS)[:, ::-1]))
    accuracy = replace(found, spec=found.spec.model_copy(update={"metric": "accuracy"}))
    by_label = verdict(ChampionGate, accuracy)
    assert by_label.passed
    assert by_label.numbers["mcnemar_won"] > by_label.numbers["mcnemar_lost"]
    assert "McNemar" in by_label.reason
    log_loss = replace(found, spec=found.spec.model_copy(update={"metric": "log_loss"}))
    assert not any("_p" in key for key in verdict(ChampionGate, log_loss).numbers)


def test_a_comparison_that_cannot_be_made_is_refused() -> None:
    gone = verdict(ChampionGate, evidence(champion=champion(None, problem="column 'q' is missing")))
    assert not gone.passed
    assert "column 'q' is missing" in gone.reason
    few = evidence("{champion: {min_rows: 500}}", champion=champion(GOOD))
    assert "500 are asked" in verdict(ChampionGate, few).reason
    shifted = verdict(ChampionGate, evidence(champion=champion(GOOD[:-1])))
    assert not shifted.passed
    assert "could not be judged" in shifted.reason


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_gains_that_hardly_differ_are_gains(task: str) -> None:
    """A model that is better by the same on every row: nothing to draw, and plainly better."""
    if task == "binary":
        right = np.eye(2)[TARGET.astype(int)]
        ours, theirs = (np.float32(at) * right + np.float32(1 - at) * (1 - right) for at in (0.99, 0.9))
        found = evidence(served=ours.astype(np.float32), champion=champion(theirs.astype(np.float32)))
        found = replace(found, spec=found.spec.model_copy(update={"metric": "log_loss"}))
    else:
        target = np.full(400, 3.0)
        found = evidence(
            target=target,
            served=np.full((400, 1), 3, np.float32),
            champion=champion(np.full((400, 1), 3.1, np.float32)),
            schema=RowSchema(columns=SCHEMA.columns, target="y", task="regression"),
        )
        found = replace(found, spec=found.spec.model_copy(update={"metric": "rmse"}))
    better = verdict(ChampionGate, found)
    assert better.passed, better.reason
    assert sum(row[2] for row in better.tables[0].rows) == pytest.approx(1)  # type: ignore[misc]


def test_rows_that_the_champion_has_learnt_by_heart_do_not_count_for_it() -> None:
    learnt = np.arange(400) < 360
    by_heart = np.where(learnt[:, None], np.eye(2)[TARGET.astype(int)], native(0.1, TENSORS)[:, ::-1]).astype(
        np.float32
    )
    heart = champion(by_heart)
    assert not verdict(ChampionGate, evidence(champion=heart)).passed
    fair = verdict(ChampionGate, evidence(champion=replace(heart, unseen=~learnt)))
    assert fair.passed
    assert "on 40 held-out rows that the champion has not seen" in fair.reason
    none = verdict(ChampionGate, evidence(champion=replace(heart, unseen=np.zeros(400, dtype=bool))))
    assert "0 held-out rows that the champion has not seen, 30 are asked" in none.reason


def test_parity_is_within_the_declared_tolerance() -> None:
    near = (GOOD + 5e-6).astype(np.float32)
    assert verdict(ParityGate, evidence(served=near)).passed
    assert not verdict(ParityGate, evidence("{parity: {atol: 1e-7, rtol: 0}}", served=near)).passed
    assert "shape" in verdict(ParityGate, evidence(served=GOOD[:, :1])).reason


def test_parity_says_between_whom_it_fails() -> None:
    other = native(2.0, TENSORS)
    whole = verdict(ParityGate, evidence(onnx=GOOD))
    assert whole.passed
    assert "served and native, ONNX and native, served and ONNX" in whole.reason
    assert [row[1] for row in whole.tables[0].rows] == [0, 0, 0]
    exported = verdict(ParityGate, evidence(onnx=other, served=other))
    assert "ONNX and native: " in exported.reason
    assert "served and ONNX" not in exported.reason
    served = verdict(ParityGate, evidence(onnx=GOOD, served=other))
    assert "served and ONNX: " in served.reason
    assert "ONNX and native" not in served.reason
    nan = verdict(ParityGate, evidence(onnx=np.full_like(GOOD, np.nan)))
    assert not nan.passed
    assert "ONNX and native: 400 answers are not finite" in nan.reason


def test_robustness_is_about_small_changes() -> None:
    assert verdict(RobustnessGate, evidence()).passed
    jumpy = Answering(lambda tensors: native(3000.0, tensors))
    found = evidence(challenger=jumpy, served=native(3000.0, TENSORS))
    assert (
        verdict(
            RobustnessGate, replace(found, spec=spec_of("m", "{robustness: {noise: 0.5, mean_change: 0.01}}"))
        ).passed
        is False
    )
    silent = Answering(lambda tensors: np.full((len(tensors["numeric"]), 2), np.nan, dtype=np.float32))
    assert not verdict(RobustnessGate, evidence(challenger=silent)).passed
    only_text = RowSchema(columns=SCHEMA.columns[2:], target="y", task="binary", classes=("no", "yes"))
    words = {"categorical": TENSORS["categorical"]}
    steady = Answering(lambda tensors: GOOD[: len(tensors["categorical"])])
    assert verdict(RobustnessGate, evidence(schema=only_text, tensors=words, challenger=steady)).passed


def test_a_gate_that_breaks_or_was_not_asked_is_refused() -> None:
    class Broken(Gate):
        name = "broken"

        def judge(self) -> Verdict:
            return self.passed(str(1 / 0))

    found = verdict(Broken, evidence())
    assert not found.passed
    assert "could not be judged" in found.reason
    unasked = Broken(evidence())
    assert unasked.is_successful() is False

    class Hungry(Gate):
        name = "hungry"

        def judge(self) -> Verdict:
            return self.passed(str(np.zeros(1 << 55)))

    assert verdict(Hungry, evidence()).reason.startswith("could not be judged: Unable to allocate")

    class Lying(Gate):
        name = "lying"

        def judge(self) -> Verdict:
            return self.passed("fine")

        def measure(self, *arguments: Any, **options: Any) -> float:
            score = super().measure(*arguments, **options)
            self.success = None
            return score

    assert not verdict(Lying, evidence()).passed


def test_regression_and_its_scale() -> None:
    spec: PipelineSpec = parse_spec(
        "version: 1\nname: r\ntask: {kind: regression}\ndata: {source: s, target: y}\ncandidates: [{kind: xgboost}]\n"
        "gates: {quality: {at_least: {r2: 0.5}, at_most: {rmse: 50}}}\n",
        "r",
    )
    schema = RowSchema(columns=SCHEMA.columns, target="y", task="regression")
    target = TENSORS["numeric"][:, 0].astype(np.float64) * 100
    answers = (target[:, None] + 1).astype(np.float32)
    found = evidence(
        spec=spec, schema=schema, target=target, native=answers, served=answers,
        challenger=Answering(lambda tensors: np.nan_to_num(tensors["numeric"][:, :1]) * 100 + 1),
        champion=champion((answers + 30).astype(np.float32)),
    )  # fmt: skip
    verdicts = judge([kind(found) for kind in (QualityGate, ChampionGate, ParityGate, RobustnessGate)], TODAY)
    assert [one.passed for one in verdicts] == [True] * 4, [one.reason for one in verdicts]


def test_nothing_is_written_and_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    verdict(QualityGate, evidence())
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""


def test_the_import_of_deepeval_leaves_stdout_alone() -> None:
    code = "import os, sys, serving.gates.evals; print(os.environ['DEEPEVAL_FILE_SYSTEM'], file=sys.stderr)"
    for given in ({}, {"DEEPEVAL_FILE_SYSTEM": "READ_ONLY"}):
        environment = {name: value for name, value in os.environ.items() if name != "DEEPEVAL_FILE_SYSTEM"} | given
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr.splitlines()[-1]) == ("", "READ_ONLY")
