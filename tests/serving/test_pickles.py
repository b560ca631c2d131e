"""What is pickled is found in every disguise, and nothing else is taken for it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import pickles
from serving.pickles import find_pickles, is_pickle
from tests.serving.known import graph


class Harm:
    """What runs code when it is read."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return print, ("read",)


def zipped(content: bytes, name: str = "weights.json") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "nothing here")
        archive.writestr(name, content)
    return file.getvalue()


def deflated(content: bytes, bits: int) -> bytes:
    machine = zlib.compressobj(9, zlib.DEFLATED, bits)
    return machine.compress(content) + machine.flush()


def tarred(content: bytes, mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("weights.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def jobbed(folder: Path, compress: object) -> bytes:
    import joblib

    joblib.dump({"w": np.arange(1000.0), "h": Harm()}, folder / "j", compress=compress)  # type: ignore[arg-type]
    return (folder / "j").read_bytes()


def torch_saved(**options: bool) -> bytes:
    import torch

    return saved(lambda file: torch.save({"w": torch.ones(3)}, file, **options))


def pickled_frame() -> bytes:
    import pandas as pd

    return pickle.dumps(pd.DataFrame({"a": [1]}))


def old_tar(content: bytes) -> bytes:
    """As it was before POSIX: nothing but a checksum says what it is."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("weights.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    data = bytearray(file.getvalue())
    data[257:265] = bytes(8)
    return checked(data)


def checked(data: bytearray) -> bytes:
    """The first header's checksum made right."""
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def of_unknown_type(content: bytes) -> bytes:
    data = bytearray(tarred(content))
    data[156:157] = b"Z"
    return checked(data)


def array(description: str, content: bytes, shape: str = "(1,)", major: int = 1) -> bytes:
    """An .npy whose header is written by hand."""
    header = f"{{'descr': {description}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([major, 0]) + len(header).to_bytes(2 if major == 1 else 4, "little") + header + content


def squeezed(content: bytes, **options: int) -> bytes:
    return lzma.compress(content, lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, **options}])


def sized(data: bytes, size: int) -> bytes:
    """LZMA whose header says that it unpacks to so much."""
    return data[:5] + size.to_bytes(8, "little") + data[13:]


def spoilt(data: bytes, at: int) -> bytes:
    return data[:at] + b"\xff" * 100 + data[at + 100 :]


NUMBERS = saved(lambda file: np.save(file, np.arange(12.0).reshape(3, 4)))
LONG = bytes(1 << 16) + os.urandom(1 << 12)
BAD = pickle.dumps(Harm(), protocol=4)
DISGUISES: dict[str, Callable[[Path], bytes]] = {
    **{f"protocol {at}": lambda _, at=at: pickle.dumps(Harm(), protocol=at) for at in range(6)},
    **{f"data of protocol {at}": lambda _, at=at: pickle.dumps({"a": [1, 2.5]}, protocol=at) for at in range(6)},
    "protocol 0 with a tail": lambda _: pickle.dumps(Harm(), protocol=0) + b" and more",
    "broken off": lambda _: BAD[:-1],
    "without a header": lambda _: BAD[2:],
    "of an older protocol, broken off": lambda _: b"cos\nsystem\n(S'true'\ntR",
    "called by INST, broken off": lambda _: b"(S'true'\nios\nsystem",
    "behind a value that pickletools does not take": lambda _: b"S'\xff'\n0I5\0 and more\n0" + BAD[2:],
    "behind a harmless one": lambda _: b"N." + BAD,
    "with names in another alphabet": lambda _: "cmödule\nfunctiön\n)R.".encode(),
    "extension registry": lambda _: b"\x80\x02\x82\x01)R.",
    "a number, headed": lambda _: pickle.dumps(3, protocol=4),
    "gzip, broken off": lambda _: gzip.compress(BAD + bytes(1 << 16))[:-20],
    "gzip, with another stream before it": lambda _: gzip.compress(b"") + gzip.compress(BAD),
    "gzip, with a zip behind it": lambda _: gzip.compress(BAD) + zipped(b"nothing"),
    "zlib, by its smallest window": lambda _: deflated(BAD, 9),
    "zlib, broken off": lambda _: zlib.compress(BAD + os.urandom(1 << 14))[:-500],
    "zlib, with another stream before it": lambda _: zlib.compress(b"") + zlib.compress(BAD),
    "gzip": lambda _: gzip.compress(BAD),
    "bz2": lambda _: bz2.compress(BAD),
    "xz": lambda _: lzma.compress(BAD),
    "lzma": lambda _: lzma.compress(BAD, format=lzma.FORMAT_ALONE),
    "zlib": lambda _: zlib.compress(BAD),
    "zip": lambda _: zipped(BAD),
    "zip after an ONNX graph": lambda _: graph(1.0) + zipped(BAD),
    "tar": lambda _: tarred(BAD),
    "tar.gz": lambda _: tarred(BAD, "w:gz"),
    "zip in zip in gzip": lambda _: gzip.compress(zipped(zipped(BAD))),
    "npy of objects": lambda _: saved(lambda file: np.save(file, np.array([Harm()], dtype=object))),
    "npz of objects": lambda _: saved(lambda file: np.savez(file, a=np.array([1, "x"], dtype=object))),
    "npy of a record with objects": lambda _: saved(
        lambda file: np.save(file, np.array([(1, "x")], dtype=[("a", "i4"), ("b", "O")]))
    ),
    "npy of objects, by another name": lambda _: array("'object'", BAD),
    "npy of objects, by a list of names": lambda _: array("'i4,O'", BAD),
    "npy of objects, in a field": lambda _: array("[('a', [('b', 'object')])]", BAD),
    "npy of objects, of the third version": lambda _: array("[('ä', 'object')]", BAD, major=3),
    "npy of no version": lambda _: array("'O'", BAD, major=9),
    "npy of nothing that can be read": lambda _: array("'nothing'", BAD),
    "npy of negative size": lambda _: array("'f8'", BAD, "(-1,)"),
    "npy of more than all": lambda _: array("'f8'", BAD, "(4294967296, 4294967296)"),
    "npy, two in one": lambda _: NUMBERS + array("'O'", BAD),
    "npy, many in one": lambda _: NUMBERS * 20 + array("'O'", BAD),
    "npy of nothing, then objects": lambda _: array("'S0'", b"", "(5,)") + array("'O'", BAD),
    "npy, then a pickle": lambda _: NUMBERS + BAD,
    "npy, then a zip": lambda _: NUMBERS + zipped(BAD),
    "npy, then a tar": lambda _: NUMBERS + tarred(BAD),
    "npy of bytes that are a zip": lambda _: saved(
        lambda file: np.save(file, np.frombuffer(zipped(BAD), dtype=np.uint8))
    ),
    "npz, whose npy is followed": lambda _: zipped(NUMBERS + BAD, "a.npy"),
    "lzma, of a small window": lambda _: squeezed(BAD, dict_size=4096),
    "lzma, with other properties": lambda _: squeezed(BAD, dict_size=1 << 16, lc=2, lp=1, pb=0),
    "lzma, of an odd window": lambda _: squeezed(BAD)[:1] + (12345).to_bytes(4, "little") + squeezed(BAD)[5:],
    "lzma, of a size that it has not": lambda _: sized(squeezed(BAD + LONG), 1 << 60),
    "lzma, with others before it": lambda _: bytes(36) + squeezed(b"") + squeezed(BAD),
    "lzma, that looks like zlib": lambda _: b"\x38\x11" + squeezed(BAD, dict_size=1 << 16, lc=2, lp=1, pb=1)[2:],
    "lzma, spoilt": lambda _: spoilt(squeezed(BAD + LONG), 3000),
    "xz, spoilt": lambda _: spoilt(lzma.compress(BAD + LONG), 3000),
    "gzip, spoilt": lambda _: spoilt(gzip.compress(BAD + LONG), 3000),
    "tar of old": lambda _: old_tar(BAD),
    "tar of old, gzip": lambda _: gzip.compress(old_tar(BAD)),
    "tar behind zeros": lambda _: bytes(512 * 300) + tarred(BAD),
    "tar behind another": lambda _: tarred(b"nothing") + tarred(BAD),
    "tar with a member of no known type": lambda _: of_unknown_type(BAD),
    "zip, named as a folder": lambda _: zipped(BAD, "weights/"),
    "torch": lambda _: torch_saved(),
    "torch, as it was": lambda _: torch_saved(_use_new_zipfile_serialization=False),
    "joblib": lambda folder: jobbed(folder, 0),
    "joblib, zlib": lambda folder: jobbed(folder, 3),
    "joblib, gzip": lambda folder: jobbed(folder, ("gzip", 3)),
    "joblib, lzma": lambda folder: jobbed(folder, ("lzma", 3)),
    "pandas": lambda _: pickled_frame(),
}
NAMES = ("model.onnx", "config.pbtxt", "columns.json", "weights")


def test_a_pickle_is_found(tmp_path: Path, subtests: pytest.Subtests) -> None:
    folder = tmp_path / "tree" / "1"
    folder.mkdir(parents=True)
    for disguise, make in DISGUISES.items():
        with subtests.test(disguise):
            content = make(tmp_path)
            for name in NAMES:
                (folder / name).write_bytes(content)
            first = {place[2:].partition("!")[0]: what for place, what in reversed(find_pickles(tmp_path / "tree"))}
            assert [name for name in NAMES if "pickle" not in first.get(name, "")] == []


def harmless() -> dict[str, bytes]:
    import matplotlib.pyplot as plt
    import pandas as pd
    import xgboost
    import yaml
    from safetensors.numpy import save

    rows = xgboost.DMatrix(np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2)
    booster = xgboost.train({"max_depth": 3, "objective": "binary:logistic"}, rows, 5)
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    value = {"config": {"name": "x", "until": date(2026, 1, 1).isoformat()}, "list": [1, None, True]}
    return {
        "model.onnx": graph(2.0),
        "model.ubj": bytes(booster.save_raw("ubj")),
        "model.json": bytes(booster.save_raw("json")),
        "weights.safetensors": save({"w": np.ones((3, 3), dtype=np.float32)}),
        "rows.parquet": saved(frame.to_parquet),
        "rows.csv": frame.to_csv().encode(),
        "spec.yaml": yaml.safe_dump(value, explicit_end=True).encode(),
        "value.json": json.dumps(value).encode(),
        "array.npy": saved(lambda file: np.save(file, np.ones(4))),
        "arrays.npz": saved(lambda file: np.savez(file, a=np.ones(4), b=np.array(["x", "y"]))),
        "arrays.npy": NUMBERS * 20,
        "array, and a line.npy": NUMBERS + b"\n",
        "broken.npy": NUMBERS[:-20],
        "records.npy": saved(lambda file: np.save(file, np.zeros(3, dtype=[("a", "<f4"), ("ö", "U3")]))),
        "long.npy": saved(lambda file: np.save(file, np.zeros(1, dtype=[(f"a{at}", "f4") for at in range(2000)]))),
        "zeros": bytes(1 << 20),
        "a number and zeros": np.array([5, 1 << 20, *[0] * 4000]).tobytes(),
        "floats": np.array([2.0, 2.0, *[0.0] * 4000], dtype=np.float32).tobytes(),
        "random, like lzma": b"".join(b"\x5d\0\0\x80\0" + b"\xff" * 8 + b"\0" + os.urandom(4000) for _ in range(3)),
        "texts.lzma": squeezed(b"a line\n", dict_size=4096),
        "texts.tar": old_tar(b"a line\n"),
        "folders.zip": zipped(b"", "folder/"),
        "config.pbtxt": b'name: "m"\nbackend: "onnxruntime"\n',
        "notes.txt": b"config\nname\n... and so on.\n",
        "numbers.txt": b"I am a text.\n",
        "word.txt": b"N.",
        "names.csv": b"customer\nage\n.5\n0\n1\n",
        "names.csv.gz": gzip.compress(b"(income\nage limit\n(tR\n"),
        "class.txt": b"]. This is what it says.\n}.",
        "picture.png": saved(lambda file: plt.imsave(file, np.eye(4))),
        "zeppelin.csv": b"ZF,ZG\n1,2\n",
        "broken.gz": gzip.compress(os.urandom(1 << 12))[:-700],
        "empty": b"",
        "drawing.svg": b"<svg/>",
        "logs.gz": gzip.compress(b"a line\n"),
    }


def test_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    for name, content in harmless().items():
        (tmp_path / name).write_bytes(content)
    assert find_pickles(tmp_path) == []


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=200) | st.binary(min_size=1, max_size=200))
def test_texts_and_bytes_are_not_taken_for_one(content: str | bytes) -> None:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    assert not is_pickle(io.BytesIO(data))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([*DISGUISES]), st.integers(0, 400))
def test_no_bytes_bring_a_traceback(tmp_path_factory: pytest.TempPathFactory, noise: bytes, kind: str, at: int) -> None:
    folder = tmp_path_factory.mktemp("pickles")
    content = DISGUISES[kind](folder)
    file = folder / "f"
    file.write_bytes(content[:at] + noise + content[at + len(noise) :])
    find_pickles(file)


def test_what_cannot_be_looked_into_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_UNPACKED", 1 << 20)
    deep = BAD
    for _ in range(pickles.MAX_DEPTH + 1):
        deep = gzip.compress(deep)
    for name, content, said in [
        ("zstd", b"\x28\xb5\x2f\xfd" + b"0" * 20, "packed by zstd"),
        ("bomb.gz", gzip.compress(bytes(2 << 20)), "unpacks to more than 1 MiB"),
        ("bomb.zip", zipped(bytes(2 << 20)), "unpacks"),
        ("deep", deep, "packed more than"),
        ("much behind.npy", NUMBERS + bytes(2 << 20), "more than 1 MiB behind it"),
        ("later.zip", zipped(b"x").replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\x40"), "cannot be read"),
        ("torn.zip", zipped(b"x" * 500)[:-60] + zipped(b"y")[-60:], "cannot be read"),
    ]:
        (tmp_path / name).write_bytes(content)
        (_, what), *_ = find_pickles(tmp_path / name)
        assert said in what, name


def test_a_zip_of_several_parts_is_not_passed_by(tmp_path: Path) -> None:
    plain = zipped(b"x")
    parts = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 2)  # the locator of ZIP64: two disks
    (tmp_path / "f").write_bytes(plain[:-22] + parts + plain[-22:])
    ((_, what),) = find_pickles(tmp_path)
    assert "cannot be read" in what


def test_a_large_array_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(array("'f8'", b"", f"({1 << 31},)"))
        file.truncate(file.tell() + (1 << 34))
    assert find_pickles(tmp_path / "a.npy") == []
    with (tmp_path / "a.npy").open("ab") as file:
        file.write(array("'O'", BAD))
    (place, what), *_ = find_pickles(tmp_path / "a.npy")
    assert (place, "pickle" in what) == ("a.npy", True)


def test_what_is_no_packing_is_not_packed_too_often(tmp_path: Path) -> None:
    content = b"\x5d\0\0\x80\0" + b"\xff" * 8 + b"\0" + b"\xff" * 4000
    for _ in range(pickles.MAX_DEPTH):
        content = gzip.compress(content)
    (tmp_path / "f").write_bytes(content)
    assert find_pickles(tmp_path) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(BAD)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "bad")
    assert find_pickles(tmp_path / "tree") == []
