"""Fixtures of tritonservers and of small graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from tests.serving.real_triton import RealTriton, model, running


@pytest.fixture
def save_graph() -> Callable[..., None]:
    """Return a function that writes a graph of nodes as model.onnx of a version."""

    def save(folder: Path, nodes: list, inputs: list, outputs: list, constants: list) -> None:
        folder.mkdir(parents=True)
        onnx.save(model(nodes, inputs, outputs, constants), folder / "model.onnx")

    return save


@pytest.fixture
def own_triton(tmp_path: Path) -> Iterator[RealTriton]:
    """Return a server for one test, not started."""
    with running(tmp_path / "home", {}) as triton:
        yield triton


@pytest.fixture(scope="session")
def shared_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealTriton]:
    """Start a server with an empty repository, for tests that take model names of their own."""
    with running(tmp_path_factory.mktemp("triton") / "home", {}) as triton:
        triton.start()
        yield triton
