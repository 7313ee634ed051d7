"""From a trained checkpoint to a bundle that the service loads: averaged weights, rounded to half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderDC
from safetensors import safe_open
from safetensors.torch import save_file

from model.bundle import Bundle, write_bundle
from model.config import ModelCard
from model.training.checkpoints import read_meta
from model.training.denoiser_trainer import DenoiserTrainConfig, TextToVelocity
from model.training.repa import HEAD_PREFIX
from model.training.sprites import licence_files, object_names
from model.training.tokenizer import build_tokenizer, known_words

LICENSE_NOTE = (
    "Weights: Apache-2.0. Trained on pictures made from Noto Emoji (Google, Apache-2.0; modified: recoloured) and from "
    "sprites drawn for this project; see NOTICE."
)
EXAMPLE_PROMPTS = (
    "a photo of a red apple",
    "three yellow umbrellas on a blue background",
    "a cat left of a teddy bear",
    "a green car and a purple clock",
    "a photo of four oranges",
    "a blue bus above a boat",
)


def export_bundle(
    checkpoint: Path,
    autoencoder: Path,
    folder: Path,
    *,
    name: str,
    version: str,
    default_steps: int,
    default_guidance: float,
) -> Bundle:
    """Write the averaged weights of `checkpoint` with its autoencoder and tokenizer to `folder`, in float16.

    Raises FileNotFoundError where a part is missing.
    """
    config, average = _read_average(checkpoint)
    network = AutoencoderDC.from_pretrained(autoencoder)
    latent_shape = _latent_shape(config, network)
    tokenizer = build_tokenizer(config.num_text_tokens)
    model = TextToVelocity(config, latent_shape, len(tokenizer))
    model.load_state_dict(average)
    model = model.half()
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in model.transformer.state_dict().items()}
    save_file(weights, folder / "transformer.safetensors", metadata={"format": "pt"})
    model.text.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "text_encoder")
    network.half().save_pretrained(folder / "autoencoder")
    for path in licence_files():
        shutil.copyfile(path, folder / path.name)
    size = latent_shape[1] * network.spatial_compression_ratio
    objects = config.objects or object_names()
    card = ModelCard(
        name=name,
        description=f"Trained by this project on the emoji world: {len(objects)} everyday objects, ten colours",
        sizes=(f"{size}x{size}",),
        default_steps=default_steps,
        default_guidance=default_guidance,
        version=version,
        license=LICENSE_NOTE,
        vocabulary=known_words(objects),
        example_prompts=EXAMPLE_PROMPTS,
    )
    parts = {
        "transformer": "transformer.safetensors",
        "text_encoder": "text_encoder",
        "tokenizer": "text_encoder",
        "autoencoder": "autoencoder",
    }
    return write_bundle(folder, card, config.architecture(latent_shape), parts)


def _read_average(checkpoint: Path) -> tuple[DenoiserTrainConfig, dict[str, torch.Tensor]]:
    values = read_meta(checkpoint)["config"]
    with safe_open(checkpoint, framework="pt") as file:
        names = [key.removeprefix("ema/") for key in file.keys() if key.startswith("ema/")]  # noqa: SIM118 (no mapping)
        average = {name: file.get_tensor(f"ema/{name}") for name in names if not name.startswith(HEAD_PREFIX)}
    for key in ("dataset", "latents", "out_dir", "start_from", "features", "autoencoder"):
        values[key] = None if values.get(key) is None else Path(values[key])
    for key in ("objects", "stages"):
        values[key] = tuple(values[key])
    return DenoiserTrainConfig(**values), average


def _latent_shape(config: DenoiserTrainConfig, network: AutoencoderDC) -> tuple[int, int, int]:
    size = json.loads((config.dataset / "world.json").read_text("utf-8"))["size"]
    side = size // network.spatial_compression_ratio
    return (network.config.latent_channels, side, side)
