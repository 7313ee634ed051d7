"""A complete bundle that loads in a moment and draws 64px noise in milliseconds: for tests of everything around it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.bundle import Bundle, write_bundle
from model.config import ModelCard, ModelConfig
from model.random_bundle import DC_AE_F32C32, LLAMA_3_2_1B, write_random_bundle

TINY_CONFIG = ModelConfig(
    sample_size=8,
    in_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    stages=(1, 2, 1),
    caption_channels=32,
    num_text_tokens=16,
    use_sub_attn=False,
    pos_embed_max_size=16,
)
TINY_CARD = ModelCard(
    name="tiny",
    description="A tiny model with random values, for tests",
    sizes=("64x64",),
    default_steps=4,
    default_guidance=2.0,
    version="random-0",
    license="none: seeded random values",
)
TINY_LLAMA = {
    **LLAMA_3_2_1B,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 260,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
TINY_AUTOENCODER = {
    **DC_AE_F32C32,
    "latent_channels": 4,
    "attention_head_dim": 8,
    "encoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
    "encoder_block_out_channels": [8, 8, 16, 16],
    "decoder_block_out_channels": [8, 8, 16, 16],
    "encoder_layers_per_block": [1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 1],
    "encoder_qkv_multiscales": [[], [], [], [5]],
    "decoder_qkv_multiscales": [[], [], [], [5]],
}


def write_tiny_bundle(directory: Path, **overrides: Any) -> Bundle:
    """Write the bundle into `directory`.

    `overrides` are fields of ModelCard or ModelConfig (name="other", vocabulary=("red", "apple"), stages=(1, 1, 1)),
    or `seed` and `adapter_name` of `write_random_bundle`.
    """
    other = {key: overrides.pop(key) for key in ("seed", "adapter_name") if key in overrides}
    of_config = {key: overrides.pop(key) for key in ModelConfig.__dataclass_fields__ if key in overrides}
    card = replace(TINY_CARD, **overrides)
    config = replace(TINY_CONFIG, **of_config)
    return write_random_bundle(directory, card, config, llama=TINY_LLAMA, autoencoder=TINY_AUTOENCODER, **other)


def write_tiny_relative(directory: Path, base: Bundle, **overrides: Any) -> Bundle:
    """Write a bundle with a network of its own into `directory`; its other parts are those of `base`."""
    own = write_tiny_bundle(directory, seed=1, **overrides)
    for part in ("text_encoder", "autoencoder"):
        shutil.rmtree(directory / part)
    parts = {
        "transformer": "transformer.safetensors",
        "text_encoder": str(base.parts.text_encoder),
        "tokenizer": str(base.parts.tokenizer),
        "autoencoder": str(base.parts.autoencoder),
    }
    return write_bundle(directory, own.card, own.config, parts)
