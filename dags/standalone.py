"""All of Airflow in one process tree: `airflow standalone`, but imported once and forked: it starts three times faster.

Unlike `airflow standalone` it serves no logs on all interfaces, ends as a whole when one component ends, and begins by
clearing up after one that was killed: what its tasks had begun is begun again at once, however many retries they have.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType

from sqlalchemy import update

from pipeline.settings import MARK
from pipeline.sweep import sweep

COMPONENTS = (
    ("api-server",),
    ("scheduler", "--skip-serve-logs"),
    ("dag-processor",),
    ("triggerer", "--skip-serve-logs"),
)
PRELOADED = (
    "airflow.__main__",
    "airflow.utils.db",
    "airflow.jobs.dag_processor_job_runner",
    "airflow.jobs.scheduler_job_runner",
    "airflow.jobs.triggerer_job_runner",
)
GRACE_S = 5.0


def main() -> None:
    """Prepare the database, become each component in a process of its own, and stay until one of them ends."""
    os.environ["AIRFLOW_API_APPS"] = "all"
    os.umask(0o077)
    if home := os.environ.get(MARK):
        sweep(Path(home), gently=False)  # an api-server would keep the port, a step would go on beside its second try
    for module in PRELOADED:
        import_module(module)
    gc.freeze()
    migrated, tell = os.pipe()
    component = _fork(COMPONENTS[:1])
    if component is None:
        import_module("airflow.utils.db").initdb()
        _bury_jobs()
        component = _fork(COMPONENTS[1:])
    else:
        import_module("airflow.api_fastapi.main")  # takes seconds, beside the migration
        os.close(tell)
        os.read(migrated, 1)  # ends when the other end is closed
    if component is None:
        os.close(tell)
        _wait()
    else:
        with suppress(OSError):
            os.close(tell)
        sys.argv = ["airflow", *component]
        import_module("airflow.__main__").main()


def _bury_jobs() -> None:
    """Whoever is recorded as running is dead: the scheduler need not wait for minutes of silence to be sure of it."""
    job = import_module("airflow.jobs.job")
    with import_module("airflow.utils.session").create_session() as session:
        session.execute(update(job.Job).where(job.Job.state == job.JobState.RUNNING).values(state=job.JobState.FAILED))


def _fork(components: tuple[tuple[str, ...], ...]) -> tuple[str, ...] | None:
    """A process for each component: returns its arguments there, None in the parent."""
    for component in components:
        if os.fork() == 0:
            return component
    return None


def _wait() -> None:
    """Until a component ends or SIGTERM comes; then every process of the group ends."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        _, status = os.wait()
        # no SIGTERM for the others: it would go on to the tasks, which would tell the api-server that they have failed
        sys.stderr.write(f"an Airflow component ended with status {status}: ending the others\n")
    except SystemExit:  # SIGTERM came to the whole group: a second one would end the components rudely
        deadline = time.monotonic() + GRACE_S
        with suppress(ChildProcessError):  # no child is left
            while time.monotonic() < deadline:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    time.sleep(0.1)
    finally:
        os.killpg(0, signal.SIGKILL)  # what the components have started, and this process


if __name__ == "__main__":
    main()
