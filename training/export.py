"""Step export: raw columns to answer as one ONNX graph, proved equal to the model."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import numpy as np

from pipeline.dataset import held_rows
from pipeline.digest import digest_bytes, digest_json, digest_tree
from pipeline.errors import Invalid
from pipeline.refs import DatasetRef, LoggedModelRef, OnnxRef, ParityCase
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.target import answer_unit, encode_target
from pipeline.tensors import to_tensors
from training.models.base import Native, load_candidate
from training.onnx_model import build, features_only
from training.onnx_session import OnnxModel
from training.parity import UNBOUNDED, Floats, failed, prove
from training.plots import parity

_TAG = "slipway.onnx"  # digest and logged model of what this run has logged, so that a second attempt logs no second


def export(spec: PipelineSpec, dataset: DatasetRef, model: LoggedModelRef, run: Run) -> OnnxRef:
    """Write the graph and compare it with the model; a difference is a report that did not pass, not an error.

    Raises:
        Unavailable: store or MLflow do not answer. A retry helps.
    """
    schema = dataset.row_schema
    rows = held_rows(run, dataset, spec.split)
    tensors = to_tensors(rows, schema, "snapshot")
    native = load_candidate(run, model)
    try:
        content = build(native, model.kind)
        graph = OnnxModel(content, run.settings.threads)
    except Invalid as error:
        cases = (failed("export", 0, str(error)),)
        _log(spec, run, model, cases)
        return OnnxRef(
            candidate=model.candidate,
            key="",
            digest="",
            size_bytes=0,
            model_id="",
            run_id=model.run_id,
            passed=False,
            cases=cases,
            predictions="",
        )
    tolerance = spec.export.in_units(answer_unit(schema, encode_target(rows, schema)))
    proof = prove(schema, tolerance, native.predict, graph.predict, tensors)
    digest = digest_bytes(content)
    key = f"onnx/{digest}.onnx"
    run.store.write(key, content)
    predictions = ""
    if proof.native is not None and proof.onnx is not None:
        arrays = _arrays(proof.native, proof.onnx)
        predictions = f"predictions/{digest_bytes(arrays)}.npz"
        run.store.write(predictions, arrays)
    model_id = _log_model(run, model, dataset, key, digest)
    _log(spec, run, model, proof.cases)
    return OnnxRef(
        candidate=model.candidate,
        key=key,
        digest=digest,
        size_bytes=len(content),
        model_id=model_id,
        run_id=model.run_id,
        passed=proof.passed,
        cases=proof.cases,
        predictions=predictions,
        trees=keep_trees(run, native) if model.kind == "xgboost" else None,
    )


def keep_trees(run: Run, native: Native) -> str:
    """What `write_trees` writes, in the store; its key."""
    with tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
        folder = Path(scratch)
        write_trees(native, folder)
        key = f"trees/{digest_json(digest_tree(folder))}"
        run.store.put(folder, key)
    return key


def write_trees(native: Native, folder: Path) -> None:
    """What the backend `xgboost` serves: the booster as it is, and the graph of the features alone."""
    native.model.booster.save_model(str(folder / "model.ubj"))  # type: ignore[attr-defined]
    (folder / "features.onnx").write_bytes(features_only(native.features))


def _log_model(run: Run, model: LoggedModelRef, dataset: DatasetRef, key: str, digest: str) -> str:
    known, _, model_id = (run.registry.find_tag(model.run_id, _TAG) or "").partition(" ")
    if known != digest:
        with run.store.local(key) as path:
            name = f"{model.candidate}_onnx"
            model_id = run.registry.log_onnx(model.run_id, name, path, dataset.row_schema, digest)
        run.registry.set_tags(model.run_id, {_TAG: f"{digest} {model_id}"})
    return model_id


def _log(spec: PipelineSpec, run: Run, model: LoggedModelRef, cases: tuple[ParityCase, ...]) -> None:
    """The verdict as metrics, a table and a figure."""
    wrong = [case for case in cases if not case.passed]
    worst = max(case.max_abs for case in cases)
    for case in wrong:
        run.log.warning("%s: parity, %s: %s", model.candidate, case.name, case.message)
    if not wrong:
        run.log.info("%s: ONNX is the model on %d families of rows, within %.2g", model.candidate, len(cases), worst)
    metrics: dict[str, float] = {"parity_families": len(cases), "parity_failed": len(wrong)}
    if worst < UNBOUNDED:
        metrics |= {"parity_max_abs": worst, "parity_max_excess": max(case.max_excess for case in cases)}
    run.registry.log(model.run_id, metrics, tags={"slipway.parity": "failed" if wrong else "passed"})
    run.registry.log_text(model.run_id, _table(cases), "parity/families.csv")
    run.registry.log_figure(model.run_id, parity(cases, spec.export, model.candidate), "parity/families.png")


def _table(cases: tuple[ParityCase, ...]) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(("rows bent how", "rows", "largest difference", "above tolerance", "passed", "message"))
    for case in cases:
        numbers = ("", "") if case.max_abs == UNBOUNDED else (f"{case.max_abs:.3g}", f"{case.max_excess:.3g}")
        writer.writerow((case.name, case.rows, *numbers, "yes" if case.passed else "NO", case.message))
    return sink.getvalue()


def _arrays(native: Floats, onnx: Floats) -> bytes:
    """Both as `.npz`, (held-out rows, width) float32 each; the same arrays give the same bytes."""
    sink = io.BytesIO()
    np.savez_compressed(sink, native=native, onnx=onnx)
    return sink.getvalue()


if __name__ == "__main__":
    main(export)
