"""`slipway approve`: who may be answered for, whose word stays, and how the run goes on."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pipeline.approval import answer
from pipeline.cli import app
from pipeline.commands import approval
from pipeline.refs import Approval, GateReport, Verdict
from pipeline.run import APPROVE, Run
from pipeline.settings import Settings
from pipeline.spec_file import parse_spec
from pipeline.step import pin_spec
from pipeline.terminal import Session

SPEC = """version: 1
name: asked
task: {kind: binary}
data: {source: rows.csv, target: y}
candidates: [{kind: xgboost}]
approval: required
"""
GOOD = GateReport(
    passed=True,
    verdicts=(Verdict(gate="quality", outcome="passed", reason="roc_auc 0.9", observed=0.9, bound=0.8),),
    champion=3,
)
BAD = GateReport(passed=False, verdicts=(Verdict(gate="quality", outcome="refused", reason="roc_auc 0.5"),), champion=3)
Slipway = Callable[..., Result]
ME = getpass.getuser()


@pytest.fixture
def waiting(settings: Settings) -> Callable[..., Run]:
    """waiting(report): a run as the gates leave it."""

    def make(report: GateReport | None = GOOD, spec: str = SPEC) -> Run:
        run = Run("r1", "asked", settings, Path("asked.yaml"))
        pin_spec(run, parse_spec(spec, "s"))
        if report:
            run.finish("gate", report, 0.0)
        return run

    return make


@pytest.fixture
def slipway(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Slipway:
    for name in ("home", "airflow_port"):
        monkeypatch.setenv(f"SLIPWAY_{name.upper()}", str(getattr(settings, name)))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(("flags", "word"), [((), "approved"), (("--reject",), "rejected")])
def test_the_word_is_kept_and_the_way_on_is_said(
    flags: tuple[str, ...], word: str, slipway: Slipway, waiting: Callable[..., Run]
) -> None:
    run = waiting()
    done = slipway("approve", "asked", "r1", *flags, "--yes", "--note", "seen [by] two")
    assert done.exit_code == 0, done.output
    assert "quality" in done.output
    assert "0.8" in done.output
    assert f"{word} by {ME}: go on with `slipway run asked --run-id r1`" in done.output
    said = answer(run)
    assert said is not None
    assert (said.approved, said.by, said.via, said.note) == (word == "approved", ME, "command", "seen [by] two")


def test_nobody_approves_unasked(slipway: Slipway, waiting: Callable[..., Run]) -> None:
    run = waiting()
    for flags in ((), ("--json",)):
        done = slipway("approve", "asked", "r1", *flags)
        assert done.exit_code == 2
        assert "nobody can be asked here" in done.output
    assert answer(run) is None


def test_the_first_word_stays(slipway: Slipway, waiting: Callable[..., Run]) -> None:
    run = waiting()
    first = Approval(approved=True, by="Ada", at="2026-01-01T00:00:00+00:00", via="airflow")
    run.finish(APPROVE, first, 0.0)
    again = slipway("approve", "asked", "r1", "--json", "--note", "me too")
    assert (again.exit_code, json.loads(again.stdout)["by"]) == (0, "Ada")  # it says who did
    assert "the note is not added" in again.stderr
    other = slipway("approve", "asked", "r1", "--reject")
    assert other.exit_code == 2
    assert (
        "run r1 of asked: Ada has approved it at 2026-01-01T00:00:00+00:00 -> "
        "a word stays; start a new run for another" in other.output
    )
    assert answer(run) == first


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (None, "run r1 of asked: there is no such run -> `slipway lineage MODEL` names its runs"),
        ({"report": None}, "the gates have not judged it yet -> wait for the step `gate`, or continue the run"),
        (
            {"report": BAD},
            "the gates have refused it (quality) -> nobody can approve that: mend it, and run again",
        ),
        ({"spec": SPEC.replace("required", "none")}, "its spec asks for nobody's approval -> it goes on by itself"),
    ],
)
def test_what_waits_for_nobody_is_not_answered(
    made: dict[str, Any] | None, sentence: str, slipway: Slipway, waiting: Callable[..., Run], settings: Settings
) -> None:
    if made is not None:
        waiting(**made)
    done = slipway("approve", "asked", "r1")
    assert done.exit_code == 2
    assert sentence in done.output
    assert "Traceback" not in done.output
    assert answer(Run("r1", "asked", settings, Path())) is None


@pytest.mark.parametrize(
    ("typed", "approved"),
    [("approve\nlooks well\n", True), ("reject\nno\n", False), ("later\n", None), ("\n", None)],
)
def test_who_sits_at_the_terminal_is_asked(
    typed: str, approved: bool | None, waiting: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To press return decides nothing."""
    run = waiting()
    session = Session(run.settings, Console(), as_json=False)
    monkeypatch.setattr(approval, "is_at_terminal", lambda _: True)
    found: list[bool] = []
    with CliRunner().isolation(input=typed) as (out, *_):
        found.append(approval.ask(session, run))
        text = out.getvalue().decode()
    assert found == [approved is not None]
    assert "Promote this version?" in text
    said = answer(run)
    assert (said.approved if said else None) == approved


def test_nobody_is_asked_where_nobody_sits(waiting: Callable[..., Run]) -> None:
    run = waiting()
    assert not approval.ask(Session(run.settings, Console(), as_json=False), run)
    assert not approval.ask(Session(run.settings, Console(force_terminal=True), as_json=True), run)
    assert answer(run) is None
