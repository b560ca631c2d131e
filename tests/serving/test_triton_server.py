"""What becomes of a tritonserver that is stopped, killed, hung, or started on a repository with a broken model."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from pipeline.errors import Invalid, Unavailable
from pipeline.settings import Settings
from pipeline.sweep import await_end
from serving import server
from serving.server import SHM, challenger_program, program

pytestmark = pytest.mark.stack
ROW = {"numeric": np.ones((1, 3), np.float32), "categorical": np.array([["x"]], dtype=object)}


def test_a_restart_serves_the_repository_but_for_the_model_that_is_broken(own_triton):
    own_triton.write("good", 1, scale=2.0)
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
    assert _shared_memory(own_triton.settings) == []


def test_a_dead_process_of_a_model_is_found_by_asking_it(own_triton):
    own_triton.write("sum", 1, scale=1.0)
    own_triton.start()
    with own_triton.client() as client:
        client.infer("sum", ROW, "prediction")
        (stub,) = psutil.Process(own_triton.process.pid).children()
        stub.kill()
        await_end([stub], 5)
        assert client.ready()
        assert client.model_ready("sum")  # which is why nobody may rely on it
        with pytest.raises(Unavailable, match=r"the model's process has ended: .* -> unload and load the model"):
            client.infer("sum", ROW, "prediction")
        client.unload("sum")
        client.load("sum")
        assert client.infer("sum", ROW, "prediction").tolist() == [[4.0]]


def test_a_killed_server_starts_again_and_leaves_no_shared_memory(own_triton):
    own_triton.write("sum", 1, scale=1.0)
    own_triton.start()
    own_triton.stop(signal.SIGKILL)
    assert _shared_memory(own_triton.settings)
    program(own_triton.settings).prepare()
    assert _shared_memory(own_triton.settings) == []
    own_triton.start()
    with own_triton.client() as client:
        assert client.infer("sum", ROW, "prediction").tolist() == [[4.0]]


def test_a_server_that_hangs_is_given_up_at_the_deadline(own_triton):
    own_triton.start()
    own_triton.process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    with own_triton.client(timeout_s=0.5) as client:
        with pytest.raises(Unavailable, match="does not answer: Deadline Exceeded"):
            client.index()
        assert not client.ready()
    assert time.monotonic() - begin < 5


def test_numpy_2_beside_the_backend_is_refused(own_triton):
    """With numpy 2 this server would answer with zero bytes, and no error."""
    assert int(np.__version__.split(".")[0]) >= 2
    own_triton.env = {"PATH": f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin"}  # the main environment has numpy 2
    own_triton.start()
    own_triton.write("sum", 1, scale=1.0)
    with own_triton.client() as client:
        with pytest.raises(Invalid, match=rf"numpy {np.__version__} makes this server answer with zero bytes"):
            client.load("sum")
        assert not client.model_ready("sum")


def test_programs_listen_on_loopback_and_share_nothing(settings, tmp_path):
    serving = program(settings)
    challenger = challenger_program(settings, "churn", 3, "0" * 64, 18000, 18001)
    assert challenger.argv == challenger_program(settings, "churn", 3, "0" * 64, 18000, 18001).argv
    assert challenger.name == "challenger-churn-3"
    assert challenger.ports == {"http": 18000, "grpc": 18001}
    assert serving.ports["triton_grpc_port"] == settings.triton_grpc_port
    for one in (serving, challenger):
        assert {"--http-address=127.0.0.1", "--grpc-address=127.0.0.1"} <= set(one.argv)
        assert one.env["PATH"].startswith(str(settings.triton_dir / "env" / "bin"))
        assert one.stop_timeout_s > server.EXIT_S
    assert "--metrics-address=127.0.0.1" in serving.argv
    prefixes = [next(word for word in one.argv if "shm-region-prefix" in word) for one in (serving, challenger)]
    assert prefixes[0] != prefixes[1]


def test_shared_memory_that_any_killed_server_left_is_swept(settings):
    left, used, new = (SHM / f"slipway_test-{kind}-{os.getpid()}" for kind in ("left", "used", "new"))
    try:
        for region in (left, used, new):
            region.write_bytes(b"x" * mmap.PAGESIZE)
        for region in (left, used):
            os.utime(region, (0, 0))
        with used.open("r+b") as file, mmap.mmap(file.fileno(), 0):
            program(settings).prepare()
            assert [region.exists() for region in (left, used, new)] == [False, True, True]
    finally:
        for region in (left, used, new):
            region.unlink(missing_ok=True)


def test_what_is_not_installed_is_said_before_the_start(tmp_path):
    absent = Settings(home=tmp_path / "home", triton_dir=tmp_path / "nowhere")
    with pytest.raises(Invalid, match=r"nowhere: tritonserver is not installed -> run `make env`"):
        program(absent).prepare()


def test_a_python_without_shared_library_is_said_before_the_start(settings, monkeypatch):
    monkeypatch.setattr(server.sysconfig, "get_config_var", lambda _: "/nowhere")
    monkeypatch.setattr(server.Path, "is_file", lambda path: path.name == "model.py")
    described = program(settings)
    with pytest.raises(Invalid, match=r"libpython3\.11\.so\.1\.0 is not here -> `apt-get install libpython3\.11`"):
        described.prepare()


def _shared_memory(settings: Settings) -> list[Path]:
    prefix = next(word for word in program(settings).argv if "shm-region-prefix" in word).rpartition("=")[2]
    return list(SHM.glob(f"{prefix}*"))
