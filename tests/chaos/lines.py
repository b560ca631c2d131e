"""Runs of a model whose answers are known, up to the step that promotes."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime as ort

from pipeline.errors import Invalid
from pipeline.record import digest_of, read_record, sequences
from pipeline.refs import ModelVersionRef
from pipeline.run import Run
from serving.register import CHAMPION
from tests.chaos.world import World
from tests.serving.chain import PASSED, chain, graph
from tests.serving.packed import ROW, answer

SPEC = """version: 1
name: {name}
task: {{kind: binary}}
data: {{source: rows.csv, target: y}}
candidates: [{{kind: xgboost}}]
"""


@cache
def known(weight: float) -> bytes:
    """What the model of this weight answers to `ROW`, bit for bit, by ONNX Runtime alone."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph(weight), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, ROW)[0], dtype=np.float32).tobytes()


def ready(world: World, name: str, run_id: str, weight: float, champion: int | None) -> ModelVersionRef:
    """A run that all gates have passed, with the references of its steps: `promote` is next."""
    if not (world.settings.specs_dir / f"{name}.yaml").is_file():
        world.spec(name, SPEC)
    one = chain(world.settings, world.settings.specs_dir, name, run_id, weight)
    report = PASSED.model_copy(update={"champion": champion})
    model, packed, rolled, gates = one.ready(report)
    run = one.run
    for task, ref in (
        ("snapshot", one.dataset),
        ("train_xgboost", one.model_ref),
        ("export_xgboost", one.onnx_ref),
        ("evaluate", one.evaluation),
        ("register", model),
        ("tune", one.tune(model)),
        ("package", packed),
        ("rollout", rolled),
        ("gate", gates),
    ):
        run.finish(task, ref, 0.0)
    return model


def ledger(run: Run, name: str) -> list[tuple[str, int]]:
    """Kind and version of each entry of a model's ledger, whose chain of digests is whole."""
    found, before = [], None
    for number in sequences(run.store, name):
        entry = read_record(run.store, name, number)
        if entry.before != before:
            raise Invalid(f"entry {number} does not follow the one before", name)
        found.append((entry.kind, entry.version))
        before = digest_of(run.store, name, number)
    return found


def weight(version: int) -> float:
    """Each version answers otherwise, and none is so sure that it answers as the next."""
    return 1 + version / 32


def agreed(world: World, name: str) -> int:
    """The version that serves, which alias, answers and ledger agree on."""
    run = world.run(name, "any")
    champion = run.registry.alias(name, CHAMPION)
    assert champion is not None
    assert answer(world.settings, name) == known(weight(champion))
    entries = ledger(run, name)
    assert [version for kind, version in entries if kind != "refusal"][-1] == champion, entries
    return champion


def promoted(world: World, name: str, version: int, champion: int | None) -> None:
    """Make a version the champion by the real step, after gates that compared it with `champion`."""
    assert ready(world, name, f"r{version}", weight(version), champion).version == version
    ended = world.step("promote", name, f"r{version}")
    assert ended.code == 0, ended.said
