"""Lineage as a graph: each edge leads from what was made to what it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field
from rich.markup import escape
from rich.tree import Tree

from pipeline.frozen import Frozen
from pipeline.store import NUMBER

Kind = Literal["endpoint", "version", "record", "gate", "package", "onnx", "run", "candidate", "checks", "dataset"]
Direction = Literal["down", "up", "both"]


class Node(Frozen):
    """One thing; `facts` are what is known of it, `problem` is what does not agree with the rest."""

    id: str
    kind: Kind
    title: str
    facts: dict[str, str] = Field(default={})
    problem: str = ""


class Edge(Frozen):
    """`source` was made from, or says that it is, `target`."""

    source: str
    target: str
    kind: str


class Lineage(Frozen):
    """What was asked for, and all that hangs together with it; in an order that does not change."""

    start: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Every disagreement, as sentences."""
        return tuple(f"{node.title}: {node.problem}" for node in self.nodes if node.problem)

    def node(self, found: str) -> Node:
        """The node of this id. Raises KeyError when there is none."""
        return {node.id: node for node in self.nodes}[found]

    def trees(self) -> Iterator[Tree]:
        """For the terminal: down to the data from each start, and up to what was made from it."""
        nodes = {node.id: node for node in self.nodes}
        down: dict[str, list[str]] = {}
        up: dict[str, list[str]] = {}
        for edge in self.edges:
            down.setdefault(edge.source, []).append(edge.target)
            up.setdefault(edge.target, []).append(edge.source)
        for start in self.start:
            root = Tree(_line(nodes[start], strong=True))
            if start in up and start in down:
                _grow(root.add("[dim]made from it[/]"), start, up, nodes)
                _grow(root.add("[dim]made from[/]"), start, down, nodes)
            else:
                _grow(root, start, up if start in up else down, nodes)
            yield root


class Graph:
    """A lineage while it is put together; what is added twice is there once."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._edges: dict[tuple[str, str], Edge] = {}

    def add(self, node: Node) -> str:
        """Add a node; its id. The first one of an id stays."""
        self._nodes.setdefault(node.id, node)
        return node.id

    def link(self, source: str, target: str, kind: str) -> None:
        """Say that `source` was made from `target`."""
        self._edges.setdefault((source, target), Edge(source=source, target=target, kind=kind))

    def lineage(self, start: Iterable[str], direction: Direction) -> Lineage:
        """What is reached from the start in this direction."""
        start = tuple(start)
        kept: set[str] = set()
        for forth in (True, False):
            if direction in ("both", "down" if forth else "up"):
                kept |= self._reached(start, forth)
        return Lineage(
            start=start,
            nodes=tuple(sorted((self._nodes[one] for one in kept), key=lambda node: _order(node.id))),
            edges=tuple(
                sorted(
                    (edge for edge in self._edges.values() if {edge.source, edge.target} <= kept),
                    key=lambda edge: (_order(edge.source), _order(edge.target)),
                )
            ),
        )

    def _reached(self, start: Iterable[str], forth: bool) -> set[str]:
        beside: dict[str, list[str]] = {}
        for edge in self._edges.values():
            here, there = (edge.source, edge.target) if forth else (edge.target, edge.source)
            beside.setdefault(here, []).append(there)
        reached, waiting = set(), list(start)
        while waiting:
            if (one := waiting.pop()) not in reached:
                reached.add(one)
                waiting += beside.get(one, [])
        return reached


def _order(found: str) -> tuple[tuple[int, int, str], ...]:
    """Ids in order, numbers by their value: version 10 comes after version 9."""
    return tuple((0, int(part), "") if NUMBER.fullmatch(part) else (1, 0, part) for part in found.split("/"))


def _grow(tree: Tree, at: str, beside: dict[str, list[str]], nodes: dict[str, Node]) -> None:
    for other in beside.get(at, []):
        _grow(tree.add(_line(nodes[other])), other, beside, nodes)


def _line(node: Node, strong: bool = False) -> str:
    title = f"[bold]{escape(node.title)}[/]" if strong else escape(node.title)
    told = {"", *node.title.replace("/", " ").split()}  # by the title already
    facts = "  ".join(f"{key} {escape(_short(value))}" for key, value in node.facts.items() if value not in told)
    problem = f"\n[red]{escape(node.problem)}[/]" if node.problem else ""
    return title + (f"  [dim]{facts}[/]" if facts else "") + problem


def _short(value: str) -> str:
    """A digest by its beginning, which finds it again."""
    is_digest = len(value) == 64 and all(letter in "0123456789abcdef" for letter in value)
    return value[:16] if is_digest else value
