"""Pictures through an autoencoder and back: conversions, losses, PSNR, and the normalisation of its latents.

Shapes: pixels (B, 3, H, W) in -1..1, bytes (B, H, W, 3), latents (B, C, h, w).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import Tensor

from model.training.recolor import ByteArray


def to_network(pixels: ByteArray) -> Tensor:
    """Bytes (B, H, W, 3) to pixels (B, 3, H, W) in -1..1, channels last in memory."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(pixels: Tensor) -> ByteArray:
    """Pixels (B, 3, H, W) in -1..1 to bytes (B, H, W, 3)."""
    rounded = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def reconstruction_loss(output: Tensor, target: Tensor, gradient_weight: float) -> Tensor:
    """L1 on pixels and on finite differences: edges are what makes a sprite recognisable."""
    difference = output - target
    across = difference[..., :, 1:] - difference[..., :, :-1]
    down = difference[..., 1:, :] - difference[..., :-1, :]
    return difference.abs().mean() + gradient_weight * (across.abs().mean() + down.abs().mean()) / 2


def latent_loss(latents: Tensor) -> Tensor:
    """How far each latent channel is from mean 0 and variance 1 over the batch."""
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    return (mean.square() + (variance - 1).square()).mean()


def psnr(output: ByteArray, target: ByteArray) -> float:
    """Peak signal-to-noise ratio of bytes, in dB over all pictures together."""
    error = float(np.mean((output.astype(np.float32) - target.astype(np.float32)) ** 2))
    return 10 * math.log10(255**2 / max(error, 1e-9))


@torch.no_grad()
def reconstruct(model: AutoencoderDC, pixels: ByteArray, batch_size: int = 32) -> ByteArray:
    """Bytes (N, H, W, 3) through encoder and decoder and back to bytes."""
    batches = [pixels[start : start + batch_size] for start in range(0, len(pixels), batch_size)]
    return np.concatenate([to_bytes(model.decoder(encode(model, batch))) for batch in batches])


@torch.no_grad()
def encode(model: AutoencoderDC, pixels: ByteArray) -> Tensor:
    """Latents (B, C, h, w) of bytes, on the model's device, not scaled."""
    latents: Tensor = model.encoder(to_network(pixels).to(model.device))
    return latents


@torch.no_grad()
def normalize_latents(model: AutoencoderDC, pixels: ByteArray) -> None:
    """Give every latent channel mean 0 and deviation 1 over `pixels`, inside the convolutions around the latent.

    Exact but for the zero padding at the latent's border, which then stands for the mean.
    """
    latents = torch.cat([encode(model, pixels[start : start + 32]) for start in range(0, len(pixels), 32)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3)).clamp_min(1e-4)
    out, into = model.encoder.conv_out, model.decoder.conv_in
    out.weight /= deviation[:, None, None, None]
    out.bias.copy_((out.bias - mean) / deviation)
    into.bias += torch.einsum("ockl,c->o", into.weight, mean)
    into.weight *= deviation[None, :, None, None]
