"""What a person means: a model, a version, an alias, a run, a digest. Addresses of servers are asked elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import Invalid
from pipeline.registry import Registry, RunTags, Version
from pipeline.store import NUMBER
from pipeline.suggest import near
from pipeline.tracking import RUN

CHAMPION = "champion"
DATASET, ONNX, PACKAGE = "slipway.dataset", "slipway.onnx", "slipway.package"
HEX = re.compile(r"^[0-9a-f]{8,64}$")
ADDRESS = re.compile(r"^(https?://|[^/@\s]+:\d{1,5}(/|$))")
SAFE = re.compile(r"^[^'`\\%]+$")  # what may stand in a filter of MLflow's search
REMEDY = "name a MODEL, MODEL@ALIAS, MODEL/VERSION, a run, 8 or more letters of a digest, or HOST:PORT/MODEL"


@dataclass(frozen=True)
class Found:
    """Versions, runs, or a dataset's digest."""

    versions: tuple[Version, ...] = ()
    runs: tuple[RunTags, ...] = ()
    dataset: str = ""


def is_address(what: str) -> bool:
    """Whether it names a server, and not something that MLflow knows."""
    return ADDRESS.match(what) is not None


def find(registry: Registry, what: str) -> Found:
    """What WHAT means.

    Raises:
        Invalid: nothing is called so, or more than one thing is; names what is alike. A retry does not help.
        Unavailable: MLflow does not answer. A retry helps.
    """
    name, _, number = what.partition("/")
    name, _, alias = name.partition("@")
    if number and not NUMBER.fullmatch(number):
        raise Invalid(f"{number!r:.40} is not a version", what, "write MODEL/3, or MODEL@champion")
    if not name or not SAFE.match(what):
        raise Invalid(f"nothing is called {what!r}", registry.uri, REMEDY)
    if number:
        return Found(versions=(_version(registry, name, int(number)),))
    aliases = registry.aliases(name)
    if alias or CHAMPION in aliases:
        return Found(versions=(_version(registry, name, _aliased(registry, name, alias or CHAMPION, aliases)),))
    if HEX.match(what.lower()) and (found := _digest(registry, what.lower())):
        return found
    if runs := registry.pipeline_runs(f"tags.`{RUN}` = '{registry.run_of(what) or what}'"):
        return Found(runs=runs)
    if versions := registry.versions(f"tags.`{RUN}` = '{what}'"):  # of a run that MLflow has lost
        return Found(versions=versions)
    known = registry.models()
    if what in known:
        _aliased(registry, name, CHAMPION, aliases)
    beside = [run.tags[RUN] for run in registry.pipeline_runs(f"tags.`{RUN}` LIKE '{what[:8]}%'")]
    remedy = near(what, [*known, *beside]) if known or beside else REMEDY
    raise Invalid(f"nothing is called {what!r}", registry.uri, remedy)


def _version(registry: Registry, name: str, number: int) -> Version:
    try:
        return registry.version(name, number)
    except Invalid as error:
        numbers = [str(one.version) for one in registry.versions(f"name = '{name}'")]
        known = registry.models()
        remedy = f"its versions: {', '.join(numbers[-20:])}" if numbers else near(name, known) if known else REMEDY
        raise Invalid(error.problems[0].what, registry.uri, remedy) from error


def _aliased(registry: Registry, name: str, alias: str, aliases: dict[str, int]) -> int:
    if alias in aliases:
        return aliases[alias]
    known = registry.models()
    if name not in known:
        raise Invalid(f"there is no model {name!r}", registry.uri, near(name, known) if known else REMEDY)
    named = ", ".join(f"@{key}" for key in sorted(aliases)) or "none"
    remedy = f"its aliases: {named}; or name a version, such as {name}/1"
    raise Invalid(f"{name!r} has no alias {alias!r}", registry.uri, remedy)


def _digest(registry: Registry, prefix: str) -> Found | None:
    """What has a digest that begins so: one dataset, or the versions of one graph or package."""
    found: dict[tuple[str, str], list[Version]] = {}
    for kind in (DATASET, ONNX, PACKAGE):
        for version in registry.versions(f"tags.`{kind}` LIKE '{prefix}%'"):
            found.setdefault((kind, version.tags[kind]), []).append(version)
    for run in registry.pipeline_runs(f"tags.`{DATASET}` LIKE '{prefix}%'"):  # also of runs that were refused
        found.setdefault((DATASET, run.tags[DATASET]), [])
    if len(found) > 1:
        alike = ", ".join(f"{kind.removeprefix('slipway.')} {digest[:24]}" for kind, digest in sorted(found))
        raise Invalid(f"{len(found)} digests begin with {prefix}: {alike}", registry.uri, "write more of it")
    for (kind, digest), versions in found.items():
        return Found(dataset=digest) if kind == DATASET else Found(versions=tuple(versions))
    return None
