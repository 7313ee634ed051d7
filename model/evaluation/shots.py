"""The pictures of one run: which there are, from which noise, and drawing them a batch at a time.

A picture's noise depends on the run's seed, on its prompt's place in the file and on its number alone, so that the same
run draws the same pictures again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from model.config import ModelCard
from model.drawing import draw_batch, recipe
from model.engine import Engine
from model.evaluation.image_folder import ImageFolder
from model.evaluation.prompt_sets import PromptSet
from model.params import MAX_SEED, GenerationParams

SECONDS_BETWEEN_REPORTS = 10.0
Picture = NDArray[np.uint8]
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How every picture of a run is drawn; `batch_rows` of them share a forward."""

    steps: int
    guidance: float
    seed: int
    images_per_prompt: int
    batch_rows: int


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture to draw: the `image_index`-th of the `prompt_index`-th prompt."""

    prompt_index: int
    image_index: int
    recipe: GenerationParams


def picture_seed(seed: int, stream: str, prompt_index: int, image_index: int) -> int:
    """The seed of one picture. Tuning has noise of its own: no picture of the test is ever drawn in tuning."""
    return Random(f"evaluate/{seed}/{stream}/{prompt_index}/{image_index}").randint(0, MAX_SEED)


def plan_shots(card: ModelCard, prompts: PromptSet, settings: DrawSettings) -> list[Shot]:
    """Every picture of a run, prompt by prompt."""

    def shot(prompt_index: int, image_index: int) -> Shot:
        seed = picture_seed(settings.seed, prompts.stream, prompt_index, image_index)
        prompt = prompts.entries[prompt_index].prompt
        made_from = recipe(card, prompt, seed=seed, steps=settings.steps, guidance=settings.guidance)
        return Shot(prompt_index, image_index, made_from)

    return [shot(i, j) for i in range(len(prompts.entries)) for j in range(settings.images_per_prompt)]


class Pace:
    """How long drawing takes: says so now and then, with the time that is left."""

    def __init__(self, num_to_draw: int, report: Report) -> None:
        self._num_to_draw = num_to_draw
        self._report = report
        self._num_drawn = 0
        self._drawing_s = 0.0
        self._reported_s = time.perf_counter()

    @property
    def seconds_per_picture(self) -> float | None:
        """Of drawing alone; None where nothing was drawn."""
        return self._drawing_s / self._num_drawn if self._num_drawn else None

    def count(self, num_pictures: int, duration_s: float) -> None:
        """Note that so many pictures (at least one) were drawn in so long."""
        self._num_drawn += num_pictures
        self._drawing_s += duration_s
        now_s = time.perf_counter()
        if now_s - self._reported_s < SECONDS_BETWEEN_REPORTS:
            return
        self._reported_s = now_s
        each_s = self._drawing_s / self._num_drawn
        left_min = (self._num_to_draw - self._num_drawn) * each_s / 60
        self._report(f"{self._num_drawn} of {self._num_to_draw} drawn, {each_s:.2f} s each, {left_min:.1f} min left")


def draw_shots(
    engine: Engine, shots: Sequence[Shot], batch_rows: int, folder: ImageFolder | None, pace: Pace
) -> Iterator[list[tuple[Shot, Picture]]]:
    """All shots with their pictures, a batch at a time. What `folder` has is taken from it, the rest put into it."""
    for start in range(0, len(shots), batch_rows):
        batch = shots[start : start + batch_rows]
        pictures: dict[Shot, Picture] = {}
        if folder is not None:
            kept = [shot for shot in batch if folder.has(shot.prompt_index, shot.image_index)]
            pictures = {shot: folder.load(shot.prompt_index, shot.image_index) for shot in kept}
        missing = [shot for shot in batch if shot not in pictures]
        if missing:
            started_s = time.perf_counter()
            pictures.update(zip(missing, draw_batch(engine, [shot.recipe for shot in missing]), strict=True))
            pace.count(len(missing), time.perf_counter() - started_s)
        if folder is not None:
            for shot in missing:
                folder.store(shot.prompt_index, shot.image_index, pictures[shot])
        yield [(shot, pictures[shot]) for shot in batch]
