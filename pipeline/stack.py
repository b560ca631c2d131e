"""The embedded stack: MLflow, Airflow and Triton on this machine, started together, stopped together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pkgutil import resolve_name

from pipeline.errors import Invalid, Problem, SlipwayError, Unavailable
from pipeline.ports import require_free
from pipeline.program import Program
from pipeline.programs import airflow_credentials
from pipeline.settings import Settings
from pipeline.supervisor import ALIVE, Supervisor, answers

PROGRAMS = {  # by dotted string: the kernel imports no room
    "mlflow": "pipeline.programs:mlflow",
    "airflow": "pipeline.programs:airflow",
    "triton": "serving.server:program",
}
COMPANIONS = {"triton": "serving.watch:program"}  # what is started beside a part, and ends with the stack


@dataclass(frozen=True)
class Part:
    """A part of the stack as it is now: `state` is running, stopped, external, or supervisor's own word."""

    name: str
    state: str
    address: str
    healthy: bool
    note: str = ""


def up(
    settings: Settings, names: Sequence[str] | None = None, progress: Callable[[str], None] = lambda _: None
) -> tuple[Part, ...]:
    """Start parts of the stack (default: all) side by side and return once they are ready; what runs is left alone.

    `progress` is told in a sentence what is waited for, from any thread.
    Raises:
        Invalid: unknown parts; ports in use (nothing was started). A retry does not help.
        Unavailable: a part did not start; the others stay up. A retry may help.
    """
    chosen = _chosen(settings, names)
    supervisor = Supervisor(settings)
    supervisor.clear()
    states = supervisor.states()
    require_free(settings, [program for program in chosen if states.get(program.name) not in ALIVE])
    waiting = [program.name for program in chosen]

    def start(program: Program) -> SlipwayError | None:
        try:
            supervisor.start(program)
        except SlipwayError as error:
            return error
        waiting.remove(program.name)
        progress(f"waiting for {', '.join(waiting)}" if waiting else "the stack is up")
        return None

    progress(f"starting {', '.join(waiting)}")
    with ThreadPoolExecutor(max_workers=len(chosen) or 1) as threads:
        try:
            failures = [failure for failure in threads.map(start, chosen) if failure is not None]
        except BaseException:
            supervisor.cancelled.set()
            raise
    if failures:
        kind = Invalid if all(isinstance(failure, Invalid) for failure in failures) else Unavailable
        raise kind([problem for failure in failures for problem in failure.problems])
    return tuple(part for part in status(settings) if names is None or part.name in names)


def down(settings: Settings) -> tuple[str, ...]:
    """End every process that the stack has started, challengers and orphans too; what was ended, in words."""
    return Supervisor(settings).stop_all()


def status(settings: Settings) -> tuple[Part, ...]:
    """Every part of the stack, then the programs that runs have started; asks, changes nothing."""
    supervisor = Supervisor(settings)
    states = supervisor.states()
    addresses = {
        "mlflow": settings.mlflow_uri,
        "airflow": settings.airflow_url,
        "triton": f"http://{settings.triton_http}",
    }
    parts = []
    for name, address in addresses.items():
        external = _is_external(settings, name)
        state = "external" if external else states.get(name, "STOPPED").lower()
        healthy = state != "stopped" and answers(_ready_url(settings, name))
        if healthy and not external:
            state = "running"  # supervisor says "starting" for a second longer
        note = ""
        if external:
            note = f"SLIPWAY_{'MLFLOW_URI' if name == 'mlflow' else 'AIRFLOW_URL'}"
        elif state != "stopped" and not healthy:
            note = f"log: {supervisor.log(name)}"
        elif healthy and name == "airflow":
            note = "user {}, password {}".format(*airflow_credentials(settings))
        parts.append(Part(name, state, address, healthy, note))
    dynamic = [
        Part(name, state.lower(), "", state in ("STARTING", "RUNNING"), f"log: {supervisor.log(name)}")
        for name, state in sorted(states.items())
        if name not in addresses
    ]
    return (*parts, *dynamic)


def _chosen(settings: Settings, names: Sequence[str] | None) -> list[Program]:
    wanted = tuple(PROGRAMS) if names is None else tuple(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in PROGRAMS]
    if unknown:
        raise Invalid(
            [Problem(f"there is no part {name!r}", "stack", f"parts: {', '.join(PROGRAMS)}") for name in unknown]
        )
    here = [name for name in wanted if not _is_external(settings, name)]
    places = [PROGRAMS[name] for name in here] + [COMPANIONS[name] for name in here if name in COMPANIONS]
    return [_program(settings, place) for place in places]


def _program(settings: Settings, place: str) -> Program:
    program: Program = resolve_name(place)(settings)
    return program


def _is_external(settings: Settings, name: str) -> bool:
    """Whether the settings name a server elsewhere, so that none is started here."""
    places = {
        "mlflow": (settings.mlflow_uri, settings.mlflow_port),
        "airflow": (settings.airflow_url, settings.airflow_port),
    }
    uri, port = places.get(name, ("", 0))
    return bool(uri) and uri.rstrip("/") != f"http://{settings.address}:{port}"


def _ready_url(settings: Settings, name: str) -> str:
    if name == "mlflow":
        return f"{settings.mlflow_uri.rstrip('/')}/health"
    if name == "airflow" and _is_external(settings, name):
        return f"{settings.airflow_url.rstrip('/')}/api/v2/monitor/health"
    return _program(settings, PROGRAMS[name]).ready_url
