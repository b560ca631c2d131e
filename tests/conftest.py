"""Servers of a test run, one of a kind for each worker, and none left behind; marks and groups by what a test needs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pipeline import stack
from pipeline.process import cores
from pipeline.programs import environment
from pipeline.settings import Settings
from pipeline.sweep import sweep
from tests.support.postgres import Postgres, is_installed, running_postgres
from tests.support.s3 import S3, running_s3
from tests.support.servers import ServerGuard
from tests.support.settings import CHECKOUT, own_settings
from tests.tiers import HEAVY

SERVERS = {"stack_settings", "airflow_settings", "shared_triton", "own_triton", "postgres"}  # fixtures
TOOLS = {
    "helm": ((CHECKOUT / ".tools" / "helm").is_file, "no helm here: make env"),
    "postgres": (is_installed, "no PostgreSQL here: apt-get install postgresql"),
    "buildah": (lambda: shutil.which("buildah") is not None, "no buildah here: apt-get install buildah"),
    "cluster": (
        lambda: any(Path(name).is_file() for name in os.environ.get("KUBECONFIG", "").split(os.pathsep)),
        "KUBECONFIG names no file of a cluster",
    ),
}
guard = ServerGuard()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the developer's settings out; let a terminated run clean up as an interrupted one does."""
    for name in [name for name in os.environ if name.startswith("SLIPWAY_")]:
        del os.environ[name]
    os.environ.update(environment(Settings()))
    del os.environ["MLFLOW_TRACKING_URI"]  # names the developer's own server
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(2, cores() // workers))))
    hypothesis.settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("untimed")  # a busy machine is no mistake
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


@pytest.hookimpl(tryfirst=True)  # before tests are selected by mark, and before groups become a part of the ids
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a server; skip what lacks its tool; keep the tests of a file, or of a server, on one worker."""
    missing = {mark: reason for mark, (is_here, reason) in TOOLS.items() if not is_here()}
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & SERVERS:
            item.add_marker(pytest.mark.stack)
        if "postgres" in fixtures:
            item.add_marker(pytest.mark.postgres)
        if item.get_closest_marker("heavy"):
            item.user_properties.append(HEAVY)  # JUnit reports have no marks
        for mark in missing.keys() & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.skip(reason=missing[mark]))
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_group(item.path, fixtures)))


def _group(file: Path, fixtures: set[str]) -> str:
    """Return the name that tests share which one worker runs: those of the Airflow, of chaos, or of a file."""
    if "airflow_settings" in fixtures:
        return "airflow"
    return "chaos" if file.parent.name == "chaos" else f"{file.parent.name}.{file.stem}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the seconds of a subtest once: its test has them too."""
    if isinstance(report, pytest.SubtestReport):
        report.duration = 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Refuse servers to tests without the mark `stack`, and to their fixtures of any scope."""
    guard.test = "" if item.get_closest_marker("stack") else item.nodeid
    try:
        return (yield)
    finally:
        guard.test = ""


@pytest.hookimpl(trylast=True)  # after all fixtures are torn down
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End whatever the tests have started under their temporary folder, also that of a worker that was killed."""
    factory: pytest.TempPathFactory = session.config._tmp_path_factory
    sweep(factory.getbasetemp())  # the folders of pytest-xdist's workers lie below


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home of its own and free ports; nothing is started."""
    return own_settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def stack_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """MLflow and the serving Triton, really running for the whole session, for a project without specs."""
    root = tmp_path_factory.mktemp("project")
    (root / "dags" / "specs").mkdir(parents=True)
    (root / "feature_checks" / "suites").mkdir(parents=True)
    for name in ("pipelines.py", ".airflowignore"):
        shutil.copyfile(CHECKOUT / "dags" / name, root / "dags" / name)
    settings = own_settings(root=root, home=root / ".slipway")
    try:
        stack.up(settings, ("mlflow", "triton"))
        yield settings
    finally:
        stack.down(settings)


@pytest.fixture(scope="session")
def airflow_settings(stack_settings: Settings) -> Settings:
    """A real Airflow beside them: specs written to `specs_dir`, or DAG files to <root>/dags, become its DAGs."""
    stack.up(stack_settings, ("airflow",))
    return stack_settings


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL that asks for a password; tests take databases of their own."""
    with running_postgres(tmp_path_factory.getbasetemp()) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server; tests create buckets of their own, and call `use` to have its address in their environment."""
    with running_s3() as server:
        yield server
