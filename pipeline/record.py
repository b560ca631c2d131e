"""The promotion record: all that is known of one verdict on one version; and the ledger that records make.

`records/MODEL/000012/` holds `record.json` and its signature. Entries are numbered by model and each names the digest
of the one before, so that none can be taken out unseen. The last promotion or roll-back is what ought to serve.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field, ValidationError

from pipeline.digest import digest_bytes
from pipeline.errors import Invalid
from pipeline.frozen import Frozen
from pipeline.refs import (
    Approval,
    CheckReport,
    DatasetRef,
    Evaluation,
    GateReport,
    LoggedModelRef,
    ModelVersionRef,
    OnnxRef,
    PackageRef,
    ServingPlan,
)
from pipeline.served import Served
from pipeline.spec import PipelineSpec
from pipeline.store import NUMBER, Store

RECORD = "record.json"
SCHEMA = 1
MOST = 10  # mistakes that a message names
Kind = Literal["promotion", "refusal", "rollback"]


class Serving(Frozen):
    """Where the version serves, and who has acknowledged that."""

    repository: str = Field(description="folder of Triton's model repository, or the Deployment that holds it")
    http: str
    grpc: str
    replicas: tuple[Served, ...] = Field(description="each serving process, by what it says of itself")


class Times(Frozen):
    """All that differs when the same run is recorded again. ISO 8601 UTC, and seconds by task."""

    written_at: str
    approved_at: str | None = None
    steps: dict[str, float] = Field(default={})
    finished_at: dict[str, str] = Field(default={}, description="by task")


class PromotionRecord(Frozen):
    """One entry of a model's ledger. What a refused run never had is None."""

    schema_version: Literal[1] = 1
    kind: Kind
    model: str
    version: int = Field(description="the version that was judged; of a roll-back, the one that serves again")
    run: str
    sequence: int = Field(ge=1, description="number of the entry in the model's ledger")
    before: str | None = Field(description="SHA-256 of the entry before, as it lies in the store; None for the first")
    previous: int | None = Field(description="the version that served until then")
    reasons: tuple[str, ...] = Field(default=(), description="of a refusal")
    signer: str
    onnx_digest: str
    package: PackageRef
    plan_digest: str | None = Field(default=None, description="of a TensorRT plan")
    spec_digest: str | None = None
    spec: PipelineSpec | None = None
    dataset: DatasetRef | None = None
    checks: CheckReport | None = None
    models: tuple[LoggedModelRef, ...] = ()
    onnx: tuple[OnnxRef, ...] = ()
    evaluation: Evaluation | None = None
    registered: ModelVersionRef | None = None
    plan: ServingPlan | None = Field(default=None, description="how it is served, and what was measured for that")
    mlflow_run: str | None = None
    gates: GateReport | None = None
    approval: Approval | None = None
    serving: Serving | None = None
    libraries: dict[str, str] = Field(default={}, description="version by name of what made and judged the model")
    times: Times

    def canonical(self) -> bytes:
        """The bytes that are kept and signed: JSON with sorted keys, UTF-8."""
        value = self.model_dump(mode="json")
        return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()

    @property
    def key(self) -> str:
        """The entry's folder in the store."""
        return record_key(self.model, self.sequence)


def record_key(model: str, sequence: int) -> str:
    """The folder of an entry in the store."""
    return f"records/{model}/{sequence:06d}"


def sequences(store: Store, model: str) -> tuple[int, ...]:
    """Numbers of a model's entries, rising. A number that a run has taken and never used is not among them."""
    return tuple(reversed(list(backwards(store, model))))


def backwards(store: Store, model: str) -> Iterator[int]:
    """Numbers of a model's entries, the last first, each looked at when it is asked for."""
    numbers = (int(name) for name in store.list(f"records/{model}") if NUMBER.fullmatch(name))
    for number in sorted(numbers, reverse=True):
        if store.exists(record_key(model, number)):  # whole, and not half written
            yield number


def models(store: Store) -> tuple[str, ...]:
    """Names of the models that have a ledger."""
    return store.list("records")


def read_record(store: Store, model: str, sequence: int) -> PromotionRecord:
    """An entry of a ledger, as it is written; its signature is another question (`serving.signing`).

    Raises:
        Invalid: there is none, or it cannot be read. A retry does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    key = f"{record_key(model, sequence)}/{RECORD}"
    where = store.path(key)
    try:
        return parse_record(store.read(key), where)
    except FileNotFoundError as error:
        raise Invalid("there is no such record", where, "`slipway lineage MODEL` names those that are there") from error


def parse_record(data: bytes, where: str) -> PromotionRecord:
    """A record from its bytes. Raises Invalid, with every mistake, when it is none of this version's."""
    try:
        return PromotionRecord.model_validate_json(data)
    except ValidationError as error:
        found = error.errors()
        other = [item["input"] for item in found if item["loc"] == ("schema_version",)]
        if other:
            what = f"the record is of schema version {other[0]!r:.40}, this release reads {SCHEMA}"
            raise Invalid(what, where, "read it with the release that wrote it, or a later one") from error
        items = [f"{'.'.join(map(str, item['loc'])) or 'record'}: {item['msg']}" for item in found]
        more = f"; and {len(items) - MOST} more" if len(items) > MOST else ""
        remedy = "restore it from a backup, or from the MLflow run's artifacts (record/)"
        raise Invalid(f"the record cannot be read: {'; '.join(items[:MOST])}{more}", where, remedy) from error


def digest_of(store: Store, model: str, sequence: int) -> str:
    """SHA-256 of an entry as it lies in the store: what the next one names. FileNotFoundError when there is none."""
    return digest_bytes(store.read(f"{record_key(model, sequence)}/{RECORD}"))


def ought_to_serve(store: Store, model: str) -> PromotionRecord | None:
    """The last promotion or roll-back of a model, or None when it has none. Raises as `read_record` does."""
    return _last(store, model, lambda record: record.kind != "refusal")


def promotion_of(store: Store, model: str, version: int) -> PromotionRecord | None:
    """The last promotion of a version, or None when there is none. Raises as `read_record` does."""
    return _last(store, model, lambda record: record.kind == "promotion" and record.version == version)


def record_of_run(store: Store, model: str, run: str) -> PromotionRecord | None:
    """The last entry that a run has written, or None. Raises as `read_record` does."""
    return _last(store, model, lambda record: record.run == run)


def _last(store: Store, model: str, wanted: Callable[[PromotionRecord], bool]) -> PromotionRecord | None:
    records = (read_record(store, model, sequence) for sequence in backwards(store, model))
    return next(filter(wanted, records), None)


def record_schema() -> str:
    """JSON schema of a record, as docs/record.schema.json keeps it."""
    return json.dumps(PromotionRecord.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
