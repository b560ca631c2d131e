"""The measurements as a page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from statistics import median

from benchmarks.serving.goals import counted, goals
from benchmarks.serving.results import Loop, Point, Results, middle

WIDTH = 120
WHAT = """One model, {model}, of 30 numeric columns, fitted and exported to ONNX by Slipway, answers the same rows everywhere.
Slipway is the embedded Triton with the repository that a package has, an instance for each core. Every server has
{workers} workers or processes where it has such a setting, and uses one thread for an inference. Before anything is timed each way's
answer is compared with ONNX Runtime's in this process, and afterwards again. All servers are up at once and are measured in turn;
the load generators share the cores with them."""
CLOSED = """Each client asks again once it is answered, {seconds:g} s at a point after a warm-up, up to 6 s where answers are slow; over
gRPC as many requests as take that long, for Triton 2.51 dies of gRPC requests that are abandoned at the end. One
generator asks all servers, over HTTP/1.1 and over gRPC: h2load, with the bytes of one request, so no client library is
measured; of one core it used {generator:.0%} at most ({median:.0%} in the median). In process, threads of one Python ask. Requests
a second as median (range) of the repeats; p50 and p99 in milliseconds, medians."""
OPEN = """Requests are due at a rate, one after the other, and each one's time counts from when it was
due, sent or not. The generator is the one of Slipway's latency gate, with 32 connections over HTTP/1.1 (so no gRPC); of
one core it used {generator:.0%} at most. The rates are shares of Slipway's closed-loop pace over HTTP. p50 / p99 in milliseconds,
medians; in brackets the share of requests that was not answered in time. A way with a p99 beyond a second is offered no higher rate."""


def report(results: Results) -> str:
    """The page, as Markdown."""
    about = results.about
    return "\n".join(
        [
            "# Serving",
            "",
            *_text(WHAT.format(**about)),
            "",
            *_text(f"{about['machine']}."),
            "",
            *goals(results),
            *(f"Failed: {name}: {why}\n" for name, why in results.failures.items()),
            "![throughput by clients, and p99 by rate](results.svg)",
            "",
            "## Closed loop",
            "",
            *_text(CLOSED.format(**about, **_generator(results, "closed"))),
            "",
            *(line for batch in results.batches("closed") for line in _closed(results, batch)),
            "## Open loop",
            "",
            *_text(OPEN.format(**_generator(results, "open"))),
            "",
            *(line for batch in results.batches("open") for line in _open(results, batch)),
            "## Memory",
            "",
            "Proportional set size: of all processes of a server after the closed loop; of the process that asks, in process.",
            "",
            "| | MiB |",
            "|---|---|",
            *(f"| {name} | {mib:.0f} |" for name, mib in results.memory_mib.items()),
            "",
        ]
    )


def _closed(results: Results, batch: int) -> Iterator[str]:
    places = results.places("closed", batch)
    yield f"### {counted(batch, 'row')} a request"
    yield ""
    yield "| |" + "".join(f" {counted(at, 'client')}: a second | p50 | p99 |" for at in places)
    yield "|---|" + "---|---|---|" * len(places)
    found = [results.of("closed", batch, at) for at in places]
    errors = {
        (point.way, point.at): point.error
        for point in results.points
        if point.loop == "closed" and point.batch == batch
    }
    for way in results.ways():
        cells = [
            _figures(ways[way]) if way in ways else f" {errors.get((way, at), '-')} | | |"
            for at, ways in zip(places, found, strict=True)
        ]
        yield f"| {way} |" + "".join(cells)
    yield ""


def _figures(points: list[Point]) -> str:
    paces = [point.per_s for point in points]
    failed = sum(point.failed for point in points)
    pace = f"{middle(points, 'per_s'):,.0f} ({min(paces):,.0f}-{max(paces):,.0f})" + (
        f", {failed} failed" if failed else ""
    )
    return f" {pace} | {middle(points, 'p50_ms'):.2f} | {middle(points, 'p99_ms'):.2f} |"


def _open(results: Results, batch: int) -> Iterator[str]:
    places = results.places("open", batch)
    yield f"### {counted(batch, 'row')} a request, due a second"
    yield ""
    yield "| |" + "".join(f" {at:g} |" for at in places)
    yield "|---|" + "---|" * len(places)
    found = [results.of("open", batch, at) for at in places]
    for way in results.ways():
        if any(way in ways for ways in found):
            yield f"| {way} |" + "".join(f" {_waits(ways[way])} |" if way in ways else " - |" for ways in found)
    yield ""


def _waits(points: list[Point]) -> str:
    failed = sum(point.failed for point in points) / max(sum(point.requests for point in points), 1)
    return f"{middle(points, 'p50_ms'):.2f} / {middle(points, 'p99_ms'):.2f}" + (f" ({failed:.1%})" if failed else "")


def _generator(results: Results, loop: Loop) -> dict[str, float]:
    shares = [point.generator for point in results.points if point.loop == loop and point.generator] or [0.0]
    return {"generator": max(shares), "median": median(shares)}


def _text(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH)
