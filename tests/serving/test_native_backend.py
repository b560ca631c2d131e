"""The backend of serving/native on the real server: the bits of ONNX Runtime in this process, whatever comes together."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient import grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from pipeline.errors import Invalid, SlipwayError
from serving.triton import TritonClient
from tests.serving.real_triton import RealTriton
from tests.support.polling import wait_for

Load = Callable[..., Path]

DTYPES = [
    "float32",
    "float64",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
]
BATCHED = 'backend: "onnxruntime" max_batch_size: 512 instance_group [ {{ count: {count} kind: KIND_AUTO }} ]\n{more}\n'
TOGETHER = "dynamic_batching { max_queue_delay_microseconds: 200000 preferred_batch_size: [ 512 ] }"


@pytest.fixture(scope="module")
def client(shared_triton: RealTriton) -> Iterator[TritonClient]:
    """Connect a client to the shared server."""
    with shared_triton.client() as client:
        yield client


@pytest.fixture
def load(client: TritonClient, shared_triton: RealTriton, save_graph: Callable[..., None]) -> Load:
    """Return load(name, graph), which writes a graph and its configuration, loads them, and returns the graph's path."""

    def load(name: str, graph: tuple, more: str = "", count: int = 1, config: str = BATCHED) -> Path:
        folder = shared_triton.repository / name
        save_graph(folder / "1", *graph)
        (folder / "config.pbtxt").write_text(config.format(count=count, more=more))
        client.load(name)
        return folder / "1" / "model.onnx"

    return load


def info(name: str, kind: int, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def network(width: int, seed: int = 0) -> tuple:
    """x (N, width) float32 -> y (N, 3) float32: each row of a batch has the bits that it has alone."""
    weights = np.random.default_rng(seed).normal(size=(width,)).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "weights"], ["scaled"]),
        helper.make_node("Tanh", ["scaled"], ["bent"]),
        helper.make_node("Slice", ["bent", "from", "to", "axes"], ["y"]),
    ]
    constants = [numpy_helper.from_array(weights, "weights")]
    constants += [numpy_helper.from_array(np.array([v], np.int64), k) for k, v in (("from", 0), ("to", 3), ("axes", 1))]
    return nodes, [info("x", TensorProto.FLOAT, "N", width)], [info("y", TensorProto.FLOAT, "N", 3)], constants


def raw(
    client: TritonClient, model: str, tensors: dict[str, np.ndarray], outputs: tuple[str, ...] = ()
) -> grpc.InferResult:
    given = []
    for name, value in tensors.items():
        given.append(grpc.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype)))
        given[-1].set_data_from_numpy(value)
    with grpc.InferenceServerClient(client.address) as server:
        return server.infer(model, given, outputs=[grpc.InferRequestedOutput(name) for name in outputs] or None)


def statistics(client: TritonClient, model: str, answered: int) -> dict:
    """Return what the server has counted, once that is so many answers: it counts after it has answered."""
    with grpc.InferenceServerClient(client.address) as server:

        def found() -> dict:
            found = server.get_inference_statistics(model, as_json=True)["model_stats"][0]
            batched = sum(
                int(one["batch_size"]) * int(one["compute_infer"]["count"]) for one in found.get("batch_stats", ())
            )
            counted = int(found["inference_stats"]["success"].get("count", 0))
            return found if (counted, batched) == (answered, int(found.get("inference_count", 0))) else {}

        return wait_for(found, f"{model} has counted {answered} answers")


def test_every_type_comes_back_bit_for_bit(client: TritonClient, load: Load, subtests: pytest.Subtests) -> None:
    for dtype in DTYPES:
        with subtests.test(dtype):
            comes_back(client, load, dtype)


def comes_back(client: TritonClient, load: Load, dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    load(
        f"same_{dtype}",
        ([helper.make_node("Identity", ["x"], ["y"])], [info("x", kind, "N", 5)], [info("y", kind, "N", 5)], []),
        TOGETHER,
    )
    bits = np.random.default_rng(1).integers(0, 256, size=(64, 5, np.dtype(dtype).itemsize), dtype=np.uint8)
    value = (bits % 2 if dtype == "bool" else bits).view(dtype)[..., 0]
    parts = [value[:1], value[1:8], value[8:]]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda part: raw(client, f"same_{dtype}", {"x": part}).as_numpy("y"), parts))
    assert np.concatenate(answers).tobytes() == value.tobytes()
    assert answers[0].dtype == value.dtype
    assert client.model_config(f"same_{dtype}")["output"][0]["dims"] == ["5"]


def test_strings_are_python_s_own(client: TritonClient, load: Load) -> None:
    """Any bytes, as Python decodes them for ONNX Runtime: what is no UTF-8 becomes U+FFFD."""
    graph = (
        [helper.make_node("Identity", ["x"], ["y"])],
        [info("x", TensorProto.STRING, "N", 3)],
        [info("y", TensorProto.STRING, "N", 3)],
        [],
    )
    load("texts", graph, TOGETHER)
    draw = random.Random(0)
    hard = [b"", b"\0", b"a\0b", "ü€😀".encode(), b"\xff", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf"]
    hard += [b"\xe0\x80\x80x", b"\xf4\x90\x80\x80", b"\xf0\x80", b"\x80\xbf", b"x" * 70_000]
    heads = [0x41, 0x80, 0xBF, 0xC2, 0xE0, 0xED, 0xE2, 0xF0, 0xF4, 0xF5]
    mixed = [
        bytes(draw.choice(heads) if draw.random() < 0.7 else draw.randrange(256) for _ in range(draw.randrange(9)))
        for _ in range(990)
    ]
    value = np.array([*hard, *mixed][: 3 * (len(hard + mixed) // 3)], dtype=object).reshape(-1, 3)
    parts = [value[:1], value[1:100], value[100:330]]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda part: raw(client, "texts", {"x": part}).as_numpy("y"), parts))
    for part, answer in zip(parts, answers, strict=True):
        assert answer.ravel().tolist() == [text.decode("utf-8", "replace").encode() for text in part.ravel()]


def test_strings_that_are_not_what_their_shape_says_are_refused(client: TritonClient, load: Load) -> None:
    graph = (
        [helper.make_node("Identity", ["x"], ["y"])],
        [info("x", TensorProto.STRING, "N", 2)],
        [info("y", TensorProto.STRING, "N", 2)],
        [],
    )
    load("cut", graph)
    tensor = grpc.InferInput("x", [1, 2], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"one", b"two"]], dtype=object))
    whole = tensor._raw_content
    with grpc.InferenceServerClient(client.address) as server:
        for content in (whole[:-1], whole[:7], whole + b"\0", b"", b"\xff\xff\xff\xff" + whole[4:], whole + whole):
            tensor._raw_content = content
            with pytest.raises(InferenceServerException, match="'x'") as refused:
                server.infer("cut", [tensor])
            assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert client.ready()


@pytest.mark.parametrize("count", [1, 3])
def test_batches_of_all_sizes_at_once_have_the_bits_of_this_process(
    client: TritonClient, load: Load, count: int
) -> None:
    path = load(f"network_{count}", network(40), "dynamic_batching { }", count)
    session = onnxruntime.InferenceSession(str(path))

    def ask(seed: int) -> bool:
        draw = np.random.default_rng(seed)
        with TritonClient(client.address, 30) as own:
            for _ in range(40):
                x = draw.normal(size=(int(draw.choice([1, 2, 3, 17, 64, 512])), 40)).astype(np.float32)
                if own.infer(f"network_{count}", {"x": x}, "y").tobytes() != session.run(["y"], {"x": x})[0].tobytes():
                    return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    found = statistics(client, f"network_{count}", 320)
    assert found["inference_stats"]["success"]["count"] == "320"
    assert int(found["inference_stats"]["compute_infer"]["ns"]) > 0
    assert count > 1 or int(found["execution_count"]) < 320  # some came together
    assert sum(int(one["batch_size"]) * int(one["compute_infer"]["count"]) for one in found["batch_stats"]) == int(
        found["inference_count"]
    )


def test_each_request_of_a_batch_gets_the_outputs_that_it_asks_for(client: TritonClient, load: Load) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Neg", ["x"], ["less"])]
    outputs = [info("same", TensorProto.FLOAT, "N", 1), info("less", TensorProto.FLOAT, "N", 1)]
    load("two", (nodes, [info("x", TensorProto.FLOAT, "N", 1)], outputs, []), TOGETHER)
    wanted = [("same",), ("less",), ("less", "same"), ()]

    def ask(at: int) -> list[list[float] | None]:
        answer = raw(client, "two", {"x": np.array([[at]], np.float32)}, wanted[at])
        found = [answer.as_numpy(name) for name in ("same", "less")]
        return [None if one is None else one.ravel().tolist() for one in found]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert answers == [[[0.0], None], [None, [-1.0]], [[2.0], [-2.0]], [[3.0], [-3.0]]]


def test_a_model_without_batches_takes_its_shapes_as_they_are(client: TritonClient, load: Load) -> None:
    graph = (
        [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])],
        [info("x", TensorProto.FLOAT, "N", "M")],
        [info("y", TensorProto.FLOAT, "M", "N")],
        [],
    )
    load("turn", graph, config='backend: "onnxruntime"\n')
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert client.infer("turn", {"x": x}, "y").tolist() == x.T.tolist()
    assert client.infer("turn", {"x": x[:0]}, "y").shape == (3, 0)


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ('input [ { name: "z" data_type: TYPE_FP32 dims: [ 4 ] } ] output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]', "input 'z' is not in the model, which has x"),
        ('input [ { name: "x" data_type: TYPE_FP64 dims: [ 4 ] } ] output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]', "input 'x' is declared as TYPE_FP64, and is TYPE_FP32 in the model"),
        ('default_model_filename: "nope.onnx"', "nope.onnx"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_the_model_s_is_refused(load: Load, declared: str, sentence: str) -> None:
    name = f"other_{len(sentence)}"
    with pytest.raises(Invalid, match=rf"Triton cannot load {name}: .*{sentence}"):
        load(name, network(4), declared)


def test_a_graph_that_cannot_be_run_is_refused_in_a_sentence(
    client: TritonClient, shared_triton: RealTriton, load: Load
) -> None:
    with pytest.raises(Invalid, match=r"Triton cannot load unknown: .*NoSuchOperator"):
        load("unknown", ([helper.make_node("NoSuchOperator", ["x"], ["y"])], *network(4)[1:3], []))
    assert client.ready()


def test_models_come_and_go_under_load(client: TritonClient, load: Load) -> None:
    path = load("stays", network(8), "dynamic_batching { }")
    load("goes", network(8), "dynamic_batching { }", 2)
    x = np.ones((4, 8), np.float32)
    expected = onnxruntime.InferenceSession(str(path)).run(["y"], {"x": x})[0]
    over, failures, kept = threading.Event(), [], []

    def ask(model: str) -> None:
        while not over.is_set():
            try:
                kept.append(bool((client.infer(model, {"x": x}, "y") == expected).all()))
            except SlipwayError as error:
                failures.append((model, str(error)))
                time.sleep(0.01)

    threads = [threading.Thread(target=ask, args=(model,)) for model in ("stays", "stays", "goes", "goes")]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            client.unload("goes")
            time.sleep(0.1)
            client.load("goes")
            time.sleep(0.1)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert all(kept)
    assert {model for model, _ in failures} <= {"goes"}
    assert client.infer("goes", {"x": x}, "y").tobytes() == expected.tobytes()


def test_what_a_client_cancels_is_not_computed(client: TritonClient, shared_triton: RealTriton, load: Load) -> None:
    nodes = [helper.make_node("Loop", ["turns", "", "matrix"], ["y"], body=_body())]
    matrix = helper.make_tensor("matrix", TensorProto.FLOAT, [300, 300], [0.0] * 90_000)
    graph = (nodes, [info("turns", TensorProto.INT64, 1)], [info("y", TensorProto.FLOAT, 300, 300)], [matrix])
    load("slow", graph, config='backend: "onnxruntime" max_batch_size: 0 instance_group [ {{ count: 1 kind: KIND_CPU }} ]\n'
         'input [ {{ name: "turns" data_type: TYPE_INT64 dims: [ 1 ] }} ]\n'
         'output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 300, 300 ] }} ]\n')  # fmt: skip
    tensor = grpc.InferInput("turns", [1], "INT64")
    tensor.set_data_from_numpy(np.array([3000]))
    work = psutil.Process(shared_triton.process.pid)
    done, cancelled = threading.Event(), threading.Event()
    with grpc.InferenceServerClient(client.address) as server:
        before = sum(work.cpu_times()[:2])
        server.async_infer("slow", [tensor], lambda result, error: done.set())  # keeps the instance busy
        wait_for(lambda: sum(work.cpu_times()[:2]) > before + 0.2, "or the second might overtake it")
        waiting = server.async_infer("slow", [tensor], lambda result, error: cancelled.set())
        time.sleep(0.2)
        waiting.cancel()
        assert cancelled.wait(10)
        assert not done.is_set(), "the server was too fast"
        assert done.wait(300)
        tensor.set_data_from_numpy(np.array([1]))
        server.infer("slow", [tensor])
    found = statistics(client, "slow", 2)["inference_stats"]
    assert found["success"]["count"] == "2"


def _body() -> onnx.GraphProto:
    nodes = [
        helper.make_node("MatMul", ["before", "before"], ["after"]),
        helper.make_node("Identity", ["go"], ["on"]),
    ]
    inputs = [
        info("turn", TensorProto.INT64),
        info("go", TensorProto.BOOL),
        info("before", TensorProto.FLOAT, 300, 300),
    ]
    return helper.make_graph(
        nodes, "body", inputs, [info("on", TensorProto.BOOL), info("after", TensorProto.FLOAT, 300, 300)]
    )
