"""The platform team's part of every RayJob: `ray.yaml`, written by the chart."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from pipeline.frozen import Frozen

RAY = "ray"  # the container's name in the template


class Owner(Frozen):
    """The object with which RayJobs that nobody waits for any more go away."""

    kind: str = "ConfigMap"
    name: str


class GpuPool(Frozen):
    """Where workers go that have a GPU."""

    resource: str = "nvidia.com/gpu"
    nodeSelector: dict[str, str] = Field(default={})  # noqa: N815 (Kubernetes' own names)
    tolerations: tuple[dict[str, Any], ...] = ()


class RayPolicy(Frozen):
    """How candidates with `engine: {kind: ray}` stand in the cluster; no spec can change it."""

    namespace: str
    owner: Owner
    gpuImage: str = ""  # noqa: N815
    maxWorkers: int = Field(default=16, ge=1)  # noqa: N815
    startupTimeoutS: int = Field(default=900, ge=1)  # noqa: N815
    deadlineS: int = Field(default=86_400, ge=1)  # noqa: N815
    keepS: int = Field(default=600, ge=0, description="how long what has ended is kept where nobody removes it")  # noqa: N815
    head: dict[str, Any] = Field(default={}, description="resources of the pod that leads and does not train")
    worker: dict[str, Any] = Field(default={}, description="resources of a worker where the spec asks for none")
    gpu: GpuPool = GpuPool()
    template: dict[str, Any]

    @field_validator("template")
    @classmethod
    def _has_ray(cls, template: dict[str, Any]) -> dict[str, Any]:
        containers = template.get("spec", {}).get("containers", [])
        if [container.get("name") for container in containers[:1]] != [RAY]:
            raise ValueError(f"the first container of the pod template is not named {RAY!r}")
        return template
