"""The projection of previews, fitted in closed form: ridge least squares over pairs of latents and their pictures.

Only the sums that the normal equations need are kept, so any number of pictures takes the same memory (0.8 MB for 32
channels). Features of a latent: its 3x3 neighbourhood, zeros beyond the edge, and a constant.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

PREVIEW_SCALE = 4  # pixels of a preview for each latent, a side: 32 for the demo, 64 for the published 512px models
KERNEL_SIZE = 3
RIDGE = 10.0  # as if so many latents had shown grey: what holds a fit of one picture together
MAX_PICTURES_SHOWN = 256  # to a fit while serving: more bring less than 0.1 dB

SMOOTH_NOISE_WEIGHT = 0.1  # of a real picture: it soon has no say


class RidgeFit:
    """Sums over the pictures seen so far. Colours are in [0, 1], taken from grey (0.5)."""

    def __init__(self, num_channels: int) -> None:
        self.num_channels = num_channels
        self.num_pictures = 0.0
        num_features = num_channels * KERNEL_SIZE**2 + 1
        self._gram = torch.zeros(num_features, num_features, dtype=torch.float64)
        self._moments = torch.zeros(num_features, 3 * PREVIEW_SCALE**2, dtype=torch.float64)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen."""
        return self.num_pictures == 0

    @property
    def is_full(self) -> bool:
        """Whether more pictures would bring nothing that shows."""
        return self.num_pictures >= MAX_PICTURES_SHOWN

    def add(self, latents: Tensor, pictures: NDArray[np.uint8], weight: float = 1.0) -> None:
        """Latents (b, c, h, w) and their pictures (b, H, W, 3); each counts as `weight` pictures."""
        features = F.unfold(latents.float().cpu(), KERNEL_SIZE, padding=KERNEL_SIZE // 2)  # (b, c * 9, h * w)
        features = F.pad(features.transpose(1, 2).flatten(0, 1), (0, 1), value=1.0)  # (b * h * w, c * 9 + 1)
        size = (latents.shape[2] * PREVIEW_SCALE, latents.shape[3] * PREVIEW_SCALE)
        colours = F.pixel_unshuffle(downscaled(pictures, size) - 0.5, PREVIEW_SCALE)  # (b, 3 * 4 * 4, h, w)
        self._gram += weight * (features.T @ features).double()
        self._moments += weight * (features.T @ colours.permute(0, 2, 3, 1).flatten(0, 2)).double()
        self.num_pictures += weight * len(latents)

    def solve(self) -> tuple[Tensor, Tensor]:
        """Weight (48, c, 3, 3) and bias (48), float32."""
        penalty = torch.full((len(self._gram),), RIDGE, dtype=torch.float64)
        penalty[-1] = 1e-6  # the mean colour is free
        solution = torch.linalg.solve(self._gram + penalty.diag(), self._moments).float()  # (c * 9 + 1, 48)
        weight = solution[:-1].T.unflatten(1, (self.num_channels, KERNEL_SIZE, KERNEL_SIZE))
        return weight.contiguous(), solution[-1] + 0.5


def downscaled(pictures: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Pictures (b, H, W, 3) -> (b, 3, *size) in [0, 1], every pixel the mean of those that it stands for."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return F.adaptive_avg_pool2d(pixels, size)


def smooth_noise(num_channels: int) -> Iterator[Tensor]:
    """Batches of random latents that vary slowly, as those of pictures do: what their decoder makes of them tells more
    of its colours than white noise does. 64 latents of 8x8."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(16):
        coarse = torch.randn(4, num_channels, 3, 3, generator=generator)
        smooth = F.interpolate(coarse, size=(8, 8), mode="bicubic")
        yield smooth / smooth.std()
