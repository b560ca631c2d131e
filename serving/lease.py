"""One holder at a time: a Lease of the cluster, taken for as long as a change of traffic may last."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pipeline.cluster import Cluster, Conflict, Manifest
from pipeline.errors import Unavailable

POLL_S = 2.0


@contextmanager
def lease(cluster: Cluster, manifest: Manifest, holder: str, term_s: float, wait_s: float) -> Iterator[None]:
    """Hold the Lease for `term_s` at most; the same holder gets it again, so that a killed step can go on.

    Raises:
        Unavailable: another holds it for longer than `wait_s`. A retry helps.
    """
    deadline = time.monotonic() + wait_s
    while (other := _take(cluster, manifest, holder, term_s)) is not None:
        if time.monotonic() > deadline:
            name = manifest["metadata"]["name"]
            remedy = "run again later; if that run is dead, delete the Lease"
            raise Unavailable(f"another change of traffic is under way, by {other}", f"Lease {name}", remedy)
        time.sleep(POLL_S)
    with _told_to_end():
        try:
            yield
        finally:
            found = cluster.get("Lease", manifest["metadata"]["name"])
            if found is not None and found["spec"].get("holderIdentity") == holder:
                cluster.delete("Lease", manifest["metadata"]["name"])


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM, with which a pod is deleted, raises SystemExit: what is held and half done is let go on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _take(cluster: Cluster, manifest: Manifest, holder: str, term_s: float) -> str | None:
    """None when the Lease is ours, else who has it."""
    now = datetime.now(UTC)
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": max(1, round(term_s)),
        "acquireTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    found = cluster.get("Lease", manifest["metadata"]["name"])
    try:
        if found is None:
            cluster.create(manifest | {"spec": spec})
            return None
        other = str(found["spec"].get("holderIdentity", ""))
        if other != holder and now < _end(found):
            return other
        cluster.replace(found | {"apiVersion": manifest["apiVersion"], "spec": spec})
    except Conflict:
        return "another hand"  # it was quicker: ask again who has it
    return None


def _end(found: Manifest) -> datetime:
    spec = found["spec"]
    begun = datetime.fromisoformat(str(spec["renewTime"]))
    return begun + timedelta(seconds=int(spec.get("leaseDurationSeconds", 0)))
