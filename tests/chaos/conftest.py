"""One world for all chaos tests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from pipeline import stack
from pipeline.sweep import marked
from tests.chaos.children import prepare, warm_up
from tests.chaos.world import World
from tests.support.settings import own_settings


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("chaos")
    for folder in ("dags/specs", "feature_checks/suites", "logs"):
        (root / folder).mkdir(parents=True)
    settings = own_settings(root=root, home=root / ".slipway")
    draw = np.random.default_rng(3)
    frame = pd.DataFrame({"a": draw.normal(size=300), "b": draw.normal(size=300), "c": draw.choice(["u", "v"], 300)})
    frame["y"] = np.where(frame["a"] + 0.3 * draw.normal(size=300) > 0, "yes", "no")
    frame.to_csv(root / "rows.csv", index=False)
    try:
        prepare()
        stack.up(settings, ("mlflow", "triton"))
        warm_up()
        yield World(settings, root / "logs")
    finally:
        stack.down(settings)
    assert marked(settings.home) == []


@pytest.fixture(scope="session")
def calm(world: World) -> dict[str, float]:
    """The seconds of each step of run `r1` of the pipeline `calm`, which nobody disturbs."""
    world.spec("calm")
    return world.through("calm", "r1")
