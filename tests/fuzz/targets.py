"""What reads input from outside, as functions of bytes: each ends well or with a sentence, whatever it is given.

`test_fuzz.py` drives them by hypothesis in every run of the suite, `by_coverage.py` by atheris for as long as one likes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from feature_checks.suite import validate_suite
from pipeline.columns import Column, RowSchema
from pipeline.csv_rows import read_csv
from pipeline.errors import SlipwayError
from pipeline.labels import guess_task
from pipeline.policy import read_policy
from pipeline.record import parse_record
from pipeline.refs import GateReport
from pipeline.run import Envelope, Run
from pipeline.settings import Settings
from pipeline.source_files import file_batches
from pipeline.spec import Data
from pipeline.spec_file import parse_overrides, parse_spec
from pipeline.tensors import to_tensors
from serving.policy import ServingPolicy
from serving.predict import read_request
from tests.support.batches import infer_rows

PLACE = "fuzzed"
SCHEMA = RowSchema(
    columns=(
        Column(name="a", kind="number"),
        Column(name="b", kind="boolean"),
        Column(name="c", kind="category"),
        Column(name="d", kind="timestamp"),
    ),
    target="y",
    task="binary",
    classes=("no", "yes"),
)


def spec(data: bytes) -> None:
    """A spec's YAML."""
    parse_spec(data.decode("utf-8", "replace"), PLACE)


def overrides(data: bytes) -> None:
    """Airflow's trigger form."""
    parse_overrides(data.decode("utf-8", "replace"))


def csv(data: bytes) -> None:
    """A CSV file, read and typed."""
    _typed(read_csv(data, PLACE))


def parquet(data: bytes) -> None:
    """A Parquet file, read and typed."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.parquet").write_bytes(data)
        _typed(pd.concat(file_batches("rows.parquet", Path(folder), PLACE), ignore_index=True))


def suite(data: bytes) -> None:
    """An expectation suite."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "s.json").write_bytes(data)
        validate_suite(Path(folder), "s", ("a", "b"))


def request(data: bytes) -> None:
    """Rows of a request for answers, as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.json").write_bytes(data)
        to_tensors(read_request(str(Path(folder) / "rows.json")), SCHEMA)


def record(data: bytes) -> None:
    """A promotion record."""
    parse_record(data, PLACE)


def reference(data: bytes) -> None:
    """What a finished step has left in the store; first the file as a whole, then the reference within it."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run("r", "p", Settings(home=Path(folder)), Path(folder))
        run.store.write(f"{run.key}/gate.json", data)
        envelope = Envelope(task="check", kind="", ref=data.decode("utf-8", "replace"), seconds=0, finished_at="")
        run.store.write(f"{run.key}/evaluate.json", envelope.model_dump_json().encode())
        try:
            run.ref(GateReport)
        finally:
            run.store.write(f"{run.key}/gate.json", envelope.model_dump_json().encode(), replace=True)
            run.ref(GateReport)


def policy(data: bytes) -> None:
    """The platform team's policy of served versions."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "serving.yaml").write_bytes(data)
        read_policy(Path(folder) / "serving.yaml", ServingPolicy, "SLIPWAY_SERVING")


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one for one in (spec, overrides, csv, parquet, suite, request, reference, record, policy)
}


def ends_well(target: Callable[[bytes], None], data: bytes) -> None:
    """Run a target; the one error that may leave it is ours, and has something to say."""
    try:
        target(data)
    except SlipwayError as error:
        told = bool(error.problems) and all(problem.what for problem in error.problems)
        json.dumps([vars(problem) for problem in error.problems])  # as `--json` prints it
        if not told:
            raise AssertionError("an error that says nothing") from error


def _typed(frame: pd.DataFrame) -> None:
    names = [str(name) for name in frame.columns]
    target = names[-1]
    many = pd.concat([frame] * (1 + 60 // max(len(frame), 1)), ignore_index=True)  # enough rows to be typed
    data = Data(source=PLACE, target=target)
    infer_rows(many, data, guess_task([many[target]]), PLACE)
