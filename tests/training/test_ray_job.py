"""The RayJob as Kubernetes gets it, and the step's dialogue with the cluster, on the fake; its states are KubeRay's."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.engine import Ray
from pipeline.errors import Invalid, Unavailable
from pipeline.refs import LoggedModelRef, Validation
from pipeline.run import Run
from pipeline.settings import Settings
from tests.serving.fake_cluster import FakeCluster
from tests.support.polling import wait_for
from training.on_ray.job import train_in_job
from training.on_ray.manifest import NAME_LENGTH, job_name, ray_job
from training.on_ray.policy import RayPolicy

GOLDEN = Path(__file__).parent / "goldens" / "ray_job.yaml"
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "slipway-policy", "namespace": "ml"}, "data": {"of": "it"}}  # fmt: skip
POLICY: dict[str, Any] = {
    "namespace": "ml",
    "owner": {"kind": "ConfigMap", "name": "slipway-policy"},
    "gpuImage": "slipway-steps-cuda:1",
    "maxWorkers": 4,
    "head": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
    "worker": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "8Gi"}},
    "gpu": {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
    "template": {
        "metadata": {"labels": {"app.kubernetes.io/instance": "slipway", "slipway.dev/role": "steps"}},
        "spec": {
            "serviceAccountName": "slipway-steps",
            "containers": [{"name": "ray", "image": "slipway-steps:1", "env": [{"name": "A", "value": "b"}]}],
        },
    },
}
TWO = Ray(kind="ray", workers=2, cpus_per_worker=3, gpus_per_worker=1, memory_gib_per_worker=6)
REF = LoggedModelRef(
    candidate="deep", kind="torch", key="models/a", digest="a", model_id="m", run_id="r", params={},
    validation=Validation(value=0.5, rows=10), trials=1, fit_s=1.0,
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    path = tmp_path / "ray.yaml"
    path.write_text(yaml.safe_dump(POLICY))
    settings = Settings(home=tmp_path, runtime="kubernetes", ray=path)
    return Run("scheduled__2026-11-23", "fraud_eu", settings, Path("/etc/slipway/specs/fraud.yaml"), "deep")


@pytest.fixture
def cluster() -> FakeCluster:
    found = FakeCluster()
    found.apply(OWNER)
    return found


def kuberay(cluster: FakeCluster, run: Run, *acts: Callable[[], None] | dict[str, Any]) -> threading.Thread:
    """What the operator does, act by act, once the RayJob is there; a mapping is its status."""

    def work() -> None:
        wait_for(lambda: cluster.get("RayJob", job_name(run)), "the RayJob", interval_s=0.005)
        for act in acts:
            time.sleep(0.05)
            if isinstance(act, dict):
                cluster.set_status("RayJob", job_name(run), act)
            else:
                act()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def running() -> dict[str, Any]:
    return {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "rayClusterName": "fraud-x"}


def failed(message: str, reason: str = "AppFailed") -> dict[str, Any]:
    return running() | {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": reason, "message": message}


def test_the_manifest(run: Run) -> None:
    """Golden; UPDATE_GOLDENS=1 writes it anew."""
    policy = RayPolicy.model_validate(POLICY, strict=False)
    made = ray_job(policy, OWNER | {"metadata": {"name": "slipway-policy", "uid": "1"}}, TWO, run)
    text = yaml.safe_dump(made, sort_keys=True)
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    assert GOLDEN.read_text() == text


def test_a_name_is_short_and_of_one_run_and_candidate(run: Run) -> None:
    from dataclasses import replace

    names = {job_name(replace(run, id=f"r{at}", candidate=f"c{at}" * 30)) for at in range(3)}
    assert len(names) == 3
    assert all(len(name) <= NAME_LENGTH for name in names)
    assert job_name(run) == job_name(replace(run))


def test_what_the_step_inside_has_left_is_returned_and_the_job_removed(run: Run, cluster: FakeCluster) -> None:
    done = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    kuberay(
        cluster, run, {"jobDeploymentStatus": "Initializing"}, running(), lambda: run.finish("train_deep", REF, 1), done
    )
    assert train_in_job(TWO, run, cluster, poll_s=0.01) == REF
    assert cluster.get("RayJob", job_name(run)) is None


def test_a_success_without_a_reference_is_none(run: Run, cluster: FakeCluster) -> None:
    kuberay(cluster, run, running(), {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"})
    with pytest.raises(Unavailable, match="it has ended as Complete"):
        train_in_job(TWO, run, cluster, poll_s=0.01)


def test_a_worker_that_was_killed_is_told_in_the_clusters_words(
    run: Run, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    killed = {"exitCode": 137, "reason": "OOMKilled"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "fraud-x-worker-1", "labels": {"ray.io/cluster": "fraud-x"}, "ownerReferences": [{"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": "fraud-x", "uid": "0"}]},
        "spec": {"containers": [{"name": "ray", "image": "slipway-steps:1"}]},
    }  # fmt: skip
    status = {"containerStatuses": [{"name": "ray", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, "lastState": {"terminated": killed}}]}  # fmt: skip

    def dies() -> None:
        cluster.apply(pod)
        cluster.set_status("Pod", "fraud-x-worker-1", status)

    kuberay(cluster, run, running(), dies, failed("too many failures"))
    with caplog.at_level(logging.WARNING, logger="slipway"), pytest.raises(Unavailable) as caught:
        train_in_job(TWO, run, cluster, poll_s=0.01)
    assert "AppFailed: too many failures" in str(caught.value)
    assert "pod fraud-x-worker-1: ended with 137 (OOMKilled)" in str(caught.value)
    assert caplog.text.count("OOMKilled") == 1
    assert cluster.get("RayJob", job_name(run)) is None


@pytest.mark.parametrize(("code", "kind"), [(1, Unavailable), (2, Invalid), (137, Unavailable)])
def test_the_exit_code_of_the_step_inside_says_whether_a_retry_helps(
    code: int, kind: type[Exception], run: Run, cluster: FakeCluster
) -> None:
    kuberay(
        cluster, run, failed(f"Job entrypoint command failed with exit code {code}, last available logs:\nthe reason")
    )
    with pytest.raises(kind, match="the reason"):
        train_in_job(TWO, run, cluster, poll_s=0.01)


def test_a_retry_waits_for_the_job_that_is_at_work_and_replaces_one_that_has_failed(
    run: Run, cluster: FakeCluster
) -> None:
    policy = RayPolicy.model_validate(POLICY, strict=False)
    owner = cluster.get("ConfigMap", "slipway-policy")
    assert owner is not None
    first = cluster.create(ray_job(policy, owner, TWO, run))
    cluster.set_status("RayJob", job_name(run), running())
    kuberay(cluster, run, lambda: run.finish("train_deep", REF, 1))
    assert train_in_job(TWO, run, cluster, poll_s=0.01) == REF
    run.store.delete(f"{run.key}/train_deep.json")

    cluster.create(ray_job(policy, owner, TWO, run))
    cluster.set_status("RayJob", job_name(run), failed("the node is gone"))
    seen: list[str] = []

    def again() -> None:
        wait_for(lambda: not (cluster.get("RayJob", job_name(run)) or {"status": 1}).get("status"), interval_s=0.005)
        found = cluster.get("RayJob", job_name(run))
        assert found is not None
        seen.append(found["metadata"]["uid"])
        run.finish("train_deep", REF, 1)

    kuberay(cluster, run, again)
    assert train_in_job(TWO, run, cluster, poll_s=0.01) == REF
    assert seen != [first["metadata"]["uid"]]


def test_a_job_that_another_removed_can_be_made_again(run: Run, cluster: FakeCluster) -> None:
    kuberay(cluster, run, running(), lambda: cluster.delete("RayJob", job_name(run)))
    with pytest.raises(Unavailable, match="removed by another hand"):
        train_in_job(TWO, run, cluster, poll_s=0.01)


def test_a_step_that_is_told_to_end_takes_its_job_along(run: Run, cluster: FakeCluster) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def end() -> None:
        wait_for(lambda: signal.getsignal(signal.SIGTERM) is not before, interval_s=0.005)  # it would end the tests
        os.kill(os.getpid(), signal.SIGTERM)

    kuberay(cluster, run, running(), end)
    with pytest.raises(SystemExit) as caught:
        train_in_job(TWO, run, cluster, poll_s=0.01)
    assert caught.value.code == 128 + signal.SIGTERM
    assert cluster.get("RayJob", job_name(run)) is None
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_the_platform_does_not_allow_is_refused(run: Run, cluster: FakeCluster) -> None:
    with pytest.raises(Invalid, match=r"5 workers are more than the 4 .*ray.maxWorkers"):
        train_in_job(Ray(kind="ray", workers=5), run, cluster)
    cluster.delete("ConfigMap", "slipway-policy")
    with pytest.raises(Invalid, match="the owner of all RayJobs is not there"):
        train_in_job(TWO, run, cluster)
    run.settings.ray.unlink()
    with pytest.raises(Invalid, match="the policy cannot be read"):
        train_in_job(TWO, run, cluster)
