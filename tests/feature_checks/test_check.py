"""Step check and init, on a real MLflow: the report says, a page shows, what init writes is valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from feature_checks.check import check
from feature_checks.profile import init
from pipeline.errors import Invalid
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.spec_file import load_spec
from tests.support.tracking import mlflow_client, new_tracking_uri
from training.snapshot import snapshot

TABLE = "age,colour,when,target\n" + "".join(
    f"{20 + at % 40},{['red', 'green', 'blue'][at % 3]},2026-01-{1 + at % 28:02d},{'yes' if at % 3 else 'no'}\n"
    for at in range(120)
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.chdir(tmp_path)  # MLflow without a server keeps artifacts below the current folder
    folders = {"specs_dir": tmp_path / "specs", "suites_dir": tmp_path / "suites"}
    return Settings(home=tmp_path / "home", mlflow_uri=new_tracking_uri(tmp_path / "mlflow.db"), **folders)  # type: ignore[return-value]


def prepare(settings: Settings, tmp_path: Path) -> tuple[PipelineSpec, DatasetRef, Run]:
    (tmp_path / "people.csv").write_text(TABLE)
    report = init(str(tmp_path / "people.csv"), "target", settings)
    spec = load_spec(report.spec_path)
    run = Run("r1", spec.name, settings, report.spec_path)
    return spec, snapshot(spec, run), run


def artifacts(run: Run, folder: str) -> set[str]:
    client = mlflow_client(run.settings)
    return {item.path for item in client.list_artifacts(str(run.registry.find_pipeline_run(run)), folder)}


def test_what_init_writes_is_valid_and_met_by_its_rows(settings: Settings, tmp_path: Path) -> None:
    spec, dataset, run = prepare(settings, tmp_path)
    assert (spec.name, spec.task.kind, spec.checks.suite) == ("people", "binary", "people")
    report = check(spec, dataset, run)
    assert report.passed
    assert not report.failures
    assert report.evaluated == len(json.loads((settings.suites_dir / "people.json").read_text())["expectations"])
    assert artifacts(run, "checks") == {"checks/report.html", "checks/result.json"}
    assert "spec/people.json" in artifacts(run, "spec")
    result = json.loads(run.store.read(str(report.result)))
    assert {one["meta"]["engine"] for one in result["results"]} == {
        "DuckDB"
    }  # a snapshot has columns that all are known
    page = run.store.read(str(report.page)).decode()
    assert "the rows may be used" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_severity_decides_and_the_report_never_raises(settings: Settings, tmp_path: Path) -> None:
    spec, dataset, run = prepare(settings, tmp_path)
    path = settings.suites_dir / "people.json"
    suite = json.loads(path.read_text())
    strict = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "age", "max_value": 30}}
    for severity, passed in (("warning", True), ("critical", False)):
        suite["expectations"].append({**strict, "severity": severity})
        path.write_text(json.dumps(suite))
        report = check(spec, dataset, run)
        assert report.passed is passed
        assert {failure.severity for failure in report.failures} == ({"warning"} if passed else {"warning", "critical"})
    assert "the rows are refused" in run.store.read(str(report.page)).decode()
    assert run.registry.find_tag(run.registry.pipeline_run(run, spec), "slipway.checks") == "refused"


def test_without_a_suite_the_schema_is_all(settings: Settings, tmp_path: Path) -> None:
    spec, dataset, run = prepare(settings, tmp_path)
    report = check(spec.model_copy(update={"checks": spec.checks.model_copy(update={"suite": None})}), dataset, run)
    assert (report.passed, report.evaluated, report.page) == (True, 0, None)


def test_a_suite_for_columns_that_are_gone_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(TABLE)
    report = init(str(tmp_path / "people.csv"), "target", settings)
    (tmp_path / "people.csv").write_text(TABLE.replace("colour", "color"))
    spec = load_spec(report.spec_path)
    run = Run("r2", spec.name, settings, report.spec_path)
    with pytest.raises(Invalid, match="the rows have no column 'colour' -> did you mean 'color'"):
        check(spec, snapshot(spec, run), run)


def test_init_of_rows_in_batches_writes_the_same(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "people.csv").write_text(TABLE)
    whole = init(str(tmp_path / "people.csv"), "target", settings, name="one")
    monkeypatch.setattr("pipeline.batches.BATCH_CELLS", 40)
    parts = init(str(tmp_path / "people.csv"), "target", settings, name="two")
    assert (
        parts.model_copy(update={"name": "one", "spec_path": whole.spec_path, "suite_path": whole.suite_path}) == whole
    )
    for one, two in ((whole.spec_path, parts.spec_path), (whole.suite_path, parts.suite_path)):
        assert two.read_text().replace("two", "one") == one.read_text()


def test_init_replaces_nothing_by_itself(settings: Settings, tmp_path: Path) -> None:
    prepare(settings, tmp_path)
    with pytest.raises(Invalid) as refused:
        init(str(tmp_path / "people.csv"), "target", settings)
    assert len(refused.value.problems) == 2
    assert init(str(tmp_path / "people.csv"), "target", settings, force=True).rows == 120
    assert init(str(tmp_path / "people.csv"), "target", settings, name="other").name == "other"


@pytest.mark.parametrize(
    ("data", "target", "says"),
    [
        ("none.csv", "y", "there is no such file"),
        ("sklearn://iris", "target", "there is no data set"),
        ("people.csv", "targt", "did you mean 'target'"),
    ],
)
def test_init_of_what_is_not_there(data: str, target: str, says: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(TABLE)
    with pytest.raises(Invalid, match=says):
        init(data, target, settings)
    assert not settings.specs_dir.exists()


@pytest.mark.parametrize("stem", ["2026_rows_", "a" * 62 + "_b", "___"])
def test_a_files_name_becomes_a_name(stem: str, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / f"{stem}.csv").write_text(TABLE)
    assert load_spec(init(str(tmp_path / f"{stem}.csv"), "target", settings).spec_path).task.kind == "binary"


@pytest.mark.parametrize(("source", "kind"), [("sklearn://wine", "multiclass"), ("sklearn://diabetes", "regression")])
def test_init_of_other_tasks(source: str, kind: str, settings: Settings) -> None:
    report = init(source, "target", settings)
    assert load_spec(report.spec_path).task.kind == kind


def test_init_of_a_table(settings: Settings, tmp_path: Path) -> None:
    import sqlalchemy

    url = f"sqlite:///{tmp_path}/rows.db"
    pd.read_csv(pd.io.common.StringIO(TABLE)).to_sql("People 2026", sqlalchemy.create_engine(url), index=False)
    report = init(url, "target", settings, table="People 2026")
    spec = load_spec(report.spec_path)
    assert (report.name, spec.data.table) == ("people_2026", "People 2026")
