"""Manifests: what is read is what was written, and every mistake is named by its key."""

import json
import subprocess
import sys

import pytest

from model.bundle import MANIFEST_NAME, Bundle, read_bundle, write_bundle
from model.errors import ManifestError, UnsafeFile
from tests.support.tiny_bundle import TINY_CARD, TINY_CONFIG, write_tiny_bundle

PARTS = {"transformer": "t.safetensors", "text_encoder": "text", "tokenizer": "text", "autoencoder": "vae"}


@pytest.fixture
def manifest(tmp_path):
    """A function that rewrites the manifest of a bundle with some keys changed (None: removed)."""
    write_bundle(tmp_path, TINY_CARD, TINY_CONFIG, PARTS)
    path = tmp_path / MANIFEST_NAME

    def change(**changes):
        values = json.loads(path.read_text())
        for key, value in changes.items():
            if value is None:
                del values[key]
            else:
                values[key] = value
        path.write_text(json.dumps(values))
        return tmp_path

    return change


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    bundle = write_bundle(tmp_path, TINY_CARD, TINY_CONFIG, {**PARTS, "adapter": "lora"})
    assert isinstance(bundle, Bundle)
    assert (bundle.card, bundle.config) == (TINY_CARD, TINY_CONFIG)
    assert bundle.parts.transformer == tmp_path / "t.safetensors"
    assert bundle.parts.adapter == tmp_path / "lora"


def test_parts_may_lie_beside_the_bundle_or_anywhere_else(tmp_path):
    parts = {**PARTS, "text_encoder": "../parts/llama", "autoencoder": "/elsewhere/vae"}
    bundle = write_bundle(tmp_path / "one", TINY_CARD, TINY_CONFIG, parts)
    assert bundle.parts.text_encoder == tmp_path / "parts" / "llama"
    assert str(bundle.parts.autoencoder) == "/elsewhere/vae"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": None}, "name"),
        ({"name": "no spaces please"}, "name"),
        ({"sizes": None}, "sizes"),
        ({"sizes": []}, "sizes"),
        ({"sizes": ["huge"]}, "sizes"),
        ({"sizes": "64x64"}, "sizes"),
        ({"default_steps": "many"}, "default_steps"),
        ({"default_steps": True}, "default_steps"),
        ({"default_steps": 0}, "default_steps"),
        ({"default_steps": 101}, "default_steps"),
        ({"default_guidance": -1}, "default_guidance"),
        ({"max_steps": 1.5}, "max_steps"),
        ({"vocabulary": [1]}, "vocabulary"),
        ({"architecture": {"num_layers": 3}}, "architecture"),
        ({"architecture": {"sample_size": 15}}, "architecture"),
        ({"architecture": []}, "architecture"),
        ({"parts": {}}, "parts.transformer"),
        ({"parts": {**PARTS, "unet": "x"}}, "parts.unet"),
        ({"parts": {**PARTS, "adapter": 3}}, "parts.adapter"),
        ({"format_version": 2}, "format_version"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_manifest_is_refused_by_key(manifest, changes, key):
    with pytest.raises(ManifestError) as caught:
        read_bundle(manifest(**changes))
    assert caught.value.key == key
    assert key in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\0"])
def test_an_unreadable_manifest_is_refused(tmp_path, content):
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(ManifestError, match=MANIFEST_NAME):
        read_bundle(tmp_path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(ManifestError, match="no such file"):
        read_bundle(tmp_path)


def test_missing_files_are_listed(tmp_path):
    bundle = write_tiny_bundle(tmp_path, adapter_name="lora")
    assert bundle.missing_files() == ()
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    (tmp_path / "text_encoder" / "model.safetensors").unlink()
    assert [name.rpartition("/")[2] for name in bundle.missing_files()] == [
        "adapter_model.safetensors",
        "*.safetensors",
    ]


@pytest.mark.parametrize("name", ["modeling.py", "pytorch_model.bin", "model.pt", "x.CKPT", "x.pkl"])
def test_files_that_can_carry_code_are_refused(tmp_path, name):
    bundle = write_tiny_bundle(tmp_path)
    bundle.refuse_unsafe_files()
    (tmp_path / "text_encoder" / name).touch()
    with pytest.raises(UnsafeFile, match=name):
        bundle.refuse_unsafe_files()


def test_configurations_that_ask_for_code_are_refused(tmp_path):
    bundle = write_tiny_bundle(tmp_path)
    path = tmp_path / "text_encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(UnsafeFile, match="auto_map"):
        bundle.refuse_unsafe_files()


def test_a_transformer_that_is_no_safetensors_file_is_refused(tmp_path):
    bundle = write_bundle(tmp_path, TINY_CARD, TINY_CONFIG, {**PARTS, "transformer": "model.ckpt"})
    with pytest.raises(UnsafeFile, match="safetensors"):
        bundle.refuse_unsafe_files()


def test_reading_bundles_leaves_torch_unloaded():
    code = "import sys, model.catalog, model.bundle, model.tensor_file, model.hub; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
