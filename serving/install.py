"""`python -m serving.install`: a real tritonserver beside the main environment, from wheels, with no container."""

from __future__ import annotations

import errno
import logging
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.digest import digest_file, digest_json
from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.settings import Settings, read_settings

FILES = Path(__file__).parent / "server_files"
NATIVE = Path(__file__).parent / "native"
ONNX_RUNTIME = "libonnxruntime.so.1"  # the name that the backends look for
MIN_GLIBC = (2, 35)
READY = ".ready"  # holds the digest of what was installed; `make` goes by its time
log = logging.getLogger("slipway")


def install(settings: Settings) -> None:
    """Install the server into `settings.triton_dir` and build its backends, whole or not at all.

    Raises:
        Invalid: this machine cannot run it, or the folder may not be written. A retry does not help.
        Unavailable: a download failed, or the disk is full. A retry helps.
    """
    _require_platform()
    target, wanted = settings.triton_dir, _wanted()
    ready = target / READY
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        log.info("tritonserver is installed in %s", target)
        return
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        log.info("installing tritonserver into %s", target)
        _pip("--target", str(fresh / "server"), "-r", str(FILES / "server.txt"))
        (fresh / "server" / "pytriton" / "tritonserver" / "bin" / "tritonserver").chmod(0o755)
        _build(fresh / "build", fresh / "backends")
        shutil.rmtree(fresh / "build")
        (fresh / READY).write_text(wanted, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    except OSError as error:
        kind = Unavailable if error.errno in (errno.ENOSPC, errno.EDQUOT) else Invalid
        remedy = "make room, or set SLIPWAY_TRITON_DIR"
        raise kind(f"cannot be written: {error.strerror}", str(error.filename or fresh), remedy) from error
    log.info("tritonserver is ready")


def _wanted() -> str:
    """What an installation follows from: these files."""
    files = [path for folder in (FILES, NATIVE) for path in sorted(folder.iterdir()) if path.is_file()]
    return digest_json([digest_file(path) for path in (*files, Path(__file__))])


def _build(wheels: Path, backends: Path) -> None:
    """The backends, and beside each the libraries that it runs on; that of `xgboost` has its features by ONNX too."""
    _pip("--target", str(wheels), "-r", str(FILES / "backends.txt"))
    compiler = _compiler(wheels)
    log.info("building its backends")

    def compiled(source: Path) -> str:
        made = str(wheels / f"{source.stem}.o")
        _run([*compiler, "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-c", str(source), "-o", made])
        return made

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compiled, sorted(NATIVE.glob("*.cc"))))
    libraries = {
        "onnxruntime": {ONNX_RUNTIME: next((wheels / "onnxruntime" / "capi").glob("libonnxruntime.so.*"))},
        "xgboost": {path.name: path for path in (*wheels.glob("xgboost_cpu.libs/*"), *wheels.glob("xgboost/lib/*"))},
    }
    for name, files in libraries.items():
        backend = backends / name
        backend.mkdir(parents=True)
        for library, path in files.items():
            shutil.copyfile(path, backend / library)
        own = [path for path in objects if not path.endswith("_backend.o") or path.endswith(f"{name}_backend.o")]
        linked = [] if name == "onnxruntime" else ["-Wl,--no-as-needed", *(f"-l:{library}" for library in files)]
        where = [f"-L{backend}", "-Wl,-rpath,$ORIGIN:$ORIGIN/../onnxruntime"]
        _run([*compiler, "-shared", "-s", "-o", str(backend / f"libtriton_{name}.so"), *own, *where, *linked])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise Invalid(f"a backend cannot be built: {done.stderr.strip()[:500]}", str(NATIVE), "correct its sources")


def _compiler(wheels: Path) -> list[str]:
    """The machine's own, or one from a wheel, which takes minutes: it builds its C++ library first."""
    if found := shutil.which("c++"):
        return [found]
    log.info("there is no C++ compiler here (`apt-get install g++`): one is downloaded")
    _pip("--target", str(wheels), "-r", str(FILES / "compiler.txt"))
    return [str(wheels / "ziglang" / "zig"), "c++", "-target", f"x86_64-linux-gnu.{'.'.join(map(str, MIN_GLIBC))}"]


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


def _pip(*arguments: str) -> None:
    """Wheels without what they depend on; by uv where it is there, which is ten times faster."""
    uv = _uv()
    tool = [str(uv), "pip"] if uv.is_file() else [sys.executable, "-m", "pip"]
    chosen = ["--python", sys.executable] if uv.is_file() else []
    command = [*tool, "install", "--quiet", *chosen, "--no-deps", *arguments]
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
