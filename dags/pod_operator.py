"""A task of the graph as a pod: Airflow waits for it, and the store says whether it has succeeded."""

from __future__ import annotations

import json
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from dags.operators import ended
from dags.pod import CONTAINER, Manifest, PodPolicy, ending, rollback_pod, step_pod
from dags.pod_trigger import PodTrigger
from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.graph import Task, step_named
from pipeline.policy import read_policy
from pipeline.run import Run, slug
from pipeline.settings import Settings
from pipeline.spec_file import load_spec, parse_overrides

LOG_INTERVAL_S = 5  # how often the triggerer fetches a pod's log
RELEASE = "app.kubernetes.io/instance"
REFUSED = {400, 404, 422}  # the API server's answers to a pod that no retry makes right


class PodOperator(KubernetesPodOperator):  # type: ignore[misc]
    """Runs a task in a pod, deferred while it works; reattaches to it after a restart of Airflow.

    The task has succeeded when its reference is in the store: a pod that was lost after writing it has succeeded, and
    one that ended with 0 without it has failed.
    """

    ui_color = "#dbeafe"

    def __init__(self, *, settings: Settings, **options: Any) -> None:
        super().__init__(
            kubernetes_conn_id=None,
            base_container_name=CONTAINER,
            random_name_suffix=True,
            deferrable=True,
            durable=True,
            get_logs=True,
            logging_interval=LOG_INTERVAL_S,
            log_events_on_failure=True,
            log_pod_spec_on_failure=False,
            on_finish_action="delete_pod",
            termination_message_policy="FallbackToLogsOnError",
            **options,
        )
        self.settings = settings
        self.exit_code: int | None = None
        self.reason = ""

    @cached_property
    def policy(self) -> PodPolicy:
        """The platform's policy as it is now."""
        try:
            return read_policy(self.settings.pods, PodPolicy, "SLIPWAY_PODS")
        except SlipwayError as error:
            raise AirflowFailException(str(error)) from error

    @abstractmethod
    def manifest(self, context: Any) -> Manifest:
        """The task's pod. Raises SlipwayError when there can be none."""

    def build_pod_request_obj(self, context: Any = None, *, dry_run: bool = False) -> Any:
        """The manifest of this run's pod."""
        try:
            self.pod_template_dict = self.manifest(context)
        except SlipwayError as error:
            raise AirflowFailException(str(error)) from error
        return super().build_pod_request_obj(context, dry_run=dry_run)

    def execute(self, context: Any) -> None:
        """Start the pod, or find the one that an earlier life of this task has started, and wait for it, deferred."""
        if self._is_done(context):
            self.log.info("%s: already done in this run", self.task_id)
            self._tidy(context)
            return
        try:
            super().execute(context)
        except ApiException as error:
            code = Invalid.exit_code if error.status in REFUSED else Unavailable.exit_code
            raise ended(code, f"the API server refuses the pod: {_said(error)}") from error
        except HTTPError as error:
            raise AirflowException(f"the API server does not answer: {error}") from error

    def _build_find_pod_label_selector(self, context: Any = None, *, exclude_checked: bool = True) -> str:
        """The pods of this task's lives, of this release alone: another one's run may have the same name."""
        found = super()._build_find_pod_label_selector(context, exclude_checked=exclude_checked)
        release = self.policy.labels.get(RELEASE)
        return f"{found},{RELEASE}={release}" if release else str(found)

    def get_or_create_pod(self, pod_request_obj: Any, context: Any) -> Any:
        """The pod of an earlier life of this task, unless that is on its way out; else a new one."""
        for pod in self._pods(context):
            if pod.metadata.deletion_timestamp is not None:
                self.patch_already_checked(pod, reraise=False)  # by this label, it is not found again
        return super().get_or_create_pod(pod_request_obj, context)

    def defer(self, *, trigger: Any, **options: Any) -> None:
        """Wait in the triggerer, which reaches the cluster as this process does."""
        in_cluster = self.hook.is_in_cluster
        arguments = trigger.serialize()[1] | {
            "in_cluster": in_cluster,  # the triggerer would not look for it by itself
            "config_dict": None if in_cluster else trigger.config_dict,
            "schedule_timeout": self.policy.startupTimeoutS,
            "startup_timeout": self.policy.startupTimeoutS,
        }
        super().defer(trigger=PodTrigger(**arguments), **options)

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> None:
        """Called when the pod has ended, or is lost: the reference decides, then the exit code."""
        try:
            super().trigger_reentry(context, event)
        except (AirflowException, ApiException, HTTPError) as error:
            if self._is_done(context):
                self.log.warning("the pod was lost, its reference was not: %s", error)
                return
            reason = self.reason or str(error)
            if event["status"] == "timeout":
                reason = f"the pod did not start within {self.policy.startupTimeoutS} s: {reason}"
            self.log.error("%s", reason)
            self.log.info("Command exited with return code %s", self.exit_code)
            raise ended(self.exit_code, reason) from error
        if not self._is_done(context):
            raise AirflowException(f"the pod of {self.task_id} ended well, but left no reference in the store")

    def cleanup(self, pod: Any, remote_pod: Any, xcom_result: Any = None, context: Any = None) -> None:
        """Remember how the step ended before its pod is deleted."""
        if remote_pod:
            self.exit_code, self.reason = ending(self.client.api_client.sanitize_for_serialization(remote_pod))
        super().cleanup(pod, remote_pod, xcom_result, context)

    def _tidy(self, context: Any) -> None:
        """Delete the pods of this task's earlier lives. What is done has not failed when one cannot be deleted."""
        try:
            for pod in self._pods(context):
                self.client.delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace)
        except (ApiException, HTTPError) as error:
            self.log.warning("a pod of %s may be left behind: %s", self.task_id, error)

    def _pods(self, context: Any) -> list[Any]:
        """The pods of this task's earlier lives in this run."""
        selector = self._build_find_pod_label_selector(context)
        return list(self.client.list_namespaced_pod(self.policy.namespace, label_selector=selector).items)

    def _is_done(self, context: Any) -> bool:
        """Whether the store has this task's reference."""
        run = Run(slug(context["run_id"]), context["ti"].dag_id, self.settings, Path())
        try:
            return run.envelope(self.task_id) is not None
        except SlipwayError as error:
            raise ended(error.exit_code, str(error)) from error


class StepPodOperator(PodOperator):
    """A step of the graph."""

    def __init__(self, *, step: str, candidate: str | None, spec_path: str, **options: Any) -> None:
        super().__init__(**options)
        self.step, self.candidate, self.spec_path = step, candidate, spec_path

    def manifest(self, context: Any) -> Manifest:
        """See `PodOperator`."""
        path, params = Path(self.spec_path), dict(context["params"])
        spec = parse_overrides(json.dumps(params)).apply(load_spec(path))
        task = Task(step_named(self.step), self.candidate)
        return step_pod(self.policy, task, spec, path, slug(context["run_id"]), params)


class RollbackPodOperator(PodOperator):
    """The way back of the model that the run's form names."""

    def manifest(self, context: Any) -> Manifest:
        """See `PodOperator`."""
        return rollback_pod(self.policy, context["params"]["model"], slug(context["run_id"]))


def _said(error: ApiException) -> str:
    """The API server's own sentence."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
