"""Waiting for a step's pod: outlasts an API server that is away, gives up a pod whose node is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import tenacity
from aiohttp import ClientError
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager
from airflow.triggers.base import TriggerEvent
from kubernetes_asyncio.client import ApiException

AWAY_S = 600.0  # how long the API server may not answer: its upgrade takes minutes, and the pod works on meanwhile
SETTLE_S = 5.0  # until the scheduler has heard that the task is deferred; earlier, it fails it (apache/airflow 66374)
LOST_AFTER = timedelta(seconds=60)  # a pod that is this late to go has no kubelet that could end it
TOLD = {401, 403, 404}  # answers that waiting does not change


class PodTrigger(KubernetesPodTrigger):  # type: ignore[misc]
    """The provider's trigger, with more patience for the cluster."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The provider's event, but never so soon after the deferral that the scheduler takes it for a lost task."""
        earliest = time.monotonic() + SETTLE_S
        async for event in super().run():
            await asyncio.sleep(earliest - time.monotonic())
            yield event

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where the triggerer finds this class, and its arguments."""
        return f"{PodTrigger.__module__}.{PodTrigger.__qualname__}", super().serialize()[1]

    @cached_property
    def hook(self) -> AsyncKubernetesHook:
        """The API server."""
        return _Hook(
            conn_id=self.kubernetes_conn_id,
            in_cluster=self.in_cluster,
            config_dict=self.config_dict,
            cluster_context=self.cluster_context,
            connection_extras=self.connection_extras,
        )

    @cached_property
    def pod_manager(self) -> AsyncPodManager:
        """Reads a pod and its log."""
        return _PodManager(async_hook=self.hook)


class _Hook(AsyncKubernetesHook):  # type: ignore[misc]
    async def get_pod(self, name: str, namespace: str) -> Any:
        """The pod, once the API server answers; one that should long be gone is removed, and so not found."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_is_away),
            stop=tenacity.stop_after_delay(AWAY_S),
            wait=tenacity.wait_exponential(max=30),
            reraise=True,
        )
        pod: Any = await retrying(super().get_pod, name, namespace)
        due = pod.metadata.deletion_timestamp
        if due is None or datetime.now(UTC) < due + LOST_AFTER:
            return pod
        # its step may still run beyond a broken network: it writes the same reference, and the first writer's stays
        self.log.warning("pod %s should be gone since %s: its node %s is lost", name, due, pod.spec.node_name)
        await self.delete_pod(name, namespace, grace_period_seconds=0)
        return await super().get_pod(name, namespace)


class _PodManager(AsyncPodManager):  # type: ignore[misc]
    async def fetch_container_logs_before_current_sec(
        self, pod: Any, container_name: str, since_time: Any = None
    ) -> Any:
        """Write the new lines to the task's log. A log that cannot be read now is read later: the step works on."""
        try:
            return await super().fetch_container_logs_before_current_sec(pod, container_name, since_time)
        except (ApiException, ClientError, TimeoutError) as error:
            self.log.warning(
                "the log of pod %s cannot be read now: %s", pod.metadata.name, " ".join(str(error).split())
            )
            return since_time


def _is_away(error: BaseException) -> bool:
    if isinstance(error, ApiException):
        return error.status not in TOLD
    return isinstance(error, ClientError | TimeoutError)
