"""`python -m serving.install`: a real tritonserver beside the main environment, from wheels, with no container."""

from __future__ import annotations

import errno
import logging
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from pipeline.digest import digest_file, digest_json
from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.settings import Settings, read_settings
from serving.server import libpython

FILES = Path(__file__).parent / "server_files"
MIN_GLIBC = (2, 35)
READY = ".ready"  # holds the digest of what was installed; `make` goes by its time
log = logging.getLogger("slipway")


def install(settings: Settings) -> None:
    """Install server, backends and the backend's environment into `settings.triton_dir`, whole or not at all.

    Raises:
        Invalid: this machine cannot run it, or the folder may not be written. A retry does not help.
        Unavailable: a download failed, or the disk is full. A retry helps.
    """
    _require_platform()
    _require_libpython()
    target, wanted = settings.triton_dir, _wanted()
    ready = target / READY
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        log.info("tritonserver is installed in %s", target)
        return
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    python = fresh / "env" / "bin" / "python"
    try:
        fresh.mkdir(parents=True)
        log.info("installing tritonserver into %s", target)
        _pip(sys.executable, "--no-deps", "--target", str(fresh / "server"), "-r", str(FILES / "server.txt"))
        log.info("installing the environment of its backend")
        venv.create(fresh / "env", symlinks=True)
        _pip(str(python), "-r", str(FILES / "backend.txt"))
        _backends(fresh)
        (fresh / READY).write_text(wanted, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    except OSError as error:
        kind = Unavailable if error.errno in (errno.ENOSPC, errno.EDQUOT) else Invalid
        remedy = "make room, or set SLIPWAY_TRITON_DIR"
        raise kind(f"cannot be written: {error.strerror}", str(error.filename or fresh), remedy) from error
    log.info("tritonserver is ready")


def _wanted() -> str:
    """What an installation follows from: these files, and this Python."""
    files = sorted(path for path in FILES.iterdir() if path.is_file())
    return digest_json([sys.version, sys.base_prefix, *(digest_file(path) for path in (*files, Path(__file__)))])


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


def _pip(python: str, *arguments: str) -> None:
    """Install into the environment of `python`; by uv where it is there, which is ten times faster."""
    uv = _uv()
    tool = [str(uv), "pip"] if uv.is_file() else [sys.executable, "-m", "pip", "--python", python]
    chosen = ["--python", python] if uv.is_file() else []
    command = [*tool, "install", "--quiet", *chosen, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip()[-500:]
        raise Unavailable(f"the download failed: {said}", "tritonserver", "run it again with a network")


def _uv() -> Path:
    return Path(sys.prefix) / "bin" / "uv"


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
