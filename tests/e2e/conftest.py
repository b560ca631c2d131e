"""The chart on a real cluster: KUBECONFIG names it, E2E_VALUES is a values file with its images, database and storage.

E2E_NAMESPACE may name a namespace that is there already (with the volume claim or secrets that the values name);
else one is made, under Pod Security `restricted`, and deleted at the end.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.release import TOOLS, Release

HERE = Path(__file__).parent
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the order of these tests, whatever shuffles the others: each goes on where the one before has left it."""
    places = [place for place, item in enumerate(items) if item.path.parent == HERE]
    for place, item in zip(places, sorted((items[place] for place in places), key=_written_at), strict=True):
        items[place] = item


def _written_at(item: pytest.Item) -> tuple[int, list[int]]:
    case = getattr(item, "callspec", None)
    return item.location[1] or 0, list(case.indices.values()) if case else []


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    """A namespace under `restricted`, with nothing of Slipway in it yet."""
    missing = [name for name in ("KUBECONFIG", "E2E_VALUES") if not os.environ.get(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not set: see tests/e2e/conftest.py")
    given = os.environ.get("E2E_NAMESPACE", "")
    namespace = given or f"slipway-e2e-{uuid.uuid4().hex[:6]}"
    kubectl = str(TOOLS / "kubectl")
    if not given:
        subprocess.run([kubectl, "create", "namespace", namespace], check=True)
    subprocess.run([kubectl, "label", "--overwrite", "namespace", namespace, RESTRICTED], check=True)
    try:
        yield Release(namespace, Path(os.environ["E2E_VALUES"]).absolute())
    finally:
        if not given:
            subprocess.run([kubectl, "delete", "namespace", namespace, "--wait=false"], check=True)
