"""Lineage both ways, on a real MLflow and a real Triton."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pipeline.errors import Invalid, Unavailable
from pipeline.lineage import trace
from pipeline.lineage_graph import Lineage
from pipeline.refs import CheckReport, Failure, Verdict
from pipeline.run import ROLLBACK, Run
from pipeline.settings import Settings
from serving.places import repository
from serving.rollback import rollback
from serving.triton import TritonClient
from tests.serving.chain import Chain, chain
from tests.serving.known import PASSED
from tests.support.ports import worker_port

pytestmark = pytest.mark.stack
CHECKS = CheckReport(
    passed=True,
    suite="demo",
    suite_digest="s",
    evaluated=3,
    failures=(Failure(severity="warning", expectation="e", column="a", message="m"),),
)


def promote(settings: Settings, folder: Path, name: str, run_id: str, weight: float, champion: int | None) -> Chain:
    """Promote a version of the model, with everything that its steps leave."""
    one = chain(settings, folder, name, f"{name}-{run_id}", weight)
    registry, run = one.run.registry, one.run
    registry.set_tags(registry.pipeline_run(run, one.spec), {"slipway.dataset": one.dataset.digest})
    verdict = Verdict(gate="quality", outcome="passed", reason="good enough")
    report = PASSED.model_copy(update={"champion": champion, "verdicts": (verdict,)})
    model, package, rollout, report = one.ready(report)
    left = {"snapshot": one.dataset, "check": CHECKS, "evaluate": one.evaluation, "register": model}
    for task, ref in {**left, "package": package, "gate": report}.items():
        run.finish(task, ref, 0.1)
    run.finish("promote", one.promote(model, package, rollout, report), 0.1)
    return one


@pytest.fixture
def make(stack_settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Chain]:
    """make(run id, weight): a run of this test's own model, promoted."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)[:50].lower().strip("_")

    def _make(run_id: str, weight: float, champion: int | None = None) -> Chain:
        return promote(stack_settings, tmp_path, name, run_id, weight, champion)

    return _make


class Pair:
    """A model with two promoted versions, for tests that leave it as it was."""

    def __init__(self, first: Chain, second: Chain) -> None:
        self.first, self.second = first, second
        self.settings, self.registry, self.name = first.run.settings, first.run.registry, first.spec.name

    @contextmanager
    def tagged(self, version: int, **tags: str) -> Iterator[None]:
        """Have these values of the tags `slipway.*` while the block runs."""
        before = self.registry.version_tags(self.name, version)
        changed = {f"slipway.{key}": value for key, value in tags.items()}
        self.registry.set_version_tags(self.name, version, changed)
        try:
            yield
        finally:
            self.registry.set_version_tags(self.name, version, {key: before[key] for key in changed})


@pytest.fixture(scope="module")
def pair(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    first = promote(stack_settings, folder, "lineage_pair", "one", 1.0, None)
    return Pair(first, promote(stack_settings, folder, "lineage_pair", "second", 2.0, 1))


def kinds(found: Lineage) -> list[str]:
    return sorted(node.kind for node in found.nodes)


def path(found: Lineage, start: str, end: str) -> list[str]:
    """Kinds of the nodes on the way from one to the other, along the edges."""
    ways = [[start]]
    while ways:
        way = ways.pop(0)
        if way[-1] == end:
            return [found.node(one).kind for one in way]
        ways += [[*way, edge.target] for edge in found.edges if edge.source == way[-1]]
    raise AssertionError(f"no way from {start} to {end}")


def test_from_an_endpoint_down_to_the_rows_and_back(pair: Pair) -> None:
    one, settings, registry, name = pair.second, pair.settings, pair.registry, pair.name
    rows = f"dataset/{one.dataset.digest}"
    for where in (
        f"{settings.triton_http}/{name}",
        f"{settings.triton_grpc}/{name}",
        f"http://{settings.triton_http}/v2/models/{name}/versions/2/infer",
    ):
        found = trace(settings, registry, where)
        (start,) = found.start
        assert path(found, start, rows) == ["endpoint", "version", "package", "onnx", "run", "dataset"]
        assert found.problems == ()
        assert {"gate", "checks", "candidate"} < set(kinds(found))
        assert found.node(rows).facts["source"] == "rows.csv"
        assert found.node(start).facts["digest"] == one.onnx_ref.digest
    up = trace(settings, registry, one.dataset.digest[:8], "up")  # the same rows have other tests' models
    assert up.start == (rows,)
    endpoint = f"endpoint/{settings.triton_grpc}/{name}"
    assert path(up, endpoint, rows) == ["endpoint", "version", "package", "onnx", "run", "dataset"]
    assert not {"candidate", "checks", "gate"} & set(kinds(up))


def test_every_name_of_a_thing_leads_to_it(pair: Pair) -> None:
    one, two, settings, registry, name = pair.first, pair.second, pair.settings, pair.registry, pair.name
    first, second = f"version/{name}/1", f"version/{name}/2"
    package = registry.version_tags(name, 2)["slipway.package"]
    for what, start in {
        name: second,
        f"{name}@champion": second,
        f"{name}/1": first,
        two.onnx_ref.digest: second,
        package[:12]: second,
        package.upper(): second,
        one.run.id: f"run/{name}/{one.run.id}",
        one.onnx_ref.run_id: f"run/{name}/{one.run.id}",  # the candidate's MLflow run
    }.items():
        found = trace(settings, registry, what)
        assert start in found.start, what  # other tests may have served the same graph
        assert f"dataset/{one.dataset.digest}" in {node.id for node in found.nodes}
    served = {edge.target for edge in trace(settings, registry, name).edges if edge.kind == "serves"}
    assert served == {second}
    below = trace(settings, registry, f"{name}/1", "down")
    assert "endpoint" not in kinds(below)
    assert below.node(first).facts["aliases"] == ""
    above = trace(settings, registry, two.run.id, "up")
    assert [node.kind for node in above.nodes] == ["endpoint", "onnx", "package", "run", "version"]


def test_the_answer_does_not_change_its_order(pair: Pair) -> None:
    texts = {trace(pair.settings, pair.registry, pair.name).model_dump_json() for _ in range(3)}
    assert len(texts) == 1
    ids = [node["id"] for node in json.loads(texts.pop())["nodes"]]
    assert len(ids) == len(set(ids))


def test_what_is_unknown_or_ambiguous_is_said(pair: Pair) -> None:
    one, settings, registry, name = pair.first, pair.settings, pair.registry, pair.name
    for what, said in {
        name[:-1]: f"did you mean '{name}'",
        f"{one.run.id[:-1]}9": f"did you mean '{one.run.id}'",
        f"{name}/99": "there is no version 99.*its versions: 1",
        f"{name}@nobody": "has no alias 'nobody'.*@champion",
        f"{name}x@champion": f"there is no model.*did you mean '{name}'",
        "feedfacefeed": "nothing is called",
        "it's": "nothing is called",
        "/": "nothing is called '/'.*name a MODEL",
        "@champion": "nothing is called '@champion'.*name a MODEL",
        f"{name}/²": "'²' is not a version",
        f"{name}/{'9' * 5000}": f"'{'9' * 39} is not a version",
        f"{name}/{2**31}": f"there is no version {2**31} of.*its versions: 1",
        f"{name}/{'9' * 18}": "there is no version 9+ of.*its versions: 1",
        f"{settings.triton_http}/{name[:-1]}": f"serves no model.*did you mean '{name}'",
        f"{settings.mlflow_uri}/v2/models/{name}": "",
    }.items():
        with pytest.raises(Invalid, match=said or None):
            trace(settings, registry, what)
    free = worker_port()
    with pytest.raises(Unavailable):
        trace(settings, registry, f"127.0.0.1:{free}/{name}")


def test_a_digest_of_two_things_is_ambiguous(pair: Pair) -> None:
    settings, registry, name = pair.settings, pair.registry, pair.name
    with pair.tagged(1, package="abcdef0123" + "1" * 54, onnx="abcdef0123" + "2" * 54):
        with pytest.raises(Invalid, match=r"2 digests begin with abcdef01: onnx abcdef0123222.*package abcdef0123111"):
            trace(settings, registry, "abcdef01")
        assert trace(settings, registry, "abcdef01231", "down").start == (f"version/{name}/1",)


def test_a_server_that_says_otherwise_than_the_registry(pair: Pair) -> None:
    settings, registry, name = pair.settings, pair.registry, pair.name
    registry.set_alias(name, "champion", 1)  # by another hand
    try:
        said = "it serves version 2, the registry's champion is version 1"
        assert said in trace(settings, registry, f"{settings.triton_http}/{name}").problems[0]
        up = trace(settings, registry, f"{name}/1", "up")
        assert [edge.kind for edge in up.edges] == ["ought to serve"]
        assert said in up.problems[0]
    finally:
        registry.set_alias(name, "champion", 2)
    with pair.tagged(2, onnx="f" * 64):
        (problem,) = trace(settings, registry, name, "up").problems
    assert "the registry ffffffff" in problem


def test_a_version_that_the_registry_has_lost_still_leads_to_its_rows(make: Callable[..., Chain]) -> None:
    one = make("r1", 1.0)
    settings, registry, name = one.run.settings, one.run.registry, one.spec.name
    api = f"{settings.mlflow_uri}/api/2.0/mlflow/registered-models/delete"
    assert httpx.request("DELETE", api, json={"name": name}, timeout=30).is_success
    found = trace(settings, registry, f"{settings.triton_http}/{name}")
    assert "the registry has no version 1" in found.problems[0]
    assert path(found, found.start[0], f"dataset/{one.dataset.digest}") == ["endpoint", "run", "dataset"]


def test_a_model_that_no_server_has_and_a_store_that_has_nothing(make: Callable[..., Chain]) -> None:
    one = make("r1", 1.0)
    settings, registry, name = one.run.settings, one.run.registry, one.spec.name
    with TritonClient(settings.triton_grpc, 10) as client:
        client.unload(name)
    shutil.rmtree(repository(settings) / name)
    shutil.rmtree(Path(one.run.store.path(one.run.key)))
    found = trace(settings, registry, name)
    assert any("it does not say what it serves" in problem for problem in found.problems)
    assert any("has nothing of this run" in problem for problem in found.problems)
    assert f"dataset/{one.dataset.digest}" in {node.id for node in found.nodes}  # by the tags


def test_a_thousand_versions_take_a_few_calls(
    stack_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.tracking._model_registry.client import ModelRegistryClient

    from pipeline.registry import Registry

    registry, digest = Registry(stack_settings), "9" * 63
    model = chain(stack_settings, tmp_path, "many", "many", 1.0).onnx_ref.model_id
    client = MlflowClient(stack_settings.mlflow_uri, stack_settings.mlflow_uri)
    for name in ("many_a", "many_b"):
        client.create_registered_model(name)
        for number in range(30):
            tags = {
                "slipway.run": f"{name}-{number}",
                "slipway.pipeline": name,
                "slipway.dataset": f"{digest}{number % 2}",
                "slipway.onnx": f"{number:064d}",
            }
            client.create_model_version(name, f"models:/{model}", tags=tags, model_id=model)
    monkeypatch.setattr("pipeline.registry.PAGE", 7)  # so that there are pages
    calls = []
    for method in ("search_model_versions", "search_registered_models", "get_registered_model", "get_model_version"):
        real = getattr(ModelRegistryClient, method)
        monkeypatch.setattr(
            ModelRegistryClient, method, lambda *a, _real=real, _name=method, **k: calls.append(_name) or _real(*a, **k)
        )
    found = trace(stack_settings, registry, f"{digest}1")
    assert sum(node.kind == "version" for node in found.nodes) == 30
    assert sum(node.kind == "run" for node in found.nodes) == 30
    assert calls.count("get_model_version") == 0
    assert calls.count("search_model_versions") <= 3 * 5 + 5
    numbers = [
        node.facts["version"] for node in found.nodes if node.kind == "version" and node.facts["model"] == "many_a"
    ]
    assert numbers == [str(number) for number in range(2, 31, 2)]


def test_the_record_is_on_the_way_and_its_signature_is_checked(make: Callable[..., Chain]) -> None:
    one = make("r1", 1.0)
    settings, registry, name = one.run.settings, one.run.registry, one.spec.name
    found = trace(settings, registry, name, "down")
    assert path(found, f"version/{name}/1", f"gate/{name}/1/quality") == ["version", "record", "gate"]
    facts = found.node(f"record/{name}/1").facts
    assert (facts["of"], facts["signature"]) == ("promotion", "holds")
    assert facts["replicas"] == settings.triton_grpc
    make("r2", 2.0, champion=1)
    rollback(Run(f"back-{name}", ROLLBACK, settings, Path()), name)
    found = trace(settings, registry, name, "down")
    records = [node.facts["of"] for node in found.nodes if node.kind == "record"]
    assert records == ["promotion", "rollback"]  # what was judged when it was promoted is still there
    assert "gate" in kinds(found)
    record = Path(one.run.store.path(f"records/{name}/000001/record.json"))
    record.write_text(record.read_text().replace("good enough", "excellent"))
    found = trace(settings, registry, name, "down")
    assert "the signature does not hold" in found.node(f"record/{name}/1").problem


def test_a_record_that_says_otherwise_than_the_registry(pair: Pair) -> None:
    with pair.tagged(2, dataset="0" * 64):
        problems = trace(pair.settings, pair.registry, pair.name, "down").problems
    digest = pair.second.dataset.digest[:16]
    assert f"record 2: it says dataset {digest}, the registry 0000000000000000" in problems
