"""Latents to tiny pictures: a 3x3 convolution and a pixel shuffle, four pixels a side for every latent.

A bundle may hold one fitted for its autoencoder (`emmdit train preview`). Without one the projection is fitted from
whatever the decoder draws anyway (model/preview_fit.py), and until it has drawn anything, previews are grey: the first
principal component of the latents. On the CPU and one picture at a time, so that no picture depends on its company.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from model.preview_fit import KERNEL_SIZE, PREVIEW_SCALE, RidgeFit
from model.tensor_file import check_tensors, read_header

PREVIEW_NAME = "preview.safetensors"


def expected_shapes(num_channels: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a projection's file, for latents of so many channels."""
    num_outputs = 3 * PREVIEW_SCALE**2
    return {"weight": (num_outputs, num_channels, KERNEL_SIZE, KERNEL_SIZE), "bias": (num_outputs,)}


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """The linear map: `weight` (3 * 4 * 4, channels, 3, 3) and `bias` (3 * 4 * 4), float32 on the CPU, onto [0, 1]."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def load(cls, path: Path, num_channels: int) -> Projection:
        """From a file of `save`. Raises TensorFileError."""
        check_tensors(path, read_header(path), expected_shapes(num_channels))
        tensors = load_file(path)
        return cls(tensors["weight"].float(), tensors["bias"].float())

    def save(self, path: Path) -> None:
        """Write a safetensors file, in float16: 28 KB for 32 channels."""
        tensors = {"weight": self.weight.half(), "bias": self.bias.half()}
        draft = path.with_name(f"{path.name}.part")
        draft.write_bytes(save(tensors, metadata={"format": "pt"}))
        draft.replace(path)

    def draw(self, latents: Tensor) -> NDArray[np.uint8]:
        """Latents (c, h, w) on the CPU -> a picture (4 h, 4 w, 3)."""
        colours = F.conv2d(latents[None], self.weight, self.bias, padding=KERNEL_SIZE // 2)
        return _as_picture(F.pixel_shuffle(colours, PREVIEW_SCALE)[0])


class Previews:
    """What engines with one autoencoder know of its colours: a given projection, or what they have learnt so far."""

    def __init__(self, num_channels: int) -> None:
        self.given: Projection | None = None
        self._fit = RidgeFit(num_channels)
        self._learnt: Projection | None = None

    @property
    def is_blank(self) -> bool:
        """Whether nothing is known of the colours."""
        return self.given is None and self._fit.is_empty

    def learn(self, latents: Tensor, pictures: NDArray[np.uint8], weight: float = 1.0) -> None:
        """Take note of what the decoder made of latents (b, c, h, w), where that may better the projection."""
        if self.given is None and not self._fit.is_full:
            self._fit.add(latents, pictures, weight)
            self._learnt = None

    def draw(self, latents: Tensor) -> NDArray[np.uint8]:
        """Latents (c, h, w), finite -> a picture (4 h, 4 w, 3)."""
        latents = latents.float().cpu()
        if self.given is not None:
            return self.given.draw(latents)
        if self._fit.is_empty:
            return _grey(latents)
        if self._learnt is None:
            self._learnt = Projection(*self._fit.solve())
        return self._learnt.draw(latents)


def _grey(latents: Tensor) -> NDArray[np.uint8]:
    """The first principal component over the latent's positions, from black to white."""
    _, height, width = latents.shape
    flat = latents.flatten(1)
    axes, _, _ = torch.linalg.svd(flat - flat.mean(1, keepdim=True), full_matrices=False)
    direction = axes[:, 0] * axes[:, 0].sum().sign()  # one of two signs, the same from step to step
    light = (direction @ flat).view(1, 1, height, width)
    light = (light - light.min()) / (light.max() - light.min()).clamp(min=torch.finfo(torch.float32).tiny)
    return _as_picture(F.interpolate(light, scale_factor=PREVIEW_SCALE)[0].expand(3, -1, -1))


def _as_picture(colours: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in [0, 1], perhaps beyond -> (H, W, 3)."""
    levels = colours.mul(255).clamp(0, 255).round().to(torch.uint8)
    picture: NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().numpy()
    return picture
