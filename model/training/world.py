"""The emoji world: everyday objects on plain backgrounds, every scene a pure function of a seed and an index.

Some (object, colour) and (object, object) combinations are held out: `scene` never shows them, `held_out_scene`
always shows one. Which ones depends on their names alone, so all worlds and all seeds agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from model.training.backgrounds import BACKGROUNDS, background_lab, paint_background
from model.training.captions import KINDS, vocabulary, write_caption
from model.training.layouts import RELATIONS, Box, place
from model.training.recolor import COLORS, ByteArray
from model.training.sprites import SpriteSheet, object_names

HELD_OUT_SHARE = 0.07
# Single objects are large, so a small model learns their patterns apart from those of company: they are shown most.
KIND_WEIGHTS = {
    "single_object": 0.16,
    "two_object": 0.13,
    "counting": 0.21,
    "colors": 0.22,
    "position": 0.14,
    "color_attr": 0.14,
}
COLORED_COUNT_RATE = 0.35
# Longest side of an object as a fraction of the picture's, by how many there are.
OBJECT_SIZES = {1: (0.52, 0.72), 2: (0.32, 0.46), 3: (0.27, 0.38), 4: (0.24, 0.34)}
MAX_SHARE_NEAR_BACKGROUND = 0.2
NEAR_BACKGROUND = 0.14  # OKLab distance
SHADOW_STRENGTH = 0.32


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One drawn object: `color` is None where it has its natural colours; `box` is (left, top, right, bottom) px."""

    name: str
    color: str | None
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture, (side, side, 3) bytes, with everything that is true of it. Objects in the caption's order."""

    caption: str
    pixels: ByteArray
    kind: str
    objects: tuple[SceneObject, ...]
    background: str
    relation: str | None
    is_held_out: bool


def is_held_out_color(name: str, color: str) -> bool:
    """Whether training never shows this object in this colour by name."""
    return _fraction(f"color:{name}:{color}") < HELD_OUT_SHARE


def is_held_out_pair(first: str, second: str) -> bool:
    """Whether training never shows these two objects together, in any order."""
    return _fraction("pair:" + ":".join(sorted((first, second)))) < HELD_OUT_SHARE


@cache
def sprite_sheet(size: int) -> SpriteSheet:
    """The sprites that scenes of `size` pixels are drawn with: one sheet, which all worlds of that size share."""
    return SpriteSheet(side=max(2 * size, 64) * 3 // 4)


def is_lost_before(sheet: SpriteSheet, things: Iterable[tuple[str, str | None]], background: str) -> bool:
    """Whether too much of one of the things (name, colour or None) is nearly of the background's own colour."""
    lab = background_lab(background)
    return any(
        sheet.share_near(name, color, lab, NEAR_BACKGROUND) > MAX_SHARE_NEAR_BACKGROUND for name, color in things
    )


def compose(
    background: ByteArray, sprites: Iterable[Image.Image], boxes: Iterable[tuple[int, int, int, int]]
) -> ByteArray:
    """A picture (side, side, 3): soft shadows on the background, then the sprites, each scaled to its box in pixels."""
    canvas = Image.fromarray(background)
    side = canvas.width
    shadow = Image.new("L", canvas.size, 0)
    drop = max(1, round(side * 0.015))
    placed = []
    for sprite, (left, top, right, bottom) in zip(sprites, boxes, strict=True):
        scaled = sprite.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC)
        shadow.paste(255, (left + drop // 2, top + drop), scaled.getchannel("A"))
        placed.append((scaled, (left, top)))
    soft = shadow.filter(ImageFilter.GaussianBlur(side * 0.016))
    canvas.paste((0, 0, 0), (0, 0), soft.point(lambda value: value * SHADOW_STRENGTH))
    for scaled, corner in placed:
        canvas.paste(scaled, corner, scaled)
    return np.asarray(canvas, dtype=np.uint8)


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True, slots=True)
class _Plan:
    kind: str
    objects: tuple[tuple[str, str | None], ...]
    relation: str | None = None

    @property
    def is_held_out(self) -> bool:
        names = tuple(name for name, _ in self.objects)
        if any(color is not None and is_held_out_color(name, color) for name, color in self.objects):
            return True
        return self.kind != "counting" and len(names) == 2 and is_held_out_pair(*names)


class EmojiWorld:
    """Scenes of the given objects, `size` pixels square. Raises ValueError for unknown objects or fewer than two.

    With `cell_px`, objects stand on a grid: centres on its corners, longest sides whole cells. A latent grid with cells
    of that size then shows every object in one phase and a few sizes, which a small model learns many times faster.
    """

    def __init__(
        self, objects: tuple[str, ...] = (), size: int = 128, seed: int = 0, cell_px: int | None = None
    ) -> None:
        self.objects = tuple(objects) or object_names()
        unknown = sorted(set(self.objects) - set(object_names()))
        if unknown:
            raise ValueError(f"unknown objects {unknown}; known: {', '.join(object_names())}")
        if len(set(self.objects)) != len(self.objects) or len(self.objects) < 2:
            raise ValueError("a world needs at least two objects, each named once")
        if cell_px is not None and (size % cell_px or size // cell_px < 8):
            raise ValueError(f"cell_px must divide the size {size} into at least 8 cells, got {cell_px}")
        self.size = size
        self.seed = seed
        self.cell_px = cell_px
        self._sheet = sprite_sheet(size)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that this world's captions can hold."""
        return vocabulary(self.objects, COLORS, tuple(BACKGROUNDS))

    def scene(self, index: int) -> Scene:
        """The index-th training scene; never a held-out combination."""
        return self._draw(Random(f"emoji/{self.seed}/train/{index}"), is_held_out=False)

    def held_out_scene(self, index: int) -> Scene:
        """The index-th scene of combinations that training never shows.

        Raises ValueError where a world of few objects has none.
        """
        return self._draw(Random(f"emoji/{self.seed}/held out/{index}"), is_held_out=True)

    def _draw(self, rng: Random, *, is_held_out: bool) -> Scene:
        plan = self._find_plan(rng, is_held_out=is_held_out)
        background = self._choose_background(rng, plan)
        caption = write_caption(rng, plan.kind, plan.objects, plan.relation, background)
        cell = None if self.cell_px is None else self.cell_px / self.size
        boxes = place(rng, self._choose_sizes(rng, plan), plan.relation, cell)
        objects = tuple(
            SceneObject(name, color, self._box_px(box)) for (name, color), box in zip(plan.objects, boxes, strict=True)
        )
        sprites = [self._sheet.image(name, color) for name, color in plan.objects]
        pixels = compose(paint_background(rng, background, self.size), sprites, [thing.box for thing in objects])
        return Scene(caption, pixels, plan.kind, objects, background, plan.relation, is_held_out)

    def _find_plan(self, rng: Random, *, is_held_out: bool) -> _Plan:
        kinds = [kind for kind in KINDS if not is_held_out or kind != "single_object"]
        weights = [1.0 if is_held_out else KIND_WEIGHTS[kind] for kind in kinds]
        for _ in range(50):
            kind = rng.choices(kinds, weights)[0]
            for _ in range(300):
                plan = self._plan(rng, kind)
                if plan is not None and plan.is_held_out == is_held_out:
                    return plan
        which = "held-out" if is_held_out else "training"
        raise ValueError(f"these objects have no {which} combinations: {', '.join(self.objects)}")

    def _plan(self, rng: Random, kind: str) -> _Plan | None:
        """What to show; None where the drawn objects have no colour that passes the strict check."""
        count = rng.choice((2, 3, 4)) if kind == "counting" else 1 if kind in ("single_object", "colors") else 2
        names = [rng.choice(self.objects)] * count if kind == "counting" else rng.sample(self.objects, count)
        if kind in ("single_object", "two_object"):
            return _Plan(kind, tuple((name, None) for name in names))
        if kind == "position":
            return _Plan(kind, tuple((name, None) for name in names), rng.choice(RELATIONS))
        if kind == "counting" and rng.random() >= COLORED_COUNT_RATE:
            return _Plan(kind, tuple((name, None) for name in names))
        if not all(self._sheet.colors(name) for name in names):
            return None
        if kind == "counting":
            return _Plan(kind, ((names[0], rng.choice(self._sheet.colors(names[0]))),) * count)
        colors = [rng.choice(self._sheet.colors(name)) for name in names]
        if kind == "color_attr" and colors[0] == colors[1]:
            return None  # GenEval's attribution prompts always name two colours
        return _Plan(kind, tuple(zip(names, colors, strict=True)))

    def _choose_background(self, rng: Random, plan: _Plan) -> str:
        things = set(plan.objects)

        def is_near(background: str) -> bool:
            return any(color == background for _, color in things) or is_lost_before(self._sheet, things, background)

        names = list(BACKGROUNDS)
        rng.shuffle(names)
        return next((name for name in names if not is_near(name)), "gray")

    def _choose_sizes(self, rng: Random, plan: _Plan) -> tuple[tuple[float, float], ...]:
        low, high = OBJECT_SIZES[len(plan.objects)]
        common = rng.uniform(low, high)
        sizes = []
        for name, color in plan.objects:
            if self.cell_px is not None:
                cells = rng.choice([n for n in range(1, 9) if low <= n * self.cell_px / self.size <= high])
                side = cells * self.cell_px / self.size
            elif plan.kind == "counting":
                side = common * rng.uniform(0.92, 1.0)
            else:
                side = rng.uniform(low, high)
            image = self._sheet.image(name, color)
            scale = side / max(image.size)
            sizes.append((image.width * scale, image.height * scale))
        return tuple(sizes)

    def _box_px(self, box: Box) -> tuple[int, int, int, int]:
        left, top = round(box[0] * self.size), round(box[1] * self.size)
        width, height = (max(1, round(extent * self.size)) for extent in (box[2] - box[0], box[3] - box[1]))
        return left, top, left + width, top + height
