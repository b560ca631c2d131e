"""Store, run, step, dataset, tensors: what the rooms build on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.columns import Column, RowSchema
from pipeline.dataset import held_out
from pipeline.digest import digest_tree
from pipeline.errors import Invalid, Problem, Rejected, Unavailable
from pipeline.frozen import Frozen
from pipeline.graph import STEPS, Task, step_named, task_upstream, tasks
from pipeline.refs import CheckReport, DatasetRef
from pipeline.run import Run, new_run_id, slug
from pipeline.settings import Settings, read_settings
from pipeline.spec import PipelineSpec, Split
from pipeline.spec_file import parse_spec
from pipeline.stack import status
from pipeline.step import execute, pin_spec
from pipeline.store import Store
from pipeline.target import encode_target
from pipeline.tensors import MISSING_TIMESTAMP, category_strings, to_tensors
from tests.support.tracking import new_tracking_uri

ROOT = Path(__file__).resolve().parents[2]
SPEC = parse_spec(
    'version: 1\nname: demo\ntask: {kind: binary}\ndata: {source: "sklearn://breast_cancer", target: target}\ncandidates: [{kind: xgboost}, {kind: torch}]\n',
    "demo.yaml",
)
SCHEMA = RowSchema(
    columns=(
        Column(name="n", kind="number"),
        Column(name="c", kind="category"),
        Column(name="b", kind="boolean"),
        Column(name="t", kind="timestamp"),
    ),
    target="y",
    task="binary",
    classes=("no", "yes"),
)


# Errors


def test_a_problem_says_what_where_and_what_to_do() -> None:
    assert str(Problem("it is wrong", "here", "mend it")) == "here: it is wrong -> mend it"
    assert str(Invalid([Problem("a"), Problem("b")])) == "a\nb"
    assert (Unavailable("x").exit_code, Invalid("x").exit_code, Rejected("x").exit_code) == (1, 2, 3)


# Store


@pytest.mark.parametrize("url", ["local", "memory://slipway-test-store"])
def test_the_first_writer_stays(url: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store") if url == "local" else url)
    store.write("a/b.json", b"first")
    store.write("a/b.json", b"second")
    assert store.read("a/b.json") == b"first"
    store.write("a/b.json", b"third", replace=True)
    assert store.read("a/b.json") == b"third"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x").write_text("1")
    store.put(folder, "kept")
    (folder / "x").write_text("2")
    store.put(folder, "kept")
    with store.local("kept") as local:
        assert (local / "x").read_text() == "1"
    for content in ("1", "2"):
        (tmp_path / "file").write_text(content)
        store.put(tmp_path / "file", "rows.parquet")
    assert store.read("rows.parquet") == b"1"
    assert store.list("a") == ("b.json",)
    assert store.list("none") == ()
    store.delete("a")
    assert not store.exists("a/b.json")
    with pytest.raises(FileNotFoundError):
        store.read("a/b.json")
    with pytest.raises(FileNotFoundError), store.local("a"):
        pass
    assert not [name for name in tmp_path.rglob(".*") if name.is_file()]


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.ENOSPC, Unavailable, "the disk is full"),
        (errno.EACCES, Invalid, "no permission"),
        (errno.EIO, Unavailable, "failed"),
    ],
)
def test_a_disk_that_fails_is_told_in_a_sentence(
    number: int, kind: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.write("old", b"kept")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(kind, match=says):
        store.write("new", b"x")
    assert store.read("old") == b"kept"
    assert not store.exists("new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device() -> None:
    with pytest.raises(OSError, match="No space"), Path("/dev/full").open("wb", buffering=0) as device:
        device.write(b"x")


# Run and step


class Counter:
    """A step function that counts, under the name of a real step."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls, self.error = 0, error

    def function(self) -> object:
        def check(spec: PipelineSpec, dataset: DatasetRef, run: Run) -> CheckReport:
            self.calls += 1
            if self.error:
                raise self.error
            return CheckReport(passed=True, suite=spec.name, suite_digest=dataset.digest, evaluated=len(run.id))

        check.__annotations__ = {"spec": PipelineSpec, "dataset": DatasetRef, "run": Run, "return": CheckReport}
        return check


def a_run(tmp_path: Path) -> Run:
    run = Run("r1", "demo", Settings(home=tmp_path, mlflow_uri=f"sqlite:///{tmp_path}/m.db"), tmp_path / "demo.yaml")
    ref = DatasetRef(digest="d" * 64, key="k", source="s", row_schema=SCHEMA, rows=2, train_rows=1, holdout_rows=1)
    envelope = {
        "task": "snapshot",
        "kind": "DatasetRef",
        "ref": ref.model_dump_json(),
        "seconds": 1.0,
        "finished_at": "",
    }
    run.store.write(f"{run.key}/snapshot.json", json.dumps(envelope).encode())
    return run


def test_a_finished_step_is_not_done_again_and_a_failed_one_is(tmp_path: Path) -> None:
    run, once = a_run(tmp_path), Counter()
    first = execute(once.function(), SPEC, run)  # type: ignore[arg-type]
    assert execute(once.function(), SPEC, run) == first  # type: ignore[arg-type]
    assert once.calls == 1
    run.store.delete(f"{run.key}/check.json")
    failing = Counter(Unavailable("no answer"))
    for _ in range(2):
        with pytest.raises(Unavailable):
            execute(failing.function(), SPEC, run)  # type: ignore[arg-type]
    assert failing.calls == 2
    assert run.envelope("check") is None


def test_mlflow_is_told_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow without a server puts artifacts
    new_tracking_uri(tmp_path / "m.db")
    run = a_run(tmp_path)
    run_id = run.registry.pipeline_run(run, SPEC)
    with pytest.raises(Rejected):
        execute(Counter(Rejected("not good enough")).function(), SPEC, run)  # type: ignore[arg-type]
    assert run.registry.find_tag(run_id, "slipway.outcome") == "rejected"
    assert "not good enough" in str(run.registry.find_tag(run_id, "slipway.reason"))


def test_a_reference_that_is_absent_or_damaged_is_told(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with pytest.raises(Invalid, match="has left no reference"):
        run.ref(CheckReport)
    run.store.write(f"{run.key}/check.json", b"{half")
    with pytest.raises(Invalid, match="cannot be read"):
        run.ref(CheckReport)
    run.store.write(f"{run.key}/spec.json", b"{half")
    with pytest.raises(Invalid, match="pinned"):
        pin_spec(run, SPEC)


def test_a_run_keeps_the_spec_that_it_began_with(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert pin_spec(run, SPEC) == SPEC
    assert pin_spec(run, SPEC.model_copy(update={"seed": 99})).seed == SPEC.seed


def test_run_ids_sort_by_time() -> None:
    assert len({new_run_id() for _ in range(50)}) > 40
    assert new_run_id()[:8].isdigit()


def test_tasks_come_after_what_they_read() -> None:
    every = tasks(("a", "b"))
    keys = [task.key for task in every]
    assert len(keys) == len(STEPS) + 2
    for task in every:
        assert all(keys.index(other.key) < keys.index(task.key) for other in task_upstream(task, ("a", "b")))
    assert {task.key for task in task_upstream(Task(step_named("evaluate")), ("a", "b"))} == {
        "snapshot",
        "export_a",
        "export_b",
    }
    assert {task.key for task in task_upstream(Task(step_named("export"), "a"), ("a", "b"))} == {"snapshot", "train_a"}


STEP = [sys.executable, "-m", "training.snapshot"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--spec", "none.yaml", "--run", "r"], 2, "invalid: none.yaml: there is no such spec"),
        (["--spec", "demo.yaml", "--run", "r", "--params", '{"trials": 0}'], 2, "trials"),
        (["--spec", "demo.yaml", "--run", "r"], 2, "there is no such file"),
    ],
)
def test_a_step_is_a_command_whose_exit_code_is_the_retry_policy(
    arguments: list[str], code: int, says: str, tmp_path: Path
) -> None:
    text = SPEC.model_copy(update={"data": SPEC.data.model_copy(update={"source": "none.csv"})}).model_dump_json(
        exclude_none=True
    )
    (tmp_path / "demo.yaml").write_text(text)
    environment = {**os.environ, "SLIPWAY_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*STEP, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_candidate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(SPEC.model_dump_json(exclude_none=True))
    environment = {**os.environ, "SLIPWAY_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "training.train", "--spec", "demo.yaml", "--run", "r", "--candidate", "forest"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "no candidate 'forest'" in done.stderr) == (2, True)


# Settings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_MLFLOW_PORT", "5055")
    found = read_settings()
    assert (found.home, found.mlflow_uri, found.store) == (tmp_path, "http://127.0.0.1:5055", str(tmp_path / "store"))
    monkeypatch.setenv("SLIPWAY_MLFLOW_PORT", "many")
    monkeypatch.setenv("SLIPWAY_TIMEOUT_S", "-1")
    for value in ("inf", "-1", "0.001"):
        monkeypatch.setenv("SLIPWAY_MEMORY_GIB", value)
        with pytest.raises(Invalid, match=f"SLIPWAY_MEMORY_GIB: .*{value}"):
            read_settings()
    with pytest.raises(Invalid) as refused:
        read_settings()
    assert "SLIPWAY_MLFLOW_PORT" in str(refused.value)
    assert "SLIPWAY_TIMEOUT_S" in str(refused.value)


def test_servers_that_listen_everywhere_are_called_by_loopback(tmp_path: Path) -> None:
    everywhere = Settings(home=tmp_path, host="0.0.0.0")
    assert everywhere.airflow_url == "http://127.0.0.1:8080"
    assert everywhere.triton_grpc == "127.0.0.1:8001"
    assert "external" not in {part.state for part in status(everywhere)}
    elsewhere = Settings(home=tmp_path, host="0.0.0.0", mlflow_uri="http://localhost:5000")
    assert {part.name for part in status(elsewhere) if part.state == "external"} == {"mlflow"}


# Data


def test_held_out_rows_stay_held_out() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "n": random.normal(size=2000),
            "c": random.choice(["a", None], 2000),
            "t": pd.Timestamp("2026-01-01", tz="UTC"),
        }
    )
    mask = held_out(frame, Split(holdout=0.2))
    assert 0.17 < mask.mean() < 0.23
    later = pd.concat([frame.sample(500, random_state=1), frame]).reset_index(drop=True)
    assert (held_out(later, Split(holdout=0.2))[500:] == mask).all()
    assert (held_out(frame.astype({"c": "str"}).where(frame.notna()), Split(holdout=0.2)) == mask).all()
    assert (held_out(frame, Split(holdout=0.2, seed=8)) != mask).any()
    assert held_out(frame, Split(holdout=0.5)).mean() > mask.mean()


def test_rows_become_tensors() -> None:
    frame = pd.DataFrame(
        {
            "n": ["1.5", None, "1e60"],
            "c": [1.0, None, 2.0],
            "b": ["yes", "false", ""],
            "t": ["2026-01-01", None, "1969-12-31T23:59:59Z"],
            "extra": 1,
        }
    )
    found = to_tensors(frame, SCHEMA)
    assert found["numeric"].tolist()[0] == [1.5, 1.0]
    assert np.isnan(found["numeric"][1, 0]) and np.isinf(found["numeric"][2, 0])  # noqa: PT018
    assert found["categorical"].ravel().tolist() == ["1", "", "2"]
    assert found["timestamp"].ravel().tolist() == [1_767_225_600, MISSING_TIMESTAMP, -1]


def test_rows_that_do_not_fit_are_told_all_at_once() -> None:
    with pytest.raises(Invalid) as refused:
        to_tensors(pd.DataFrame({"n": ["x"], "b": ["maybe"], "c": [""], "t": ["soon"]}), SCHEMA, "r.csv")
    for part in ("'x' is not a number", "'maybe' is not a boolean", "'soon' is not a timestamp", "row 1"):
        assert part in str(refused.value)
    with pytest.raises(Invalid, match="column 'n' is missing"):
        to_tensors(pd.DataFrame({"c": ["x"]}), SCHEMA)


def test_one_spelling_of_a_category() -> None:
    spelled = [category_strings(pd.Series(values)).tolist() for values in ([1, 2], [1.0, 2.0], ["1", "2"])]
    assert spelled == [["1", "2"]] * 3
    assert category_strings(pd.Series([1.0, None])).tolist() == ["1", ""]


def test_a_label_that_is_no_class_is_refused() -> None:
    assert encode_target(pd.DataFrame({"y": ["yes", "no"]}), SCHEMA).tolist() == [1.0, 0.0]
    with pytest.raises(Invalid, match="'maybe' is not one of"):
        encode_target(pd.DataFrame({"y": ["maybe"]}), SCHEMA)


def test_values_are_frozen_and_closed(tmp_path: Path) -> None:
    class Point(Frozen):
        x: int

    with pytest.raises(ValueError, match="frozen"):
        Point(x=1).x = 2
    with pytest.raises(ValueError, match="extra"):
        Point.model_validate({"x": 1, "y": 2})
    (tmp_path / "f").write_bytes(b"")
    assert list(digest_tree(tmp_path)) == ["f"]


@pytest.mark.parametrize(
    "name", ["../../../../escape", "/etc", "a/b", "..", ".hidden", "-x", "", "a b", "a\n", "a\\b", "x" * 251, "\u00e4"]
)
def test_a_run_lies_in_its_own_folder(tmp_path: Path, name: str) -> None:
    for run, pipeline in ((name, "demo"), ("r1", name)):
        with pytest.raises(Invalid, match=r"cannot be the id of a (run|pipeline) -> use at most 250 letters"):
            Run(run, pipeline, Settings(home=tmp_path), tmp_path / "demo.yaml")


@pytest.mark.parametrize("name", ["r1", "20261123t101500-k3f9", "My_run.2", "x" * 250])
def test_a_run_has_the_name_that_a_folder_may_have(tmp_path: Path, name: str) -> None:
    assert Run(name, "demo", Settings(home=tmp_path), tmp_path / "demo.yaml").key == f"runs/demo/{name}"


def test_whatever_airflow_calls_a_run_is_made_a_name(tmp_path: Path) -> None:
    for name in ("manual__2026-11-25T13:28:58+00:00", "../../escape", "\u00e4" * 250, "A" * 250, "-" * 9, "a/" * 125):
        Run(slug(name), "demo", Settings(home=tmp_path), tmp_path / "demo.yaml")
