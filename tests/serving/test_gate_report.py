"""What people see of the gates: waivers and open questions as such, a page that needs no network, plots of any report."""

from __future__ import annotations

import importlib
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.gate_rules import Waiver
from pipeline.refs import GateReport, Table, Validation, Verdict
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.summary import summarise
from pipeline.target import encode_target
from pipeline.tensors import Tensors, to_tensors
from serving.embedded import EmbeddedPlane
from serving.gate import GATES
from serving.gate_plots import plots
from serving.gate_report import as_text, metrics, render
from serving.gates.base import Champion, Evidence, Floats, Gate, judge
from serving.triton import TritonClient
from tests.serving.chain import Chain, chain
from tests.serving.known import SCHEMA, native, rows, spec_of

FRAME = rows(600).assign(region=np.where(np.arange(600) % 3, "<script>alert('$x$')</script>", "north & south"))
TENSORS = to_tensors(FRAME, SCHEMA)
GOOD = native(3.0, TENSORS)
TODAY = date(2026, 11, 25)
RULES = """{
  latency: {rate_per_s: 50, duration_s: 0.4, p95_ms: 5000, p99_ms: 6000, max_slowdown: 1000},
  judge: {metrics: [{metric: PatternMatchMetric, options: {pattern: 'yes'}}], rows: 100, pass_rate: 0.45},
  slices: {columns: [region, c], min_rows: 250},
  robustness: {directions: [{column: a, answer: falls}]},
  waivers: [{gate: robustness, by: Ada, reason: "<b>measured</b> again next month", until: 2026-12-24}]}"""


@dataclass
class Answering:
    """Stands where the client of a server stands (serving/triton.py, tested on the real one)."""

    weight: float = 3.0

    def replay(self, name: str, tensors: Tensors, output: str, version: str = "", batch: int = 256) -> Floats:
        return native(self.weight, tensors)


def evidence(gates: str = RULES, **changes: Any) -> Evidence:
    worse = Answering(1.5)
    champion = Champion(
        3, "old", native(1.5, TENSORS), tensors=TENSORS, ask=lambda tensors: worse.replay("m", tensors, "")
    )
    found = Evidence(
        spec=spec_of("m", gates), schema=SCHEMA, tensors=TENSORS, target=encode_target(FRAME, SCHEMA), native=GOOD,
        served=GOOD, onnx_digest="new", champion=champion, challenger=Answering(), version=4, rows=FRAME,
        validation=Validation(value=0.97, rows=500),
    )  # type: ignore[arg-type]  # fmt: skip
    return replace(found, **changes)


@pytest.fixture(scope="module")
def report() -> GateReport:
    """Of the real gates, on answers that are known."""
    found = evidence()
    verdicts = judge([kind(found) for kind in GATES], TODAY)
    return GateReport(passed=False, verdicts=verdicts, champion=3)


def outcome(report: GateReport) -> dict[str, str]:
    return {verdict.gate: verdict.shown for verdict in report.verdicts}


class Open(Gate):
    name = "judge"

    def judge(self) -> Verdict:
        return self.inconclusive("nobody can tell", observed=0.4, bound=0.5)


class Broken(Gate):
    name = "slices"

    def judge(self) -> Verdict:
        return self.refused("a group is left behind")


class Fine(Gate):
    name = "quality"

    def judge(self) -> Verdict:
        return self.passed("good")


def waived(gates: list[type[Gate]], today: date, *waivers: tuple[str, str]) -> GateReport:
    text = ", ".join(f"{{gate: {gate}, by: Ada, reason: it is known to us, until: {until}}}" for gate, until in waivers)
    found = evidence(f"{{waivers: [{text}]}}")
    return GateReport(passed=False, verdicts=judge([kind(found) for kind in gates], today), champion=None)


def test_a_waiver_counts_until_its_last_day_and_then_says_that_it_is_over() -> None:
    last = waived([Broken, Fine], TODAY, ("slices", "2026-11-25"), ("quality", "2026-11-25"))
    assert outcome(last) == {"slices": "waived", "quality": "passed"}
    assert last.stopping == ()
    assert last.verdicts[0].outcome == "refused"
    assert last.verdicts[0].why == "a group is left behind; waived by Ada until 2026-11-25: it is known to us"
    assert last.verdicts[1].waiver is None
    over = waived([Broken, Fine], date(2026, 11, 26), ("slices", "2026-11-25"), ("quality", "2026-11-25"))
    assert outcome(over) == {"slices": "refused", "quality": "passed"}
    assert [verdict.gate for verdict in over.stopping] == ["slices"]
    assert over.verdicts[0].reason == "a group is left behind; the waiver of Ada expired on 2026-11-25"
    assert over.verdicts[1].reason == "good"
    other = waived([Broken], TODAY, ("latency", "2026-12-31"))
    assert outcome(other) == {"slices": "refused"}


def test_what_is_open_stops_unless_a_person_decides() -> None:
    alone = waived([Fine, Open, Broken], TODAY)
    assert [verdict.gate for verdict in alone.stopping] == ["judge", "slices"]
    assert alone.undecided == ()
    person = alone.model_copy(update={"person_decides": True})
    assert [verdict.gate for verdict in person.stopping] == ["slices"]
    assert [verdict.gate for verdict in person.undecided] == ["judge"]
    both = waived([Open], TODAY, ("judge", "2026-12-31")).model_copy(update={"person_decides": True})
    assert outcome(both) == {"judge": "waived"}
    assert both.undecided == both.stopping == ()


def test_gates_may_take_longer_than_deepeval_gives_a_test_case(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = importlib.import_module("deepeval.evaluate.execute.e2e")
    monkeypatch.setattr(patience, "get_per_task_timeout_seconds", lambda: 0.05)

    class Slow(Fine):
        def judge(self) -> Verdict:
            time.sleep(0.3)
            return super().judge()

    assert outcome(waived([Slow], TODAY)) == {"quality": "passed"}


def test_every_verdict_is_seen_as_what_it_is(report: GateReport) -> None:
    assert outcome(report) | {"robustness": "waived", "judge": "inconclusive", "champion": "passed"} == outcome(report)
    text = as_text(report)
    assert "\x1b" not in text
    assert re.search(r"robustness +waived ", text)
    assert re.search(r"judge +inconclusive ", text)
    assert "waived by Ada until 2026-12-24" in " ".join(text.split())
    assert all(verdict.gate in text for verdict in report.verdicts)
    page = render("m", 4, "r1", report, {})
    assert page.count('<span class="mark waived">waived</span>') == 2
    assert page.count('<span class="mark inconclusive">inconclusive</span>') == 2
    assert "by Ada, until 2026-12-24" in page
    assert '<span class="refused">refused</span>' in page
    person = report.model_copy(update={"passed": True, "person_decides": True})
    assert '<span class="inconclusive">a person decides</span>' in render("m", 4, "r1", person, {})


def test_the_page_reads_offline_and_runs_nothing_of_the_rows(report: GateReport) -> None:
    page = render("m", 4, "r1", report, plots(report))
    assert "http" not in page
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<figure>") == len(plots(report)) == 8
    assert "nan" not in re.sub(r"<[^>]*>", " ", page).lower().split()


def test_plots_stand_alone_and_beside_each_other(report: GateReport) -> None:
    drawn = plots(report)
    assert set(drawn) == {"champion", "leakage", "slices", "calibration", "robustness", "judge", "latency", "pace"}
    ids: list[str] = []
    for name, text in drawn.items():
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg", name
        assert root.get("aria-label", "").startswith("gate "), name
        ids += [element.get("id", "") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert "var(--ink, #1f2937)" in drawn["champion"]
    assert "north &amp; south" in drawn["slices"]
    again = GateReport.model_validate_json(report.model_dump_json())
    assert plots(again) == drawn


def test_a_report_with_nothing_to_draw_has_no_plots() -> None:
    words = tuple(Verdict(gate=gate, outcome="refused", reason="no") for gate in ("champion", "slices", "latency"))
    odd = Verdict(
        gate="slices", outcome="passed", reason="", tables=(Table(name="other", columns=("a",), rows=((1.0,),)),)
    )
    bare = GateReport(passed=False, verdicts=(*words, odd), champion=None)
    assert plots(bare) == {}
    assert "<figure>" not in render("m", 1, "r", bare, plots(bare))


def test_an_interval_that_is_missing_is_no_obstacle(report: GateReport) -> None:
    """Groups too small to judge have none; a table of them alone is drawn too."""
    slices = next(verdict for verdict in report.verdicts if verdict.gate == "slices")
    columns = slices.tables[0].columns
    small = tuple(("c", f"g{at}", 3.0, 0.5, None, None, "not judged: fewer than 50 rows") for at in range(60))
    many = slices.model_copy(update={"tables": (Table(name="slices", columns=columns, rows=small),)})
    drawn = plots(GateReport(passed=True, verdicts=(many,), champion=None))["slices"]
    assert "40 of 60" in drawn


@pytest.mark.parametrize("value", [None, 0.0, -1.0, 1e-12, 1e300])
def test_whatever_the_numbers_are_the_report_is_drawn(report: GateReport, value: float | None) -> None:
    """A verdict must not be lost because its plot looks odd."""

    def flat(verdict: Verdict) -> Verdict:
        tables = [
            table.model_copy(
                update={"rows": tuple(tuple(c if isinstance(c, str) else value for c in row) for row in table.rows)}
            )
            for table in verdict.tables
        ]
        numbers = {} if value is None else dict.fromkeys(verdict.numbers, value)
        changes = {"tables": tuple(tables), "numbers": numbers, "observed": value, "bound": value}
        return verdict.model_copy(update=changes)

    odd = report.model_copy(update={"verdicts": tuple(flat(verdict) for verdict in report.verdicts)})
    page = render("m", 4, "r1", odd, plots(odd))
    assert as_text(odd)
    assert "</html>" in page


def test_numbers_have_names_that_mlflow_takes(report: GateReport) -> None:
    odd = Verdict(gate="slices", outcome="passed", reason="", numbers={"größe (m²)_gap": 1.0})
    found = metrics(GateReport(passed=True, verdicts=(*report.verdicts, odd), champion=None))
    assert "gate_champion_gain" in found
    assert all(re.fullmatch(r"[\w.\- /]+", name) for name in found)


@pytest.fixture
def make(stack_settings: Settings, tmp_path: Path) -> Callable[..., Chain]:
    def _make(run_id: str, weight: float, **changes: object) -> Chain:
        return chain(stack_settings, tmp_path, "gate_report", run_id, weight, **changes)

    return _make


@pytest.mark.stack
def test_the_step_shows_it_everywhere(make: Callable[..., Chain], caplog: pytest.LogCaptureFixture) -> None:
    """On the real MLflow and the real Triton, with a champion that is asked while the gates judge."""
    import mlflow

    first = make("r1", 2.0)
    first.promote(*first.ready())
    spec: PipelineSpec = spec_of(
        "gate_report",
        """{quality: {at_least: {roc_auc: 1.0}}, calibration: {max_error: 1},
        judge: {metrics: [{metric: PatternMatchMetric, options: {pattern: 'yes'}}], rows: 80, pass_rate: 0.5},
        latency: {rate_per_s: 50, duration_s: 0.2, p95_ms: 5000, max_slowdown: 1000},
        waivers: [{gate: quality, by: Ada, reason: nobody is perfect, until: 2999-01-01}]}""",
    )
    second = make("r2", 3.0, gates=spec.gates, approval="required")
    model = second.register()
    challenger = second.rollout(model, second.package(model))
    with caplog.at_level("INFO"):
        report = second.gate(model, challenger)
    settings = second.run.settings
    EmbeddedPlane(settings).end_challengers("gate_report")
    assert report.champion == 1
    shown = outcome(report)
    assert (shown["quality"], shown["judge"], shown["parity"]) == ("waived", "inconclusive", "passed"), shown
    assert report.passed is (not report.stopping)
    assert [verdict.gate for verdict in report.undecided] == ["judge"]
    assert next(verdict for verdict in report.verdicts if verdict.gate == "latency").numbers["slowdown"] > 0

    assert "waived by Ada until 2999-01-01" in " ".join(as_text(report).split())
    assert "left to the person who approves: judge" in caplog.text
    run_id = second.run.registry.pipeline_run(second.run, second.spec)
    client = mlflow.MlflowClient(settings.mlflow_uri)
    tags = client.get_run(run_id).data.tags
    assert {gate: tags[f"slipway.gate.{gate}"] for gate in shown} == shown
    files = {item.path for item in client.list_artifacts(run_id, "gates")}
    assert {
        "gates/report.html",
        "gates/report.json",
        "gates/champion.svg",
        "gates/latency.svg",
        "gates/pace.svg",
    } <= files
    text = Path(
        mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path="gates/report.json", tracking_uri=settings.mlflow_uri
        )
    ).read_text()
    assert GateReport.model_validate_json(text) == report
    assert client.get_run(run_id).data.metrics["gate_latency_slowdown"] > 0
    with TritonClient(settings.triton_grpc, 10) as served:
        assert served.parameters("gate_report")["version"] == "1"
    second.run.finish("gate", report, 1.0)
    assert [reason.split(":")[0] for reason in summarise(second.run, ("xgboost",)).reasons] == [
        f"gate {verdict.gate}" for verdict in report.stopping
    ]


def test_a_waiver_is_kept_in_the_report(report: GateReport) -> None:
    kept = next(verdict.waiver for verdict in report.verdicts if verdict.gate == "robustness")
    assert kept == Waiver(
        gate="robustness", by="Ada", reason="<b>measured</b> again next month", until=date(2026, 12, 24)
    )
