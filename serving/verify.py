"""`slipway verify`: whether what a version is made of is what was signed, wherever it lies; nothing is changed."""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.table import Table

from pipeline.digest import digest_file
from pipeline.errors import Invalid, Problem, Unavailable
from pipeline.frozen import Frozen
from pipeline.lineage_find import ONNX, PACKAGE, find
from pipeline.record import RECORD, digest_of, parse_record, record_key, sequences
from pipeline.registry import Registry, Version
from pipeline.settings import Settings
from pipeline.store import Store
from serving.external_data import external_data
from serving.fetch import fetch
from serving.ledger import trusted
from serving.ledger import verified as signed
from serving.live import Live
from serving.model_config import FILE, MODEL_FILE
from serving.package import MANIFEST, package_key, read_manifest, verify
from serving.pickles import find_pickles
from serving.places import repository
from serving.record import KEY_TAG, TAG
from serving.signing import SIGNATURE, check_signature

_NAME = re.compile(r"[a-z][a-z0-9_]*([/@]\w+)?")  # of a model, a version, an alias
_LONGEST = 300  # letters of what MLflow may know
_REMEDY = "name a folder, a MODEL or MODEL/VERSION"


class Checked(Frozen):
    """One thing that was looked at: whole when there are no problems, unless `left` says why it was not looked at."""

    what: str
    where: str
    problems: tuple[Problem, ...] = ()
    left: str = ""


def verified(settings: Settings, what: str) -> tuple[Checked, ...]:
    """What was found about a folder, MODEL, MODEL@ALIAS, MODEL/VERSION, or whatever else names versions.

    Raises:
        Invalid: nothing is called so. A retry does not help.
        Unavailable: MLflow, the store or a disk do not answer. A retry helps.
    """
    if not what.strip():
        raise Invalid("nothing is named", "WHAT", _REMEDY)
    try:
        if (folder := _existing(what)) is not None:
            if folder.is_dir() and (_is_ours(folder) or not _NAME.fullmatch(what)):  # not what a model is called like
                return tuple(_folder(settings, folder))
            if folder.is_file():
                remedy = "name the folder that it lies in, or a MODEL"
                raise Invalid("it is a file, and only folders are signed", what, remedy)
    except OSError as error:
        remedy = "look at its owner and its disk, and run again"
        raise Unavailable(f"it cannot be read: {error}", what, remedy) from error
    if len(what) > _LONGEST or not what.isprintable():
        raise Invalid(f"nothing is called {what[:80]!r}{'…' if len(what) > 80 else ''}", "WHAT", _REMEDY)
    registry = Registry(settings)
    versions = find(registry, what).versions
    if not versions:
        raise Invalid(f"no version was made of {what!r}", registry.uri, _REMEDY)
    return tuple(item for version in versions for item in _Version(settings, registry, version).look())


def table(found: tuple[Checked, ...]) -> Table:
    """What was looked at, for people."""
    shown = Table(box=None, pad_edge=False)
    for header in ("looked at", "where", "found"):
        shown.add_column(header, overflow="fold")
    for one in found:
        said = one.left or ("refused" if one.problems else "whole")
        shown.add_row(one.what, one.where, said, style="red" if one.problems else "dim" if one.left else None)
    return shown


def _existing(what: str) -> Path | None:
    """What there is on this machine that is called so, if there can be."""
    try:
        path = Path(what).expanduser()
        return path if path.exists() else None
    except (RuntimeError, ValueError):  # ~ of nobody; a letter that no path has
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise


def _folder(settings: Settings, folder: Path) -> Iterator[Checked]:
    """A package, an entry of a ledger, or any folder that may be signed and may hide pickles."""
    where = str(folder)
    if (folder / MANIFEST).exists():
        yield _checked("package, by its own manifest", where, lambda: _own(settings, folder))
        return
    if (folder / RECORD).exists():
        yield _checked("record", where, lambda: parse_record((folder / RECORD).read_bytes(), where))
    if _is_ours(folder):
        yield _checked("signature", where, lambda: check_signature(folder, settings))
    else:
        nothing = Problem("nothing here is signed", where, "name a package, an entry of a ledger, or a MODEL")
        yield Checked(what="signature", where=where, problems=(nothing,))
    yield _checked("no pickles", where, lambda: _no_pickles(folder, where))


def _is_ours(folder: Path) -> bool:
    return any((folder / name).exists() for name in (MANIFEST, RECORD, SIGNATURE))


def _own(settings: Settings, folder: Path) -> None:
    verify(folder, read_manifest(folder).digest, settings)


class _Version:
    """A registered version, and where all that it is made of lies."""

    def __init__(self, settings: Settings, registry: Registry, version: Version) -> None:
        self.settings, self.registry, self.version = settings, registry, version
        self.store = Store(settings.store)
        self.name, self.number, self.tags = version.name, version.version, version.tags
        self.digest = self.tags.get(PACKAGE, "")

    def look(self) -> Iterator[Checked]:
        """At the package, what serves here, what MLflow keeps, the records."""
        with tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
            copy, logged = Path(scratch) / "package" / self.name, Path(scratch) / "mlflow"
            yield self._package(copy)
            yield self._serves()
            model_id = self.registry.download(self.name, self.number, logged)
            check = partial(self._graph, logged / "models" / model_id / MODEL_FILE, copy)
            yield _checked("graph in MLflow is the packaged one", f"models:/{model_id}", check)
            for kind in ("models", "runs"):
                for folder in sorted((logged / kind).iterdir()):
                    where = f"{kind}:/{folder.name}"
                    yield _checked("no pickles in MLflow", where, partial(_no_pickles, folder, where))
        yield from self._records()

    def _package(self, copy: Path) -> Checked:
        what = f"package of {self.name}, version {self.number}"
        if not self.digest:
            return Checked(what=what, where=self.registry.uri, left="it was never packaged")
        key = package_key(self.name, self.number, self.digest)
        return _checked(what, self.store.path(key), lambda: fetch(self.store, self.settings, key, self.digest, copy))

    def _serves(self) -> Checked:
        """The copy on this machine, if it is this version that serves here."""
        what, model = "what serves here", repository(self.settings) / self.name
        if self.settings.runtime != "local":
            return Checked(what=what, where=self.settings.namespace, left="each pod verifies its own before it starts")
        if not (model / FILE).exists():
            return Checked(what=what, where=str(model), left="it does not serve on this machine")
        try:
            serves = int(Live(self.settings, self.name).as_kept()["parameters"]["version"]["string_value"])
        except Invalid as error:
            return Checked(what=what, where=str(model), problems=error.problems)
        return Checked(what=what, where=str(model), left="" if serves == self.number else f"version {serves} serves")

    def _graph(self, graph: Path, copy: Path) -> None:
        where, remedy = (
            f"models:/{graph.parent.name}",
            "one of the two was changed by another hand: run the pipeline again",
        )
        if not graph.is_file():
            raise Invalid(f"MLflow has no {MODEL_FILE}", where, remedy)
        found = digest_file(graph)
        packaged = copy / str(self.number) / MODEL_FILE
        said = {"by the version's tag": self.tags.get(ONNX, "")}
        if packaged.is_file():
            said["in the package"] = digest_file(packaged)
        wrong = [f"{by} {digest[:16] or 'none'}" for by, digest in said.items() if digest != found]
        problems = [Problem(f"its digest is {found[:16]}, {', '.join(wrong)}", where, remedy)] if wrong else []
        problems += external_data(graph, where)
        if problems:
            raise Invalid(problems)

    def _records(self) -> Iterator[Checked]:
        """Each entry of the model's ledger: signed, in its place, and the digests that it names of this version."""
        numbers = sequences(self.store, self.name)
        where = self.store.path(f"records/{self.name}")
        if not numbers:
            yield Checked(what="ledger", where=where, left="nothing was promoted yet")
            return
        yield _checked(
            "no entry of the ledger is missing", where, lambda: trusted(self.settings, self.store, self.name)
        )
        for number in numbers:
            where = self.store.path(record_key(self.name, number))
            yield _checked(f"entry {number} of the ledger", where, partial(self._entry, number, where))

    def _entry(self, number: int, where: str) -> None:
        entry, problems = signed(self.settings, self.store, self.name, number), []
        if entry.version != self.number:
            return
        named = {"package": (entry.package.digest, self.digest), "graph": (entry.onnx_digest, self.tags.get(ONNX, ""))}
        if self.tags.get(KEY_TAG) == entry.key:
            named["record"] = (digest_of(self.store, self.name, number), self.tags.get(TAG, ""))
        for what, (ours, theirs) in named.items():
            if ours != theirs:
                said = f"the {what} has digest {ours[:16]}, MLflow says {theirs[:16] or 'none'}"
                problems.append(Problem(said, where, "its tags were changed by another hand: `slipway reconcile`"))
        if problems:
            raise Invalid(problems)


def _checked(what: str, where: str, check: Callable[[], object]) -> Checked:
    try:
        check()
    except Invalid as error:
        return Checked(what=what, where=where, problems=error.problems)
    return Checked(what=what, where=where)


def _no_pickles(folder: Path, where: str) -> None:
    remedy = "nothing pickled crosses to serving: train it anew, and ask where it is from"
    try:
        found = [Problem(f"{name} {what}", where, remedy) for name, what in find_pickles(folder)]
    except OSError as error:
        raise Unavailable(
            f"a file cannot be read: {error}", where, "run again when nothing is written there"
        ) from error
    if found:
        raise Invalid(found)
