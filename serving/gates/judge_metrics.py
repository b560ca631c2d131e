"""DeepEval's own metrics by name, made from a spec's options; what cannot be made is told in sentences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Invalid, Problem
from pipeline.gate_rules import JudgeMetric
from pipeline.suggest import near
from serving.gates.base import Endpoint
from serving.gates.evals import BaseMetric, DeepEvalBaseLLM, DeepEvalError, Rubric, SingleTurnParams, metrics

GIVEN = ("input", "actual_output", "expected_output")  # of a test case: a row of a table has no more
SETTINGS = "set SLIPWAY_JUDGE_URL and SLIPWAY_JUDGE_MODEL (and SLIPWAY_JUDGE_KEY where one is asked)"
OURS = frozenset(
    {"model", "async_mode", "verbose_mode", "flaky", "evaluation_template", "eval_mode", "system_one_model"}
)
BROKEN = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, DeepEvalError)


@dataclass(frozen=True)
class Asked:
    """A metric as the spec asks for it; `by_model` when a model judges, so that its answers may differ."""

    label: str
    metric: BaseMetric
    by_model: bool


def validate_metrics(rules: Sequence[JudgeMetric]) -> None:
    """Return when DeepEval has each metric and it takes these options, as far as that is known before it is made.

    Raises:
        Invalid: names every metric and option that is wrong or missing. A retry does not help.
    """
    known = single_turn()
    if problems := [problem for at, rule in enumerate(rules) for problem in _problems(rule, known, _place(at, rule))]:
        raise Invalid(problems)


def build(rules: Sequence[JudgeMetric], endpoint: Endpoint | None) -> list[Asked]:
    """A metric for each rule.

    Raises:
        Invalid: names every metric, option and setting that is wrong or missing. A retry does not help.
    """
    known = single_turn()
    problems: list[Problem] = []
    found: list[Asked] = []
    model: DeepEvalBaseLLM | None = None  # one client for all metrics
    for at, rule in enumerate(rules):
        where = _place(at, rule)
        wrong = _problems(rule, known, where)
        takes = inspect.signature(known[rule.metric]).parameters if rule.metric in known else {}
        by_model = "model" in takes
        if by_model and endpoint is None:
            wrong.append(Problem("a model must judge, and none is set", where, SETTINGS))
        elif by_model and endpoint is not None:
            model = model or _model(endpoint)
        if not wrong:
            try:
                options = _converted(rule, takes) | ({"model": model} if by_model else {})
                made = known[rule.metric](**options, **({"async_mode": False} if "async_mode" in takes else {}))
                wrong = _made(made, where)
                found.append(Asked(_label(rule, [one.label for one in found]), made, by_model))
            except BROKEN as error:
                what = " ".join(str(error).split())[:300]
                wrong.append(Problem(f"DeepEval cannot make it: {what}", where, "correct its options"))
        problems += wrong
    if problems:
        raise Invalid(problems)
    return found


def _label(rule: JudgeMetric, taken: Sequence[str]) -> str:
    """How a metric is called in the report: by its class, its own name, and a number where that is not enough."""
    name = rule.options.get("name")
    label = f"{rule.metric} {name}" if name else rule.metric
    return label if label not in taken else f"{label} {len(taken) + 1}"


def _place(at: int, rule: JudgeMetric) -> str:
    return f"gates.judge.metrics.{at}: {rule.metric}"


def _model(endpoint: Endpoint) -> DeepEvalBaseLLM:
    from serving.gates.judge_model import JudgeModel  # noqa: PLC0415 (half a second that other gates do not need)

    return JudgeModel(endpoint)


def single_turn() -> dict[str, Callable[..., BaseMetric]]:
    """DeepEval's metrics that judge one input and its output, by class name."""
    named = {name: getattr(metrics, name) for name in metrics.__all__}
    return {
        name: kind
        for name, kind in named.items()
        if inspect.isclass(kind) and issubclass(kind, BaseMetric) and kind is not BaseMetric
    }


def _problems(rule: JudgeMetric, known: Mapping[str, Callable[..., BaseMetric]], where: str) -> list[Problem]:
    if rule.metric not in known:
        return [Problem("DeepEval has no single-turn metric of this name", where, near(rule.metric, known))]
    kind = known[rule.metric]
    takes = {name: value for name, value in inspect.signature(kind).parameters.items() if name[0] != "_"}
    return _options(rule, takes, where) + _fields(kind, where)


def _options(rule: JudgeMetric, takes: Mapping[str, inspect.Parameter], where: str) -> list[Problem]:
    free = [name for name in takes if name not in OURS]
    problems = []
    for name in rule.options:
        if name in OURS:
            remedy = f"leave it out; {SETTINGS}" if name == "model" else "leave it out"
            problems.append(Problem(f"option {name!r} is not the spec's to give", where, remedy))
        elif name not in free:
            problems.append(Problem(f"it takes no option {name!r}", where, near(name, free)))
    problems += [
        Problem(f"it asks for an option {name!r}", where, f"give `options: {{{name}: ...}}`")
        for name in free
        if takes[name].default is inspect.Parameter.empty and name not in rule.options
    ]
    params = rule.options.get("evaluation_params")
    problems += [
        Problem(f"rows have no {field!r}", where, f"name some of {', '.join(GIVEN)}")
        for field in (params if isinstance(params, list) else [])
        if field not in GIVEN
    ]
    return problems


def _fields(kind: Any, where: str) -> list[Problem]:
    """What the metric asks of a test case, and a row of a table does not have."""
    required = getattr(kind, "_required_params", None)
    names = [param.value for param in required] if isinstance(required, list) else []
    missing = [name for name in names if name not in GIVEN]
    if not missing:
        return []
    what = f"it asks for {', '.join(missing)}, which rows of a table do not have"
    return [Problem(what, where, f"take a metric of {', '.join(GIVEN)} alone")]


def _made(metric: BaseMetric, where: str) -> list[Problem]:
    if metric.requires_trace:
        return [Problem("it judges the steps of an agent, which a row does not have", where, "take another metric")]
    if metric.threshold is None:
        return [Problem("without a threshold it decides nothing", where, "leave `threshold` out, or give a number")]
    return []


def _converted(rule: JudgeMetric, takes: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Options as DeepEval types them: text of a spec to its enumeration, mappings to rubrics."""
    options: dict[str, Any] = dict(rule.options)
    if "evaluation_params" in takes:
        named = options.get("evaluation_params") or list(GIVEN)
        options["evaluation_params"] = [SingleTurnParams(name) for name in named]
    if isinstance(rubric := options.get("rubric"), list):
        options["rubric"] = [
            Rubric(score_range=tuple(one["score_range"]), expected_outcome=one["expected_outcome"]) for one in rubric
        ]
    return options
