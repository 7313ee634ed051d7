"""The prompts that measurements draw: benchmarks/prompts.txt, every word of which the demo model knows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

PATH = Path(__file__).with_name("prompts.txt")


def fresh_prompts() -> Iterator[str]:
    """Prompts without end, none twice: a cache of embeddings must not make repetitions faster than real work."""
    lines = PATH.read_text("utf-8").split("\n")
    prompts = [line for line in lines if line]
    for number in itertools.count():
        for prompt in prompts:
            yield f"{prompt} {number}" if number else prompt
