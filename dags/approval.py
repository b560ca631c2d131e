"""The task `approve`: a person sees what the gates said, in Airflow's required actions, and says yes or no."""

from __future__ import annotations

import html
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput
from airflow.sdk.timezone import utcnow

from dags.operators import ended
from pipeline.errors import SlipwayError
from pipeline.refs import Approval, GateReport, ModelVersionRef
from pipeline.run import APPROVE, NO, YES, Run, slug
from pipeline.settings import Settings

FIRST_LOOK, LONGEST_LOOK = timedelta(seconds=10), timedelta(hours=1)


class ApprovalOperator(HITLOperator):  # type: ignore[misc]
    """Waits, without a slot, for a person's word on a run; what they say is a reference of the run, as a step's is.

    A refusal does not skip `promote`, which takes the challenger down and records who refused it. Nobody is asked when
    the gates have refused already, or when the word is there (`slipway approve`).

    Over SQLite, which locks no rows, Airflow keeps an answer that comes while the task begins to wait and wakes nobody.
    So the task looks up by itself, each time after as long again as it has waited, and takes what it then finds.
    """

    ui_color = "#fef3c7"

    def __init__(self, *, pipeline: str, spec_path: str, settings: Settings, **options: Any) -> None:
        options.pop("params", None)  # the run's own form, which is not the question's
        note = Param("", type="string", title="note", description="Why; it goes into the record", source="task")
        super().__init__(
            subject=f"Promote the new version of {pipeline}?",
            body="What the gates said is shown once they have judged.",
            options=[YES, NO],
            params={"note": note},
            response_timeout=FIRST_LOOK,
            **options,
        )
        self.pipeline, self.spec_path, self.settings = pipeline, spec_path, settings

    def execute(self, context: Any) -> Any:
        """Ask, unless there is nothing to ask."""
        run = self._run(context)
        try:
            if run.envelope(APPROVE) is not None:
                self.log.info("the word on run %s was given before", run.id)
                return None
            report = run.ref(GateReport)
            if not report.passed:
                self.log.info("the gates have refused: nobody is asked")
                return None
            version = run.ref(ModelVersionRef)
        except SlipwayError as error:
            raise ended(error.exit_code, str(error)) from error
        self.subject = f"Promote version {version.version} of {self.pipeline}?"
        self.body = question(report, f"{self.settings.mlflow_uri}/#/runs/{version.run_id}")
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> None:
        """Keep what the person said; the first word stays. Without an answer, wait on."""
        if event.get("error_type") == "timeout":
            self._wait_on(context)
            return
        answer = super().execute_complete(context, event)
        user = answer["responded_by_user"] or {}
        said = Approval(
            approved=answer["chosen_options"] == [YES],
            by=str(user.get("name") or user.get("id") or "nobody"),
            at=answer["responded_at"].isoformat(timespec="seconds"),
            via="airflow",
            note=str(answer["params_input"].get("note") or ""),
        )
        run = self._run(context)
        try:
            run.finish(APPROVE, said, 0.0)
            envelope = run.envelope(APPROVE)
        except SlipwayError as error:
            raise ended(error.exit_code, str(error)) from error
        kept = said if envelope is None else Approval.model_validate_json(envelope.ref)
        self.log.info("%s by %s", "approved" if kept.approved else "rejected", kept.by)

    def _wait_on(self, context: Any) -> None:
        """Wait for the same question's answer: Airflow looks first whether it is there, which ends the waiting."""
        run = self._run(context)
        try:
            if run.envelope(APPROVE) is not None:  # by a command that could not reach Airflow
                self.log.info("the word on run %s has been given", run.id)
                return
        except SlipwayError as error:
            self.log.warning("it cannot be seen whether the word is given: %s", error)
        waited = utcnow() - context["ti"].start_date
        raise TaskAwaitingInput(method_name="execute_complete", timeout=min(waited, LONGEST_LOOK))

    def _run(self, context: Any) -> Run:
        return Run(slug(context["run_id"]), self.pipeline, self.settings, Path(self.spec_path))


def question(report: GateReport, url: str) -> str:
    """The gates' report as Markdown, for a person who has to decide."""
    lines = ["| gate | verdict | observed | bound | why |", "|---|---|---|---|---|"]
    for one in report.verdicts:
        numbers = ["" if value is None else f"{value:.5g}" for value in (one.observed, one.bound)]
        lines.append(f"| {' | '.join([one.gate, one.shown, *numbers, _cell(one.why)])} |")
    lines += ["", f"Compared with champion {report.champion}." if report.champion else "There is no champion yet."]
    if report.undecided:
        names = ", ".join(one.gate for one in report.undecided)
        lines += ["", f"**Nobody could tell by numbers: {names}. That is yours to decide.**"]
    lines += ["", f"The candidate is [in MLflow]({url}); the run that it belongs to has `gates/report.html`."]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text of specs and rows as one cell, in which nothing is markup."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+!|~" else letter for letter in plain)
