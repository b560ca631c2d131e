"""The promotion record: one form, one number each, the same bytes for the same run, and sentences for what is damaged."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.digest import digest_bytes
from pipeline.errors import Invalid, Rejected, Unavailable
from pipeline.record import (
    RECORD,
    backwards,
    digest_of,
    parse_record,
    promotion_of,
    read_record,
    record_key,
    record_schema,
    sequences,
)
from pipeline.refs import Approval, CheckReport, Verdict
from pipeline.run import Run
from pipeline.served import Served
from pipeline.serving_rules import BlueGreen
from pipeline.settings import Settings
from pipeline.store import WHOLE, Store
from serving import endpoints
from serving import record as record_module
from serving.ledger import trusted, verified
from serving.manifests import Version
from serving.record import record
from serving.record_content import Verdict as Decision
from serving.record_content import acknowledged, build
from serving.signing import SIGNATURE
from tests.serving.chain import Chain
from tests.serving.full_record import full_record
from tests.serving.known import PASSED
from tests.serving.promoted import Logged, logged_models_fixture  # noqa: F401 (a fixture)

GOLDEN = Path(__file__).resolve().parents[2] / "docs" / "record.schema.json"
FULL = full_record()


def test_the_schema_is_the_one_that_is_published() -> None:
    """Golden: UPDATE_GOLDENS=1 writes it anew. What changes it so that old records cannot be read is a new version."""
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDEN.write_text(record_schema(), encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == record_schema()


def test_a_record_has_one_form() -> None:
    record = full_record("ü <b> \u2028")
    content = record.canonical()
    assert parse_record(content, "here") == record
    assert parse_record(content, "here").canonical() == content
    tree = json.loads(content)
    assert "ü <b>".encode() in content
    assert content == (json.dumps(tree, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()
    assert tree["schema_version"] == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"", "cannot be read"),
        (FULL.canonical()[:-40], "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"null", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (FULL.canonical().replace(b'"schema_version": 1', b'"schema_version": 2'), "schema version 2, this release reads 1"),
        (FULL.canonical().replace(b'"schema_version": 1', b'"schema_version": "1"'), "schema version '1'"),
        (FULL.canonical().replace(b'"sequence": 2', b'"sequence": 0, "more": 1'), "sequence: .*; more: "),
        (FULL.canonical().replace(b'"version": 2', b'"version": "two"'), "version: Input should be a valid integer"),
        (FULL.canonical().replace(b'"kind": "promotion"', b'"kind": "advice"'), "kind: "),
        (FULL.canonical().replace(b'"times"', b'"time"'), "times: Field required"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_told_in_a_sentence(damage: bytes, said: str) -> None:
    assert damage != FULL.canonical()
    with pytest.raises(Invalid, match=said) as refused:
        parse_record(damage, "records/credit/000002/record.json")
    (problem,) = refused.value.problems
    assert problem.where == "records/credit/000002/record.json"
    assert problem.remedy


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_record_cut_or_overwritten_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    content = FULL.canonical()
    at = data.draw(st.integers(0, len(content)))
    damaged = content[:at] + data.draw(st.binary(max_size=8)) + content[at + data.draw(st.integers(0, 400)) :]
    with suppress(Invalid):
        assert parse_record(damaged, "here").schema_version == 1


def test_entries_are_counted_when_they_are_whole() -> None:
    store = Store(f"memory://{os.urandom(8).hex()}")
    assert sequences(store, "m") == ()
    for number in (1, 2, 10, 11):
        store.write(f"{record_key('m', number)}/{RECORD}", b"{}")
    for number in (1, 2, 10):
        store.write(f"{record_key('m', number)}/{WHOLE}", b"")
    store.write("records/m/000012.run", b"somebody")
    for name in ("²", "٣", "9" * 200, "x"):  # digits to Unicode, and no number of an entry
        store.write(f"records/m/{name}/{RECORD}", b"{}")
    assert sequences(store, "m") == (1, 2, 10)  # 11 was half written by a process that died
    assert next(backwards(store, "m")) == 10
    with pytest.raises(Invalid, match="there is no such record"):
        read_record(store, "m", 7)


def run_of(home: Path, name: str) -> Run:
    return Run(name, "m", Settings(home=home), home)


def test_a_number_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve writers at once, each of which has seen the same last entry."""
    barrier, numbers = threading.Barrier(12), {}
    listed = record_module.backwards

    def together(store: Store, model: str) -> object:
        found = list(listed(store, model))
        barrier.wait(20)
        return iter(found)

    monkeypatch.setattr(record_module, "backwards", together)

    def take(name: str) -> None:
        verdict = Decision("refusal", Version("m", int(name[1:]), "d", "o"), None)
        numbers[name] = record_module.claim_number(run_of(tmp_path, name), verdict)

    threads = [threading.Thread(target=take, args=(f"r{at}",)) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(numbers.values()) == list(range(1, 13))
    monkeypatch.setattr(record_module, "backwards", listed)
    for name, number in numbers.items():  # and each finds its own again
        verdict = Decision("refusal", Version("m", int(name[1:]), "d", "o"), None)
        assert record_module.claim_number(run_of(tmp_path, name), verdict) == number


@pytest.fixture
def make(
    stack_settings: Settings, tmp_path: Path, request: pytest.FixtureRequest, logged_models: Logged
) -> Callable[..., Chain]:
    """make(run id, weight): a run of this test's own model, with everything that its steps leave."""
    name = f"test_{digest_bytes(request.node.name.encode())[:12]}"

    def _make(run_id: str, weight: float, **changes: object) -> Chain:
        one = logged_models.chain(stack_settings, tmp_path, name, f"{name}-{run_id}", weight, **changes)
        one.run.registry.pipeline_run(one.run, one.spec)
        return one

    return _make


CHECKS = CheckReport(passed=True, suite="demo", suite_digest="s", evaluated=3)
GOOD = Verdict(gate="quality", outcome="passed", reason="good enough", numbers={"roc_auc": 0.9})


def ready(one: Chain, champion: int | None = None, **report: object) -> tuple:
    read = one.ready(PASSED.model_copy(update={"champion": champion, "verdicts": (GOOD,), **report}))
    left = {"check": CHECKS, "train_xgboost": one.model_ref, "export_xgboost": one.onnx_ref}
    left |= {"evaluate": one.evaluation, "register": read[0], "package": read[1], "gate": read[3]}
    for task, ref in left.items():
        one.run.finish(task, ref, 0.1)
    return read


def approve(one: Chain, approved: bool, note: str = "") -> None:
    said = Approval(approved=approved, by="Ada", at="2026-11-25T08:00:00+00:00", via="command", note=note)
    one.run.finish("approve", said, 0.0)


@pytest.mark.stack
def test_the_record_of_a_run(make: Callable[..., Chain]) -> None:
    import mlflow

    first, second = make("r1", 1.0), make("r2", 3.0, approval="required", description="does it <i>pay</i>?")
    first.promote(*ready(first))
    read = ready(second, 1)
    approve(second, True, "looks well")
    end = second.promote(*read)
    store, name = second.run.store, second.spec.name
    kept = verified(second.run.settings, store, name, 2)
    assert end.record == kept.key
    assert (kept.kind, kept.version, kept.previous, kept.run) == ("promotion", 2, 1, second.run.id)
    assert kept.before == digest_of(store, name, 1)
    assert (kept.spec, kept.spec_digest) == (second.spec, second.spec.digest)
    assert (kept.dataset, kept.checks, kept.evaluation) == (second.dataset, CHECKS, second.evaluation)
    assert (kept.models, kept.onnx, kept.registered) == ((second.model_ref,), (second.onnx_ref,), read[0])
    assert (kept.package, kept.gates, kept.onnx_digest) == (read[1], read[3], second.onnx_ref.digest)
    assert kept.signer.startswith("sha256:")
    assert kept.libraries["numpy"]
    assert kept.approval is not None
    assert (kept.approval.by, kept.approval.note, kept.times.approved_at) == (
        "Ada",
        "looks well",
        "2026-11-25T08:00:00+00:00",
    )
    assert kept.serving is not None
    (replica,) = kept.serving.replicas
    assert (replica.version, replica.digest, replica.run) == (2, kept.onnx_digest, second.run.id)
    assert kept.times.steps["gate"] == 0.1

    # the same run gives the same, but for its times
    verdict = Decision("promotion", Version(name, 2, read[1].digest, read[0].onnx_digest), 1)
    again = [build(second.run, second.spec, verdict, 2).model_copy(update={"times": kept.times}) for _ in range(2)]
    assert again[0].canonical() == again[1].canonical() == kept.canonical() == store.read(f"{kept.key}/{RECORD}")

    # with its cards, all of it signed, where people look
    names = {path.name for path in Path(store.path(kept.key)).iterdir()}
    assert names == {
        RECORD,
        SIGNATURE,
        *(f"{card}.{end}" for card in ("model_card", "technical_file") for end in ("md", "html")),
    }
    shown = {item.path for item in mlflow.MlflowClient().list_artifacts(kept.mlflow_run or "", "record")}
    assert shown == {f"record/{name}" for name in names}
    beside = second.run.settings.home / "serving" / kept.key
    assert {path.name for path in beside.iterdir()} == names
    card = mlflow.artifacts.load_text(f"runs:/{kept.mlflow_run}/record/model_card.md")
    assert "does it &lt;i&gt;pay&lt;/i&gt;?" in card
    described = mlflow.MlflowClient().get_model_version(name, "2").description
    assert "does it &lt;i&gt;pay&lt;/i&gt;?" in described
    assert "Ada" in described
    file = store.read(f"{kept.key}/technical_file.md").decode()
    assert "Against version 1 (record 1)" in file
    assert "| spec | approval | none | required |" in file
    assert promotion_of(store, name, 1) == verified(second.run.settings, store, name, 1)

    card_path = Path(store.path(kept.key)) / "model_card.md"
    card_path.write_text(card_path.read_text().replace("Ada", "Eve"))
    with pytest.raises(Invalid, match="signature does not hold"):
        trusted(second.run.settings, store, name)


@pytest.mark.stack
def test_a_promotion_waits_for_a_person(make: Callable[..., Chain]) -> None:
    one = make("r1", 1.0, approval="required")
    read = ready(one)
    for _ in range(2):
        with pytest.raises(
            Unavailable, match=f"waits for a person's approval -> .*slipway approve {one.spec.name} {one.run.id}"
        ):
            one.promote(*read)
    assert sequences(one.run.store, one.spec.name) == ()
    assert one.run.registry.alias(one.spec.name, "champion") is None
    approve(one, True)
    assert one.promote(*read).version == 1


@pytest.mark.stack
def test_a_person_says_no(make: Callable[..., Chain]) -> None:
    import mlflow

    first, second = make("r1", 1.0), make("r2", 3.0, approval="required")
    first.promote(*ready(first))
    read = ready(second, 1)
    approve(second, False, "too many of the north")
    for _ in range(2):
        with pytest.raises(Rejected, match="Ada did not approve it: too many of the north"):
            second.promote(*read)
    kept = verified(second.run.settings, second.run.store, second.spec.name, 2)
    assert (kept.kind, kept.previous, kept.serving) == ("refusal", 1, None)
    assert "Ada did not approve it: too many of the north" in kept.reasons[0]
    assert kept.approval is not None
    assert not kept.approval.approved
    last = trusted(second.run.settings, second.run.store, second.spec.name)
    assert last is not None
    assert last.version == 1
    assert second.run.registry.alias(second.spec.name, "champion") == 1
    assert "**refused**" in mlflow.MlflowClient().get_model_version(second.spec.name, "2").description


@pytest.mark.stack
def test_no_person_lets_through_what_the_gates_refused(make: Callable[..., Chain]) -> None:
    one = make("r1", 1.0, approval="required")
    bad = Verdict(gate="quality", outcome="refused", reason="too bad")
    unsure = Verdict(gate="judge", outcome="inconclusive", reason="who knows")
    read = ready(one, verdicts=(bad, unsure), passed=False, person_decides=True)
    approve(one, True)
    with pytest.raises(Rejected, match="too bad") as refused:
        one.promote(*read)
    assert len(refused.value.problems) == 1
    assert verified(one.run.settings, one.run.store, one.spec.name, 1).kind == "refusal"


@pytest.mark.stack
def test_what_is_inconclusive_is_the_persons_to_decide(make: Callable[..., Chain]) -> None:
    one = make("r1", 1.0, approval="required")
    unsure = Verdict(gate="judge", outcome="inconclusive", reason="who knows")
    read = ready(one, verdicts=(GOOD, unsure), passed=True, person_decides=True)
    with pytest.raises(Unavailable, match="waits for a person"):
        one.promote(*read)
    approve(one, True)
    one.promote(*read)
    kept = verified(one.run.settings, one.run.store, one.spec.name, 1)
    assert kept.gates is not None
    assert kept.gates.verdicts[1].shown == "inconclusive"


@pytest.mark.stack
def test_a_replica_that_serves_another_is_no_acknowledgement(
    make: Callable[..., Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make("r1", 1.0)
    read = ready(one)
    one.promote(*read)
    other = Decision("promotion", Version(one.spec.name, 1, read[1].digest, "0" * 64), None)
    with pytest.raises(Unavailable, match="not every replica has acknowledged version 1"):
        build(one.run, one.spec, other, 2)
    with pytest.raises(Unavailable, match="not every replica has acknowledged version 2"):
        record(one.run, None, Decision("rollback", Version(one.spec.name, 2, read[1].digest, read[0].onnx_digest), 1))
    assert sequences(one.run.store, one.spec.name) == (1,)


def test_in_a_cluster_every_pod_acknowledges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.cluster_plane import ClusterPlane
    from tests.serving.worlds import fake_world

    says: dict[str, str] = {}

    def ask(address: str, model: str) -> Served:
        return Served(model=model, address=address, version=1, digest=says.get(address, "o" * 64))

    with fake_world() as world, world.kubelet():
        run = Run("r1", "credit", world.settings(tmp_path), tmp_path)
        version = Version("credit", 1, "d" * 64, "o" * 64)
        ClusterPlane(run.settings, world.cluster, lambda *_: None, poll_s=0.05).switch(
            version, BlueGreen(kind="blue_green")
        )
        monkeypatch.setattr(endpoints, "serving", partial(endpoints.serving, cluster=world.cluster, ask=ask))
        found = acknowledged(run, version)
        pods = {pod["metadata"]["name"] for pod in world.cluster.select("Pod", {})}
        assert len(pods) == 2
        assert {replica.replica for replica in found.replicas} == pods
        assert {replica.package for replica in found.replicas} == {"d" * 64}
        assert found.grpc == "slipway-model-credit.test.svc:8001"
        says[found.replicas[1].address] = "x" * 64
        with pytest.raises(Unavailable, match=rf"{found.replicas[1].replica} .*: version 1, graph xxxx"):
            acknowledged(run, version)
