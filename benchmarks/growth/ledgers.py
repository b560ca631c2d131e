"""The ledger of a model with many versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.digest import digest_bytes
from pipeline.record import RECORD, PromotionRecord, Times, record_of_run
from pipeline.refs import PackageRef
from pipeline.settings import Settings
from pipeline.store import Store
from serving.ledger import trusted
from serving.signing import sign

DIGEST = "0" * 64
LINES = ("a line of thirty-five letters, or so",) * 1000  # a record is then as large as one with its gates' tables


def versions(count: int, folder: Path) -> Callable[[], None]:
    """The whole ledger of a model of as many promotions, read and verified, as each promotion and reconcile does."""
    settings = Settings(home=folder / "home")
    ledger(settings, {"first": 1, "grown": count})
    store = Store(settings.store)
    trusted(settings, store, "first")  # libraries

    def walk() -> None:
        last = trusted(settings, store, "grown")
        if last is None or last.version != count:
            raise SystemExit("the last entry is another")

    return walk


def a_run_in_the_ledger(count: int, folder: Path) -> Callable[[], None]:
    """The search for a run that a ledger of as many entries does not have, as each promotion does before it writes."""
    settings = Settings(home=folder / "home")
    ledger(settings, {"first": 1, "grown": count})
    store = Store(settings.store)

    def search() -> None:
        if record_of_run(store, "grown", "none") is not None:
            raise SystemExit("there is such a run")

    return search


def ledger(settings: Settings, promotions: Mapping[str, int]) -> None:
    """The records of as many promotions of each model, the last of which is signed."""
    for model, many in promotions.items():
        before = None
        for at in range(1, many + 1):
            package = PackageRef(name=model, version=at, key=f"packages/{model}/{at}", digest=DIGEST)
            record = PromotionRecord(
                kind="promotion", model=model, version=at, run=f"run-{at}", sequence=at, before=before,
                previous=at - 1 or None, signer="benchmark", onnx_digest=DIGEST, package=package, reasons=LINES,
                times=Times(written_at="2026-11-28T08:00:00+00:00"),
            )  # fmt: skip
            entry = Path(settings.store) / record.key
            entry.mkdir(parents=True)
            (entry / RECORD).write_bytes(record.canonical())
            if at == many:  # the signature of the last one is looked at
                sign(entry, settings)
            before = digest_bytes(record.canonical())
