"""What lies in the embedded Triton's repository, held against the package of the version that ought to serve."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import Invalid
from pipeline.settings import Settings
from serving.live import Live
from serving.manifests import Version
from serving.model_config import FILE
from serving.package import verify
from serving.places import repository
from serving.triton import parse_config


class EmbeddedState:
    """The repository of one machine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def served_models(self) -> tuple[str, ...]:
        """Names of the models that the repository has."""
        return tuple(sorted(path.parent.name for path in repository(self.settings).glob(f"*/{FILE}")))

    def moved(self, version: Version) -> Iterator[str]:
        """Each thing that is not as a promotion of this version leaves it, as a sentence."""
        live, model = Live(self.settings, version.name), repository(self.settings) / version.name
        kept, placed = live.package(version.number), model / str(version.number)
        try:
            verify(kept, version.digest, self.settings)
        except Invalid as error:
            for problem in error.problems:
                yield f"the kept package of version {version.number} is not what was promoted: {problem.what}"
            return  # there is nothing here to hold the repository against
        if links := [path for path in (model, placed, model / FILE) if path.is_symlink()]:
            yield from (f"{path} is a link, {_by(path)}" for path in links)
            return
        yield from _config(model / FILE, kept / FILE)
        if not placed.is_dir():
            yield f"{placed} is gone: version {version.number} cannot be loaded again"
            return
        yield from _files(kept / str(version.number), placed)

    def mend(self, version: Version) -> None:
        """Nothing: a switch takes a package that is whole from the store, places and loads it."""


def _files(kept: Path, placed: Path) -> Iterator[str]:
    ours, theirs = _contents(kept), _contents(placed)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            yield f"{placed / name} is gone"
        elif name not in ours:
            yield f"{placed / name} is not in the package, {_by(placed / name)}"
        elif ours[name] != theirs[name]:
            yield f"{placed / name} has another content than the package, {_by(placed / name)}"


def _config(found: Path, ours: Path) -> Iterator[str]:
    if not found.is_file():
        yield f"{found} is gone: nothing serves after a restart"
        return
    if found.read_bytes() == ours.read_bytes():
        return
    by = _by(found)
    try:
        theirs = parse_config(found.read_text(encoding="utf-8"))
        packaged = parse_config(ours.read_text(encoding="utf-8"))
    except (Invalid, UnicodeDecodeError):
        yield f"{found} cannot be read by Triton, {by}"
        return
    changed = [
        f"{key} is {_shown(theirs.get(key))}, packaged {_shown(packaged.get(key))}"
        for key in sorted(theirs.keys() | packaged.keys())
        if theirs.get(key) != packaged.get(key)
    ]
    yield f"{found} is not the package's ({'; '.join(changed) or 'the same settings, written otherwise'}), {by}"


def _shown(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


def _by(path: Path) -> str:
    """Who owns a file, and when it was last written: all that a file system knows."""
    try:
        when = datetime.fromtimestamp(path.lstat().st_mtime, UTC).isoformat(timespec="seconds")
        return f"by another hand (written {when} as {path.owner()})"
    except (OSError, KeyError):
        return "by another hand"
