"""An environment for each peer, made by uv with the project's own versions of what fits the models."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHARED = (
    "torch", "xgboost-cpu", "optuna", "tabm", "rtdl-num-embeddings", "onnx", "onnxmltools", "skl2onnx", "onnxscript",
    "onnxruntime", "scikit-learn", "numpy", "mlflow", "great-expectations", "tritonclient", "matplotlib", "pandas", "grpcio",
)  # fmt: skip


@dataclass(frozen=True)
class Peer:
    """`name` as people know it; what is installed, the flow's file, what comes before its options, its environment."""

    name: str
    requirement: str
    flow: str
    before: tuple[str, ...] = ()
    server: tuple[str, ...] = ()  # a program that stays up, where the peer's docs recommend one
    environment: dict[str, str] = field(default_factory=dict)  # {home} and {port} are filled in


PEERS = (
    Peer(
        "Metaflow",
        "metaflow==2.19.39",
        "metaflow_flow.py",
        before=("run",),
        environment={"METAFLOW_USER": "bench", "METAFLOW_HOME": "{home}", "METAFLOW_DATASTORE_SYSROOT_LOCAL": "{home}"},
    ),
    Peer(
        "Prefect",
        "prefect==3.9.1",
        "prefect_flow.py",
        server=("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", "{port}"),
        environment={
            "PREFECT_HOME": "{home}",
            "PREFECT_API_URL": "http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        },
    ),
    Peer(
        "ZenML",
        "zenml[local]==0.98.0",
        "zenml_pipeline.py",
        environment={
            "ZENML_CONFIG_PATH": "{home}",
            "ZENML_LOCAL_STORES_PATH": "{home}/stores",
            "ZENML_ANALYTICS_OPT_IN": "false",
        },
    ),
)


def make(peer: Peer, folder: Path) -> Path:
    """The Python of the peer's environment below `folder`; made when it is not there, in a minute or two."""
    home = folder / peer.name.lower()
    python = home / "bin" / "python"
    if not (home / ".ready").is_file():
        uv = [str(Path(sys.executable).with_name("uv"))]
        wheels = {"UV_FIND_LINKS": os.environ["PIP_FIND_LINKS"]} if "PIP_FIND_LINKS" in os.environ else {}
        environment = {**os.environ, **wheels, "UV_COMPILE_BYTECODE": "1"}
        for command in (
            [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
            [*uv, "pip", "install", "--quiet", "--python", str(python), peer.requirement, *_pins()],
        ):
            subprocess.run(command, env=environment, check=True)
        (home / ".ready").touch()
    return python


def _pins() -> list[str]:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return re.findall(rf"^(?:{'|'.join(SHARED)})==[^\s;\\]+", lock, flags=re.MULTILINE)
