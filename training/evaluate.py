"""Step evaluate: all candidates on the same held-out rows, as their ONNX graphs answer; the best that passed wins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP, RowSchema
from pipeline.dataset import held_rows
from pipeline.gate_rules import LOWER_IS_BETTER, Metric
from pipeline.metrics import better, one_score, scores
from pipeline.refs import CandidateScore, DatasetRef, Evaluation, OnnxRef
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.target import encode_target
from pipeline.tensors import Tensors, to_tensors
from training.onnx_session import OnnxModel
from training.parity import Floats
from training.plots import comparison, figures, importance

Target = npt.NDArray[np.float64]
SHUFFLED_ROWS, SHUFFLED_CELLS = 1000, 50_000  # enough to rank columns, few enough to take a second


def evaluate(spec: PipelineSpec, dataset: DatasetRef, onnx: tuple[OnnxRef, ...], run: Run) -> Evaluation:
    """Compare the candidates; one that failed parity, or has no primary metric, cannot win.

    Raises:
        Unavailable: store or MLflow do not answer. A retry helps.
    """
    schema = dataset.row_schema
    rows = held_rows(run, dataset, spec.split)
    target = encode_target(rows, schema)
    answers = {ref.candidate: _answers(run, ref) for ref in onnx if ref.passed}
    scored = [_score(spec.primary, schema, target, ref, answers.get(ref.candidate)) for ref in onnx]
    winner = _winner(spec.primary, scored)
    scored = [_reasoned(score, winner) for score in scored]
    result = Evaluation(primary=spec.primary, scores=tuple(scored), winner=winner, dataset_digest=dataset.digest)
    tensors = to_tensors(rows, schema, "snapshot")
    for ref, score in zip(onnx, result.scores, strict=True):
        _log_candidate(spec, run, ref, score)
        if score.passed:
            with run.store.whole(ref.key) as path:
                model = OnnxModel(path.read_bytes(), run.settings.threads)
            loss = shuffled_importance(model, schema, tensors, target, spec.primary, spec.seed)
            if loss:
                figure = importance(loss, spec.primary, ref.candidate)
                run.registry.log_figure(ref.run_id, figure, "plots/importance.png")
    parent = run.registry.pipeline_run(run, spec)
    passed = {ref.candidate: ref.run_id for ref, score in zip(onnx, result.scores, strict=True) if score.passed}
    if passed:  # each candidate's run has the plots with the others in them too
        for name, figure in figures(schema, target, {name: answers[name] for name in passed}).items():
            run.registry.log_figure(parent, figure, f"plots/{name}.png", *passed.values())
    for ref in onnx:
        run.registry.finish(ref.run_id, "FINISHED" if ref.candidate in passed else "FAILED")
    _log_pipeline(spec, run, parent, result)
    return result


def shuffled_importance(
    model: OnnxModel, schema: RowSchema, tensors: Tensors, target: Target, metric: Metric, seed: int
) -> dict[str, float]:
    """How much worse the metric gets when a column's values are shuffled among rows (Breiman 2001), by column.

    On as many rows as take about a second; empty when they cannot answer the metric.
    """
    count = int(np.clip(SHUFFLED_CELLS // len(schema.columns), 50, SHUFFLED_ROWS))
    draw = np.random.default_rng(seed)
    take = draw.permutation(len(target))[:count]
    some, truth = {name: value[take] for name, value in tensors.items()}, target[take]
    base = one_score(schema, metric, truth, model.predict(some))
    if np.isnan(base):
        return {}
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    found = {}
    for tensor, names in ((NUMERIC, schema.numeric), (CATEGORICAL, schema.categorical), (TIMESTAMP, schema.timestamp)):
        for at, name in enumerate(names):
            bent = {**some, tensor: some[tensor].copy()}
            bent[tensor][:, at] = draw.permutation(bent[tensor][:, at])
            value = one_score(schema, metric, truth, model.predict(bent))
            found[name] = 0.0 if np.isnan(value) else sign * (value - base)
    return found


def _answers(run: Run, ref: OnnxRef) -> Floats:
    with run.store.whole(ref.predictions) as path, np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays["onnx"], dtype=np.float32)


def _score(primary: Metric, schema: RowSchema, target: Target, ref: OnnxRef, answer: Floats | None) -> CandidateScore:
    if answer is None:
        wrong = [f"{case.name}: {case.message}" for case in ref.cases if not case.passed]
        more = f"; {len(wrong) - 3} more" if len(wrong) > 3 else ""
        reason = f"the ONNX graph is not the model ({'; '.join(wrong[:3])}{more})"
        return CandidateScore(candidate=ref.candidate, passed=False, reason=reason, metrics={})
    found = scores(schema, target, answer)
    reason = "" if primary in found else f"{primary} is undefined on the held-out rows"
    return CandidateScore(candidate=ref.candidate, passed=not reason, reason=reason, metrics=found)


def _winner(primary: Metric, scored: list[CandidateScore]) -> str | None:
    """The best by the primary metric; of equals the first in the spec."""
    best: CandidateScore | None = None
    for score in scored:
        if score.passed and (best is None or better(primary, score.metrics[primary], best.metrics[primary])):
            best = score
    return best.candidate if best else None


def _reasoned(score: CandidateScore, winner: str | None) -> CandidateScore:
    if not score.passed:
        return score
    return score.model_copy(update={"reason": "winner" if score.candidate == winner else f"beaten by {winner}"})


def _log_candidate(spec: PipelineSpec, run: Run, ref: OnnxRef, score: CandidateScore) -> None:
    run.registry.log(ref.run_id, score.metrics, tags={"slipway.verdict": score.reason})
    if score.passed:
        run.log.info("%s: %s %.5f on held-out rows", score.candidate, spec.primary, score.metrics[spec.primary])
    else:
        run.log.warning("%s cannot win: %s", score.candidate, score.reason)


def _log_pipeline(spec: PipelineSpec, run: Run, parent: str, result: Evaluation) -> None:
    passed = {score.candidate: score for score in result.scores if score.passed}
    run.registry.log_figure(parent, comparison(result.scores, spec.primary, result.winner), "plots/candidates.png")
    metrics: dict[str, float] = {}
    if result.winner is not None:
        each = {f"{name}_{spec.primary}": score.metrics[spec.primary] for name, score in passed.items()}
        metrics = passed[result.winner].metrics | each
    run.registry.log(parent, metrics, tags={"slipway.winner": result.winner or "none"})


if __name__ == "__main__":
    main(evaluate)
