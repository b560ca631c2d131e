"""The last entry of a ledger that may be trusted: signed, where it belongs, and with no later one taken out."""

from __future__ import annotations

from pipeline.errors import Invalid, Problem
from pipeline.record import RECORD, PromotionRecord, digest_of, parse_record, record_key, sequences
from pipeline.settings import Settings
from pipeline.store import Store
from serving.manifests import Version
from serving.signing import check_signature

REMEDY = "nothing is moved on its word; restore records/ from a backup, or look at who may write to the store"


def trusted(settings: Settings, store: Store, model: str) -> PromotionRecord | None:
    """What ought to serve: the last promotion or roll-back, or None when there is none.

    Raises:
        Invalid: it, or an entry after it, is not signed, is another's, or does not follow the one before. A retry
            does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    numbers = sequences(store, model)
    for at in reversed(range(len(numbers))):
        record = verified(settings, store, model, numbers[at])
        if record.before is not None and not _is_there(store, model, record.before, numbers[:at]):
            what = f"the entry before entry {record.sequence} was changed, or taken out"
            raise Invalid(what, store.path(record.key), REMEDY)
        if record.kind != "refusal":
            return record
    return None


def verified(settings: Settings, store: Store, model: str, sequence: int) -> PromotionRecord:
    """An entry whose signature holds, and which is of this model and number.

    Raises:
        Invalid: it is not. A retry does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    key = record_key(model, sequence)
    where = store.path(key)
    with store.local(key) as folder:
        try:
            check_signature(folder, settings)
        except Invalid as error:  # the copy's place says nothing to a person
            raise Invalid([Problem(one.what, where, REMEDY) for one in error.problems]) from error
        record = parse_record((folder / RECORD).read_bytes(), where)
    if (record.model, record.sequence) != (model, sequence):
        raise Invalid(f"this is entry {record.sequence} of {record.model}, put here by another hand", where, REMEDY)
    return record


def version_in(record: PromotionRecord) -> Version:
    """The version that a record is about, by the record's own digests."""
    return Version(record.model, record.version, record.package.digest, record.onnx_digest)


def _is_there(store: Store, model: str, digest: str, earlier: tuple[int, ...]) -> bool:
    """Whether an earlier entry is the one that is named: the last of them, unless two were written at once."""
    return any(digest_of(store, model, number) == digest for number in reversed(earlier))
