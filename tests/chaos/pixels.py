"""Pictures by their pixels: what a client compares, and what an undisturbed engine would have drawn."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from model.params import GenerationParams, seed_of_image

if TYPE_CHECKING:
    from tests.chaos.wanted import Wanted

SIDE_PX = 64


def pixels_of_png(png: bytes) -> str:
    """A hash of the picture's size and pixels. Raises for what is no picture."""
    return pixels_of(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))


def pixels_of(picture: np.ndarray) -> str:
    """As above, of (H, W, 3)."""
    return hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()


class Reference:
    """Draws what was asked for on an engine of its own, in this process, where nothing disturbs it."""

    def __init__(self, bundle: Path, *, exact_rows: int) -> None:
        from model.bundle import read_bundle
        from model.engine import Engine

        self._engine = Engine.load(read_bundle(bundle), "cpu", exact_rows=exact_rows)
        self._num_together = exact_rows // 2  # a picture with guidance takes two rows

    def draw(self, wanted: Iterable[Wanted]) -> dict[tuple[int, int], str]:
        """(request number, index) -> hash of its pixels."""
        places = [(one, index) for one in wanted for index in range(one.n)]
        drawn: dict[tuple[int, int], str] = {}
        for start in range(0, len(places), self._num_together):
            some = places[start : start + self._num_together]
            pictures = self._pictures([_params(one, index) for one, index in some])
            drawn |= {(one.number, index): found for (one, index), found in zip(some, pictures, strict=True)}
        return drawn

    def _pictures(self, wanted: Sequence[GenerationParams]) -> list[str]:
        samples = self._engine.begin(wanted)
        while unfinished := [sample for sample in samples if not sample.is_finished]:
            self._engine.step(unfinished)
        return [pixels_of(picture) for picture in self._engine.decode(samples)]


def _params(one: Wanted, index: int) -> GenerationParams:
    return GenerationParams(one.prompt, SIDE_PX, SIDE_PX, one.num_steps, one.guidance, seed_of_image(one.seed, index))
