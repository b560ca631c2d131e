"""What changed between two promotion records of a model: spec, data, metrics, verdicts, libraries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from pipeline.frozen import Frozen
from pipeline.mask import mask
from pipeline.record import PromotionRecord

LONGEST = 200  # letters of a value that are shown


class Change(Frozen):
    """One value that is another than it was; empty where there is none."""

    area: str
    what: str
    before: str
    after: str


def changes(before: PromotionRecord, after: PromotionRecord) -> tuple[Change, ...]:
    """Every difference that matters to what the model is, area by area."""
    areas: list[tuple[str, Mapping[str, str], Mapping[str, str]]] = [
        ("spec", _spec(before), _spec(after)),
        ("data", _data(before), _data(after)),
        ("model", _model(before), _model(after)),
        ("metrics", metrics(before), metrics(after)),
        ("gates", _gates(before), _gates(after)),
        ("libraries", before.libraries, after.libraries),
    ]
    return tuple(
        Change(area=area, what=what, before=old.get(what, ""), after=new.get(what, ""))
        for area, old, new in areas
        for what in dict.fromkeys([*old, *new])
        if old.get(what) != new.get(what)
    )


def metrics(record: PromotionRecord) -> dict[str, str]:
    """The winner's metrics on the held-out rows of its own run."""
    if record.evaluation is None:
        return {}
    winner = record.evaluation.winner
    scores = [score for score in record.evaluation.scores if score.candidate == winner]
    return {name: f"{value:.6g}" for score in scores for name, value in score.metrics.items()}


def _spec(record: PromotionRecord) -> dict[str, str]:
    if record.spec is None:
        return {}
    content = record.spec.model_dump(mode="json")
    content["candidates"] = {one["name"]: one for one in content["candidates"]}  # by name, not by place
    content["gates"]["waivers"] = {one["gate"]: one for one in content["gates"]["waivers"]}
    return dict(_leaves(content))


def _leaves(value: JsonValue, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else key)
    elif not isinstance(value, dict):
        yield path, mask(_short(value))


def _data(record: PromotionRecord) -> dict[str, str]:
    data = record.dataset
    if data is None:
        return {}
    sizes = {"rows": data.rows, "training rows": data.train_rows, "held-out rows": data.holdout_rows}
    columns = {f"column {column.name}": column.kind for column in data.row_schema.columns}
    said = {"digest": data.digest, "source": data.source, "target": data.row_schema.target}
    return said | {name: str(size) for name, size in sizes.items()} | columns | {
        "classes": _short(list(data.row_schema.classes))
    }  # fmt: skip


def _model(record: PromotionRecord) -> dict[str, str]:
    winner = record.evaluation.winner if record.evaluation else None
    return {
        name: value
        for model in record.models
        if model.candidate == winner
        for name, value in (
            ("kind", model.kind),
            *((f"parameter {key}", _short(value)) for key, value in sorted(model.params.items())),
        )
    } | {"ONNX graph": record.onnx_digest}


def _gates(record: PromotionRecord) -> dict[str, str]:
    return {one.gate: one.shown for one in record.gates.verdicts} if record.gates else {}


def _short(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
