"""What becomes of a tritonserver that is stopped, killed, hung, or started on a repository with a broken model."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from pipeline.errors import Invalid, Unavailable
from pipeline.settings import Settings
from serving import server
from serving.server import challenger_program, program
from tests.serving.real_triton import RealTriton

ROW = {"numeric": np.ones((1, 3), np.float32), "categorical": np.array([["x"]], dtype=object)}


def test_a_killed_server_serves_its_repository_but_for_the_model_that_is_broken(own_triton: RealTriton) -> None:
    own_triton.write("good", 1, scale=2.0)
    own_triton.start()
    assert psutil.Process(own_triton.process.pid).children(recursive=True) == []  # nothing is left behind
    own_triton.stop(signal.SIGKILL)
    own_triton.write("bad", 1, scale=1.0)
    (own_triton.repository / "bad" / "1" / "model.onnx").write_bytes(b"no graph")
    own_triton.start()
    with own_triton.client() as client:
        assert client.infer("good", ROW, "prediction").tolist() == [[7.0]]
        assert not client.model_ready("bad")
        with pytest.raises(Invalid, match="it is not loaded"):
            client.infer("bad", ROW, "prediction")
    metrics = httpx.get(f"http://127.0.0.1:{own_triton.settings.triton_metrics_port}/metrics", trust_env=False)
    assert 'nv_inference_request_success{model="good",version="1"} 1' in metrics.text
    assert own_triton.stop() == 0


def test_a_server_that_hangs_is_given_up_at_the_deadline(shared_triton: RealTriton) -> None:
    shared_triton.process.send_signal(signal.SIGSTOP)
    try:
        with shared_triton.client(timeout_s=0.5) as client:
            with pytest.raises(Unavailable, match="does not answer: Deadline Exceeded"):
                client.index()
            assert not client.ready()
    finally:
        shared_triton.process.send_signal(signal.SIGCONT)


def test_programs_listen_on_loopback_and_share_nothing(settings: Settings, tmp_path: Path) -> None:
    serving = program(settings)
    challenger = challenger_program(settings, "churn", 3, "0" * 64, 18000, 18001)
    assert challenger.argv == challenger_program(settings, "churn", 3, "0" * 64, 18000, 18001).argv
    assert challenger.name == "challenger-churn-3"
    assert challenger.ports == {"http": 18000, "grpc": 18001}
    assert serving.ports["triton_grpc_port"] == settings.triton_grpc_port
    for one in (serving, challenger):
        assert {"--http-address=127.0.0.1", "--grpc-address=127.0.0.1"} <= set(one.argv)
        assert one.stop_timeout_s > server.EXIT_S
    assert "--metrics-address=127.0.0.1" in serving.argv


def test_what_is_not_installed_is_said_before_the_start(tmp_path: Path) -> None:
    absent = Settings(home=tmp_path / "home", triton_dir=tmp_path / "nowhere")
    with pytest.raises(Invalid, match=r"nowhere: tritonserver is not installed -> run `make env`"):
        program(absent).prepare()
