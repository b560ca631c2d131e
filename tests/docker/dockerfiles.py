"""The Dockerfiles of docker/ as data, and what the project's code imports."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
GPU = DOCKER / "triton" / "Dockerfile.gpu"
OWN = sorted(DOCKER.glob("*/Dockerfile"))  # of which we build the base too
ALL = [*OWN, GPU]
ROOMS = ("pipeline", "feature_checks", "training", "serving", "dags")
APP = "/opt/slipway/app"


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str
    stage: int  # 0 before the first FROM, then 1, 2, …


def name(dockerfile: Path) -> str:
    """The image's name without `slipway-`."""
    return dockerfile.parent.name + dockerfile.suffix.replace(".", "-")


def instructions(dockerfile: Path) -> list[Instruction]:
    """In order; lines that go on are joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[Instruction] = []
    stage = 0
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if line.strip():
            instruction, _, text = line.partition(" ")
            stage += instruction == "FROM"
            found.append(Instruction(instruction, text.strip(), stage))
    return found


def copied(dockerfile: Path) -> list[tuple[list[str], str]]:
    """Sources in the checkout and target of each COPY of the build."""
    found = []
    for item in instructions(dockerfile):
        words = shlex.split(item.text)
        if item.name == "COPY" and not words[0].startswith("--"):
            found.append((words[:-1], words[-1]))
    return found


def application(dockerfile: Path) -> list[Path]:
    """The Python files of the project that are in the image."""
    paths = [ROOT / source for sources, target in copied(dockerfile) if target.startswith(APP) for source in sources]
    return [
        file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path]) if file.suffix == ".py"
    ]


@cache
def imports(file: Path) -> frozenset[str]:
    """The modules that a file imports when it runs, wherever in it they stand; `from a import b` is a and a.b."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        nodes.extend(ast.iter_child_nodes(node))
    return frozenset(found)


def reached(starts: list[Path], without: Path | None = None) -> set[Path]:
    """These files of the project, and all that they import of it, near or far; the way ends at `without`."""
    found: set[Path] = set()
    left = list(starts)
    while left:
        file = left.pop()
        if file not in found and file != without:
            found.add(file)
            left.extend(path for module in imports(file) if (path := source(module)) is not None)
    return found


def source(module: str) -> Path | None:
    """The project's file of a module; None for one of a library's, and for a name inside a module."""
    if module.split(".")[0] not in ROOMS:
        return None
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def third_party(files: set[Path]) -> set[str]:
    """The modules of libraries that the files import."""
    known = {*sys.stdlib_module_names, *ROOMS, "__future__"}
    return {module for file in files for module in imports(file) if module.split(".")[0] not in known}


def pins(lock: Path) -> dict[str, str]:
    """Distribution to version."""
    found = {}
    for line in lock.read_text().splitlines():
        distribution, equals, version = line.partition("==")
        assert equals, f"{lock}: {line!r} is no pin"
        found[canonicalize_name(distribution)] = version
    return found


def requirements(file: Path) -> list[Requirement]:
    """What a requirements.in asks for."""
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [Requirement(line) for line in lines if line]
