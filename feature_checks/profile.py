"""From rows to a first spec and suite: what `slipway init` writes, for a person to edit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader

from pipeline.columns import RowSchema
from pipeline.errors import Invalid, Problem
from pipeline.frozen import Frozen
from pipeline.infer import infer_rows
from pipeline.labels import guess_task
from pipeline.refs import Finding
from pipeline.settings import Settings
from pipeline.sources import describe, read_source
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
    frame = read_source(source, Path())
    if target not in frame.columns:
        infer_rows(frame, source, guess_task(pd.Series([0.0, 1.0])), data)  # says it, with what else is wrong
    task = guess_task(frame[target])
    typed, schema, findings = infer_rows(frame, source, task, data)
    name = name or _name(table or data)
    spec_path, suite_path = settings.specs_dir / f"{name}.yaml", settings.suites_dir / f"{name}.json"
    taken = [path for path in (spec_path, suite_path) if path.exists()]
    if taken and not force:
        raise Invalid(
            [Problem("the file exists", str(path), "--force replaces it, --name takes another") for path in taken]
        )
    text = _spec_text(name, source, schema, spec_path)
    parse_spec(text, str(spec_path))  # what is written can be read; a bad name is refused here
    for path, content in ((spec_path, text), (suite_path, json.dumps(profile(name, typed, schema), indent=2) + "\n")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return InitReport(
        name=name, spec_path=spec_path, suite_path=suite_path, rows=len(typed), row_schema=schema, findings=findings
    )


def profile(name: str, frame: pd.DataFrame, schema: RowSchema) -> dict[str, Any]:
    """A suite, in GX's JSON, that these rows meet: critical where a model would break, warning where rows may drift."""
    rows = len(frame)
    expectations = [_expect("table_row_count_to_be_between", "critical", min_value=max(1, rows // 10))]
    expectations.append(_expect("column_values_to_not_be_null", "critical", column=schema.target))
    if schema.task != "regression":
        expectations.append(
            _expect("column_values_to_be_in_set", "critical", column=schema.target, value_set=list(schema.classes))
        )
    for column in schema.columns:
        values = frame[column.name]
        missing = float(values.isna().mean())
        expectations.append(
            _expect(
                "column_values_to_not_be_null",
                "critical" if missing == 0 else "warning",
                column=column.name,
                mostly=round(max(0.0, 1 - 2 * missing - 0.01), 2) if missing else 1.0,
            )
        )
        if column.kind == "number":
            low, high = float(values.min()), float(values.max())
            room = MARGIN * (high - low)
            bounds = {"min_value": 0.0 if 0 <= low < room else _round(low - room), "max_value": _round(high + room)}
            expectations.append(
                _expect("column_values_to_be_between", "warning", column=column.name, mostly=0.99, **bounds)
            )
        elif column.kind == "category" and values.nunique() <= FEW_CATEGORIES:
            allowed = sorted(str(value) for value in values.dropna().unique())
            expectations.append(
                _expect("column_values_to_be_in_set", "warning", column=column.name, value_set=allowed, mostly=0.99)
            )
    return {"name": name, "expectations": expectations, "meta": {"note": "profiled by slipway init; edit it"}}


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
