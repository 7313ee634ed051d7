"""The gateway starts only where it could sign: key and certificates are tried before anybody draws."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from service.errors import ConfigurationError
from service.gateway.formats import Encoding, encode_one
from service.gateway.provenance import signer_of
from service.png import encode_png
from service.settings import Settings, load_settings
from tests.support.certificates import is_signed, make_signing_files, verdict

PNG = encode_png(np.full((8, 8, 3), 90, np.uint8), {"Model": "demo"})


@pytest.fixture
def files(tmp_path):
    return make_signing_files(tmp_path / "files")


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "Ed25519", "RSA"])
def test_the_key_decides_the_algorithm(tmp_path, kind):
    signer = signer_of(Settings(**make_signing_files(tmp_path, kind=kind).settings))
    assert is_signed(encode_one(PNG, Encoding(), signer))


def refusal(**settings):
    with pytest.raises(ConfigurationError) as caught:
        signer_of(Settings(**settings))
    message = caught.value.message
    assert "PRIVATE KEY" not in message
    return message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"days": (-10, -1)}, "is valid from"),
        ({"days": (1, 10)}, "is valid from"),
        ({"kind": "P-256K"}, "allowed: P-256"),
        ({"password": b"secret"}, "without a password"),
        ({"usage": ExtendedKeyUsageOID.SERVER_AUTH}, "c2pa_certificate_file"),
        ({"usage": None}, "c2pa_certificate_file"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_sign_is_refused_at_the_start(tmp_path, options, says):
    assert says in refusal(**make_signing_files(tmp_path, **options).settings)


def test_another_certificates_key_is_refused(tmp_path, files):
    other = make_signing_files(tmp_path / "other")
    assert "is not the key of" in refusal(**files.settings | {"c2pa_key_file": other.key})


@pytest.mark.parametrize(("name", "says"), [("c2pa_key_file", "no private key"), ("c2pa_certificate_file", "PEM")])
def test_files_that_are_not_there_or_hold_something_else_are_refused(tmp_path, files, name, says):
    assert "No such file" in refusal(**files.settings | {name: tmp_path / "none.pem"})
    (tmp_path / "rubbish.pem").write_text("rubbish")
    assert says in refusal(**files.settings | {name: tmp_path / "rubbish.pem"})


def test_one_file_without_the_other_is_refused(files):
    with pytest.raises(ConfigurationError, match="together"):
        load_settings(c2pa_certificate_file=files.certificate)


def test_without_the_package_the_start_says_what_to_install(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    assert "emmdit[c2pa]" in refusal(**files.settings)
    assert signer_of(Settings()) is None


@pytest.mark.system
def test_the_certificates_of_the_documentation_can_sign(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    page = (Path(__file__).parents[2] / "docs" / "content-and-provenance.md").read_text("utf-8")
    (commands,) = [block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "openssl" in block]
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    signer = signer_of(Settings(c2pa_certificate_file=tmp_path / "chain.pem", c2pa_key_file=tmp_path / "signer.key"))
    signed = encode_one(PNG, Encoding(), signer)
    assert verdict(signed, (tmp_path / "root.pem").read_text())[0] == "Trusted"
    assert (tmp_path / "signer.key").stat().st_mode & 0o077 == 0
