"""Reading a spec: every mistake at once, each with its line and what to write instead."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import Invalid, Problem
from pipeline.spec import Overrides, PipelineSpec

_REMEDY = "correct the value; `slipway spec schema` shows what is allowed"


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-7 is a number (YAML 1.1 wants 1.0e-7)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_spec(path: Path) -> PipelineSpec:
    """The spec in a YAML file.

    Raises:
        Invalid: the file is absent, not YAML or not a spec; names file, line, value and remedy of every mistake.
            A retry does not help.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Invalid("there is no such spec", str(path), "`slipway init DATA --target COLUMN` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"the spec cannot be read: {error}", str(path), "it must be a UTF-8 text file") from error
    return parse_spec(text, str(path))


def parse_spec(text: str, where: str) -> PipelineSpec:
    """The spec in a YAML text; `where` names it in errors. Raises as `load_spec` does."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        _refuse_double_keys(root, where)
        value = None if root is None else loader.construct_document(root)
        encoded = json.dumps(value, default=str)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Invalid(f"not YAML: {error.problem}", f"{where}:{line}", "correct the indentation or quoting") from error
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"not YAML: {error}", where, "write plain keys and values") from error
    if not isinstance(value, dict):
        raise Invalid("a spec is a mapping of keys to values", where, "begin with `version: 1`")
    try:
        return PipelineSpec.model_validate_json(encoded)
    except ValidationError as error:
        items = sorted(_said_once(error.errors()), key=lambda item: _line(root, _place(item)))
        raise Invalid([_problem(item, root, where) for item in items]) from error


def parse_overrides(text: str) -> Overrides:
    """Overrides from JSON; keys that are null are left as the spec has them. Raises Invalid with every mistake."""
    try:
        return Overrides.model_validate_json(text)
    except ValidationError as error:
        raise Invalid([_problem(item, None, "params", Overrides) for item in error.errors()]) from error


def _said_once(items: list[Any]) -> list[Any]:
    """Without "too few items" for a list whose items are there, and are what is wrong."""
    return [
        item
        for item in items
        if item["type"] != "too_short"
        or not any(
            len(other["loc"]) > len(item["loc"]) and other["loc"][: len(item["loc"])] == item["loc"] for other in items
        )
    ]


def _place(item: Any) -> tuple[int | str, ...]:
    """Where in the YAML a mistake is."""
    return tuple(part for part in item["loc"] if part != "[key]" and not _is_tag(part, item["loc"]))


def _problem(item: Any, root: yaml.Node | None, where: str, model: type[BaseModel] = PipelineSpec) -> Problem:
    loc = _place(item)
    dotted = ".".join(str(part) for part in loc) or "spec"
    line = _line(root, loc)
    place = f"{where}:{line}: {dotted}" if line else f"{where}: {dotted}"
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, loc[:-1])
        if loc[-1] in known:
            return Problem(f"the key {loc[-1]!r} is of another kind", place, "remove it, or change the kind")
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return Problem(f"unknown key {loc[-1]!r}", place, remedy)
    if item["type"] == "missing":
        return Problem(f"the key {loc[-1]!r} is missing", place, "add it; `slipway spec schema` shows every key")
    value = "" if isinstance(item["input"], dict | list) else f" (value {item['input']!r})"
    message, remedy = item["msg"].removeprefix("Value error, "), _REMEDY
    if item["type"] == "literal_error":
        allowed = re.findall(r"'([^']+)'", item["ctx"]["expected"])
        near = difflib.get_close_matches(str(item["input"]), allowed, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else _REMEDY
    if item["type"] == "string_type" and isinstance(item["input"], bool | int | float):
        remedy = f"YAML reads that as no text: put it in quotes, as '{_found(root, loc)[1]}'"
    return Problem(f"{message}{value}", place, remedy)


def _is_tag(part: int | str, loc: tuple[int | str, ...]) -> bool:
    """Pydantic puts the union's tag into the place: `candidates.0.xgboost.trials`, `task.binary.positive`."""
    index = loc.index(part)
    if index == 0 or not isinstance(part, str):
        return False
    return (
        (loc[0] == "candidates" and index == 2 and part in ("xgboost", "torch"))
        or (loc[0] == "candidates" and index > 2 and loc[index - 1] == "engine" and part in ("local", "ray"))
        or (loc[0] == "task" and index == 1 and part in ("binary", "multiclass", "regression"))
        or (loc[:2] == ("serving", "rollout") and index == 2 and part in ("blue_green", "canary"))
    )


def _line(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    return _found(node, loc)[0]


def _found(node: yaml.Node | None, loc: tuple[int | str, ...]) -> tuple[int, str]:
    """The innermost node on the way to `loc`: its line, 1-based, 0 without a tree; its text, if it is a scalar."""
    line = node.start_mark.line + 1 if node else 0
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line, str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _refuse_double_keys(node: yaml.Node | None, where: str) -> None:
    """YAML readers keep the last of two equal keys in silence; a spec must not."""
    problems: list[Problem] = []

    def visit(inner: yaml.Node | None) -> None:
        if isinstance(inner, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in inner.value:
                line = key.start_mark.line + 1
                if str(key.value) in seen:
                    first = seen[str(key.value)]
                    problems.append(
                        Problem(
                            f"the key {key.value!r} stands twice", f"{where}:{line}", f"also in line {first}; keep one"
                        )
                    )
                seen.setdefault(str(key.value), line)
                visit(value)
        elif isinstance(inner, yaml.SequenceNode):
            for value in inner.value:
                visit(value)

    visit(node)
    if problems:
        raise Invalid(problems)


def _known_keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at a place, from the JSON schema; of every variant where there are several."""
    schema = model.model_json_schema()

    def resolve(part: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in part:
            return resolve(schema["$defs"][part["$ref"].rsplit("/", 1)[-1]])
        variants = part.get("oneOf") or part.get("anyOf")
        return [one for variant in variants for one in resolve(variant)] if variants else [part]

    places = [schema]
    for step in loc:
        inner = [
            place["items"] if isinstance(step, int) else place.get("properties", {}).get(step, {})
            for place in places
            if (isinstance(step, int) and "items" in place) or not isinstance(step, int)
        ]
        places = [one for part in inner for one in resolve(part)]
    return sorted({key for place in places for key in place.get("properties", {})})
