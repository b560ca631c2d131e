"""A model with a champion onto which tests promote in turn: each test pays for one version, not for two."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from pipeline.digest import digest_bytes
from pipeline.record import promotion_of
from pipeline.refs import GateReport, LoggedModelRef
from pipeline.settings import Settings
from pipeline.store import Store
from serving.ledger import trusted
from serving.register import CHALLENGER, CHAMPION
from serving.triton import TritonClient
from tests.serving.chain import Chain, chain
from tests.serving.known import PASSED, native

WEIGHTS = (1.0, 2.0, 3.0, 4.0)


def answers_as(one: Chain) -> bool:
    """Return whether the serving Triton answers the held-out rows as the model of this run does."""
    with TritonClient(one.run.settings.triton_grpc, 10) as client:
        served = client.replay(one.spec.name, one.tensors, "probabilities")
    return bool(np.allclose(served, native(one.weight, one.tensors), atol=1e-5))


@contextmanager
def restored(*folders: Path) -> Iterator[None]:
    """Undo whatever the block does to these folders."""
    copies = [folder.with_name(f".{folder.name}.before") for folder in folders]
    for folder, copy in zip(folders, copies, strict=True):
        shutil.copytree(folder, copy, symlinks=True)
    try:
        yield
    finally:
        for folder, copy in zip(folders, copies, strict=True):
            shutil.rmtree(folder, ignore_errors=True)
            copy.rename(folder)


@dataclass
class Logged:
    """The logged model of each weight, which the runs of many tests register."""

    models: dict[float, LoggedModelRef] = field(default_factory=dict)

    def chain(
        self, settings: Settings, folder: Path, name: str, run_id: str, weight: float, **changes: object
    ) -> Chain:
        """Return `chain(...)`; the model is logged when its weight is first asked for."""
        one = chain(settings, folder, name, run_id, weight, self.models.get(weight), **changes)
        self.models[weight] = one.model_ref
        return one


@dataclass
class PromotedModel:
    """One model and the runs of its versions."""

    settings: Settings
    folder: Path
    name: str
    logged: Logged
    runs: dict[str, Chain] = field(default_factory=dict)

    def new(self) -> Chain:
        """Return a new run; its model answers differently from the champion's and from those of the last two runs."""
        used = [run.weight for run in reversed(self.runs.values())]
        free = [weight for weight in WEIGHTS if not used or weight != self.champion.weight]
        weight = max(free, key=lambda each: used.index(each) if each in used else len(used))
        run_id = f"r{len(self.runs) + 1}"
        self.runs[run_id] = self.logged.chain(self.settings, self.folder, self.name, run_id, weight)
        return self.runs[run_id]

    @property
    def version(self) -> int:
        """The version of the expected champion."""
        last = trusted(self.settings, self.store, self.name)
        assert last is not None
        return last.version

    @property
    def champion(self) -> Chain:
        """The run of the expected champion."""
        promotion = promotion_of(self.store, self.name, self.version)
        assert promotion is not None
        return self.runs[promotion.run]

    @property
    def report(self) -> GateReport:
        """A report of gates which compared with the champion and passed."""
        return PASSED.model_copy(update={"champion": self.version})

    def is_intact(self) -> bool:
        """Return whether alias and answers are those of the expected champion, once no challenger is left."""
        registry = self.champion.run.registry
        registry.delete_alias(self.name, CHALLENGER)
        return registry.aliases(self.name) == {CHAMPION: self.version} and answers_as(self.champion)

    @property
    def store(self) -> Store:
        """The artifact store."""
        return Store(self.settings.store)


@dataclass
class PromotedModels:
    """The models of a worker, of which the last is in use."""

    settings: Settings
    folder: Callable[[str], Path]
    logged: Logged
    models: list[PromotedModel] = field(default_factory=list)

    def intact(self) -> PromotedModel:
        """Return the model in use; a new one when a failed test has left it half-way."""
        if not self.models or not self.models[-1].is_intact():
            name = f"promoted_{len(self.models)}"
            model = PromotedModel(self.settings, self.folder("promoted"), name, self.logged)
            first = model.new()
            first.promote(*first.ready())
            self.models.append(model)
        return self.models[-1]


@pytest.fixture(scope="session", name="logged_models")
def logged_models_fixture() -> Logged:
    """Share the logged models of a worker."""
    return Logged()


@pytest.fixture(scope="session", name="promoted_models")
def promoted_models_fixture(
    stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory, logged_models: Logged
) -> PromotedModels:
    """Share the promoted models of a worker."""
    return PromotedModels(stack_settings, tmp_path_factory.mktemp, logged_models)


@pytest.fixture(name="promoted")
def promoted_fixture(promoted_models: PromotedModels) -> PromotedModel:
    """Return a model whose champion is served."""
    return promoted_models.intact()


@pytest.fixture(name="make")
def make_fixture(
    stack_settings: Settings, tmp_path: Path, request: pytest.FixtureRequest, logged_models: Logged
) -> Callable[..., Chain]:
    """Return make(run id, weight), which makes a run of this test's own model."""
    name = f"test_{digest_bytes(request.node.nodeid.encode())[:12]}"

    def make(run_id: str, weight: float, **changes: object) -> Chain:
        return logged_models.chain(stack_settings, tmp_path, name, run_id, weight, **changes)

    return make
