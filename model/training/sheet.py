"""A contact sheet: what a bundle draws for a fixed list of prompts. For eyes, not for scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.bundle import read_bundle
from model.engine import Engine
from model.params import GenerationParams, seed_of_image

PROMPTS = (
    "a red apple",
    "a banana",
    "an orange",
    "a pizza",
    "a donut",
    "a car",
    "a bus",
    "a boat",
    "an umbrella",
    "a clock",
    "a teddy bear",
    "a cat",
    "a blue apple",
    "a green car on a pink background",
    "a purple teddy bear",
    "a black clock on a yellow background",
    "three yellow umbrellas on a blue background",
    "four red apples",
    "two green clocks",
    "three bananas",
    "a cat left of a teddy bear",
    "a car above a donut",
    "a blue bus and a red car",
    "an apple right of a banana",
)
NUM_COLUMNS = 6
BATCH_ROWS = 8
MARGIN_PX = 6
TEXT_PX = 22
FONT_PX = 11


def draw_prompts(
    engine: Engine, prompts: Sequence[str], *, steps: int, guidance: float, seed: int
) -> list[NDArray[np.uint8]]:
    """One picture (H, W, 3) a prompt, the i-th with `seed_of_image(seed, i)`."""
    width, height = (int(side) for side in engine.card.sizes[0].split("x"))
    pictures: list[NDArray[np.uint8]] = []
    for start in range(0, len(prompts), BATCH_ROWS):
        batch = prompts[start : start + BATCH_ROWS]
        samples = engine.begin(
            [
                GenerationParams(prompt, width, height, steps, guidance, seed_of_image(seed, start + index))
                for index, prompt in enumerate(batch)
            ]
        )
        for _ in range(steps):
            engine.step(samples)
        pictures += engine.decode(samples)
    return pictures


def write_sheet(
    folder: Path, target: Path, *, seed: int = 0, steps: int | None = None, guidance: float | None = None
) -> None:
    """Draw PROMPTS with the bundle in `folder` and write the sheet as PNG. None takes the bundle's own setting."""
    engine = Engine.load(read_bundle(folder))
    card = engine.card
    pictures = draw_prompts(
        engine,
        PROMPTS,
        steps=card.default_steps if steps is None else steps,
        guidance=card.default_guidance if guidance is None else guidance,
        seed=seed,
    )
    height, width, _ = pictures[0].shape
    cell_width, cell_height = width + MARGIN_PX, height + TEXT_PX + MARGIN_PX
    num_rows = -(-len(pictures) // NUM_COLUMNS)
    sheet = Image.new("RGB", (NUM_COLUMNS * cell_width + MARGIN_PX, num_rows * cell_height + MARGIN_PX), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for index, (prompt, picture) in enumerate(zip(PROMPTS, pictures, strict=True)):
        left = MARGIN_PX + index % NUM_COLUMNS * cell_width
        top = MARGIN_PX + index // NUM_COLUMNS * cell_height
        sheet.paste(Image.fromarray(picture), (left, top))
        canvas.multiline_text((left, top + height), _folded(prompt, canvas, font, width), "black", font, spacing=0)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)


def _folded(
    text: str, canvas: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    """`text` in lines no wider than `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if canvas.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
