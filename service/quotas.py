"""How much one tenant may ask for, and how much of it is used up. Frozen values; nothing here talks to Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from service.records import from_fields, to_fields

SECONDS_PER_DAY = 86400
MINUTES_PER_DAY = 1440
LEAST_RATE_PER_MIN = 0.001
MOST = 1e9


@dataclass(frozen=True, slots=True)
class Quotas:
    """0 is no limit.

    `max_jobs` counts what has not ended, `max_queued_jobs` what of it waits. `rate_per_min` is in megapixel-steps
    (`GenerationParams.cost`), of which `burst` may come at once: 0 is as many as a minute gives. `daily_megapixels`
    counts finished pictures, and those under way, from midnight to midnight UTC. Raises ValueError for what cannot be
    counted.
    """

    max_jobs: int = 0
    max_queued_jobs: int = 0
    rate_per_min: float = 0.0
    burst: float = 0.0
    daily_megapixels: float = 0.0

    def __post_init__(self) -> None:
        for name in QUOTA_NAMES:
            if not 0 <= getattr(self, name) <= MOST:
                raise ValueError(f"{name}: {getattr(self, name)} is not allowed; allowed: 0 (no limit) to {MOST:g}")
        if 0 < self.rate_per_min < LEAST_RATE_PER_MIN:
            raise ValueError(f"rate_per_min: {self.rate_per_min} is not allowed; allowed: {LEAST_RATE_PER_MIN} or more")
        if self.burst > self.rate_per_min * MINUTES_PER_DAY:
            raise ValueError(f"burst: {self.burst} is not allowed; allowed: up to a day of rate_per_min")

    @property
    def are_unlimited(self) -> bool:
        """Whether nothing has to be counted."""
        return not (self.max_jobs or self.max_queued_jobs or self.rate_per_min or self.daily_megapixels)

    @property
    def burst_cost(self) -> float:
        """Megapixel-steps that may come at once."""
        return self.burst or self.rate_per_min

    @property
    def daily_pixels(self) -> int:
        """Pixels a day."""
        return round(self.daily_megapixels * 1e6)

    def with_changes(self, values: Mapping[str, float]) -> Quotas:
        """Those of a tenant who has some of its own; names of another version of this program are passed over."""
        return from_fields(Quotas, to_fields(self) | dict(values))


QUOTA_NAMES = tuple(one.name for one in fields(Quotas))


@dataclass(frozen=True, slots=True)
class Usage:
    """Where a tenant stands, on the server's clock.

    `num_jobs` are its jobs that have not ended as far as is known, `pixels` those of today, `behind_s` how long the
    rate takes to give back all that was charged to it, `day_left_s` the time to midnight UTC.
    """

    num_jobs: int
    pixels: int
    behind_s: float
    day_left_s: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one job that has not been settled was charged. `age_s` on the server's clock."""

    model: str
    job_id: str
    age_s: float
