"""A snapshot is its content: the same rows from any source give the same bytes, and a run tells what was found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy

from pipeline.dataset import held_out, split_rows
from pipeline.digest import digest_bytes
from pipeline.errors import Invalid
from pipeline.gate_rules import Gates, Slices
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import Binary, Data, PipelineSpec, Split
from pipeline.spec_file import parse_spec
from tests.support.batches import infer_rows, read_rows, read_source
from tests.support.tracking import mlflow_client
from training.snapshot import snapshot, to_parquet

ROWS = 120


def table(rows: int = ROWS) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "n": random.normal(size=rows).round(3),
            "whole": random.integers(0, 9, rows),
            "b": random.random(rows) < 0.5,
            "c": random.choice(["red", "green", None], rows),
            "t": [f"2026-01-{1 + at % 28:02}T00:00:00+00:00" for at in range(rows)],
            "id": range(rows),
            "y": ["p", "n"] * (rows // 2),
        }
    )


def spec_of(name: str, source: str, **data: object) -> PipelineSpec:
    section = json.dumps({"source": source, "target": "y", **data})
    return parse_spec(
        f"version: 1\nname: {name}\ntask: {{kind: binary}}\ndata: {section}\ncandidates: [{{kind: xgboost}}]\n", name
    )


def run_of(settings: Settings, name: str, folder: Path, run_id: str = "r1") -> Run:
    return Run(run_id, name, settings, folder / "spec.yaml")


def test_the_same_rows_of_any_source_are_the_same_snapshot(tracked: Settings, tmp_path: Path) -> None:
    rows = table()
    rows.to_csv(tmp_path / "r.csv", index=False)
    rows.to_csv(tmp_path / "r2.csv", index=False, sep=";", na_rep="?")
    rows.assign(t=pd.to_datetime(rows["t"]), c=rows["c"].astype("category")).to_parquet(tmp_path / "r.parquet")
    rows.to_sql("t", sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'r.db'}"), index=False)
    sources = {"r.csv": {}, "r2.csv": {}, "r.parquet": {}, "sqlite:///r.db": {"table": "t", "kinds": {"b": "boolean"}}}
    run = run_of(tracked, "alike", tmp_path)
    refs = [snapshot(spec_of("alike", source, **data), run) for source, data in sources.items()]
    assert len({ref.digest for ref in refs}) == 1
    assert refs[0].digest == digest_bytes(run.store.read(refs[0].key))
    assert [finding.column for finding in refs[0].findings] == ["id"]
    kept = read_rows(run, refs[0])
    assert list(kept.columns) == ["n", "whole", "b", "c", "t", "y"]
    assert kept["c"].isna().sum() == rows["c"].isna().sum()


def test_the_rows_held_out_are_those_that_were_counted(tracked: Settings, tmp_path: Path) -> None:
    table().to_csv(tmp_path / "r.csv", index=False)
    spec, run = spec_of("counted", "r.csv"), run_of(tracked, "counted", tmp_path)
    ref = snapshot(spec, run)
    train, held = split_rows(run, ref, spec.split)
    assert (len(train), len(held)) == (ref.train_rows, ref.holdout_rows)
    grown = pd.concat([table(), table(ROWS + 80).tail(80).assign(n=9.5)])
    grown.to_csv(tmp_path / "r.csv", index=False)
    later = snapshot(spec, run_of(tracked, "counted", tmp_path, "r2"))
    assert later.digest != ref.digest
    now = read_rows(run, later)
    assert (held_out(now, spec.split)[:ROWS] == held_out(read_rows(run, ref), spec.split)).all()


def test_a_column_by_which_gates_slice_moves_no_row(tracked: Settings, tmp_path: Path) -> None:
    """Kept beside what the model reads, it must not decide who is held out: equal rows would fall on both sides."""
    table().assign(g=["f", "m"] * (ROWS // 2)).to_csv(tmp_path / "r.csv", index=False)
    plain = spec_of("slices", "r.csv", drop=["g"])
    slices = plain.model_copy(update={"gates": Gates(slices=Slices(columns=("g",)))})
    run, later = (run_of(tracked, "slices", tmp_path, run_id) for run_id in ("r1", "r2"))
    without, with_column = snapshot(plain, run), snapshot(slices, later)
    assert with_column.row_schema == without.row_schema
    parts = zip(split_rows(run, without, plain.split), split_rows(later, with_column, plain.split), strict=True)
    for before, now in parts:
        assert set(now["g"]) == {"f", "m"}
        pd.testing.assert_frame_equal(now.drop(columns="g"), before)


def test_a_held_out_part_without_a_class_is_refused_and_nothing_is_kept(tracked: Settings, tmp_path: Path) -> None:
    rows = table(60)
    rows["y"] = ["p"] * 50 + ["n"] * 10
    for name in rows.columns.drop(["y", "n"]):
        rows[name] = "x"
    rows["n"] = [at**0.5 for at in range(50)] + [-1.0] * 10  # equal rows fall on one side
    rows.to_csv(tmp_path / "r.csv", index=False)
    run = run_of(tracked.model_copy(update={"store": str(tmp_path / "store")}), "without", tmp_path)
    with pytest.raises(Invalid, match=r"no (held-out|training) row has the class 'n'"):
        snapshot(spec_of("without", "r.csv"), run)
    assert run.store.list("datasets") == ()


def test_a_row_of_a_snapshot_takes_few_calls(tmp_path: Path) -> None:
    """A row of 15 columns takes 21 calls of functions today; one more call for each cell would be seen."""
    data = Data(source="r.csv", target="y")

    def count_calls(parts: int) -> int:
        rows = pd.concat([table(4_000).assign(n=lambda frame, at=at: frame["n"] + at) for at in range(parts)])
        more = {f"c{at}": rows["c"].str.upper() + str(at) for at in range(8)}
        rows.assign(**more).to_csv(tmp_path / "r.csv", index=False)
        calls = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            frame, _, _ = infer_rows(read_source(data, tmp_path), data, Binary(kind="binary"), "r.csv")
            held_out(frame, Split())
            to_parquet(frame)
        finally:
            sys.setprofile(before)
        return calls

    count_calls(1)  # imports are no part of it
    few, many = count_calls(1), count_calls(8)
    assert (many - few) / 28_000 < 30


@pytest.mark.stack
def test_mlflow_shows_the_rows_and_what_was_found(stack_settings: Settings, tmp_path: Path) -> None:
    from mlflow.artifacts import load_text

    table().to_csv(tmp_path / "r.csv", index=False)
    spec, run = spec_of("snapshot_shown", "r.csv"), run_of(stack_settings, "snapshot_shown", tmp_path)
    ref = snapshot(spec, run)
    assert snapshot(spec, run) == ref  # killed before its reference was written, and run again
    client = mlflow_client(stack_settings)
    experiment = client.get_experiment_by_name("snapshot_shown")
    (logged,) = client.search_runs([experiment.experiment_id])
    (given,) = logged.inputs.dataset_inputs
    assert given.dataset.digest == ref.digest[:36]
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    assert json.loads(given.dataset.profile)["holdout_rows"] == ref.holdout_rows
    assert logged.data.tags["slipway.dataset"] == ref.digest
    findings = load_text(f"{logged.info.artifact_uri}/checks/findings.txt")
    assert "column 'id' names each row" in findings
