"""`python -m serving.install`: what it refuses, that it is whole or not at all, that it is done once."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.errors import Invalid, Unavailable
from pipeline.settings import Settings
from serving import install as module
from serving.install import install


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", triton_dir=tmp_path / "triton")


WHEELS = (
    "pytriton/tritonserver/bin/tritonserver",
    "onnxruntime/capi/libonnxruntime.so.1.0.0",
    "xgboost/lib/libxgboost.so",
    "xgboost_cpu.libs/libgomp-1.so",
)


@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    """uv and the compiler, as far as this module sees them: put their files where they go. Returns the calls."""
    calls = []

    def run(command, **_):
        calls.append(command)
        if "--target" in command:
            target = Path(command[command.index("--target") + 1])
            for file in WHEELS:
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                (target / file).write_bytes(b"")
        else:
            Path(command[command.index("-o") + 1]).write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    return calls


def test_an_installation_is_whole_and_done_once(elsewhere, fake_pip, caplog):
    caplog.set_level(logging.INFO, "slipway")
    install(elsewhere)
    root = elsewhere.triton_dir
    found = {path.relative_to(root / "backends").as_posix() for path in (root / "backends").rglob("*.so*")}
    assert found == {
        "onnxruntime/libonnxruntime.so.1",
        "onnxruntime/libtriton_onnxruntime.so",
        "xgboost/libgomp-1.so",
        "xgboost/libtriton_xgboost.so",
        "xgboost/libxgboost.so",
    }
    assert not any(path.is_symlink() for path in (root / "backends").rglob("*"))
    assert os.access(root / "server" / "pytriton" / "tritonserver" / "bin" / "tritonserver", os.X_OK)
    assert {path.name for path in root.iterdir()} == {".ready", "backends", "server"}  # no compiler
    assert all("--no-deps" in command for command in fake_pip[:2])
    done = len(fake_pip)
    install(elsewhere)
    assert len(fake_pip) == done
    assert "tritonserver is installed" in caplog.text


def test_a_source_that_is_changed_is_built_anew(elsewhere, fake_pip, monkeypatch, tmp_path):
    install(elsewhere)
    monkeypatch.setattr(module, "NATIVE", tmp_path / "native")
    shutil.copytree(Path(module.__file__).parent / "native", tmp_path / "native")
    done = len(fake_pip)
    install(elsewhere)
    assert len(fake_pip) == done
    with (tmp_path / "native" / "json.h").open("a") as file:
        file.write("\n")
    install(elsewhere)
    assert len(fake_pip) == 2 * done


def test_a_machine_without_a_compiler_gets_one_for_the_moment(elsewhere, fake_pip, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    install(elsewhere)
    download, *builds = fake_pip[2:]
    assert download[-1].endswith("compiler.txt")
    assert all(build[0].endswith("build/ziglang/zig") for build in builds)
    assert {path.name for path in elsewhere.triton_dir.iterdir()} == {".ready", "backends", "server"}


def test_sources_that_do_not_compile_leave_the_old_one(elsewhere, fake_pip, monkeypatch):
    elsewhere.triton_dir.mkdir()
    (elsewhere.triton_dir / "old").touch()
    run = module.subprocess.run

    def refused(command, **options):
        failed = subprocess.CompletedProcess(command, 1, "", "json.h:1: error: expected ';'")
        return failed if "-c" in command else run(command, **options)

    monkeypatch.setattr(module.subprocess, "run", refused)
    with pytest.raises(Invalid, match=r"native: a backend cannot be built: json.h:1: error: expected ';'"):
        install(elsewhere)
    assert (elsewhere.triton_dir / "old").exists()


def test_an_older_installation_is_replaced(elsewhere, fake_pip):
    elsewhere.triton_dir.mkdir()
    (elsewhere.triton_dir / "old").touch()
    elsewhere.triton_dir.with_name("triton.new").mkdir()  # of an installation that was interrupted
    install(elsewhere)
    assert not (elsewhere.triton_dir / "old").exists()
    assert (elsewhere.triton_dir / module.READY).is_file()
    assert not elsewhere.triton_dir.with_name("triton.new").exists()


@pytest.mark.parametrize("with_uv", [True, False])
def test_without_a_network_it_says_so_and_leaves_the_old_one(elsewhere, monkeypatch, with_uv):
    elsewhere.triton_dir.mkdir()
    (elsewhere.triton_dir / "old").touch()
    if not with_uv:
        monkeypatch.setattr(sys, "prefix", str(elsewhere.home))  # where there is no uv
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(elsewhere.home))
    for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Unavailable, match=r"(?s)the download failed: .*pytriton.* -> run it again with a network"):
        install(elsewhere)
    assert (elsewhere.triton_dir / "old").exists()


def test_a_folder_that_cannot_be_written_is_named(elsewhere, fake_pip):
    elsewhere.triton_dir.with_name("file").touch()
    settings = Settings(home=elsewhere.home, triton_dir=elsewhere.triton_dir.with_name("file") / "triton")
    with pytest.raises(Invalid, match=r"file.*cannot be written: .* -> make room, or set SLIPWAY_TRITON_DIR"):
        install(settings)


@pytest.mark.parametrize("libc", [("glibc", "2.31"), ("", ""), ("musl", "1.2")])
def test_an_old_or_foreign_libc_is_refused(elsewhere, monkeypatch, libc, caplog):
    monkeypatch.setattr(module.platform, "libc_ver", lambda: libc)
    with pytest.raises(Invalid, match=r"needs Linux x86_64 with glibc 2\.35 or newer -> use Debian 12"):
        install(elsewhere)
    monkeypatch.setattr(module, "read_settings", lambda: elsewhere)
    assert module.main() == Invalid.exit_code
    assert "glibc 2.35" in caplog.text


def test_main_ends_with_zero_when_it_is_there(monkeypatch, elsewhere, fake_pip):
    monkeypatch.setattr(module, "read_settings", lambda: elsewhere)
    assert module.main() == 0


def test_parity_is_proved_on_the_libraries_that_serve():
    lines = (module.FILES / "backends.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert pinned == {name: version(name) for name in ("onnxruntime", "xgboost-cpu")}
