"""The measurements as a plot."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.serving.results import (
    GRPC,
    HTTP,
    IN_PROCESS,
    IN_PROCESS_WIDE,
    NATIVE,
    SHARED,
    Loop,
    Metric,
    Results,
    middle,
)

KNOWN = {
    HTTP: "#1d4ed8",
    GRPC: "#0ea5e9",
    SHARED: "#7c3aed",
    IN_PROCESS: "#111827",
    IN_PROCESS_WIDE: "#6b7280",
    NATIVE: "#9ca3af",
}
PEERS = ("#dc2626", "#f97316", "#ca8a04", "#65a30d", "#059669", "#be185d", "#92400e", "#f472b6", "#14b8a6")


def plot(results: Results) -> Figure:
    """Above, rows answered a second by clients; below, p99 by the rate at which requests are due; a column a batch."""
    batches = results.batches("closed")
    figure = Figure(figsize=(2.9 * len(batches) + 3, 6.5), layout="constrained")
    axes = figure.subplots(2, len(batches), squeeze=False)
    for column, batch in enumerate(batches):
        above, below = axes[0][column], axes[1][column]
        _lines(above, results, "closed", batch, "per_s", batch)
        _lines(below, results, "open", batch, "p99_ms", 1)
        above.set_title(f"{batch} row{'s' if batch > 1 else ''} a request")
        above.set_xticks(results.places("closed", batch), [f"{at:g}" for at in results.places("closed", batch)])
        above.set_xlabel("clients")
        below.set_xlabel("requests due a second")
    axes[0][0].set_ylabel("rows answered a second")
    axes[1][0].set_ylabel("p99, ms")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _lines(axes: Axes, results: Results, loop: Loop, batch: int, metric: Metric, times: int) -> None:
    """A line a way through its medians; both scales are logarithmic."""
    places = results.places(loop, batch)
    found = {at: results.of(loop, batch, at) for at in places}
    peers = iter(PEERS)
    for way in results.ways():
        colour = KNOWN.get(way) or next(peers, "#000000")
        at = [place for place in places if way in found[place]]
        style = "--" if "in process" in way else "-"
        axes.plot(
            at,
            [middle(found[place][way], metric) * times for place in at],
            style,
            marker="o",
            ms=3,
            lw=1.3,
            color=colour,
            label=way,
        )
    if any(found.values()):  # nothing has no logarithm
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
