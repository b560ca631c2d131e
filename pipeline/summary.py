"""What a run came to, read from the references that it left."""

from __future__ import annotations

from typing import Literal

from pipeline import refs
from pipeline.frozen import Frozen
from pipeline.graph import producer, tasks
from pipeline.run import APPROVE, Ref, Run

Outcome = Literal["promoted", "rejected", "incomplete"]


class TaskTime(Frozen):
    """Seconds of a finished task, and how many of them were spent fitting."""

    task: str
    seconds: float
    fit_s: float

    @property
    def own_s(self) -> float:
        """The pipeline's own share: all but fitting."""
        return max(self.seconds - self.fit_s, 0.0)


class Summary(Frozen):
    """A run as far as it went; what has not happened is None."""

    pipeline: str
    run: str
    outcome: Outcome
    reasons: tuple[str, ...]
    tasks: tuple[TaskTime, ...]
    dataset: refs.DatasetRef | None
    checks: refs.CheckReport | None
    evaluation: refs.Evaluation | None
    version: refs.ModelVersionRef | None
    gates: refs.GateReport | None
    promotion: refs.PromotionRef | None


def summarise(run: Run, candidates: tuple[str, ...]) -> Summary:
    """The summary of a run.

    Raises:
        Invalid: a reference is damaged. A retry does not help.
    """
    keys = [task.key for task in tasks(candidates)]
    done = [envelope for key in keys if (envelope := run.envelope(key)) is not None]
    finished = {envelope.task for envelope in done}

    def ref(kind: type[Ref]) -> Ref | None:
        return run.ref(kind) if producer(kind).name in finished else None

    word = run.envelope(APPROVE)
    said = refs.Approval.model_validate_json(word.ref) if word else None
    checks, evaluation, gates = ref(refs.CheckReport), ref(refs.Evaluation), ref(refs.GateReport)
    reasons: tuple[str, ...] = ()
    if gates and not gates.passed:
        reasons = tuple(f"gate {verdict.gate}: {verdict.reason}" for verdict in gates.stopping)
    elif said and not said.approved:
        reasons = (f"{said.by} did not approve it" + (f": {said.note}" if said.note else ""),)
    elif evaluation and evaluation.winner is None:
        reasons = tuple(f"candidate {score.candidate}: {score.reason}" for score in evaluation.scores)
    elif checks and not checks.passed:
        reasons = tuple(failure.message for failure in checks.failures if failure.severity == "critical")
    promotion = ref(refs.PromotionRef)
    return Summary(
        pipeline=run.pipeline,
        run=run.id,
        outcome="promoted" if promotion else "rejected" if reasons else "incomplete",
        reasons=reasons,
        tasks=tuple(TaskTime(task=item.task, seconds=item.seconds, fit_s=item.fit_s) for item in done),
        dataset=ref(refs.DatasetRef),
        checks=checks,
        evaluation=evaluation,
        version=ref(refs.ModelVersionRef),
        gates=gates,
        promotion=promotion,
    )
