"""A Ray cluster for as long as a fit takes: processes of this machine that listen on loopback, or one that is there."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from pipeline.engine import Ray
from pipeline.errors import Invalid, Unavailable
from pipeline.settings import Settings
from pipeline.sweep import mark, sweep

OBJECT_STORE = 512 * 2**20  # bytes of shared memory; what is more goes to disk
SPARE = 1  # a worker's core more, in Ray's books alone: rows are read while the workers wait for them


@contextmanager
def cluster(engine: Ray, settings: Settings) -> Iterator[None]:
    """Connect this process to a Ray cluster; one that was started for it ends with it, however that comes.

    Raises:
        Invalid: Ray is not installed. A retry does not help.
        Unavailable: there is no cluster at that address, or none could be started. A retry helps.
    """
    with ExitStack() as stack:
        address = settings.ray_address
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-ray-", ignore_cleanup_errors=True))
        )
        home = settings.home / "ray" / folder.name  # below the stack's: `slipway down` finds what a killed step left
        stack.enter_context(_environment(_quiet() if address else _quiet() | _loopback() | mark(home)))
        try:
            import ray  # noqa: PLC0415 (an extra; it reads the environment when it is imported)
        except ImportError as error:
            raise Invalid("Ray is not installed", "candidates.engine", "pip install '.[ray]'") from error
        if not address:
            stack.callback(sweep, home)
        stack.callback(ray.shutdown)
        started = {
            "num_cpus": engine.workers * (engine.cpus_per_worker + SPARE),
            "num_gpus": engine.workers * engine.gpus_per_worker,
            "object_store_memory": OBJECT_STORE,
            "include_dashboard": False,
            "_temp_dir": str(folder),
        }
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else started),
            )
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:
            remedy = "look at the cluster" if address else "look at the machine's memory and /dev/shm"
            raise Unavailable(
                f"no Ray cluster: {str(error).splitlines()[0]}", address or "this machine", remedy
            ) from error
        yield


def _quiet() -> dict[str, str]:
    """Ray tells nobody of its use, prints nothing, and hears of a checkpoint at once."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }


def _loopback() -> dict[str, str]:
    """Ray's servers listen on loopback and ask for a token that this cluster alone knows; so do torch's."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # where it is 0, Ray takes 127.0.0.1 for its address
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _token(),
        "RAY_prestart_worker_first_driver": "0",  # no process before it is needed
        "GLOO_SOCKET_IFNAME": "lo",
    }


@cache
def _token() -> str:
    """One for all clusters of this process: Ray reads it once."""
    return secrets.token_hex(32)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """This process's environment, which Ray's processes inherit, with these values for the while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
