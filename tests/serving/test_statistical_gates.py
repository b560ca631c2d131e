"""Gates that judge held-out rows by statistics: what is healthy passes, what was planted is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.columns import Column, RowSchema
from pipeline.refs import Table, Validation
from pipeline.spec_file import parse_spec
from pipeline.target import encode_target
from pipeline.tensors import MISSING_TIMESTAMP, to_tensors
from serving.gates.base import Evidence
from serving.gates.calibration import CalibrationGate
from serving.gates.fairness import measure, unfair
from serving.gates.groups import groups, in_order
from serving.gates.leakage import LeakageGate
from serving.gates.quality import QualityGate
from serving.gates.robustness import RobustnessGate
from serving.gates.slices import SlicesGate
from tests.serving.known import SCHEMA, native, rows
from tests.serving.test_gates import Answering, evidence, verdict

N = 2000
DRAW = np.random.default_rng(11)


def answers(yes: np.ndarray) -> np.ndarray:
    return np.stack([1 - yes, yes], axis=1).astype(np.float32)


PROBABILITY = DRAW.uniform(0.02, 0.98, N)
TARGET = (DRAW.random(N) < PROBABILITY).astype(float)
CALIBRATED = answers(PROBABILITY)
OVERCONFIDENT = answers(1 / (1 + np.exp(-4 * np.log(PROBABILITY / (1 - PROBABILITY)))))


def binary(gates: str = "{}", metric: str = "roc_auc", **changes: Any) -> Evidence:
    """Evidence of calibrated answers to rows whose classes were drawn by them."""
    found = evidence(
        gates,
        **{
            "target": TARGET,
            "served": CALIBRATED,
            "native": CALIBRATED,
            "validation": Validation(value=0.83, rows=8000),
        }
        | changes,
    )
    return replace(found, spec=found.spec.model_copy(update={"metric": metric}))


def regression(target: np.ndarray, served: np.ndarray, gates: str = "{}", **changes: Any) -> Evidence:
    spec = parse_spec(
        "version: 1\nname: r\ntask: {kind: regression}\ndata: {source: s, target: y}\ncandidates: [{kind: xgboost}]\n"
        f"gates: {gates}\n",
        "r",
    )
    schema = RowSchema(columns=SCHEMA.columns, target="y", task="regression")
    return evidence(spec=spec, schema=schema, target=target, served=served.astype(np.float32), **changes)


# Quality: skill


@pytest.mark.parametrize(
    "metric", ["roc_auc", "accuracy", "f1", "log_loss", "brier", "average_precision", "recall", "ece", "precision"]
)
def test_one_answer_for_all_rows_is_no_model(metric: str) -> None:
    """By whatever metric, with no bound declared: each class, the classes' shares."""
    for yes in (0.0, 1.0, float(TARGET.mean())):
        found = verdict(QualityGate, binary(metric=metric, served=answers(np.full(N, yes))))
        assert not found.passed, (metric, yes)
    assert verdict(QualityGate, binary(metric=metric)).passed


def test_too_few_rows_say_nothing_of_a_model() -> None:
    few = binary(metric="accuracy", target=np.array([1.0, 0.0]), served=answers(np.array([0.9, 0.1])))
    found = verdict(QualityGate, few)
    assert not found.passed
    assert "2 held-out rows, 8 are asked; bring more rows" in found.reason


@pytest.mark.parametrize("metric", ["log_loss", "balanced_accuracy", "f1", "accuracy"])
def test_a_class_that_is_not_held_out_is_not_judged(metric: str) -> None:
    schema = RowSchema(columns=SCHEMA.columns, target="y", task="multiclass", classes=("a", "b", "c"))
    target = np.arange(300) % 2.0
    served = np.stack([0.9 * (1 - target) + 0.03, 0.9 * target + 0.03, np.full(300, 0.04)], axis=1).astype(np.float32)
    found = verdict(QualityGate, binary(metric=metric, schema=schema, target=target, served=served))
    assert not found.passed
    assert "no held-out row is of class 'c'; bring more rows, or a larger split.holdout" in found.reason
    target[:20] = 2
    served[:20] = [0.05, 0.05, 0.9]
    assert verdict(QualityGate, binary(metric=metric, schema=schema, target=target, served=served)).passed


def test_the_mean_is_no_model() -> None:
    target = DRAW.normal(5, 2, 300)
    for metric in ("rmse", "mae", "r2"):
        for constant in (target.mean(), np.median(target), 0.0):
            found = regression(target, np.full((300, 1), constant))
            found = replace(found, spec=found.spec.model_copy(update={"metric": metric}))
            refused = verdict(QualityGate, found)
            assert not refused.passed
            assert "one answer for all rows" in refused.reason
        assert verdict(QualityGate, replace(found, served=(target[:, None] + 0.5).astype(np.float32))).passed


# Leakage


@pytest.mark.parametrize(("metric", "validation"), [("roc_auc", 0.83), ("accuracy", 0.75), ("log_loss", 0.5)])
def test_rows_that_were_seen_are_answered_too_well(metric: str, validation: float) -> None:
    known = Validation(value=validation, rows=8000)
    healthy = verdict(LeakageGate, binary(metric=metric, validation=known))
    assert healthy.passed, healthy.reason
    remembered = answers(np.where(DRAW.random(N) < 0.97, 0.97 * TARGET + 0.01, PROBABILITY))
    leaking = verdict(LeakageGate, binary(metric=metric, validation=known, served=remembered))
    assert not leaking.passed
    assert leaking.observed < leaking.bound  # type: ignore[operator]
    assert "seen held-out rows" in leaking.reason


def test_perfect_answers_to_few_rows_prove_nothing() -> None:
    """A bootstrap of perfect answers has no spread; the rule of three has."""
    some = np.arange(60)
    perfect = answers(0.98 * TARGET[some] + 0.01)
    for metric, validation in (("roc_auc", 0.97), ("accuracy", 0.95), ("log_loss", 0.12), ("brier", 0.03)):
        found = binary(
            metric=metric, target=TARGET[some], served=perfect, validation=Validation(value=validation, rows=240)
        )
        assert verdict(LeakageGate, found).passed, metric
    few = binary(target=TARGET[:40], served=answers(TARGET[:40]), validation=Validation(value=0.5, rows=160))
    assert "too few" in verdict(LeakageGate, few).reason


def test_leakage_of_a_regression_and_without_a_validation() -> None:
    target = DRAW.normal(size=400)
    served = target[:, None] + 0.5 * DRAW.normal(size=(400, 1))
    same = Validation(value=0.5, rows=1600)
    assert verdict(LeakageGate, regression(target, served, validation=same)).passed
    assert not verdict(LeakageGate, regression(target, (served + target[:, None]) / 2, validation=same)).passed
    assert not verdict(LeakageGate, binary(validation=None)).passed


# Calibration


def test_overconfidence_is_refused_and_noise_is_not() -> None:
    healthy = verdict(CalibrationGate, binary())
    assert healthy.passed
    assert healthy.numbers["ece_low"] < healthy.numbers["ece"]
    (curve,) = healthy.tables
    assert sum(row[1] for row in curve.rows) == N  # type: ignore[misc]
    assert all(abs(row[2] - row[3]) < 0.15 for row in curve.rows)  # type: ignore[operator]
    too_sure = verdict(CalibrationGate, binary(served=OVERCONFIDENT))
    assert not too_sure.passed
    assert too_sure.observed > too_sure.bound == 0.1  # type: ignore[operator]
    for at in range(20):  # a calibrated model on 60 rows has a large error by noise alone
        some = np.random.default_rng(at).choice(N, 60, replace=False)
        assert verdict(CalibrationGate, binary(target=TARGET[some], served=CALIBRATED[some])).passed
    few = verdict(CalibrationGate, binary(target=TARGET[:30], served=OVERCONFIDENT[:30]))
    assert "too few" in few.reason


@pytest.mark.parametrize(
    ("planted", "wrong"),
    [
        pytest.param(np.log, N, id="logits"),
        pytest.param(lambda good: good * 0.9, N, id="not summing to 1"),
        pytest.param(lambda good: np.where(np.arange(N)[:, None] == 3, np.nan, good), 1, id="one NaN"),
        pytest.param(lambda good: np.where(np.arange(N)[:, None] == 3, [[1.5, -0.5]], good), 1, id="one beyond 1"),
    ],
)
def test_what_is_no_probability_is_refused(planted: Any, wrong: int) -> None:
    found = verdict(CalibrationGate, binary(served=planted(CALIBRATED).astype(np.float32)))
    assert not found.passed
    assert f"{wrong} of {N} answers are no probabilities" in found.reason


def test_a_regression_must_not_err_to_one_side() -> None:
    target = DRAW.normal(10, 3, 400)
    served = target[:, None] + DRAW.normal(size=(400, 1))
    good = verdict(CalibrationGate, regression(target, served))
    assert good.passed
    assert len(good.tables[0].rows) == 10
    for shift in (1.0, -1.0):
        found = verdict(CalibrationGate, regression(target, served + shift))
        assert not found.passed
        assert np.sign(found.numbers["error"]) == shift
    assert not verdict(CalibrationGate, regression(target, np.full((400, 1), np.nan))).passed


def test_several_classes_are_judged_by_the_highest_probability() -> None:
    schema = RowSchema(columns=SCHEMA.columns, target="y", task="multiclass", classes=("a", "b", "c"))
    served = DRAW.dirichlet([1, 1, 1], N)
    target = (served.cumsum(axis=1) > DRAW.random((N, 1))).argmax(axis=1).astype(float)
    found = binary(schema=schema, target=target, served=served.astype(np.float32))
    assert verdict(CalibrationGate, found).passed
    sharp = served**5 / (served**5).sum(axis=1, keepdims=True)
    assert not verdict(CalibrationGate, replace(found, served=sharp.astype(np.float32))).passed


# Robustness

MIXED = RowSchema(
    columns=(
        Column(name="a", kind="number"),
        Column(name="t", kind="timestamp"),
        Column(name="c", kind="category"),
        Column(name="f", kind="boolean"),
    ),
    target="y",
    task="binary",
    classes=("no", "yes"),
)
FRAME = pd.DataFrame(
    {
        "a": np.where(DRAW.random(300) < 0.1, np.nan, DRAW.normal(size=300)),
        "t": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(DRAW.integers(0, 400, 300), unit="D"),
        "c": DRAW.choice(["u", "v", None], 300),
        "f": DRAW.choice([0.0, 1.0], 300),
    }
)
TENSORS = to_tensors(FRAME, MIXED)


def mixed(model: Any, gates: str = "{}") -> Evidence:
    target = np.arange(300) % 2.0
    return evidence(
        gates, schema=MIXED, tensors=TENSORS, target=target, challenger=Answering(model), served=model(TENSORS)
    )


def probes(table: Table) -> dict[str, dict[str, Any]]:
    return {str(row[0]): dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_probes_bend_what_they_say_and_nothing_else() -> None:
    asked: list[dict[str, np.ndarray]] = []

    def model(tensors: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(tensors)
        return native(1.0, tensors)

    found = verdict(RobustnessGate, mixed(model, "{robustness: {missing: 0.3}}"))
    assert found.passed, found.reason
    assert list(probes(found.tables[0])) == ["noise", "missing", "unseen"]
    _, noise, missing, unseen = asked
    a, f = TENSORS["numeric"].T
    assert np.array_equal(noise["categorical"], TENSORS["categorical"])
    assert np.array_equal(noise["numeric"][:, 1], f)
    moved = (noise["numeric"][:, 0] - a)[~np.isnan(a)] / np.nanstd(a)
    assert moved.std() == pytest.approx(0.01, rel=0.2)
    lost = np.isnan(missing["numeric"]) & ~np.isnan(TENSORS["numeric"])
    assert lost.mean() == pytest.approx(0.3, abs=0.06)
    assert (missing["timestamp"] == MISSING_TIMESTAMP).mean() == pytest.approx(0.3, abs=0.1)
    assert ((missing["categorical"] == "") & (TENSORS["categorical"] != "")).any()
    assert missing["timestamp"].dtype == np.int64
    assert set(unseen["categorical"].ravel()) == {"", "never seen"}
    assert np.array_equal(unseen["categorical"] == "", TENSORS["categorical"] == "")


@pytest.mark.parametrize("probe", ["noise", "missing", "unseen"])
def test_each_probe_finds_what_it_looks_for(probe: str) -> None:
    """A model that answers quite otherwise when a number has changed at all, a field is gone, a category is new."""

    def model(tensors: dict[str, np.ndarray]) -> np.ndarray:
        changed = {
            "noise": (tensors["numeric"][:, 0] != TENSORS["numeric"][:, 0]) & ~np.isnan(TENSORS["numeric"][:, 0]),
            "missing": tensors["timestamp"][:, 0] == MISSING_TIMESTAMP,
            "unseen": ~np.isin(tensors["categorical"][:, 0], ["u", "v", ""]),
        }[probe]
        return answers(np.where(changed, 0.9, 0.1))

    rule = "{robustness: {missing: 0.5}}" if probe == "missing" else "{}"
    found = verdict(RobustnessGate, mixed(model, rule))
    assert not found.passed
    seen = probes(found.tables[0])
    assert next(name for name, one in seen.items() if one["verdict"] == "broken") == probe
    assert found.observed == pytest.approx(seen[probe]["mean change"])

    def silent(tensors: dict[str, np.ndarray]) -> np.ndarray:
        broken = model(tensors)
        return np.where(broken[:, 1:] > 0.5, np.nan, broken).astype(np.float32)

    assert "answers are none" in verdict(RobustnessGate, mixed(silent, rule)).reason


@pytest.mark.parametrize(
    ("weight", "declared", "passes"),
    [
        (1.0, "{column: a, answer: rises}", True),
        (1.0, "{column: a, answer: falls}", False),
        (1.0, "{column: a, answer: falls, label: 'no'}", True),
        (-1.0, "{column: a, answer: rises}", False),
        (1.0, "{column: a, answer: stays}", False),
        (0.0, "{column: a, answer: stays}", True),
        (0.0, "{column: a, answer: rises}", True),  # ties are kept
    ],
)
def test_directions(weight: float, declared: str, passes: bool) -> None:
    found = verdict(
        RobustnessGate, mixed(lambda tensors: native(weight, tensors), f"{{robustness: {{directions: [{declared}]}}}}")
    )
    assert found.passed is passes, found.reason
    last = list(probes(found.tables[0]).values())[-1]
    assert last["rows"] == FRAME["a"].notna().sum()
    assert (last["share kept"] == 1.0) is passes


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("{column: c, answer: rises}", "it is a category, which cannot be raised"),
        ("{column: b, answer: rises}", "the model reads no such column"),
        ("{column: a, answer: rises, label: maybe}", "there is no class 'maybe'"),
    ],
)
def test_a_direction_that_means_nothing_says_so(declared: str, said: str) -> None:
    found = verdict(
        RobustnessGate, mixed(lambda tensors: native(1.0, tensors), f"{{robustness: {{directions: [{declared}]}}}}")
    )
    assert not found.passed
    assert said in found.reason


# Slices


def test_groups_are_values_quarters_and_what_is_missing() -> None:
    assert groups(pd.Series(["x", None, "y", "x"])).tolist() == ["x", "missing", "y", "x"]
    assert set(groups(pd.Series([0.0, 1.0, np.nan, 1.0]))) == {"0", "1", "missing"}
    quarters = groups(pd.Series([*range(100), None], dtype=float))
    names, counts = np.unique(quarters, return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {
        "up to 25": 26, "25 to 50": 25, "50 to 75": 25, "above 75": 24, "missing": 1,
    }  # fmt: skip
    mostly = groups(pd.Series([0.0] * 90 + [1, 2, 3, 4, 5, 6]))
    assert set(mostly) == {"up to 0", "above 0"}
    assert set(groups(pd.Series([6.0] * 90 + [1, 2, 3, 4, 5]))) == {"up to 5", "above 5"}
    days = groups(pd.Series(pd.date_range("2026-01-01", periods=9, tz="UTC")))
    assert days[0] == "up to 2026-01-03"
    assert len(set(days)) == 4


def test_groups_stand_in_the_order_of_their_values() -> None:
    numbers = pd.Series([*range(100), None], dtype=float)
    assert in_order(numbers, groups(numbers)) == ["up to 25", "25 to 50", "50 to 75", "above 75", "missing"]
    texts = pd.Series(["x", None, "b", "x"])
    assert in_order(texts, groups(texts)) == ["b", "x", "missing"]


def sliced(gates: str, spoiled: float = 0.0, size: int = 600, **changes: Any) -> Evidence:
    """Two groups by `g`; in the second, this share of the answers is upside down."""
    frame = pd.DataFrame({"g": np.where(np.arange(N) < size, "second", "first"), "n": DRAW.normal(size=N)})
    upside = (np.arange(N) < size) & (np.random.default_rng(2).random(N) < spoiled)
    served = np.where(upside[:, None], CALIBRATED[:, ::-1], CALIBRATED)
    return binary(f"{{slices: {gates}}}", served=served, rows=frame, **changes)


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "log_loss"])
def test_a_group_that_is_left_behind_is_named(metric: str) -> None:
    healthy = verdict(SlicesGate, sliced("{columns: [g, n]}", metric=metric))
    assert healthy.passed, healthy.reason
    (shown,) = healthy.tables
    assert [row[:3] for row in shown.rows[:2]] == [("g", "first", 1400), ("g", "second", 600)]
    assert all(row[4] <= row[3] <= row[5] for row in shown.rows)  # type: ignore[operator]
    found = verdict(SlicesGate, sliced("{columns: [g, n]}", spoiled=0.6, metric=metric))
    assert not found.passed
    assert "g second" in found.reason
    assert "g first" not in found.reason
    assert found.observed > found.bound == pytest.approx(0.1)  # type: ignore[operator]


def test_few_rows_are_shown_and_not_judged() -> None:
    found = verdict(SlicesGate, sliced("{columns: [g]}", spoiled=1.0, size=40))
    assert found.passed
    second = found.tables[0].rows[1]
    assert second[3] < 0.5  # type: ignore[operator]
    assert second[4] is second[5] is None
    assert "fewer than 50 rows" in str(second[6])


@pytest.mark.parametrize("bound", ["", ", max_gap: null, worst: 0.5", ", worst: 0.5"])
def test_a_large_group_of_one_class_cannot_be_judged(bound: str) -> None:
    """Wrong throughout, and no number says so."""
    one_class = {"target": np.where(np.arange(N) < 600, 1.0, TARGET), "spoiled": 1.0}
    found = verdict(SlicesGate, sliced(f"{{columns: [g]{bound}}}", **one_class))
    assert not found.passed
    assert "g second cannot be judged: roc_auc is undefined on its 600 rows" in found.reason
    assert "other columns" in found.reason
    assert "undefined here" in str(found.tables[0].rows[1][6])
    assert verdict(SlicesGate, sliced("{columns: [g], max_gap: null}", **one_class)).passed


def test_the_worst_group_has_a_bound_of_its_own() -> None:
    rule = "{columns: [g], max_gap: null, worst: %s}"
    assert verdict(SlicesGate, sliced(rule % 0.7)).passed
    asked = verdict(SlicesGate, sliced(rule % 0.9))
    assert not asked.passed
    assert asked.bound == 0.9
    assert asked.observed is not None
    assert asked.observed < 0.9
    assert verdict(SlicesGate, sliced(rule % 0.7, metric="log_loss")).passed
    assert not verdict(SlicesGate, sliced(rule % 0.4, metric="log_loss")).passed


def test_noise_refuses_no_group() -> None:
    """Forty groups of fifty rows of one and the same model: each alone would be out of its interval now and then."""
    for at in range(5):
        names = np.random.default_rng(at).permutation(np.repeat([f"{one:02}" for one in range(40)], 50))
        found = binary("{slices: {columns: [g], max_gap: 0.0}}", rows=pd.DataFrame({"g": names}))
        assert verdict(SlicesGate, found).passed


def test_fairness_is_fairlearns() -> None:
    label, group = CALIBRATED.argmax(axis=1), np.where(np.arange(N) < 600, "second", "first")
    rates = [label[group == one].mean() for one in ("first", "second")]
    assert measure("demographic_parity_difference", TARGET, label, group) == pytest.approx(abs(rates[0] - rates[1]))
    fair = verdict(SlicesGate, sliced("{columns: [g], fairness: {demographic_parity_ratio: 0.8}}"))
    assert fair.passed
    (row,) = fair.tables[1].rows
    assert row[2] == pytest.approx(min(rates) / max(rates))
    frame = pd.DataFrame({"g": np.where(PROBABILITY > 0.6, "high", "low")})
    found = binary(
        "{slices: {columns: [g], max_gap: null, fairness: {demographic_parity_difference: 0.2}}}", rows=frame
    )
    unfair_ = verdict(SlicesGate, found)
    assert not unfair_.passed
    assert "demographic_parity_difference over g" in unfair_.reason
    assert (unfair_.observed, unfair_.bound) == (unfair_.numbers["g_demographic_parity_difference"], 0.2)
    never = replace(found, served=answers(np.full(N, 0.1)))
    ratio = replace(never, spec=sliced("{columns: [g], fairness: {equalized_odds_ratio: 0.8}}").spec)
    assert not verdict(SlicesGate, ratio).passed  # no rate to divide by
    assert unfair("equalized_odds_ratio", 0.7, 0.8)
    assert not unfair("equalized_odds_difference", 0.7, 0.8)


def test_a_column_that_is_not_there_is_refused() -> None:
    found = verdict(SlicesGate, sliced("{columns: [gg, n, q]}"))
    assert not found.passed
    assert "no column 'gg'" in found.reason
    assert "'q'" in found.reason
    assert verdict(SlicesGate, binary()).passed


def test_the_chain_of_the_other_tests_is_healthy() -> None:
    """What these tests call healthy is healthy by the gates' own measure on other rows as well."""
    frame = rows(4000)
    tensors = to_tensors(frame, SCHEMA)
    served = native(5.6, tensors)
    found = evidence(
        tensors=tensors, target=encode_target(frame, SCHEMA), served=served, native=served,
        validation=Validation(value=0.98, rows=4000), challenger=Answering(lambda asked: native(5.6, asked)),
    )  # fmt: skip
    for kind in (QualityGate, LeakageGate, CalibrationGate, RobustnessGate):
        assert verdict(kind, found).passed, verdict(kind, found).reason
