"""Flow matching's few formulas (arXiv 2510.27135, section 4; logit-normal timesteps: arXiv 2403.03206, section 3.1).

Shapes: clean, noise, noisy and velocity (b, c, h, w); sigma (b,), 0 for the picture and 1 for noise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def logit_normal(normal: Tensor, mean: float = 0.0, std: float = 1.0, shift: float = 1.0) -> Tensor:
    """Sigmas from standard normal numbers. A `shift` above 1 moves them towards noise."""
    sigma = torch.sigmoid(mean + std * normal)
    return shift * sigma / (1 + (shift - 1) * sigma)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) clean + sigma noise, row by row."""
    return torch.lerp(clean, noise, sigma[:, None, None, None])


def velocity_loss(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean square of what the network says short of the way from picture to noise; in float32, weight 1 throughout."""
    return (velocity.float() - (noise - clean)).square().mean()
