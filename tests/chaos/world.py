"""A world of its own: MLflow, the serving Triton with its watcher, a small pipeline whose steps can be killed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from pipeline.graph import STEPS
from pipeline.refs import DatasetRef, Evaluation, GateReport, LoggedModelRef, ModelVersionRef, OnnxRef
from pipeline.run import Run
from pipeline.settings import PREFIX, Settings
from pipeline.spec import PipelineSpec
from pipeline.spec_file import load_spec
from tests.chaos.children import Child, Ended

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
        self,
        step: str,
        name: str,
        run_id: str,
        at: int | str = 0,
        settings: Settings | None = None,
        pauses: bool = False,
        **env: str,
    ) -> Child:
        """Start the step as Airflow does; with `at`, it is killed before that write, or with `pauses` waits there."""
        found = next(item for item in STEPS if item.name == step)
        argv = ["--spec", str(self.settings.specs_dir / f"{name}.yaml"), "--run", run_id]
        argv += ["--candidate", "xgboost"] if found.per_candidate else []
        return self.child(found.module, argv, at, settings, pauses, **env)

    def child(
        self,
        module: str,
        argv: list[str],
        at: int | str = 0,
        settings: Settings | None = None,
        pauses: bool = False,
        **env: str,
    ) -> Child:
        self.count += 1
        log = self.logs / f"{self.count}-{module}.log"
        env = {**variables(settings or self.settings), **env}
        return Child(module, argv, env, log, str(self.settings.home), at, pauses)

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


def results(run: Run) -> dict[str, object]:
    """Return what a run has produced, without the names that are its own."""
    scores = run.ref(Evaluation).scores
    return {
        "dataset": run.ref(DatasetRef),
        "native": run.ref(LoggedModelRef, "xgboost").digest,
        "params": run.ref(LoggedModelRef, "xgboost").params,
        "onnx": run.ref(OnnxRef, "xgboost").digest,
        "metrics": [score.metrics for score in scores],
        "served": run.ref(ModelVersionRef).onnx_digest,
        "gates": [(verdict.gate, verdict.outcome) for verdict in run.ref(GateReport).verdicts],
    }
