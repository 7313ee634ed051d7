"""Pictures signed as made by a machine: a C2PA manifest in each, written with the operator's key as it leaves.

Why here and not in the worker: docs/decisions/provenance.md. Needs the extra `c2pa`; nothing of it is loaded without.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.errors import ConfigurationError, EmmditError
from service.marks import TRAINED_ALGORITHMIC_MEDIA
from service.metrics import software_version
from service.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from cryptography.x509 import Certificate

logger = logging.getLogger(__name__)

PROVENANCE_HEADER = "X-Provenance"
C2PA = "c2pa"
_CERTIFICATE, _KEY = "c2pa_certificate_file", "c2pa_key_file"
_SIGNING = {
    "builder": {"thumbnail": {"enabled": False}},  # a second, smaller copy of the picture in the picture
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}
_BLANK_PNG = (  # one pixel, for the first signature of all
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU"
    b"\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H\xaf\xa4q\0\0\0\0IEND\xaeB`\x82"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs: a chain of certificates, the signer's first, and its key; `expires_at_s` is the chain's first end."""

    certificates: bytes
    key: bytes = field(repr=False)
    algorithm: str
    expires_at_s: float


class PictureSigner:
    """Writes manifests. Safe to share between threads. The private key stays in memory that is the library's."""

    def __init__(self, identity: Identity, clock: Callable[[], float] = time.time) -> None:
        import c2pa

        info = c2pa.C2paSignerInfo(identity.algorithm, identity.certificates, identity.key, None)
        self._builder = c2pa.Builder
        self._context = c2pa.Context(c2pa.Settings.from_dict(_SIGNING), c2pa.Signer.from_info(info))
        self._error = c2pa.C2paError
        self._clock = clock
        self.expires_at_s = identity.expires_at_s

    def sign(self, picture: bytes, media_type: str, text: Mapping[str, str]) -> bytes:
        """The picture with a manifest; `text` is what it says about itself. Blocks.

        Raises EmmditError where it cannot be signed: a picture that should be signed is never sent without.
        """
        if self._clock() >= self.expires_at_s:
            logger.error("a picture was not signed: the certificate has expired (%s)", day(self.expires_at_s))
            raise EmmditError("the certificate has expired")
        signed = io.BytesIO()
        try:
            with self._builder(manifest_of(text), self._context) as builder:
                builder.sign(media_type, io.BytesIO(picture), signed)
        except self._error as error:
            logger.error("a picture was not signed: %s", error)
            raise EmmditError(f"the picture could not be signed: {error}") from error
        return signed.getvalue()


def manifest_of(text: Mapping[str, str]) -> dict[str, Any]:
    """What is signed: made by this software and this model, by no camera and no hand, and what the picture says."""
    software = {"name": "emmdit", "version": software_version()}
    agent = {"name": text["Model"], "version": text.get("Model-Version", "")} if "Model" in text else software
    created: dict[str, Any] = {
        "action": "c2pa.created",
        "digitalSourceType": TRAINED_ALGORITHMIC_MEDIA,
        "softwareAgent": agent,
    }
    if text:
        created["parameters"] = dict(text)
    return {
        "claim_generator_info": [software],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def signer_of(settings: Settings) -> PictureSigner | None:
    """The signer that the operator wants, tried once. Raises ConfigurationError where it cannot sign."""
    if settings.c2pa_certificate_file is None or settings.c2pa_key_file is None:
        return None
    try:
        import c2pa
    except ImportError as error:
        remedy = "pip install 'emmdit[c2pa]'"
        raise ConfigurationError(f"{_CERTIFICATE} is set and c2pa-python is not installed: {remedy}") from error
    identity = read_identity(settings.c2pa_certificate_file, settings.c2pa_key_file, time.time())
    try:
        signer = PictureSigner(identity)
        signed = signer.sign(_BLANK_PNG, "image/png", {})
        with c2pa.Reader("image/png", io.BytesIO(signed)) as reader:
            results: Any = reader.get_validation_results()
    except (c2pa.C2paError, EmmditError) as error:
        raise ConfigurationError(f"{_CERTIFICATE}: no picture can be signed with it: {error}") from error
    failures = [failure["code"] for failure in results["activeManifest"]["failure"]]
    if faults := [code for code in failures if code != "signingCredential.untrusted"]:  # trust is the reader's
        raise ConfigurationError(f"{_CERTIFICATE}: pictures signed with it are not valid: {', '.join(faults)}")
    return signer


def read_identity(certificate_file: Path, key_file: Path, now_s: float) -> Identity:
    """Chain and key from PEM files, as far as they can be checked without signing. Raises ConfigurationError.

    No message shows anything of the key.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    certificates, key = _read(_CERTIFICATE, certificate_file), _read(_KEY, key_file)
    try:
        chain = load_pem_x509_certificates(certificates)
    except ValueError as error:
        raise ConfigurationError(f"{_CERTIFICATE}: {certificate_file} holds no certificates in PEM") from error
    try:
        public_key = load_pem_private_key(key, password=None).public_key()
    except (TypeError, ValueError):  # their words are about the key; nobody is told
        message = f"{_KEY}: {key_file} holds no private key in PEM without a password"
        raise ConfigurationError(message) from None
    if public_key != chain[0].public_key():
        raise ConfigurationError(f"{_KEY}: {key_file} is not the key of the first certificate in {certificate_file}")
    for certificate in chain:
        begins_at_s = certificate.not_valid_before_utc.timestamp()
        ends_at_s = certificate.not_valid_after_utc.timestamp()
        if not begins_at_s <= now_s < ends_at_s:
            valid = f"is valid from {day(begins_at_s)} to {day(ends_at_s)} only"
            raise ConfigurationError(f"{_CERTIFICATE}: {_name_of(certificate)} in {certificate_file} {valid}")
    expires_at_s = min(certificate.not_valid_after_utc.timestamp() for certificate in chain)
    return Identity(certificates, key, _algorithm_for(public_key), expires_at_s)


def _algorithm_for(public_key: PublicKeyTypes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    match public_key:
        case Ed25519PublicKey():
            return "ed25519"
        case RSAPublicKey(key_size=size) if size >= 2048:
            return "ps256"
        case EllipticCurvePublicKey(curve=curve) if curve.name in _CURVES:
            return _CURVES[curve.name]
    raise ConfigurationError(f"{_KEY}: such a key cannot sign pictures; allowed: P-256, P-384, P-521, Ed25519, RSA")


_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


def _name_of(certificate: Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string() or 'nobody'}"


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{setting}: {path} cannot be read: {error.strerror}") from error


def day(at_s: float) -> str:
    """For people, to the minute."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
