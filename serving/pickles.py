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
import math
import mmap
import operator
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from numpy.lib.format import descr_to_dtype

from serving.opcodes import is_program

MAX_DEPTH = 5  # archives within archives
MAX_UNPACKED = 256 << 20  # bytes of one packed file
_PART = io.DEFAULT_BUFFER_SIZE  # bytes that are unpacked at once: no more is lost at a break than to who reads it
_SEALED = {  # packed in ways that are not looked into
    b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar",
    b"\x1f\x9d": "compress", b"\x02\x21\x4c\x18": "lz4", b"ZF0x": "an old joblib's zlib",
}  # fmt: skip
Opener = Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]
_OPENERS: dict[bytes, Opener] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_ARRAY = b"\x93NUMPY"
_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    SyntaxError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)
_BROKEN = (
    OSError, EOFError, ValueError, RuntimeError, OverflowError, zlib.error, lzma.LZMAError, tarfile.TarError,
    zipfile.BadZipFile,
)  # fmt: skip
_MAX_HEADER = 1 << 20  # bytes of what an array says of itself
_LZMA = 9 * 5 * 5  # combinations of lc, lp, pb: the first byte of a stream of LZMA without a container is below
_NOTHING = 18  # bytes of such a stream that holds none, all zeros


def find_pickles(root: Path) -> list[tuple[str, str]]:
    """(path below the root, what is wrong with it) of each file that is a pickle, holds one, or cannot be looked into.

    `root` is a folder, or one file. Links are not followed. Raises OSError when a file cannot be read.
    """
    found = []
    for path in [root] if root.is_file() else _files(root):
        name = path.relative_to(root).as_posix() if path != root else path.name
        with path.open("rb") as file:
            found += [(f"{name}{inside}", what) for inside, what in _look(file, MAX_DEPTH)]
    return found


def _files(root: Path) -> list[Path]:
    """The plain files below; `rglob` would pass by a folder that may not be read."""

    def fail(error: OSError) -> None:
        raise error

    paths = [Path(folder) / name for folder, _, names in os.walk(root, onerror=fail) for name in names]
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def _look(file: IO[bytes], depth: int) -> Iterator[tuple[str, str]]:
    """What is wrong with a stream that can be wound back: place within it, and what."""
    head = file.read(16)
    file.seek(0)
    if head.startswith(_ARRAY):
        yield from _arrays(file, depth)
    for magic, name in _SEALED.items():
        if head.startswith(magic):
            yield "", f"is packed by {name}, which is not looked into"
            return
    if is_pickle(file):
        yield "", "is a pickle"
    file.seek(0)
    if _is_zip(file):
        yield from _archive(file, depth, _members_of_zip)  # which may lie behind something else
    for opened in _openers(head):
        file.seek(0)
        yield from _packed(opened(file), depth)
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


def _arrays(file: IO[bytes], depth: int) -> Iterator[tuple[str, str]]:
    """Arrays as `numpy.save` writes them, one after the other, and whatever follows the last."""
    file.seek(0)
    end = 0
    while file.read(len(_ARRAY)) == _ARRAY:
        try:
            end = _end_of_array(file)
        except _UNREADABLE:
            yield "", "is a NumPy array of pickled objects, or one that cannot be read"
            return
        file.seek(end)
    file.seek(end)
    behind = file.read(MAX_UNPACKED + 1)
    if len(behind) > MAX_UNPACKED:
        yield "", f"is a NumPy array with more than {MAX_UNPACKED >> 20} MiB behind it"
    elif behind:
        for inside, what in _look(io.BytesIO(behind), depth):
            yield inside, f"{what}, behind a NumPy array"


def _end_of_array(file: IO[bytes]) -> int:
    """Where the array ends whose first letters are read. Raises ValueError, and others, when it holds objects."""
    major = file.read(2)[0]
    size = int.from_bytes(file.read(2 if major == 1 else 4), "little")
    if size > _MAX_HEADER:
        raise ValueError("no header is as long")
    header = ast.literal_eval(file.read(size).decode("latin1" if major < 3 else "utf-8"))
    dtype, shape = descr_to_dtype(header["descr"]), [operator.index(length) for length in header["shape"]]
    count = math.prod(shape)
    length = count * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or max(count, length) >> 62:
        raise ValueError("objects, or no size")
    return file.tell() + length


def _packed(parts: Iterator[bytes], depth: int) -> Iterator[tuple[str, str]]:
    content = bytearray()
    try:
        for part in parts:
            content += part
            if len(content) > MAX_UNPACKED:
                yield "", f"unpacks to more than {MAX_UNPACKED >> 20} MiB"
                return
    except (OSError, EOFError, ValueError, MemoryError, zlib.error, lzma.LZMAError):
        pass  # it only began as if it were packed; or it breaks off, and its reader has run what came before
    if not content:
        return
    if depth == 0:
        yield "", f"is packed more than {MAX_DEPTH} times"
        return
    for inside, what in _look(io.BytesIO(bytes(content)), depth - 1):
        yield inside, f"{what}, packed"


def _openers(head: bytes) -> Iterator[Callable[[IO[bytes]], Iterator[bytes]]]:
    """What may unpack a stream that begins so, in parts."""
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            yield partial(_parts, opener)
    if len(head) > 1 and head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0:
        yield _inflated
    # has no magic: properties, 4 bytes of the window's size and 8 of the content's, of any value; then always a zero
    if len(head) > 13 and head[0] < _LZMA and head[13] == 0:
        yield _unsqueezed


def _parts(opener: Opener, file: IO[bytes]) -> Iterator[bytes]:
    yield from iter(partial(opener(file).read1, _PART), b"")  # `read` would lose what comes before a break


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """Streams of zlib, one after the other, as joblib reads them."""
    machine = zlib.decompressobj()
    while part := machine.unconsumed_tail or machine.unused_data or file.read(1024):
        if machine.eof:
            machine = zlib.decompressobj()
        yield machine.decompress(part, _PART)


def _unsqueezed(file: IO[bytes]) -> Iterator[bytes]:
    """Streams of LZMA without a container, one after the other."""
    while True:
        # zeros are streams of nothing, and a file that is full of them would take an age
        begin, zeros = file.tell(), _zeros(file)
        file.seek(begin + zeros // _NOTHING * _NOTHING)
        machine = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
        while not machine.eof:
            part = file.read(_PART) if machine.needs_input else b""
            if machine.needs_input and not part:
                return
            yield machine.decompress(part, _PART)
        file.seek(-len(machine.unused_data), io.SEEK_CUR)


def _zeros(file: IO[bytes]) -> int:
    """How many zeros follow."""
    count = 0
    while part := file.read(1 << 16):
        left = 0 if part == bytes(len(part)) else len(part.lstrip(b"\0"))
        count += len(part) - left
        if left:
            break
    return count


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
    except _BROKEN as error:
        yield "", f"is an archive that cannot be read: {' '.join(str(error).split())[:100]}"


def _members_of_zip(file: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():  # one that is named as a folder may have content too
            try:
                yield member.filename, member.file_size, archive.open(member)
            except RuntimeError:  # a password, or a compression that Python does not know (NotImplementedError is one)
                yield member.filename, member.file_size, None


def _is_zip(file: IO[bytes]) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # one of several parts
        return True


def _members_of_tar(file: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as archive:
        for member in archive:
            is_link = member.islnk() or member.issym()  # to what is looked at itself
            if not is_link and (content := archive.extractfile(member)) is not None:
                yield member.name, member.size, content


def _is_tar(file: IO[bytes]) -> bool:
    """Whether the first block that is not of zeros is a member's header, by its checksum: not all have a magic."""
    file.seek(0)
    file.seek(_zeros(file) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE)
    block = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
