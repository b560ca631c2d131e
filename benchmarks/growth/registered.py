"""A model with many versions in MLflow's registry, in the ledger and in the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.growth.ledgers import DIGEST, ledger
from benchmarks.growth.tracked import tracked
from pipeline.lineage import trace
from pipeline.registry import Registry
from pipeline.settings import Settings
from pipeline.tracking import RUN
from serving.reconcile import Reconciler
from serving.register import CHALLENGER, CHAMPION

TAGS = {"slipway.dataset": DIGEST, "slipway.spec": DIGEST, "slipway.candidate": "trees"}


def registry(count: int, folder: Path) -> Callable[[], None]:
    """What a promotion asks of MLflow's registry that has as many versions: one more, its tags, its alias, the champion."""
    settings = tracked(folder)
    office = Registry(settings)
    run_id, model_id = _versions(office, "grown", count)
    _promoted(office, "first", *_versions(office, "first", 1), 1)  # libraries
    return lambda: _promoted(office, "grown", run_id, model_id, count)


def lineage(count: int, folder: Path) -> Callable[[], None]:
    """`slipway lineage MODEL`, of a model of as many versions, each of rows of its own."""
    settings, office = _grown(count, folder)
    trace(settings, office, "first")  # libraries

    def work() -> None:
        if not trace(settings, office, "grown").nodes:
            raise SystemExit("nothing was found")

    return work


def reconcile(count: int, folder: Path) -> Callable[[], None]:
    """`slipway reconcile MODEL`, of as many versions in registry, ledger and store; nothing serves."""
    settings, _ = _grown(count, folder)
    office = Reconciler(settings, ask=lambda _: ())
    office.one("first", fix=False)  # libraries

    def work() -> None:
        if office.one("grown", fix=False).version != count:
            raise SystemExit("another version is the last")

    return work


def _grown(count: int, folder: Path) -> tuple[Settings, Registry]:
    """Two models, of one version and of as many, all promoted."""
    settings = tracked(folder)
    office = Registry(settings)
    ledger(settings, {"first": 1, "grown": count})
    for name, many in (("first", 1), ("grown", count)):
        _versions(office, name, many)
        for at in range(1, many + 1):
            (Path(settings.store) / "packages" / name / f"{at}-{DIGEST[:16]}").mkdir(parents=True)
        office.set_alias(name, CHAMPION, many)
    return settings, office


def _versions(office: Registry, name: str, count: int) -> tuple[str, str]:
    """As many versions, each of another run's; the MLflow run and logged model that they are of."""
    client = office._client
    run = client.create_run(client.create_experiment(name))
    run_id = str(run.info.run_id)
    model_id = str(client.create_logged_model(run.info.experiment_id, "graph", run_id).model_id)
    client.finalize_logged_model(model_id, "READY")
    client.create_registered_model(name)
    for at in range(1, count + 1):
        tags = TAGS | {RUN: f"run-{at}", "slipway.onnx": f"{at:064x}", "slipway.package": DIGEST}
        client.create_model_version(name, f"models:/{model_id}", run_id, tags=tags, model_id=model_id)
    return run_id, model_id


def _promoted(office: Registry, name: str, run_id: str, model_id: str, count: int) -> None:
    version = office.register(name, model_id, run_id, TAGS | {RUN: "another", "slipway.onnx": DIGEST})
    if version != count + 1:
        raise SystemExit(f"version {version} after {count}")
    office.set_alias(name, CHALLENGER, version)
    office.set_version_tags(name, version, {"slipway.package": DIGEST})
    office.aliases(name)
    office.version(name, version)
    office.set_alias(name, CHAMPION, version)
    office.delete_alias(name, CHALLENGER)
