"""What fits a candidate, and with what, as a spec asks for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.frozen import Written


class Resources(Written):
    """What a training pod asks for, where the platform's default is not enough. Without effect on one machine."""

    cpu: float | None = Field(default=None, gt=0, le=4096, description="cores")
    memory_gib: float | None = Field(default=None, gt=0, le=65_536, description="memory in GiB")
    gpus: int = Field(default=0, ge=0, le=64)


class Local(Written):
    """One process of this machine, or the step's own pod."""

    kind: Literal["local"]


class Ray(Written):
    """Processes of a Ray cluster: of this machine, or pods of a KubeRay RayJob. They share trials and rows."""

    kind: Literal["ray"]
    workers: int = Field(ge=1, le=1024, description="processes; one of them needs what follows")
    cpus_per_worker: int = Field(default=1, ge=1, le=1024, description="cores")
    gpus_per_worker: int = Field(default=0, ge=0, le=1, description="a process uses one GPU: for more, more workers")
    memory_gib_per_worker: float | None = Field(
        default=None, gt=0, le=65_536, description="memory in GiB of a pod; without effect on one machine"
    )


Engine = Annotated[Local | Ray, Field(discriminator="kind")]


def contradiction(engine: Local | Ray, resources: Resources, device: str) -> str:
    """What of these cannot be together; empty when all can."""
    if not isinstance(engine, Ray):
        return ""
    if resources != Resources():
        return "resources are of a fit in one pod: write engine.cpus_per_worker and the like instead"
    if device == "cuda" and not engine.gpus_per_worker:
        return "device is cuda and engine.gpus_per_worker is 0: write 1"
    if device == "cpu" and engine.gpus_per_worker:
        return "device is cpu and engine.gpus_per_worker is 1: write 0, or leave device out"
    return ""
