"""Frozen features of rendered scenes, for REPA: what a picture shows, said densely, cell by cell.

`write_label_features` needs no network: the renderer knows every object's class, colour and outline exactly.
`write_network_features` asks a DINOv2 from a local folder. Both write float16 (N, g, g, C), row i for scene i.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from PIL import Image

from model.engine import choose_device, choose_dtype
from model.training.backgrounds import BACKGROUNDS
from model.training.dataset import SceneRecord, load_dataset, load_records
from model.training.dinov2 import GRID, FeatureEncoder
from model.training.recolor import COLORS, FloatArray
from model.training.repa import to_grid
from model.training.sprites import SpriteSheet

NUM_PART_CHANNELS = 4  # where in its object a cell lies: cosine and sine of half a turn, across and down
QUARTERS = 4  # coverage of a cell's four quarters: which way an outline runs through it
_REPORT_EVERY = 5000


def write_label_features(dataset: Path, target: Path, *, grid: int, report: Callable[[str], None] = print) -> Path:
    """Label features of every finished scene. `grid` is the latent's side, in cells.

    Channels of a cell, each times how much of the cell an object covers: its class (one of the world's objects), its
    colour (natural or one of ten), where in the object the cell lies, its quarters; and the background's colour times
    the rest. Raises ValueError where half a cell is no whole number of pixels.
    """
    world = json.loads((dataset / "world.json").read_text("utf-8"))
    size, names = int(world["size"]), tuple(world["objects"])
    if size % (2 * grid):
        raise ValueError(f"pictures of {size} px can't be cut into {grid} cells of two whole halves")
    records = list(load_records(dataset))
    labels = _Labels(names, size, grid)
    with _drafted(target, (len(records), grid, grid, labels.num_channels)) as stored:
        for index, record in enumerate(records):
            stored[index] = labels.of(record)
            if (index + 1) % _REPORT_EVERY == 0:
                report(f"features of {index + 1} of {len(records)}")
    return target


class _Labels:
    """Turns records into label features; keeps each sprite's outline."""

    def __init__(self, names: tuple[str, ...], size: int, grid: int) -> None:
        self._size, self._grid = size, grid
        self._sheet = SpriteSheet(side=size)
        self._classes = {name: index for index, name in enumerate(names)}
        self._colors = {color: index for index, color in enumerate((None, *COLORS))}
        self._backgrounds = {name: index for index, name in enumerate(BACKGROUNDS)}
        widths = (len(names), len(self._colors), NUM_PART_CHANNELS, QUARTERS, len(self._backgrounds))
        self._starts = np.cumsum((0, *widths))
        self.num_channels = int(self._starts[-1])

    def of(self, record: SceneRecord) -> FloatArray:
        """Features (g, g, C) of one scene."""
        of_class, of_color, of_part, of_quarter, of_background = self._starts[:-1]
        cells = np.zeros((self._grid, self._grid, self.num_channels), dtype=np.float32)
        free = np.ones((self._grid, self._grid), dtype=np.float32)
        centers = (np.arange(self._grid, dtype=np.float32) + 0.5) * self._size / self._grid
        for name, color, (left, top, right, bottom) in record.objects:
            quarters = self._coverage(name, (left, top, right, bottom))  # (g, g, 4)
            covered = quarters.mean(-1)
            cells[..., of_class + self._classes[name]] += covered
            cells[..., of_color + self._colors[color]] += covered
            across = np.clip((centers - left) / (right - left), 0, 1)[None, :] * math.pi
            down = np.clip((centers - top) / (bottom - top), 0, 1)[:, None] * math.pi
            for offset, value in enumerate((np.cos(across), np.sin(across), np.cos(down), np.sin(down))):
                cells[..., of_part + offset] += covered * value
            cells[..., of_quarter : of_quarter + QUARTERS] += quarters
            free -= covered
        cells[..., of_background + self._backgrounds[record.background]] = np.clip(free, 0, 1)
        return cells

    def _coverage(self, name: str, box: tuple[int, int, int, int]) -> FloatArray:
        """How much of every cell's four quarters an object in `box` covers, (g, g, 4) in 0..1."""
        left, top, right, bottom = box
        outline = self._sheet.image(name).getchannel("A").resize((right - left, bottom - top), Image.Resampling.BICUBIC)
        canvas = Image.new("L", (self._size, self._size), 0)
        canvas.paste(outline, (left, top))
        half, side = self._grid * 2, self._size // (self._grid * 2)
        halves = np.asarray(canvas, dtype=np.float32).reshape(half, side, half, side).mean((1, 3)) / 255
        quarters = halves.reshape(self._grid, 2, self._grid, 2).transpose(0, 2, 1, 3)
        return np.asarray(quarters.reshape(self._grid, self._grid, QUARTERS), dtype=np.float32)


def load_encoder(folder: Path, device: str = "auto") -> FeatureEncoder:
    """DINOv2 from a local folder in transformers' layout. Raises ShardError where it is something else."""
    chosen = choose_device(device)
    return FeatureEncoder.load(folder, chosen, choose_dtype("auto", chosen))


def write_network_features(
    dataset: Path,
    encoder: FeatureEncoder,
    target: Path,
    *,
    grid: int,
    batch_size: int = 32,
    report: Callable[[str], None] = print,
) -> Path:
    """DINOv2's patch features of every finished scene, averaged over the cells of a grid of side `grid`."""
    pixels = load_dataset(dataset).pixels
    with _drafted(target, (len(pixels), grid, grid, encoder.num_channels)) as stored:
        for start in range(0, len(pixels), batch_size):
            patches = torch.from_numpy(encoder.encode(np.array(pixels[start : start + batch_size])))  # (b, 256, C)
            cells = to_grid(patches.unflatten(1, (GRID, GRID)), (grid, grid)).unflatten(1, (grid, grid))
            stored[start : start + len(cells)] = cells.numpy()
            if start // batch_size % 100 == 0:
                report(f"features of {start + len(cells)} of {len(pixels)}")
    return target


@contextmanager
def _drafted(target: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A float16 .npy file being filled under another name; it becomes `target` when all of it is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".partial")
    stored = open_memmap(draft, mode="w+", dtype=np.float16, shape=shape)
    yield stored
    stored.flush()
    draft.replace(target)
