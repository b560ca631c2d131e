"""MLflow stores of tests without a server; MLflow is imported when the first test asks, not when tests are collected."""

from __future__ import annotations

import contextlib
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run import Run
from pipeline.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


def mlflow_client(settings: Settings) -> MlflowClient:
    """Return a client of the tracking server of these settings."""
    from mlflow import MlflowClient

    return MlflowClient(settings.mlflow_uri)


def new_tracking_uri(file: Path) -> str:
    """Write an MLflow database without runs to the file and return its URI.

    MLflow takes two seconds to create its tables; each process does so once, and each call copies them.
    """
    file.write_bytes(_empty_database())
    return f"sqlite:///{file}"


@cache
def _empty_database() -> bytes:
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
    ):  # artifacts are kept below the current folder
        file = Path(folder, "mlflow.db")
        settings = Settings(home=Path(folder), mlflow_uri=f"sqlite:///{file}")
        Run("first", "first", settings, Path("first.yaml")).registry.alias("nothing", "champion")
        return file.read_bytes()
