"""A native model as an ONNX graph, and the whole graph from raw columns to the answer."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import numpy as np
import onnx
from onnx import ModelProto, compose, helper

from pipeline.errors import Invalid
from training.models.base import Model, Native
from training.onnx_features import IR_VERSION, MATRIX, features_graph

TREES_OPSET = 15  # the newest that onnxmltools writes
TORCH_OPSET = 18
ML = "ai.onnx.ml"


def build(native: Native, kind: str) -> ModelProto:
    """Raw columns to answer as one checked graph; the output is the only one, (rows, width) float32.

    Raises:
        Invalid: this model cannot be written as ONNX. A retry does not help.
    """
    width = len(native.features.names)
    model = trees_graph(native.model, width) if kind == "xgboost" else network_graph(native.model, width)
    opsets = {item.domain: item.version for item in model.opset_import}
    front = features_graph(native.features, opsets.get("", TREES_OPSET), opsets.get(ML, 1))
    del model.opset_import[:], front.opset_import[:]
    for graph in (model, front):  # both in the same opsets, or they cannot be joined
        graph.ir_version = IR_VERSION
        graph.opset_import.extend(
            [helper.make_opsetid("", opsets.get("", TREES_OPSET)), helper.make_opsetid(ML, max(opsets.get(ML, 1), 3))]
        )
    output = native.features.row_schema.output
    model = compose.add_prefix(model, "model/")
    answer = model.graph.output[0].name
    merged = compose.merge_models(front, model, io_map=[(MATRIX, model.graph.input[0].name)], outputs=[answer])
    whole = _named_output(merged, answer, output, native.features.row_schema.width)
    whole.producer_name = "slipway"
    onnx.checker.check_model(whole, full_check=True)
    return whole


def trees_graph(model: Model, width: int) -> ModelProto:
    """A booster: matrix -> answer. Refuses the kinds of booster that the converter gets wrong in silence."""
    from onnxmltools import convert_xgboost  # noqa: PLC0415 (imports every converter that it has)
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    booster = model.booster  # type: ignore[attr-defined]
    refuse_untold(booster.save_config(), booster.num_boosted_rounds())
    proto: ModelProto = convert_xgboost(
        booster, initial_types=[("x", FloatTensorType([None, width]))], target_opset=TREES_OPSET
    )
    keep = [item for item in proto.graph.output if item.name in ("probabilities", "variable")]
    if len(keep) != 1:
        raise Invalid("the converted trees have no answer", "ONNX export", "use another objective")
    del proto.graph.output[:]
    proto.graph.output.extend(keep)
    return proto


def refuse_untold(config: str, rounds: int) -> None:
    """Raise Invalid for boosters that onnxmltools 1.16 converts wrongly, or into what ONNX Runtime cannot run.

    `config` is the booster's own JSON. See onnxmltools #511 #517 #646 #667 #672 #726.
    """
    import json  # noqa: PLC0415

    learner = json.loads(config)["learner"]
    gradient = learner["gradient_booster"]
    kind = gradient["name"]
    trees = int(learner["learner_model_param"].get("num_target", "1"))
    parallel = int(gradient.get("gbtree_model_param", {}).get("num_parallel_tree", "1"))
    for wrong, what in (
        (kind != "gbtree", f"booster {kind!r}"),
        (trees > 1, f"{trees} outputs"),
        (parallel > 1, f"{parallel} parallel trees (a random forest)"),
        (rounds == 0, "no trees"),
        (learner["objective"]["name"].startswith("rank:"), "a ranker"),
    ):
        if wrong:
            raise Invalid(f"a booster with {what} cannot be written as ONNX", "ONNX export", "use a plain gbtree")


def network_graph(model: Model, width: int) -> ModelProto:
    """A torch network: matrix -> answer, with a dynamic number of rows (which is looked at, not believed)."""
    import torch  # noqa: PLC0415

    module = model.module  # type: ignore[attr-defined]
    example = torch.from_numpy(np.zeros((3, width), dtype=np.float32))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}},
            opset_version=TORCH_OPSET,
            external_data=False,
            input_names=["x"],
            output_names=["answer"],
            verbose=False,
        )
    proto: ModelProto = program.model_proto
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise Invalid("the exporter fixed the number of rows", "ONNX export", "use a network with no fixed batch")
    return proto


def _named_output(model: ModelProto, answer: str, name: str, width: int) -> ModelProto:
    """The output under the name that every served model has, with its real shape."""
    model.graph.node.append(helper.make_node("Identity", [answer], [name], name="answer"))
    del model.graph.output[:]
    shape = [model.graph.input[0].type.tensor_type.shape.dim[0].dim_param, width]
    model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    return model
