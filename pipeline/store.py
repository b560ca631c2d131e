"""The artifact store: files by key on any fsspec file system. What is there is whole, and never changes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pipeline.digest import digest_file, digest_json, digest_tree
from pipeline.disk import disk
from pipeline.errors import Invalid, Unavailable

WHOLE = ".whole"  # the last object of a folder in an object store
NUMBER = re.compile("[0-9]{1,18}")  # name of a folder that is a number: of a version, of an entry
_DIGEST = re.compile("[0-9a-f]{64}")
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
# what S3 answers when credentials are over; "400" is all that HEAD, which has no body, can say of it
_OVER = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed", "400"}


@contextmanager
def _outside(where: str) -> Iterator[None]:
    """Turn a failure of the disk or of the object store into a sentence."""
    with disk(where, "the artifact store", "SLIPWAY_STORE"):
        try:
            yield
        except NoCredentialsError as error:
            remedy = f"set {_KEYS}, or run again where the machine gives them"
            raise Unavailable("there are no credentials for the artifact store", where, remedy) from error
        except BotoCoreError as error:  # an object store that does not answer is no OSError to its client
            raise Unavailable(f"the artifact store failed: {error}", where, "run again when it answers") from error
        except OSError as error:
            _refused(error, where)
            raise


def _refused(error: OSError, where: str) -> None:
    """Raise what says that an object store has refused; return when it has not."""
    cause = error.__cause__
    code = cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""
    if code == "NoSuchBucket":
        raise Invalid("there is no such bucket", where, "make it, or set SLIPWAY_STORE") from error
    if code in _OVER:
        remedy = "renew them (AWS_SESSION_TOKEN and what goes with it) and run again; nothing was lost"
        raise Unavailable(
            f"the artifact store does not take the credentials ({code}: {error})", where, remedy
        ) from error
    if code and isinstance(error, PermissionError):
        remedy = f"give them the right to read and write there, or set {_KEYS}"
        raise Invalid(f"the artifact store refuses the credentials ({code}: {error})", where, remedy) from error


class Store:
    """Artifacts by key (a relative POSIX path). Writes are atomic and the first one stays.

    Raises:
        Unavailable: the file system failed (a full disk, a network). A retry helps.
        Invalid: it may not be written. A retry does not help.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with _outside(url):
            self._fs, self._root = fsspec.url_to_fs(url, use_listings_cache=False)  # others write too
        self.is_local: bool = "file" in (
            self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)
        )

    def path(self, key: str) -> str:
        """The full path of `key` on the store's file system."""
        return f"{self._root}/{key}"

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The file system of `path`, for readers in other processes: it can be sent there."""
        return self._fs

    def exists(self, key: str) -> bool:
        """Whether a file or folder of this key is there, whole."""
        with _outside(self.path(key)):
            if self.is_local:
                return bool(self._fs.exists(self.path(key)))
            return self._is_object(key) or self._is_object(f"{key}/{WHOLE}")

    def existing(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Those of the keys of whose folders `exists` holds; of an object store, many are asked for at once."""
        if self.is_local:
            return tuple(key for key in keys if self.exists(key))
        marks = self.read_each([f"{key}/{WHOLE}" for key in keys])
        return tuple(key for key in keys if f"{key}/{WHOLE}" in marks)

    def read_each(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The bytes of each file that is there, by key; of an object store, many are read at once."""
        with _outside(self._root):
            if self.is_local:  # which asks nobody to wait
                paths = {key: Path(self.path(key)) for key in keys}
                return {key: path.read_bytes() for key, path in paths.items() if path.is_file()}
            if not keys:
                return {}
            answers = self._fs.cat([self.path(key) for key in keys], on_error="return")
            found = {key: answers[self.path(key)] for key in keys}
            for answer in found.values():
                if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
                    raise answer
            return {key: bytes(answer) for key, answer in found.items() if not isinstance(answer, Exception)}

    def read(self, key: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError when there is none."""
        with _outside(self.path(key)):
            return bytes(self._fs.cat_file(self.path(key)))

    def write(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """Write a file at once and whole; an existing one stays unless `replace`."""
        with _outside(self.path(key)):
            if self.is_local:
                _write_local(data, Path(self.path(key)), replace)
            else:
                self._pipe(key, data, replace)

    def put(self, local: Path, key: str) -> None:
        """Copy a local file or folder to `key`, at once and whole; an existing one stays."""
        with _outside(self.path(key)):
            if self.exists(key):
                return
            if self.is_local:
                _put_local(local, Path(self.path(key)))
                return
            if local.is_file():
                with suppress(FileExistsError):  # the first writer's file stays
                    self._fs.put_file(str(local), self.path(key), mode="create")
                return
            # an object store has no folders that could be renamed: the last object says that all others are there
            for path in sorted(path for path in local.rglob("*") if path.is_file()):
                self._fs.put_file(str(path), f"{self.path(key)}/{path.relative_to(local).as_posix()}")
            self._pipe(f"{key}/{WHOLE}", b"", replace=True)

    def delete(self, key: str) -> None:
        """Remove a file or folder, if it is there."""
        with _outside(self.path(key)):
            if self._fs.exists(self.path(key)):
                self._fs.rm(self.path(key), recursive=True)

    def list(self, key: str) -> tuple[str, ...]:
        """Names directly below `key`, sorted; none when it is not there."""
        with _outside(self.path(key)):
            if not self._fs.exists(self.path(key)):
                return ()
            names = (str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in self._fs.ls(self.path(key), detail=False))
            return tuple(sorted(name for name in names if not name.startswith(".")))

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """A local path with the content of `key`: itself when the store is local, else a copy for the while.

        Raises FileNotFoundError when there is none.
        """
        if not self.exists(key):
            raise FileNotFoundError(self.path(key))
        if self.is_local:
            yield Path(self.path(key))
            return
        with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
            target = Path(folder) / key.rsplit("/", 1)[-1]
            with _outside(self.path(key)):
                self._fs.get(self.path(key), str(target), recursive=True)
            if target.is_dir():
                (target / WHOLE).unlink(missing_ok=True)
            yield target

    @contextmanager
    def whole(self, key: str) -> Iterator[Path]:
        """As `local`, for a key that is named by the digest of its content: a file, or a folder by its files.

        Raises:
            Invalid: it is not there, or has another content than was written. A retry does not help.
        """
        remedy = "bring it back from a copy of the store, or remove it and start a new run"
        if not self.exists(key):
            raise Invalid("it is not there any longer", self.path(key), remedy)
        with self.local(key) as path:
            found = digest_json(digest_tree(path)) if path.is_dir() else digest_file(path)
            name = PurePosixPath(key).stem
            if _DIGEST.fullmatch(name) and found != name:
                what = f"its content has digest {found[:16]}: it is not what was written"
                raise Invalid(what, self.path(key), remedy)
            yield path

    def _is_object(self, key: str) -> bool:
        try:
            return bool(self._fs.info(self.path(key))["type"] == "file")
        except FileNotFoundError:
            return False  # `isfile` would say so of a store that does not answer, too

    def _pipe(self, key: str, data: bytes, replace: bool) -> None:
        """Write one object; without `replace`, only where there is none."""
        with suppress(FileExistsError):  # the first writer's file stays
            self._fs.pipe_file(self.path(key), data, mode="overwrite" if replace else "create")


def _write_local(data: bytes, target: Path, replace: bool) -> None:
    """Write beside the target, then give it its name: a reader sees all of it or nothing."""
    if target.exists() and not replace:
        return
    with _beside(target) as beside:
        beside.write_bytes(data)
        if replace:
            beside.replace(target)
            return
        with suppress(FileExistsError):  # the first writer's file stays
            os.link(beside, target)


def _put_local(source: Path, target: Path) -> None:
    """Copy beside the target, then give it its name: a reader sees all of it or nothing."""
    with _beside(target) as beside:
        if source.is_file():
            shutil.copyfile(source, beside)
            with suppress(FileExistsError):  # the first writer's file stays
                os.link(beside, target)
            return
        shutil.copytree(source, beside)
        try:
            beside.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # another writer of the same content came first otherwise: its folder stays


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A name in the target's folder, of which nothing is left afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        yield beside
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)
