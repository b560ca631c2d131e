"""The slipway command: sentences and exit codes, tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pipeline import refs
from pipeline.cli import app
from pipeline.graph import STEPS
from pipeline.show import Board, verdict
from pipeline.stack import Part
from pipeline.summary import Summary, TaskTime

Slipway = Callable[..., Result]
GOOD = 'version: 1\nname: demo\ntask: {kind: binary, positive: malignant}\ndata: {source: "sklearn://breast_cancer", target: target}\ncandidates: [{kind: xgboost}]\n'


@pytest.fixture
def slipway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slipway:
    """The command, in a project of its own with nothing running; ports on which nobody listens."""
    for name, value in {
        "HOME": tmp_path / "home",
        "SPECS_DIR": tmp_path / "specs",
        "SUITES_DIR": tmp_path / "suites",
        "MLFLOW_URI": "http://127.0.0.1:9",
        "AIRFLOW_PORT": 9,
        "TRITON_GRPC_PORT": 9,
        "TRITON_HTTP_PORT": 9,
        "TIMEOUT_S": 2,
    }.items():
        monkeypatch.setenv(f"SLIPWAY_{name}", str(value))
    for name, value in {"MAX_RETRIES": 1, "TIMEOUT": 2}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", str(value))
    (tmp_path / "specs").mkdir()
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


def test_help_names_every_command(slipway: Slipway) -> None:
    told = slipway("--help").output
    for name in (
        "init",
        "validate",
        "run",
        "up",
        "down",
        "status",
        "trigger",
        "predict",
        "lineage",
        "verify",
        "rollback",
        "reconcile",
        "spec",
        "steps",
    ):
        assert name in told
        assert slipway(name, "--help").exit_code == 0


def test_steps_and_schema(slipway: Slipway) -> None:
    assert [step["step"].split()[0] for step in json.loads(slipway("steps", "--json").output)["steps"]] == [
        step.name for step in STEPS
    ]
    assert "snapshot" in slipway("steps").output
    assert "candidates" in json.loads(slipway("spec", "schema").output)["properties"]


def test_an_engine_that_is_not_installed_is_told_before_anything_runs(
    slipway: Slipway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GOOD.replace("{kind: xgboost}", "{kind: xgboost, engine: {kind: ray, workers: 2}}")
    (tmp_path / "specs" / "far.yaml").write_text(text)
    assert slipway("validate", "far", "--no-data").exit_code == 0
    monkeypatch.setattr("pipeline.commands.author.util.find_spec", lambda _: None)
    for command in (("validate", "far"), ("run", "far")):
        told = slipway(*command)
        assert told.exit_code == 2
        assert "candidates.0.engine: Ray is not installed" in " ".join(told.output.split())
        assert "pip install '.[ray]'" in " ".join(told.output.split())


def test_validate_says_everything_that_is_wrong_at_once(slipway: Slipway, tmp_path: Path) -> None:
    (tmp_path / "specs" / "good.yaml").write_text(GOOD)
    assert "569 rows, 30 columns" in slipway("validate", "good").output
    (tmp_path / "specs" / "bad.yaml").write_text(GOOD.replace("name: demo", "nam: demo"))
    (tmp_path / "specs" / "worse.yaml").write_text(GOOD.replace("target: target", "target: tarjet"))
    result = slipway("validate")
    assert result.exit_code == 2
    told = " ".join(result.output.split())
    for part in ("unknown key 'nam'", "did you mean 'name'", "no column 'tarjet'", "did you mean 'target'"):
        assert part in told
    result = slipway("validate", "--json")
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["problems"]) == 3
    (tmp_path / "specs" / "bad.yaml").unlink()
    waived = GOOD + "gates: {waivers: [{gate: slices, by: Ada, reason: known since spring, until: 2026-01-31}]}\n"
    (tmp_path / "specs" / "waived.yaml").write_text(waived)
    assert "the waiver of slices by Ada expired on 2026-01-31" in slipway("validate", "waived").output
    assert slipway("validate", "--no-data").exit_code == 0
    (tmp_path / "specs" / "worse.yaml").write_text(GOOD + "checks: {suite: none}\n")
    assert "there is no suite 'none'" in " ".join(slipway("validate", "worse").output.split())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "nobody"], 2, "there is no spec 'nobody'"),
        (["run", "none.yaml"], 2, "there is no such spec"),
        (["trigger", "nobody"], 2, "there is no spec 'nobody'"),
        (["up", "mlfow"], 2, "mlfow"),
        (["predict", "demo", "none.csv"], 2, "the rows cannot be read"),
        (["init", "none.csv", "--target", "y"], 2, "there is no such file"),
        (["init", "postgresql://me:secret@h/d", "-t", "y", "--table", "t"], 2, "name the variable that holds"),
        (["lineage", "demo"], 1, "MLflow does not answer"),
        (["lineage", "demo/x"], 2, "'x' is not a version"),
        (["verify", "demo"], 1, "MLflow does not answer"),
        (["verify", "demo/x"], 2, "'x' is not a version"),
        (["rollback", "demo"], 2, "was ever promoted"),
    ],
)
def test_wrong_input_is_a_sentence_and_an_exit_code(
    slipway: Slipway, arguments: list[str], code: int, says: str
) -> None:
    for extra in ([], ["--json"]):
        result = slipway(*arguments, *extra)
        assert result.exit_code == code
        assert says in " ".join(result.output.split())
        assert "Traceback" not in result.output
        if extra:
            assert json.loads(result.stdout)["problems"][0]["what"]


def test_a_run_that_is_not_there_is_not_begun(slipway: Slipway, tmp_path: Path) -> None:
    (tmp_path / "specs" / "demo.yaml").write_text(GOOD)
    result = slipway("run", "demo", "--run-id", "r1")
    assert result.exit_code == 2
    assert "run r1 of demo: there is no such run to continue" in " ".join(result.output.split())


def test_a_program_that_is_silent_is_shown_so(slipway: Slipway, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (Part("mlflow", "running", "http://h:1", healthy=False), Part("triton", "stopped", "", healthy=False))
    monkeypatch.setattr("pipeline.stack.status", lambda _: parts)
    shown = slipway("status").output
    assert "running, does not answer" in shown
    assert "stopped, does" not in shown


def test_servers_that_do_not_answer(slipway: Slipway, tmp_path: Path) -> None:
    (tmp_path / "specs" / "demo.yaml").write_text(GOOD)
    (tmp_path / "rows.csv").write_text("a\n1\n")
    for arguments, says in (
        (["predict", "demo", "rows.csv"], "Triton does not answer"),
        (["trigger", "demo"], "Airflow"),
    ):
        result = slipway(*arguments)
        assert result.exit_code == 1
        assert says in " ".join(result.output.split())
        assert "slipway up" in " ".join(result.output.split())


def test_a_wrong_environment_variable(slipway: Slipway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_MLFLOW_PORT", "many")
    result = slipway("status")
    assert result.exit_code == 2
    assert "SLIPWAY_MLFLOW_PORT" in result.output


def test_a_variable_that_is_no_setting(slipway: Slipway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_MLFLOW_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SLIPWAY_STACK", "the mark of a stack")
    result = slipway("status", "--json")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: environment variable SLIPWAY_MLFLOW_URL: there is no such setting -> did you mean SLIPWAY_MLFLOW_URI?\n"
    )
    assert json.loads(result.stdout)["parts"]


def test_the_version(slipway: Slipway) -> None:
    assert slipway("--version").output == f"slipway {metadata.version('slipway')}\n"


def test_a_stack_that_does_not_run(slipway: Slipway) -> None:
    assert {part["state"] for part in json.loads(slipway("status", "--json").output)["parts"]} <= {
        "stopped",
        "external",
    }
    assert "stopped" in slipway("status").output
    assert json.loads(slipway("down", "--json").output) == {"stopped": []}
    assert "nothing ran" in slipway("down").output


def test_init_shows_what_it_found(slipway: Slipway, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(
        "id,a,y\n" + "".join(f"{at},{at % 9}.5,{'p' if at % 2 else 'n'}\n" for at in range(60))
    )
    result = slipway("init", "r.csv", "--target", "y")
    assert result.exit_code == 0
    assert "60 rows, 1 columns" in result.output
    assert "left out: column 'id'" in result.output
    assert slipway("init", "r.csv", "--target", "y").exit_code == 2
    assert json.loads(slipway("init", "r.csv", "--target", "y", "--force", "--json").output)["name"] == "r"


def summary(outcome: str, **changes: object) -> Summary:
    base = {
        "pipeline": "demo", "run": "r1", "outcome": outcome, "reasons": (), "tasks": (TaskTime(task="train_x", seconds=3.0, fit_s=2.0),),
        "dataset": None, "checks": None, "evaluation": None, "version": None, "gates": None, "promotion": None,
    }  # fmt: skip
    return Summary(**base | changes)  # type: ignore[arg-type]


def shown(renderable: object) -> str:
    console = Console(record=True, width=140, force_terminal=False)
    console.print(renderable)
    return console.export_text()


def test_the_verdict_shows_all_that_is_known() -> None:
    scores = (
        refs.CandidateScore(candidate="x", passed=True, reason="winner", metrics={"roc_auc": 0.91234, "accuracy": 0.8}),
        refs.CandidateScore(candidate="t", passed=False, reason="ONNX differs", metrics={}),
    )
    text = shown(
        verdict(
            summary(
                "promoted",
                checks=refs.CheckReport(
                    passed=True, suite="s", suite_digest="d", evaluated=2,
                    failures=(refs.Failure(severity="warning", expectation="e", column="a", message="odd values"),),
                ),
                evaluation=refs.Evaluation(primary="roc_auc", scores=scores, winner="x", dataset_digest="d"),
                gates=refs.GateReport(
                    passed=True, champion=3,
                    verdicts=(refs.Verdict(gate="quality", outcome="passed", reason="good", observed=0.91234, bound=0.8),
                              refs.Verdict(gate="champion", outcome="refused", reason="worse")),
                ),
                promotion=refs.PromotionRef(name="demo", version=4, digest="d", previous=3, http="h", grpc="g"),
            ),
        )
    )  # fmt: skip
    for part in ("odd values", "0.9123", "ONNX differs", "champion 3", "quality", "refused", "train_x", "3.0 s", "1.0 s",
                 "demo version 4", "slipway rollback demo", "promoted"):  # fmt: skip
        assert part in text
    assert "too bad" in shown(verdict(summary("rejected", reasons=("gate quality: too bad",))))


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_on_a_terminal_and_in_a_log(terminal: bool) -> None:
    console = Console(record=True, width=100, force_terminal=terminal)
    with Board(console, "demo r1", ("a", "b")) as board:
        board.update("a", "running")
        board.update("a", "running")
        board.update("a", "done", 2.0)
        board.update("b", "running")
    text = console.export_text()
    assert "done" in text
    assert "2.0 s" in text
