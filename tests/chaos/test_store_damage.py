"""Files of the store that were cut off, changed, emptied or lost: a sentence that names file and remedy, and no harm."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import Invalid, SlipwayError
from pipeline.graph import STEPS, Task
from pipeline.record import record_key
from pipeline.refs import DatasetRef, LoggedModelRef, ModelVersionRef, OnnxRef, PackageRef
from pipeline.run import ROLLBACK, Run
from pipeline.step import execute, pin_spec
from serving.rollback import rollback
from tests.chaos.world import World
from tests.serving.packed import answer

pytestmark = pytest.mark.stack


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 3, len(content), max(len(content) // 7, 1)):
        content[at] ^= 0xFF
    path.write_bytes(content)


def empty(path: Path) -> None:
    os.truncate(path, 0)


DAMAGES: dict[str, Callable[[Path], None]] = {"cut": cut, "flip": flip, "empty": empty, "lost": Path.unlink}
READERS = {  # what is damaged: the steps that read it
    "spec.json": ("check",),
    "snapshot.json": ("check", "gate"),
    "check.json": ("train",),
    "train_xgboost.json": ("export",),
    "export_xgboost.json": ("evaluate",),
    "evaluate.json": ("register",),
    "register.json": ("tune", "package", "gate"),
    "tune.json": ("package",),
    "package.json": ("rollout", "promote"),
    "rollout.json": ("gate",),
    "gate.json": ("promote",),
    "rows": ("train", "evaluate", "gate"),
    "native": ("export",),
    "graph": ("evaluate", "package"),
    "predictions": ("evaluate", "gate"),
    "package": ("rollout",),
}


def place(run: Run, what: str) -> Path:
    if what.endswith(".json"):
        return Path(run.store.path(f"{run.key}/{what}"))
    key = {
        "rows": lambda: run.ref(DatasetRef).key,
        "native": lambda: f"{run.ref(LoggedModelRef, 'xgboost').key}",
        "graph": lambda: run.ref(OnnxRef, "xgboost").key,
        "predictions": lambda: run.ref(ModelVersionRef).predictions,
        "package": lambda: f"{run.ref(PackageRef).key}/{run.ref(PackageRef).version}/model.onnx",
    }[what]()
    path = Path(run.store.path(key))
    return next(file for file in sorted(path.rglob("*")) if file.suffix == ".ubj") if path.is_dir() else path


def test_a_damaged_file_is_named_and_nothing_that_serves_is_touched(
    world: World, calm: dict[str, float], subtests: pytest.Subtests
) -> None:
    for what in READERS:
        for damage in DAMAGES:
            with subtests.test(f"{what}-{damage}"):
                read_damaged(world, what, damage)


def read_damaged(world: World, what: str, damage: str) -> None:
    """Damage one file of a copy of the run; each step that reads it refuses it by its name."""
    spec, name = world.loaded("calm"), "calm"
    whole = world.run(name, "r1")
    run = world.run(name, f"damaged-{what.replace('.', '-').replace('_', '-')}-{damage}")
    shutil.copytree(whole.store.path(whole.key), run.store.path(run.key))
    path, served = place(run, what), answer(world.settings, name)
    content = path.read_bytes()
    try:
        DAMAGES[damage](path)
        for reader in READERS[what]:
            step = next(one for one in STEPS if one.name == reader)
            task = Task(step, "xgboost" if step.per_candidate else None)
            Path(run.store.path(f"{run.key}/{task.key}.json")).unlink(missing_ok=True)
            at = Run(run.id, run.pipeline, run.settings, run.spec_path, task.candidate)
            if what == "spec.json" and damage == "lost":
                continue  # it is pinned again
            function = getattr(importlib.import_module(step.module), step.name)
            with pytest.raises(SlipwayError) as refused:
                execute(function, pin_spec(at, spec), at)
            assert isinstance(refused.value, Invalid), refused.value
            for problem in refused.value.problems:
                assert problem.remedy, problem
                assert "\n" not in str(problem)
            message = str(refused.value)
            names = (path.name, path.parent.name, what.removesuffix(".json"))
            assert any(name in message for name in names), message
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert answer(world.settings, name) == served


def test_a_ledger_that_was_tampered_with_moves_nothing(
    world: World, calm: dict[str, float], subtests: pytest.Subtests
) -> None:
    entry = Path(world.run("calm", "any").store.path(f"{record_key('calm', 1)}/record.json"))
    content, served = entry.read_bytes(), answer(world.settings, "calm")
    for damage in DAMAGES:
        run = world.run(ROLLBACK, f"back-{damage}")
        with subtests.test(damage):
            try:
                DAMAGES[damage](entry)
                with pytest.raises(Invalid) as refused:
                    rollback(run, "calm")
                assert "Traceback" not in str(refused.value)
                assert "calm" in str(refused.value)
            finally:
                entry.write_bytes(content)
            assert answer(world.settings, "calm") == served
            with pytest.raises(Invalid, match="no version before"):  # the restored audit log gives the true reason
                rollback(run, "calm")
