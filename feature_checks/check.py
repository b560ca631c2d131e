"""Step check: the expectation suite judges the snapshot; the report says what it found, and the next step acts."""

from __future__ import annotations

import json

from feature_checks.judge import run_suite
from feature_checks.outcome import Outcome
from feature_checks.page import render
from feature_checks.parquet import columns_of
from feature_checks.suite import validate_suite
from pipeline.memory import fit_bytes
from pipeline.refs import CheckReport, DatasetRef
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import main


def check(spec: PipelineSpec, dataset: DatasetRef, run: Run) -> CheckReport:
    """Judge the rows by the spec's suite; with none, the schema that the snapshot found is all that is asked.

    Raises:
        Invalid: the suite cannot be read, or names columns that are gone. A retry does not help.
        Unavailable: store, disk or MLflow do not answer. A retry helps.
    """
    run_id = run.registry.pipeline_run(run, spec)
    if spec.checks.suite is None:
        run.log.info("no suite: the schema is all that was checked")
        run.registry.set_tags(run_id, {"slipway.checks": "schema only"})
        return CheckReport(passed=True, suite=None, suite_digest=None, evaluated=0)
    with run.store.whole(dataset.key) as path:
        columns = tuple(column.name for column in columns_of(path))
        suite = validate_suite(run.settings.suites_dir, spec.checks.suite, columns, run.store)
        outcomes, result = run_suite(suite, path, run.settings.threads, fit_bytes(run.settings.memory_gib))
    failures = tuple(outcome.failure for outcome in outcomes if not outcome.passed)
    passed = all(failure.severity != "critical" for failure in failures)
    for failure in failures:
        run.log.warning("%s: %s", failure.severity, failure.message)
    run.log.info("%d of %d expectations met", len(outcomes) - len(failures), len(outcomes))

    report = CheckReport(
        passed=passed,
        suite=suite.name,
        suite_digest=suite.digest,
        evaluated=len(outcomes),
        failures=failures,
        page=f"{run.key}/checks.html",
        result=f"{run.key}/checks.json",
    )
    page = render(spec.name, run.id, dataset, suite.name, passed, outcomes)
    document = json.dumps(result, indent=1, default=str)
    run.store.write(str(report.page), page.encode(), replace=True)
    run.store.write(str(report.result), document.encode(), replace=True)
    run.registry.log_text(run_id, page, "checks/report.html")
    run.registry.log_text(run_id, document, "checks/result.json")
    run.registry.log_file(run_id, suite.path, "spec")
    run.registry.log_metrics(run_id, _counts(outcomes))
    run.registry.set_tags(run_id, {"slipway.checks": "passed" if passed else "refused", "slipway.suite": suite.digest})
    return report


def _counts(outcomes: tuple[Outcome, ...]) -> dict[str, float]:
    failed = [outcome.severity for outcome in outcomes if not outcome.passed]
    return {
        "checks_evaluated": float(len(outcomes)),
        "checks_failed_critical": float(failed.count("critical")),
        "checks_failed_warning": float(failed.count("warning")),
    }


if __name__ == "__main__":
    main(check)
