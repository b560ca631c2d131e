"""Figures of candidates on the held-out rows, for the MLflow UI. No global state of matplotlib is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics as sk

from pipeline.columns import RowSchema
from pipeline.gate_rules import LOWER_IS_BETTER, Tolerance
from pipeline.refs import CandidateScore, ParityCase

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]
Answers = Mapping[str, Floats]  # candidate -> (rows, width)
PALETTE = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#ca8a04", "#0891b2")
INK, SOFT, FAINT, BAD = "#1f2937", "#6b7280", "#cbd5e1", "#dc2626"
BINS = 10
SHOWN = 20  # columns in the plot of importance
COUNTED_CLASSES = 12  # more have no room for a number in each cell


def figures(schema: RowSchema, target: Floats, answers: Answers) -> dict[str, Figure]:
    """Every plot of answers against the truth, all candidates in each, by file name.

    `target`: (rows,) as `encode_target` gives it; `answers`: (rows, width), finite.
    """
    if schema.task == "regression":
        return {
            "predicted_against_true": predicted_against_true(schema, target, answers),
            "residuals": residuals(schema, target, answers),
        }
    truth = target.astype(np.int64)
    return {
        "roc": roc(schema, truth, answers),
        "precision_recall": precision_recall(schema, truth, answers),
        "calibration": calibration(schema, truth, answers),
        "confusion": confusion(schema, truth, answers),
    }


def roc(schema: RowSchema, truth: Labels, answers: Answers) -> Figure:
    """True against false positives; every class against the rest, pooled, when there are more than two."""
    figure, axes = _canvas(f"ROC of {_subject(schema)}", len(truth), "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, linestyle="--")
    for name, colour, answer in _each(answers):
        hit, score = _one_against_rest(schema, truth, answer)
        if _both(hit):
            x, y, _ = sk.roc_curve(hit, score)
            axes.plot(x, y, color=colour, linewidth=2, label=f"{name}: area {sk.auc(x, y):.4f}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    _legend(axes, "lower right")
    return figure


def precision_recall(schema: RowSchema, truth: Labels, answers: Answers) -> Figure:
    """Precision against recall, with the share of positives, which a guess reaches."""
    figure, axes = _canvas(f"Precision and recall of {_subject(schema)}", len(truth), "recall", "precision")
    for name, colour, answer in _each(answers):
        hit, score = _one_against_rest(schema, truth, answer)
        if _both(hit):
            precision, recall, _ = sk.precision_recall_curve(hit, score)
            area = sk.average_precision_score(hit, score)
            axes.plot(recall, precision, color=colour, linewidth=2, label=f"{name}: average precision {area:.4f}")
            axes.axhline(float(hit.mean()), color=FAINT, linewidth=1.2, linestyle="--")
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.02))
    _legend(axes, "lower left")
    return figure


def calibration(schema: RowSchema, truth: Labels, answers: Answers) -> Figure:
    """How often an answer of a given probability is right, over bins of as many rows each, with 95% intervals."""
    binary = len(schema.classes) == 2
    x, y = (f"probability of {schema.classes[1][:20]!r}", "observed share") if binary else ("confidence", "accuracy")
    figure, axes = _canvas("Calibration: exact on the diagonal", len(truth), x, y)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, linestyle="--")
    for name, colour, answer in _each(answers):
        stated = answer[:, 1] if binary else answer.max(axis=1)
        hit = (truth if binary else answer.argmax(axis=1) == truth).astype(np.float64)
        parts = [part for part in np.array_split(np.argsort(stated, kind="stable"), BINS) if len(part)]
        mean = np.array([stated[part].mean() for part in parts])
        share = np.array([hit[part].mean() for part in parts])
        low, high = _wilson(share, np.array([len(part) for part in parts], dtype=np.float64))
        spread = np.clip([share - low, high - share], 0, None)
        axes.errorbar(mean, share, yerr=spread, color=colour, elinewidth=1, linewidth=2, marker="o", ms=4, label=name)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _legend(axes, "upper left")
    return figure


def confusion(schema: RowSchema, truth: Labels, answers: Answers) -> Figure:
    """Counts of true against answered class, a panel for each candidate; the shade is the share of the true class."""
    count, classes = max(len(answers), 1), len(schema.classes)
    side = min(4.4 + 0.25 * max(classes - 4, 0), 9)
    figure = Figure(figsize=(side * count + 0.6, side), dpi=110, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, count))
    labels = [_short(label, 14) for label in schema.classes]
    for axes, (name, answer) in zip(panels, answers.items(), strict=False):
        table = sk.confusion_matrix(truth, answer.argmax(axis=1), labels=list(range(classes)))
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        if classes <= COUNTED_CLASSES:
            for row, column in np.ndindex(*table.shape):
                colour = "white" if share[row, column] > 0.5 else INK
                axes.text(column, row, f"{table[row, column]}", ha="center", va="center", color=colour, fontsize=10)
        axes.set_xticks(range(classes), labels, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), labels)
        _style(axes, f"{name}: {np.trace(table)} of {len(truth)} right", "answered", "true")
        axes.grid(visible=False)
    return figure


def predicted_against_true(schema: RowSchema, target: Floats, answers: Answers) -> Figure:
    """Each held-out row's answer against the truth."""
    figure, axes = _canvas(f"Predicted against true {_short(schema.target)}", len(target), "true", "predicted")
    ends = [float(target.min()), float(target.max())]
    axes.plot(ends, ends, color=SOFT, linewidth=1.2, linestyle="--", zorder=3)
    for name, colour, answer in _each(answers):
        axes.scatter(target, answer[:, 0], s=14, alpha=0.45, color=colour, label=name, linewidths=0)
    _legend(axes, "upper left")
    return figure


def residuals(schema: RowSchema, target: Floats, answers: Answers) -> Figure:
    """How the errors lie: centred on nought or not, and how wide."""
    figure, axes = _canvas(f"Errors of {_short(schema.target)}", len(target), "predicted less true", "rows")
    errors = {name: answer[:, 0].astype(np.float64) - target for name, answer in answers.items()}
    edges: list[float] = np.histogram_bin_edges(np.concatenate(list(errors.values())), bins=30).tolist()
    for name, colour, error in _each(errors):
        label = f"{name}: mean {error.mean():.3g}, sd {error.std():.3g}"
        axes.hist(error, bins=edges, histtype="stepfilled", alpha=0.15, color=colour)
        axes.hist(error, bins=edges, histtype="step", linewidth=2, color=colour, label=label)
    axes.axvline(0, color=SOFT, linewidth=1.2, linestyle="--")
    _legend(axes, "best")
    return figure


def importance(values: Mapping[str, float], metric: str, candidate: str) -> Figure:
    """How much worse the metric gets when a column is shuffled, the most telling columns on top."""
    shown = sorted(values.items(), key=lambda item: -item[1])[:SHOWN][::-1]
    figure = Figure(figsize=(6.4, 1.4 + 0.28 * max(len(shown), 4)), dpi=110, layout="constrained")
    axes = figure.subplots()
    colours = [PALETTE[0] if value > 0 else FAINT for _, value in shown]
    axes.barh(range(len(shown)), [value for _, value in shown], color=colours)
    axes.set_yticks(range(len(shown)), [_short(name, 28) for name, _ in shown])
    axes.axvline(0, color=SOFT, linewidth=0.8)
    rest = f" (the first {SHOWN} of {len(values)} columns)" if len(values) > SHOWN else ""
    _style(axes, f"What {candidate} looks at{rest}", f"loss of {metric} when the column is shuffled among rows", "")
    axes.grid(visible=False, axis="y")
    return figure


def comparison(scores: Sequence[CandidateScore], primary: str, winner: str | None) -> Figure:
    """Every metric of every candidate that may win, a panel each, the primary metric first."""
    shown = [score for score in scores if score.metrics]
    names = sorted({name for score in shown for name in score.metrics}, key=lambda name: (name != primary, name))
    columns = min(max(len(names), 1), 4)
    lines = -(-max(len(names), 1) // columns)
    figure = Figure(figsize=(2.9 * columns, 1.0 + (0.75 + 0.34 * len(shown)) * lines), dpi=110, layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for axes, name in zip(panels, names, strict=False):
        values = [score.metrics.get(name, 0.0) for score in shown]
        bars = axes.barh([score.candidate for score in shown], values, color=[PALETTE[0], *PALETTE[1:]][: len(shown)])
        axes.bar_label(bars, fmt="%.4g", padding=3, fontsize=8, color=INK)
        axes.set_xlim(min(0, *values) * 1.3, max(0, *values) * 1.35 or 1)
        axes.invert_yaxis()
        _style(axes, name + (" (lower is better)" if name in LOWER_IS_BETTER else ""), "", "")
        axes.title.set_fontsize(9)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    title = f"{winner} wins by {primary}" if winner else "no candidate may go on"
    figure.suptitle(f"Candidates on the held-out rows: {title}", x=0.01, ha="left", color=INK, fontweight="bold")
    return figure


def parity(cases: Sequence[ParityCase], tolerance: Tolerance, candidate: str) -> Figure:
    """The largest difference between native model and ONNX graph on each family of rows, against the tolerance."""
    figure = Figure(figsize=(7.2, 1.4 + 0.24 * max(len(cases), 4)), dpi=110, layout="constrained")
    axes = figure.subplots()
    floor, ceiling = 1e-9, 1e3
    for at, case in enumerate(reversed(cases)):
        colour = PALETTE[2] if case.passed else BAD
        axes.plot([floor, min(max(case.max_abs, floor), ceiling)], [at, at], color=colour, linewidth=1.5, alpha=0.5)
        axes.plot(min(max(case.max_abs, floor), ceiling), at, "o" if case.passed else "X", color=colour, ms=6)
    axes.axvline(max(tolerance.atol, floor), color=SOFT, linewidth=1.2, linestyle="--")
    axes.set(xscale="log", xlim=(floor * 0.7, ceiling * 1.5))
    axes.set_yticks(range(len(cases)), [case.name.replace("_", " ") for case in reversed(cases)], fontsize=8)
    wrong = sum(not case.passed for case in cases)
    verdict = (
        f"differs on {wrong} of {len(cases)} families of rows" if wrong else "is the model on every family of rows"
    )
    tolerated = f"largest difference (dashed: atol {tolerance.atol:g}; rtol {tolerance.rtol:g} comes on top)"
    _style(axes, f"The ONNX graph of {candidate} {verdict}", tolerated, "")
    return figure


def _each(answers: Answers) -> Iterator[tuple[str, str, Floats]]:
    for (name, answer), colour in zip(answers.items(), cycle(PALETTE), strict=False):
        yield name, colour, answer


def _subject(schema: RowSchema) -> str:
    if len(schema.classes) == 2:
        return f"{_short(schema.target)} = {_short(schema.classes[1])}"
    return f"{_short(schema.target)}, each class against the rest"


def _short(text: str, size: int = 24) -> str:
    text = text.replace("$", r"\$")  # matplotlib reads mathematics between dollars
    return text if len(text) <= size else text[: size - 1] + "\u2026"


def _one_against_rest(schema: RowSchema, truth: Labels, answer: Floats) -> tuple[npt.NDArray[np.bool_], Floats]:
    if len(schema.classes) == 2:
        return truth == 1, answer[:, 1]
    return np.eye(len(schema.classes), dtype=bool)[truth].ravel(), answer.ravel()


def _both(hit: npt.NDArray[np.bool_]) -> bool:
    return bool(hit.any() and not hit.all())


def _wilson(share: Floats, count: Floats) -> tuple[Floats, Floats]:
    """95% interval of a share (Wilson 1927)."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return middle - half, middle + half


def _canvas(title: str, rows: int, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    _style(axes, title, f"{x}   ({rows:,} held-out rows)", y)
    return figure, axes


def _legend(axes: Axes, place: str) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc=place, frameon=False, fontsize=9)


def _style(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontweight="bold", fontsize=11)
    axes.set_xlabel(x, color=SOFT)
    axes.set_ylabel(y, color=SOFT)
    axes.tick_params(colors=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.set_axisbelow(True)
    axes.grid(color=FAINT, linewidth=0.5, alpha=0.6)
