"""What the scoring judge learns from: scenes, held-out ones too, scenes with broken things, and round trips.

Every picture is (128, 128, 3) bytes with a table of labels (MAX_LABELS, 6), float32: class, colour, left, top, right,
bottom, the box in fractions of the side; a class of -1 is an empty slot, a colour of -1 an unknown one.
Broken things (`model.training.mush`) have no label: to the judge they are background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderDC
from PIL import Image

from model.evaluation.judge_network import SIDE_PX
from model.training.backgrounds import BACKGROUNDS, paint_background
from model.training.dataset import load_dataset, load_records
from model.training.layouts import Box, place
from model.training.mush import WAYS
from model.training.recolor import COLORS, ByteArray, FloatArray, is_faithful
from model.training.reconstruction import to_bytes, to_network
from model.training.sprites import object_names
from model.training.world import OBJECT_SIZES, EmojiWorld, compose, is_lost_before, sprite_sheet

MAX_LABELS = 4
INTACT_SHARE = 0.4
_CHUNK = 50
_REPORT_EVERY = 1000
MAX_LATENT_NOISE = 0.3  # in standard deviations: a small generator's latents are not quite an encoder's

Thing = tuple[str, str | None, tuple[int, int, int, int]]
"""Name, colour or None for the natural one, box in pixels."""


@dataclass(frozen=True, slots=True)
class LabelledPictures:
    """Pictures (N, 128, 128, 3) with their labels (N, MAX_LABELS, 6). Soft ones need no further blur."""

    pixels: ByteArray
    labels: FloatArray
    is_soft: bool = False


@cache
def natural_color(name: str) -> str | None:
    """The colour that an unpainted sprite passes the strict check for; None where it has none of the ten."""
    sprite = np.asarray(sprite_sheet(SIDE_PX).image(name))
    return next((color for color in COLORS if is_faithful(sprite, color)), None)


def label_table(things: Iterable[Thing]) -> FloatArray:
    """Labels (MAX_LABELS, 6) of what a picture shows."""
    table = np.full((MAX_LABELS, 6), -1, dtype=np.float32)
    for slot, (name, color, box) in enumerate(things):
        shade = color or natural_color(name)
        kind = object_names().index(name)
        table[slot] = kind, -1 if shade is None else COLORS.index(shade), *(edge / SIDE_PX for edge in box)
    return table


@dataclass(frozen=True, slots=True)
class BrokenScene:
    """A picture in which some things are broken: `things` are the intact ones, `broken` the others' (name, way)."""

    pixels: ByteArray
    things: tuple[Thing, ...]
    broken: tuple[tuple[str, str], ...]


def broken_scene(seed: str, *, intact_share: float = INTACT_SHARE, objects: tuple[str, ...] = ()) -> BrokenScene:
    """One to four different things on a plain background, each one broken in some way or intact. Pure.

    `objects` are at least four names; all eighty where empty.
    """
    rng = Random(f"broken/{seed}")
    sheet = sprite_sheet(SIDE_PX)
    known = objects or object_names()
    names = rng.sample(known, rng.choices((1, 2, 3, 4), (0.4, 0.3, 0.15, 0.15))[0])
    colors = [rng.choice((None, *sheet.colors(name))) if rng.random() < 0.7 else None for name in names]
    low, high = OBJECT_SIZES[len(names)]
    sprites, ways = [], []
    for name, color in zip(names, colors, strict=True):
        way = None if rng.random() < intact_share else rng.choice(list(WAYS))
        # Broken at a moderate size, as breaking costs by the pixel.
        sprite = _fitted(sheet.image(name, color), 96)
        other = _fitted(sheet.image(rng.choice([other for other in known if other != name])), 96)
        sprites.append(sprite if way is None else WAYS[way](rng, sprite, other))
        ways.append(way)
    background = _background(rng, list(zip(names, colors, strict=True)))
    extents = []
    for sprite in sprites:
        scale = rng.uniform(low, high) / max(sprite.size)
        extents.append((sprite.width * scale, sprite.height * scale))
    pixels = paint_background(rng, background, SIDE_PX)
    boxes = [_in_pixels(box) for box in place(rng, tuple(extents))]
    things = zip(names, colors, boxes, strict=True)
    return BrokenScene(
        compose(pixels, sprites, boxes),
        tuple(thing for thing, way in zip(things, ways, strict=True) if way is None),
        tuple((name, way) for name, way in zip(names, ways, strict=True) if way is not None),
    )


def _fitted(sprite: Image.Image, side_px: int) -> Image.Image:
    scale = side_px / max(sprite.size)
    return sprite.resize((max(4, round(sprite.width * scale)), max(4, round(sprite.height * scale))))


def _in_pixels(box: Box) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge * SIDE_PX) for edge in box)
    return left, top, right, bottom


def _background(rng: Random, things: list[tuple[str, str | None]]) -> str:
    names = rng.sample(list(BACKGROUNDS), len(BACKGROUNDS))
    return next((name for name in names if not is_lost_before(sprite_sheet(SIDE_PX), things, name)), "gray")


def world_pictures(folder: Path) -> LabelledPictures:
    """The scenes of a rendered dataset, labelled; pixels stay a memory map. Raises ValueError unless they are 128px."""
    dataset = load_dataset(folder)
    if dataset.world.size != SIDE_PX:
        raise ValueError(f"{folder} holds scenes of {dataset.world.size} px; the judge looks at {SIDE_PX}")
    labels = np.stack([label_table(record.objects) for record in load_records(folder)])
    return LabelledPictures(dataset.pixels, labels)


def render_broken(number: int, target: Path, seed: int, report: Callable[[str], None]) -> LabelledPictures:
    """`number` broken scenes, rendered once and kept as `target`.npy beside their labels."""

    def draw(index: int) -> tuple[ByteArray, FloatArray]:
        scene = broken_scene(f"train/{seed}/{index}")
        return scene.pixels, label_table(scene.things)

    return _stored(target, number, _one_by_one(draw, "broken scenes", report))


def render_held_out(world: EmojiWorld, number: int, target: Path, report: Callable[[str], None]) -> LabelledPictures:
    """`number` scenes of the combinations that generators are not shown; kept like broken ones.

    A judge that had not seen them either would be stricter with them, and held-out scores would say nothing.
    """

    def draw(index: int) -> tuple[ByteArray, FloatArray]:
        scene = world.held_out_scene(index)
        return scene.pixels, label_table((thing.name, thing.color, thing.box) for thing in scene.objects)

    return _stored(target, number, _one_by_one(draw, "held-out scenes", report))


def _one_by_one(
    draw: Callable[[int], tuple[ByteArray, FloatArray]], what: str, report: Callable[[str], None]
) -> Callable[[int, int], list[tuple[ByteArray, FloatArray]]]:
    def render(start: int, stop: int) -> list[tuple[ByteArray, FloatArray]]:
        if start % _REPORT_EVERY == 0:
            report(f"{what}: {start}")
        return [draw(index) for index in range(start, stop)]

    return render


def render_round_trips(
    sources: tuple[LabelledPictures, ...],
    number: int,
    autoencoder: Path,
    target: Path,
    seed: int,
    report: Callable[[str], None],
) -> LabelledPictures:
    """`number` pictures of `sources` through an autoencoder, some with noise on their latents. Stored in `target`."""
    model = AutoencoderDC.from_pretrained(autoencoder).eval()

    @torch.no_grad()
    def render(start: int, stop: int) -> list[tuple[ByteArray, FloatArray]]:
        if start % _REPORT_EVERY == 0:
            report(f"round trips: {start}")
        rng = np.random.default_rng((seed, start))
        chosen = [sources[index % len(sources)] for index in range(start, stop)]
        places = [int(rng.integers(len(source.pixels))) for source in chosen]
        pictures = np.stack([source.pixels[place] for source, place in zip(chosen, places, strict=True)])
        latents = model.encoder(to_network(pictures))
        strength = rng.uniform(-MAX_LATENT_NOISE, MAX_LATENT_NOISE, (stop - start, 1, 1, 1)).clip(0)
        noise = torch.from_numpy((rng.standard_normal(latents.shape) * strength).astype(np.float32))
        decoded = to_bytes(model.decoder(latents + latents.std() * noise))
        labels = [source.labels[place] for source, place in zip(chosen, places, strict=True)]
        return list(zip(decoded, labels, strict=True))

    return replace(_stored(target, number, render), is_soft=True)


def _stored(
    target: Path, number: int, render: Callable[[int, int], list[tuple[ByteArray, FloatArray]]]
) -> LabelledPictures:
    """Pictures from `target` and labels from beside it; rendered in chunks where they are not there yet.

    Raises ValueError where another number is there.
    """
    labels_path = target.with_suffix(".labels.npy")
    if not labels_path.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shape = (number, SIDE_PX, SIDE_PX, 3)
        pixels = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
        labels = np.empty((number, MAX_LABELS, 6), dtype=np.float32)
        for start in range(0, number, _CHUNK):
            stop = min(start + _CHUNK, number)
            for offset, (picture, table) in enumerate(render(start, stop)):
                pixels[start + offset], labels[start + offset] = picture, table
        pixels.flush()
        draft = labels_path.with_suffix(".partial")
        with draft.open("wb") as file:
            np.save(file, labels)
        draft.replace(labels_path)  # its presence says that the pixels are complete
    stored = LabelledPictures(np.load(target, mmap_mode="r"), np.load(labels_path))
    if len(stored.labels) != number:
        raise ValueError(
            f"{target} holds {len(stored.labels)} pictures, not {number}; remove it or choose another folder"
        )
    return stored
