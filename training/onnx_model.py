"""A native model as an ONNX graph, and the whole graph from raw columns to the answer."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, compose, helper

from pipeline.errors import Invalid
from training.features import Features
from training.models.base import Model, Native
from training.onnx_features import IR_VERSION, MATRIX, ROWS, features_graph

OPSET, ML_OPSET = 18, 3  # of every graph: trees are one operator of ML, which every opset of ONNX carries
TREES_OPSET = 15  # the newest that onnxmltools takes
RECURSION = 100_000  # calls deep; a chain of categories is a few hundred nodes, of each level of a tree
OBJECTIVES = ("binary:logistic", "multi:softprob", "reg:squarederror")  # those of which the conversion is proved
_FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


def build(native: Native, kind: str) -> bytes:
    """Raw columns to answer as one checked graph; its output, the only one, is (rows, width) float32.

    The same model gives the same bytes, and nothing of the machine is in them.

    Raises:
        Invalid: this model cannot be written as ONNX. A retry does not help.
    """
    schema = native.features.row_schema
    width = len(native.features.names)
    try:
        body = trees_graph(native.model, width) if kind == "xgboost" else network_graph(native.model, width)
        return _joined(features_graph(native.features, OPSET, ML_OPSET), body, schema.output, schema.width)
    except _FAILURES as error:
        message = " ".join(str(error).split())[:300]
        raise Invalid(
            f"the exporter failed: {type(error).__name__}: {message}",
            f"ONNX export of {kind}",
            "look at the model's parameters; the other candidates are not touched",
        ) from error


def features_only(features: Features) -> bytes:
    """Raw columns to matrix as a graph of its own; the same features give the same bytes."""
    return bytes(features_graph(features, OPSET, ML_OPSET).SerializeToString(deterministic=True))


def trees_graph(model: Model, width: int) -> ModelProto:
    """A booster: matrix -> answer. Raises Invalid for kinds that the converter gets wrong, some in silence."""
    from onnxmltools import convert_xgboost  # noqa: PLC0415 (imports every converter that it has)
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    booster = model.booster  # type: ignore[attr-defined]
    refuse_untold(booster.save_config(), booster.num_boosted_rounds())
    kind = FloatTensorType([None, width])
    with _each_node_once():
        return convert_xgboost(booster, initial_types=[(MATRIX, kind)], target_opset=TREES_OPSET)


@contextlib.contextmanager
def _each_node_once() -> Iterator[None]:
    """A split by a set of categories becomes a chain of nodes that share a child; number each node once.

    The converter numbers the child again on every way to it: time grows with the power of the tree's depth, and dozens
    of categories already take hours. Its other walks recurse as deep as the chains are long.
    """
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import XGBConverter  # noqa: PLC0415

    before, depth = XGBConverter._remap_nodeid, sys.getrecursionlimit()
    XGBConverter._remap_nodeid = staticmethod(_numbers)
    sys.setrecursionlimit(max(depth, RECURSION))
    try:
        yield
    finally:
        XGBConverter._remap_nodeid = staticmethod(before)
        sys.setrecursionlimit(depth)


def _numbers(root: dict[str, Any], _: object = None) -> dict[int, int]:
    """The new number of each node's id, in the order in which a walk first meets them."""
    numbers: dict[int, int] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node["nodeid"] not in numbers:
            numbers[node["nodeid"]] = len(numbers)
            waiting.extend(reversed(node.get("children", ())))
    return numbers


def refuse_untold(config: str, rounds: int) -> None:
    """Raise Invalid for boosters that onnxmltools 1.16 converts wrongly, or into what ONNX Runtime cannot run.

    `config` is the booster's own JSON. See onnxmltools #511 #517 #646 #667 #672 #726.
    """
    learner = json.loads(config)["learner"]
    gradient = learner["gradient_booster"]
    kind, objective = gradient["name"], learner["objective"]["name"]
    targets = int(learner["learner_model_param"].get("num_target", "1"))
    parallel = int(gradient.get("gbtree_model_param", {}).get("num_parallel_tree", "1"))
    for wrong, what in (
        (kind != "gbtree", f"of kind {kind}"),
        (targets > 1, f"with {targets} targets"),
        (parallel > 1, f"with num_parallel_tree {parallel} (a random forest)"),
        (rounds == 0, "without a tree"),
        (objective not in OBJECTIVES, f"with objective {objective}"),
    ):
        if wrong:
            raise Invalid(
                f"a booster {what} cannot be written as ONNX",
                "ONNX export of xgboost",
                f"use a gbtree with one tree a round and objective {', '.join(OBJECTIVES)}",
            )


def network_graph(model: Model, width: int) -> ModelProto:
    """A torch network: matrix -> answer, with a dynamic number of rows (which is looked at, not believed)."""
    import torch  # noqa: PLC0415

    module = model.module  # type: ignore[attr-defined]
    example = torch.from_numpy(np.zeros((3, width), dtype=np.float32))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.cpu().eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=OPSET,
            external_data=False,
            input_names=[MATRIX],
            output_names=["answer"],
            verbose=False,
        )
    proto: ModelProto = program.model_proto
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise Invalid(
            "the exporter fixed the number of rows",
            "ONNX export of torch",
            "keep the batch out of the network's shapes",
        )
    return proto


def _joined(front: ModelProto, body: ModelProto, output: str, width: int) -> bytes:
    """Both as one checked graph; the answer under the name that every served model has, with its real shape."""
    answers = [item.name for item in body.graph.output if item.type.tensor_type.elem_type == TensorProto.FLOAT]
    if len(answers) != 1:
        raise Invalid(f"the converted model has {len(answers)} float outputs", "ONNX export", "use a model with one")
    for graph in (front, body):  # in the same opsets, or they cannot be joined
        graph.ir_version = IR_VERSION
        del graph.opset_import[:]
        graph.opset_import.append(helper.make_opsetid("", OPSET))
        graph.opset_import.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
    body = compose.add_prefix(body, "model/")
    answer = f"model/{answers[0]}"
    whole = compose.merge_models(front, body, io_map=[(MATRIX, f"model/{MATRIX}")], outputs=[answer], name="slipway")
    whole.graph.node.append(helper.make_node("Identity", [answer], [output], name="answer"))
    del whole.graph.output[:], whole.opset_import[:], whole.metadata_props[:], whole.graph.value_info[:]
    whole.opset_import.extend(front.opset_import)
    whole.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [ROWS, width]))
    whole.producer_name, whole.producer_version, whole.doc_string = "slipway", "", ""
    whole.graph.doc_string = ""
    for node in whole.graph.node:  # the exporter notes its stack, with the paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
        attributes = sorted(node.attribute, key=lambda item: item.name)  # written in the order of a set's hashes
        del node.attribute[:]
        node.attribute.extend(attributes)
    onnx.checker.check_model(whole, full_check=True)
    return bytes(whole.SerializeToString(deterministic=True))
