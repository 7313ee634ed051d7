"""The eleven soft backgrounds of the emoji world: flat, linear or radial."""

from __future__ import annotations

import math
from functools import cache
from random import Random

import numpy as np

from model.training.recolor import ByteArray, FloatArray, srgb_to_oklab

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (242, 146, 142),
    "orange": (255, 204, 153),
    "yellow": (255, 242, 158),
    "green": (168, 222, 172),
    "blue": (155, 200, 250),
    "purple": (208, 186, 242),
    "pink": (255, 208, 224),
    "brown": (186, 157, 131),
    "black": (42, 44, 52),
    "white": (249, 249, 250),
    "gray": (190, 195, 203),
}
STYLES = ("flat", "linear", "radial")
_DEPTH = 0.09  # how much a gradient darkens or lightens from one end to the other


@cache
def background_lab(name: str) -> tuple[float, float, float]:
    """OKLab of a background's middle tone."""
    lab = srgb_to_oklab(np.array([BACKGROUNDS[name]], dtype=np.uint8))[0]
    return float(lab[0]), float(lab[1]), float(lab[2])


@cache
def _grid(side: int) -> tuple[FloatArray, FloatArray]:
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    return axis[None, :], axis[:, None]


def paint_background(rng: Random, name: str, side: int) -> ByteArray:
    """Background (side, side, 3), bytes."""
    style = rng.choice(STYLES)
    base = np.array(BACKGROUNDS[name], dtype=np.float32)
    x, y = _grid(side)
    if style == "flat":
        return np.broadcast_to(base.astype(np.uint8), (side, side, 3)).copy()
    if style == "linear":
        angle = rng.uniform(0, 2 * math.pi)
        ramp: FloatArray = np.asarray((x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2), dtype=np.float32)
    else:
        ramp = np.asarray(0.5 - (x * x + y * y) * 0.75, dtype=np.float32)
    depth = _DEPTH * (1.6 if name == "black" else 1.0)
    return np.asarray(np.clip(base * (1 + depth * ramp[..., None]) + 0.5, 0, 255), dtype=np.uint8)
