"""A contact sheet: what a bundle draws for a fixed list of prompts. For eyes, not for scores."""

from __future__ import annotations

from pathlib import Path

from model.bundle import read_bundle
from model.contact_sheet import Cell, Section, contact_sheet
from model.drawing import draw_prompts
from model.engine import Engine

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
PICTURE_PX = 128


def write_sheet(
    folder: Path, target: Path, *, seed: int = 0, steps: int | None = None, guidance: float | None = None
) -> None:
    """Draw PROMPTS with the bundle in `folder` and write the sheet as PNG. None takes the bundle's own setting."""
    engine = Engine.load(read_bundle(folder))
    pictures = draw_prompts(engine, PROMPTS, steps=steps, guidance=guidance, seed=seed)
    cells = tuple(Cell(picture, prompt) for prompt, picture in zip(PROMPTS, pictures, strict=True))
    target.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet([Section("", cells)], NUM_COLUMNS, PICTURE_PX).save(target)
