"""Who shares the next forward, and how a worker's speed is measured. Pure policy: no I/O, no clock, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One unfinished picture as the policy sees it. `last_step_at` numbers the forward it last took part in."""

    index: int
    size: tuple[int, int]
    last_step_at: int


def next_batch(rows: Sequence[Row]) -> list[int]:
    """Indices of the rows for the next forward: all of one size, in order.

    Rows of different sizes cannot share a forward; the size whose rows have waited longest goes first, so that every
    size gets its turn.
    """
    if not rows:
        return []
    longest_waiting = min(rows, key=lambda row: row.last_step_at)
    return [row.index for row in rows if row.size == longest_waiting.size]


def smoothed_rate(rate: float, cost: float, duration_s: float, time_constant_s: float = 10.0) -> float:
    """Exponentially smoothed speed, in cost per second, after `cost` was worked off in `duration_s`.

    A rate of 0 means unknown: the first measurement is taken as it is.
    """
    if duration_s <= 0:
        return rate
    if rate <= 0:
        return cost / duration_s
    weight = duration_s / (duration_s + time_constant_s)
    return rate + weight * (cost / duration_s - rate)
