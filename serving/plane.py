"""What a serving plane can do: the embedded Triton and the cluster are two of them, and steps do not know which."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Protocol

from pipeline.refs import RolloutRef
from pipeline.serving_rules import Rollout
from pipeline.settings import Settings
from serving.manifests import Version

PLANES = {"local": "serving.embedded:EmbeddedPlane", "kubernetes": "serving.cluster_plane:ClusterPlane"}


@dataclass(frozen=True)
class Address:
    """host:port of a model's HTTP and gRPC."""

    http: str
    grpc: str


class Plane(Protocol):
    """Versions of models, and the traffic of each model.

    Every method raises Invalid when a version cannot be served as it is (a retry does not help), and Unavailable when
    the outside world fails (a retry helps). Each may be called again after it was killed at any point.
    """

    def address(self, name: str) -> Address:
        """Where the champion of a model answers."""
        ...

    def alone(self, name: str, holder: str, lasts_s: float = 0.0) -> AbstractContextManager[None]:
        """Only one holder at a time changes a model's traffic; `lasts_s` is how long a canary takes on top.

        Raises Unavailable when another has it too long.
        """
        ...

    def cores(self) -> int:
        """Processor cores that one server of a model may use."""
        ...

    def has_gpu(self) -> bool:
        """Whether a server of a model answers from a GPU."""
        ...

    def start(self, version: Version) -> RolloutRef:
        """Start a challenger on servers of its own; older challengers of the model are ended first."""
        ...

    def ensure(self, ref: RolloutRef, onnx_digest: str) -> None:
        """The challenger's servers run, also when they were taken down since."""
        ...

    def end_challengers(self, name: str) -> None:
        """End every challenger of a model. What serves is not touched."""
        ...

    def is_kept(self, version: Version) -> bool:
        """Whether the version can be served without a new run."""
        ...

    def switch(self, version: Version, rollout: Rollout) -> None:
        """Move a model's traffic to the version, once it answers. On failure the traffic is where it was."""
        ...

    def restore(self, version: Version) -> None:
        """Serve a champion again that nothing serves: its release was installed anew, its objects were deleted."""
        ...

    def settle(self, version: Version, previous: Version | None) -> None:
        """After a switch: keep the version before for a roll-back, and let go of what is older."""
        ...


def plane(settings: Settings) -> Plane:
    """The plane that `settings.runtime` names."""
    found: Plane = resolve_name(PLANES[settings.runtime])(settings)
    return found
