"""The gate judge: DeepEval's own metrics, and a model behind a real HTTP endpoint that says what a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.columns import RowSchema
from pipeline.commands.author import validate_spec
from pipeline.errors import Invalid, Unavailable
from pipeline.refs import Table, Verdict
from pipeline.settings import Settings
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from serving.gates.base import Endpoint, Evidence, judge
from serving.gates.judge import JudgeGate
from tests.serving.known import SCHEMA, native, rows, spec_of

FRAME = rows(400)
TENSORS = to_tensors(FRAME, SCHEMA)
TARGET = encode_target(FRAME, SCHEMA)
GOOD = native(3.0, TENSORS)
TODAY = date(2026, 11, 25)
GEVAL = "{metric: GEval, options: {name: sense, evaluation_steps: ['does the answer follow from the row?']}}"
Reply = tuple[int, str]


@dataclass
class Judge:
    """A server of chat completions on loopback; `say` gives status and text of a call, by its prompt and number."""

    url: str = ""
    say: Callable[[str, int], Reply] = lambda prompt, call: (200, '{"score": 9, "reason": "it follows"}')
    calls: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    busiest: int = 0


@pytest.fixture
def model() -> Iterator[Judge]:
    found, lock, under_way = Judge(), threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                found.calls.append(body)
                found.keys.append(self.headers["Authorization"])
                call = len(found.calls)
                under_way[0] += 1
                found.busiest = max(found.busiest, under_way[0])
            status, text = found.say(body["messages"][0]["content"], call)
            with lock:
                under_way[0] -= 1
            message = {"role": "assistant", "content": text}
            answer = {
                "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }  # fmt: skip
            content = (json.dumps(answer) if status == 200 else json.dumps({"error": {"message": text}})).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Retry-After-Ms", "10")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def evidence(rule: str, model: Judge | None = None, timeout_s: float = 5.0, **changes: Any) -> Evidence:
    endpoint = Endpoint(model.url, "judge-1", "secret-key", timeout_s) if model else None
    found = Evidence(
        spec=spec_of("m", f"{{judge: {rule}}}"), schema=SCHEMA, tensors=TENSORS, target=TARGET, native=GOOD,
        served=GOOD, onnx_digest="new", champion=None, challenger=None, version=2, rows=FRAME, endpoint=endpoint,
    )  # type: ignore[arg-type]  # fmt: skip
    return replace(found, **changes)


def judged(found: Evidence) -> Verdict:
    return judge([JudgeGate(found)], TODAY)[0]


def votes(verdict: Verdict) -> list[dict[str, Any]]:
    table: Table = next(table for table in verdict.tables if table.name == "votes")
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_no_metric_is_no_question() -> None:
    found = judged(evidence("{}"))
    assert found.passed
    assert found.reason == "the spec names no metric"


def test_a_deterministic_metric_needs_one_vote_and_no_model() -> None:
    found = judged(evidence("{metrics: [{metric: ExactMatchMetric}], rows: 100, votes: 5, pass_rate: 0.7}"))
    assert found.passed, found.reason
    right = [row["answer"] == row["truth"] for row in votes(found)]
    assert len(right) == 100
    assert [(row["for"], row["against"]) for row in votes(found)] == [(1, 0) if one else (0, 1) for one in right]
    share = found.numbers["exactmatchmetric_rate"]
    assert share == sum(right) / 100
    z = norm.ppf(0.95)  # a 90% interval
    half = z * np.sqrt(share * (1 - share) / 100 + z**2 / 40000) / (1 + z**2 / 100)
    middle = (share + z**2 / 200) / (1 + z**2 / 100)
    assert found.numbers["exactmatchmetric_low"] == pytest.approx(middle - half)
    assert found.numbers["exactmatchmetric_high"] == pytest.approx(middle + half)
    assert (found.observed, found.bound) == (found.numbers["exactmatchmetric_low"], 0.7)
    again = judged(evidence("{metrics: [{metric: ExactMatchMetric}], rows: 100, votes: 5, pass_rate: 0.7}"))
    assert votes(again) == votes(found)


def test_the_interval_gives_three_verdicts() -> None:
    rule = "{{metrics: [{{metric: ExactMatchMetric}}], rows: 100, pass_rate: {}}}"
    wrong = np.where(np.arange(400)[:, None] % 2, GOOD, GOOD[:, ::-1])
    refused = judged(evidence(rule.format(0.8), served=wrong))
    assert refused.outcome == "refused"
    assert refused.observed < 0.8  # type: ignore[operator]
    half = judged(evidence(rule.format(0.5), served=wrong))
    assert half.outcome == "inconclusive"
    assert "judge more rows" in half.reason
    assert judged(evidence(rule.format(0.3), served=wrong)).passed


def test_a_metric_may_be_asked_twice() -> None:
    either = "{metric: PatternMatchMetric, options: {pattern: 'yes|no'}}"
    found = judged(evidence(f"{{metrics: [{either}, {either.replace('yes|no', 'yes')}], rows: 100, pass_rate: 0.2}}"))
    assert found.numbers["patternmatchmetric_rate"] == 1
    assert 0.2 < found.numbers["patternmatchmetric_2_rate"] < 0.8


def test_answers_of_a_regression_are_numbers() -> None:
    schema = RowSchema(columns=SCHEMA.columns, target="y", task="regression")
    answers = np.full((400, 1), 1234.5678, dtype=np.float32)
    rule = "{metrics: [{metric: PatternMatchMetric, options: {pattern: '[0-9]+[.][0-9]+'}}]}"
    found = judged(evidence(rule, schema=schema, served=answers, target=np.full(400, 2.5)))
    assert found.passed, found.reason
    assert {(row["answer"], row["truth"]) for row in votes(found)} == {("1234.57", "2.5")}
    holed = answers.copy()
    holed[:, 0] = np.nan
    assert "not finite" in judged(evidence(rule, schema=schema, served=holed, target=np.full(400, 2.5))).reason


def test_a_model_is_asked_about_each_row_as_text_and_never_told_the_truth_as_input(model: Judge) -> None:
    together = threading.Barrier(8)  # votes that wait for one another, were there fewer at once

    def say(_: str, call: int) -> Reply:
        if 2 <= call <= 9:
            together.wait(10)
        return 200, '{"score": 9, "reason": "it follows"}'

    model.say = say
    found = judged(evidence(f"{{metrics: [{GEVAL}], rows: 20, votes: 3}}", model))
    assert found.passed, found.reason
    assert len(model.calls) == 60
    assert model.busiest == 8
    assert all("temperature" not in call and call["model"] == "judge-1" for call in model.calls)
    assert model.keys[0] == "Bearer secret-key"
    prompt = model.calls[0]["messages"][0]["content"]
    given = prompt.split("Actual Output", 1)[0].rsplit("Input", 1)[1]
    assert all(f"{column.name}: " in given for column in SCHEMA.columns)
    assert "y: " not in given
    assert [(row["for"], row["against"], row["reason"]) for row in votes(found)] == [(3, 0, "it follows")] * 20


def test_the_majority_of_split_votes_counts(model: Judge) -> None:
    """Two of three votes say no to the rows whose `c` is u."""
    seen: dict[str, int] = {}
    lock = threading.Lock()

    def say(prompt: str, _: int) -> Reply:
        with lock:
            seen[prompt] = turn = seen.get(prompt, 0) + 1
        bad = "c: u" in prompt and turn > 1
        return 200, json.dumps({"score": 1 if bad else 9, "reason": "u is wrong" if bad else "fine"})

    model.say = say
    found = judged(evidence(f"{{metrics: [{GEVAL}], rows: 60, votes: 3, pass_rate: 0.9}}", model))
    assert found.outcome == "refused", found.reason
    kinds = {(row["for"], row["against"], row["reason"]) for row in votes(found)}
    assert kinds == {(3, 0, "fine"), (1, 2, "u is wrong")}
    assert found.numbers["geval_sense_rate"] == np.mean([row["for"] == 3 for row in votes(found)])


def test_steps_that_a_model_writes_are_written_once(model: Judge) -> None:
    def say(prompt: str, _: int) -> Reply:
        steps = "evaluation steps" in prompt and "3-4" in prompt
        return 200, '{"steps": ["compare"]}' if steps else 'Here you are:\n```json\n{"score": 10, "reason": "r"}\n```'

    model.say = say
    found = judged(evidence("{metrics: [{metric: GEval, options: {name: s, criteria: is it right}}], rows: 5}", model))
    assert len(model.calls) == 1 + 15, found.reason
    assert found.numbers["geval_s_rate"] == 1


def test_more_metrics_are_all_asked_and_the_worst_decides(model: Judge) -> None:
    rule = f"{{metrics: [{GEVAL}, {{metric: ExactMatchMetric}}, {{metric: BiasMetric}}], rows: 30, votes: 1, pass_rate: 0.85}}"
    opinions = {"opinions": ["an opinion"]}
    verdict = {"verdicts": [{"verdict": "yes", "reason": "biased"}]}

    def say(prompt: str, _: int) -> Reply:
        if "opinions" in prompt and "verdict" not in prompt:
            return 200, json.dumps(opinions)
        if "verdict" in prompt:
            return 200, json.dumps(verdict)
        return 200, json.dumps({"score": 10, "reason": "r"})

    model.say = say
    found = judged(evidence(rule, model))
    assert found.outcome == "refused"
    assert found.numbers["geval_sense_rate"] == 1
    assert found.numbers["biasmetric_rate"] == 0
    assert found.observed == found.numbers["biasmetric_high"]
    rates = next(table for table in found.tables if table.name == "pass_rates")
    assert [row[0] for row in rates.rows] == ["GEval sense", "ExactMatchMetric", "BiasMetric"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_failing_judge_is_asked_again_and_then_unavailable(model: Judge, status: int) -> None:
    model.say = lambda _, call: (status, "later") if call == 1 else (200, '{"score": 9, "reason": "r"}')
    assert judged(evidence(f"{{metrics: [{GEVAL}], rows: 10, votes: 1}}", model)).numbers["geval_sense_rate"] == 1
    model.say = lambda _, __: (status, "later")
    with pytest.raises(Unavailable, match="SLIPWAY_JUDGE_URL"):
        judged(evidence(f"{{metrics: [{GEVAL}], rows: 1, votes: 1}}", model))


def test_a_judge_that_hangs_or_is_gone_is_unavailable(model: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client's pauses between its tries
    over = threading.Event()
    model.say = lambda _, __: (over.wait(30), (200, "{}"))[1]
    with pytest.raises(Unavailable, match="timed out"):
        judged(evidence(f"{{metrics: [{GEVAL}], rows: 1, votes: 1}}", model, timeout_s=0.3))
    over.set()
    gone = Endpoint("http://127.0.0.1:9/v1", "judge-1", "", 1.0)
    with pytest.raises(Unavailable, match="does not answer"):
        judged(evidence(f"{{metrics: [{GEVAL}], rows: 1, votes: 1}}", endpoint=gone))


def test_a_refused_call_is_told_without_the_key(model: Judge) -> None:
    model.say = lambda _, __: (401, "wrong key secret-key")
    found = judged(evidence(f"{{metrics: [{GEVAL}], rows: 1, votes: 1}}", model))
    assert found.outcome == "refused"
    assert "SLIPWAY_JUDGE_KEY" in found.reason
    assert "secret-key" not in found.reason
    assert len(model.calls) == 1


def test_an_answer_that_cannot_be_read_is_asked_for_again_and_then_refused(model: Judge) -> None:
    model.say = lambda _, call: (200, "I would say yes" if call < 3 else '{"score": 9, "reason": "r"}')
    assert judged(evidence(f"{{metrics: [{GEVAL}], rows: 10, votes: 1}}", model)).numbers["geval_sense_rate"] == 1
    model.say = lambda _, __: (200, '{"score": "many"}')
    found = judged(evidence(f"{{metrics: [{GEVAL}], rows: 1, votes: 1}}", model))
    assert found.outcome == "refused"
    assert "JSON" in found.reason
    assert "judged row 1" in found.reason


def test_a_metric_that_does_not_decide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.gates.evals import metrics

    rule = "{metrics: [{metric: ExactMatchMetric}], rows: 1}"
    monkeypatch.setattr(metrics.ExactMatchMetric, "is_successful", lambda _: None)
    assert "did not decide" in judged(evidence(rule)).reason
    monkeypatch.setattr(metrics.ExactMatchMetric, "measure", lambda *_, **__: 1 / 0)
    found = judged(evidence(rule))
    assert found.outcome == "refused"
    assert "it failed: division by zero" in found.reason


def test_all_that_is_wrong_in_a_spec_is_told_at_once() -> None:
    rule = """{metrics: [
      {metric: ExactMatch},
      {metric: GEval, options: {criterion: x}},
      {metric: FaithfulnessMetric},
      {metric: GEval, options: {name: a, criteria: b, evaluation_params: [context]}},
      {metric: PatternMatchMetric, options: {pattern: '['}},
      {metric: ExactMatchMetric, options: {model: gpt, threshold: null}},
      {metric: PatternMatchMetric, options: {pattern: x, threshold: null}},
      {metric: RoleAdherenceMetric}]}"""
    found = judged(evidence(rule))
    assert found.outcome == "refused"
    for said in (
        "did you mean 'ExactMatchMetric'?",
        "it takes no option 'criterion' -> did you mean 'criteria'?",
        "it asks for an option 'name'",
        "it asks for retrieval_context, which rows of a table do not have",
        "rows have no 'context'",
        "DeepEval cannot make it",
        "option 'model' is not the spec's to give",
        "without a threshold it decides nothing",
        "gates.judge.metrics.7: RoleAdherenceMetric: DeepEval has no single-turn metric of this name",
        "SLIPWAY_JUDGE_URL",
    ):
        assert said in found.reason, found.reason


def test_a_spec_is_told_before_anything_runs(settings: Settings, tmp_path: Path) -> None:
    text = """{metrics: [{metric: ExactMatch}, {metric: GEval, options: {name: a, criterion: b}}]}"""
    with pytest.raises(Invalid) as told:
        validate_spec(settings, tmp_path / "m.yaml", spec_of("m", f"{{judge: {text}}}"), data=False)
    assert "gates.judge.metrics.0: ExactMatch" in str(told.value)
    assert "it takes no option 'criterion' -> did you mean 'criteria'?" in str(told.value)
    good = spec_of(
        "m", "{judge: {metrics: [{metric: ExactMatchMetric}, {metric: BiasMetric}]}}"
    )  # no model is asked yet
    assert validate_spec(settings, tmp_path / "m.yaml", good, data=False)["name"] == "m"


def test_rubrics_and_parameters_are_deepevals_own(model: Judge) -> None:
    rule = """{metrics: [{metric: GEval, options: {name: r, criteria: c, evaluation_steps: [s], threshold: 0.5,
      evaluation_params: [input, actual_output],
      rubric: [{score_range: [0, 4], expected_outcome: wrong}, {score_range: [5, 10], expected_outcome: right}]}}],
      rows: 2, votes: 1, pass_rate: 0.1}"""
    found = judged(evidence(rule, model))
    assert found.passed, found.reason
    prompt = model.calls[0]["messages"][0]["content"]
    assert "wrong" in prompt
    assert "Expected Output" not in prompt
