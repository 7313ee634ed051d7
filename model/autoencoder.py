"""DC-AE: pixels to latents and back, over diffusers' AutoencoderDC.

Surprising: its linear attention sums over all positions and overflows in half precision. diffusers computes it in
float32 whatever the weights' type, and autocast, which would undo that, is switched off here. The decoder is the
first cost of a picture (2092 GFLOP at 512px against 80 for one forward of the network).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from numpy.typing import NDArray
from torch import Tensor

from model.errors import AutoencoderError
from model.fast_decoder import make_fast
from model.preview import Previews
from model.preview_fit import SMOOTH_NOISE_WEIGHT, smooth_noise
from model.tensor_file import read_header


class Autoencoder:
    """A loaded DC-AE. `scaling_factor` multiplies latents on the way in, so that they have unit variance."""

    def __init__(self, network: AutoencoderDC) -> None:
        self.network = network
        self.scaling_factor = float(network.config.scaling_factor)
        self.spatial_compression = int(network.spatial_compression_ratio)
        self.num_channels = int(network.config.latent_channels)
        self.previews = Previews(self.num_channels)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        num_channels: int,
        sizes: Sequence[str] = (),
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Autoencoder:
        """Load from a local folder in diffusers' layout. Raises AutoencoderError or TensorFileError.

        `num_channels` is what the network draws in; `sizes` ("512x512") must be multiples of the compression.
        """
        for path in sorted(folder.glob("*.safetensors")):
            read_header(path)
        try:
            network, found = AutoencoderDC.from_pretrained(
                folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # what a wrong folder makes diffusers raise is not documented, and varies
            raise AutoencoderError(f"{folder}: the autoencoder can't be loaded: {error}") from error
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if names := sorted(str(name) for name in found[problem]):
                raise AutoencoderError(f"{folder}: {len(names)} {problem.replace('_', ' ')}: {', '.join(names[:4])}")
        network = network.to(device).eval().requires_grad_(False)
        make_fast(network.decoder)
        loaded = cls(network)
        if loaded.num_channels != num_channels:
            raise AutoencoderError(
                f"{folder}: latents of {loaded.num_channels} channels, but the network draws {num_channels}"
            )
        loaded.refuse_sizes_off_grid(folder, sizes)
        return loaded

    def refuse_sizes_off_grid(self, folder: Path, sizes: Sequence[str]) -> None:
        """Raise AutoencoderError, naming `folder`, for a size ("512x512") that latents can't have."""
        for size in sizes:
            if any(int(side) % self.spatial_compression for side in size.split("x")):
                raise AutoencoderError(f"{folder}: {size} is no multiple of its {self.spatial_compression}x grid")

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Latents (b, c, h, w) -> pictures (b, h * compression, w * compression, 3), uint8."""
        dtype, device = self.network.dtype, self.network.device
        with torch.autocast(device.type, enabled=False):
            scaled = (latents / self.scaling_factor).to(device, dtype, memory_format=torch.channels_last)
            pixels = self.network.decode(scaled, return_dict=False)[0]
        pixels = pixels.float().add(1).mul(127.5).clamp(0, 255).round()  # [-1, 1] -> [0, 255]
        pictures: NDArray[np.uint8] = pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return pictures

    def prime_previews(self) -> None:
        """Show previews of a bundle without a projection what the decoder makes of random latents: as much work as
        decoding sixteen 512px pictures, after which colours are roughly right from the first preview on."""
        if self.previews.is_blank:
            for latents in smooth_noise(self.num_channels):
                self.previews.learn(latents, self.decode(latents), SMOOTH_NOISE_WEIGHT)

    @torch.inference_mode()
    def encode(self, pictures: NDArray[np.uint8]) -> Tensor:
        """Pictures (b, height, width, 3), uint8 -> scaled latents (b, c, h, w). For training data."""
        dtype, device = self.network.dtype, self.network.device
        pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(device.type, enabled=False):
            latents: Tensor = self.network.encode(pixels.to(dtype), return_dict=False)[0]
        return latents * self.scaling_factor
