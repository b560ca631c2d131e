"""Asking live servers what they serve: each replica of a model, or whatever answers at an address."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.policy import read_policy
from pipeline.served import Served
from pipeline.settings import Settings
from pipeline.store import NUMBER
from pipeline.suggest import near
from serving.manifests import DIGEST, GRPC, model_name
from serving.plane import plane
from serving.policy import ServingPolicy
from serving.triton import TritonClient

if TYPE_CHECKING:
    from pipeline.cluster import Cluster

Ask = Callable[[str, str], Served]  # address and model to what is served there
MODELS = re.compile(r"^(?P<base>https?://[^?#]*?)/v2/models/(?P<model>[^/?#]+)")
SERVER = re.compile(r"^(?P<base>https?://[^?#]*?)(/v2)?/?$")
PLAIN = re.compile(r"^(?P<address>[^/@\s]+:\d{1,5})(/(?P<model>[^/\s]+))?/?$")
AT_ONCE = 16  # servers that are asked at the same time


def serving(
    settings: Settings, models: tuple[str, ...], cluster: Cluster | None = None, ask: Ask | None = None
) -> tuple[Served, ...]:
    """What each replica that has the traffic of these models says; of one that does not answer, why not."""
    asked: list[tuple[str, str, str, str]] = []
    if settings.runtime == "kubernetes":
        for model in models:
            asked += _replicas(settings, model, cluster)
    else:
        asked = [(settings.triton_grpc, model, "", "") for model in models]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(pool.map(lambda one: _told(ask or partial(_ask_grpc, settings), *one), asked))


def at(settings: Settings, where: str) -> Served:
    """What answers at HOST:PORT/MODEL, at HOST:PORT when it has one model, or at a URL of Triton's v2 API.

    Raises:
        Invalid: it is no such address, or has no such model. A retry does not help.
        Unavailable: nothing answers there. A retry helps.
    """
    if (found := MODELS.match(where)) or (found := SERVER.match(where)):
        return _ask_http(settings, found["base"], found.groupdict().get("model"))
    if (found := PLAIN.match(where)) is None:
        raise Invalid(f"{where!r} is no address of a model", "lineage", "write HOST:PORT/MODEL, or its v2 URL")
    try:
        return _ask_http(settings, f"http://{found['address']}", found["model"])
    except _NotHttp:
        return _ask_grpc(settings, found["address"], found["model"])


def _replicas(settings: Settings, model: str, cluster: Cluster | None) -> Iterable[tuple[str, str, str, str]]:
    """Address, model, name and package of each ready pod that the model's Service chooses.

    Who may not read the cluster asks the Service itself, which answers with one of them.
    """
    from pipeline.cluster import KubernetesCluster  # noqa: PLC0415 (half a second, which one machine has no use for)
    from serving.readiness import is_ready  # noqa: PLC0415

    policy = read_policy(settings.serving, ServingPolicy, "SLIPWAY_SERVING")
    try:
        cluster = cluster or KubernetesCluster(policy.namespace, settings.timeout_s)
        service = cluster.get("Service", model_name(policy, model))
        if service is None:
            return []
        pods = cluster.select("Pod", service["spec"].get("selector", {}))
    except Invalid:
        return [(plane(settings).address(model).grpc, model, "", "")]
    return [
        (
            f"{pod['status']['podIP']}:{GRPC}",
            model,
            str(pod["metadata"]["name"]),
            str(pod["metadata"].get("annotations", {}).get(DIGEST, "")),
        )
        for pod in pods
        if is_ready(pod) and not pod["metadata"].get("deletionTimestamp")
    ]


def _told(ask: Ask, address: str, model: str, replica: str, package: str) -> Served:
    try:
        found = ask(address, model)
    except SlipwayError as error:
        return Served(model=model, address=address, replica=replica, package=package, error=error.problems[0].what)
    return found.model_copy(update={"replica": replica, "package": package})


def _ask_grpc(settings: Settings, address: str, model: str | None) -> Served:
    with TritonClient(address, settings.timeout_s) as client:
        index = client.index()
        name = _only(model, index, address)
        return _served(name, address, index, client.parameters(name))


def _ask_http(settings: Settings, base: str, model: str | None) -> Served:
    address = base.partition("://")[2]
    with httpx.Client(base_url=base, timeout=settings.timeout_s, trust_env=False) as client:
        try:
            index = [dict(item) for item in _json(client, "POST", "/v2/repository/index", address)]
            name = _only(model, index, address)
            config = _json(client, "GET", f"/v2/models/{name}/config", address)
            parameters = {key: str(one.get("string_value", "")) for key, one in config.get("parameters", {}).items()}
            return _served(name, address, index, parameters)
        except (TypeError, ValueError, KeyError, AttributeError) as error:  # JSON, but not Triton's
            raise Invalid("what answers is no Triton", address, "name the address of a Triton") from error


class _NotHttp(SlipwayError):
    """Something answers, but not HTTP."""


def _json(client: httpx.Client, method: str, path: str, address: str) -> Any:
    try:
        answer = client.request(method, path)
        body = answer.json()
    except (httpx.RemoteProtocolError, httpx.ReadError) as error:
        raise _NotHttp(f"no HTTP is spoken: {error}", address) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"no server answers: {error}", address, "look at the address, and whether it runs") from error
    except ValueError as error:
        raise Invalid("what answers is no Triton", address, "name the address of a Triton") from error
    if not answer.is_success:
        said = body.get("error", body) if isinstance(body, dict) else body
        raise Invalid(f"Triton refuses: {said}", address, "correct the address")
    return body


def _only(model: str | None, index: list[dict[str, str]], address: str) -> str:
    """The model that is asked about: the one of this name, or the only one."""
    known = sorted({item["name"] for item in index if item.get("state") == "READY"})
    if model in known:
        return str(model)
    if model is None and len(known) == 1:
        return known[0]
    what = f"it serves no model {model!r}" if model else f"it serves {len(known)} models"
    remedy = "promote a version of one" if not known else near(model, known) if model else f"add /{', /'.join(known)}"
    raise Invalid(what, address, remedy)


def _served(name: str, address: str, index: list[dict[str, str]], parameters: dict[str, str]) -> Served:
    ready = [item for item in index if item["name"] == name and item.get("state") == "READY"]
    loaded = tuple(sorted(int(item["version"]) for item in ready if NUMBER.fullmatch(item.get("version", ""))))
    return Served(
        model=name,
        address=address,
        version=loaded[-1] if loaded else None,
        loaded=loaded,
        digest=parameters.get("digest", ""),
        run=parameters.get("run", ""),
        dataset=parameters.get("dataset", ""),
        said=parameters.get("version", ""),
    )
