"""`python -m serving.start [NAME VERSION DIGEST] -- TRITONSERVER …`: verifies every file, then becomes tritonserver.

The packages that are kept are signed, and the repository is made of them: what differs is made whole again from the
package, and that from the store. What cannot be is not offered to Triton; the other models serve, and the next start
tries again. Every write is whole and of verified content, so that a promotion under way meanwhile needs no lock.
With NAME VERSION DIGEST it is a challenger's server.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

from pipeline.errors import Invalid, Problem, SlipwayError
from pipeline.settings import Settings, read_settings
from pipeline.store import NUMBER, Store
from serving.ledger import trusted
from serving.model_config import FILE
from serving.package import package_key, verify, verify_as
from serving.places import challenger, packages, place, remove, replace, repository, same

log = logging.getLogger("slipway")
_LONGEST = 1 << 20  # bytes of a switch
_VERSION = re.compile(rb"versions: \[ (\d{1,9}) \]")
_REMEDY = "run the pipeline again; `slipway verify MODEL` says what is whole"


def sound(settings: Settings) -> tuple[str, ...]:
    """Names of the models that may be loaded: what is damaged is made whole first, what cannot be is told."""
    found = []
    for model in sorted(repository(settings).glob("*")):
        try:
            if model.is_symlink():
                raise Invalid("it is a link", str(model), "remove it: nothing of Slipway's is one")
            if model.is_dir():
                _make_whole(settings, model.name)
                found.append(model.name)
        except (SlipwayError, OSError) as error:
            log.error("%s is not loaded: %s", model.name, error)
    return tuple(found)


def _make_whole(settings: Settings, name: str) -> None:
    """Make switch and version of a model those of a kept package that is signed.

    Raises:
        Invalid: neither that package nor the store's is whole. A retry does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    model, version = repository(settings) / name, _version(settings, name)
    package = packages(settings, name) / str(version)
    try:
        verify_as(package, name, version, settings)
    except Invalid as error:
        log.warning("%s: the package of version %d is fetched again: %s", name, version, error)
        _fetch(settings, name, version, package)
    switch, content = model / FILE, (package / FILE).read_bytes()
    if _read(switch) != content:
        log.warning("%s: %s was not that of version %d, and is the package's again", name, FILE, version)
        remove(switch)
        replace(switch, content)
    if not same(package / str(version), model / str(version)):
        log.warning("%s: version %d was not as it is packaged, and is placed again", name, version)
        remove(model / str(version))
        place(package / str(version), model / str(version))
    for stray in model.iterdir():  # another version is not loaded; what begins with a dot is about to be a version
        if stray.name != FILE and not NUMBER.fullmatch(stray.name) and not stray.name.startswith("."):
            log.warning("%s: %s does not belong there, and is removed", name, stray.name)
            remove(stray)


def whole_challenger(settings: Settings, name: str, version: int, digest: str) -> None:
    """Make a challenger's repository the package of this digest, from the store where it is not.

    Raises:
        Invalid: the store has no such package, or another one. A retry does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    folder, key = challenger(settings, name, version) / name, package_key(name, version, digest)
    if folder.is_dir():
        try:
            return verify(folder, digest, settings)
        except Invalid as error:
            log.warning("challenger %s, version %d, is fetched again: %s", name, version, error)
    store = Store(settings.store)
    remove(folder)
    try:
        with store.local(key) as source:
            place(source, folder)
        verify(folder, digest, settings)
    except FileNotFoundError as error:
        raise Invalid("the store has no such package", store.path(key), "run the pipeline again") from error
    except Invalid:
        remove(folder)
        raise


def _version(settings: Settings, name: str) -> int:
    """The version that ought to serve: whose switch it is, or by the ledger, or by what is left of the switch."""
    content = _read(repository(settings) / name / FILE)
    for package in sorted(packages(settings, name).glob("*")):
        if content and NUMBER.fullmatch(package.name) and _read(package / FILE) == content:
            return int(package.name)
    if entry := trusted(settings, Store(settings.store), name):
        return entry.version
    if found := _VERSION.search(content):
        return int(found[1])
    raise Invalid("nothing says which version ought to serve", str(repository(settings) / name), _REMEDY)


def _fetch(settings: Settings, name: str, version: int, target: Path) -> None:
    """Replace a kept package by the store's. Raises Invalid, with what is wrong with each, when none is whole."""
    store, problems = Store(settings.store), list[Problem]()
    for found in store.list(f"packages/{name}"):
        if not found.startswith(f"{version}-"):
            continue
        remove(target)
        key = f"packages/{name}/{found}"
        try:
            with store.local(key) as source:
                place(source, target)
            if package_key(name, version, verify_as(target, name, version, settings)) == key:
                return
            problems.append(Problem("it is another package than its name says", store.path(key), _REMEDY))
        except Invalid as error:
            problems += error.problems
        remove(target)
    nothing = Problem(f"the store has no package of version {version}", store.path(f"packages/{name}"), _REMEDY)
    raise Invalid(problems or nothing)


def _read(path: Path) -> bytes:
    """The content of a plain file of bearable size; nothing when it is none."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _LONGEST:
        return b""
    return path.read_bytes()


def main(arguments: list[str]) -> None:
    """Verify, then become the server. A challenger that is not whole does not start, and says why."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    at = arguments.index("--")
    which, server = arguments[:at], arguments[at + 1 :]
    try:
        settings = read_settings()
        if which:
            name, version, digest = which
            whole_challenger(settings, name, int(version), digest)
            models: tuple[str, ...] = (name,)
        else:
            models = sound(settings)
    except SlipwayError as error:
        for problem in error.problems:
            sys.stderr.write(f"{error.title}: {problem}\n")
        sys.exit(error.exit_code)
    os.environ.pop("PYTHONPATH", None)  # of this Python; the models' processes have another
    os.execv(server[0], [*server, *(f"--load-model={name}" for name in models)])  # noqa: S606 (our own Program's argv)


if __name__ == "__main__":
    main(sys.argv[1:])
