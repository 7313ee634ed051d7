"""REPA (arXiv 2410.06940): early tokens of the network learn to say what frozen features say of the clean picture.

Features are a .npy file, float16, (N, h, w, C) or (N, tokens, C) over a square grid, row i for latent i; nothing is
copied into memory. The heads are `projectors.*` in checkpoints and stay out of bundles.
Shapes: tokens (b, n, d), projections and targets (b, n, C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_PREFIX = "projectors."


def projection_head(width: int, hidden_size: int, num_channels: int) -> nn.Sequential:
    """Three linear layers with SiLU between: tokens to features. The published one is 768-2048-2048-768."""
    return nn.Sequential(
        nn.Linear(width, hidden_size),
        nn.SiLU(),
        nn.Linear(hidden_size, hidden_size),
        nn.SiLU(),
        nn.Linear(hidden_size, num_channels),
    )


def repa_loss(projected: Tensor, target: Tensor) -> Tensor:
    """Mean negative cosine similarity over all tokens (equation 8): -1 where every direction is right."""
    return -F.cosine_similarity(projected.float(), target.float(), dim=-1).mean()


def to_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features (b, h, w, C) -> (b, n, C), float32, interpolated where the token grid is not their own."""
    features = features.float()
    if features.shape[1:3] != grid:
        resized = F.interpolate(features.permute(0, 3, 1, 2), grid, mode="bilinear", antialias=True)
        features = resized.permute(0, 2, 3, 1)
    return features.flatten(1, 2)


@dataclass(frozen=True, slots=True)
class FrozenFeatures:
    """Memory-mapped features `stored` (N, h, w, C); `rows` says which of them belong to the dataset's samples."""

    stored: np.ndarray
    rows: np.ndarray

    @property
    def num_channels(self) -> int:
        """C."""
        return int(self.stored.shape[-1])

    def targets(self, chosen: np.ndarray, token_grid: tuple[int, int]) -> Tensor:
        """Features (b, n, C), float32, of the `chosen` samples, interpolated where the token grid is another."""
        return to_grid(torch.from_numpy(self.stored[self.rows[chosen]]), token_grid)


def open_features(path: Path, rows: np.ndarray) -> FrozenFeatures:
    """Open a features file for the samples in `rows`. Raises ValueError where it is not one, or has too few rows."""
    stored = np.load(path, mmap_mode="r")
    if stored.ndim == 3:
        side = math.isqrt(stored.shape[1])
        if side * side != stored.shape[1]:
            raise ValueError(f"{path}: {stored.shape[1]} tokens are no square grid; store features as (N, h, w, C)")
        stored = stored.reshape(len(stored), side, side, -1)
    if stored.ndim != 4:
        raise ValueError(f"{path}: features must be (N, h, w, C) or (N, tokens, C), got {stored.shape}")
    if len(rows) and rows.max() >= len(stored):
        raise ValueError(f"{path}: features of {len(stored)} samples, but the latents have {rows.max() + 1}")
    return FrozenFeatures(stored, rows)
