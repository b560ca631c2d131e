"""Servers as processes: started in a session of their own, known to serve, weighed, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from benchmarks.serving.servers import Server

READY_S, STOP_S = 180.0, 15.0  # all are started at once


class Running:
    """A server that was started. Its output goes to a file, whose end tells why it failed."""

    def __init__(self, server: Server, log: Path) -> None:
        self.server, self._log = server, log
        with log.open("wb") as sink:
            env = {**os.environ, **server.env}
            self._process = subprocess.Popen(
                server.argv,
                env=env,
                cwd=server.cwd,
                stdout=sink,
                stderr=sink,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._begun = time.monotonic()

    def wait(self) -> None:
        """Wait until it serves. Raises OSError when it does not."""
        while time.monotonic() - self._begun < READY_S:
            if self._process.poll() is not None:
                raise OSError(f"it ended with {self._process.returncode}: {self._said()}")
            with suppress(httpx.HTTPError):
                if httpx.get(self.server.ready, timeout=2, trust_env=False).is_success:
                    return
            time.sleep(0.1)
        raise OSError(f"it was not ready after {READY_S:.0f} s: {self._said()}")

    def memory_mib(self) -> float:
        """Proportional set size of all its processes."""
        total = 0
        for process in self._tree():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 2**20

    def stop(self) -> None:
        """End all its processes: asked first, then killed."""
        tree = self._tree()
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        for process in psutil.wait_procs(tree, 2)[1]:
            with suppress(psutil.Error):
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)

    def _tree(self) -> list[psutil.Process]:
        """It and its children; those too whose parent has died, by the POSIX session id (`setsid`), which a child may have left."""
        found = {item for item in psutil.process_iter() if _session(item.pid) == self._process.pid}
        with suppress(psutil.Error):
            found.update(psutil.Process(self._process.pid).children(recursive=True))
        return list(found)

    def _said(self) -> str:
        return " ".join(self._log.read_text(encoding="utf-8", errors="replace").split())[-400:]


def _session(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None
