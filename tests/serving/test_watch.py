"""The watcher beside the real serving Triton: what dies or hangs answers again, and nothing else notices."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
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
def killable_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Start a stack for this module, with a serving Triton that the tests kill."""
    settings = own_settings(home=tmp_path_factory.mktemp("killable") / "home")
    try:
        stack.up(settings, ("triton",))
        yield settings
    finally:
        kill(settings)  # a server with a blocked model takes ten seconds to end
        stack.down(settings)
    assert marked(settings.home) == []


@pytest.fixture
def watched(killable_stack: Settings, tmp_path: Path) -> Settings:
    """Start the watcher, and serve two models, `left` and `right`."""
    stack.up(killable_stack, ("triton",))  # leaves alone what runs, and waits for a server that was killed
    for number, name in ((1, "left"), (2, "right")):
        if not (repository(killable_stack) / name).is_dir():
            serve(killable_stack, tmp_path / name, name, number)
    return killable_stack


def server(settings: Settings) -> psutil.Process:
    return psutil.Process(Supervisor(settings).pid("triton"))


def kill(settings: Settings) -> None:
    """Kill the serving Triton and return when the supervisor has started another."""
    before = Supervisor(settings).pid("triton")
    Supervisor(settings).restart("triton")
    wait_for(lambda: Supervisor(settings).pid("triton") not in (0, before), "the supervisor starts the server")


def watcher_log(settings: Settings) -> str:
    """Return the log of the watcher."""
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
    wait_for(lambda: f"triton answers, process {before.pid}" in watcher_log(settings), "a new server gets more time")
    with asking(settings, "left") as left, asking(settings, "right") as right:
        assert left.is_back(BACK_S)
        before.send_signal(number)
        wait_for(lambda: left.failures, "the server stops answering")
        assert left.is_back(2 * BACK_S), watcher_log(settings)
        assert right.is_back(BACK_S), watcher_log(settings)
    assert len(left.answers) == len(right.answers) == 1
    assert server(settings) != before
    assert not before.is_running() or before.status() == psutil.STATUS_ZOMBIE


@pytest.mark.stack
def test_a_killed_server_comes_back_with_what_was_signed(watched: Settings, tmp_path: Path) -> None:
    try:
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
        log = Supervisor(watched).log("triton")
        before, length = server(watched), log.stat().st_size
        before.kill()
        stack.up(watched, ("triton",))
        assert server(watched) != before
        assert answer(watched, "kept") == good
        new = log.read_bytes()[length:].decode()
        assert "version 1 was not as it is packaged, and is placed again" in new
        assert "lost is not loaded" in new
    finally:
        for name in ("kept", "lost"):
            remove_model(watched, name)


def remove_model(settings: Settings, name: str) -> None:
    """Remove a model from the stack: from the server, its repository, the kept packages and the store."""
    with suppress(SlipwayError), TritonClient(settings.triton_grpc, 10) as client:
        client.unload(name)
    for folder in (repository(settings) / name, Live(settings, name).package(1)):
        shutil.rmtree(folder, ignore_errors=True)
    for version in Store(settings.store).list(f"packages/{name}"):
        Store(settings.store).delete(f"packages/{name}/{version}")


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


# -- the watcher in this process, where its limits can be lowered


@dataclass
class InProcessWatcher:
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


class SteppedClock:
    """The module `time` as the watcher uses it, with a monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = float(int(time.monotonic()) + 1)  # steps of halves are added without rounding

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return time.time_ns()


@pytest.fixture
def own_watcher(killable_stack: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessWatcher]:
    """Start the serving Triton without the watcher's program; return a watcher that waits a shorter time."""
    Supervisor(killable_stack).stop(WATCHER)
    monkeypatch.setattr(stack, "COMPANIONS", {})
    monkeypatch.setattr(watch, "SILENT_S", 3.0)
    stack.up(killable_stack, ("triton",))
    with TritonClient(killable_stack.triton_grpc, 1.0) as client:
        own_watcher = InProcessWatcher(Watcher(killable_stack, client))
        own_watcher.look()
        yield own_watcher


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
def test_a_busy_model_is_left_in_peace(killable_stack: Settings, own_watcher: InProcessWatcher, tmp_path: Path) -> None:
    watcher = own_watcher.watcher
    serve(killable_stack, tmp_path / "packs", "busy", 1, slow_graph())
    before, answered = server(killable_stack), []

    def ask(turns: float) -> float:
        begin = time.monotonic()
        row = ROW | {"numeric": np.array([[turns, 0]], np.float32)}
        with TritonClient(killable_stack.triton_grpc, 300) as client:
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
        own_watcher.look()
        missed += watcher.models["busy"].looked_at > 0
    assert missed, "it was never too busy to answer"
    own_watcher.look(3)
    assert answered[-1] == [[0.0, 1.0]]
    assert server(killable_stack) == before
    assert watcher.reloads == watcher.patience.tries == 0


def block(address: str, name: str) -> None:
    """Give a model, one of `slow_graph`, a row that it will never have answered."""
    row = ROW | {"numeric": np.array([[1e12, 0]], np.float32)}
    with TritonClient(address, 1.0) as client, pytest.raises(SlipwayError, match="Deadline Exceeded"):
        client.infer(name, row, "probabilities")


@pytest.fixture
def _restarted_afterwards(killable_stack: Settings) -> Iterator[None]:
    """Restart the server after a test that blocks a model of it."""
    yield
    kill(killable_stack)


@pytest.mark.stack
@pytest.mark.usefixtures("_restarted_afterwards")
def test_a_model_that_is_stuck_is_loaded_anew_beside_itself(
    killable_stack: Settings,
    own_watcher: InProcessWatcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "STUCK_S", 2.0)  # it is busy, and makes no progress
    serve(killable_stack, tmp_path / "one", "stuck", 1, slow_graph())
    serve(killable_stack, tmp_path / "two", "beside", 2)
    before = server(killable_stack)
    own_watcher.look(2)
    block(killable_stack.triton_grpc, "stuck")
    with asking(killable_stack, "beside") as beside:
        wait_for(lambda: own_watcher.look().reloads == 1)
        wait_for(lambda: own_watcher.look().models["stuck"].sick_since is None)
    with TritonClient(killable_stack.triton_grpc, 10) as client:
        assert client.infer("stuck", ROW, "probabilities").tolist() == [[0.0, 1.0]]
    assert beside.failures == []  # it never noticed
    assert (server(killable_stack), own_watcher.watcher.patience.tries) == (before, 0)


@pytest.mark.stack
@pytest.mark.usefixtures("_restarted_afterwards")
def test_a_model_in_another_hand_is_left_alone_for_a_while(
    killable_stack: Settings,
    own_watcher: InProcessWatcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "STUCK_S", 1.0)
    serve(killable_stack, tmp_path / "packs", "held", 1, slow_graph())
    before = server(killable_stack)
    own_watcher.look(2)
    block(killable_stack.triton_grpc, "held")
    with Live(killable_stack, "held").alone():
        wait_for(lambda: own_watcher.look().models["held"].sick_since is not None)
        assert own_watcher.look(2).reloads == 0
        assert server(killable_stack) == before
        monkeypatch.setattr(watch, "LEAVE_S", 1.0)
        wait_for(lambda: own_watcher.look().patience.tries == 1)
        wait_for(lambda: Supervisor(killable_stack).pid("triton") not in (0, before.pid))
    with asking(killable_stack, "held") as client:
        assert client.is_back(BACK_S)


@pytest.mark.stack
@pytest.mark.usefixtures("_restarted_afterwards")
def test_what_was_changed_on_the_disk_is_not_loaded_and_nothing_flaps(
    killable_stack: Settings,
    own_watcher: InProcessWatcher,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "STUCK_S", 1.0)
    serve(killable_stack, tmp_path / "one", "changed", 1, slow_graph())
    serve(killable_stack, tmp_path / "two", "other", 2)
    before = server(killable_stack)
    own_watcher.look(2)
    file = repository(killable_stack) / "changed" / "1" / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"MatMul", b"MatMax"))
    block(killable_stack.triton_grpc, "changed")

    clock, step_s = SteppedClock(), watch.FIRST_WAIT_S / 2
    monkeypatch.setattr(watch, "time", clock)

    def look() -> Watcher:
        clock.now += step_s
        return own_watcher.look()

    tries: list[int] = []  # the number of looks before each failed reload
    with asking(killable_stack, "other") as other:
        for number in range(12):
            watcher = look()
            messages = [record.message for record in caplog.records if "cannot be loaded anew" in record.message]
            tries += [number] * (len(messages) - len(tries))
            if len(tries) == 3:
                break
    assert np.diff(tries).tolist() == [2, 4]  # after the first wait, and after twice as long
    assert "it is not the package of version 1: another hand changed it" in messages[0]
    assert (server(killable_stack), watcher.patience.tries) == (before, 0)
    assert other.failures == []
    file.write_bytes(content)
    monkeypatch.setattr(watch, "FIRST_WAIT_S", 0.0)
    wait_for(lambda: look().models["changed"].sick_since is None)


@pytest.mark.stack
def test_a_challenger_that_is_stuck_is_healed_by_the_next_try(killable_stack: Settings, tmp_path: Path) -> None:
    settings = killable_stack.model_copy(update={"timeout_s": 3.0})
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
