"""What clients ask for, drawn from a seed: of everything that the service offers, in proportions that hurt."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

SEEDS_PER_REQUEST = 8
KINDS = {
    "async": 30,  # 202, then polling
    "image": 22,  # waits for the PNG
    "json": 8,  # waits for several pictures at once
    "stream": 20,  # events, taken up again wherever they break
    "cancel": 10,  # 202, then DELETE at some moment
    "hang_up": 5,  # waits, and leaves
    "short": 5,  # a deadline that may pass in the queue
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request. Its seeds belong to it alone, so a picture and a job in the server's books tell whose they are."""

    number: int
    kind: str
    prompt: str
    seed: int
    num_steps: int
    guidance: float
    n: int
    timeout_s: float
    priority: str
    key: str | None
    delay_s: float  # of the cancelling or the leaving

    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "num_inference_steps": self.num_steps,
            "guidance_scale": self.guidance,
            "n": self.n,
            "timeout_s": self.timeout_s,
            "priority": self.priority,
        }


def draw_request(rng: random.Random, number: int, *, first_seed: int = 0, kind: str | None = None) -> Wanted:
    """The `number`-th request of a run."""
    kind = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
    n = {"json": rng.choice([2, 3]), "stream": rng.choice([1, 1, 2])}.get(kind, 1)
    has_key = kind != "hang_up" and rng.random() < 0.4
    return Wanted(
        number=number,
        kind=kind,
        prompt=f"picture number {number}",
        seed=(first_seed + number) * SEEDS_PER_REQUEST,
        num_steps=rng.choice([2, 2, 3, 3, 4, 6]),
        guidance=rng.choice([0.0, 2.0, 4.5]),
        n=n,
        timeout_s=rng.choice([0.6, 1.0, 2.0]) if kind == "short" else 120.0,
        priority=rng.choices(["high", "normal", "low"], [1, 8, 1])[0],
        key=f"key-{first_seed}-{number}" if has_key else None,
        delay_s=rng.choice([0.0, 0.01, 0.05, 0.2, 0.5]),
    )


def number_of_seed(seed: int, *, first_seed: int = 0) -> int:
    """Which request a job of this seed belongs to."""
    return seed // SEEDS_PER_REQUEST - first_seed
