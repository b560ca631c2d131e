"""`slipway rollback`: traffic and alias go back to the version that was kept. Also `python -m serving.rollback`."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from pipeline.errors import Invalid, SlipwayError
from pipeline.refs import PromotionRef
from pipeline.registry import Registry
from pipeline.run import new_run_id
from pipeline.settings import Settings, read_settings
from pipeline.spec import BlueGreen
from serving.plane import plane
from serving.promote import PREVIOUS, STATE, version_of
from serving.register import CHAMPION


def rollback(settings: Settings, registry: Registry, name: str) -> PromotionRef:
    """Serve the champion's predecessor again, at once; the version taken back is `previous` in the answer.

    Raises:
        Invalid: nothing serves, or no earlier version is kept. A retry does not help.
        Unavailable: Triton, the cluster or MLflow do not answer. A retry helps.
    """
    serving = plane(settings)
    with serving.alone(name, f"rollback-{new_run_id()}"):
        champion = registry.alias(name, CHAMPION)
        if champion is None:
            raise Invalid(f"{name!r} has no champion", settings.mlflow_uri, "run its pipeline first")
        remembered = registry.version_tags(name, champion).get(PREVIOUS, "")
        back = version_of(registry, name, int(remembered)) if remembered else None
        if back is None or not serving.is_kept(back):
            raise Invalid(f"no version before {champion} is kept", f"model {name}", "run the pipeline for a new one")
        serving.switch(back, BlueGreen(kind="blue_green"))
        registry.set_version_tags(name, back.number, {STATE: "champion", PREVIOUS: ""})
        registry.set_alias(name, CHAMPION, back.number)
        registry.set_version_tags(name, champion, {STATE: "rolled back"})
        serving.settle(back, version_of(registry, name, champion))
    address = serving.address(name)
    return PromotionRef(
        name=name,
        version=back.number,
        digest=back.digest,
        previous=champion,
        http=address.http,
        grpc=address.grpc,
    )


def main(model: Annotated[str, typer.Argument(help="name of the model")]) -> None:
    """Take a model back to the version before, or say in sentences why not."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        settings = read_settings()
        end = rollback(settings, Registry(settings), model)
    except SlipwayError as error:
        for problem in error.problems:
            sys.stderr.write(f"{error.title}: {problem}\n")
        raise typer.Exit(error.exit_code) from None
    sys.stdout.write(f"{end.name}: version {end.version} serves; version {end.previous} was taken back\n")


if __name__ == "__main__":
    typer.run(main)
