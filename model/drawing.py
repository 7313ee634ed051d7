"""Many pictures with one engine, a batch at a time: what sheets, scores and trainers draw with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.config import ModelCard
from model.engine import Engine
from model.params import GenerationParams, seed_of_image

BATCH_ROWS = 8


def recipe(
    card: ModelCard, prompt: str, *, seed: int, steps: int | None = None, guidance: float | None = None
) -> GenerationParams:
    """The recipe of a picture of the model's default size; None takes its own setting."""
    width, height = (int(side) for side in card.sizes[0].split("x"))
    return GenerationParams(
        prompt,
        width,
        height,
        card.default_steps if steps is None else steps,
        card.default_guidance if guidance is None else guidance,
        seed,
    )


def draw_batch(engine: Engine, recipes: Sequence[GenerationParams]) -> list[NDArray[np.uint8]]:
    """Pictures (H, W, 3) of recipes that have one size and one number of steps, drawn together."""
    samples = engine.begin(recipes)
    while not samples[0].is_finished:
        engine.step(samples)
    return engine.decode(samples)


def draw_prompts(
    engine: Engine, prompts: Sequence[str], *, seed: int, steps: int | None = None, guidance: float | None = None
) -> list[NDArray[np.uint8]]:
    """One picture (H, W, 3) a prompt, the i-th with `seed_of_image(seed, i)`."""
    recipes = [
        recipe(engine.card, prompt, seed=seed_of_image(seed, index), steps=steps, guidance=guidance)
        for index, prompt in enumerate(prompts)
    ]
    starts = range(0, len(recipes), BATCH_ROWS)
    return [picture for start in starts for picture in draw_batch(engine, recipes[start : start + BATCH_ROWS])]
