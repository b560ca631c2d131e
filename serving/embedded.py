"""Versions and traffic on one machine: the serving Triton, and a server of its own for each challenger."""

from __future__ import annotations

import logging
import shutil
from contextlib import AbstractContextManager

from pipeline.errors import Invalid, Unavailable
from pipeline.ports import free_ports
from pipeline.process import cores
from pipeline.program import Program
from pipeline.refs import RolloutRef
from pipeline.serving_rules import BlueGreen, Canary, Rollout
from pipeline.settings import Settings
from pipeline.store import Store
from pipeline.supervisor import Supervisor
from serving.live import Live
from serving.manifests import Version
from serving.model_config import FILE
from serving.package import package_key
from serving.places import challengers, repository
from serving.plane import Address
from serving.probe import missing_row, served_schema
from serving.server import challenger_name, challenger_program
from serving.start import whole_challenger
from serving.triton import TritonClient

log = logging.getLogger("slipway")


class EmbeddedPlane:
    """See `Plane`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def address(self, name: str) -> Address:
        """See `Plane`. One server has every model."""
        return Address(self.settings.triton_http, self.settings.triton_grpc)

    def alone(self, name: str, holder: str, lasts_s: float = 0.0) -> AbstractContextManager[None]:
        """See `Plane`. A lock of the file system, which a killed process leaves."""
        return Live(self.settings, name).alone()

    def cores(self) -> int:
        """See `Plane`."""
        return cores()

    def has_gpu(self) -> bool:
        """See `Plane`. Its backends are built for processors."""
        return False

    def start(self, version: Version) -> RolloutRef:
        """See `Plane`."""
        self.end_challengers(version.name)
        http, grpc = free_ports(self.settings.host, 2)
        ref = RolloutRef(
            name=version.name,
            version=version.number,
            digest=version.digest,
            program=challenger_name(version.name, version.number),
            http=f"{self.settings.host}:{http}",
            grpc=f"{self.settings.host}:{grpc}",
        )
        self.ensure(ref, version.onnx_digest)
        return ref

    def ensure(self, ref: RolloutRef, onnx_digest: str) -> None:
        """See `Plane`."""
        whole_challenger(self.settings, ref.name, ref.version, ref.digest)
        supervisor, server = Supervisor(self.settings), _program(self.settings, ref)
        supervisor.start(server)
        if not self._answers(ref):
            log.warning("%s does not answer a row: it is started anew", server.name)
            supervisor.stop(server.name)
            supervisor.start(server)

    def _answers(self, ref: RolloutRef) -> bool:
        """Whether a challenger answers a row; also where it refuses one, which a new start would not change."""
        with TritonClient(ref.grpc, self.settings.timeout_s) as client:
            try:
                schema = served_schema(client, ref.name)
                client.infer(ref.name, missing_row(schema), schema.output)
            except Unavailable:
                return False
            except Invalid:
                return True
        return True

    def end_challengers(self, name: str) -> None:
        """See `Plane`."""
        supervisor = Supervisor(self.settings)
        for program in supervisor.states():
            kind, _, rest = program.partition("-")
            if kind == "challenger" and rest.rpartition("-")[0] == name:
                supervisor.stop(program)
        for folder in challengers(self.settings).glob(f"{name}-*"):
            if folder.name.rpartition("-")[0] == name:
                shutil.rmtree(folder, ignore_errors=True)

    def is_kept(self, version: Version) -> bool:
        """See `Plane`."""
        return Live(self.settings, version.name).package(version.number).is_dir()

    def switch(self, version: Version, rollout: Rollout) -> None:
        """See `Plane`. One server has no replicas to share the traffic among: a canary is a switch in one step."""
        if isinstance(rollout, Canary):
            log.info("one machine has no canary: all traffic moves at once")
        live = Live(self.settings, version.name)
        if not live.holds(version.number, version.digest):
            with Store(self.settings.store).local(package_key(version.name, version.number, version.digest)) as source:
                live.keep(source, version.number, version.digest)
        live.switch(version.number, version.digest, version.onnx_digest)

    def restore(self, version: Version) -> None:
        """See `Plane`."""
        if not (repository(self.settings) / version.name / FILE).is_file():
            log.warning("%s: nothing serves version %d, the champion: it is placed again", version.name, version.number)
            self.switch(version, BlueGreen(kind="blue_green"))

    def settle(self, version: Version, previous: Version | None) -> None:
        """See `Plane`."""
        Live(self.settings, version.name).prune({version.number} | ({previous.number} if previous else set()))


def _program(settings: Settings, ref: RolloutRef) -> Program:
    http, grpc = (int(address.rpartition(":")[2]) for address in (ref.http, ref.grpc))
    return challenger_program(settings, ref.name, ref.version, ref.digest, http, grpc)
