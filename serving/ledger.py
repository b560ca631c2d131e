"""The last entry of a ledger that may be trusted: signed, where it belongs, and with no other one taken out."""

from __future__ import annotations

import logging

from pipeline.digest import digest_bytes
from pipeline.errors import Invalid, Problem
from pipeline.record import RECORD, PromotionRecord, parse_record, read_lines, record_key, sequences
from pipeline.registry import Registry
from pipeline.settings import Settings
from pipeline.store import Store
from serving.manifests import Version
from serving.register import CHAMPION
from serving.signing import check_signature

log = logging.getLogger("slipway")
REMEDY = "nothing is moved on its word; restore records/ from a backup, or look at who may write to the store"


def trusted(settings: Settings, store: Store, model: str) -> PromotionRecord | None:
    """What ought to serve: the last promotion or roll-back, or None when there is none.

    The signature of the last entry holds for all of them, as each names the digest of one before it.

    Raises:
        Invalid: it, or an entry after it, is not signed or is another's; an entry was changed, or taken out. A retry
            does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    numbers = sequences(store, model)
    _unbroken(store, model, numbers)
    for number in reversed(numbers):
        record = verified(settings, store, model, number)
        if record.kind != "refusal":
            return record
    return None


def champion(settings: Settings, store: Store, registry: Registry, model: str) -> int | None:
    """The version that ought to serve, by the ledger: an alias that another hand has moved counts for nothing.

    Without a ledger (the model was promoted before there were any) it is what the alias names, or None. Raises as
    `trusted` does.
    """
    last, named = trusted(settings, store, model), registry.alias(model, CHAMPION)
    if last is None:
        return named
    if named != last.version:
        says = "is gone" if named is None else f"names version {named}"
        log.warning("alias champion of %s %s: version %d ought to serve, and counts", model, says, last.version)
    return last.version


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


def _unbroken(store: Store, model: str, numbers: tuple[int, ...]) -> None:
    """Raise Invalid unless each entry names an earlier one that is there: the last, unless two were written at once."""
    earlier: set[str | None] = {None}
    try:
        for number, (line, content) in zip(numbers, read_lines(store, model, numbers), strict=True):
            if line.before not in earlier:
                where = store.path(record_key(model, number))
                raise Invalid(f"the entry before entry {number} was changed, or taken out", where, REMEDY)
            earlier -= {None}  # the first entry alone follows none
            earlier.add(digest_bytes(content))
    except FileNotFoundError as error:
        raise Invalid("this entry was taken out", str(error), REMEDY) from error
