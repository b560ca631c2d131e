"""What another hand has moved is found, named and put back: on a real MLflow and a real Triton."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.digest import digest_bytes
from pipeline.errors import Invalid
from pipeline.record import record_key, sequences
from pipeline.run import ROLLBACK, Run
from pipeline.settings import PREFIX, Settings
from serving.differences import Reconciled
from serving.live import Live
from serving.places import repository
from serving.promote import version_of
from serving.reconcile import Reconciler, main, reconcile
from serving.register import CHALLENGER, CHAMPION
from serving.rollback import rollback
from serving.triton import TritonClient
from serving.verify import verified
from tests.serving.chain import Chain, chain
from tests.serving.known import PASSED, native
from tests.serving.promoted import restored

pytestmark = pytest.mark.stack


class Promoted:
    """A model of which versions 1 and 2 were promoted, and what the tests do to it."""

    def __init__(self, settings: Settings, folder: Path, name: str) -> None:
        self.settings, self.name = settings, name
        self.first = chain(settings, folder, name, f"{name}-r1", 1.0)
        self._promote(self.first, None)
        self.second = chain(settings, folder, name, f"{name}-r2", 3.0)
        self._promote(self.second, 1)
        self.registry, self.store = self.first.run.registry, self.first.run.store
        self.model = repository(settings) / name

    def _promote(self, one: Chain, champion: int | None) -> None:
        model, package, rollout, report = one.ready(PASSED.model_copy(update={"champion": champion}))
        for task, ref in {"snapshot": one.dataset, "register": model, "package": package, "gate": report}.items():
            one.run.finish(task, ref, 0.1)
        one.promote(model, package, rollout, report)

    def reconcile(self, fix: bool = False) -> Reconciled:
        return reconcile(self.settings, self.name, fix)[0]

    def found(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for one in self.reconcile().found:
            found.setdefault(one.what, []).append(one.sentence)
        return found

    def serves(self, one: Chain) -> bool:
        with TritonClient(self.settings.triton_grpc, 10) as client:
            answers = client.replay(self.name, one.tensors, "probabilities")
        return bool(np.allclose(answers, native(one.weight, one.tensors), atol=1e-5))

    def load(self, **parameters: str) -> None:
        """What anybody can do who reaches the server's own API."""
        url = f"http://{self.settings.triton_http}/v2/repository/models/{self.name}/load"
        answer = httpx.post(url, json={"parameters": parameters}, trust_env=False, timeout=60)
        assert answer.is_success, answer.text

    @contextmanager
    def alias_moved(self) -> Iterator[None]:
        """Have the alias name version 1 while the block runs."""
        self.registry.set_alias(self.name, CHAMPION, 1)
        try:
            yield
        finally:
            self.registry.set_alias(self.name, CHAMPION, 2)

    def unload(self) -> None:
        url = f"http://{self.settings.triton_http}/v2/repository/models/{self.name}/unload"
        assert httpx.post(url, trust_env=False, timeout=60).is_success

    def is_put_back(self) -> None:
        """--fix leaves nothing, the second version answers, and the next look finds nothing."""
        done = self.reconcile(fix=True)
        assert done.found
        assert done.left == ()
        assert self.reconcile() == Reconciled(model=self.name, version=2)
        assert self.serves(self.second)
        assert self.registry.aliases(self.name) == {CHAMPION: 2}


def _digests(promoted: Promoted, number: int) -> tuple[str, str]:
    version = version_of(promoted.registry, promoted.name, number)
    return version.digest, version.onnx_digest


@pytest.fixture(scope="module")
def promoted(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Promoted:
    """For tests that leave it as it was."""
    return Promoted(stack_settings, tmp_path_factory.mktemp("moved"), "moved")


@pytest.fixture(scope="module")
def rolled_back(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Promoted:
    """A model which was rolled back to version 1, for tests that leave it as it was."""
    one = Promoted(stack_settings, tmp_path_factory.mktemp("rolled_back"), "rolled_back")
    rollback(Run("back-rolled_back", ROLLBACK, one.settings, Path()), one.name)
    return one


@pytest.fixture
def fresh(stack_settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Promoted:
    """For tests that do not."""
    return Promoted(stack_settings, tmp_path, f"moved_{digest_bytes(request.node.name.encode())[:10]}")


def test_a_promotion_leaves_nothing_to_be_said(promoted: Promoted) -> None:
    assert promoted.reconcile() == Reconciled(model=promoted.name, version=2)
    assert promoted.reconcile(fix=True) == Reconciled(model=promoted.name, version=2)


@pytest.mark.smoke
def test_an_alias_that_was_moved_or_deleted(promoted: Promoted) -> None:
    promoted.registry.set_alias(promoted.name, CHAMPION, 1)
    (said,) = promoted.found()["alias"]
    assert said.startswith("alias champion names version 1, by another hand; by the promotion of ")
    assert said.endswith("it is version 2")
    promoted.is_put_back()
    promoted.registry.delete_alias(promoted.name, CHAMPION)
    assert promoted.found()["alias"][0].startswith("alias champion is gone, by another hand")
    promoted.is_put_back()


def test_a_configuration_that_was_edited(promoted: Promoted) -> None:
    config = promoted.model / "config.pbtxt"
    config.write_text(config.read_text().replace("versions: [ 2 ]", "versions: [ 1 ]"))
    (said,) = promoted.found()["traffic"]
    assert "version_policy" in said
    assert "as root" in said or "written" in said
    assert promoted.serves(promoted.second)  # nobody has loaded it
    promoted.is_put_back()
    config.write_text(config.read_text().replace("versions: [ 2 ]", "versions: [ 1 ]"))
    promoted.load()
    assert promoted.serves(promoted.first)
    found = promoted.found()
    assert "has version 1 loaded, by another hand" in found["replica"][0]
    assert found["traffic"]
    promoted.is_put_back()
    config.write_text("no configuration at all {")
    assert "cannot be read by Triton" in promoted.found()["traffic"][0]
    promoted.is_put_back()
    config.unlink()
    assert "is gone" in promoted.found()["traffic"][0]
    promoted.is_put_back()


@pytest.mark.parametrize("how", ["not loaded", "loaded", "loaded anew"])
def test_a_graph_that_was_replaced(promoted: Promoted, how: str) -> None:
    """Also one that the server has taken up: the other version's answers come, under the champion's number."""
    graph = promoted.model / "2" / "model.onnx"
    shutil.copyfile(promoted.model / "1" / "model.onnx", graph)
    if how == "loaded anew":
        promoted.unload()
    if how != "not loaded":
        promoted.load()
    (said,) = promoted.found()["traffic"]
    assert said.startswith(f"{graph} has another content than the package, by another hand (written 20")
    promoted.is_put_back()


def test_files_that_came_and_went(promoted: Promoted) -> None:
    (promoted.model / "2" / "model.onnx").unlink()
    (promoted.model / "2" / "model.py").write_text("import os")
    gone, new = promoted.found()["traffic"]
    assert gone.endswith("2/model.onnx is gone")
    assert "2/model.py is not in the package" in new
    promoted.is_put_back()
    shutil.rmtree(promoted.model / "2")
    assert promoted.found()["traffic"][0].endswith("version 2 cannot be loaded again")
    promoted.is_put_back()


def test_links_and_what_stands_where_a_folder_belongs(promoted: Promoted, tmp_path: Path) -> None:
    first = shutil.copytree(promoted.model / "1", tmp_path / "first")
    for place in (promoted.model / "2", promoted.model, promoted.model / "config.pbtxt"):
        elsewhere = tmp_path / place.name
        place.rename(elsewhere)
        place.symlink_to(elsewhere)
        assert f"{place} is a link" in promoted.found()["traffic"][0]
        promoted.is_put_back()
        assert not place.is_symlink()
    for place in (promoted.model / "2", Live(promoted.settings, promoted.name).package(2)):
        shutil.rmtree(place)
        place.write_text("a file")
        promoted.is_put_back()
    (promoted.model / "config.pbtxt").unlink()
    (promoted.model / "config.pbtxt").mkdir()
    promoted.is_put_back()
    shutil.copytree(first, promoted.model / "1")  # the previous version is not placed again


def test_folders_of_other_names_are_in_nobodys_way(promoted: Promoted) -> None:
    for name in ("3.bak", "\N{SUPERSCRIPT TWO}"):
        (promoted.model / name).mkdir()
    (promoted.model / "2" / "model.onnx").unlink()
    promoted.is_put_back()
    for name in ("3.bak", "\N{SUPERSCRIPT TWO}"):
        (promoted.model / name).rmdir()


def test_a_kept_package_that_was_changed_is_taken_from_the_store(promoted: Promoted) -> None:
    kept = Live(promoted.settings, promoted.name).package(2) / "2" / "model.onnx"
    content = bytearray(kept.read_bytes())
    content[40] ^= 1
    kept.write_bytes(content)
    assert "the kept package of version 2 is not what was promoted" in promoted.found()["traffic"][0]
    promoted.is_put_back()


def test_a_version_that_was_loaded_by_the_servers_own_api(promoted: Promoted) -> None:
    with TritonClient(promoted.settings.triton_grpc, 10) as client:
        config = client.model_config(promoted.name)
    promoted.load(config=json.dumps(config | {"version_policy": {"specific": {"versions": [1]}}}))
    assert promoted.serves(promoted.first)
    found = promoted.found()
    assert list(found) == ["replica"]  # its files are as they were
    assert "has version 1 loaded, by another hand" in found["replica"][0]
    promoted.is_put_back()
    promoted.load(config=json.dumps(config | {"version_policy": {"specific": {"versions": [1, 2]}}}))
    assert "has version 1 loaded" in promoted.found()["replica"][0]
    promoted.is_put_back()
    digest = {"string_value": "0" * 64}
    promoted.load(config=json.dumps(config | {"parameters": config["parameters"] | {"digest": digest}}))
    assert "says that its graph is 0000000000000000" in promoted.found()["replica"][0]
    promoted.is_put_back()
    promoted.unload()
    assert "does not say what it serves" in promoted.found()["replica"][0]
    promoted.is_put_back()


def test_another_graph_under_the_champions_configuration(promoted: Promoted) -> None:
    """Files, digest and version are right; only the answers are another version's."""
    with TritonClient(promoted.settings.triton_grpc, 10) as client:
        config = json.dumps(client.model_config(promoted.name))
    graph = base64.b64encode((promoted.model / "1" / "model.onnx").read_bytes()).decode()
    promoted.unload()
    promoted.load(config=config, **{"file:2/model.onnx": graph})
    assert promoted.serves(promoted.first)
    (said,) = promoted.found()["replica"]
    assert said.startswith("version 2 does not answer as it did (64 of 64 rows get other answers")
    promoted.is_put_back()


def test_digests_in_the_registry_that_were_changed(promoted: Promoted) -> None:
    promoted.registry.set_version_tags(promoted.name, 2, {"slipway.package": "0" * 64})
    assert "tag slipway.package of version 2 is 0000000000000000" in promoted.found()["registry"][0]
    promoted.is_put_back()
    promoted.registry.set_version_tags(promoted.name, 2, {"slipway.record.key": f"records/{promoted.name}/000001"})
    assert "tag slipway.record.key of version 2 is records/" in promoted.found()["registry"][0]
    promoted.is_put_back()


def test_a_challenger_that_was_left_over(promoted: Promoted) -> None:
    promoted.registry.set_alias(promoted.name, CHALLENGER, 1)
    (said,) = promoted.found()["challenger"]
    assert said == f"alias challenger still names version 1, whose run {promoted.first.run.id} has ended"
    promoted.is_put_back()
    promoted.registry.set_alias(promoted.name, CHALLENGER, 2)
    assert promoted.found()["challenger"] == ["alias challenger still names version 2, which serves"]
    promoted.is_put_back()


def test_a_challenger_whose_run_goes_on_is_no_difference(promoted: Promoted, tmp_path: Path) -> None:
    third = chain(promoted.settings, tmp_path, promoted.name, f"{promoted.name}-r3", 5.0)
    version = third.register().version
    try:
        assert promoted.registry.alias(promoted.name, CHALLENGER) == version > 2
        assert promoted.reconcile() == Reconciled(model=promoted.name, version=2)
    finally:
        promoted.registry.delete_alias(promoted.name, CHALLENGER)


def test_a_promotion_that_died_between_switch_and_alias(fresh: Promoted, tmp_path: Path) -> None:
    third = chain(fresh.settings, tmp_path, fresh.name, f"{fresh.name}-r3", 5.0)
    ready = third.ready(PASSED.model_copy(update={"champion": 2}))
    model, package, *_ = ready
    live = Live(fresh.settings, fresh.name)
    with fresh.store.local(package.key) as source:
        live.keep(source, 3, package.digest)
    live.switch(3, package.digest, model.onnx_digest)
    assert fresh.serves(third)
    found = fresh.found()
    assert f"loaded, by the promotion of run {third.run.id}, which ended half-way" in found["replica"][0]
    assert fresh.reconcile(fix=True).left == ()
    assert fresh.serves(fresh.second)
    assert fresh.registry.alias(fresh.name, CHALLENGER) == 3  # its run is not over: it may go on
    third.promote(*ready)
    assert fresh.serves(third)
    assert fresh.reconcile() == Reconciled(model=fresh.name, version=3)


def test_a_promotion_under_way_is_no_difference(promoted: Promoted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.live.LOCK_S", 0.1)
    promoted.registry.set_alias(promoted.name, CHAMPION, 1)  # as it is seen in its midst
    with Live(promoted.settings, promoted.name).alone():
        busy = promoted.reconcile(fix=True)
    assert (busy.found, busy.left) == ((), ())
    assert "another promotion" in busy.under_way
    assert promoted.registry.alias(promoted.name, CHAMPION) == 1
    monkeypatch.setattr("serving.live.LOCK_S", 60)
    released, held = threading.Event(), threading.Event()

    def end() -> None:
        with Live(promoted.settings, promoted.name).alone():
            held.set()
            released.wait(0.3)
            promoted.registry.set_alias(promoted.name, CHAMPION, 2)

    thread = threading.Thread(target=end)
    thread.start()
    held.wait()
    assert promoted.reconcile() == Reconciled(model=promoted.name, version=2)  # waited for its end
    thread.join()


def test_a_model_that_was_deleted_in_the_registry_serves_on(fresh: Promoted) -> None:
    api = f"{fresh.settings.mlflow_uri}/api/2.0/mlflow/registered-models/delete"
    assert httpx.request("DELETE", api, json={"name": fresh.name}, timeout=30).is_success
    config = fresh.model / "config.pbtxt"
    config.write_text(config.read_text().replace("versions: [ 2 ]", "versions: [ 1 ]"))
    fresh.load()
    assert set(fresh.found()) == {"registry", "replica", "traffic"}
    done = fresh.reconcile(fix=True)
    assert [one.what for one in done.left] == ["registry"]
    assert "restore MLflow's database" in done.left[0].remedy
    assert fresh.serves(fresh.second)


def test_a_model_without_a_ledger_says_so_and_is_left_alone(promoted: Promoted) -> None:
    records = Path(promoted.store.path(f"records/{promoted.name}"))
    with restored(records), promoted.alias_moved():
        shutil.rmtree(records)
        for fix in (False, True):
            done = promoted.reconcile(fix)
            assert done.version is None
            (said,) = done.left
            assert said.what == "ledger"
            assert "promoted before records were kept" in said.sentence
            assert "run its pipeline" in said.remedy
        assert promoted.registry.alias(promoted.name, CHAMPION) == 1


@pytest.mark.parametrize("how", ["changed", "unsigned", "another key", "another number", "the one before"])
def test_a_ledger_that_is_not_to_be_trusted_moves_nothing(promoted: Promoted, how: str, tmp_path: Path) -> None:
    first, last = sequences(promoted.store, promoted.name)
    folder = Path(promoted.store.path(record_key(promoted.name, last)))
    with restored(folder.parent), promoted.alias_moved():
        record = folder / "record.json"
        if how == "changed":
            record.write_text(record.read_text().replace('"version": 2', '"version": 1'))
        elif how == "unsigned":
            (folder / "model.sig").unlink()
        elif how == "another key":
            from serving.signing import sign

            keys = {"signing_key": tmp_path / "keys" / "signing.pem", "verify_key": tmp_path / "keys" / "verify.pem"}
            sign(folder, promoted.settings.model_copy(update={"home": tmp_path, **keys}))
        elif how == "another number":  # an old entry, rightly signed, as if it were the last
            old = Path(promoted.store.path(record_key(promoted.name, first)))
            shutil.copytree(old, folder.parent / f"{last + 1:06d}")
        else:
            before = folder.parent / f"{first:06d}" / "record.json"
            before.write_text(before.read_text() + " ")
        done = promoted.reconcile(fix=True)
        assert {one.what for one in done.left} == {"signature"}
        assert str(folder.parent) in done.left[0].sentence
        assert promoted.registry.alias(promoted.name, CHAMPION) == 1  # nothing was moved
        assert promoted.serves(promoted.second)


def test_an_old_entry_that_was_taken_out_is_missed(rolled_back: Promoted) -> None:
    assert rolled_back.reconcile().found == ()
    entry = Path(rolled_back.store.path(record_key(rolled_back.name, 1)))
    with restored(entry.parent):
        shutil.rmtree(entry)
        assert "the entry before entry 2 was changed, or taken out" in rolled_back.found()["signature"][0]
        looked = {one.what: one.problems for one in verified(rolled_back.settings, f"{rolled_back.name}/1")}
        assert looked["no entry of the ledger is missing"]


def test_a_rollback_in_the_ledger_is_what_ought_to_serve(rolled_back: Promoted) -> None:
    model, name = rolled_back, rolled_back.name
    assert model.reconcile() == Reconciled(model=name, version=1)
    Live(model.settings, name).switch(2, *_digests(model, 2))
    model.registry.set_alias(name, CHAMPION, 2)
    assert {"alias", "replica", "traffic"} <= set(model.found())
    assert model.reconcile(fix=True).left == ()
    assert model.serves(model.first)
    assert model.registry.alias(name, CHAMPION) == 1
    assert Live(model.settings, name).package(2).is_dir()  # kept for the next promotion of it


def test_the_commands(promoted: Promoted) -> None:
    with pytest.raises(Invalid, match=f"did you mean '{promoted.name}'"):
        reconcile(promoted.settings, promoted.name[:-1])
    env = {
        f"{PREFIX}{key.upper()}": str(value)
        for key, value in promoted.settings.model_dump(mode="json").items()
        if value not in (None, "") and not isinstance(value, dict)
    }

    def slipway(*options: str, code: int) -> str:
        return invoke(app, "reconcile", promoted.name, *options, code=code)

    def module(code: int) -> str:
        command = typer.Typer(add_completion=False)
        command.command()(main)
        return invoke(command, promoted.name, code=code)

    def invoke(command: typer.Typer, *arguments: str, code: int) -> str:
        done = CliRunner().invoke(command, arguments, env=env)
        assert done.exit_code == code, done.output
        return done.stdout

    promoted.registry.set_alias(promoted.name, CHAMPION, 1)
    command = [sys.executable, "-m", "serving.reconcile", promoted.name]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "names version 1, by another hand" in done.stdout
    assert done.stdout == module(code=3)
    printed = json.loads(slipway("--json", code=3))
    assert printed["models"][0]["found"][0]["what"] == "alias"
    assert "put back" in slipway("--fix", code=0)
    assert "all agrees on version 2" in module(code=0)
    assert promoted.name in {one.model for one in reconcile(promoted.settings)}


def test_a_model_that_was_put_into_the_repository_by_hand(promoted: Promoted) -> None:
    other = promoted.model.parent / f"{promoted.name}_x"
    shutil.copytree(promoted.model, other)
    office = Reconciler(promoted.settings)
    try:
        assert other.name in office.models()
        (said,) = office.one(other.name, fix=True).left
        assert said.what == "ledger"
    finally:
        shutil.rmtree(other)
