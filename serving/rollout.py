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
from serving.package import package_key, verify
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
    http, grpc = free_ports(settings.host, 2)
    ref = RolloutRef(
        name=package.name,
        version=package.version,
        digest=package.digest,
        program=challenger_name(package.name, package.version),
        http=f"{settings.host}:{http}",
        grpc=f"{settings.host}:{grpc}",
    )
    ensure(run, ref)
    try:
        with TritonClient(ref.grpc, settings.timeout_s) as client:
            probe(client, package.name, package.version)
    except Invalid:
        end_challengers(settings, package.name)
        raise
    run.log.info("%s version %d answers on a server of its own, %s", ref.name, ref.version, ref.grpc)
    return ref


def ensure(run: Run, ref: RolloutRef) -> None:
    """The challenger's server runs, with its files: again, when the stack was down or the challenger taken down since.

    Raises:
        Invalid: the package was changed. A retry does not help.
        Unavailable: the store does not answer, or the server does not start. A retry helps.
    """
    folder = challengers(run.settings) / f"{ref.name}-{ref.version}" / ref.name
    if not folder.is_dir():
        with run.store.local(package_key(ref.name, ref.version, ref.digest)) as source:
            place(source, folder)
    verify(folder, ref.digest)
    Supervisor(run.settings).start(_program(run.settings, ref))


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
