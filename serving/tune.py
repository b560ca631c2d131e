"""Step tune: backend, threads, instances and queue delay by measurement, on servers like the one that will serve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from pipeline.dataset import held_rows
from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.refs import (
    Backend,
    DatasetRef,
    ModelVersionRef,
    RolloutRef,
    ServingOptions,
    ServingPlan,
    ServingTrial,
)
from pipeline.registry import TrialRecord
from pipeline.run import Run
from pipeline.serving_rules import ServingSearch
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.target import answer_unit, encode_target
from pipeline.tensors import Tensors, to_tensors
from serving.gates.base import Floats
from serving.gates.parity import rows_apart
from serving.load import Ask, Milliseconds, OpenLoop, closed_loop, requests_of
from serving.manifests import Version
from serving.package import build
from serving.plane import Plane, plane
from serving.probe import probe
from serving.search import Search
from serving.triton import TritonClient

TABLE = "serving/tune.md"
PATIENCE_S = 1.0  # after the last request was due
HEADS = ("backend", "threads", "instances", "queue delay us", "p50 ms", "p95 ms", "p99 ms", "rows/s", "problem")


def tune(spec: PipelineSpec, dataset: DatasetRef, model: ModelVersionRef, run: Run) -> ServingPlan:
    """Find what serves the load of `gates.latency` best; what the spec declares is kept unless something beats it.

    A backend that does not load, or does not answer as the model does, is not taken, and the reason says so.

    Raises:
        Invalid: the version cannot be served as it is declared. A retry does not help.
        Unavailable: a server does not start or answer, no node takes it; store or MLflow fail. A retry helps.
    """
    serving, rule = plane(run.settings), spec.serving.tune
    backends, left = _backends(spec, model, serving)
    declared = ServingOptions.model_validate(spec.serving.model_dump(include=set(ServingOptions.model_fields)))
    if declared.backend not in backends:  # a network has won
        declared = declared.model_copy(update={"backend": "onnxruntime"})
    if rule is None and "tensorrt" not in backends:
        return ServingPlan(options=declared, reason=f"as the spec declares; nothing was measured{left}")
    bench = _Bench(spec, rule or ServingSearch(), dataset, model, run, serving)
    try:
        if rule is None:
            plan = _tried(bench, declared.model_copy(update={"backend": "tensorrt"}), declared)
        else:
            plan = Search(bench.measure, rule, serving.cores(), spec.seed, run.log, backends).plan(declared)
    finally:
        serving.end_challengers(spec.name)
        bench.forget()
    plan = plan.model_copy(update={"reason": plan.reason + _failed(plan, backends) + left})
    run.log.info("%s", plan.reason)
    _publish(spec, run, plan)
    return plan


def _backends(spec: PipelineSpec, model: ModelVersionRef, serving: Plane) -> tuple[tuple[Backend, ...], str]:
    """What can answer for the version, the graph first; and why TensorRT cannot, where the spec asks for it."""
    asked = spec.export.tensorrt is not None
    if model.trees is not None:
        return ("onnxruntime", "xgboost"), "; TensorRT makes no plan of trees" if asked else ""
    if asked and serving.has_gpu():
        return ("onnxruntime", "tensorrt"), ""
    return ("onnxruntime",), "; no TensorRT plan: no GPU serves" if asked else ""


def _tried(bench: _Bench, wanted: ServingOptions, declared: ServingOptions) -> ServingPlan:
    """`wanted` if it can be served and answers rightly, without a measurement."""
    try:
        with bench.served(wanted):
            return ServingPlan(
                options=wanted, reason=f"{wanted.backend} answers as the model does; nothing was measured"
            )
    except SlipwayError as error:
        failed = ServingTrial(options=wanted, value=None, problem=str(error))
        return ServingPlan(options=declared, reason="as the spec declares", trials=(failed,))


def _failed(plan: ServingPlan, backends: Sequence[Backend]) -> str:
    """Of a backend that never served: what was wrong with it."""
    found = ""
    for backend in backends:
        trials = [trial for trial in plan.trials if trial.options.backend == backend]
        if trials and all(trial.value is None for trial in trials):
            found += f"; not {backend}: {trials[0].problem}"
    return found


@dataclass(frozen=True)
class _Bench:
    """Serves options, each on a challenger of its own, and measures them."""

    spec: PipelineSpec
    rule: ServingSearch
    dataset: DatasetRef
    model: ModelVersionRef
    run: Run
    serving: Plane

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The held-out rows."""
        return held_rows(self.run, self.dataset, self.spec.split)

    @cached_property
    def tensors(self) -> Tensors:
        """The same as requests have them."""
        return to_tensors(self.rows, self.dataset.row_schema, "snapshot")

    @contextmanager
    def served(self, options: ServingOptions) -> Iterator[tuple[RolloutRef, Ask]]:
        """The version with these options, which has answered a row; another backend, all of them. Raises as `tune`."""
        packed = build(self.spec, self.dataset, self.model, options, self.run).ref
        ref = self.serving.start(Version(packed.name, packed.version, packed.digest, self.model.onnx_digest))
        with TritonClient(ref.grpc, self.run.settings.timeout_s) as client:
            schema = probe(client, ref.name, ref.version, self.model.onnx_digest)
            if options.backend != "onnxruntime":
                self._agree(options.backend, client.replay(ref.name, self.tensors, schema.output, str(ref.version)))
            yield ref, lambda request: client.infer(ref.name, request, schema.output, str(ref.version))

    def _agree(self, backend: Backend, served: Floats) -> None:
        """Raise Invalid unless the answers are those of the model, within the tolerance of the gate `parity`."""
        with self.run.store.whole(self.model.predictions) as path, np.load(path, allow_pickle=False) as arrays:
            native = np.asarray(arrays["native"], dtype=np.float32)
        schema = self.dataset.row_schema
        tolerance = self.spec.gates.parity.in_units(answer_unit(schema, encode_target(self.rows, schema)))
        if served.shape != native.shape or not np.isfinite(served).all():
            what = "its answers have another shape than the model's, or are not finite"
        else:
            apart, largest = rows_apart(served, native, tolerance)
            what = f"{apart} of {len(native)} rows differ from the model's answers, by {largest:.3g} at most"
            if not apart:
                return
        raise Invalid(what, f"backend {backend}", "serve it by onnxruntime, or widen gates.parity")

    def measure(self, options: ServingOptions) -> ServingTrial:
        """Serve the version with these options, under the load. Raises as `tune` does."""
        load = self.spec.gates.latency
        available = len(self.rows)
        requests = requests_of(self.tensors, load.rows, available, available)
        with self.served(options) as (ref, ask):
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
