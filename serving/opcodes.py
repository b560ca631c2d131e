"""The machine that `pickle.load` is: runs a program's opcodes without doing what they say.

By the table of the standard library, not by its `genops`, which gives up at values that `pickle.load` takes, and so at
what comes after them.
"""

from __future__ import annotations

import mmap
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass

Data = bytes | mmap.mmap
MAX_OPERATIONS = 1_000_000  # whatever has as many is a program
_PROTO = 0x80  # how protocol 2 and later begin
_FEW = 4  # operations that a word may happen to begin with
_CALLS = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD"}
_IMPORTS = {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}
_MEMOS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_MODULE, _NAME = re.compile(r"[\w.-]+"), re.compile(r"[\w.<>-]+")
_LENGTHS = {  # of an argument that says its own: in bytes, and whether it is signed
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}


def is_program(data: Data) -> bool:
    """Whether `pickle.load` would do something with these bytes: make an object, or call what it imports.

    Without the header of protocol 2 and later a program must call something, or end where the file does, so that a
    text that happens to begin with a few opcodes is none. A call counts however the bytes go on: it would be made.
    """
    at = 0
    while at < len(data):
        verdict, at = _run(data, at)
        if verdict is not None:
            return verdict
    return False


def _run(data: Data, at: int) -> tuple[bool | None, int]:
    """Run one program from `at`: the verdict, or None and where it ended when it is harmless."""
    stack: list[str] = []
    begin, done = at, 0
    imported = memoized = False
    while at < len(data) and (code := _CODES.get(data[at])) is not None:
        if code.name == "STOP":
            if not stack or stack[-1] == "mark":
                break
            if data[begin] == _PROTO:
                return True, at
            is_all = not bytes(data[at + 1 : at + 65]).strip()
            return (True if is_all and (imported or memoized or done >= _FEW) else None), at + 1
        end = code.end(data, at + 1)
        if end is None or not code.apply(stack):
            break
        memoized |= code.name in _MEMOS
        imported |= code.name in _IMPORTS
        if imported and code.name in _CALLS:
            return True, at
        at, done = end, done + 1
        if done == MAX_OPERATIONS:
            return True, at
    return False, at


@dataclass(frozen=True)
class _Code:
    """An opcode: how long its argument is, and what it does to the stack."""

    name: str
    kind: str
    size: int
    below: int  # how many values it takes, under the mark where it takes all that is above one
    inner: int  # how many there must be above the mark
    to_mark: bool
    after: tuple[str, ...]

    def end(self, data: Data, at: int) -> int | None:
        """Where the argument that begins at `at` ends; None when the machine would fail at it."""
        if self.size == pickletools.UP_TO_NEWLINE:
            return self._end_of_lines(data, at)
        if self.name == "PROTO" and data[at : at + 1] > b"\x05":
            return None
        end = at + self.size
        if self.size in _LENGTHS:
            width, signed = _LENGTHS[self.size]
            length = int.from_bytes(data[at : at + width], "little", signed=signed)
            end = at + width + length if length >= 0 else len(data) + 1
        return end if end <= len(data) else None

    def _end_of_lines(self, data: Data, at: int) -> int | None:
        line, end = _line(data, at)
        if self.kind.endswith("_pair"):
            name, end = _line(data, end)
            return end if _matches(_MODULE, line) and _matches(_NAME, name) else None
        return end if self.kind not in _LINES or _LINES[self.kind](line) else None

    def apply(self, stack: list[str]) -> bool:
        """Change the stack as the opcode does; False when the machine would fail here."""
        if self.to_mark:
            mark = next((place for place in range(len(stack) - 1, -1, -1) if stack[place] == "mark"), None)
            if mark is None or len(stack) - mark - 1 < self.inner:
                return False
            del stack[mark:]
        if self.below:
            taken = stack[-self.below :]
            if len(taken) < self.below or ("mark" in taken and self.name != "POP"):
                return False
            if self.name == "STACK_GLOBAL" and not set(taken) <= {"str", "bytes_or_str", "any"}:
                return False
            del stack[-self.below :]
        stack.extend(self.after)
        return True


def _code(op: pickletools.OpcodeInfo) -> _Code:
    before = [item.name for item in op.stack_before]
    to_mark = "mark" in before
    below = before.index("mark") if to_mark else len(before)
    inner = len(before) - below - 2 if to_mark else 0
    kind, size = (op.arg.name, op.arg.n) if op.arg is not None else ("", 0)
    return _Code(op.name, kind, size, below, inner, to_mark, tuple(item.name for item in op.stack_after))


_CODES = {ord(op.code): _code(op) for op in pickletools.opcodes}


def _line(data: Data, at: int) -> tuple[bytes, int]:
    """A line, and where the next begins; the last one may lack its end."""
    end = data.find(b"\n", at)
    return (data[at:], len(data)) if end < 0 else (data[at:end], end + 1)


def _matches(pattern: re.Pattern[str], line: bytes) -> bool:
    try:
        return pattern.fullmatch(line.decode()) is not None
    except UnicodeDecodeError:
        return False


def _is_number(line: bytes, read: Callable[[bytes], object]) -> bool:
    try:
        read(line.partition(b"\0")[0])  # C reads no further
    except ValueError:
        return False
    return True


def _is_integer(line: bytes) -> bool:
    digits = line.rstrip(b"L")
    return digits.isdigit() or _is_number(digits, int) or _is_number(digits, lambda text: int(text, 0))


_LINES: dict[str, Callable[[bytes], bool]] = {  # what the machine takes for its arguments
    "decimalnl_short": _is_integer,
    "decimalnl_long": _is_integer,
    "floatnl": lambda line: _is_number(line, float),
    "stringnl": lambda line: len(line) > 1 and line[:1] == line[-1:] and line[:1] in b"\"'",
}
