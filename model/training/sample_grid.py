"""Pictures on the way: every so often the averaged weights draw the same captions with the same seeds.

Drawn by the engine that serves, around the networks in memory. Cheap on purpose: 8 pictures of 10 steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.autoencoder import Autoencoder
from model.config import ModelCard
from model.contact_sheet import Cell, Section, contact_sheet
from model.drawing import draw_prompts
from model.engine import Engine
from model.text import TextEncoder
from model.transformer import EMMDiT
from model.weights import LoadedModel

NUM_SAMPLES = 8
NUM_COLUMNS = 4
NUM_STEPS = 10
GUIDANCE = 4.0
SEED = 0
MAX_PICTURE_PX = 256
SAMPLES_NAME = "samples"


class SampleGrids:
    """Draws grids of `prompts` into `out_dir`/samples, at most one every `every_min` minutes of training."""

    def __init__(self, autoencoder: Autoencoder, prompts: Sequence[str], out_dir: Path, every_min: float) -> None:
        self._autoencoder, self._prompts = autoencoder, tuple(prompts)
        self._folder, self._every_s = out_dir / SAMPLES_NAME, 60 * every_min
        self._drawn_s = -math.inf

    def is_due(self, elapsed_s: float) -> bool:
        """Whether a grid should be drawn now; if so, the next one is due `every_min` later."""
        if elapsed_s - self._drawn_s < self._every_s:
            return False
        self._drawn_s = elapsed_s
        return True

    def draw(self, text: TextEncoder, transformer: EMMDiT, step: int) -> NDArray[np.uint8]:
        """Draw a grid, write it as step-000123.png, and return its pixels (H, W, 3).

        `text` remembers what it said: an encoder that learns needs a new one for every grid.
        """
        config, device = transformer.config, next(transformer.parameters()).device
        side = config.sample_size * self._autoencoder.spatial_compression
        card = ModelCard("in-training", "", (f"{side}x{side}",), NUM_STEPS, GUIDANCE)
        model = LoadedModel(card, config, transformer, text, self._autoencoder)
        pictures = draw_prompts(Engine(model, device, torch.float32), self._prompts, seed=SEED)
        cells = tuple(Cell(picture, prompt) for picture, prompt in zip(pictures, self._prompts, strict=True))
        sheet = contact_sheet([Section("", cells)], NUM_COLUMNS, min(side, MAX_PICTURE_PX))
        self._folder.mkdir(parents=True, exist_ok=True)
        sheet.save(self._folder / f"step-{step:06d}.png")
        return np.asarray(sheet)
