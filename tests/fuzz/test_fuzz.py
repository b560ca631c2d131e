"""No input from outside brings a traceback: bytes, texts, and files that were right before something changed them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.gate_rules import Gates
from pipeline.refs import GateReport, Verdict
from tests.fuzz.targets import TARGETS, ends_well
from tests.serving.full_record import full_record

ROOT = Path(__file__).resolve().parents[2]
HARD = st.sampled_from(
    ["", " ", "?", "nan", "inf", "-inf", "1e400", "-0", "007", "1_000", "0x10", "9" * 400, "1e-320", "true", "False",
     "2026-02-30", "2026-01-01", "9999-12-31T23:59:59.999999Z", "0000-01-01", "\u0663", "\U0001d7d9", "\u2028", "\ufeff", '"', "'",
     "a,b", "=1+1", "{{ x }}", "<script>", "\x1b[31m", "[bold]", "%s", "../../etc", "null", "None"]
)  # fmt: skip


def _parquet() -> bytes:
    sink = io.BytesIO()
    pd.DataFrame({"a": [1.0, 2.0], "b": ["x", None], "c": [True, False]}).to_parquet(sink)
    return sink.getvalue()


REPORT = GateReport(
    passed=False, verdicts=(Verdict(gate="quality", outcome="refused", reason="too bad", observed=1.0),), champion=None
)
RIGHT: dict[str, bytes] = {
    "spec": (ROOT / "tests/confs/valid/long.yaml").read_bytes(),
    "overrides": b'{"source": "x.csv", "trials": 3, "budget_s": 1.5, "seed": 4}',
    "csv": b'a,b,c,y\n1,x,2026-01-01,no\n2,"y,",2026-01-02T10:00,yes\n?,,,no\n',
    "parquet": _parquet(),
    "suite": (ROOT / "feature_checks/suites/breast_cancer.json").read_bytes(),
    "request": b'[{"a": 1.5, "b": true, "c": "x", "d": "2026-01-01"}, {"a": null, "b": "no", "c": 3, "d": 12}]',
    "reference": REPORT.model_dump_json().encode(),
    "record": full_record().canonical(),
    "policy": b"namespace: n\nowner: {name: x}\nfetch: {image: i}\ntemplate: {}\nreplicas: 2\nkeepHours: 3\n",
}
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", TARGETS)
def test_the_right_one_is_no_fuzz(name: str) -> None:
    ends_well(TARGETS[name], RIGHT[name])


@pytest.mark.parametrize("name", TARGETS)
@QUICK
@given(data=st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_any_bytes(name: str, data: bytes) -> None:
    ends_well(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
@QUICK
@given(data=st.data())
def test_what_was_right_with_something_changed(name: str, data: st.DataObject) -> None:
    right = RIGHT[name]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(right)))
        end = at + data.draw(st.integers(0, 6))
        right = right[:at] + data.draw(st.binary(max_size=6) | HARD.map(str.encode)) + right[end:]
    ends_well(TARGETS[name], right)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("policy", RIGHT["policy"] + b"x: 2026-02-30\n"),
        ("policy", b"[" * 5000),
        ("request", b'[{"a": ' + b"9" * 400 + b"}]"),
        ("request", b'[{"a": ' + b"9" * 5000 + b"}]"),
        ("parquet", RIGHT["parquet"].replace(b'"pandas_type"', b'"pandas_tipe"')),
    ],
)
def test_what_was_found_once(name: str, data: bytes) -> None:
    assert data != RIGHT[name]
    ends_well(TARGETS[name], data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HARD | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HARD | st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["spec", "overrides", "suite", "request", "reference", "record", "policy"])
@QUICK
@given(data=st.data())
def test_one_value_becomes_another(name: str, data: st.DataObject) -> None:
    tree = yaml.safe_load(RIGHT[name])
    places = list(_places(tree))
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(VALUES)
    if isinstance(holder, dict) and data.draw(st.booleans()):
        holder[data.draw(HARD)] = data.draw(VALUES)
    ends_well(TARGETS[name], json.dumps(tree, default=str).encode("utf-8", "surrogatepass"))


@QUICK
@given(st.lists(st.lists(HARD | st.text(max_size=6), min_size=3, max_size=3), min_size=1, max_size=8))
def test_hard_cells_of_a_csv(rows: list[list[str]]) -> None:
    content = pd.DataFrame(rows, columns=["a", "b", "y"]).to_csv(index=False).encode("utf-8", "replace")
    ends_well(TARGETS["csv"], content)


@QUICK
@given(st.dictionaries(st.sampled_from([*Gates.model_fields, "x"]), VALUES, max_size=4))
def test_any_gates(gates: dict[str, Any]) -> None:
    text = RIGHT["spec"].decode().split("\ngates:")[0] + "\ngates: " + json.dumps(gates) + "\n"
    ends_well(TARGETS["spec"], text.encode("utf-8", "surrogatepass"))


def _places(tree: Any) -> Any:
    """Every (holder, key) of a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)
