"""The stack as a whole: what `slipway up`, `down` and `status` do, on real servers."""

from __future__ import annotations

import socket
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline import launch, programs, stack
from pipeline.errors import Invalid, Unavailable
from pipeline.program import Program
from pipeline.settings import Settings
from pipeline.supervisor import Supervisor
from tests.support.settings import own_settings


@pytest.fixture(scope="module")
def stack_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The stack of all tests with small programs: its supervisord is started by the first that needs it."""
    settings = own_settings(home=tmp_path_factory.mktemp("stack") / "home")
    yield settings
    stack.down(settings)


@pytest.fixture
def small(stack_home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Settings]:
    """A stack of which each part is a small web server, but for triton, which fails when the file `broken` is there."""
    settings = stack_home
    module = types.ModuleType("small_programs")

    def web(name: str, port: int) -> Program:
        code = f"""
import http.server, os, sys
if os.path.exists({str(tmp_path / "broken")!r}) and {name == "triton"}:
    sys.exit("the model repository is damaged")
http.server.HTTPServer(("127.0.0.1", {port}), http.server.SimpleHTTPRequestHandler).serve_forever()"""
        argv = (sys.executable, "-c", code)
        url = f"http://127.0.0.1:{port}/"
        return Program(name, argv, ports={f"{name}_port": port}, ready_url=url, ready_timeout_s=20, cwd=str(tmp_path))

    # the health of MLflow is asked at /health wherever it is
    (tmp_path / "health").write_text("OK")
    for name, port in (("mlflow", "mlflow_port"), ("airflow", "airflow_port"), ("triton", "triton_http_port")):
        setattr(module, name, lambda s, name=name, port=port: web(name, getattr(s, port)))
        monkeypatch.setitem(stack.PROGRAMS, name, f"small_programs:{name}")
    monkeypatch.setitem(sys.modules, "small_programs", module)
    monkeypatch.setattr(stack, "COMPANIONS", {})
    yield settings
    supervisor = Supervisor(settings)
    for name in supervisor.states():
        supervisor.stop(name)


def states(settings: Settings) -> dict[str, str]:
    return {part.name: part.state for part in stack.status(settings)}


@pytest.mark.stack
def test_what_a_killed_supervisor_left_is_no_reason_to_refuse(small: Settings) -> None:
    stack.up(small, ("mlflow",))
    daemon = psutil.Process(Supervisor(small).pid("mlflow")).parent()
    assert daemon is not None
    daemon.kill()
    daemon.wait(30)
    (part,) = stack.up(small, ("mlflow",))
    assert (part.state, part.healthy) == ("running", True)
    assert stack.down(small) == ("mlflow",)


@pytest.mark.stack
def test_up_status_down(small: Settings) -> None:
    assert states(small) == dict.fromkeys(("mlflow", "airflow", "triton"), "stopped")
    told: list[str] = []
    parts = stack.up(small, ("mlflow", "triton"), told.append)
    assert [(part.name, part.state, part.healthy) for part in parts] == [
        ("mlflow", "running", True),
        ("triton", "running", True),
    ]
    assert parts[0].address == f"http://127.0.0.1:{small.mlflow_port}"
    assert told[0] == "starting mlflow, triton"
    assert told[-1] == "the stack is up"
    parts = stack.up(small)
    assert [part.state for part in parts] == ["running"] * 3
    assert sorted(stack.down(small)) == ["airflow", "mlflow", "triton"]
    assert states(small) == dict.fromkeys(("mlflow", "airflow", "triton"), "stopped")
    assert stack.down(small) == ()


@pytest.mark.stack
def test_every_port_in_use_is_told_before_anything_starts(small: Settings) -> None:
    with socket.socket() as one, socket.socket() as two:
        for held, port in ((one, small.airflow_port), (two, small.mlflow_port)):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an earlier test has used the port
            held.bind(("127.0.0.1", port))
            held.listen()
        with pytest.raises(Invalid) as caught:
            stack.up(small)
    assert sorted(problem.where for problem in caught.value.problems) == [
        f"airflow, SLIPWAY_AIRFLOW_PORT={small.airflow_port}",
        f"mlflow, SLIPWAY_MLFLOW_PORT={small.mlflow_port}",
    ]
    assert set(states(small).values()) == {"stopped"}


@pytest.mark.stack
def test_a_part_that_fails_is_told_and_the_others_stay(small: Settings, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(Unavailable, match="the model repository is damaged") as caught:
        stack.up(small)
    assert len(caught.value.problems) == 1
    assert states(small) == {"mlflow": "running", "airflow": "running", "triton": "stopped"}
    (tmp_path / "broken").unlink()
    assert all(part.healthy for part in stack.up(small))


def test_unknown_parts(settings: Settings) -> None:
    with pytest.raises(Invalid, match="there is no part 'mlfow' -> parts: mlflow, airflow, triton"):
        stack.up(settings, ("mlfow",))


@pytest.mark.stack
def test_an_mlflow_elsewhere_is_not_started_here(small: Settings) -> None:
    elsewhere = small.model_copy(update={"mlflow_uri": f"http://127.0.0.1:{small.airflow_port}"})
    (part,) = stack.up(elsewhere, ("mlflow",))
    assert (part.state, part.healthy, part.note) == ("external", False, "SLIPWAY_MLFLOW_URI")
    stack.up(elsewhere, ("airflow",))
    assert stack.status(elsewhere)[0].healthy


@pytest.mark.stack
def test_what_a_run_has_started_is_shown_and_a_sick_part_points_to_its_log(small: Settings) -> None:
    stack.up(small, ("mlflow",))
    stack.Supervisor(small).start(Program("challenger-m-2", (sys.executable, "-c", "import time; time.sleep(60)")))
    (part,) = [part for part in stack.status(small) if part.name not in stack.PROGRAMS]
    assert (part.name, part.healthy) == ("challenger-m-2", True)
    sick = small.model_copy(update={"mlflow_uri": f"http://{small.host}:{small.mlflow_port}/"})
    stack.Supervisor(small).start(
        Program("airflow", (sys.executable, "-c", "import time; time.sleep(60)"), stop_timeout_s=1)
    )
    airflow = next(part for part in stack.status(sick) if part.name == "airflow")
    assert not airflow.healthy
    assert airflow.note.endswith("supervisor/logs/airflow.log")


def test_mlflow_is_really_up_for_this_machine_alone(stack_settings: Settings) -> None:
    part = stack.status(stack_settings)[0]
    assert (part.name, part.state, part.healthy) == ("mlflow", "running", True)
    call = {"json": {"max_results": 1}, "trust_env": False}
    url = f"{stack_settings.mlflow_uri}/api/2.0/mlflow/experiments/search"
    assert httpx.post(url, **call).status_code == 200  # type: ignore[arg-type]
    assert httpx.post(url, headers={"Host": "evil.example"}, **call).status_code == 403  # type: ignore[arg-type]
    assert (stack_settings.home / "mlflow" / "mlflow.db").is_file()


def test_the_environment_of_every_program(settings: Settings) -> None:
    shared = programs.environment(settings)
    assert shared.items() <= programs.mlflow(settings).env.items()
    airflow = programs.airflow(settings)
    assert shared.items() <= airflow.env.items()
    assert airflow.env["SLIPWAY_HOME"] == str(settings.home)
    assert airflow.env["SLIPWAY_MLFLOW_URI"] == settings.mlflow_uri
    assert not any("password" in value.lower() for value in airflow.argv)


def test_airflow_keys_are_made_once_and_are_private(settings: Settings) -> None:
    assert programs.airflow_credentials(settings) == ("admin", "")
    prepare = programs.airflow(settings).prepare
    assert prepare is not None
    prepare()
    user, password = programs.airflow_credentials(settings)
    config = settings.home / "airflow" / "airflow.cfg"
    text = config.read_text()
    prepare()
    assert programs.airflow_credentials(settings) == (user, password)
    assert config.read_text() == text
    assert len(password) >= 12
    assert config.stat().st_mode & 0o077 == 0
    assert (settings.home / "airflow" / "passwords.json").stat().st_mode & 0o077 == 0


def test_a_path_that_airflow_would_misread_is_refused(settings: Settings, tmp_path: Path) -> None:
    prepare = programs.airflow(settings.model_copy(update={"home": tmp_path / "50%"})).prepare
    assert prepare is not None
    with pytest.raises(Invalid, match="set SLIPWAY_HOME to another folder"):
        prepare()


def test_launch_says_what_it_cannot_execute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "program.json"
    file.write_text('{"argv": ["/no/such"], "env": {}, "cwd": "/no/folder", "host": "127.0.0.1"}')
    with pytest.raises(SystemExit) as caught:
        launch.main(str(file))
    assert caught.value.code == 127
    assert "/no/such cannot be executed: [Errno 2]" in capsys.readouterr().err
