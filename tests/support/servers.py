"""Which tests may start a server: those with the mark `stack`. Others fail when they try."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

SERVERS = re.compile(
    r"supervisor\.supervisord|/tritonserver\b|mlflow server\b|dags\.standalone|/gcs_server\b|\bpg_ctl\b|\bmoto_server\b"
)


class ServerGuard:
    """Refuse the start of a server while a test without the mark `stack` runs."""

    def __init__(self) -> None:
        self.test = ""  # the id of the unmarked test that runs
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.test and event == "subprocess.Popen" and (found := SERVERS.search(_command(arguments))):
            raise RuntimeError(f"{self.test} starts {found[0]!r} and has no mark `stack`")


def _command(arguments: tuple[Any, ...]) -> str:
    command = arguments[1]
    return (
        os.fspath(command) if isinstance(command, str | os.PathLike) else " ".join(os.fsdecode(one) for one in command)
    )
