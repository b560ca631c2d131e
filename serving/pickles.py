"""Finding what is pickled in a tree of files, whatever it is called and however often it is packed.

Reading a pickle runs code, so nothing pickled may cross to serving. PyPI's picklescan and fickling judge whether a
pickle is dangerous, by the names of files; here the question is whether there is one at all, by their bytes.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import io
import lzma
import mmap
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from serving.opcodes import is_program

MAX_DEPTH = 5  # archives within archives
MAX_UNPACKED = 256 << 20  # bytes of one packed file
_PART = 1 << 20  # bytes that are unpacked at once
_SEALED = {  # packed in ways that are not looked into
    b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar",
    b"\x1f\x9d": "compress", b"\x02\x21\x4c\x18": "lz4", b"ZF0x": "an old joblib's zlib",
}  # fmt: skip
_OPENERS: dict[bytes, Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x5d\x00\x00": partial(lzma.LZMAFile, format=lzma.FORMAT_ALONE),
}


def find_pickles(root: Path) -> list[tuple[str, str]]:
    """(path below the root, what is wrong with it) of each file that is a pickle, holds one, or cannot be looked into.

    `root` is a folder, or one file. Links are not followed. Raises OSError when a file cannot be read.
    """
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    found = []
    for path in files:
        if path.is_symlink():
            continue
        name = path.relative_to(root).as_posix() if path != root else path.name
        with path.open("rb") as file:
            found += [(f"{name}{inside}", what) for inside, what in _look(file, MAX_DEPTH)]
    return found


def _look(file: IO[bytes], depth: int) -> Iterator[tuple[str, str]]:
    """What is wrong with a stream that can be wound back: place within it, and what."""
    head = file.read(16)
    file.seek(0)
    if head.startswith(b"\x93NUMPY"):
        if _holds_objects(file):
            yield "", "is a NumPy array of pickled objects"
        return
    for magic, name in _SEALED.items():
        if head.startswith(magic):
            yield "", f"is packed by {name}, which is not looked into"
            return
    if is_pickle(file):
        yield "", "is a pickle"
    file.seek(0)
    if zipfile.is_zipfile(file):
        yield from _archive(file, depth, _members_of_zip)  # which may lie behind something else
    file.seek(0)
    if (parts := _unpacked(file, head)) is not None:
        yield from _packed(file, depth, parts)
    if _is_tar(file):
        yield from _archive(file, depth, _members_of_tar)


def is_pickle(file: IO[bytes]) -> bool:
    """Whether the stream as a whole is something that `pickle.load` would run: any protocol, headed or not."""
    if isinstance(file, io.BytesIO):
        return is_program(file.getvalue())
    try:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return is_program(data)
    except ValueError:  # an empty file
        return False


def _holds_objects(file: IO[bytes]) -> bool:
    """Whether an .npy file holds Python objects; one whose header cannot be read is taken for one that does."""
    file.read(6)
    major = file.read(2)[:1]
    size = int.from_bytes(file.read(2 if major == b"\x01" else 4), "little")
    try:
        header = ast.literal_eval(file.read(min(size, 1 << 20)).decode("latin1"))
        return bool(re.search(r"O", str(header["descr"])))
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        return True


def _packed(file: IO[bytes], depth: int, parts: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    if depth == 0:
        yield "", f"is packed more than {MAX_DEPTH} times"
        return
    content = bytearray()
    try:
        for part in parts:
            content += part
            if len(content) > MAX_UNPACKED:
                yield "", f"unpacks to more than {MAX_UNPACKED >> 20} MiB"
                return
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        pass  # it only began as if it were packed; or it breaks off, and its reader has run what came before
    for inside, what in _look(io.BytesIO(bytes(content)), depth - 1):
        yield inside, f"{what}, packed"


def _unpacked(file: IO[bytes], head: bytes) -> Iterator[bytes] | None:
    """The content of a compressed stream, in parts; None when it is none."""
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            return iter(partial(opener(file).read1, _PART), b"")  # `read` would lose what comes before a break
    if len(head) > 1 and head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0:
        return _inflated(file)
    return None


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """Streams of zlib, one after the other, as joblib reads them."""
    machine = zlib.decompressobj()
    while part := machine.unconsumed_tail or machine.unused_data or file.read(1024):
        if machine.eof:
            machine = zlib.decompressobj()
        yield machine.decompress(part, _PART)


Members = Callable[[IO[bytes]], Iterator[tuple[str, int, IO[bytes] | None]]]


def _archive(file: IO[bytes], depth: int, members: Members) -> Iterator[tuple[str, str]]:
    if depth == 0:
        yield "", f"is packed more than {MAX_DEPTH} times"
        return
    left = MAX_UNPACKED
    try:
        for name, size, member in members(file):
            if member is None:
                yield f"!{name}", "is encrypted, or packed in a way that is not looked into"
                continue
            content = member.read(left + 1)
            left -= len(content)
            if left < 0 or size > MAX_UNPACKED:
                yield f"!{name}", f"unpacks, with what is beside it, to more than {MAX_UNPACKED >> 20} MiB"
                return
            for inside, what in _look(io.BytesIO(content), depth - 1):
                yield f"!{name}{inside}", what
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        yield "", f"is an archive that cannot be read: {' '.join(str(error).split())[:100]}"


def _members_of_zip(file: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            try:
                yield member.filename, member.file_size, archive.open(member)
            except (RuntimeError, NotImplementedError):
                yield member.filename, member.file_size, None


def _members_of_tar(file: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.isfile():
                yield member.name, member.size, archive.extractfile(member)


def _is_tar(file: IO[bytes]) -> bool:
    file.seek(257)
    magic = file.read(5)
    file.seek(0)
    return magic == b"ustar"
