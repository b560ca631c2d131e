"""`python -m serving.install`: what it refuses, that it is whole or not at all, that it is done once."""

from __future__ import annotations

import logging
import os
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


@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    """uv, as far as this module sees it: puts the files of a wheel where they go. Returns its calls."""
    calls = []

    def run(command, **_):
        calls.append(command)
        if "--target" in command:
            bundled = Path(command[command.index("--target") + 1]) / "pytriton" / "tritonserver"
            for file in ("backends/python/libtriton_python.so", "bin/tritonserver", _stub()):
                (bundled / file).parent.mkdir(parents=True, exist_ok=True)
                (bundled / file).write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    return calls


def _stub() -> str:
    return f"python_backend_stubs/{sys.version_info[0]}.{sys.version_info[1]}/triton_python_backend_stub"


def test_an_installation_is_copied_not_linked_and_done_once(elsewhere, fake_pip, caplog):
    caplog.set_level(logging.INFO, "slipway")
    install(elsewhere)
    root = elsewhere.triton_dir
    python = root / "backends" / "python"
    assert {path.name for path in python.iterdir()} == {"libtriton_python.so", "triton_python_backend_stub"}
    assert os.access(python / "triton_python_backend_stub", os.X_OK)
    assert not any(path.is_symlink() for path in (root / "backends").rglob("*"))
    assert "class TritonPythonModel" in (root / "backends" / "onnxruntime" / "model.py").read_text()
    assert (root / "env" / "bin" / "python3").exists()
    assert "--no-deps" in fake_pip[0]
    assert len(fake_pip) == 2
    install(elsewhere)
    assert len(fake_pip) == 2
    assert "tritonserver is installed" in caplog.text


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
    monkeypatch.setattr(module, "_uv", lambda: Path(sys.prefix) / "bin" / ("uv" if with_uv else "no-uv"))
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


def test_a_server_without_a_stub_for_this_python_is_refused(elsewhere, fake_pip, monkeypatch):
    whole = module.shutil.copytree

    def copytree(source, target):
        (source.parents[1] / _stub()).unlink()  # as a wheel without it
        return whole(source, target)

    monkeypatch.setattr(module.shutil, "copytree", copytree)
    with pytest.raises(Invalid, match=r"no stub for Python 3\.11"):
        install(elsewhere)


@pytest.mark.parametrize("libc", [("glibc", "2.31"), ("", ""), ("musl", "1.2")])
def test_an_old_or_foreign_libc_is_refused(elsewhere, monkeypatch, libc, caplog):
    monkeypatch.setattr(module.platform, "libc_ver", lambda: libc)
    with pytest.raises(Invalid, match=r"needs Linux x86_64 with glibc 2\.35 or newer -> use Debian 12"):
        install(elsewhere)
    monkeypatch.setattr(module, "read_settings", lambda: elsewhere)
    assert module.main() == Invalid.exit_code
    assert "glibc 2.35" in caplog.text


def _no_libpython():
    raise Invalid("libpython3.11.so.1.0 is not here", "/nowhere", "`apt-get install libpython3.11`")


def test_a_missing_libpython_is_a_sentence_for_a_user(elsewhere, monkeypatch):
    monkeypatch.setattr(module, "libpython", _no_libpython)
    monkeypatch.setattr(module.os, "geteuid", lambda: 1000)
    with pytest.raises(Invalid, match=r"libpython3\.11\.so\.1\.0 is not here"):
        install(elsewhere)


@pytest.mark.parametrize("works", [True, False])
def test_a_missing_libpython_is_installed_for_root(elsewhere, monkeypatch, fake_pip, works):
    def libpython():
        return Path("/usr/lib/libpython3.11.so.1.0") if fake_pip else _no_libpython()

    monkeypatch.setattr(module, "libpython", libpython)
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(module.shutil, "which", lambda _: "/usr/bin/apt-get")
    if works:
        install(elsewhere)
        assert [command[:2] for command in fake_pip[:2]] == [["apt-get", "update"], ["apt-get", "install"]]
    else:
        failed = subprocess.CompletedProcess([], 100, "", "")
        monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: failed)
        with pytest.raises(Invalid, match="libpython"):
            install(elsewhere)


def test_main_ends_with_zero_when_it_is_there(monkeypatch, elsewhere, fake_pip):
    monkeypatch.setattr(module, "read_settings", lambda: elsewhere)
    assert module.main() == 0


def test_parity_is_proved_on_the_onnx_runtime_that_serves():
    pinned = dict(line.split("==") for line in (module.FILES / "backend.txt").read_text().splitlines() if "==" in line)
    assert pinned["onnxruntime"] == version("onnxruntime")
    assert pinned["numpy"].startswith("1.")
