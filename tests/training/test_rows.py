"""Training rows that do not fit in memory: the same rows in batches, the same trees, and models that hold."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline import batches
from pipeline.columns import RowSchema
from pipeline.dataset import held_out, split_part, split_rows
from pipeline.memory import fit_bytes, limit_bytes
from pipeline.metrics import scores
from pipeline.refs import CheckReport, DatasetRef
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import Split, Torch, XGBoost
from pipeline.spec_file import parse_spec
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from tests.support.tracking import mlflow_client
from training import snapshot as step
from training.evaluate import evaluate
from training.export import export
from training.features import fit_features
from training.models.base import Fold, Trainer, load_candidate
from training.models.boosted import BIN_BYTES, ROW_BYTES, BoostedTrainer, Pages
from training.rows import CLASS_ROWS, TrainingRows
from training.snapshot import snapshot, write_parquet
from training.train import train

ROWS = 4000
SPLIT = Split(holdout=0.2)
ALL = 2**30


def frame_of(schema: RowSchema, table: pd.DataFrame, rows: int = ROWS) -> pd.DataFrame:
    """Many rows like those of the table, none quite like another, and sorted, so that batches differ."""
    frame = table.sample(rows, replace=True, random_state=1, ignore_index=True)
    frame["weight"] += np.random.default_rng(2).normal(size=rows)
    return frame.sort_values(schema.target, ignore_index=True)


@pytest.fixture
def kept(table: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple]:
    """A snapshot's file of many row groups, read in many batches: its frame, and its training rows."""

    def _kept(
        task: str, memory_bytes: int = ALL, cells: int = 4000, group: int = 300
    ) -> tuple[pd.DataFrame, TrainingRows]:
        monkeypatch.setattr(batches, "BATCH_CELLS", cells)
        monkeypatch.setattr(step, "GROUP_ROWS", group)
        small, schema, _ = table(task)
        frame, path = frame_of(schema, small), tmp_path / "rows.parquet"
        write_parquet([frame], path)
        held = int(held_out(split_part(frame, schema), SPLIT).sum())
        dataset = DatasetRef(
            digest="d", key="k", source="s", row_schema=schema, rows=ROWS, train_rows=ROWS - held, holdout_rows=held
        )
        return frame, TrainingRows.of(path, dataset, SPLIT, memory_bytes)

    return _kept


def test_the_matrix_is_that_of_the_rows_at_once(kept: Callable) -> None:
    frame, rows = kept("multiclass")
    schema = rows.dataset.row_schema
    train = frame[~held_out(split_part(frame, schema), SPLIT)]
    features = fit_features(train, schema)
    assert rows.features == features
    assert len(list(rows.matrices())) > 5
    x, y = rows.sample()
    assert rows.fit
    pages = list(rows.matrices(1000))
    sizes = [len(part) for _, part in pages]
    assert len(sizes) == 3
    assert all(1000 <= size < 1500 for size in sizes[:-1])
    for at, whole in enumerate((x, y)):
        np.testing.assert_array_equal(np.concatenate([page[at] for page in pages]), whole)
    np.testing.assert_array_equal(x, features.matrix(to_tensors(train, schema)))
    np.testing.assert_array_equal(y, encode_target(train, schema))


def test_a_sample_is_as_large_as_memory_and_leaves_no_class_out(kept: Callable) -> None:
    _, rows = kept("regression", 100_000)
    assert not rows.fit
    x, y = rows.sample()
    assert 0.7 * rows.fitting < len(y) < 1.3 * rows.fitting
    for one, again in zip((x, y), rows.sample(), strict=True):
        np.testing.assert_array_equal(one, again)
    more, _ = replace(rows, memory_bytes=200_000).sample()
    assert {row.tobytes() for row in x} < {row.tobytes() for row in more}
    _, rows = kept("multiclass", 1000)
    _, all_y = replace(rows, memory_bytes=ALL).sample()
    _, y = rows.sample()
    assert rows.fitting < 10
    assert all((y == label).sum() > 0.7 * min((all_y == label).sum(), CLASS_ROWS) for label in range(3))


def test_shuffled_batches_have_each_row_once_in_another_order(kept: Callable) -> None:
    _, rows = kept("multiclass")
    x, y = rows.sample()
    draw = np.random.default_rng(0)
    orders = []
    for _ in range(2):
        parts = list(rows.shuffled(draw))
        assert len(parts) > 3
        assert max(len(part) for _, part in parts) <= 4000
        orders.append(np.concatenate([part for part, _ in parts]))
        assert sorted(row.tobytes() for row in orders[-1]) == sorted(row.tobytes() for row in x)
        assert np.concatenate([part for _, part in parts]).sum() == y.sum()
    assert not np.array_equal(orders[0], orders[1], equal_nan=True)
    first_labels = parts[0][1]
    assert len(np.unique(first_labels)) > 1  # the file is sorted by label: row groups were mixed


def test_trees_of_one_batch_are_the_trees_of_the_matrix(kept: Callable) -> None:
    for task in ("binary", "multiclass"):
        _, rows = kept(task, cells=10**6, group=10**6)
        assert len(list(rows.matrices())) == 1
        trainer = BoostedTrainer.of(XGBoost(kind="xgboost"), rows.features, 1)
        whole = trainer.fit(Fold(*rows.sample()), trainer.defaults(), 7, 10, None).model
        batch = trainer.fit_rows(rows, trainer.defaults(), 7, 10).model
        assert batch.booster.save_raw() == whole.booster.save_raw()  # type: ignore[attr-defined]


def test_bins_on_disk_are_in_fewer_pages_than_batches(kept: Callable) -> None:
    _, rows = kept("binary")
    kinds = rows.features.kinds
    little = replace(rows, memory_bytes=rows.count * (len(kinds) * BIN_BYTES + ROW_BYTES) - 1)
    pages, sizes = Pages(little, kinds, None), []
    while pages.next(lambda data, label, feature_types: sizes.append((len(data), len(label)))):
        pass
    assert 1 < len(sizes) < len(list(little.matrices()))
    assert all(data == label >= little.fitting for data, label in sizes[:-1])
    assert sum(label for _, label in sizes) == rows.count


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize(("kind", "length"), [("xgboost", 30), ("torch", 4)])
def test_a_model_of_batches_is_as_good_as_that_of_the_matrix(task: str, kind: str, length: int, kept: Callable) -> None:
    _, rows = kept(task, cells=20_000)
    schema, few = rows.dataset.row_schema, replace(rows, memory_bytes=100_000)
    x, y = rows.sample()
    trainer: Trainer
    if kind == "xgboost":
        trainer = BoostedTrainer.of(XGBoost(kind="xgboost"), rows.features, 1)
        params = trainer.defaults()
    else:
        from training.models.neural import NeuralTrainer

        trainer = NeuralTrainer.of(Torch(kind="torch"), rows.features, 1)
        params = trainer.defaults() | {"width": 64, "embedding": 8, "bins": 8}
    whole = trainer.fit(Fold(x, y), params, 7, length, None)
    in_memory, on_disk, again = (trainer.fit_rows(one, params, 7, length) for one in (rows, few, few))
    metric, little = ("rmse", 0.1 * float(y.std())) if task == "regression" else ("log_loss", 0.1)
    loss = {name: scores(schema, y, fitted.model.predict(x))[metric] for name, fitted in {"whole": whole, "in memory": in_memory, "on disk": on_disk}.items()}  # fmt: skip
    assert loss["in memory"] < loss["whole"] + little
    assert (whole.length, in_memory.length) == (length, length)
    assert np.array_equal(on_disk.model.predict(x), again.model.predict(x))
    if kind == "xgboost":
        assert loss["on disk"] < loss["whole"] + little
    else:  # as many steps as on the sample, in one epoch at least
        assert on_disk.length == max(1, round(length * len(few.sample()[1]) / len(y)))


SPEC = """version: 1
name: {name}
task: {{kind: binary}}
data: {{source: rows.parquet, target: y}}
candidates:
  - {{kind: xgboost, trials: 2, folds: 2, rounds: 40}}
  - {{kind: torch, trials: 1, folds: 2, epochs: 6}}
"""


@pytest.mark.heavy
def test_a_step_with_little_memory_tunes_on_a_sample_and_fits_on_all(
    table: Callable,
    tracked: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(batches, "BATCH_CELLS", 12_000)
    monkeypatch.setattr(step, "GROUP_ROWS", 1000)
    small, schema, _ = table("binary")
    frame_of(schema, small).to_parquet(tmp_path / "rows.parquet")
    checks = CheckReport(passed=True, suite=None, suite_digest=None, evaluated=0)
    losses: dict[str, dict[str, float]] = {}
    for name, gib in (("little_memory", 0.0005), ("much_memory", 1.0)):
        spec = parse_spec(SPEC.format(name=name), name)
        run = Run("r1", name, tracked.model_copy(update={"memory_gib": gib}), tmp_path / "spec.yaml")
        dataset = snapshot(spec, run)
        _, rows = split_rows(run, dataset, spec.split)
        target, tensors = encode_target(rows, dataset.row_schema), to_tensors(rows, dataset.row_schema)
        with run.store.whole(dataset.key) as path:
            assert len(list(TrainingRows.of(path, dataset, spec.split, ALL).matrices())) > 2
        graphs = []
        losses[name] = {}
        for candidate in spec.candidates:
            one = replace(run, candidate=candidate.name)
            with caplog.at_level(logging.INFO):
                model = train(spec, dataset, checks, one)
            params = mlflow_client(tracked).get_run(model.run_id).data.params
            assert int(params["rows"]) == dataset.train_rows
            assert (int(params["tuned_rows"]) < dataset.train_rows) == (name == "little_memory")
            native = load_candidate(one, model)
            losses[name][candidate.name] = scores(dataset.row_schema, target, native.predict(tensors))["log_loss"]
            if name == "little_memory":  # a model that was fitted in batches is exported as others are
                graphs.append(export(spec, dataset, model, one))
                assert graphs[-1].passed
        if name == "little_memory":  # the losses are those of the exported graphs
            evaluation = evaluate(spec, dataset, tuple(graphs), run)
            assert all(score.passed for score in evaluation.scores)
            losses[name] = {score.candidate: score.metrics["log_loss"] for score in evaluation.scores}
    assert f"of {dataset.train_rows} rows that fit in 0.0005 GiB" in caplog.text
    for candidate, loss in losses["much_memory"].items():
        assert losses["little_memory"][candidate] < loss + 0.1


GROWTH = """
import sys
import numpy as np, pandas as pd
import training.models.boosted, training.snapshot, scipy.sparse  # what is loaded is not what grows
from pathlib import Path
from pipeline import batches
from benchmarks.machine import peak_mib
from pipeline.batches import Spool
from pipeline.infer import infer
from pipeline.refs import DatasetRef
from pipeline.spec import Binary, Data, Split, XGBoost
from pipeline.sources import read_batches
from training.rows import TrainingRows
from training.models.boosted import BoostedTrainer

batches.BATCH_CELLS, training.snapshot.GROUP_CELLS = 2**18, 2**19
folder, memory, draw = Path(sys.argv[1]), 2**21, np.random.default_rng(0)

def table(rows):
    for _ in range(rows // 10_000):
        frame = pd.DataFrame(draw.normal(size=(10_000, 20)).round(3)).rename(columns=str)
        yield frame.assign(c=draw.choice(["a", "b", None], 10_000), y=np.where(frame["0"] > 0, "p", "n"))

def fit(rows):
    training.snapshot.write_parquet(table(rows), folder / "source.parquet")
    data = Data(source="source.parquet", target="y")
    with Spool(read_batches(data, folder)) as spool:
        typed = infer(spool, data, Binary(kind="binary"), "s")
        training.snapshot.write_parquet(typed, folder / "rows.parquet")
    dataset = DatasetRef(digest="d", key="k", source="s", row_schema=typed.schema, rows=rows, train_rows=rows * 4 // 5, holdout_rows=0)
    found = TrainingRows.of(folder / "rows.parquet", dataset, Split(), memory)
    trainer = BoostedTrainer.of(XGBoost(kind="xgboost", device="cpu"), found.features, 1)
    return trainer.fit_rows(found, trainer.defaults(), 7, 2).length

for rows in map(int, sys.argv[2:]):
    print(fit(rows), peak_mib())
"""


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Eight times the rows, whose matrix alone is 27 MiB more, take little more memory: from the source to the trees."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path), "50000", "400000"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (length, few), (again, many) = (line.split() for line in done.stdout.splitlines())
    assert (length, again) == ("2", "2")
    assert float(many) - float(few) < 15, done.stdout


def test_the_limit_of_a_container_is_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=1000))
    own = tmp_path / "cgroup"
    assert limit_bytes(tmp_path, own) == 1000
    own.write_text("4:memory:/old\n0::/slice/unit\n")
    (tmp_path / "slice" / "unit").mkdir(parents=True)
    (tmp_path / "slice" / "memory.max").write_text("300\n")
    (tmp_path / "slice" / "unit" / "memory.max").write_text("max\n")
    assert limit_bytes(tmp_path, own) == 300
    (tmp_path / "memory.max").write_text("200")
    assert limit_bytes(tmp_path, own) == 200
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("100")
    assert limit_bytes(tmp_path, own) == 100
    assert (fit_bytes(0), fit_bytes(Settings(memory_gib=0.5).memory_gib)) == (limit_bytes() // 2, 2**29)
