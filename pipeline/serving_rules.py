"""How a version is served: what of the spec Triton and rollouts go by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.frozen import Written

Share = Annotated[float, Field(gt=0, lt=1)]


class BlueGreen(Written):
    """All traffic moves to the new version in one step."""

    kind: Literal["blue_green"]


class Canary(Written):
    """Traffic moves in steps; what the new version's pods do under it decides whether it goes on."""

    kind: Literal["canary"]
    shares: tuple[Share, ...] = Field(default=(0.1, 0.5), min_length=1, description="share of the traffic, by step")
    observe_s: float = Field(default=60.0, gt=0, le=86_400, description="seconds of each step")
    max_error_rate: float = Field(default=0.01, ge=0, lt=1, description="failed requests of the new version's")
    max_slowdown: float = Field(default=2.0, ge=1, description="mean latency, as a multiple of the champion's")

    @model_validator(mode="after")
    def _rising(self) -> Canary:
        if list(self.shares) != sorted(set(self.shares)):
            raise ValueError(f"shares must rise: {list(self.shares)}")
        return self


Rollout = Annotated[BlueGreen | Canary, Field(discriminator="kind")]


class ServingSearch(Written):
    """Backend of trees, threads, instances and queue delay by measurement, on a server like the one that will serve.

    The load is that of `gates.latency`. Other options than the declared ones are taken when they were better each time
    that both were measured.
    """

    objective: Literal["latency", "throughput"] = Field(
        default="latency",
        description="the 95th percentile at gates.latency.rate_per_s; or rows a second of `clients` that never rest, "
        "within gates.latency.p95_ms",
    )
    trials: int = Field(default=10, ge=2, le=500, description="most options that are tried")
    duration_s: float = Field(default=2.0, gt=0, le=600, description="seconds of load on each")
    budget_s: float = Field(default=120.0, gt=0, le=86_400, description="no further options are tried after these")
    clients: int = Field(default=16, ge=1, le=1024, description="of the objective throughput")


class Serving(Written):
    """How Triton serves the model."""

    rollout: Rollout = BlueGreen(kind="blue_green")
    tune: ServingSearch | None = Field(default=None, description="search for what is faster; null: as declared here")

    backend: Literal["onnxruntime", "xgboost"] = Field(
        default="onnxruntime",
        description="what answers where trees have won: their ONNX graph, ahead on few rows, or XGBoost itself, ahead "
        "on thousands; a network is always served by onnxruntime",
    )
    max_batch_size: int = Field(default=1024, ge=1, le=65_536)
    max_queue_delay_us: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="how long a request may wait for others to be answered with; 0: those that wait anyway go together",
    )
    instances: int = Field(default=1, ge=1, le=256)
    threads: int = Field(default=1, ge=1, le=1024, description="threads of one inference")
