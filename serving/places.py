"""Where what serves on this machine lies, and how it gets there: whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from pipeline.disk import disk
from pipeline.settings import Settings


def repository(settings: Settings) -> Path:
    """The model repository of the serving Triton."""
    return settings.home / "serving" / "repository"


def packages(settings: Settings, name: str) -> Path:
    """The packages of a model that serves, by version."""
    return settings.home / "serving" / "packages" / name


def challengers(settings: Settings) -> Path:
    """Where challengers' repositories lie."""
    return settings.home / "serving" / "challengers"


def challenger(settings: Settings, name: str, version: int) -> Path:
    """The model repository of a challenger's own Triton."""
    return challengers(settings) / f"{name}-{version}"


def place(source: Path, target: Path) -> None:
    """Copy a folder beside its target, write it through to the disk, then rename: it is there whole or not at all."""
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    with disk(str(target)):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, beside, symlinks=True)
            for path in beside.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    _flush(path)
            beside.rename(target)
            _flush(target.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def replace(path: Path, content: bytes) -> None:
    """Replace a file at once and durably."""
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    with disk(str(path)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(content)
            _flush(beside)
            beside.replace(path)
            _flush(path.parent)
        finally:
            beside.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def same(left: Path, right: Path) -> bool:
    """Whether two folders hold the same plain files, and nothing but those."""
    files, others = _files(left), _files(right)
    return (
        files is not None
        and files == others
        and all((left / name).read_bytes() == (right / name).read_bytes() for name in files)
    )


def _files(folder: Path) -> list[Path] | None:
    """The plain files below a folder; None when it is a link, is not there, or has a link or worse in it."""
    paths = [folder, *folder.rglob("*")]
    if not folder.is_dir() or any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in paths):
        return None
    return sorted(path.relative_to(folder) for path in paths if path.is_file())


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
