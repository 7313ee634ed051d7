"""Stand-ins with random values: the published layout to the byte, reproducible, loadable, numerically tame."""

import json

import pytest
import torch

from model.config import NITRO_E_512, NITRO_E_1024
from model.errors import UnknownModel
from model.random_bundle import (
    DC_AE_F32C32,
    LLAMA_3_2_1B,
    SMALL_DC_AE,
    SMALL_LLAMA,
    make_random_bundle,
    write_random_bundle,
)
from model.tensor_file import TensorInfo, read_header, write_tensors
from model.weights import expected_tensors, load_bundle
from tests.support.tiny_bundle import TINY_AUTOENCODER, TINY_CARD, TINY_CONFIG, TINY_LLAMA, write_tiny_bundle

PUBLISHED_TRANSFORMER_BYTES = 1_238_207_064
PUBLISHED_NUM_TENSORS = 889
PUBLISHED_NUM_PARAMETERS = 302_449_952


def file_size(tensors):
    """Size that `write_tensors` gives a file, from its header alone."""
    entries, offset = {}, 0
    for name, info in tensors:
        span = [offset, offset + info.num_bytes]
        entries[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": span}
        offset += info.num_bytes
    header = len(json.dumps(entries, separators=(",", ":")))
    return 8 + -(-header // 8) * 8 + offset


def test_the_transformer_file_has_the_published_size():
    for config in (NITRO_E_512, NITRO_E_1024):
        shapes = expected_tensors(config)
        assert len(shapes) == PUBLISHED_NUM_TENSORS
        num_parameters = sum(
            torch.Size(shape).numel() for name, shape in shapes.items() if name != "pos_embed.pos_embed"
        )
        assert num_parameters == PUBLISHED_NUM_PARAMETERS
        tensors = [(name, TensorInfo("F32", shape)) for name, shape in shapes.items()]
        assert file_size(tensors) == PUBLISHED_TRANSFORMER_BYTES


def test_the_writers_files_have_the_size_computed_here(tmp_path):
    tensors = [("a", TensorInfo("F32", (3, 5))), ("bb", TensorInfo("BF16", (7,)))]
    write_tensors(tmp_path / "x.safetensors", tensors, lambda name, info: bytes(info.num_bytes))
    assert (tmp_path / "x.safetensors").stat().st_size == file_size(tensors)


def test_a_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    for folder, seed in (("one", 1), ("same", 1), ("other", 2)):
        write_tiny_bundle(tmp_path / folder, seed=seed)
    for name in (
        "transformer.safetensors",
        "text_encoder/model.safetensors",
        "autoencoder/diffusion_pytorch_model.safetensors",
    ):
        one, same, other = ((tmp_path / folder / name).read_bytes() for folder in ("one", "same", "other"))
        assert one == same
        assert one != other


def test_only_published_models_can_be_faked(tmp_path):
    with pytest.raises(UnknownModel, match="nitro-e-1024-dist"):
        make_random_bundle("demo", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_reported_part_by_part(tmp_path):
    lines = []
    write_random_bundle(
        tmp_path, TINY_CARD, TINY_CONFIG, llama=TINY_LLAMA, autoencoder=TINY_AUTOENCODER, report=lines.append
    )
    assert [line.split(":")[0].rpartition("/")[2] for line in lines[:3]] == [
        "transformer.safetensors",
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
    ]


def test_the_text_encoder_is_laid_out_as_published(tmp_path):
    write_tiny_bundle(tmp_path)
    names = list(read_header(tmp_path / "text_encoder" / "model.safetensors"))
    assert "lm_head.weight" not in names, "tied: published files hold the embedding only"
    assert names[0] == "model.embed_tokens.weight"
    assert json.loads((tmp_path / "text_encoder" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_the_small_stand_in_keeps_every_size_that_the_transformer_sees():
    assert SMALL_LLAMA["hidden_size"] == LLAMA_3_2_1B["hidden_size"]
    assert SMALL_DC_AE["latent_channels"] == DC_AE_F32C32["latent_channels"]
    assert len(SMALL_DC_AE["encoder_block_out_channels"]) == len(DC_AE_F32C32["encoder_block_out_channels"])


def test_activations_neither_explode_nor_die(tmp_path):
    model = load_bundle(write_tiny_bundle(tmp_path, stages=(2, 6, 2), adapter_name="lora"))
    text = model.text.encode(["a red apple", ""])
    assert 0.5 < text.std() < 2
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    velocity = model.transformer(latents, text, torch.tensor([700.0, 700.0]))
    assert 0.3 < velocity.std() < 3
    assert model.autoencoder.decode(velocity).std() > 20
