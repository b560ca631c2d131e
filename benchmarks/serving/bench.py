"""Servers up, every way checked, then point by point with the ways in turn; what fails is noted and the rest goes on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import grpc
import httpx

from benchmarks.serving import wires
from benchmarks.serving.closed import Asked, Failed, InProcess, check, in_process, served
from benchmarks.serving.environments import install
from benchmarks.serving.model import Floats
from benchmarks.serving.opened import CLIENTS, offered
from benchmarks.serving.processes import Running
from benchmarks.serving.results import HTTP, IN_PROCESS, IN_PROCESS_WIDE, NATIVE, Point, Results, middle
from benchmarks.serving.servers import HOST, Server, Setting, peers, triton
from pipeline.errors import SlipwayError
from pipeline.ports import free_ports

KEPT_UP_MS = 1000.0  # of the 99th percentile; a way that needs longer is offered no higher rate
ERRORS = (
    Failed,
    SlipwayError,
    httpx.HTTPError,
    grpc.RpcError,
    OSError,
    subprocess.SubprocessError,
    ValueError,
    LookupError,
)

Ask = Callable[[Point], Point]  # fills in what a point measures


@dataclass(frozen=True)
class Grid:
    """Rows of a request, clients at once, and the open loop's rates as shares of Slipway's own pace over HTTP."""

    batches: tuple[int, ...] = (1, 16, 128, 1024)
    clients: tuple[int, ...] = (1, 8, 32)
    shares: tuple[float, ...] = (0.05, 0.2, 0.5, 0.8)


@dataclass
class Bench:
    """A grid to measure on the servers of a setting."""

    setting: Setting
    grid: Grid
    repeats: int
    seconds: float
    deadline: float  # of time.monotonic, after which no point begins
    results: Results
    say: Callable[[str], None]

    def run(self, only: tuple[str, ...]) -> None:
        """Measure everything; whatever happens, no process stays."""
        with ExitStack() as stack:
            running = self._started(only, stack)
            asked = self._checked(running)
            self._closed(asked)
            for item in running:
                with self._noting(item.server.name):
                    self.results.memory_mib[item.server.name] = item.memory_mib()
            self._open(asked)
            for way, requests in asked.items():
                with self._noting(way):
                    for batch, one in requests.items():  # still the same answers
                        check(one.request, self._answers(batch))
            self.results.write()

    def _started(self, only: tuple[str, ...], stack: ExitStack) -> list[Running]:
        """The servers that serve."""
        ports = free_ports(HOST, 3)
        memory = wires.SharedMemory(f"{HOST}:{ports[1]}")
        stack.callback(memory.close)
        found = {name: peer for name, peer in peers(self.setting).items() if not only or name in only}
        makers: dict[str, Callable[[], Server]] = {"Slipway": partial(triton, self.setting, memory, ports)}
        for name, (environment, make) in found.items():
            self.say(f"environment of {name}")
            with self._noting(name):
                install(self.setting.environments, environment)
                makers[name] = make
        begun, serving = [], []
        for name, make in makers.items():
            with self._noting(name):
                begun.append(Running(make(), self.setting.folder / f"{name}.log"))
                stack.callback(begun[-1].stop)
        for item in begun:
            with self._noting(item.server.name):
                item.wait()
                serving.append(item)
        return serving

    def _checked(self, running: list[Running]) -> dict[str, dict[int, Asked]]:
        """By batch, the requests of each way that answers what ONNX Runtime answers."""
        found: dict[str, dict[int, Asked]] = {}
        for item in running:
            for way, (address, wire) in item.server.ways.items():
                self.say(f"answers of {way}")
                with self._noting(way):
                    requests = {batch: wire(address, self._rows(batch)) for batch in self.grid.batches}
                    found[way] = {batch: check(one, self._answers(batch)) for batch, one in requests.items()}
        return found

    def _closed(self, asked: Mapping[str, Mapping[int, Asked]]) -> None:
        ways: dict[str, Ask] = {}
        for name, library in self._libraries().items():
            ways[name] = partial(self._in_process, library)
        for way in asked:
            ways[way] = lambda point: served(point, asked[point.way][point.batch], self.seconds)
        for repeat in range(self.repeats):
            for batch in self.grid.batches:
                for clients in self.grid.clients:
                    self._point(ways, Point("closed", "", batch, clients, 0, repeat))

    def _open(self, asked: Mapping[str, Mapping[int, Asked]]) -> None:
        """At rates of two digits, from Slipway's median pace; a way that cannot keep up is asked for no more."""
        for batch in self.grid.batches:
            ways: dict[str, Ask] = {
                way: lambda point: offered(point, asked[point.way][point.batch].request, self.seconds)
                for way, requests in asked.items()
                if not requests[batch].request.http2
            }
            pace = self.results.of("closed", batch, max(self.grid.clients)).get(HTTP)
            for share in self.grid.shares if pace else ():
                rate = float(f"{share * middle(pace, 'per_s'):.2g}")
                for repeat in range(self.repeats):
                    self._point(ways, Point("open", "", batch, CLIENTS, rate, repeat))
                kept = self.results.of("open", batch, rate)
                ways = {
                    way: ask for way, ask in ways.items() if way in kept and middle(kept[way], "p99_ms") < KEPT_UP_MS
                }

    def _point(self, ways: Mapping[str, Ask], point: Point) -> None:
        """One after the other, each time another first; a way that fails is a point that says why."""
        names = list(ways)
        turn = len(self.results.points) % max(len(names), 1)
        for way in names[turn:] + names[:turn]:
            if time.monotonic() > self.deadline:
                self.results.failures["the rest of the grid"] = "the time was over"
                return
            mine = replace(point, way=way)
            try:
                mine = ways[way](mine)
            except ERRORS as error:
                mine = replace(mine, error=_said(error))
            self.results.add(mine)
            rate = f", {mine.rate_per_s:g} due a second" if mine.loop == "open" else ""
            figures = mine.error or f"{mine.per_s:.0f} a second, p50 {mine.p50_ms:.2f}, p99 {mine.p99_ms:.2f} ms"
            self.say(f"{mine.repeat + 1}: {mine.batch} rows, {mine.clients} clients{rate}: {way}: {figures}")

    def _libraries(self) -> dict[str, InProcess]:
        subject, cores = self.setting.subject, self.setting.workers
        found = {
            name: InProcess("onnxruntime", subject.onnx, count)
            for name, count in ((IN_PROCESS, 1), (IN_PROCESS_WIDE, cores))
        }
        if subject.booster is not None:
            found[NATIVE] = InProcess("xgboost", subject.booster, 1)
        return found

    def _in_process(self, library: InProcess, point: Point) -> Point:
        found, memory = in_process(point, library, self._rows(point.batch), self.seconds)
        self.results.memory_mib[point.way] = max(memory, self.results.memory_mib.get(point.way, 0))
        return found

    def _rows(self, batch: int) -> Floats:
        return self.setting.subject.rows[:batch]

    def _answers(self, batch: int) -> Floats:
        return self.setting.subject.answers(self._rows(batch))

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """What fails is noted by its name, and nothing else stops."""
        try:
            yield
        except ERRORS as error:
            self.results.failures[name] = _said(error)
            self.say(f"{name}: {_said(error)}")


def _said(error: Exception) -> str:
    return " ".join(str(getattr(error, "stderr", "") or error).split())[-300:]
