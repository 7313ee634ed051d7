"""Bundles with seeded random values in exactly the published layout: stand-ins for weights that can't be shipped.

Same files, names, shapes, types and sizes as the published ones; the pictures are noise. Written tensor by tensor,
so memory stays at the largest single one (1 GB for the published text encoder's embedding). Scales are chosen so
that activations neither explode nor die: times, memory and numerics are then those of a trained model.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderDC
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from model.adapters import PROJECTIONS
from model.bundle import Bundle, write_bundle
from model.byte_tokenizer import write_byte_tokenizer
from model.catalog import VARIANTS
from model.config import ModelCard, ModelConfig
from model.errors import UnknownModel
from model.tensor_file import TensorInfo, write_tensors
from model.transformer import position_table
from model.weights import expected_tensors

Report = Callable[[str], None]
_TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
_LIBRARY_METADATA = {"format": "pt"}  # transformers and diffusers write it; the authors' own file goes without
_ADAPTER_RANK = 32
_ADAPTER_ALPHA = 64

# config.json of meta-llama/Llama-3.2-1B
LLAMA_3_2_1B: Mapping[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
}
# As wide as the published one, so that the published transformer fits behind it; two shallow layers of 512 tokens.
SMALL_LLAMA: Mapping[str, Any] = {
    **LLAMA_3_2_1B,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
# config.json of mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers
_SANA_BLOCKS = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
_SANA_SCALES: list[list[int]] = [[], [], [], [5], [5], [5]]
DC_AE_F32C32: Mapping[str, Any] = {
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": _SANA_BLOCKS,
    "decoder_block_types": _SANA_BLOCKS,
    "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
    "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
    "encoder_qkv_multiscales": _SANA_SCALES,
    "decoder_qkv_multiscales": _SANA_SCALES,
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}
# The same latents (32 channels, 32x) from a fiftieth of the work.
SMALL_DC_AE: Mapping[str, Any] = {
    **DC_AE_F32C32,
    "encoder_block_out_channels": [32, 32, 64, 64, 128, 128],
    "decoder_block_out_channels": [32, 32, 64, 64, 128, 128],
    "encoder_layers_per_block": [1] * 6,
    "decoder_layers_per_block": [1] * 6,
}


def make_random_bundle(
    name: str, folder: Path, *, seed: int = 0, is_small: bool = False, report: Report = lambda line: None
) -> Bundle:
    """Write a stand-in for the published model `name` into `folder`.

    `is_small` shrinks text encoder and autoencoder (for CI); the transformer keeps the published size either way.
    Raises UnknownModel for a name that nobody published.
    """
    if name not in VARIANTS:
        raise UnknownModel(f"{name!r} is not a published model; those are {', '.join(VARIANTS)}")
    variant = VARIANTS[name]
    card = replace(
        variant.card,
        description=f"{variant.card.description} (random values: draws noise)",
        version=f"random-{seed}",
        license="none: seeded random values",
    )
    return write_random_bundle(
        folder,
        card,
        variant.config,
        llama=SMALL_LLAMA if is_small else LLAMA_3_2_1B,
        autoencoder=SMALL_DC_AE if is_small else DC_AE_F32C32,
        transformer_name=variant.transformer,
        adapter_name=variant.adapter,
        seed=seed,
        report=report,
    )


def write_random_bundle(
    folder: Path,
    card: ModelCard,
    config: ModelConfig,
    *,
    llama: Mapping[str, Any],
    autoencoder: Mapping[str, Any],
    transformer_name: str = "transformer.safetensors",
    adapter_name: str | None = None,
    seed: int = 0,
    report: Report = lambda line: None,
) -> Bundle:
    """Write a bundle of any architecture: `llama` and `autoencoder` are arguments of LlamaConfig and AutoencoderDC."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "transformer": transformer_name,
        "text_encoder": "text_encoder",
        "tokenizer": "text_encoder",
        "autoencoder": "autoencoder",
    }
    _write_transformer(folder / transformer_name, config, seed, report)
    if adapter_name is not None:
        parts["adapter"] = adapter_name
        _write_adapter(folder / adapter_name, config, seed, report)
    _write_text_encoder(folder / "text_encoder", llama, seed, report)
    _write_autoencoder(folder / "autoencoder", autoencoder, seed, report)
    bundle = write_bundle(folder, card, config, parts)
    report(f"{folder}: done")
    return bundle


def _write_transformer(path: Path, config: ModelConfig, seed: int, report: Report) -> None:
    """Float32, names in order, no metadata: as the authors' own files, to the byte."""
    tensors = [(name, TensorInfo("F32", shape)) for name, shape in expected_tensors(config).items()]

    def value(name: str, shape: tuple[int, ...], random: Tensor) -> Tensor:
        if name == "pos_embed.pos_embed":
            return position_table(config)[None]
        if "scale_shift_bias" in name:
            # Rows: shift, scale, gate, twice. Gates near 0.3 let every block speak without one drowning the rest.
            random = random * 0.1
            random[[2, 5]] += 0.3
            return random
        if "scale_shift_scale" in name:
            return random * 0.1
        if name.startswith("adaln_single.linear."):
            return random * 0.01
        return _plain_value(name, shape, random)

    _write(path, tensors, value, seed, report)


def _write_adapter(folder: Path, config: ModelConfig, seed: int, report: Report) -> None:
    """A PEFT LoRA adapter of the published rank and alpha over the eight projections."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = []
    for name, shape in expected_tensors(config).items():
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module.endswith(tuple(f".attn.{target}" for target in PROJECTIONS)):
            tensors.append((f"base_model.model.{module}.lora_A.weight", TensorInfo("F32", (_ADAPTER_RANK, shape[1]))))
            tensors.append((f"base_model.model.{module}.lora_B.weight", TensorInfo("F32", (shape[0], _ADAPTER_RANK))))
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "r": _ADAPTER_RANK,
            "lora_alpha": _ADAPTER_ALPHA,
            "bias": "none",
            "use_dora": False,
            "use_rslora": False,
            "target_modules": [f"attn.{target}" for target in PROJECTIONS],
        },
    )
    _write(folder / "adapter_model.safetensors", tensors, lambda name, shape, random: random * 0.02, seed, report)


def _write_text_encoder(folder: Path, llama: Mapping[str, Any], seed: int, report: Report) -> None:
    """A LlamaForCausalLM folder in bfloat16, with a byte-level tokenizer of our own."""
    folder.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(**llama, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        shapes = LlamaForCausalLM(config).state_dict()
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]  # tied: published files hold the embedding only
    _write_json(folder / "config.json", json.loads(config.to_json_string(use_diff=False)))
    write_byte_tokenizer(folder, config.bos_token_id, config.eos_token_id)
    tensors = [(name, TensorInfo("BF16", tuple(shapes[name].shape))) for name in sorted(shapes)]
    _write(folder / "model.safetensors", tensors, _plain_value, seed, report, _LIBRARY_METADATA)


def _write_autoencoder(folder: Path, autoencoder: Mapping[str, Any], seed: int, report: Report) -> None:
    """An AutoencoderDC folder in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = AutoencoderDC(**autoencoder).state_dict()
    _write_json(folder / "config.json", {"_class_name": "AutoencoderDC", **autoencoder})
    tensors = [(name, TensorInfo("F32", tuple(shapes[name].shape))) for name in sorted(shapes)]

    def value(name: str, shape: tuple[int, ...], random: Tensor) -> Tensor:
        plain = _plain_value(name, shape, random)
        # The last convolution sees rectified unit noise and should fill [-1, 1] without saturating it.
        return plain * 0.5 if name == "decoder.conv_out.weight" else plain

    _write(folder / "diffusion_pytorch_model.safetensors", tensors, value, seed, report, _LIBRARY_METADATA)


def _plain_value(name: str, shape: tuple[int, ...], random: Tensor) -> Tensor:
    """Norms at one, biases at zero, everything else with variance 1 / fan-in (embeddings: one)."""
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    if "embed_tokens" in name:
        return random
    return random / math.sqrt(math.prod(shape[1:]))


def _write(
    path: Path,
    tensors: list[tuple[str, TensorInfo]],
    value: Callable[[str, tuple[int, ...], Tensor], Tensor],
    seed: int,
    report: Report,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Stream `value(name, shape, unit noise)` of every tensor; the noise depends on seed and name alone."""

    def make(name: str, info: TensorInfo) -> NDArray[np.uint8]:
        # Mixed into 32 bits: the CPU generator ignores the upper half of a longer seed.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        random = torch.randn(info.shape, generator=generator)
        tensor = value(name, info.shape, random).to(_TORCH_DTYPES[info.dtype])
        data: NDArray[np.uint8] = tensor.contiguous().flatten().view(torch.uint8).numpy()
        return data

    report(f"{path}: {len(tensors)} tensors, {sum(info.num_bytes for _, info in tensors) / 1e9:.2f} GB ...")
    write_tensors(path, tensors, make, metadata)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
