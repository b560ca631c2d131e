"""What the init container of a served version does: the package as it was promised, or nothing and a sentence."""

from __future__ import annotations

import errno
import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.digest import digest_bytes
from pipeline.errors import Invalid, Unavailable
from pipeline.settings import Settings
from pipeline.store import Store
from serving.fetch import fetch
from serving.signing import sign

FILES = {"config.pbtxt": b"name: 'm'", "1/model.onnx": b"graph"}
Harm = Callable[[Path], object]


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Store, str, Path]:
    """A store with one package; its digest and folder."""
    store = Store(str(tmp_path / "store"))
    listed = {name: digest_bytes(content) for name, content in FILES.items()}
    text = json.dumps({"files": listed}).encode()
    for name, content in {**FILES, "manifest.json": text}.items():
        store.write(f"packages/m/1/{name}", content)
    sign(Path(store.path("packages/m/1")), Settings(home=tmp_path / "home"))
    return store, digest_bytes(text), Path(store.path("packages/m/1"))


def test_what_is_whole_is_there(kept: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, digest, _ = kept
    for _ in range(2):  # an init container that starts again
        fetch(store, Settings(home=tmp_path / "home"), "packages/m/1", digest, tmp_path / "models" / "m")
    assert {name: (tmp_path / "models" / "m" / name).read_bytes() for name in FILES} == FILES
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda at: (at / "1" / "model.onnx").write_bytes(b"graqh"), "1/model.onnx has another content"),
        (lambda at: (at / "1" / "model.onnx").unlink(), "1/model.onnx is missing"),
        (lambda at: (at / "1" / "more.onnx").write_bytes(b""), "1/more.onnx is not in the manifest"),
        (lambda at: (at / "link").symlink_to("/etc/passwd"), "link is a link"),
        (lambda at: (at / "manifest.json").write_bytes(b"{"), "the manifest cannot be read"),
        (lambda at: at.rename(at.parent / "away"), "the store has no such package"),
        (lambda at: (at / "model.sig").unlink(), "there is no signature"),
        (lambda at: (at / "model.sig").write_bytes(b"{}"), "the signature does not hold"),
        (lambda at: sign(at, Settings(home=at / ".." / "other")), "the signature does not hold"),
        (lambda at: (at / "empty").mkdir(), "empty is an empty folder"),
        (lambda at: (at / "1" / "model.onnx").write_bytes(gzip.compress(pickle.dumps(at))), "is a pickle, packed"),
    ],
)
def test_what_is_not_is_refused(kept: tuple[Store, str, Path], tmp_path: Path, harm: Harm, said: str) -> None:
    store, digest, at = kept
    harm(at)
    with pytest.raises(Invalid, match=said) as refused:
        fetch(store, Settings(home=tmp_path / "home"), "packages/m/1", digest, tmp_path / "models" / "m")
    assert str(at) in str(refused.value)
    assert not list((tmp_path / "models").glob("*"))


def test_another_package_is_refused(kept: tuple[Store, str, Path], tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="not the one of this version"):
        fetch(kept[0], Settings(home=tmp_path / "home"), "packages/m/1", "0" * 64, tmp_path / "models" / "m")
    assert not list((tmp_path / "models").glob("*"))


def test_what_is_no_file_is_told(kept: tuple[Store, str, Path], tmp_path: Path) -> None:
    store, digest, at = kept
    os.mkfifo(at / "pipe")
    with pytest.raises(Unavailable, match=r"models/m: the disk failed: .*pipe"):
        fetch(store, Settings(home=tmp_path / "home"), "packages/m/1", digest, tmp_path / "models" / "m")
    assert not list((tmp_path / "models").glob("*"))


def test_a_full_disk_is_told(kept: tuple[Store, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(Unavailable, match="the disk is full"):
        fetch(kept[0], Settings(home=tmp_path / "home"), "packages/m/1", kept[1], tmp_path / "models" / "m")
