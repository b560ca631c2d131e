"""Step snapshot: the rows of the source as one immutable Parquet file, named by the digest of its content."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import MIN_HOLDOUT, held_out, split_part
from pipeline.digest import digest_bytes
from pipeline.errors import Invalid, Problem
from pipeline.infer import infer_rows
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.sources import describe, read_source
from pipeline.spec import PipelineSpec
from pipeline.step import main


def snapshot(spec: PipelineSpec, run: Run) -> DatasetRef:
    """Read the source, keep its rows as immutable Parquet, and hold rows out."""
    where = describe(spec.data)
    rows = read_source(spec.data, run.spec_path.parent)
    frame, schema, findings = infer_rows(rows, spec.data, spec.task, where, spec.gates)
    for finding in findings:
        run.log.warning("%s%s", finding.message, " (left out)" if finding.dropped else "")
    held = held_out(split_part(frame, schema), spec.split)
    _can_judge(frame, held, schema.target, schema.classes, where)
    content = to_parquet(frame)
    digest = digest_bytes(content)
    ref = DatasetRef(
        digest=digest,
        key=f"datasets/{digest}.parquet",
        source=where,
        row_schema=schema,
        rows=len(frame),
        train_rows=int((~held).sum()),
        holdout_rows=int(held.sum()),
        findings=findings,
    )
    run.store.write(ref.key, content)
    run.log.info(
        "%d rows, %d columns, %d held out, digest %s", ref.rows, len(schema.columns), ref.holdout_rows, digest[:12]
    )
    run_id = run.registry.pipeline_run(run, spec)
    run.registry.log_dataset(run_id, ref)
    run.registry.set_tags(run_id, {"slipway.dataset": digest})
    if findings:
        run.registry.log_text(run_id, "\n".join(finding.message for finding in findings), "checks/findings.txt")
    return ref


def to_parquet(frame: pd.DataFrame) -> bytes:
    """The frame as Parquet bytes; the same content gives the same bytes, whatever it was read from."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd")  # pandas would add its version
    return sink.getvalue()


def _can_judge(frame: pd.DataFrame, held: np.ndarray, target: str, classes: tuple[str, ...], where: str) -> None:
    """Refuse a split whose held-out part is too small, or lacks a class."""
    remedy = "bring more rows, or change split.holdout or split.seed"
    problems = []
    if int(held.sum()) < MIN_HOLDOUT:
        problems.append(Problem(f"only {int(held.sum())} rows are held out", where, remedy))
    for part, rows in (("held-out", frame[held]), ("training", frame[~held])):
        labels = set(rows[target].astype(str)) if classes else set()
        problems += [
            Problem(f"no {part} row has the class {label!r}", where, remedy) for label in classes if label not in labels
        ]
    if problems:
        raise Invalid(problems)


if __name__ == "__main__":
    main(snapshot)
