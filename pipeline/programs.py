"""MLflow and Airflow as programs of the embedded stack, and the environment that every program shares."""

from __future__ import annotations

import base64
import json
import secrets
import sys
from pathlib import Path

from pydantic import SecretStr

from pipeline.daemon import write_private
from pipeline.errors import Invalid
from pipeline.process import cores
from pipeline.program import Program
from pipeline.settings import PREFIX, Settings
from pipeline.sweep import mark

_USER = "admin"


def environment(settings: Settings) -> dict[str, str]:
    """Set for every program: no telemetry, no surprises."""
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "DO_NOT_TRACK": "true",
        "DEEPEVAL_TELEMETRY_OPT_OUT": "YES",
        "DEEPEVAL_DISABLE_DOTENV": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": str(max(2, cores())),  # by which candidates share the memory
        "PYTHONDONTWRITEBYTECODE": "",  # without byte-code each start takes 2-4 times as long
    }


def mlflow(settings: Settings) -> Program:
    """The MLflow server: SQLite and artifacts under <home>/mlflow, one worker, loopback names only."""
    home = settings.home / "mlflow"
    names = {settings.host, "localhost", "127.0.0.1"}
    hosts = ",".join(sorted(names | {f"{name}:{settings.mlflow_port}" for name in names}))
    return Program(
        name="mlflow",
        argv=(
            *(sys.executable, "-m", "mlflow", "server"),
            *("--host", settings.host, "--port", str(settings.mlflow_port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
            *("--artifacts-destination", str(home / "artifacts")),
            *("--allowed-hosts", hosts),
        ),
        env=environment(settings),
        ports={"mlflow_port": settings.mlflow_port},
        ready_url=f"http://{settings.host}:{settings.mlflow_port}/health",
        ready_timeout_s=120.0,
        cwd=str(home),
        prepare=lambda: (home / "artifacts").mkdir(parents=True, exist_ok=True),
    )


def airflow(settings: Settings) -> Program:
    """Airflow's four components (see `dags.standalone`): SQLite under <home>/airflow, four local task slots."""
    home = settings.home / "airflow"
    options: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": settings.root / "dags",
            "executor": "dags.executor.LocalExecutor",
            "hostname_callable": "socket.gethostname",  # asks no name server
            "simple_auth_manager_users": f"{_USER}:admin",
            "simple_auth_manager_passwords_file": _passwords(settings),
            "execution_api_server_url": f"{settings.airflow_url}/execution/",
            "min_serialized_dag_update_interval": 1,
        },
        "api": {"host": settings.host, "port": settings.airflow_port, "base_url": settings.airflow_url},
        "database": {"check_migrations": False},  # `dags.standalone` has migrated before anything else starts
        "dag_processor": {
            "refresh_interval": 2,
            "bundle_refresh_check_interval": 2,
            "min_file_process_interval": 10,  # the spec files are no DAG files: only a new parse sees a new one
            "parsing_processes": 1,
        },
        "scheduler": {"scheduler_idle_sleep_time": 0.3},
        "workers": {
            "min_heartbeat_interval": 2,  # a slot is free again this long after its task has ended
            # after a restart the scheduler gives out tasks before the api-server answers: that is no failure of theirs
            "execution_api_timeout": 60,
            "execution_api_retries": 12,
            "execution_api_retry_wait_max": 5,
        },
        "logging": {"colored_console_log": False},
    }
    variables = {
        f"AIRFLOW__{section.upper()}__{key.upper()}": str(value)
        for section, values in options.items()
        for key, value in values.items()
    }
    return Program(
        name="airflow",
        argv=(sys.executable, "-m", "dags.standalone"),
        env={
            **environment(settings),
            # the tasks work with the settings of who starts the stack
            **{
                f"{PREFIX}{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                for name, value in settings.model_dump(exclude={"airflow_password"}, exclude_none=True).items()
            },
            **variables,
            **mark(settings.home / "supervisor" / "airflow"),  # what it has left can be told from the other programs
            "AIRFLOW_HOME": str(home),
            "PYTHONPATH": str(settings.root),
        },
        ports={"airflow_port": settings.airflow_port},
        # the tasks' API is built by its first call, in five seconds that the first task would else wait for
        ready_url=f"{settings.airflow_url}/execution/health",
        ready_timeout_s=180.0,
        cwd=str(settings.root),
        prepare=lambda: _prepare_airflow(settings),
    )


def airflow_credentials(settings: Settings) -> tuple[str, str]:
    """User and password of Airflow; those of the embedded one are made when it is first started, empty before."""
    if settings.airflow_password is not None:
        return settings.airflow_user, settings.airflow_password.get_secret_value()
    try:
        return _USER, str(json.loads(_passwords(settings).read_text(encoding="utf-8"))[_USER])
    except (FileNotFoundError, ValueError, KeyError):
        return _USER, ""


def _passwords(settings: Settings) -> Path:
    return settings.home / "airflow" / "passwords.json"


def _prepare_airflow(settings: Settings) -> None:
    """Keys and password, made once: its components share them. Raises Invalid for a path that Airflow cannot take."""
    home = settings.home / "airflow"
    for path, variable in ((home, "SLIPWAY_HOME"), (settings.root, "SLIPWAY_ROOT")):
        if "%" in str(path) or "{" in str(path):
            raise Invalid("Airflow takes no path with '%' or '{'", str(path), f"set {variable} to another folder")
    home.mkdir(parents=True, exist_ok=True)
    if not airflow_credentials(settings)[1]:
        write_private(_passwords(settings), json.dumps({_USER: secrets.token_urlsafe(12)}) + "\n")
    if not (home / "airflow.cfg").is_file():
        fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        keys = {
            "core": f"fernet_key = {fernet}",
            "api": f"secret_key = {secrets.token_urlsafe(48)}",
            "api_auth": f"jwt_secret = {secrets.token_urlsafe(64)}",
        }
        text = "".join(f"[{section}]\n{line}\n" for section, line in keys.items())
        write_private(home / "airflow.cfg", text)
