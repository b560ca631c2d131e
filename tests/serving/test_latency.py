"""The latency gate on a clock of its own, and on a real server with a graph that is many times heavier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.errors import Unavailable
from pipeline.refs import Table, Verdict
from pipeline.serving_rules import Serving
from pipeline.target import encode_target
from pipeline.tensors import Tensors, to_tensors
from serving.gates.base import Champion, Evidence, Floats, judge
from serving.gates.latency import LatencyGate
from serving.model_config import model_config
from tests.serving.known import SCHEMA, graph, native, rows, spec_of

FRAME = rows(100)
TENSORS = to_tensors(FRAME, SCHEMA)
GOOD = native(3.0, TENSORS)
TODAY = date(2026, 11, 25)
RULE = "{latency: {rate_per_s: 100, duration_s: 1.0, p95_ms: 200}}"


class Clock:
    """Time passes when somebody sleeps or is asked."""

    def __init__(self) -> None:
        self.time = 0.0

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Server:
    """Needs `seconds` of the clock for an answer; a call may be named as failing."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float], failing: Callable[[int], bool] | None = None):
        self.clock, self.seconds, self.failing, self.calls = clock, seconds, failing or (lambda _: False), 0

    def ask(self, tensors: Tensors) -> Floats:
        self.calls += 1
        self.clock.sleep(self.seconds(self.calls))
        if self.failing(self.calls):
            raise Unavailable("no answer")
        return native(3.0, tensors)

    def replay(self, name: str, tensors: Tensors, output: str, version: str = "", batch: int = 256) -> Floats:
        return self.ask(tensors)


def evidence(challenger: Any, rule: str = RULE, champion: Champion | None = None, name: str = "m") -> Evidence:
    return Evidence(
        spec=spec_of(name, rule), schema=SCHEMA, tensors=TENSORS, target=encode_target(FRAME, SCHEMA), native=GOOD,
        served=GOOD, onnx_digest="new", champion=champion, challenger=challenger, version=2,
    )  # fmt: skip


def judged(clock: Clock, found: Evidence) -> Verdict:
    """With one client and a clock that only work moves, so that every millisecond is known."""

    class Deterministic(LatencyGate):
        clients = 1
        now = staticmethod(lambda: clock.time)
        sleep = staticmethod(clock.sleep)

    return judge([Deterministic(found)], TODAY)[0]


def serving(server: Server, problem: str = "") -> Champion:
    if problem:
        return Champion(version=1, onnx_digest="old", answers=None, problem=problem)
    return Champion(version=1, onnx_digest="old", answers=GOOD, tensors=TENSORS, ask=server.ask)


def drawn(verdict: Verdict, name: str) -> Table:
    return next(table for table in verdict.tables if table.name == name)


def test_a_server_that_follows_has_its_own_time_and_no_more() -> None:
    clock = Clock()
    found = judged(clock, evidence(Server(clock, lambda _: 0.004)))
    assert found.passed
    assert found.numbers["p50_ms"] == pytest.approx(4)
    assert found.numbers["p99_ms"] == pytest.approx(4)
    assert (found.numbers["requests"], found.numbers["unsent"]) == (100, 0)
    assert (found.observed, found.bound) == (pytest.approx(4), 200)
    assert "no champion to keep pace with" in found.reason
    assert drawn(found, "percentiles").columns == ("percentile", "ms")
    assert [row[1] for row in drawn(found, "moments").rows] == pytest.approx([4.0] * 40)


def test_a_request_waits_from_when_it_was_due() -> None:
    """20 ms for each, due every 10 ms: the k-th waits 10 ms longer than the one before. The due times do not slip."""
    clock = Clock()
    found = judged(clock, evidence(Server(clock, lambda _: 0.020)))
    assert not found.passed
    assert "p95 of 200 ms is asked" in found.reason
    waits = 20 + 10 * np.arange(100)
    assert found.numbers["p50_ms"] == pytest.approx(np.percentile(waits, 50))
    assert found.numbers["p95_ms"] == pytest.approx(np.percentile(waits, 95))
    climb = [row[1] for row in drawn(found, "moments").rows]
    assert climb == sorted(climb)


def test_one_stall_is_felt_by_all_that_were_due_meanwhile() -> None:
    """A closed loop would count one slow request; here a second of silence is the wait of a hundred."""
    clock = Clock()
    server = Server(clock, lambda call: 1.0 if call == 11 else 0.001)  # the first after the warm-up
    found = judged(clock, evidence(server, RULE.replace("duration_s: 1.0", "duration_s: 2.0")))
    assert found.numbers["p50_ms"] > 50
    assert found.numbers["p99_ms"] > 900


def test_who_never_finds_a_client_is_late_and_without_an_answer() -> None:
    clock = Clock()
    found = judged(
        clock, evidence(Server(clock, lambda _: 0.5), "{latency: {rate_per_s: 100, duration_s: 1.0, error_rate: 0.98}}")
    )
    unsent = found.numbers["unsent"]
    assert 90 <= unsent < 100
    assert found.numbers["error_rate"] == pytest.approx(unsent / 100)
    assert not found.passed
    assert "found no free client" in found.reason
    assert found.numbers["p50_ms"] > 1000
    assert clock.time < 9  # the 100 would have taken 50 seconds


@pytest.mark.parametrize(("rule", "said"), [("p50_ms: 3", "p50 of 3 ms"), ("p99_ms: 3, p50_ms: 3.5", "p99 of 3 ms")])
def test_other_percentiles_are_asked_when_they_are_named(rule: str, said: str) -> None:
    clock = Clock()
    found = judged(clock, evidence(Server(clock, lambda _: 0.004), RULE.replace("p95_ms: 200", rule)))
    assert not found.passed
    assert said in found.reason
    assert found.observed > found.bound  # type: ignore[operator]


def test_failed_requests_are_counted_against_their_share() -> None:
    clock = Clock()
    fifth = Server(clock, lambda _: 0.001, lambda call: call > 10 and call % 5 == 0)
    found = judged(clock, evidence(fifth))
    assert not found.passed
    assert found.numbers["error_rate"] == pytest.approx(0.2)
    assert "0.00% may fail" in found.reason
    allowed = evidence(
        Server(clock, lambda _: 0.001, lambda call: call > 10 and call % 5 == 0),
        RULE.replace("p95_ms", "error_rate: 0.2, p95_ms"),
    )
    assert judged(clock, allowed).passed
    gone = judged(clock, evidence(Server(clock, lambda _: 0.001, lambda call: call > 10)))
    assert "none of 100" in gone.reason
    with pytest.raises(Unavailable):  # a server that fails while it is warmed up is the outside world's failure
        judged(clock, evidence(Server(clock, lambda _: 0.001, lambda _: True)))


def test_a_model_half_as_fast_as_the_champion_is_refused() -> None:
    clock = Clock()
    noise = np.random.default_rng(0).uniform(0.9, 1.1, 2000)
    champion = Server(clock, lambda call: 0.002 * noise[call])
    found = judged(clock, evidence(Server(clock, lambda call: 0.004 * noise[-call]), champion=serving(champion)))
    assert not found.passed
    assert "1.5 times are allowed" in found.reason
    assert found.numbers["slowdown"] == pytest.approx(2, rel=0.05)
    assert found.numbers["slowdown_low"] > 1.5
    assert (found.observed, found.bound) == (found.numbers["slowdown_low"], 1.5)
    assert drawn(found, "pace").columns == ("percentile", "challenger_ms", "champion_ms")
    assert champion.calls == 210  # it serves: a few hundred requests, one at a time

    any_pace = evidence(
        Server(clock, lambda _: 0.004), RULE.replace("p95_ms", "max_slowdown: null, p95_ms"), serving(champion)
    )
    assert judged(clock, any_pace).passed
    same = judged(clock, evidence(Server(clock, lambda _: 0.002), champion=serving(Server(clock, lambda _: 0.002))))
    assert same.passed
    assert same.numbers["slowdown"] == pytest.approx(1)


def test_a_pace_that_the_interval_leaves_open_refuses_nobody() -> None:
    """The ratio is above the bound, its interval is not: few and noisy requests prove nothing."""
    clock = Clock()
    spread = np.random.default_rng(1).exponential(1, 4000)
    champion = Server(clock, lambda call: 0.002 * spread[call])
    found = judged(clock, evidence(Server(clock, lambda call: 0.0031 * spread[-call]), champion=serving(champion)))
    assert found.numbers["slowdown_low"] < 1.5 < found.numbers["slowdown_high"]
    assert found.passed, found.reason


def test_slow_models_are_compared_in_bounded_time() -> None:
    clock = Clock()
    slow = Server(clock, lambda _: 2.0)
    rule = "{latency: {rate_per_s: 0.4, duration_s: 5, p95_ms: 3000}}"
    found = judged(clock, evidence(Server(clock, lambda _: 2.0), rule, serving(slow)))
    assert found.passed, found.reason
    assert slow.calls == 10 + 20


def test_a_champion_that_does_not_answer_is_said() -> None:
    clock = Clock()
    silent = serving(Server(clock, lambda _: 0.1), problem="column 'q' is missing")
    found = judged(clock, evidence(Server(clock, lambda _: 0.004), champion=silent))
    assert found.passed
    assert "champion 1 does not answer" in found.reason
    assert "slowdown" not in found.numbers


def heavy(model: onnx.ModelProto) -> bytes:
    """The same answers after a few products of large matrices, which depend on the input and come to nought."""
    body = model.graph
    nodes = [
        helper.make_node("ReduceSum", ["known"], ["all"], keepdims=0),
        helper.make_node("Mul", ["all", "nought"], ["nothing"]),
        helper.make_node("Expand", ["nothing", "large"], ["m0"]),
        *[helper.make_node("MatMul", [f"m{at}", f"m{at}"], [f"m{at + 1}"]) for at in range(10)],
        helper.make_node("ReduceSum", ["m10"], ["end"], keepdims=0),
        helper.make_node("Add", ["score", "end"], ["burdened"]),
    ]
    body.initializer.append(helper.make_tensor("large", TensorProto.INT64, [2], [300, 300]))
    sigmoid = next(at for at, node in enumerate(body.node) if node.op_type == "Sigmoid")
    body.node[sigmoid].input[0] = "burdened"
    for node in reversed(nodes):
        body.node.insert(sigmoid, node)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_a_heavier_graph_on_a_real_server_is_refused(shared_triton: Any) -> None:
    content = graph(3.0)
    for name, body in (("heavy", heavy(onnx.load_from_string(content))), ("light", content)):
        folder = shared_triton.repository / name
        (folder / "2").mkdir(parents=True)
        (folder / "2" / "model.onnx").write_bytes(body)
        (folder / "config.pbtxt").write_text(model_config(name, 2, SCHEMA, Serving(), {"digest": name}))
    with shared_triton.client() as client:
        client.load("heavy")
        client.load("light")

        def light(tensors: Tensors) -> Floats:
            return client.replay("light", tensors, SCHEMA.output, "2")

        assert np.allclose(client.replay("heavy", TENSORS, SCHEMA.output), GOOD, atol=1e-6)
        champion = Champion(version=1, onnx_digest="old", answers=GOOD, tensors=TENSORS, ask=light)
        rule = "{latency: {rate_per_s: 2, duration_s: 1, p95_ms: 60000}}"
        found = judge([LatencyGate(evidence(client, rule, champion, "heavy"))], TODAY)[0]
        assert not found.passed
        assert found.numbers["slowdown_low"] > 3, found.reason
        assert "1.5 times are allowed" in found.reason
        equal = replace(evidence(client, rule, champion, "heavy"), challenger=_Renamed(light))
        assert judge([LatencyGate(equal)], TODAY)[0].numbers["slowdown"] < found.numbers["slowdown"] / 2


class _Renamed:
    """The light model, asked as the challenger is."""

    def __init__(self, ask: Callable[[Tensors], Floats]) -> None:
        self._ask = ask

    def replay(self, name: str, tensors: Tensors, output: str, version: str = "", batch: int = 256) -> Floats:
        return self._ask(tensors)
