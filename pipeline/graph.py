"""The graph as data: which steps there are, what each consumes and produces. Edges follow from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline import refs
from pipeline.frozen import Frozen

Role = Literal[
    "steps", "promoter"
]  # whose identity a step needs: the promoter registers, signs, and changes what serves


@dataclass(frozen=True)
class Step:
    """One step: `module` has a function of the step's name. `gathers` are consumed from every candidate at once."""

    name: str
    module: str
    produces: type[Frozen]
    consumes: tuple[type[Frozen], ...] = ()
    gathers: tuple[type[Frozen], ...] = ()
    per_candidate: bool = False
    role: Role = "steps"
    does: str = ""

    @property
    def target(self) -> str:
        """Dotted name of the step's function, as module:function."""
        return f"{self.module}:{self.name}"


STEPS: tuple[Step, ...] = (
    Step(
        "snapshot",
        "training.snapshot",
        refs.DatasetRef,
        does="read the source, keep its rows as immutable Parquet, hold rows out",
    ),
    Step(
        "check",
        "feature_checks.check",
        refs.CheckReport,
        consumes=(refs.DatasetRef,),
        does="judge the rows by the expectation suite",
    ),
    Step(
        "train",
        "training.train",
        refs.LoggedModelRef,
        consumes=(refs.DatasetRef, refs.CheckReport),
        per_candidate=True,
        does="tune and fit a candidate",
    ),
    Step(
        "export",
        "training.export",
        refs.OnnxRef,
        consumes=(refs.DatasetRef, refs.LoggedModelRef),
        per_candidate=True,
        does="write raw columns to answer as one ONNX graph, and prove it equal to the model",
    ),
    Step(
        "evaluate",
        "training.evaluate",
        refs.Evaluation,
        consumes=(refs.DatasetRef,),
        gathers=(refs.OnnxRef,),
        does="compare the candidates on the same held-out rows",
    ),
    Step(
        "register",
        "serving.register",
        refs.ModelVersionRef,
        consumes=(refs.Evaluation,),
        gathers=(refs.LoggedModelRef, refs.OnnxRef),
        role="promoter",
        does="register the winner as challenger",
    ),
    Step(
        "tune",
        "serving.tune",
        refs.ServingPlan,
        consumes=(refs.DatasetRef, refs.ModelVersionRef),
        role="promoter",
        does="measure how the version is served fastest, where the spec asks for it",
    ),
    Step(
        "package",
        "serving.package",
        refs.PackageRef,
        consumes=(refs.DatasetRef, refs.ModelVersionRef, refs.ServingPlan),
        role="promoter",
        does="build the Triton model version with its manifest of digests",
    ),
    Step(
        "rollout",
        "serving.rollout",
        refs.RolloutRef,
        consumes=(refs.ModelVersionRef, refs.PackageRef),
        role="promoter",
        does="load the challenger in a server of its own",
    ),
    Step(
        "gate",
        "serving.gate",
        refs.GateReport,
        consumes=(refs.DatasetRef, refs.ModelVersionRef, refs.RolloutRef),
        role="promoter",
        does="replay the held-out rows and judge the challenger",
    ),
    Step(
        "promote",
        "serving.promote",
        refs.PromotionRef,
        consumes=(refs.ModelVersionRef, refs.PackageRef, refs.RolloutRef, refs.GateReport),
        role="promoter",
        does="move alias and traffic to the challenger, or take it down",
    ),
)


def step_named(name: str) -> Step:
    """The step of this name. Raises KeyError when there is none."""
    return {step.name: step for step in STEPS}[name]


def producer(ref: type[Frozen]) -> Step:
    """The one step that produces this kind of reference. Raises KeyError when none does."""
    return {step.produces: step for step in STEPS}[ref]


def upstream(step: Step) -> tuple[Step, ...]:
    """The steps whose references this one reads, in graph order."""
    wanted = {producer(ref).name for ref in (*step.consumes, *step.gathers)}
    return tuple(other for other in STEPS if other.name in wanted)


@dataclass(frozen=True)
class Task:
    """A step as it runs: for one candidate when the step is per candidate."""

    step: Step
    candidate: str | None = None

    @property
    def key(self) -> str:
        """Name of the task, its reference's file and its task id in Airflow."""
        return self.step.name if self.candidate is None else f"{self.step.name}_{self.candidate}"


def tasks(candidates: tuple[str, ...]) -> tuple[Task, ...]:
    """Every task of a run, in an order in which each comes after what it reads."""
    return tuple(
        Task(step, candidate) for step in STEPS for candidate in (candidates if step.per_candidate else (None,))
    )


def task_upstream(task: Task, candidates: tuple[str, ...]) -> tuple[Task, ...]:
    """The tasks that must have ended before `task` starts."""
    before: list[Task] = []
    for other in upstream(task.step):
        if not other.per_candidate:
            before.append(Task(other))
        elif task.step.per_candidate:
            before.append(Task(other, task.candidate))
        else:
            before.extend(Task(other, candidate) for candidate in candidates)
    return tuple(before)
