"""`python -m serving.install`: a real tritonserver beside the main environment, from wheels, with no container."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.settings import Settings, read_settings
from serving.server import libpython

FILES = Path(__file__).parent / "server_files"
MIN_GLIBC = (2, 35)
READY = ".installed"
log = logging.getLogger("slipway")


def install(settings: Settings) -> None:
    """Install server, backends and the backend's environment into `settings.triton_dir`, whole or not at all.

    Raises:
        Invalid: this machine cannot run it. A retry does not help.
        Unavailable: a download failed. A retry helps.
    """
    _require_platform()
    _require_libpython()
    target = settings.triton_dir
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    log.info("installing tritonserver into %s", target)
    _uv("pip", "install", "--no-deps", "--target", str(fresh / "server"), "-r", str(FILES / "server.txt"))
    _uv("venv", "--python", sys.executable, "--relocatable", str(fresh / "env"))
    _uv("pip", "install", "--python", str(fresh / "env" / "bin" / "python"), "-r", str(FILES / "backend.txt"))
    _backends(fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    log.info("tritonserver is ready")


def _backends(root: Path) -> None:
    """Files are copied, not linked: Triton refuses what escapes the backend's folder."""
    bundled = root / "server" / "pytriton" / "tritonserver"
    python = root / "backends" / "python"
    shutil.copytree(bundled / "backends" / "python", python)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = bundled / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise Invalid(f"this tritonserver has no stub for Python {version}", str(stub), "use Python 3.11")
    shutil.copy2(stub, python / stub.name)
    onnx = root / "backends" / "onnxruntime"
    onnx.mkdir()
    shutil.copyfile(FILES / "onnxruntime_backend.py", onnx / "model.py")
    server = bundled / "bin" / "tritonserver"
    for executable in (server, python / stub.name):
        executable.chmod(0o755)


def _require_platform() -> None:
    name, version = platform.libc_ver()
    machine = platform.machine()
    number = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if sys.platform != "linux" or machine != "x86_64" or name != "glibc" or number < MIN_GLIBC:
        raise Invalid(
            f"tritonserver needs Linux x86_64 with glibc {'.'.join(map(str, MIN_GLIBC))} or newer",
            f"{sys.platform} {machine} {name} {version}",
            "use Debian 12, Ubuntu 22.04 or newer",
        )


def _require_libpython() -> None:
    """The stub links libpython; Debian ships it in a package of its own, which root may be given here."""
    try:
        libpython()
        return
    except Invalid as missing:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
        package = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        log.info("installing %s with apt-get", package)
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", package]):
            if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
                raise missing from None
        libpython()


def _uv(*arguments: str) -> None:
    uv = Path(sys.prefix) / "bin" / "uv"
    command = (
        [str(uv), *arguments[:2], "--quiet", *arguments[2:]]
        if arguments[0] == "pip"
        else [str(uv), "venv", "--quiet", *arguments[1:]]
    )
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(
            f"the download failed: {done.stderr.strip()[-500:]}", "tritonserver", "run again with a network"
        )


def main() -> int:
    """Install; tell failures in sentences."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        install(read_settings())
    except SlipwayError as error:
        for problem in error.problems:
            log.error("%s: %s", error.title, problem)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
