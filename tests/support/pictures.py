"""Small pictures with captions, for tests of what is made from a user's own."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

_COLORS = ("red", "green", "blue", "orange", "purple", "black")
CAPTIONS = tuple(f"A {color} {shape}" for color in _COLORS for shape in ("square", "circle"))


def write_pictures(folder: Path) -> Path:
    """Twelve pictures 00.png .. 11.png, 80x64 pixels, each with a .txt of its caption."""
    folder.mkdir(parents=True)
    for index, caption in enumerate(CAPTIONS):
        _, color, shape = caption.split()
        image = Image.new("RGB", (80, 64), "white")
        draw = ImageDraw.Draw(image)
        (draw.rectangle if shape == "square" else draw.ellipse)((24, 16, 56, 48), fill=color)
        image.save(folder / f"{index:02d}.png")
        (folder / f"{index:02d}.txt").write_text(caption)
    return folder
