"""The backend `xgboost` on the real server: raw columns in, the bits of the booster in this process out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import xgboost
from onnx import TensorProto, helper

from pipeline.errors import Invalid
from serving.triton import TritonClient
from tests.serving.real_triton import model as graph

LABELS = ["a", "b", "ü", "d", "e"]
CONFIG = """backend: "xgboost" max_batch_size: 512 dynamic_batching {{ }}
instance_group [ {{ count: 2 kind: KIND_AUTO }} ]
{more}
"""
OUTPUTS = {"binary:logistic": "probabilities", "multi:softprob": "probabilities", "reg:squarederror": "prediction"}


def rows(count: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    numeric = draw.normal(size=(count, 4)).astype(np.float32)
    numeric[draw.random(numeric.shape) < 0.1] = np.nan
    return {"numeric": numeric, "categorical": draw.choice([*LABELS, "", "unseen"], size=(count, 1)).astype(object)}


def matrix(tensors: dict[str, np.ndarray]) -> xgboost.DMatrix:
    codes = [[float(LABELS.index(text)) if text in LABELS else np.nan] for (text,) in tensors["categorical"]]
    joined = np.concatenate([tensors["numeric"], np.array(codes, np.float32)], axis=1)
    return xgboost.DMatrix(joined, feature_types=["q"] * 4 + ["c"], enable_categorical=True)


def booster(objective: str) -> xgboost.Booster:
    train = matrix(rows(2000, 0))
    wanted = np.random.default_rng(1).random(2000)
    classes = {"binary:logistic": 2, "multi:softprob": 3}.get(objective)
    train.set_label(wanted if classes is None else (wanted * classes).astype(int))
    options = {"objective": objective, "max_depth": 4, "nthread": 1, "seed": 0}
    return xgboost.train(options | ({"num_class": 3} if classes == 3 else {}), train, 20)


def features(columns: int = 5) -> onnx.ModelProto:
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["categorical"],
            ["code"],
            domain="ai.onnx.ml",
            keys_strings=LABELS,
            values_floats=[float(code) for code in range(len(LABELS))],
            default_float=np.nan,
        ),
        helper.make_node("Concat", ["numeric", "code"], ["matrix"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["N", columns - 1]),
        helper.make_tensor_value_info("categorical", TensorProto.STRING, ["N", 1]),
    ]
    return graph(nodes, inputs, [helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["N", columns])], [])


@pytest.fixture
def write(shared_triton):
    def write(name: str, trees: xgboost.Booster, front: onnx.ModelProto, more: str = "") -> Path:
        folder = shared_triton.repository / name / "1"
        folder.mkdir(parents=True)
        trees.save_model(folder / "model.ubj")
        onnx.save(front, folder / "features.onnx")
        (folder.parent / "config.pbtxt").write_text(CONFIG.format(more=more))
        return folder

    return write


@pytest.mark.parametrize("objective", OUTPUTS)
def test_the_answer_has_the_bits_of_the_booster(shared_triton, write, objective):
    name, trees = objective.replace(":", "_"), booster(objective)
    write(name, trees, features())
    sizes = [1, 2, 63, 64, 65, 512]

    def ask(seed: int) -> bool:
        tensors = rows(sizes[seed % len(sizes)], seed)
        expected = trees.predict(matrix(tensors)).reshape(len(tensors["numeric"]), -1)
        if objective == "binary:logistic":
            expected = np.concatenate([1 - expected, expected], axis=1)
        with TritonClient(shared_triton.settings.triton_grpc, 30) as own:
            return own.infer(name, tensors, OUTPUTS[objective]).tobytes() == expected.tobytes()

    with shared_triton.client() as client:
        client.load(name)
        assert client.model_config(name)["output"][0]["dims"] == [
            str(len(trees.predict(matrix(rows(1, 0)))[0:1].ravel()) + (objective[0] == "b"))
        ]
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(36)))


def test_files_that_do_not_belong_together_are_refused(shared_triton, write):
    trees = booster("binary:logistic")
    with shared_triton.client() as client:
        write("narrow", trees, features(4))
        with pytest.raises(Invalid, match=r"features.onnx does not make the matrix of 5 columns that model.ubj takes"):
            client.load("narrow")
        (write("torn", trees, features()) / "model.ubj").write_bytes(b"no booster")
        with pytest.raises(Invalid, match=r"Triton cannot load torn: .*XGBoost"):
            client.load("torn")
        (write("bare", trees, features()) / "features.onnx").unlink()
        with pytest.raises(Invalid, match=r"Triton cannot load bare: .*features.onnx"):
            client.load("bare")
        write("named", trees, features(), 'output [ { name: "answer" data_type: TYPE_FP32 dims: [ 2 ] } ]')
        with pytest.raises(Invalid, match="output 'answer' is not in the model, which has probabilities"):
            client.load("named")
        assert client.ready()
