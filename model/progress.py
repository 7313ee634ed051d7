"""How far a picture has come, as bytes: what a later process needs to go on with it and draw the same picture.

The latents in float32 and the number of steps done. The text is encoded again, and the sigmas follow from the recipe:
a fingerprint tells whether model, recipe and this layout are the ones that the bytes were made with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.config import ModelCard
from model.params import GenerationParams

LAYOUT_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """One picture after `step` steps: latents (c, h, w) in float32, in the processor's memory."""

    card: ModelCard
    params: GenerationParams
    sigmas: tuple[float, ...]
    latents: Tensor
    step: int

    def to_bytes(self) -> bytes:
        """As a safetensors file, for `read_progress`."""
        tensors = {
            "latents": self.latents,
            "step": torch.tensor(self.step),
            "fingerprint": _fingerprint(self.card, self.params, self.sigmas),
        }
        data: bytes = save(tensors)
        return data


def read_progress(
    data: bytes, card: ModelCard, params: GenerationParams, sigmas: Sequence[float], shape: torch.Size
) -> tuple[Tensor, int]:
    """Latents of this shape, and how many steps were done. Raises ValueError for what is not this picture's."""
    try:
        tensors = load(data)
        latents, step, fingerprint = tensors["latents"], int(tensors["step"]), tensors["fingerprint"]
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"the progress that was kept cannot be read ({type(error).__name__})") from error
    if not torch.equal(fingerprint, _fingerprint(card, params, sigmas)):
        raise ValueError("the progress that was kept is of another model, version or recipe")
    if latents.shape != shape or latents.dtype != torch.float32 or not 0 < step < len(sigmas):
        raise ValueError("the progress that was kept does not fit this model")
    if not torch.isfinite(latents).all():
        raise ValueError("the progress that was kept is not finite")
    return latents, step


def _fingerprint(card: ModelCard, params: GenerationParams, sigmas: Sequence[float]) -> Tensor:
    told = json.dumps([LAYOUT_VERSION, card.name, card.version, asdict(params), list(sigmas)], sort_keys=True)
    return torch.frombuffer(bytearray(hashlib.sha256(told.encode()).digest()), dtype=torch.uint8)
