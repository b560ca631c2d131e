"""Entries of a ledger, written and signed as a promotion does, for the tests of who reads them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.record import RECORD, PromotionRecord, Times, digest_of, sequences
from pipeline.refs import PackageRef
from pipeline.settings import Settings
from pipeline.store import Store
from serving.package import package_key
from serving.signing import sign


def write_entry(
    settings: Settings, model: str, version: int, onnx: str, package: str, kind: str = "promotion", **other: object
) -> PromotionRecord:
    store = Store(settings.store)
    before = sequences(store, model)
    values = {
        "kind": kind,
        "model": model,
        "version": version,
        "run": f"run-{version}",
        "sequence": before[-1] + 1 if before else 1,
        "before": digest_of(store, model, before[-1]) if before else None,
        "previous": None,
        "signer": "test",
        "onnx_digest": onnx,
        "package": PackageRef(name=model, version=version, key=package_key(model, version, package), digest=package),
        "times": Times(written_at="2026-11-25T08:00:00+00:00"),
    }
    record = PromotionRecord(**(values | other))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / RECORD).write_bytes(record.canonical())
        sign(Path(folder), settings)
        store.put(Path(folder), record.key)
    return record
