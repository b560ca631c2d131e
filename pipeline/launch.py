"""Becomes a program of the stack: reads its JSON file and executes it, so that no value passes through an ini file.

Run as a file by the supervisor, with nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

STARTED = "=== started by slipway ==="  # a line of the log for each start, so that one end is not mixed with the next


def main(file: str) -> None:
    """Replace this process by the program that `file` describes. Exits with 127 when it cannot be executed."""
    program = json.loads(Path(file).read_text(encoding="utf-8"))
    sys.stderr.write(f"{STARTED}\n")
    sys.stderr.flush()
    environment = os.environ | program["env"]
    for name in ("NO_PROXY", "no_proxy"):  # the servers of the stack talk to each other, never through a proxy
        environment[name] = ",".join(filter(None, (environment.get(name), program["host"], "localhost")))
    try:
        if program["cwd"]:
            os.chdir(program["cwd"])
        os.execvpe(program["argv"][0], program["argv"], environment)  # noqa: S606 (the argv of our own Program)
    except OSError as error:
        sys.stderr.write(f"{program['argv'][0]} cannot be executed: {error}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1])
