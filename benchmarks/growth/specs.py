"""Specs as DAGs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.settings import Settings

SPEC = """version: 1
name: grown_{at}
task: {{kind: binary, positive: malignant}}
data: {{source: "sklearn://breast_cancer", target: target}}
checks: {{suite: breast_cancer}}
candidates:
  - {{kind: xgboost, trials: 8}}
  - {{kind: torch, trials: 4}}
"""


def specs(count: int, folder: Path) -> Callable[[], None]:
    """Airflow's import and the parse of every spec to a DAG, as its DAG processor does in a process of its own."""
    settings = Settings(home=folder / "home", specs_dir=folder / "specs")
    settings.specs_dir.mkdir()
    for at in range(count):
        (settings.specs_dir / f"grown_{at}.yaml").write_text(SPEC.format(at=at), encoding="utf-8")

    def parse() -> None:
        from dags.pipelines import load

        found = load(settings)
        if len(found) != count + 1:
            raise SystemExit(f"{len(found)} DAGs of {count} specs")

    return parse
