"""Plots of a gates' report, drawn from its numbers and tables alone: any report, of any run, can be drawn again.

`plots(report)` gives each as an SVG by name. They stand alone as files (on white), and inside an HTML page that defines
the custom properties of `serving.gate_style.INKS` they take the page's colours, dark ones too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from matplotlib.figure import Figure

from pipeline.refs import GateReport, Table, Verdict
from serving.gate_style import (
    BAD,
    BLUE,
    FAINT,
    GOOD,
    GROUND,
    INK,
    ORANGE,
    SOFT,
    WIDTH,
    canvas,
    done,
    legend,
    mark,
    milliseconds,
    short,
    style,
    svg,
)

GROUPS = 40  # groups that are drawn
Draw = Callable[[Verdict], Figure | None]
Rows = list[dict[str, float | str | None]]


def plots(report: GateReport) -> dict[str, str]:
    """Name -> SVG of every plot that the report holds numbers for: champion, slices, calibration, …; for pages, cards.

    A gate that was refused before it measured anything has none.
    """
    return dict(_drawn(report.model_dump_json()))


@lru_cache(maxsize=1)  # in one process, the cards of a promotion show what the gates' page has shown
def _drawn(report: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for verdict in GateReport.model_validate_json(report).verdicts:
        for name, draw in DRAWN.get(verdict.gate, {}).items():
            if (figure := draw(verdict)) is not None:
                found[name] = svg(figure, name, f"gate {verdict.gate}: {verdict.reason}")
    return found


def champion(verdict: Verdict) -> Figure | None:
    """The gain's bootstrap distribution and interval, between no gain and the margin."""
    gains, numbers = _rows(verdict, "gains"), verdict.numbers
    if not gains or not {"gain", "gain_low", "gain_high"} <= set(numbers):
        return None
    figure, axes = canvas(2.9)
    left = [_number(row, "from") for row in gains]
    width = [_number(row, "to") - start for row, start in zip(gains, left, strict=True)]
    share = [_number(row, "share of resamples") for row in gains]
    axes.bar(left, share, width=width, align="edge", color=BLUE, alpha=0.25)
    top = max(share) * 1.18 or 1
    colour = _colour(verdict)
    axes.plot([numbers["gain_low"], numbers["gain_high"]], [top, top], color=colour, linewidth=3, solid_capstyle="butt")
    axes.plot(numbers["gain"], top, "o", color=colour, markersize=8)
    axes.axvline(0, color=SOFT, linewidth=1)
    mark(axes, verdict.bound, "margin")
    axes.set_ylim(0, top * 1.15)
    axes.set_yticks([])
    title = (
        f"Gain over the champion: {numbers['gain']:+.4f} ({numbers['gain_low']:+.4f} to {numbers['gain_high']:+.4f})"
    )
    return done(figure, axes, title, "gain in the primary metric (right of nought is better)", "")


def calibration(verdict: Verdict) -> Figure | None:
    """What was predicted against what happened: on the diagonal where it is exact, a dot the larger the more rows."""
    rows, happened = _rows(verdict, "reliability"), "observed share"
    if not rows:
        rows, happened = _rows(verdict, "deciles"), "mean observed"
    if not rows:
        return None
    said, seen = ([_number(row, name) for row in rows] for name in ("mean predicted", happened))
    count = [_number(row, "rows") for row in rows]
    figure, axes = canvas(4.2)
    ends = [min(*said, *seen), max(*said, *seen)] if happened == "mean observed" else [0.0, 1.0]
    axes.plot(ends, ends, color=FAINT, linewidth=1.2, linestyle="--")
    axes.plot(said, seen, color=_colour(verdict), linewidth=1.5)
    axes.scatter(said, seen, s=[20 + 220 * one / max(*count, 1) for one in count], color=_colour(verdict), alpha=0.75)
    names = {"ece": "expected error {:.4f}", "error": "mean error {:+.4f}"}
    told = next((text.format(verdict.numbers[name]) for name, text in names.items() if name in verdict.numbers), "")
    return done(figure, axes, f"Calibration: {told}", "mean predicted", happened)


def robustness(verdict: Verdict) -> Figure | None:
    """Each probe's mean change, and each direction's share of rows, against its bound."""
    rows = _rows(verdict, "probes")
    changes = [row for row in rows if row.get("share kept") is None]
    kept = [row for row in rows if row.get("share kept") is not None]
    panels = [
        (some, key, label)
        for some, key, label in (
            (changes, "mean change", "mean change of the answer (line: allowed)"),
            (kept, "share kept", "share of rows that follow the direction (line: asked)"),
        )
        if some
    ]
    if not panels:
        return None
    heights = [0.9 + 0.34 * len(some) for some, _, _ in panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    for axes, (some, key, label) in zip(
        figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0], panels, strict=True
    ):
        for at, row in enumerate(reversed(some)):
            colour = GOOD if row["verdict"] == "held" else BAD
            axes.barh(at, _number(row, key), height=0.5, color=colour, alpha=0.75)
            bound = _number(row, "bound")
            if row[key] is None:
                axes.text(0, at, " answers that are none", color=BAD, fontsize=8, va="center")
            axes.plot([bound, bound], [at - 0.38, at + 0.38], color=INK, linewidth=2)
        axes.set_yticks(range(len(some)), [short(str(row["probe"])) for row in reversed(some)])
        style(axes, "", label, "")
        axes.grid(visible=False, axis="y")
    figure.suptitle("Small changes of the input", x=0.01, ha="left", color=INK, fontweight="bold", fontsize=11)
    return figure


def slices(verdict: Verdict) -> Figure | None:
    """The primary metric of each group with its interval; hollow where a group has too few rows to be judged."""
    rows = [row for row in _rows(verdict, "slices") if row["metric"] is not None]
    if not rows:
        return None
    first = sorted(range(len(rows)), key=lambda at: not _broken(rows[at]))[:GROUPS]  # what is broken is never cut off
    shown = [rows[at] for at in sorted(first)]
    figure, axes = canvas(1.1 + 0.26 * max(len(shown), 3))
    for at, row in enumerate(reversed(shown)):
        judged = row["low"] is not None
        colour = BAD if _broken(row) else BLUE if judged else SOFT
        if judged:
            axes.plot([_number(row, "low"), _number(row, "high")], [at, at], color=colour, linewidth=1.8)
        inside = colour if judged else GROUND
        axes.plot(_number(row, "metric"), at, "o", color=colour, markersize=6, markerfacecolor=inside)
    labels = [short(f"{row['column']}: {row['group']}  ({_number(row, 'rows'):.0f})", 44) for row in reversed(shown)]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    if "all_rows" in verdict.numbers:
        axes.axvline(verdict.numbers["all_rows"], color=SOFT, linewidth=1.2, linestyle="--", label="all rows")
        legend(axes)
    axes.grid(visible=False, axis="y")
    title = "Groups of rows" if len(shown) == len(rows) else f"Groups of rows: {len(shown)} of {len(rows)}"
    return done(figure, axes, title, "primary metric with its interval (hollow: too few rows to judge)", "")


def leakage(verdict: Verdict) -> Figure | None:
    """The held-out error with its upper end, beside tuning's and the bound below which it would be too good."""
    numbers = verdict.numbers
    if not {"error", "error_high", "validation_error"} <= set(numbers):
        return None
    figure, axes = canvas(1.6)
    colour = _colour(verdict)
    axes.plot([numbers["error"], numbers["error_high"]], [1, 1], color=colour, linewidth=3, solid_capstyle="butt")
    axes.plot(numbers["error"], 1, "o", color=colour, markersize=8)
    axes.plot(numbers["validation_error"], 0, "o", color=SOFT, markersize=8)
    mark(axes, verdict.bound, "bound")
    axes.set_yticks([0, 1], ["tuning", "held-out"])
    axes.set_ylim(-0.6, 1.6)
    return done(figure, axes, "Error on held-out rows and in tuning", "error (line: its upper end)", "")


def judge(verdict: Verdict) -> Figure | None:
    """Share of rows that pass each metric, with its interval and the share that is asked."""
    rows = _rows(verdict, "pass_rates")
    if not rows:
        return None
    figure, axes = canvas(1.2 + 0.32 * len(rows))
    for at, row in enumerate(reversed(rows)):
        low, high = _number(row, "low"), _number(row, "high")
        bound = verdict.bound or 0.0
        colour = BAD if high < bound else ORANGE if low < bound else GOOD
        axes.plot([low, high], [at, at], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(_number(row, "rate"), at, "o", color=colour, markersize=7)
    axes.set_yticks(range(len(rows)), [short(str(row["metric"])) for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    mark(axes, verdict.bound, "asked")
    return done(figure, axes, "Rows that pass, by majority of the votes", "share of rows, with its interval", "")


def latency(verdict: Verdict) -> Figure | None:
    """The latency curve at the declared load with its bounds, and how it went over the time of the load."""
    curve, moments = _rows(verdict, "percentiles"), _rows(verdict, "moments")
    if not curve:
        return None
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    at, took = ([_number(row, name) for row in curve] for name in ("percentile", "ms"))
    left.plot(range(len(at)), took, color=BLUE, linewidth=2)
    for name in ("p50", "p95", "p99"):
        bound = verdict.numbers.get(f"{name}_bound_ms")
        if bound is not None and float(name[1:]) in at:
            where, held = at.index(float(name[1:])), verdict.numbers[f"{name}_ms"] <= bound
            left.plot(where, verdict.numbers[f"{name}_ms"], "o", color=GOOD if held else BAD, markersize=7)
            left.plot([where - 0.5, where + 0.5], [bound, bound], color=INK, linewidth=2)
            left.annotate(
                f"{name} {bound:g}",
                (where, bound),
                (0, 4),
                textcoords="offset points",
                fontsize=8,
                ha="left" if name == "p99" else "right",
                color=INK,
            )
    ticks = [place for place, one in enumerate(at) if one in (1, 10, 50, 95, 99.9)]
    left.set_xticks(ticks, [f"{at[place]:g}" for place in ticks])
    milliseconds(left)
    style(left, "Latency at the declared load", "percentile of the requests (bars: at most)", "ms")
    known = [row for row in moments if row["median_ms"] is not None]
    for name, colour, label in (("slowest_ms", ORANGE, "slowest"), ("median_ms", BLUE, "median")):
        right.plot([_number(row, "second") for row in known], [_number(row, name) for row in known], color=colour,
                   linewidth=1.6, label=label)  # fmt: skip
    milliseconds(right)
    style(right, "Over time: a queue would climb", "second at which requests were due", "ms")
    legend(right)
    return figure


def pace(verdict: Verdict) -> Figure | None:
    """One request at a time: the challenger's curve beside the champion's."""
    rows = _rows(verdict, "pace")
    if not rows:
        return None
    figure, axes = canvas(2.9)
    at = [_number(row, "percentile") for row in rows]
    for name, colour, label in (("champion_ms", SOFT, "champion"), ("challenger_ms", BLUE, "challenger")):
        axes.plot(range(len(at)), [_number(row, name) for row in rows], color=colour, linewidth=2, label=label)
    ticks = [place for place, one in enumerate(at) if one in (1, 10, 50, 90, 95, 99, 99.9)]
    axes.set_xticks(ticks, [f"{at[place]:g}" for place in ticks])
    milliseconds(axes)
    legend(axes)
    numbers = verdict.numbers
    title = f"Pace: {numbers.get('slowdown', 0):.2f} times the champion's median" if "slowdown" in numbers else "Pace"
    return done(figure, axes, title, "percentile of requests, one at a time", "ms")


DRAWN: dict[str, dict[str, Draw]] = {  # gate -> name of a plot -> how it is drawn
    "champion": {"champion": champion},
    "leakage": {"leakage": leakage},
    "slices": {"slices": slices},
    "calibration": {"calibration": calibration},
    "robustness": {"robustness": robustness},
    "judge": {"judge": judge},
    "latency": {"latency": latency, "pace": pace},
}


def _broken(row: dict[str, float | str | None]) -> bool:
    told = str(row["verdict"])
    return told != "held" and not told.startswith("not judged")


def _rows(verdict: Verdict, name: str) -> Rows:
    table: Table | None = next((table for table in verdict.tables if table.name == name), None)
    return [] if table is None else [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _number(row: dict[str, float | str | None], name: str) -> float:
    value = row.get(name)
    return float("nan") if value is None or isinstance(value, str) else value


def _colour(verdict: Verdict) -> str:
    return BLUE if verdict.passed else BAD if verdict.outcome == "refused" else ORANGE
