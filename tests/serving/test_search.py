"""The search for serving options: the declared ones stay unless others are better each time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from pipeline.errors import Invalid, Unavailable
from pipeline.refs import Backend, ServingOptions, ServingPlan, ServingTrial
from pipeline.serving_rules import ServingSearch
from serving.search import Search

DECLARED = ServingOptions(threads=1, instances=1, max_queue_delay_us=100)
LOG = logging.getLogger("test")


def plan(
    value: Callable[[ServingOptions], float | None],
    declared: ServingOptions = DECLARED,
    backends: tuple[Backend, ...] = ("onnxruntime",),
    **rule: object,
) -> ServingPlan:
    def measure(options: ServingOptions) -> ServingTrial:
        found = value(options)
        problem = "" if found is not None else "too slow"
        return ServingTrial(options=options, value=found, p50_ms=1, p95_ms=2, rows_per_s=3, problem=problem)

    found = Search(measure, ServingSearch.model_validate({"trials": 40, **rule}), 4, 7, LOG, backends)
    return found.plan(declared)


def cost(options: ServingOptions) -> float:
    """Best at 2 threads, 4 instances, no delay."""
    return 1 + abs(options.threads - 2) + abs(options.instances - 4) + options.max_queue_delay_us / 1000


def test_what_is_better_each_time_is_taken() -> None:
    found = plan(cost)
    assert found.trials[0].options == DECLARED
    assert cost(found.options) == min(cost(trial.options) for trial in found.trials) < cost(DECLARED)
    assert [trial.options for trial in found.trials[-2:]] == [DECLARED, found.options]  # measured again
    assert found.reason.startswith(
        f"backend onnxruntime, threads {found.options.threads}, instances {found.options.instances}"
    )
    searched = [trial.options for trial in found.trials[:-2]]
    assert len(searched) == len(set(searched))


@pytest.mark.parametrize("faster", ["onnxruntime", "xgboost"])
def test_the_back_end_of_trees_is_the_one_that_was_faster(faster: str) -> None:
    found = plan(
        lambda options: cost(options) + 10 * (options.backend != faster), backends=("onnxruntime", "xgboost"), trials=3
    )
    assert {trial.options.backend for trial in found.trials} == {"onnxruntime", "xgboost"}  # in few trials as well
    assert found.options.backend == faster


def test_throughput_is_better_when_it_is_more() -> None:
    found = plan(lambda options: -cost(options), objective="throughput")
    assert cost(found.options) == min(cost(trial.options) for trial in found.trials)


def test_nothing_better_keeps_what_is_declared() -> None:
    found = plan(lambda options: 1.0 if options == DECLARED else 2.0)
    assert found.options == DECLARED
    assert "none of" in found.reason


def test_better_once_is_not_enough() -> None:
    asked: dict[ServingOptions, int] = {}

    def lucky(options: ServingOptions) -> float:
        asked[options] = asked.get(options, 0) + 1
        return 5.0 if options == DECLARED or asked[options] > 1 else 1.0

    found = plan(lucky)
    assert found.options == DECLARED
    assert "once, and not again" in found.reason


def test_the_search_stays_within_the_cores_and_tries_what_is_declared_beyond_them() -> None:
    wide = ServingOptions(threads=6, instances=1, max_queue_delay_us=77)
    found = plan(cost, wide)
    assert found.trials[0].options == wide
    assert all(trial.options.threads in (1, 2, 4, 6) and trial.options.instances in (1, 2, 4) for trial in found.trials)


def test_options_that_do_not_serve_lose_and_say_why() -> None:
    def half(options: ServingOptions) -> float | None:
        if options.threads == 2:
            raise Unavailable("no node takes it", "cluster", "wait")
        return None if options.instances == 2 else cost(options)

    found = plan(half)
    assert found.options.threads != 2
    assert found.options.instances != 2
    problems = {trial.problem for trial in found.trials if trial.value is None}
    assert "too slow" in problems
    assert any("no node takes it" in problem for problem in problems)


def test_what_is_declared_must_serve() -> None:
    def never(options: ServingOptions) -> float:
        raise Invalid("the graph does not load", "here", "mend it")

    with pytest.raises(Invalid, match="does not load"):
        plan(never)


def test_declared_options_that_miss_the_bound_lose_to_any_that_keep_it() -> None:
    found = plan(lambda options: None if options == DECLARED else cost(options))
    assert found.options != DECLARED


def test_no_new_options_after_the_budget() -> None:
    found = plan(cost, budget_s=1e-9)
    assert [trial.options for trial in found.trials] == [DECLARED]
