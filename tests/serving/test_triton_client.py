"""TritonClient against a real tritonserver: answers, refusals, control, and that neighbours do not suffer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper
from tritonclient import grpc

from pipeline.errors import Invalid, Unavailable
from serving.triton import TritonClient, parse_config
from tests.support.polling import wait_for


def rows(count: int, category: str = "x", value: float | None = None) -> dict[str, np.ndarray]:
    numeric = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    if value is not None:
        numeric[:] = value
    return {"numeric": numeric, "categorical": np.full((count, 1), category, dtype=object)}


@pytest.fixture(scope="module")
def client(shared_triton):
    with shared_triton.client() as client:
        assert client.ready()
        shared_triton.write("sum", 1, scale=1.0)
        client.load("sum")
        yield client


def test_a_model_of_numbers_and_strings_answers(client):
    assert client.model_ready("sum")
    assert client.infer("sum", rows(2), "prediction").tolist() == [[4.0], [13.0]]
    assert client.infer("sum", rows(1, "ü"), "prediction", "1").tolist() == [[5.0]]
    assert client.infer("sum", rows(1, "never seen"), "prediction").dtype == np.float32


def test_nan_and_infinities_pass(client):
    assert np.isnan(client.infer("sum", rows(1, value=np.nan), "prediction")).all()
    assert client.infer("sum", rows(1, value=np.inf), "prediction").tolist() == [[np.inf]]
    assert client.infer("sum", rows(1, value=-np.inf), "prediction").tolist() == [[-np.inf]]


def test_replay_keeps_the_order(client):
    expected = rows(100)["numeric"].sum(axis=1, keepdims=True) + 1
    assert np.array_equal(client.replay("sum", rows(100), "prediction", batch=64), expected)
    assert np.array_equal(client.replay("sum", rows(100), "prediction", batch=7), expected)
    with pytest.raises(Invalid, match="no rows to ask sum about"):
        client.replay("sum", rows(0), "prediction")
    with pytest.raises(Invalid, match="no rows"):
        client.replay("sum", {}, "prediction")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"numeric": np.zeros((1, 4), np.float32)},
            r"unexpected shape for input 'numeric'.*Expected \[-1,3\], got \[1,4\]",
        ),
        ({"numeric": np.zeros((1, 3), np.float64)}, "data-type is 'FP64', but model 'sum' expects 'FP32'"),
        ({"numeric": np.zeros((2, 3), np.float32)}, "batch size does not match"),
        ({"numeric": np.zeros(3, np.float32)}, "unexpected shape for input 'numeric'|batch size does not match"),
        ({"other": np.zeros((1, 3), np.float32)}, "expected 2 inputs but got 3"),
        (rows(65), "batch-size must be <= 64"),
        ({"categorical": np.array([["\ud800"]], dtype=object)}, "no valid text"),
        ({"numeric": np.zeros((1, 3), "datetime64[s]")}, r"no type for datetime64\[s\]"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(client, change, sentence):
    with pytest.raises(Invalid, match=sentence) as refused:
        client.infer("sum", {**rows(1), **change}, "prediction")
    assert "\n" not in str(refused.value)


def test_absent_names_are_refused(client):
    with pytest.raises(Invalid, match="unexpected inference output 'nope'"):
        client.infer("sum", rows(1), "nope")
    with pytest.raises(Invalid, match=r"it is not loaded: .*'nope' is not found -> load it, or promote"):
        client.infer("nope", rows(1), "prediction")
    with pytest.raises(Invalid, match="'sum' version 9 is not found"):
        client.infer("sum", rows(1), "prediction", "9")
    with pytest.raises(Invalid, match="Triton cannot load nope"):
        client.load("nope")
    with pytest.raises(Invalid, match="missing required input"):
        client.infer("sum", {"numeric": rows(1)["numeric"]}, "prediction")
    with pytest.raises(Invalid, match="'nope'"):
        client.model_config("nope")
    assert not client.model_ready("nope")
    client.unload("nope")


def test_the_loaded_configuration_is_told(client):
    assert client.parameters("sum")["intra_op_thread_count"] == "1"
    assert client.model_config("sum")["backend"] == "onnxruntime"


def test_a_batch_with_a_bad_request_does_not_fail_its_neighbours(client, shared_triton, save_graph):
    values = np.array([10.0, 20.0, 30.0], np.float32)
    save_graph(
        shared_triton.repository / "pick" / "1",
        [helper.make_node("Gather", ["values", "index"], ["picked"])],
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["N", 1])],
        [helper.make_tensor_value_info("picked", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor("values", TensorProto.FLOAT, [3], values)],
    )
    (shared_triton.repository / "pick" / "config.pbtxt").write_text(
        'backend: "onnxruntime" max_batch_size: 8 instance_group [ { count: 1 kind: KIND_AUTO } ]\n'
        # waits for all four requests
        "dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 3000000 }\n"
    )
    client.load("pick")  # its inputs and outputs are not in the file: the graph tells them
    assert [item["dims"] for item in client.model_config("pick")["output"]] == [["1"]]

    def ask(index: int) -> float | str:
        try:
            return float(client.infer("pick", {"index": np.array([[index]], np.int64)}, "picked")[0, 0])
        except Invalid as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, (0, 7, 2, 1)))
    assert [answers[0], *answers[2:]] == [10.0, 30.0, 20.0]
    assert "indices element out of data bounds, idx=7" in answers[1]
    with grpc.InferenceServerClient(client.address) as raw:
        found = wait_for(  # it counts after it has answered
            lambda: raw.get_inference_statistics("pick", as_json=True)["model_stats"][0].get("batch_stats")
        )
    assert found[0]["batch_size"] == "4"  # they were indeed one batch


def test_what_a_native_configuration_says_is_honoured(client, shared_triton, save_graph):
    save_graph(
        shared_triton.repository / "labels" / "1",
        [
            helper.make_node("ArgMax", ["scores"], ["index"], axis=1, keepdims=0),
            helper.make_node(
                "LabelEncoder",
                ["index"],
                ["label"],
                domain="ai.onnx.ml",
                keys_int64s=[0, 1],
                values_strings=["no", "yes"],
            ),
            helper.make_node("Cast", ["index"], ["number"], to=TensorProto.FLOAT),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, ["N"]),
            helper.make_tensor_value_info("number", TensorProto.FLOAT, ["N"]),
        ],
        [],
    )
    folder = shared_triton.repository / "labels"
    (folder / "1" / "model.onnx").rename(folder / "1" / "graph.onnx")
    (folder / "config.pbtxt").write_text(
        'backend: "onnxruntime" max_batch_size: 8 default_model_filename: "graph.onnx"\n'
        "instance_group [ { count: 1 kind: KIND_AUTO } ]\n"
        "optimization { graph { level: 1 } }\n"
        'parameters { key: "execution_mode" value { string_value: "1" } }\n'
        'parameters { key: "inter_op_thread_count" value { string_value: "1" } }\n'
    )
    client.load("labels")
    scores = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    assert client.infer("labels", {"scores": scores}, "number").ravel().tolist() == [0.0, 1.0]
    tensor = grpc.InferInput("scores", [2, 2], "FP32")
    tensor.set_data_from_numpy(scores)
    with grpc.InferenceServerClient(client.address) as raw:
        answer = raw.infer("labels", [tensor]).as_numpy("label")
    assert answer.ravel().tolist() == [b"no", b"yes"]


def test_what_the_backend_cannot_do_is_refused(client, shared_triton):
    shared_triton.write("planned", 1, scale=1.0)
    config = shared_triton.repository / "planned" / "config.pbtxt"
    accelerator = 'gpu_execution_accelerator [ { name: "tensorrt" } ]'
    config.write_text(f"{config.read_text()}optimization {{ execution_accelerators {{ {accelerator} }} }}\n")
    with pytest.raises(Invalid, match="this backend has no execution_accelerators, such as TensorRT"):
        client.load("planned")


def test_a_new_version_under_load_drops_no_request(client, shared_triton):
    shared_triton.write("moving", 1, scale=1.0)
    client.load("moving")
    done, answers, failures = threading.Event(), set(), []

    def ask() -> None:
        while not done.is_set():
            try:
                answers.add(float(client.infer("moving", rows(1), "prediction")[0, 0]))
            except (Invalid, Unavailable) as error:
                failures.append(error)
            done.wait(0.005)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        shared_triton.write("moving", 2, scale=10.0)
        client.load("moving")
        assert client.infer("moving", rows(1), "prediction").tolist() == [[31.0]]
        assert client.infer("moving", rows(1), "prediction", "2").tolist() == [[31.0]]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert answers <= {4.0, 31.0}
    with pytest.raises(Unavailable, match=r"it is not ready: .* version 1 is not at ready state"):
        client.infer("moving", rows(1), "prediction", "1")


def test_a_corrupt_version_is_refused_and_the_old_serves_on(client, shared_triton):
    shared_triton.write("steady", 1, scale=1.0)
    client.load("steady")
    (shared_triton.repository / "steady" / "2").mkdir()
    (shared_triton.repository / "steady" / "2" / "model.onnx").write_bytes(b"no graph")
    shared_triton.choose("steady", 2)
    with pytest.raises(Invalid, match=r"Triton cannot load steady: .*Protobuf parsing failed") as refused:
        client.load("steady")
    assert "backends/onnxruntime/model.py" not in str(refused.value)  # no traceback
    assert client.infer("steady", rows(1), "prediction").tolist() == [[4.0]]
    states = {item["version"]: item for item in client.index() if item["name"] == "steady"}
    assert states["1"]["state"] == "READY"
    assert "Protobuf parsing failed" in states["2"]["reason"]
    assert "At:" not in states["2"]["reason"]
    assert "\n" not in states["2"]["reason"]


def test_an_unloaded_model_is_not_there(client, shared_triton):
    shared_triton.write("gone", 1, scale=1.0)
    client.load("gone")
    client.unload("gone")
    wait_for(lambda: not client.model_ready("gone"))
    with pytest.raises((Invalid, Unavailable), match="gone"):
        client.infer("gone", rows(1), "prediction")


def test_a_server_that_is_not_there_is_unavailable(settings):
    with TritonClient(settings.triton_grpc, 2.0) as client:
        assert not client.ready()
        assert not client.model_ready("sum")
        for call in (lambda: client.infer("sum", rows(1), "prediction"), lambda: client.load("sum"), client.index):
            with pytest.raises(Unavailable, match=r"does not answer.*`slipway up`") as failure:
                call()
            assert settings.triton_grpc in str(failure.value)


def test_a_configuration_is_read_by_tritons_own_schema():
    assert parse_config('backend: "onnxruntime" max_batch_size: 8')["max_batch_size"] == 8
    with pytest.raises(Invalid, match=r"1:\d+ .*max_batch"):
        parse_config("max_batch: 8")
