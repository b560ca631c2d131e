"""Wait for a condition of another process or thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

Value = TypeVar("Value")
SECONDS = 60.0  # a limit for what hangs, and no expectation of how long it takes


def wait_for(
    condition: Callable[[], Value],
    what: str | Callable[[], str] = "",
    *,
    seconds: float = SECONDS,
    interval_s: float = 0.05,
) -> Value:
    """Return the first true value of the condition; what it raises is not caught.

    Args:
        condition: is called at least once.
        what: the condition in words, or a function that describes the state, for the message.

    Raises:
        TimeoutError: the condition stays false for `seconds`.
    """
    retrying = Retrying(
        stop=stop_after_delay(seconds), wait=wait_fixed(interval_s), retry=retry_if_result(lambda value: not value)
    )
    try:
        return retrying(condition)
    except RetryError:
        raise TimeoutError(f"after {seconds:g} s: {what() if callable(what) else what}") from None
