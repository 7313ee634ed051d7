"""Guidance and the Euler update, per row: rows of one batch may sit at different sigmas. Pure tensor functions.

Shapes: latents and velocities (rows, channels, h, w); sigmas and scales (rows,). The update runs in float32 whatever
the network's dtype: twenty additions of small numbers lose a picture's detail in bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor


def initial_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Float32 noise (channels, h, w) from a CPU generator: one seed is one picture on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def guide(unconditional: Tensor, conditional: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance: v = v_uncond + g (v_text - v_uncond), with one g per row."""
    return unconditional + scale.view(-1, 1, 1, 1) * (conditional - unconditional)


def euler_update(latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One step along dx/dsigma = v: x + (sigma_next - sigma) v, in float32."""
    return latents + (next_sigma - sigma).view(-1, 1, 1, 1) * velocity.float()


def estimate_x0(latents: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The clean latents that the velocity points at: x0 = x - sigma v. What a preview shows."""
    return latents - sigma.view(-1, 1, 1, 1) * velocity.float()
