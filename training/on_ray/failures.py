"""What a failure on a Ray cluster comes to: our own errors as they are, all else as the outside world's."""

from __future__ import annotations

from typing import NoReturn

from pipeline.errors import SlipwayError, Unavailable

LOST = 3  # workers of a trial, or times that workers of a fit may be lost, before it is given up


def raise_from(error: BaseException, what: str) -> NoReturn:
    """Raise what `error` of a worker means.

    Raises:
        Invalid: a worker has said so. A retry does not help.
        Unavailable: else: a worker was lost more often than `LOST`, or the cluster failed. A retry helps.
    """
    for cause in (
        error,
        error.__cause__,
        getattr(error, "cause", None),
        *getattr(error, "worker_failures", {}).values(),
    ):
        if isinstance(cause, SlipwayError):
            raise cause
        if isinstance(inner := getattr(cause, "cause", None), SlipwayError):
            raise inner
    said = [line for line in str(error).splitlines() if line.strip()]
    raise Unavailable(
        f"{what} failed on Ray: {said[-1].strip() if said else type(error).__name__}", "engine", "run again"
    ) from error
