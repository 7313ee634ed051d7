"""What every peer has in common: this project's engine, drawing a batch that was put together by the peer.

As kind as a batch of whole requests can be: rows leave the forward when they are done, and all are decoded together;
but a batch is answered when its longest member is done. Settings come by environment, since all three peers start
processes of their own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from benchmarks.compiling import adopt_compiled
from model.catalog import resolve_bundle
from model.engine import Engine
from model.params import GenerationParams
from service.png import encode_png

PREFIX = "PEER_"


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """How a peer is run. `wait_s` is how long it may hold the first request of a batch back for others."""

    port: int
    batch_size: int
    wait_s: float
    model: str
    num_threads: int

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
        )

    def environment(self) -> dict[str, str]:
        """Variables for a child process."""
        return {PREFIX + name.upper(): str(getattr(self, name)) for name in self.__dataclass_fields__}


class Drawer:
    """One loaded engine that turns bodies of POST /v1/generate into PNGs."""

    def __init__(self, settings: PeerSettings, *, is_compiled: bool = True) -> None:
        torch.set_num_threads(settings.num_threads)
        self._engine = Engine.load(resolve_bundle(settings.model, Path("~/.cache/emmdit/models").expanduser()))
        if is_compiled:
            adopt_compiled(self._engine)
        self._engine.warm_up()

    def draw(self, bodies: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """The pictures of one batch, in order. All must be of one size."""
        samples = self._engine.begin([self._recipe(body) for body in bodies])
        while active := [sample for sample in samples if not sample.is_finished]:
            self._engine.step(active)
        return [encode_png(picture, {}) for picture in self._engine.decode(samples)]

    def _recipe(self, body: Mapping[str, Any]) -> GenerationParams:
        card = self._engine.card
        width, height = (int(side) for side in body.get("size", card.sizes[0]).split("x"))
        steps = body.get("num_inference_steps", card.default_steps)
        guidance = body.get("guidance_scale", card.default_guidance)
        return GenerationParams(body["prompt"], width, height, steps, guidance, body["seed"])
