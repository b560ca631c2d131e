"""`slipway verify`: what is whole is said to be, and whatever another hand has changed is found, wherever it lies."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import Invalid, Unavailable
from pipeline.record import sequences
from pipeline.settings import PREFIX, Settings
from serving.live import Live
from serving.places import repository
from serving.signing import SIGNATURE, sign
from serving.verify import verified
from tests.serving.chain import Chain, chain
from tests.serving.packed import pack
from tests.serving.promoted import restored

NAME = "verified"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def said(settings: Settings, what: str) -> list[str]:
    return [str(problem) for one in verified(settings, what) for problem in one.problems]


# -- folders


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def packed(own: Settings, folder: Path) -> Path:
    pack(own, folder, "m", 3, b"graph")
    return folder / "m"


def test_a_package_is_verified_by_its_own_manifest(own: Settings, tmp_path: Path) -> None:
    folder = packed(own, tmp_path)
    (one,) = verified(own, str(folder))
    assert (one.problems, one.left) == ((), "")
    flip(folder / "3" / "model.onnx")
    (folder / "notes.json").write_bytes(pickle.dumps({"a": 1}))
    problems = "\n".join(said(own, str(folder)))
    for expected in ("3/model.onnx has another content", "notes.json is not in the manifest", "notes.json is a pickle"):
        assert expected in problems
    assert "the signature does not hold" in problems


def test_any_folder_may_be_looked_at(own: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "any"
    folder.mkdir()
    nothing = f"{folder}: nothing here is signed"
    assert [problem.partition(" -> ")[0] for problem in said(own, str(folder))] == [nothing]
    (folder / "weights").write_bytes(pickle.dumps([1, 2]))
    found = [problem.partition(" -> ")[0] for problem in said(own, str(folder))]
    assert found == [nothing, f"{folder}: weights is a pickle"]
    (folder / "weights").write_text("1")
    sign(folder, own)
    assert [one.what for one in verified(own, str(folder))] == ["signature", "no pickles"]
    assert said(own, str(folder)) == []
    (folder / "record.json").write_text("{}")
    found = {one.what: one.problems[0].what for one in verified(own, str(folder)) if one.problems}
    assert "the record cannot be read" in found["record"]
    assert "the signature does not hold" in found["signature"]


def test_a_file_that_goes_while_it_is_looked_at_is_told(
    own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: Path) -> NoReturn:
        raise FileNotFoundError(2, "No such file or directory", "model.onnx")

    monkeypatch.setattr("serving.verify.find_pickles", gone)
    with pytest.raises(Unavailable, match=r"a file cannot be read: .*model\.onnx"):
        verified(own, str(tmp_path))
    (tmp_path / "one.csv").touch()
    with pytest.raises(Invalid, match="it is a file"):
        verified(own, str(tmp_path / "one.csv"))


def test_what_names_nothing_is_refused(own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # which is not what is meant by nothing
    for what in ("", " ", "\t"):
        with pytest.raises(Invalid, match="nothing is named -> name a folder"):
            verified(own, what)
    for what in ("x" * 301, "x" * 5000, "m" * 300 + "/1", "a\0b", "a\nb", "\x1b[31m", "~nobody/\ud800", "\ud800"):
        with pytest.raises(Invalid, match="nothing is called") as refused:
            verified(own, what)
        assert len(str(refused.value)) < 200
        assert str(refused.value).isprintable()


def test_what_cannot_be_read_is_told(own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        verified(own, "/proc/self")
    (tmp_path / "record.json").mkdir()
    with pytest.raises(Unavailable, match=r"cannot be read: .*record\.json"):
        verified(own, str(tmp_path))
    (tmp_path / "record.json").rmdir()
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scan(path: str) -> object:  # the superuser may read all
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scan)
    with pytest.raises(Unavailable, match=r"cannot be read: .*Permission denied.*closed"):
        verified(own, str(tmp_path))


# -- versions


@pytest.fixture(scope="module")
def promoted(stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    one = chain(stack_settings, tmp_path_factory.mktemp("rows"), NAME, "verified-1", 1.0)
    one.promote(*one.ready())
    return one


@pytest.mark.stack
def test_a_promoted_version_is_whole(promoted: Chain) -> None:
    settings = promoted.run.settings
    for what in (NAME, f"{NAME}@champion", f"{NAME}/1"):
        found = verified(settings, what)
        assert [one for one in found if one.problems or one.left] == []
    looked_at = [one.what for one in found]
    assert looked_at[:3] == [f"package of {NAME}, version 1", "what serves here", "graph in MLflow is the packaged one"]
    assert looked_at[-2:] == ["no entry of the ledger is missing", "entry 1 of the ledger"]
    assert looked_at.count("no pickles in MLflow") >= 3  # the logged model, its run, the pipeline's run


def in_store(one: Chain) -> Path:
    (name,) = one.run.store.list(f"packages/{NAME}")
    return Path(one.run.store.path(f"packages/{NAME}/{name}"))


def in_ledger(one: Chain) -> Path:
    return Path(one.run.store.path(f"records/{NAME}/{sequences(one.run.store, NAME)[-1]:06d}"))


def in_mlflow(one: Chain) -> Path:
    return next((one.run.settings.home / "mlflow" / "artifacts").rglob(f"models/{one.onnx_ref.model_id}"))


HARMS: dict[str, tuple[Callable[[Chain], Path], Callable[[Path], object], str]] = {
    "package": (in_store, lambda at: flip(at / "1" / "model.onnx"), "1/model.onnx has another content"),
    "package is gone": (in_store, lambda at: (at / "manifest.json").unlink(), "the manifest cannot be read"),
    "repository": (
        lambda one: repository(one.run.settings) / NAME,
        lambda at: flip(at / "1" / "model.onnx"),
        "it is not the package of version 1",
    ),
    "kept": (
        lambda one: Live(one.run.settings, NAME).package(1),
        lambda at: (at / SIGNATURE).unlink(),
        "there is no signature",
    ),
    "record": (in_ledger, lambda at: flip(at / "record.json"), "the signature does not hold"),
    "record's signature": (in_ledger, lambda at: (at / SIGNATURE).write_bytes(b"\xff" * 9), "the signature does not"),
    "graph in MLflow": (in_mlflow, lambda at: flip(next(at.rglob("model.onnx"))), "its digest is"),
    "pickle in MLflow": (
        in_mlflow,
        lambda at: (next(at.rglob("model.onnx")).parent / "columns.json").write_bytes(pickle.dumps({"a": 1})),
        "columns.json is a pickle",
    ),
}


@pytest.mark.stack
@pytest.mark.parametrize("harm", HARMS)
def test_what_another_hand_has_changed_is_found(promoted: Chain, harm: str) -> None:
    place, do, expected = HARMS[harm]
    at = place(promoted)
    with restored(at):
        do(at)
        problems = said(promoted.run.settings, NAME)
    assert any(expected in problem for problem in problems), problems


@pytest.mark.stack
def test_tags_that_were_changed_are_found(promoted: Chain) -> None:
    registry = promoted.run.registry
    before = registry.version_tags(NAME, 1)
    try:
        registry.set_version_tags(NAME, 1, {"slipway.onnx": "0" * 64})
        problems = said(promoted.run.settings, NAME)
    finally:
        registry.set_version_tags(NAME, 1, before)
    assert any("by the version's tag 0000" in problem for problem in problems)
    assert any("the graph has digest" in problem for problem in problems)


@pytest.mark.stack
def test_what_is_not_known_is_said(promoted: Chain) -> None:
    for what in (f"{NAME}/7", "nothing_like_it", f"{NAME}@nobody"):
        with pytest.raises(Invalid):
            verified(promoted.run.settings, what)


@pytest.mark.stack
def test_the_command_exits_with_2_and_all_problems(promoted: Chain) -> None:
    settings = promoted.run.settings
    values = settings.model_dump(include={"home", "root", "mlflow_port", "triton_http_port", "triton_grpc_port"})
    env = {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items()}
    shown = CliRunner().invoke(app, ["verify", NAME], env=env)
    assert (shown.exit_code, "refused" in shown.output) == (0, False), shown.output
    with restored(in_store(promoted), in_ledger(promoted)):
        flip(in_store(promoted) / "config.pbtxt")
        flip(in_ledger(promoted) / "record.json")
        printed = CliRunner().invoke(app, ["verify", NAME], env=env)
        machine = CliRunner().invoke(app, ["verify", NAME, "--json"], env=env)
    assert printed.exit_code == machine.exit_code == 2
    assert "config.pbtxt has another content" in printed.output
    assert printed.output.count("refused: ") == len(json.loads(machine.stdout)["problems"]) >= 3
    assert all(problem["what"] and problem["remedy"] for problem in json.loads(machine.stdout)["problems"])
