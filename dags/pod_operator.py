"""A task of the graph as a pod: Airflow waits for it, and the store says whether it has succeeded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from dags.operators import ended
from dags.pod import CONTAINER, PodPolicy, step_pod
from pipeline.errors import SlipwayError
from pipeline.graph import Task, step_named
from pipeline.policy import read_policy
from pipeline.run import slug
from pipeline.settings import Settings
from pipeline.spec_file import load_spec, parse_overrides
from pipeline.store import Store

LOG_INTERVAL_S = 5  # how often the triggerer fetches a pod's log


class PodOperator(KubernetesPodOperator):  # type: ignore[misc]
    """Runs a step in a pod, deferred while it works; reattaches to it after a restart of Airflow.

    The step has succeeded when its reference is in the store: a pod that was lost after writing it has succeeded, and
    one that ended with 0 without it has failed.
    """

    ui_color = "#dbeafe"

    def __init__(self, *, step: str, candidate: str | None, spec_path: str, settings: Settings, **options: Any) -> None:
        super().__init__(
            in_cluster=None,
            kubernetes_conn_id=None,
            namespace=settings.namespace,
            base_container_name=CONTAINER,
            random_name_suffix=True,
            deferrable=True,
            durable=True,
            get_logs=True,
            logging_interval=LOG_INTERVAL_S,
            container_name_log_prefix_enabled=False,
            log_events_on_failure=True,
            log_pod_spec_on_failure=False,
            on_finish_action="delete_pod",
            termination_message_policy="FallbackToLogsOnError",
            **options,
        )
        self.step, self.candidate, self.spec_path, self.settings = step, candidate, spec_path, settings
        self.exit_code: int | None = None
        self.reason = ""

    def build_pod_request_obj(self, context: Any = None, *, dry_run: bool = False) -> Any:
        """The manifest of this run's pod, by the policy as it is now."""
        try:
            policy = read_policy(self.settings.pods, PodPolicy, "SLIPWAY_PODS")
            path = Path(self.spec_path)
            params = dict(context["params"])
            spec = parse_overrides(json.dumps(params)).apply(load_spec(path))
        except SlipwayError as error:
            raise AirflowFailException(str(error)) from error
        self.startup_timeout_seconds = self.schedule_timeout_seconds = policy.startupTimeoutS
        task = Task(step_named(self.step), self.candidate)
        self.pod_template_dict = step_pod(policy, task, spec, path, slug(context["run_id"]), params)
        return super().build_pod_request_obj(context, dry_run=dry_run)

    def execute(self, context: Any) -> None:
        """Start the pod, or find the one that an earlier life of this task has started, and wait for it, deferred."""
        if self._has_reference(context):
            self.log.info("%s: already done in this run", self.task_id)
            return
        super().execute(context)

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> None:
        """Called when the pod has ended, or is lost: the reference decides, then the exit code."""
        try:
            super().trigger_reentry(context, event)
        except AirflowException as error:
            if self._has_reference(context):
                self.log.warning("the pod was lost, its reference was not: %s", error)
                return
            reason = self.reason or str(error)
            self.log.error("%s", reason)
            self.log.info("Command exited with return code %s", self.exit_code)
            raise ended(self.exit_code, reason) from error
        if not self._has_reference(context):
            raise AirflowException(f"the pod of {self.task_id} ended well, but left no reference in the store")

    def cleanup(self, pod: Any, remote_pod: Any, xcom_result: Any = None, context: Any = None) -> None:
        """Remember how the step ended before its pod is deleted."""
        statuses = (remote_pod.status.container_statuses if remote_pod and remote_pod.status else None) or []
        for status in statuses:
            if status.name == CONTAINER and status.state and status.state.terminated:
                self.exit_code = status.state.terminated.exit_code
                lines = (status.state.terminated.message or "").strip().splitlines()
                self.reason = lines[-1] if lines else status.state.terminated.reason or ""
        super().cleanup(pod, remote_pod, xcom_result, context)

    def _has_reference(self, context: Any) -> bool:
        pipeline, run = context["ti"].dag_id, slug(context["run_id"])
        try:
            return Store(self.settings.store).exists(f"runs/{pipeline}/{run}/{self.task_id}.json")
        except SlipwayError as error:
            raise AirflowException(f"the store does not say whether {self.task_id} is done: {error}") from error
