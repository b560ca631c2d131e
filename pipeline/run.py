"""One run of a pipeline as its steps see it: identity, places, and the references written so far."""

from __future__ import annotations

import logging
import random
import re
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from pipeline.digest import digest_bytes
from pipeline.errors import Invalid
from pipeline.frozen import Frozen
from pipeline.graph import Task, producer
from pipeline.settings import Settings
from pipeline.store import Store

if TYPE_CHECKING:
    from pipeline.registry import Registry

Ref = TypeVar("Ref", bound=Frozen)
SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,249}")
APPROVE = "approve"  # the task whose reference is a person's word (`Approval`)
YES, NO = "Approve", "Reject"  # what that person may choose in Airflow
ROLLBACK = "slipway_rollback"  # the DAG of the way back; its runs lie in the store as those of a pipeline of this name


class Envelope(Frozen):
    """What a finished task leaves: its reference as JSON, and the seconds it took."""

    schema_version: int = SCHEMA
    task: str
    kind: str
    ref: str
    seconds: float
    fit_s: float = 0.0
    finished_at: str


@dataclass(frozen=True)
class Run:
    """Handed to every step. `spec_path` is where relative paths of the spec start; `candidate` is set per candidate."""

    id: str
    pipeline: str
    settings: Settings
    spec_path: Path
    candidate: str | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("slipway"))

    def __post_init__(self) -> None:
        """Raises Invalid for what cannot be the name of a folder: the run's lies in the store."""
        for what, name in (("run", self.id), ("pipeline", self.pipeline)):
            if not _NAME.fullmatch(name):
                remedy = "use at most 250 letters, digits and `_`, `.`, `-`, and no `.` or `-` to begin with"
                raise Invalid(f"{name[:80]!r} cannot be the id of a {what}", "", remedy)

    @cached_property
    def store(self) -> Store:
        """The artifact store."""
        return Store(self.settings.store)

    @cached_property
    def registry(self) -> Registry:
        """MLflow, connected when first asked for (the import takes a second)."""
        from pipeline.registry import Registry  # noqa: PLC0415

        return Registry(self.settings)

    @property
    def key(self) -> str:
        """The run's folder in the store."""
        return f"runs/{self.pipeline}/{self.id}"

    def now(self) -> str:
        """The time, as ISO 8601 UTC."""
        return datetime.now(UTC).isoformat(timespec="seconds")

    def envelope(self, task: str) -> Envelope | None:
        """What the task of this key left, or None when it has not finished."""
        try:
            data = self.store.read(f"{self.key}/{task}.json")
        except FileNotFoundError:
            return None
        try:
            return Envelope.model_validate_json(data)
        except ValidationError as error:
            raise self._damaged(task) from error

    def finish(self, task: str, ref: Frozen, seconds: float) -> None:
        """Write what a task leaves: last, at once, and the first one stays."""
        envelope = Envelope(
            task=task,
            kind=type(ref).__name__,
            ref=ref.model_dump_json(),
            seconds=round(seconds, 3),
            fit_s=float(getattr(ref, "fit_s", 0.0)),
            finished_at=self.now(),
        )
        self.store.write(f"{self.key}/{task}.json", envelope.model_dump_json(indent=1).encode())

    def ref(self, kind: type[Ref], candidate: str | None = None) -> Ref:
        """The reference of this kind that the run has produced.

        Raises:
            Invalid: it is not there, or is damaged. A retry does not help; running its step does.
        """
        task = Task(producer(kind), candidate if producer(kind).per_candidate else None).key
        envelope = self.envelope(task)
        if envelope is None:
            raise Invalid(
                f"step {task} of run {self.id} has left no reference", f"{self.store.url}/{self.key}", "run it first"
            )
        try:
            return kind.model_validate_json(envelope.ref)
        except ValidationError as error:
            raise self._damaged(task) from error

    def _damaged(self, task: str) -> Invalid:
        return Invalid(
            f"the reference of step {task} cannot be read",
            f"{self.store.url}/{self.key}/{task}.json",
            "delete the file and run the step again",
        )


def slug(run_id: str) -> str:
    """Airflow's run id as a name for files, tags and labels; one that had to be changed ends with its digest."""
    legal = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")
    return legal if legal == run_id else f"{legal[:200]}-{digest_bytes(run_id.encode())[:8]}".lstrip("-")


def new_run_id() -> str:
    """A run id that sorts by time, such as 20261123t101500-k3f9."""
    suffix = "".join(random.choices(string.ascii_lowercase + string.digits, k=4))  # noqa: S311 (a name, not a secret)
    return f"{datetime.now(UTC):%Y%m%dt%H%M%S}-{suffix}"
