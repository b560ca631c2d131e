"""`triton-watch`, a program of the stack: asks each served model for a row every second, and heals what is dead.

A server calls a model ready that answers nobody, so it is asked, not believed. The least that helps is done: the model
is loaded anew beside the one that is stuck, which other models do not notice; where that fails, or the server itself is
silent, the server is killed and the supervisor starts it. Being busy is no illness.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.program import Program
from pipeline.settings import Settings, read_settings
from pipeline.supervisor import Supervisor
from serving.probe import missing_row, served_schema
from serving.server import SERVING, environment
from serving.triton import TritonClient

if TYPE_CHECKING:
    from pipeline.tensors import Tensors
    from serving.live import Live

log = logging.getLogger("slipway")
EVERY_S = 1.0
ASK_S = 3.0
SILENT_S = 15.0  # no answer, no progress, no work
STUCK_S = 120.0  # no answer and no progress, however hard it works
START_S = 180.0  # a server that has not answered yet
LEAVE_S = 20.0  # a model that is being switched is left alone for as long
BUSY = 0.1  # share of a core: an idle server uses a hundredth
FIRST_WAIT_S, LONGEST_WAIT_S, CALM_S = 5.0, 600.0, 600.0
FEW = 2  # reloads that fail before the server is started anew
MANY = 10  # reloads in one life of a server: each stuck model leaves threads and memory behind in it
HEALED = "healed_at"  # the parameter that makes Triton load a model which it takes for loaded


def program(settings: Settings) -> Program:
    """The watcher beside the serving Triton."""
    return Program(
        name=f"{SERVING}-watch",
        argv=(sys.executable, "-m", "serving.watch"),
        env=environment(settings),
        stop_timeout_s=5.0,
    )


@dataclass
class Patience:
    """Waits between tries that double each time, and begin anew after a while of calm: nothing flaps."""

    tries: int = 0
    last: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether it is time to try (again)."""
        if now - self.last > self._wait_s + CALM_S:
            self.tries = 0
        return not self.tries or now - self.last >= self._wait_s

    def tried(self, now: float) -> None:
        """A try was made."""
        self.tries, self.last = self.tries + 1, now

    @property
    def _wait_s(self) -> float:
        return min(FIRST_WAIT_S * 2 ** min(self.tries - 1, 20), LONGEST_WAIT_S) if self.tries else 0.0


@dataclass
class Model:
    """What is known of a served model; times are of the watcher's clock."""

    row: tuple[Tensors, str] | None = None  # what it is asked, and the output that is wanted
    sick_since: float | None = None
    looked_at: float = 0.0
    done: int = -1  # batches
    cpu_s: float = 0.0
    progress_at: float = 0.0
    busy_at: float = 0.0
    failed: int = 0  # reloads in a row
    patience: Patience = field(default_factory=Patience)


class Watcher:
    """The eyes on one serving Triton."""

    def __init__(self, settings: Settings, client: TritonClient) -> None:
        self.settings = settings
        self.client = client
        self.supervisor = Supervisor(settings)
        self.models: dict[str, Model] = {}
        self.patience = Patience()
        self.silent_since: float | None = 0.0  # nothing is known yet
        self.silent_pid = self.answered_pid = self.reloads = 0

    def look(self) -> None:
        """Ask once: the server, then every model that it has loaded. Raises Unavailable when neither answers."""
        if not self.client.ready():
            self._look_at_silence()
            return
        if self.silent_since is not None:
            self.silent_since, self.answered_pid, self.reloads = None, self.supervisor.pid(SERVING), 0
            log.info("%s answers, process %d", SERVING, self.answered_pid)
        for name in sorted({item["name"] for item in self.client.index() if item.get("state") == "READY"}):
            self._look_at(name, self.models.setdefault(name, Model()))

    def _look_at_silence(self) -> None:
        now, pid = time.monotonic(), self.supervisor.pid(SERVING)
        if not self.silent_since or pid != self.silent_pid:
            self.silent_since, self.silent_pid = now, pid
            log.warning("%s does not answer (process %s)", SERVING, pid or "ended")
        bound = SILENT_S if pid in (0, self.answered_pid) else START_S
        if now - self.silent_since >= bound:
            self._restart(f"{SERVING} has not answered for {bound:.0f} s")

    def _look_at(self, name: str, model: Model) -> None:
        problem = ""
        try:
            if model.row is None:
                schema = served_schema(self.client, name)
                model.row = missing_row(schema), schema.output
            self.client.infer(name, model.row[0], model.row[1])
        except Unavailable:
            problem = self._stuck(name, model)
        except Invalid:  # unloaded, being switched to other columns, or not packaged by Slipway
            model.row = None
            return
        else:
            if model.sick_since is not None:
                log.info("%s answers again", name)
            self.models[name] = Model(row=model.row, patience=model.patience)
            return
        if problem:
            self._heal(name, model, problem)

    def _stuck(self, name: str, model: Model) -> str:
        """What is wrong with a model that gave no answer in time; empty as long as it makes progress, or works."""
        now, done, cpu_s = time.monotonic(), model.done, 0.0
        with suppress(SlipwayError):
            done = self.client.executions(name)
        with suppress(psutil.Error):
            cpu_s = sum(psutil.Process(self.supervisor.pid(SERVING)).cpu_times()[:2])
        if done != model.done or not model.looked_at:
            model.done, model.progress_at, model.busy_at = done, now, now
        elif cpu_s - model.cpu_s >= BUSY * (now - model.looked_at):
            model.busy_at = now
        model.cpu_s, model.looked_at = cpu_s, now
        if now - model.busy_at >= SILENT_S:
            return f"no answer in {ASK_S:.0f} s, and idle for {SILENT_S:.0f} s"
        if now - model.progress_at >= STUCK_S:
            return f"no answer in {ASK_S:.0f} s, and no progress for {STUCK_S:.0f} s"
        return ""

    def _heal(self, name: str, model: Model, problem: str) -> None:
        from serving.live import Live  # noqa: PLC0415 (with what verifies packages; only who heals carries it)

        now = time.monotonic()
        if model.sick_since is None:
            model.sick_since = now
            log.warning("%s: %s", name, problem)
        with ExitStack() as held:
            try:
                held.enter_context(Live(self.settings, name).alone(0.0))
            except Unavailable:
                if now - model.sick_since >= LEAVE_S:
                    self._restart(f"{name} is stuck, and has been in another hand for {LEAVE_S:.0f} s")
                return
            if model.patience.allows(now):
                model.patience.tried(now)
                self._reload(Live(self.settings, name), model)

    def _reload(self, live: Live, model: Model) -> None:
        """Load a model beside the one that is stuck. Its files are verified first: the disk may have changed."""
        if model.failed >= FEW or self.reloads >= MANY:
            self._restart(f"{live.name} was loaded anew {model.failed or self.reloads} times")
            return
        self.reloads += 1
        try:
            config = live.as_kept()
            config.setdefault("parameters", {})[HEALED] = {"string_value": str(time.time_ns())}
            self.client.load(live.name, config)
            log.info("%s was loaded anew", live.name)
        except SlipwayError as error:
            model.failed += isinstance(error, Unavailable)  # what cannot be loaded now, a new server cannot load either
            log.error("%s cannot be loaded anew: %s", live.name, error)
        model.looked_at = 0.0

    def _restart(self, reason: str) -> None:
        now = time.monotonic()
        if not self.patience.allows(now):
            return
        self.patience.tried(now)
        log.error("%s: the server is started anew", reason)
        self.supervisor.restart(SERVING)
        self.silent_since = now
        for model in self.models.values():
            model.failed = 0


def main() -> None:
    """Look every second, for as long as the stack is up."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    settings = read_settings()
    with TritonClient(settings.triton_grpc, ASK_S) as client:
        watcher = Watcher(settings, client)
        while True:
            try:
                watcher.look()
            except SlipwayError as error:  # between two looks the server, or the supervisor, has gone
                log.warning("%s", error)
            time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
