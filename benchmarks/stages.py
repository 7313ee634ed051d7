"""The engine's stages apart: prompts to embeddings, one denoising step by rows, decoding by pictures, PNG.

Each is a median of several calls with the accelerator waited for, warmed up at the same batch, so that no figure
holds a compilation.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from benchmarks.flops import PictureFlops
from benchmarks.machine import timed
from model.engine import Engine, Sample
from model.params import GenerationParams
from service.png import encode_png

MAX_STEPS = 1000


@dataclass(frozen=True, slots=True)
class StageFigure:
    """One stage at one batch. `flops_per_s` is 0 where nothing was counted (PNG)."""

    stage: str
    num: int
    median_s: float
    min_s: float
    max_s: float
    flops_per_s: float


class Stages:
    """Measures one engine. `prompts` never repeats."""

    def __init__(self, engine: Engine, flops: PictureFlops, prompts: Iterator[str], num_calls: int) -> None:
        self._engine = engine
        self._flops = flops
        self._prompts = prompts
        self._num_calls = num_calls
        self._width_px, self._height_px = (int(side) for side in engine.card.sizes[0].split("x"))

    def measure(self, rows: Sequence[int]) -> list[StageFigure]:
        """Every stage, for each of `rows` prompts, rows and pictures at once."""
        figures = [self._text(num) for num in rows]
        figures += [self._denoise(num) for num in rows]
        figures += [self._decode(num) for num in rows]
        return [*figures, self._png()]

    def _text(self, num: int) -> StageFigure:
        return self._figure("text", num, lambda: self._begin(num, 1), self._flops.text)

    def _denoise(self, num: int) -> StageFigure:
        samples = self._begin(num, MAX_STEPS)
        return self._figure("denoise", num, lambda: self._engine.step(samples), self._flops.forward)

    def _decode(self, num: int) -> StageFigure:
        samples = self._begin(num, 1)
        self._engine.step(samples)
        return self._figure("decode", num, lambda: self._engine.decode(samples), self._flops.decode)

    def _png(self) -> StageFigure:
        samples = self._begin(1, 1)
        self._engine.step(samples)
        (picture,) = self._engine.decode(samples)
        return self._figure("png", 1, lambda: encode_png(picture, {}), 0)

    def _begin(self, num: int, num_steps: int) -> list[Sample]:
        size = (self._width_px, self._height_px)
        prompts = islice(self._prompts, num)
        return self._engine.begin(
            [GenerationParams(prompt, *size, num_steps, 0.0, seed) for seed, prompt in enumerate(prompts)]
        )

    def _figure(self, stage: str, num: int, call: Callable[[], object], num_flops: int) -> StageFigure:
        seconds = timed(call, self._engine.device, num_calls=self._num_calls)
        median_s = statistics.median(seconds)
        return StageFigure(stage, num, median_s, min(seconds), max(seconds), num * num_flops / median_s)
