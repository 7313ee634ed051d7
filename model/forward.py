"""What the engine asks of a network."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Forward(Protocol):
    """Latents (b, c, h, w), text (b, t, channels), timestep (b,) -> velocity (b, c, h, w)."""

    def __call__(self, latents: Tensor, text: Tensor, timestep: Tensor, /) -> Tensor:
        """One forward."""
