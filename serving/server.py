"""The embedded tritonserver as programs of the stack: the one that serves, and one for each challenger."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline.errors import Invalid
from pipeline.program import Program
from pipeline.settings import PREFIX, Settings
from serving.places import challenger, repository

SERVING = "triton"
EXIT_S = 10  # seconds that requests in flight get at the end
SHM = Path("/dev/shm")  # noqa: S108 (where Triton's Python backend keeps its shared memory)
REGION = "slipway_"  # how the names of our regions begin
STALE_S = 60  # a younger region may be about to be mapped


def program(settings: Settings) -> Program:
    """The serving Triton: explicit control; before each start what is in its repository is verified."""
    ports = {
        "triton_http_port": settings.triton_http_port,
        "triton_grpc_port": settings.triton_grpc_port,
        "triton_metrics_port": settings.triton_metrics_port,
    }
    return _program(settings, SERVING, (), repository(settings), ports)


def challenger_program(settings: Settings, name: str, version: int, digest: str, http: int, grpc: int) -> Program:
    """A server of its own for a challenger's package; the same arguments describe the same server."""
    which, ports = (name, str(version), digest), {"http": http, "grpc": grpc}
    return _program(settings, challenger_name(name, version), which, challenger(settings, name, version), ports)


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


def libpython() -> Path:
    """The shared library of this Python, which the backend's stub links.

    Raises:
        Invalid: there is none. A retry does not help.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = [
        sysconfig.get_config_var("LIBDIR") or "",
        str(Path(sys.base_prefix) / "lib"),
        f"/usr/lib/{os.uname().machine}-linux-gnu",
        "/usr/lib64",
    ]
    for folder in folders:
        if folder and (Path(folder) / name).is_file():
            return Path(folder) / name
    package = name.split(".so", maxsplit=1)[0]
    raise Invalid(f"{name} is not here", ", ".join(filter(None, folders)), f"`apt-get install {package}`")


def _program(settings: Settings, name: str, which: tuple[str, ...], models: Path, ports: dict[str, int]) -> Program:
    root = settings.triton_dir
    server = root / "server" / "pytriton" / "tritonserver"
    http, grpc, *metrics = ports.values()
    prefix = _shm_prefix(settings, name)
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
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--log-info=false",
    )
    libraries = [str(root / "server" / "nvidia_pytriton.libs"), *_library_folders()]
    return Program(
        name=name,
        argv=argv,
        env={
            **environment(settings),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PATH": os.pathsep.join([str(root / "env" / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
            "OMP_NUM_THREADS": "1",
        },
        ports=ports,
        ready_url=f"http://{host}:{http}/v2/health/ready",
        ready_timeout_s=60,
        stop_timeout_s=EXIT_S + 5,
        prepare=partial(_prepare, root, models, prefix),
    )


def _prepare(root: Path, models: Path, prefix: str) -> None:
    """Folders, and no shared memory of a server that was killed."""
    if not (root / "backends" / "onnxruntime" / "model.py").is_file():
        raise Invalid("tritonserver is not installed", str(root), "run `make env` (or `python -m serving.install`)")
    libpython()
    models.mkdir(parents=True, exist_ok=True)
    sweep_memory(prefix)


def sweep_memory(prefix: str | None = None) -> None:
    """Remove the memory of the server of this prefix, and what killed servers have left: old, and mapped by none."""
    mapped: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # ended meanwhile, or of another user, whose memory may not be removed either
            lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
            mapped.update(line.rpartition("/")[2] for line in lines if f"{SHM / REGION}" in line)
    for region in SHM.glob(f"{REGION}*"):
        with suppress(OSError):
            is_left = region.name not in mapped and time.time() - region.stat().st_mtime > STALE_S
            if is_left or (prefix is not None and region.name.startswith(prefix)):
                region.unlink()


def _library_folders() -> list[str]:
    try:
        return [str(libpython().parent)]
    except Invalid:
        return []  # said when the program is prepared


def _shm_prefix(settings: Settings, name: str) -> str:
    """A name in shared memory that no other server of this machine has; Triton allows few characters."""
    return REGION + hashlib.sha256(f"{settings.home}/{name}".encode()).hexdigest()[:16]
