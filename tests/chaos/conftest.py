"""A world of its own: MLflow, the serving Triton with its watcher, a small pipeline whose steps can be killed."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from pipeline import stack
from pipeline.graph import STEPS
from pipeline.ports import free_ports
from pipeline.run import Run
from pipeline.settings import PREFIX, Settings
from pipeline.spec import PipelineSpec
from pipeline.spec_file import load_spec
from pipeline.sweep import marked
from tests.chaos.children import Child, Ended, warm_up

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "serving"))  # its chain and packages are of use here

SPEC = """version: 1
name: {name}
task: {{kind: binary}}
data: {{source: ../../rows.csv, target: y}}
candidates: [{{kind: xgboost, trials: 2, folds: 2, rounds: 30}}]
gates:
  quality: {{at_least: {{roc_auc: 0.7}}}}
  champion: {{margin: 0.2}}
  calibration: {{max_error: 0.5}}
  latency: {{rate_per_s: 50, duration_s: 0.2, p95_ms: 5000}}
"""
PORTS = ("airflow_port", "mlflow_port", "triton_http_port", "triton_grpc_port", "triton_metrics_port")


def variables(settings: Settings) -> dict[str, str]:
    """The environment that makes a process read these settings."""
    values = settings.model_dump(exclude_none=True)
    shown = {key: value.get_secret_value() if isinstance(value, SecretStr) else value for key, value in values.items()}
    return {f"{PREFIX}{key.upper()}": str(value) for key, value in shown.items()}


@dataclass
class World:
    """A project with its servers, and its steps as processes."""

    settings: Settings
    logs: Path
    count: int = 0
    draw: random.Random = field(default_factory=lambda: random.Random(20261125))

    def spec(self, name: str, text: str = SPEC) -> Path:
        path = self.settings.specs_dir / f"{name}.yaml"
        path.write_text(text.format(name=name))
        return path

    def loaded(self, name: str) -> PipelineSpec:
        return load_spec(self.settings.specs_dir / f"{name}.yaml")

    def run(self, name: str, run_id: str, settings: Settings | None = None) -> Run:
        return Run(run_id, name, settings or self.settings, self.settings.specs_dir / f"{name}.yaml")

    def start(
        self, step: str, name: str, run_id: str, at: int | str = 0, settings: Settings | None = None, **env: str
    ) -> Child:
        """The step as Airflow starts it; with `at`, killed before its write of that number."""
        found = next(item for item in STEPS if item.name == step)
        argv = ["--spec", str(self.settings.specs_dir / f"{name}.yaml"), "--run", run_id]
        argv += ["--candidate", "xgboost"] if found.per_candidate else []
        return self.child(found.module, argv, at, settings, **env)

    def child(
        self, module: str, argv: list[str], at: int | str = 0, settings: Settings | None = None, **env: str
    ) -> Child:
        self.count += 1
        log = self.logs / f"{self.count}-{module}.log"
        env = {**variables(settings or self.settings), **env}
        return Child(module, argv, env, log, str(self.settings.home), at)

    def step(self, step: str, name: str, run_id: str, **options: object) -> Ended:
        return self.start(step, name, run_id, **options).end()  # type: ignore[arg-type]

    def through(self, name: str, run_id: str, until: str = "promote") -> dict[str, float]:
        """Every step up to one, undisturbed; the seconds of each."""
        seconds = {}
        for step in STEPS:
            ended = self.step(step.name, name, run_id)
            assert ended.code == 0, ended.said
            seconds[step.name] = ended.seconds
            if step.name == until:
                break
        return seconds


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("chaos")
    for folder in ("dags/specs", "feature_checks/suites", "logs"):
        (root / folder).mkdir(parents=True)
    ports = dict(zip(PORTS, free_ports("127.0.0.1", len(PORTS)), strict=True))
    triton = Path(__file__).resolve().parents[2] / ".triton"
    settings = Settings.model_validate({"root": root, "home": root / ".slipway", "triton_dir": triton, **ports})
    draw = np.random.default_rng(3)
    frame = pd.DataFrame({"a": draw.normal(size=300), "b": draw.normal(size=300), "c": draw.choice(["u", "v"], 300)})
    frame["y"] = np.where(frame["a"] + 0.3 * draw.normal(size=300) > 0, "yes", "no")
    frame.to_csv(root / "rows.csv", index=False)
    try:
        stack.up(settings, ("mlflow", "triton"))
        warm_up()
        yield World(settings, root / "logs")
    finally:
        stack.down(settings)
    assert marked(settings.home) == []


@pytest.fixture(scope="session")
def calm(world: World) -> dict[str, float]:
    """The seconds of each step of run `r1` of the pipeline `calm`, which nobody disturbs."""
    world.spec("calm")
    return world.through("calm", "r1")
