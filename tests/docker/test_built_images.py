"""The images that `make images BUILDER=buildah` has built: each one's entry point starts, as its user, and ends.

Without buildah or an image, its tests are skipped and report it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.docker.test_compose import VERSION
from tests.support.ports import worker_ports

pytestmark = [pytest.mark.buildah, pytest.mark.stack]  # what starts in a container takes its time

ENTRY = {
    "airflow": (["airflow", "version"], "3."),
    "mlflow": (["mlflow", "--version"], "mlflow, version 3."),
    "steps": (["slipway", "--help"], "trigger"),
    "laptop": (["slipway", "--help"], "trigger"),
}
# Triton on an empty repository: asked until it is ready, then ended; it prints its exit code
TRITON = """
import os, subprocess, sys, time, urllib.request
http, grpc, metrics = sys.argv[1:]
models = f"/tmp/models-{http}"
os.mkdir(models)
options = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
options += [f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")]
server = subprocess.Popen(["tritonserver", f"--model-repository={models}", "--model-control-mode=none", *options])
deadline = time.monotonic() + 60
while server.poll() is None and time.monotonic() < deadline:
    try:
        print("ready", urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/ready").status)
        print("answers", subprocess.run(["/opt/slipway/bin/answers", http], check=False).returncode)
        break
    except OSError:
        time.sleep(0.1)
server.terminate()
print("ended", server.wait(60))
os.rmdir(models)
"""


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def container(image: str) -> Iterator[str]:
    """A container of the image, which is not started; it goes at the end."""
    full = f"localhost/slipway-{image}:{VERSION}"
    if full not in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        pytest.skip(f"{full} is not built: make images BUILDER=buildah IMAGES={image}")
    name = buildah("from", "--pull-never", full)
    try:
        yield name
    finally:
        buildah("rm", name)


def run(name: str, *command: str) -> str:
    """What a command says in the container, as the image's user."""
    return buildah("run", "--isolation", "chroot", "--user", "10001:10001", name, "--", *command)


@pytest.mark.parametrize("image", ENTRY)
def test_the_entry_point_starts(image: str) -> None:
    command, said = ENTRY[image]
    with container(image) as name:
        assert said in run(name, *command)


def test_a_pod_can_fetch_a_package() -> None:
    with container("steps") as name:
        assert "--digest" in run(name, "python", "-m", "serving.fetch", "--help")


@pytest.mark.parametrize("image", ["triton", "triton-gpu"])
def test_triton_starts_on_an_empty_repository_and_ends_when_it_is_told(image: str) -> None:
    ports = [str(port) for port in worker_ports(3)]
    with container(image) as name:
        said = run(name, "python3", "-c", TRITON, *ports).splitlines()
        assert "ready 200" in said
        assert "answers 0" in said
        assert said[-1] == "ended 0"


@pytest.mark.parametrize("image", [*ENTRY, "triton"])
def test_an_image_keeps_nothing_of_its_build(image: str) -> None:
    with container(image) as name:
        about = json.loads(buildah("inspect", "--type", "image", f"localhost/slipway-{image}:{VERSION}"))["Docker"]
        history = json.dumps(about["history"])
        assert about["config"]["User"] == "10001:10001"
        assert "PIP_" not in history + json.dumps(about["config"])
        assert about["config"]["Labels"]["org.opencontainers.image.version"] == VERSION
        assert ("Healthcheck" in about["config"]) == (image in ("mlflow", "triton"))
        left = "find /opt /build -name 'pip*' -path '*/bin/*' -o -type d -name tests 2>/dev/null | head -5"
        assert run(name, "sh", "-c", left) == ""
        writable = run(
            name, "sh", "-c", "find /opt /usr /etc /bin /lib -xdev -writable ! -type l 2>/dev/null | head -5"
        )
        assert writable == ""
