"""A server of the embedded stack, as data: what to start, when it is ready, how it stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Program:
    """One long-running process that the stack's supervisor keeps alive.

    `ports` are checked to be free before the start; `ready_url` answers 200 once it serves.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)  # label (the setting's name) -> port
    ready_url: str = ""
    ready_timeout_s: float = 90.0
    stop_signal: Literal["TERM", "KILL"] = "TERM"
    stop_timeout_s: float = 20.0
    cwd: str = ""
    prepare: Callable[[], None] | None = None  # runs once before the first start (a migration, a folder)
