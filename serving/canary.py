"""A canary: the new version takes a rising share of the traffic, and goes on while it does no worse."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pipeline.cluster import Cluster, Manifest
from pipeline.errors import Problem, Rejected, SlipwayError
from pipeline.serving_rules import Canary
from serving.observe import Load

Scrape = Callable[[Manifest], Load]
Share = Callable[[float], "Sides"]
POLL_S = 2.0
log = logging.getLogger("slipway")


class Sides:
    """The pods that share the traffic: those of the new version, and the champion's."""

    def __init__(self, new: list[Manifest], old: list[Manifest], share: float) -> None:
        self.new, self.old, self.share = new, old, share


def replicas_for(share: float, champion: int) -> int:
    """Canary pods beside `champion` pods, such that the Service gives them about `share`; one at least."""
    return max(1, round(champion * share / (1 - share)))


def step_through(cluster: Cluster, plan: Canary, share: Share, scrape: Scrape, poll_s: float = POLL_S) -> None:
    """Take each step and observe it. `share` moves the traffic and says which pods have it.

    Raises:
        Rejected: the new version fails more, is slower, or its pods die. The caller takes the traffic back.
    """
    for wanted in plan.shares:
        sides = share(wanted)
        log.info("canary: %.0f%% of the traffic for %g s", 100 * sides.share, plan.observe_s)
        begun = {id(side): _load(side, scrape) for side in (sides.new, sides.old)}
        deadline = time.monotonic() + plan.observe_s
        while time.monotonic() < deadline:
            time.sleep(min(poll_s, max(deadline - time.monotonic(), 0)))
            _alive(cluster, sides.new)
        new, old = (_load(side, scrape) - begun[id(side)] for side in (sides.new, sides.old))
        judge(plan, new, old)


def judge(plan: Canary, new: Load, old: Load) -> None:
    """Raise Rejected with every reason why the new version must not go on."""
    problems = []
    if new.error_rate > max(plan.max_error_rate, old.error_rate):
        failed = f"{new.failed:.0f} of {new.answered + new.failed:.0f} requests failed in the canary"
        problems.append(
            Problem(f"{failed}, {old.error_rate:.1%} of the champion's", "canary", "the champion serves on")
        )
    if old.mean_ms and new.mean_ms > plan.max_slowdown * old.mean_ms:
        slow = f"a request took {new.mean_ms:.1f} ms in the canary, {old.mean_ms:.1f} ms in the champion"
        problems.append(Problem(slow, "canary", f"the spec allows {plan.max_slowdown:g} times as long"))
    if problems:
        raise Rejected(problems)
    log.info("canary: %.0f requests, %.0f failed, %.1f ms each", new.answered + new.failed, new.failed, new.mean_ms)


def _load(pods: list[Manifest], scrape: Scrape) -> Load:
    """What the pods have counted together; one that is gone meanwhile counts for nothing."""
    total = Load()
    for pod in pods:
        try:
            total = total + scrape(pod)
        except SlipwayError as error:
            log.warning("%s", error)
    return total


def _alive(cluster: Cluster, pods: list[Manifest]) -> None:
    for pod in pods:
        name = pod["metadata"]["name"]
        found = cluster.get("Pod", name)
        before, now = _restarts(pod), _restarts(found) if found else None
        if now is None or now > before:
            what = "is gone" if now is None else f"has restarted {now - before} times"
            raise Rejected(f"the canary's pod {name} {what}", "canary", "see its log; the champion serves on")


def _restarts(pod: Manifest) -> int:
    return sum(int(one.get("restartCount", 0)) for one in pod.get("status", {}).get("containerStatuses", []))
