"""The embedded tritonserver as programs of the stack: the one that serves, and one for each challenger."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.errors import Invalid
from pipeline.program import Program
from pipeline.settings import PREFIX, Settings
from serving.places import challenger, repository

SERVING = "triton"
EXIT_S = 10  # seconds that requests in flight get at the end


def program(settings: Settings) -> Program:
    """The serving Triton: explicit control; before each start what is in its repository is verified."""
    ports = {
        "triton_http_port": settings.triton_http_port,
        "triton_grpc_port": settings.triton_grpc_port,
        "triton_metrics_port": settings.triton_metrics_port,
    }
    return _program(settings, SERVING, (), repository(settings), ports)


def challenger_program(settings: Settings, name: str, version: int, digest: str, http: int, grpc: int) -> Program:
    """A server of its own for a challenger's package; the same arguments describe the same server.

    It is killed where others are asked to end: nobody but the step that is done with it has asked it anything.
    """
    which, ports = (name, str(version), digest), {"http": http, "grpc": grpc}
    server = _program(settings, challenger_name(name, version), which, challenger(settings, name, version), ports)
    return replace(server, stop_signal="KILL")


def environment(settings: Settings) -> dict[str, str]:
    """What a program of ours needs to find the files that serve, and to verify them."""
    names = {
        "home",
        "root",
        "store",
        "host",
        "triton_http_port",
        "triton_grpc_port",
        "triton_metrics_port",
        "triton_dir",
    }
    names |= {"signing", "signing_key", "verify_key", "sigstore_identity", "sigstore_issuer"}
    values = settings.model_dump(include=names)
    return {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items()} | {
        "PYTHONPATH": str(settings.root)
    }


def challenger_name(name: str, version: int) -> str:
    """The challenger's name in the supervisor."""
    return f"challenger-{name}-{version}"


def _program(settings: Settings, name: str, which: tuple[str, ...], models: Path, ports: dict[str, int]) -> Program:
    root = settings.triton_dir
    server = root / "server" / "pytriton" / "tritonserver"
    http, grpc, *metrics = ports.values()
    host = settings.host
    argv = (
        *(sys.executable, "-m", "serving.start", *which, "--"),  # says which models are loaded
        str(server / "bin" / "tritonserver"),
        f"--model-repository={models}",
        f"--backend-directory={root / 'backends'}",
        f"--cache-directory={server / 'caches'}",
        f"--http-address={host}",
        f"--http-port={http}",
        f"--grpc-address={host}",
        f"--grpc-port={grpc}",
        *(f"--metrics-port={port}" for port in metrics),
        f"--metrics-address={host}" if metrics else "--allow-metrics=false",
        "--model-control-mode=explicit",
        "--exit-on-error=false",  # one model that fails must not take the others down
        "--strict-readiness=false",
        f"--exit-timeout-secs={EXIT_S}",
        "--log-info=false",
    )
    return Program(
        name=name,
        argv=argv,
        env={
            **environment(settings),
            "LD_LIBRARY_PATH": str(root / "server" / "nvidia_pytriton.libs"),
        },
        ports=ports,
        ready_url=f"http://{host}:{http}/v2/health/ready",
        ready_timeout_s=60,
        stop_timeout_s=EXIT_S + 5,
        prepare=partial(_prepare, root, models),
    )


def _prepare(root: Path, models: Path) -> None:
    if not (root / "backends" / "onnxruntime").is_dir():
        raise Invalid("tritonserver is not installed", str(root), "run `make env` (or `python -m serving.install`)")
    models.mkdir(parents=True, exist_ok=True)
