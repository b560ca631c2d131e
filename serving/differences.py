"""What reconcile finds, and what it asks of a plane's files and objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from pipeline.frozen import Frozen
from serving.manifests import Version

What = Literal["ledger", "signature", "registry", "alias", "challenger", "replica", "traffic", "fix"]


class Difference(Frozen):
    """Something that is not as the ledger's last entry says, as a sentence; `remedy` where --fix is none."""

    what: What
    sentence: str
    remedy: str = ""

    def __str__(self) -> str:
        return self.sentence + (f" -> {self.remedy}" if self.remedy else "")


class Reconciled(Frozen):
    """One model: `found` differs, `left` still does after --fix; both are empty when all agree."""

    model: str
    version: int | None
    found: tuple[Difference, ...] = ()
    left: tuple[Difference, ...] = ()
    under_way: str = ""


class State(Protocol):
    """What a plane keeps of its models, beside what its servers say."""

    def served_models(self) -> tuple[str, ...]:
        """Names of the models that it has."""
        ...

    def moved(self, version: Version) -> Iterator[str]:
        """Each thing that is not as a promotion of this version leaves it."""
        ...

    def mend(self, version: Version) -> None:
        """Put back what a switch does not."""
        ...
