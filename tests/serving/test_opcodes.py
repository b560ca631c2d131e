"""Held against the real machine: whatever makes `pickle.load` call something is a program, however it is written."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
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
    small = st.integers(0, 3).map(lambda value: code + value.to_bytes(op.arg.n, "little"))
    return small | st.binary(min_size=op.arg.n, max_size=op.arg.n).map(lambda value: code + value)


ANY = st.one_of([_operation(op) for op in pickletools.opcodes])
PUSH = st.one_of([_operation(op) for op in pickletools.opcodes if not op.stack_before and op.stack_after])
NOISE = (
    PUSH.map(lambda push: push + b"0")
    | st.tuples(PUSH, PUSH).map(lambda two: b"(" + two[0] + two[1] + b"1")
    | st.sampled_from([b"", b"N.", b"(0", b"N\x940", b"Np1\n0", b"Nq\x010", b"\x80\x02", b"\x80\x05", b"]N2a00"])
)
STRINGS = st.tuples(
    *(st.sampled_from([b"\x8c\x02os", b"X\x02\0\0\0os", b"Vos\n", b"U\x02os", b"S'os'\n"]) for _ in "12")
)
IMPORT = st.sampled_from([b"cos\nsystem\n", b"cm\xc3\xb6d\nf\n"]) | STRINGS.map(lambda two: two[0] + two[1] + b"\x93")
MADE = IMPORT.flatmap(
    lambda name: st.sampled_from(
        [name + call for call in (b")R", b"(tR", b"(NNtR", b"N\x85R", b")\x81", b")}\x92", b"q\x010h\x01)R", b"}b")]
        + [b"(" + name + b"o", b"(" + name + b"No", b"(ios\nsystem\n", b"(NNios\nsystem"]
    )
)
PROGRAM = st.tuples(
    st.lists(NOISE, max_size=3), MADE | st.lists(ANY, max_size=6).map(b"".join), ANY | st.just(b"")
).map(lambda parts: b"".join(parts[0]) + parts[1] + parts[2])
SPOILT = st.tuples(PROGRAM, st.integers(0, 60), st.integers(0, 2)).map(
    lambda drawn: drawn[0][: drawn[1]] + drawn[0][drawn[1] + drawn[2] :]
)


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(PROGRAM | SPOILT, st.sampled_from(["ASCII", "latin1", "bytes"]))
@example(b"S'\xff'\n0cos\nsystem\n)R", "latin1")
@example(b"I5\0 and more\n0cos\nsystem\n)R", "ASCII")
@example(b"(S'true'\nios\nsystem", "ASCII")
def test_what_makes_the_machine_call_something_is_a_program(data: bytes, encoding: str) -> None:
    assume(not set(data) & {ord("r"), 0x96})  # with a length at random these make the machine take all memory
    if calls(data, encoding):
        assert is_program(data)


@settings(max_examples=150, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.frozensets(st.text())
        ),
        max_leaves=10,
    )
)
def test_what_python_pickles_is_a_program(value: object) -> None:
    missed = []
    for protocol in range(6):
        data = pickle.dumps(value, protocol)
        is_word = protocol < 2 and len(list(pickletools.genops(data))) <= 4
        if not is_program(data) and (not is_word or isinstance(value, list | dict | tuple | frozenset)):
            missed.append(protocol)
    assert missed == []


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
