"""Step evaluate: all candidates on the same held-out rows, as their ONNX graphs answer; the best that passed wins."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP
from pipeline.dataset import split_rows
from pipeline.metrics import better, scores
from pipeline.refs import CandidateScore, DatasetRef, Evaluation, OnnxRef
from pipeline.run import Run
from pipeline.spec import LOWER_IS_BETTER, Metric, PipelineSpec
from pipeline.step import main
from pipeline.target import encode_target
from pipeline.tensors import Tensors, to_tensors
from training.parity import Floats, OnnxModel
from training.plots import figures, importance

SHUFFLED_ROWS = 500  # enough to rank columns, few enough to take a second


def evaluate(spec: PipelineSpec, dataset: DatasetRef, onnx: tuple[OnnxRef, ...], run: Run) -> Evaluation:
    """Compare the candidates; a candidate that failed parity cannot win.

    Raises:
        Unavailable: store or MLflow do not answer. A retry helps.
    """
    _, rows = split_rows(run, dataset, spec.split)
    target = encode_target(rows, dataset.row_schema)
    answers = {ref.candidate: _answers(run, ref) for ref in onnx if ref.passed}
    scored: list[CandidateScore] = []
    winner: str | None = None
    for ref in onnx:
        if not ref.passed:
            reasons = "; ".join(f"{case.name}: {case.message}" for case in ref.cases if not case.passed)
            scored.append(_score(ref, False, f"ONNX differs from the model ({reasons})", {}))
            continue
        found = scores(dataset.row_schema, target, answers[ref.candidate])
        if spec.primary not in found:
            scored.append(_score(ref, False, f"{spec.primary} is undefined on the held-out rows", found))
            continue
        best = next((score.metrics[spec.primary] for score in scored if score.candidate == winner), None)
        if best is None or better(spec.primary, found[spec.primary], best):
            winner = ref.candidate
        scored.append(_score(ref, True, "", found))
    scored = [
        score.model_copy(update={"reason": "winner" if score.candidate == winner else "beaten"})
        if score.passed
        else score
        for score in scored
    ]
    result = Evaluation(primary=spec.primary, scores=tuple(scored), winner=winner, dataset_digest=dataset.digest)
    _log(spec, dataset, run, onnx, result, target, answers, to_tensors(rows, dataset.row_schema))
    return result


def shuffled_importance(
    model: OnnxModel, dataset: DatasetRef, tensors: Tensors, target: npt.NDArray[np.float64], metric: Metric, seed: int
) -> dict[str, float]:
    """Loss of the metric when a column's values are shuffled among rows (Breiman 2001), by column."""
    schema = dataset.row_schema
    take = np.random.default_rng(seed).permutation(len(target))[:SHUFFLED_ROWS]
    some, truth = {name: value[take] for name, value in tensors.items()}, target[take]
    base = scores(schema, truth, model.predict(some)).get(metric)
    if base is None:
        return {}
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    found = {}
    for tensor, names in ((NUMERIC, schema.numeric), (CATEGORICAL, schema.categorical), (TIMESTAMP, schema.timestamp)):
        for at, name in enumerate(names):
            bent = {**some, tensor: some[tensor].copy()}
            bent[tensor][:, at] = np.random.default_rng(seed + at).permutation(bent[tensor][:, at])
            worse = scores(schema, truth, model.predict(bent)).get(metric, base)
            found[name] = sign * (worse - base)
    return found


def _score(ref: OnnxRef, passed: bool, reason: str, metrics: dict[str, float]) -> CandidateScore:
    return CandidateScore(candidate=ref.candidate, passed=passed, reason=reason, metrics=metrics)


def _answers(run: Run, ref: OnnxRef) -> Floats:
    with np.load(io.BytesIO(run.store.read(ref.predictions)), allow_pickle=False) as arrays:
        return np.asarray(arrays["onnx"], dtype=np.float32)


def _log(
    spec: PipelineSpec,
    dataset: DatasetRef,
    run: Run,
    onnx: tuple[OnnxRef, ...],
    result: Evaluation,
    target: npt.NDArray[np.float64],
    answers: dict[str, Floats],
    tensors: Tensors,
) -> None:
    parent = run.registry.pipeline_run(run, spec)
    drawn = figures(dataset.row_schema, target, answers) if answers else {}
    for name, figure in drawn.items():
        run.registry.log_figure(parent, figure, f"plots/{name}.png")
    for ref, score in zip(onnx, result.scores, strict=True):
        run.registry.log_metrics(ref.run_id, score.metrics)
        run.registry.set_tags(ref.run_id, {"slipway.verdict": score.reason})
        if not score.passed:
            run.log.warning("%s cannot win: %s", score.candidate, score.reason)
            continue
        model = OnnxModel(run.store.read(ref.key))
        loss = shuffled_importance(model, dataset, tensors, target, spec.primary, spec.seed)
        run.registry.log_figure(ref.run_id, importance(loss, spec.primary, ref.candidate), "plots/importance.png")
        own = figures(dataset.row_schema, target, {ref.candidate: answers[ref.candidate]})
        for name, figure in own.items():
            run.registry.log_figure(ref.run_id, figure, f"plots/{name}.png")
        run.registry.finish(ref.run_id, "FINISHED")
        run.log.info("%s: %s %.5f", score.candidate, spec.primary, score.metrics[spec.primary])
    if result.winner is not None:
        best = next(score for score in result.scores if score.candidate == result.winner)
        run.registry.log_metrics(parent, best.metrics)
        run.registry.set_tags(parent, {"slipway.winner": result.winner})


if __name__ == "__main__":
    main(evaluate)
