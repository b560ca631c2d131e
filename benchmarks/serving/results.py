"""One measurement; all of them, written to a file as they are made; and what they say of a way at a point."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

HTTP, GRPC, SHARED = "Slipway, HTTP", "Slipway, gRPC", "Slipway, shared memory"
TREES_HTTP, TREES_GRPC = "Slipway, HTTP, trees by XGBoost", "Slipway, gRPC, trees by XGBoost"
IN_PROCESS, IN_PROCESS_WIDE = "ONNX Runtime in process", "ONNX Runtime in process, a thread a core"
NATIVE = "XGBoost inplace_predict in process"
ORDER = (HTTP, GRPC, SHARED, TREES_HTTP, TREES_GRPC, IN_PROCESS, IN_PROCESS_WIDE, NATIVE)
Loop = Literal["closed", "open"]
Metric = Literal["per_s", "p50_ms", "p99_ms"]


@dataclass(frozen=True)
class Point:
    """A way at one point of the grid: so many rows a request, from so many clients, in the open loop due at a rate.

    `per_s` are answered requests. `generator` is the share of one core that the load generator used. `error` says why
    there are no figures.
    """

    loop: Loop
    way: str
    batch: int
    clients: int
    rate_per_s: float  # 0 in the closed loop
    repeat: int
    requests: int = 0
    failed: int = 0
    per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    generator: float = 0.0
    error: str = ""

    @property
    def at(self) -> float:
        """Where it lies in its loop: clients in the closed one, the rate in the open one."""
        return self.rate_per_s or self.clients


@dataclass
class Results:
    """What was measured so far, in the order of the way's first point; `about` says on what."""

    path: Path
    about: dict[str, Any]
    points: list[Point] = field(default_factory=list)
    memory_mib: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # of a whole way

    def add(self, point: Point) -> None:
        """Keep it, and write all."""
        self.points.append(point)
        self.write()

    def write(self) -> None:
        """Everything as JSON."""
        value = {**self.about, "memory_mib": self.memory_mib, "failures": self.failures}
        value["points"] = [asdict(point) for point in self.points]
        self.path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    def of(self, loop: Loop, batch: int, at: float) -> dict[str, list[Point]]:
        """The repeats of each way that gave figures there."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            if (point.loop, point.batch, point.at) == (loop, batch, at) and not point.error:
                found.setdefault(point.way, []).append(point)
        return found

    def batches(self, loop: Loop) -> list[int]:
        """Ascending."""
        return sorted({point.batch for point in self.points if point.loop == loop})

    def places(self, loop: Loop, batch: int) -> list[float]:
        """Clients or rates, ascending."""
        return sorted({point.at for point in self.points if (point.loop, point.batch) == (loop, batch)})

    def ways(self) -> list[str]:
        """All that were measured, in order of their names in the page."""
        found = dict.fromkeys(point.way for point in self.points)
        return sorted(found, key=lambda way: (*ORDER, way).index(way))

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote."""
        value = json.loads(path.read_text(encoding="utf-8"))
        points = [Point(**point) for point in value.pop("points")]
        memory, failures = value.pop("memory_mib"), value.pop("failures")
        return cls(path, value, points, memory, failures)


def middle(points: Sequence[Point], metric: Metric) -> float:
    """Median over the repeats."""
    return median(getattr(point, metric) for point in points)


def best(ways: dict[str, list[Point]], metric: Metric, among: Callable[[str], bool]) -> str | None:
    """The way with the best median: the most a second, or the fewest milliseconds."""
    sign = -1 if metric == "per_s" else 1
    return min((way for way in ways if among(way)), key=lambda way: sign * middle(ways[way], metric), default=None)


def ratios(ours: Sequence[Point], theirs: Sequence[Point], metric: Metric) -> list[float]:
    """Ours to theirs, repeat by repeat."""
    other = {point.repeat: getattr(point, metric) for point in theirs}
    return [getattr(point, metric) / other[point.repeat] for point in ours if other.get(point.repeat)]


def percentiles_ms(took_ms: npt.NDArray[np.float64]) -> dict[str, float]:
    """Median and 99th percentile of (requests,) milliseconds, as a Point names them."""
    p50, p99 = np.percentile(took_ms, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99)}
