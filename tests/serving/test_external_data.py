"""A graph whose weights lie in other files is found, wherever in it they are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper

from serving.external_data import external_data
from tests.serving.known import graph


def elsewhere() -> TensorProto:
    tensor = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/srv/w.bin")
    return tensor


def body() -> GraphProto:
    return helper.make_graph([], "inner", [], [], [elsewhere()])


def node(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("Any", [], ["any"], **attributes)


def function(made: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("here", "F", [], ["any"], [made], [helper.make_opsetid("", 17)])


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=elsewhere(), dims=[3])


PLACES: dict[str, Callable[[ModelProto], object]] = {
    "initializer": lambda model: model.graph.initializer.append(elsewhere()),
    "sparse initializer": lambda model: model.graph.sparse_initializer.append(sparse()),
    "attribute": lambda model: model.graph.node.append(node(value=elsewhere())),
    "attribute of many": lambda model: model.graph.node.append(node(values=[elsewhere()])),
    "attribute, sparse": lambda model: model.graph.node.append(node(value=sparse())),
    "subgraph": lambda model: model.graph.node.append(node(then_branch=body())),
    "one of many subgraphs": lambda model: model.graph.node.append(node(branches=[body()])),
    "subgraph of a subgraph": lambda model: model.graph.node.append(
        node(body=helper.make_graph([node(body=body())], "outer", [], []))
    ),
    "function": lambda model: model.functions.append(function(node(value=elsewhere()))),
    "subgraph of a function": lambda model: model.functions.append(function(node(body=body()))),
}


def written(folder: Path, change: Callable[[ModelProto], object]) -> Path:
    model = onnx.load_from_string(graph(1.0))
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize("place", PLACES)
def test_weights_elsewhere_are_found(tmp_path: Path, place: str) -> None:
    (problem,) = external_data(written(tmp_path, PLACES[place]), "the store")
    assert str(problem).startswith(
        "the store: model.onnx: the weights of tensor 'big' lie in another file, '/srv/w.bin' -> export it anew"
    )


def test_a_graph_that_holds_all_is_fine(tmp_path: Path) -> None:
    assert external_data(written(tmp_path, lambda _: None), "the store") == []
    inside = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    inside.data_location = TensorProto.DEFAULT
    assert external_data(written(tmp_path, lambda model: model.graph.initializer.append(inside)), "the store") == []


def test_all_are_told_and_not_without_end(tmp_path: Path) -> None:
    path = written(tmp_path, lambda model: model.graph.initializer.extend([elsewhere()] * 3))
    assert len(external_data(path, "the store")) == 3
    path = written(tmp_path, lambda model: model.graph.initializer.extend([elsewhere()] * 1000))
    assert len(external_data(path, "the store")) == 20


def test_what_is_no_graph_is_said(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    assert [str(one) for one in external_data(tmp_path / "model.onnx", "the store")] == [
        "the store: model.onnx is no ONNX graph -> export it anew"
    ]
