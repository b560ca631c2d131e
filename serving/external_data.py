"""Whether an ONNX graph holds all of its weights: those in other files are neither signed nor packaged with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import Problem

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import TensorProto

_REMEDY = "export it anew with all weights inside (onnx.save without external data)"
_MOST = 20  # tensors that are told


def external_data(graph: Path, where: str) -> list[Problem]:
    """Each tensor that lies in another file, wherever in the graph it stands; or that this is no graph."""
    import onnx  # noqa: PLC0415 (the server's image has none, and only packaging and `slipway verify` ask)
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from onnx.external_data_helper import uses_external_data  # noqa: PLC0415

    try:
        model = onnx.load(str(graph), load_external_data=False)
    except DecodeError:
        return [Problem(f"{graph.name} is no ONNX graph", where, "export it anew")]
    problems = []
    for tensor in _tensors(model, onnx.TensorProto):
        if uses_external_data(tensor):
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            what = f"{graph.name}: the weights of tensor {tensor.name[:80]!r} lie in another file, {location[:200]!r}"
            problems.append(Problem(what, where, _REMEDY))
        if len(problems) == _MOST:
            break
    return problems


def _tensors(message: Message, kind: type[TensorProto]) -> Iterator[TensorProto]:
    """Every tensor below: subgraphs', attributes', functions', and the halves of sparse ones, which onnx omits."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                yield from _tensors(item, kind)
