"""The goals, and every point that misses one: counted from the figures, whoever they favour."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks.serving.results import (
    GRPC,
    HTTP,
    IN_PROCESS,
    IN_PROCESS_WIDE,
    NATIVE,
    SHARED,
    TREES_GRPC,
    TREES_HTTP,
    Loop,
    Metric,
    Point,
    Results,
    best,
    middle,
    ratios,
)

OURS, TREES, LIMITS = (HTTP, GRPC), (TREES_HTTP, TREES_GRPC), (IN_PROCESS, IN_PROCESS_WIDE)
FROM_BATCH, MOST_TIMES = 128, 2.0  # the goal against ONNX Runtime in the process that asks
NAMES: dict[Metric, str] = {"per_s": "throughput", "p99_ms": "p99"}


def goals(results: Results) -> Iterator[str]:
    """A paragraph with its list of misses for each goal."""
    yield from _peers(
        results, OURS, "Closed loop, Slipway over the network (HTTP or gRPC, whichever answers more there)"
    )
    yield from _peers(results, (SHARED,), "Closed loop, Slipway by shared memory")
    if any(way in TREES for way in results.ways()):
        title = "Closed loop, Slipway over the network by the backend that answers more there, which step tune measures"
        yield from _peers(results, (*OURS, *TREES), title)
        yield from _trees(results)
    yield from _limit(results)
    yield from _open(results)


def counted(number: float, word: str) -> str:
    """A number and its word, in the plural where it is one."""
    return f"{number:g} {word}{'' if number == 1 else 's'}"


def is_peer(way: str) -> bool:
    """Whether it is another server."""
    return way not in (*OURS, SHARED, *TREES, *LIMITS, NATIVE)


def _peers(results: Results, ours: tuple[str, ...], title: str) -> Iterator[str]:
    points, misses = 0, []
    for where, ways in _points(results, "closed"):
        if (mine := best(ways, "per_s", ours.__contains__)) is None:
            misses.append(f"{where}: not measured")
            continue
        points += 1
        for metric in NAMES:
            if theirs := best(ways, metric, is_peer):
                misses += _miss(where, metric, mine, ways[mine], theirs, ways[theirs])
    yield from _told(
        f"{title}: ahead of every peer in throughput and p99 at each of {counted(points, 'point')}",
        points,
        misses,
    )


def _trees(results: Results) -> Iterator[str]:
    """No goal: where each backend answers more, of a spec that declares neither threads nor instances for it."""
    yield "**Trees by XGBoost against the same trees as ONNX, requests a second over HTTP or gRPC, the better of each:**"
    yield ""
    for where, ways in _points(results, "closed"):
        graph, trees = (best(ways, "per_s", each.__contains__) for each in (OURS, TREES))
        if graph and trees:
            yield f"- {where}: {_range(ratios(ways[trees], ways[graph], 'per_s'))} times"
    yield ""


def _limit(results: Results) -> Iterator[str]:
    points, misses = 0, []
    for where, ways in _points(results, "closed"):
        mine, limit = best(ways, "per_s", (*OURS, SHARED).__contains__), best(ways, "per_s", LIMITS.__contains__)
        if mine is None or limit is None or ways[mine][0].batch < FROM_BATCH:
            continue
        points += 1
        times = ratios(ways[limit], ways[mine], "per_s")
        if median(times) > MOST_TIMES:
            misses.append(f"{where}: {limit} answers {_range(times)} times as much as {mine}")
    yield from _told(
        f"Within {MOST_TIMES:g} times of ONNX Runtime in process at {FROM_BATCH} rows and more, {counted(points, 'point')}",
        points,
        misses,
    )


def _open(results: Results) -> Iterator[str]:
    points, misses = 0, []
    for where, ways in _points(results, "open"):
        theirs = best(ways, "p99_ms", is_peer)
        if HTTP not in ways or theirs is None:
            continue
        points += 1
        misses += _miss(where, "p99_ms", HTTP, ways[HTTP], theirs, ways[theirs])
    yield from _told(
        f"Open loop, Slipway over HTTP: a lower p99 than every peer at each of {counted(points, 'rate')}",
        points,
        misses,
    )


def _miss(where: str, metric: Metric, mine: str, ours: list[Point], other: str, theirs: list[Point]) -> list[str]:
    """One line when the median ratio is on the wrong side of 1."""
    found = ratios(ours, theirs, metric)
    behind = median(found) < 1 if metric == "per_s" else median(found) > 1
    figures = f"{middle(ours, metric):,.4g} against {middle(theirs, metric):,.4g} of {other}"
    unit = " ms" if metric == "p99_ms" else " a second"
    return [f"{where}: {NAMES[metric]} of {mine} {figures}{unit}, {_range(found)} times"] if behind else []


def _told(goal: str, points: int, misses: list[str]) -> Iterator[str]:
    verdict = f"missed {counted(len(misses), 'time')}" if misses else "met" if points else "not measured"
    yield f"**{goal}: {verdict}.**"
    yield ""
    if misses:
        yield from (f"- {miss}" for miss in misses)
        yield ""


def _points(results: Results, loop: Loop) -> Iterator[tuple[str, dict[str, list[Point]]]]:
    """Each point of the grid in words, and the ways there."""
    for batch in results.batches(loop):
        for at in results.places(loop, batch):
            what = counted(at, "client") if loop == "closed" else f"{at:g} due a second"
            yield f"{counted(batch, 'row')}, {what}", results.of(loop, batch, at)


def _range(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
