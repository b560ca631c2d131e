"""A real MLflow with no server: a database file and a folder of artifacts."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.registry import Registry
from pipeline.settings import Settings


def tracked(folder: Path) -> Settings:
    """Settings of it, below `folder`."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    os.chdir(home)  # MLflow puts the artifacts of a server-less store below the folder in which it is opened
    settings = Settings(home=home, mlflow_uri=f"sqlite:///{home}/mlflow.db", threads=1)
    Registry(settings).alias("nothing", "champion")  # makes the tables
    return settings
