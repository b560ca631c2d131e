"""Signatures of folders, by OpenSSF model signing: an EC key of ours, or sigstore by identity. Its one importer.

`model.sig` lies in the folder that it signs, over every other file of it. What may be served is said by `verify_key`:
PEM blocks of public keys or certificates, any of which may have signed (so that a key can be replaced).
The tests sign and verify by keys for real; of sigstore, whose service they do not call, they hold what it is asked.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.errors import Invalid, Unavailable
from pipeline.settings import Settings

SIGNATURE = "model.sig"
MAX_BYTES = 1 << 20  # of a signature: ours has a few thousand
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


def sign(folder: Path, settings: Settings) -> None:
    """Write `folder/model.sig` over every other file of the folder; one that is there is replaced.

    On one machine the pair of keys is made when it is first needed.

    Raises:
        Invalid: there is no key, or it is not the one that is verified by. A retry does not help.
        Unavailable: sigstore does not answer. A retry helps.
    """
    from model_signing import signing  # noqa: PLC0415 (half a second; only who signs pays it)

    (folder / SIGNATURE).unlink(missing_ok=True)
    config = signing.Config().set_hashing_config(_hashing())
    if settings.signing == "sigstore":
        config = config.use_sigstore_signer(use_ambient_credentials=True)
    else:
        _ensure_keys(settings)
        _require_pair(settings)
        config = config.use_elliptic_key_signer(private_key=settings.signing_key)
    try:
        config.sign(folder, folder / SIGNATURE)
    except Exception as error:  # sigstore's client and its many layers have no common error
        if settings.signing == "sigstore":
            raise Unavailable(f"sigstore did not sign: {error}", str(folder), "look at the identity's token") from error
        raise


def check_signature(folder: Path, settings: Settings) -> None:
    """Return when the folder is, file by file, what a trusted key signed.

    Raises:
        Invalid: no signature, one of another key or of another content. A retry does not help.
    """
    from model_signing import verifying  # noqa: PLC0415

    path = folder / SIGNATURE
    if path.is_symlink() or not path.is_file():
        raise Invalid("there is no signature", str(path), "it was not made by this release: run the pipeline again")
    if path.stat().st_size > MAX_BYTES:
        raise Invalid("the signature is too large to be one", str(path), "run the pipeline again")
    reasons: list[str] = []
    for config in _verifiers(verifying.Config, settings):
        try:
            config.set_hashing_config(_hashing()).verify(folder, path)
        except Exception as error:  # noqa: BLE001 (hostile bytes meet JSON, protobuf, base64 and ciphers, each with its errors)
            reasons.append(_said(error))
        else:
            return
    what = f"the signature does not hold: {'; '.join(dict.fromkeys(reasons))}"
    raise Invalid(what, str(folder), f"it was changed, or signed by a key that {_trusted(settings)} does not name")


def signer_identity(settings: Settings) -> str:
    """Who signs here, as records name it: `sha256:DIGEST` of the public key (DER), or the identity in sigstore.

    Raises:
        Invalid: there is no key. A retry does not help.
    """
    if settings.signing == "sigstore":
        return f"sigstore:{settings.sigstore_identity}"
    _ensure_keys(settings)
    return fingerprint(_private_key(settings.signing_key).public_key())


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """`sha256:DIGEST` of a public key in DER."""
    content = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(content)
    return f"sha256:{digest.finalize().hex()}"


def _said(error: Exception) -> str:
    """The reason as one line, without the digests that the library prints as Python."""
    text = re.sub(r": Expected\W+Digest\(.*", " (and maybe more)", " ".join(str(error).split()))
    return text.replace("Signature mismatch: ", "").strip("[]\"'")[:300] or type(error).__name__


def _hashing() -> Any:
    from model_signing import hashing  # noqa: PLC0415

    # by default it looks past .git and what belongs to it: such a file would be unsigned, and served
    return hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _verifiers(config: Any, settings: Settings) -> Iterator[Any]:
    """A verifier for each key that may have signed."""
    if settings.signing == "sigstore":
        if not (settings.sigstore_identity and settings.sigstore_issuer):
            remedy = "set SLIPWAY_SIGSTORE_IDENTITY and SLIPWAY_SIGSTORE_ISSUER"
            raise Invalid("nobody is named whose signature would do", "settings", remedy)
        yield config().use_sigstore_verifier(identity=settings.sigstore_identity, oidc_issuer=settings.sigstore_issuer)
        return
    with tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
        for at, key in enumerate(public_keys(settings)):
            file = Path(scratch) / f"{at}.pem"
            file.write_bytes(
                key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            )
            yield config().use_elliptic_key_verifier(public_key=file)


def public_keys(settings: Settings) -> list[ec.EllipticCurvePublicKey]:
    """The keys of `verify_key`, each a public key or a certificate in PEM.

    Raises:
        Invalid: the file is not there, or holds something else. A retry does not help.
    """
    _ensure_keys(settings)
    where, remedy = str(settings.verify_key), "set SLIPWAY_VERIFY_KEY to PEM of EC public keys or certificates"
    try:
        content = settings.verify_key.read_bytes()
    except OSError as error:
        raise Invalid(
            f"the key that signatures are verified by cannot be read: {error.strerror}", where, remedy
        ) from error
    begin, found = b"-----BEGIN ", []
    for block in (begin + part for part in content.split(begin)[1:]):
        try:
            certificate = block.startswith(b"-----BEGIN CERTIFICATE")
            key = x509.load_pem_x509_certificate(block).public_key() if certificate else None
            found.append(_curve(key or serialization.load_pem_public_key(block), where))
        except (ValueError, TypeError) as error:
            raise Invalid(f"block {len(found) + 1} is neither a public key nor a certificate", where, remedy) from error
    if not found:
        raise Invalid("there is no key in it", where, remedy)
    return found


def _curve(key: object, where: str) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise Invalid(f"a key is not of {', '.join(_CURVES)}", where, "`openssl ecparam -genkey -name prime256v1`")
    return key


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    remedy = "set SLIPWAY_SIGNING_KEY to an EC private key in PEM, with no passphrase"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise Invalid(f"the signing key cannot be read: {error.strerror}", str(path), remedy) from error
    except (ValueError, TypeError) as error:
        raise Invalid("this is no private key", str(path), remedy) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid("the signing key is not an EC key", str(path), remedy)
    _curve(key.public_key(), str(path))
    return key


def _require_pair(settings: Settings) -> None:
    ours = fingerprint(_private_key(settings.signing_key).public_key())
    if ours not in {fingerprint(key) for key in public_keys(settings)}:
        what = f"what {settings.signing_key} signs, {settings.verify_key} does not verify"
        raise Invalid(what, "signing keys", "add its public key there")


def _ensure_keys(settings: Settings) -> None:
    """On one machine: the pair of keys, made once, whoever comes first; in a cluster the chart makes it."""
    home = settings.home / "keys"
    own = settings.signing_key == home / "signing.pem" and settings.verify_key == home / "verify.pem"
    if settings.runtime != "local" or settings.signing != "key" or not own or settings.verify_key.exists():
        return
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not settings.signing_key.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            _write_once(settings.signing_key, pem, 0o600)
        public = _private_key(settings.signing_key).public_key()  # of whoever came first
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        _write_once(settings.verify_key, pem, 0o644)
    except OSError as error:
        raise Unavailable(f"the keys cannot be written: {error.strerror}", str(home), "make room") from error


def _write_once(path: Path, content: bytes, mode: int) -> None:
    """Write a file whole, or leave the one that is there."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(mode)
        with _already_there():
            os.link(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


@contextmanager
def _already_there() -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        return


def _trusted(settings: Settings) -> str:
    return "SLIPWAY_SIGSTORE_IDENTITY" if settings.signing == "sigstore" else str(settings.verify_key)
