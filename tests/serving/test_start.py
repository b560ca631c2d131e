"""Before the server starts: what it would load is what was signed, or is repaired, or is not loaded."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.settings import Settings
from pipeline.store import Store
from pipeline.supervisor import Supervisor
from serving.embedded import EmbeddedPlane
from serving.live import Live
from serving.manifests import Version
from serving.package import package_key
from serving.places import challenger, repository
from serving.probe import probe
from serving.start import sound
from serving.triton import TritonClient
from tests.serving.known import graph
from tests.serving.ledgers import write_entry
from tests.serving.packed import pack
from tests.support.polling import wait_for

Harm = Callable[[Path, Path], object]  # of the model's part of the repository, and its kept package


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def placed(settings: Settings, folder: Path, name: str, number: int) -> Version:
    """A version as a promotion leaves it on the disk, without a server."""
    version = pack(settings, folder, name, number, graph(float(number)))
    live, model = Live(settings, name), repository(settings) / name
    live.keep(folder / name, number, version.digest)
    shutil.copytree(live.package(number) / str(number), model / str(number), dirs_exist_ok=True)
    shutil.copy(live.package(number) / "config.pbtxt", model / "config.pbtxt")
    return version


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


HARMS: dict[str, Harm] = {
    "nothing": lambda model, kept: None,
    "a flipped byte of the graph": lambda model, kept: flipped(model / "1" / "model.onnx"),
    "a flipped byte of the kept graph": lambda model, kept: flipped(kept / "1" / "model.onnx"),
    "both": lambda model, kept: (flipped(model / "1" / "model.onnx"), flipped(kept / "1" / "model.onnx")),
    "a file too many": lambda model, kept: (model / "1" / "model.py").write_text("import os"),
    "a missing file": lambda model, kept: (model / "1" / "model.onnx").unlink(),
    "no files": lambda model, kept: shutil.rmtree(model / "1"),
    "a link to another folder": lambda model, kept: (
        shutil.rmtree(model / "1"),
        (model / "1").symlink_to(kept / "1", target_is_directory=True),
    ),
    "another configuration": lambda model, kept: (model / "config.pbtxt").write_text(
        (model / "config.pbtxt").read_text().replace("count: 1", "count: 9")
    ),
    "no kept package": lambda model, kept: shutil.rmtree(kept),
    "no signature": lambda model, kept: (kept / "model.sig").unlink(),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_was_damaged_is_the_packages_again(settings: Settings, tmp_path: Path, harm: str) -> None:
    placed(settings, tmp_path / "1", "m", 1)
    model, kept = repository(settings) / "m", Live(settings, "m").package(1)
    before = contents(model), contents(kept)
    HARMS[harm](model, kept)
    assert sound(settings) == ("m",)
    assert (contents(model), contents(kept)) == before
    assert not (model / "1").is_symlink()


@pytest.mark.parametrize("harm", ["both", "no kept package", "no signature"])
def test_what_cannot_be_repaired_is_not_loaded_and_others_are(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    placed(settings, tmp_path / "1", "m", 1)
    placed(settings, tmp_path / "2", "other", 1)
    for name in Store(settings.store).list("packages/m"):
        Store(settings.store).delete(f"packages/m/{name}")
    HARMS[harm](repository(settings) / "m", Live(settings, "m").package(1))
    assert sound(settings) == ("other",)
    assert "m is not loaded: " in caplog.text


def test_a_package_of_another_key_another_model_or_another_version_is_not_loaded(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    placed(settings, tmp_path / "0", "m", 1)
    theirs = Settings(home=tmp_path / "their home", store=settings.store)
    for name, folder in (("n", tmp_path / "1"), ("o", tmp_path / "2")):
        placed(theirs, folder, name, 1)
        for part in ("repository", "packages"):
            shutil.copytree(theirs.home / "serving" / part / name, settings.home / "serving" / part / name)
    shutil.copytree(repository(settings) / "m", repository(settings) / "swapped")
    shutil.copytree(Live(settings, "m").package(1), Live(settings, "swapped").package(1))
    assert sound(settings) == ("m",)
    assert "n is not loaded: " in caplog.text
    assert "swapped is not loaded: " in caplog.text


def test_a_configuration_that_chooses_nothing_is_not_loaded_without_a_ledger(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    placed(settings, tmp_path / "1", "m", 1)
    for text in (b"name: [", b"", b"\xff\xfe", b'name: "m" version_policy { all {} }'):
        (repository(settings) / "m" / "config.pbtxt").write_bytes(text)
        assert sound(settings) == ()
    assert "m is not loaded" in caplog.text


def test_a_switch_that_nobody_has_packaged_is_the_ledgers(settings: Settings, tmp_path: Path) -> None:
    versions = [placed(settings, tmp_path / str(number), "m", number) for number in (1, 2)]
    switch = repository(settings) / "m" / "config.pbtxt"
    right = switch.read_bytes()
    write_entry(settings, "m", 2, versions[1].onnx_digest, versions[1].digest)
    for text in (right.replace(b"versions: [ 2 ]", b"versions: [ 1 ]"), b"\xff", b""):
        switch.write_bytes(text)
        assert sound(settings) == ("m",)
        assert switch.read_bytes() == right


def test_a_ledger_that_was_changed_is_not_believed(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = placed(settings, tmp_path / "1", "m", 1)
    write_entry(settings, "m", 1, version.onnx_digest, version.digest)
    path = Path(Store(settings.store).path("records/m/000001/record.json"))
    path.write_bytes(path.read_bytes().replace(b'"run": "', b'"run": "x'))
    assert sound(settings) == ("m",)  # nobody asks it
    (repository(settings) / "m" / "config.pbtxt").write_text("version_policy { specific { versions: [ 1 ] } }")
    assert sound(settings) == ()
    assert "the signature does not hold" in caplog.text


def test_what_does_not_belong_there_is_not_loaded(settings: Settings, tmp_path: Path) -> None:
    placed(settings, tmp_path / "1", "m", 1)
    model = repository(settings) / "m"
    (model / "configs").mkdir()
    (model / "configs" / "cpu.pbtxt").write_text("name: 'm'")
    (model / "model.py").symlink_to("/etc/passwd")
    (model / "²").mkdir()
    (model / ".2.half").mkdir()  # of a promotion that is under way
    (repository(settings) / "linked").symlink_to(model)
    (repository(settings) / "foreign" / "1").mkdir(parents=True)
    assert sound(settings) == ("m",)
    assert sorted(path.name for path in model.iterdir()) == [".2.half", "1", "config.pbtxt"]


def test_what_was_packaged_before_there_were_signatures_is_told(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    placed(settings, tmp_path / "1", "m", 1)
    for signature in settings.home.rglob("model.sig"):
        signature.unlink()
    shutil.rmtree(settings.home / "keys")
    assert sound(settings) == ()
    assert "it was not made by this release: run the pipeline again" in caplog.text


def test_a_challengers_server_starts_with_what_was_signed_or_not_at_all(
    stack_settings: Settings, tmp_path: Path
) -> None:
    version = pack(stack_settings, tmp_path, "rival", 3, graph(3.0))
    plane, supervisor = EmbeddedPlane(stack_settings), Supervisor(stack_settings)
    try:
        ref = plane.start(version)
        folder = challenger(stack_settings, "rival", 3) / "rival"
        before = contents(folder)
        flipped(folder / "3" / "model.onnx")
        os.killpg(supervisor.pid(ref.program), signal.SIGKILL)
        with TritonClient(ref.grpc, 10) as client:
            wait_for(client.ready)
            probe(client, "rival", 3, version.onnx_digest)
            assert contents(folder) == before
            for path in (folder, Path(Store(stack_settings.store).path(package_key("rival", 3, version.digest)))):
                flipped(path / "3" / "model.onnx")
            os.killpg(supervisor.pid(ref.program), signal.SIGKILL)
            log = supervisor.log(ref.program)
            wait_for(lambda: "invalid: " in log.read_text())
            assert "3/model.onnx has another content" in log.read_text()
            assert not client.ready()
        assert not folder.exists()
    finally:
        plane.end_challengers("rival")
