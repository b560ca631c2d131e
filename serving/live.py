"""What serves: versions in the repository of the serving Triton, and the one switch that moves traffic among them.

Of each model: `packages/NAME/N` (kept, verified), `repository/NAME/N` (immutable), `repository/NAME/config.pbtxt`
(the switch, replaced at once). Killed between any two writes, the old version serves on or the new one does.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from pipeline.disk import disk
from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.settings import Settings
from serving.model_config import FILE
from serving.package import verify, verify_as
from serving.places import packages, place, remove, replace, repository, same
from serving.probe import probe
from serving.triton import TritonClient, parse_config

LOCK_S = 120.0
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Live:
    """One model on the serving Triton."""

    settings: Settings
    name: str

    @contextmanager
    def alone(self, patience_s: float | None = None) -> Iterator[None]:
        """Only one process at a time changes what serves. Raises Unavailable when another takes too long."""
        patience_s = LOCK_S if patience_s is None else patience_s
        path = self.settings.home / "serving" / "locks" / f"{self.name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(path, timeout=patience_s):
                yield
        except filelock.Timeout:
            raise Unavailable(f"another promotion of {self.name} is under way", str(path), "run again later") from None

    def package(self, version: int) -> Path:
        """Where the package of a version is kept."""
        return packages(self.settings, self.name) / str(version)

    def holds(self, version: int, digest: str) -> bool:
        """Whether the version's package is kept, and whole."""
        try:
            verify(self.package(version), digest, self.settings)
        except Invalid:
            return False
        return True

    def keep(self, source: Path, version: int, digest: str) -> None:
        """Keep a version's package, in place of a broken copy. Raises Invalid when it is not whole."""
        package = self.package(version)
        with disk(str(package)):
            remove(package)
        place(source, package)
        try:
            verify(package, digest, self.settings)
        except Invalid:
            shutil.rmtree(package, ignore_errors=True)
            raise

    def switch(self, version: int, digest: str, onnx_digest: str) -> None:
        """Serve a kept version: its directory, then the switch, then Triton, then a real answer.

        When Triton cannot serve it, or does not answer, the switch goes back and what served before serves on.

        Raises:
            Invalid: the package is not whole, or does not load. A retry does not help.
            Unavailable: Triton does not answer. A retry helps.
        """
        kept, model = self.package(version), repository(self.settings) / self.name
        verify(kept, digest, self.settings)
        target, config = model / str(version), model / FILE
        with disk(str(model)):
            if model.is_symlink():
                remove(model)
            if config.is_symlink() or not config.is_file():
                remove(config)
            if not same(kept / str(version), target):
                remove(target)
        if not target.is_dir():
            place(kept / str(version), target)
        before = config.read_bytes() if config.is_file() else None
        replace(config, (kept / FILE).read_bytes())
        with TritonClient(self.settings.triton_grpc, self.settings.timeout_s) as client:
            try:
                client.load(self.name)
                probe(client, self.name, version, onnx_digest)
                if not same(kept / str(version), target):
                    raise Invalid(
                        "its files were changed while it was loaded", str(target), "look at who may write there"
                    )
            except SlipwayError:
                self._back(client, config, before)
                raise

    def as_kept(self) -> dict[str, Any]:
        """The switch as JSON, once it and the version that it names are those of a kept package that is whole.

        Raises:
            Invalid: names what is not as it was promoted. A retry does not help.
        """
        model = repository(self.settings) / self.name
        try:
            text = (model / FILE).read_bytes()
            config = parse_config(text.decode())
            version = int(config["parameters"]["version"]["string_value"])
        except (OSError, ValueError, KeyError) as error:
            what = f"the switch cannot be read: {type(error).__name__} {error}"
            raise Invalid(what, str(model / FILE), "promote or roll back again") from error
        kept = self.package(version)
        verify_as(kept, self.name, version, self.settings)
        if text != (kept / FILE).read_bytes() or not same(kept / str(version), model / str(version)):
            what = f"it is not the package of version {version}: another hand changed it"
            raise Invalid(what, str(model), "promote or roll back again")
        return config

    def _back(self, client: TritonClient, config: Path, before: bytes | None) -> None:
        """The switch as it was; with no version before, the model leaves the server."""
        try:
            if before is None:
                config.unlink(missing_ok=True)
                client.unload(self.name)
            else:
                replace(config, before)
                client.load(self.name)
        except SlipwayError:  # the caller's own error tells more; the old version is loaded in any case
            return

    def prune(self, keep: set[int]) -> None:
        """Remove versions that neither serve nor are kept for a roll-back."""
        for parent in (self.package(0).parent, repository(self.settings) / self.name):
            for folder in parent.glob("[0-9]*"):
                if _NUMBER.fullmatch(folder.name) and int(folder.name) not in keep:
                    with suppress(OSError):  # it serves nobody, and the next promotion tries again
                        remove(folder)
