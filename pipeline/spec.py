"""What is built: the one-page spec of a model. Changing it changes the model, so its digest is lineage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from pipeline.columns import ColumnKind, TaskKind
from pipeline.digest import digest_json
from pipeline.engine import Engine, Local, Resources, contradiction
from pipeline.errors import Invalid
from pipeline.frozen import Written
from pipeline.gate_rules import Export, Gates, Metric
from pipeline.mask import mask
from pipeline.serving_rules import Serving

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9_]{0,61}[a-z0-9])?$")]  # a label's value
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
WEEK_S = 604_800.0
_KEPT = "data.source holds a secret, and a spec is kept with each run: "
_INSTEAD = (
    "write the URL without; S3 takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, other servers fsspec's variables, "
    "such as FSSPEC_HTTPS"
)
PRIMARY: dict[TaskKind, Metric] = {"binary": "roc_auc", "multiclass": "log_loss", "regression": "rmse"}
METRICS: dict[TaskKind, tuple[Metric, ...]] = {
    "binary": (
        "accuracy", "balanced_accuracy", "f1", "precision", "recall", "roc_auc", "average_precision", "log_loss",
        "brier", "ece",
    ),
    "multiclass": ("accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "ece"),
    "regression": ("rmse", "mae", "r2"),
}  # fmt: skip


class Binary(Written):
    """Two classes; the metrics are about the positive one."""

    kind: Literal["binary"]
    positive: str | None = Field(default=None, description="label of the positive class (default: the last sorted)")


class Multiclass(Written):
    """Three classes or more."""

    kind: Literal["multiclass"]


class Regression(Written):
    """A number."""

    kind: Literal["regression"]


Task = Annotated[Binary | Multiclass | Regression, Field(discriminator="kind")]


class Data(Written):
    """Where the rows come from, and which column is to be predicted."""

    source: str = Field(
        min_length=1,
        description="sklearn://NAME; a CSV or Parquet file by path (relative to the spec) or fsspec URL; "
        "a SQLAlchemy URL with `table` or `query`",
    )
    target: str = Field(min_length=1, description="name of the column to predict")
    table: str | None = Field(default=None, description="table of a database source, as [schema.]name")
    query: str | None = Field(default=None, description="SQL query of a database source")
    password_env: str | None = Field(default=None, description="environment variable that holds the password")
    drop: tuple[str, ...] = Field(default=(), description="columns that the model must not read")
    keep: tuple[str, ...] = Field(
        default=(), description="columns to keep although they look constant, double or an id"
    )
    kinds: dict[str, ColumnKind] = Field(default={}, description="kind of a column where the guess is wrong")

    @property
    def secret(self) -> str:
        """What is to be said of a password or token in the address, which a spec would keep; empty without one."""
        if "://" not in self.source or mask(self.source) == self.source:
            return ""
        return _KEPT + ("put it into the variable of `password_env`" if self.is_sql else _INSTEAD)

    @property
    def is_sql(self) -> bool:
        """Whether the source is a database."""
        return self.table is not None or self.query is not None

    @model_validator(mode="after")
    def _one_relation(self) -> Data:
        if self.table is not None and self.query is not None:
            raise ValueError("give `table` or `query`, not both")
        if self.target in self.drop:
            raise ValueError(f"the target {self.target!r} is in `drop`")
        return self


class Split(Written):
    """Which rows are held out: by the hash of a row, so that a held-out row is held out in later snapshots too."""

    holdout: Annotated[float, Field(ge=0.05, le=0.5)] = 0.2
    seed: Seed = 7
    most_held_out: int = Field(default=1_000_000, ge=1000, le=10**9, description="about so many rows at most")


class Checks(Written):
    """The expectation suite that the rows must meet."""

    suite: Name | None = Field(default=None, description="name of feature_checks/suites/NAME.json; null: schema only")


class _Candidate(Written):
    name: Name = Field(default="", validate_default=False)
    engine: Engine = Local(kind="local")
    trials: int = Field(default=20, ge=1, le=10_000, description="most Optuna trials")
    budget_s: float = Field(
        default=120.0, gt=0, le=WEEK_S, description="most seconds of tuning; the final fit comes on top"
    )
    folds: int = Field(default=5, ge=2, le=20, description="folds of cross-validation where rows are few")
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _named(self) -> _Candidate:
        if not self.name:
            object.__setattr__(self, "name", getattr(self, "kind"))  # noqa: B009 (the subclasses have it)
        return self

    @model_validator(mode="after")
    def _what_workers_have(self) -> _Candidate:
        device = getattr(self, "device")  # noqa: B009 (the subclasses have it)
        if wrong := contradiction(self.engine, self.resources, device):
            raise ValueError(wrong)
        return self


class XGBoost(_Candidate):
    """Gradient-boosted trees, with native categories and early stopping."""

    kind: Literal["xgboost"]
    rounds: int = Field(
        default=2000, ge=1, le=1_000_000, description="most boosting rounds; early stopping ends sooner"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Torch(_Candidate):
    """TabM, a parameter-efficient ensemble of perceptrons (arXiv 2410.24210), with numerical embeddings."""

    kind: Literal["torch"]
    trials: int = Field(default=5, ge=1, le=10_000, description="most Optuna trials")
    epochs: int = Field(default=100, ge=1, le=1_000_000, description="most epochs; early stopping ends sooner")
    device: Literal["auto", "cpu", "cuda"] = "auto"


Candidate = Annotated[XGBoost | Torch, Field(discriminator="kind")]


class PipelineSpec(Written):
    """One model, from its rows to its place on the server."""

    version: Literal[1]
    name: Name
    description: str = ""
    owner: str = "slipway"
    tags: tuple[str, ...] = ()
    schedule: str | None = Field(default=None, description="cron expression; null: only when triggered")
    retries: int = Field(default=2, ge=0, le=10, description="of a step that failed because of the outside world")
    seed: Seed = 7
    task: Task
    metric: Metric | None = Field(default=None, description="primary metric (default by task)")
    data: Data
    split: Split = Split()
    checks: Checks = Checks()
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    export: Export = Export()
    gates: Gates = Gates()
    approval: Literal["none", "required"] = Field(
        default="none", description="required: a person says yes before a promotion, having seen the gates' report"
    )
    serving: Serving = Serving()

    @field_validator("data")
    @classmethod
    def _without_secret(cls, data: Data) -> Data:
        if data.secret:
            raise ValueError(data.secret)
        return data

    @model_validator(mode="after")
    def _consistent(self) -> PipelineSpec:
        names = [candidate.name for candidate in self.candidates]
        if doubles := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"candidates share the name {', '.join(doubles)}; give each a `name`")
        allowed = METRICS[self.task.kind]
        used = {self.primary, *self.gates.quality.at_least, *self.gates.quality.at_most}
        if wrong := sorted(used - set(allowed)):
            raise ValueError(f"metric {', '.join(wrong)} is not one of a {self.task.kind} task: {', '.join(allowed)}")
        slices = self.gates.slices
        if self.data.target in slices.columns:
            raise ValueError(f"gates.slices.columns names the target {self.data.target!r}: name what is known before")
        if slices.fairness and self.task.kind != "binary":
            raise ValueError(f"gates.slices.fairness is about a yes or no, and the task is {self.task.kind}; remove it")
        if slices.fairness and not slices.columns:
            raise ValueError("gates.slices.fairness needs gates.slices.columns: between which groups?")
        return self

    @property
    def primary(self) -> Metric:
        """The metric by which candidates and champion are compared."""
        return self.metric or PRIMARY[self.task.kind]

    @property
    def digest(self) -> str:
        """SHA-256 of the spec's canonical JSON, defaults included."""
        return digest_json(self.model_dump(mode="json"))

    def candidate(self, name: str) -> XGBoost | Torch:
        """The candidate of this name. Raises KeyError when there is none."""
        return {candidate.name: candidate for candidate in self.candidates}[name]


class Overrides(Written):
    """What one run may change without a new spec: Airflow's trigger form, and options of `slipway run`."""

    source: str | None = Field(default=None, min_length=1, description="Other rows with the same columns")
    trials: int | None = Field(default=None, ge=1, le=10_000, description="Most tuning trials of each candidate")
    budget_s: float | None = Field(
        default=None, gt=0, le=WEEK_S, description="Most seconds of tuning of each candidate"
    )
    seed: Seed | None = Field(default=None, description="Seed of tuning and fitting")

    def apply(self, spec: PipelineSpec) -> PipelineSpec:
        """The spec with these values in place. Raises Invalid for a source that holds a secret."""
        each = {key: value for key in ("trials", "budget_s") if (value := getattr(self, key)) is not None}
        changes: dict[str, object] = {
            "candidates": tuple(candidate.model_copy(update=each) for candidate in spec.candidates)
        }
        if self.source is not None:
            changes["data"] = data = spec.data.model_copy(update={"source": self.source})
            if data.secret:
                raise Invalid(data.secret, "source", "correct the source")
        if self.seed is not None:
            changes["seed"] = self.seed
        return spec.model_copy(update=changes)
