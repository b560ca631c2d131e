"""The gates' report where people look: the task's log, one HTML page that reads offline, and MLflow."""

from __future__ import annotations

import io
import re

from jinja2 import Environment, PackageLoader
from rich.console import Console

from pipeline.refs import GateReport
from pipeline.run import Run
from pipeline.show import gates_table
from pipeline.spec import PipelineSpec

LOG_WIDTH = 160  # columns of the table in a task's log
MOST = 200  # rows of a table that the page shows
TITLES = {
    "quality": "Quality",
    "champion": "Against the champion",
    "leakage": "Leakage",
    "slices": "Groups of rows",
    "calibration": "Calibration",
    "parity": "Parity",
    "robustness": "Robustness",
    "judge": "Answers as text",
    "latency": "Latency",
}
PLOTS = {gate: (gate,) for gate in TITLES} | {"latency": ("latency", "pace")}  # in a gate's part of the page


def publish(spec: PipelineSpec, run: Run, version: int, report: GateReport) -> None:
    """Show a report everywhere. Raises Unavailable when the store or MLflow do not answer (a retry helps)."""
    if report.stopping:
        run.log.warning("stopped by %s", ", ".join(one.gate for one in report.stopping))
    if report.undecided:
        run.log.warning("left to the person who approves: %s", ", ".join(one.gate for one in report.undecided))
    from serving.gate_plots import plots  # noqa: PLC0415 (matplotlib, which only this step's report needs)

    figures = plots(report)
    page = render(spec.name, version, run.id, report, figures)
    run.store.write(f"{run.key}/gates.html", page.encode(), replace=True)
    registry = run.registry
    run_id = registry.pipeline_run(run, spec)
    registry.log_text(run_id, page, "gates/report.html")
    registry.log_text(run_id, report.model_dump_json(indent=1), "gates/report.json")
    for name, drawing in figures.items():
        registry.log_text(run_id, drawing, f"gates/{name}.svg")
    registry.log(run_id, metrics(report), tags={f"slipway.gate.{one.gate}": one.shown for one in report.verdicts})
    whole = "refused" if not report.passed else "inconclusive" if report.undecided else "passed"
    registry.set_version_tags(spec.name, version, {"slipway.gates": whole})


def as_text(report: GateReport) -> str:
    """The table of verdicts in plain characters."""
    written = io.StringIO()
    Console(file=written, width=LOG_WIDTH, color_system=None, highlight=False).print(gates_table(report))
    return "\n".join(line.rstrip() for line in written.getvalue().strip("\n").splitlines())


def metrics(report: GateReport) -> dict[str, float]:
    """Every number of every gate, by a name that MLflow takes."""
    return {
        re.sub(r"[^\w.\- /]", "_", f"gate_{one.gate}_{key}"): value
        for one in report.verdicts
        for key, value in one.numbers.items()
    }


def render(name: str, version: int, run: str, report: GateReport, figures: dict[str, str]) -> str:
    """The report as one HTML file that reads offline; `figures` as `serving.gate_plots.plots` gives them."""
    environment = Environment(loader=PackageLoader("serving", "templates"), autoescape=True, trim_blocks=True)
    drawn = {
        verdict.gate: [_inline(figures[key]) for key in PLOTS.get(verdict.gate, ()) if key in figures]
        for verdict in report.verdicts
    }
    return environment.get_template("gates.html.j2").render(
        name=name, version=version, run=run, report=report, titles=TITLES, drawn=drawn, most=MOST
    )


def _inline(drawing: str) -> str:
    """An SVG as a part of a page, where its namespaces are known."""
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawing)
