"""Closed loop: each client asks again once it is answered. h2load asks the servers; in process, threads ask the library."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.serving.model import Floats
from benchmarks.serving.results import Point, percentiles_ms
from benchmarks.serving.wires import PREFIX, Request

WARM_UP_S, LONGEST_S, GRACE_S, PATIENCE_S = 0.3, 6.0, 3.0, 30.0
ROUNDS = 4  # of answers to each client, for which a slow server gets more seconds
STATUSES = (200, 0)  # 0: answered too, across the end of the warm-up
IN_PROCESS = Path(__file__).with_name("in_process.py")


@dataclass(frozen=True)
class Asked:
    """A request that was answered rightly: the bytes of its answer, and milliseconds of one with nothing beside it."""

    request: Request
    answer_bytes: int
    alone_ms: float


@dataclass(frozen=True)
class InProcess:
    """A library in the process that asks it, which is what no server can be faster than; `threads` of one inference."""

    engine: str
    model: Path
    threads: int


class Failed(Exception):
    """A measurement that gave no figures."""


def check(request: Request, expected: Floats) -> Asked:
    """Ask once and compare, then a few times alone. Raises Failed when the answer is another one."""
    headers, body = request.exchange()
    answer = request.read(headers, body)
    if answer.shape != expected.shape or not np.allclose(answer, expected, rtol=1e-4, atol=1e-5):
        raise Failed(f"another answer: {answer[:1]} for {expected[:1]}, of shape {answer.shape}")
    lines, _ = _h2load(request, ["--requests=8", "--clients=1"], PATIENCE_S)
    return Asked(request, len(body), float(np.median(lines[:, 2])) / 1000)


def served(point: Point, asked: Asked, seconds: float) -> Point:
    """Ask a server for so many seconds; a slow one gets up to LONGEST_S. Raises Failed."""
    if asked.request.http2:
        return _counted(point, asked, seconds)
    seconds = min(max(seconds, ROUNDS * point.clients * asked.alone_ms / 1000), LONGEST_S)
    warm_up = max(WARM_UP_S, min(point.clients * asked.alone_ms / 1000, seconds / 2))
    options = [
        f"--duration={seconds * 1000:.0f}ms",
        f"--warm-up-time={warm_up * 1000:.0f}ms",
        f"--clients={point.clients}",
    ]
    before = os.times()
    lines, _ = _h2load(asked.request, options, warm_up + seconds + GRACE_S)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    answered = np.isin(lines[:, 1], STATUSES)
    if not answered.any():
        raise Failed(f"no answer in {seconds:.1f} s")
    return replace(
        point,
        requests=len(lines),
        failed=int((~answered).sum()),
        per_s=float(answered.sum()) / seconds,
        generator=used / (seconds + warm_up),
        **percentiles_ms(lines[answered, 2] / 1000),
    )


def _counted(point: Point, asked: Asked, seconds: float) -> Point:
    """As many requests as take so many seconds, each awaited: some servers die of a gRPC request that is abandoned.

    Triton 2.51 does (triton-inference-server/server 7368, 8034), and at the end of a time h2load abandons what is
    under way.
    """

    def ask(count: int) -> tuple[npt.NDArray[np.float64], str, float]:
        options = [f"--requests={count}", f"--clients={point.clients}"]
        lines, said = _h2load(asked.request, options, LONGEST_S + PATIENCE_S)
        if not len(lines):
            raise Failed("no answer")
        return lines, said, (np.max(lines[:, 0] + lines[:, 2]) - np.min(lines[:, 0])) / 1e6

    least = ROUNDS * point.clients
    lines, _, took_s = ask(least)
    for pace_s in (WARM_UP_S, seconds):  # the first few are slower than those that follow
        before = os.times()
        lines, said, took_s = ask(max(least, int(min(pace_s, LONGEST_S) * len(lines) / took_s)))
        after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    failed = int((lines[:, 1] != STATUSES[0]).sum())
    if found := re.search(r"headers \(space[^)]*\), \S+ \((\d+)\) data", said):
        # a failure of gRPC has status 200 and no data
        failed = max(failed, len(lines) - int(found[1]) // (asked.answer_bytes + PREFIX))
    return replace(
        point,
        requests=len(lines),
        failed=failed,
        per_s=(len(lines) - failed) / took_s,
        generator=used / took_s,
        **percentiles_ms(lines[:, 2] / 1000),
    )


def in_process(point: Point, library: InProcess, rows: Floats, seconds: float) -> tuple[Point, float]:
    """Ask a library in a process of its own; the point, and MiB of that process. Raises Failed."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, rows)
        file.flush()
        arguments = [library.engine, library.model, file.name, point.clients, seconds, library.threads]
        command = [sys.executable, str(IN_PROCESS), *map(str, arguments)]
        env = {**os.environ, "OMP_NUM_THREADS": str(library.threads)}
        limit_s = seconds + PATIENCE_S
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit_s, env=env)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"no figures within {limit_s:.0f} s") from error
    if done.returncode:
        raise Failed(done.stderr.strip()[-200:])
    said = json.loads(done.stdout)
    found = {name: said[name] for name in ("requests", "per_s", "p50_ms", "p99_ms")}
    return replace(point, **found), said["memory_mib"]


def _h2load(request: Request, options: Sequence[str], limit_s: float) -> tuple[npt.NDArray[np.float64], str]:
    """(requests, 3): start in microseconds, status, microseconds to the end of the response; and what h2load prints."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        body, log, said = Path(scratch) / "body", Path(scratch) / "log", ""
        body.write_bytes(request.body)
        command = ["h2load", *options, f"--data={body}", f"--log-file={log}", *([] if request.http2 else ["--h1"])]
        command += [f"--header={name}: {value}" for name, value in request.headers.items()]
        with suppress(subprocess.TimeoutExpired):  # at times it goes on when its time is over: what it noted is whole
            done = subprocess.run([*command, request.url], check=False, capture_output=True, text=True, timeout=limit_s)
            if done.returncode:
                raise Failed(f"h2load: {done.stderr.strip()[-200:]}")
            said = done.stdout
        lines = np.loadtxt(log, ndmin=2) if log.is_file() and log.stat().st_size else np.empty((0, 3))
    return lines, said
