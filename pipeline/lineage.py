"""From a served version back to its data: what each end of the chain says, and whether they agree."""

from __future__ import annotations

from rich.tree import Tree

from pipeline import refs
from pipeline.errors import Invalid
from pipeline.frozen import Frozen
from pipeline.registry import Registry
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.summary import Summary, summarise
from pipeline.tracking import RUN

CHAMPION = "champion"


class Lineage(Frozen):
    """A model version, the run that made it, and every digest on the way."""

    model: str
    version: int
    aliases: tuple[str, ...]
    run: str
    mlflow_run: str
    tags: dict[str, str]
    summary: Summary

    def tree(self) -> Tree:
        """The chain as a tree for the terminal, from the version down to the data."""
        name = f"[bold]{self.model}[/] version {self.version}"
        root = Tree(name + (f" [green]@{', @'.join(self.aliases)}[/]" if self.aliases else ""))
        summary = self.summary
        if summary.promotion and summary.promotion.version == self.version:
            root.add(f"promoted to {summary.promotion.http}, package {summary.promotion.digest[:16]}")
        if summary.gates:
            gates = root.add(f"gates: {'passed' if summary.gates.passed else 'refused'}")
            for verdict in summary.gates.verdicts:
                gates.add(f"{verdict.gate}: {'passed' if verdict.passed else 'refused'}, {verdict.reason}")
        if summary.version:
            root.add(f"ONNX {summary.version.onnx_digest[:16]}, logged model {summary.version.model_id}")
        made = root.add(f"run {self.run}, MLflow run {self.mlflow_run}, spec {self.tags.get('slipway.spec', '')[:16]}")
        if summary.evaluation:
            for score in summary.evaluation.scores:
                value = score.metrics.get(summary.evaluation.primary)
                metric = f"{summary.evaluation.primary} {value:.4f}" if value is not None else score.reason
                won = " (winner)" if score.candidate == summary.evaluation.winner else ""
                made.add(f"candidate {score.candidate}: {metric}{won}")
        if summary.checks:
            suite = f"suite {summary.checks.suite}" if summary.checks.suite else "schema"
            made.add(f"checks: {suite}, {'passed' if summary.checks.passed else 'refused'}")
        if summary.dataset:
            rows = f"{summary.dataset.train_rows} rows to train, {summary.dataset.holdout_rows} held out"
            made.add(f"data {summary.dataset.digest[:16]} from {summary.dataset.source}: {rows}")
        return root


def trace(settings: Settings, registry: Registry, model: str) -> Lineage:
    """The lineage of MODEL, MODEL@ALIAS or MODEL/VERSION; of the champion when only a name is given.

    Raises:
        Invalid: there is no such version. A retry does not help.
        Unavailable: MLflow or the store does not answer. A retry helps.
    """
    name, version = _resolve(registry, model)
    found = registry.version(name, version)
    run_id = found.tags.get(RUN)
    if run_id is None:
        raise Invalid(f"version {version} of {name} was not made by Slipway", registry.uri, "look it up in MLflow")
    run = Run(run_id, found.tags.get("slipway.pipeline", name), settings, settings.specs_dir / f"{name}.yaml")
    aliases = sorted(alias for alias, at in registry.aliases(name).items() if at == version)
    return Lineage(
        model=name,
        version=version,
        aliases=tuple(aliases),
        run=run_id,
        mlflow_run=found.run_id,
        tags=found.tags,
        summary=summarise(run, _candidates(run)),
    )


def _resolve(registry: Registry, model: str) -> tuple[str, int]:
    name, _, number = model.partition("/")
    name, _, alias = name.partition("@")
    if number:
        if not number.isdigit():
            raise Invalid(f"{number!r} is not a version", model, "write MODEL/3, or MODEL@champion")
        return name, int(number)
    version = registry.alias(name, alias or CHAMPION)
    if version is None:
        known = ", ".join(f"@{key}" for key in registry.aliases(name)) or "none"
        raise Invalid(f"{name!r} has no alias {alias or CHAMPION!r}", registry.uri, f"its aliases: {known}")
    return name, version


def _candidates(run: Run) -> tuple[str, ...]:
    """Names of the candidates that the run's pinned spec has."""
    envelope = run.envelope("evaluate")
    if envelope is None:
        return ()
    evaluation = refs.Evaluation.model_validate_json(envelope.ref)
    return tuple(score.candidate for score in evaluation.scores)
