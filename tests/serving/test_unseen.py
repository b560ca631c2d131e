"""A champion is compared on rows that it was not trained on, whatever has changed since."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.columns import Column, RowSchema
from pipeline.dataset import held_out
from pipeline.digest import digest_bytes
from pipeline.errors import Invalid
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec, Split
from serving.unseen import unseen
from tests.serving.known import spec_of
from training.snapshot import to_parquet

COLUMNS = ("a", "b", "c")


def rows(count: int = 400) -> pd.DataFrame:
    draw = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "a": draw.normal(size=count),
            "b": draw.integers(0, 5, count).astype(float),
            "c": draw.choice(["x", "y", None], count),
            "y": draw.choice(["no", "yes"], count),
        }
    )


def kept(run: Run, frame: pd.DataFrame, spec: PipelineSpec, kinds: dict[str, str] | None = None) -> DatasetRef:
    """A run's snapshot, as the step leaves it."""
    known = {"a": "number", "b": "number", "c": "category", "d": "number"} | (kinds or {})
    schema = RowSchema(
        columns=tuple(Column(name=name, kind=known[name]) for name in frame.columns.drop("y")),  # type: ignore[arg-type]
        target="y",
        task="binary",
        classes=("no", "yes"),
    )
    content = to_parquet(frame)
    key = f"datasets/{digest_bytes(content)}.parquet"
    run.store.write(key, content)
    run.store.write(f"{run.key}/spec.json", spec.model_dump_json().encode())
    ref = DatasetRef(
        digest=digest_bytes(content),
        key=key,
        source="x",
        row_schema=schema,
        rows=len(frame),
        train_rows=1,
        holdout_rows=1,
    )
    run.finish("snapshot", ref, 0.0)
    return ref


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    settings = Settings(home=tmp_path)
    return Run("then", "demo", settings, tmp_path), Run("now", "demo", settings, tmp_path)


def mask(runs: tuple[Run, Run], then: pd.DataFrame, now: pd.DataFrame, spec: PipelineSpec, **kinds: str) -> pd.Series:
    """Which held-out rows of `now` the champion of `then` has not seen, beside which it has not in truth."""
    kept(runs[0], then, spec_of("demo"), kinds)
    dataset = kept(runs[1], now, spec)
    held = now[held_out(now, spec.split)].reset_index(drop=True)
    found = unseen(held, spec, dataset, runs[1], "then")
    return pd.Series(True, index=held.index) if found is None else pd.Series(found)


def truth(then: pd.DataFrame, now: pd.DataFrame, spec: PipelineSpec) -> pd.Series:
    trained = then[~held_out(then, spec_of("demo").split)].index
    held = now[held_out(now, spec.split)].index
    return pd.Series(~held.isin(trained))


def test_split_alike_all_are_unseen(runs: tuple[Run, Run]) -> None:
    assert mask(runs, rows(), rows(500), spec_of("demo")).all()


def test_another_seed_of_the_split(runs: tuple[Run, Run]) -> None:
    spec = spec_of("demo").model_copy(update={"split": Split(seed=11)})
    found = mask(runs, rows(), rows(), spec)
    assert found.tolist() == truth(rows(), rows(), spec).tolist()
    assert 0 < found.sum() < len(found)


def test_a_larger_share_of_fewer_rows(runs: tuple[Run, Run]) -> None:
    """A champion of a table so large that fewer were held out has learnt some of what a smaller table holds out."""
    split = Split(most_held_out=1000)
    large, small = rows(40_000), rows(40_000).head(500)
    old, new = (spec_of("demo").model_copy(update={"split": split}) for _ in range(2))
    for then, now, all_unseen in ((large, small, False), (small, large, True)):
        kept(runs[0], then, old)
        dataset = kept(runs[1], now, new)
        held = now[held_out(now, split)]
        found = unseen(held.reset_index(drop=True), new, dataset, runs[1], "then")
        trained = held.index.isin(then.index[~held_out(then, split)])
        assert (found is None) == all_unseen
        assert trained.any() != all_unseen
        assert found is None or found.tolist() == (~trained).tolist()
        for run in runs:
            run.store.delete(run.key)


def test_a_column_that_has_come_and_one_that_has_gone(runs: tuple[Run, Run]) -> None:
    now = rows().drop(columns="b").assign(d=1.5)
    found = mask(runs, rows(), now, spec_of("demo"))
    assert found.tolist() == truth(rows(), now, spec_of("demo")).tolist()
    assert not found.all()


def test_a_column_of_another_kind_is_not_compared(runs: tuple[Run, Run]) -> None:
    then = rows().assign(b=rows()["b"].astype(str))
    found = mask(runs, then, rows(), spec_of("demo"), b="category")
    assert found.tolist() == truth(then, rows(), spec_of("demo")).tolist()


def test_rows_that_are_lost_are_told(runs: tuple[Run, Run]) -> None:
    spec = spec_of("demo").model_copy(update={"split": Split(seed=11)})
    lost = kept(runs[0], rows(), spec_of("demo"))
    dataset = kept(runs[1], rows(300), spec)
    Path(runs[0].store.path(lost.key)).unlink()
    with pytest.raises(Invalid, match="any longer"):
        unseen(rows(300), spec, dataset, runs[1], "then")
