"""Step tune on the real MLflow and the real Triton."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset import split_rows
from pipeline.errors import Invalid
from pipeline.gate_rules import Export
from pipeline.refs import ModelVersionRef, ServingOptions
from pipeline.serving_rules import Serving
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.supervisor import Supervisor
from pipeline.tensors import to_tensors
from serving.embedded import EmbeddedPlane
from serving.plane import plane
from serving.triton import TritonClient
from tests.serving.chain import Chain
from tests.serving.known import SCHEMA
from tests.serving.promoted import Logged, logged_models_fixture  # noqa: F401 (a fixture)

pytestmark = pytest.mark.stack


@pytest.fixture
def make(
    stack_settings: Settings, tmp_path: Path, request: pytest.FixtureRequest, logged_models: Logged
) -> Callable[..., Chain]:
    """Return make(the rule of the search, other fields of `serving`), which makes a run of this test's own model."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[-50:].lower().strip("_")

    def _make(tune: dict[str, object] | None, **serving: object) -> Chain:
        one = logged_models.chain(stack_settings, tmp_path, name, "r1", 1.0)
        rule = Serving.model_validate({"tune": tune, **serving})
        one.spec = one.spec.model_copy(update={"serving": rule})
        return one

    return _make


def answers(one: Chain, model: ModelVersionRef, native: np.ndarray) -> None:
    """Set the answers of the model to the held-out rows."""
    content = io.BytesIO()
    np.savez(content, native=native, onnx=native)
    one.run.store.write(model.predictions, content.getvalue(), replace=True)


def hasty(spec: PipelineSpec) -> PipelineSpec:
    """Return the spec with no time to try other options than the declared ones."""
    if spec.serving.tune is None:
        return spec
    rule = spec.serving.tune.model_copy(update={"budget_s": 1e-6})
    return spec.model_copy(update={"serving": spec.serving.model_copy(update={"tune": rule})})


def packages(one: Chain, version: int) -> list[str]:
    return [name for name in one.run.store.list(f"packages/{one.spec.name}") if name.startswith(f"{version}-")]


def test_without_a_search_the_spec_decides_and_no_server_starts(make: Callable[..., Chain]) -> None:
    one = make(None, threads=2, instances=3, max_queue_delay_us=50)
    model = one.register()
    found = one.tune(model)
    assert found.options == ServingOptions(threads=2, instances=3, max_queue_delay_us=50)
    assert found.options == one.declared.options  # with which other tests package
    assert found.trials == ()
    with one.run.store.local(one.package(model).key) as folder:
        text = (folder / "config.pbtxt").read_text()
    assert "count: 3" in text
    assert 'key: "intra_op_thread_count" value { string_value: "2" }' in text


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_options_are_measured_on_servers_of_their_own_and_kept_in_mlflow(
    make: Callable[..., Chain], objective: str
) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from serving.tune import TABLE

    duration_s = 0.3
    one = make({"objective": objective, "trials": 2, "duration_s": duration_s, "clients": 4})
    model = one.register()
    before = set(Supervisor(one.run.settings).states())
    found = one.tune(model)
    assert 2 <= len(found.trials) <= 4
    for trial in found.trials:
        assert not trial.problem
        assert 0 < trial.p50_ms <= trial.p95_ms <= trial.p99_ms
        assert trial.value == (trial.rows_per_s if objective == "throughput" else trial.p95_ms)
        assert trial.seconds >= duration_s
    assert set(Supervisor(one.run.settings).states()) == before  # no challenger is left
    assert packages(one, model.version) == []  # nor a package that nobody chose
    assert {trial.options.backend for trial in found.trials} == {"onnxruntime"}  # it is no booster
    client = MlflowClient(one.run.settings.mlflow_uri, one.run.settings.mlflow_uri)
    run_id = one.run.registry.find_pipeline_run(one.run)
    experiment = client.get_run(run_id).info.experiment_id

    def logged() -> tuple[Run, list[Run]]:
        (search,) = client.search_runs([experiment], "tags.`slipway.kind` = 'serving'")
        return search, client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{search.info.run_id}'")

    killed, trials = logged()
    assert len(trials) == len(found.trials)
    found = one.tune(model)  # as if it had been killed after it published
    search, trials = logged()
    assert search.info.run_id != killed.info.run_id
    assert len(trials) == len(found.trials) >= 2
    assert all(set(trial.data.params) == {"backend", "threads", "instances", "max_queue_delay_us"} for trial in trials)
    assert search.data.params["threads"] in ("1", "2")
    assert TABLE in [item.path for item in client.list_artifacts(run_id, "serving")]
    packed = one.package(model, found)
    assert len(packages(one, model.version)) == 1
    with one.run.store.local(packed.key) as folder:
        text = (folder / "config.pbtxt").read_text()
    assert f"count: {found.options.instances} " in text
    assert f"max_queue_delay_microseconds: {found.options.max_queue_delay_us} " in text


def test_trees_are_measured_by_both_back_ends_and_served_by_the_one_that_is_chosen(make: Callable[..., Chain]) -> None:
    from training.export import keep_trees
    from training.features import fit_features
    from training.models.base import Fold, Native
    from training.models.boosted import BoostedTrainer

    one = make({"trials": 2, "duration_s": 0.3})
    rows, held = split_rows(one.run, one.dataset, one.spec.split)
    features = fit_features(rows, SCHEMA)
    trainer = BoostedTrainer.of(one.spec.candidates[0], features, 1)
    fold = Fold(features.matrix(to_tensors(rows, SCHEMA)), (rows["y"] == "yes").to_numpy(np.float64))
    native = Native(features, trainer.fit(fold, trainer.defaults(), 0, 20, None).model)
    model = one.register().model_copy(update={"trees": keep_trees(one.run, native)})
    answers(one, model, native.predict(to_tensors(held, SCHEMA)))
    found = one.tune(model)
    assert [trial.options.backend for trial in found.trials[:2]] == ["onnxruntime", "xgboost"]
    assert not any(trial.problem for trial in found.trials)

    chosen = found.options.model_copy(update={"backend": "xgboost"})
    packed = one.package(model, found.model_copy(update={"options": chosen}))
    with one.run.store.local(packed.key) as folder:
        assert 'backend: "xgboost"' in (folder / "config.pbtxt").read_text()
        assert {path.name for path in folder.glob("*/*")} == {"model.onnx", "features.onnx", "model.ubj"}
    challenger = one.rollout(model, packed)
    try:
        with TritonClient(challenger.grpc, one.run.settings.timeout_s) as client:
            tensors = to_tensors(held, SCHEMA)
            answer = client.infer(challenger.name, tensors, SCHEMA.output, str(model.version))
        assert answer.tobytes() == native.predict(tensors).tobytes()
    finally:
        plane(one.run.settings).end_challengers(one.spec.name)

    answers(one, model, native.predict(to_tensors(held, SCHEMA)) + 0.01)
    found = one.tune(model)
    assert found.options.backend == "onnxruntime"
    assert (
        f"; not xgboost: backend xgboost: {len(held)} of {len(held)} rows differ from the model's answers, by 0.01"
        in found.reason
    )

    one.run.store.write(f"{model.trees}/model.ubj", b"another", replace=True)
    with pytest.raises(Invalid, match="it is not what was written"):
        one.package(model, found.model_copy(update={"options": chosen}))
    alone = model.model_copy(update={"trees": None})
    with pytest.raises(Invalid, match=r"serving\.backend xgboost: xgboost is no booster"):
        one.package(alone, found.model_copy(update={"options": chosen}))


@pytest.mark.parametrize("rule", [None, {"trials": 2, "duration_s": 0.2}])
def test_where_no_tensorrt_plan_can_be_served_the_graph_is_and_the_plan_says_so(
    make: Callable[..., Chain], monkeypatch: pytest.MonkeyPatch, rule: dict[str, object] | None
) -> None:
    one = make(rule)
    one.spec = one.spec.model_copy(update={"export": Export(tensorrt="auto")})
    model, spec = one.register(), one.spec
    one.spec = hasty(spec)
    found = one.tune(model)
    assert found.options.backend == "onnxruntime"
    assert found.reason.endswith("; no TensorRT plan: no GPU serves")

    one.spec = spec
    monkeypatch.setattr(EmbeddedPlane, "has_gpu", lambda _: True)  # the server's word counts, not this one
    found = one.tune(model)
    assert found.options.backend == "onnxruntime"
    assert re.search(r"; not tensorrt: .*this backend has no execution_accelerators, such as TensorRT", found.reason)
    assert {trial.options.backend for trial in found.trials if trial.problem} == {"tensorrt"}
    assert packages(one, model.version) == []


def test_trees_have_no_tensorrt_plan(make: Callable[..., Chain]) -> None:
    one = make(None)
    one.spec = one.spec.model_copy(update={"export": Export(tensorrt="auto")})
    found = one.tune(one.register().model_copy(update={"trees": "trees/any"}))
    assert found.reason.endswith("; TensorRT makes no plan of trees")


def test_a_network_is_served_by_onnxruntime_whatever_trees_are(make: Callable[..., Chain]) -> None:
    one = make(None, backend="xgboost")
    assert one.tune(one.register()).options.backend == "onnxruntime"


def test_a_version_that_cannot_be_served_is_refused_and_leaves_nothing(
    make: Callable[..., Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.tune import tune

    one = make({"trials": 2, "duration_s": 0.2})
    model = one.register()
    with pytest.raises(Invalid):
        tune(one.spec, one.dataset, model.model_copy(update={"onnx_digest": "0" * 64}), one.run)
    assert packages(one, model.version) == []


def test_a_package_that_is_made_is_not_forgotten(make: Callable[..., Chain], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tune step whose reference was lost, in a run that went on."""
    one = make(None)
    model = one.register()
    packed = one.package(model)
    one.run.finish("package", packed, 0.1)
    monkeypatch.setattr(EmbeddedPlane, "has_gpu", lambda _: True)
    one.spec = one.spec.model_copy(update={"export": Export(tensorrt="auto")})
    assert one.tune(model).trials  # a package of its own was served
    assert packed.key.rsplit("/", 1)[-1] in packages(one, model.version)
