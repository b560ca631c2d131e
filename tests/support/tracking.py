"""Read what steps have logged to MLflow, which is imported at the first question: tests are collected without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


def mlflow_client(settings: Settings) -> MlflowClient:
    """Return a client of the tracking server of these settings."""
    from mlflow import MlflowClient

    return MlflowClient(settings.mlflow_uri)
