"""The platform team's part of every served version: `serving.yaml`, written by the chart."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from pipeline.frozen import Frozen

TRITON = "triton"  # the container's name in the template


class Owner(Frozen):
    """The object with which everything that rollouts have made goes away."""

    kind: str = "ConfigMap"
    name: str


class Fetch(Frozen):
    """The init container that fetches a version's package."""

    image: str
    imagePullPolicy: str = "IfNotPresent"  # noqa: N815 (Kubernetes' own names)
    resources: dict[str, Any] = Field(default={})
    env: tuple[dict[str, Any], ...] = ()
    envFrom: tuple[dict[str, Any], ...] = ()  # noqa: N815
    volumeMounts: tuple[dict[str, Any], ...] = ()  # noqa: N815


class Autoscaler(Frozen):
    """A HorizontalPodAutoscaler or ScaledObject, of which a rollout fills in name, labels and target."""

    apiVersion: str  # noqa: N815
    kind: str
    spec: dict[str, Any]


class Gateway(Frozen):
    """A Gateway (gateway.networking.k8s.io) before the served models: MODEL.domain."""

    name: str
    namespace: str
    sectionName: str = ""  # noqa: N815
    domain: str


class ServingPolicy(Frozen):
    """How versions stand in the cluster; no spec can change it."""

    namespace: str
    release: str
    owner: Owner
    replicas: int = Field(default=1, ge=1)
    keepPreviousS: int = Field(default=86_400, ge=0)  # noqa: N815
    readyTimeoutS: int = Field(default=600, ge=1)  # noqa: N815
    fetch: Fetch
    template: dict[str, Any]
    autoscaler: Autoscaler | None = None
    gateway: Gateway | None = None

    @property
    def cpu(self) -> str | float:
        """Cores of Triton's container as Kubernetes writes them: its limit, else its request, else one."""
        return self._limits.get("cpu") or self._resources.get("requests", {}).get("cpu") or 1

    @property
    def has_gpu(self) -> bool:
        """Whether Triton's container is given a GPU of NVIDIA's, or a part of one."""
        return any(name.startswith("nvidia.com/") for name in self._limits)

    @property
    def _resources(self) -> dict[str, Any]:
        containers = self.template["spec"]["containers"]
        found: dict[str, Any] = next(item.get("resources", {}) for item in containers if item["name"] == TRITON)
        return found

    @property
    def _limits(self) -> dict[str, Any]:
        return self._resources.get("limits") or {}

    @field_validator("template")
    @classmethod
    def _has_triton(cls, template: dict[str, Any]) -> dict[str, Any]:
        containers = template.get("spec", {}).get("containers", [])
        if TRITON not in [container.get("name") for container in containers]:
            raise ValueError(f"the pod template has no container named {TRITON!r}")
        return template
