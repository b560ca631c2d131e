"""The laws of the tests themselves: what a test may reach, and how it may wait."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "tests").rglob("*.py"))}
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "time", "time_ns"}
BY_NAME = {"getattr", "setattr", "hasattr", "delattr", "patch", "object"}  # calls that name an attribute by a string
Nodes = Sequence[ast.AST]
Law = Callable[[str, Nodes], Iterator[str]]
# What a test may reach though its name begins with one underscore, and why.
PRIVATE: dict[tuple[str, str], str] = {
    ("tests/conftest.py", "_tmp_path_factory"): "pytest gives the folder of all tests to fixtures alone",
    ("tests/dags/test_pod.py", "_ApiClient__deserialize_model"): "Airflow's provider makes pods of manifests by it",
    ("tests/dags/test_pod_operator.py", "_is_in_cluster"): "Airflow's hook sets it when it connects to a cluster",
    ("tests/pipeline/test_openlineage.py", "_get_schema"): "OpenLineage's facets name their schema nowhere else",
    ("tests/serving/test_lineage.py", "_model_registry"): "MLflow's requests are counted in its own client",
    ("tests/serving/test_native_backend.py", "_raw_content"): "Triton's client sends no broken content by itself",
}


def _private_names(node: ast.AST) -> Iterator[str]:
    """Yield the names with one leading underscore that this node reaches on anything but self and cls."""
    if isinstance(node, ast.Attribute):
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield node.attr
    elif isinstance(node, ast.ImportFrom):
        yield from (node.module or "").split(".")
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from (part for alias in node.names for part in alias.name.split("."))
    elif isinstance(node, ast.Call) and _called(node) in BY_NAME:
        texts = (part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str))
        yield from (text.rpartition(".")[2] for text in texts)


def _private(name: str, nodes: Nodes) -> Iterator[str]:
    for node in nodes:
        for found in _private_names(node):
            if re.match(r"_[^_]", found) and (name, found) not in PRIVATE:
                yield _place(name, node, found)


def _search_path(name: str, nodes: Nodes) -> Iterator[str]:
    """Find uses of sys.path; monkeypatch.syspath_prepend, which ends with its test, is none."""
    for node in nodes:
        is_path = isinstance(node, ast.Attribute) and node.attr == "path" and ast.unparse(node.value) == "sys"
        if is_path or (isinstance(node, ast.ImportFrom) and node.module == "sys" and _imports(node, "path")):
            yield _place(name, node, "sys.path")


def _timed_asserts(name: str, nodes: Nodes) -> Iterator[str]:
    """Find asserts on a clock, or on a difference of two times that has a name."""
    passed = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Sub)
        for target in node.targets
        if isinstance(target, ast.Name) and _asks_clock(node.value)
    }
    for node in nodes:
        if isinstance(node, ast.Assert):
            names = {part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)}
            if _asks_clock(node.test) or names & passed:
                yield _place(name, node, ast.unparse(node.test))


def _timed_loops(name: str, nodes: Nodes) -> Iterator[str]:
    """Find loops that end by a clock; what a loop only measures is no deadline."""
    for node in nodes:
        if isinstance(node, ast.While | ast.For | ast.AsyncFor):
            head = node.test if isinstance(node, ast.While) else node.iter
            tests = [
                part.test for part in ast.walk(node) if isinstance(part, ast.While | ast.If | ast.IfExp | ast.Assert)
            ]
            if any(_asks_clock(test) for test in (head, *tests)):
                yield _place(name, node, ast.unparse(head))


def _free_ports(name: str, nodes: Nodes) -> Iterator[str]:
    for node in nodes:
        is_imported = isinstance(node, ast.ImportFrom) and _imports(node, "free_ports")
        if is_imported or (isinstance(node, ast.Attribute) and node.attr == "free_ports"):
            yield _place(name, node, "free_ports")


def _imports(node: ast.ImportFrom, name: str) -> bool:
    return name in {alias.name for alias in node.names}


def _asks_clock(node: ast.AST) -> bool:
    """Return whether a clock is read: time.monotonic(), or monotonic() by itself; datetime.time() is none."""
    calls = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    return any(
        (isinstance(call, ast.Name) and call.id in CLOCKS - {"time"})
        or (isinstance(call, ast.Attribute) and call.attr in CLOCKS and getattr(call.value, "id", "") == "time")
        for call in calls
    )


def _called(call: ast.Call) -> str:
    """Return the last name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _place(name: str, node: ast.AST, what: str) -> str:
    return f"{name}:{getattr(node, 'lineno', 0)}: {what}"


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def _broken(law: Law, *excepted: str) -> list[str]:
    """Return where the tests break a law; `excepted` are the files that it does not bind."""
    return [place for name, path in FILES.items() if name not in excepted for place in law(name, _nodes(path))]


def test_the_search_path_of_modules_is_left_alone() -> None:
    assert _broken(_search_path) == []


def test_private_members_are_left_alone() -> None:
    assert _broken(_private) == []


def test_every_exception_is_needed() -> None:
    reached = {(name, found) for name, path in FILES.items() for node in _nodes(path) for found in _private_names(node)}
    assert [key for key in PRIVATE if key not in reached] == []


def test_no_assert_is_on_the_clock() -> None:
    assert _broken(_timed_asserts) == []


def test_one_helper_waits() -> None:
    assert _broken(_timed_loops, "tests/support/polling.py") == []


def test_ports_come_from_the_workers_range() -> None:
    assert _broken(_free_ports, "tests/pipeline/test_ports.py") == []


def test_the_laws_see_what_breaks_them() -> None:
    cases = {
        _search_path: ("sys.path.insert(0, 'a')", "from sys import path"),
        _private: ("a._b", "a.b()._c()", "from a import _b", "from a._b import c", "patch.setattr('a._b', 1)", "getattr(a, '_b')"),
        _timed_asserts: ("assert time.monotonic() - begin < 5", "took = time.time() - begin\nassert took < 5"),
        _timed_loops: ("while time.time() < end:\n    a()", "while True:\n    if time.monotonic() > end:\n        break",
                       "for at in range(9):\n    if time.monotonic() > end:\n        break", "for at in takewhile(lambda _: time.time() < end, count()):\n    a()"),
        _free_ports: ("from pipeline.ports import free_ports", "ports.free_ports(1)"),
    }  # fmt: skip
    broken = {
        code: list(law("a.py", tuple(ast.walk(ast.parse(code))))) for law, codes in cases.items() for code in codes
    }
    assert [code for code, places in broken.items() if not places] == []
    allowed = "self._a\ncls._b\na.__doc__\nworker_ports(1)\nwhile a:\n    times.append(time.monotonic())\n"
    allowed += "for a in b:\n    times.append(time.monotonic())\n"
    nodes = tuple(ast.walk(ast.parse(allowed)))
    assert [place for law in cases for place in law("a.py", nodes)] == []
