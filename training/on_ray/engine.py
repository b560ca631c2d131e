"""Tune and fit on a Ray cluster: trials beside each other, then all rows by all workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pipeline.engine import Ray
from training.engine import Work
from training.models.base import Fitted, Floats, Fold
from training.on_ray.cluster import cluster
from training.rows import Target
from training.tune import Tuned


def fit_on_ray(work: Work, engine: Ray, x: Floats, y: Target) -> tuple[Tuned, Fitted]:
    """Tune on these rows, then fit on all. Raises as `training.engine.fit` does."""
    work = replace(work, trainer=replace(work.trainer, threads=engine.cpus_per_worker))  # type: ignore[type-var]

    def both() -> tuple[Tuned, Fitted]:
        from training.on_ray.fitting import fit_all  # noqa: PLC0415 (imports ray, for which `cluster` made ready)
        from training.on_ray.search import beside_each_other  # noqa: PLC0415

        tuned = work.tune(x, y, beside_each_other(engine))
        return tuned, fit_all(work, engine, tuned, Fold(x, y))

    with cluster(engine, work.run.settings):
        # a thread of its own: in the main one Ray takes Ctrl-C for itself, and ends this process as if all were well
        pool = ThreadPoolExecutor(1, thread_name_prefix="ray")
        try:
            return pool.submit(both).result()
        finally:
            pool.shutdown(wait=False)  # when this one is interrupted, the end of the cluster ends it
