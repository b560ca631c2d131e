"""Finding and ending processes of a stack by the mark in their environment, however far they have strayed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from pipeline.settings import MARK

TERM_S, KILL_S = 8.0, 5.0


def mark(home: Path) -> dict[str, str]:
    """The environment that marks a process as part of the stack at `home`.

    `SPT_NOENV` keeps setproctitle, which Airflow uses, from overwriting the environment that is read here.
    """
    return {MARK: str(home.resolve()), "SPT_NOENV": "1"}


def marked(home: Path) -> list[psutil.Process]:
    """The processes of the stack at `home` or below and their children, but not this one and those that started it."""
    wanted = str(home.resolve())
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            value = process.environ().get(MARK, "")
            if value == wanted or value.startswith(f"{wanted}/"):
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except (psutil.Error, OSError):  # ended meanwhile, or of another user
            continue
    return [process for pid, process in found.items() if pid not in own]


def sweep(home: Path, gently: bool = True) -> tuple[str, ...]:
    """End what is left of the stack at `home` or below: TERM (if gently), then KILL. Returns "PID command" of each."""
    names: dict[int, str] = {}
    first = psutil.Process.terminate if gently else psutil.Process.kill
    for method, seconds in ((first, TERM_S), (psutil.Process.kill, KILL_S)):
        processes = marked(home)
        for process in processes:
            try:
                names.setdefault(process.pid, " ".join(process.cmdline())[:80] or process.name())
                method(process)
            except psutil.Error:
                continue
        await_end(processes, seconds)
    return tuple(f"{pid} {name}" for pid, name in names.items())


def await_end(processes: Iterable[psutil.Process], seconds: float) -> bool:
    """Wait until the processes have ended; whether they have. A zombie has: its parent may never ask for it."""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while left := [process for process in left if _lives(process)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
