"""The chart's values as the schema describes them, and the table of them in the chart's README."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.helm.charts import CHART

Schema = dict[str, Any]
BEGIN, END = "<!-- values: generated from values.schema.json and values.yaml -->", "<!-- end of values -->"


def schema() -> Schema:
    """values.schema.json."""
    found: Schema = json.loads((CHART / "values.schema.json").read_text())
    return found


def defaults() -> dict[str, Any]:
    """values.yaml."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def resolved(part: Schema, whole: Schema) -> Schema:
    """The part with what its references say; what stands beside a reference comes first."""
    while "$ref" in part:
        reference = part["$ref"].removeprefix("#/$defs/")
        part = {**whole["$defs"][reference], **{key: value for key, value in part.items() if key != "$ref"}}
    return part


def keys(part: Schema, whole: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Every key that the schema names, tables before what is in them."""
    for name, value in part.get("properties", {}).items():
        child = resolved(value, whole)
        yield (*path, name), child
        if "requests" not in child.get("properties", {}):  # resources are shown as one value
            yield from keys(child, whole, (*path, name))


def at(values: dict[str, Any], path: tuple[str, ...]) -> Any:
    """The value under a path.

    Raises:
        KeyError: there is none.
    """
    found: Any = values
    for name in path:
        found = found[name]
    return found


def lay(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay values over others as helm does: tables are merged, all else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        merged[key] = lay(under[key], value) if both else value
    return merged


def table() -> str:
    """One section for each top-level key: what it is, and each key below it with its default."""
    whole, values = schema(), defaults()
    lines = [BEGIN]
    for path, part in keys(whole, whole):
        is_table = "properties" in part and "requests" not in part["properties"]
        if len(path) == 1 and is_table:
            lines += ["", f"### `{path[0]}`", "", f"{part['description']}.", "", "| key | default | |", "|---|---|---|"]
        elif len(path) == 1:
            lines += ["", f"### `{path[0]}`", "", f"{part['description']}. Default: {_shown(at(values, path))}."]
        elif is_table:
            lines.append(f"| **`{'.'.join(path)}`** | | {part['description']} |")
        else:
            lines.append(f"| `{'.'.join(path)}` | {_shown(at(values, path))} | {part['description']} |")
    return "\n".join([*lines, "", END])


def _shown(value: Any) -> str:
    if value in ("", {}, []):
        return "none"
    text = value if isinstance(value, str) else json.dumps(value).replace('"', "")
    return f"`{text}`"
