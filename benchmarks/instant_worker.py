"""A worker as `emmdit worker` starts it, with an engine that draws at once: what is left is everything around it.

    python -m benchmarks.instant_worker worker --model demo

Only `load_engines` is replaced; the command line, the worker, its queue and its blobs are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from model import loading
from model.bundle import Bundle
from model.compiled import CompileTarget
from model.config import ModelCard
from model.engine import Engine
from model.loading import LoadedEngines
from model.params import GenerationParams
from service.cli.app import main


@dataclass(slots=True, eq=False)
class InstantSample:
    """A picture under way that one step finishes, whatever was asked."""

    params: GenerationParams
    prompt: str
    unknown_words: tuple[str, ...] = ()
    step: int = 0

    @property
    def num_steps(self) -> int:
        """One, always."""
        return 1

    @property
    def is_finished(self) -> bool:
        """Whether it has had its step."""
        return self.step >= self.num_steps


class InstantEngine:
    """What a worker asks of an engine, answered with one grey picture (H, W, 3) of the card's size."""

    device = torch.device("cpu")
    dtype = torch.float32
    cache_counts = (0, 0)

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        width_px, height_px = (int(side) for side in card.sizes[0].split("x"))
        self._picture = np.full((height_px, width_px, 3), 127, np.uint8)

    def begin(self, wanted: Sequence[GenerationParams]) -> list[InstantSample]:
        """See Engine."""
        return [InstantSample(params, params.prompt) for params in wanted]

    def step(self, samples: Sequence[InstantSample]) -> None:
        """See Engine."""
        for sample in samples:
            sample.step = 1

    def decode(
        self, samples: Sequence[InstantSample], on_progress: Callable[[], None] = lambda: None
    ) -> list[NDArray[np.uint8]]:
        """See Engine."""
        on_progress()
        return [self._picture] * len(samples)

    def compile_targets(self) -> list[CompileTarget]:
        """See Engine."""
        return []

    def memory_bytes(self) -> dict[str, int]:
        """See Engine."""
        return {}


def _load_instantly(bundles: Sequence[Bundle], *_: object, **options: object) -> LoadedEngines:
    engines = {bundle.card.name: InstantEngine(bundle.card) for bundle in bundles}
    return LoadedEngines(cast(dict[str, Engine], engines), (), {})


if __name__ == "__main__":
    loading.load_engines = _load_instantly  # type: ignore[assignment]
    main()
