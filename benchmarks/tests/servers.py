"""Count the servers that a command starts, by looking at the processes below it."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

LABEL = "TESTS_BENCHMARK"  # in the environment of all processes that the measured command starts
INTERVAL_S = 0.2  # no server is ready sooner, so none is missed
LOOKS = 10  # at a process: one that has just been forked becomes a server only when it runs another program
KINDS = {
    "Triton": re.compile(r"(^|/)tritonserver "),
    "MLflow": re.compile(r"-m mlflow server"),
    "Airflow": re.compile(r"-m dags\.standalone"),
    "supervisord": re.compile(r"supervisor\.supervisord|(^|/)supervisord( |$)"),
    "PostgreSQL": re.compile(r"(^|/)postgres -D"),
    "Ray": re.compile(r"(^|/)gcs_server "),
}


class ServerCount:
    """Servers seen since the start, by kind; a process and its forks are one server."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.count: Counter[str] = Counter()
        self._looks: Counter[tuple[int, float]] = Counter()

    def look(self) -> None:
        """Look at all processes once."""
        for process in psutil.process_iter():
            try:
                kind = self._kind(process)
            except psutil.Error:  # it has ended, or belongs to another user
                continue
            if kind:
                self.count[kind] += 1

    def _kind(self, process: psutil.Process) -> str:
        """Return the kind of server that a process is, if it was not counted before; else an empty string."""
        identity = (process.pid, process.create_time())
        if self._looks[identity] >= LOOKS:
            return ""
        self._looks[identity] += 1
        found = next((kind for kind, pattern in KINDS.items() if pattern.search(" ".join(process.cmdline()))), "")
        if not found or process.environ().get(LABEL) != self.run:
            return ""
        parent = process.parent()
        is_fork = parent is not None and KINDS[found].search(_command_line(parent))
        self._looks[identity] = LOOKS
        return "" if is_fork else found


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


@contextmanager
def counted_servers(run: str) -> Iterator[Counter[str]]:
    """Count servers whose environment has `LABEL=run` while the block runs."""
    servers, over = ServerCount(run), threading.Event()

    def watch() -> None:
        while not over.wait(INTERVAL_S):
            servers.look()

    thread = threading.Thread(target=watch, daemon=True)
    before = os.environ.get(LABEL)
    os.environ[LABEL] = run
    thread.start()
    try:
        yield servers.count
    finally:
        over.set()
        thread.join()
        os.environ.pop(LABEL) if before is None else os.environ.update({LABEL: before})
