"""A person's word on a run: what is needed before a promotion where the spec says `approval: required`."""

from __future__ import annotations

import getpass

from pipeline.errors import Invalid
from pipeline.refs import Approval, GateReport
from pipeline.run import APPROVE, Run
from pipeline.step import pinned_spec


def awaited(run: Run) -> GateReport:
    """What the gates said of a run that asks for a person's word, whether or not somebody has given it.

    Raises:
        Invalid: there is no such run, or nobody is to be asked about it. A retry does not help.
    """
    where = f"run {run.id} of {run.pipeline}"
    spec = pinned_spec(run)
    if spec is None:
        raise Invalid("there is no such run", where, "`slipway lineage MODEL` names its runs")
    if spec.approval != "required":
        raise Invalid("its spec asks for nobody's approval", where, "it goes on by itself")
    if run.envelope("gate") is None:
        raise Invalid("the gates have not judged it yet", where, "wait for the step `gate`, or continue the run")
    report = run.ref(GateReport)
    if not report.passed:
        gates = ", ".join(one.gate for one in report.stopping)
        raise Invalid(f"the gates have refused it ({gates})", where, "nobody can approve that: mend it, and run again")
    return report


def answer(run: Run) -> Approval | None:
    """What a person said of the run, or None."""
    envelope = run.envelope(APPROVE)
    return None if envelope is None else Approval.model_validate_json(envelope.ref)


def give(run: Run, approved: bool, note: str) -> Approval:
    """Keep the word of this machine's user.

    Raises:
        Invalid: somebody was first, and said otherwise. A retry does not help.
    """
    mine = Approval(approved=approved, by=getpass.getuser(), at=run.now(), via="command", note=note)
    run.finish(APPROVE, mine, 0.0)
    said = answer(run) or mine
    if said.approved is not approved:
        word = "approved" if said.approved else "rejected"
        where = f"run {run.id} of {run.pipeline}"
        raise Invalid(f"{said.by} has {word} it at {said.at}", where, "a word stays; start a new run for another")
    return said
