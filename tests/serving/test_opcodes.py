"""Held against the real machine: whatever makes `pickle.load` call something is a program, however it is written."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serving import opcodes
from serving.opcodes import is_program

CALLED: list[str] = []


class Trap:
    """Stands for whatever a program imports; notes that it was called."""

    def __new__(cls, *_: object, **__: object) -> Trap:
        CALLED.append("made")
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        CALLED.append("called")

    def __setstate__(self, _: object) -> None:
        CALLED.append("set")


class Machine(pickle.Unpickler):
    """The real one, which imports nothing but traps, and those only by names that a module can have."""

    def find_class(self, module: str, name: str) -> type:
        if not re.fullmatch(r"[\w.-]+", module) or not re.fullmatch(r"[\w.<>-]+", name):
            raise ImportError(module)
        return Trap

    def persistent_load(self, _: object) -> object:
        return None


def calls(data: bytes, encoding: str) -> bool:
    """Whether the real machine calls something."""
    CALLED.clear()
    with suppress(Exception):  # whatever a broken program raises: what it did before counts
        Machine(io.BytesIO(data), encoding=encoding).load()
    return bool(CALLED)


LINES = st.sampled_from(
    [b"os\nsystem\n", b"m\xc3\xb6d\nf\n", b"1\n", b"0x10\n", b"00\n", b"5\0x\n", b" 7 \n", b"1_0\n", b"7L\n", b"1.5\n",
     b"nan\n", b"'a'\n", b"'\xff'\n", b'"a"\n', b"\xff\n", b"\n", b"\\ud800\n", b"a b\n"]
)  # fmt: skip
WIDTHS = {"1": 1, "4": 4, "8": 8}  # of a length, by the end of its argument's name


def _operation(op: pickletools.OpcodeInfo) -> st.SearchStrategy[bytes]:
    """An opcode with an argument that is one: a length or an index at random makes the machine take all memory."""
    code = op.code.encode("latin1")
    if op.arg is None:
        return st.just(code)
    if op.arg.n == pickletools.UP_TO_NEWLINE:
        return LINES.map(lambda line: code + line)
    if op.arg.n < 0:
        width = WIDTHS[op.arg.name[-1]]
        return st.sampled_from([b"", b"a", b"os", b"system", b"\xff"]).map(
            lambda text: code + len(text).to_bytes(width, "little") + text
        )
    argument = st.integers(0, 3).map(lambda value: code + value.to_bytes(op.arg.n, "little"))
    return (
        argument
        if op.name in ("LONG_BINPUT", "FRAME")
        else argument | st.binary(min_size=op.arg.n, max_size=op.arg.n).map(lambda value: code + value)
    )


IDIOMS = [
    b"cos\nsystem\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"(S'a'\n",
    b")R",
    b"(t",
    b")\x81",
    b")}\x92",
    b"}b",
    b"0",
    b"N",
]
OPERATION = st.sampled_from(IDIOMS) | st.one_of([_operation(op) for op in pickletools.opcodes])
PROGRAM = st.lists(OPERATION, max_size=12).map(b"".join)


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(PROGRAM, st.sampled_from(["ASCII", "latin1", "bytes"]))
@example(b"S'\xff'\n0cos\nsystem\n)R", "latin1")
@example(b"I5\0 and more\n0cos\nsystem\n)R", "ASCII")
@example(b"(S'true'\nios\nsystem", "ASCII")
def test_what_makes_the_machine_call_something_is_a_program(data: bytes, encoding: str) -> None:
    if calls(data, encoding):
        assert is_program(data)


@pytest.mark.parametrize("protocol", range(6))
@settings(max_examples=100, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.frozensets(st.text())
        ),
        max_leaves=10,
    )
)
def test_what_python_pickles_is_a_program(protocol: int, value: object) -> None:
    data = pickle.dumps(value, protocol)
    is_word = protocol < 2 and len(list(pickletools.genops(data))) <= 4
    assert is_program(data) or (is_word and not isinstance(value, list | dict | tuple | frozenset))


def nested(depth: int) -> bytes:
    return b"(" * depth + b"t" * depth + b"."


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", False),
        (b".", False),
        (b"(.", False),
        (b"\x80", False),
        (b"\x80\x09N.", False),
        (b"\x80\x04\x95", False),
        (b"X\xff\xff\xff\xffabc", False),
        (b"\x8e" + b"\xff" * 8, False),
        (b"T\xff\xff\xff\xff", False),
        (nested(100_000), True),
        (b"N" * 50, False),
        (b"]" + b"(e" * 1000 + b".", True),
    ],
)
def test_hard_cases(data: bytes, expected: bool) -> None:
    assert is_program(data) is expected


def test_a_program_without_end_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opcodes, "MAX_OPERATIONS", 1000)
    assert is_program(b"N0" * 600)
