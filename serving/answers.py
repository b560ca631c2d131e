"""Whether a server answers as the promoted model did: its own word, and its files, can be right where its graph is not.

Who reaches the control API of the embedded Triton can load any graph under the champion's configuration. In a cluster
nothing can be loaded into a pod, and nothing is asked.
"""

from __future__ import annotations

import io
import logging
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from pipeline.dataset import held_out, split_part
from pipeline.errors import SlipwayError
from pipeline.mask import one_line
from pipeline.record import PromotionRecord, read_record, sequences
from pipeline.refs import DatasetRef
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.store import Store
from pipeline.tensors import to_tensors
from serving.triton import TritonClient

log = logging.getLogger("slipway")
ROWS = 64  # that are asked
READ, BUFFER = 10_000, 2**16  # rows, and bytes of a column, that are read at once until enough rows are held out


def astray(settings: Settings, store: Store, record: PromotionRecord) -> str:
    """How the serving Triton's answers differ from those that were judged; empty when they do not, or none are kept."""
    try:
        judged = _judged(store, record)
        if judged is None or judged.spec is None or judged.dataset is None or judged.registered is None:
            return ""
        schema = judged.dataset.row_schema
        with np.load(io.BytesIO(store.read(judged.registered.predictions)), allow_pickle=False) as arrays:
            answers = np.asarray(arrays["onnx"], dtype=np.float32)
        tensors = to_tensors(_held_out(store, judged.dataset, judged.spec), schema, "snapshot")
        with TritonClient(settings.triton_grpc, settings.timeout_s) as client:
            served = client.replay(record.model, tensors, schema.output, str(record.version))
    except (SlipwayError, OSError, ValueError, KeyError, BadZipFile) as error:
        # rows or answers are not kept any longer; a server that does not answer is a difference of its own
        log.warning("%s: answers were not compared with those that were judged: %s", record.model, one_line(error))
        return ""
    ours = answers[: len(served)]
    unit = (float(answers.std()) or 1.0) if schema.task == "regression" else 1.0
    tolerance = judged.spec.gates.parity.in_units(unit)
    if served.shape != ours.shape:
        return f"its answers have shape {served.shape}, of the promoted version {ours.shape}"
    wrong = int((~np.isclose(served, ours, rtol=tolerance.rtol, atol=tolerance.atol)).any(axis=1).sum())
    return f"{wrong} of {len(served)} rows get other answers than when it was judged" if wrong else ""


def _judged(store: Store, record: PromotionRecord) -> PromotionRecord | None:
    """The entry of the version's promotion: a roll-back has rows of its own to show for nothing."""
    if record.kind == "promotion":
        return record
    for sequence in reversed(sequences(store, record.model)):
        found = read_record(store, record.model, sequence)
        if found.kind == "promotion" and found.version == record.version:
            return found
    return None


def _held_out(store: Store, dataset: DatasetRef, spec: PipelineSpec) -> pd.DataFrame:
    """The first held-out rows of a snapshot, in its order; no more of it is read than is needed."""
    found: list[pd.DataFrame] = []
    with store.local(dataset.key) as path, pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
        for batch in file.iter_batches(READ):
            frame = batch.to_pandas()
            mask: npt.NDArray[np.bool_] = held_out(split_part(frame, dataset.row_schema), spec.split, dataset.rows)
            found.append(frame[mask])
            if sum(map(len, found)) >= ROWS:
                break
    return pd.concat(found, ignore_index=True)[:ROWS]
