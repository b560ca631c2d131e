"""The stack in containers: what the compose file promises, and the scripts that it runs."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.dockerfiles import DOCKER, ROOT
from tests.support.cases import each
from tests.support.polling import wait_for

STACK = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
every = each({service: service for service in SERVICES})


@every
def test_a_service_can_do_little(service: str) -> None:
    this = SERVICES[service]
    assert this["read_only"] is True
    assert this["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in this["security_opt"]
    assert this["user"] in ("10001:10001", "postgres")
    assert not this.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"}
    assert "/tmp" in this["tmpfs"]


@every
def test_nothing_listens_beyond_this_machine(service: str) -> None:
    for port in SERVICES[service].get("ports", []):
        outer, inner = re.fullmatch(r"127\.0\.0\.1:(\$\{\w+:-\d+\}):(\$\{\w+:-\d+\})", port).groups()
        assert outer == inner, "an address that is printed in the container is one of this machine"
    assert SERVICES[service].get("network_mode") in (None, "none", "service:mlflow")


def test_the_database_is_reached_by_its_clients_alone() -> None:
    assert STACK["networks"]["database"]["internal"] is True
    assert SERVICES["postgresql"]["networks"] == ["database"]
    assert "ports" not in SERVICES["postgresql"]


def test_no_password_is_written_down() -> None:
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|SECRET|TOKEN|KEY", key) or key.endswith("_FILE"), key
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), key
        assert not re.search(r"://[^/@ ]*:[^/@ ]*@", " ".join(service.get("command", [])))


@every
def test_images_are_ours_by_version_or_named_by_registry(service: str) -> None:
    image, build = SERVICES[service]["image"], SERVICES[service].get("build")
    if image.startswith("slipway-"):
        kind = image.removeprefix("slipway-").removesuffix(f":{VERSION}")
        makers = [
            other["build"]["dockerfile"] for other in SERVICES.values() if other["image"] == image and "build" in other
        ]
        assert makers == [f"docker/{kind}/Dockerfile"]
        assert (ROOT / makers[0]).is_file()
    else:
        assert build is None
        assert re.fullmatch(r"[\w-]+(\.[\w-]+)+/[\w/-]+:\d[\w.-]*", image)


def test_make_and_pyproject_and_compose_agree_on_the_version() -> None:
    assert f"\nTAG ?= {VERSION}\n" in (ROOT / "Makefile").read_text()


@every
def test_what_is_mounted_is_there_and_may_be_written(service: str) -> None:
    for mount in SERVICES[service].get("volumes", []):
        source, target, *_ = mount.split(":")
        if source.startswith("."):
            assert (DOCKER / source).exists()
        else:
            assert source in STACK["volumes"]
            if not mount.endswith(":ro") and service != "postgresql":  # a new volume takes the folder's owner
                image = SERVICES[service]["image"].removeprefix("slipway-").partition(":")[0]
                made = f"install --directory --owner=10001 --group=10001 {target}"
                assert made in (DOCKER / image / "Dockerfile").read_text()


def test_settings_are_known() -> None:
    from pipeline.settings import PREFIX, Settings

    text = (DOCKER / "compose.yaml").read_text()
    used = set(re.findall(rf"\b{PREFIX}(\w+)", text))
    assert used
    assert {name.lower() for name in used} <= Settings.model_fields.keys()
    for name, port in re.findall(rf"\$\{{{PREFIX}(\w+_PORT):-(\d+)\}}", text):
        assert Settings.model_fields[name.lower()].default == int(port)


def test_the_password_is_made_once_and_is_its_clients_own(tmp_path: Path) -> None:
    def run() -> dict[str, str]:
        subprocess.run(["sh", DOCKER / "laptop" / "passwords", tmp_path], check=True)
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    made = run()
    assert set(made) == {"postgresql", "pgpass"}
    assert re.fullmatch(r"[0-9a-f]{48}", made["postgresql"])
    assert made["pgpass"] == f"postgresql:5432:*:slipway:{made['postgresql']}\n"
    assert stat.S_IMODE((tmp_path / "pgpass").stat().st_mode) == 0o600, "libpq ignores a file that others may read"
    assert stat.S_IMODE((tmp_path / "postgresql").stat().st_mode) == 0o444
    assert run() == made
    (tmp_path / "pgpass").unlink()  # as after a stop in the middle: no server has seen the password yet
    assert run()["postgresql"] != made["postgresql"]


@pytest.fixture
def container(tmp_path: Path) -> dict[str, str]:
    """The environment of the laptop's start script, with a `slipway` that tells what it was asked."""
    command = tmp_path / "slipway"
    command.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/asked\n[ "$1" = down ] || . {tmp_path}/up\n')
    command.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLIPWAY_HOME": str(tmp_path)}


def started(container: dict[str, str], up: str) -> subprocess.Popen[bytes]:
    home = Path(container["SLIPWAY_HOME"])
    (home / "up").write_text(up)
    process = subprocess.Popen(["sh", DOCKER / "laptop" / "start"], env=container)
    wait_for((home / "asked").is_file, "the script asks slipway", interval_s=0.02)
    return process


def asked(container: dict[str, str]) -> list[str]:
    return (Path(container["SLIPWAY_HOME"]) / "asked").read_text().split()


def test_the_stack_ends_in_order_with_its_container(container: dict[str, str]) -> None:
    process = started(container, "exit 0")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)  # it stays
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert asked(container) == ["up", "down"]


def test_a_stop_while_it_starts_is_heard_at_once(container: dict[str, str]) -> None:
    process = started(container, "exec sleep 60")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert asked(container) == ["up", "down"]


def test_a_stack_that_does_not_start_ends_its_container(container: dict[str, str]) -> None:
    process = started(container, "exit 2")
    assert process.wait(10) == 2
    assert asked(container) == ["up", "down"]
