"""Register, package, rollout, gate and predict on the real MLflow and the real Triton."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.columns import Column, RowSchema
from pipeline.digest import digest_bytes, digest_file
from pipeline.errors import Invalid, Rejected
from pipeline.refs import CandidateScore, DatasetRef, Evaluation, ModelVersionRef, ServingOptions, ServingPlan
from pipeline.run import Run
from pipeline.serving_rules import Serving
from pipeline.settings import Settings
from pipeline.supervisor import Supervisor
from pipeline.tensors import to_tensors
from serving.embedded import EmbeddedPlane
from serving.model_config import model_config
from serving.package import package, verify
from serving.places import challengers
from serving.predict import predict, read_request, request_body
from serving.register import register
from serving.triton import parse_config
from tests.serving.chain import Chain
from tests.serving.known import SCHEMA, graph, native, rows, spec_of
from tests.serving.promoted import Logged, logged_models_fixture  # noqa: F401 (a fixture)

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture
def make(
    stack_settings: Settings, tmp_path: Path, request: pytest.FixtureRequest, logged_models: Logged
) -> Callable[..., Chain]:
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[:50].lower().strip("_")

    def _make(run_id: str, weight: float, **changes: object) -> Chain:
        return logged_models.chain(stack_settings, tmp_path, name, run_id, weight, **changes)

    return _make


@pytest.mark.parametrize("name", ["mixed", "regression"])
def test_the_configuration_is_the_golden_one_and_triton_reads_it(name: str) -> None:
    mixed = RowSchema(
        columns=(
            Column(name='na"me\\é', kind="number"),
            Column(name="flag", kind="boolean"),
            Column(name="c", kind="category"),
            Column(name="t", kind="timestamp"),
        ),
        target="y",
        task="multiclass",
        classes=("a", "b", "c'd"),
    )
    numbers = RowSchema(columns=(Column(name="x", kind="number"),), target="y", task="regression")
    schema = {"mixed": mixed, "regression": numbers}[name]
    text = model_config("model", 7, schema, Serving(instances=2, threads=2), {"digest": "d" * 64, "run": "r1"})
    golden = GOLDENS / f"{name}.pbtxt"
    assert golden.read_text(encoding="utf-8") == text, f"look at the difference; if it is right, write {golden}"
    read = parse_config(text)
    assert read["backend"] == "onnxruntime"
    assert read["version_policy"]["specific"]["versions"] == ["7"]
    assert RowSchema.model_validate_json(read["parameters"]["columns"]["string_value"]) == schema


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(Invalid, match="not a model configuration"):
        parse_config("name: [")


@pytest.mark.stack
def test_the_same_run_registers_one_version_and_packages_it_whole(make: Callable[..., Chain]) -> None:
    one = make("r1", 1.0)
    model = one.register()
    assert one.register() == model
    packed = one.package(model)
    assert one.package(model) == packed
    with one.run.store.local(packed.key) as folder:
        verify(folder, packed.digest, one.run.settings)
        assert digest_file(folder / str(model.version) / "model.onnx") == model.onnx_digest
        manifest = json.loads((folder / "manifest.json").read_text())
        assert (manifest["name"], manifest["version"], set(manifest["files"])) == (
            one.spec.name, model.version, {"config.pbtxt", f"{model.version}/model.onnx"},
        )  # fmt: skip
        with pytest.raises(Invalid, match="not the one of this version"):
            verify(folder, "0" * 64, one.run.settings)
    with pytest.raises(Invalid, match="manifest cannot be read"):
        verify(Path(one.run.store.path("nowhere")), "0" * 64, one.run.settings)
    tags = one.run.registry.version_tags(one.spec.name, model.version)
    assert tags["slipway.package"] == packed.digest
    assert one.run.registry.alias(one.spec.name, "challenger") == model.version


def test_no_winner_no_version(tmp_path: Path) -> None:
    score = CandidateScore(candidate="xgboost", passed=False, reason="ONNX differs from the model", metrics={})
    lost = Evaluation(primary="roc_auc", scores=(score,), winner=None, dataset_digest="d")
    with pytest.raises(Rejected, match="ONNX differs from the model"):
        register(spec_of("m"), lost, (), (), Run("r1", "m", Settings(home=tmp_path), tmp_path / "m.yaml"))


def package_graph(home: Path, registered: bytes, stored: bytes) -> None:
    """Package a version of which the store holds this graph; MLflow would be asked after all checks."""
    run = Run("r1", "m", Settings(home=home), home / "m.yaml")
    digest = digest_bytes(registered)
    key = f"onnx/{digest}.onnx"
    run.store.write(key, stored)
    model = ModelVersionRef(
        name="m", version=1, candidate="xgboost", model_id="i", run_id="r", onnx_key=key, onnx_digest=digest,
        predictions="p",
    )  # fmt: skip
    dataset = DatasetRef(
        digest="d", key="k", source="rows.csv", row_schema=SCHEMA, rows=400, train_rows=320, holdout_rows=80
    )
    plan = ServingPlan(options=ServingOptions(threads=1, instances=1, max_queue_delay_us=0), reason="")
    package(spec_of("m"), dataset, model, plan, run)


def test_a_graph_that_was_changed_in_the_store_is_not_packaged(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="not what was written"):
        package_graph(tmp_path, graph(1.0), b"another graph")


def test_what_is_no_graph_is_not_packaged(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="is no ONNX graph -> export it anew"):
        package_graph(tmp_path, b"junk", b"junk")


def test_a_graph_with_weights_elsewhere_is_not_packaged(tmp_path: Path) -> None:
    import onnx

    model = onnx.load_from_string(graph(1.0))
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "weight")
    weight.raw_data = onnx.numpy_helper.to_array(weight).tobytes()
    onnx.external_data_helper.set_external_data(weight, "../../unsigned.bin")
    content = model.SerializeToString()
    with pytest.raises(Invalid, match=r"tensor 'weight' lie in another file, '../../unsigned.bin' -> export it anew"):
        package_graph(tmp_path, content, content)


@pytest.mark.stack
def test_a_challenger_is_judged_on_a_server_of_its_own(make: Callable[..., Chain]) -> None:
    from serving.gate_plots import plots
    from serving.gate_report import render

    first = make("r1", 1.0)
    model = first.register()
    packed = first.package(model)
    challenger = first.rollout(model, packed)
    again = first.rollout(model, packed)  # a killed rollout, run again
    assert again.program == challenger.program
    assert list(Supervisor(first.run.settings).states()).count(again.program) == 1
    report = first.gate(model, again)
    assert report.passed, [verdict.reason for verdict in report.verdicts]
    assert [verdict.gate for verdict in report.verdicts][-2:] == ["judge", "latency"]
    assert report.champion is None
    Supervisor(first.run.settings).stop(again.program)
    assert first.gate(model, again).passed  # the stack was down in between: the challenger comes back
    first.promote(model, packed, again, report)
    assert not list(challengers(first.run.settings).glob(f"{first.spec.name}-*"))
    assert again.program not in Supervisor(first.run.settings).states()

    upside_down = make("r2", -2.0)
    model = upside_down.register()
    challenger = upside_down.rollout(model, upside_down.package(model))
    report = upside_down.gate(model, challenger)
    verdicts = {verdict.gate: verdict for verdict in report.verdicts}
    assert not report.passed
    assert report.champion == 1
    assert not verdicts["champion"].passed
    assert verdicts["parity"].passed
    page = render(upside_down.spec.name, model.version, "r2", report, plots(report))
    assert "refused" in page
    assert "http" not in page
    with pytest.raises(Rejected, match="worse than the margin"):
        upside_down.promote(model, upside_down.package(model), challenger, report)
    EmbeddedPlane(first.run.settings).end_challengers(first.spec.name)


@pytest.mark.stack
def test_a_graph_that_does_not_load_is_refused_and_its_server_ended(make: Callable[..., Chain]) -> None:
    import onnx

    one = make("r1", 1.0)
    changed = onnx.load_from_string(one.run.store.read(one.onnx_ref.key))
    changed.graph.node[0].op_type = "NoSuchThing"
    content = changed.SerializeToString()
    key = f"onnx/{digest_bytes(content)}.onnx"
    one.run.store.write(key, content)
    one.onnx_ref = one.onnx_ref.model_copy(update={"key": key, "digest": digest_bytes(content)})
    model = one.register()
    packed = one.package(model)
    with pytest.raises(Invalid, match=r"does not load: .*NoSuchThing") as refused:
        one.rollout(model, packed)
    assert "At:" not in str(refused.value)
    assert ".py" not in str(refused.value)
    assert not [name for name in Supervisor(one.run.settings).states() if one.spec.name in name]


@pytest.mark.stack
def test_answers_to_rows_as_people_have_them(make: Callable[..., Chain], tmp_path: Path) -> None:
    one = make("r1", 2.0)
    one.promote(*one.ready())
    settings, name = one.run.settings, one.spec.name
    asked = rows(20).drop(columns="y")
    found = predict(settings, name, asked)
    expected = native(2.0, to_tensors(asked, SCHEMA))
    assert np.allclose(found[["probability_no", "probability_yes"]], expected, atol=1e-5)
    assert found["y"].tolist() == ["yes" if yes > 0.5 else "no" for yes in expected[:, 1]]
    asked.to_csv(tmp_path / "r.csv", index=False)
    asked.to_parquet(tmp_path / "r.parquet")
    asked.to_json(tmp_path / "r.json", orient="records")
    asked.to_json(tmp_path / "r.jsonl", orient="records", lines=True)
    for file in ("r.csv", "r.parquet", "r.json", "r.jsonl"):
        assert predict(settings, name, read_request(str(tmp_path / file))).equals(found), file
    for frame, says in (
        (asked.drop(columns="a"), "column 'a' is missing"),
        (asked.assign(a="x"), "'x' is not a number"),
    ):
        with pytest.raises(Invalid, match=says):
            predict(settings, name, frame)
    with pytest.raises(Invalid, match="no model 'nobody' serves"):
        predict(settings, "nobody", asked)

    odd = asked.head(1).assign(b=None, c="it's")
    body = request_body(to_tensors(odd, SCHEMA))
    line = f"curl -s http://{settings.triton_http}/v2/models/{name}/infer -d '{body}'"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert np.allclose(json.loads(done.stdout)["outputs"][0]["data"], expected[0], atol=1e-5)


@pytest.mark.parametrize(
    ("content", "says"), [(b"{", "not JSON"), (b"[1]", "a list of objects"), (b"[]", "a list of objects")]
)
def test_requests_that_cannot_be_read(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(Invalid, match=says):
        read_request(str(tmp_path / "r.json"))
    (tmp_path / "r.parquet").write_bytes(content)
    with pytest.raises(Invalid, match="Parquet"):
        read_request(str(tmp_path / "r.parquet"))
    with pytest.raises(Invalid, match="cannot be read"):
        read_request(str(tmp_path / "none.csv"))


def test_one_row_as_an_object(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"a": 1}')
    assert read_request(str(tmp_path / "r.json")).equals(pd.DataFrame([{"a": 1}]))
