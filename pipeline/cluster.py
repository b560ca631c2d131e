"""The Kubernetes API, as far as rollouts and RayJobs need it. The one importer of kubernetes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import tenacity
from kubernetes import client, config, dynamic
from kubernetes.dynamic import exceptions
from kubernetes.utils import parse_quantity
from urllib3.exceptions import HTTPError

from pipeline.errors import Invalid, SlipwayError, Unavailable

Manifest = dict[str, Any]
T = TypeVar("T")
# an apply with an unknown field, or with a value that is none of its kind, is answered with 500
WRONG = ("failed to create typed patch object", "failed to convert new object")
MANAGER = "slipway"  # the field manager of every write
API_VERSIONS = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "Pod": "v1",
    "Event": "v1",
    "ConfigMap": "v1",
    "Lease": "coordination.k8s.io/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "ScaledObject": "keda.sh/v1alpha1",
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "RayJob": "ray.io/v1",
}


def whole_cores(quantity: str | float) -> int:
    """Cores of a quantity as Kubernetes writes it, such as `1500m`; at least one."""
    return max(1, int(parse_quantity(quantity)))


class Conflict(SlipwayError):
    """Another hand was quicker: read again, decide again."""

    exit_code = 1
    title = "conflict"


class Cluster(Protocol):
    """One namespace.

    Every method raises Unavailable when the API server does not answer (a retry helps; calls have been retried) and
    Invalid when it refuses the call: no permission, a wrong field (a retry does not help).
    """

    def get(self, kind: str, name: str) -> Manifest | None:
        """The object, or None."""
        ...

    def select(self, kind: str, labels: Mapping[str, str]) -> list[Manifest]:
        """The objects with these labels, by name."""
        ...

    def apply(self, manifest: Manifest) -> Manifest:
        """Make the object, or change it as the owner of these fields; those of others stay (server-side apply)."""
        ...

    def create(self, manifest: Manifest) -> Manifest:
        """Make the object. Raises Conflict when it is there."""
        ...

    def replace(self, manifest: Manifest) -> Manifest:
        """Replace the object as it was read. Raises Conflict when it has changed since, or is gone."""
        ...

    def mark(self, kind: str, name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        """Set labels and annotations of an object that is there; the others stay."""
        ...

    def scale(self, name: str, replicas: int) -> None:
        """Set the replicas of a Deployment."""
        ...

    def delete(self, kind: str, name: str) -> None:
        """Delete the object and what it owns, if it is there."""
        ...

    def events(self, name: str) -> list[Manifest]:
        """The events about the object of this name, oldest first."""
        ...


class KubernetesCluster:
    """`Cluster` on a real API server: the pod's own, or the one of KUBECONFIG."""

    def __init__(self, namespace: str, timeout_s: float) -> None:
        self.namespace = namespace
        self._timeout_s = timeout_s
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            try:
                config.load_kube_config(client_configuration=configuration)
            except config.ConfigException as error:
                raise Invalid(
                    f"no Kubernetes is configured: {error}", "KUBECONFIG", "run in a pod, or set KUBECONFIG"
                ) from error
        configuration.retries = False  # retried here, with a limit in seconds
        self._host = configuration.host
        self._api = client.ApiClient(configuration)
        self._dynamic: dynamic.DynamicClient | None = None

    def get(self, kind: str, name: str) -> Manifest | None:
        """See `Cluster`."""

        def call() -> Manifest | None:
            try:
                return _plain(self._of(kind).get(name=name, namespace=self.namespace, **self._wait))
            except exceptions.NotFoundError:
                return None

        return self._call(call, f"{kind} {name}")

    def select(self, kind: str, labels: Mapping[str, str]) -> list[Manifest]:
        """See `Cluster`."""
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))

        def call() -> list[Manifest]:
            found = self._of(kind).get(namespace=self.namespace, label_selector=selector, **self._wait)
            items = [{**item, "kind": kind} for item in _plain(found)["items"]]
            return sorted(items, key=lambda item: str(item["metadata"]["name"]))

        return self._call(call, f"{kind}s {selector}")

    def apply(self, manifest: Manifest) -> Manifest:
        """See `Cluster`."""

        def call() -> Manifest:
            return _plain(
                self._of(manifest["kind"]).server_side_apply(
                    body=manifest,
                    namespace=self.namespace,
                    field_manager=MANAGER,
                    force_conflicts=True,
                    **self._wait,
                )
            )

        return self._call(call, _named(manifest))

    def create(self, manifest: Manifest) -> Manifest:
        """See `Cluster`."""
        return self._call(
            lambda: _plain(
                self._of(manifest["kind"]).create(
                    body=manifest, namespace=self.namespace, field_manager=MANAGER, **self._wait
                )
            ),
            _named(manifest),
        )

    def replace(self, manifest: Manifest) -> Manifest:
        """See `Cluster`."""

        def call() -> Manifest:
            try:
                return _plain(
                    self._of(manifest["kind"]).replace(
                        body=manifest, namespace=self.namespace, field_manager=MANAGER, **self._wait
                    )
                )
            except exceptions.NotFoundError as error:
                raise Conflict(f"{_named(manifest)} is gone", self._host) from error

        return self._call(call, _named(manifest))

    def mark(self, kind: str, name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        """See `Cluster`."""
        body = {"metadata": {"labels": dict(labels), "annotations": dict(annotations)}}
        self._call(
            lambda: self._of(kind).patch(
                body=body,
                name=name,
                namespace=self.namespace,
                content_type="application/merge-patch+json",
                field_manager=MANAGER,
                **self._wait,
            ),
            f"{kind} {name}",
        )

    def scale(self, name: str, replicas: int) -> None:
        """See `Cluster`."""
        body = {"spec": {"replicas": replicas}}
        self._call(
            lambda: self._of("Deployment").scale.patch(
                body=body,
                name=name,
                namespace=self.namespace,
                content_type="application/merge-patch+json",
                field_manager=MANAGER,
                **self._wait,
            ),
            f"Deployment {name}",
        )

    def delete(self, kind: str, name: str) -> None:
        """See `Cluster`."""

        def call() -> None:
            with suppress(exceptions.NotFoundError):
                self._of(kind).delete(
                    name=name, namespace=self.namespace, body={"propagationPolicy": "Background"}, **self._wait
                )

        self._call(call, f"{kind} {name}")

    def events(self, name: str) -> list[Manifest]:
        """See `Cluster`."""

        def call() -> list[Manifest]:
            selector = f"involvedObject.name={name}"
            found = self._of("Event").get(namespace=self.namespace, field_selector=selector, **self._wait)
            return sorted(_plain(found)["items"], key=lambda item: str(item["metadata"]["creationTimestamp"]))

        return self._call(call, f"events of {name}")

    @property
    def _wait(self) -> dict[str, float]:
        return {"_request_timeout": self._timeout_s}

    def _of(self, kind: str) -> Any:
        if self._dynamic is None:  # asks the server for its resources
            self._dynamic = dynamic.DynamicClient(self._api)
        return self._dynamic.resources.get(api_version=API_VERSIONS[kind], kind=kind)

    def _call(self, call: Callable[[], T], what: str) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unavailable),
            stop=tenacity.stop_after_delay(self._timeout_s),
            wait=tenacity.wait_exponential(multiplier=0.2, max=5),
            reraise=True,
        )
        return retrying(lambda: self._once(call, what))

    def _once(self, call: Callable[[], T], what: str) -> T:
        where = f"{self._host}, namespace {self.namespace}"
        try:
            return call()
        except exceptions.ConflictError as error:
            raise Conflict(f"{what}: {_said(error)}", where, "run again") from error
        except exceptions.ForbiddenError as error:
            said = _said(error)
            if "exceeded quota" in said:
                raise Unavailable(f"{what}: {said}", where, "free some of the quota, or raise it") from error
            remedy = "an admission rule of the cluster forbids it: correct the policy"
            if " cannot " in said:  # how the API server words a right that is not there
                remedy = "give the service account the right; the chart's Role of its name has it"
            raise Invalid(f"{what}: {said}", where, remedy) from error
        except exceptions.UnauthorizedError as error:
            raise Unavailable(f"{what}: the credentials are refused", where, "they may have expired") from error
        except exceptions.ResourceNotFoundError as error:
            raise Invalid(f"{what}: this cluster has no such kind", where, "install its custom resource") from error
        except client.ApiException as error:
            if error.status in (429, 500, 502, 503, 504) and not any(wrong in str(error.body) for wrong in WRONG):
                raise Unavailable(f"{what}: the API server fails: {_said(error)}", where, "wait for it") from error
            raise Invalid(f"{what}: the API server refuses: {_said(error)}", where, "correct the policy") from error
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{what}: the API server does not answer: {error}", where, "wait for it") from error


def _plain(found: Any) -> Manifest:
    return dict(found.to_dict())


def _named(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def _said(error: client.ApiException) -> str:
    """The API server's own sentence."""
    try:
        return str(json.loads(error.body)["message"])[:500]
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
