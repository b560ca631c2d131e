"""`slipway rollback`: traffic and alias go back to the version that was kept. Also `python -m serving.rollback`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import Invalid, SlipwayError
from pipeline.frozen import Frozen
from pipeline.record import PromotionRecord, promotion_of
from pipeline.refs import PromotionRef
from pipeline.run import ROLLBACK, Run, new_run_id
from pipeline.settings import read_settings
from pipeline.spec import BlueGreen
from serving.ledger import trusted, verified, version_in
from serving.manifests import Version
from serving.plane import plane
from serving.promote import STATE
from serving.record import record
from serving.record_content import Verdict
from serving.register import CHAMPION

TASK = "rollback"


class Way(Frozen):
    """From which version to which: decided once in a run, so that one that was killed goes on where it was."""

    champion: Version
    back: Version


def rollback(run: Run, name: str) -> PromotionRef:
    """Serve the champion's predecessor again, at once; the version taken back is `previous` in the answer.

    Both are what the ledger says, whatever tags and alias have become. Killed at any moment and run again under the
    same run id, it ends the same.

    Raises:
        Invalid: nothing serves, no earlier version is kept, or the ledger cannot be trusted. A retry does not help.
        Unavailable: Triton, the cluster or MLflow do not answer. A retry helps.
    """
    if (done := run.envelope(TASK)) is not None:
        ref = PromotionRef.model_validate_json(done.ref)
        if ref.name != name:
            raise _taken(run, ref.name, ref.previous)
        return ref
    began = time.monotonic()
    serving, registry = plane(run.settings), run.registry
    _last(run, name)  # before anything is made under a name that is none
    with serving.alone(name, f"rollback-{run.id}"):
        way = _decide(run, name)
        back, champion = way.back, way.champion
        if not serving.is_kept(back):
            what = f"version {back.number} is not kept any longer"
            raise Invalid(what, f"model {name}", "run the pipeline for a new one")
        serving.switch(back, BlueGreen(kind="blue_green"))
        entry = record(run, None, Verdict("rollback", back, champion.number))
        registry.set_version_tags(name, back.number, {STATE: "champion"})
        registry.set_alias(name, CHAMPION, back.number)
        registry.set_version_tags(name, champion.number, {STATE: "rolled back"})
        serving.settle(back, champion)
    address = serving.address(name)
    ref = PromotionRef(
        name=name,
        version=back.number,
        digest=back.digest,
        previous=champion.number,
        http=address.http,
        grpc=address.grpc,
        record=entry.key,
    )
    run.finish(TASK, ref, time.monotonic() - began)
    return ref


def _decide(run: Run, name: str) -> Way:
    """What this run decided before, else what the ledger says now. Raises Invalid when there is no way back."""
    key, last = f"{run.key}/way.json", _last(run, name)
    if not run.store.exists(key):
        way = Way(champion=version_in(last), back=_before(run, last))
        run.store.write(key, way.model_dump_json().encode())
    way = Way.model_validate_json(run.store.read(key))
    if way.back.name != name or last.version not in (way.champion.number, way.back.number):
        raise _taken(run, way.back.name, way.champion.number)
    return way


def _taken(run: Run, name: str, version: int | None) -> Invalid:
    return Invalid(f"run {run.id} has taken back {name} from version {version}", run.key, "start a new run")


def _last(run: Run, name: str) -> PromotionRecord:
    """The entry of the version that ought to serve."""
    last = trusted(run.settings, run.store, name)
    if last is None:
        raise Invalid(f"no version of {name!r} was ever promoted", run.store.path("records"), "run its pipeline first")
    return last


def _before(run: Run, last: PromotionRecord) -> Version:
    """The version that served before, by the record of its own promotion."""
    where, remedy = f"model {last.model}", "run the pipeline for a new one"
    if last.kind == "rollback" or last.previous is None:
        raise Invalid(f"no version before {last.version} is kept", where, remedy)
    found = promotion_of(run.store, last.model, last.previous)
    if found is None:
        raise Invalid(f"the ledger has no promotion of version {last.previous}, which served before", where, remedy)
    return version_in(verified(run.settings, run.store, last.model, found.sequence))


def main(
    model: Annotated[str, typer.Argument(help="name of the model")],
    run: Annotated[str, typer.Option(help="run id; the same id goes on with a run that was killed")] = "",
) -> None:
    """Take a model back to the version before, or say in sentences why not."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        end = rollback(Run(run or new_run_id(), ROLLBACK, read_settings(), Path()), model)
    except SlipwayError as error:
        for problem in error.problems:
            sys.stderr.write(f"{error.title}: {problem}\n")
        raise typer.Exit(error.exit_code) from None
    sys.stdout.write(f"{end.name}: version {end.version} serves; version {end.previous} was taken back\n")


if __name__ == "__main__":
    typer.run(main)
