"""The search for a version's serving options: Optuna over what can be measured, and evidence before a change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna

from pipeline.errors import SlipwayError
from pipeline.refs import Backend, ServingOptions, ServingPlan, ServingTrial
from pipeline.serving_rules import ServingSearch

DELAYS_US = (0, 100, 500, 2000)
COUNTS = (1, 2, 4, 8, 16, 32, 64)  # of threads and instances, as far as there are cores

Measure = Callable[[ServingOptions], ServingTrial]


@dataclass(frozen=True)
class Search:
    """`measure` serves options and raises SlipwayError where they cannot be; `cores` is what one server may use.

    `backends`: those that the version can be answered by.
    """

    measure: Measure
    rule: ServingSearch
    cores: int
    seed: int
    log: logging.Logger
    backends: tuple[Backend, ...] = ("onnxruntime",)

    def plan(self, declared: ServingOptions) -> ServingPlan:
        """The declared options, or the best ones when they were better each time that both were measured.

        Raises what `measure` raises for the declared options.
        """
        trials = self._trials(declared)
        first, best = trials[0], trials[0]
        for trial in trials:
            best = trial if self.better(trial, best) else best
        if best is first:
            reason = f"as the spec declares: none of {len(trials)} options served the load better ({measured(first)})"
            return ServingPlan(options=declared, reason=reason, trials=trials)
        again, rival = self._attempt(declared), self._attempt(best.options)
        trials += (again, rival)
        if all(self.better(one, other) for one in (best, rival) for other in (first, again)):
            reason = f"{words(best.options)}: {measured(best)}; as declared: {measured(first)}"
            return ServingPlan(options=best.options, reason=reason, trials=trials)
        reason = f"as the spec declares: {words(best.options)} served the load better once, and not again"
        return ServingPlan(options=declared, reason=reason, trials=trials)

    def better(self, one: ServingTrial, other: ServingTrial) -> bool:
        """Whether `one` was measured better than `other`."""
        if one.value is None or other.value is None:
            return one.value is not None
        return one.value > other.value if self.rule.objective == "throughput" else one.value < other.value

    def _trials(self, declared: ServingOptions) -> tuple[ServingTrial, ...]:
        """Every trial, the declared options first; other options that cannot be served are trials without a value."""
        found = {declared: self._timed(declared)}
        until = time.monotonic() + self.rule.budget_s
        counts = {count for count in (*COUNTS, self.cores) if count <= self.cores}
        choices: dict[str, Sequence[str | int]] = {
            "backend": self.backends,
            "threads": sorted(counts | {declared.threads}),
            "instances": sorted(counts | {declared.instances}),
            "max_queue_delay_us": sorted({*DELAYS_US, declared.max_queue_delay_us}),
        }

        def objective(trial: optuna.Trial) -> float:
            chosen = {name: trial.suggest_categorical(name, each) for name, each in choices.items()}
            options = ServingOptions.model_validate(chosen)
            if options not in found:
                if time.monotonic() > until:
                    trial.study.stop()
                    raise optuna.TrialPruned
                found[options] = self._attempt(options)
            if (value := found[options].value) is None:
                raise optuna.TrialPruned
            return value

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            direction="maximize" if self.rule.objective == "throughput" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=max(4, self.rule.trials // 2)),
        )
        for backend in dict.fromkeys((declared.backend, *self.backends)):  # each, whatever the sampler thinks of it
            study.enqueue_trial(declared.model_dump() | {"backend": backend})
        study.optimize(objective, n_trials=self.rule.trials)
        return tuple(found.values())

    def _attempt(self, options: ServingOptions) -> ServingTrial:
        try:
            return self._timed(options)
        except SlipwayError as error:
            self.log.info("%s: %s", words(options), error)
            return ServingTrial(options=options, value=None, problem=str(error))

    def _timed(self, options: ServingOptions) -> ServingTrial:
        begin = time.monotonic()
        trial = self.measure(options)
        self.log.info("%s: %s", words(options), trial.problem or measured(trial))
        return trial.model_copy(update={"seconds": round(time.monotonic() - begin, 3)})


def words(options: ServingOptions) -> str:
    """Options as a sentence names them."""
    return ", ".join(f"{name} {value}" for name, value in options.model_dump().items())


def measured(trial: ServingTrial) -> str:
    """What a trial found, as a sentence says it."""
    return f"p50 {trial.p50_ms:.2f}, p95 {trial.p95_ms:.2f} ms, {trial.rows_per_s:.0f} rows a second"
