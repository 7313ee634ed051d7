"""Certificates for signing pictures, made up on the spot, and what a reader makes of pictures signed with them."""

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "P-256K": lambda: ec.generate_private_key(ec.SECP256K1()),
}

MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff\xe0": "image/jpeg", b"\xff\xd8\xff\xe1": "image/jpeg"}


@dataclass(frozen=True)
class SigningFiles:
    """Paths as the settings want them; `root` is what a reader has to trust."""

    certificate: object
    key: object
    root: str

    @property
    def settings(self):
        return {"c2pa_certificate_file": self.certificate, "c2pa_key_file": self.key}


def make_signing_files(
    folder, *, kind="P-256", days=(-1, 30), usage=ExtendedKeyUsageOID.EMAIL_PROTECTION, password=None
):
    """`days` from now: when the certificates begin and end."""
    folder.mkdir(exist_ok=True)
    root_key, key = KEYS["P-256"](), KEYS[kind]()
    root = _certificate("an authority", root_key, "an authority", root_key, days, is_authority=True)
    signer = _certificate("a signer", key, "an authority", root_key, days, usage=usage)
    certificate_file, key_file = folder / "chain.pem", folder / "key.pem"
    root_pem = root.public_bytes(Encoding.PEM)
    certificate_file.write_bytes(signer.public_bytes(Encoding.PEM) + root_pem)
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return SigningFiles(certificate_file, key_file, root_pem.decode())


def _certificate(name, key, issuer, issuer_key, days, *, is_authority=False, usage=None):
    now = datetime.now(UTC)
    allowed = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    allowed |= {"digital_signature": not is_authority, "key_cert_sign": is_authority, "crl_sign": is_authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), critical=True)
        .add_extension(x509.KeyUsage(**allowed), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(name):
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def verdict(picture, root=None):
    """What a reader makes of a picture: its state and its manifest. With `root` it trusts that authority."""
    media_type = MEDIA_TYPES.get(picture[:4], "image/webp")
    trust = {"trust": {"trust_anchors": root}, "verify": {"verify_trust": True}} if root else {}
    with (
        c2pa.Context(c2pa.Settings.from_dict(trust)) as context,
        c2pa.Reader(media_type, io.BytesIO(picture), context=context) as reader,
    ):
        return reader.get_validation_state(), reader.get_active_manifest()


def is_signed(picture):
    try:
        return verdict(picture)[0] == "Valid"
    except c2pa.C2paError:
        return False
