"""What Triton counts of a model's requests, from its metrics page."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pipeline.errors import Unavailable

SUCCESS, FAILURE = "nv_inference_request_success", "nv_inference_request_failure"
DURATION = "nv_inference_request_duration_us"


@dataclass(frozen=True)
class Load:
    """Requests answered and failed, and the microseconds that the answered ones took together."""

    answered: float = 0.0
    failed: float = 0.0
    duration_us: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(self.answered + other.answered, self.failed + other.failed, self.duration_us + other.duration_us)

    def __sub__(self, other: Load) -> Load:
        return Load(self.answered - other.answered, self.failed - other.failed, self.duration_us - other.duration_us)

    @property
    def error_rate(self) -> float:
        """Failed requests, as a share of all."""
        return self.failed / max(self.answered + self.failed, 1.0)

    @property
    def mean_ms(self) -> float:
        """Mean time of an answered request in milliseconds, queueing included; 0 when there was none."""
        return self.duration_us / 1000 / self.answered if self.answered else 0.0


def scrape(address: str, model: str, timeout_s: float) -> Load:
    """What the Triton at `address` (host:port of its metrics) has counted of a model.

    Raises:
        Unavailable: it does not answer. A retry helps.
    """
    try:
        answer = httpx.get(f"http://{address}/metrics", timeout=timeout_s, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise Unavailable(f"Triton's metrics do not answer: {error}", address, "look at the pod") from error
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.labels.get("model") == model:
                name = sample.name.removesuffix("_total")
                found[name] = found.get(name, 0.0) + sample.value
    return Load(found.get(SUCCESS, 0.0), found.get(FAILURE, 0.0), found.get(DURATION, 0.0))
