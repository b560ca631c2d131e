"""Step rollout: the challenger loads in a server of its own; what serves is not touched."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.errors import Invalid
from pipeline.ports import free_ports
from pipeline.program import Program
from pipeline.refs import PackageRef, RolloutRef
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.supervisor import Supervisor
from serving.live import place
from serving.package import verify
from serving.probe import probe
from serving.server import challenger_name, challenger_program
from serving.triton import TritonClient


def rollout(spec: PipelineSpec, package: PackageRef, run: Run) -> RolloutRef:
    """Start the challenger and return once it answers a row; older challengers of the model are ended first.

    Raises:
        Invalid: the package was changed, or the graph does not load. A retry does not help.
        Unavailable: the server does not start. A retry helps.
    """
    settings = run.settings
    end_challengers(settings, package.name)
    folder = challengers(settings) / f"{package.name}-{package.version}"
    shutil.rmtree(folder, ignore_errors=True)
    with run.store.local(package.key) as source:
        place(source, folder / package.name)
    verify(folder / package.name, package.digest)
    http, grpc = free_ports(settings.host, 2)
    ref = RolloutRef(
        name=package.name,
        version=package.version,
        digest=package.digest,
        program=challenger_name(package.name, package.version),
        http=f"{settings.host}:{http}",
        grpc=f"{settings.host}:{grpc}",
    )
    ensure(settings, ref)
    try:
        with TritonClient(ref.grpc, settings.timeout_s) as client:
            probe(client, package.name, package.version)
    except Invalid:
        end_challengers(settings, package.name)
        raise
    run.log.info("%s version %d answers on a server of its own, %s", ref.name, ref.version, ref.grpc)
    return ref


def ensure(settings: Settings, ref: RolloutRef) -> None:
    """The challenger's server runs; it is started again when the machine, or the stack, was down since."""
    Supervisor(settings).start(_program(settings, ref))


def end_challengers(settings: Settings, name: str) -> None:
    """Stop every challenger of a model and remove its files."""
    supervisor = Supervisor(settings)
    for program in supervisor.states():
        kind, _, rest = program.partition("-")
        if kind == "challenger" and rest.rpartition("-")[0] == name:
            supervisor.stop(program)
    for folder in challengers(settings).glob(f"{name}-*"):
        if folder.name.rpartition("-")[0] == name:
            shutil.rmtree(folder, ignore_errors=True)


def challengers(settings: Settings) -> Path:
    """Where challengers' repositories lie."""
    return settings.home / "serving" / "challengers"


def _program(settings: Settings, ref: RolloutRef) -> Program:
    models = challengers(settings) / f"{ref.name}-{ref.version}"
    http, grpc = (int(address.rpartition(":")[2]) for address in (ref.http, ref.grpc))
    return challenger_program(settings, ref.name, ref.version, models, http, grpc)


if __name__ == "__main__":
    main(rollout)
