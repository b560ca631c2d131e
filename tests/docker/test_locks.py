"""What is in the images: each lock follows from what its image asks for, and holds what its code imports."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docker.dockerfiles import (
    DOCKER,
    OWN,
    ROOT,
    application,
    name,
    pins,
    reached,
    requirements,
    third_party,
)
from tests.support.cases import each

PROJECT = pins(ROOT / "requirements.lock")
IMAGES = [name(dockerfile) for dockerfile in OWN]
every = each({image: image for image in IMAGES})
LEARNING = (
    "torch xgboost xgboost-cpu scikit-learn mlflow mlflow-skinny onnx onnxruntime onnxscript onnxmltools skl2onnx "
)
LEARNING += "great-expectations deepeval tritonclient optuna tabm numpy pandas scipy pyarrow matplotlib safetensors"


def lock(image: str) -> dict[str, str]:
    return pins(DOCKER / image / "requirements.lock")


def asked(image: str) -> list[Requirement]:
    if image == "laptop":  # everything but the developers' tools
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return [Requirement(line) for line in project["dependencies"]]
    return requirements(DOCKER / image / "requirements.in")


@cache
def needs(distribution: str) -> list[Requirement]:
    """What an installed distribution asks for. Raises PackageNotFoundError when it is not installed."""
    return [Requirement(line) for line in requires(distribution) or ()]


def closure(wanted: list[Requirement]) -> tuple[set[str], set[str]]:
    """What these need, near or far, by the libraries' own word; and those that are not installed here to be asked."""
    found: set[tuple[str, str]] = set()
    unknown: set[str] = set()
    left = [(canonicalize_name(item.name), extra) for item in wanted for extra in ("", *item.extras)]
    while left:
        if (one := left.pop()) in found:
            continue
        found.add(one)
        distribution, extra = one
        try:
            needed = needs(distribution)
        except PackageNotFoundError:
            unknown.add(distribution)
            continue
        for item in needed:
            if item.marker is None or item.marker.evaluate({"extra": extra}):
                left.extend((canonicalize_name(item.name), more) for more in ("", *item.extras))
    return {distribution for distribution, _ in found}, unknown


@every
def test_an_image_has_the_versions_that_the_tests_ran_with(image: str) -> None:
    assert {key: value for key, value in lock(image).items() if PROJECT.get(key, value) != value} == {}


@every
def test_a_lock_holds_what_its_image_asks_for_and_nothing_else(image: str) -> None:
    needed, unknown = closure(asked(image))
    assert needed - lock(image).keys() == set()
    if not unknown:
        assert lock(image).keys() - needed == set()


def test_the_locks_that_can_be_followed_to_the_end_are_most() -> None:
    """The test before leaves none out by accident: one image has libraries that the project itself has not."""
    assert {image for image in IMAGES if closure(asked(image))[1]} == {"airflow"}


def test_airflow_has_no_learning_library() -> None:
    assert lock("airflow").keys() & set(LEARNING.split()) == set()
    assert set(LEARNING.split()) - {"xgboost"} <= lock("laptop").keys(), "a name here is misspelt"


providers_of = cache(packages_distributions)  # it reads the metadata of all that is installed


def missing(files: set[Path], image: str) -> dict[str, list[str]]:
    """The imports that no distribution of the image's lock provides, with those that would."""
    distributions = providers_of()
    found = {}
    for module in third_party(files):
        first = module.split(".")[0]
        providers = {canonicalize_name(one) for one in distributions.get(first, [])}
        if module.startswith("airflow.providers."):  # many distributions share these names
            providers = {one for one in providers if module.startswith(one.removeprefix("apache-").replace("-", "."))}
        if not providers & lock(image).keys():
            found[module] = sorted(providers)
    return found


def test_airflow_has_what_dags_import() -> None:
    dags = sorted((ROOT / "dags").rglob("*.py"))
    files = reached(dags, without=ROOT / "pipeline" / "registry.py")  # a run opens it when a step asks for it
    assert not [file for file in dags if ".registry" in file.read_text()], "a DAG asks for it too"
    assert ROOT / "pipeline" / "graph.py" in files
    assert "airflow.sdk" in third_party(files)
    assert missing(files, "airflow") == {}


@each({"steps": "steps", "laptop": "laptop"})
def test_steps_have_what_they_import(image: str) -> None:
    files = set(application(DOCKER / image / "Dockerfile"))
    assert {ROOT / "training" / "train.py", ROOT / "serving" / "fetch.py", ROOT / "pipeline" / "cli.py"} <= files
    if image == "laptop":
        files -= set((ROOT / "training" / "on_ray").iterdir())  # an extra, which asks for more than one machine
    assert missing(files, image) == {}


def test_the_server_is_installed_with_what_that_imports() -> None:
    assert missing(reached([ROOT / "serving" / "install.py"]), "triton") == {}
    assert "torch" in missing({ROOT / "training" / "models" / "neural.py"}, "triton"), "what is missing is found"
