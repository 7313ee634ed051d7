"""Bundles from strangers: what could carry code, lead elsewhere or fill memory is refused before anything is loaded."""

import json

import pytest

from model.bundle import MANIFEST_NAME, MAX_JSON_BYTES, UNSAFE_SUFFIXES, read_bundle
from model.errors import BundleError, ManifestError, NotSafetensors, UnsafeFile
from model.tensor_file import read_header
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"), adapter_name="lora")


@pytest.fixture
def extra(bundle):
    """Write a file into a part; it is gone afterwards."""
    written = []

    def write(part, name, content=b""):
        path = getattr(bundle.parts, part) / name
        assert not path.exists()
        path.write_bytes(content)
        written.append(path)
        return path

    yield write
    for path in written:
        path.unlink()


@pytest.mark.parametrize("suffix", sorted(UNSAFE_SUFFIXES))
def test_no_part_may_lie_beside_what_can_carry_code(bundle, extra, suffix):
    bundle.refuse_unsafe_files()
    extra("autoencoder", f"x{suffix.upper()}")
    with pytest.raises(UnsafeFile, match="can carry code"):
        bundle.refuse_unsafe_files()


@pytest.mark.parametrize(
    "content",
    [
        b'{"auto_map": {}}',
        b'{"auto\\u005fmap": {"AutoModel": "evil.Model"}}',
        b'{"a": [{"b": {"auto_map": 1}}]}',
        '{"auto_map": 1}'.encode("utf-16"),
    ],
    ids=["plain", "escaped", "nested", "UTF-16"],
)
def test_remote_code_is_refused_however_it_is_written(bundle, extra, content):
    extra("adapter", "generation_config.json", content)
    with pytest.raises(UnsafeFile, match="auto_map"):
        bundle.refuse_unsafe_files()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff\xff"], ids=["deep", "broken", "no text"])
def test_a_configuration_that_cannot_be_read_is_refused(bundle, extra, content):
    extra("adapter", "other_config.json", content)
    with pytest.raises(UnsafeFile, match="unreadable"):
        bundle.refuse_unsafe_files()


def test_an_endless_configuration_is_refused_unread(bundle, extra):
    with extra("adapter", "other_config.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # sparse
    with pytest.raises(UnsafeFile, match="too many"):
        bundle.refuse_unsafe_files()


@pytest.mark.parametrize(
    "name",
    ["../evil.safetensors", "/etc/evil.safetensors", "pytorch_model.bin", "a/b.safetensors", "..safetensors", "", 7],
)
def test_an_index_of_shards_leads_nowhere_else(bundle, extra, name):
    extra("autoencoder", "model.safetensors.index.json", json.dumps({"weight_map": {"w": name}}).encode())
    with pytest.raises(UnsafeFile, match=r"no name of a \.safetensors file"):
        bundle.refuse_unsafe_files()


def test_an_index_of_shards_beside_it_is_fine(bundle, extra):
    shards = {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    extra("autoencoder", "model.safetensors.index.json", json.dumps(shards).encode())
    bundle.refuse_unsafe_files()


@pytest.mark.parametrize("nested", [b"[" * 100_000, b'{"a":' * 100_000], ids=["lists", "objects"])
def test_a_header_without_end_is_an_error_and_no_crash(tmp_path, nested):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(nested).to_bytes(8, "little") + nested)
    with pytest.raises(NotSafetensors):
        read_header(path)


@pytest.mark.parametrize("size", [None, MAX_JSON_BYTES + 1])
def test_a_manifest_without_end_is_an_error_and_no_crash(tmp_path, size):
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(b"[" * 100_000)
    if size is not None:
        with path.open("r+b") as file:
            file.truncate(size)
    with pytest.raises(ManifestError):
        read_bundle(tmp_path)


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "a b", "a\n"])
def test_a_bundles_name_is_no_path(bundle, tmp_path, name):
    values = json.loads((bundle.folder / MANIFEST_NAME).read_text("utf-8"))
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(values | {"name": name}), "utf-8")
    with pytest.raises(BundleError):
        read_bundle(tmp_path)
