"""The real operator and trigger, on our API server and on a real one: what becomes of a task, whatever becomes of its pod.

Airflow's part is played by `Life`, the kubelet's by each test.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes.config.kube_config
import pytest
from aiohttp import ClientConnectionError
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk.exceptions import TaskDeferred
from kubernetes_asyncio.client import ApiException

from dags import pod_trigger
from tests.dags.pod_worlds import NOWHERE, WORLDS, Life, World, gone
from tests.support.polling import wait_for
from tests.support.s3 import use_endpoint

Lives = Callable[..., Life]
OURS, REAL = "ours", pytest.param("real", marks=pytest.mark.cluster)


@pytest.fixture(scope="module", params=[OURS, REAL])
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with WORLDS[request.param](tmp_path_factory.mktemp("world")) as found:
        yield found


@pytest.fixture
def world(one: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("KUBECONFIG", str(one.kubeconfig))
    monkeypatch.setattr(kubernetes.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(one.kubeconfig))
    monkeypatch.setattr(pod_trigger, "SETTLE_S", 0.0)
    return one


@pytest.fixture
def lives(world: World, tmp_path: Path) -> Lives:
    return lambda **values: Life(world, tmp_path, **values)


def only(life: Life) -> str:
    (pod,) = life.pods()
    return str(pod.metadata.name)


def test_success_is_the_reference(world: World, lives: Lives) -> None:
    life = lives()

    def kubelet(pod: str) -> None:
        world.runs(pod)
        life.writes()
        world.ends(pod, 0)

    assert life.lead(kubelet) == "success"
    wait_for(lambda: not life.pods())  # cleaned up


def test_no_event_comes_before_the_scheduler_knows_of_the_deferral(
    world: World, lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_trigger, "SETTLE_S", 3600.0)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(pod_trigger, "asyncio", SimpleNamespace(sleep=sleep))
    life = lives()
    event = life.watch(life.execute(), lambda pod: world.ends(pod, 0))
    assert event["status"] == "success"
    (seconds,) = slept  # before the event, what is left of the time
    assert 0 < seconds <= 3600.0


def test_a_task_that_is_done_leaves_no_pod_of_an_earlier_life(world: World, lives: Lives) -> None:
    life = lives()
    life.execute()  # and Airflow forgets it
    world.ends(only(life), 0)
    life.writes()
    again = lives(run_id=life.run_id, try_number=2)
    assert again.execute() == "success"
    wait_for(lambda: not life.pods())


def test_an_end_without_a_reference_is_no_success(world: World, lives: Lives) -> None:
    life = lives()
    assert life.lead(lambda pod: world.ends(pod, 0)) == "up_for_retry"
    assert "ended well, but left no reference" in str(life.said)


@pytest.mark.parametrize(("code", "state"), [(1, "up_for_retry"), (2, "failed"), (3, "skipped"), (137, "up_for_retry")])
def test_the_exit_code_is_the_state(world: World, lives: Lives, code: int, state: str) -> None:
    life = lives()
    assert life.lead(lambda pod: world.ends(pod, code, "a line\nrejected: too few rows\n")) == state
    assert str(life.said).startswith("" if code in (2, 3) else f"exit code {code}: ")
    assert str(life.said).endswith("rejected: too few rows")
    wait_for(lambda: not life.pods())


def test_the_way_back_succeeds_by_its_reference_too(world: World, lives: Lives) -> None:
    life = lives(task="rollback", params={"model": "demo"})

    def kubelet(pod: str) -> None:
        found = world.core.read_namespaced_pod(pod, world.namespace)
        assert found.spec.containers[0].command[:4] == ["python", "-m", "serving.rollback", "demo"]
        life.writes()
        world.ends(pod, 0)

    assert life.lead(kubelet) == "success"
    assert lives(task="rollback", params={"model": "demo"}).lead(lambda pod: world.ends(pod, 0)) == "up_for_retry"


def test_a_reference_outweighs_how_its_pod_ended(world: World, lives: Lives) -> None:
    life = lives()

    def kubelet(pod: str) -> None:
        life.writes()
        world.ends(pod, 3)

    assert life.lead(kubelet) == "success"


def test_the_cluster_says_why_a_step_was_killed(world: World, lives: Lives) -> None:
    life = lives()
    assert life.lead(lambda pod: world.ends(pod, 137, "fold 3 of 5", "OOMKilled")) == "up_for_retry"
    assert str(life.said) == "exit code 137: OOMKilled: fold 3 of 5"


@pytest.mark.parametrize("wrote", [False, True])
def test_a_pod_that_is_deleted_under_its_task(world: World, lives: Lives, wrote: bool) -> None:
    life = lives()

    def kubelet(pod: str) -> None:
        world.runs(pod)
        if wrote:
            life.writes()
        world.delete(pod, 0)

    assert life.lead(kubelet) == ("success" if wrote else "up_for_retry")
    assert wrote or "not found" in str(life.said)


@pytest.mark.parametrize("started", [False, True])
def test_an_evicted_pod_is_tried_again(world: World, lives: Lives, started: bool) -> None:
    """Even when its step happened to end with 2: that was not the step's own word."""
    life = lives()

    def kubelet(pod: str) -> None:
        if started:
            world.ends(pod, 2)
        world.status(pod, "Failed", reason="Evicted", message="The node was low on resource: memory.")

    assert life.lead(kubelet) == "up_for_retry"
    assert str(life.said) == "Evicted: The node was low on resource: memory."
    life.try_number += 1

    def again(pod: str) -> None:
        life.writes()
        world.ends(pod, 0)

    assert life.lead(again) == "success"


def test_a_finished_task_starts_no_pod(lives: Lives) -> None:
    life = lives()
    life.writes()
    assert life.lead() == "success"
    assert life.pods() == []


def test_a_damaged_reference_fails(lives: Lives) -> None:
    life = lives()
    life.writes()
    next((life.folder / "store").rglob("*.json")).write_text("{")
    assert life.lead() == "failed"
    assert "the reference of step train_xgboost cannot be read" in str(life.said)


def test_a_store_that_does_not_answer_is_asked_again(
    world: World, lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    life = lives(store="s3://bucket/store")
    assert life.lead() == "up_for_retry"
    assert "the artifact store failed" in str(life.said)
    assert life.pods() == []


@pytest.mark.parametrize("persisted", [True, False])
def test_a_new_life_of_the_task_finds_its_pod(world: World, lives: Lives, persisted: bool) -> None:
    """Airflow died between starting the pod and deferring; by its memory or, without it, by labels."""
    life = lives()
    life.execute()
    pod = only(life)
    world.runs(pod)
    if not persisted:
        life.state_store.clear()
    life.try_number += 1
    trigger = life.execute()
    assert trigger.pod_name == pod
    assert only(life) == pod
    life.writes()
    world.ends(pod, 0)
    assert life.resume(life.watch(trigger)) == "success"


def test_the_pod_ended_while_airflow_was_away(world: World, lives: Lives) -> None:
    life = lives()
    trigger = life.execute()
    world.ends(only(life), 3, "gate latency refused")
    assert life.resume(life.watch(trigger)) == "skipped"  # the triggerer starts again with what was stored
    assert str(life.said) == "gate latency refused"


def test_a_retry_does_not_take_what_an_earlier_try_left(world: World, lives: Lives) -> None:
    life = lives()
    life.execute()
    first = only(life)
    world.ends(first, 1)
    life.try_number += 1
    assert life.execute().pod_name != first
    wait_for(lambda: gone(world, first))


def test_a_pod_on_its_way_out_is_not_waited_for(world: World, lives: Lives) -> None:
    """The task was cleared while its pod still had its grace: a new pod, whichever way the old one is remembered."""
    life = lives(policy={"nodeSelector": {}, "affinity": NEVER})
    life.execute()
    first = only(life)
    world.bind(first, "nobody")
    world.runs(first)
    world.delete(first, 30)
    assert not gone(world, first)
    life.try_number += 1
    second = life.execute().pod_name
    assert second != first
    life.state_store.clear()
    assert life.execute().pod_name == second
    world.delete(first, 0)


def test_a_pod_whose_node_is_lost_is_given_up(world: World, lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_trigger, "LOST_AFTER", timedelta(seconds=0))
    life = lives(policy={"nodeSelector": {}, "affinity": NEVER})
    trigger = life.execute()

    def kubelet(pod: str) -> None:
        world.bind(pod, "nobody")
        world.runs(pod)
        world.delete(pod, 1)  # what the control plane does; there is no kubelet that confirms it

    assert life.resume(life.watch(trigger, kubelet)) == "up_for_retry"
    assert gone(world, trigger.pod_name)


def test_what_does_not_start_says_why(world: World, lives: Lives) -> None:
    life = lives(policy={"startupTimeoutS": 1})

    def kubelet(pod: str) -> None:
        unmet = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        world.status(pod, "Pending", conditions=[unmet | {"message": "0/1 nodes are available: 1 Insufficient cpu."}])

    assert life.lead(kubelet) == "up_for_retry"
    assert str(life.said).startswith("the pod did not start within 1 s: Unschedulable: 0/1 nodes are available: ")
    wait_for(lambda: not life.pods())


@pytest.mark.parametrize("message", ["pull access denied", "dial tcp: i/o timeout"])
def test_an_image_that_cannot_be_pulled(world: World, lives: Lives, message: str) -> None:
    """At once where waiting does not help, else when the time is up; an image is the platform's, so it is retried."""
    life = lives(policy={"startupTimeoutS": 2})

    def kubelet(pod: str) -> None:
        world.container(pod, "Pending", waiting={"reason": "ErrImagePull", "message": message})

    assert life.lead(kubelet) == "up_for_retry"
    assert f"ErrImagePull: {message}" in str(life.said)


def test_a_killed_task_deletes_its_pod(world: World, lives: Lives) -> None:
    """While it is deferred the triggerer does, before and after the worker."""
    life = lives()
    trigger = life.execute()
    asyncio.run(trigger.on_kill())
    wait_for(lambda: gone(world, trigger.pod_name))
    life = lives()
    operator = life.operator()
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(life.context)
    operator.on_kill()
    wait_for(lambda: gone(world, deferred.value.trigger.pod_name))


def test_an_interrupted_task_is_no_success(world: World, lives: Lives) -> None:
    """Airflow ends the worker while it looks at a pod that ended well: without a reference that is no success."""
    life = lives()
    event = life.watch(life.execute(), lambda pod: world.ends(pod, 0))
    operator = life.operator()
    read = operator.hook.get_pod

    def interrupted(name: str, namespace: str) -> Any:
        operator.pod = read(name, namespace)
        operator.on_kill()
        return operator.pod

    operator.hook.get_pod = interrupted
    assert life.call(lambda: operator.trigger_reentry(life.context, event)) == "up_for_retry"
    assert "left no reference" in str(life.said)


def test_a_pod_that_the_policy_gets_wrong(world: World, lives: Lives) -> None:
    life = lives(policy={"volumeMounts": [{"name": "absent", "mountPath": "/absent"}]})
    assert life.lead() == "failed"
    assert "the API server refuses the pod: " in str(life.said)


def test_a_spec_that_was_broken_meanwhile(lives: Lives) -> None:
    life = lives(params={"trials": 0})
    assert life.lead() == "failed"
    assert "trials" in str(life.said)
    life = lives()
    (life.folder / "pods.yaml").write_text("image: 7\n")
    assert life.lead() == "failed"
    assert "namespace" in str(life.said)


def test_two_runs_and_two_candidates_have_their_own_pods(lives: Lives) -> None:
    one, two = lives(run_id="a.b"), lives(run_id="a-b")
    other = lives(run_id="a.b", task="train_net")
    names = [life.execute().pod_name for life in (one, two, other)]
    assert len(set(names)) == 3
    assert [life.execute().pod_name for life in (one, two, other)] == names


def test_two_releases_in_a_namespace_have_their_own_pods(lives: Lives) -> None:
    """Their schedules make runs of the same name."""
    names = []
    for release in ("one", "two"):
        life = lives(run_id="scheduled", policy={"labels": {"app.kubernetes.io/instance": release}})
        names.append(life.execute().pod_name)
    assert len(set(names)) == 2
    life.state_store.clear()
    assert life.execute().pod_name == names[1]


NEVER = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}
                for key, value in NOWHERE.items()
            ]
        }
    }
}


@pytest.mark.parametrize("one", [OURS], indirect=True)
class TestOnOurServer:
    """What a real API server does not do on demand."""

    def test_the_log_is_written_while_the_step_works(
        self, world: World, lives: Lives, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        life = lives()
        read = AsyncKubernetesHook.read_logs
        cuts = iter([ClientConnectionError("cut")])
        said: list[str] = []

        async def read_logs(*arguments: Any, **options: Any) -> list[str]:
            for cut in cuts:
                raise cut
            return await read(*arguments, **options)

        monkeypatch.setattr(AsyncKubernetesHook, "read_logs", read_logs)

        def is_written() -> bool:
            said.append(capfd.readouterr().out)
            return "fold 1 of 5" in "".join(said)

        def kubelet(pod: str) -> None:
            world.runs(pod)
            world.server.logs[pod] = "2026-11-25T00:00:00.5Z fold 1 of 5\n"
            wait_for(is_written)
            life.writes()
            world.server.logs[pod] += "fold 2 of 5\n"
            world.ends(pod, 0)

        assert life.lead(kubelet) == "success"
        assert "cannot be read now: cut" in "".join(said)  # no reason to end the step
        assert "[step] fold 1 of 5" in "".join(said)
        assert "fold 2 of 5" in capfd.readouterr().out

    def test_the_api_server_may_be_away(self, world: World, lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
        """For longer than the provider itself would wait."""
        life = lives()
        get_pod = AsyncKubernetesHook.get_pod
        errors = [ApiException(503), ClientConnectionError("refused")]

        async def away(*arguments: Any) -> Any:
            if errors:
                raise errors.pop()
            return await get_pod(*arguments)

        monkeypatch.setattr(AsyncKubernetesHook, "get_pod", away)
        life.execute()

        def kubelet(pod: str) -> None:
            life.writes()
            world.ends(pod, 0)

        assert life.lead(kubelet) == "success"
        assert errors == []

    def test_an_admission_that_refuses(self, world: World, lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(world.server, "forbids", "exceeded quota: team, requested: cpu=2, used: cpu=7, limited: 8")
        life = lives()
        assert life.lead() == "up_for_retry"
        assert "exceeded quota: team" in str(life.said)

    def test_in_a_pod_the_triggerer_uses_its_own_account(self, lives: Lives) -> None:
        """By itself it would look for a kubeconfig file."""
        life = lives()
        operator = life.operator()
        assert operator.client
        operator.hook._is_in_cluster = True
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(life.context)
        assert (deferred.value.trigger.in_cluster, deferred.value.trigger.config_dict) == (True, None)

    def test_a_trigger_that_failed_is_started_again(self, world: World, lives: Lives) -> None:
        """With the policy's patience; it had failed for a reason of its own, and the pod works on."""
        life = lives(policy={"startupTimeoutS": 7})
        trigger = life.execute()
        world.runs(trigger.pod_name)
        event = {"status": "error", "name": trigger.pod_name, "namespace": world.namespace, "message": "triggerer"}
        again = life.resume(event)
        assert (again.pod_name, again.startup_timeout, again.schedule_timeout) == (trigger.pod_name, 7, 7)
        assert again.trigger_kwargs == {"_redefer_count": 1}


@pytest.mark.parametrize("one", [REAL], indirect=True)
def test_a_real_kubelet_that_finds_no_image(lives: Lives, capfd: pytest.CaptureFixture[str]) -> None:
    policy = {"nodeSelector": {}, "image": "registry.invalid/none:1", "startupTimeoutS": 30}
    life = lives(task="snapshot", policy=policy, check_s=1)
    assert life.lead() == "up_for_retry"
    assert re.search(r"(ErrImagePull|ImagePullBackOff): .*registry\.invalid/none:1", str(life.said))
    assert 'Event: Pulling image "registry.invalid/none:1"' in capfd.readouterr().out
    wait_for(lambda: not life.pods())
