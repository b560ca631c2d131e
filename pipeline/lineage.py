"""Lineage both ways: from what a live server says down to the rows, and from rows up to every server of their models.

MLflow's tags say what belongs together, the store what happened, the record what was promoted, and the servers what
they serve. Where two of them disagree, the lineage says so.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import Invalid
from pipeline.lineage_find import CHAMPION, DATASET, ONNX, PACKAGE, find, is_address
from pipeline.lineage_graph import Direction, Graph, Lineage, Node
from pipeline.lineage_story import PIPELINE, SPEC, Story
from pipeline.registry import Registry, RunTags, Version
from pipeline.served import Served
from pipeline.settings import Settings
from pipeline.terminal import room
from pipeline.tracking import RUN


def trace(settings: Settings, registry: Registry, what: str, direction: Direction = "both") -> Lineage:
    """The lineage of a model, version, run, dataset, digest or server; see `lineage_find` for how each is named.

    Raises:
        Invalid: there is no such thing, or more than one. A retry does not help.
        Unavailable: MLflow, or the server that is asked about, does not answer. A retry helps.
    """
    tracer = _Tracer(settings, registry)
    if is_address(what):
        start = [tracer.endpoint(room("serving.endpoints:at")(settings, what))]
        return tracer.graph.lineage(start, direction)
    found = find(registry, what)
    if found.versions:
        start = [tracer.version(version) for version in found.versions]
        for version in found.versions:
            tracer.story.version(version)
        tracer.servers(found.versions)
    elif found.runs:
        start = [tracer.run(run.tags.get(PIPELINE, ""), run.tags[RUN], run.tags) for run in found.runs]
        tracer.upwards(registry.versions(f"tags.`{RUN}` = '{found.runs[0].tags[RUN]}'"))
    else:
        start = [tracer.story.dataset(found.dataset)]
        tracer.runs(registry.pipeline_runs(f"tags.`{DATASET}` = '{found.dataset}'"))
        tracer.upwards(registry.versions(f"tags.`{DATASET}` = '{found.dataset}'"))
    return tracer.graph.lineage(start, direction)


class _Tracer:
    """Puts a lineage together, piece by piece."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings, self.registry, self.graph = settings, registry, Graph()
        self.story = Story(settings, self.graph)
        self._aliases: dict[str, dict[str, int]] = {}

    def version(self, version: Version) -> str:
        """A version, its package and graph, as its tags say."""
        tags, name, number = version.tags, version.name, version.version
        here = self.graph.add(
            Node(
                id=version.id,
                kind="version",
                title=f"{name} version {number}",
                facts={
                    "model": name,
                    "version": str(number),
                    "aliases": ", ".join(f"@{alias}" for alias in self._aliases_of(version)),
                    "state": tags.get("slipway.state", ""),
                },
                problem="" if RUN in tags else "it was not made by Slipway",
            )
        )
        if digest := tags.get(PACKAGE):
            package = f"package/{name}/{number}/{digest}"
            self.graph.link(here, self.graph.add(_digest(package, "package", "package", digest)), "packaged as")
            here = package
        if digest := tags.get(ONNX):
            onnx = f"onnx/{name}/{number}/{digest}"
            self.graph.link(here, self.graph.add(_digest(onnx, "onnx", "ONNX", digest)), "holds")
            here = onnx
        if RUN in tags:
            self.graph.link(here, f"run/{tags.get(PIPELINE, name)}/{tags[RUN]}", "made by")
        return version.id

    def upwards(self, versions: tuple[Version, ...]) -> None:
        """These versions, and the servers that have one of them."""
        for version in versions:
            self.version(version)
        made = [(one.run_id, {PIPELINE: one.name, **one.tags}) for one in versions if RUN in one.tags]
        self.runs([RunTags(run_id=run_id, started=0, tags=tags) for run_id, tags in made])
        self.servers(versions)

    def runs(self, runs: Iterable[RunTags]) -> None:
        """These runs, as their tags say."""
        for run in runs:
            pipeline, tags = run.tags.get(PIPELINE, ""), run.tags
            facts = {"pipeline": pipeline, "spec": tags.get(SPEC, ""), "outcome": tags.get("slipway.outcome", "")}
            here = self.graph.add(
                Node(id=f"run/{pipeline}/{tags[RUN]}", kind="run", title=f"run {tags[RUN]}", facts=facts)
            )
            if digest := tags.get(DATASET):
                self.graph.link(here, self.story.dataset(digest), "read")

    def run(self, pipeline: str, run_id: str, tags: dict[str, str]) -> str:
        """A run in full, from the references that it left; its id in the graph."""
        self.story.run(pipeline, run_id, tags)
        return f"run/{pipeline}/{run_id}"

    def servers(self, versions: tuple[Version, ...]) -> None:
        """Ask the servers of these versions' models; those that have one of them are linked to it."""
        known = {version.id: version for version in versions}
        names = tuple(sorted({version.name for version in versions}))
        for served in room("serving.endpoints:serving")(self.settings, names):
            champion = self._aliases_for(served.model, len(names)).get(CHAMPION)
            ought = known.get(f"version/{served.model}/{champion}")
            has = known.get(f"version/{served.model}/{served.version}")
            if has is not None:
                self.graph.link(self._endpoint(served, has, champion), has.id, "serves")
            elif ought is not None:
                self.graph.link(self._endpoint(served, ought, champion), ought.id, "ought to serve")

    def endpoint(self, served: Served) -> str:
        """What a server says, down to the rows; its id in the graph."""
        champion = self.registry.aliases(served.model).get(CHAMPION)
        version: Version | None = None
        try:
            if served.version is not None:
                version = self.registry.version(served.model, served.version)
        except Invalid:
            version = None
        here = self._endpoint(served, version, champion)
        if version is not None:
            self.graph.link(here, self.version(version), "serves")
            self.story.version(version)
        elif served.run:
            run = self.run(served.model, served.run, {DATASET: served.dataset})
            self.graph.link(here, run, "says it was made by")
        return here

    def _endpoint(self, served: Served, version: Version | None, champion: int | None) -> str:
        facts = {
            "model": served.model,
            "replica": served.replica,
            "version": "" if served.version is None else str(served.version),
            "digest": served.digest,
        }
        title = f"{served.address}/{served.model}"
        problem = "; ".join(_disagreements(served, version, champion))
        return self.graph.add(Node(id=f"endpoint/{title}", kind="endpoint", title=title, facts=facts, problem=problem))

    def _aliases_of(self, version: Version) -> list[str]:
        return sorted(alias for alias, at in self._aliases_for(version.name, 1).items() if at == version.version)

    def _aliases_for(self, name: str, models: int) -> dict[str, int]:
        """Aliases of a model; those of all are asked for at once where there are many."""
        if name not in self._aliases:
            self._aliases |= self.registry.models() if models > 1 else {name: self.registry.aliases(name)}
        return self._aliases.get(name, {})


def _digest(node: str, kind: str, title: str, digest: str) -> Node:
    return Node(id=node, kind=kind, title=title, facts={"digest": digest})  # type: ignore[arg-type]


def _disagreements(served: Served, version: Version | None, champion: int | None) -> Iterable[str]:
    """What a server says otherwise than the registry."""
    if served.error:
        yield f"it does not say what it serves: {served.error}"
        return
    if served.said and served.said != str(served.version):
        yield f"version {served.version} is loaded, its configuration is of version {served.said}"
    if champion != served.version:
        named = f"the registry's champion is version {champion}" if champion else "the registry has no champion"
        yield f"it serves version {served.version}, {named}"
    if version is None:
        yield f"the registry has no version {served.version} of {served.model!r}"
        return
    told = ((ONNX, "graph", served.digest), (DATASET, "dataset", served.dataset), (PACKAGE, "package", served.package))
    for tag, what, says in told:
        if says and version.version == served.version and says != version.tags.get(tag):
            yield f"it says {what} {says[:16]}, the registry {version.tags.get(tag, 'none')[:16]}"
