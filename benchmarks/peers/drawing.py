"""What every peer has in common: a model that draws batches, which the peer has put together.

"plain" is the model as one puts it behind such a server: the plain loop of benchmarks/baseline.py, once for all members
of a batch that have as many steps and the same guidance, since it knows no others. "engine" is this project's engine
behind the peer, as kind as a batch of whole requests can be: rows leave the forward when they are done, and all are
decoded together. Either way a batch is answered when its last member is done. Settings come by environment, since all
three peers start processes of their own.
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch

from benchmarks.baseline import Baseline
from benchmarks.compiling import adopt_compiled
from model.catalog import resolve_bundle
from model.config import ModelCard
from model.engine import Engine
from model.params import GenerationParams
from service.png import encode_png

PREFIX = "PEER_"
MODELS_DIR = Path("~/.cache/emmdit/models").expanduser()
Pipeline = Literal["plain", "engine"]


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """How a peer is run. `wait_s` is how long it may hold the first request of a batch back for others."""

    port: int
    batch_size: int
    wait_s: float
    model: str
    num_threads: int
    pipeline: Pipeline

    @classmethod
    def from_environment(cls) -> Self:
        """What `environment` wrote."""

        def value(name: str) -> str:
            return os.environ[PREFIX + name.upper()]

        return cls(
            int(value("port")),
            int(value("batch_size")),
            float(value("wait_s")),
            value("model"),
            int(value("num_threads")),
            "plain" if value("pipeline") == "plain" else "engine",
        )

    def environment(self) -> dict[str, str]:
        """Variables for a child process."""
        return {PREFIX + name.upper(): str(getattr(self, name)) for name in self.__dataclass_fields__}


class Drawer(Protocol):
    """A model that is loaded."""

    def draw(self, bodies: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """PNGs for bodies of POST /v1/generate, in order. All must be of one size."""


def open_drawer(settings: PeerSettings) -> Drawer:
    """Load what the settings say. To be used by the thread that loads it: torch's helpers belong to a thread."""
    torch.set_num_threads(settings.num_threads)
    return PlainDrawer(settings) if settings.pipeline == "plain" else EngineDrawer(settings)


class PlainDrawer:
    """The plain loop."""

    def __init__(self, settings: PeerSettings) -> None:
        bundle = resolve_bundle(settings.model, MODELS_DIR)
        self._card = bundle.card
        self._loop = Baseline(bundle, torch.device("cpu"), torch.float32)
        self._loop([""], [0], 1, 0.0)  # so that no request pays for first calls

    def draw(self, bodies: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """See Drawer."""
        alike: dict[tuple[int, float], list[int]] = defaultdict(list)
        for place, body in enumerate(bodies):
            params = params_of(body, self._card)
            alike[params.num_inference_steps, params.guidance_scale].append(place)
        drawn: dict[int, bytes] = {}
        for (num_steps, guidance), places in alike.items():
            prompts, seeds = [bodies[place]["prompt"] for place in places], [bodies[place]["seed"] for place in places]
            for place, picture in zip(places, self._loop(prompts, seeds, num_steps, guidance), strict=True):
                file = io.BytesIO()
                picture.save(file, "PNG")
                drawn[place] = file.getvalue()
        return [drawn[place] for place in range(len(bodies))]


class EngineDrawer:
    """This project's engine."""

    def __init__(self, settings: PeerSettings, *, is_compiled: bool = True) -> None:
        self._engine = Engine.load(resolve_bundle(settings.model, MODELS_DIR))
        if is_compiled:
            adopt_compiled(self._engine)
        self._engine.warm_up()

    def draw(self, bodies: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """See Drawer."""
        samples = self._engine.begin([params_of(body, self._engine.card) for body in bodies])
        while active := [sample for sample in samples if not sample.is_finished]:
            self._engine.step(active)
        return [encode_png(picture, {}) for picture in self._engine.decode(samples)]


def params_of(body: Mapping[str, Any], card: ModelCard) -> GenerationParams:
    """What a body asks of this model."""
    width, height = (int(side) for side in body.get("size", card.sizes[0]).split("x"))
    steps = body.get("num_inference_steps", card.default_steps)
    guidance = body.get("guidance_scale", card.default_guidance)
    return GenerationParams(body["prompt"], width, height, steps, guidance, body["seed"])
