"""The promotion record: all that is known of one verdict on one version; and the ledger that records make.

`records/MODEL/000012/` holds `record.json` and its signature. Entries are numbered by model and each names the digest
of the one before, so that none can be taken out unseen. The last promotion or roll-back is what ought to serve.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

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
_AT_ONCE = 256  # entries that are read at once
_OTHERS = "`slipway lineage MODEL` names those that are there"
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


class Line(Frozen):
    """What the ledger's chain is made of, of one entry: read in a fraction of the time that the whole of it takes."""

    model_config = ConfigDict(extra="ignore")

    schema_version: Literal[1] = 1
    kind: Kind
    version: int
    run: str
    sequence: int
    before: str | None


Entry = TypeVar("Entry", bound=Frozen)


def record_key(model: str, sequence: int) -> str:
    """The folder of an entry in the store."""
    return f"records/{model}/{sequence:06d}"


def sequences(store: Store, model: str) -> tuple[int, ...]:
    """Numbers of a model's entries, rising. A number that a run has taken and never used is not among them."""
    return tuple(reversed(list(backwards(store, model))))


def backwards(store: Store, model: str) -> Iterator[int]:
    """Numbers of a model's entries, the last first, looked at as they are asked for: one, then more at a time."""
    numbers = sorted((int(name) for name in store.list(f"records/{model}") if NUMBER.fullmatch(name)), reverse=True)
    for some in _growing(numbers):
        keys = {record_key(model, number): number for number in some}
        yield from (keys[key] for key in store.existing(list(keys)))  # whole, and not half written


def read_lines(store: Store, model: str, numbers: Iterable[int]) -> Iterator[tuple[Line, bytes]]:
    """What the chain is made of, of each entry, with the bytes that it was read from; read when asked for.

    Raises:
        FileNotFoundError: an entry has no record.
        Invalid: it cannot be read. A retry does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    for some in _growing(numbers):
        keys = [f"{record_key(model, number)}/{RECORD}" for number in some]
        found = store.read_each(keys)
        for key in keys:
            if key not in found:
                raise FileNotFoundError(store.path(key))
            yield _parsed(Line, found[key], store.path(key)), found[key]


def _growing(numbers: Iterable[int]) -> Iterator[tuple[int, ...]]:
    """One, then four times as many each time: what is looked for is mostly the last, else it may be any."""
    rest, many = iter(numbers), 1
    while some := tuple(islice(rest, many)):
        yield some
        many = min(many * 4, _AT_ONCE)


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
        raise Invalid("there is no such record", where, _OTHERS) from error


def parse_record(data: bytes, where: str) -> PromotionRecord:
    """A record from its bytes. Raises Invalid, with every mistake, when it is none of this version's."""
    return _parsed(PromotionRecord, data, where)


def _parsed(kind: type[Entry], data: bytes, where: str) -> Entry:
    try:
        return kind.model_validate_json(data)
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
    return _last(store, model, lambda line: line.kind != "refusal")


def promotion_of(store: Store, model: str, version: int) -> PromotionRecord | None:
    """The last promotion of a version, or None when there is none. Raises as `read_record` does."""
    return _last(store, model, lambda line: line.kind == "promotion" and line.version == version)


def record_of_run(store: Store, model: str, run: str) -> PromotionRecord | None:
    """The last entry that a run has written, or None. Raises as `read_record` does."""
    return _last(store, model, lambda line: line.run == run)


def _last(store: Store, model: str, wanted: Callable[[Line], bool]) -> PromotionRecord | None:
    try:
        for line, content in read_lines(store, model, backwards(store, model)):
            if wanted(line):
                return parse_record(content, store.path(f"{record_key(model, line.sequence)}/{RECORD}"))
    except FileNotFoundError as error:
        raise Invalid("there is no such record", str(error), _OTHERS) from error
    return None


def record_schema() -> str:
    """JSON schema of a record, as docs/record.schema.json keeps it."""
    return json.dumps(PromotionRecord.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
