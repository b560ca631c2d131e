"""Steps in processes of their own that can be killed: forked from one that has imported every library once.

A child may be told to kill itself before its n-th write, whatever that is: a name on the disk, a call of MLflow that
changes something, of Triton's control, of the supervisor. Or it pauses there, until the test resumes it. Nothing of the
code under test knows of it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from tests.support.polling import wait_for

NAMES = {"os.rename", "os.link", "os.remove", "shutil.rmtree"}  # audit events that change what has a name
FOREVER_S = 180.0  # a child that takes longer hangs

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("training.snapshot", "feature_checks.check", "training.train", "training.export", "training.evaluate"),
        *("serving.register", "serving.package", "serving.rollout", "serving.gate", "serving.promote"),
        *(
            "serving.rollback",
            "serving.embedded",
            "pipeline.registry",
            "mlflow",
            "great_expectations",
            "deepeval",
            "matplotlib.pyplot",
            "model_signing",
        ),
    ]
)


@dataclass(frozen=True)
class Pause:
    """Where a child waits: it sets `reached`, and goes on once the test has set `resumed`."""

    reached: Event = field(default_factory=_context.Event)
    resumed: Event = field(default_factory=_context.Event)


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code (negative: the signal), seconds, all that it said."""

    code: int
    seconds: float
    said: str


class Child:
    """A process that runs a function of a module with arguments of a command line."""

    def __init__(
        self,
        module: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        home: str,
        at: int | str = 0,
        pauses: bool = False,
    ) -> None:
        log.touch()
        self.log, self.begin = log, time.monotonic()
        self.pause = Pause() if pauses else None
        self.process: ForkServerProcess = _context.Process(
            target=_child, args=(module, list(argv), dict(env), str(log), home, at, self.pause), daemon=True
        )
        self.process.start()

    def wait_for_pause(self) -> None:
        """Return when the child has reached the write before which it pauses; it may not end before."""
        assert self.pause is not None
        reached = self.pause.reached
        wait_for(lambda: reached.is_set() or not self.process.is_alive(), self.log.read_text, seconds=FOREVER_S)
        assert reached.is_set(), self.log.read_text()

    def resume(self) -> None:
        assert self.pause is not None
        self.pause.resumed.set()

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def end(self) -> Ended:
        self.process.join(FOREVER_S)
        if self.process.is_alive():
            self.kill()
            self.process.join()
            raise TimeoutError(self.log.read_text())
        assert self.process.exitcode is not None
        return Ended(self.process.exitcode, time.monotonic() - self.begin, self.log.read_text())


def prepare() -> None:
    """Start the process that is forked; it imports the libraries meanwhile."""
    forkserver.ensure_running()


def warm_up() -> None:
    """Return when every library is imported, so that no child's time has that in it."""
    child = _context.Process(target=int)
    child.start()
    child.join()


def _child(
    module: str, argv: list[str], env: dict[str, str], log: str, home: str, at: int | str, pause: Pause | None
) -> None:
    with open(log, "ab", buffering=0) as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(env)
    sys.argv = [module, *argv]
    loaded = importlib.import_module(module)
    if at:
        _stop_before(at, home, pause)
    if module == "serving.rollback":
        import typer

        typer.run(loaded.main)
    else:
        from pipeline.step import main

        main(getattr(loaded, module.rpartition(".")[2]))


def _stop_before(at: int | str, home: str, pause: Pause | None) -> None:
    """Kill or pause this process before its write number `at`, or before the first that has this text."""
    import requests
    from tritonclient.grpc import InferenceServerClient

    from pipeline.supervisor import Supervisor

    writes = 0

    def write(what: str) -> None:
        nonlocal writes
        writes += 1
        if writes == at or (isinstance(at, str) and at in what):
            if pause is None:
                os.write(2, f"killed before write {at}: {what}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            elif not pause.reached.is_set():
                pause.reached.set()
                pause.resumed.wait(FOREVER_S)

    def named(event: str, arguments: tuple[Any, ...]) -> None:
        places = [str(argument) for argument in arguments[:2]]
        is_lock = places[:1] and places[0].endswith("lock")  # no word that anybody reads
        if event in NAMES and not is_lock and any(place.startswith(home) for place in places):
            write(f"{event} {places}")

    def watched(owner: Any, name: str, changes: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            if what := changes(*arguments, **options):
                write(what)
            return original(*arguments, **options)

        setattr(owner, name, wrapper)

    def over_http(_session: Any, method: str, url: str, **_: Any) -> str:
        asks = method == "GET" or "search" in url or url.endswith("/get")
        return "" if asks else f"{method} {url}"

    sys.addaudithook(named)
    watched(requests.Session, "request", over_http)
    for name in ("load_model", "unload_model"):
        watched(InferenceServerClient, name, lambda *_, name=name, **__: name)
    for name in ("start", "stop"):
        watched(Supervisor, name, lambda *_, name=name, **__: f"supervisor {name}")
