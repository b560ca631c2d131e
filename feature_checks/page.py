"""The page of a check: one HTML file that reads offline."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader

from feature_checks.outcome import Outcome
from pipeline.refs import DatasetRef


def render(
    pipeline: str, run: str, dataset: DatasetRef, suite: str, passed: bool, outcomes: tuple[Outcome, ...]
) -> str:
    """The page as HTML, failures first."""
    environment = Environment(loader=PackageLoader("feature_checks", "templates"), autoescape=True, trim_blocks=True)
    order = {"critical": 0, "warning": 1, "info": 2}
    ranked = sorted(outcomes, key=lambda outcome: (outcome.passed, order[outcome.severity]))
    return environment.get_template("checks.html.j2").render(
        pipeline=pipeline,
        run=run,
        dataset=dataset,
        suite=suite,
        passed=passed,
        outcomes=ranked,
        met=sum(outcome.passed for outcome in outcomes),
    )
