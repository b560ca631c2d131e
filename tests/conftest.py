"""Real servers for the tests, and none left behind: a project of their own, free ports, a marked process tree."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

from pipeline import stack
from pipeline.ports import free_ports
from pipeline.programs import environment
from pipeline.settings import Settings
from pipeline.sweep import sweep

CHECKOUT = Path(__file__).resolve().parents[1]
PORTS = ("airflow_port", "mlflow_port", "triton_http_port", "triton_grpc_port", "triton_metrics_port")


def pytest_configure(config: pytest.Config) -> None:
    """The developer's settings stay out; a terminated test run tidies up as an interrupted one does."""
    for name in [name for name in os.environ if name.startswith("SLIPWAY_")]:
        del os.environ[name]
    os.environ.update(environment(Settings()))
    del os.environ["MLFLOW_TRACKING_URI"]  # names the developer's own server
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    hypothesis.settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("untimed")  # a busy machine is no mistake
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever a test has started under its temporary folder ends when all tests have."""
    yield
    sweep(tmp_path_factory.getbasetemp())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home of its own and free ports; nothing is started."""
    return _settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def stack_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """MLflow and the serving Triton, really running for the whole session, for a project without specs."""
    root = tmp_path_factory.mktemp("project")
    (root / "dags" / "specs").mkdir(parents=True)
    (root / "feature_checks" / "suites").mkdir(parents=True)
    for name in ("pipelines.py", ".airflowignore"):
        shutil.copyfile(CHECKOUT / "dags" / name, root / "dags" / name)
    settings = _settings(root=root, home=root / ".slipway")
    has_triton = find_spec("serving.server") is not None and settings.triton_dir.is_dir()
    try:
        stack.up(settings, ("mlflow", "triton") if has_triton else ("mlflow",))
        yield settings
    finally:
        stack.down(settings)


@pytest.fixture(scope="session")
def airflow_settings(stack_settings: Settings) -> Settings:
    """A real Airflow beside them: specs written to `specs_dir`, or DAG files to <root>/dags, become its DAGs."""
    stack.up(stack_settings, ("airflow",))
    return stack_settings


def _settings(**values: object) -> Settings:
    ports = dict(zip(PORTS, free_ports("127.0.0.1", len(PORTS)), strict=True))
    return Settings.model_validate({"triton_dir": CHECKOUT / ".triton", **ports, **values})
