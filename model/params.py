"""What one picture is made from: plain values, checked once, free of torch so that the gateway can import them.

`GenerationParams` is what travels gateway -> queue -> engine. It holds effective values only: every default has
been filled in and every limit of the model checked before one is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_SEED = 2**32 - 1  # torch's CPU generator reads no more than 32 bits: 2**32 + 7 would draw what 7 draws
MAX_STEPS = 1000  # the schedule's resolution: timesteps are 0..1000


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """One picture's recipe.

    `width` and `height` are pixels; `guidance_scale` <= 1 means a single forward per step (no guidance);
    `seed` is 0..MAX_SEED; `exact_schedule` spends a forward on the last 0.001 of noise, as published. Raises ValueError
    where a value could not be drawn by any model.
    """

    prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    negative_prompt: str = ""
    clean_prompt: bool = True
    exact_schedule: bool = False

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"size must be positive, got {self.width}x{self.height}")
        if not 1 <= self.num_inference_steps <= MAX_STEPS:
            raise ValueError(f"num_inference_steps must be 1..{MAX_STEPS}, got {self.num_inference_steps}")
        if not math.isfinite(self.guidance_scale) or self.guidance_scale < 0:
            raise ValueError(f"guidance_scale must be finite and >= 0, got {self.guidance_scale}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must be 0..{MAX_SEED}, got {self.seed}")

    @property
    def is_guided(self) -> bool:
        """Whether every step needs a second, unconditional forward row."""
        return self.guidance_scale > 1.0

    @property
    def num_forwards(self) -> int:
        """Steps that the engine takes: one fewer than asked for where the last two are merged."""
        return self.num_inference_steps - (0 if self.exact_schedule or self.num_inference_steps == 1 else 1)

    @property
    def num_rows(self) -> int:
        """Rows of each forward: with guidance one with the prompt and one without."""
        return 2 if self.is_guided else 1

    @property
    def cost_per_step(self) -> float:
        """Work of one step in megapixel-steps: one with guidance counts twice, as it takes two rows."""
        return self.width * self.height * self.num_rows / 1e6

    @property
    def cost(self) -> float:
        """Work of this picture in megapixel-steps: what queues and tenants are charged in."""
        return self.cost_per_step * self.num_forwards


def seed_of_image(seed: int, index: int) -> int:
    """Seed of the index-th picture of a request whose first picture has `seed`."""
    return (seed + index) % (MAX_SEED + 1)
