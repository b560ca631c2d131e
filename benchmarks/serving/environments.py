"""The peers' environments, one each, made by uv of pinned packages; none shares a package with Slipway's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "fastapi": ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "numpy"),
    "bentoml": ("bentoml==1.4.40", "numpy"),
    "litserve": ("litserve==0.2.19", "numpy"),
    "mlserver": ("mlserver==1.7.1", "mlserver-xgboost==1.7.1", "uvloop==0.21.0"),
    "mlflow": ("mlflow==3.17.2", "onnx"),
}
SAME = "onnxruntime"  # in every environment, of the version that Slipway has
WITHOUT = "nvidia-nccl-cu12; sys_platform == 'never'\n"  # 300 MB that a CPU has no use for


def python(environments: Path, name: str) -> Path:
    """The Python of an environment."""
    return environments / name / "bin" / "python"


def install(environments: Path, name: str) -> None:
    """Make an environment, unless the same was made before. Raises subprocess.CalledProcessError; a retry may help."""
    folder, wanted = environments / name, [*PACKAGES[name], f"{SAME}=={version(SAME)}"]
    ready = folder / ".ready"
    if ready.is_file() and ready.read_text(encoding="utf-8") == "\n".join(wanted):
        return
    environments.mkdir(parents=True, exist_ok=True)
    override = environments / "override.txt"
    override.write_text(WITHOUT, encoding="utf-8")
    uv, own = str(Path(sys.executable).with_name("uv")), str(python(environments, name))
    env = {**os.environ, "UV_COMPILE_BYTECODE": "1", "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", own, "--override", str(override), *wanted],
    ):
        subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    ready.write_text("\n".join(wanted), encoding="utf-8")
