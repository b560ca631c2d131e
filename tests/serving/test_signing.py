"""A folder is what a trusted key signed, file by file; keys are made once; whatever else is refused in a sentence."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given
from hypothesis import settings as quick
from hypothesis import strategies as st

from pipeline.errors import Invalid, Unavailable
from pipeline.settings import Settings
from serving.signing import SIGNATURE, check_signature, fingerprint, public_keys, sign, signer_identity

FILES = {"config.pbtxt": b'name: "m"', "1/model.onnx": b"graph", "manifest.json": b"{}"}


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def made(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, content in (files or FILES).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def signed(own: Settings, tmp_path: Path) -> Path:
    folder = made(tmp_path / "m")
    sign(folder, own)
    return folder


def private_pem(key: Any, passphrase: bytes = b"") -> bytes:
    sealed = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)


def public_pem(key: Any) -> bytes:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def certificate_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Self-signed, and long expired: it carries a key, and its dates promise nothing."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "slipway")])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, begin, begin + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def with_keys(tmp_path: Path, private: bytes, verify: bytes, runtime: str = "kubernetes") -> Settings:
    (tmp_path / "k").mkdir(exist_ok=True)
    (tmp_path / "k" / "private.pem").write_bytes(private)
    (tmp_path / "k" / "verify.pem").write_bytes(verify)
    keys = {"signing_key": tmp_path / "k" / "private.pem", "verify_key": tmp_path / "k" / "verify.pem"}
    return Settings.model_validate({"home": tmp_path / "home", "runtime": runtime, **keys})


# -- keys


def test_the_pair_is_made_once_and_only_its_owner_reads_it(own: Settings, signed: Path) -> None:
    before = own.signing_key.read_bytes(), own.verify_key.read_bytes()
    assert own.signing_key.stat().st_mode & 0o777 == 0o600
    assert own.verify_key.stat().st_mode & 0o777 == 0o644
    sign(signed, own)
    check_signature(signed, own)
    assert (own.signing_key.read_bytes(), own.verify_key.read_bytes()) == before
    assert sorted(path.name for path in own.signing_key.parent.iterdir()) == ["signing.pem", "verify.pem"]
    assert signer_identity(own) == fingerprint(public_keys(own)[0])
    assert signer_identity(own).startswith("sha256:")


def test_who_comes_at_once_gets_one_pair(own: Settings) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.settings import Settings;"
        "from serving.signing import signer_identity; sys.stdin.readline();"
        "print(signer_identity(Settings(home=Path(sys.argv[1]))))"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(own.home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert {racer.communicate(timeout=60)[0].strip() for racer in racers} == {signer_identity(own)}


def test_a_public_key_is_made_again_of_the_private_one_that_is_there(own: Settings, signed: Path) -> None:
    """What was killed between the two, or lost one of them."""
    own.verify_key.unlink()
    check_signature(signed, own)


@pytest.mark.parametrize("kind", ["key", "certificate"])
def test_what_verifies_may_be_a_key_or_a_certificate(tmp_path: Path, kind: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    verify = public_pem(key) if kind == "key" else certificate_pem(key)
    settings = with_keys(tmp_path, private_pem(key), verify)
    folder = made(tmp_path / "m")
    sign(folder, settings)
    check_signature(folder, settings)
    assert signer_identity(settings) == fingerprint(key.public_key())


def test_a_key_is_replaced_while_what_the_old_one_signed_stays_good(tmp_path: Path) -> None:
    old, new = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1()))
    before = made(tmp_path / "before")
    sign(before, with_keys(tmp_path, private_pem(old), public_pem(old)))
    after = made(tmp_path / "after")
    settings = with_keys(tmp_path, private_pem(new), b"the old one\n" + certificate_pem(old) + public_pem(new))
    sign(after, settings)
    check_signature(before, settings)
    check_signature(after, settings)
    settings = with_keys(tmp_path, private_pem(new), public_pem(new))
    with pytest.raises(Invalid, match="the signature does not hold"):
        check_signature(before, settings)


@pytest.fixture(scope="session")
def p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def test_invalid_keys_are_refused_when_signing(
    tmp_path: Path, p256: ec.EllipticCurvePrivateKey, rsa_key: rsa.RSAPrivateKey, subtests: pytest.Subtests
) -> None:
    private, public = private_pem(p256), public_pem(p256)
    cases = {
        "another pair": (private, public_pem(ec.generate_private_key(ec.SECP256R1())), "does not verify"),
        "a passphrase": (private_pem(p256, b"secret"), public, "no private key"),
        "RSA": (private_pem(rsa_key), public, "not an EC key"),
        "another curve": (private_pem(ec.generate_private_key(ec.SECP256K1())), public, "a key is not of secp256r1"),
        "no private key": (b"", public, "no private key"),
        "bytes for a private key": (b"\xff\x00", public, "no private key"),
        "no public key": (private, b"", "there is no key in it"),
        "bytes for a public key": (private, b"\xff\x00", "there is no key in it"),
        "verified by RSA": (private, public_pem(rsa_key), "a key is not of secp256r1"),
        "verified by a private key": (private, private, "block 1 is neither a public key nor a certificate"),
        "a second public key, cut off": (private, public + public[:60], "block 2 is neither"),
    }
    folder = made(tmp_path / "m")
    for name, (signs, verifies, what) in cases.items():
        (folder / SIGNATURE).unlink(missing_ok=True)
        with subtests.test(name):
            with pytest.raises(Invalid, match=what) as refused:
                sign(folder, with_keys(tmp_path, signs, verifies))
            assert refused.value.problems[0].remedy
            assert not (folder / SIGNATURE).exists()


def test_in_a_cluster_no_key_is_made(tmp_path: Path, signed: Path) -> None:
    cluster = Settings(home=tmp_path / "other", runtime="kubernetes")
    with pytest.raises(Invalid, match="the signing key cannot be read: No such file"):
        sign(made(tmp_path / "n"), cluster)
    with pytest.raises(Invalid, match=r"the key that signatures are verified by cannot be read.*SLIPWAY_VERIFY_KEY"):
        check_signature(signed, cluster)
    with pytest.raises(Invalid, match="the signing key cannot be read"):
        signer_identity(cluster)
    assert not cluster.home.exists()


# -- folders

Harm = Callable[[Path], object]
HARMS: dict[str, Harm] = {
    "a flipped byte": lambda at: (at / "1" / "model.onnx").write_bytes(b"grapi"),
    "a missing file": lambda at: (at / "config.pbtxt").unlink(),
    "a file too many": lambda at: (at / "1" / "more.json").write_bytes(b""),
    "a file that git knows": lambda at: made(at, {".git/hooks/post-checkout": b"#!/bin/sh"}),
    "a file that git looks past": lambda at: (at / ".gitignore").write_bytes(b"*"),
    "another name": lambda at: (at / "config.pbtxt").rename(at / "config.pbtxt2"),
    "another folder": lambda at: (at / "1").rename(at / "2"),
    "two contents swapped": lambda at: made(at, {"config.pbtxt": b"{}", "manifest.json": b'name: "m"'}),
    "a link to the same content": lambda at: (
        (at / "config.pbtxt").rename(at.parent / "c"),
        (at / "config.pbtxt").symlink_to(at.parent / "c"),
    ),
    "a linked folder": lambda at: (
        (at / "1").rename(at.parent / "1"),
        (at / "1").symlink_to(at.parent / "1", target_is_directory=True),
    ),
    "a pipe": lambda at: os.mkfifo(at / "pipe"),
    "no signature": lambda at: (at / SIGNATURE).unlink(),
    "an empty signature": lambda at: (at / SIGNATURE).write_bytes(b""),
    "a signature cut in half": lambda at: os.truncate(at / SIGNATURE, (at / SIGNATURE).stat().st_size // 2),
    "a huge signature": lambda at: (at / SIGNATURE).write_bytes(b"[" * (1 << 21)),
    "a deep signature": lambda at: (at / SIGNATURE).write_bytes(b"[" * (1 << 19)),
    "a signature that is a link": lambda at: (
        (at / SIGNATURE).rename(at.parent / "s"),
        (at / SIGNATURE).symlink_to(at.parent / "s"),
    ),
    "a signature that is a folder": lambda at: ((at / SIGNATURE).unlink(), (at / SIGNATURE).mkdir()),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_was_not_signed_so_is_refused(own: Settings, signed: Path, harm: str) -> None:
    check_signature(signed, own)
    HARMS[harm](signed)
    with pytest.raises(Invalid) as refused:
        check_signature(signed, own)
    for problem in refused.value.problems:
        assert "signature" in problem.what
        assert problem.remedy
        assert "Digest(" not in problem.what
        assert "\n" not in problem.what


def test_a_signature_of_another_folder_is_refused(own: Settings, signed: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other" / "m", {**FILES, "1/model.onnx": b"older graph"})  # of the same name, even
    sign(other, own)
    shutil.copy(other / SIGNATURE, signed / SIGNATURE)
    with pytest.raises(Invalid, match="the signature does not hold"):
        check_signature(signed, own)


def test_where_a_folder_lies_does_not_matter(own: Settings, signed: Path, tmp_path: Path) -> None:
    check_signature(shutil.copytree(signed, tmp_path / "copies" / "1"), own)


def test_a_bundle_names_no_key(own: Settings, signed: Path, tmp_path: Path) -> None:
    """Signed by another key, whatever the bundle says of it: the key is ours to say."""
    theirs = Settings(home=tmp_path / "theirs")
    ours = json.loads((signed / SIGNATURE).read_text())
    sign(signed, theirs)
    bundle = json.loads((signed / SIGNATURE).read_text())
    for material in (bundle["verificationMaterial"], ours["verificationMaterial"]):
        (signed / SIGNATURE).write_text(json.dumps({**bundle, "verificationMaterial": material}))
        with pytest.raises(Invalid, match="the signature does not hold"):
            check_signature(signed, own)
    (signed / SIGNATURE).write_text(json.dumps(bundle))
    check_signature(signed, theirs)


def test_a_payload_that_was_not_signed_is_refused(own: Settings, signed: Path) -> None:
    bundle = json.loads((signed / SIGNATURE).read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"] = payload["predicate"]["resources"][:1]
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    (signed / SIGNATURE).write_text(json.dumps(bundle))
    with pytest.raises(Invalid, match="the signature does not hold"):
        check_signature(signed, own)


SLOW = quick(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(data=st.data())
def test_no_signature_brings_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    base = tmp_path_factory.getbasetemp() / "fuzzed"
    own, folder = Settings(home=base / "home"), base / "m"
    if not folder.is_dir():
        sign(made(folder), own)
        shutil.copy(folder / SIGNATURE, base / "right")
    right = (base / "right").read_bytes()
    at = data.draw(st.integers(0, len(right)))
    noise = data.draw(st.binary(max_size=8) | st.sampled_from([b"null", b"[]", b"{}", b'"', b"1e999", b"\\ud800"]))
    kind = data.draw(st.sampled_from(["insert", "replace", "cut", "only"]))
    rest = {"insert": right[at:], "replace": right[at + len(noise) :], "cut": b"", "only": b""}[kind]
    content = (b"" if kind == "only" else right[:at]) + noise + rest
    (folder / SIGNATURE).write_bytes(content)
    try:
        check_signature(folder, own)
    except Invalid:
        return
    assert _value(content) == _value(right)  # it says the same, only in other words


def _value(content: bytes) -> object:
    bundle = json.loads(content)
    envelope = bundle["dsseEnvelope"]
    return base64.b64decode(envelope["payload"]), envelope["payloadType"]


@SLOW
@given(name=st.sampled_from([*FILES]), content=st.binary(max_size=30))
def test_no_other_content_passes(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes) -> None:
    base = tmp_path_factory.getbasetemp() / "contents"
    own, folder = Settings(home=base / "home"), base / "m"
    if not folder.is_dir():
        sign(made(folder), own)
    (folder / name).write_bytes(content)
    try:
        if content == FILES[name]:
            check_signature(folder, own)
        else:
            with pytest.raises(Invalid, match="the signature does not hold"):
                check_signature(folder, own)
    finally:
        (folder / name).write_bytes(FILES[name])


# -- sigstore: the service cannot be reached here, so what is asked of the library is held


class Asked:
    """The library's configuration, as far as its arguments set it."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012 (one list for all that are made)
    failure: Exception | None = None

    def set_hashing_config(self, _: object) -> Asked:
        return self

    def __getattr__(self, name: str) -> Callable[..., Asked]:
        def call(*_: object, **options: object) -> Asked:
            self.calls.append((name, options))
            if name in ("sign", "verify") and self.failure is not None:
                raise self.failure
            return self

        return call


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> type[Asked]:
    from model_signing import signing as library_signing
    from model_signing import verifying as library_verifying

    monkeypatch.setattr(Asked, "calls", [])
    monkeypatch.setattr(library_signing, "Config", Asked)
    monkeypatch.setattr(library_verifying, "Config", Asked)
    return Asked


def test_sigstore_signs_by_the_identity_of_the_place(asked: type[Asked], tmp_path: Path) -> None:
    folder = made(tmp_path / "m")
    settings = Settings(home=tmp_path / "home", signing="sigstore", sigstore_identity="me", sigstore_issuer="https://i")
    sign(folder, settings)
    assert asked.calls == [("use_sigstore_signer", {"use_ambient_credentials": True}), ("sign", {})]
    assert signer_identity(settings) == "sigstore:me"
    assert not settings.home.exists()  # no keys of ours


def test_sigstore_verifies_by_identity_and_issuer(
    asked: type[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "m", {**FILES, SIGNATURE: b"{}"})
    settings = Settings(home=tmp_path / "home", signing="sigstore", sigstore_identity="me", sigstore_issuer="https://i")
    check_signature(folder, settings)
    assert asked.calls == [
        ("use_sigstore_verifier", {"identity": "me", "oidc_issuer": "https://i"}),
        ("verify", {}),
    ]
    monkeypatch.setattr(asked, "failure", ValueError("the certificate is another's"))
    with pytest.raises(Invalid, match="another's"):
        check_signature(folder, settings)
    with pytest.raises(Unavailable, match="sigstore did not sign"):
        sign(folder, settings)


def test_sigstore_trusts_nobody_who_is_not_named(tmp_path: Path) -> None:
    folder = made(tmp_path / "m", {**FILES, SIGNATURE: b"{}"})
    with pytest.raises(Invalid, match=r"nobody is named.*SLIPWAY_SIGSTORE_IDENTITY"):
        check_signature(folder, Settings(home=tmp_path / "home", signing="sigstore", sigstore_identity="me"))
