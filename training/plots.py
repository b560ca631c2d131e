"""Figures of candidates on the held-out rows, for the MLflow UI. No global state of matplotlib is touched."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from pipeline.columns import RowSchema

Floats = npt.NDArray[np.floating]
Answers = Mapping[str, Floats]  # candidate -> (rows, width)
PALETTE = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#ca8a04", "#0891b2")
INK, FAINT = "#1f2937", "#cbd5e1"
BINS = 10
SHOWN = 20  # features in the plot of importance


def figures(schema: RowSchema, target: Floats, answers: Answers) -> dict[str, Figure]:
    """Every plot that compares candidates, by file name. `target`: (rows,) as `encode_target` gives it."""
    if schema.task == "regression":
        return {
            "predicted_against_true": predicted_against_true(target, answers),
            "residuals": residuals(target, answers),
        }
    truth = target.astype(np.int64)
    return {
        "roc": roc(schema, truth, answers),
        "precision_recall": precision_recall(schema, truth, answers),
        "calibration": calibration(truth, answers),
        "confusion": confusion(schema, truth, answers),
    }


def roc(schema: RowSchema, truth: npt.NDArray[np.int64], answers: Answers) -> Figure:
    """True against false positives; of all classes together when there are more than two."""
    figure, axes = _canvas("ROC", "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    for colour, (name, answer) in zip(PALETTE, answers.items(), strict=False):
        hit, score = _one_against_rest(schema, truth, answer)
        x, y, _ = sk.roc_curve(hit, score)
        axes.plot(x, y, color=colour, linewidth=2, label=f"{name}  area {sk.auc(x, y):.4f}")
    axes.legend(loc="lower right", frameon=False)
    return figure


def precision_recall(schema: RowSchema, truth: npt.NDArray[np.int64], answers: Answers) -> Figure:
    """Precision against recall."""
    figure, axes = _canvas("Precision and recall", "recall", "precision")
    for colour, (name, answer) in zip(PALETTE, answers.items(), strict=False):
        hit, score = _one_against_rest(schema, truth, answer)
        precision, recall, _ = sk.precision_recall_curve(hit, score)
        area = sk.average_precision_score(hit, score)
        axes.plot(recall, precision, color=colour, linewidth=2, label=f"{name}  average precision {area:.4f}")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower left", frameon=False)
    return figure


def calibration(truth: npt.NDArray[np.int64], answers: Answers) -> Figure:
    """How often an answer of a given probability is right: on the diagonal it can be taken at its word."""
    figure, axes = _canvas("Calibration", "stated probability", "observed share")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    for colour, (name, answer) in zip(PALETTE, answers.items(), strict=False):
        if answer.shape[1] == 2:
            stated, hit = answer[:, 1], truth == 1
        else:
            stated, hit = answer.max(axis=1), answer.argmax(axis=1) == truth
        observed, mean = calibration_curve(hit, np.clip(stated, 0, 1), n_bins=BINS, strategy="quantile")
        axes.plot(mean, observed, color=colour, linewidth=2, marker="o", markersize=4, label=name)
    axes.legend(loc="upper left", frameon=False)
    return figure


def confusion(schema: RowSchema, truth: npt.NDArray[np.int64], answers: Answers) -> Figure:
    """Counts of true against answered class, a panel for each candidate."""
    count = max(len(answers), 1)
    figure = Figure(figsize=(5.2 * count, 4.8), dpi=110, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, count))
    labels = [label[:14] for label in schema.classes]
    for axes, (name, answer) in zip(panels, answers.items(), strict=False):
        table = sk.confusion_matrix(truth, answer.argmax(axis=1), labels=list(range(len(labels))))
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*table.shape):
            colour = "white" if share[row, column] > 0.5 else INK
            axes.text(column, row, f"{table[row, column]}", ha="center", va="center", color=colour, fontsize=10)
        axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set(title=name, xlabel="answered", ylabel="true")
    return figure


def predicted_against_true(target: Floats, answers: Answers) -> Figure:
    """Each held-out row's answer against the truth."""
    figure, axes = _canvas("Predicted against true", "true", "predicted")
    ends = [float(target.min()), float(target.max())]
    axes.plot(ends, ends, color=FAINT, linewidth=1, linestyle="--")
    for colour, (name, answer) in zip(PALETTE, answers.items(), strict=False):
        axes.scatter(target, answer[:, 0], s=10, alpha=0.5, color=colour, label=name, linewidths=0)
    axes.legend(loc="upper left", frameon=False)
    return figure


def residuals(target: Floats, answers: Answers) -> Figure:
    """How the errors lie: centred on nought, and how wide."""
    figure, axes = _canvas("Residuals", "predicted less true", "rows")
    for colour, (name, answer) in zip(PALETTE, answers.items(), strict=False):
        axes.hist(answer[:, 0] - target, bins=30, histtype="step", linewidth=2, color=colour, label=name)
    axes.axvline(0, color=FAINT, linewidth=1, linestyle="--")
    axes.legend(loc="upper left", frameon=False)
    return figure


def importance(values: Mapping[str, float], metric: str, candidate: str) -> Figure:
    """How much worse the metric gets when a column is shuffled, the most telling columns on top."""
    shown = sorted(values.items(), key=lambda item: -item[1])[:SHOWN][::-1]
    figure = Figure(figsize=(6.4, 1.2 + 0.28 * max(len(shown), 4)), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.barh([name[:28] for name, _ in shown], [value for _, value in shown], color=PALETTE[0])
    _style(axes, f"What {candidate} looks at", f"loss of {metric} when the column is shuffled", "")
    return figure


def _one_against_rest(
    schema: RowSchema, truth: npt.NDArray[np.int64], answer: Floats
) -> tuple[npt.NDArray[np.bool_], Floats]:
    if len(schema.classes) == 2:
        return truth == 1, answer[:, 1]
    return np.eye(len(schema.classes), dtype=bool)[truth].ravel(), answer.ravel()


def _canvas(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    _style(axes, title, x, y)
    return figure, axes


def _style(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", color=INK, fontweight="bold")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, linewidth=0.5, alpha=0.6)
