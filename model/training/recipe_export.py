"""From a recipe's checkpoint to a bundle: a transformer file of the published layout; other parts stay in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.bundle import Bundle, read_bundle, write_bundle
from model.config import ModelConfig
from model.tensor_file import check_tensors, read_header
from model.training.aligned_transformer import start_from
from model.training.checkpoints import read_meta
from model.training.recipe import RecipeError
from model.transformer import EMMDiT
from model.weights import expected_tensors

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def export_recipe(
    checkpoint: Path,
    folder: Path,
    *,
    name: str,
    version: str = "1",
    dtype: str = "bf16",
    default_steps: int = 20,
    default_guidance: float = 4.5,
    license_note: str = "unknown",
) -> Bundle:
    """Write the averaged weights of `checkpoint` (or the weights, where no average was kept) as a bundle in `folder`.

    Text encoder and autoencoder are those that the data was prepared with, named by their paths. Raises RecipeError
    for a checkpoint of another trainer or values that `dtype` can't hold, or a BundleError.
    """
    meta = read_meta(checkpoint)
    if "recipe" not in meta.get("config", {}):
        raise RecipeError(f"{checkpoint}: not a checkpoint of emmdit train recipe")
    if dtype not in DTYPES:
        raise RecipeError(f"unknown type {dtype!r}; known: {', '.join(DTYPES)}")
    config = ModelConfig.from_dict(meta["architecture"])
    network = EMMDiT(config)
    start_from(network, checkpoint)
    weights = {key: value.to(DTYPES[dtype]).contiguous() for key, value in network.state_dict().items()}
    if broken := [key for key, value in weights.items() if not torch.isfinite(value).all()]:
        raise RecipeError(f"{checkpoint}: {len(broken)} tensors hold values that {dtype} can't, {broken[0]} first")
    source = read_bundle(Path(meta["bundle"]))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "transformer.safetensors"
    save_file(weights, path)
    check_tensors(path, read_header(path), expected_tensors(config))
    card = replace(
        source.card,
        name=name,
        description=f"Trained by the recipe {meta['config']['recipe']['name']}, {meta['step']} steps",
        sizes=(f"{meta['size_px']}x{meta['size_px']}",),
        default_steps=default_steps,
        default_guidance=default_guidance,
        version=version,
        license=license_note,
    )
    parts = {
        "transformer": path.name,
        "text_encoder": str(source.parts.text_encoder),
        "tokenizer": str(source.parts.tokenizer),
        "autoencoder": str(source.parts.autoencoder),
    }
    if source.parts.preview is not None:
        parts["preview"] = str(source.parts.preview)
    return write_bundle(folder, card, config, parts)
