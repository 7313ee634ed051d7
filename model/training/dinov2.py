"""DINOv2 patch features, the targets of REPA (arXiv 2410.06940), from a local transformers folder.

DINOv2-B/14 at 224 px gives 16 x 16 patches of 768 channels, behind its final norm and without its class token.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import Dinov2Model

from model.training.shards import HalfArray, ShardError

GRID = 16  # patches on a side, as published: as many as the 512px model has image tokens
# Of ImageNet, as DINOv2 was trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class FeatureEncoder:
    """A loaded DINOv2. `num_channels` is its width."""

    def __init__(self, network: Dinov2Model) -> None:
        self.network = network
        self.num_channels = int(network.config.hidden_size)
        self._side_px = GRID * int(network.config.patch_size)

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> FeatureEncoder:
        """Load from a local folder (config.json and safetensors). Raises ShardError where it is something else."""
        try:
            if (kind := json.loads((folder / "config.json").read_text("utf-8")).get("model_type")) != "dinov2":
                raise ValueError(f"config.json describes a model of type {kind!r}; only dinov2 is known")
            network = Dinov2Model.from_pretrained(  # nosec B615 # local
                folder, dtype=dtype, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # what a wrong folder makes transformers raise is not documented, and varies
            raise ShardError(f"{folder}: DINOv2 can't be loaded: {error}") from error
        return cls(network.to(device).eval().requires_grad_(False))

    @torch.inference_mode()
    def encode(self, pictures: NDArray[np.uint8]) -> HalfArray:
        """Pictures (b, height, width, 3) -> features (b, 256, channels)."""
        pixels = torch.from_numpy(pictures).to(self.network.device).permute(0, 3, 1, 2).float() / 255
        pixels = F.interpolate(pixels, (self._side_px, self._side_px), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (_MEAN, _STD))
        hidden: Tensor = self.network(((pixels - mean) / std).to(self.network.dtype)).last_hidden_state
        features: HalfArray = hidden[:, -(GRID**2) :].half().cpu().numpy()  # the class token comes first
        return features
