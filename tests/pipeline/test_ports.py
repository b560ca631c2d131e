"""Ports that are taken, each named with who holds it."""

from __future__ import annotations

import os
import socket

import pytest

from pipeline.errors import Invalid
from pipeline.ports import free_ports, require_free
from pipeline.program import Program
from pipeline.settings import Settings


def test_ports_in_use_are_all_named_with_who_holds_them(settings: Settings) -> None:
    with socket.socket() as one, socket.socket() as two:
        for held in (one, two):
            held.bind(("127.0.0.1", 0))
            held.listen()
        ports = {"airflow_port": one.getsockname()[1], "triton_grpc_port": two.getsockname()[1]}
        with pytest.raises(Invalid) as caught:
            require_free(settings, [Program("web", (), ports=ports)])
    first, second = caught.value.problems
    assert f"port {ports['airflow_port']} is in use by process {os.getpid()} (" in first.what
    assert first.where == f"web, SLIPWAY_AIRFLOW_PORT={ports['airflow_port']}"
    assert "set SLIPWAY_AIRFLOW_PORT to a free port, or end that process" in first.remedy
    assert "SLIPWAY_TRITON_GRPC_PORT" in second.where


def test_ports_twice_without_setting_or_address(settings: Settings) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    twice = [Program("a", (), ports={"mlflow_port": port}), Program("b", (), ports={"http": port})]
    with pytest.raises(Invalid, match=f"b, http {port}: port {port} is given to SLIPWAY_MLFLOW_PORT too"):
        require_free(settings, twice)
    elsewhere = settings.model_copy(update={"host": "192.0.2.1"})
    with pytest.raises(Invalid, match=r"SLIPWAY_HOST: 192\.0\.2\.1 is no address of this machine"):
        require_free(elsewhere, twice[:1])
    require_free(settings, twice[:1])
