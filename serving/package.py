"""Step package: a version of the Triton model repository with its manifest of digests; verified whenever it is read."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from pipeline.digest import digest_bytes, digest_file
from pipeline.errors import Invalid, Problem
from pipeline.refs import DatasetRef, ModelVersionRef, PackageRef
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.tracking import RUN
from serving.model_config import FILE, MODEL_FILE, model_config

MANIFEST = "manifest.json"
ALLOWED = {".onnx", ".pbtxt", ".json"}  # nothing that can run code when it is read


def package(spec: PipelineSpec, dataset: DatasetRef, model: ModelVersionRef, run: Run) -> PackageRef:
    """Build the version's folder: config.pbtxt, VERSION/model.onnx and manifest.json.

    Raises:
        Invalid: the graph in the store is not the one that was registered. A retry does not help.
        Unavailable: store or MLflow do not answer. A retry helps.
    """
    facts = {
        "digest": model.onnx_digest,
        "run": run.id,
        "dataset": dataset.digest,
        "spec": spec.digest,
        "candidate": model.candidate,
    }
    config = model_config(spec.name, model.version, dataset.row_schema, spec.serving, facts)
    with tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
        folder = Path(scratch) / spec.name
        version = folder / str(model.version)
        version.mkdir(parents=True)
        with run.store.local(model.onnx_key) as graph:
            shutil.copyfile(graph, version / MODEL_FILE)
        if (found := digest_file(version / MODEL_FILE)) != model.onnx_digest:
            raise Invalid(
                f"the graph has digest {found[:16]}, registered was {model.onnx_digest[:16]}",
                run.store.path(model.onnx_key),
                "the store was changed by another hand: start a new run",
            )
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
        key = package_key(spec.name, model.version, digest)
        run.store.put(folder, key)
    run.registry.set_version_tags(spec.name, model.version, {"slipway.package": digest})
    run.registry.log_text(run.registry.pipeline_run(run, spec), config, f"serving/{FILE}")
    run.registry.log_text(run.registry.pipeline_run(run, spec), text, f"serving/{MANIFEST}")
    return PackageRef(name=spec.name, version=model.version, key=key, digest=digest)


def package_key(name: str, version: int, digest: str) -> str:
    """Where the store keeps a package."""
    return f"packages/{name}/{version}-{digest[:16]}"


def verify(folder: Path, digest: str) -> None:
    """Return when `folder` is the package of this digest, file by file, and nothing else.

    Raises:
        Invalid: names each file that differs, is missing, is too many, or is of a kind that may not be served.
            A retry does not help.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        listed = dict(json.loads(text)["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(f"the manifest cannot be read: {error}", str(folder / MANIFEST), "package it again") from error
    problems = []
    if digest_bytes(text) != digest:
        problems.append(
            Problem("the manifest is not the one of this version", str(folder / MANIFEST), "package it again")
        )
    links = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()}
    found = _digests(folder)
    for name in sorted({*listed, *found, *links}):
        what = ""
        if name in links:
            what = "is a link"
        elif name not in listed:
            what = "is not in the manifest"
        elif name not in found:
            what = "is missing"
        elif found[name] != listed[name]:
            what = "has another content than the manifest says"
        elif Path(name).suffix not in ALLOWED:
            what = "is of a kind that is not served"
        if what:
            problems.append(Problem(f"{name} {what}", str(folder), "package it again; what serves was not touched"))
    if problems:
        raise Invalid(problems)


def _digests(folder: Path) -> dict[str, str]:
    """Digest of each real file below the folder but the manifest."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: digest_file(path) for name, path in sorted(named.items()) if name != MANIFEST}


if __name__ == "__main__":
    main(package)
