"""Loading: every way in which a tensor file can be wrong has its own error, which names the tensors."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import (
    BundleError,
    MisshapedTensors,
    MissingFiles,
    MissingTensors,
    NotSafetensors,
    TruncatedFile,
    UnknownTensors,
    UnsafeFile,
    WrongDtype,
)
from model.weights import expected_tensors, load_bundle, load_transformer, verify_bundle
from tests.support.tiny_bundle import TINY_CONFIG, write_tiny_bundle

NAME = "proj_out.weight"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    return load_file(bundle.parts.transformer)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "transformer.safetensors"


def load_saved(path, tensors, **options):
    save_file(tensors, path)
    return load_transformer(path, TINY_CONFIG, **options)


def test_a_whole_file_loads_bit_for_bit(path, weights):
    network = load_saved(path, weights)
    assert not network.training
    state = network.state_dict()
    assert sorted(state) == list(expected_tensors(TINY_CONFIG))
    for name, tensor in weights.items():
        assert torch.equal(state[name], tensor), name
        assert not state[name].requires_grad


def test_missing_tensors_are_named(path, weights):
    with pytest.raises(MissingTensors) as caught:
        load_saved(path, {name: tensor for name, tensor in weights.items() if "norm_q" not in name})
    assert len(caught.value.tensors) == sum("norm_q" in name for name in weights)
    assert "block_groups.0.0.attn.norm_q.weight" in str(caught.value)
    assert str(path) in str(caught.value)


def test_unknown_tensors_are_named(path, weights):
    with pytest.raises(UnknownTensors, match=r"1 unknown tensors: extra\.weight"):
        load_saved(path, {**weights, "extra.weight": torch.zeros(1)})


def test_repa_heads_of_training_checkpoints_are_ignored(path, weights):
    load_saved(path, {**weights, "projectors.0.0.weight": torch.zeros(2, 2)})


def test_misshaped_tensors_are_named_with_both_shapes(path, weights):
    with pytest.raises(MisshapedTensors, match=r"proj_out\.weight is \[3, 3\], not \[4, 32\]"):
        load_saved(path, {**weights, NAME: torch.zeros(3, 3)})


def test_more_than_a_few_tensors_are_counted(path, weights):
    with pytest.raises(MissingTensors, match=r"169 of 169 tensors missing: .* and 165 more"):
        load_saved(path, {"x": torch.zeros(1)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.float8_e4m3fn])
def test_types_that_are_not_served_are_refused(path, weights, dtype):
    with pytest.raises(WrongDtype, match=r"proj_out\.weight is (F64|I8|F8_E4M3)"):
        load_saved(path, {**weights, NAME: weights[NAME].to(dtype)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_files_and_models_may_be_of_any_served_type(path, weights, dtype):
    network = load_saved(path, {name: tensor.to(dtype) for name, tensor in weights.items()})
    assert {tensor.dtype for tensor in network.state_dict().values()} == {dtype}
    network = load_transformer(path, TINY_CONFIG, dtype=torch.float32)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("kept", [0, 7, 8, 100, 20_000, -1])
def test_truncated_files_are_called_truncated(path, weights, kept):
    save_file(weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(TruncatedFile, match=r"truncated|too few"):
        load_transformer(path, TINY_CONFIG)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"PK\x03\x04" + b"x" * 60, "pickle"),
        (b"\x80\x02}q\x00X" + b"x" * 60, "pickle"),
        (b"<!DOCTYPE html><html></html>", "text file"),
        (b'{"error": "not found"}', "text file"),
        (b"\xff" * 64, "not a safetensors file"),
        ((4).to_bytes(8, "little") + b"null", "unreadable header"),
        ((6).to_bytes(8, "little") + b'{"a":1', "unreadable header"),
        ((2).to_bytes(8, "little") + b"{}tail", "follow the last tensor"),
    ],
)
def test_other_files_are_called_what_they_are(path, content, said):
    path.write_bytes(content)
    with pytest.raises(NotSafetensors, match=said):
        load_transformer(path, TINY_CONFIG)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1]},
        [],
    ],
)
def test_lying_headers_are_refused(path, entry):
    header = json.dumps({"a": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(BundleError):
        load_transformer(path, TINY_CONFIG)


def test_a_bundle_loads_in_every_served_type(tmp_path):
    bundle = write_tiny_bundle(tmp_path)
    pictures = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = load_bundle(bundle, dtype=dtype)
        text = model.text.encode(["a red apple"])
        assert text.dtype == dtype
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        velocity = model.transformer(latents.to(dtype), text, torch.tensor([500.0]))
        pictures[dtype] = model.autoencoder.decode(velocity).astype(int)
    for dtype in (torch.bfloat16, torch.float16):
        assert abs(pictures[dtype] - pictures[torch.float32]).mean() < 4


def test_a_bundle_with_an_unsafe_file_is_not_loaded(tmp_path):
    bundle = write_tiny_bundle(tmp_path)
    (tmp_path / "text_encoder" / "modeling_llama.py").touch()
    with pytest.raises(UnsafeFile):
        load_bundle(bundle)


def test_an_incomplete_bundle_is_not_loaded(tmp_path):
    bundle = write_tiny_bundle(tmp_path)
    (tmp_path / "autoencoder" / "config.json").unlink()
    with pytest.raises(MissingFiles, match=r"autoencoder/config\.json"):
        load_bundle(bundle)


def test_verifying_reports_every_part_and_finds_what_loading_would(tmp_path):
    bundle = write_tiny_bundle(tmp_path, adapter_name="lora")
    lines = []
    verify_bundle(bundle, lines.append)
    assert [line.split()[0] for line in lines] == ["transformer", "adapter", "text", "autoencoder"]
    file = tmp_path / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TruncatedFile):
        verify_bundle(bundle, lines.append)
