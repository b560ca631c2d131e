"""The gates' part of a spec: what must hold before a version becomes champion, and who lets what pass until when."""

from __future__ import annotations

import json
from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, field_validator, model_validator

from pipeline.frozen import Written

Metric = Literal[
    "accuracy", "balanced_accuracy", "f1", "precision", "recall", "roc_auc", "average_precision", "log_loss", "brier",
    "ece", "rmse", "mae", "r2",
]  # fmt: skip
LOWER_IS_BETTER: frozenset[str] = frozenset({"log_loss", "brier", "ece", "rmse", "mae"})
GateName = Literal[
    "quality", "champion", "leakage", "slices", "calibration", "parity", "robustness", "judge", "latency"
]
Fairness = Literal[
    "demographic_parity_difference", "demographic_parity_ratio", "equalized_odds_difference", "equalized_odds_ratio",
    "equal_opportunity_difference", "equal_opportunity_ratio",
]  # fmt: skip
Confidence = Annotated[float, Field(gt=0.5, lt=1)]
Column = Annotated[str, StringConstraints(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
MOST_REQUESTS = 1_000_000  # of one measurement of latency
_FILLERS = "\u115f\u1160\u3164\uffa0"  # letters by Unicode, and blank


def _readable(text: str) -> str:
    """Refuse a text that nobody can read: as long as it must be, and of characters that do not show."""
    if not any(char.isalnum() and char not in _FILLERS for char in text):
        raise ValueError("there is no letter in it that can be read")
    return text


class Tolerance(Written):
    """Two numbers agree when |a - b| <= atol + rtol * |b|."""

    atol: float = Field(default=1e-5, ge=0, description="of a probability, or in target standard deviations")
    rtol: float = Field(default=1e-4, ge=0)

    def in_units(self, unit: float) -> Tolerance:
        """The tolerance with `atol` counted in `unit` (see `pipeline.target.answer_unit`)."""
        return Tolerance(atol=self.atol * unit, rtol=self.rtol)


class Export(Tolerance):
    """How far the graph may be from the model, and whether a TensorRT plan of it is tried where GPUs serve."""

    tensorrt: Literal["auto"] | None = Field(
        default=None,
        description="auto: a network that GPUs serve is answered by a TensorRT plan, built on the GPU that serves, if "
        "that loads, answers as the model does, and is not slower where serving.tune measures; else by its graph",
    )


class Quality(Written):
    """Bounds on the metrics of the held-out rows, as the server answered them."""

    at_least: dict[Metric, float] = Field(default={})
    at_most: dict[Metric, float] = Field(default={})


class ChampionGate(Written):
    """Comparison with the champion on the same held-out rows: paired bootstrap of the primary metric's difference."""

    margin: float = Field(
        default=0.005,
        ge=0,
        description="how much worse the interval's lower end may be; rmse, mae: in target standard deviations",
    )
    confidence: Confidence = 0.95
    resamples: int = Field(default=1000, ge=100, le=100_000)
    min_rows: int = Field(default=30, ge=2)


class Leakage(Written):
    """Held-out rows must not be answered better than rows of tuning were: a model that is has seen them."""

    share: float = Field(
        default=0.8, gt=0, le=1, description="of the validation error that the held-out error must not be below"
    )
    confidence: Confidence = 0.99
    min_rows: int = Field(default=50, ge=2, description="fewer held-out rows prove nothing: shown, and not judged")


class Slices(Written):
    """The primary metric in each group of rows, for columns by which no group may be left behind."""

    columns: tuple[Column, ...] = Field(default=(), description="a number is cut at its quartiles")
    min_rows: int = Field(default=50, ge=2, description="a smaller group is shown, and not judged")
    confidence: Confidence = Field(default=0.95, description="of all groups together: each interval is widened")
    max_gap: float | None = Field(
        default=0.1,
        ge=0,
        description="by which a group may be worse than all rows; rmse, mae: in target standard deviations",
    )
    worst: float | None = Field(default=None, description="bound of the primary metric in the worst group")
    fairness: dict[Fairness, float] = Field(
        default={}, description="fairlearn's metrics over each column: a difference at most, a ratio at least this"
    )


class Calibration(Written):
    """Whether probabilities are what they say; of a regression, whether it errs to one side."""

    max_error: float = Field(
        default=0.1, gt=0, description="expected calibration error; mean error in target standard deviations"
    )
    confidence: Confidence = 0.95
    min_rows: int = Field(default=50, ge=2, description="fewer held-out rows prove nothing: shown, and not judged")


class Direction(Written):
    """What a larger value of a number must do to the answer, all else equal."""

    column: Column
    by: float = Field(default=1.0, gt=0, description="standard deviations of the column by which it is raised")
    answer: Literal["rises", "falls", "stays"] = Field(
        description="the positive class's probability, or the prediction; ties count as kept"
    )
    label: str | None = Field(default=None, description="class whose probability is meant (default: the positive one)")
    share: Share = Field(default=0.95, description="of the rows for which it must hold")


class Robustness(Written):
    """How far an answer may move when a row changes a little, loses fields, or has categories never seen."""

    noise: float = Field(default=0.01, gt=0, description="standard deviations by which numbers move")
    mean_change: float = Field(default=0.1, gt=0, description="of a probability, or in target standard deviations")
    missing: Share = Field(default=0.1, description="share of the fields that go missing")
    missing_change: float = Field(default=0.25, gt=0, description="mean change that this may cause")
    unseen_change: float = Field(default=0.5, gt=0, description="mean change when a row's categories were never seen")
    directions: tuple[Direction, ...] = ()


class Latency(Written):
    """Latency at a declared load, requests arriving at a rate whether or not earlier ones were answered."""

    rate_per_s: float = Field(default=50.0, gt=0, le=10_000)
    duration_s: float = Field(default=3.0, gt=0, le=600)
    rows: int = Field(default=1, ge=1, le=100_000, description="rows of a request")
    p50_ms: float | None = Field(default=None, gt=0)
    p95_ms: float = Field(default=50.0, gt=0)
    p99_ms: float | None = Field(default=None, gt=0)
    error_rate: float = Field(default=0.0, ge=0, lt=1)
    max_slowdown: float | None = Field(
        default=1.5, gt=1, description="median time of a request, as a multiple of the champion's; null: any"
    )

    @model_validator(mode="after")
    def _countable(self) -> Latency:
        if (count := self.rate_per_s * self.duration_s) > MOST_REQUESTS:
            raise ValueError(f"rate_per_s times duration_s is {count:,.0f} requests, {MOST_REQUESTS:,} are allowed")
        return self


class JudgeMetric(Written):
    """A metric of DeepEval by its class's name, with what its constructor takes."""

    metric: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Za-z]+$")]
    options: dict[str, JsonValue] = Field(default={}, description="name, criteria, threshold: as DeepEval names them")

    @field_validator("options")
    @classmethod
    def _finite(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            json.dumps(options, allow_nan=False)
        except ValueError:
            raise ValueError("each number in it must be a finite number") from None
        return options


class Judge(Written):
    """DeepEval's metrics on answers as text; a model that judges is asked `votes` times for each row."""

    metrics: tuple[JudgeMetric, ...] = ()
    rows: int = Field(default=20, ge=1, le=10_000, description="held-out rows that are judged")
    votes: Annotated[int, Field(ge=1, le=25)] = 3
    pass_rate: Share = Field(default=0.8, description="of the rows, by majority of the votes")
    confidence: Confidence = Field(default=0.9, description="of the interval: a rate inside it is inconclusive")


class Waiver(Written):
    """A gate whose refusal does not stop a promotion, until a date: somebody answers for that, with a reason."""

    gate: GateName
    by: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True), AfterValidator(_readable)] = Field(
        description="who answers for it"
    )
    reason: Annotated[str, StringConstraints(min_length=10, strip_whitespace=True), AfterValidator(_readable)]
    until: date = Field(description="the last day on which it counts")

    @model_validator(mode="after")
    def _may_be_waived(self) -> Waiver:
        if self.gate == "parity":
            raise ValueError("parity cannot be waived: what answers otherwise is another model; widen its tolerance")
        return self

    def holds(self, today: date) -> bool:
        """Whether it counts on this day."""
        return today <= self.until


class Gates(Written):
    """What must hold before a version becomes champion. All gates are on; a waiver is the one way around one."""

    quality: Quality = Quality()
    champion: ChampionGate = ChampionGate()
    leakage: Leakage = Leakage()
    slices: Slices = Slices()
    calibration: Calibration = Calibration()
    parity: Tolerance = Tolerance()
    robustness: Robustness = Robustness()
    judge: Judge = Judge()
    latency: Latency = Latency()
    waivers: tuple[Waiver, ...] = ()

    @model_validator(mode="after")
    def _waived_once(self) -> Gates:
        names = [waiver.gate for waiver in self.waivers]
        if doubles := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two waivers of {', '.join(doubles)}; keep one")
        return self
