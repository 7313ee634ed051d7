"""The sprites of the emoji world: drawn once from SVG, recoloured on demand, kept in memory.

63 sprites come from Noto Emoji (see data/NOTICE), 17 were drawn for this project. resvg is needed only here.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from model.training.recolor import COLORS, ByteArray, is_faithful, recolor, srgb_to_oklab

CHECK_PIXELS = 64  # side at which colour checks look at a sprite
_DATA = Path(__file__).parent / "data"


def licence_files() -> tuple[Path, ...]:
    """The licence texts that must travel with the sprites and with whatever is trained on them."""
    return _DATA / "LICENSE-Apache-2.0.txt", _DATA / "NOTICE"


@cache
def _sources() -> dict[str, str]:
    text = (_DATA / "sprites80.json").read_text(encoding="utf-8")
    return {name: entry["svg"] for name, entry in json.loads(text).items()}


def object_names() -> tuple[str, ...]:
    """The 80 object names, in GenEval's order."""
    return tuple(_sources())


def rasterize(name: str, side: int) -> ByteArray:
    """One sprite as RGBA bytes (H, W, 4), cropped to what it covers; `side` is the uncropped side in pixels."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=_sources()[name], width=side, height=side, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = image.getchannel("A").point(lambda value: 255 if value > 8 else 0).getbbox()
    return np.asarray(image.crop(box), dtype=np.uint8)


class SpriteSheet:
    """Sprites of some objects, natural and recoloured, drawn when first asked for."""

    def __init__(self, side: int = 192) -> None:
        self._side = side
        self._images: dict[tuple[str, str | None], Image.Image] = {}
        self._colors: dict[str, tuple[str, ...]] = {}
        self._labs: dict[tuple[str, str | None], tuple[np.ndarray, np.ndarray]] = {}

    def image(self, name: str, color: str | None = None) -> Image.Image:
        """RGBA sprite, natural where `color` is None."""
        key = (name, color)
        if key not in self._images:
            pixels = rasterize(name, self._side) if color is None else recolor(np.asarray(self.image(name)), color)
            self._images[key] = Image.fromarray(pixels)
        return self._images[key]

    def colors(self, name: str) -> tuple[str, ...]:
        """Colours in which this object may appear in a caption: those whose recolouring passes the strict check."""
        if name not in self._colors:
            small = np.asarray(_small(self.image(name)))
            self._colors[name] = tuple(color for color in COLORS if is_faithful(recolor(small, color), color))
        return self._colors[name]

    def share_near(self, name: str, color: str | None, lab: tuple[float, float, float], distance: float) -> float:
        """Share of the sprite's opaque pixels within `distance` of an OKLab colour."""
        key = (name, color)
        if key not in self._labs:
            pixels = np.asarray(_small(self.image(name, color)))
            opaque = pixels[pixels[..., 3] > 127][:, :3]
            self._labs[key] = (srgb_to_oklab(opaque), opaque)
        delta = self._labs[key][0] - np.array(lab, dtype=np.float32)
        return float(np.mean((delta**2).sum(-1) < distance**2))


def _small(image: Image.Image) -> Image.Image:
    scale = CHECK_PIXELS / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX)
