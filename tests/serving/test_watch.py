"""The watcher beside the real serving Triton: what dies or hangs answers again, and nothing else notices."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from pipeline import stack
from pipeline.errors import SlipwayError
from pipeline.settings import Settings
from pipeline.store import Store
from pipeline.supervisor import Supervisor
from pipeline.sweep import marked
from serving import watch
from serving.embedded import EmbeddedPlane
from serving.live import Live
from serving.places import repository
from serving.triton import TritonClient
from serving.watch import Patience, Watcher
from tests.serving.packed import ROW, answer, asking, pack, serve
from tests.support.polling import wait_for
from tests.support.settings import own_settings

BACK_S = 60.0
WATCHER = "triton-watch"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A stack of this module with a serving Triton, which the tests kill."""
    settings = own_settings(home=tmp_path_factory.mktemp("mortal") / "home")
    try:
        stack.up(settings, ("triton",))
        yield settings
    finally:
        kill(settings)  # a server with a blocked model takes ten seconds to end
        stack.down(settings)
    assert marked(settings.home) == []


@pytest.fixture
def watched(mortal: Settings, tmp_path: Path) -> Settings:
    """The stack with its watcher, and two models, `left` and `right`."""
    stack.up(mortal, ("triton",))  # leaves alone what runs, and waits for a server that was killed
    for number, name in ((1, "left"), (2, "right")):
        if not (repository(mortal) / name).is_dir():
            serve(mortal, tmp_path / name, name, number)
    return mortal


def server(settings: Settings) -> psutil.Process:
    return psutil.Process(Supervisor(settings).pid("triton"))


def kill(settings: Settings) -> None:
    """Kill the serving Triton and return when the supervisor has started another."""
    before = Supervisor(settings).pid("triton")
    Supervisor(settings).restart("triton")
    wait_for(lambda: Supervisor(settings).pid("triton") not in (0, before), "the supervisor starts the server")


def said(settings: Settings) -> str:
    log = Supervisor(settings).log(WATCHER)
    return log.read_text() if log.exists() else ""


@pytest.mark.stack
def test_it_is_a_program_of_the_stack(watched: Settings) -> None:
    parts = {part.name: part for part in stack.status(watched)}
    assert (parts["triton"].state, parts[WATCHER].healthy) == ("running", True)
    assert parts[WATCHER].note.endswith("logs/triton-watch.log")
    pids = [Supervisor(watched).pid(name) for name in ("triton", WATCHER)]
    stack.up(watched, ("triton",))  # is up already: neither is started again
    assert [Supervisor(watched).pid(name) for name in ("triton", WATCHER)] == pids
    assert psutil.Process(pids[1]).memory_info().rss < 120 * 2**20


@pytest.mark.stack
@pytest.mark.smoke
def test_a_killed_server_comes_back(watched: Settings) -> None:
    comes_back(watched, signal.SIGKILL)


@pytest.mark.stack
def test_a_stopped_server_is_killed_and_comes_back(watched: Settings) -> None:
    Supervisor(watched).stop(WATCHER)
    Supervisor(watched).log(WATCHER).unlink(missing_ok=True)
    code = "from serving import watch; watch.SILENT_S = 3.0; watch.main()"  # the program, with less patience
    Supervisor(watched).start(replace(watch.program(watched), argv=(sys.executable, "-c", code)))
    comes_back(watched, signal.SIGSTOP)


def comes_back(settings: Settings, number: int) -> None:
    """Send a signal to the server; another one answers in its place, and both models answer as before."""
    before = server(settings)
    wait_for(lambda: f"triton answers, process {before.pid}" in said(settings), "a new server gets more time")
    with asking(settings, "left") as left, asking(settings, "right") as right:
        assert left.is_back(BACK_S)
        before.send_signal(number)
        wait_for(lambda: left.failures, "the server stops answering")
        assert left.is_back(2 * BACK_S), said(settings)
        assert right.is_back(BACK_S), said(settings)
    assert len(left.answers) == len(right.answers) == 1
    assert server(settings) != before
    assert not before.is_running() or before.status() == psutil.STATUS_ZOMBIE


@pytest.mark.stack
def test_a_killed_server_comes_back_with_what_was_signed(watched: Settings, tmp_path: Path) -> None:
    serve(watched, tmp_path / "1", "kept", 1)
    serve(watched, tmp_path / "2", "lost", 1)
    good = answer(watched, "kept")
    for name in Store(watched.store).list("packages/lost"):
        Store(watched.store).delete(f"packages/lost/{name}")
    for folder in (
        repository(watched) / "kept",
        repository(watched) / "lost",
        Live(watched, "lost").package(1),
    ):
        flip_byte(folder / "1" / "model.onnx")
    before = server(watched)
    before.kill()
    stack.up(watched, ("triton",))
    assert server(watched) != before
    assert answer(watched, "kept") == good
    log = Supervisor(watched).log("triton").read_text()
    assert "version 1 was not as it is packaged, and is placed again" in log
    assert "lost is not loaded" in log


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


# -- the same eyes in this process, where their patience can be shortened


@dataclass
class Eyes:
    """A watcher in this process, which looks when a test wants it."""

    watcher: Watcher

    def look(self, times: int = 1) -> Watcher:
        for _ in range(times):
            try:
                self.watcher.look()
            except SlipwayError as error:
                watch.log.warning("%s", error)
            time.sleep(0.2)
        return self.watcher


@pytest.fixture
def eyes(mortal: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Eyes]:
    """The serving Triton without the watcher's program, and a watcher with less patience."""
    Supervisor(mortal).stop(WATCHER)
    monkeypatch.setattr(stack, "COMPANIONS", {})
    monkeypatch.setattr(watch, "SILENT_S", 3.0)
    stack.up(mortal, ("triton",))
    with TritonClient(mortal.triton_grpc, 1.0) as client:
        eyes = Eyes(Watcher(mortal, client))
        eyes.look()
        yield eyes


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


@pytest.mark.stack
def test_a_busy_model_is_left_in_peace(mortal: Settings, eyes: Eyes, tmp_path: Path) -> None:
    watcher = eyes.watcher
    serve(mortal, tmp_path / "packs", "busy", 1, slow_graph())
    before, answered = server(mortal), []

    def ask(turns: float) -> float:
        begin = time.monotonic()
        row = ROW | {"numeric": np.array([[turns, 0]], np.float32)}
        with TritonClient(mortal.triton_grpc, 300) as client:
            answered.append(client.infer("busy", row, "probabilities").tolist())
        return time.monotonic() - begin

    turns = 200.0
    while (took := ask(turns)) < 1.0:
        turns *= 2
    turns *= 5 / took  # so that one batch takes longer than silence is borne
    asking = [threading.Thread(target=ask, args=(turns,)) for _ in range(2)]
    for thread in asking:
        thread.start()
        time.sleep(0.3)
    missed = 0
    while any(thread.is_alive() for thread in asking):
        eyes.look()
        missed += watcher.models["busy"].looked_at > 0
    assert missed, "it was never too busy to answer"
    eyes.look(3)
    assert answered[-1] == [[0.0, 1.0]]
    assert server(mortal) == before
    assert watcher.reloads == watcher.patience.tries == 0


def block(address: str, name: str) -> None:
    """Give a model, one of `slow_graph`, a row that it will never have answered."""
    row = ROW | {"numeric": np.array([[1e12, 0]], np.float32)}
    with TritonClient(address, 1.0) as client, pytest.raises(SlipwayError, match="Deadline Exceeded"):
        client.infer(name, row, "probabilities")


@pytest.fixture
def _killed_in_the_end(mortal: Settings) -> Iterator[None]:
    """Give the next test a server without a blocked model."""
    yield
    kill(mortal)


@pytest.mark.stack
@pytest.mark.usefixtures("_killed_in_the_end")
def test_a_model_that_is_stuck_is_loaded_anew_beside_itself(
    mortal: Settings,
    eyes: Eyes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "STUCK_S", 2.0)  # it is busy, and makes no progress
    serve(mortal, tmp_path / "one", "stuck", 1, slow_graph())
    serve(mortal, tmp_path / "two", "beside", 2)
    before = server(mortal)
    eyes.look(2)
    block(mortal.triton_grpc, "stuck")
    with asking(mortal, "beside") as beside:
        wait_for(lambda: eyes.look().reloads == 1)
        wait_for(lambda: eyes.look().models["stuck"].sick_since is None)
    with TritonClient(mortal.triton_grpc, 10) as client:
        assert client.infer("stuck", ROW, "probabilities").tolist() == [[0.0, 1.0]]
    assert beside.failures == []  # it never noticed
    assert (server(mortal), eyes.watcher.patience.tries) == (before, 0)


@pytest.mark.stack
@pytest.mark.usefixtures("_killed_in_the_end")
def test_a_model_in_another_hand_is_left_alone_for_a_while(
    mortal: Settings,
    eyes: Eyes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "STUCK_S", 1.0)
    serve(mortal, tmp_path / "packs", "held", 1, slow_graph())
    before = server(mortal)
    eyes.look(2)
    block(mortal.triton_grpc, "held")
    with Live(mortal, "held").alone():
        wait_for(lambda: eyes.look().models["held"].sick_since is not None)
        assert eyes.look(2).reloads == 0
        assert server(mortal) == before
        monkeypatch.setattr(watch, "LEAVE_S", 1.0)
        wait_for(lambda: eyes.look().patience.tries == 1)
        wait_for(lambda: Supervisor(mortal).pid("triton") not in (0, before.pid))
    with asking(mortal, "held") as client:
        assert client.is_back(BACK_S)


@pytest.mark.stack
@pytest.mark.usefixtures("_killed_in_the_end")
def test_what_was_changed_on_the_disk_is_not_loaded_and_nothing_flaps(
    mortal: Settings,
    eyes: Eyes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "STUCK_S", 1.0)
    monkeypatch.setattr(watch, "FIRST_WAIT_S", 300.0)
    serve(mortal, tmp_path / "one", "changed", 1, slow_graph())
    serve(mortal, tmp_path / "two", "other", 2)
    before = server(mortal)
    eyes.look(2)
    file = repository(mortal) / "changed" / "1" / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"MatMul", b"MatMax"))
    block(mortal.triton_grpc, "changed")

    def tries() -> list[str]:
        return [record.message for record in caplog.records if "cannot be loaded anew" in record.message]

    with asking(mortal, "other") as other:
        wait_for(lambda: eyes.look() and tries())
        watcher = eyes.look(3)
    assert len(tries()) == 1  # the next waits for its time
    assert "it is not the package of version 1: another hand changed it" in tries()[0]
    assert (server(mortal), watcher.patience.tries) == (before, 0)
    assert other.failures == []
    file.write_bytes(content)
    monkeypatch.setattr(watch, "FIRST_WAIT_S", 0.0)
    wait_for(lambda: eyes.look().models["changed"].sick_since is None)


@pytest.mark.stack
def test_a_challenger_that_is_stuck_is_healed_by_the_next_try(mortal: Settings, tmp_path: Path) -> None:
    settings = mortal.model_copy(update={"timeout_s": 3.0})
    version = pack(settings, tmp_path / "packs", "rival", 3, slow_graph())
    plane = EmbeddedPlane(settings)
    try:
        ref = plane.start(version)
        pid = Supervisor(settings).pid(ref.program)
        plane.ensure(ref, version.onnx_digest)
        assert Supervisor(settings).pid(ref.program) == pid  # it answers: it is left alone
        block(ref.grpc, "rival")
        plane.ensure(ref, version.onnx_digest)
        assert Supervisor(settings).pid(ref.program) != pid
        with TritonClient(ref.grpc, 10) as client:
            assert client.infer("rival", ROW, "probabilities").tolist() == [[0.0, 1.0]]
    finally:
        plane.end_challengers("rival")


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
