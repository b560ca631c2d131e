"""`slipway rollback`: traffic and alias go back to the version that was kept. Also `python -m serving.rollback`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from pipeline.errors import Invalid, SlipwayError
from pipeline.frozen import Frozen
from pipeline.record import PromotionRecord, promotion_of, record_of_run
from pipeline.refs import PromotionRef
from pipeline.run import ROLLBACK, Run, new_run_id
from pipeline.serving_rules import BlueGreen
from pipeline.settings import read_settings
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
        entry = record_of_run(run.store, ref.name, run.id)
        if ref.name != name or entry is None or (entry.version, entry.previous) != (ref.version, ref.previous):
            raise _taken(run, ref.name, ref.previous)
        verified(run.settings, run.store, name, entry.sequence)  # nothing moved on an unsigned word
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
    """What the ledger says, as long as it is what this run decided when it began.

    Raises Invalid when there is no way back, or another one than the run set out for.
    """
    key, last = f"{run.key}/way.json", _last(run, name)
    if last.kind == "rollback" and last.run == run.id:  # it was killed after it had been recorded
        way = Way(champion=_promoted(run, name, last.previous), back=version_in(last))
    else:
        way = Way(champion=version_in(last), back=_before(run, last))
    run.store.write(key, way.model_dump_json().encode())  # the first one stays
    try:
        begun = Way.model_validate_json(run.store.read(key))
    except ValidationError as error:
        raise Invalid("what this run decided cannot be read", run.store.path(key), "start a new run") from error
    if begun != way:
        raise _taken(run, begun.back.name, begun.champion.number)
    return way


def _taken(run: Run, name: str, version: int | None) -> Invalid:
    what = f"run {run.id} takes back {name} from version {version}, and nothing else"
    return Invalid(what, run.key, "start a new run")


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
    return _promoted(run, last.model, last.previous)


def _promoted(run: Run, name: str, version: int | None) -> Version:
    """A version, by the record of its own promotion."""
    found = None if version is None else promotion_of(run.store, name, version)
    if found is None:
        what = f"the ledger has no promotion of version {version}, which served before"
        raise Invalid(what, f"model {name}", "run the pipeline for a new one")
    return version_in(verified(run.settings, run.store, name, found.sequence))


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
