"""How near a student's pictures are to its teacher's: same prompts, same seeds, drawn as the service draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.drawing import BATCH_ROWS, recipe
from model.engine import Engine
from model.params import seed_of_image
from model.training.reconstruction import psnr
from model.transformer import EMMDiT
from model.weights import LoadedModel


@dataclass(frozen=True, slots=True)
class Fidelity:
    """`latent_error` is the root mean square difference in standard deviations of the teacher's latents: 1.4 for
    unrelated pictures. `psnr_db` is that of the decoded pictures, over all together."""

    latent_error: float
    psnr_db: float

    def __str__(self) -> str:
        return f"latent error {self.latent_error:.3f}, PSNR {self.psnr_db:.2f} dB"


class FidelityCheck:
    """Compares networks with the pictures that `teacher` draws of `prompts`, the i-th with the i-th seed from 0."""

    def __init__(
        self, teacher: LoadedModel, prompts: Sequence[str], *, steps: int, guidance: float, device: torch.device
    ) -> None:
        self._teacher = teacher
        self._prompts = prompts
        self._device = device
        self._latents, self._pictures = self._draw(teacher, steps, guidance)

    def of(self, network: EMMDiT, *, steps: int, guidance: float = 0.0) -> Fidelity:
        """How near `network` comes with these settings and the teacher's other parts. Weights must be float32."""
        latents, pictures = self._draw(replace(self._teacher, transformer=network), steps, guidance)
        error = (latents - self._latents).square().mean().sqrt() / self._latents.std()
        return Fidelity(error.item(), psnr(pictures, self._pictures))

    def _draw(self, model: LoadedModel, steps: int, guidance: float) -> tuple[Tensor, NDArray[np.uint8]]:
        """Latents (N, c, h, w) and pictures (N, H, W, 3)."""
        engine = Engine(model, self._device, torch.float32)
        latents, pictures = [], []
        for start in range(0, len(self._prompts), BATCH_ROWS):
            rows = range(start, min(start + BATCH_ROWS, len(self._prompts)))
            samples = engine.begin(
                [
                    recipe(model.card, self._prompts[row], seed=seed_of_image(0, row), steps=steps, guidance=guidance)
                    for row in rows
                ]
            )
            while not samples[0].is_finished:
                engine.step(samples)
            latents += [sample.latents for sample in samples]
            pictures += engine.decode(samples)
        return torch.stack(latents), np.stack(pictures)
