"""The watcher beside the real serving Triton: what dies or hangs answers again, and nothing else notices."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from pipeline import stack
from pipeline.errors import SlipwayError
from pipeline.settings import Settings
from pipeline.supervisor import Supervisor
from pipeline.sweep import marked
from serving import watch
from serving.embedded import EmbeddedPlane
from serving.live import Live
from serving.places import repository
from serving.triton import TritonClient
from serving.watch import Patience, Watcher
from tests.serving.packed import ROW, asking, pack, serve
from tests.support.settings import own_settings

pytestmark = pytest.mark.stack
BACK_S = 60.0


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A serving Triton of this module with its watcher, and two models, `left` and `right`."""
    folder = tmp_path_factory.mktemp("watched")
    settings = own_settings(home=folder / "home")
    try:
        stack.up(settings, ("triton",))
        serve(settings, folder / "one", "left", 1)
        serve(settings, folder / "two", "right", 2)
        yield settings
    finally:
        stack.down(settings)
    assert marked(settings.home) == []


def server(settings: Settings) -> psutil.Process:
    return psutil.Process(Supervisor(settings).pid("triton"))


def said(settings: Settings) -> str:
    return Supervisor(settings).log("triton-watch").read_text()


def until(found: Callable[[], bool], within_s: float = BACK_S) -> bool:
    deadline = time.monotonic() + within_s
    while not found():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_it_is_a_program_of_the_stack(watched: Settings) -> None:
    parts = {part.name: part for part in stack.status(watched)}
    assert (parts["triton"].state, parts["triton-watch"].healthy) == ("running", True)
    assert parts["triton-watch"].note.endswith("logs/triton-watch.log")
    stack.up(watched, ("triton",))  # is up already: neither is started again
    assert psutil.Process(Supervisor(watched).pid("triton-watch")).memory_info().rss < 120 * 2**20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_stopped_server_comes_back(watched: Settings, number: int) -> None:
    before = server(watched)
    assert until(lambda: f"triton answers, process {before.pid}" in said(watched))  # a new one gets more time
    with asking(watched, "left") as left, asking(watched, "right") as right:
        assert left.is_back(BACK_S)
        before.send_signal(number)
        assert until(lambda: bool(left.failures)), "it went on answering"
        assert left.is_back(2 * BACK_S), said(watched)
        assert right.is_back(BACK_S), said(watched)
    assert len(left.answers) == len(right.answers) == 1
    assert server(watched) != before
    assert not before.is_running() or before.status() == psutil.STATUS_ZOMBIE


# -- the same eyes in this process, where their patience can be shortened


@pytest.fixture
def eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], Watcher]]:
    """A serving Triton with model `m`, and a watcher that looks for so many seconds."""
    settings = own_settings(home=tmp_path / "home")
    monkeypatch.setattr(stack, "COMPANIONS", {})
    monkeypatch.setattr(watch, "SILENT_S", 4.0)
    try:
        stack.up(settings, ("triton",))
        with TritonClient(settings.triton_grpc, 1.5) as client:
            watcher = Watcher(settings, client)

            def look(seconds: float) -> Watcher:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    try:
                        watcher.look()
                    except SlipwayError as error:
                        watch.log.warning("%s", error)
                    time.sleep(0.2)
                return watcher

            yield look
    finally:
        stack.down(settings)


def slow_graph() -> bytes:
    """Answers (0, 1); the first number of a row says how many times a matrix is multiplied before."""
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["missing"]),
        helper.make_node("Where", ["missing", "nought", "numeric"], ["known"]),
        helper.make_node("ReduceMax", ["known"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "", "matrix"], ["end"], body=_body()),
        helper.make_node("ReduceMin", ["end"], ["none"], keepdims=0),
        helper.make_node("Mul", ["known", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "answer"], ["probabilities"]),
        helper.make_node("Identity", ["categorical"], ["unused"]),
    ]
    constants = [
        helper.make_tensor("nought", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("matrix", TensorProto.FLOAT, [300, 300], [0.0] * 90_000),
        helper.make_tensor("answer", TensorProto.FLOAT, [2], [0.0, 1.0]),
    ]
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["N", 2]),
        helper.make_tensor_value_info("categorical", TensorProto.STRING, ["N", 1]),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])]
    body = helper.make_graph(nodes, "slow", inputs, outputs, constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _body() -> onnx.GraphProto:
    nodes = [
        helper.make_node("MatMul", ["before", "before"], ["after"]),
        helper.make_node("Identity", ["go"], ["on"]),
    ]
    inputs = [
        helper.make_tensor_value_info("turn", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("before", TensorProto.FLOAT, [300, 300]),
    ]
    outputs = [
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("after", TensorProto.FLOAT, [300, 300]),
    ]
    return helper.make_graph(nodes, "body", inputs, outputs)


def test_a_busy_model_is_left_in_peace(eyes: Callable[[float], Watcher], tmp_path: Path) -> None:
    watcher = eyes(0.0)
    settings = watcher.settings
    serve(settings, tmp_path / "packs", "m", 1, slow_graph())
    before, answered = server(settings), []

    def ask(turns: float) -> float:
        begin = time.monotonic()
        row = ROW | {"numeric": np.array([[turns, 0]], np.float32)}
        with TritonClient(settings.triton_grpc, 300) as client:
            answered.append(client.infer("m", row, "probabilities").tolist())
        return time.monotonic() - begin

    turns = 500.0
    while (took := ask(turns)) < 2.0:
        turns *= 2
    turns *= 8 / took  # so that one batch takes longer than silence is borne
    asking = [threading.Thread(target=ask, args=(turns,)) for _ in range(2)]
    for thread in asking:
        thread.start()
        time.sleep(0.5)
    missed = 0
    while any(thread.is_alive() for thread in asking):
        eyes(1.0)
        missed += watcher.models["m"].looked_at > 0
    assert missed, "it was never too busy to answer"
    eyes(2.0)
    assert answered[-1] == [[0.0, 1.0]]
    assert server(settings) == before
    assert watcher.reloads == watcher.patience.tries == 0


def block(address: str, name: str) -> None:
    """Give a model, one of `slow_graph`, a row that it will never have answered."""
    row = ROW | {"numeric": np.array([[1e12, 0]], np.float32)}
    with TritonClient(address, 1.0) as client, pytest.raises(SlipwayError, match="Deadline Exceeded"):
        client.infer(name, row, "probabilities")


def test_a_model_that_is_stuck_is_loaded_anew_beside_itself(
    eyes: Callable[[float], Watcher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = eyes(0.0).settings
    monkeypatch.setattr(watch, "STUCK_S", 4.0)  # it is busy, and makes no progress
    serve(settings, tmp_path / "one", "m", 1, slow_graph())
    serve(settings, tmp_path / "two", "other", 2)
    before = server(settings)
    eyes(1.0)
    block(settings.triton_grpc, "m")
    with asking(settings, "other") as other:
        assert until(lambda: eyes(1.0).reloads == 1)
        assert until(lambda: eyes(1.0).models["m"].sick_since is None)
    with TritonClient(settings.triton_grpc, 10) as client:
        assert client.infer("m", ROW, "probabilities").tolist() == [[0.0, 1.0]]
    assert other.failures == []  # it never noticed
    assert (server(settings), eyes(0.0).patience.tries) == (before, 0)


def test_a_model_in_another_hand_is_left_alone_for_a_while(
    eyes: Callable[[float], Watcher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = eyes(0.0).settings
    monkeypatch.setattr(watch, "STUCK_S", 2.0)
    serve(settings, tmp_path / "packs", "m", 1, slow_graph())
    before = server(settings)
    eyes(1.0)
    block(settings.triton_grpc, "m")
    with Live(settings, "m").alone():
        assert until(lambda: eyes(1.0).models["m"].sick_since is not None)
        assert eyes(3.0).reloads == 0
        assert server(settings) == before
        monkeypatch.setattr(watch, "LEAVE_S", 1.0)
        assert until(lambda: eyes(1.0).patience.tries == 1)
        assert until(lambda: Supervisor(settings).pid("triton") not in (0, before.pid))
    with asking(settings, "m") as client:
        assert client.is_back(BACK_S)


def test_what_was_changed_on_the_disk_is_not_loaded_and_nothing_flaps(
    eyes: Callable[[float], Watcher], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = eyes(0.0).settings
    monkeypatch.setattr(watch, "STUCK_S", 2.0)
    serve(settings, tmp_path / "one", "m", 1, slow_graph())
    serve(settings, tmp_path / "two", "other", 2)
    before = server(settings)
    eyes(1.0)
    file = repository(settings) / "m" / "1" / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"MatMul", b"MatMax"))
    block(settings.triton_grpc, "m")
    with asking(settings, "other") as other:
        watcher = eyes(15.0)
    tries = [record.message for record in caplog.records if "cannot be loaded anew" in record.message]
    assert 1 <= len(tries) <= 3
    assert "it is not the package of version 1: another hand changed it" in tries[0]
    assert (server(settings), watcher.patience.tries) == (before, 0)
    assert other.failures == []
    file.write_bytes(content)
    assert until(lambda: eyes(1.0).models["m"].sick_since is None)


def test_a_challenger_that_is_stuck_is_healed_by_the_next_try(eyes: Callable[[float], Watcher], tmp_path: Path) -> None:
    settings = eyes(0.0).settings.model_copy(update={"timeout_s": 5.0})
    version = pack(settings, tmp_path / "packs", "m", 3, slow_graph())
    plane = EmbeddedPlane(settings)
    ref = plane.start(version)
    pid = Supervisor(settings).pid(ref.program)
    plane.ensure(ref, version.onnx_digest)
    assert Supervisor(settings).pid(ref.program) == pid  # it answers: it is left alone
    block(ref.grpc, "m")
    plane.ensure(ref, version.onnx_digest)
    with TritonClient(ref.grpc, 10) as client:
        assert client.infer("m", ROW, "probabilities").tolist() == [[0.0, 1.0]]


def test_waits_double_and_begin_anew_after_calm() -> None:
    patience, now, tries = Patience(), 1000.0, []
    for _ in range(4000):
        if patience.allows(now):
            patience.tried(now)
            tries.append(now - 1000)
        now += 1
    assert tries[:5] == [0, 5, 15, 35, 75]
    assert tries[-1] - tries[-2] == watch.LONGEST_WAIT_S
    now += watch.LONGEST_WAIT_S + watch.CALM_S + 1
    assert patience.allows(now)
    patience.tried(now)
    assert patience.allows(now + watch.FIRST_WAIT_S)
