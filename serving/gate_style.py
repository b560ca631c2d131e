"""The look of the gates' plots: one SVG element each, whose colours are the page's where a page defines them."""

from __future__ import annotations

import io
import re

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

INKS = {  # custom property of CSS -> what stands for it where no page defines it
    "ground": "#ffffff",
    "ink": "#1f2937",
    "soft": "#6b7280",
    "faint": "#cbd5e1",
    "blue": "#2563eb",
    "orange": "#ea580c",
    "good": "#059669",
    "bad": "#dc2626",
}
GROUND, INK, SOFT, FAINT, BLUE, ORANGE, GOOD, BAD = INKS.values()
WIDTH = 7.2  # inches
_NO_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # names of groups may hold what no XML may


def mark(axes: Axes, bound: float | None, text: str) -> None:
    """A bound as a dashed line, named in the legend; none when there is none."""
    if bound is not None:
        axes.axvline(bound, color=INK, linewidth=1.4, linestyle="--", label=f"{text} {bound:g}")
        legend(axes)


def short(text: str, size: int = 28) -> str:
    """A label that fits, its dollars no mathematics."""
    text = text.replace("$", r"\$")  # matplotlib reads mathematics between dollars
    return text if len(text) <= size else text[: size - 1] + "\u2026"


def canvas(height: float) -> tuple[Figure, Axes]:
    """A figure of one plot, `height` inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def done(figure: Figure, axes: Axes, title: str, x: str, y: str) -> Figure:
    """The figure with its title and axes."""
    style(axes, title, x, y)
    return figure


def legend(axes: Axes) -> None:
    """Names of the lines."""
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def style(axes: Axes, title: str, x: str, y: str) -> None:
    """House style of one plot."""
    axes.set_title(title, loc="left", color=INK, fontweight="bold", fontsize=11)
    axes.set_xlabel(x, color=SOFT)
    axes.set_ylabel(y, color=SOFT)
    axes.tick_params(which="both", colors=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(color=FAINT, linewidth=0.5, alpha=0.6)


def milliseconds(axes: Axes) -> None:
    """A logarithmic axis of times that is labelled in plain numbers, to be called after the lines are drawn."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.15, high * 1.3)


def svg(figure: Figure, name: str, told: str) -> str:
    """The figure as one `svg` element, the same bytes for the same numbers, its colours those of the page around it."""
    figure.set_facecolor(GROUND)
    drawn = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": ["sans-serif"]}):
        FigureCanvasSVG(figure).print_svg(drawn, metadata={"Date": None})  # `savefig` draws it twice
    text = drawn.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", text)  # twice on one page
    for ink, colour in INKS.items():
        text = text.replace(f": {colour}", f": var(--{ink}, {colour})")
    quoted = told.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    text = text.replace("<svg ", f'<svg role="img" aria-label="{quoted}" ', 1)
    return _NO_XML.sub(" ", text)
