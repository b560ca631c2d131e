"""A real supervisord with small HTTP servers as its programs."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.daemon import Daemon
from pipeline.errors import Invalid, Unavailable
from pipeline.program import Program
from pipeline.settings import Settings
from pipeline.supervisor import Supervisor
from pipeline.sweep import await_end, marked
from tests.pipeline.small_servers import ask, lives, script, server
from tests.support.polling import wait_for
from tests.support.settings import own_settings

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The stack of the tests that leave its supervisord alone; the first start of a program starts it."""
    settings = own_settings(home=tmp_path_factory.mktemp("supervisor") / "home")
    yield settings
    Supervisor(settings).stop_all()


@pytest.fixture
def supervisor(home: Settings) -> Iterator[Supervisor]:
    """A supervisor without programs."""
    supervisor = Supervisor(home)
    yield supervisor
    for name in supervisor.states():
        supervisor.stop(name)
    for file in (home.home / "supervisor" / "logs").glob("*"):
        file.unlink()


@pytest.fixture
def own(settings: Settings) -> Iterator[Supervisor]:
    """A stack for one test, which starts or ends its supervisord."""
    supervisor = Supervisor(settings)
    yield supervisor
    supervisor.stop_all()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A supervisor in a home with odd characters and a long path, started from an environment that names another."""
    home = tmp_path_factory.mktemp("supervisor") / f"50% of; #{'x' * 120}" / "home"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLIPWAY_HOME", "/somewhere/else")
        patched.setenv("AWS_REGION", "here")
        patched.setenv("NO_PROXY", "example.org")
        supervisor = Supervisor(own_settings(home=home))
        yield supervisor
        supervisor.stop_all()


def test_a_program_is_started_once_kept_and_stopped(supervisor: Supervisor, home: Settings) -> None:
    prepared: list[str] = []
    program = server()
    program = Program(**{**vars(program), "prepare": lambda: prepared.append("once")})
    assert supervisor.states() == {}
    supervisor.start(program)
    pid = ask(program)["pid"]
    supervisor.start(program)
    Supervisor(home).start(program)
    assert ask(program)["pid"] == pid
    assert prepared == ["once"]
    folder = home.home / "supervisor"
    files = list((folder / "programs").iterdir())
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 2  # an environment may hold secrets
    assert stat.S_IMODE((folder / "supervisor.sock").stat().st_mode) == 0o600
    assert wait_for(lambda: supervisor.states() == {"web": "RUNNING"})
    supervisor.stop("web")
    assert supervisor.states() == {}
    assert not lives(int(str(pid)))
    assert not list((folder / "programs").iterdir())
    supervisor.stop("web")
    supervisor.stop("never started")


def test_a_changed_description_replaces_the_program(supervisor: Supervisor) -> None:
    program = server()
    supervisor.start(program)
    pid = ask(program)["pid"]
    supervisor.start(Program(**{**vars(program), "env": {"NEW": "yes"}}))
    answer = ask(program)
    assert answer["pid"] != pid
    assert answer["env"]["NEW"] == "yes"  # type: ignore[index]


def test_no_character_of_argv_or_environment_is_special(supervisor: Supervisor, tmp_path: Path) -> None:
    odd = "100% %(here)s %(ENV_HOME)s ; # \"quoted\" 'single' back\\slash, comma=equals\nnew line é"
    program = server("odd.name-1", odd, "", ODD=odd)
    folder = tmp_path / "a folder; 50%"
    folder.mkdir()
    supervisor.start(Program(**{**vars(program), "cwd": str(folder)}))
    answer = ask(program)
    assert answer["argv"] == [odd, ""]
    assert answer["env"]["ODD"] == odd  # type: ignore[index]
    assert answer["cwd"] == str(folder)


def test_a_home_with_odd_characters_and_a_long_path(odd: Supervisor) -> None:
    odd.start(server("long"))
    assert wait_for(lambda: odd.states()["long"] == "RUNNING")


def test_the_environment_is_the_programs_own(odd: Supervisor) -> None:
    program = server(MINE="1")
    odd.start(program)
    env = ask(program)["env"]
    assert isinstance(env, dict)
    assert "SLIPWAY_HOME" not in env
    assert (env["MINE"], env["AWS_REGION"]) == ("1", "here")
    assert env["SLIPWAY_STACK"] == str(odd.settings.home)
    assert env["NO_PROXY"] == "example.org,127.0.0.1,localhost"


def test_a_crashed_program_is_restarted(supervisor: Supervisor) -> None:
    program = server()
    supervisor.start(program)
    pid = int(str(ask(program)["pid"]))
    wait_for(lambda: supervisor.states()["web"] == "RUNNING")
    psutil.Process(pid).kill()

    def other() -> bool:
        try:
            return ask(program)["pid"] != pid
        except httpx.HTTPError:
            return False

    assert wait_for(other)
    supervisor.start(program)  # one that is restarting is waited for, not failed


def test_a_failing_start_says_why_and_leaves_nothing(supervisor: Supervisor) -> None:
    code = (
        "import sys, time; print('\\n'.join(f'line {i}' for i in range(40)), flush=True);"
        "time.sleep(SECONDS); sys.exit('no licence')"
    )
    for seconds in (0, 1.5):  # before and after supervisor counts it as running
        with pytest.raises(Unavailable) as caught:
            supervisor.start(script(code.replace("SECONDS", str(seconds))))
        message = str(caught.value)
        assert "web ended before it was ready" in message
        assert "no licence" in message
        assert "line 39" in message
        assert "line 20" not in message
        assert str(supervisor.log("web")) in message
        assert supervisor.states() == {}


class Late(threading.Event):
    """An event on which a busy machine waits for too long: until supervisord has started the program again."""

    def __init__(self, is_restarted: Callable[[], bool]) -> None:
        super().__init__()
        self.is_restarted = is_restarted

    def wait(self, timeout: float | None = None) -> bool:
        wait_for(self.is_restarted, "the program is started again")
        return super().wait(timeout)


def test_the_first_end_is_told_when_it_was_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = f"""
import pathlib, time
path = pathlib.Path({str(count)!r}); number = len(path.read_text()) if path.exists() else 0
print("start", number, flush=True); path.write_text("x" * (number + 1)); time.sleep(1.5 if number == 0 else 30)"""
    supervisor.cancelled = Late(lambda: count.exists() and count.read_text() == "xx")
    with pytest.raises(Unavailable) as caught:
        supervisor.start(script(code, stop_timeout_s=1))
    assert count.read_text() == "xx"
    assert "start 0" in str(caught.value)
    assert "start 1" not in str(caught.value)


def test_the_log_of_an_earlier_start_is_not_quoted(supervisor: Supervisor) -> None:
    for word in ("first", "second"):
        with pytest.raises(Unavailable) as caught:
            supervisor.start(script(f"raise SystemExit('{word} reason')"))
    assert "second reason" in str(caught.value)
    assert "first reason" not in str(caught.value)


def test_what_cannot_be_executed_says_so(supervisor: Supervisor) -> None:
    with pytest.raises(Unavailable, match=r"/no/such/server cannot be executed: .*No such file"):
        supervisor.start(Program("web", ("/no/such/server",), ready_url="http://127.0.0.1:9/"))


def test_a_program_that_is_never_ready_is_taken_down(supervisor: Supervisor) -> None:
    with pytest.raises(Unavailable, match=r"web was not ready after 1\.5 s, silently"):
        supervisor.start(script("import time; time.sleep(60)", ready_timeout_s=1.5, stop_timeout_s=1))
    assert supervisor.states() == {}


def test_cancelled_waits_no_longer(supervisor: Supervisor) -> None:
    threading.Timer(0.5, supervisor.cancelled.set).start()
    supervisor.start(script("import time; time.sleep(60)", ready_timeout_s=30, stop_timeout_s=1))
    assert set(supervisor.states()) == {"web"}


def test_a_port_in_use_or_a_misleading_name_stops_the_start(supervisor: Supervisor) -> None:
    with pytest.raises(Invalid, match="cannot name a program"):
        supervisor.start(script("", name="a:b]\nx=1"))
    program = server()
    with socket.socket() as held:
        held.bind(("127.0.0.1", program.ports["mlflow_port"]))
        held.listen()
        with pytest.raises(Invalid, match="SLIPWAY_MLFLOW_PORT"):
            supervisor.start(program)
    assert supervisor.states() == {}


def test_a_home_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    supervisor = Supervisor(settings.model_copy(update={"home": tmp_path / "file"}))
    with pytest.raises(Invalid, match="cannot be written: Not a directory"):
        supervisor.start(server())
    assert supervisor.stop_all() == ()


def test_many_callers_at_once_get_one_process_each(own: Supervisor, settings: Settings) -> None:
    shared, others = server(), [server(f"other-{number}") for number in range(2)]
    code = (
        "import json, sys; from pathlib import Path; from pipeline.program import Program;"
        "from pipeline.settings import Settings; from pipeline.supervisor import Supervisor;"
        "Supervisor(Settings(home=Path(sys.argv[1]))).start(Program(**json.loads(sys.argv[2])))"
    )
    described = {**vars(shared), "env": dict(shared.env)}
    with ThreadPoolExecutor(6) as pool:
        outside = pool.submit(
            subprocess.run,
            [sys.executable, "-c", code, str(settings.home), json.dumps(described)],
            capture_output=True,
            text=True,
            check=False,
        )
        for result in [pool.submit(Supervisor(settings).start, program) for program in (shared, shared, *others)]:
            result.result()
        assert outside.result().returncode == 0, outside.result().stderr
    assert set(own.states()) == {"web", "other-0", "other-1"}
    daemons = [process for process in marked(settings.home) if "supervisor.supervisord" in process.cmdline()]
    assert len(daemons) == 1


def test_stop_all_ends_strays_and_the_stubborn_and_nothing_else(own: Supervisor, settings: Settings) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        own.start(server("strays", STRAY="1"))
        own.start(server("stubborn", STUBBORN="1"))
        processes = marked(settings.home)
        report = own.stop_all()
        assert report[:2] == ("strays", "stubborn")
        assert len(report) == 3
        assert report[2].startswith("orphan ")
        assert "time.sleep(300)" in report[2]
        assert await_end(processes, 0.0)
        assert marked(settings.home) == []
        assert bystander.poll() is None
        assert own.states() == {}
        assert own.stop_all() == ()
    finally:
        bystander.kill()
        bystander.wait()


def test_what_a_dead_supervisor_left_is_ended_before_a_new_one(own: Supervisor, settings: Settings) -> None:
    program = server()
    own.start(program)
    orphan = int(str(ask(program)["pid"]))
    daemon = psutil.Process(orphan).parent()
    assert daemon is not None
    daemon.kill()
    assert await_end([daemon], 5.0)
    assert lives(orphan)
    with (
        pytest.raises(Unavailable, match="the supervisor does not answer"),
        Daemon(settings.home / "supervisor").call() as rpc,
    ):
        rpc.getState()
    own.start(program)
    assert not lives(orphan)
    assert wait_for(lambda: own.states() == {"web": "RUNNING"})


def test_a_supervisor_that_cannot_start_says_why(own: Supervisor, settings: Settings) -> None:
    blocked = settings.home / "supervisor" / "supervisord.log"
    blocked.mkdir(parents=True)
    with pytest.raises(Unavailable, match="supervisord did not start: "):
        own.start(server())
