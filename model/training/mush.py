"""Sprites that are no longer what they were: what a judge must not accept.

A half-trained generator draws a thing's colours and outline without its shape. Each way of breaking a sprite here
keeps some of what a careless judge would go by, and leaves nothing that a person would name.
Sprites are RGBA; every function is pure given its generator.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from model.training.recolor import FloatArray

_ROOM = 0.15  # free border around a sprite that is bent, as a fraction of its sides
_KEPT_HALF = (0.30, 0.45)
_BENDING = (0.10, 0.18)  # standard deviation of the displacement, as a fraction of the longest side
_HEAVY_BLUR = (0.11, 0.18)  # standard deviation, as a fraction of the longest side


def bend(rng: Random, sprite: Image.Image, _: Image.Image) -> Image.Image:
    """Strong elastic distortion."""
    padded = _padded(sprite, _ROOM)
    strength = rng.uniform(*_BENDING) * max(sprite.size)
    num_knots = rng.choice((5, 6, 7))
    x, y = (smooth_noise(rng, num_knots, padded.size) * strength for _ in range(2))
    pixels = np.asarray(padded)
    rows, columns = np.indices(pixels.shape[:2])
    rows = np.clip(np.rint(rows + y), 0, pixels.shape[0] - 1).astype(np.int64)
    columns = np.clip(np.rint(columns + x), 0, pixels.shape[1] - 1).astype(np.int64)
    return Image.fromarray(pixels[rows, columns])


def shuffle(rng: Random, sprite: Image.Image, _: Image.Image) -> Image.Image:
    """Cut into a grid of pieces that all change places."""
    num_pieces = rng.choice((2, 3, 3, 4))
    edges = [[round(extent * i / num_pieces) for i in range(num_pieces + 1)] for extent in sprite.size]
    cells = [
        (edges[0][column], edges[1][row], edges[0][column + 1], edges[1][row + 1])
        for row in range(num_pieces)
        for column in range(num_pieces)
    ]
    turn = rng.randrange(1, len(cells))
    order = rng.sample(range(len(cells)), len(cells))
    result = Image.new("RGBA", sprite.size)
    for position, source in enumerate(order):
        # A rotation of a random order: no piece stays where it was.
        target = cells[order[(position + turn) % len(order)]]
        piece = sprite.crop(cells[source]).resize((target[2] - target[0], target[3] - target[1]))
        result.paste(piece, target[:2])
    return result


def blob(rng: Random, sprite: Image.Image, _: Image.Image) -> Image.Image:
    """A shapeless patch of about the sprite's size, area and colours."""
    pixels = np.asarray(sprite)
    opaque = pixels[pixels[..., 3] > 127][:, :3]
    colors = opaque[[rng.randrange(len(opaque)) for _ in range(rng.choice((1, 2, 3)))]].astype(np.float32)
    fields = np.stack([smooth_noise(rng, 4, sprite.size) for _ in colors])
    shares = np.exp(4 * fields) / np.exp(4 * fields).sum(0)
    height, width = pixels.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    inside = smooth_noise(rng, rng.choice((3, 4, 5)), sprite.size) * rng.uniform(0.1, 0.5) - (x**2 + y**2)
    level = np.quantile(inside, 1 - np.clip(len(opaque) / (height * width), 0.2, 0.75))
    alpha = np.where(inside > level, 255, 0)[..., None]
    painted = np.einsum("nhw,nc->hwc", shares, colors)
    image = Image.fromarray(np.concatenate([painted, alpha], axis=2).astype(np.uint8))
    image.putalpha(image.getchannel("A").filter(ImageFilter.GaussianBlur(1)))
    return image


def halve(rng: Random, sprite: Image.Image, _: Image.Image) -> Image.Image:
    """Less than half of it, cut straight."""
    kept = rng.uniform(*_KEPT_HALF)
    if rng.random() < 0.5:
        extent = max(1, round(sprite.width * kept))
        start = rng.choice((0, sprite.width - extent))
        return sprite.crop((start, 0, start + extent, sprite.height))
    extent = max(1, round(sprite.height * kept))
    start = rng.choice((0, sprite.height - extent))
    return sprite.crop((0, start, sprite.width, start + extent))


def cross(rng: Random, sprite: Image.Image, other: Image.Image) -> Image.Image:
    """Halfway between two things: one fading into the other, or half of each."""
    size = (round((sprite.width + other.width) / 2), round((sprite.height + other.height) / 2))
    one, two = (np.asarray(image.resize(size).convert("RGBa"), dtype=np.float32) for image in (sprite, other))
    if rng.random() < 0.5:
        share: FloatArray = np.full((size[1], size[0], 1), rng.uniform(0.42, 0.58), dtype=np.float32)
    else:
        rows, columns = np.indices((size[1], size[0]), dtype=np.float32)
        along = columns / size[0] if rng.random() < 0.5 else rows / size[1]
        share = np.clip((along[..., None] - 0.5) * 20 + 0.5, 0, 1)
    mixed = one * share + two * (1 - share)
    return Image.frombytes("RGBa", size, np.rint(mixed).astype(np.uint8).tobytes()).convert("RGBA")


def melt(rng: Random, sprite: Image.Image, _: Image.Image) -> Image.Image:
    """Blurred until only its colours are left."""
    deviation = rng.uniform(*_HEAVY_BLUR) * max(sprite.size)
    padded = _padded(sprite, 0.4).convert("RGBa")
    return padded.filter(ImageFilter.GaussianBlur(deviation)).convert("RGBA")


WAYS: dict[str, Callable[[Random, Image.Image, Image.Image], Image.Image]] = {
    "bent": bend,
    "shuffled": shuffle,
    "blob": blob,
    "half": halve,
    "crossed": cross,
    "melted": melt,
}


def smooth_noise(rng: Random, num_knots: int, size: tuple[int, int]) -> FloatArray:
    """Noise (height, width) of mean about 0 and deviation about 1 that varies over 1/num_knots of the sides."""
    knots = np.array([[rng.gauss(0, 1) for _ in range(num_knots)] for _ in range(num_knots)], dtype=np.float32)
    field: npt.NDArray[np.float32] = np.asarray(
        Image.fromarray(knots, mode="F").resize(size, Image.Resampling.BICUBIC), dtype=np.float32
    )
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)


def _padded(sprite: Image.Image, share: float) -> Image.Image:
    x, y = round(sprite.width * share), round(sprite.height * share)
    result = Image.new("RGBA", (sprite.width + 2 * x, sprite.height + 2 * y))
    result.paste(sprite, (x, y))
    return result
