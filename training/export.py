"""Step export: raw columns to answer as one ONNX graph, proved equal to the model. The door to onnx and onnxruntime."""

from __future__ import annotations

import io
from functools import partial

import numpy as np

from pipeline.dataset import split_rows
from pipeline.digest import digest_bytes
from pipeline.errors import Invalid
from pipeline.refs import DatasetRef, LoggedModelRef, OnnxRef, ParityCase
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.tensors import to_tensors
from training.models.base import Native, load_candidate
from training.onnx_model import build
from training.parity import Floats, OnnxModel, cases, compare


def export(spec: PipelineSpec, dataset: DatasetRef, model: LoggedModelRef, run: Run) -> OnnxRef:
    """Write the graph and compare it with the model; a difference is a report that did not pass, not an error.

    Raises:
        Unavailable: store or MLflow do not answer. A retry helps.
    """
    _, rows = split_rows(run, dataset, spec.split)
    tensors = to_tensors(rows, dataset.row_schema, "snapshot")
    native = load_candidate(run, model)
    try:
        content = build(native, model.kind).SerializeToString(deterministic=True)
    except (Invalid, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        failed = ParityCase(name="export", rows=0, max_abs=0, max_excess=0, passed=False, message=str(error)[:500])
        return _refused(model, (failed,), run)
    report, expected, answer = prove(spec, dataset, native, content, tensors)
    digest = digest_bytes(content)
    key = f"onnx/{digest}.onnx"
    run.store.write(key, content)
    predictions = f"{run.key}/predictions_{model.candidate}.npz"
    run.store.write(predictions, _arrays(expected, answer))
    with run.store.local(key) as path:
        model_id = run.registry.log_onnx(model.run_id, f"{model.candidate}_onnx", path, dataset.row_schema, digest)
    _log(run, model.run_id, report)
    return OnnxRef(
        candidate=model.candidate,
        key=key,
        digest=digest,
        size_bytes=len(content),
        model_id=model_id,
        run_id=model.run_id,
        passed=all(case.passed for case in report),
        cases=report,
        predictions=predictions,
    )


def prove(
    spec: PipelineSpec, dataset: DatasetRef, native: Native, content: bytes, tensors: dict[str, np.ndarray]
) -> tuple[tuple[ParityCase, ...], Floats, Floats]:
    """Every family's verdict, and both answers on the held-out rows, (rows, width) float32."""
    schema = dataset.row_schema
    empty = np.empty((0, schema.width), dtype=np.float32)
    try:
        graph = OnnxModel(content)
    except RuntimeError as error:
        message = f"ONNX Runtime refuses the graph: {str(error)[:400]}"
        failed = ParityCase(name="load", rows=0, max_abs=0, max_excess=0, passed=False, message=message)
        return (failed,), empty, empty
    report, held = [], (empty, empty)
    for name, family in cases(schema, tensors).items():
        rows = len(next(iter(family.values())))
        case, expected, answer = compare(
            name,
            schema,
            spec.export,
            rows,
            partial(native.predict, family),
            partial(graph.predict, family),
        )
        report.append(case)
        if name == "held_out" and expected is not None and answer is not None:
            held = expected, answer
    return tuple(report), *held


def _refused(model: LoggedModelRef, report: tuple[ParityCase, ...], run: Run) -> OnnxRef:
    _log(run, model.run_id, report)
    return OnnxRef(
        candidate=model.candidate,
        key="",
        digest="",
        size_bytes=0,
        model_id="",
        run_id=model.run_id,
        passed=False,
        cases=report,
        predictions="",
    )


def _log(run: Run, run_id: str, report: tuple[ParityCase, ...]) -> None:
    failed = [case for case in report if not case.passed]
    for case in failed:
        run.log.warning("parity %s: %s", case.name, case.message)
    if not failed:
        worst = max(case.max_abs for case in report)
        run.log.info("ONNX equals the model on %d families of rows, largest difference %.2g", len(report), worst)
    run.registry.log_metrics(run_id, {f"parity_{case.name}_max_abs": case.max_abs for case in report})
    run.registry.set_tags(run_id, {"slipway.parity": "refused" if failed else "passed"})
    lines = [
        f"{'passed' if case.passed else 'REFUSED':<8} {case.name:<24} {case.rows:>6} rows  "
        f"largest difference {case.max_abs:.3g}  {case.message}"
        for case in report
    ]
    run.registry.log_text(run_id, "\n".join(lines) + "\n", "parity.txt")


def _arrays(native: Floats, onnx: Floats) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, native=native, onnx=onnx)
    return sink.getvalue()


if __name__ == "__main__":
    main(export)
