"""DC-AE: latents to pictures as diffusers decodes them, in whole numbers, in any company."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC

from model.autoencoder import Autoencoder
from model.errors import AutoencoderError, TruncatedFile
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle")).parts.autoencoder


def load(folder, **options):
    return Autoencoder.load(folder, num_channels=4, **options)


def latents(rows=2):
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_pictures_are_what_diffusers_decodes(folder):
    loaded = load(folder)
    reference = AutoencoderDC.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = reference.decode(latents() / 0.41407).sample
    pictures = loaded.decode(latents())
    assert pictures.dtype == np.uint8
    assert pictures.shape == (2, 64, 64, 3)
    expected = ((expected / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert abs(pictures - expected).max() <= 1


def test_geometry_comes_from_the_configuration(folder):
    loaded = load(folder)
    assert (loaded.spatial_compression, loaded.scaling_factor, loaded.num_channels) == (8, 0.41407, 4)


def test_a_picture_does_not_depend_on_its_company(folder):
    loaded = load(folder)
    difference = loaded.decode(latents())[:1].astype(int) - loaded.decode(latents(2)[:1])
    assert abs(difference).max() <= 1


def test_encoding_is_scaled_and_has_the_latents_shape(folder):
    loaded = load(folder)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    encoded = loaded.encode(pictures)
    reference = AutoencoderDC.from_pretrained(folder).eval()
    with torch.no_grad():
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
        expected = reference.encode(pixels).latent * 0.41407
    torch.testing.assert_close(encoded, expected, rtol=1e-4, atol=1e-4)


def test_pixels_outside_the_range_are_clamped(folder):
    pictures = load(folder).decode(100 * latents())
    assert pictures.min() == 0
    assert pictures.max() == 255


def test_linear_attention_stays_in_float32_in_half_precision_and_under_autocast(folder, monkeypatch):
    loaded = load(folder, dtype=torch.float16)
    attention = next(m for m in loaded.network.decoder.modules() if hasattr(m, "apply_linear_attention"))
    original, seen = attention.apply_linear_attention, []

    def watch(query, key, value):
        product = torch.matmul(key, key.transpose(-1, -2))
        seen.append((query.dtype, product.dtype))
        return original(query, key, value)

    monkeypatch.setattr(attention, "apply_linear_attention", watch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loaded.decode(latents())
    assert seen == [(torch.float32, torch.float32)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_channels": 32}, "4 channels, but the network draws 32"),
        ({"num_channels": 4, "sizes": ("64x64", "100x64")}, "100x64 is no multiple of its 8x"),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_refused(folder, options, said):
    with pytest.raises(AutoencoderError, match=said):
        Autoencoder.load(folder, **options)


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder_layers_per_block": [2, 1, 1, 1]},
        {"encoder_layers_per_block": [1, 1, 1, 0]},
        {"decoder_block_out_channels": [8, 8, 16, 32]},
        {"latent_channels": "four"},
    ],
)
def test_an_autoencoder_that_contradicts_its_configuration_is_refused(tmp_path, changes):
    folder = write_tiny_bundle(tmp_path).parts.autoencoder
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(AutoencoderError):
        load(folder)


def test_a_truncated_autoencoder_is_called_truncated(tmp_path):
    folder = write_tiny_bundle(tmp_path).parts.autoencoder
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TruncatedFile):
        load(folder)
