"""The store under stress: what is there is whole, the first writer stays, and a failing disk is told."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from pipeline.digest import digest_json, digest_tree
from pipeline.errors import Invalid, Unavailable
from pipeline.store import Store
from tests.support.s3 import S3, use_endpoint


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def test_of_many_writers_one_is_first_and_whole(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    contents = [bytes([at]) * 200_000 for at in range(8)]
    start = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        start.wait()
        store.write("runs/ref.json", content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("runs/ref.json") in contents
    assert store.list("runs") == ("ref.json",)
    assert not leftovers(tmp_path)


def test_of_many_folders_one_is_first_and_whole(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    folders = []
    for at in range(4):
        folder = tmp_path / f"from{at}"
        folder.mkdir()
        for name in "abc":
            (folder / name).write_text(str(at))
        folders.append(folder)
    threads = [threading.Thread(target=store.put, args=(folder, "model")) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.local("model") as kept:
        assert len({(kept / name).read_text() for name in "abc"}) == 1
    assert not leftovers(tmp_path / "store")


WRITER = """
import sys
from pipeline.store import Store
store = Store(sys.argv[1])
for at in range(10_000):
    store.write("ref.json", bytes([at % 251]) * 500_000, replace=True)
    if at == 9:
        print("ready", flush=True)
"""


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    store = Store(str(tmp_path))
    content = store.read("ref.json")
    assert content == content[:1] * 500_000
    assert store.list("") == ("ref.json",)  # what the killed one was at is not seen


def test_a_full_disk_is_told_loses_nothing_and_a_later_try_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x").write_text("1")
    store.write("old", b"kept")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        patched.setattr(shutil, "copytree", full)
        for attempt in (
            lambda: store.write("new", b"x"),
            lambda: store.write("old", b"x", replace=True),
            lambda: store.put(folder, "model"),
        ):
            with pytest.raises(Unavailable, match="the disk is full"):
                attempt()
    assert store.read("old") == b"kept"
    assert store.list("") == ("old",)
    assert not leftovers(tmp_path / "store")
    store.put(folder, "model")
    assert store.exists("model")


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((Invalid, Unavailable), match="file"):
        Store(str(tmp_path / "file" / "store")).write("a", b"x")


def test_a_store_in_memory_gives_local_copies_that_go() -> None:
    store = Store("memory://slipway-test-copies")
    store.write("a/b", b"x")
    with store.local("a/b") as path:
        assert path.read_bytes() == b"x"
    assert not path.exists()
    assert not store.is_local
    store.delete("a")
    assert store.list("a") == ()


def test_an_object_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Unavailable, match=r"bucket/store/key: the artifact store failed: .*127\.0\.0\.1:9"):
        Store("s3://bucket/store").exists("key")


@pytest.mark.parametrize(
    ("code", "status", "error", "said"),
    [
        ("ExpiredToken", 400, Unavailable, "does not take the credentials .* renew them"),
        ("InvalidAccessKeyId", 403, Invalid, "refuses the credentials .* AWS_ACCESS_KEY_ID"),
        ("AccessDenied", 403, Invalid, "refuses the credentials .* give them the right"),
        ("NoSuchBucket", 404, Invalid, "there is no such bucket -> make it"),
    ],
)
def test_a_bucket_that_refuses(
    monkeypatch: pytest.MonkeyPatch, code: str, status: int, error: type[Exception], said: str
) -> None:
    refusal = Response(f"<Error><Code>{code}</Code><Message>no</Message></Error>", status, content_type="text/xml")
    server = make_server("127.0.0.1", 0, refusal, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    store = Store("s3://bucket/store")
    try:
        with pytest.raises(error, match=said):
            store.write("key", b"x")
        with pytest.raises(error, match=said):
            store.read("key")
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in a bucket of its own, named as the chart names it: by AWS's own variables."""
    s3.use(monkeypatch)
    return Store(f"s3://{s3.create_bucket()}/some/store")


def test_a_bucket_holds_what_a_folder_holds(bucket: Store, tmp_path: Path) -> None:
    assert not bucket.exists("a/b")
    bucket.write("a/b", b"first")
    bucket.write("a/b", b"second")  # the first writer's stays
    assert bucket.read("a/b") == b"first"
    bucket.write("a/b", b"third", replace=True)
    assert bucket.read("a/b") == b"third"
    with pytest.raises(FileNotFoundError):
        bucket.read("a/none")
    folder = tmp_path / "model"
    (folder / "1").mkdir(parents=True)
    (folder / "config").write_bytes(b"c")
    (folder / "1" / "model.onnx").write_bytes(b"m" * 100_000)
    bucket.put(folder, "packages/model")
    assert bucket.exists("packages/model")
    assert bucket.list("packages/model") == ("1", "config")
    with bucket.local("packages/model") as copy:
        found = {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert found == {"config": b"c", "1/model.onnx": b"m" * 100_000}
    bucket.delete("packages/model")
    assert not bucket.exists("packages/model")


def test_a_folder_of_a_bucket_whose_writer_died_is_written_again(
    bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    put_file, calls = bucket.filesystem.put_file, iter(range(9))

    def dies(*arguments: object) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        put_file(*arguments)

    monkeypatch.setattr(bucket.filesystem, "put_file", dies)
    with pytest.raises(KeyboardInterrupt):
        bucket.put(folder, "model")
    assert not bucket.exists("model")
    with pytest.raises(FileNotFoundError), bucket.local("model"):
        pass
    bucket.put(folder, "model")
    with bucket.local("model") as copy:
        assert sorted(path.name for path in copy.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_many_files_are_read_at_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = Store(str(tmp_path / "store")) if kind == "folder" else request.getfixturevalue("bucket")
    folder = tmp_path / "entry"
    folder.mkdir()
    (folder / "record.json").write_text("{}")
    keys = [f"records/m/{at:06d}" for at in range(1, 31)]
    for key in keys[:-1]:
        store.put(folder, key)
    store.write(f"{keys[-1]}.run", b"claimed")
    assert store.existing(keys) == tuple(keys[:-1])
    files = [f"{key}/record.json" for key in keys]
    assert store.read_each(files) == dict.fromkeys(files[:-1], b"{}")
    assert store.read_each(files[-1:]) == {}
    assert store.read_each([]) == {}


def test_a_folder_of_a_bucket_that_is_half_written_does_not_exist(bucket: Store) -> None:
    bucket.write("records/half/000001/record.json", b"{}")
    assert bucket.existing(["records/half/000001"]) == ()


def test_what_is_not_what_was_written_is_written_anew_once_it_is_removed(tmp_path: Path) -> None:
    store, folder = Store(str(tmp_path / "store")), tmp_path / "from"
    folder.mkdir()
    (folder / "a").write_text("whole")
    key = f"trees/{digest_json(digest_tree(folder))}"
    store.put(folder, key)
    (Path(store.path(key)) / "a").write_text("bent")
    store.put(folder, key)  # the first writer stays
    with pytest.raises(Invalid, match="remove it and start a new run"), store.whole(key):
        pass
    store.delete(key)
    store.put(folder, key)
    with store.whole(key) as found:
        assert (found / "a").read_text() == "whole"
