"""Weighted metrics are the metrics, resamples are what they say, tests in closed form are their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from pipeline.columns import Column, RowSchema
from pipeline.metrics import scores
from pipeline.spec import METRICS
from serving.gates.bootstrap import distribution, draws, interval, value
from serving.gates.paired import delong, mcnemar, two_sided
from serving.gates.weighted import weighted


def shape(task: str, classes: int) -> RowSchema:
    columns = (Column(name="a", kind="number"),)
    return RowSchema(columns=columns, target="y", task=task, classes=tuple(str(at) for at in range(classes)))


def answered(classes: int, rows: int, seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    target = draw.integers(0, classes, rows).astype(float) if classes else draw.normal(size=rows)
    output = draw.dirichlet(np.ones(classes), rows) if classes else target[:, None] + draw.normal(size=(rows, 1))
    return target, (np.round(output, 1) + 0.01 if ties and classes else output).astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 4), ("regression", 0)])
def test_a_weighted_metric_is_the_metric_of_rows_that_are_repeated(task: str, classes: int, ties: bool) -> None:
    schema = shape(task, classes)
    target, output = answered(classes, 90, 3, ties)
    (counts,) = draws(target, stratified=False, resamples=25, seed=1)
    found = {metric: weighted(schema, metric, target, output)(counts) for metric in METRICS[schema.task]}
    for at, drawn in enumerate(counts.astype(int)):
        take = np.repeat(np.arange(90), drawn)
        expected = scores(schema, target[take], output[take])
        assert {metric: values[at] for metric, values in found.items()} == pytest.approx(
            {metric: expected[metric] for metric in found}, rel=1e-6
        )


def test_a_weighted_metric_is_undefined_where_the_metric_is() -> None:
    one_class = np.array([[2.0, 1.0, 0.0, 0.0]])
    target, output = np.array([1.0, 1.0, 0.0, 0.0]), np.array([[0.2, 0.8], [0.6, 0.4], [0.7, 0.3], [0.5, 0.5]])
    for metric in ("roc_auc", "average_precision", "balanced_accuracy"):
        assert np.isnan(weighted(shape("binary", 2), metric, target, output)(one_class)[0]), metric
    with pytest.raises(ValueError, match="undefined on resampled rows"):
        distribution(
            [weighted(shape("binary", 2), "roc_auc", target, output)], target, stratified=False, resamples=99, seed=0
        )
    with pytest.raises(ValueError, match="1 answers are not finite"):
        weighted(shape("binary", 2), "brier", target, np.where(output == 0.8, np.nan, output))
    with pytest.raises(ValueError, match="4 answers to 3 rows"):
        weighted(shape("binary", 2), "brier", target[:3], output)


def test_draws_keep_each_class_and_repeat() -> None:
    target = np.array([0.0] * 90 + [1.0] * 10)
    (counts,) = draws(target, stratified=True, resamples=20, seed=3)
    assert (counts.sum(axis=1) == 100).all()
    assert (counts[:, 90:].sum(axis=1) == 10).all()
    assert np.array_equal(counts, next(draws(target, stratified=True, resamples=20, seed=3)))
    assert len(np.unique(counts, axis=0)) == 20


def test_the_distribution_is_that_of_drawing_rows() -> None:
    """Mean and spread of resampled means against their theory: the mean, and the standard error."""
    sample = np.random.default_rng(0).normal(size=400)
    schema = shape("regression", 0)
    drawn = distribution(
        [weighted(schema, "mae", np.zeros(400), sample[:, None])], sample, stratified=False, resamples=4000, seed=1
    )[0]
    size = np.abs(sample)
    assert drawn.mean() == pytest.approx(size.mean(), abs=4 * size.std() / np.sqrt(400 * 4000))
    assert drawn.std() == pytest.approx(size.std() / 20, rel=0.05)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Coverage of the percentile interval for a mean, over many samples (nominal 90%)."""
    draw = np.random.default_rng(0)
    schema = shape("regression", 0)
    truth = np.sqrt(2 / np.pi)  # mean of |z|
    hits = 0
    for at in range(300):
        answers = draw.normal(size=(60, 1))
        mae = weighted(schema, "mae", np.zeros(60), answers)
        low, high = interval(distribution([mae], np.zeros(60), stratified=False, resamples=300, seed=at)[0], 0.9)
        assert low <= value(mae, 60) <= high
        hits += low <= truth <= high
    assert 0.83 <= hits / 300 <= 0.95


def slow_delong(positive: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """From the definition: psi over all pairs, its row and column means, their covariances (equations 4 to 6)."""
    components = []
    for score in (ours, theirs):
        x, y = score[positive][:, None], score[~positive][None, :]
        psi = (x > y) + 0.5 * (x == y)
        components.append((psi.mean(axis=1), psi.mean(axis=0)))
    s10 = np.cov(components[0][0], components[1][0])
    s01 = np.cov(components[0][1], components[1][1])
    covariance = s10 / positive.sum() + s01 / (~positive).sum()
    contrast = np.array([1, -1])
    areas = [component[0].mean() for component in components]
    return areas[0] - areas[1], float(np.sqrt(max(0.0, contrast @ covariance @ contrast)))


@given(st.integers(0, 10_000), st.integers(4, 60), st.booleans())
def test_delong_is_its_definition(seed: int, rows: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    positive = draw.permutation(np.arange(rows) < draw.integers(2, rows - 1))
    ours, theirs = draw.normal(size=rows) + positive, draw.normal(size=rows) + 0.5 * positive
    if ties:
        ours, theirs = np.round(ours), np.round(theirs)
    assert delong(positive, ours, theirs) == pytest.approx(slow_delong(positive, ours, theirs), abs=1e-12)


def test_delong_has_the_level_that_it_says_and_agrees_with_the_bootstrap() -> None:
    draw = np.random.default_rng(5)
    positive = np.arange(200) < 80
    by_chance = [
        two_sided(*delong(positive, *(signal + draw.normal(size=200) for _ in range(2))))
        for signal in [positive + draw.normal(size=200) for _ in range(400)]
    ]
    assert 0.02 <= np.mean(np.array(by_chance) < 0.05) <= 0.085
    ours, theirs = draw.normal(size=200) + positive, draw.normal(size=200) + 0.4 * positive
    schema, target = shape("binary", 2), positive.astype(float)
    pair = [
        weighted(schema, "roc_auc", target, np.stack([1 - p, p], axis=1))
        for p in (1 / (1 + np.exp(-score)) for score in (ours, theirs))
    ]
    drawn = distribution(pair, target, stratified=True, resamples=4000, seed=0)
    difference, error = delong(positive, ours, theirs)
    assert value(pair[0], 200) - value(pair[1], 200) == pytest.approx(difference)
    assert (drawn[0] - drawn[1]).std() == pytest.approx(error, rel=0.08)
    assert two_sided(0.0, 0.0) == 1.0
    assert two_sided(0.1, 0.0) == 0.0


def test_mcnemar_counts_discordant_rows() -> None:
    ours = np.array([True] * 9 + [False] * 3 + [True] * 50 + [False] * 20)
    theirs = np.array([False] * 9 + [True] * 3 + [True] * 50 + [False] * 20)
    won, lost, p = mcnemar(ours, theirs)
    assert (won, lost) == (9, 3)
    assert p == pytest.approx(2 * binom.cdf(3, 12, 0.5))
    assert mcnemar(ours, ours) == (0, 0, 1.0)
