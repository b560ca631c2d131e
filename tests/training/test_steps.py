"""Snapshot, train and evaluate as steps: real MLflow, real models, each run twice and killed between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import Invalid, Rejected
from pipeline.refs import CheckReport, DatasetRef, Failure, LoggedModelRef, OnnxRef
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.spec_file import parse_spec
from pipeline.step import execute
from tests.support.batches import read_rows
from tests.support.tracking import mlflow_client
from training.evaluate import evaluate
from training.export import export
from training.models.base import load_candidate
from training.snapshot import snapshot
from training.train import train

PASSED = CheckReport(passed=True, suite=None, suite_digest=None, evaluated=0)


def spec_of(
    name: str, source: str = "sklearn://wine", kind: str = "multiclass", target: str = "target"
) -> PipelineSpec:
    return parse_spec(
        f"""version: 1
name: {name}
task: {{kind: {kind}}}
data: {{source: "{source}", target: {target}}}
candidates:
  - {{kind: xgboost, trials: 2, folds: 2, rounds: 20}}
  - {{kind: torch, trials: 1, folds: 2, epochs: 3}}
""",
        name,
    )


def run_of(settings: Settings, spec: PipelineSpec, folder: Path, run_id: str = "r1") -> Run:
    return Run(run_id, spec.name, settings, folder / "spec.yaml")


def test_a_snapshot_is_its_content(tracked: Settings, tmp_path: Path) -> None:
    spec = spec_of("snap")
    first = snapshot(spec, run_of(tracked, spec, tmp_path))
    second = snapshot(spec, run_of(tracked, spec, tmp_path, "r2"))
    assert first == second
    assert first.rows == first.train_rows + first.holdout_rows == 178
    assert first.row_schema.classes == ("class_0", "class_1", "class_2")
    assert len(read_rows(run_of(tracked, spec, tmp_path), first)) == 178
    logged = mlflow_client(tracked)
    inputs = logged.get_run(
        run_of(tracked, spec, tmp_path).registry.find_pipeline_run(run_of(tracked, spec, tmp_path))
    ).inputs  # type: ignore[arg-type]
    assert inputs.dataset_inputs[0].dataset.digest == first.digest[:36]


def test_findings_are_carried_and_a_split_that_cannot_judge_is_refused(tracked: Settings, tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": range(100), "b": ["x"] * 100, "c": [at**0.5 for at in range(100)], "y": ["p", "n"] * 50})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    spec = spec_of("found", "rows.csv", "binary", "y")
    found = snapshot(spec, run_of(tracked, spec, tmp_path))
    assert {finding.column for finding in found.findings} == {"a", "b"}
    assert found.row_schema.names() == ("c",)
    rows["y"] = ["p"] * 89 + ["n"] * 11
    rows["c"] = [0] * 89 + [1] * 11  # equal rows fall on one side: all of a class on the same
    rows.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(Invalid, match=r"no (held-out|training) row has the class|only 0 rows"):
        snapshot(spec, run_of(tracked, spec, tmp_path, "r2"))


def test_refused_rows_are_not_trained_on(tracked: Settings, tmp_path: Path) -> None:
    spec = spec_of("refused")
    run = replace(run_of(tracked, spec, tmp_path), candidate="xgboost")
    dataset = snapshot(spec, run)
    failure = Failure(severity="critical", expectation="expect_x", column="a", message="3 values are not as expected")
    report = CheckReport(passed=False, suite="s", suite_digest="d", evaluated=1, failures=(failure,))
    with pytest.raises(Rejected, match="3 values are not as expected"):
        train(spec, dataset, report, run)


@pytest.mark.heavy
def test_from_snapshot_to_the_winner(tracked: Settings, tmp_path: Path) -> None:
    spec = spec_of("winner")
    run = run_of(tracked, spec, tmp_path)
    dataset = snapshot(spec, run)
    graphs: list[OnnxRef] = []
    models: list[LoggedModelRef] = []
    for candidate in spec.candidates:
        one = replace(run, candidate=candidate.name)
        models.append(train(spec, dataset, PASSED, one))
        graphs.append(export(spec, dataset, models[-1], one))
        assert len(load_candidate(run, models[-1]).features.names) == len(dataset.row_schema.columns)
    result = evaluate(spec, dataset, tuple(graphs), run)
    assert result.winner in ("xgboost", "torch")
    best = min(score.metrics["log_loss"] for score in result.scores)
    assert next(score for score in result.scores if score.candidate == result.winner).metrics["log_loss"] == best

    client = mlflow_client(tracked)
    parent = run.registry.find_pipeline_run(run)
    children = client.search_runs(
        [client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )  # type: ignore[arg-type]
    assert {child.info.run_name for child in children} == {"xgboost", "torch"}
    plots = {item.path for item in client.list_artifacts(parent, "plots")}  # type: ignore[arg-type]
    assert {"plots/roc.png", "plots/precision_recall.png", "plots/calibration.png", "plots/confusion.png"} <= plots
    for model in models:
        assert client.get_logged_model(model.model_id).status == "READY"
        assert "plots/importance.png" in {item.path for item in client.list_artifacts(model.run_id, "plots")}
        trials = client.search_runs(
            [client.get_run(model.run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{model.run_id}'"
        )
        assert len(trials) == model.trials
        assert client.get_metric_history(model.run_id, "learning_curve")

    broken = graphs[0].model_copy(update={"passed": False})
    assert evaluate(spec, dataset, (broken, graphs[1]), run).winner == graphs[1].candidate
    none = evaluate(spec, dataset, tuple(graph.model_copy(update={"passed": False}) for graph in graphs), run)
    assert none.winner is None


def test_an_interrupted_candidate_is_trained_afresh_and_a_finished_one_is_not(
    tracked: Settings, tmp_path: Path
) -> None:
    spec = spec_of("again")
    run = run_of(tracked, spec, tmp_path)
    execute(snapshot, spec, run)
    run.store.write(f"{run.key}/check.json", _envelope(PASSED))
    one = replace(run, candidate="xgboost")
    abandoned = run.registry.candidate_run(run, spec, "xgboost")  # what a killed attempt leaves
    first = execute(train, spec, one)
    assert execute(train, spec, one) == first
    client = mlflow_client(tracked)
    assert client.get_run(abandoned).info.lifecycle_stage == "deleted"
    run.store.delete(f"{run.key}/train_xgboost.json")
    again = execute(train, spec, one)
    assert (again.digest, again.key) == (first.digest, first.key)  # type: ignore[attr-defined]


def test_regression_has_its_own_plots(prepare: Callable, candidate: Callable) -> None:
    prepared = prepare("regression", {"trees": candidate("xgboost", "regression")})
    graph = export(*prepared.of("trees"))
    result = evaluate(prepared.spec, prepared.dataset, (graph,), prepared.run)
    assert result.winner == "trees"
    client = mlflow_client(prepared.run.settings)
    drawn = {item.path for item in client.list_artifacts(graph.run_id, "plots")}
    assert drawn >= {"plots/residuals.png", "plots/predicted_against_true.png"}


def _envelope(report: CheckReport) -> bytes:
    from pipeline.run import Envelope

    return (
        Envelope(task="check", kind="CheckReport", ref=report.model_dump_json(), seconds=0, finished_at="")
        .model_dump_json()
        .encode()
    )


def test_a_dataset_reference_is_plain_json() -> None:
    assert "row_schema" in DatasetRef.model_json_schema()["properties"]
