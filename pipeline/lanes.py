"""Chains of tasks that need nothing of each other, side by side, each in a process of its own."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Semaphore
from threading import Lock, Thread

from pipeline.errors import SlipwayError, Unavailable
from pipeline.threads import cores

Tell = Callable[..., None]  # told of a task's key and state
log = logging.getLogger("slipway")


def at_once(chains: int) -> int:
    """How many of so many chains are under way at a time: for each a core that this process may use."""
    return min(chains, cores())


@contextmanager
def side_by_side(chains: Mapping[str, Callable[[Tell], None]], watch: Tell, most: int) -> Iterator[None]:
    """Do every chain in a process forked of this one, and wait for all of them at the end of the context.

    At most so many are under way at once; where one has failed, no other is begun. What a chain tells and logs is told
    and logged here; where this process ends, they end.

    Raises:
        SlipwayError: what a chain raised; the first of them in time.
        Unavailable: a process was lost. A retry may help.
    """
    fork = multiprocessing.get_context("fork")  # it has what is imported here, at no cost
    turn = _Turn(fork.Semaphore(most), fork.RawValue("b", 0))
    lanes: dict[Connection, ForkProcess] = {}
    try:
        for name, chain in chains.items():
            ours, theirs = fork.Pipe(duplex=False)
            lanes[ours] = fork.Process(target=_lane, args=(theirs, chain, turn), name=name)
            lanes[ours].start()  # all of them now: later, a thread may hold a lock, which would be held there for ever
            theirs.close()
        yield
        failures = list(_follow(lanes, watch, turn))
    finally:
        for process in lanes.values():
            process.terminate()
            process.join()
    if failures:
        raise failures[0]


@dataclass(frozen=True)
class _Turn:
    """Given back by the parent: a process that is lost cannot."""

    free: Semaphore
    is_over: ctypes.c_byte


def _follow(lanes: Mapping[Connection, ForkProcess], watch: Tell, turn: _Turn) -> Iterator[SlipwayError]:
    """Hand on what the processes say, until all have ended; what went wrong."""
    waiting = dict(lanes)
    while waiting:
        for end in [end for end in wait(list(waiting)) if isinstance(end, Connection)]:
            try:
                said = end.recv()
            except (EOFError, OSError):  # at the end of a message, or in the middle of one
                for failure in _lost(waiting.pop(end)):
                    turn.is_over.value = 1
                    yield failure
                turn.free.release()
                continue
            if isinstance(said, SlipwayError):
                turn.is_over.value = 1
                yield said
            elif isinstance(said, logging.LogRecord):
                log.handle(said)
            else:
                watch(*said)


def _lost(process: ForkProcess) -> Iterator[SlipwayError]:
    process.join()
    code = process.exitcode or 0
    if code:
        how = f"signal {-code}" if code < 0 else f"code {code}"
        yield Unavailable(f"the process of {process.name} ended with {how}", "this machine", "see above; run again")


def _lane(end: Connection, chain: Callable[[Tell], None], turn: _Turn) -> None:
    """Do a chain in its process. What is no failure of a step is told on stderr, by multiprocessing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal's group: the parent has it too, and ends this one
    Thread(target=_end_with_parent, daemon=True).start()
    pipe = _Pipe(end)
    log.handlers, log.propagate = [QueueHandler(pipe)], False  # type: ignore[arg-type]
    turn.free.acquire()
    if turn.is_over.value:
        return
    try:
        chain(lambda *said: pipe.put_nowait(said))
    except SlipwayError as error:
        pipe.put_nowait(error)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Pipe:
    """The end of a pipe as a queue to which any thread may write."""

    def __init__(self, end: Connection) -> None:
        self._end, self._lock = end, Lock()

    def put_nowait(self, said: object) -> None:
        with self._lock:
            self._end.send(said)
