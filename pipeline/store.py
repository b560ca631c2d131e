"""The artifact store: files by key on any fsspec file system. What is there is whole, and never changes."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from botocore.exceptions import BotoCoreError

from pipeline.errors import Invalid, Unavailable


@contextmanager
def _outside(where: str) -> Iterator[None]:
    """Turn an operating-system failure into a sentence."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("the disk is full", where, "free some space and run again; nothing was lost") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Invalid("no permission to write", where, "give this user the right, or set SLIPWAY_STORE") from error
        raise Unavailable(f"the artifact store failed: {error}", where, "run again when it answers") from error
    except BotoCoreError as error:  # an object store that does not answer is no OSError to its client
        raise Unavailable(f"the artifact store failed: {error}", where, "run again when it answers") from error


class Store:
    """Artifacts by key (a relative POSIX path). Writes are atomic and the first one stays.

    Raises:
        Unavailable: the file system failed (a full disk, a network). A retry helps.
        Invalid: it may not be written. A retry does not help.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with _outside(url):
            self._fs, self._root = fsspec.url_to_fs(url)
        self.is_local: bool = "file" in (
            self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)
        )

    def path(self, key: str) -> str:
        """The full path of `key` on the store's file system."""
        return f"{self._root}/{key}"

    def exists(self, key: str) -> bool:
        """Whether a file or folder of this key is there, whole."""
        with _outside(self.path(key)):
            return bool(self._fs.exists(self.path(key)))

    def read(self, key: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError when there is none."""
        with _outside(self.path(key)):
            return bytes(self._fs.cat_file(self.path(key)))

    def write(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """Write a file at once and whole; an existing one stays unless `replace`."""
        with tempfile.TemporaryDirectory(prefix="slipway-") as folder, _outside(self.path(key)):
            local = Path(folder) / "file"
            local.write_bytes(data)
            self._put(local, key, replace)

    def put(self, local: Path, key: str) -> None:
        """Copy a local file or folder to `key`, at once and whole; an existing one stays."""
        with _outside(self.path(key)):
            self._put(local, key, replace=False)

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
            yield target

    def _put(self, local: Path, key: str, replace: bool) -> None:
        if not replace and self._fs.exists(self.path(key)):
            return
        if self.is_local:
            _put_local(local, Path(self.path(key)), replace)
        else:  # an object store writes each object whole; a manifest, written by the caller last, closes a folder
            self._fs.put(str(local), self.path(key), recursive=local.is_dir())


def _put_local(source: Path, target: Path, replace: bool) -> None:
    """Copy beside the target, then rename: a reader sees all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        if source.is_dir():
            shutil.copytree(source, beside)
            try:
                beside.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise  # another writer of the same content came first otherwise: its folder stays
        else:
            shutil.copyfile(source, beside)
            if replace:
                beside.replace(target)
            elif not target.exists():
                os.link(beside, target)
    except FileExistsError:
        pass  # the first writer's file stays
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)
