"""An ONNX graph that answers, in ONNX Runtime on the CPU; whatever it refuses comes back as a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from pipeline.errors import Invalid
from pipeline.tensors import Tensors

PROVIDER = "CPUExecutionProvider"
BATCH_ROWS = 8192  # bounds the memory of one call
# ONNX Runtime's errors have no common base but Exception
_REFUSALS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    TypeError,
    *(item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)),
)


class OnnxModel:
    """A graph on the CPU provider. `threads` of 0 is one for each core.

    Raises:
        Invalid: ONNX Runtime refuses the graph, or has taken another provider, which it does in silence
            (onnxruntime#23372). A retry does not help.
    """

    def __init__(self, content: bytes, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting burns no core
        with _sentences("load the graph"):
            self._session = ort.InferenceSession(content, options, providers=[PROVIDER])
        if (taken := self._session.get_providers()) != [PROVIDER]:
            raise Invalid(f"ONNX Runtime took {', '.join(taken)}", "ONNX Runtime", f"install one that has {PROVIDER}")

    def predict(self, tensors: Tensors) -> npt.NDArray[np.float32]:
        """(rows, width) as the graph gives it, from request tensors.

        Raises:
            Invalid: ONNX Runtime refuses the tensors, or fails on them. A retry does not help.
        """
        rows = len(next(iter(tensors.values())))
        with _sentences("answer"):
            parts = [
                np.asarray(
                    self._session.run(None, {name: value[at : at + BATCH_ROWS] for name, value in tensors.items()})[0]
                )
                for at in range(0, max(rows, 1), BATCH_ROWS)
            ]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)


@contextmanager
def _sentences(what: str) -> Iterator[None]:
    try:
        yield
    except _REFUSALS as error:
        raise Invalid(
            f"ONNX Runtime cannot {what}: {' '.join(str(error).split())[:400]}",
            "ONNX Runtime",
            "look at the model's kind and parameters; the other candidates are not touched",
        ) from error
