"""Pictures with sprites at chosen places: for tests of whoever judges pictures."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.training.sprites import SpriteSheet

GRAY = (190, 195, 203)
Placed = tuple[str, str | None, tuple[int, int], int]


@cache
def _sheet() -> SpriteSheet:
    return SpriteSheet(128)


def stage(*things: Placed, background: tuple[int, int, int] = GRAY, side_px: int = 128) -> NDArray[np.uint8]:
    """A picture of (name, colour, (left, top), longest side in px) on a flat background, without shadows."""
    canvas = Image.new("RGB", (side_px, side_px), background)
    for name, color, corner, longest_px in things:
        sprite = _sheet().image(name, color)
        scale = longest_px / max(sprite.size)
        small = sprite.resize((round(sprite.width * scale), round(sprite.height * scale)), Image.Resampling.BICUBIC)
        canvas.paste(small, corner, small)
    return np.asarray(canvas, dtype=np.uint8)
