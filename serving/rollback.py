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
from pipeline.refs import PromotionRef
from pipeline.run import ROLLBACK, Run, new_run_id
from pipeline.settings import read_settings
from pipeline.spec import BlueGreen
from serving.plane import plane
from serving.promote import PREVIOUS, STATE, version_of
from serving.record import Verdict, record
from serving.register import CHAMPION

TASK = "rollback"


class Way(Frozen):
    """From which version to which: decided once in a run, so that one that was killed goes on where it was."""

    model: str
    champion: int
    back: int


def rollback(run: Run, name: str) -> PromotionRef:
    """Serve the champion's predecessor again, at once; the version taken back is `previous` in the answer.

    Killed at any moment and run again under the same run id, it ends the same.

    Raises:
        Invalid: nothing serves, or no earlier version is kept. A retry does not help.
        Unavailable: Triton, the cluster or MLflow do not answer. A retry helps.
    """
    if (done := run.envelope(TASK)) is not None:
        return PromotionRef.model_validate_json(done.ref)
    began = time.monotonic()
    serving, registry = plane(run.settings), run.registry
    _champion(run, name)  # before anything is made under a name that is none
    with serving.alone(name, f"rollback-{run.id}"):
        way = _decide(run, name)
        back = version_of(registry, name, way.back)
        if not serving.is_kept(back):
            raise Invalid(
                f"version {way.back} is not kept any longer", f"model {name}", "run the pipeline for a new one"
            )
        serving.switch(back, BlueGreen(kind="blue_green"))
        entry = record(run, None, Verdict("rollback", back, way.champion))
        registry.set_version_tags(name, back.number, {STATE: "champion", PREVIOUS: ""})
        registry.set_alias(name, CHAMPION, back.number)
        registry.set_version_tags(name, way.champion, {STATE: "rolled back"})
        serving.settle(back, version_of(registry, name, way.champion))
    address = serving.address(name)
    ref = PromotionRef(
        name=name,
        version=back.number,
        digest=back.digest,
        previous=way.champion,
        http=address.http,
        grpc=address.grpc,
        record=entry.key,
    )
    run.finish(TASK, ref, time.monotonic() - began)
    return ref


def _decide(run: Run, name: str) -> Way:
    """What this run decided before, else what the registry says now. Raises Invalid when there is no way back."""
    key, registry, champion = f"{run.key}/way.json", run.registry, _champion(run, name)
    if not run.store.exists(key):
        remembered = registry.version_tags(name, champion).get(PREVIOUS, "")
        if not remembered:
            raise Invalid(f"no version before {champion} is kept", f"model {name}", "run the pipeline for a new one")
        way = Way(model=name, champion=champion, back=int(remembered))
        run.store.write(key, way.model_dump_json().encode())
    way = Way.model_validate_json(run.store.read(key))
    if way.model != name or champion not in (way.champion, way.back):
        raise Invalid(f"run {run.id} has taken back {way.model} from {way.champion}", run.key, "start a new run")
    return way


def _champion(run: Run, name: str) -> int:
    champion = run.registry.alias(name, CHAMPION)
    if champion is None:
        raise Invalid(f"{name!r} has no champion", run.settings.mlflow_uri, "run its pipeline first")
    return champion


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
