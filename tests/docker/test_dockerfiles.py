"""How the images are made: what each Dockerfile must and must not do."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tests.docker.dockerfiles import ALL, DOCKER, GPU, OWN, ROOT, application, copied, instructions, name, reached
from tests.support.cases import each

every = each({name(dockerfile): dockerfile for dockerfile in ALL})
own = each({name(dockerfile): dockerfile for dockerfile in OWN})
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SERVERS = {"mlflow", "triton", "triton-gpu"}  # of which health means something; the others are many things
LABELS = {"title", "description", "licenses", "version", "revision"}


def last_stage(dockerfile: Path) -> list[tuple[str, str]]:
    found = instructions(dockerfile)
    return [(item.name, item.text) for item in found if item.stage == found[-1].stage]


@every
def test_runs_as_a_fixed_user(dockerfile: Path) -> None:
    steps = last_stage(dockerfile)
    users = [index for index, (instruction, _) in enumerate(steps) if instruction == "USER"]
    assert [steps[index][1] for index in users] == ["10001:10001"]
    after = {instruction for instruction, _ in steps[users[0] :]}
    assert not after & {"RUN", "COPY", "ADD"}, "root's work comes before"


@every
def test_says_what_it_is(dockerfile: Path) -> None:
    text = " ".join(text for instruction, text in last_stage(dockerfile) if instruction == "LABEL")
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', text))
    assert set(labels) == LABELS
    assert labels["title"] == f"slipway-{name(dockerfile)}"
    assert labels["licenses"] == "Apache-2.0"
    assert (labels["version"], labels["revision"]) == ("${VERSION}", "${REVISION}")
    assert ("ARG", f"VERSION={VERSION}") in last_stage(dockerfile)


@every
def test_bases_are_named_by_registry_and_version(dockerfile: Path) -> None:
    found = instructions(dockerfile)
    arguments = dict(item.text.split("=", 1) for item in found if item.name == "ARG" and item.stage == 0)
    for item in found:
        if item.name == "FROM":
            variable = re.match(r"\$\{(\w+)\}", item.text)
            assert variable, "a base can be replaced by a build argument"
            registry, _, rest = arguments[variable[1]].partition("/")
            assert "." in registry
            assert re.search(r":[\w.-]+$", rest)
            assert not rest.endswith(":latest")


@every
def test_fetches_nothing_but_by_package_managers(dockerfile: Path) -> None:
    assert not [item for item in instructions(dockerfile) if item.name == "ADD"]
    assert not re.search(r"\b(curl|wget|git clone)\b|https?://(?!127\.0\.0\.1)", dockerfile.read_text())


@every
def test_servers_have_a_health_check(dockerfile: Path) -> None:
    checks = [text for instruction, text in last_stage(dockerfile) if instruction == "HEALTHCHECK"]
    assert bool(checks) == (name(dockerfile) in SERVERS)


@own
def test_what_builds_stays_behind(dockerfile: Path) -> None:
    found = instructions(dockerfile)
    assert found[-1].stage == 2
    for item in found:
        if item.stage == 2:
            assert not re.search(r"\bpip\b|python3-venv|build-essential|gcc|PIP_", item.text), item
            assert item.name != "COPY" or item.text.startswith("--from=build "), item
    installs = [item.text for item in found if "pip install" in item.text or "serving.install" in item.text]
    assert "/build/tidy" in installs[-1]


@own
def test_locked_libraries_come_before_the_code(dockerfile: Path) -> None:
    """An edit of the code leaves the libraries' layers as they are, in the build and in the image."""
    found = instructions(dockerfile)
    install = next(index for index, item in enumerate(found) if "pip install" in item.text)
    assert re.search(r"pip install .*-r /build/requirements\.lock", found[install].text)
    assert any(f"docker/{name(dockerfile)}/requirements.lock" in item.text for item in found[:install])
    assert not re.search(r"\b(pipeline|serving|dags|training)/", " ".join(item.text for item in found[:install]))
    if application(dockerfile):
        layers = [item.text.split()[1] for item in found if item.name == "COPY" and item.stage == 2]
        assert "/opt/slipway" not in layers
        assert layers.index("/opt/slipway/venv") < layers.index("/opt/slipway/app") == len(layers) - 1


@own
def test_what_is_copied_is_there_and_not_ignored(dockerfile: Path) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for sources, _ in copied(dockerfile):
        for path in sources:
            assert (ROOT / path).exists()
            assert Path(path).parts[0] in let_in


@each({"triton": "triton", "laptop": "laptop"})
def test_the_server_is_installed_by_no_more_code_than_that_needs(image: str) -> None:
    """Else an edit elsewhere would fetch it again."""
    sources = [
        ROOT / path
        for sources, target in copied(DOCKER / image / "Dockerfile")
        if target.startswith("/build/app")
        for path in sources
    ]
    needed = reached([ROOT / "serving" / "install.py", ROOT / "serving" / "__init__.py", ROOT / "pipeline/__init__.py"])
    assert {path for path in sources if path.is_file()} == needed
    assert {ROOT / "serving" / "server_files", ROOT / "serving" / "native"} <= set(sources)


def test_the_gpu_image_is_nvidias_with_our_user() -> None:
    assert {item.name for item in instructions(GPU)} >= {"FROM", "USER", "ENTRYPOINT"}
    assert "nvcr.io/nvidia/tritonserver:" in GPU.read_text()


@each({"triton": DOCKER / "triton" / "Dockerfile", "triton-gpu": GPU})
def test_the_server_can_be_asked_where_the_probes_look(dockerfile: Path) -> None:
    assert (["docker/triton/answers.py"], "/opt/slipway/bin/answers") in copied(dockerfile)
    assert re.search(r"chmod 755 /opt/slipway/bin/(\*|answers)", dockerfile.read_text())
    policy = ROOT / "helm" / "slipway" / "templates" / "policy" / "_triton.tpl"
    assert policy.read_text().count("exec: {command: [/opt/slipway/bin/answers]}") == 2
