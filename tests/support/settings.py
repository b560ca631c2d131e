"""Settings for stacks of tests: a home and ports of their own, and the installed tritonserver of the checkout."""

from __future__ import annotations

from pathlib import Path

from pipeline.settings import Settings
from tests.support.ports import worker_ports

CHECKOUT = Path(__file__).resolve().parents[2]
PORTS = ("airflow_port", "mlflow_port", "triton_http_port", "triton_grpc_port", "triton_metrics_port")


def own_settings(**values: object) -> Settings:
    """Return settings with free ports; `values` go before the defaults."""
    ports = dict(zip(PORTS, worker_ports(len(PORTS)), strict=True))
    return Settings.model_validate({"triton_dir": CHECKOUT / ".triton", **ports, **values})
