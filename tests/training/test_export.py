"""Export: one graph from raw columns to the answer, proved equal; what cannot be written is refused with a sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import xgboost as xgb

from pipeline.columns import Column, RowSchema
from pipeline.dataset import split_rows
from pipeline.digest import digest_bytes
from pipeline.errors import Invalid
from pipeline.gate_rules import Tolerance
from pipeline.tensors import to_tensors
from tests.support.tracking import mlflow_client
from training.export import export
from training.features import Features, fit_features
from training.models.base import Native
from training.models.boosted import Boosted
from training.onnx_model import build
from training.onnx_session import OnnxModel
from training.parity import prove

TASKS = ("binary", "multiclass", "regression")
OUTPUT = {"binary": ("probabilities", 2), "multiclass": ("probabilities", 3), "regression": ("prediction", 1)}


@pytest.mark.parametrize("kind", ["xgboost", pytest.param("torch", marks=pytest.mark.heavy)])
@pytest.mark.parametrize("task", TASKS)
def test_one_graph_from_raw_columns_to_the_answer(kind: str, task: str, table: Callable, candidate: Callable) -> None:
    native, (_, schema, tensors) = candidate(kind, task), table(task)
    content = build(native, kind)
    model = onnx.load_from_string(content)
    name, width = OUTPUT[task]
    rows = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {item.name: shape(item) for item in model.graph.input} == {
        "numeric": [rows, 3],
        "categorical": [rows, 2],
        "timestamp": [rows, 1],
    }
    assert [(item.name, shape(item)) for item in model.graph.output] == [(name, [rows, width])]
    assert rows
    assert {item.domain: item.version for item in model.opset_import} == {"": 18, "ai.onnx.ml": 3}
    assert len(model.opset_import) == 2
    assert not [item for item in model.graph.initializer if item.data_location]
    for leak in (b"/training/", b".py", b"site-packages", b"/home", b"/root"):
        assert leak not in content
    proof = prove(schema, Tolerance(), native.predict, OnnxModel(content).predict, tensors)
    assert [case for case in proof.cases if not case.passed] == []
    assert max(case.max_abs for case in proof.cases) < 1e-5


def shape(item: onnx.ValueInfoProto) -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in item.type.tensor_type.shape.dim]


def test_the_same_model_gives_the_same_bytes(candidate: Callable) -> None:
    assert build(candidate("xgboost", "binary"), "xgboost") == build(candidate("xgboost", "binary"), "xgboost")


@pytest.mark.parametrize("kind", ["number", "category", "timestamp"])
def test_tables_of_one_kind_of_column(kind: str, table: Callable) -> None:
    frame, schema, _ = table("regression")
    small = schema.model_copy(update={"columns": tuple(column for column in schema.columns if column.kind == kind)})
    features, tensors = fit_features(frame, small), to_tensors(frame, small)
    x, y = features.matrix(tensors), frame["y"].to_numpy()
    native = Native(features, trees(x, y, features.kinds, {"objective": "reg:squarederror"}, "regression"))
    proof = prove(small, Tolerance(), native.predict, OnnxModel(build(native, "xgboost")).predict, tensors)
    assert proof.passed


@pytest.mark.parametrize("onehot", [1, 400])
def test_hundreds_of_categories(onehot: int) -> None:
    draw = np.random.default_rng(0)
    schema = RowSchema(columns=(Column(name="c", kind="category"), Column(name="d", kind="category")), target="y", task="binary", classes=("n", "p"))  # fmt: skip
    labels = tuple(f"l{at}" for at in range(300))
    features = Features(row_schema=schema, categories={"c": labels, "d": labels})
    texts = draw.choice(np.array([*labels, "", "new"], dtype=object), (4000, 2))
    y = np.array([len(text) % 2 ^ (hash_of(text + other) % 3 == 0) for text, other in texts])
    x = features.matrix({"categorical": texts})
    native = Native(features, trees(x, y, ("c", "c"), {"objective": "binary:logistic", "max_cat_to_onehot": onehot}, "binary"))  # fmt: skip
    proof = prove(
        schema, Tolerance(), native.predict, OnnxModel(build(native, "xgboost")).predict, {"categorical": texts}
    )
    assert [case for case in proof.cases if not case.passed] == []
    assert np.ptp(proof.native[:, 1]) > 0.3


def hash_of(text: str) -> int:
    return sum(text.encode())


def trees(x: np.ndarray, y: np.ndarray, kinds: tuple[str, ...], options: dict[str, object], task: str, rounds: int = 8) -> Boosted:  # fmt: skip
    rows = xgb.DMatrix(x, y, feature_types=list(kinds), enable_categorical=True)
    booster = xgb.train({"nthread": 1, "min_child_weight": 0.1, **options}, rows, rounds)
    return Boosted(booster, task, kinds)


@pytest.mark.parametrize("score", [0.02, 0.5, 0.9])
def test_base_score_and_early_stopping(score: float, table: Callable) -> None:
    frame, schema, tensors = table("binary")
    features = fit_features(frame, schema)
    x, y = features.matrix(tensors), (frame["y"] == "yes").to_numpy(float)
    whole = trees(x, y, features.kinds, {"objective": "binary:logistic", "base_score": score}, "binary", 30)
    native = Native(features, replace(whole, booster=whole.booster[:7]))
    proof = prove(schema, Tolerance(), native.predict, OnnxModel(build(native, "xgboost")).predict, tensors)
    assert proof.passed
    assert np.abs(proof.native - whole.predict(x)).max() > 0.01


@pytest.mark.parametrize(
    ("options", "targets", "says"),
    [
        ({"booster": "dart"}, 1, "of kind dart"),
        ({"booster": "gblinear"}, 1, "of kind gblinear"),
        ({"num_parallel_tree": 4, "subsample": 0.5}, 1, "with num_parallel_tree 4 (a random forest)"),
        ({}, 2, "with 2 targets"),
        ({"multi_strategy": "multi_output_tree"}, 2, "with 2 targets"),
        ({"objective": "rank:pairwise"}, 1, "with objective rank:pairwise"),
        ({"objective": "reg:gamma"}, 1, "with objective reg:gamma"),
    ],
)
def test_boosters_that_the_converter_gets_wrong(options: dict[str, object], targets: int, says: str) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(80, 2)).astype(np.float32), draw.random((80, targets)) + 0.1
    schema = RowSchema(columns=(Column(name="a", kind="number"), Column(name="b", kind="number")), target="y", task="regression")  # fmt: skip
    booster = xgb.train({"objective": "reg:squarederror", "nthread": 1, **options}, xgb.DMatrix(x, y.squeeze()), 3)
    native = Native(Features(row_schema=schema, categories={}), Boosted(booster, "regression", ("q", "q")))
    with pytest.raises(Invalid, match=r"cannot be written as ONNX") as caught:
        build(native, "xgboost")
    assert says in str(caught.value)
    assert "use a gbtree" in str(caught.value)


def test_a_booster_without_a_tree() -> None:
    x = np.zeros((20, 1), dtype=np.float32)
    schema = RowSchema(columns=(Column(name="a", kind="number"),), target="y", task="regression")
    booster = xgb.train({"objective": "reg:squarederror"}, xgb.DMatrix(x, x[:, 0]), 0)
    with pytest.raises(Invalid, match="without a tree"):
        build(Native(Features(row_schema=schema, categories={}), Boosted(booster, "regression", ("q",))), "xgboost")


class Held:
    """A model around a module that answers as the function of torch and x does."""

    def __init__(self, answer: Callable[[Any, Any], object]) -> None:
        import torch

        class Plain(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> object:
                return answer(torch, x)

        self.module = Plain()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda torch, x: torch.linalg.eigvals(x @ x.T).real[:, None], "exporter failed"),
        (lambda _, x: x.sum(dim=1, keepdim=True) if float(x.sum()) > 0 else x, "exporter failed"),
        (lambda torch, x: torch.stack([x[0], x[1], x[2]]).sum(dim=1, keepdim=True), None),
        (lambda _, x: (x.sum(dim=1, keepdim=True), x * 2), "2 float outputs"),
    ],
)
def test_networks_that_cannot_be_exported(answer: Callable, says: str | None) -> None:
    """What the exporter refuses is a sentence; what it writes with a fixed batch is one, or fails parity."""
    schema = RowSchema(columns=(Column(name="a", kind="number"), Column(name="b", kind="number")), target="y", task="regression")  # fmt: skip
    native = Native(Features(row_schema=schema, categories={}), Held(answer))
    if says:
        with pytest.raises(Invalid, match=says):
            build(native, "torch")
        return
    graph = OnnxModel(build(native, "torch"))
    rows = {"numeric": np.ones((9, 2), dtype=np.float32)}
    assert not prove(schema, Tolerance(), lambda t: t["numeric"].sum(axis=1, keepdims=True), graph.predict, rows).passed


def test_a_fixed_batch_is_refused() -> None:
    schema = RowSchema(columns=(Column(name="a", kind="number"),), target="y", task="regression")
    native = Native(Features(row_schema=schema, categories={}), Held(lambda _, x: x.reshape(3, 1) * 2))
    with pytest.raises(Invalid):
        build(native, "torch")


class TestStep:
    """The step: what is stored, logged and returned."""

    def test_a_candidate_that_passes(self, prepare: Callable, candidate: Callable) -> None:
        prepared = prepare("binary", {"trees": candidate("xgboost", "binary")})
        spec, dataset, model, run = prepared.of("trees")
        ref = export(spec, dataset, model, run)
        assert ref.passed
        assert ref.candidate == "trees"
        assert type(ref).model_validate_json(ref.model_dump_json()) == ref
        content = run.store.read(ref.key)
        assert (digest_bytes(content), len(content)) == (ref.digest, ref.size_bytes)
        _, rows = split_rows(run, dataset, spec.split)
        with np.load(io.BytesIO(run.store.read(ref.predictions))) as arrays:
            assert set(arrays) == {"native", "onnx"}
            assert arrays["native"].shape == arrays["onnx"].shape == (len(rows), 2)
            assert arrays["onnx"].dtype == np.float32
            expected = candidate("xgboost", "binary").predict(to_tensors(rows, dataset.row_schema))
            np.testing.assert_array_equal(arrays["native"], expected)
            np.testing.assert_allclose(arrays["onnx"], expected, atol=1e-6)

        client = mlflow_client(run.settings)
        logged = client.get_run(model.run_id)
        assert logged.data.tags["slipway.parity"] == "passed"
        assert logged.data.metrics["parity_failed"] == 0
        assert logged.data.metrics["parity_families"] == len(ref.cases)
        assert logged.data.metrics["parity_max_abs"] < 1e-5
        assert logged.data.metrics["parity_max_excess"] <= 0
        assert {item.path for item in client.list_artifacts(model.run_id, "parity")} == {
            "parity/families.csv",
            "parity/families.png",
        }
        table = client.download_artifacts(model.run_id, "parity/families.csv")
        with Path(table).open(newline="") as stream:
            lines = list(csv.DictReader(stream))
        assert [line["rows bent how"] for line in lines] == [case.name for case in ref.cases]
        assert {line["passed"] for line in lines} == {"yes"}
        assert client.get_logged_model(ref.model_id).source_run_id == model.run_id

        again = export(spec, dataset, model, run)
        assert again == ref
        assert len(client.get_run(model.run_id).outputs.model_outputs) == 1

    def test_a_difference_is_a_rejected_candidate(self, prepare: Callable, candidate: Callable) -> None:
        prepared = prepare(
            "regression", {"trees": candidate("xgboost", "regression")}, export=Tolerance(atol=0, rtol=0)
        )
        spec, dataset, model, run = prepared.of("trees")
        ref = export(spec, dataset, model, run)
        assert not ref.passed
        assert ref.predictions
        assert ref.model_id
        assert [case.passed for case in ref.cases].count(False) >= 1
        tags = mlflow_client(run.settings).get_run(model.run_id).data.tags
        assert tags["slipway.parity"] == "failed"

    def test_what_cannot_be_exported_is_a_rejected_candidate(
        self, prepare: Callable, table: Callable, candidate: Callable
    ) -> None:
        frame, _, tensors = table("regression")
        features = candidate("xgboost", "regression").features
        dart = trees(
            features.matrix(tensors), frame["y"].to_numpy(), features.kinds, {"booster": "dart"}, "regression", 3
        )
        spec, dataset, model, run = prepare("regression", {"trees": Native(features, dart)}).of("trees")
        ref = export(spec, dataset, model, run)
        assert not ref.passed
        assert (ref.key, ref.predictions, ref.model_id, ref.size_bytes) == ("", "", "", 0)
        assert "a booster of kind dart cannot be written as ONNX" in ref.cases[0].message
        assert type(ref).model_validate_json(ref.model_dump_json()) == ref
        client = mlflow_client(run.settings)
        table_csv = client.download_artifacts(model.run_id, "parity/families.csv")
        with Path(table_csv).open(newline="") as stream:
            (line,) = csv.DictReader(stream)
        assert line["passed"] == "NO"
        assert line["largest difference"] == ""

    def test_a_checker_that_refuses_is_a_rejected_candidate(
        self, prepare: Callable, candidate: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise onnx.checker.ValidationError("no such operator")

        monkeypatch.setattr(onnx.checker, "check_model", refuse)
        ref = export(*prepare("binary", {"trees": candidate("xgboost", "binary")}).of("trees"))
        assert not ref.passed
        assert "the exporter failed: ValidationError: no such operator" in ref.cases[0].message

    def test_a_graph_that_onnx_runtime_refuses_is_a_rejected_candidate(
        self, prepare: Callable, candidate: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("training.export.build", lambda *_: b"no graph")
        ref = export(*prepare("binary", {"trees": candidate("xgboost", "binary")}).of("trees"))
        assert not ref.passed
        assert "ONNX Runtime cannot load the graph" in ref.cases[0].message
