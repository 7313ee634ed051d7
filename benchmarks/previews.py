"""How early a picture can be recognised: previews and decoded estimates of every step against the finished picture.

`python -m benchmarks.previews MODEL [--strip FILE.png]` prints a table of PSNR and one of cost (processor time of one
thread), and draws some of the pictures. docs/decisions/previews.md has what came out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model.catalog import resolve_bundle
from model.contact_sheet import Cell, Section, contact_sheet
from model.drawing import recipe
from model.engine import Engine
from model.params import seed_of_image

NUM_PICTURES = 24
NUM_STRIPS = 2
STRIP_PX = 96
SEED = 1000
ByteArray = NDArray[np.uint8]


def psnr(one: ByteArray, other: ByteArray) -> float:
    """In dB."""
    error = float(np.square(one.astype(float) - other).mean())
    return 10 * np.log10(255**2 / error) if error else np.inf


def enlarged(preview: ByteArray, like: ByteArray) -> ByteArray:
    """As a viewer scales it up."""
    return np.asarray(Image.fromarray(preview).resize(like.shape[1::-1], Image.Resampling.BICUBIC))


def draw(
    engine: Engine, steps: set[int]
) -> tuple[dict[int, list[ByteArray]], dict[int, list[ByteArray]], list[ByteArray]]:
    """Previews and decoded estimates by the steps done, and the finished pictures."""
    prompts = engine.card.example_prompts
    samples = engine.begin(
        [recipe(engine.card, prompts[i % len(prompts)], seed=seed_of_image(SEED, i)) for i in range(NUM_PICTURES)]
    )
    previews, estimates = {}, {}
    while not samples[0].is_finished:
        engine.step(samples)
        if samples[0].step in steps or samples[0].is_finished:
            previews[samples[0].step] = engine.preview(samples)
            estimates[samples[0].step] = engine.decode_estimates(samples)
    return previews, estimates, engine.decode(samples)


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """Median processor time."""
    work()
    times = []
    for _ in range(repeats):
        started_s = time.process_time()
        work()
        times.append(time.process_time() - started_s)
    return statistics.median(times) * 1000


def main() -> None:
    """Print the tables, write the strip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--steps", default="1,3,5,8,10,15", help="steps to look at, with commas between them")
    parser.add_argument("--strip", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    engine = Engine.load(resolve_bundle(options.model, Path("models")), "cpu")
    previews, estimates, finished = draw(engine, {int(step) for step in options.steps.split(",")})

    print("| steps done | preview, scaled up, dB | decoded estimate, dB |\n|---|---|---|")
    for step in previews:
        rows = [
            statistics.mean(psnr(one, other) for one, other in zip(shown, finished, strict=True))
            for shown in ([enlarged(p, f) for p, f in zip(previews[step], finished, strict=True)], estimates[step])
        ]
        print(f"| {step} | {rows[0]:.1f} | {rows[1]:.1f} |")

    print("\n| of one picture | ms |\n|---|---|")
    samples = engine.begin([recipe(engine.card, "", seed=SEED, steps=engine.card.max_steps)])
    engine.step(samples)
    print(f"| step | {cpu_ms(lambda: engine.step(samples), 20):.1f} |")
    print(f"| preview | {cpu_ms(lambda: engine.preview(samples), 100):.2f} |")
    print(f"| decoded estimate | {cpu_ms(lambda: engine.decode_estimates(samples), 20):.1f} |")

    if options.strip is not None:
        sections = []
        for row in range(NUM_STRIPS):
            end = Cell(finished[row], "the picture")
            tiny = [Cell(enlarged(shown[row], finished[row]), f"step {step}") for step, shown in previews.items()]
            full = [Cell(shown[row], "decoded") for shown in estimates.values()]
            sections += [
                Section(engine.card.example_prompts[row], (*tiny, end)),
                Section("", (*full, end)),
            ]
        contact_sheet(sections, len(previews) + 1, STRIP_PX).save(options.strip, optimize=True)


if __name__ == "__main__":
    main()
