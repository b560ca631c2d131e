"""A package is a closed list of signed files; whatever else lies there, or is written in its manifest, is a sentence."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as quick
from hypothesis import strategies as st

from pipeline.digest import digest_bytes, digest_file
from pipeline.errors import Invalid, Unavailable
from pipeline.serving_rules import BlueGreen
from pipeline.settings import Settings
from pipeline.store import Store
from serving.embedded import EmbeddedPlane
from serving.fetch import fetch
from serving.live import Live
from serving.manifests import Version
from serving.package import MOST, package_key, read_manifest, verify, verify_as
from serving.places import challenger
from serving.signing import SIGNATURE, sign
from serving.start import whole_challenger
from tests.serving.known import graph
from tests.serving.packed import answer, pack, serve

GRAPH = graph(1.0)


def signed_anew(folder: Path, settings: Settings, files: dict[str, str] | None = None) -> str:
    """The package as a promoter who has been deceived would sign it: whatever it holds; its digest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("manifest.json", SIGNATURE)]
    found = {path.relative_to(folder).as_posix(): digest_file(path) for path in paths}
    text = json.dumps({**manifest, "files": found if files is None else files}).encode()
    (folder / "manifest.json").write_bytes(text)
    sign(folder, settings)
    return digest_bytes(text)


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def packed(own: Settings, tmp_path: Path) -> tuple[Path, Version]:
    version = pack(own, tmp_path / "made", "m", 2, GRAPH)
    return tmp_path / "made" / "m", version


Harm = Callable[[Path, Settings], object]
HARMS: dict[str, tuple[Harm, str]] = {
    "a flipped byte": (
        lambda at, _: (at / "2" / "model.onnx").write_bytes(GRAPH[:40] + b"~" + GRAPH[41:]),
        "2/model.onnx has another content",
    ),
    "another configuration": (lambda at, _: (at / "config.pbtxt").write_text("name: 'm'"), "config.pbtxt has another"),
    "a file too many": (lambda at, _: (at / "2" / "model.py").write_text("import os"), "2/model.py is not in the"),
    "a hidden file": (lambda at, _: (at / ".git").write_text("x"), ".git is not in the manifest"),
    "a missing file": (lambda at, _: (at / "config.pbtxt").unlink(), "config.pbtxt is missing"),
    "an empty folder": (lambda at, _: (at / "3").mkdir(), "3 is an empty folder"),
    "a link out": (lambda at, _: (at / "passwd").symlink_to("/etc/passwd"), "passwd is a link"),
    "a link in place of a file": (
        lambda at, _: ((at / "2" / "model.onnx").rename(at / "g"), (at / "2" / "model.onnx").symlink_to("../g")),
        "2/model.onnx is a link",
    ),
    "a link in place of a folder": (
        lambda at, _: ((at / "2").rename(at.parent / "2"), (at / "2").symlink_to(at.parent / "2")),
        "2 is a link",
    ),
    "no manifest": (lambda at, _: (at / "manifest.json").unlink(), "the manifest cannot be read: there is none"),
    "a linked manifest": (
        lambda at, _: (
            (at / "manifest.json").rename(at.parent / "j"),
            (at / "manifest.json").symlink_to(at.parent / "j"),
        ),
        "it is a link, or too large",
    ),
    "a huge manifest": (lambda at, _: (at / "manifest.json").write_bytes(b" " * (1 << 21)), "a link, or too large"),
    "no signature": (lambda at, _: (at / SIGNATURE).unlink(), "there is no signature"),
    "half a signature": (lambda at, _: os.truncate(at / SIGNATURE, 700), "the signature does not hold"),
    "another's signature": (
        lambda at, own: sign(at, Settings(home=own.home / "another")),
        "the signature does not hold",
    ),
    "another version, signed": (
        lambda at, own: (
            pack(own, at.parent / "older", at.parent.name, 1, graph(9.0)),
            shutil.rmtree(at),
            shutil.copytree(at.parent / "older" / at.parent.name, at),
        ),
        "the manifest is not the one of this version",
    ),
    "another version's signature": (
        lambda at, own: (
            pack(own, at.parent / "older", at.parent.name, 1, graph(9.0)),
            shutil.copy(at.parent / "older" / at.parent.name / SIGNATURE, at / SIGNATURE),
        ),
        "the signature does not hold",
    ),
    "a pickle": (lambda at, _: (at / "2" / "x.json").write_bytes(pickle.dumps({"a": 1})), "2/x.json is a pickle"),
    "a pickle for a graph": (
        lambda at, _: (at / "2" / "model.onnx").write_bytes(gzip.compress(pickle.dumps(print))),
        "2/model.onnx is a pickle",
    ),
}
SIGNED_HARMS: dict[str, tuple[Harm, str]] = {  # what nobody may serve, though the right key has signed it
    "a pickle": (lambda at, _: (at / "2" / "x.json").write_bytes(pickle.dumps({"a": 1})), "2/x.json is a pickle"),
    "code": (lambda at, _: (at / "2" / "model.py").write_text("import os"), "2/model.py is of a kind that is not"),
    "alike but for case": (
        lambda at, _: [(at / name).write_text("{}") for name in ("a.json", "A.json")],
        "A.json is called like another file",
    ),
    "alike but for accents": (
        lambda at, _: [(at / unicodedata.normalize(form, "é.json")).write_text("{}") for form in ("NFC", "NFD")],
        "é.json is called like another file",
    ),
}


def doors(own: Settings, version: Version) -> dict[str, Callable[[], object]]:
    """Every way from the store to a Triton."""
    store, key = Store(own.store), package_key("m", 2, version.digest)
    return {
        "verify": lambda: verify(Path(store.path(key)), version.digest, own),
        "pod": lambda: fetch(store, own, key, version.digest, own.home / "pod" / "m"),
        "keep": lambda: Live(own, "m").keep(Path(store.path(key)), 2, version.digest),
        "challenger": lambda: whole_challenger(own, "m", 2, version.digest),
        "switch": lambda: EmbeddedPlane(own).switch(version, BlueGreen(kind="blue_green")),
    }


@pytest.mark.parametrize("harm", HARMS)
def test_what_was_changed_passes_no_door(own: Settings, packed: tuple[Path, Version], harm: str) -> None:
    version = packed[1]
    at = Path(Store(own.store).path(package_key("m", 2, version.digest)))
    HARMS[harm][0](at, own)
    for door, go in doors(own, version).items():
        with pytest.raises(Invalid) as refused:
            go()
        assert HARMS[harm][1] in str(refused.value), door
        for problem in refused.value.problems:
            assert problem.remedy
    for placed in (own.home / "pod" / "m", Live(own, "m").package(2), challenger(own, "m", 2) / "m"):
        assert not placed.exists()


@pytest.mark.parametrize("harm", SIGNED_HARMS)
def test_what_is_signed_and_not_to_be_served_passes_neither(
    own: Settings, packed: tuple[Path, Version], harm: str
) -> None:
    folder = packed[0]
    SIGNED_HARMS[harm][0](folder, own)
    digest = signed_anew(folder, own)
    with pytest.raises(Invalid) as refused:
        verify(folder, digest, own)
    assert SIGNED_HARMS[harm][1] in unicodedata.normalize("NFC", str(refused.value))


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "2/../../secret.json", "..", "2/.."])
def test_a_manifest_leads_nowhere_else(own: Settings, packed: tuple[Path, Version], name: str) -> None:
    folder = packed[0]
    (folder.parent / "secret.json").write_text("{}")
    listed = {**read_manifest(folder).files, name: digest_bytes(b"{}")}
    with pytest.raises(Invalid, match="leads out of the package"):
        verify(folder, signed_anew(folder, own, listed), own)


def test_all_that_is_wrong_is_said_at_once_and_not_without_end(own: Settings, packed: tuple[Path, Version]) -> None:
    folder = packed[0]
    (folder / "config.pbtxt").unlink()
    (folder / "2" / "model.onnx").write_bytes(b"")
    (folder / SIGNATURE).unlink()
    for number in range(MOST + 5):
        (folder / f"a\n\x1b[31m{number}").write_text("")
    with pytest.raises(Invalid) as refused:
        verify(folder, "0" * 64, own)
    message = str(refused.value)
    assert "not the one of this version" in message
    assert "'a\\n\\x1b[31m0' is not in the manifest" in message
    assert "and 7 more" in message
    assert "there is no signature" in message
    assert "\x1b" not in message
    assert len(refused.value.problems) == MOST + 3


def test_a_package_of_another_name_or_version_is_not_ours(own: Settings, packed: tuple[Path, Version]) -> None:
    folder, version = packed
    assert verify_as(folder, "m", 2, own) == version.digest
    for name, number in (("n", 2), ("m", 3)):
        with pytest.raises(Invalid, match="it is the package of m, version 2"):
            verify_as(folder, name, number, own)


def test_a_disk_that_fails_is_no_fault_of_the_package(
    own: Settings, packed: tuple[Path, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("serving.package.digest_file", fail)
    with pytest.raises(Unavailable, match=r"a file cannot be read: .*Input/output error"):
        verify(packed[0], packed[1].digest, own)


SLOW = quick(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def refused(folder: Path, content: bytes, own: Settings) -> None:
    """The manifest is refused in sentences, whatever its digest."""
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(Invalid) as error:
        verify(folder, digest_bytes(content), own)
    for problem in error.value.problems:
        assert problem.what.isprintable()
        assert len(problem.what) < 1000


@SLOW
@given(
    content=st.binary(max_size=60)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | VALUES.map(lambda value: json.dumps({"files": value}).encode())
    | st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=4).map(
        lambda files: json.dumps({"name": "m", "version": 2, "files": files}).encode()
    )
)
def test_no_manifest_brings_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    base = tmp_path_factory.getbasetemp() / "manifests"
    own = Settings(home=base / "home")
    if not (base / "made").exists():
        pack(own, base / "made", "m", 2, GRAPH)
    refused(base / "made" / "m", content, own)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"files": ' + b'{"a":' * 100_000 + b"}" * 100_001,
        b'{"files": {"a": 1}}',
        b'{"files": {"\\ud800": "x"}}',
        b'{"files": {"\xff": "x"}}',
        b'{"files": {"a": "' + b"9" * 500_000 + b'"}}',
        b'{"files": {' + b",".join(b'"%d": ""' % number for number in range(50_000)) + b"}}",
        b'{"files": {}, "version": ' + b"9" * 5000 + b"}",
        b'{"files": {}, "version": 1e999}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
    ],
)
def test_a_monstrous_manifest_is_a_sentence(own: Settings, packed: tuple[Path, Version], content: bytes) -> None:
    refused(packed[0], content, own)


# -- on the real server


def test_the_old_version_serves_on(stack_settings: Settings, tmp_path: Path, subtests: pytest.Subtests) -> None:
    serve(stack_settings, tmp_path / "first", "guarded", 1)
    before, plane, store = answer(stack_settings, "guarded"), EmbeddedPlane(stack_settings), Store(stack_settings.store)
    for number, (name, (harm, sentence)) in enumerate(HARMS.items()):
        version = pack(stack_settings, tmp_path / str(number), "guarded", 2, GRAPH)
        key = package_key("guarded", 2, version.digest)
        try:
            with subtests.test(name):
                harm(Path(store.path(key)), stack_settings)
                for go in (partial(plane.switch, version, BlueGreen(kind="blue_green")), partial(plane.start, version)):
                    reason = refusal(go)
                    assert sentence in reason, go.func.__name__
        finally:
            for left in (key, *(f"packages/guarded/{beside}" for beside in ("older", "2", "j"))):
                store.delete(left)
        if answer(stack_settings, "guarded") != before:
            pytest.fail(f"the old version is not served after '{name}'; the other cases are not tried")
    assert Live(stack_settings, "guarded").as_kept()["parameters"]["version"]["string_value"] == "1"


def refusal(go: Callable[[], object]) -> str:
    """Return why a call is refused; nothing when it is not."""
    try:
        go()
    except Invalid as error:
        return str(error)
    return ""
