"""E-MMDiT as it is trained by a recipe: the network, REPA's head beside it, and the weights that a run begins with."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from model.bundle import MANIFEST_NAME, read_bundle
from model.config import ModelConfig
from model.tensor_file import read_header
from model.training.denoiser_trainer import initialize
from model.training.recipe import RecipeError, RepaValues
from model.training.repa import projection_head
from model.transformer import EMMDiT
from model.weights import load_transformer


class AlignedTransformer(nn.Module):
    """The network, and REPA's head beside it where the recipe has one. Heads come last, and stay out of bundles."""

    def __init__(self, config: ModelConfig, repa: RepaValues | None) -> None:
        super().__init__()
        self.transformer = EMMDiT(config)
        initialize(self.transformer)
        if repa is not None:
            head = projection_head(config.hidden_size, repa.hidden_size, repa.feature_channels)
            self.projectors = nn.ModuleList([head])

    def forward(self, latents: Tensor, text: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor | None]:
        """Velocity (b, c, h, w), and what the head makes of the tokens behind stage 1, (b, h * w, channels)."""
        velocity, tokens = self.transformer(latents, text, timestep, with_tokens=True)
        return velocity, self.projectors[0](tokens) if hasattr(self, "projectors") else None


def start_from(network: EMMDiT, path: Path) -> None:
    """Fill `network` from a bundle's folder, a transformer file, or a checkpoint (its average, if it has one).

    Raises RecipeError, or a BundleError naming the tensors that do not fit.
    """
    if (path / MANIFEST_NAME).is_file():
        parts = read_bundle(path).parts
        found = load_transformer(parts.transformer, network.config, adapter=parts.adapter, dtype=torch.float32)
        network.load_state_dict(found.state_dict())
        return
    if not path.is_file():
        raise RecipeError(f"{path}: neither a bundle's folder nor a safetensors file")
    names = read_header(path)
    prefix = next(
        (kind for kind in ("ema/transformer.", "model/transformer.") if any(n.startswith(kind) for n in names)), ""
    )
    if not prefix:
        network.load_state_dict(load_transformer(path, network.config, dtype=torch.float32).state_dict())
        return
    with safe_open(path, framework="pt") as file:
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RecipeError(f"{path}: of another architecture: {error}") from error
