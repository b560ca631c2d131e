"""MLflow killed, refusing, silent, locked: a sentence and the right exit code, and the run goes on where it was."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from pipeline.graph import STEPS
from pipeline.supervisor import Supervisor
from serving.register import CHAMPION
from tests.chaos.lines import agreed, ledger, promoted, ready, weight
from tests.chaos.world import World, results

pytestmark = pytest.mark.stack
TRIES, RETRY_S = 12, 3.0


@contextmanager
def answering(status: int, wait_s: float = 0.0) -> Iterator[str]:
    """A server that says the same to whoever asks; its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            over.wait(wait_s)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            over.set()
            server.shutdown()


def test_what_mlflow_says_becomes_a_sentence_and_the_right_exit_code(world: World) -> None:
    world.spec("refused")
    with answering(500) as broken, answering(401) as closed, answering(403) as forbidden, answering(200, 60) as silent:
        children = {}
        for label, uri in {
            "500": broken,
            "401": closed,
            "403": forbidden,
            "silent": silent,
            "gone": "http://127.0.0.1:9",
        }.items():
            settings = world.settings.model_copy(update={"mlflow_uri": uri, "timeout_s": 1.0})
            children[label] = world.start("snapshot", "refused", f"r-{label}", settings=settings)
        ends = {label: child.end() for label, child in children.items()}
    for label, ended in ends.items():
        assert "Traceback" not in ended.said, ended.said
        assert ended.said.strip().count("\n") < 5, ended.said
        assert " -> " in ended.said, ended.said
        assert ended.code == (2 if label == "403" else 1), (label, ended.said)
    assert "MLFLOW_TRACKING_USERNAME" in ends["401"].said
    assert "MLflow does not answer" in ends["silent"].said
    for label in ends:  # nothing of it is in the way of the real one
        assert world.step("snapshot", "refused", f"r-{label}").code == 0


def until_done(world: World, step: str, name: str, run: str) -> int:
    """Run a step again as Airflow does; how often that took."""
    for tries in range(TRIES):
        ended = world.step(step, name, run)
        if ended.code == 0:
            return tries
        assert ended.code == 1, ended.said
        assert "Traceback" not in ended.said, ended.said
        time.sleep(RETRY_S)
    raise AssertionError(ended.said)


def kill_mlflow(world: World) -> None:
    server = psutil.Process(Supervisor(world.settings).pid("mlflow"))
    for process in (*server.children(recursive=True), server):  # its worker is what answers
        process.kill()


@pytest.mark.smoke
def test_mlflow_killed_during_a_promotion(world: World) -> None:
    name = "promoted_without_mlflow"
    promoted(world, name, 1, None)
    ready(world, name, "r2", weight(2), 1)
    child = world.start("promote", name, "r2", at="registered-models/alias", pauses=True)
    child.wait_for_pause()
    run = world.run(name, "r2")
    assert run.registry.alias(name, CHAMPION) == 1  # the promotion is half done: the ledger has it, MLflow does not
    assert ledger(run, name)[-1] == ("promotion", 2)
    kill_mlflow(world)
    child.resume()
    ended = child.end()
    assert ended.code in (0, 1), ended.said
    assert "Traceback" not in ended.said, ended.said
    until_done(world, "promote", name, "r2")
    assert agreed(world, name) == 2
    assert ledger(world.run(name, "r1"), name) == [("promotion", 1), ("promotion", 2)]


def test_mlflow_killed_in_the_middle_of_steps(world: World, calm: dict[str, float]) -> None:
    name = "without_mlflow"
    world.spec(name)
    for step in STEPS:
        if step.name in ("train", "register", "gate"):
            child = world.start(step.name, name, "r1")
            time.sleep(world.draw.uniform(0.1, 0.6) * calm[step.name])
            kill_mlflow(world)
            ended = child.end()
            assert ended.code in (0, 1), ended.said
            assert "Traceback" not in ended.said, ended.said
        until_done(world, step.name, name, "r1")
    assert results(world.run(name, "r1")) == results(world.run("calm", "r1"))
    assert [one.version for one in world.run(name, "r1").registry.versions(f"name = '{name}'")] == [1]


def test_mlflow_whose_database_is_locked(world: World) -> None:
    name = "locked"
    promoted(world, name, 1, None)
    ready(world, name, "r2", weight(2), 1)
    database = sqlite3.connect(world.settings.home / "mlflow" / "mlflow.db", isolation_level=None)
    database.execute("begin exclusive")
    child = world.start("promote", name, "r2")
    time.sleep(8)
    database.execute("rollback")
    database.close()
    ended = child.end()
    assert ended.code in (0, 1), ended.said
    assert "Traceback" not in ended.said, ended.said
    until_done(world, "promote", name, "r2")
    assert agreed(world, name) == 2
