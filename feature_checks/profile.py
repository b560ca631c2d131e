"""From rows to a first spec and suite: what `slipway init` writes, for a person to edit."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader

from pipeline.batches import Spool
from pipeline.columns import ColumnKind, RowSchema
from pipeline.errors import Invalid, Problem
from pipeline.frozen import Frozen
from pipeline.infer import Typed, infer
from pipeline.labels import guess_task
from pipeline.refs import Finding
from pipeline.settings import Settings
from pipeline.sources import describe, read_batches
from pipeline.spec import Data
from pipeline.spec_file import parse_spec

FEW_CATEGORIES = 50  # a column with more gets no set of allowed values
MARGIN = 0.5  # a range is widened by this share of its width on either side


class InitReport(Frozen):
    """What was found, and the files that were written."""

    name: str
    spec_path: Path
    suite_path: Path
    rows: int
    row_schema: RowSchema
    findings: tuple[Finding, ...]


def init(
    data: str,
    target: str,
    settings: Settings,
    *,
    name: str | None = None,
    table: str | None = None,
    query: str | None = None,
    password_env: str | None = None,
    force: bool = False,
) -> InitReport:
    """Profile the rows of `data`, and write `<specs_dir>/<name>.yaml` and `<suites_dir>/<name>.json`.

    Raises:
        Invalid: the rows, the target or the name are wrong, or a file exists already. A retry does not help.
        Unavailable: the source does not answer. A retry helps.
    """
    local = "://" not in data
    source = Data(
        source=str(Path(data).absolute()) if local else data,
        target=target,
        table=table,
        query=query,
        password_env=password_env,
    )
    if source.secret:
        remedy = "name the variable that holds it by --password-env" if source.is_sql else "correct the source"
        raise Invalid(source.secret, describe(source), remedy)
    name = name or _name(table or data)
    spec_path, suite_path = settings.specs_dir / f"{name}.yaml", settings.suites_dir / f"{name}.json"
    with Spool(read_batches(source, Path())) as rows:
        task = guess_task(frame[target] for frame in rows if target in frame)
        typed = infer(rows, source, task, data)  # says it where there is no such target, with what else is wrong
        taken = [path for path in (spec_path, suite_path) if path.exists()]
        if taken and not force:
            remedy = "--force replaces it, --name takes another"
            raise Invalid([Problem("the file exists", str(path), remedy) for path in taken])
        text = _spec_text(name, source, typed.schema, spec_path)
        parse_spec(text, str(spec_path))  # what is written can be read; a bad name is refused here
        suite = json.dumps(profile(name, typed), indent=2) + "\n"
    for path, content in ((spec_path, text), (suite_path, suite)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return InitReport(
        name=name,
        spec_path=spec_path,
        suite_path=suite_path,
        rows=typed.rows,
        row_schema=typed.schema,
        findings=typed.findings,
    )


def profile(name: str, typed: Typed) -> dict[str, Any]:
    """A suite, in GX's JSON, that these rows meet: critical where a model would break, warning where rows may drift."""
    schema, seen = typed.schema, {column.name: _Values() for column in typed.schema.columns}
    for frame in typed:
        for column in schema.columns:
            seen[column.name].see(frame[column.name], column.kind)
    expectations = [_expect("table_row_count_to_be_between", "critical", min_value=max(1, typed.rows // 10))]
    expectations.append(_expect("column_values_to_not_be_null", "critical", column=schema.target))
    if schema.task != "regression":
        expectations.append(
            _expect("column_values_to_be_in_set", "critical", column=schema.target, value_set=list(schema.classes))
        )
    for column in schema.columns:
        values = seen[column.name]
        missing = values.missing / typed.rows
        expectations.append(
            _expect(
                "column_values_to_not_be_null",
                "critical" if missing == 0 else "warning",
                column=column.name,
                mostly=round(max(0.0, 1 - 2 * missing - 0.01), 2) if missing else 1.0,
            )
        )
        if column.kind == "number":
            low, high = values.low, values.high
            room = MARGIN * (high - low)
            bounds = {"min_value": 0.0 if 0 <= low < room else _round(low - room), "max_value": _round(high + room)}
            expectations.append(
                _expect("column_values_to_be_between", "warning", column=column.name, mostly=0.99, **bounds)
            )
        elif column.kind == "category" and len(values.labels) <= FEW_CATEGORIES:
            allowed = sorted(values.labels)
            expectations.append(
                _expect("column_values_to_be_in_set", "warning", column=column.name, value_set=allowed, mostly=0.99)
            )
    return {"name": name, "expectations": expectations, "meta": {"note": "profiled by slipway init; edit it"}}


class _Values:
    """Of one column, batch after batch: how many are missing, a number's range, the categories while they are few."""

    def __init__(self) -> None:
        self.missing, self.low, self.high = 0, math.inf, -math.inf
        self.labels: set[str] = set()

    def see(self, values: pd.Series, kind: ColumnKind) -> None:
        present = values.dropna()
        self.missing += len(values) - len(present)
        if kind == "number" and len(present):
            self.low, self.high = min(self.low, float(present.min())), max(self.high, float(present.max()))
        elif kind == "category" and len(self.labels) <= FEW_CATEGORIES:
            self.labels |= {str(value) for value in present.unique()}


def _expect(kind: str, severity: str, **kwargs: object) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity, "meta": {}}


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _name(data: str) -> str:
    """The file's name as a pipeline's name."""
    stem = Path(data.split("?", maxsplit=1)[0].rstrip("/")).name.split(".")[0]
    legal = re.sub(r"[^a-z0-9]+", "_", stem.lower()).lstrip("0123456789_")
    return legal[:63].rstrip("_") or "model"


def _spec_text(name: str, data: Data, schema: RowSchema, spec_path: Path) -> str:
    """The spec as YAML with comments; a file below the project is named relative to the spec."""
    source = data.source
    if "://" not in source:
        path = Path(source)
        top = spec_path.parent.parent.parent
        if path.is_relative_to(top):
            source = str(Path("../..") / path.relative_to(top))
    environment = Environment(  # noqa: S701 (YAML: every value passes the filter `yaml`)
        loader=PackageLoader("feature_checks", "templates"), keep_trailing_newline=True, trim_blocks=True
    )
    environment.filters["yaml"] = lambda value: (
        yaml.safe_dump(value, width=10_000, default_flow_style=True).removesuffix("\n...\n").strip()
    )
    return environment.get_template("spec.yaml.j2").render(name=name, data=data, source=source, schema=schema)
