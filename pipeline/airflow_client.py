"""Airflow's REST API (v2), as far as a run needs it: trigger a DAG, follow its tasks, read their logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import httpx
import tenacity

from pipeline.errors import Invalid, Problem, Unavailable
from pipeline.programs import airflow_credentials
from pipeline.refs import Approval
from pipeline.run import APPROVE, NO, YES, new_run_id
from pipeline.settings import Settings

ENDED = ("success", "failed")
_PAGE = 100  # Airflow's largest page
STORING_S = 1.0  # between the reading of a DAG's file and the note that it was read
_RETRIED = (500, 502, 503, 504)
_COMMAND_ENDED = "Command exited with return code"  # what operators log after the last line of a step


@dataclass(frozen=True)
class TaskState:
    """A task of a run as it is now: Airflow's state ("waiting" before it has one), ISO times, seconds when ended."""

    key: str
    state: str
    try_number: int
    start: str | None
    end: str | None
    seconds: float | None


class AirflowClient:
    """The embedded Airflow at `settings.airflow_url`.

    Every method raises Unavailable when Airflow does not answer (a retry helps; reads have been retried for
    `settings.timeout_s`), Invalid when it refuses the call, in its own words (a retry does not help).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = ""

    @cached_property
    def _http(self) -> httpx.Client:
        return httpx.Client(base_url=self._settings.airflow_url, timeout=self._settings.timeout_s, trust_env=False)

    def dags(self) -> tuple[str, ...]:
        """The names of the DAGs that Airflow knows, sorted."""
        return tuple(sorted(str(dag["dag_id"]) for dag in self._all("/dags", "dags")))

    def import_errors(self) -> dict[str, str]:
        """The DAG files that could not be read: path and traceback."""
        return {
            str(error["filename"]): str(error["stack_trace"]) for error in self._all("/importErrors", "import_errors")
        }

    def has_dag(self, dag: str) -> bool:
        """Whether Airflow has read a DAG of this name, and its file still holds it."""
        return (found := self._dag(dag)) is not None and not found["is_stale"]

    def await_dag(self, dag: str, timeout_s: float = 45.0, changed: float = 0.0) -> None:
        """Wait until Airflow has read a DAG, after `changed` (epoch seconds) when its file was edited, and unpause it.

        Raises:
            Invalid: it is not there in time; names the files that could not be read, or the DAGs there are.
        """
        deadline = time.monotonic() + timeout_s
        asked: str | None = None  # by when it had been read when we asked for it to be read anew
        while True:
            found = self._dag(dag)
            parsed = str(found["last_parsed_time"]) if found else ""
            if found is not None and not found["is_stale"] and _begun(found) >= changed:
                if found["is_paused"]:
                    self.unpause(dag)
                return
            if time.monotonic() > deadline:
                raise self._absent(dag, timeout_s)
            if asked != parsed and self._ask_to_parse():
                asked = parsed
            time.sleep(0.5)

    def unpause(self, dag: str) -> None:
        """Let a DAG's runs start."""
        self._expect(self._call("PATCH", f"/dags/{dag}", json={"is_paused": False}), f"DAG {dag}")

    def trigger(self, dag: str, conf: Mapping[str, object], run_id: str | None = None) -> str:
        """Start a run with these params and return its id; a run of this id that is there already is left alone.

        Raises:
            Invalid: Airflow refuses the params, in its words, or knows no such DAG (names those it knows).
        """
        body = {"dag_run_id": run_id or new_run_id(), "logical_date": None, "conf": dict(conf)}
        answer = self._call("POST", f"/dags/{dag}/dagRuns", json=body)
        if answer.status_code == httpx.codes.CONFLICT:
            return str(body["dag_run_id"])
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise self._absent(dag)
        return str(self._expect(answer, f"run of DAG {dag}")["dag_run_id"])

    def follow(self, dag: str, run_id: str, interval_s: float = 0.5) -> Iterator[TaskState]:
        """Yield each task whenever its state or try has changed, until the run has ended."""
        known: dict[str, TaskState] = {}
        while True:
            ended = self.run_state(dag, run_id) in ENDED  # asked first, so that the last states are seen after it
            for task in self.tasks(dag, run_id):
                before = known.get(task.key)
                if before is None or (before.state, before.try_number) != (task.state, task.try_number):
                    known[task.key] = task
                    yield task
            if ended:
                return
            time.sleep(interval_s)

    def run_state(self, dag: str, run_id: str) -> str:
        """queued, running, success or failed."""
        return str(self._get(f"/dags/{dag}/dagRuns/{run_id}", f"DAG {dag}, run {run_id}")["state"])

    def tasks(self, dag: str, run_id: str) -> tuple[TaskState, ...]:
        """Every task of a run as it is now."""
        found = self._all(f"/dags/{dag}/dagRuns/{run_id}/taskInstances", "task_instances", f"DAG {dag}, run {run_id}")
        return tuple(
            TaskState(
                key=str(task["task_id"]),
                state=str(task["state"] or "waiting"),
                try_number=int(task["try_number"]),
                start=task["start_date"],
                end=task["end_date"],
                seconds=task["duration"] if task["end_date"] else None,
            )
            for task in found
        )

    def answer(self, dag: str, run_id: str, said: Approval) -> bool:
        """Answer the task that asks for a person's approval; False when there is none, or it has its answer."""
        path = f"/dags/{dag}/dagRuns/{run_id}/taskInstances/{APPROVE}/-1/hitlDetails"
        body = {"chosen_options": [YES if said.approved else NO], "params_input": {"note": said.note}}
        answer = self._call("PATCH", path, json=body)
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
            return False
        self._expect(answer, f"DAG {dag}, run {run_id}, task {APPROVE}")
        return True

    def logs(self, dag: str, run_id: str, task: str, try_number: int | None = None) -> tuple[str, ...]:
        """The lines of a task's log; of its last try unless another is named."""
        path, where = f"/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}", f"DAG {dag}, run {run_id}, task {task}"
        number = self._get(path, where)["try_number"] if try_number is None else try_number
        content = self._get(f"{path}/logs/{number}", where, full_content=True)["content"]
        lines = [line for item in content for line in _lines(item)]
        return tuple(line for line in lines if line and not line.startswith("::"))

    def last_line(self, dag: str, run_id: str, task: str) -> str:
        """The last line that a task's command has said, which says why it ended; else the last of its log."""
        lines = self.logs(dag, run_id, task)
        for number in range(len(lines) - 1, 0, -1):
            if lines[number].startswith(_COMMAND_ENDED):
                return lines[number - 1]
        return lines[-1] if lines else ""

    def _dag(self, dag: str) -> dict[str, Any] | None:
        answer = self._call("GET", f"/dags/{dag}")
        return None if answer.status_code == httpx.codes.NOT_FOUND else self._expect(answer, f"DAG {dag}")

    def _ask_to_parse(self) -> bool:
        """Ask for the known DAG files to be read at once, rather than when it is their turn; whether there were any."""
        tokens = {str(dag["relative_fileloc"]): str(dag["file_token"]) for dag in self._all("/dags", "dags")}
        for token in tokens.values():
            self._call("PUT", f"/parseDagFile/{token}")  # 409: it has been asked for already
        return bool(tokens)

    def _absent(self, dag: str, waited_s: float = 0.0) -> Invalid:
        waited = f" (waited {waited_s:g} s)" if waited_s else ""
        problems = [Problem(f"Airflow has no DAG {dag!r}{waited}", self._settings.airflow_url, self._known())]
        for file, trace in self.import_errors().items():
            last = trace.strip().splitlines()[-1:] or [""]
            problems.append(Problem(f"the DAG file cannot be read: {last[0]}", file, "correct it"))
        return Invalid(problems)

    def _known(self) -> str:
        names = self.dags()
        return f"it has: {', '.join(names)}" if names else "it has none: is there a spec in dags/specs?"

    def _all(self, path: str, key: str, where: str = "") -> list[dict[str, Any]]:
        """Every item of a collection, page after page."""
        items: list[dict[str, Any]] = []
        while True:
            page = self._get(path, where, limit=_PAGE, offset=len(items))
            items += page[key]
            if not page[key] or len(items) >= page["total_entries"]:
                return items

    def _get(self, path: str, where: str = "", **params: Any) -> dict[str, Any]:
        return self._expect(self._call("GET", path, params=params, headers={"Accept": "application/json"}), where)

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One authorised call. Only what Airflow cannot have acted upon is sent twice."""
        self._token = self._token or self._login()
        answer = self._send(method, f"/api/v2{path}", **options)
        if answer.status_code == httpx.codes.UNAUTHORIZED or "JWT" in _detail(answer):  # a token lives for a day
            self._token = self._login()
            answer = self._send(method, f"/api/v2{path}", **options)
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        if self._token:
            options["headers"] = {**options.get("headers", {}), "Authorization": f"Bearer {self._token}"}
        safe = method == "GET"
        retrying = tenacity.Retrying(
            # before the first answer it is probably not up; after it, it may be restarting
            stop=tenacity.stop_after_delay(self._settings.timeout_s if self._token else 2.0),
            wait=tenacity.wait_exponential(0.2, max=2.0),
            retry=tenacity.retry_if_exception_type(httpx.TransportError if safe else httpx.ConnectError)
            | tenacity.retry_if_result(lambda answer: safe and answer.status_code in _RETRIED),
            retry_error_callback=_last,
        )
        try:
            answer: httpx.Response = retrying(self._http.request, method, path, **options)
        except httpx.HTTPError as error:
            raise self._silent(path, str(error) or type(error).__name__) from error
        if answer.status_code in _RETRIED:
            raise self._silent(path, f"{answer.status_code} {_detail(answer)}")
        return answer

    def _login(self) -> str:
        user, password = airflow_credentials(self._settings)
        if not password:
            raise self._silent("/auth/token", "it was never started here")
        answer = self._send("POST", "/auth/token", json={"username": user, "password": password})
        return str(self._expect(answer, f"user {user}")["access_token"])

    def _silent(self, path: str, why: str) -> Unavailable:
        return Unavailable(
            f"Airflow does not answer: {why}", f"{self._settings.airflow_url}{path}", "start it with `slipway up`"
        )

    def _expect(self, answer: httpx.Response, where: str) -> dict[str, Any]:
        """The body of an answer that is a success."""
        if answer.is_success:
            return dict(answer.json())
        place = f"{where} ({self._settings.airflow_url})" if where else str(answer.url)
        raise Invalid(f"Airflow refuses ({answer.status_code}): {_detail(answer)}", place, "correct the call")


def _last(state: tenacity.RetryCallState) -> Any:
    """The last answer, or the last error, as it was."""
    outcome: tenacity.Future | None = state.outcome
    result: Callable[[], Any] = outcome.result if outcome else lambda: None
    return result()


def _detail(answer: httpx.Response) -> str:
    """Airflow's own words of refusal; none when it does not refuse."""
    if answer.is_success:
        return ""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]
    if isinstance(detail, list):  # pydantic's list of what is wrong with a body
        return "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in detail)
    return " ".join(str(detail.get("reason", detail) if isinstance(detail, dict) else detail).split())


def _lines(item: Any) -> list[str]:
    """The lines of one log record: its event, and the error that it carries."""
    if isinstance(item, str):
        return item.splitlines()
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in item.get("error_detail") or ()]
    return [*str(item["event"]).splitlines(), *errors]


def _begun(dag: Mapping[str, Any]) -> float:
    """The epoch second before which the last reading of a DAG's file did not begin.

    Airflow notes when what was read has been stored: a file that is written meanwhile is younger than what was read.
    """
    if not dag["last_parsed_time"]:
        return 0.0
    stored = datetime.fromisoformat(dag["last_parsed_time"]).timestamp()
    return stored - float(dag.get("last_parse_duration") or 0.0) - STORING_S
