"""The step train outside the cluster in which it trains: it makes the RayJob, waits, and reads what that has left."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.cluster import Cluster, Conflict, KubernetesCluster, Manifest
from pipeline.engine import Ray
from pipeline.errors import Invalid, Unavailable
from pipeline.graph import Task, producer
from pipeline.policy import read_policy
from pipeline.refs import LoggedModelRef
from pipeline.run import Run
from training.on_ray.manifest import job_name, ray_job
from training.on_ray.policy import RayPolicy

POLL_S = 5.0
KIND = "RayJob"
ENDED = {"Complete", "Failed", "ValidationFailed"}  # of status.jobDeploymentStatus
BEGINNING = {"ContainerCreating", "PodInitializing"}
WRONG_INPUT = re.compile(rf"exit code {Invalid.exit_code}\b")  # of the step, in Ray's message


def train_in_job(engine: Ray, run: Run, cluster: Cluster | None = None, poll_s: float = POLL_S) -> LoggedModelRef:
    """Have the same step run inside a RayJob; the reference that it has left.

    A RayJob of an earlier attempt that is still at work is waited for; one that has failed is made anew. It is removed
    when it has ended, and when this process is told to end.

    Raises:
        Invalid: there is no such policy or right, it allows fewer workers, or the step inside said so. A retry does
            not help.
        Unavailable: the RayJob failed or was removed, or the API server is silent. A retry helps: it goes on from the
            last checkpoint.
    """
    policy = read_policy(run.settings.ray, RayPolicy, "SLIPWAY_RAY")
    if engine.workers > policy.maxWorkers:
        what = f"{engine.workers} workers are more than the {policy.maxWorkers} that the platform allows"
        raise Invalid(what, "candidates.engine.workers", "ask for fewer, or have `ray.maxWorkers` raised")
    cluster = cluster or KubernetesCluster(policy.namespace, run.settings.timeout_s)
    name, where = job_name(run), f"RayJob {job_name(run)}"
    _make(cluster, policy, engine, run, poll_s)
    told: set[str] = set()
    with _until_told_to_end(cluster, name):
        while (found := cluster.get(KIND, name)) is not None:
            told |= _tell(cluster, run, found, told)
            if _left(run) or _state(found) in ENDED:
                break
            time.sleep(poll_s)
    if found is not None:
        cluster.delete(KIND, name)
    if _left(run):
        return run.ref(LoggedModelRef, run.candidate)
    if found is None:
        raise Unavailable("it was removed by another hand", where, "run again")
    said = _said(found)
    if WRONG_INPUT.search(said):
        raise Invalid(said.splitlines()[-1], where, "correct the spec or the rows")
    raise Unavailable("\n".join([said, *sorted(told)]), where, "run again; it goes on from the last checkpoint")


def _make(cluster: Cluster, policy: RayPolicy, engine: Ray, run: Run, poll_s: float) -> None:
    """Make the RayJob, unless that of an earlier attempt is at work."""
    name = job_name(run)
    while (found := cluster.get(KIND, name)) is not None:
        if found["metadata"].get("deletionTimestamp") is None:
            if _state(found) not in ENDED or _left(run):
                run.log.info("RayJob %s is there already", name)
                return
            cluster.delete(KIND, name)
        time.sleep(poll_s)
    owner = cluster.get(policy.owner.kind, policy.owner.name)
    if owner is None:
        where = f"{policy.owner.kind} {policy.owner.name}"
        raise Invalid("the owner of all RayJobs is not there", where, "it is part of the chart's release")
    try:
        cluster.create(ray_job(policy, owner | {"kind": policy.owner.kind}, engine, run))
    except Conflict:
        return  # another attempt was quicker, and its RayJob is the same
    run.log.info("RayJob %s: %d workers", name, engine.workers)


def _left(run: Run) -> bool:
    """Whether the step inside has written its reference, which is its last act."""
    return run.envelope(Task(producer(LoggedModelRef), run.candidate).key) is not None


@contextmanager
def _until_told_to_end(cluster: Cluster, name: str) -> Iterator[None]:
    """What is told to end (SIGTERM, Ctrl-C) takes the RayJob along; what is killed is found by the next attempt."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _end) if main else None
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        cluster.delete(KIND, name)
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _state(job: Manifest) -> str:
    return str((job.get("status") or {}).get("jobDeploymentStatus", ""))


def _said(job: Manifest) -> str:
    """KubeRay's and Ray's own words."""
    status = job.get("status") or {}
    words = [status.get("reason") or "", status.get("message") or ""]
    return ": ".join(word for word in words if word) or f"it has ended as {_state(job)}"


def _tell(cluster: Cluster, run: Run, job: Manifest, told: set[str]) -> set[str]:
    """Log what is new of its pods that have failed or do not start; what they are, in the cluster's words."""
    of = (job.get("status") or {}).get("rayClusterName")
    pods = cluster.select("Pod", {"ray.io/cluster": of}) if of else []
    found = {f"pod {pod['metadata']['name']}: {word}" for pod in pods for word in _words(pod)}
    for word in sorted(found - told):
        run.log.warning("%s", word)
    return found


def _words(pod: Manifest) -> Iterator[str]:
    status = pod.get("status") or {}
    if status.get("reason"):
        yield f"{status['reason']}: {status.get('message', '')}"
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            yield f"no node takes it: {one.get('message', one.get('reason'))}"
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state, last = one.get("state") or {}, one.get("lastState") or {}
        if (waiting := state.get("waiting")) and waiting.get("reason") not in BEGINNING:
            yield f"{waiting.get('reason')}: {waiting.get('message', '')}"
        if (end := state.get("terminated") or last.get("terminated")) and end.get("exitCode"):
            yield f"ended with {end['exitCode']} ({end.get('reason')})"
