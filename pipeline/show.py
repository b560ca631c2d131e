"""What a person sees in the terminal: progress while a run goes on, and its verdict as tables."""

from __future__ import annotations

import time
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline.refs import CheckReport, Evaluation, GateReport
from pipeline.summary import Summary

STATES = {
    "running": "cyan",
    "done": "green",
    "success": "green",
    "failed": "red",
    "upstream_failed": "red",
    "up_for_retry": "yellow",
    "awaiting_input": "yellow",
    "waits": "yellow",
    "rejected": "yellow",
    "skipped": "yellow",
    "waiting": "dim",
}
VERDICTS = {"passed": "green", "refused": "bold red", "inconclusive": "bold yellow", "waived": "yellow"}

SHOWN = ("roc_auc", "accuracy", "f1", "log_loss", "rmse", "mae", "r2")  # of the metrics; MLflow has them all


class Board:
    """The tasks of a run with state and time: redrawn on a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console, title: str, keys: tuple[str, ...] = ()) -> None:
        self._console, self._title = console, title
        self._states: dict[str, str] = dict.fromkeys(keys, "waiting")
        self._since: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=8, transient=False)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, key: str, state: str, seconds: float | None = None) -> None:
        """Task `key` is in `state`; `seconds` when it is known better than by the clock here."""
        if self._states.get(key) == state:
            return
        self._states[key] = state
        if state == "running":
            self._since[key] = time.monotonic()
        else:
            begun = self._since.pop(key, None)
            took = seconds if seconds is not None else None if begun is None else time.monotonic() - begun
            if took is not None:
                self._seconds[key] = took
        if not self._console.is_terminal and state not in ("waiting", "queued", "scheduled"):
            note = f"  {self._seconds[key]:.1f} s" if key in self._seconds and state != "running" else ""
            self._console.print(f"{key:<18} {state}{note}", highlight=False)

    def _draw(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, title=self._title, title_justify="left")
        for key, state in self._states.items():
            running = state == "running"
            seconds = time.monotonic() - self._since[key] if key in self._since else self._seconds.get(key)
            mark: RenderableType = Spinner("dots", style="cyan") if running else Text("●", style=STATES.get(state, ""))
            table.add_row(mark, key, Text(state, style=STATES.get(state, "")), f"{seconds:.1f} s" if seconds else "")
        return table


def verdict(summary: Summary) -> RenderableType:
    """Candidates, gates, times and the end of a run."""
    parts: list[RenderableType] = []
    if summary.checks:
        parts += _checks(summary.checks)
    if summary.evaluation:
        parts.append(_candidates(summary.evaluation))
    if summary.gates:
        parts.append(gates_table(summary.gates))
    if summary.tasks:
        parts.append(_times(summary))
    parts.append(_end(summary))
    return Group(*parts)


def table(title: str, headers: tuple[str, ...], rows: list[tuple[RenderableType, ...]]) -> Table:
    """A plain table; the columns after the first are right-aligned when their cells are numbers."""
    result = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for index, header in enumerate(headers):
        cells = [str(row[index]) for row in rows]
        numeric = bool(index) and all(_is_number(cell) for cell in cells)
        result.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


def _is_number(cell: str) -> bool:
    """Whether a cell is empty, or a number with or without seconds as its unit."""
    try:
        float(cell.removesuffix(" s") or 0)
    except ValueError:
        return False
    return True


def _checks(checks: CheckReport) -> list[RenderableType]:
    if checks.suite is None:
        return [Text("Checks: the spec names no suite", style="dim")]
    if not checks.failures:
        return [Text(f"Checks: {checks.evaluated} expectations met", style="green")]
    rows: list[tuple[RenderableType, ...]] = [
        (Text(failure.severity, style="red" if failure.severity == "critical" else "yellow"), failure.message)
        for failure in checks.failures
    ]
    return [
        table(f"Checks: {len(checks.failures)} of {checks.evaluated} expectations failed", ("severity", "what"), rows)
    ]


def _candidates(evaluation: Evaluation) -> Table:
    known = {name for score in evaluation.scores for name in score.metrics}
    names = [name for name in dict.fromkeys((evaluation.primary, *SHOWN)) if name in known]
    rows: list[tuple[RenderableType, ...]] = []
    for score in evaluation.scores:
        style = "bold green" if score.candidate == evaluation.winner else "" if score.passed else "yellow"
        values = (f"{score.metrics[name]:.4f}" if name in score.metrics else "" for name in names)
        rows.append((Text(score.candidate, style=style), *values, score.reason))
    return table("Candidates on the held-out rows", ("candidate", *names, "verdict"), rows)


def gates_table(gates: GateReport) -> Table:
    """Every gate's verdict with the numbers that decided, and who answers for one that was waived."""
    rows: list[tuple[RenderableType, ...]] = [
        (
            verdict.gate,
            Text(verdict.shown, style=VERDICTS[verdict.shown]),
            "" if verdict.observed is None else f"{verdict.observed:.5g}",
            "" if verdict.bound is None else f"{verdict.bound:.5g}",
            Text(verdict.why),
        )
        for verdict in gates.verdicts
    ]
    against = f"champion {gates.champion}" if gates.champion else "no champion yet"
    return table(f"Gates ({against})", ("gate", "verdict", "observed", "bound", "why"), rows)


def _times(summary: Summary) -> Table:
    rows: list[tuple[RenderableType, ...]] = [
        (item.task, f"{item.seconds:.1f} s", f"{item.fit_s:.1f} s" if item.fit_s else "", f"{item.own_s:.1f} s")
        for item in summary.tasks
    ]
    total = sum(item.seconds for item in summary.tasks)
    own = sum(item.own_s for item in summary.tasks)
    rows.append((Text("sum", style="bold"), f"{total:.1f} s", f"{total - own:.1f} s", f"{own:.1f} s"))
    return table("Time by step", ("step", "total", "fitting", "pipeline's own"), rows)


def _end(summary: Summary) -> Panel:
    colour = {"promoted": "green", "rejected": "yellow", "incomplete": "red"}[summary.outcome]
    grid = Table.grid(padding=(0, 2))
    if summary.promotion:
        end = summary.promotion
        kept = f", version {end.previous} kept for `slipway rollback {end.name}`" if end.previous else ""
        grid.add_row("champion", Text(f"{end.name} version {end.version}{kept}"))
    for reason in summary.reasons:
        grid.add_row("reason", Text(reason))
    return Panel(
        grid, title=f"{summary.pipeline} {summary.run}: {summary.outcome}", title_align="left", border_style=colour
    )
