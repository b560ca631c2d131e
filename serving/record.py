"""Writing promotion records: signed with their cards, kept once, and copied to where people look."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.digest import digest_bytes
from pipeline.errors import Unavailable
from pipeline.record import RECORD, PromotionRecord, backwards, ought_to_serve, promotion_of, record_key, record_of_run
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.store import Store
from serving.cards import cards, short
from serving.ledger import verified
from serving.record_content import Verdict, build
from serving.signing import sign

TAG, KEY_TAG = "slipway.record", "slipway.record.key"
FOLDER = "record"  # of the MLflow run's artifacts
_TRIES = 100  # numbers that others may take before us


def record(run: Run, spec: PipelineSpec | None, verdict: Verdict) -> PromotionRecord:
    """The entry of this run and verdict in the model's ledger; the one that is there when it was written before.

    To be called by who is alone with the model (`Plane.alone`): each entry names the one before. `spec` is None for a
    roll-back, whose run has no references of its own.

    Raises:
        Invalid: there is no key to sign with. A retry does not help.
        Unavailable: the store, MLflow or a server does not answer. A retry helps.
    """
    number = claim_number(run, verdict)
    key = record_key(verdict.version.name, number)
    if not run.store.exists(key):
        entry = build(run, spec, verdict, number)
        with _files(run, entry) as folder:
            run.store.put(folder, key)
    kept = verified(run.settings, run.store, verdict.version.name, number)
    _publish(run, kept)
    return kept


@contextmanager
def _files(run: Run, entry: PromotionRecord) -> Iterator[Path]:
    """A folder with the record, a promotion's cards, and the signature over all of it."""
    texts = {RECORD: entry.canonical().decode()}
    if entry.kind == "promotion":
        before = None if entry.previous is None else promotion_of(run.store, entry.model, entry.previous)
        texts |= cards(entry, before)
    with tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
        folder = Path(scratch) / entry.model
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text.encode())
        sign(folder, run.settings)
        yield folder


def claim_number(run: Run, verdict: Verdict) -> int:
    """Return the number of this verdict's entry: that of the entry which is there, or the one that this run claims.

    A run that was killed after its claim gets the same number again. Any number of runs may claim at once.

    Raises:
        Unavailable: other runs claim every number. A retry helps.
    """
    store, model = run.store, verdict.version.name
    kept = record_of_run(store, model, run.id)
    is_ours = kept is not None and (kept.kind, kept.version) == (verdict.kind, verdict.version.number)
    if kept is not None and is_ours and (verdict.kind == "refusal" or _still_holds(store, verdict)):
        return kept.sequence
    last = next(backwards(store, model), 0)
    owner = f"{run.id} {verdict.kind} {verdict.version.number}".encode()
    for number in range(last + 1, last + 1 + _TRIES):
        claim = f"{record_key(model, number)}.run"
        store.write(claim, owner)  # the first writer's stays
        if store.read(claim) == owner:
            return number
    raise Unavailable("others take every number of the ledger", store.path(f"records/{model}"), "run again")


def _still_holds(store: Store, verdict: Verdict) -> bool:
    """Whether the ledger still says so: between the kill and now, another version may have come and gone."""
    last = ought_to_serve(store, verdict.version.name)
    return last is not None and last.version == verdict.version.number


def _publish(run: Run, kept: PromotionRecord) -> None:
    """Copies for people: artifacts of the MLflow run, tags of the version, and beside the repository that is served."""
    registry, key = run.registry, kept.key
    with run.store.local(key) as folder:
        if run.settings.runtime == "local":
            Store(str(run.settings.home / "serving")).put(folder, key)
        if kept.mlflow_run is not None:
            registry.log_folder(kept.mlflow_run, folder, FOLDER)
        tags = {TAG: digest_bytes((folder / RECORD).read_bytes()), KEY_TAG: key}
    registry.set_version_tags(kept.model, kept.version, tags)
    if kept.kind != "rollback":
        registry.describe(kept.model, kept.version, short(kept))
