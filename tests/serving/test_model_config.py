"""Whatever a spec or a column's name may hold, Triton reads config.pbtxt back equal."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.columns import Column, RowSchema
from pipeline.serving_rules import Serving
from serving.model_config import model_config
from serving.probe import probe
from serving.triton import parse_config
from tests.serving.known import graph

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"', "'", "\\", '\\"', "\n", "\r\n", "\t", "\0", "\x01", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff", "\\u0041",
     "\\101", "\\x41", "ü", "名", "😀", "e\u0301", "#", "}", "] }", '" value { string_value: "x" } } #', "${x}", "{{ x }}"]
)  # fmt: skip
SCHEMAS = st.builds(
    lambda names, kinds, target, classes: RowSchema(
        columns=tuple(Column(name=name, kind=kind) for name, kind in zip(names, kinds, strict=False)),
        target=target,
        task="multiclass",
        classes=tuple(classes),
    ),
    st.lists(TEXT, min_size=1, max_size=5, unique=True),
    st.lists(st.sampled_from(["number", "boolean", "category", "timestamp"]), min_size=5, max_size=5),
    TEXT,
    st.lists(TEXT, min_size=2, max_size=4, unique=True),
)


@settings(max_examples=200, deadline=None)
@given(name=TEXT, version=st.integers(1, 2**31), schema=SCHEMAS, facts=st.dictionaries(TEXT, TEXT, max_size=3))
def test_what_is_written_is_read_back(name: str, version: int, schema: RowSchema, facts: dict[str, str]) -> None:
    facts = {key: value for key, value in facts.items() if key not in ("columns", "version")}
    read = parse_config(model_config(name, version, schema, Serving(), facts))
    assert read.get("name", "") == name
    assert read["version_policy"]["specific"]["versions"] == [str(version)]
    parameters = {key: value.get("string_value", "") for key, value in read["parameters"].items()}
    assert RowSchema.model_validate_json(parameters["columns"]) == schema
    assert facts.items() <= parameters.items()
    assert len(read["output"]) == len(read["instance_group"]) == 1


@settings(max_examples=100, deadline=None)
@given(serving=st.builds(Serving, max_batch_size=st.integers(1, 4096), instances=st.integers(1, 8)))
def test_what_a_spec_says_of_serving_is_read_back(serving: Serving) -> None:
    schema = RowSchema(columns=(Column(name="x", kind="number"),), target="y", task="regression")
    read = parse_config(model_config("m", 1, schema, serving, {}))
    assert (read["max_batch_size"], read["instance_group"][0]["count"]) == (serving.max_batch_size, serving.instances)


def test_the_real_server_reads_them_too(shared_triton) -> None:
    hard = "\"\\'\n\r\t\x01\x7f\x85\u2028#}] }${x}{{ x }} ü名😀\\101\\u0041"
    schema = RowSchema(
        columns=(
            Column(name=f"{hard}a", kind="number"),
            Column(name=f"b{hard}", kind="boolean"),
            Column(name=f"c{hard}c", kind="category"),
        ),
        target=f"y{hard}",
        task="binary",
        classes=(f"no{hard}", f"{hard}yes"),
    )
    folder = shared_triton.repository / "hard"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(graph(1.0))
    text = model_config("hard", 1, schema, Serving(), {"digest": "d", "run": hard})
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    with shared_triton.client() as client:
        client.load("hard")
        assert probe(client, "hard", 1, "d") == schema
        assert client.parameters("hard")["run"] == hard


def test_a_tensorrt_plan_is_of_one_digest_and_built_for_all_rows_before_it_serves() -> None:
    schema = RowSchema(columns=(Column(name="x", kind="number"),), target="y", task="regression")
    serving = Serving(max_batch_size=64).model_copy(update={"backend": "tensorrt"})
    read = parse_config(model_config("m", 1, schema, serving, {"digest": "abc"}, warm_rows=4))
    assert read["backend"] == "onnxruntime"
    (accelerator,) = read["optimization"]["execution_accelerators"]["gpu_execution_accelerator"]
    assert accelerator["name"] == "tensorrt"
    assert accelerator["parameters"]["trt_engine_cache_path"].endswith("-abc")
    assert accelerator["parameters"]["precision_mode"] == "FP32"
    assert [one["batch_size"] for one in read["model_warmup"]] == [1, 64]
    assert "optimization" not in parse_config(model_config("m", 1, schema, Serving(), {"digest": "abc"}))
