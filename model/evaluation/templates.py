"""Templates: every sprite in every paint, sharp and soft, ready to be compared with pieces of pictures by one product.

A piece is brought to a square of CELLS cells whatever its size: how much of each cell it covers (its shape), and how
its colours there differ from its mean colour (its pattern). Made from the sprites when asked for, as they take 15 MB
when ready and a few seconds to make, and whoever judges for a reward has the renderer at hand.
Legend: n pieces, c classes, k = CELLS * CELLS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from model.training.recolor import COLORS, FloatArray, srgb_to_oklab
from model.training.sprites import SpriteSheet, object_names

CELLS = 24
_SPRITE_PX = 64
_PAINTS = (None, *COLORS)
# Blur of the sprite in pixels of 64, and what a match with it counts for: soft pictures are recognised, sharp ones win.
_SOFTNESS = ((0.0, 1.0), (1.3, 0.95), (2.6, 0.9), (4.5, 0.8))
_OPAQUE = 77  # alpha that still stands out from a background, as a piece's mask begins
_PATTERN_SLACK = 0.4  # pattern energy (OKLab squared, in cells) below which differences say nothing
_ASPECT_TOLERANCE = 0.2  # of the logarithm of width over height
_ASPECT_FLOOR = 0.3


class Templates:
    """The templates of some classes: all eighty where none are named. Raises ValueError for unknown ones."""

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = tuple(classes) or object_names()
        if unknown := sorted(set(self.classes) - set(object_names())):
            raise ValueError(f"unknown classes {unknown}; known: {', '.join(object_names())}")
        sheet = SpriteSheet(_SPRITE_PX)
        shapes: list[FloatArray] = []
        patterns: list[FloatArray] = []
        aspects: list[float] = []
        for blur_px, _ in _SOFTNESS:
            for name in self.classes:
                drawn = [_template(sheet.image(name, color), blur_px) for color in _PAINTS]
                shapes.append(drawn[0][0])
                patterns.extend(pattern for _, pattern, _ in drawn)
                aspects.append(drawn[0][2])
        self._shapes = np.array(shapes)  # (levels * c, k)
        self._patterns = np.array(patterns)  # (levels * c * paints, 3k)
        self._aspects = np.array(aspects, dtype=np.float32)

    def compare(self, shapes: FloatArray, patterns: FloatArray, aspects: FloatArray) -> FloatArray:
        """How much pieces (n, k), (n, 3k), (n,) look like each class, (n, c) in 0..1: the best paint and softness."""
        # Roundish things overlap by 0.8; only what is above says something. Cubed, shapes tell as much as patterns.
        shape_match = _overlap(shapes, self._shapes, 0.0) ** 3
        bent = np.square((aspects[:, None] - self._aspects) / _ASPECT_TOLERANCE)
        shape_match *= _ASPECT_FLOOR + (1 - _ASPECT_FLOOR) * np.exp(-bent / 2)
        pattern_match = _overlap(patterns, self._patterns, _PATTERN_SLACK)
        pattern_match = pattern_match.reshape(len(shapes), -1, len(_PAINTS)).max(2)
        # A pattern's agreement is negative where light and dark are exchanged.
        match = ((shape_match + np.maximum(pattern_match, 0)) / 2).reshape(len(shapes), len(_SOFTNESS), -1)
        best = match.max(2).argmax(1)  # the softness at which a piece looks most like anything: it decides for all
        worth = np.array([worth for _, worth in _SOFTNESS], dtype=np.float32)[best]
        return np.asarray(match.max(1) * worth[:, None])


def describe(lab: FloatArray, mask: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray, float]:
    """Shape (k,), pattern (3k,) and log aspect of a piece: `lab` (H, W, 3), `mask` (H, W), which fills its box."""
    height, width = mask.shape
    mean = lab[mask].mean(0)
    planes = np.empty((height, 4, width), dtype=np.float32)
    planes[:, 0] = mask
    planes[:, 1:] = np.where(mask[..., None], lab - mean, 0).transpose(0, 2, 1)
    rows = (_averaging(height) @ planes.reshape(height, -1)).reshape(-1, width)
    cells = np.asarray(rows @ _averaging(width).T, dtype=np.float32).reshape(CELLS, 4, CELLS)
    return cells[:, 0].ravel(), cells[:, 1:].ravel(), math.log(width / height)


@cache
def _averaging(extent: int) -> FloatArray:
    """The matrix (CELLS, extent) that averages pixels over cells of equal width, pixels shared where they straddle."""
    edges = np.arange(CELLS + 1) * extent / CELLS
    pixels = np.arange(extent)
    begin = np.maximum(edges[:-1, None], pixels)
    end = np.minimum(edges[1:, None], pixels + 1)
    return np.asarray(np.maximum(end - begin, 0) * CELLS / extent, dtype=np.float32)


def _overlap(pieces: FloatArray, templates: FloatArray, slack: float) -> FloatArray:
    """Tanimoto's generalised intersection over union of rows, (n, m); 1 where equal. `slack` is shared by any two."""
    common = pieces @ templates.T
    both = np.square(pieces).sum(1)[:, None] + np.square(templates).sum(1)
    return np.asarray((common + slack) / (both - common + slack))


def _template(sprite: Image.Image, blur_px: float) -> tuple[FloatArray, FloatArray, float]:
    if blur_px > 0:
        room = int(3 * blur_px)
        padded = Image.new("RGBA", (sprite.width + 2 * room, sprite.height + 2 * room))
        padded.paste(sprite, (room, room))
        sprite = padded.convert("RGBa").filter(ImageFilter.GaussianBlur(blur_px)).convert("RGBA")
    pixels = np.asarray(sprite)
    mask = pixels[..., 3] >= _OPAQUE
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return describe(srgb_to_oklab(pixels[inside][..., :3]), mask[inside])
