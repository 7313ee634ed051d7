"""The engine against the baseline: the same pictures drawn in turn, A B A B, each pair one ratio.

In turn, because a shared machine is faster in one minute than in the next: both sides of a ratio then lie seconds
apart. Which of the two goes first changes from pair to pair.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
from PIL import Image

from benchmarks.baseline import Baseline
from benchmarks.machine import synchronize
from model.engine import Engine
from model.params import GenerationParams


@dataclass(frozen=True, slots=True)
class Setting:
    """So many pictures at once, of so many steps. `guidance` <= 1: none."""

    num_pictures: int
    num_steps: int
    guidance: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several repetitions."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value."""
        return cls(min(values), statistics.median(values), max(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One setting, drawn by both. `ratio` is the engine's pictures a second over the baseline's, pair by pair.

    `parts_s` are the engine's medians: text, denoise, decode. `num_forwards` is what the engine took for the steps:
    it may leave out the last, which moves next to nothing; the baseline takes one a step. `mean_level_difference`
    compares the first pair's pictures, in levels of 255.
    """

    setting: Setting
    engine_s: list[float]
    baseline_s: list[float]
    ratio: Spread
    parts_s: dict[str, float]
    num_forwards: int
    mean_level_difference: float


def compare(
    engine: Engine, baseline: Baseline, setting: Setting, prompts: Iterator[str], *, num_pairs: int, deadline_s: float
) -> Comparison:
    """Draw up to `num_pairs` pairs, at least one, none begun after `deadline_s` of `time.monotonic`."""
    warm = Setting(setting.num_pictures, 2, setting.guidance)
    draw_with_engine(engine, warm, _take(prompts, warm))
    draw_with_baseline(baseline, warm, _take(prompts, warm))
    engine_s: list[float] = []
    baseline_s: list[float] = []
    parts: list[dict[str, float]] = []
    difference = 0.0
    for number in range(num_pairs):
        if number and time.monotonic() > deadline_s:
            break
        recipes = _take(prompts, setting)
        if number % 2:
            theirs = draw_with_baseline(baseline, setting, recipes)
            ours = draw_with_engine(engine, setting, recipes)
        else:
            ours = draw_with_engine(engine, setting, recipes)
            theirs = draw_with_baseline(baseline, setting, recipes)
        engine_s.append(sum(ours.parts_s.values()))
        baseline_s.append(sum(theirs.parts_s.values()))
        parts.append(ours.parts_s)
        if number == 0:
            difference = _mean_difference(ours.pictures, theirs.pictures)
    return Comparison(
        setting,
        engine_s,
        baseline_s,
        Spread.of([theirs / ours for ours, theirs in zip(engine_s, baseline_s, strict=True)]),
        {name: statistics.median(part[name] for part in parts) for name in parts[0]},
        ours.num_forwards,
        difference,
    )


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures and where their time went."""

    pictures: list[Image.Image]
    parts_s: dict[str, float]
    num_forwards: int


def draw_with_engine(engine: Engine, setting: Setting, prompts: list[str]) -> Drawn:
    """All pictures in one batch, to PIL as the baseline's."""
    width, height = (int(side) for side in engine.card.sizes[0].split("x"))
    recipes = [
        GenerationParams(prompt, width, height, setting.num_steps, setting.guidance, seed)
        for seed, prompt in enumerate(prompts)
    ]
    marks_s = [_now_s(engine)]
    samples = engine.begin(recipes)
    marks_s.append(_now_s(engine))
    num_forwards = 0
    while not samples[0].is_finished:
        engine.step(samples)
        num_forwards += 1
    marks_s.append(_now_s(engine))
    pictures = [Image.fromarray(picture) for picture in engine.decode(samples)]
    marks_s.append(_now_s(engine))
    spans = [after - before for before, after in pairwise(marks_s)]
    return Drawn(pictures, dict(zip(("text", "denoise", "decode"), spans, strict=True)), num_forwards)


def draw_with_baseline(baseline: Baseline, setting: Setting, prompts: list[str]) -> Drawn:
    """The same pictures by the plain loop."""
    started_s = _now_s(baseline)
    pictures = baseline(prompts, list(range(len(prompts))), setting.num_steps, setting.guidance)
    return Drawn(pictures, {"all": _now_s(baseline) - started_s}, setting.num_steps)


def _now_s(side: Engine | Baseline) -> float:
    synchronize(side.device)
    return time.perf_counter()


def _take(prompts: Iterator[str], setting: Setting) -> list[str]:
    return list(islice(prompts, setting.num_pictures))


def _mean_difference(ours: list[Image.Image], theirs: list[Image.Image]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return float(np.mean([np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean() for a, b in pairs]))
