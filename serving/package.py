"""Step package: a version of the Triton model repository with its manifest of digests; verified whenever it is read."""

from __future__ import annotations

import json
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field

from pipeline.digest import digest_bytes, digest_file
from pipeline.errors import Invalid, Problem, Unavailable
from pipeline.refs import DatasetRef, ModelVersionRef, PackageRef, ServingOptions, ServingPlan
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.tracking import RUN
from serving.external_data import external_data
from serving.model_config import FILE, MODEL_FILE, model_config
from serving.pickles import find_pickles
from serving.signing import SIGNATURE, check_signature, sign

MANIFEST = "manifest.json"
ALLOWED = {".onnx", ".ubj", ".pbtxt", ".json"}  # nothing that can run code when it is read
MAX_MANIFEST = 1 << 20  # bytes
MOST = 20  # of a kind that are told


@dataclass(frozen=True)
class Built:
    """A package in the store, with the texts that MLflow shows."""

    ref: PackageRef
    config: str
    manifest: str


def package(spec: PipelineSpec, dataset: DatasetRef, model: ModelVersionRef, plan: ServingPlan, run: Run) -> PackageRef:
    """Build the version's folder: config.pbtxt, VERSION/model.onnx, manifest.json, and the signature of all of it.

    For the backend `xgboost`, which answers by the booster, VERSION/features.onnx and VERSION/model.ubj as well.

    Raises as `build` does, and Unavailable when MLflow does not answer (a retry helps).
    """
    built = build(spec, dataset, model, plan.options, run)
    run.registry.set_version_tags(spec.name, model.version, {"slipway.package": built.ref.digest})
    run_id = run.registry.pipeline_run(run, spec)
    run.registry.log_text(run_id, built.config, f"serving/{FILE}")
    run.registry.log_text(run_id, built.manifest, f"serving/{MANIFEST}")
    return built.ref


def build(spec: PipelineSpec, dataset: DatasetRef, model: ModelVersionRef, options: ServingOptions, run: Run) -> Built:
    """The version as it is served with these options, signed, in the store.

    Raises:
        Invalid: the graph in the store is not the one that was registered, or has weights in other files. A retry
            does not help.
        Unavailable: the store does not answer. A retry helps.
    """
    facts = {
        "digest": model.onnx_digest,
        "run": run.id,
        "dataset": dataset.digest,
        "spec": spec.digest,
        "candidate": model.candidate,
    }
    serving = spec.serving.model_copy(update=options.model_dump())
    config = model_config(spec.name, model.version, dataset.row_schema, serving, facts, spec.gates.latency.rows)
    with tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
        folder = Path(scratch) / spec.name
        version = folder / str(model.version)
        version.mkdir(parents=True)
        with run.store.whole(model.onnx_key) as graph:
            shutil.copyfile(graph, version / MODEL_FILE)
        if (found := digest_file(version / MODEL_FILE)) != model.onnx_digest:
            raise Invalid(
                f"the graph has digest {found[:16]}, registered was {model.onnx_digest[:16]}",
                run.store.path(model.onnx_key),
                "the store was changed by another hand: start a new run",
            )
        if options.backend == "xgboost":
            _place_trees(model, version, run)
        for graph in version.glob("*.onnx"):
            if elsewhere := external_data(graph, run.store.path(model.onnx_key)):
                raise Invalid(elsewhere)
        (folder / FILE).write_text(config, encoding="utf-8")
        manifest = {
            "schema_version": 1,
            "name": spec.name,
            "version": model.version,
            RUN: run.id,
            "files": _digests(folder),
        }
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
        digest = digest_bytes(text.encode())
        if pickled := _pickled(folder):
            raise Invalid(pickled)
        sign(folder, run.settings)
        key = package_key(spec.name, model.version, digest)
        run.store.put(folder, key)
    return Built(PackageRef(name=spec.name, version=model.version, key=key, digest=digest), config, text)


def _place_trees(model: ModelVersionRef, version: Path, run: Run) -> None:
    """The booster and what makes its matrix, beside the graph that the version is known by."""
    if model.trees is None:
        raise Invalid(f"{model.candidate} is no booster", "serving.backend xgboost", "serve it by onnxruntime")
    with run.store.whole(model.trees) as folder:
        shutil.copytree(folder, version, dirs_exist_ok=True)


def package_key(name: str, version: int, digest: str) -> str:
    """Where the store keeps a package."""
    return f"packages/{name}/{version}-{digest[:16]}"


def verify(folder: Path, digest: str, settings: Settings) -> None:
    """Return when `folder` is the package of this digest, file by file, signed, and nothing else.

    Raises:
        Invalid: names each file that differs, is missing, is too many, or is of a kind that may not be served; a
            signature that does not hold. A retry does not help.
        Unavailable: a file cannot be read. A retry may help.
    """
    _verify(folder, read_manifest(folder), digest, settings)


def verify_as(folder: Path, name: str, version: int, settings: Settings) -> str:
    """Where nobody says the digest: the folder is a signed package, and of this model and version; its digest.

    Raises as `verify` does.
    """
    manifest = read_manifest(folder)
    if (manifest.name, manifest.version) != (name, version):
        what = f"it is the package of {_shown(manifest.name)}, version {manifest.version}"
        raise Invalid(what, str(folder), f"version {version} of {name} belongs there: run the pipeline again")
    _verify(folder, manifest, manifest.digest, settings)
    return manifest.digest


def _verify(folder: Path, manifest: Manifest, digest: str, settings: Settings) -> None:
    problems = []
    if manifest.digest != digest:
        what = "the manifest is not the one of this version"
        problems.append(Problem(what, str(folder / MANIFEST), "package it again"))
    try:
        different = [f"{_shown(name)} {what}" for name, what in _differences(folder, manifest.files)]
        problems += _pickled(folder)
    except OSError as error:
        raise Unavailable(
            f"a file cannot be read: {error}", str(folder), "look at the disk, and at its owner"
        ) from error
    remedy = "package it again; what serves was not touched"
    problems += [Problem(what, str(folder), remedy) for what in different[:MOST]]
    if len(different) > MOST:
        problems.append(Problem(f"and {len(different) - MOST} more", str(folder), remedy))
    try:
        check_signature(folder, settings)
    except Invalid as error:
        problems += error.problems
    if problems:
        raise Invalid(problems)


class Manifest(BaseModel):
    """What is read of a manifest; nothing of it is believed yet."""

    model_config = ConfigDict(strict=True)
    name: str = ""
    version: int = 0
    files: dict[str, str]
    digest: str = Field(default="", exclude=True, description="of its bytes, whatever it says")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a package.

    Raises:
        Invalid: it is not there, or is no manifest. A retry does not help.
    """
    path = folder / MANIFEST
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_MANIFEST:
            raise ValueError("it is a link, or too large" if path.exists() else "there is none")
        text = path.read_bytes()
        return Manifest.model_validate_json(text).model_copy(update={"digest": digest_bytes(text)})
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else _shown(" ".join(str(error).split()))
        raise Invalid(f"the manifest cannot be read: {reason}", str(path), "package it again") from error


def _pickled(folder: Path) -> list[Problem]:
    """What would run code when it is read, whatever it is called."""
    remedy = "nothing pickled is served: train it anew, and ask where it is from"
    return [Problem(f"{_shown(name)} {what}", str(folder), remedy) for name, what in find_pickles(folder)[:MOST]]


def _differences(folder: Path, listed: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each path that is not as the manifest has it, and what is wrong with it."""
    found, odd = _digests(folder), _odd(folder)
    alike = Counter(unicodedata.normalize("NFC", name).casefold() for name in {*listed, *found})
    for name in sorted({*listed, *found, *odd}):
        if name in odd:
            yield name, odd[name]
        elif name not in listed:
            yield name, "is not in the manifest"
        elif PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            yield name, "leads out of the package"
        elif name not in found:
            yield name, "is missing"
        elif found[name] != listed[name]:
            yield name, "has another content than the manifest says"
        elif PurePosixPath(name).suffix not in ALLOWED:
            yield name, "is of a kind that is not served"
        elif alike[unicodedata.normalize("NFC", name).casefold()] > 1:
            yield name, "is called like another file but for case or accents"


def _shown(text: str) -> str:
    """What another hand has written, so that it can stand in a sentence."""
    return text[:300] if text.isprintable() else ascii(text[:300])


def _odd(folder: Path) -> dict[str, str]:
    """Whatever below the folder is neither a plain file nor a folder with something in it."""
    odd = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            odd[name] = "is a link"
        elif path.is_dir():
            if not any(path.iterdir()):
                odd[name] = "is an empty folder"
        elif not path.is_file():
            odd[name] = "is no file"
    return odd


def _digests(folder: Path) -> dict[str, str]:
    """Digest of each real file below the folder, but of manifest and signature."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: digest_file(path) for name, path in sorted(named.items()) if name not in (MANIFEST, SIGNATURE)}


if __name__ == "__main__":
    main(package)
