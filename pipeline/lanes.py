"""Chains of work that need nothing of each other, side by side; each part of a chain in a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from threading import Lock, Thread
from typing import Literal

from pipeline.errors import SlipwayError, Unavailable
from pipeline.process import cores

Tell = Callable[..., None]  # told of a task's key and state
Word = Literal["prepare", "do"]
log = logging.getLogger("slipway")


@dataclass(frozen=True)
class Part:
    """What one process does; `prepare` is done before, while the part before it is under way (the first has none)."""

    do: Callable[[Tell], None]
    prepare: Callable[[], None] | None = None


def at_once(chains: int) -> int:
    """How many of so many chains are under way at a time: for each a core that this process may use."""
    return min(chains, cores())


def side_by_side(
    chains: Mapping[str, Sequence[Part]], watch: Tell, most: int, meanwhile: Callable[[], None] | None = None
) -> None:
    """Do every chain, a part after the other, each part in a process forked of this one.

    At most so many compute at once; where one has failed, no other is begun. What a part tells and logs is told and
    logged here; where this process ends, they end. A part prepares itself while the one before it is under way, and
    `meanwhile` is done here, once, in a thread that has ended when this returns or raises: both only where fewer than
    so many are under way.

    Raises:
        SlipwayError: what a part raised, once those under way have ended; the first of them in time.
        Unavailable: a process was lost. A retry may help.
    """
    fork = multiprocessing.get_context("fork")  # it has what is imported here, at no cost
    lanes: list[_Lane] = []
    try:
        for name, parts in chains.items():
            before = None
            for part in parts:
                ours, theirs = fork.Pipe()
                process = fork.Process(target=_process, args=(theirs, part), name=name)
                before = _Lane(ours, process, before, is_prepared=part.prepare is None)
                lanes.append(before)
                process.start()  # all of them before the thread, which may hold a lock that none would give back there
                theirs.close()
        if meanwhile is not None:
            ours, theirs = fork.Pipe()
            lanes.append(_Lane(ours, Thread(target=_aside, args=(theirs, meanwhile))))
            lanes[-1].process.start()
        failures = list(_follow(lanes, watch, most))
    finally:
        begun = [lane for lane in lanes if lane.process.ident is not None]
        for lane in begun:
            lane.end.close()
            if isinstance(lane.process, ForkProcess):
                lane.process.terminate()
        for lane in begun:
            lane.process.join()
    if failures:
        raise failures[0]


@dataclass(eq=False)
class _Lane:
    """A process, or a thread of this one, as seen from here; it can do its work once the one `before` has ended."""

    end: Connection
    process: ForkProcess | Thread
    before: _Lane | None = None
    is_prepared: bool = False
    word: Word | None = None  # what it was told last
    is_idle: bool = True  # it has done as it was told
    is_over: bool = False

    def wants(self) -> Word | None:
        """What it could be told now."""
        if self.is_over or not self.is_idle:
            return None
        if isinstance(self.process, Thread):
            return "prepare"
        if self.before is None or self.before.is_over:
            return "do"
        return "prepare" if self.before.word == "do" and not self.is_prepared else None

    def tell(self, word: Word) -> None:
        """Let it do so."""
        self.word, self.is_idle, self.is_prepared = word, False, True
        with suppress(OSError):  # where it is lost, reading will tell
            self.end.send(word)


def _follow(lanes: Sequence[_Lane], watch: Tell, most: int) -> Iterator[SlipwayError]:
    """Give turns, and hand on what is said, until all have ended; what went wrong."""
    has_failed = False
    while waiting := {lane.end: lane for lane in lanes if not lane.is_over and (lane.word == "do" or not has_failed)}:
        if not has_failed:
            _give_turns(lanes, most)
        for end in [end for end in wait(list(waiting)) if isinstance(end, Connection)]:
            lane = waiting[end]
            try:
                said = end.recv()
            except (EOFError, OSError):  # at the end of a message, or in the middle of one
                lane.is_over = True
                for failure in _lost(lane):
                    has_failed = True
                    yield failure
                continue
            if said is None:
                lane.is_idle = True
            elif isinstance(said, SlipwayError):
                has_failed = True
                yield said
            elif isinstance(said, logging.LogRecord):
                log.handle(said)
            else:
                watch(*said)


def _give_turns(lanes: Sequence[_Lane], most: int) -> None:
    """First to those that can go on, then to those that can prepare themselves, in their order."""
    while sum(not lane.is_over and not lane.is_idle for lane in lanes) < most:
        wishes = [(lane, word) for lane in lanes if (word := lane.wants())]
        if not wishes:
            return
        lane, word = min(wishes, key=lambda wish: wish[1])  # "do" is before "prepare"
        lane.tell(word)


def _lost(lane: _Lane) -> Iterator[SlipwayError]:
    if isinstance(lane.process, Thread):
        return
    lane.process.join()
    code = lane.process.exitcode or 0
    if code:
        how = f"signal {-code}" if code < 0 else f"code {code}"
        yield Unavailable(
            f"the process of {lane.process.name} ended with {how}", "this machine", "see above; run again"
        )


def _process(end: Connection, part: Part) -> None:
    """A part in its process. What is no failure of a step is told on stderr, by multiprocessing."""
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # rich's redraw, whose thread may hold their lock for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal's group: the parent has it too, and ends this one
    Thread(target=_end_with_parent, daemon=True).start()
    pipe = _Pipe(end)
    log.handlers, log.propagate = [QueueHandler(pipe)], False  # type: ignore[arg-type]
    try:
        while end.recv() == "prepare":
            if part.prepare is not None:
                part.prepare()
            pipe.put_nowait(None)
        part.do(lambda *said: pipe.put_nowait(said))
    except SlipwayError as error:
        pipe.put_nowait(error)


def _aside(end: Connection, work: Callable[[], None]) -> None:
    """Do it in this thread once told to, if ever; the end of the pipe tells that it is done."""
    with end, suppress(EOFError):
        end.recv()
        work()


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
