"""Step tune: back end, threads, instances and queue delay by measurement, on servers like the one that will serve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.dataset import split_rows
from pipeline.errors import Unavailable
from pipeline.refs import Backend, DatasetRef, ModelVersionRef, ServingOptions, ServingPlan, ServingTrial
from pipeline.registry import TrialRecord
from pipeline.run import Run
from pipeline.serving_rules import ServingSearch
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.tensors import Tensors, to_tensors
from serving.load import Milliseconds, OpenLoop, closed_loop, requests_of
from serving.manifests import Version
from serving.package import build
from serving.plane import Plane, plane
from serving.probe import probe
from serving.search import Search
from serving.triton import TritonClient

TABLE = "serving/tune.md"
PATIENCE_S = 1.0  # after the last request was due
HEADS = ("back end", "threads", "instances", "queue delay us", "p50 ms", "p95 ms", "p99 ms", "rows/s", "problem")


def tune(spec: PipelineSpec, dataset: DatasetRef, model: ModelVersionRef, run: Run) -> ServingPlan:
    """Find what serves the load of `gates.latency` best; what the spec declares is kept unless something beats it.

    Raises:
        Invalid: the version cannot be served as it is declared. A retry does not help.
        Unavailable: a server does not start or answer, no node takes it; store or MLflow fail. A retry helps.
    """
    declared = ServingOptions.model_validate(spec.serving.model_dump(include=set(ServingOptions.model_fields)))
    backends: tuple[Backend, ...] = ("onnxruntime", "xgboost") if model.trees else ("onnxruntime",)
    if declared.backend not in backends:  # a network has won
        declared = declared.model_copy(update={"backend": "onnxruntime"})
    rule = spec.serving.tune
    if rule is None:
        return ServingPlan(options=declared, reason="as the spec declares; nothing was measured")
    serving = plane(run.settings)
    _, rows = split_rows(run, dataset, spec.split)
    bench = _Bench(spec, rule, dataset, model, run, serving, to_tensors(rows, dataset.row_schema, "snapshot"))
    try:
        plan = Search(bench.measure, rule, serving.cores(), spec.seed, run.log, backends).plan(declared)
    finally:
        serving.end_challengers(spec.name)
        bench.forget()
    run.log.info("%s", plan.reason)
    _publish(spec, run, plan)
    return plan


@dataclass(frozen=True)
class _Bench:
    """Measures options, each on a challenger of its own."""

    spec: PipelineSpec
    rule: ServingSearch
    dataset: DatasetRef
    model: ModelVersionRef
    run: Run
    serving: Plane
    tensors: Tensors

    def measure(self, options: ServingOptions) -> ServingTrial:
        """Serve the version with these options, under the load. Raises as `tune` does."""
        packed = build(self.spec, self.dataset, self.model, options, self.run).ref
        ref = self.serving.start(Version(packed.name, packed.version, packed.digest, self.model.onnx_digest))
        load = self.spec.gates.latency
        available = len(next(iter(self.tensors.values())))
        requests = requests_of(self.tensors, load.rows, available, available)
        with TritonClient(ref.grpc, self.run.settings.timeout_s) as client:
            schema = probe(client, ref.name, ref.version, self.model.onnx_digest)

            def ask(request: Tensors) -> object:
                return client.infer(ref.name, request, schema.output, str(ref.version))

            if self.rule.objective == "throughput":
                took, rate_per_s = closed_loop(ask, requests, self.rule.clients, self.rule.duration_s)
                return self._trial(options, took, 0, rate_per_s * load.rows)
            count = max(1, round(load.rate_per_s * self.rule.duration_s))
            found = OpenLoop().run(ask, requests, load.rate_per_s, count, PATIENCE_S)
            if not len(found.waited):
                raise Unavailable(f"none of {count} requests was answered", ref.grpc, "look at the server's log")
            return self._trial(options, found.waited, int((~found.answered).sum()), load.rate_per_s * load.rows)

    def _trial(self, options: ServingOptions, took: Milliseconds, failed: int, rows_per_s: float) -> ServingTrial:
        """It has a value when the load was served; throughput counts only within the bound of the latency."""
        p50, p95, p99 = (float(value) for value in np.percentile(took, [50, 95, 99]))
        bound = self.spec.gates.latency.p95_ms
        problem = f"{failed} requests were not answered" if failed else ""
        if self.rule.objective == "throughput" and p95 > bound:
            problem = f"p95 is {p95:.2f} ms, {bound:g} are allowed"
        value = rows_per_s if self.rule.objective == "throughput" else p95
        return ServingTrial(
            options=options,
            value=None if problem else value,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            rows_per_s=rows_per_s,
            problem=problem,
        )

    def forget(self) -> None:
        """Delete the packages of the trials: all of this version's, as long as the one that serves is not made."""
        if self.run.envelope("package") is not None:
            return
        folder = f"packages/{self.model.name}"
        for name in self.run.store.list(folder):
            if name.startswith(f"{self.model.version}-"):
                self.run.store.delete(f"{folder}/{name}")


def _publish(spec: PipelineSpec, run: Run, plan: ServingPlan) -> None:
    """The search in MLflow: a nested run with its trials nested in turn, and all of them as a table."""
    records, lines = [], [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for at, trial in enumerate(plan.trials):
        state = "FAIL" if trial.problem else "COMPLETE"
        options = trial.options.model_dump()
        records.append(TrialRecord(at, options, trial.value, state, trial.seconds))
        numbers = (trial.p50_ms, trial.p95_ms, trial.p99_ms, trial.rows_per_s)
        shown = ["" if number is None else f"{number:.2f}" for number in numbers]
        lines.append(f"| {' | '.join([*map(str, options.values()), *shown, trial.problem])} |")
    searched = run.registry.serving_run(run, spec)
    run.registry.log_trials(searched, records)
    run.registry.log(searched, params=plan.options.model_dump())
    run.registry.finish(searched, "FINISHED")
    run_id = run.registry.pipeline_run(run, spec)
    run.registry.log_text(run_id, "\n".join([plan.reason, "", *lines, ""]), TABLE)
    run.registry.set_tags(run_id, {"slipway.serving": plan.reason[:5000]})


if __name__ == "__main__":
    main(tune)
